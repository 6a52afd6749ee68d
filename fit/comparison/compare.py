"""Two laws against each other: how much compute one needs to reach the other's loss.

The compute multiplier of A against B at a budget C is C_A / C, where A's best split of C_A reaches
the loss of B's best split of C.

Whether two laws can be compared: losses of one unit, FLOPs of one count, ranges that meet.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.allocation.scaling_law import Frontier, ScalingLaw
from fit.comparison.multiplier import MultiplierProblem, PairedRuns, pair_runs
from fit.data.records import Floats, finite_or_null
from fit.errors import QueryError
from fit.quantities import check_count, power
from fit.query.budget import MOST_FLOPS
from fit.query.question import Number
from fit.query.warnings import OF_THE_LAW, refuse_unidentified
from fit.results import DOUBTFUL_KAPPA, Note, kappa_of, kappa_text

COMPARISON_SCHEMA = "isoflop.compare/1"
INTERVALS = ("hc3", "pairs")
GAIN = 0.01
"""What the price is asked for [nats/token]."""
BEYOND = (3.0, 10.0)
"""Budgets beyond the runs, over the larger of the two largest fitted."""
MOST_DRAWS = 20_000
NATS, BITS = "nats/token", "bits/byte"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions:
    """Two laws to be compared, and how."""

    a: ScalingLaw
    b: ScalingLaw
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
class BudgetComparison:
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
    rows: tuple[BudgetComparison, ...]
    warnings: tuple[Note, ...]
    schema: str = COMPARISON_SCHEMA

    def document(self) -> dict[str, Any]:
        """The `isoflop.compare/1` document; what is without bound is null."""
        fields = dataclasses.asdict(self)
        return dict(finite_or_null({"schema": fields.pop("schema"), **fields}))


def compare(contest: ComparisonOptions) -> Comparison:
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
    scales, unit, doubts = comparable_unit(a, b, force=contest.force)
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
        warnings=(*doubts, *comparison_warnings(a, b, shared), *_unpaired(a, b, pairs)),
    )


def _check(contest: ComparisonOptions) -> None:
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


def _budgets(contest: ComparisonOptions, shared: tuple[float, float] | None) -> Floats:
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


def _pairs(a: ScalingLaw, b: ScalingLaw) -> PairedRuns | None:
    """The paired runs, where both are fits of runs."""
    return None if a.fit is None or b.fit is None else pair_runs(a.fit, b.fit)


def _unpaired(a: ScalingLaw, b: ScalingLaw, pairs: PairedRuns | None) -> list[Note]:
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
) -> Iterator[BudgetComparison]:
    """The two at each budget of B."""
    a, b = lines
    losses = [line.loss(budgets) for line in lines]
    needed = _equal(b, a, (scales[1], scales[0]), budgets)
    prices = [line.flops(loss - GAIN) / budgets for line, loss in zip(lines, losses, strict=True)]
    for i, flops in enumerate(budgets.tolist()):
        low, high = intervals[i] or (None, None)
        reached = float(needed[i])
        yield BudgetComparison(
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
    contest: ComparisonOptions,
    budgets: Floats,
    scales: tuple[float, float],
    pairs: PairedRuns | None,
) -> list[tuple[float, float] | None]:
    """Interval of the multiplier at each budget; None where neither law has one."""
    a, b = contest.a, contest.b
    if a.fit is None and b.fit is None:
        return [None] * len(budgets)
    race = MultiplierProblem(a=a, b=b, log_flops=np.log(budgets), log_scales=np.log(scales))
    if contest.interval == "hc3":
        return list(race.inverted(contest.level, pairs))
    if pairs is None:
        raise QueryError(
            "interval 'pairs' needs two fits of runs that can be made again. Use --interval hc3."
        )
    return list(race.drawn(contest.level, pairs, contest.resamples, contest.seed))


def comparable_unit(
    a: ScalingLaw, b: ScalingLaw, *, force: bool
) -> tuple[tuple[float, float], str, list[Note]]:
    """The nats per unit in which the losses of two laws can be compared.

    Losses per token mean the same where data and tokenizer are the same. With two tokenizers on one
    text, bits per byte do: loss / (ln 2 bytes per token).

    Args:
        a: One law.
        b: The other.
        force: Compare nats all the same, with a serious warning.

    Returns:
        Nats per unit for either, the unit's name, and warnings.

    Raises:
        QueryError: The losses, or the FLOPs, of the two are not of one kind.
    """
    notes = _counting(a, b, force=force)
    first, second = _data(a), _data(b)
    names = first.get("name"), second.get("name")
    if first.get("hash") and first.get("hash") == second.get("hash"):
        return (1.0, 1.0), NATS, notes
    if None not in names and names[0] != names[1]:
        reason = f"{a.name} was trained on {names[0]}, {b.name} on {names[1]}"
        return (1.0, 1.0), NATS, [*notes, _refused(reason, force=force)]
    if first.get("hash") and second.get("hash"):
        return _per_byte(a, b, notes, force=force)
    if None not in names and _vocab(a) == _vocab(b):
        return (1.0, 1.0), NATS, notes
    if _vocab(a) != _vocab(b) and None not in (_vocab(a), _vocab(b)):
        reason = f"the vocabularies have {_vocab(a):g} and {_vocab(b):g} tokens"
        return (1.0, 1.0), NATS, [*notes, _refused(reason, force=force)]
    text = (
        "it is not known whether both laws were fitted on the same data and tokenizer; nats per "
        "token of different ones cannot be compared."
    )
    return (1.0, 1.0), NATS, [*notes, _note("data_unknown", "warning", text)]


def comparison_warnings(
    a: ScalingLaw, b: ScalingLaw, shared: tuple[float, float] | None
) -> list[Note]:
    """What weakens a comparison without forbidding it."""
    notes = [] if shared is not None else [_apart(a, b)]
    told = [(source.name, note) for source in (a, b) for note in _own(source)]
    for code, severity, message in dict.fromkeys((n.code, n.severity, n.message) for _, n in told):
        names = dict.fromkeys(name for name, n in told if (n.code, n.message) == (code, message))
        notes.append(_note(code, severity, f"{' and '.join(names)}: {message}"))
    return notes


def _own(source: ScalingLaw) -> list[Note]:
    """What weakens one of the two laws."""
    fit = source.fit
    if fit is None:
        return [_note("preset", "info", "published without draws; its values count as exact.")]
    notes = []
    if fit.status != "converged":
        text = f"the fit is {fit.status.replace('_', ' ')}, not converged."
        notes.append(_note("fit_status", "serious", text))
    if kappa_of(fit) > DOUBTFUL_KAPPA:
        text = (
            f"the runs barely tell the law's parameters apart (kappa {kappa_text(fit)}; healthy is "
            "40-160)."
        )
        notes.append(_note("ill_conditioned", "serious", text))
    return [*notes, *(n for n in fit.notes if n.code in OF_THE_LAW)]


def _apart(a: ScalingLaw, b: ScalingLaw) -> Note:
    """Ranges that do not meet, or are not known."""
    spans = [s.range["flops"] for s in (a, b) if "flops" in s.range]
    if len(spans) < 2:
        text = "the compute of one law's runs is not known: whether the ranges meet is not either."
        return _note("range_unknown", "warning", text)
    low, high = sorted(spans, key=lambda s: s.low)
    text = (
        f"no budget lies within both ranges: one ends at {power(low.high)} FLOP, the other begins "
        f"at {power(high.low)}. Every row extrapolates one law; run both at a common budget."
    )
    return _note("no_overlap", "serious", text)


def _counting(a: ScalingLaw, b: ScalingLaw, *, force: bool) -> list[Note]:
    """Whether the FLOPs of both mean the same."""
    counts = a.convention.get("flops", "?"), b.convention.get("flops", "?")
    if "as given" in counts or "?" in counts:
        text = "how a table's FLOPs were counted is not known; both laws must count them alike."
        return [_note("flops_unknown", "warning", text)]
    if counts[0] == counts[1]:
        return []
    reason = (
        f"{a.name} counts {counts[0]} FLOPs, {b.name} {counts[1]}: a multiplier would measure the "
        "counting"
    )
    cure = "Fit both with one count, such as --flops 6nd"
    return [_refused(reason, force=force, code="other_flops", cure=cure)]


def _per_byte(
    a: ScalingLaw, b: ScalingLaw, notes: list[Note], *, force: bool
) -> tuple[tuple[float, float], str, list[Note]]:
    """Bits per byte, where data of one name were cut into tokens in two ways."""
    data = _data(a), _data(b)
    per_token = [d.get("bytes_per_token") for d in data]
    if None in per_token or any(d.get("entropy") is not None for d in data):
        reason = f"{a.name} and {b.name} were trained on different data named {data[0]['name']}"
        return (1.0, 1.0), NATS, [*notes, _refused(reason, force=force)]
    text = (
        f"the tokenizers differ ({per_token[0]:.3g} and {per_token[1]:.3g} bytes a token), so bits "
        "per byte are compared; that holds if both were measured on the same held-out text."
    )
    nats = [math.log(2) * float(v) for v in per_token if v is not None]
    return (nats[0], nats[1]), BITS, [*notes, _note("per_byte", "warning", text)]


def _refused(
    reason: str,
    *,
    force: bool,
    code: str = "other_data",
    cure: str = "Fit both on the same data and tokenizer",
) -> Note:
    """A comparison without meaning: an error, or under force a serious warning.

    Raises:
        QueryError: It was not forced.
    """
    if not force:
        raise QueryError(f"{reason}. {cure}, or insist with --force.")
    return _note(code, "serious", f"{reason}. The numbers below mean little.")


def _data(source: ScalingLaw) -> Mapping[str, Any]:
    """What is known of the data set."""
    if source.preset is not None:
        # "MassiveText, rebuilt from ...": what stands before the comma is the data set.
        return {"name": source.preset.data.split(",")[0]}
    return source.fit.data if source.fit is not None else {}


def _vocab(source: ScalingLaw) -> float | None:
    """Size of the vocabulary, where all runs have one."""
    column = None if source.fit is None else source.fit.points.columns.get("vocab")
    if column is None or not len(column) or np.ptp(column) != 0:
        return None
    return float(column[0])


def _note(code: str, severity: str, message: str) -> Note:
    """A note."""
    return Note(code=code, severity=severity, message=message)
