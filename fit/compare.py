"""Two laws against each other: how much compute one needs to reach the other's loss.

The compute multiplier of A against B at a budget C is C_A / C, where A's best split of C_A reaches
the loss of B's best split of C.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.doubts import refuse_unidentified
from fit.errors import QueryError
from fit.frontier import Frontier
from fit.multiplier import Race
from fit.pairing import Pairs, pair
from fit.quantity import check_count
from fit.query import MOST_FLOPS
from fit.record import Floats, finite_or_null
from fit.reply import Number
from fit.result import Note
from fit.rivals import doubts_of, scale
from fit.source import Source

COMPARISON_SCHEMA = "isoflop.compare/1"
INTERVALS = ("hc3", "pairs")
GAIN = 0.01
"""What the price is asked for [nats/token]."""
BEYOND = (3.0, 10.0)
"""Budgets beyond the runs, over the larger of the two largest fitted."""
MOST_DRAWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Two laws to be compared, and how."""

    a: Source
    b: Source
    flops: tuple[float, ...] = ()
    """B's budgets [FLOP]; chosen inside and beyond both ranges where none are given."""
    interval: str = "hc3"
    level: float = 0.9
    resamples: int = 1000
    """Draws of `interval="pairs"`."""
    seed: int = 0
    force: bool = False
    """Compare what cannot be compared, with a serious warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The two at one budget."""

    flops: float
    """B's budget [FLOP]."""
    flops_a: float | None
    """A's, for the same loss; None where no budget reaches it."""
    multiplier: Number
    """A's over B's; infinite where A never reaches the loss. An end of 0 or infinity is open."""
    loss_a: float
    """Of A at `flops` [in the comparison's unit]."""
    loss_b: float
    price_a: float | None
    """Budget, over `flops`, at which A's loss is lower by another 0.01; None where it never is."""
    price_b: float | None
    inside: bool
    """Whether both budgets lie within the runs fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How two laws stand to each other over budgets."""

    a: str
    b: str
    conventions: tuple[Mapping[str, str], Mapping[str, str]]
    """How either counted params and flops."""
    unit: str
    """`nats/token` or `bits/byte`."""
    level: float | None
    interval: str | None
    """`hc3` or `pairs`; None where neither law has draws or a covariance."""
    runs_paired: int
    correlation: float | None
    """Of the paired runs' residuals."""
    shared: tuple[float, float] | None
    """Budgets of B inside its runs whose losses A reaches inside its own [FLOP]."""
    rows: tuple[Match, ...]
    warnings: tuple[Note, ...]
    schema: str = COMPARISON_SCHEMA

    def document(self) -> dict[str, Any]:
        """The `isoflop.compare/1` document; what is without bound is null."""
        fields = dataclasses.asdict(self)
        return dict(finite_or_null({"schema": fields.pop("schema"), **fields}))


def compare(contest: Contest) -> Comparison:
    """Compute multiplier of A against B at several budgets, each with its interval.

    Args:
        contest: The two laws, budgets and interval.

    Raises:
        QueryError: Losses or FLOPs that mean different things, a fit that cannot tell its
            parameters apart, a budget or an option that cannot be meant.
    """
    _check(contest)
    a, b = contest.a, contest.b
    for source in (a, b):
        refuse_unidentified(source.fit, force=contest.force)
    scales, unit, doubts = scale(a, b, force=contest.force)
    lines = Frontier.of(a), Frontier.of(b)
    shared = _shared(lines, scales)
    budgets = _budgets(contest, shared)
    pairs = _pairs(a, b)
    intervals = _intervals(contest, budgets, scales, pairs)
    fitted = a.fit is not None or b.fit is not None
    return Comparison(
        a=a.name,
        b=b.name,
        conventions=(dict(a.convention), dict(b.convention)),
        unit=unit,
        level=contest.level if fitted else None,
        interval=contest.interval if fitted else None,
        runs_paired=0 if pairs is None else pairs.size,
        correlation=None if pairs is None else pairs.correlation,
        shared=shared,
        rows=tuple(_matches(lines, scales, budgets, intervals)),
        warnings=(*doubts, *doubts_of(a, b, shared), *_unpaired(a, b, pairs)),
    )


def _check(contest: Contest) -> None:
    """Refuse what cannot be meant."""
    if contest.interval not in INTERVALS:
        known = ", ".join(INTERVALS)
        raise QueryError(f"unknown interval '{contest.interval}'; known are {known}. Choose one.")
    if not 0 < contest.level < 1:
        raise QueryError(f"level is {contest.level:g}; a share between 0 and 1 is needed, as 0.9.")
    if not 200 <= contest.resamples <= MOST_DRAWS:
        raise QueryError(
            f"resamples is {contest.resamples}; 200 to {MOST_DRAWS} are needed, such as 1000."
        )
    for flops in contest.flops:
        if check_count(flops) > MOST_FLOPS:
            raise QueryError(f"budget is {flops:g} FLOP; at most {MOST_FLOPS:g} is believed.")


def _shared(
    lines: tuple[Frontier, Frontier], scales: tuple[float, float]
) -> tuple[float, float] | None:
    """Range of B's budgets that lie in B's runs, and whose losses A reaches within its own."""
    a, b = lines
    if "flops" not in a.source.range or "flops" not in b.source.range:
        return None
    of_a, of_b = a.source.range["flops"], b.source.range["flops"]
    low, high = _equal(a, b, scales, np.array([of_a.low, of_a.high]))
    if not math.isfinite(low):
        return None
    ends = max(of_b.low, float(low)), min(of_b.high, float(high))
    return ends if ends[0] <= ends[1] else None


def _budgets(contest: Contest, shared: tuple[float, float] | None) -> Floats:
    """The budgets asked for; or three inside both, and some beyond."""
    if contest.flops:
        return np.array(sorted(set(contest.flops)))
    spans = [s.range["flops"] for s in (contest.a, contest.b) if "flops" in s.range]
    if not spans:
        raise QueryError(
            f"the ranges of {contest.a.name} and {contest.b.name} are not known; budgets are "
            "needed. Name them: --flops 1e20"
        )
    ends = shared or (min(s.high for s in spans), max(s.high for s in spans))
    top = max(s.high for s in spans)
    return np.unique([*np.geomspace(*ends, 3), *(f * top for f in BEYOND)])


def _pairs(a: Source, b: Source) -> Pairs | None:
    """The paired runs, where both are fits of runs."""
    return None if a.fit is None or b.fit is None else pair(a.fit, b.fit)


def _unpaired(a: Source, b: Source, pairs: Pairs | None) -> list[Note]:
    """Say where common noise could not be taken out."""
    if pairs is not None or a.fit is None or b.fit is None:
        return []
    text = (
        "a fit cannot be made again from its document, so runs are not paired: where the two share "
        "cells the intervals are too wide."
    )
    return [Note(code="unpaired", severity="info", message=text)]


def _matches(
    lines: tuple[Frontier, Frontier],
    scales: tuple[float, float],
    budgets: Floats,
    intervals: Sequence[tuple[float, float] | None],
) -> Iterator[Match]:
    """The two at each budget of B."""
    a, b = lines
    losses = [line.loss(budgets) for line in lines]
    needed = _equal(b, a, (scales[1], scales[0]), budgets)
    prices = [line.flops(loss - GAIN) / budgets for line, loss in zip(lines, losses, strict=True)]
    for i, flops in enumerate(budgets.tolist()):
        low, high = intervals[i] or (None, None)
        reached = float(needed[i])
        yield Match(
            flops=flops,
            flops_a=_finite(reached),
            multiplier=Number(value=reached / flops, low=low, high=high),
            loss_a=float(losses[0][i]) / scales[0],
            loss_b=float(losses[1][i]) / scales[1],
            price_a=_finite(float(prices[0][i])),
            price_b=_finite(float(prices[1][i])),
            inside=_within(b.source.range, flops) and _within(a.source.range, reached),
        )


def _equal(one: Frontier, other: Frontier, scales: tuple[float, float], flops: Floats) -> Floats:
    """The budgets of the other that reach the losses of the one's; infinite where none does."""
    return other.flops(one.loss(flops) / scales[0] * scales[1])


def _finite(value: float) -> float | None:
    """A number, or None where there is none."""
    return value if math.isfinite(value) else None


def _within(ranges: Mapping[str, Any], flops: float) -> bool:
    """Whether a budget lies among the runs'."""
    span = ranges.get("flops")
    return span is not None and bool(span.low * (1 - 1e-9) <= flops <= span.high * (1 + 1e-9))


def _intervals(
    contest: Contest, budgets: Floats, scales: tuple[float, float], pairs: Pairs | None
) -> list[tuple[float, float] | None]:
    """Interval of the multiplier at each budget; None where neither law has one."""
    a, b = contest.a, contest.b
    if a.fit is None and b.fit is None:
        return [None] * len(budgets)
    race = Race(a=a, b=b, log_flops=np.log(budgets), log_scales=np.log(scales))
    if contest.interval == "hc3":
        return list(race.inverted(contest.level, pairs))
    if pairs is None:
        raise QueryError(
            "interval 'pairs' needs two fits of runs that can be made again. Use --interval hc3."
        )
    return list(race.drawn(contest.level, pairs, contest.resamples, contest.seed))
