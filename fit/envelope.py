"""Approach 1: which size is best at each compute along annealed curves, then a line through them.

Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. 3.1. One point per winning size, at the mean
ln C of the interval it wins; the smallest and the largest size win only for want of others and are
dropped.
"""

from __future__ import annotations

import numpy as np

from fit.record import RunTable
from fit.result import CrossCheck

LEAST_POINTS = 3
"""Annealed points that a size's curve needs."""
GRID = 400


def envelope(table: RunTable) -> CrossCheck:
    """Exponent of N*(C) from the lower envelope of the sizes' loss curves.

    Args:
        table: Runs of several sizes at several lengths each, every point annealed.

    Returns:
        The exponent without an interval, or the reason why the runs do not allow it.
    """
    sizes = [n for n in np.unique(table.params) if (table.params == n).sum() >= LEAST_POINTS]
    if len(sizes) < 4:
        return _nothing(f"fewer than 4 sizes have {LEAST_POINTS} lengths or more")
    x = np.linspace(np.log(table.flops).min(), np.log(table.flops).max(), GRID)
    curves = np.stack([_curve(table, n, x) for n in sizes])
    winner = np.argmin(curves, axis=0)
    lowest = curves.min(axis=0)
    points = [
        (float(x[winner == i].mean()), float(np.log(sizes[i])), float(lowest[winner == i].mean()))
        for i in range(1, len(sizes) - 1)
        if (winner == i).any()
    ]
    if len(points) < 2:
        return _nothing("fewer than two sizes between the smallest and the largest win anywhere")
    log_c, log_n, losses = (np.array(v) for v in zip(*points, strict=True))
    a, coefficient = np.polyfit(log_c, log_n, 1)
    return CrossCheck(
        name="envelope",
        a=float(a),
        a_interval=None,
        coefficient=float(coefficient),
        budgets=tuple(np.exp(log_c).tolist()),
        params=tuple(np.exp(log_n).tolist()),
        losses=tuple(losses.tolist()),
    )


def _curve(table: RunTable, size: float, x: np.ndarray) -> np.ndarray:
    """Loss of one size along ln C, linear in ln loss between its points and infinite outside."""
    own = np.flatnonzero(table.params == size)
    own = own[np.argsort(table.flops[own], kind="stable")]
    log_c, y = np.log(table.flops[own]), np.log(table.loss[own])
    return np.asarray(np.exp(np.interp(x, log_c, y, left=np.inf, right=np.inf)))


def _nothing(reason: str) -> CrossCheck:
    """No value, and why."""
    return CrossCheck(name="envelope", a=None, a_interval=None, coefficient=None, reason=reason)
