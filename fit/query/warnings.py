"""Warnings of an answer: reach, doubts of the fit, ratios, repeats, and what limits leave out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fit.allocation.costs import where_repeats_stop
from fit.allocation.scaling_law import ScalingLaw
from fit.errors import RefusedError
from fit.laws.families import DECAY_PARAMS, DECAY_TOKENS, borrows_repeat_constants
from fit.quantities import gigabytes, power, short, three_digits
from fit.query.documents import Number, RegretBand
from fit.query.question import BYTES_PER_PARAM, Question
from fit.results import CrossCheck, Fit, Span
from fit.verdict import (
    FARTHEST_REACH,
    NOTED_REACH,
    REFUSED_SHIFT,
    TRACKED_LEVEL,
    WIDEST,
    Note,
    Verdict,
    is_identified,
    status_notes,
    track_record,
    verdict_of,
    worst,
)

TIMES = "\N{MULTIPLICATION SIGN}"
UNCOMPARED = "too uncertain to compare"
WIDEST_COMPARISON = 0.25
"""Half-width of the interval of a difference of exponents from which agreement says nothing."""
FRESH_EPOCHS, STALE_EPOCHS = 4.0, 16.0
"""Muennighoff et al. 2023, arXiv:2305.16264: up to 4 epochs are nearly as good as fresh data."""
WEIGHTS = {"bf16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes per parameter of weights as they are served."""
OF_THE_LAW = frozenset(
    "interaction trend trend_shape trend_tuning trajectory noise holdout one_sided phase misfit "
    "collapse undercooled e_not_needed influence".split()
)
"""Warnings of a fit that bear on every answer from it."""
QUANTITIES = {
    "params": ("the model's size", "parameters", "Ask for a size nearer to those of the runs"),
    "tokens": ("the number of tokens", "tokens", "Ask for a length nearer to those of the runs"),
    "flops": ("the budget", "FLOP", "Ask for a larger budget"),
    "tokens_per_param": ("D/N", "tokens per parameter", "Widen the limit that leads there"),
}
"""Of a quantity with a range: its name, its unit, and what to ask instead."""
UNIDENTIFIED = frozenset("ill_conditioned few_params few_tokens constant_ratio one_budget".split())
"""Notes on runs that cannot distinguish the law's terms."""
NO_SHAPE = Note(
    code="no_shape",
    severity="warning",
    message="no shape of the ladder near this size is within the limits, so that nothing can be "
    "launched; widen a limit.",
)


def verdict(source: ScalingLaw, notes: Sequence[Note]) -> Verdict:
    """The verdict on an answer or a prediction: the worse of its law's and its own warnings'."""
    inside = "the question lies within reach of the runs"
    if source.verdict is None:
        return verdict_of(notes, f"{inside}.")
    inside = next((n.message[:-1] for n in notes if n.code == "track_record"), inside)
    own = verdict_of(notes, f"{inside}, and no check of the fit found a fault.")
    return worst(own, source.verdict)


def budget_verdict(source: ScalingLaw, flops: float) -> Verdict:
    """The verdict on whatever is said of a law at a budget: its reach, and whether to believe it.

    Args:
        source: The law.
        flops: The budget [FLOP].
    """
    reach = source.reach(flops)
    return verdict(source, [*_short_runs(source.fit, reach), *_reach(reach, source)])


def prediction_verdict(
    source: ScalingLaw, notes: Sequence[Note], *, params: float, tokens: float
) -> Verdict:
    """The verdict on a prediction; between the runs an unidentified law still interpolates."""
    fit = source.fit
    if fit is None or is_identified(fit):
        return verdict(source, notes)
    spans = (fit.range["params"], params), (fit.range["tokens"], tokens)
    between = all(span.low <= value <= span.high for span, value in spans)
    others = [n for n in notes if n.code not in UNIDENTIFIED]
    if not between or any(n.severity == "serious" for n in others):
        return verdict(source, notes)
    text = (
        "the fit cannot distinguish the effects of params and tokens; this prediction lies between "
        "its runs and rests on them alone."
    )
    return Verdict(verdict="careful", reason=text, message=text)


def check_verdict(verdict: Verdict, source: ScalingLaw, *, force: bool | None = None) -> None:
    """Refuse what the verdict refuses.

    Args:
        verdict: Of the law or of an answer.
        source: The law that is asked.
        force: Whether the question insists; None where it cannot.

    Raises:
        RefusedError: The verdict is `refuse`, and the question does not insist.
    """
    if verdict.refused and not force:
        message = f"refused, by '{source.name}': {verdict.message}"
        raise RefusedError(message, verdict.reason, insistent=force is not None)


def cross_check_remark(fit: Fit, check: CrossCheck) -> str:
    """Whether another approach agrees with the exponent of the fit, in words."""
    if check.disagrees:
        return "DISAGREES with the fit"
    ends = [fit.interval.bounds.get("a"), check.a_interval]
    halves = [(high - low) / 2 for low, high in (e for e in ends if e is not None)]
    if not is_identified(fit) or not math.hypot(*halves) < WIDEST_COMPARISON:
        return UNCOMPARED
    return "agrees with the fit"


def forecast_remark(fit: Fit) -> str | None:
    """What answers come from where that is not the law, and what they miss, in words."""
    if (ahead := fit.forecast) is None:
        return None
    names = ", ".join(Path(p).name for p in fit.options.get("prior") or ())
    learnt = f"; its prior learns from {names}" if names else ""
    if ahead.two_terms:
        learnt += f"; the two-term law itself has a weight of {ahead.two_terms:.0%} in it"
    if fit.options.get("entropy") == "known":
        learnt += "; its E is the entropy that is known"
    return (
        f"answers come from a wider law, outer exponent {ahead.theta['k']:.2f}; beyond the runs it "
        f"misses {ahead.discrepancy:.0%} of the gain in ln loss (r.m.s.)" + learnt
    )


def answer_warnings(
    source: ScalingLaw, *, flops: float, params: float, tokens: float
) -> tuple[Note, ...]:
    """Warnings of an answer of N parameters and D tokens at a budget."""
    reach = source.reach(flops)
    notes = [*_origin(source), *_short_runs(source.fit, reach), *_reach(reach, source)]
    outside = times_outside(source.range, flops=flops, params=params, tokens=tokens)
    where, advice = _far_outside(source.range, outside)
    if where and source.fit is None:  # its ranges are rough: it is never more than `careful`
        notes.append(_note("extrapolates", "warning", f"{where}."))
    elif where:
        notes.append(_note("extrapolates_far", "serious", f"{where}: {advice}"))
    else:
        notes += [*_below(source.range, flops), *_ratio(source.range, tokens / params)]
    if "unique_tokens" in source.law.columns:
        return (*notes, *_epochs(source, tokens))
    return (*notes, *_repeats(source.fit, tokens))


def loss_warnings(loss: Number, entropy: float | None) -> list[Note]:
    """A warning where a forecast loss is one that no model reaches, or its interval is wide."""
    if entropy is not None and loss.value < entropy:
        text = (
            f"the loss is forecast below the entropy of the data, {entropy:.4f}, which no model "
            "reaches: the runs say too little of E. Tell the fit: isoflop fit --entropy known."
        )
        return [_note("below_entropy", "warning", text)]
    if loss.low is None or loss.high is None or not loss.low > 0:
        return []
    half = math.log(loss.high / loss.low) / 2
    if not half > WIDEST:
        return []
    text = (
        f"the loss is known to {half:.0%} either way, which is much: over {WIDEST:.0%}. Add runs "
        "of larger budgets: isoflop suggest."
    )
    return [_note("wide_interval", "warning", text)]


def shape_warnings(band: RegretBand, params: float | None) -> list[Note]:
    """A note where the shape to be launched lies outside the regret band."""
    if params is None or band.low <= params <= band.high:
        return []
    text = (
        f"the nearest shape of the ladder has {short(params)} parameters, outside the range "
        f"{short(band.low)} to {short(band.high)} whose loss is as good as the best."
    )
    return [_note("coarse_ladder", "info", text)]


def limit_warnings(
    question: Question, source: ScalingLaw, *, training: float, serving: float | None, flops: float
) -> list[Note]:
    """Notes on what limits count and leave out, what the budget covers, and where to stop.

    Args:
        question: The question.
        source: The law that answers, with its unique tokens.
        training: Compute of training [FLOP].
        serving: Compute of serving [FLOP]; None without any.
        flops: The budget of both [FLOP].
    """
    notes = []
    if question.memory is not None:
        each = question.bytes_per_param or BYTES_PER_PARAM
        which = "every parameter of the ladder's shapes" if source.ladder else "each of N"
        held = [f"{short(question.memory / size)} in {name}" for name, size in WEIGHTS.items()]
        text = (
            f"{gigabytes(question.memory)} hold {', '.join(held)} (--bytes-per-param). The memory "
            f"holds the weights alone, {each:g} bytes for {which}; a cache of keys and values, "
            "activations and the runtime come on top."
        )
        notes.append(_note("memory", "info", text))
    if question.unique_tokens is not None:
        notes += _stop(question.source, question.unique_tokens, training)
    if question.serve_tokens is not None and serving is not None:
        spent = (training + serving) / flops
        rest = "" if spent > 0.995 else f"; {1 - spent:.0%} of it is left over, by the limits"
        text = (
            f"the budget covers the training ({training / flops:.0%} of it) and "
            f"{short(question.serve_tokens)} served tokens ({serving / flops:.0%}){rest}. "
            "A served token is counted as one forward pass, a third of a trained one, at full "
            "context; where hours or money are shown, at the same MFU as training, and decoding "
            "one token after the other reaches far less."
        )
        notes.append(_note("serving", "info", text))
    return notes


def _stop(source: ScalingLaw, unique_tokens: float, flops: float) -> list[Note]:
    """Where more compute buys nothing worth having, by the unique tokens alone."""
    stop = where_repeats_stop(source, unique_tokens, flops)
    if stop is None:
        return []
    past = flops > stop.flops
    text = (
        f"{'the budget lies beyond where' if past else 'stop where'} repeats of the "
        f"{short(unique_tokens)} unique tokens pay: from {power(stop.flops)} FLOP on "
        f"({three_digits(stop.epochs)} epochs, loss {stop.loss:.4f}) twice the compute lowers the "
        f"loss by {stop.gain:.2g}, and by {stop.fresh_gain:.2g} with fresh tokens. "
        f"{'Spend less, or get' if past else 'Beyond it get'} more data."
    )
    return [_note("where_to_stop", "warning" if past else "info", text)]


def _origin(source: ScalingLaw) -> list[Note]:
    """Doubts about the law itself, whatever the question."""
    preset, fit = source.preset, source.fit
    if preset is not None:
        c = preset.convention
        text = (
            f"a published law, fitted on {preset.data}: it holds for its own data and tokenizer. N "
            f"is counted as '{c['params']}', C as '{c['flops']}'. "
        )
        if preset.spread is None:
            text += "Nothing was published that intervals could rest on."
        else:
            text += (
                f"Intervals are of sampling and misfit alone, by {preset.spread.source}: beyond "
                "the runs fit them yourself for a forecast."
            )
        if preset.note is not None:
            text += f" Also: {preset.note}."
        return [_note("preset", "warning", text)]
    assert fit is not None
    status = status_notes(fit)
    codes = {n.code for n in status}
    of_fit = (n for n in fit.notes if n.severity == "serious" or n.code in OF_THE_LAW)
    return [*status, *(n for n in of_fit if n.code not in codes)]


def _reach(reach: float | None, source: ScalingLaw) -> list[Note]:
    """A warning where the budget lies far beyond the runs."""
    forecast = source.fit is not None and source.fit.forecast is not None
    same = forecast and source.fit is not None and source.fit.interval.level == TRACKED_LEVEL
    record = track_record(reach) if same and reach is not None else None
    if reach is None or reach <= NOTED_REACH:
        return [_note("track_record", "info", f"{record}.")] if record is not None else []
    text = f"the budget lies {TIMES}{three_digits(reach)} beyond the largest budget fitted"
    if reach <= FARTHEST_REACH:
        subject = "This" if source.fit is None else "The interval"
        if record is not None:
            text += f": {record}."
        elif same:
            text += ", farther than any real forecast that was checked."
        else:
            text += f". {subject} assumes that the law itself holds out there."
        return [_note("extrapolates", "warning", text)]
    text += (
        f", where nothing is known of its error: at most {TIMES}{FARTHEST_REACH:g} is answered. "
        "Run a budget in between first, or ask a law whose runs reach further."
    )
    return [_note("extrapolates_far", "serious", text)]


def _short_runs(fit: Fit | None, reach: float | None) -> list[Note]:
    """The fit's doubt of its forecast, beyond the runs; serious where the shift is large."""
    if fit is None or fit.forecast is None or reach is None or reach <= 1:
        return []
    large = abs(fit.forecast.short_runs or 0.0) > REFUSED_SHIFT
    doubts = (n for n in fit.notes if n.code == "short_runs")
    return [dataclasses.replace(n, severity="serious") if large else n for n in doubts]


def times_outside(
    ranges: Mapping[str, Span], *, flops: Any, params: Any, tokens: Any
) -> dict[str, tuple[Any, Any]]:
    """How often C, N, D and D/N go into the least fitted, and the largest into them."""
    values = {"params": params, "tokens": tokens, "flops": flops}
    values["tokens_per_param"] = tokens / params
    spans = {name: span for name in values if (span := ranges.get(name)) is not None}
    return {k: (span.low / values[k], values[k] / span.high) for k, span in spans.items()}


def _far_outside(
    ranges: Mapping[str, Span], outside: Mapping[str, tuple[float, float]]
) -> tuple[str, str]:
    """Where N, D, D/N or a small C lies too far outside the runs, if one does; and what to do."""
    times = {k: low if k == "flops" else max(low, high) for k, (low, high) in outside.items()}
    name = max(times, key=lambda k: times[k], default="")
    if not name or not times[name] > FARTHEST_REACH:
        return "", ""
    span, (low, high), (what, unit, todo) = ranges[name], outside[name], QUANTITIES[name]
    end = f"above the largest fitted, {short(span.high)}"
    if low > high:
        end = f"below the smallest fitted, {short(span.low)}"
    return (
        f"{what} lies {TIMES}{three_digits(times[name])} {end} {unit}, "
        "where nothing is known of its error",
        f"at most {TIMES}{FARTHEST_REACH:g} is answered. {todo}, or add runs in between.",
    )


def _below(ranges: Mapping[str, Span], flops: float) -> list[Note]:
    """A warning where the budget is smaller than that of every run."""
    span = ranges.get("flops")
    if span is None or flops >= span.low:
        return []
    text = (
        f"the budget lies below the smallest fitted ({power(span.low)} FLOP); laws bend among tiny "
        "models."
    )
    return [_note("below_range", "warning", text)]


def _ratio(ranges: Mapping[str, Span], ratio: float) -> list[Note]:
    """A warning where D/N lies outside the swept range."""
    span = ranges.get("tokens_per_param")
    if span is None or span.low <= ratio <= span.high:
        return []
    text = (
        f"D/N of {three_digits(ratio)} lies outside the swept range, {three_digits(span.low)} to "
        f"{three_digits(span.high)} tokens per parameter. Add runs at such a "
        "ratio of tokens to parameters."
    )
    return [_note("ratio_outside", "warning", text)]


def _repeats(fit: Fit | None, tokens: float) -> list[Note]:
    """A warning where there are more tokens than unique ones, which the law does not know."""
    unique = None if fit is None else fit.data.get("unique_tokens")
    if not unique or tokens / unique <= FRESH_EPOCHS:
        return []
    epochs = tokens / unique
    text = (
        f"{short(tokens)} tokens are {three_digits(epochs)} epochs of the {short(unique)} there "
        "are; the law takes repeats as fresh, which holds up to about 4."
    )
    return [_note("repeats", "serious" if epochs > STALE_EPOCHS else "warning", text)]


def _epochs(source: ScalingLaw, tokens: float) -> list[Note]:
    """A note on the repeats that the law itself takes into account."""
    unique = source.law.held["unique_tokens"]
    epochs = tokens / unique
    if epochs <= 1:
        return []
    text = (
        f"{short(tokens)} tokens are {three_digits(epochs)} epochs of {short(unique)} unique ones"
    )
    if borrows_repeat_constants(source.law):
        text += (
            f"; what repeats are worth is borrowed from C4 (R_D* {DECAY_TOKENS:.4g}, R_N* "
            f"{DECAY_PARAMS:.3g}; Muennighoff et al. 2023)"
        )
    elif source.preset is not None:
        text += f"; what repeats are worth is borrowed from {source.preset.data}"
    if epochs <= FRESH_EPOCHS:
        return [_note("repeats", "info", f"{text}: nearly as good as fresh ones.")]
    text += ": past about 4 each further one is worth less, as the law has it."
    return [_note("repeats", "warning", text)]


def _note(code: str, severity: str, message: str) -> Note:
    """A note."""
    return Note(code=code, severity=severity, message=message)
