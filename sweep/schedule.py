"""Batch size, positions and learning rate as pure functions of tokens seen.

All rules are in tokens and the same at every model size, so that a law is about size and not about
tuning. The positions of optimiser steps are one universal sequence, p_0 = 0 and p_(k+1) = p_k +
batch(p_k): a trunk and all its branches walk on it, and a branch at D sees the same batches as a
run of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fit.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule:
    """Tokens per optimiser step as a function of tokens seen."""

    batch_tokens: int
    """At the start; a multiple of the sequence length."""
    doublings: tuple[int, ...] = ()
    """Tokens seen at which the batch doubles, ascending."""

    def batch(self, position: int) -> int:
        """Tokens in the step that begins at a position."""
        return self.batch_tokens << sum(position >= d for d in self.doublings)

    def steps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The (position, batch) of every step from one position of the sequence to another."""
        position = start
        while position < end:
            batch = self.batch(position)
            yield position, batch
            position += batch

    def count(self, start: int, end: int) -> int:
        """How many steps `steps` gives, without making them."""
        count, position = 0, start
        for limit in (*(d for d in self.doublings if d < end), end):
            batch = self.batch(position)
            more = max(0, math.ceil((limit - position) / batch))
            count, position = count + more, position + more * batch
        return count

    def nearest(self, tokens: float) -> int:
        """The position of the sequence nearest to a token count, at least one step.

        Raises:
            PlanError: Fewer tokens than half of one batch.
        """
        if tokens < self.batch_tokens / 2:
            raise PlanError(
                f"tokens={tokens:g} is below one batch of {self.batch_tokens} tokens; train longer "
                "or set a smaller train.batch_tokens."
            )
        start, batch = 0, self.batch_tokens
        for doubling in self.doublings:
            if doubling >= tokens:
                break
            start += math.ceil(max(0, doubling - start) / batch) * batch
            batch *= 2
        return max(self.batch_tokens, start + round((tokens - start) / batch) * batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """Learning rate as a share of its peak, over one run of `tokens`."""

    kind: str
    """`wsd` or `cosine`."""
    warmup: int
    """Tokens of linear warm-up."""
    tokens: int
    """Length of the run."""
    cooldown_start: int
    """Where a WSD run leaves the trunk; a cosine run ignores it."""

    def factor(self, position: int, batch: int) -> float:
        """Share of the peak rate in the step [position, position + batch), taken at its middle."""
        middle = position + batch / 2
        warm = min(1.0, middle / self.warmup) if self.warmup else 1.0
        if self.kind == "cosine":
            share = min(1.0, max(0.0, (middle - self.warmup) / (self.tokens - self.warmup)))
            return warm * (0.55 + 0.45 * math.cos(math.pi * share))
        if middle <= self.cooldown_start:
            return warm
        share = (middle - self.cooldown_start) / (self.tokens - self.cooldown_start)
        return warm * (1.0 - math.sqrt(min(1.0, share)))


def warmup_tokens(params: int, shortest: float, given: float | None) -> int:
    """Tokens of warm-up: as given, or min(params, 10% of the shortest run of the trunk).

    Source: Wortsman et al. and Porian et al. 2024 (arXiv:2406.19146): warm-up as long as the model
    has parameters; the 10% keeps it inside short runs.
    """
    return round(min(params, 0.1 * shortest) if given is None else given)


def cooldown_start(rule: BatchRule, tokens: int, cooldown: float) -> int:
    """The step of the sequence at which a branch of `tokens` leaves the trunk."""
    start = rule.nearest(max((1 - cooldown) * tokens, rule.batch_tokens))
    return start if start < tokens else 0
