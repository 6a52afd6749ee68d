"""Compare two laws: how much compute one needs to reach the other's loss.

The compute multiplier of A against B at a budget C is C_A / C, where A's best split of C_A reaches
the loss of B's best split of C. `compare` computes it at several budgets; its intervals come from
`fit.comparison.multiplier`.

A multiplier has a meaning only if both laws measure one thing. `comparable_unit` refuses losses in
different units, and FLOPs counted in different ways where `counted_alike` could not count both
alike; `comparison_warnings` lists what weakens a comparison without forbidding it, such as ranges
of compute that do not overlap.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.allocation.scaling_law import Frontier, ScalingLaw, flops_count
from fit.comparison.multiplier import MultiplierProblem, like_with_like, pair_runs
from fit.data.records import Floats, finite_or_null
from fit.errors import QueryError
from fit.quantities import power
from fit.query.budget import budget_flops
from fit.query.documents import Number
from fit.query.warnings import OF_THE_LAW, budget_verdict, check_verdict
from fit.results import Span, loss_unit
from fit.verdict import Note, status_notes

COMPARISON_SCHEMA = "isoflop.compare/1"
INTERVALS = ("hc3", "pairs")
GAIN = 0.01
"""Fall of the loss whose price is given [nats/token]."""
BEYOND = (3.0, 10.0)
"""Default budgets beyond the runs, as multiples of the larger of the two largest fitted."""
MOST_DRAWS = 20_000
NATS, BITS = "nats/token", "bits/byte"
PUBLISHED = "published without draws; its values count as exact."


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetComparison:
    """Two laws at one budget of the second."""

    flops: float
    """B's budget [FLOP]."""
    flops_a: float | None
    """A's budget for the same loss [FLOP]; None where no budget reaches it."""
    multiplier: Number
    """A's over B's; infinite where A never reaches the loss. An end of 0 or infinity is open."""
    loss_a: float
    """Loss of A at `flops` [the comparison's unit]."""
    loss_b: float
    """Loss of B at `flops` [the comparison's unit]."""
    price_a: float | None
    """Budget, over `flops`, at which A's loss is lower by another 0.01; None where it never is."""
    price_b: float | None
    inside: bool
    """Whether both budgets lie within the runs fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Compute multipliers of one law against another over budgets."""

    a: str
    b: str
    conventions: tuple[Mapping[str, str], Mapping[str, str]]
    """How each law counts params and flops."""
    unit: str
    """`nats/token` or `bits/byte`."""
    level: float | None
    interval: str | None
    """`hc3` or `pairs`; None where neither law has draws or a covariance."""
    runs_paired: int
    correlation: float | None
    """Correlation of the paired runs' residuals; None where there is none."""
    shared: tuple[float, float] | None
    """Range of B's budgets inside its runs whose losses A reaches inside its own [FLOP]."""
    rows: tuple[BudgetComparison, ...]
    warnings: tuple[Note, ...]
    schema: str = COMPARISON_SCHEMA

    def document(self) -> dict[str, Any]:
        """The `isoflop.compare/1` document; numbers without bound are null."""
        fields = dataclasses.asdict(self)
        return dict(finite_or_null({"schema": fields.pop("schema"), **fields}))


def compare(
    a: ScalingLaw,
    b: ScalingLaw,
    *,
    flops: Sequence[float | str] = (),
    interval: str = "hc3",
    level: float = 0.9,
    resamples: int = 1000,
    seed: int = 0,
    force: bool = False,
) -> Comparison:
    """Compute multiplier of A against B at several budgets, each with its interval.

    Args:
        a: The law whose compute is asked for.
        b: The law whose loss is to be reached.
        flops: Budgets of B [FLOP], or text such as `8 h100 for 3 days`; chosen inside and beyond
            both ranges where none are given.
        interval: `hc3`, from the covariances of what both answer by, their forecasts where both
            have one; or `pairs`, a joint bootstrap of the laws that describe the runs.
        level: Of the intervals, between 0 and 1.
        resamples: Draws of `pairs`.
        seed: Of these draws.
        force: Compare what cannot be compared, with a serious warning.

    Raises:
        QueryError: The losses or FLOPs of the two mean different things, a fit does not determine
            its parameters, or an argument is out of its range.
        RefusedError: The verdict on one of them at one of these budgets is `refuse`.
    """
    if interval not in INTERVALS:
        known = ", ".join(INTERVALS)
        raise QueryError(f"unknown interval '{interval}'; known are {known}. Choose one.")
    if not 0 < level < 1:
        raise QueryError(f"level is {level:g}; a share between 0 and 1 is needed, as 0.9.")
    if not 200 <= resamples <= MOST_DRAWS:
        raise QueryError(f"resamples is {resamples}; 200 to {MOST_DRAWS} are needed, such as 1000.")
    read = [budget_flops(budget, fit=b.fit) for budget in flops]
    assumed = list(dict.fromkeys(note for _, notes in read for note in notes))
    # Resampling refits the laws that describe the runs, so what it gives is by these.
    a, b = like_with_like(a, b) if interval == "hc3" else (a.plain, b.plain)
    a, b, alike = counted_alike(a, b)
    scales, unit, notes = comparable_unit(a, b, force=force)
    frontiers = Frontier.of(a), Frontier.of(b)
    shared = _shared_range(frontiers, scales)
    budgets = np.array(sorted({v for v, _ in read}))
    if not read:
        budgets = _answered((a, b), _default_budgets(a, b, shared))
    for source in (a, b):
        check_verdict(budget_verdict(source, float(budgets.max())), source, force=force)
    pairs, unpaired = None, []
    if a.fit is not None and b.fit is not None:
        pairs = pair_runs(a.fit, b.fit)
        if pairs is None:
            text = (
                "a fit cannot be repeated from the runs it stores, so runs are not paired: where "
                "the two share runs the intervals are too wide."
            )
            unpaired = [Note(code="unpaired", severity="info", message=text)]
    fitted = a.fit is not None or b.fit is not None
    bounds: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(budgets)
    if fitted:
        problem = MultiplierProblem(a=a, b=b, log_flops=np.log(budgets), log_scales=np.log(scales))
        if interval == "hc3":
            bounds = list(problem.sandwich_intervals(level, pairs))
        elif pairs is None:
            raise QueryError(
                "interval 'pairs' needs two fits that can be repeated from the runs they store. "
                "Use --interval hc3."
            )
        else:
            bounds = list(problem.bootstrap_intervals(level, pairs, resamples, seed))
    return Comparison(
        a=a.name,
        b=b.name,
        conventions=(dict(a.convention), dict(b.convention)),
        unit=unit,
        level=level if fitted else None,
        interval=interval if fitted else None,
        runs_paired=0 if pairs is None else pairs.size,
        correlation=None if pairs is None else pairs.correlation,
        shared=shared,
        rows=tuple(_rows(frontiers, scales, budgets, bounds)),
        warnings=(*alike, *notes, *comparison_warnings(a, b, shared), *unpaired, *assumed),
    )


def _shared_range(
    frontiers: tuple[Frontier, Frontier], scales: tuple[float, float]
) -> tuple[float, float] | None:
    """Range of B's budgets that lie in B's runs, and whose losses A reaches within its own."""
    a, b = frontiers
    if "flops" not in a.source.range or "flops" not in b.source.range:
        return None
    of_a, of_b = a.source.range["flops"], b.source.range["flops"]
    low, high = _equal_loss_flops(a, b, scales, np.array([of_a.low, of_a.high]))
    if not math.isfinite(low):
        return None
    ends = max(of_b.low, float(low)), min(of_b.high, float(high))
    return ends if ends[0] <= ends[1] else None


def _default_budgets(a: ScalingLaw, b: ScalingLaw, shared: tuple[float, float] | None) -> Floats:
    """Three budgets inside both ranges, and one at each factor of `BEYOND` [FLOP]."""
    spans = [s.range["flops"] for s in (a, b) if "flops" in s.range]
    if not spans:
        raise QueryError(
            f"the compute of the runs of {a.name} and {b.name} is not known; budgets are needed. "
            "Name them: --flops 1e20"
        )
    ends = shared or (min(s.high for s in spans), max(s.high for s in spans))
    top = max(s.high for s in spans)
    return np.unique([*np.geomspace(*ends, 3), *(f * top for f in BEYOND)])


def _answered(sources: tuple[ScalingLaw, ScalingLaw], budgets: Floats) -> Floats:
    """Those of some budgets at which no law refuses to answer; all of them if there are none."""
    verdicts = [[budget_verdict(source, float(v)).verdict for source in sources] for v in budgets]
    answered = budgets[["refuse" not in both for both in verdicts]]
    return answered if answered.size else budgets


def _rows(
    frontiers: tuple[Frontier, Frontier],
    scales: tuple[float, float],
    budgets: Floats,
    bounds: Sequence[tuple[float | None, float | None]],
) -> Iterator[BudgetComparison]:
    """The two laws at each budget of B."""
    a, b = frontiers
    losses = [line.loss(budgets) for line in frontiers]
    needed = _equal_loss_flops(b, a, (scales[1], scales[0]), budgets)
    prices = [
        line.flops(loss - GAIN) / budgets for line, loss in zip(frontiers, losses, strict=True)
    ]
    for i, flops in enumerate(budgets.tolist()):
        low, high = bounds[i]
        flops_a = float(needed[i])
        yield BudgetComparison(
            flops=flops,
            flops_a=_finite(flops_a),
            multiplier=Number(value=flops_a / flops, low=low, high=high),
            loss_a=float(losses[0][i]) / scales[0],
            loss_b=float(losses[1][i]) / scales[1],
            price_a=_finite(float(prices[0][i])),
            price_b=_finite(float(prices[1][i])),
            inside=_within(b.source.range, flops) and _within(a.source.range, flops_a),
        )


def _equal_loss_flops(
    one: Frontier, other: Frontier, scales: tuple[float, float], flops: Floats
) -> Floats:
    """Budgets at which the other law reaches the one's losses; infinite where it never does."""
    return other.flops(one.loss(flops) / scales[0] * scales[1])


def _finite(value: float) -> float | None:
    """A number, or None where it is infinite or undefined."""
    return value if math.isfinite(value) else None


def _within(ranges: Mapping[str, Span], flops: float) -> bool:
    """Whether a budget lies in the range of the runs', rounding allowed for."""
    span = ranges.get("flops")
    return span is not None and bool(span.low * (1 - 1e-9) <= flops <= span.high * (1 + 1e-9))


def comparable_unit(
    a: ScalingLaw, b: ScalingLaw, *, force: bool
) -> tuple[tuple[float, float], str, list[Note]]:
    """The unit in which the losses of two laws can be compared.

    Losses per token are comparable where data and tokenizer are the same. With two tokenizers on
    one text bits per byte are: loss / (ln 2 * bytes per token).

    Args:
        a: One law.
        b: The other.
        force: Compare nats per token all the same, with a serious warning.

    Returns:
        Nats per token of one unit for each law, the unit's name, and warnings.

    Raises:
        QueryError: The losses, or the FLOPs, of the two are not of one kind.
    """
    notes = _flops_notes(a, b, force=force)
    units = loss_unit(a.convention), loss_unit(b.convention)
    if units[0] != units[1]:
        raise QueryError(
            f"the losses of {a.name} are in {units[0]}, those of {b.name} in {units[1]}: they have "
            "no common unit. Fit both in one: --unit loss=..."
        )
    if units[0] == BITS:
        text = "bits per byte are compared; that holds if both were measured on the same text."
        return (1.0, 1.0), BITS, [*notes, Note(code="per_byte", severity="warning", message=text)]
    first, second = _data(a), _data(b)
    names = first.get("name"), second.get("name")
    if first.get("hash") and first.get("hash") == second.get("hash"):
        return (1.0, 1.0), NATS, notes
    if None not in names and names[0] != names[1]:
        reason = f"{a.name} was trained on {names[0]}, {b.name} on {names[1]}"
        return (1.0, 1.0), NATS, [*notes, _refusal_note(reason, force=force)]
    if first.get("hash") and second.get("hash"):
        return _per_byte(a, b, notes, force=force)
    if None not in names and _vocab(a) == _vocab(b):
        return (1.0, 1.0), NATS, notes
    if _vocab(a) != _vocab(b) and None not in (_vocab(a), _vocab(b)):
        reason = f"the vocabularies have {_vocab(a):g} and {_vocab(b):g} tokens"
        return (1.0, 1.0), NATS, [*notes, _refusal_note(reason, force=force)]
    text = (
        "it is not known whether both laws were fitted on the same data and tokenizer; nats per "
        "token of different ones cannot be compared."
    )
    return (1.0, 1.0), NATS, [*notes, Note(code="data_unknown", severity="warning", message=text)]


def comparison_warnings(
    a: ScalingLaw, b: ScalingLaw, shared: tuple[float, float] | None
) -> list[Note]:
    """Notes on what weakens a comparison without forbidding it.

    Args:
        a: One law.
        b: The other.
        shared: Range of budgets inside the runs of both [FLOP]; None where there is none.
    """
    notes = [] if shared is not None else [_range_note(a, b)]
    by_law = [(source.name, note) for source in (a, b) for note in _law_notes(source)]
    # a note that holds for both laws is given once, with both names
    for note in dict.fromkeys((n.code, n.severity, n.message) for _, n in by_law):
        code, severity, message = note
        names = dict.fromkeys(name for name, n in by_law if (n.code, n.message) == (code, message))
        notes.append(
            Note(code=code, severity=severity, message=f"{' and '.join(names)}: {message}")
        )
    return notes


def _law_notes(source: ScalingLaw) -> list[Note]:
    """What weakens one of the two laws."""
    fit = source.fit
    if fit is None:
        return [Note(code="preset", severity="info", message=PUBLISHED)]
    return [*status_notes(fit), *(n for n in fit.notes if n.code in OF_THE_LAW)]


def _range_note(a: ScalingLaw, b: ScalingLaw) -> Note:
    """A note on ranges of compute that do not overlap, or are not known."""
    spans = [s.range["flops"] for s in (a, b) if "flops" in s.range]
    if len(spans) < 2:
        text = "the compute of one law's runs is not known, so the ranges may not overlap."
        return Note(code="range_unknown", severity="warning", message=text)
    low, high = sorted(spans, key=lambda s: s.low)
    text = (
        f"no budget lies within both ranges: one ends at {power(low.high)} FLOP, the other begins "
        f"at {power(high.low)}. Every row extrapolates one law; run both at a common budget."
    )
    return Note(code="no_overlap", severity="serious", message=text)


def counted_alike(a: ScalingLaw, b: ScalingLaw) -> tuple[ScalingLaw, ScalingLaw, list[Note]]:
    """Both laws with compute in one count, where the shapes of their runs allow it.

    Args:
        a: One law.
        b: The other.

    Returns:
        Both, and a note that says which count it is; as they are where they count alike, where a
        count is not known, or where the runs of neither have shapes. Exact FLOPs go first.
    """
    counts = [flops_count(s.convention) for s in (a, b)]
    if counts[0] == counts[1] or any(c[0] in ("as given", "?") for c in counts):
        return a, b, []
    for convention in ({"params": "matmul", "flops": "exact"}, a.convention, b.convention):
        one, other = a.counted(convention), b.counted(convention)
        if one is not None and other is not None:
            words = [_count_words(s.convention) for s in (a, b)]
            text = (
                f"FLOPs are counted alike, as {_count_words(convention)}, budgets too: {a.name} "
                f"counts {words[0]}, {b.name} {words[1]}; the shapes of the runs give the other "
                "count."
            )
            return one, other, [Note(code="other_flops", severity="info", message=text)]
    return a, b, []


def _count_words(convention: Mapping[str, str]) -> str:
    """How FLOP are counted, in words."""
    flops, params = flops_count(convention)
    return f"6 N D of {params} parameters" if params else f"{flops} FLOPs"


def _flops_notes(a: ScalingLaw, b: ScalingLaw, *, force: bool) -> list[Note]:
    """Whether both laws count FLOPs alike."""
    counts = a.convention.get("flops", "?"), b.convention.get("flops", "?")
    if "as given" in counts or "?" in counts:
        text = "how a table's FLOPs were counted is not known; both laws must count them alike."
        return [Note(code="flops_unknown", severity="warning", message=text)]
    if counts[0] == counts[1]:
        return []
    reason = (
        f"{a.name} counts {counts[0]} FLOPs, {b.name} {counts[1]}: a multiplier would measure the "
        "difference in counting"
    )
    cure = "Fit both with one count (isoflop fit RUNS --flops 6nd)"
    return [_refusal_note(reason, force=force, code="other_flops", cure=cure)]


def _per_byte(
    a: ScalingLaw, b: ScalingLaw, notes: list[Note], *, force: bool
) -> tuple[tuple[float, float], str, list[Note]]:
    """Bits per byte, where data of one name were split into tokens in two ways."""
    data = _data(a), _data(b)
    per_token = [d.get("bytes_per_token") for d in data]
    if None in per_token or any(d.get("entropy") is not None for d in data):
        reason = f"{a.name} and {b.name} were trained on different data named {data[0]['name']}"
        return (1.0, 1.0), NATS, [*notes, _refusal_note(reason, force=force)]
    text = (
        f"the tokenizers differ ({per_token[0]:.3g} and {per_token[1]:.3g} bytes a token), so bits "
        "per byte are compared; that holds if both were measured on the same held-out text."
    )
    nats = [math.log(2) * float(v) for v in per_token if v is not None]
    return (
        (nats[0], nats[1]),
        BITS,
        [*notes, Note(code="per_byte", severity="warning", message=text)],
    )


def _refusal_note(
    reason: str,
    *,
    force: bool,
    code: str = "other_data",
    cure: str = "Which data set is better is answered by losses on one common held-out text "
    "(isoflop explain which_data). Fit both on the same data and tokenizer",
) -> Note:
    """A serious note on a comparison without meaning, if it is forced.

    Raises:
        QueryError: It was not forced.
    """
    if not force:
        raise QueryError(f"{reason}. {cure}, or compare all the same with --force.")
    message = f"{reason}. The numbers below mean little."
    return Note(code=code, severity="serious", message=message)


def _data(source: ScalingLaw) -> Mapping[str, Any]:
    """What is known of a law's data set: name, hash, bytes per token."""
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
