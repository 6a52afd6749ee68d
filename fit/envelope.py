"""Approach 1: which size is best at each compute along annealed curves, then a line through them.

Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. 3.1. One point per winning size, at the mean
ln C of the interval it wins; the smallest and the largest size win only for want of others and are
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.record import Floats, RunTable
from fit.result import CrossCheck

LEAST_POINTS = 3
"""Annealed points that a size's curve needs."""
MOST_SIZES = 64
"""Sizes compared; of more, as many spread evenly."""
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
    sizes = _sizes(table)
    points = _points(sizes, table.flops, table.loss)
    if isinstance(points, str):
        return CrossCheck(name="envelope", a=None, a_interval=None, coefficient=None, reason=points)
    log_c, log_n, losses = points
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        noise = fitted.noise * random.standard_normal(len(table))
        drawn.append(_points(sizes, table.flops, fitted.loss * np.exp(noise)))
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


def _sizes(table: RunTable) -> list[tuple[float, NDArray[np.int64]]]:
    """Ln N of every size with enough lengths, ascending, and its runs by compute."""
    order = np.lexsort((table.flops, table.params))
    starts = np.flatnonzero(np.diff(table.params[order], prepend=-np.inf))
    groups = [g for g in np.split(order, starts[1:]) if len(g) >= LEAST_POINTS]
    if len(groups) > MOST_SIZES:
        groups = [groups[i] for i in np.linspace(0, len(groups) - 1, MOST_SIZES).astype(int)]
    return [(float(np.log(table.params[g[0]])), g) for g in groups]


def _points(
    sizes: list[tuple[float, NDArray[np.int64]]], flops: Floats, loss: Floats
) -> tuple[Floats, Floats, Floats] | str:
    """Ln C, ln N and loss where each inner size wins, or why there are too few."""
    if len(sizes) < 4:
        return f"fewer than 4 sizes have {LEAST_POINTS} lengths or more"
    x = np.linspace(np.log(flops.min()), np.log(flops.max()), GRID)
    curves = np.stack([_curve(np.log(flops[own]), np.log(loss[own]), x) for _, own in sizes])
    winner, lowest = np.argmin(curves, axis=0), curves.min(axis=0)
    points = [
        (float(x[winner == i].mean()), sizes[i][0], float(lowest[winner == i].mean()))
        for i in range(1, len(sizes) - 1)
        if (winner == i).any()
    ]
    if len(points) < 2:
        return "fewer than two sizes between the smallest and the largest win anywhere"
    log_c, log_n, losses = (np.array(v) for v in zip(*points, strict=True))
    return log_c, log_n, losses


def _curve(log_c: Floats, log_loss: Floats, x: Floats) -> Floats:
    """Loss of one size along ln C, linear in ln loss between its points and infinite outside."""
    return np.asarray(np.exp(np.interp(x, log_c, log_loss, left=np.inf, right=np.inf)))
