"""A decoder-only transformer in plain torch: one recipe at every size.

Pre-RMSNorm, rotary positions, QK-norm, no biases, no dropout, zero output projections at the start,
a plain or a gated MLP (squared ReLU, SwiGLU, GELU, GeGLU), tied or untied head, and a short causal
convolution on the embeddings (Wortsman et al. 2023, arXiv:2309.14322; So et al. 2021,
arXiv:2109.08668; Shazeer 2020, arXiv:2002.05202).

Several queries may share a head of keys and values (Ainslie et al. 2023, arXiv:2305.13245). With a
`separator`, the token that ends a document, no position sees what stands before the last separator;
the separator itself is the first of what it sees, so that losses after it depend on nothing before.

The MLP may be a mixture of experts: a router sends every token to its top k experts, and no token
is dropped. Gates are the router's probabilities, normalised over the chosen experts if there are
several (Fedus et al. 2021, arXiv:2101.03961, for one; Jiang et al. 2024, arXiv:2401.04088, for
more). Each expert multiplies exactly the tokens sent to it, so the FLOPs are those of k MLPs and
the router.

Shape letters, lowercase so that N, D and C always mean the law's: b rows, t positions, d width, h
heads, g heads of keys and values, k head size, f MLP units, v vocabulary (with the rows that pad
it), l lags of the convolution. In `mixture` and where
rows and positions are flattened: n tokens, e experts, k chosen experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fit.data.accounting import ROPE_BASE, Shape

EPS = 1e-6
SMALLEST = 1e-38
"""Lower bound of a target's probability before the logarithm: its loss is at most 87 nats."""
EMBEDDING_STD = 0.02
LARGEST_OWN_LOGIT = 1.28
"""Bound on the logit of the input token itself at the start under a tied head: std * width, the
normalised stream times the token's own embedding. It keeps the loss at step 0 within 1% of
ln(vocab) at every width; with a std of 0.02 at width 1024 it was 20 nats."""


Mlp = Callable[[Tensor, Tensor, Tensor], Tensor]


def mixture(
    x_nd: Tensor, router_ed: Tensor, up_efd: Tensor, down_edf: Tensor, top_k: int, mlp: Mlp
) -> tuple[Tensor, Tensor]:
    """Send tokens through their experts.

    Args:
        x_nd: Hidden states of the tokens.
        router_ed: Weights of the router, one row per expert.
        up_efd: First matrices of the experts (2 f rows if gated).
        down_edf: Second matrices of the experts.
        top_k: Experts per token.
        mlp: One expert: (tokens, up, down) -> tokens.

    Returns:
        The gated sum over each token's experts (n, d), and the load balance: e times the sum over
        experts of (share of tokens) x (mean probability). It is 1 if all experts are used alike,
        and at most e / k.

    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 4.
    """
    count, experts = x_nd.shape[0], router_ed.shape[0]
    probability_ne = F.linear(x_nd, router_ed).float().softmax(-1)
    gate_nk, chosen_nk = probability_ne.topk(top_k, dim=-1)
    if top_k > 1:
        gate_nk = gate_nk / gate_nk.sum(-1, keepdim=True)
    order = chosen_nk.flatten().argsort(stable=True)
    token = order // top_k
    sent_e = torch.bincount(chosen_nk.flatten(), minlength=experts)
    parts = x_nd.index_select(0, token).split(sent_e.tolist())
    outputs = [mlp(part, up, down) for part, up, down in zip(parts, up_efd, down_edf, strict=True)]
    # Sorted by expert above, so that each multiplies one contiguous block of tokens.
    y = torch.cat(outputs) * gate_nk.flatten()[order, None].to(x_nd.dtype)
    y_nd = torch.zeros_like(x_nd, dtype=y.dtype).index_add(0, token, y)
    share_e = sent_e / (count * top_k)
    return y_nd, experts * (share_e * probability_ne.mean(0)).sum()


class Transformer(nn.Module):
    """The transformer: `forward` gives the loss to train on, `token_losses` those to measure."""

    cos_tk: Tensor
    sin_tk: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        residual: float = 1.0,
        balance: float = 0.0,
        separator: int | None = None,
    ) -> None:
        """Build the modules.

        Args:
            shape: Sizes of the transformer.
            residual: Factor of every residual branch.
            balance: Weight of the experts' load balance in the gradient.
            separator: Token between documents, across which nothing is seen; None: rows are one
                text.
        """
        super().__init__()
        self.shape, self.balance, self.separator = shape, balance, separator
        self.any_rows = False  # whether each block is compiled, for any number of rows
        self.head_loss: Callable[..., Tensor] = head_loss  # or its compiled form
        self.embedding = nn.Parameter(torch.empty(shape.vocab_rows, shape.width))
        head = self.embedding if shape.tied else torch.empty_like(self.embedding)
        self.head = head if shape.tied else nn.Parameter(head)
        self.conv = nn.Parameter(torch.empty(shape.conv, shape.width)) if shape.conv else None
        self.blocks = nn.ModuleList(Block(shape, residual) for _ in range(shape.depth))
        cos_tk, sin_tk = rotary_table(shape.seq_len, shape.head_dim, shape.rope_base)
        self.register_buffer("cos_tk", cos_tk, persistent=False)
        self.register_buffer("sin_tk", sin_tk, persistent=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill the weights from a generator, in a fixed order."""
        with torch.no_grad():
            std = min(EMBEDDING_STD, LARGEST_OWN_LOGIT / self.shape.width)
            fill_normal(self.embedding[: self.shape.vocab], std, generator)
            self.embedding[self.shape.vocab :].zero_()  # no token looks them up
            if self.head is not self.embedding:
                self.head.zero_()
            if self.conv is not None:
                self.conv.zero_()
            for block in self.blocks:
                assert isinstance(block, Block)
                block.init_weights(generator)

    def forward(self, tokens_bt: Tensor, target_bt: Tensor, z_loss: float) -> Tensor:
        """Mean cross-entropy [nats/token]; its gradient includes z-loss and load balance."""
        x_btd, load_balance = self.states(tokens_bt)
        loss = self._cross_entropy(x_btd, target_bt, z_loss)
        if load_balance is None:
            return loss
        penalty = self.balance * load_balance
        # Adds a gradient and leaves the value unchanged, so that losses can be compared.
        return loss + penalty - penalty.detach()

    def _cross_entropy(self, x_btd: Tensor, target_bt: Tensor, z_loss: float) -> Tensor:
        """Mean cross-entropy of the next tokens, with the gradient of the z-loss."""
        if x_btd.device.type == "cpu":
            x_nd, target_n = x_btd.reshape(-1, x_btd.shape[-1]), target_bt.reshape(-1)
            return HeadLoss.apply(x_nd, self.head, target_n, z_loss, self.shape.vocab)
        if self.any_rows and len(x_btd) > 1:
            torch._dynamo.mark_dynamic(x_btd, 0)
        return self.head_loss(x_btd, self.head[: self.shape.vocab], target_bt, z_loss)

    def _logits(self, x_btd: Tensor) -> Tensor:
        """Logits of the vocabulary; the head's further rows are never predicted."""
        return F.linear(x_btd, self.head)[..., : self.shape.vocab]

    def hidden(self, tokens_bt: Tensor) -> Tensor:
        """Hidden states (b, t, d) after the last norm."""
        return self.states(tokens_bt)[0]

    def states(self, tokens_bt: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states after the last norm, and the mean load balance over the blocks."""
        x_btd = F.embedding(tokens_bt, self.embedding)
        document_bt = None if self.separator is None else documents(tokens_bt, self.separator)
        if self.conv is not None and document_bt is not None:
            x_btd = masked_conv(x_btd, self.conv, document_bt)
        elif self.conv is not None:
            x_btd = CausalConv.apply(x_btd, self.conv)
        x_btd = rms_norm(x_btd)
        mask_b1tt = None if document_bt is None else causal_mask(document_bt)
        length = tokens_bt.shape[1]
        cos_tk, sin_tk = self.cos_tk[:length], self.sin_tk[:length]
        balances: list[Tensor] = []
        for block in self.blocks:
            if self.any_rows and len(x_btd) > 1:
                torch._dynamo.mark_dynamic(x_btd, 0)
                if mask_b1tt is not None:
                    torch._dynamo.mark_dynamic(mask_b1tt, 0)
            x_btd, balance = block(x_btd, cos_tk, sin_tk, mask_b1tt)
            if balance is not None:
                balances.append(balance)
        return rms_norm(x_btd), torch.stack(balances).mean() if balances else None

    def token_losses(self, tokens_bt: Tensor, target_bt: Tensor) -> Tensor:
        """Negative log-likelihood of every token, (b, t) [nats], in float32."""
        logits_nv = self._logits(self.hidden(tokens_bt)).float().flatten(0, 1)
        losses_n = F.cross_entropy(logits_nv, target_bt.flatten(), reduction="none")
        return losses_n.view(target_bt.shape)

    def token_results(self, tokens_bt: Tensor, target_bt: Tensor) -> Tensor:
        """`token_losses`, and 1 where the target is the likeliest token, else 0; (b, t, 2)."""
        logits_nv = self._logits(self.hidden(tokens_bt)).float().flatten(0, 1)
        target_n = target_bt.flatten()
        losses_n = F.cross_entropy(logits_nv, target_n, reduction="none")
        right_n = (logits_nv.argmax(-1) == target_n).to(losses_n.dtype)
        return torch.stack([losses_n, right_n], dim=-1).view(*target_bt.shape, 2)


class Block(nn.Module):
    """Attention and MLP, each on a normalised copy of the residual stream."""

    def __init__(self, shape: Shape, residual: float = 1.0) -> None:
        super().__init__()
        self.residual = residual
        d, inner, f = shape.width, shape.heads * shape.head_dim, shape.d_ff
        self.heads, self.head_dim, self.gated = shape.heads, shape.head_dim, shape.gated
        self.key_heads, self.activation = shape.key_heads, shape.activation
        self.q_gain = nn.Parameter(torch.empty(shape.head_dim))
        # Rows of queries, then of keys, then of values.
        self.qkv = nn.Parameter(torch.empty(inner + 2 * self.key_heads * shape.head_dim, d))
        self.out = nn.Parameter(torch.empty(d, inner))
        many = (shape.experts,) if shape.experts else ()
        self.top_k = shape.top_k
        self.router = nn.Parameter(torch.empty(shape.experts, d)) if many else None
        self.up = nn.Parameter(torch.empty(*many, (2 if shape.gated else 1) * f, d))
        self.down = nn.Parameter(torch.empty(*many, d, f))

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill inputs at 1/sqrt(fan-in) and outputs with 0: each block starts as the identity."""
        self.q_gain.fill_(1.0)
        for weight in (self.qkv, self.up):
            fill_normal(weight, 1 / math.sqrt(weight.shape[-1]), generator)
        for weight in (self.out, self.down):
            weight.zero_()
        if self.router is not None:
            fill_normal(self.router, 1 / math.sqrt(self.router.shape[-1]), generator)

    def forward(
        self, x_btd: Tensor, cos_tk: Tensor, sin_tk: Tensor, mask_b1tt: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Output of the block, and the load balance of its experts if it has any."""
        branch_btd = self.attention(rms_norm(x_btd), cos_tk, sin_tk, mask_b1tt)
        x_btd = torch.add(x_btd, branch_btd, alpha=self.residual)
        branch_btd, balance = self.mlp(rms_norm(x_btd))
        return torch.add(x_btd, branch_btd, alpha=self.residual), balance

    def attention(
        self, x_btd: Tensor, cos_tk: Tensor, sin_tk: Tensor, mask_b1tt: Tensor | None
    ) -> Tensor:
        """Causal self-attention with QK-norm and rotary positions.

        Args:
            x_btd: Normalised residual stream.
            cos_tk: Table of `rotary_table`.
            sin_tk: Its other half.
            mask_b1tt: True where a position sees another; None is causal.
        """
        b, t, _ = x_btd.shape
        qkv = F.linear(x_btd, self.qkv).view(b, t, -1, self.head_dim)
        if self.key_heads == self.heads:
            q_bhtk, k_bhtk, v_bhtk = self._separate_heads(qkv, cos_tk, sin_tk)
        else:
            q_bhtk, k_bhtk, v_bhtk = self._shared_heads(qkv, cos_tk, sin_tk)
        y_bhtk = F.scaled_dot_product_attention(
            q_bhtk, k_bhtk, v_bhtk, attn_mask=mask_b1tt, is_causal=mask_b1tt is None
        )
        return F.linear(y_bhtk.transpose(1, 2).reshape(b, t, -1), self.out)

    def _separate_heads(
        self, qkv: Tensor, cos_tk: Tensor, sin_tk: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values where every head has its own, (b, h, t, k) each.

        Queries and keys are normalised and rotated together. The gain of the queries (without it,
        normalised vectors of 16 numbers cannot attend sharply) is part of their half of the tables.
        """
        qkv = qkv.unflatten(2, (3, self.heads))
        gains_2k = torch.stack([self.q_gain, torch.ones_like(self.q_gain)])
        cos_t21k = (cos_tk[:, None] * gains_2k)[:, :, None]
        sin_t21k = (sin_tk[:, None] * gains_2k.roll(self.head_dim // 2, -1))[:, :, None]
        qk_bt2hk = rotate(rms_norm(qkv[:, :, :2]), cos_t21k, sin_t21k)
        q_bhtk, k_bhtk = qk_bt2hk.permute(2, 0, 3, 1, 4).unbind(0)
        return q_bhtk, k_bhtk, qkv[:, :, 2].transpose(1, 2)

    def _shared_heads(
        self, qkv: Tensor, cos_tk: Tensor, sin_tk: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and keys and values repeated for the heads that share them, (b, h, t, k) each.

        They are repeated rather than shared inside the kernel: not every kernel of torch can, and
        with a mask the one that can is the slow one.
        """
        shared = self.key_heads
        q_bthk, k_btgk, v_btgk = qkv.split([self.heads, shared, shared], 2)
        cos_t1k, sin_t1k = cos_tk[:, None], sin_tk[:, None]
        gain_k = self.q_gain
        rotated_gain_k = gain_k.roll(self.head_dim // 2, -1)
        q_bthk = rotate(rms_norm(q_bthk), cos_t1k * gain_k, sin_t1k * rotated_gain_k)
        k_btgk = rotate(rms_norm(k_btgk), cos_t1k, sin_t1k)
        k_bthk, v_bthk = (
            x.repeat_interleave(self.heads // shared, dim=2) for x in (k_btgk, v_btgk)
        )
        return q_bthk.transpose(1, 2), k_bthk.transpose(1, 2), v_bthk.transpose(1, 2)

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor | None]:
        """The MLP, or a mixture of experts with its load balance."""
        if self.router is None:
            return self.expert(x_btd, self.up, self.down), None
        x_nd = x_btd.flatten(0, 1)
        y_nd, balance = mixture(x_nd, self.router, self.up, self.down, self.top_k, self.expert)
        return y_nd.view_as(x_btd), balance

    def expert(self, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """One MLP, gated or plain."""
        return F.linear(activate(F.linear(x, up), self.gated, self.activation), down)


def activate(h: Tensor, gated: bool, activation: str | None) -> Tensor:
    """Hidden units of an MLP: squared ReLU or GELU, or half of them gated by SiLU or GELU."""
    if gated:
        gate, h = h.chunk(2, dim=-1)
        return (F.silu(gate) if activation is None else F.gelu(gate)) * h
    return SquaredReLU.apply(h) if activation is None else F.gelu(h)


def documents(tokens_bt: Tensor, separator: int) -> Tensor:
    """Number of the document of each position in its row, (b, t).

    A separator is the first position of the next document: what it predicts is the first token of
    that one.
    """
    return (tokens_bt == separator).cumsum(1)


def causal_mask(document_bt: Tensor) -> Tensor:
    """True where a position sees another, (b, 1, t, t): none that is later or of another document.

    Rotary scores depend on distances alone, so that positions need not start anew.
    """
    same_btt = document_bt[:, :, None] == document_bt[:, None]
    return same_btt.tril()[:, None]


def masked_conv(x_btd: Tensor, taps_ld: Tensor, document_bt: Tensor) -> Tensor:
    """`CausalConv` without the positions of other documents."""
    y_btd, t = x_btd, x_btd.shape[1]
    for lag, tap_d in enumerate(taps_ld, start=1):
        same_bt = F.pad(document_bt, (lag, 0), value=-1)[:, :t] == document_bt
        y_btd = y_btd + F.pad(x_btd, (0, 0, lag, 0))[:, :t] * tap_d * same_bt[..., None]
    return y_btd


def fill_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill a weight of any device and precision with float32 numbers of a CPU generator."""
    weight.copy_(torch.empty(weight.shape).normal_(std=std, generator=generator))


def rotary_table(length: int, head_dim: int, base: float = ROPE_BASE) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine (length, head_dim) for `rotate`: pairs are (i, i + head_dim / 2).

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    half = head_dim // 2
    rates = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], 1).float(), torch.cat([-sin, sin], 1).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + half) of the last axis by its angle."""
    rotated: Tensor = torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
    return rotated


class RMSNorm(torch.autograd.Function):
    """x / rms(x) over the last axis, without a gain; the gradient takes five operations."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore
        """Normalised copy of x."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(EPS))
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore
        """The part of the gradient orthogonal to y, scaled."""
        y, scale = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1) * scale


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last axis."""
    return RMSNorm.apply(x)


class SquaredReLU(torch.autograd.Function):
    """max(x, 0)^2; it keeps one buffer for the gradient instead of two."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore
        """Squared positive part."""
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore
        """2 max(x, 0) grad."""
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)


class CausalConv(torch.autograd.Function):
    """Add to each position the l positions before it, weighted per channel: taps (l, d)."""

    @staticmethod
    def forward(ctx, x_btd: Tensor, taps_ld: Tensor) -> Tensor:  # type: ignore
        """x_t + sum_l taps_l x_(t-l)."""
        ctx.save_for_backward(x_btd, taps_ld)
        y_btd = x_btd.clone()
        for lag, tap_d in enumerate(taps_ld, start=1):
            y_btd[:, lag:].addcmul_(x_btd[:, :-lag], tap_d)
        return y_btd

    @staticmethod
    def backward(ctx, grad_btd: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore
        """The same taps applied backwards in time."""
        x_btd, taps_ld = ctx.saved_tensors
        grad_x_btd = grad_btd.clone()
        grad_taps = []
        for lag, tap_d in enumerate(taps_ld, start=1):
            grad_x_btd[:, :-lag].addcmul_(grad_btd[:, lag:], tap_d)
            grad_taps.append((grad_btd[:, lag:] * x_btd[:, :-lag]).sum((0, 1)))
        return grad_x_btd, torch.stack(grad_taps)


def head_loss(x_btd: Tensor, head_vd: Tensor, target_bt: Tensor, z_loss: float) -> Tensor:
    """What `HeadLoss` computes, in operations that a compiler for GPUs fuses."""
    logits_nv = F.linear(x_btd, head_vd).float().flatten(0, 1)
    penalty = z_loss * logits_nv.logsumexp(-1).square().mean()
    loss = F.cross_entropy(logits_nv, target_bt.flatten())
    return loss + penalty - penalty.detach()


class HeadLoss(torch.autograd.Function):
    """Output head, cross-entropy and z-loss in one call, gradients computed in the forward pass.

    Writing the gradient over the probabilities saves two passes and two buffers of
    (rows, vocab), the largest arrays of a small model's step.
    """

    @staticmethod
    def forward(ctx, x_nd: Tensor, head_vd: Tensor, target_n: Tensor, z_loss: float, vocab: int):  # type: ignore
        """Mean loss over n positions; rows of the head beyond the vocabulary are not predicted."""
        n, column_n1 = x_nd.shape[0], target_n[:, None]
        logits_nv = x_nd @ head_vd.t()
        if vocab < head_vd.shape[0]:
            logits_nv[:, vocab:] = -math.inf
        grad_nv = logits_nv.softmax(-1)
        losses_n1 = -grad_nv.gather(1, column_n1).clamp_min(SMALLEST).log()
        lse_n1 = losses_n1 + logits_nv.gather(1, column_n1)
        grad_nv.mul_((1 + 2 * z_loss * lse_n1) / n)
        grad_nv.scatter_add_(1, column_n1, grad_nv.new_full((n, 1), -1 / n))
        ctx.save_for_backward(grad_nv @ head_vd, grad_nv.t() @ x_nd)
        return losses_n1.mean()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore
        """Scale the gradients computed in `forward`."""
        grad_x_nd, grad_head_vd = ctx.saved_tensors
        return grad_x_nd * grad, grad_head_vd * grad, None, None, None
