"""Generation of text by the built-in transformer, in batches and with a cache.

Keys and values of earlier positions are kept, so that a token costs one forward pass over one
position. Prompts of unequal lengths share a batch: each begins at position 0 of its own row, and
what stands beyond a row's end is masked until it is overwritten. The logits are those of
`sweep.model` without a cache, up to rounding.

Shape letters as in `sweep.model`; here t counts the positions of the cache, and n the new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit.errors import PlanError
from sweep.config import SEED_LIMIT
from sweep.model import Block, Transformer, documents, rms_norm, rotate

CACHE_BYTES = 1 << 28
"""Keys and values of the texts that are written at once: more wait for the next batch."""
MOST_DRAWS = 1 << 27
"""Most draws, one for each token of each text: 1 GiB of numbers."""
MOST_ROWS = 512
"""Most texts at once: on two CPU cores more gain nothing."""


@dataclass(slots=True)
class Cache:
    """Tokens, keys and values of the positions so far; rows may have unequal lengths."""

    tokens_bt: Tensor
    keys: list[Tensor]
    """(b, t, g, k) of each block, normalised and rotated."""
    values: list[Tensor]

    @classmethod
    def empty(cls, model: Transformer, rows: int, length: int) -> Cache:
        """A cache for texts of at most some length."""
        shape, like = model.shape, model.embedding
        size = (rows, length, shape.key_heads, shape.head_dim)
        zeros = [torch.zeros(size, dtype=like.dtype, device=like.device) for _ in model.blocks]
        return cls(
            tokens_bt=torch.zeros(rows, length, dtype=torch.long, device=like.device),
            keys=zeros,
            values=[torch.zeros_like(z) for z in zeros],
        )

    def keep(self, rows: Tensor) -> None:
        """Keep some rows alone."""
        self.tokens_bt = self.tokens_bt[rows]
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
    stop: int | Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue prompts, each until the stop, `max_tokens` or the end of the model's context.

    Args:
        model: The transformer.
        prompts: Tokens of each, with those that begin a document; none is empty.
        max_tokens: Most tokens of a continuation.
        temperature: Divides the logits before tokens are drawn.
        greedy: Take the likeliest token instead of a draw.
        seed: Of the draws. A prompt's draws depend on its place in the list, and on no other
            prompt.
        stop: Token, or tokens in a row, after which a continuation ends; they are part of it.

    Returns:
        The continuations without the prompts. The last token may lie one position beyond the
        `seq_len` that the model was trained on: it is predicted and never read.

    Raises:
        PlanError: A prompt is empty, longer than the context or has tokens outside the vocabulary,
            or a setting is out of its range.
    """
    check_settings(len(prompts), max_tokens, temperature=temperature, seed=seed)
    _check_prompts(model, prompts)
    length, shape = model.shape.seq_len, model.shape
    itemsize = model.embedding.element_size()
    row_bytes = 2 * shape.depth * shape.key_heads * shape.head_dim * length * itemsize
    rows = max(1, min(MOST_ROWS, CACHE_BYTES // row_bytes))
    ending = () if stop is None else (stop,) if isinstance(stop, int) else tuple(stop)
    # One row of numbers for each prompt: batches of any size draw the same texts.
    uniform = np.random.Generator(np.random.Philox(key=seed)).random((len(prompts), max_tokens))
    written: list[list[int]] = []
    with torch.no_grad():
        for start in range(0, len(prompts), rows):
            draws = None if greedy else torch.from_numpy(uniform[start : start + rows])
            batch = prompts[start : start + rows]
            written += _continue_batch(model, batch, max_tokens, draws, temperature, ending)
    return written


def check_settings(count: int, max_tokens: int, *, temperature: float, seed: int) -> None:
    """Refuse settings of `generate` that are out of their ranges.

    Args:
        count: Number of texts.
        max_tokens: Most tokens of each.
        temperature: Of the draws.
        seed: Of the draws.

    Raises:
        PlanError: One is.
    """
    if not (0 < temperature < math.inf):
        raise PlanError(
            f"temperature={temperature}; a positive number is needed. For the likeliest token at "
            "every step generate greedily."
        )
    if not 0 <= seed < SEED_LIMIT:
        raise PlanError(f"seed {seed}; a whole number from 0 to {SEED_LIMIT - 1} is needed.")
    for value, what in ((count, "texts"), (max_tokens, "tokens of a text")):
        if value < 1:
            raise PlanError(f"{value} {what}; at least 1 is needed.")
    if count * max_tokens > MOST_DRAWS:
        raise PlanError(
            f"{count} texts of at most {max_tokens} tokens; {MOST_DRAWS:,} tokens in all are the "
            "most at a time. Ask for fewer or shorter texts."
        )


def _check_prompts(model: Transformer, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse prompts that cannot be continued."""
    length, vocab = model.shape.seq_len, model.shape.vocab
    for prompt in prompts:
        if not 0 < len(prompt) <= length:
            raise PlanError(
                f"a prompt has {len(prompt)} tokens; 1 to {length} are needed, the context of this "
                "model. Shorten it."
            )
        if min(prompt) < 0 or max(prompt) >= vocab:
            raise PlanError(f"a prompt has tokens outside the vocabulary of 0 to {vocab - 1}.")


def _continue_batch(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    draws: Tensor | None,
    temperature: float,
    stop: tuple[int, ...],
) -> list[list[int]]:
    """The continuations of one batch; `draws` (b, max_tokens) are uniform, None is greedy."""
    device, context = model.embedding.device, model.shape.seq_len
    lengths = torch.tensor([len(p) for p in prompts])
    padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    room = min(context, padded.shape[1] + max_tokens - 1)
    cache = Cache.empty(model, len(prompts), room)
    position_bn = torch.arange(padded.shape[1]).expand_as(padded)
    x_bnd = cached_hidden(model, padded.to(device), position_bn.to(device), cache)
    x_bd = x_bnd[torch.arange(len(prompts)), (lengths - 1).to(device)]
    written: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    while True:
        logits_bv = F.linear(x_bd, model.head)[..., : model.shape.vocab].double()
        if draws is None:
            token_b = logits_bv.argmax(-1).cpu()
        else:
            step = torch.tensor([len(written[i]) for i in active])
            token_b = draw_tokens(logits_bv / temperature, draws[active, step].to(device)).cpu()
        going = []
        for place, (i, token) in enumerate(zip(active, token_b.tolist(), strict=True)):
            written[i].append(token)
            total = len(prompts[i]) + len(written[i])
            ended = bool(stop) and tuple(written[i][-len(stop) :]) == stop
            if not ended and len(written[i]) < max_tokens and total <= context:
                going.append(place)
        if not going:
            return written
        if len(going) < len(active):
            active, token_b = [active[p] for p in going], token_b[going]
            cache.keep(torch.tensor(going, device=device))
        at = [len(prompts[i]) + len(written[i]) - 1 for i in active]
        position_b1 = torch.tensor(at, device=device)[:, None]
        x_bd = cached_hidden(model, token_b[:, None].to(device), position_b1, cache)[:, 0]


def draw_tokens(logits_bv: Tensor, uniform_b: Tensor) -> Tensor:
    """The token at a quantile of each row's distribution, (b,)."""
    total_bv = logits_bv.softmax(-1).cumsum(-1)
    # Scaled by the last sum, which rounding leaves beside 1: no draw lies beyond it.
    target_b1 = (uniform_b * total_bv[:, -1])[:, None]
    return torch.searchsorted(total_bv, target_b1, right=True)[:, 0]


def cached_hidden(
    model: Transformer, tokens_bn: Tensor, position_bn: Tensor, cache: Cache
) -> Tensor:
    """Hidden states (b, n, d) after the last norm of new positions, which enter the cache.

    Args:
        model: The transformer.
        tokens_bn: New tokens.
        position_bn: Where each stands in its row; all earlier ones are in the cache.
        cache: Of the rows.
    """
    row_b1 = torch.arange(len(tokens_bn), device=tokens_bn.device)[:, None]
    cache.tokens_bt[row_b1, position_bn] = tokens_bn
    length = int(position_bn.max()) + 1
    seen_bnt = torch.arange(length, device=tokens_bn.device) <= position_bn[..., None]
    document_bt = None
    if model.separator is not None:
        document_bt = documents(cache.tokens_bt[:, :length], model.separator)
        seen_bnt &= document_bt[:, None] == document_bt.gather(1, position_bn)[..., None]
    x_bnd = rms_norm(_embed(model, tokens_bn, position_bn, cache.tokens_bt, document_bt))
    cos_bn1k, sin_bn1k = model.cos_tk[position_bn, None], model.sin_tk[position_bn, None]
    for block, keys, values in zip(model.blocks, cache.keys, cache.values, strict=True):
        assert isinstance(block, Block)
        q_bnhk, k_bngk, v_bngk = _heads(block, rms_norm(x_bnd), cos_bn1k, sin_bn1k)
        keys[row_b1, position_bn], values[row_b1, position_bn] = k_bngk, v_bngk
        branch_bnd = _attention(block, q_bnhk, keys[:, :length], values[:, :length], seen_bnt)
        x_bnd = torch.add(x_bnd, branch_bnd, alpha=block.residual)
        x_bnd = torch.add(x_bnd, block.mlp(rms_norm(x_bnd))[0], alpha=block.residual)
    return rms_norm(x_bnd)


def _embed(
    model: Transformer,
    tokens_bn: Tensor,
    position_bn: Tensor,
    tokens_bt: Tensor,
    document_bt: Tensor | None,
) -> Tensor:
    """Embeddings after the convolution over the tokens before each, which the cache has."""
    x_bnd = F.embedding(tokens_bn, model.embedding)
    for lag, tap_d in enumerate(() if model.conv is None else model.conv, start=1):
        before_bn = (position_bn - lag).clamp_min(0)
        there_bn = position_bn >= lag
        if document_bt is not None:
            there_bn &= document_bt.gather(1, before_bn) == document_bt.gather(1, position_bn)
        past_bnd = F.embedding(tokens_bt.gather(1, before_bn), model.embedding)
        x_bnd = x_bnd + past_bnd * tap_d * there_bn[..., None]
    return x_bnd


def _heads(
    block: Block, x_bnd: Tensor, cos_bn1k: Tensor, sin_bn1k: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (b, n, h, k), keys and values (b, n, g, k), normalised and rotated."""
    qkv = F.linear(x_bnd, block.qkv).view(*x_bnd.shape[:2], -1, block.head_dim)
    q_bnhk, k_bngk, v_bngk = qkv.split([block.heads, block.key_heads, block.key_heads], 2)
    gain_k = block.q_gain
    turned_k = gain_k.roll(block.head_dim // 2, -1)
    q_bnhk = rotate(rms_norm(q_bnhk), cos_bn1k * gain_k, sin_bn1k * turned_k)
    return q_bnhk, rotate(rms_norm(k_bngk), cos_bn1k, sin_bn1k), v_bngk


def _attention(
    block: Block, q_bnhk: Tensor, k_btgk: Tensor, v_btgk: Tensor, seen_bnt: Tensor
) -> Tensor:
    """Attention of new positions to all that they see.

    The queries that share a head of keys stand in a row of that head: no key is repeated.
    """
    b, n, heads, size = q_bnhk.shape
    shared = heads // block.key_heads
    q_bngsk = q_bnhk.view(b, n, block.key_heads, shared, size)
    q_bgmk = q_bngsk.permute(0, 2, 3, 1, 4).flatten(2, 3)
    mask_b1mt = seen_bnt.repeat(1, shared, 1)[:, None]
    y_bgmk = F.scaled_dot_product_attention(
        q_bgmk, k_btgk.transpose(1, 2), v_btgk.transpose(1, 2), attn_mask=mask_b1mt
    )
    y_bgsnk = y_bgmk.view(b, block.key_heads, shared, n, size)
    return F.linear(y_bgsnk.permute(0, 3, 1, 2, 4).reshape(b, n, -1), block.out)
