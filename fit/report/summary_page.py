"""The content of a report as plain JSON values, page 1 first, for any output format.

`report_content` is the report of a fit, `shape_report_content` that of runs of several shapes to
which no law is fitted. Page 1 has the recommendation, the answers at two budgets, and what supports
and what limits them; the sections after it come from `sections.py`.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fit.allocation.costs import ReportRequest
from fit.allocation.scaling_law import (
    FURTHER,
    ScalingLaw,
    fit_of,
    further_budget,
)
from fit.data.table import RunTable
from fit.diagnostics.scans import SKILL_LEVEL, ShapeSkills, SkillExcess
from fit.errors import RefusedError
from fit.forecasts.ledger import Ledger
from fit.quantities import count_noun, option_name, percent, power, short, three_digits
from fit.query.answer import answer
from fit.query.documents import Answer, Number
from fit.query.question import Question
from fit.query.warnings import UNCOMPARED, cross_check_remark
from fit.report import tables
from fit.report.context_plots import TOTAL, shapes_shown, skills_caption, skills_shown
from fit.report.figures import SHAPES, figure_inputs
from fit.report.sections import report_sections
from fit.report.tables import FigureBlock, Section, Table, left, right
from fit.report.text import DASH, TIMES, approach_name
from fit.results import (
    DOUBTFUL_KAPPA,
    REFUSED_KAPPA,
    Fit,
    Note,
    is_doubtful,
    kappa_of,
    kappa_text,
)

MOST_NOTES = 6
"""Kinds of notes on page 1, the most severe first; all stand in `fit.json`."""


def report_content(
    source: ScalingLaw,
    *,
    folder: str = "",
    drawn: Collection[str] = (),
    request: ReportRequest | None = None,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    """Everything on the pages of a report except its figures, as plain JSON values.

    Args:
        source: A fit as a source.
        folder: Folder of its `fit.json`, for the command that launches; FOLDER if empty.
        drawn: Names of the figures that were drawn.
        request: Plots and prices that are requested beside the fit.
        ledger: Sealed forecasts, where there are any.

    Raises:
        QueryError: The request cannot be met, such as an unknown device.
    """
    fit = fit_of(source)
    inputs = figure_inputs(source, request)
    budgets: tuple[float, ...] = (
        () if inputs.best is None else (fit.range["flops"].high, further_budget(source))
    )
    answers, refusal = _answers(source, budgets)
    recommendation = answers[-1] if answers and refusal is None else None
    sections = report_sections(inputs, drawn, recommendation, ledger)
    return {
        "name": tables.clean(fit.name),
        "refused": fit.verdict.refused,
        **fit.verdict.document(),
        "about": _about(source),
        "summary": _recommendation(fit, recommendation)
        if recommendation
        else _no_recommendation(source, refusal),
        "answers": _answer_table(answers),
        "level": percent(fit.interval.level),
        "checks": [*_checks(fit), *_forecast_check(ledger)],
        "limitations": _limitations(fit, recommendation),
        "launch": _launch_command(folder or "FOLDER", recommendation),
        "sections": [dataclasses.asdict(s) for s in sections],
    }


def _answers(
    source: ScalingLaw, budgets: Sequence[float]
) -> tuple[list[Answer], RefusedError | None]:
    """The answers at budgets up to the first that is refused, and that refusal."""
    answers: list[Answer] = []
    for flops in budgets:
        try:
            answers.append(answer(Question(source=source, flops=flops)))
        except RefusedError as error:
            return answers, error
    return answers, None


def _about(source: ScalingLaw) -> str:
    """The line under the name: law, runs and counting conventions."""
    basis = tables.basis_words(fit_of(source))
    return (
        "${formula}$ fitted to {used} runs, {dropped} dropped. $N$ is counted as {params}, $C$ as "
        "{flops}."
    ).format(formula=source.law.formula, **basis)


def _launch_command(folder: str, recommendation: Answer | None) -> str | None:
    """The command that launches the recommendation, where it has a shape."""
    if recommendation is None or not recommendation.config:
        return None
    flops = power(recommendation.flops.value)
    query = f"isoflop query {flops} --fit {shlex.quote(folder)} --config"
    return tables.clean(f"{query} | xargs -r python -m sweep")


def _recommendation(fit: Fit, a: Answer) -> list[list[str]]:
    """The sentences on top: [style, words], the style one of strong, loud, number or none."""
    n, d, level = a.params, a.tokens, percent(fit.interval.level)
    ends = (a.loss_next_run.low, a.loss_next_run.high)
    low, high = (DASH if v is None else f"{v:.3f}" for v in ends)
    parts = [
        ["", "With "],
        ["number", power(a.flops.value)],
        ["", f" FLOP, {FURTHER:g} times the largest budget fitted, train "],
        ["strong", f"{short(n.value)} parameters"],
        ["", f" ({_range(n, level)}) on "],
        ["strong", f"{short(d.value)} tokens"],
        ["", ". The expected loss is "],
        ["strong", f"{a.loss.value:.3f} nats/token"],
        ["", f"; a single run should land between {low} and {high} ({level})."],
    ]
    if a.regret_band is not None:
        band = f"{short(a.regret_band.low)} to {short(a.regret_band.high)}"
        parts.append(["", f" Any size from {band} parameters is as good within one run's noise."])
    if is_doubtful(fit):
        parts.append(["loud", " The fit is doubtful; read the notes below before spending."])
    return parts


def _no_recommendation(source: ScalingLaw, refusal: RefusedError | None) -> list[list[str]]:
    """The sentences on top where nothing is recommended, with the reason."""
    law, doubtful = source.law, is_doubtful(fit_of(source))
    doubt = [["loud", " The fit is doubtful; read the notes below first."]] if doubtful else []
    if law.target != "loss":
        return [
            ["loud", f"This law predicts the best {tables.target_name(law.name)}"],
            ["", " from a model's size and tokens. It predicts no loss and splits no budget. "],
            ["", "To use it: isoflop predict --params N --tokens D"],
            *doubt,
        ]
    if law.further:
        options = " ".join(f"{option_name(c)} X" for c in law.further)
        return [
            ["loud", "This law predicts a loss"],
            ["", f" from {', '.join(law.columns)}; on its own it splits no budget. "],
            ["", f"To use it: isoflop predict --params N --tokens D {options}"],
            *doubt,
        ]
    reason = fit_of(source).verdict.reason if refusal is None else refusal.reason
    text = (
        f" {tables.clean(reason[:1].upper() + reason[1:])} The notes below say what the runs lack."
    )
    return [["loud", "No recommendation."], ["", text]]


def _range(number: Number, level: str) -> str:
    """The interval of a count in words."""
    if number.low is None or number.high is None:
        return "no interval"
    return f"{level}: {short(number.low)} to {short(number.high)}"


def _answer_table(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """The table of page 1: heads [words, budget], rows [label, a cell or two per answer]."""
    if not answers:
        return None
    labels = ("largest budget fitted", f"{FURTHER:g} times that")
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
    band, s = a.regret_band, a.shape
    shape = f"{s.width} wide, {s.depth} deep, {s.heads} heads" if s else DASH
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
        "Shape to launch": [shape],
        "Its parameters on tokens": [counts],
        "Learning rate, hidden matrices": [f"{a.lr:.3g}" if a.lr else DASH],
        "Batch at the end [tokens]": [f"{a.batch_tokens}" if a.batch_tokens else DASH],
    }


def _checks(fit: Fit) -> list[list[str]]:
    """Results of the checks in words: [grade, text], the grade one of good, fair, bad."""
    kappa, kappa_words = kappa_of(fit), f"condition number {kappa_text(fit)}"
    hardly = "do not determine" if kappa > REFUSED_KAPPA else "barely determine"
    rows = [
        [
            "good" if fit.status == "converged" else "bad",
            f"The fit is {fit.status.replace('_', ' ')} on {count_noun(fit.runs_used, 'run')}.",
        ],
        [
            "good" if kappa < DOUBTFUL_KAPPA else "fair" if kappa < REFUSED_KAPPA else "bad",
            f"The runs determine the parameters: {kappa_words}, doubtful from {DOUBTFUL_KAPPA:g}."
            if kappa < DOUBTFUL_KAPPA
            else f"The runs {hardly} the parameters: {kappa_words}.",
        ],
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


def _forecast_check(ledger: Ledger | None) -> list[list[str]]:
    """The share of sealed forecasts whose interval contained the measured loss."""
    if ledger is None or not ledger.counted or ledger.level is None:
        return []
    n, hits = len(ledger.counted), ledger.hits
    text = (
        f"Of {count_noun(n, 'sealed forecast')} {hits} came true: their intervals promise "
        f"{percent(ledger.level)}."
    )
    return [["good" if hits >= ledger.level * n - 1 else "bad", text]]


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


def _limitations(fit: Fit, recommendation: Answer | None) -> list[list[str]]:
    """Notes on the answer and the fit, the most severe first, one of a kind: [severity, text]."""
    order = ("serious", "warning", "info")
    warnings = () if recommendation is None else recommendation.warnings
    codes = {n.code for n in warnings}
    notes: list[Note] = [*warnings, *(n for n in fit.notes if n.code not in codes)]
    kinds: dict[str, dict[str, Note]] = {}
    for note in sorted(notes, key=lambda n: order.index(n.severity)):
        kinds.setdefault(note.code, {})[note.message] = note
    rows = []
    for same in list(kinds.values())[:MOST_NOTES]:
        first = next(iter(same.values()))
        more = f" And {len(same) - 1} more of this kind." if len(same) > 1 else ""
        message = tables.clean(first.message, 400)
        sentence = f"{message[:1].upper()}{message[1:].rstrip('.')}."
        rows.append([first.severity, sentence + more])
    assumption = (
        "The law is assumed to hold beyond the runs: the intervals cover the noise of the runs, "
        "not a systematic deviation from the law. A training recipe that is tuned at one size and "
        "poor at another causes such a deviation."
    )
    return [*rows, ["info", assumption]]


def _with_interval(number: Number, form: Callable[[float], str]) -> list[str]:
    """A value and its interval."""
    if number.low is None or number.high is None:
        return [form(number.value), DASH]
    return [form(number.value), f"{form(number.low)} to {form(number.high)}"]


def shape_report_content(
    name: str, table: RunTable, shapes: Sequence[ShapeSkills]
) -> dict[str, Any]:
    """The content of a report on runs of several shapes to which no law is fitted.

    Args:
        name: Name of the report.
        table: The runs.
        shapes: Their losses by skill and shape.
    """
    rows = shapes_shown(shapes)
    shown = skills_shown(rows)
    best = min(rows, key=lambda r: r.excess[TOTAL].mean)
    length = short(rows[0].tokens)
    sections = (
        Section(
            title=SHAPES,
            blocks=(
                FigureBlock(name="skills", caption=skills_caption(shapes)),
                _skill_table(shapes, shown),
            ),
        ),
    )
    about = (
        f"{count_noun(len(table), 'run')} of {count_noun(len(rows), 'shape')} at {length} tokens"
    )
    return {
        "name": tables.clean(name),
        "refused": False,
        "about": f"{about}. Losses are given as the excess over a perfect predictor, whose "
        "loss is known.",
        "summary": [
            ["", "Of these shapes "],
            ["strong", f"width {best.width}, depth {best.depth}"],
            ["", f" has the lowest loss, {_excess_text(best.excess[TOTAL])} thousandths of a nat "],
            ["", "per token above a perfect predictor."],
        ],
        "answers": None,
        "level": percent(SKILL_LEVEL),
        "checks": [_skill_check(rows, s) for s in shown],
        "limitations": _shape_limitations(rows),
        "launch": None,
        "sections": [dataclasses.asdict(s) for s in sections],
    }


def _skill_check(rows: Sequence[ShapeSkills], skill: str) -> list[str]:
    """The best and the worst shape for a skill, and whether the seeds distinguish them."""
    first, *_, last = sorted(rows, key=lambda r: r.excess[skill].mean)
    a, b = first.excess[skill], last.excess[skill]
    distinct = b.mean - a.mean > math.hypot(a.error, b.error)
    name = "All skills" if skill == TOTAL else skill.capitalize()
    text = (
        f"{name}: lowest at {_shape_text(first)}, {_excess_text(a)}; highest at "
        f"{_shape_text(last)}, {_excess_text(b)}; the seeds "
        f"{'distinguish' if distinct else 'do not distinguish'} them."
    )
    return ["good" if distinct else "fair", text]


def _shape_limitations(rows: Sequence[ShapeSkills]) -> list[list[str]]:
    """What the comparison of shapes does not control: [severity, text]."""
    sizes = [r.params for r in rows]
    if max(sizes) > 1.1 * min(sizes):
        text = (
            f"The shapes differ in size, {short(min(sizes))} to {short(max(sizes))} parameters: "
            "an apparent effect of width or depth may be one of size."
        )
        limitations = [["warning", text]]
    else:
        text = f"The shapes have one size, about {short(sum(sizes) / len(sizes))} parameters."
        limitations = [["info", text]]
    if min(r.seeds for r in rows) < 3:
        text = "A shape was run with fewer than three seeds: its interval is not informative."
        limitations.append(["warning", text])
    text = (
        "All shapes share one training recipe: a learning rate that suits one depth better than "
        "another would appear as an effect of depth. The result holds for one data set, one length "
        "and this size only."
    )
    return [*limitations, ["info", text]]


def _skill_table(shapes: Sequence[ShapeSkills], shown: Sequence[str]) -> Table:
    """The excess loss of each skill for every shape and length."""
    rows = tuple(
        (
            _shape_text(r),
            short(r.params),
            short(r.tokens),
            str(r.seeds),
            *(_excess_text(r.excess[s]) for s in shown),
        )
        for r in shapes
    )
    heads = ("$N$", "$D$", "seeds", *("all skills" if s == TOTAL else s for s in shown))
    return Table(
        columns=(left(f"width{TIMES}depth"), *map(right, heads)),
        rows=rows,
        caption="Excess loss of each skill over a perfect predictor [nats/1000 per token], mean "
        f"over seeds and half of its {percent(SKILL_LEVEL)} interval.",
        dense=True,
    )


def _shape_text(row: ShapeSkills) -> str:
    """Width by depth."""
    return f"{row.width}{TIMES}{row.depth}"


def _excess_text(excess: SkillExcess) -> str:
    """Mean and half of the interval, in thousandths of a nat."""
    error = f" ±{1e3 * excess.error:.2f}" if math.isfinite(excess.error) else ""
    return f"{1e3 * excess.mean:.2f}{error}"
