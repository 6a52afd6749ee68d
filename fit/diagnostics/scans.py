"""Scans of a recipe number, such as the learning rate: is every size and length tuned alike?

`find_scans` reads off a table what was scanned: the runs that differ in one number of the recipe
(the learning rate, the batch, any other) at fixed size, shape and length. Each scan has a parabola
in the logarithm of the number. `JointProblem` fits all scans at once with one form of curve; the
law of the best value that follows, and what it costs to miss it, are in `fit.diagnostics.tuning`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError

NEAR = 2
"""Values on either side of the best that a curve is fitted to: the loss rises faster than any curve
of two parameters where a learning rate is several times too high."""
SAME_LENGTH = 0.03
"""Lengths that differ by less in ln D are one: D is a whole number of steps of each batch."""
LEVEL = 0.9
LARGEST_LOG = 700.0
LARGEST_SKEW = 3.0
DRAWS = 2000
LAWS = {"rate": "lr", "batch": "batch_tokens"}
"""Short names of `find_scans` and their columns; other names are columns themselves."""
BATCH_SETTINGS = ("train.batch_tokens", "train.batch_at_1m")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingScan:
    """One size, shape and length, trained with at least 3 values of the number that was scanned.

    Values are settings of the recipe: the learning rate at the base width, the batch at the start.
    """

    params: float
    tokens: float
    width: int | None
    depth: int | None
    others: tuple[float, ...]
    """Other numbers of the recipe that differ between scans, as `ScannedSetting.others`."""
    factor: float
    """What the rule multiplies the setting with here: base_width/width and its decay, say."""
    rows: tuple[int, ...]
    """Rows of the table near the best value, to which curves are fitted."""
    runs: int
    found: str
    """`inside`; `low edge` or `high edge` where the best is the last value tried; `flat`."""
    best: float
    """The best value by the scan's own parabola, or the best one tried."""
    low: float
    high: float
    """90% interval of `best`; 0 to infinity where it is not inside."""
    log_error: float
    """Standard error of ln(best), on `free` degrees of freedom."""
    free: int
    bend: float
    """Coefficient of ln(value)^2 [nats]."""
    loss: float
    """Least loss of the parabola [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedSetting:
    """A number of the recipe and its scans."""

    law: str
    """`rate`, `batch` or a column."""
    column: str
    values: Floats
    """The setting of every row of the table, (runs,)."""
    others: tuple[str, ...]
    """Other recipe columns that differ between scans."""
    scans: tuple[SettingScan, ...]


def find_scans(table: RunTable, law: str = "rate") -> ScannedSetting:
    """Find the best value of a recipe number for every size, shape and length that was scanned.

    The scatter about the parabolas is pooled over all scans, and the interval of a best value
    follows by the delta method with Student's t.

    Args:
        table: Runs; those of one size, length and shape, and of one value of all other recipe
            numbers, are one scan, several seeds at a value included.
        law: `rate` (column `lr`), `batch` (`batch_tokens`), or the column of another number, such
            as `train.weight_decay`. Rows where it is not positive are left out.

    Returns:
        The scans that have 3 values or more, by ascending params, then tokens.

    Raises:
        FitError: No size was trained at 3 values.
        RecordError: The table has no such column.
    """
    from scipy import stats

    column = LAWS.get(law, law)
    values, factor = _settings(table, law, column)
    groups, others = _groups(table, values, column, law)
    curves = [c for rows in groups if (c := _curve(table, values, rows)) is not None]
    if not curves:
        what = {"rate": "learning rates", "batch": "batch sizes"}.get(law, f"values of {column}")
        hint = law if law in ("rate", "batch") else None
        cure = {"rate": "+experiment=lr", "batch": "+experiment=batch"}.get(law, f"{law}=A,B,C")
        known = "" if hint else f" Scanned numbers: {', '.join(_numbers(table)) or 'none'}."
        raise FitError(
            f"{table.source or 'the table'} has no size that was trained at 3 {what} or more. "
            f"Scan them: python -m sweep -m {cure}{known and '.'}{known}"
        )
    free = sum(len(c.x) - 3 for c in curves)
    noise = math.sqrt(sum(c.squares for c in curves) / free) if free else math.inf
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, free)) if free else math.inf
    scans = [_scan(table, c, factor, others, (noise, reach, free)) for c in curves]
    return ScannedSetting(
        law=law,
        column=column,
        values=values,
        others=others,
        scans=tuple(sorted(scans, key=lambda s: (s.params, s.tokens, s.others))),
    )


def _settings(table: RunTable, law: str, column: str) -> tuple[Floats, Floats]:
    """The setting of every row, and what the rule multiplies it with."""
    if law == "rate":
        rate, base = table.column("lr"), table.recipe.get("train.base_width")
        narrower = np.ones(len(table))
        if base is not None and "width" in table.columns:
            narrower = base / table.column("width")
        # the record holds the peak; along a trunk the rate falls as a power of the tokens seen
        start, power = (table.recipe.get(f"train.lr_decay_{k}") for k in ("from", "power"))
        decay = np.maximum(1.0, table.tokens / start) ** -power if start and power else 1.0
        return np.asarray(rate / narrower), np.asarray(narrower * decay)
    values = table.column(column)
    if law == "batch":
        own = next((c for c in BATCH_SETTINGS if c in table.columns), None)
        if own is not None:  # the record's batch is the last one of a run whose batch grows
            return table.column(own), np.asarray(values / table.column(own))
    return values, np.ones(len(table))


def _numbers(table: RunTable) -> list[str]:
    """Numbers of the recipe that differ between runs."""
    columns = table.columns.items()
    return [c for c, v in columns if c.startswith("train.") and v.dtype.kind in "iuf"]


def _groups(
    table: RunTable, values: Floats, column: str, law: str
) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Rows of every size, shape, length and value of the other recipe numbers."""
    own = {column, "train.lr" if law == "rate" else column}
    own |= set(BATCH_SETTINGS) if law == "batch" else set()
    others = tuple(c for c in _numbers(table) if c not in own)
    keys = [table.params, _lengths(table.tokens)]
    keys += [table.column(k) for k in ("width", "depth") if k in table.columns]
    keys += [table.column(k) for k in others]
    _, group = np.unique(np.stack(keys), axis=1, return_inverse=True)
    good = (values > 0) & np.isfinite(values)
    rows = [np.flatnonzero((group.ravel() == g) & good) for g in range(int(group.max()) + 1)]
    return rows, others


def _lengths(tokens: Floats) -> Floats:
    """Tokens, those that differ by a step or so made equal."""
    order = np.argsort(tokens, kind="stable")
    new = np.diff(np.log(tokens[order]), prepend=-np.inf) > SAME_LENGTH
    out = np.empty_like(tokens)
    out[order] = tokens[order][np.flatnonzero(new)][np.cumsum(new) - 1]
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """Losses near the best value of one scan, and their parabola."""

    rows: NDArray[np.int64]
    """Of the table, near the best value."""
    runs: int
    ends: tuple[float, float]
    """Least and largest ln(value) tried."""
    x: Floats
    y: Floats
    coefficients: Floats
    """Of x^2, x and 1."""

    @property
    def squares(self) -> float:
        """Sum of squared residuals."""
        return float(((self.y - np.polyval(self.coefficients, self.x)) ** 2).sum())


def _curve(table: RunTable, values: Floats, rows: NDArray[np.int64]) -> _Curve | None:
    """A parabola through the best value, by the mean over seeds, and its neighbours."""
    x, y = np.log(values[rows]).round(9), table.loss[rows]
    tried = np.unique(x)
    if len(tried) < 3:
        return None
    best = int(np.argmin([y[x == r].mean() for r in tried]))
    near = np.isin(x, tried[max(0, best - NEAR) : best + NEAR + 1])
    return _Curve(
        rows=rows[near],
        runs=len(rows),
        ends=(float(x.min()), float(x.max())),
        x=x[near],
        y=y[near],
        coefficients=np.polyfit(x[near], y[near], 2),
    )


def _scan(
    table: RunTable,
    curve: _Curve,
    factor: Floats,
    others: tuple[str, ...],
    scatter: tuple[float, float, int],
) -> SettingScan:
    """The best value of a curve and its interval."""
    noise, reach, free = scatter
    bend, slope, _ = (float(c) for c in curve.coefficients)
    vertex, error = float(curve.x[np.argmin(curve.y)]), math.inf
    least, found = float(curve.y.min()), "flat"
    if bend > 0 and curve.ends[0] < -slope / (2 * bend) < curve.ends[1]:
        vertex, found = -slope / (2 * bend), "inside"
        least = float(np.polyval(curve.coefficients, vertex))
        design = np.vander(curve.x, 3)
        gradient = np.array([-vertex / bend, -1 / (2 * bend), 0.0])
        error = noise * math.sqrt(gradient @ np.linalg.inv(design.T @ design) @ gradient)
    elif vertex in curve.ends:
        found = "low edge" if vertex == curve.ends[0] else "high edge"
    half, row = reach * error, int(curve.rows[0])
    return SettingScan(
        params=float(table.params[row]),
        tokens=float(np.median(table.tokens[curve.rows])),
        width=_integer(table, "width", row),
        depth=_integer(table, "depth", row),
        others=tuple(float(table.column(c)[row]) for c in others),
        factor=float(np.exp(np.mean(np.log(factor[curve.rows])))),
        rows=tuple(int(r) for r in curve.rows),
        runs=curve.runs,
        found=found,
        best=math.exp(vertex),
        low=math.exp(max(vertex - half, -LARGEST_LOG)) if math.isfinite(half) else 0.0,
        high=math.exp(min(vertex + half, LARGEST_LOG)) if math.isfinite(half) else math.inf,
        log_error=error,
        free=free,
        bend=bend,
        loss=least,
    )


def _integer(table: RunTable, name: str, row: int) -> int | None:
    """A whole number of the table, if it is there."""
    return int(table.column(name)[row]) if name in table.columns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueRange:
    """An estimate and its 90% interval."""

    value: float
    low: float
    high: float


def value_range(value: float, draws: Floats, *, log: bool = False) -> ValueRange:
    """A value and the middle 90% of its draws."""
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    numbers = [float(value), float(low), float(high)]
    if log:
        numbers = [math.exp(max(-700.0, min(700.0, n))) for n in numbers]
    return ValueRange(value=numbers[0], low=numbers[1], high=numbers[2])


@dataclass(frozen=True, slots=True)
class JointSolution:
    """A least-squares solution: parameters of the optima, then ln k, its slopes and the skew."""

    theta: Floats
    cross: Floats
    """Inverse of J'J, (parameters, parameters)."""
    squares: float
    free: int

    def draws(self, variance: float, free: int) -> Floats:
        """Student draws of the parameters, (draws, parameters), the same at every call."""
        random = np.random.default_rng(0)
        values, vectors = np.linalg.eigh(self.cross)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = random.standard_normal((DRAWS, len(self.theta))) @ root.T
        scale = np.sqrt(variance * free / random.chisquare(free, DRAWS))
        return np.asarray(self.theta + normal * scale[:, None])


class JointProblem:
    """Losses of all scans, and the least squares of the joint curve."""

    def __init__(self, table: RunTable, setting: ScannedSetting, curvature: Floats) -> None:
        scans = setting.scans
        rows = np.concatenate([s.rows for s in scans]).astype(int)
        self.cell = np.repeat(np.arange(len(scans)), [len(s.rows) for s in scans])
        self.x, self.y = np.log(setting.values[rows]), table.loss[rows]
        self.block = _blocks(table, self.cell, rows, self.x)
        # a power law of the curvature needs cells to spare; with a few, one curvature for all
        kept = curvature if len(scans) > curvature.shape[1] + 2 else curvature[:, :0]
        self.middle = kept.mean(axis=0)
        self.curvature = kept - self.middle
        self.start = np.array([math.log(s.best) for s in scans])
        bends = [s.bend for s in scans if s.found == "inside"] or [1e-3]
        self.bend = math.log(max(float(np.median(bends)), 1e-12))
        points = np.unique(np.stack([self.cell, self.x.round(9)]), axis=1).shape[1]
        self.counts = np.bincount(self.block)
        spare = len(self.y) - len(self.counts) - len(scans) - 2 - kept.shape[1]
        # three values in every scan confound the skew with the optimum
        self.skewed = points > 3 * len(scans) and spare >= 4

    def skew_of(self, theta: Floats) -> float:
        """The skew of a solution; 0 where it was not fitted."""
        return float(theta[-1]) if self.skewed else 0.0

    def shape(self, theta: Floats, optima: int) -> tuple[Floats, Floats]:
        """Logarithm of k at the middle with its slopes, and the skew; of a solution or draws."""
        skew = theta[..., -1] if self.skewed else np.zeros(theta.shape[:-1])
        return theta[..., optima : optima + 1 + self.curvature.shape[1]], skew

    def solve(self, features: Floats | None) -> JointSolution:
        """Fit with optima on a law of centred features, or free in each cell."""
        from scipy.optimize import least_squares

        cells = len(self.start)
        design = np.eye(cells)
        if features is not None:
            design = np.column_stack([np.ones(cells), features - features.mean(axis=0)])
        count = design.shape[1]
        slopes = self.curvature.shape[1]
        start = np.concatenate(
            [np.linalg.lstsq(design, self.start, rcond=None)[0], [self.bend], np.zeros(slopes)]
        )
        if self.skewed:
            start = np.append(start, 0.1)

        def parts(theta: Floats) -> tuple[Floats, Floats]:
            (bend, skew) = self.shape(theta, count)
            z = self.x - (design @ theta[:count])[self.cell]
            powers = np.column_stack([np.ones(cells), self.curvature])[self.cell]
            k = np.exp(np.clip(powers @ bend, -60, 30))
            value = k * loss_rise(z, skew)
            columns = [-(k * _slope(z, skew))[:, None] * design[self.cell], value[:, None] * powers]
            if self.skewed:
                step = 1e-4
                change = (loss_rise(z, skew + step) - loss_rise(z, skew - step)) / (2 * step)
                columns.append((k * change)[:, None])
            return value, np.concatenate(columns, axis=1)

        def centred(values: Floats) -> Floats:
            sums = np.zeros((len(self.counts), *values.shape[1:]))
            np.add.at(sums, self.block, values)
            counts = self.counts.reshape(-1, *[1] * (values.ndim - 1))
            return np.asarray(values - (sums / counts)[self.block])

        observed = centred(self.y)
        scale = float(np.std(observed)) or 1.0
        bound = np.full(len(start), np.inf)
        if self.skewed:
            bound[-1] = LARGEST_SKEW
        if features is None:  # an optimum far outside its scan is not to run away
            low = np.concatenate([[self.x.min() - 3.0] * cells, -bound[cells:]])
            high = np.concatenate([[self.x.max() + 3.0] * cells, bound[cells:]])
        else:
            low, high = -bound, bound

        def residual(theta: Floats) -> Floats:
            return (centred(parts(theta)[0]) - observed) / scale

        def gradient(theta: Floats) -> Floats:
            return centred(parts(theta)[1]) / scale

        answer = least_squares(
            residual,
            start,
            gradient,
            bounds=(low, high),
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
            max_nfev=500,
        )
        jacobian = np.asarray(answer.jac) * scale
        return JointSolution(
            theta=answer.x,
            cross=np.asarray(np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12), float),
            squares=float((answer.fun**2).sum()) * scale**2,
            free=len(self.y) - len(self.counts) - len(start),
        )


def _blocks(
    table: RunTable, cell: NDArray[np.int64], rows: NDArray[np.int64], x: Floats
) -> NDArray[np.int64]:
    """Codes of levels: one a cell and seed, since a seed's luck is shared by the values tried.

    One a cell where some seed of it has fewer than 3 values.
    """
    if "seed" not in table.columns:
        return cell
    seed = table.column("seed")[rows]
    out = np.zeros((2, len(rows)))
    out[0] = cell
    for c in np.unique(cell):
        here = cell == c
        if all(len(np.unique(x[here & (seed == s)])) >= 3 for s in np.unique(seed[here])):
            out[1, here] = seed[here]
    return np.asarray(np.unique(out, axis=1, return_inverse=True)[1].ravel())


def loss_rise(z: Any, skew: Any) -> Floats:
    """g(z): z^2 near 0, steeper on the side of the skew's sign; never negative."""
    t = np.clip(skew * z, -30.0, 30.0)
    small = np.abs(t) < 1e-3
    safe = np.where(small, 1.0, t)
    ratio = np.where(small, 1.0 + t / 3 + t**2 / 12, 2 * (np.expm1(safe) - safe) / safe**2)
    return np.asarray(z**2 * ratio)


def _slope(z: Floats, skew: Any) -> Floats:
    """Derivative of `loss_rise` in z."""
    t = np.clip(skew * z, -30.0, 30.0)
    small = np.abs(t) < 1e-6
    return np.asarray(2 * z * np.where(small, 1.0 + t / 2, np.expm1(t) / np.where(small, 1.0, t)))


def rise_reaches(target: Floats, skew: Floats) -> Floats:
    """The z > 0 at which `loss_rise` is the target, by bisection in (0, 20)."""
    low, high = np.zeros_like(target), np.full_like(target, 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = loss_rise(middle, skew) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)
