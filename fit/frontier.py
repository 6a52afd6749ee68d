"""The least loss of every budget, and the budget of every loss: one law's frontier, both ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.allocate import LOG_FLOPS_RANGE
from fit.record import Floats
from fit.source import Source

SPACING = 0.1
"""Of the table in ln C."""
POLISH = 5
"""Newton steps from the table's straight line, each of which leaves a thousandth of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """One law along its best splits."""

    source: Source
    log_flops: Floats
    """ln C of the table, (k,)."""
    log_loss: Floats
    """ln L* there, falling, (k,)."""

    @classmethod
    def of(cls, source: Source) -> Frontier:
        """The frontier of a law's point estimate, from 1e4 to 1e45 FLOP."""
        low, high = LOG_FLOPS_RANGE
        table = np.arange(low, high + SPACING, SPACING)
        return cls(source=source, log_flops=table, log_loss=source.best(np.exp(table)).log_loss)

    def loss(self, flops: Floats) -> Floats:
        """Loss of the best split of budgets (k,) [nats/token]."""
        return np.exp(self.source.best(flops).log_loss)

    def flops(self, loss: Floats) -> Floats:
        """The least budgets [FLOP] that reach losses (k,); infinite where none does.

        A loss that the smallest budget beats has that budget.
        """
        out = np.full(len(loss), np.inf)
        found = loss > np.exp(self.log_loss[-1])
        if not found.any():
            return out
        target = np.log(loss[found])
        slope = np.gradient(self.log_loss, self.log_flops)
        at = np.interp(-target, -self.log_loss, self.log_flops)
        for _ in range(POLISH):
            gap = self.source.best(np.exp(at)).log_loss - target
            step = gap / np.minimum(np.interp(at, self.log_flops, slope), -1e-300)
            at = np.clip(at - np.clip(step, -SPACING, SPACING), *self.log_flops[[0, -1]])
        out[found] = np.exp(at)
        return out
