"""Approach 2: at each budget the best size by a parabola in ln N, then a line through them.

Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. 3.2; its biases: Czech et al. 2026,
arXiv:2603.22339.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.record import Floats, RunTable
from fit.result import CrossCheck

LEAST_SIZES = 4
"""Sizes a budget needs for a parabola with one degree of freedom left."""
SAME_BUDGET = 0.1
"""Budgets whose logarithms differ by less are one: D is rounded to whole steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Valley:
    """The minimum of one budget's curve."""

    flops: float
    log_params: float
    error: float
    """Standard error of `log_params`."""
    loss: float


def budgets(flops: Floats) -> NDArray[np.int64]:
    """Code of the budget of each run: neighbours in ln C closer than `SAME_BUDGET` share one."""
    order = np.argsort(flops, kind="stable")
    logs = np.log(flops[order])
    first, codes, current = logs[0], np.empty(len(flops), np.int64), 0
    for place, value in zip(order, logs, strict=True):
        if value - first > SAME_BUDGET:
            current, first = current + 1, value
        codes[place] = current
    return codes


def isoflop(table: RunTable, level: float) -> CrossCheck:
    """Exponent of N*(C) from the valleys of the isoFLOP curves.

    Args:
        table: Runs at a few budgets, several sizes each.
        level: Level of the interval of the exponent.

    Returns:
        The exponent, or the reason why the runs do not allow it.
    """
    codes = budgets(table.flops)
    valleys, refused = [], []
    for code in np.unique(codes):
        inside = codes == code
        if len(np.unique(table.params[inside])) < LEAST_SIZES:
            continue
        valley = _valley(table, inside)
        if isinstance(valley, Valley):
            valleys.append(valley)
        else:
            refused.append(valley)
    if len(valleys) < 2:
        why = "; ".join(refused) or f"no two budgets have {LEAST_SIZES} sizes or more"
        return CrossCheck(name="isoflop", a=None, a_interval=None, coefficient=None, reason=why)
    return _line(valleys, level, "; ".join(refused) or None)


def _valley(table: RunTable, inside: NDArray[np.bool_]) -> Valley | str:
    """Minimum of a parabola in ln N, or why there is none."""
    x, y = np.log(table.params[inside]), table.loss[inside]
    flops = float(np.exp(np.log(table.flops[inside]).mean()))
    centre = x.mean()
    design = np.vander(x - centre, 3)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    bend, slope, _ = coefficients
    if bend <= 0:
        return f"the curve at {flops:.2g} FLOP bends the wrong way"
    vertex = -slope / (2 * bend)
    if not x.min() <= vertex + centre <= x.max():
        return f"the minimum at {flops:.2g} FLOP lies outside the sizes"
    residual = y - design @ coefficients
    dof = max(1, len(y) - 3)
    variance = float(residual @ residual) / dof * np.linalg.inv(design.T @ design)
    gradient = np.array([slope / (2 * bend**2), -1 / (2 * bend), 0.0])
    return Valley(
        flops=flops,
        log_params=float(vertex + centre),
        error=math.sqrt(max(float(gradient @ variance @ gradient), 1e-12)),
        loss=float(np.polyval(coefficients, vertex)),
    )


def _line(valleys: list[Valley], level: float, reason: str | None) -> CrossCheck:
    """Weighted line of ln N* on ln C."""
    from scipy import stats

    x = np.log([v.flops for v in valleys])
    y = np.array([v.log_params for v in valleys])
    weights = 1 / (np.array([v.error for v in valleys]) ** 2 + 1e-4)
    design = np.stack([x - x.mean(), np.ones_like(x)], axis=1)
    normal = design.T @ (weights[:, None] * design)
    a, at_mean = np.linalg.solve(normal, design.T @ (weights * y))
    residual = y - design @ np.array([a, at_mean])
    dof = len(x) - 2
    spread = float(weights @ residual**2) / dof if dof else 1.0
    error = math.sqrt(max(spread, 1.0) * np.linalg.inv(normal)[0, 0])
    half = float(stats.t.ppf(0.5 + level / 2, max(dof, 1))) * error
    return CrossCheck(
        name="isoflop",
        a=float(a),
        a_interval=(float(a - half), float(a + half)),
        coefficient=float(at_mean - a * x.mean()),
        budgets=tuple(v.flops for v in valleys),
        params=tuple(math.exp(v.log_params) for v in valleys),
        losses=tuple(v.loss for v in valleys),
        reason=reason,
    )
