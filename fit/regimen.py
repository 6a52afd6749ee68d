"""An answer's run as a trainer with one batch size would train it, and shapes it can build.

The runs double their batch at fixed token counts, cool down as 1 - sqrt and count tokens; trainers
elsewhere hold one batch and count steps. What is lost on the way is said in the export.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fit.accounting import Shape, count_params
from fit.errors import QueryError
from fit.query import Answer
from fit.result import Fit

CLOSE = 0.05
"""Largest relative difference between the answer's N and the exported one."""
MOST_ROWS = 64
"""Sequences in one forward pass of an export; the rest is accumulated."""
NEAR = 4
"""Widths tried on either side, in heads, where a trainer fixes the ratio of its MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regimen:
    """What a trainer is told: sizes in its own architecture, and its optimiser's steps."""

    shape: Shape
    """In the trainer's architecture."""
    params: int
    """Body and head of that shape."""
    rows: int
    """Sequences per step."""
    steps: int
    warmup: int
    """Steps."""
    cooldown: int
    """Steps; 0 where the runs' schedule is a cosine."""
    lr: float
    """Peak rate of the hidden matrices."""
    settings: Mapping[str, Any]
    """weight_decay, beta1, beta2 and clip, where the runs share them."""
    changed: tuple[str, ...]
    """What of the runs' recipe no one-batch trainer has."""

    @property
    def micro(self) -> int:
        """Sequences in one forward pass: a divisor of `rows`."""
        return max(n for n in range(1, min(self.rows, MOST_ROWS) + 1) if self.rows % n == 0)

    @property
    def tokens(self) -> int:
        """Tokens that the steps make up."""
        return self.steps * self.rows * self.shape.seq_len


def regimen(answer: Answer, fit: Fit, shape: Shape) -> Regimen:
    """An answer's run in a trainer's architecture.

    Args:
        answer: With a shape, as `launchable` has it.
        fit: The fit that was asked; its recipe is that of its runs.
        shape: The trainer's shape for the answer.

    Raises:
        QueryError: The runs share no learning rate or batch, or N is off by more than 5%.
    """
    wanted, found = launchable(answer), count_params(shape).matmul
    n = count_params(wanted).matmul
    if abs(found / n - 1) > CLOSE:
        raise QueryError(
            f"this trainer's nearest shape has {found} parameters, the answer's has {n}; within 5% "
            "is needed. Export to hf, which sets the MLP freely."
        )
    if answer.lr is None or answer.batch_tokens is None or answer.shape_tokens is None:
        raise QueryError(
            "the fitted runs share no rule of learning rate and batch; an export needs both. Fit "
            "runs of one recipe."
        )
    recipe, tokens = fit.recipe, answer.shape_tokens
    rows = max(1, round(answer.batch_tokens / shape.seq_len))
    steps = max(1, round(tokens / (rows * shape.seq_len)))
    warm = recipe.get("train.warmup_tokens")
    cosine = recipe.get("train.schedule") == "cosine"
    names = ("weight_decay", "beta1", "beta2", "clip")
    return Regimen(
        shape=shape,
        params=found,
        rows=rows,
        steps=steps,
        warmup=round(steps * (min(n, 0.1 * tokens) if warm is None else float(warm)) / tokens),
        cooldown=0 if cosine else round(steps * float(recipe.get("train.cooldown", 0.2))),
        lr=answer.lr,
        settings={k: v for k in names if (v := recipe.get(f"train.{k}")) is not None},
        changed=tuple(_changed(recipe)),
    )


def launchable(answer: Answer) -> Shape:
    """The answer's shape.

    Raises:
        QueryError: It has none, or is a mixture of experts.
    """
    if answer.shape is None:
        raise QueryError(
            "this law has no shapes to export; an export needs a fit of isoflop's own run records."
        )
    if answer.shape.experts:
        raise QueryError(
            "the answer is a mixture of experts; exports are of dense models. Use --config."
        )
    return answer.shape


def plain_shape(answer: Answer) -> Shape:
    """The nearest shape with a plain MLP of four times the width, its heads filling the width.

    Of the widths near the answer's, each at the depth that meets N best, the one nearest in N;
    nearness of N counts ten times more than nearness of the depth.
    """
    old = launchable(answer)
    wanted = count_params(old).matmul
    best, least = None, math.inf
    for heads in _near(old.width // old.head_dim):
        width = heads * old.head_dim
        one = dataclasses.replace(
            old, width=width, depth=1, heads=heads, d_ff=4 * width, gated=False
        )
        blocks = (wanted - one.vocab * width) / count_params(one).body
        shape = dataclasses.replace(one, depth=max(1, round(blocks)))
        off = abs(math.log(count_params(shape).matmul / wanted))
        off += 0.1 * abs(math.log(shape.depth / old.depth))
        if off < least:
            best, least = shape, off
    assert best is not None
    return best


def gated_shape(answer: Answer) -> Shape:
    """The same with a gated MLP, whose hidden units are chosen so that N agrees.

    Three matrices in place of two take two thirds of the units; from 400 units up they are a
    multiple of 8, which moves N by less than 1%.
    """
    old = launchable(answer)
    if old.gated:
        return old
    units, step = old.d_ff * 2 / 3, 1
    if units >= 400:
        step = 8
    return dataclasses.replace(old, gated=True, d_ff=max(1, round(units / step) * step))


def _near(heads: int) -> Iterable[int]:
    """Counts of heads around one, itself first."""
    yield max(1, heads)
    for step in range(1, NEAR + 1):
        yield from (h for h in (heads - step, heads + step) if h >= 1)


def _changed(recipe: Mapping[str, Any]) -> Iterable[str]:
    """Rules of the runs' recipe that a trainer with one batch and one rate does not have."""
    if recipe.get("train.batch_doublings"):
        first = recipe.get("train.batch_tokens")
        yield f"the runs' batch, which doubles along the run from {first} tokens: here its last one"
    if recipe.get("train.embedding_lr"):
        yield "a learning rate of its own for embedding and head"
    if recipe.get("train.z_loss"):
        yield f"z-loss {recipe['train.z_loss']}"
    if recipe.get("model.conv"):
        yield "the short convolution on the embeddings"
