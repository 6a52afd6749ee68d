"""The content of a report as plain JSON values, page 1 first, for any output format.

`report_content` is the report of a fit; that of runs without one is in `skills_page.py`. Page 1 has
the recommendation, the answers at two budgets, and what supports and what limits them; the sections
after it come from `sections.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fit.allocation.costs import ReportRequest
from fit.allocation.scaling_law import (
    FURTHER,
    ScalingLaw,
    fit_of,
)
from fit.forecasts.ledger import Ledger
from fit.forecasts.scoring import calibration
from fit.quantities import count_noun, option_name, percent, power, short, three_digits, with_commas
from fit.query.documents import Answer, Number
from fit.query.question import Question
from fit.query.warnings import UNCOMPARED, cross_check_remark
from fit.report import tables
from fit.report.brief import brief_sections, front_matter, question_words
from fit.report.captions import figure_block
from fit.report.figures import FigureInputs, figure_inputs
from fit.report.sections import FIRST_FIGURE, report_sections
from fit.report.text import DASH, TIMES, approach_name
from fit.results import Fit
from fit.verdict import (
    DOUBTFUL_KAPPA,
    REFUSED_KAPPA,
    Note,
    Verdict,
    is_identified,
    kappa_of,
    kappa_text,
)

CHANGES = "What would change it"
"""Heading of the notes on page 2."""
MOST_NOTES, MOST_FURTHER = 3, 12
"""Kinds of notes on page 2, the most severe first, and in the appendix; `fit.json` has all."""


def report_content(
    source: ScalingLaw,
    *,
    folder: str = "",
    drawn: Mapping[str, Collection[str]] = MappingProxyType({}),
    request: ReportRequest | None = None,
    ledger: Ledger | None = None,
    asked: Question | None = None,
    author: str = "",
    inputs: FigureInputs | None = None,
) -> dict[str, Any]:
    """Everything on the pages of a report except its figures, as plain JSON values.

    Args:
        source: A fit as a source.
        folder: Folder of its `fit.json`, for the command that launches; FOLDER if empty.
        drawn: Figures that were drawn, and the labels of the marks seen in each.
        request: Plots and prices that are requested beside the fit.
        ledger: Sealed forecasts, where there are any.
        asked: The question that page 1 answers; None is the default, ten times the largest budget.
        author: Name under the title.
        inputs: What the figures were drawn from, so that it is gathered once; `request` and
            `asked` are then of it.

    Raises:
        QueryError: The request cannot be met, such as an unknown device, or the question has no
            answer as posed.
    """
    fit = fit_of(source)
    inputs = inputs or figure_inputs(source, request, asked)
    asked = inputs.asked
    recommendation = inputs.answers[-1] if inputs.best is not None else None
    notes, further, assumption = _notes(fit, recommendation, inputs.verdict)
    sections = report_sections(inputs, drawn, recommendation, ledger, further)
    first = figure_block(FIRST_FIGURE, inputs, drawn)
    brief = brief_sections(inputs, folder or "FOLDER", drawn)
    about = None if ledger is None else ledger.about(fit, source.hash)
    return {
        "name": tables.clean(fit.name),
        "refused": inputs.verdict.refused,
        "verdict": _verdict(inputs.verdict),
        "front": front_matter(fit, author),
        "about": _about(source),
        "question": question_words(inputs),
        "summary": _recommendation(recommendation, asked)
        if recommendation
        else _no_recommendation(source, inputs.verdict),
        "answers": _answer_table(inputs.answers, asked) if recommendation else None,
        "first": first and dataclasses.asdict(first),
        "level": percent(fit.interval.level),
        "checks": _untick([*_checks(fit), *_forecast_check(about)], refused=inputs.verdict.refused),
        "limitations": [*notes, assumption],
        "brief": [dataclasses.asdict(s) for s in brief],
        "sections": [dataclasses.asdict(s) for s in sections],
    }


def _verdict(verdict: Verdict) -> list[str]:
    """The verdict and the sentence that decides it, as page 1 shows them first."""
    reason = tables.clean(verdict.reason, 400)
    return [verdict.verdict, f"{reason[:1].upper()}{reason[1:].rstrip('.')}."]


def _about(source: ScalingLaw) -> str:
    """The line under the name: law, runs and counting conventions."""
    basis = tables.basis_words(fit_of(source))
    return (
        "${formula}$ fitted to {used} runs, {dropped} dropped. $N$ is counted as {params}, $C$ as "
        "{flops}."
    ).format(formula=source.law.formula, **basis)


def _recommendation(a: Answer, asked: Question | None) -> list[list[str]]:
    """The sentences on top: [style, words], the style one of strong, loud, number or none."""
    n, d, level = a.params, a.tokens, percent(a.level or 0.0)
    run = a.loss_next_run
    parts = [
        ["", "With "],
        ["number", power(a.flops.value)],
        ["", f" FLOP{'' if asked else f', {FURTHER:g} times the largest budget fitted'}, train "],
        ["strong", f"{short(n.value)} parameters"],
        ["", f" ({_range(n, level)}) on "],
        ["strong", f"{short(d.value)} tokens"],
        ["", ". The expected loss is "],
        ["strong", f"{a.loss.value:.3f} nats/token"],
    ]
    if run.low is not None and run.high is not None:
        ends = f"between {tables.end(run.low, '.3f')} and {tables.end(run.high, '.3f')}"
        parts.append(["", f"; a single run should land {ends} ({level})"])
    parts.append(["", "."])
    if a.regret_band is not None:
        band = f"{short(a.regret_band.low)} to {short(a.regret_band.high)}"
        parts.append(["", f" Any size from {band} parameters is as good within one run's noise."])
    return parts


def _no_recommendation(source: ScalingLaw, verdict: Verdict) -> list[list[str]]:
    """The sentences on top where nothing is recommended, with the reason."""
    law = source.law
    if verdict.refused:
        text = " No size, no loss and no launch are given. The notes below say what the runs lack."
        return [["loud", "No recommendation."], ["", text]]
    if law.target != "loss":
        return [
            ["loud", f"This law predicts the best {tables.target_name(law.name)}"],
            ["", " from a model's size and tokens. It predicts no loss and splits no budget. "],
            ["", "To use it: isoflop predict --params N --tokens D"],
        ]
    options = " ".join(f"{option_name(c)} X" for c in law.further)
    return [
        ["loud", "This law predicts a loss"],
        ["", f" from {', '.join(law.columns)}; on its own it splits no budget. "],
        ["", f"To use it: isoflop predict --params N --tokens D {options}"],
    ]


def _range(number: Number, level: str) -> str:
    """The interval of a count in words."""
    if number.low is None or number.high is None:
        return "no interval"
    return f"{level}: {short(number.low)} to {short(number.high)}"


def _answer_table(answers: Sequence[Answer], asked: Question | None) -> dict[str, Any]:
    """The table of page 1: heads [words, budget], rows [label, a cell or two per answer]."""
    labels = ("largest budget fitted", "as asked" if asked else f"{FURTHER:g} times that")
    heads = [[w, power(a.flops.value)] for w, a in zip(labels, answers, strict=True)]
    columns = [_answer_cells(a) for a in answers]
    rows = [
        [label, [c[label] for c in columns]]
        for label in columns[0]
        if any(c[label] != [DASH] for c in columns)
    ]
    return {"heads": heads, "rows": rows}


def _answer_cells(a: Answer) -> dict[str, list[str]]:
    """A column of the table of page 1: value and interval, or one text, per label."""
    band, s, cost = a.regret_band, a.shape, a.cost
    shape = tables.shape_words(s) if s else DASH
    counts = DASH
    if a.shape_params is not None and a.shape_tokens is not None:
        counts = f"{short(a.shape_params)} on {short(a.shape_tokens)}"
    return {
        "Parameters $N^*$": _with_interval(a.params, short),
        "Training tokens $D^*$": _with_interval(a.tokens, short),
        "Tokens per parameter": _with_interval(a.tokens_per_param, three_digits),
        "Loss, the law [nats/token]": _with_interval(a.loss, "{:.4f}".format),
        "Loss, next run (prediction)": _with_interval(a.loss_next_run, "{:.4f}".format),
        "Just as good: $N$ within noise": [
            f"{short(band.low)} to {short(band.high)}" if band else DASH
        ],
        "Budget over the largest fitted": [f"{TIMES}{three_digits(a.reach)}" if a.reach else DASH],
        "Device-hours": _with_interval(cost.device_hours, with_commas)
        if cost and cost.device_hours
        else [DASH],
        "Dollars": _with_interval(cost.dollars, with_commas) if cost and cost.dollars else [DASH],
        "Shape to launch": [shape],
        "Its parameters on tokens": [counts],
        "Learning rate, hidden matrices": [f"{a.lr:.3g}" if a.lr else DASH],
        "Batch at the end [tokens]": [f"{a.batch_tokens}" if a.batch_tokens else DASH],
    }


def _checks(fit: Fit) -> list[list[str]]:
    """Results of the checks in words: [grade, text], the grade one of good, fair, bad."""
    rows = [
        [
            {"converged": "good", "at_bound": "fair"}.get(fit.status, "bad"),
            f"The fit is {fit.status.replace('_', ' ')} on {count_noun(fit.runs_used, 'run')}.",
        ],
        _identification_check(fit),
    ]
    rows += [_holdout_check(fit)] if fit.holdout else []
    rows += [_approach_check(fit)] if fit.cross_checks else []
    entropy, fitted = fit.data.get("entropy"), fit.theta.get("E")
    if entropy and fitted:
        low, high = fit.interval.bounds.get("E", (math.nan, math.nan))
        inside = low <= entropy <= high
        text = (
            f"The data's entropy is known: {entropy:.4f} nats/token, "
            f"{'inside' if inside else 'outside'} the interval of the fitted E, {fitted:.4f}."
        )
        rows.append(["good" if inside else "fair", text])
    return rows


def _untick(checks: list[list[str]], *, refused: bool) -> list[list[str]]:
    """Checks without a tick where the fit is refused: what holds there is a fact, no comfort."""
    return [["info" if refused and g == "good" else g, text] for g, text in checks]


def _identification_check(fit: Fit) -> list[str]:
    """Whether the runs determine the parameters, by the rule that refuses N*."""
    kappa, words = kappa_of(fit), f"condition number {kappa_text(fit)}"
    if not is_identified(fit):
        why = words if kappa > REFUSED_KAPPA else f"the fit is {fit.status.replace('_', ' ')}"
        return ["bad", f"The runs do not determine the parameters: {why}."]
    if kappa >= DOUBTFUL_KAPPA:
        return ["fair", f"The runs barely determine the parameters: {words}."]
    if fit.status != "converged":
        text = f"The search ended {fit.status.replace('_', ' ')}: the {words} says little."
        return ["fair", text]
    doubtful = f"doubtful from {DOUBTFUL_KAPPA:g}"
    return ["good", f"The runs determine the parameters: {words}, {doubtful}."]


def _forecast_check(ledger: Ledger | None) -> list[list[str]]:
    """The share of sealed forecasts whose interval contained the measured loss."""
    counted = calibration(ledger) if ledger is not None else None
    if counted is None or not counted.counted or counted.promised is None:
        return []
    result, why = counted.grade
    text = (
        f"Of {count_noun(counted.counted, 'forecast')} sealed before their runs {counted.hits} "
        f"came true, {percent(counted.promised)} promised: {result}; {why}."
    )
    return [[{"kept": "good", "broken": "bad"}.get(result, "info"), text]]


def _holdout_check(fit: Fit) -> list[str]:
    """Errors of the largest budget, predicted from the smaller ones."""
    h = fit.holdout
    assert h is not None
    error = abs(h.max_relative_error)
    grade = "good" if error < 0.01 else "fair" if error < 0.03 else "bad"
    mean = tables.signed(h.mean_relative_error, "+.2%")
    text = (
        f"Fitted without the largest budget, the law predicts it to {mean} on average, {error:.2%} "
        f"at worst ({count_noun(len(h.runs), 'run')})."
    )
    return [grade, text]


def _approach_check(fit: Fit) -> list[str]:
    """Whether the other approaches agree on the exponent of N*."""
    disagreeing = [c for c in fit.cross_checks if c.disagrees]
    comparable = [
        c for c in fit.cross_checks if c.a is not None and cross_check_remark(fit, c) != UNCOMPARED
    ]
    if not comparable:
        return ["fair", "No other approach could be run on these runs as a cross-check."]
    listed = " and ".join(f"{approach_name(c.name)} ({c.a:.3f})" for c in disagreeing or comparable)
    verb = "disagrees with" if disagreeing else "agrees with"
    text = f"The exponent of N*, {fit.exponents['a']:.3f}, {verb} that of {listed}."
    return ["bad" if disagreeing else "good", text]


def _notes(
    fit: Fit, recommendation: Answer | None, verdict: Verdict
) -> tuple[list[list[str]], tuple[tuple[str, str], ...], list[str]]:
    """Notes on the answer and the fit, the most important first, one of a kind: [severity, text].

    That of the verdict is left with what it says beyond the reason, which page 1 gives.

    Returns:
        Those of page 2, those of the appendix, and what every answer assumes.
    """
    warnings = () if recommendation is None else recommendation.warnings
    codes = {n.code for n in warnings}
    notes: list[Note] = [*warnings, *(n for n in fit.notes if n.code not in codes)]
    kinds: dict[str, dict[str, Note]] = {}
    for note in verdict.ranked(notes):
        kinds.setdefault(note.code, {})[note.message] = note
    rows = []
    for same in list(kinds.values())[: MOST_NOTES + MOST_FURTHER]:
        first = next(iter(same.values()))
        more = f" And {len(same) - 1} more of this kind." if len(same) > 1 else ""
        message = tables.clean(first.message, 400)
        sentence = f"{message[:1].upper()}{message[1:].rstrip('.')}."
        rows.append([first.severity, sentence + more])
    further = tuple((severity, text) for severity, text in rows[MOST_NOTES:])
    assumption = (
        "The law is assumed to hold beyond the runs: the intervals cover the noise of the runs, "
        "not a systematic deviation from the law. A training recipe that is tuned at one size and "
        "poor at another causes such a deviation."
    )
    if fit.forecast is not None:
        share = f"{fit.forecast.discrepancy:.0%}"
        why = "less than" if fit.forecast.two_terms else "as"
        assumption = (
            f"Beyond the runs {share} of the gain in ln loss is taken to be missed (r.m.s.), {why} "
            "in public sweeps. A training recipe that is tuned at one size and poor at another "
            "misses more."
        )
    return rows[:MOST_NOTES], further, ["info", assumption]


def _with_interval(number: Number, form: Callable[[float], str]) -> list[str]:
    """A value and its interval."""
    if number.low is None or number.high is None:
        return [form(number.value), DASH]
    ends = (form(v) if math.isfinite(v) else "unbounded" for v in (number.low, number.high))
    return [form(number.value), " to ".join(ends)]
