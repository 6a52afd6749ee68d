"""Learning rate scans and losses by skill: is every size tuned alike, and what width and depth buy.

A law is about size only if every size is tuned alike. Near its minimum the loss is a parabola in
ln(rate). The rate that is best for the smallest size, in the rule's own unit, is taken to the other
sizes; what it costs there is read off their parabolas. Costs that grow with size bend exponents.

Losses by skill are averaged over the seeds of each shape, with Student's intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError
from fit.quantities import short
from fit.verdict import Note

NEAR = 2
"""Rates on either side of the best that a parabola is fitted to: the loss rises faster than one
where a rate is several times too high."""
LEVEL = 0.9
CHANCE = 0.01
LARGEST_LOG = 700.0
SKILL_LEVEL = 0.9
PREFIX = "loss_"
SHOWN = 3
"""Skills that fit on a terminal beside the shape; the document has all."""
NOT_SKILLS = ("loss_se", "loss_bpb", "loss_plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateScan:
    """The scan of one size and length. Rates are in the rule's unit: at the base width if known."""

    params: float
    tokens: float
    width: int | None
    depth: int | None
    runs: int
    found: str
    """`inside`; `low edge` or `high edge` where the best is the last rate tried; `flat`."""
    rate: float
    """The best rate, or the best one tried."""
    low: float
    high: float
    """90% interval of `rate`; 0 to infinity where it is not inside."""
    log_error: float
    """Standard error of ln(rate), on `free` degrees of freedom."""
    free: int
    bend: float
    """Coefficient of ln(rate)^2 [nats]."""
    loss: float
    """Least loss of the parabola [nats/token]."""
    cost: float | None = None
    """What the smallest size's best rate costs here [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """Losses near the best rate of one size and length, and their parabola."""

    row: int
    """One of its runs in the table."""
    runs: int
    ends: tuple[float, float]
    """Least and largest ln(rate) tried."""
    x: Floats
    y: Floats
    coefficients: Floats
    """Of x^2, x and 1."""

    @property
    def squares(self) -> float:
        """Sum of squared residuals."""
        return float(((self.y - np.polyval(self.coefficients, self.x)) ** 2).sum())


def rate_scans(table: RunTable) -> tuple[RateScan, ...]:
    """Find the best learning rate of every size and length that was scanned.

    The scatter about the parabolas is pooled over all scans, and the interval of a best rate
    follows by the delta method with Student's t.

    Args:
        table: Runs with a column `lr`; those of one size and length, and shape where known, are one
            scan, several seeds at a rate included.

    Returns:
        One scan for each that has 3 rates or more, by ascending params, then tokens.

    Raises:
        FitError: No size was trained at 3 learning rates.
        RecordError: The table has no column `lr`.
    """
    from scipy import stats

    curves = _curves(table)
    free = sum(len(c.x) - 3 for c in curves)
    if not curves:
        raise FitError(
            f"{table.source or 'the table'} has no size that was trained at 3 learning rates or "
            "more. Scan them: python -m sweep -m +experiment=lr"
        )
    noise = math.sqrt(sum(c.squares for c in curves) / free) if free else math.inf
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, free)) if free else math.inf
    scans = [_scan(table, c, noise, reach) for c in curves]
    return _with_costs([replace(s, free=free) for s in scans])


def tuning_notes(table: RunTable) -> Iterator[Note]:
    """Note `tuning`: the best rate moves with size beyond its error, and the rule costs more there.

    Silent where the table holds no scan of two sizes.
    """
    if "lr" not in table.columns or table.columns["lr"].dtype.kind not in "iuf":
        return
    try:
        scans = [s for s in rate_scans(table) if s.cost is not None]
    except FitError:
        return
    if len(scans) < 2 or scans[-1].params <= scans[0].params:
        return
    first, last = scans[0], scans[-1]
    moved = abs(math.log(last.rate / first.rate)) / math.hypot(first.log_error, last.log_error)
    costs = [s.cost or 0.0 for s in scans]
    if moved > _sure(first.free) and costs[-1] == max(costs):
        yield Note(
            code="tuning",
            severity="warning",
            message=f"the best learning rate of {short(first.params)} parameters costs "
            f"{costs[-1]:.4f} nats at {short(last.params)}, where another rate is best "
            f"({last.rate:.2g} instead of {first.rate:.2g}): under one rule the larger models are "
            "tuned worse. Scan larger sizes, and change the rule with them.",
        )


def _sure(free: int) -> float:
    """Standard errors that chance alone reaches once in 1/`CHANCE` scans."""
    from scipy import stats

    return float(stats.t.ppf(1 - CHANCE / 2, free)) if free else math.inf


def _curves(table: RunTable) -> list[_Curve]:
    """Every size and length with 3 rates or more."""
    rate = _rule_rate(table)
    keys = [table.params, table.tokens]
    keys += [table.column(k) for k in ("width", "depth") if k in table.columns]
    _, group = np.unique(np.stack(keys), axis=1, return_inverse=True)
    curves = []
    for number in range(int(group.max()) + 1):
        rows = np.flatnonzero((group.ravel() == number) & (rate > 0))
        if len(np.unique(np.log(rate[rows]).round(9))) >= 3:
            curves.append(_curve(rows, np.log(rate[rows]).round(9), table.loss[rows]))
    return sorted(curves, key=lambda c: (table.params[c.row], table.tokens[c.row]))


def _rule_rate(table: RunTable) -> Floats:
    """Rates at the base width of a rule that goes as 1/width; as given where it is not known."""
    base, rate = table.recipe.get("train.base_width"), table.column("lr")
    if base is None or "width" not in table.columns:
        return rate
    return np.asarray(rate * table.column("width") / base)


def _curve(rows: NDArray[np.int64], x: Floats, y: Floats) -> _Curve:
    """A parabola through the best rate, by the mean over seeds, and its neighbours."""
    rates = np.unique(x)
    best = int(np.argmin([y[x == r].mean() for r in rates]))
    near = np.isin(x, rates[max(0, best - NEAR) : best + NEAR + 1])
    return _Curve(
        row=int(rows[0]),
        runs=len(rows),
        ends=(float(x.min()), float(x.max())),
        x=x[near],
        y=y[near],
        coefficients=np.polyfit(x[near], y[near], 2),
    )


def _scan(table: RunTable, curve: _Curve, noise: float, reach: float) -> RateScan:
    """The best rate of a curve and its interval."""
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
    half = reach * error
    return RateScan(
        params=float(table.params[curve.row]),
        tokens=float(table.tokens[curve.row]),
        width=_integer(table, "width", curve.row),
        depth=_integer(table, "depth", curve.row),
        runs=curve.runs,
        found=found,
        rate=math.exp(vertex),
        low=math.exp(max(vertex - half, -LARGEST_LOG)) if math.isfinite(half) else 0.0,
        high=math.exp(min(vertex + half, LARGEST_LOG)) if math.isfinite(half) else math.inf,
        log_error=error,
        free=0,
        bend=bend,
        loss=least,
    )


def _integer(table: RunTable, name: str, row: int) -> int | None:
    """A whole number of the table, if it is there."""
    return int(table.column(name)[row]) if name in table.columns else None


def _with_costs(scans: Sequence[RateScan]) -> tuple[RateScan, ...]:
    """What the best rate of the smallest scan costs the others, where their own is inside."""
    base = next((s for s in scans if s.found == "inside"), None)
    if base is None:
        return tuple(scans)
    return tuple(
        replace(s, cost=s.bend * math.log(base.rate / s.rate) ** 2) if s.found == "inside" else s
        for s in scans
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillExcess:
    """What a skill costs above a perfect predictor, over the seeds of one shape and length."""

    mean: float
    """Over seeds [nats/token]: the skill's share of the loss, less its share of the entropy."""
    error: float
    """Half of the 90% interval of the mean, Student's t; infinite with one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSkills:
    """One shape trained for one length."""

    width: int
    depth: int
    params: float
    tokens: float
    seeds: int
    excess: Mapping[str, SkillExcess]


def skills_by_shape(table: RunTable) -> tuple[ShapeSkills, ...]:
    """Average the excess loss of every skill over the seeds of each shape.

    Args:
        table: Runs with losses by skill on data whose entropy by skill is known.

    Returns:
        One row per shape and length, by ascending tokens, then depth, then width. Skills that cost
        nothing in any run are left out.

    Raises:
        FitError: The runs have no losses by skill, differ in their data, or have no shapes.
    """
    entropy = None if table.data is None else table.data.entropy_by_skill
    rows = () if entropy is None else by_shape(table.columns, table.tokens, table.params, entropy)
    if not rows:
        raise FitError(
            f"{table.source or 'the table'} has no losses by skill over shapes on one data set; "
            "records of stories have them: python -m sweep -m +experiment=skills"
        )
    return rows


def by_shape(
    columns: Mapping[str, Any], tokens: Floats, params: Floats, entropy: Mapping[str, float]
) -> tuple[ShapeSkills, ...]:
    """The same from columns; empty where there are no losses by skill or no shapes.

    Args:
        columns: width, depth and `loss_<skill>`, each (runs,).
        tokens: (runs,).
        params: (runs,).
        entropy: By skill [nats/token].
    """
    names = [c for c in columns if c.startswith(PREFIX) and c not in NOT_SKILLS]
    if not names or not {"width", "depth"} <= set(columns):
        return ()
    bare = {n: n.removeprefix(PREFIX) for n in names}
    values = {bare[n]: np.asarray(columns[n], float) - entropy.get(bare[n], 0.0) for n in names}
    kept = {name: v for name, v in values.items() if (np.abs(v) > 1e-12).any()}
    keys = np.stack([tokens, columns["depth"], columns["width"], params], 1).astype(float)
    shapes, group = np.unique(keys, axis=0, return_inverse=True)
    rows = []
    for number, (length, depth, width, size) in enumerate(shapes):
        chosen = group.ravel() == number
        rows.append(
            ShapeSkills(
                width=int(width),
                depth=int(depth),
                params=float(size),
                tokens=float(length),
                seeds=int(chosen.sum()),
                excess={name: _excess(v[chosen]) for name, v in kept.items()},
            )
        )
    return tuple(rows)


def _excess(values: Any) -> SkillExcess:
    """Mean and half of its interval."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return SkillExcess(mean=float(values.mean()), error=math.inf)
    reach = float(stdtrit(count - 1, 0.5 + SKILL_LEVEL / 2))
    return SkillExcess(
        mean=float(values.mean()), error=float(reach * values.std(ddof=1) / math.sqrt(count))
    )
