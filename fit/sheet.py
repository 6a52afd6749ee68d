"""What a report says on its first page, as plain words and numbers for any printer."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fit import tables
from fit.bands import FURTHER, further_budget, splits_budgets
from fit.chapters import caption_words, chapters
from fit.costs import NOTHING, cost_words, price_table, regret_table
from fit.doubts import (
    DOUBTFUL_KAPPA,
    REFUSED_KAPPA,
    UNCOMPARED,
    doubtful,
    kappa_of,
    kappa_text,
    refused,
    verdict,
)
from fit.forms import option
from fit.ledger import Ledger
from fit.prices import Asked
from fit.quantity import counted, percent, power, short, three
from fit.query import Answer, Number, Question, answer
from fit.result import Fit, Note
from fit.source import Source

MOST_DOUBTS = 6
"""Kinds of doubt on page 1, the gravest; all stand in `fit.json`."""
TIMES = "\N{MULTIPLICATION SIGN}"


def sheet(
    source: Source,
    *,
    folder: str = "",
    drawn: Collection[str] = (),
    asked: Asked | None = None,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    """Everything on the pages of a report but its figures; plain JSON values.

    Args:
        source: A fit as a source.
        folder: Where its `fit.json` lies, for the command that launches; none is FOLDER.
        drawn: Names of the figures that there are.
        asked: What is asked for beside the fit.
        ledger: Forecasts that were sealed, where there are any.

    Raises:
        QueryError: What is asked for cannot be meant.
    """
    fit = source.fit
    assert fit is not None
    top = fit.range["flops"].high
    budgets = () if refused(fit) or not splits_budgets(source) else (top, further_budget(source))
    answers = [answer(Question(source=source, flops=c)) for c in budgets]
    further = answers[-1] if answers else None
    times = three(FURTHER).rstrip("0").rstrip(".")
    asked = asked or Asked()
    words = {**caption_words(source, times), **(cost_words(source, asked) if answers else NOTHING)}
    costs = [t for t in (regret_table(source), price_table(source, asked)) if t is not None]
    sections = chapters(source, drawn, words, further, costs, ledger)
    return {
        "name": tables.clean(fit.name),
        "refused": refused(fit),
        "about": _about(words),
        "verdict": _verdict(source, further, times),
        "answers": _answers(answers, times),
        "level": percent(fit.interval.level),
        "sure": [*_sure(fit), *_kept(ledger)],
        "wrong": _wrong(fit, further),
        "launch": None if further is None else _launch(folder or "FOLDER", further),
        "sections": [dataclasses.asdict(s) for s in sections],
    }


def _about(words: Mapping[str, str]) -> str:
    """The line under the name."""
    return (
        "${formula}$ fitted to {used} runs, {dropped} dropped. Counting: $N$ {params}, $C$ {flops}."
    ).format_map(words)


def _launch(folder: str, a: Answer) -> str | None:
    """The command that launches the second answer, where there is one to launch."""
    if not a.config:
        return None
    asked = f"isoflop query {power(a.flops.value)} --fit {shlex.quote(folder)} --config"
    return tables.clean(f"{asked} | xargs -r python -m sweep")


def _verdict(source: Source, a: Answer | None, times: str) -> list[list[str]]:
    """The sentences on top: [style, words], the style one of strong, loud, number or none."""
    fit = source.fit
    assert fit is not None
    if a is None:
        return _no_recommendation(source)
    n, d, level = a.params, a.tokens, percent(fit.interval.level)
    low, high = _end(a.loss_next_run.low, ".3f"), _end(a.loss_next_run.high, ".3f")
    parts = [
        ["", "With "],
        ["number", power(a.flops.value)],
        ["", f" FLOP, {times} times the largest budget fitted, train "],
        ["strong", f"{short(n.value)} parameters"],
        ["", f" ({_range(n, level)}) on "],
        ["strong", f"{short(d.value)} tokens"],
        ["", ". Expect a loss of "],
        ["strong", f"{a.loss.value:.3f} nats/token"],
        ["", f" and one such run to land between {low} and {high} ({level})."],
    ]
    if a.regret_band is not None:
        band = f"{short(a.regret_band.low)} to {short(a.regret_band.high)}"
        parts.append(["", f" Any size from {band} parameters is as good, within one run's noise."])
    if doubtful(fit):
        parts.append(["loud", " The fit is doubtful; read below before spending."])
    return parts


def _no_recommendation(source: Source) -> list[list[str]]:
    """Why page 1 recommends nothing."""
    law, fit = source.law, source.fit
    assert fit is not None
    doubt = [["loud", " The fit is doubtful; read below first."]] if doubtful(fit) else []
    if law.target != "loss":
        return [
            ["loud", f"This law predicts the best {tables.target_name(law.name)}"],
            ["", " of a model's size and tokens. It is no loss, and splits no budget. "],
            ["", "Ask it: isoflop predict --params N --tokens D"],
            *doubt,
        ]
    if law.further:
        asked = " ".join(f"{option(c)} X" for c in law.further)
        return [
            ["loud", "This law predicts a loss"],
            ["", f" from {', '.join(law.columns)}; alone it splits no budget. "],
            ["", f"Ask it: isoflop predict --params N --tokens D {asked}"],
            *doubt,
        ]
    text = (
        " These runs cannot tell the law's parameters apart, so the best split of a budget is not "
        "known and none is shown. What the runs lack stands below."
    )
    return [["loud", "No recommendation."], ["", text]]


def _range(number: Number, level: str) -> str:
    """An interval of a count in words."""
    if number.low is None or number.high is None:
        return "no interval"
    return f"{level}: {short(number.low)} to {short(number.high)}"


def _answers(answers: Sequence[Answer], times: str) -> dict[str, Any] | None:
    """The table of page 1: heads [words, budget], rows [label, a cell or two per answer]."""
    if not answers:
        return None
    labels = ("largest budget fitted", f"{times} times that")
    heads = [[w, power(a.flops.value)] for w, a in zip(labels, answers, strict=True)]
    columns = [_answer(a) for a in answers]
    rows = [
        [label, [c[label] for c in columns]]
        for label in columns[0]
        if any(c[label] != [tables.DASH] for c in columns)
    ]
    return {"heads": heads, "rows": rows}


def _answer(a: Answer) -> dict[str, list[str]]:
    """One column of the table of answers: value and interval, or one text, per label."""
    band, s = a.regret_band, a.shape
    shape = f"{s.width} wide, {s.depth} deep, {s.heads} heads" if s else tables.DASH
    own = tables.DASH
    if a.shape_params is not None and a.shape_tokens is not None:
        own = f"{short(a.shape_params)} on {short(a.shape_tokens)}"
    return {
        "Parameters $N^*$": _ends(a.params, short),
        "Training tokens $D^*$": _ends(a.tokens, short),
        "Tokens per parameter": _ends(a.tokens_per_param, three),
        "Loss, the law [nats/token]": _ends(a.loss, "{:.4f}".format),
        "Loss, next run (prediction)": _ends(a.loss_next_run, "{:.4f}".format),
        "Just as good: $N$ within noise": [
            f"{short(band.low)} to {short(band.high)}" if band else tables.DASH
        ],
        "Reach beyond the runs": [f"{TIMES}{three(a.reach)}" if a.reach else tables.DASH],
        "Shape to launch": [shape],
        "Its parameters on tokens": [own],
        "Learning rate, hidden matrices": [f"{a.lr:.3g}" if a.lr else tables.DASH],
        "Batch at the end [tokens]": [f"{a.batch_tokens}" if a.batch_tokens else tables.DASH],
    }


def _sure(fit: Fit) -> list[list[str]]:
    """Checks in words: [verdict, text], the verdict one of good, fair, bad."""
    kappa, shown = kappa_of(fit), f"condition number {kappa_text(fit)}"
    well = f"The runs tell the parameters apart: {shown}, healthy below {DOUBTFUL_KAPPA:g}."
    hardly = "do not" if kappa > REFUSED_KAPPA else "barely"
    badly = f"The runs {hardly} tell the parameters apart: {shown}."
    rows = [
        [
            "good" if fit.status == "converged" else "bad",
            f"The fit is {fit.status.replace('_', ' ')} on {counted(fit.runs_used, 'run')}.",
        ],
        [
            "good" if kappa < DOUBTFUL_KAPPA else "fair" if kappa < REFUSED_KAPPA else "bad",
            well if kappa < DOUBTFUL_KAPPA else badly,
        ],
    ]
    rows += [_holdout_check(fit)] if fit.holdout else []
    rows += [_agreement(fit)] if fit.cross_checks else []
    known, found = fit.data.get("entropy"), fit.theta.get("E")
    if known and found:
        low, high = fit.interval.bounds.get("E", (math.nan, math.nan))
        inside = low <= known <= high
        where = "inside" if inside else "outside"
        text = (
            f"The data's entropy is known: {known:.4f} nats/token, {where} the interval of the "
            f"fitted E, {found:.4f}."
        )
        rows.append(["good" if inside else "fair", text])
    return rows


def _kept(ledger: Ledger | None) -> list[list[str]]:
    """How many sealed forecasts came true."""
    if ledger is None or not ledger.counted or ledger.level is None:
        return []
    n, hits = len(ledger.counted), ledger.hits
    text = (
        f"Of {counted(n, 'sealed forecast')} {hits} came true: their intervals promise "
        f"{percent(ledger.level)}."
    )
    return [["good" if hits >= ledger.level * n - 1 else "bad", text]]


def _holdout_check(fit: Fit) -> list[str]:
    """How the smaller runs predicted the largest budget."""
    h = fit.holdout
    assert h is not None
    error = abs(h.max_relative_error)
    grade = "good" if error < 0.01 else "fair" if error < 0.03 else "bad"
    mean = tables.signed(h.mean_relative_error, "+.2%")
    text = (
        f"Fitted without the largest budget, the law predicts it to {mean} on average, {error:.2%} "
        f"at worst ({counted(len(h.runs), 'run')})."
    )
    return [grade, text]


def _agreement(fit: Fit) -> list[str]:
    """Whether the other approaches agree."""
    against = [c for c in fit.cross_checks if c.disagrees]
    given = [c for c in fit.cross_checks if c.a is not None and verdict(fit, c) != UNCOMPARED]
    if not given:
        return ["fair", "No other approach could be run on these runs as a cross-check."]
    named = " and ".join(
        f"{tables.APPROACHES.get(c.name, c.name)}, {c.a:.3f}" for c in against or given
    )
    own = f"The exponent of N*, {fit.exponents['a']:.3f},"
    if against:
        return ["bad", f"{own} disagrees with approach {named}."]
    return ["good", f"{own} agrees with approach {named}."]


def _wrong(fit: Fit, further: Answer | None) -> list[list[str]]:
    """What could make the answer wrong, the gravest first, one of a kind: [severity, text]."""
    order = ("serious", "warning", "info")
    answered = () if further is None else further.warnings
    told = {n.code for n in answered}
    notes: list[Note] = [*answered, *(n for n in fit.notes if n.code not in told)]
    kinds: dict[str, dict[str, Note]] = {}
    for note in sorted(notes, key=lambda n: order.index(n.severity)):
        kinds.setdefault(note.code, {})[note.message] = note
    rows = []
    for same in list(kinds.values())[:MOST_DOUBTS]:
        first = next(iter(same.values()))
        more = f" And {len(same) - 1} more of this kind." if len(same) > 1 else ""
        rows.append([first.severity, _sentence(tables.clean(first.message, 400)) + more])
    standing = (
        "The law is assumed to hold beyond the runs: the intervals cover the runs' noise, not a "
        "law that bends. A recipe tuned at one size and poor at another bends it."
    )
    return [*rows, ["info", standing]]


def _sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _ends(number: Number, form: Any) -> list[str]:
    """A value and its interval."""
    if number.low is None or number.high is None:
        return [form(number.value), tables.DASH]
    return [form(number.value), f"{form(number.low)} to {form(number.high)}"]


def _end(value: float | None, form: str) -> str:
    """One end of an interval."""
    return tables.DASH if value is None else format(value, form)
