"""Is a change worth it: its compute multiplier from a few sizes, and the seeds to settle it.

Runs of a base and of a change, at the same sizes and lengths, are compared without fitting a law.
At each size the fall of ln loss that the change brings is turned into compute by the slope of the
base's own losses, d ln L / d ln C between its sizes. A multiplier of 1.1 means that the base needs
1.1 times the compute of the change for the same loss.

The errors of a difference come from seeds: of one seed the two runs see the same batches, so that
they are paired where both have it. Those of the slope come from the base's seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fit.data.records import Floats, finite_or_null
from fit.data.table import RunTable
from fit.errors import QueryError
from fit.query.documents import Number

GATE_SCHEMA = "isoflop.gate/1"
MOST_SEEDS = 100
"""More seeds per size than that are not worth running; the effect is then too small to matter."""
BENDS_FROM = 3
"""Sizes from which the base's losses may bend with compute; two give one slope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One size and length."""

    params: float
    tokens: float
    flops: float
    """Of a run of the base [FLOP]."""
    pairs: int
    """Differences that were averaged: seeds of both."""
    loss_base: float
    loss_change: float
    multiplier: float
    """Compute that the base needs for the loss of the change, over the change's."""
    seconds: float | None
    """The same in seconds; None where no times are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The finding on a change."""

    rows: tuple[GateRow, ...]
    compute: Number
    """Multiplier over all sizes, with its interval."""
    seconds: Number | None
    dollars: Number | None
    """Of devices at their price; None without times or without both prices."""
    trend: Number | None
    """Factor of the multiplier per tenfold compute; None of two sizes."""
    level: float
    least: float
    """The smallest multiplier that is worth having."""
    verdict: str
    """`adopt`, `reject` or `open`."""
    seeds: int | None
    """Seeds of each size at which an effect of this size would be settled; None beyond the most."""
    noise: float
    """Standard deviation of a difference of ln loss between two runs."""

    def document(self) -> dict[str, Any]:
        """The document `isoflop.gate/1`."""
        return {"schema": GATE_SCHEMA, **dict(finite_or_null(dataclasses.asdict(self)))}


def gate(
    base: RunTable,
    change: RunTable,
    *,
    seconds: tuple[Floats | None, Floats | None] = (None, None),
    prices: tuple[float, float] | None = None,
    least: float = 1.0,
    level: float = 0.9,
    noise: float | None = None,
) -> Gate:
    """Compare the runs of a change with those of its base.

    Args:
        base: Runs of the base, of two sizes or more.
        change: Runs with the change, at the same params of the base and tokens.
        seconds: Of each run of either, (n,) and (m,) [s].
        prices: Dollars of a device-hour of either.
        least: The smallest multiplier that is worth having.
        level: Of the intervals.
        noise: Standard deviation of ln loss of one run, in place of that of the seeds.

    Raises:
        QueryError: There are less than two common sizes, the base does not improve with compute,
            or nothing says what the noise is.
    """
    cells = _common_cells(base, change)
    differences = [_differences(base, change, *rows) for rows in cells]
    counts = np.array([len(d) for d in differences], dtype=np.float64)
    deviation, dof = _noise(differences, noise)
    log_flops, log_loss = (
        np.array([float(np.log(values[i]).mean()) for i, _ in cells])
        for values in (base.flops, base.loss)
    )
    weights = _slope_weights(log_flops)
    slope = weights @ log_loss
    if (slope >= 0).any():
        raise QueryError(
            "the loss of the base does not fall with compute from size to size, so that a gain "
            "cannot be turned into compute. Compare runs of sizes farther apart."
        )
    delta = np.array([float(d.mean()) for d in differences])
    saved = -delta / slope
    cost = log_flops - np.array([float(np.log(change.flops[j]).mean()) for _, j in cells])
    # The base's seeds enter slope and difference; as differences of pairs are of both runs, a base
    # loss alone has half their variance. That the two go together is left out: it is second order.
    of_difference = np.diag(deviation**2 / counts / slope**2)
    of_slope = (saved / slope)[:, None] * (weights @ np.diag(deviation**2 / 2 / counts) @ weights.T)
    covariance = of_difference + of_slope * (saved / slope)[None, :]
    quantile = float(stdtrit(dof, 0.5 + level / 2))

    def number(logs: Floats, row: Floats) -> Number:
        value, half = float(row @ logs), quantile * math.sqrt(float(row @ covariance @ row))
        return Number(
            value=math.exp(value), low=math.exp(value - half), high=math.exp(value + half)
        )

    mean = np.full(len(cells), 1 / len(cells))
    compute = number(saved + cost, mean)
    times = _log_times(cells, seconds)
    by_time = None if times is None else number(saved + times, mean)
    by_price = None
    if times is not None and prices is not None:
        by_price = number(saved + times + math.log(prices[0] / prices[1]), mean)
    centred = log_flops - log_flops.mean()
    along = math.log(10) * centred / float(centred @ centred)
    return Gate(
        rows=tuple(
            GateRow(
                params=float(base.params[i[0]]),
                tokens=float(base.tokens[i[0]]),
                flops=math.exp(log_flops[k]),
                pairs=len(differences[k]),
                loss_base=math.exp(log_loss[k]),
                loss_change=math.exp(log_loss[k] - delta[k]),
                multiplier=math.exp(saved[k] + cost[k]),
                seconds=None if times is None else math.exp(saved[k] + times[k]),
            )
            for k, (i, _) in enumerate(cells)
        ),
        compute=compute,
        seconds=by_time,
        dollars=by_price,
        trend=number(saved + cost, along) if len(cells) >= BENDS_FROM else None,
        level=level,
        least=least,
        verdict=_verdict(compute, least),
        seeds=_seeds(abs(math.log(compute.value / least)), mean @ covariance @ mean, counts, level),
        noise=deviation,
    )


def _common_cells(base: RunTable, change: RunTable) -> list[tuple[list[int], list[int]]]:
    """Rows of either table at each size, of one length that both have, in order of compute.

    Of several lengths that one whose tokens per parameter are nearest to the median of all, so that
    compute grows along one ratio. A change may alter the count of parameters: sizes are matched by
    their order.
    """
    sizes = [np.unique(table.params) for table in (base, change)]
    if len(sizes[0]) != len(sizes[1]):
        raise QueryError(
            f"the base has {len(sizes[0])} sizes and the change {len(sizes[1])}; the same sizes "
            "are needed on both sides. Choose them: --where."
        )
    if len(sizes[0]) < 2:
        raise QueryError("one size shows no slope of the loss; run two or more of both.")
    lengths = {
        (own, other): sorted(
            set(base.tokens[base.params == own]) & set(change.tokens[change.params == other])
        )
        for own, other in zip(*sizes, strict=True)
    }
    ratios = [tokens / own for (own, _), several in lengths.items() for tokens in several]
    middle = float(np.median(np.log(ratios))) if ratios else 0.0
    found = []
    for (own, other), several in lengths.items():
        if several:
            tokens = min(several, key=lambda d: abs(math.log(d / own) - middle))
            rows = [
                np.flatnonzero((table.params == size) & (table.tokens == tokens)).tolist()
                for table, size in ((base, own), (change, other))
            ]
            found.append((rows[0], rows[1]))
    found.sort(key=lambda rows: float(base.flops[rows[0][0]]))
    if len(found) < 2:
        raise QueryError(
            "base and change have less than two sizes with runs of the same length; run both at "
            "the same train.tokens."
        )
    return found


def _differences(base: RunTable, change: RunTable, i: list[int], j: list[int]) -> Floats:
    """Differences ln loss of base less change: of common seeds, else of runs in their order."""
    logs = np.log(base.loss[i]), np.log(change.loss[j])
    if "seed" in base.columns and "seed" in change.columns:
        seeds = [table.column("seed")[rows].tolist() for table, rows in ((base, i), (change, j))]
        common = [s for s in dict.fromkeys(seeds[0]) if s in seeds[1]]
        if common:
            own, other = (
                side[[of.index(s) for s in common]] for side, of in zip(logs, seeds, strict=True)
            )
            return np.asarray(own - other)
    n = min(len(i), len(j))
    return np.asarray(logs[0][:n] - logs[1][:n])


def _noise(differences: list[Floats], given: float | None) -> tuple[float, float]:
    """Standard deviation of a difference, and its degrees of freedom."""
    if given is not None:
        return math.sqrt(2) * given, math.inf
    dof = sum(len(d) - 1 for d in differences)
    if dof < 1:
        raise QueryError(
            "every size has one seed, so that nothing says how much a repeated run differs. Add "
            "a seed to one size at least, or give the noise of ln loss of one run: --noise 0.002."
        )
    return math.sqrt(sum(float(((d - d.mean()) ** 2).sum()) for d in differences) / dof), float(dof)


def _slope_weights(x: Floats) -> Floats:
    """The matrix (k, k) that takes ln losses to their slopes at x: of a line, or a parabola."""
    degree = min(2, len(np.unique(x)) - 1)
    centred = x - x.mean()
    powers = np.vander(centred, degree + 1, increasing=True)
    derivative = np.stack([p * centred ** max(p - 1, 0) for p in range(degree + 1)], axis=1)
    return np.asarray(derivative @ np.linalg.pinv(powers))


def _log_times(
    cells: list[tuple[list[int], list[int]]], seconds: tuple[Floats | None, Floats | None]
) -> Floats | None:
    """The ln of seconds of the base over those of the change, by cell; None without times."""
    own, other = seconds
    if own is None or other is None:
        return None
    ratios = [np.log(np.median(own[i])) - np.log(np.median(other[j])) for i, j in cells]
    return np.array(ratios) if np.isfinite(ratios).all() else None


def _verdict(multiplier: Number, least: float) -> str:
    """What the interval says."""
    assert multiplier.low is not None and multiplier.high is not None
    if multiplier.low > least:
        return "adopt"
    return "reject" if multiplier.high < least else "open"


def _seeds(effect: float, variance: float, counts: Floats, level: float) -> int | None:
    """Seeds of each size at which the interval of such an effect would leave the least one out."""
    of_one = float(variance) * float(counts.mean())
    for seeds in range(2, MOST_SEEDS + 1):
        quantile = float(stdtrit(len(counts) * (seeds - 1), 0.5 + level / 2))
        if quantile * math.sqrt(of_one / seeds) < effect:
            return seeds
    return None


def seconds_of(table: RunTable, by_run: Mapping[str, float]) -> Floats | None:
    """Seconds of each run: by its record, else from a column; None where one has none."""
    if by_run:
        values = np.array([by_run.get(run, math.nan) for run in table.run])
    else:
        name = next((n for n in ("seconds", "wall_seconds") if n in table.columns), None)
        if name is None:
            return None
        values = table.column(name)
    return values if (values > 0).all() else None
