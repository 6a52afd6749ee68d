"""Intervals of a compute multiplier: where two loss curves meet, and how sure that is.

For each multiplier m it is asked whether ln L_A(m C) and ln L_B(C) differ beyond sampling; the m
where they do not are the interval (Fieller 1954). Unlike a standard error of m it stays true where
A levels off and m may be without bound: an end is then 0 or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fit.derived import STEP, shifted
from fit.errors import QueryError
from fit.pairing import Pairs, joint_covariance, joint_draws
from fit.record import Floats
from fit.source import Source

FARTHEST = math.log(1e6)
"""Multipliers beyond a million either way are called unbounded."""
SPACING = 0.05
"""Of the grid in ln C on which A's loss is followed. Straight lines between its points move ln m by
less than 1e-4."""
LEAST_FLOPS = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Two laws and the budgets of the second at which the first has to catch up."""

    a: Source
    b: Source
    log_flops: Floats
    """ln C of B, (j,)."""
    log_scales: Floats
    """ln of the nats per unit of comparison of either, (2,)."""

    @property
    def grid(self) -> Floats:
        """The budgets ln C at which A is followed, (k,)."""
        low = max(float(self.log_flops.min()) - FARTHEST, math.log(LEAST_FLOPS))
        return np.arange(low, float(self.log_flops.max()) + FARTHEST, SPACING)

    def curves(self, theta_a: Floats, theta_b: Floats) -> tuple[Floats, Floats]:
        """Return ln L of A on the grid (m, k) and of B at its budgets (m, j), in one unit."""
        a = self.a.splits(np.exp(self.grid))(theta_a).log_loss - self.log_scales[0]
        b = self.b.splits(np.exp(self.log_flops))(theta_b).log_loss - self.log_scales[1]
        return a, b

    def inverted(self, level: float, pairs: Pairs | None) -> Iterator[tuple[float, float]]:
        """Low and high of the multiplier at each budget, from the sandwich covariances.

        The reference is Student's t: with paired clusters at the smaller of the two fits' degrees
        of freedom, else at those of Welch 1947.
        """
        centre_a, centre_b = self.curves(self.a.theta[None], self.b.theta[None])
        slope_a, slope_b = self._slopes(_covariance(self.a, self.b, pairs))
        paired = pairs is not None and pairs.size > 0
        for j, log_flops in enumerate(self.log_flops):
            error = np.sqrt(((slope_a - slope_b[:, j, None]) ** 2).sum(axis=0))
            parts = (slope_a**2).sum(axis=0), (slope_b[:, j, None] ** 2).sum(axis=0)
            dof = _degrees(self.a, self.b, parts, paired=paired)
            gap = centre_a[0] - centre_b[0, j]
            outside = np.abs(gap) - stats.t.ppf(0.5 + level / 2, dof) * error
            low, high = _accepted(self.grid, gap, outside)
            yield _bounded(low - log_flops), _bounded(high - log_flops)

    def drawn(
        self, level: float, pairs: Pairs, resamples: int, seed: int
    ) -> Iterator[tuple[float, float]]:
        """Low and high at each budget as percentiles over joint bootstrap draws."""
        a, b = self.curves(*joint_draws(pairs, resamples, seed))
        tails = [(1 - level) / 2, (1 + level) / 2]
        for j, log_flops in enumerate(self.log_flops):
            met = np.array([_meeting(self.grid, one, b[r, j]) for r, one in enumerate(a)])
            low, high = np.quantile(met, tails, method="closest_observation") - log_flops
            yield _bounded(low), _bounded(high)

    def _slopes(self, covariance: Floats) -> tuple[Floats, Floats]:
        """Change of both curves per standard error along the covariance's axes, (p + q, ...)."""
        values, vectors = np.linalg.eigh(covariance)
        axes = (vectors * np.sqrt(np.clip(values, 0.0, None))).T
        size = len(self.a.theta)
        steps = STEP * np.concatenate([axes, -axes])
        moved = [
            np.repeat(s.theta[None], len(steps), axis=0) if s.fit is None else shifted(s.fit, part)
            for s, part in ((self.a, steps[:, :size]), (self.b, steps[:, size:]))
        ]
        ends = self.curves(moved[0], moved[1])
        a, b = ((e[: len(axes)] - e[len(axes) :]) / (2 * STEP) for e in ends)
        return a, b


def _covariance(a: Source, b: Source, pairs: Pairs | None) -> Floats:
    """Of both laws' parameters together; a published law is taken as exact."""
    if pairs is not None and pairs.size:
        joint = joint_covariance(pairs)
    else:
        joint = np.zeros((len(a.theta) + len(b.theta),) * 2)
        if a.fit is not None:
            joint[: len(a.theta), : len(a.theta)] = a.fit.covariance
        if b.fit is not None:
            joint[len(a.theta) :, len(a.theta) :] = b.fit.covariance
    if not np.isfinite(joint).all():
        raise QueryError(
            "the runs of a fit leave no degree of freedom for an interval. Add runs and fit again."
        )
    names = (*a.law.parameters, *b.law.parameters)
    theta = np.concatenate([a.theta, b.theta])
    # A scale at zero sits on its bound: it stays there, whatever its row says.
    still = np.array([n[0].isupper() for n in names]) & (theta == 0)
    joint[still, :] = joint[:, still] = 0.0
    return joint


def _degrees(a: Source, b: Source, parts: tuple[Floats, Floats], *, paired: bool) -> Floats:
    """Degrees of freedom of the difference, by Welch where the two are independent."""
    known = [s.fit.interval.dof for s in (a, b) if s.fit is not None]
    if paired or len(known) < 2:
        return np.full(len(parts[0]), float(min(known)))
    total = np.maximum(parts[0] + parts[1], 1e-300)
    shares = [p / total for p in parts]
    spread = shares[0] ** 2 / known[0] + shares[1] ** 2 / known[1]
    return np.asarray(1 / np.maximum(spread, 1e-12))


def _accepted(grid: Floats, gap: Floats, outside: Floats) -> tuple[float, float]:
    """Ends of the stretch around the meeting point where the two cannot be told apart.

    Args:
        grid: The budgets ln C_A, (k,).
        gap: ln L_A less ln L_B, falling, (k,).
        outside: How far the gap lies beyond sampling; negative where it does not, (k,).
    """
    at = _meeting(grid, gap, 0.0)
    if math.isfinite(at):  # as a point of its own: the interval may be narrower than the grid
        centre = int(np.searchsorted(grid, at))
        error = float(np.interp(at, grid, outside - np.abs(gap)))
        outside = np.insert(outside, centre, min(error, 0.0))
        grid = np.insert(grid, centre, at)
    else:
        centre = len(grid) - 1 if at > 0 else 0
        if outside[centre] > 0:
            return at, at
    left = np.flatnonzero(outside[:centre] > 0)
    right = np.flatnonzero(outside[centre:] > 0)
    low = -math.inf if not len(left) else _crossing(grid, outside, int(left[-1]))
    high = math.inf if not len(right) else _crossing(grid, outside, centre + int(right[0]) - 1)
    return low, high


def _crossing(grid: Floats, values: Floats, i: int) -> float:
    """Where a straight line between two neighbours crosses zero."""
    share = values[i] / (values[i] - values[i + 1])
    return float(grid[i] + share * (grid[i + 1] - grid[i]))


def _meeting(grid: Floats, falling: Floats, level: float) -> float:
    """Where a falling curve reaches a level; infinite where it never does."""
    if falling[-1] > level:
        return math.inf
    if falling[0] < level:
        return -math.inf
    return float(np.interp(-level, -falling, grid))


def _bounded(log_ratio: float) -> float:
    """A multiplier from its logarithm; 0 or infinite where it is beyond what is followed."""
    if abs(log_ratio) < FARTHEST:
        return float(np.exp(log_ratio))
    return math.inf if log_ratio > 0 else 0.0
