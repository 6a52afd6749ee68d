"""The two-page brief of a report: the question, its facts, what to run next and what it costs.

Page 1 states the question that the user put (`read_request`), or the default, and the answer; page
2 says what would change it, what to run next and the price. Every number comes from the `Answer`.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fit.allocation.costs import ReportRequest, next_price
from fit.allocation.scaling_law import FURTHER, ScalingLaw, fit_of, further_budget, splits_budgets
from fit.errors import FieldError, QueryError, RefusedError
from fit.quantities import (
    DEFAULT_MFU,
    option_name,
    percent,
    power,
    short,
    three_digits,
    with_commas,
)
from fit.query.answer import answer
from fit.query.budget import machine_of
from fit.query.documents import Answer, Regret
from fit.query.launch import launch_line
from fit.query.question import BUDGETS, FIELDS, Question
from fit.query.question import question as question_of
from fit.query.sensitivity import limit_text
from fit.report import tables
from fit.report.captions import figure_block
from fit.report.figures import PRICES, FigureInputs
from fit.report.tables import Block, NoteList, Paragraph, Section, Table, left, right
from fit.report.text import DASH, TIMES, constraint_text
from fit.results import Fit

PRICED = ("serve_tokens", "unique_tokens", "price", "device", "mfu")
"""Fields that alone put no question: they add charts and prices to the default one."""
SHARE_FOR_RUNS = 0.1
"""Of the budget, proposed for runs that narrow the answer."""


def read_request(
    source: ScalingLaw, fields: Mapping[str, str | None]
) -> tuple[ReportRequest, Question | None]:
    """The charts, prices and question that fields of `question.FIELDS` ask of a report.

    A limit without a budget is asked at the default budget, ten times the largest one fitted.

    Args:
        source: A fit as a source.
        fields: Values by name, as people type them; None is as if it were not there.

    Returns:
        The request, and the question; None where the fields put none.

    Raises:
        FieldError: A field that is unknown, cannot be read, is missing or one too many.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    values: dict[str, object] = {}
    for name in given.keys() & set(PRICED):
        try:
            values[name] = FIELDS[name].read(str(given[name]), name)
        except QueryError as error:
            raise FieldError(str(error), name) from error
    request = ReportRequest(**values)  # type: ignore[arg-type]
    if given.keys() <= set(PRICED):
        return request, None
    budget = {} if given.keys() & set(BUDGETS) else {"flops": further_budget(source)}
    return request, question_of(source, {**budget, **given})


def question_words(inputs: FigureInputs) -> list[list[str]]:
    """The question of page 1: [style, words], the style number or none."""
    asked = inputs.asked
    if not splits_budgets(inputs.source):
        return []
    budget = power(further_budget(inputs.source))
    if asked is None:
        times = f" FLOP train, {FURTHER:g} times the largest budget fitted?"
        return [["", "What should "], ["number", budget], ["", times]]
    limits = [_limit_words(n, getattr(asked, n)) for n in FIELDS if _is_limit(asked, n)]
    rest = f", with {', '.join(limits)}" if limits else ""
    if asked.loss is not None:
        text = f"What reaches a loss of {asked.loss:.4g} nats/token with the least compute{rest}?"
        return [["", text]]
    if asked.flops is not None:
        start = [["", "What should "], ["number", power(asked.flops)], ["", " FLOP"]]
    else:
        amount = (
            f"{with_commas(asked.deadline or 0)} hours on {asked.devices or 0:g} {asked.device}"
        )
        if asked.dollars is not None:
            devices = machine_of(asked)  # with the stored price where the question gives none
            assert devices is not None
            amount = f"${with_commas(asked.dollars)} at ${devices.price:g} per {asked.device}-hour"
        elif asked.hours is not None:
            amount = f"{with_commas(asked.hours)} device-hours on {asked.device}"
        start = [["", f"What should {amount}"]]
    return [*start, ["", f" train{rest}?"]]


def _is_limit(asked: Question, name: str) -> bool:
    """Whether a field of the question is neither its budget nor part of that."""
    no_limit = (*BUDGETS, "price", "device", "devices", "mfu", "bytes_per_param", "regret", "force")
    return name not in no_limit and getattr(asked, name) is not None


def _limit_words(name: str, value: float) -> str:
    """A limit in words, such as `parameters at most 7.00B`."""
    about = FIELDS[name].about.partition(";")[0].partition(",")[0].rstrip(".")
    known = {
        "params": "parameters fixed at",
        "tokens": "training tokens fixed at",
        "unique_tokens": "unique tokens",
        "serve_tokens": "served tokens",
        "memory": "memory for the weights at most",
    }
    return f"{known.get(name, about[:1].lower() + about[1:])} {limit_text(name, value)}"


def question_options(asked: Question | None, flops: float) -> str:
    """A question as arguments of `isoflop query` that put it again."""
    if asked is None:
        return power(flops)
    words = []
    for name in FIELDS:
        value = getattr(asked, name)
        if value is None or value is False or name == "force":
            continue
        text = value if isinstance(value, str) else f"{value:.12g}".replace("e+", "e")
        option = [] if name == "flops" else [option_name(name)]
        words += [*option, *([] if value is True else [shlex.quote(text)])]
    return " ".join(words)


def front_matter(fit: Fit, author: str) -> list[list[str]]:
    """Facts under the title: [label, text]."""
    data = fit.data.get("name") or Path(str(fit.source.get("path") or "not named")).name
    dropped = f", {len(fit.runs_dropped)} left out" if fit.runs_dropped else ""
    rows = [
        ["Author", tables.clean(author, 80)] if author else [],
        ["Date of the fit", str(fit.source.get("date", "not recorded"))],
        ["Data set", tables.clean(str(data), 60)],
        ["Runs", f"{fit.runs_used} fitted{dropped}"],
    ]
    return [r for r in rows if r]


def brief_sections(
    inputs: FigureInputs, folder: str, drawn: Mapping[str, Collection[str]]
) -> tuple[Section, ...]:
    """What to run next and what it costs: page 2 after what would change the answer.

    Args:
        inputs: The fit as a source, and what is requested beside it.
        folder: Folder of its `fit.json`.
        drawn: Figures that were drawn, and the labels of the marks seen in each.
    """
    reply = inputs.answers[-1] if inputs.best is not None and inputs.answers else None
    cost: tuple[Block | None, ...] = ()
    if reply is not None:
        curve = figure_block("price", inputs, drawn)
        cost = (_cost(reply), _regret_table(inputs), _price_table(inputs), curve)
    sections = (
        Section(title="Limits of the question", blocks=_limits(reply)),
        Section(title="What to run next", blocks=_next_runs(inputs, reply, folder)),
        Section(title=PRICES, blocks=tuple(b for b in cost if b is not None)),
    )
    return tuple(s for s in sections if s.blocks)


def _limits(reply: Answer | None) -> tuple[Block, ...]:
    """The limits of the question, and what relaxing each would gain."""
    if reply is None or not reply.constraints:
        return ()
    rows = tuple(
        (
            "warning" if c.binds else "good",
            f"{'Binds' if c.binds else 'Does not bind'}: {constraint_text(c)}.",
        )
        for c in reply.constraints
    )
    return (NoteList(rows=rows),)


def _next_runs(inputs: FigureInputs, reply: Answer | None, folder: str) -> tuple[Block, ...]:
    """The run of the answer, its forecast, and the runs that would narrow the answer first."""
    fit, verdict = fit_of(inputs.source), inputs.verdict
    if reply is None:
        if not verdict.refused:
            return ()
        text = verdict.message.removeprefix(verdict.reason).strip() or verdict.reason
        needed = Paragraph(lead="What it takes", text=_sentence(text), plain=True)
        runs = Paragraph(
            lead="Then",
            text="Add those runs, or leave out the ones named, and fit again; the report of the "
            "new fit has the answer on page 1.",
            code="isoflop fit RUNS --out reports/NAME",
        )
        return (needed, runs)
    named = shlex.quote(folder if folder.isprintable() else "FOLDER")
    options = question_options(inputs.asked, inputs.budget)
    blocks = [_launch(reply, f"isoflop query {options} --fit {named}")]
    blocks.append(
        Paragraph(
            lead="Seal the forecast first",
            text="A forecast that is stored before its run counts; afterwards isoflop score says "
            "whether it came true.",
            code=f"isoflop query {options} --fit {named} --seal NAME",
        )
    )
    budget = power(inputs.budget)
    blocks.append(
        Paragraph(
            lead="Or narrow the answer first",
            text="This lists the runs that narrow $N^*$ and the loss at this budget most per FLOP, "
            f"for {SHARE_FOR_RUNS:.0%} of it.",
            code=f"isoflop suggest {named} --flops {budget} "
            f"--spend {power(SHARE_FOR_RUNS * inputs.budget)}",
        )
    )
    single = [i for i in fit.influence if i.kind == "run"]
    if single and not fit.verdict.refused:
        text = (
            f"Without {tables.clean(single[0].run, 60)} N* at {FURTHER:g} times the largest budget "
            f"moves by {tables.signed(math.expm1(single[0].shift), '+.1%')}, the most of any run; "
            f"repeating it takes {power(single[0].flops)} FLOP."
        )
        blocks.append(Paragraph(lead="Or repeat the run that decides most", text=text, plain=True))
    return tuple(blocks)


def _launch(reply: Answer, query: str) -> Paragraph:
    """The run that the answer recommends, and the command that launches it where there is one."""
    counts = f"{short(reply.params.value)} parameters on {short(reply.tokens.value)} tokens"
    s = reply.shape
    if s is not None and reply.shape_params is not None and reply.shape_tokens is not None:
        counts = (
            f"{tables.shape_words(s)}: {short(reply.shape_params)} parameters on "
            f"{short(reply.shape_tokens)} tokens"
        )
        counts += f", learning rate {reply.lr:.3g}" if reply.lr else ""
        counts += f", batch {reply.batch_tokens} tokens at the end" if reply.batch_tokens else ""
    text = f"{counts}."
    if reply.config:
        return Paragraph(lead="Train the answer", text=text, code=launch_line(query), plain=True)
    if reply.launch_refusal is not None:
        text += f" {_sentence(reply.launch_refusal)}"
    return Paragraph(lead="Train the answer", text=text, plain=True)


def _sentence(text: str) -> str:
    """A text with a capital and a full stop."""
    text = tables.clean(text, 500)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _cost(reply: Answer) -> Paragraph | None:
    """The price of the answer, where the question names a device or served tokens."""
    cost = reply.cost
    if cost is None or (cost.device_hours is None and cost.serving_flops is None):
        return None
    parts = [f"{power(cost.training_flops.value)} FLOP of training"]
    if cost.serving_flops is not None:
        parts.append(f"{power(cost.serving_flops.value)} FLOP of serving")
    if cost.device_hours is not None and cost.mfu is not None:
        hours = with_commas(cost.device_hours.value)
        parts.append(f"{hours} hours of {cost.device} at an MFU of {three_digits(cost.mfu)}")
    if cost.dollars is not None:
        parts.append(_dollars(cost.dollars.value))
    return Paragraph(lead="The answer", text=f"{', '.join(parts)}.", plain=True)


def _price_table(inputs: FigureInputs) -> Table | None:
    """The compute that the next 0.01 nats take at the two budgets of page 1.

    Raises:
        QueryError: The device is not known, or a number is out of range.
    """
    source, best, request = inputs.source, inputs.best, inputs.request
    if best is None:
        return None
    budgets = np.array([fit_of(source).range["flops"].high, inputs.budget])
    price = next_price(source, budgets)
    rows = []
    for i, flops in enumerate(budgets):
        value, high = float(price.value[i]), float(price.high[i])
        if not np.isfinite(value):
            rows.append((power(flops), "never", "E is nearer", DASH, DASH))
            continue
        upper = power(high) if np.isfinite(high) else "unbounded"
        money = request.dollars(value)
        rows.append(
            (
                power(flops),
                power(value),
                f"{power(float(price.low[i]))} to {upper}",
                f"{TIMES}{three_digits(value / flops)}",
                DASH if money is None else _dollars(money),
            )
        )
    text = "Compute that lowers the loss by the next 0.01 nats/token, when budgets are split best."
    columns = (
        left("budget [FLOP]", "number"),
        right("additional FLOP", "number"),
        left(f"{percent(best.level)} interval", "span"),
        right("over the budget"),
    )
    if request.dollars(1.0) is None:
        return Table(columns=columns, rows=tuple(r[:4] for r in rows), caption=text)
    text += (
        f" Dollars at {three_digits(request.price or 0)} per hour of {request.device}, MFU "
        f"{three_digits(request.mfu or DEFAULT_MFU)}{'' if request.mfu else ' (assumed)'}."
    )
    return Table(columns=(*columns, right("dollars")), rows=tuple(rows), caption=text)


def _regret_table(inputs: FigureInputs) -> Table | None:
    """The cost of model sizes other than the one that page 1 recommends."""
    asked = inputs.asked or Question(source=inputs.source, flops=inputs.budget)
    try:
        rows = inputs.answers[-1].regret or answer(dataclasses.replace(asked, regret=True)).regret
    except RefusedError:
        return None
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
        "Other sizes than the recommended one: the increase in loss at the same budget "
        "[nats/token], the increase in training compute at the same loss, and the saving in "
        "serving. The last column is the number of served tokens that repays the additional "
        "training."
    )
    return Table(columns=columns, rows=tuple(map(_regret_cells, rows)), caption=text)


def _regret_cells(r: Regret) -> tuple[str, ...]:
    """The row of one size."""
    up, repaid = r.compute_up.value, r.break_even_tokens
    loss = tables.signed(r.loss_up.value, "+.4f")
    compute = tables.signed(up, "+.1%") if np.isfinite(up) else "not at any"
    return (
        f"{TIMES}{r.size:g}",
        short(r.params),
        *((loss, compute) if r.size != 1 else (DASH, DASH)),
        power(r.serving_flops_per_token),
        tables.signed(-r.serving_saved, "+.0%") if r.serving_saved else DASH,
        short(repaid.value) if repaid is not None and np.isfinite(repaid.value) else DASH,
    )


def _dollars(money: float) -> str:
    """An amount in dollars, rounded to cents."""
    if money < 0.01:
        return "under a cent"
    return f"${money:,.2f}" if money < 1e4 else f"${short(money)}"
