"""What a report says on its first page, as plain words and numbers for any printer.

What the section on costs says: the price of the next 0.01 nats, serving, repeats, in words.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fit.allocation.costs import (
    USUAL_MFU,
    ReportRequest,
    next_price,
    serving_costs,
    with_unique_tokens,
)
from fit.allocation.scaling_law import (
    FURTHER,
    ScalingLaw,
    fit_of,
    further_budget,
    identified_frontier,
    splits_budgets,
)
from fit.forecasts.ledger import Ledger
from fit.laws.families import ENDLESS, borrows_repeat_constants
from fit.laws.law import option
from fit.quantities import count_noun, percent, power, short, three_digits
from fit.query.answer import answer
from fit.query.question import Answer, Number, Question, Regret
from fit.query.warnings import UNCOMPARED, cross_check_remark
from fit.report import tables
from fit.report.sections import caption_words, chapters
from fit.report.tables import Table, left, math_power, right
from fit.results import (
    DOUBTFUL_KAPPA,
    REFUSED_KAPPA,
    Fit,
    Note,
    is_doubtful,
    is_identified,
    kappa_of,
    kappa_text,
)

MOST_DOUBTS = 6
"""Kinds of doubt on page 1, the gravest; all stand in `fit.json`."""
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING: Mapping[str, str] = MappingProxyType({"serving": "", "repeats": ""})


def report_content(
    source: ScalingLaw,
    *,
    folder: str = "",
    drawn: Collection[str] = (),
    asked: ReportRequest | None = None,
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
    answerable = is_identified(fit) and splits_budgets(source)
    budgets = (top, further_budget(source)) if answerable else ()
    answers = [answer(Question(source=source, flops=c)) for c in budgets]
    further = answers[-1] if answers else None
    times = three_digits(FURTHER).rstrip("0").rstrip(".")
    asked = asked or ReportRequest()
    words = {
        **caption_words(source, times),
        **(cost_captions(source, asked) if answers else NOTHING),
    }
    costs = [t for t in (regret_table(source), price_table(source, asked)) if t is not None]
    sections = chapters(source, drawn, words, further, costs, ledger)
    return {
        "name": tables.clean(fit.name),
        "refused": not is_identified(fit),
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


def _verdict(source: ScalingLaw, a: Answer | None, times: str) -> list[list[str]]:
    """The sentences on top: [style, words], the style one of strong, loud, number or none."""
    fit = source.fit
    assert fit is not None
    if a is None:
        return _no_recommendation(source)
    n, d, level = a.params, a.tokens, percent(fit.interval.level)
    low, high = (
        _interval_end(a.loss_next_run.low, ".3f"),
        _interval_end(a.loss_next_run.high, ".3f"),
    )
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
    if is_doubtful(fit):
        parts.append(["loud", " The fit is doubtful; read below before spending."])
    return parts


def _no_recommendation(source: ScalingLaw) -> list[list[str]]:
    """Why page 1 recommends nothing."""
    law, fit = source.law, source.fit
    assert fit is not None
    doubt = [["loud", " The fit is doubtful; read below first."]] if is_doubtful(fit) else []
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
        "Tokens per parameter": _ends(a.tokens_per_param, three_digits),
        "Loss, the law [nats/token]": _ends(a.loss, "{:.4f}".format),
        "Loss, next run (prediction)": _ends(a.loss_next_run, "{:.4f}".format),
        "Just as good: $N$ within noise": [
            f"{short(band.low)} to {short(band.high)}" if band else tables.DASH
        ],
        "Reach beyond the runs": [f"{TIMES}{three_digits(a.reach)}" if a.reach else tables.DASH],
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
            f"The fit is {fit.status.replace('_', ' ')} on {count_noun(fit.runs_used, 'run')}.",
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
        f"Of {count_noun(n, 'sealed forecast')} {hits} came true: their intervals promise "
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
        f"at worst ({count_noun(len(h.runs), 'run')})."
    )
    return [grade, text]


def _agreement(fit: Fit) -> list[str]:
    """Whether the other approaches agree."""
    against = [c for c in fit.cross_checks if c.disagrees]
    given = [
        c for c in fit.cross_checks if c.a is not None and cross_check_remark(fit, c) != UNCOMPARED
    ]
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


def _interval_end(value: float | None, form: str) -> str:
    """One end of an interval."""
    return tables.DASH if value is None else format(value, form)


def price_table(source: ScalingLaw, asked: ReportRequest) -> Table | None:
    """The next 0.01 nats at the two budgets of page 1; None without a frontier.

    Raises:
        QueryError: The device is not known, or a number cannot be meant.
    """
    best = identified_frontier(source)
    if best is None:
        return None
    budgets = np.array([fit_of(source).range["flops"].high, further_budget(source)])
    price = next_price(source, budgets)
    level = percent(best.level)
    rows = []
    for i, flops in enumerate(budgets):
        value = float(price.value[i])
        if not np.isfinite(value):
            rows.append((power(flops), "never", "the law's E is nearer", tables.DASH, tables.DASH))
            continue
        ends = f"{power(float(price.low[i]))} to {_price_end(float(price.high[i]))}"
        money = asked.dollars(value)
        dollars = tables.DASH if money is None else _dollars(money)
        rows.append(
            (power(flops), power(value), ends, f"{TIMES}{three_digits(value / flops)}", dollars)
        )
    text = "The price of the next 0.01 nats/token, when both budgets are split best."
    columns = (
        left("budget [FLOP]", "number"),
        right("FLOP more", "number"),
        left(f"{level} interval", "span"),
        right("over the budget"),
    )
    if asked.dollars(1.0) is None:
        return Table(columns=columns, rows=tuple(r[:4] for r in rows), caption=text)
    text += (
        f" Dollars at {three_digits(asked.price or 0)} per hour of {asked.device}, MFU "
        f"{three_digits(asked.mfu or USUAL_MFU)}{'' if asked.mfu else ' (assumed)'}."
    )
    return Table(columns=(*columns, right("dollars")), rows=tuple(rows), caption=text)


def regret_table(source: ScalingLaw) -> Table | None:
    """What other sizes cost than the one that page 1 recommends; None without a frontier."""
    if identified_frontier(source) is None:
        return None
    found = answer(Question(source=source, flops=further_budget(source), regret=True))
    rows = tuple(_regret(r) for r in found.regret)
    columns = (
        right("size over $N^*$"),
        right("parameters"),
        right("loss, same budget"),
        right("training, same loss"),
        right("FLOP per served token", "number"),
        right("serving"),
        right("pays after serving"),
    )
    text = (
        "Other sizes than the recommended one: the loss that they give up at the same budget "
        "[nats/token], the training compute that they need for the same loss, and what they save "
        "in serving. The last column is how many served tokens make up for the dearer training."
    )
    return Table(columns=columns, rows=rows, caption=text) if rows else None


def _regret(r: Regret) -> tuple[str, ...]:
    """One size."""
    pays = r.break_even_tokens
    up = r.compute_up.value
    saved = tables.signed(-r.serving_saved, "+.0%") if r.serving_saved else tables.DASH
    return (
        f"{TIMES}{r.size:g}",
        short(r.params),
        tables.signed(r.loss_up.value, "+.4f") if r.size != 1 else tables.DASH,
        _dearer(up) if r.size != 1 else tables.DASH,
        power(r.serving_flops_per_token),
        saved,
        short(pays.value) if pays is not None and np.isfinite(pays.value) else tables.DASH,
    )


def _dearer(share: float) -> str:
    """Training compute over the least, less one."""
    return tables.signed(share, "+.1%") if np.isfinite(share) else "not at any"


def cost_captions(source: ScalingLaw, asked: ReportRequest) -> dict[str, str]:
    """The captions of what was asked for: serving and repeats."""
    return {"serving": _serving(source, asked), "repeats": _repeats(source, asked)}


def _serving(source: ScalingLaw, asked: ReportRequest) -> str:
    """Which size is cheapest in all."""
    if asked.serve_tokens is None:
        return ""
    found = serving_costs(source, further_budget(source), asked.serve_tokens)
    if found is None:
        return ""
    i = found.cheapest
    n, d = float(found.params[i]), float(found.tokens[i])
    at_optimum = float(np.interp(found.optimum, found.params, found.total))
    return (
        f"Training and serving {short(asked.serve_tokens)} tokens at one loss, "
        f"{found.loss:.4f} nats/token, that of page 1's recommendation. Cheapest in all: "
        f"{short(n)} parameters ({three_digits(n / found.optimum)} of the compute-optimal) trained "
        f"on {short(d)} tokens, {1 - float(found.total[i]) / at_optimum:.0%} less than with $N^*$. "
        "A served token costs a third of a trained one (Sardana et al. 2024, arXiv:2401.00448)."
    )


def _repeats(source: ScalingLaw, asked: ReportRequest) -> str:
    """What few unique tokens cost."""
    if asked.unique_tokens is None:
        return ""
    scarce, endless = (with_unique_tokens(source, u) for u in (asked.unique_tokens, ENDLESS))
    if scarce is None or endless is None:
        return ""
    flops = further_budget(source)
    fresh, limited = (s.best(np.array([flops])) for s in (endless, scarce))
    lost = float(np.exp(limited.log_loss[0]) - np.exp(fresh.log_loss[0]))
    n, d = float(np.exp(limited.log_params[0])), float(np.exp(limited.log_tokens[0]))
    return (
        f"With {short(asked.unique_tokens)} unique tokens. Left: the least loss of each budget, "
        "and with fresh tokens throughout. Right: how often the best split sees the data. At "
        f"{math_power(power(flops))} FLOP it is {short(n)} parameters on {short(d)} tokens, "
        f"{three_digits(d / asked.unique_tokens)} epochs, and the limit costs "
        f"{lost:.4f} nats/token."
    ) + (
        " What repeats are worth is borrowed from Muennighoff et al. 2023, arXiv:2305.16264, and "
        "has no interval."
        if borrows_repeat_constants(scarce.law)
        else ""
    )


def _dollars(money: float) -> str:
    """A price; nobody pays by the thousandth of a cent."""
    if money < 0.01:
        return "under a cent"
    return f"${money:,.2f}" if money < 1e4 else f"${short(money)}"


def _price_end(value: float) -> str:
    """The upper end of an interval."""
    return power(value) if np.isfinite(value) else "unbounded"
