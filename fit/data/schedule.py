"""Batch size and learning rates as functions of the tokens seen, the same at every model size.

The positions of optimiser steps are one universal sequence, p_0 = 0 and p_(k+1) = p_k + batch(p_k):
a trunk and all its branches follow it, and a branch at D sees the same batches as a separate run of
D tokens. Nothing here depends on the other runs of a grid, so that the same (N, D) is the same run
whatever grid it stands in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fit.errors import PlanError

LATE = 0.4
"""Last part of a run in which the batch may grow smoothly and must not double."""
SIGNIFICANT_BITS = 4
"""Of the number of units: at most 8 batch sizes per doubling, since a GPU captures each of them."""
WARMUP_STEPS = 100
"""Steps of the first batch that a warm-up lasts at most."""
LONGEST_WARMUP = 0.1
"""Share of a run."""
COSINE_FLOOR = 0.1
"""Share of the peak rate at which a cosine run ends."""
MEGA = 1e6
BEFORE_SMOOTH: Mapping[str, Any] = {
    "train.batch_doublings": (),
    "train.batch_at_1m": 0.0,
    "train.cooldown_shape": "sqrt",
    "train.lr_decay_power": 0.0,
}
"""What recipes of records without these settings amounted to: batches that double, one rate."""


@functools.cache
def growth_unit(rows: int) -> int:
    """Rows by which a batch of `rows` grows: its largest divisor up to a quarter of it, or 1."""
    return max(d for d in range(1, max(1, rows // 4) + 1) if rows % d == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule:
    """Tokens per optimiser step as a function of tokens seen.

    B(t) = max(batch_tokens, at_1m (t / 1e6)^power), in whole units, times 2 at every doubling. A
    unit is the largest whole part of the rows of the first batch that is a quarter of it at most:
    the batch grows by 1.25 at most in a step, and does not depend on how many devices share it.
    """

    batch_tokens: int
    """Least batch [tokens]: that of the first step."""
    row: int
    """Tokens of a row, of which a batch is a multiple."""
    at_1m: float = 0.0
    """The batch after one million tokens [tokens]; 0 keeps the batch constant."""
    power: float = 0.5
    """The batch grows as tokens seen to this power."""
    doublings: tuple[int, ...] = ()
    """Tokens seen at which the batch doubles, ascending."""

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> BatchRule | None:
        """The rule of runs by the settings in their records; None where they do not say."""
        least, row = recipe.get("train.batch_tokens"), recipe.get("model.seq_len")
        if least is None or row is None:
            return None
        known = whole_recipe(recipe)
        return cls(
            batch_tokens=int(least),
            row=int(row),
            at_1m=float(known["train.batch_at_1m"]),
            power=float(known.get("train.batch_power", 0.5)),
            doublings=tuple(sorted(round(float(d)) for d in known["train.batch_doublings"] or ())),
        )

    def batch(self, position: int) -> int:
        """Tokens in the step that begins at a position."""
        unit = self.row * growth_unit(self.batch_tokens // self.row)
        units = self.at_1m * (position / MEGA) ** self.power / unit
        step = 1 << max(0, math.frexp(units)[1] - SIGNIFICANT_BITS)
        whole = max(self.batch_tokens, unit * step * int(units / step + 0.5))
        return whole << sum(position >= d for d in self.doublings)

    def stretches(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The (first position, batch, number) of steps of equal batch, up to a position or beyond.

        Args:
            start: A position of the sequence.
            end: The last stretch ends at the first position that is not below it.
        """
        position = start
        while position < end:
            batch = self.batch(position)
            limit = min(end, self._next_change(position, batch))
            steps = math.ceil((limit - position) / batch)
            yield position, batch, steps
            position += steps * batch

    def _next_change(self, position: int, batch: int) -> int:
        """A position up to which every batch is as large as the one at `position`."""
        later = [d for d in self.doublings if d > position]
        low, high = position, 2 * max(position, self.batch_tokens)
        if later:
            high = min(high, later[0])
        if self.batch(high - 1) == batch:
            return high
        while high - low > 1:  # the batch never falls
            middle = (low + high) // 2
            low, high = (middle, high) if self.batch(middle) == batch else (low, middle)
        return high

    def steps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The (position, batch) of every step from one position of the sequence to another."""
        for position, batch, steps in self.stretches(start, end):
            for step in range(steps):
                yield position + step * batch, batch

    def count(self, start: int, end: int) -> int:
        """The number of steps that `steps` would yield."""
        return sum(steps for _, _, steps in self.stretches(start, end))

    def nearest(self, tokens: float) -> int:
        """The step position nearest to a token count, at least one step.

        Raises:
            PlanError: There are fewer tokens than half of one batch.
        """
        if tokens < self.batch_tokens / 2:
            raise PlanError(
                f"tokens={tokens:g} is below one batch of {self.batch_tokens} tokens; train longer "
                "or set a smaller train.batch_tokens."
            )
        return _nearest(self, tokens)

    def late_doubling(self, tokens: int) -> int | None:
        """The first doubling inside the last part of a run [tokens seen].

        A doubling near the cooldown halves the steps of the cooldown: lengths that meet one lie on
        another law than lengths that do not (docs/log.md).
        """
        return next((d for d in self.doublings if (1 - LATE) * tokens < d < tokens), None)


@functools.lru_cache(maxsize=65536)
def _nearest(rule: BatchRule, tokens: float) -> int:
    """`BatchRule.nearest`, walked once for the cells of a grid that share a rule and a length."""
    before, after = 0, rule.batch(0)
    for position, batch, steps in rule.stretches(0, math.ceil(tokens)):
        after = position + steps * batch
        before = after - batch
    return max(rule.batch(0), before if tokens - before <= after - tokens else after)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """Learning rate as a share of its peak, over one run of `tokens`."""

    kind: str
    """`wsd`, `cosine` or the name of `function`."""
    warmup: int
    """Tokens of linear warm-up."""
    tokens: int
    """Length of the run."""
    cooldown_start: int
    """Where a WSD run leaves the trunk; a cosine run ignores it."""
    shape: str = "sqrt"
    """Of a cooldown to zero: `sqrt` is 1 - sqrt(share done), `linear` 1 - share done."""
    decay_from: float = math.inf
    """Tokens seen from which the hidden matrices' rate falls along the trunk."""
    decay_power: float = 0.0
    """It falls as (decay_from / tokens seen) to this power."""
    function: Callable[[float, int, int], float] | None = None
    """A schedule of the user's own: (position, tokens, warmup) to a share of the peak."""

    def factor(self, position: int, batch: int) -> float:
        """Share of the peak rate in the step [position, position + batch), taken at its middle."""
        middle = position + batch / 2
        if self.function is not None:
            return self._own_factor(self.function, middle)
        warm = min(1.0, middle / self.warmup) if self.warmup else 1.0
        if self.kind == "cosine":
            share = min(1.0, max(0.0, (middle - self.warmup) / (self.tokens - self.warmup)))
            half = (1 - COSINE_FLOOR) / 2
            return warm * (COSINE_FLOOR + half + half * math.cos(math.pi * share))
        if middle <= self.cooldown_start:
            return warm
        share = min(1.0, (middle - self.cooldown_start) / (self.tokens - self.cooldown_start))
        return warm * (1.0 - (share if self.shape == "linear" else math.sqrt(share)))

    def _own_factor(self, function: Callable[[float, int, int], float], middle: float) -> float:
        """Share of the peak rate by the user's function.

        Raises:
            PlanError: It raises, or gives no finite number from 0 on.
        """
        try:
            share = function(middle, self.tokens, self.warmup)
        except Exception as error:  # the user's code may raise anything
            raise PlanError(
                f"train.schedule={self.kind} fails at {middle:.0f} of {self.tokens} tokens ("
                f"{' '.join(f'{type(error).__name__}: {error}'.split())}); it is called with "
                "(position, tokens, warmup)."
            ) from error
        if not (isinstance(share, int | float) and 0 <= share < math.inf):
            raise PlanError(
                f"train.schedule={self.kind} gives {share!r} at {middle:.0f} of {self.tokens} "
                "tokens; a share of the peak rate, 0 or more, is needed."
            )
        return float(share)

    def decay(self, position: int, batch: int) -> float:
        """Further factor of the hidden matrices' rate in a step.

        Their best rate falls with length, that of the embedding does not (docs/log.md).
        """
        return rate_decay(position + batch / 2, self.decay_from, self.decay_power)


def rate_decay(tokens: float, decay_from: float, power: float) -> float:
    """Factor of the hidden matrices' rate after so many tokens: min(1, from / tokens)^power."""
    return float(min(1.0, decay_from / tokens) ** power)


def whole_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of runs, with what those of older records leave out of the schedule."""
    return {**BEFORE_SMOOTH, **recipe}


def warmup_tokens(params: int, batch_tokens: int, tokens: float, setting: float | None) -> int:
    """Tokens of warm-up: the setting, or min(params, 100 first batches, 10% of the run).

    Source: Porian et al. 2024 (arXiv:2406.19146): as long as the model has parameters. It depends
    on nothing but the run: lengths of one grid with different warm-ups have different trunks.
    """
    if setting is not None:
        return round(setting)
    return round(min(params, WARMUP_STEPS * batch_tokens, LONGEST_WARMUP * tokens))


def cooldown_start(rule: BatchRule, tokens: int, cooldown: float) -> int:
    """The step position at which a branch of `tokens` leaves the trunk; 0 where it has none."""
    start = rule.nearest(max((1 - cooldown) * tokens, rule.batch_tokens))
    return start if start < tokens else 0
