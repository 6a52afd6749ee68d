"""Bias-corrected accelerated percentiles: a bootstrap interval that knows it is skewed.

The percentiles of the draws are moved by z0, how far the draws' median lies from the estimate, and
by the acceleration, how the error grows with the value, which comes from the skewness of the moves
of the estimate when each cluster is left out.

Source: Efron 1987, J. Am. Stat. Assoc. 82, 171.
"""

from __future__ import annotations

from statistics import NormalDist  # a query does without scipy

import numpy as np

from fit.record import Floats

NORMAL = NormalDist()
MOST_BIAS = 3.0
"""z0 beyond this says that the draws and the estimate have nothing in common."""


def bca_percentiles(
    values: Floats, centre: Floats, moves: Floats, level: float
) -> tuple[Floats, Floats]:
    """Low and high of quantities.

    Args:
        values: Quantities of the draws, (m, q), none of them nan.
        centre: At the estimate, (q,).
        moves: How far they move when each cluster is left out, (groups, q).
        level: Of the interval.

    Returns:
        Low and high, each (q,).
    """
    ordered = np.sort(values, axis=0)
    below = (values < centre).sum(axis=0) + 0.5 * (values == centre).sum(axis=0)
    least = NORMAL.cdf(-MOST_BIAS)
    bias = _deviates(np.clip(below / len(values), least, 1 - least))
    skew = acceleration(moves)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + NORMAL.inv_cdf(tail)
        share = _shares(bias + z / np.maximum(1 - skew * z, 1e-3))
        row = np.clip(np.ceil(share * len(values)).astype(int) - 1, 0, len(values) - 1)
        ends.append(ordered[row, np.arange(values.shape[1])])
    return ends[0], ends[1]


def acceleration(moves: Floats) -> Floats:
    """A sixth of the skewness of the moves (groups, q), per quantity; 0 where nothing moves."""
    square = (moves**2).sum(axis=0)
    cube = (moves**3).sum(axis=0)
    scale = 6 * square**1.5
    return np.asarray(np.divide(cube, scale, out=np.zeros_like(cube), where=square > 0))


def _deviates(shares: Floats) -> Floats:
    """Normal deviates of shares."""
    return np.array([NORMAL.inv_cdf(float(s)) for s in shares])


def _shares(deviates: Floats) -> Floats:
    """Normal shares of deviates."""
    return np.array([NORMAL.cdf(float(d)) for d in deviates])
