"""Approach 1: which size is best at each compute along annealed curves, then a line through them.

Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. 3.1. One point per winning size, at the mean
ln C of the interval it wins; the smallest and the largest size win only for want of others and are
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.record import Floats, RunTable
from fit.result import CrossCheck

LEAST_POINTS = 3
"""Annealed points that a size's curve needs."""
GRID = 400
DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What the law says of the table: the envelope is judged against itself on the law's losses."""

    loss: Floats
    """Of every run by the law [nats/token]."""
    noise: float
    """Standard deviation of ln loss about the law."""
    a: float


def envelope(table: RunTable, fitted: Fitted, level: float) -> CrossCheck:
    """Exponent of N*(C) from the lower envelope of the sizes' loss curves.

    A coarse grid of sizes biases the envelope and leaves it few points. Its interval comes from the
    same procedure on the law's losses with the runs' noise: bias removed, spread kept.

    Args:
        table: Runs of several sizes at several lengths each, every point annealed.
        fitted: The law's losses for the same runs.
        level: Level of the interval.

    Returns:
        The exponent, or the reason why the runs do not allow it.
    """
    points = _points(table, table.loss)
    if isinstance(points, str):
        return CrossCheck(name="envelope", a=None, a_interval=None, coefficient=None, reason=points)
    log_c, log_n, losses = points
    random = np.random.default_rng(0)
    noise = fitted.noise * random.standard_normal((DRAWS, len(table)))
    drawn = [_points(table, fitted.loss * np.exp(row)) for row in noise]
    slopes = [_slope(p) for p in drawn if not isinstance(p, str)]
    if len(slopes) < DRAWS / 2:
        reason = "the runs' noise hides which size wins where"
        return CrossCheck(name="envelope", a=None, a_interval=None, coefficient=None, reason=reason)
    raw = _slope(points)
    tails = 50 * (1 - level)
    low, high = np.percentile(slopes, [tails, 100 - tails])
    a = raw - (float(np.median(slopes)) - fitted.a)
    return CrossCheck(
        name="envelope",
        a=a,
        a_interval=(a - float(high - np.median(slopes)), a + float(np.median(slopes) - low)),
        coefficient=float(log_n.mean() - a * log_c.mean()),
        budgets=tuple(np.exp(log_c).tolist()),
        params=tuple(np.exp(log_n).tolist()),
        losses=tuple(losses.tolist()),
    )


def _slope(points: tuple[Floats, Floats, Floats]) -> float:
    """Slope of ln N on ln C."""
    return float(np.polyfit(points[0], points[1], 1)[0])


def _points(table: RunTable, loss: Floats) -> tuple[Floats, Floats, Floats] | str:
    """Ln C, ln N and loss where each inner size wins, or why there are too few."""
    sizes = [n for n in np.unique(table.params) if (table.params == n).sum() >= LEAST_POINTS]
    if len(sizes) < 4:
        return f"fewer than 4 sizes have {LEAST_POINTS} lengths or more"
    x = np.linspace(np.log(table.flops).min(), np.log(table.flops).max(), GRID)
    curves = np.stack([_curve(table, loss, n, x) for n in sizes])
    winner, lowest = np.argmin(curves, axis=0), curves.min(axis=0)
    points = [
        (float(x[winner == i].mean()), float(np.log(sizes[i])), float(lowest[winner == i].mean()))
        for i in range(1, len(sizes) - 1)
        if (winner == i).any()
    ]
    if len(points) < 2:
        return "fewer than two sizes between the smallest and the largest win anywhere"
    log_c, log_n, losses = (np.array(v) for v in zip(*points, strict=True))
    return log_c, log_n, losses


def _curve(table: RunTable, loss: Floats, size: float, x: Floats) -> Floats:
    """Loss of one size along ln C, linear in ln loss between its points and infinite outside."""
    own = np.flatnonzero(table.params == size)
    own = own[np.argsort(table.flops[own], kind="stable")]
    log_c, y = np.log(table.flops[own]), np.log(loss[own])
    return np.asarray(np.exp(np.interp(x, log_c, y, left=np.inf, right=np.inf)))
