"""Approaches 1 and 2 of Hoffmann et al. 2022, as cross-checks of the fitted law.

Approach 2, `isoflop_check`: at each budget the best size along a curve in ln N, then a line through
these sizes. The curve is the smoothest that the runs allow: a parabola, which is right near the
minimum; a cubic, where it is asymmetric; Akima's interpolation, where neither fits within the runs'
noise. One kind serves all budgets, so that its bias does not drift with them.

Approach 1, `envelope_check`: the size with the least loss at each compute along annealed curves,
then a line. One point per winning size, at the mean ln C of the interval it wins; the smallest and
the largest size are dropped, because they win only for want of others.

Source: Hoffmann et al. 2022, arXiv:2203.15556, secs. 3.1 and 3.2; interpolation and weights by
noise: Porian et al. 2024, arXiv:2406.19146, sec. 3; biases: Czech et al. 2026, arXiv:2603.22339.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.inference.resampling import f_tail, t_quantile
from fit.results import CrossCheck

LEAST_SIZES = 4
"""Sizes a budget needs for a parabola with one degree of freedom left."""
MOST_SIZES = 48
"""Sizes of one budget beyond which neighbours are averaged."""
SAME_BUDGET = 0.1
"""Budgets whose logarithms differ by less are one: D is rounded to whole steps."""
CURVES = ("parabola", "cubic", "akima")
REFUSED = 0.01
"""Probability of the misfit below which a polynomial is not the curve."""
DRAWS, GRID = 200, 801
"""Losses redrawn with the runs' noise per budget, and places looked at for the minimum."""
AT_EDGE = 0.1
"""Share of the draws whose minimum may lie at the smallest or largest size."""
LEAST_ERROR = 0.01
"""Error of ln N* below which no budget is trusted more than another."""
LEAST_POINTS = 3
"""Annealed points that a size's curve needs."""
MOST_ENVELOPE_SIZES = 64
"""Sizes compared; of more, as many spread evenly."""
ENVELOPE_GRID = 400
ENVELOPE_DRAWS = 200
SAME_LEVEL = 0.05
"""Tokens or sizes whose logarithms differ by less share a colour in a figure."""
LEAST_SHARED, MOST_OF = 3, 0.8
"""Runs that make a budget of a sweep, and the share of all runs that such budgets must hold."""
MOST_BUDGETS = 9
"""Budgets drawn in one figure; more cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoflopCurve:
    """One budget's runs, a point per size."""

    flops: float
    x: Floats
    """ln N, ascending, (sizes,)."""
    y: Floats
    """Mean ln loss, (sizes,)."""
    runs: Floats
    """Runs behind each point, (sizes,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoflopMinimum:
    """The minimum of one budget's curve."""

    flops: float
    log_params: float
    error: float
    """Standard error of `log_params` by the runs' noise."""
    loss: float


def budget_codes(flops: Floats) -> NDArray[np.int64]:
    """Code of the budget of each run: neighbours in ln C closer than `SAME_BUDGET` share one."""
    order = np.argsort(flops, kind="stable")
    logs = np.log(flops[order])
    starts = [0]
    while (after := int(np.searchsorted(logs, logs[starts[-1]] + SAME_BUDGET, "right"))) < len(
        logs
    ):
        starts.append(after)
    codes = np.empty(len(flops), np.int64)
    codes[order] = np.searchsorted(starts, np.arange(len(logs)), "right") - 1
    return codes


def isoflop_check(table: RunTable, level: float) -> CrossCheck:
    """Exponent of N*(C) from the valleys of the isoFLOP curves.

    Args:
        table: Runs at a few budgets, several sizes each.
        level: Level of the interval of the exponent.

    Returns:
        The exponent, or the reason why the runs do not allow it.
    """
    codes = budget_codes(table.flops)
    counts = np.bincount(codes)
    curves = [_curve(table, codes == code) for code in np.flatnonzero(counts >= LEAST_SIZES)]
    curves = [c for c in curves if len(c.x) >= LEAST_SIZES]
    if len(curves) < 2:
        why = f"no two budgets have {LEAST_SIZES} sizes or more"
        return CrossCheck(name="isoflop", a=None, a_interval=None, coefficient=None, reason=why)
    noise = _noise(curves)
    kind = next((k for k in CURVES[:-1] if _fits(curves, k, noise)), CURVES[-1])
    minima = [_valley(c, kind, noise, i) for i, c in enumerate(curves)]
    valleys = [v for v in minima if isinstance(v, IsoflopMinimum)]
    refused = _joined([v for v in minima if isinstance(v, str)])
    if len(valleys) < 2:
        return CrossCheck(name="isoflop", a=None, a_interval=None, coefficient=None, reason=refused)
    return _line(valleys, level, f"by {kind}" + (f"; {refused}" if refused else ""))


def _curve(table: RunTable, inside: NDArray[np.bool_]) -> IsoflopCurve:
    """The runs of one budget; those of one size to 1% are averaged, as are too many sizes."""
    log_n, log_loss = np.log(table.params[inside]), np.log(table.loss[inside])
    sizes, codes = np.unique(log_n.round(2), return_inverse=True)
    if len(sizes) > MOST_SIZES:
        codes = codes * MOST_SIZES // len(sizes)
    runs = np.bincount(codes).astype(np.float64)
    return IsoflopCurve(
        flops=float(np.exp(np.log(table.flops[inside]).mean())),
        x=np.bincount(codes, log_n) / runs,
        y=np.bincount(codes, log_loss) / runs,
        runs=runs,
    )


def _noise(curves: list[IsoflopCurve]) -> float:
    """Noise of one run's ln loss: how far points lie from a cubic through their neighbours.

    Two neighbours on either side, so that a smooth curve leaves next to nothing and one bad run
    moves the median little; by the parabolas' residuals where no budget has five sizes.
    """
    gaps = []
    for c in curves:
        for i in range(2, len(c.x) - 2):
            near = np.array([i - 2, i - 1, i + 1, i + 2])
            share = np.linalg.solve(np.vander(c.x[near] - c.x[i], increasing=True).T, np.eye(4)[0])
            size = math.sqrt(1 / c.runs[i] + float((share**2 / c.runs[near]).sum()))
            gaps.append(float(c.y[i] - share @ c.y[near]) / size)
    if len(gaps) >= LEAST_SIZES:
        return max(1.4826 * float(np.median(np.abs(gaps))), 1e-9)
    squares, dof = _misfit(curves, "parabola")
    return max(math.sqrt(squares / max(dof, 1)), 1e-9)


def _misfit(curves: list[IsoflopCurve], kind: str) -> tuple[float, int]:
    """Sum of squared residuals of polynomials, in runs, and their degrees of freedom."""
    terms = CURVES.index(kind) + 3
    squares = sum(
        float(c.runs @ (c.y - _drawn(c, c.y[:, None], kind, c.x)[:, 0]) ** 2) for c in curves
    )
    return squares, sum(max(len(c.x) - terms, 0) for c in curves)


def _fits(curves: list[IsoflopCurve], kind: str, noise: float) -> bool:
    """Whether a polynomial leaves no more than the noise; one that interpolates is no test."""
    squares, dof = _misfit(curves, kind)
    inner = sum(max(len(c.x) - 4, 0) for c in curves)
    if dof == 0:
        return False
    return f_tail(dof, max(inner // 2, 1), squares / dof / noise**2) > REFUSED


def _drawn(curve: IsoflopCurve, y: Floats, kind: str, at: Floats) -> Floats:
    """Curves through ys (sizes, draws), at places (k,) in ln N: (k, draws)."""
    if kind == "akima":
        return _akima(curve.x, y, at)
    terms, centre = CURVES.index(kind) + 3, curve.x.mean()
    root = np.sqrt(curve.runs)[:, None]
    design = np.vander(curve.x - centre, terms)
    coefficients = np.linalg.lstsq(root * design, root * y, rcond=None)[0]
    return np.asarray(np.vander(at - centre, terms) @ coefficients)


def _akima(x: Floats, y: Floats, at: Floats) -> Floats:
    """Akima's curves through ys (sizes, draws), at ascending places (k,) within: (k, draws).

    As scipy's `Akima1DInterpolator`, whose import takes longer than a fit.

    Source: Akima 1970, doi:10.1145/321607.321609.
    """
    gap = np.diff(x)[:, None]
    inner = np.diff(y, axis=0) / gap
    before, after = 2 * inner[0] - inner[1], 2 * inner[-1] - inner[-2]
    ends = [2 * before - inner[0], before], [after, 2 * after - inner[-1]]
    m = np.concatenate([ends[0], inner, ends[1]])
    change = np.abs(np.diff(m, axis=0))
    right, left = change[2:], change[:-2]
    flat = right + left <= 1e-9 * (right + left).max()
    slope = np.where(
        flat,
        (m[3:] + m[:-3]) / 2,
        (right * m[1:-2] + left * m[2:-1]) / np.where(flat, 1.0, right + left),
    )
    curved = (3 * inner - 2 * slope[:-1] - slope[1:]) / gap
    cubed = (slope[:-1] + slope[1:] - 2 * inner) / gap**2
    out = np.empty((len(at), y.shape[1]))
    for i, (a, b) in enumerate(itertools.pairwise([0, *np.searchsorted(at, x[1:-1]), len(at)])):
        step = (at[a:b] - x[i])[:, None]
        out[a:b] = ((cubed[i] * step + curved[i]) * step + slope[i]) * step + y[i]
    return out


def _valley(curve: IsoflopCurve, kind: str, noise: float, seed: int) -> IsoflopMinimum | str:
    """The minimum of one budget's curve with its error by the noise, or why there is none."""
    at = np.linspace(curve.x[0], curve.x[-1], GRID)
    random = np.random.default_rng([0, seed])
    drawn = random.standard_normal((len(curve.x), DRAWS)) * (noise / np.sqrt(curve.runs))[:, None]
    values = _drawn(curve, np.column_stack([curve.y, curve.y[:, None] + drawn]), kind, at)
    place = np.argmin(values, axis=0)
    inner = (place > 0) & (place < GRID - 1)
    if not inner[0]:
        return f"the minimum at {curve.flops:.2g} FLOP lies outside the sizes"
    if inner.mean() < 1 - AT_EDGE:
        return f"the minimum at {curve.flops:.2g} FLOP may lie outside the sizes, within the noise"
    return IsoflopMinimum(
        flops=curve.flops,
        log_params=float(at[place[0]]),
        error=float(at[place[1:][inner[1:]]].std()),
        loss=float(np.exp(values[place[0], 0])),
    )


def _joined(reasons: list[str]) -> str:
    """The first reasons, and how many more."""
    more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return "; ".join(reasons[:2]) + more


def _line(valleys: list[IsoflopMinimum], level: float, reason: str | None) -> CrossCheck:
    """Weighted line of ln N* on ln C; its interval by the noise, or the scatter if larger."""
    x = np.log([v.flops for v in valleys])
    y = np.array([v.log_params for v in valleys])
    weights = 1 / (np.array([v.error for v in valleys]) ** 2 + LEAST_ERROR**2)
    design = np.stack([x - x.mean(), np.ones_like(x)], axis=1)
    normal = design.T @ (weights[:, None] * design)
    a, at_mean = np.linalg.solve(normal, design.T @ (weights * y))
    residual = y - design @ np.array([a, at_mean])
    dof = len(x) - 2
    spread = float(weights @ residual**2) / dof if dof else 1.0
    error = math.sqrt(max(spread, 1.0) * np.linalg.inv(normal)[0, 0])
    half = t_quantile(max(dof, 1), 0.5 + level / 2) * error
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeModel:
    """What the law says of the table: the envelope is judged against itself on the law's losses."""

    loss: Floats
    """Of every run by the law [nats/token]."""
    noise: float
    """Standard deviation of ln loss about the law."""
    a: float


def envelope_check(table: RunTable, model: EnvelopeModel, level: float) -> CrossCheck:
    """Exponent of N*(C) from the lower envelope of the sizes' loss curves.

    A coarse grid of sizes biases the envelope and leaves it few points. Its interval comes from the
    same procedure on the law's losses with the runs' noise: bias removed, spread kept.

    Args:
        table: Runs of several sizes at several lengths each, every point annealed.
        model: The law's losses for the same runs.
        level: Level of the interval.

    Returns:
        The exponent, or the reason why the runs do not allow it.
    """
    sizes = _sizes(table)
    points: Any = f"fewer than 4 sizes have {LEAST_POINTS} lengths or more"
    if len(sizes) >= 4:
        points = next(_envelopes(sizes, table.flops, np.log(table.loss)[None]))
    if isinstance(points, str):
        return CrossCheck(name="envelope", a=None, a_interval=None, coefficient=None, reason=points)
    log_c, log_n, losses = points
    random = np.random.default_rng(0)
    noise = model.noise * random.standard_normal((ENVELOPE_DRAWS, len(table)))
    drawn = _envelopes(sizes, table.flops, np.log(model.loss) + noise)
    slopes = [_slope(p) for p in drawn if not isinstance(p, str)]
    if len(slopes) < ENVELOPE_DRAWS / 2:
        reason = "the runs' noise hides which size wins where"
        return CrossCheck(name="envelope", a=None, a_interval=None, coefficient=None, reason=reason)
    raw = _slope(points)
    tails = 50 * (1 - level)
    low, high = np.percentile(slopes, [tails, 100 - tails])
    a = raw - (float(np.median(slopes)) - model.a)
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
    x, y = (p - p.mean() for p in points[:2])
    return float(x @ y / max(x @ x, 1e-300))


def _sizes(table: RunTable) -> list[tuple[float, NDArray[np.int64]]]:
    """Ln N of every size with enough lengths, ascending, and its runs by compute."""
    order = np.lexsort((table.flops, table.params))
    starts = np.flatnonzero(np.diff(table.params[order], prepend=-np.inf))
    groups = [g for g in np.split(order, starts[1:]) if len(g) >= LEAST_POINTS]
    if len(groups) > MOST_ENVELOPE_SIZES:
        groups = [
            groups[i] for i in np.linspace(0, len(groups) - 1, MOST_ENVELOPE_SIZES).astype(int)
        ]
    return [(float(np.log(table.params[g[0]])), g) for g in groups]


def _envelopes(
    sizes: list[tuple[float, NDArray[np.int64]]], flops: Floats, log_loss: Floats
) -> Iterator[tuple[Floats, Floats, Floats] | str]:
    """For each draw of ln losses (draws, n): ln C, ln N and loss where each inner size wins.

    Or why there are too few points. A size's curve is linear in ln C between its lengths.
    """
    log_c, log_n = np.log(flops), np.array([n for n, _ in sizes])
    x = np.linspace(log_c.min(), log_c.max(), ENVELOPE_GRID)
    curves = np.full((len(log_loss), len(sizes), len(x)), np.inf)
    for place, (_, rows) in enumerate(sizes):
        c, y = log_c[rows], log_loss[:, rows]
        inside = (x >= c[0]) & (x <= c[-1])
        piece = np.clip(np.searchsorted(c, x[inside], "right") - 1, 0, len(c) - 2)
        share = (x[inside] - c[piece]) / np.maximum(c[piece + 1] - c[piece], 1e-300)
        curves[:, place, inside] = y[:, piece] + share * (y[:, piece + 1] - y[:, piece])
    inner, grid = np.arange(1, len(sizes) - 1), np.arange(len(x))
    for winner, lowest in zip(np.argmin(curves, axis=1), np.exp(curves.min(axis=1)), strict=True):
        places = np.bincount(winner, minlength=len(sizes))
        won = inner[places[inner] > 0]
        if len(won) < 2:
            yield "fewer than two sizes between the smallest and the largest win anywhere"
            continue
        # sums of places on the grid are exact, so that equal means stay equal
        middle, losses = (np.bincount(winner, v)[won] / places[won] for v in (grid, lowest))
        yield x[0] + middle * (x[-1] - x[0]) / grid[-1], log_n[won], losses


def budgets_of(flops: Floats) -> Floats:
    """The budgets of an isoFLOP sweep, or six across the range where runs share none.

    Budgets are those of approach 2 (`budget_codes`); runs share them where groups of three or more
    hold most of the runs.
    """
    codes = budget_codes(flops)
    counts = np.bincount(codes)
    shared = np.exp(np.bincount(codes, np.log(flops)) / counts)[counts >= LEAST_SHARED]
    if counts[counts >= LEAST_SHARED].sum() >= MOST_OF * len(flops):
        return np.array(some_of(shared, MOST_BUDGETS))
    low, high = flops.min() * 1.3, flops.max() / 1.05
    return np.geomspace(low, high, 6) if high > low else np.array([flops.max()])


def levels_of(values: Floats) -> Floats:
    """Distinct values of a column for a figure, those within 5% as their geometric mean."""
    ordered = np.sort(np.log(values))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > SAME_LEVEL) + 1)
    return np.exp([float(g.mean()) for g in groups])


def some_of(values: Floats, most: int) -> list[float]:
    """At most so many of the ascending values, evenly in ln, both ends among them."""
    if len(values) <= most:
        return [float(v) for v in values]
    wanted = np.linspace(np.log(values[0]), np.log(values[-1]), most)
    rows = np.unique(np.argmin(np.abs(np.log(values)[:, None] - wanted), axis=0))
    return [float(values[i]) for i in rows]
