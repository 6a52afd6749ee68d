"""Building blocks of a report, and the rows of its tables.

A report is sections of figures, tables and paragraphs, independent of the output format. Texts of
the report may hold mathematics between dollar signs, in typst's notation; cells are plain text
whose column says how they are set. The functions here return rows of cells; headings and captions
stand in `sections.py`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fit.data.accounting import Shape
from fit.forecasts.ledger import Ledger
from fit.laws.families import law
from fit.quantities import count_noun, interval_text, power, short, three_digits
from fit.query.documents import Answer
from fit.query.warnings import cross_check_remark
from fit.report.text import DASH, TIMES, approach_name
from fit.results import Fit, Holdout

FORMS = ("text", "small", "number", "span", "raw", "symbol", "meaning")
"""How a cell is set: as text; in small type; as a number, `3.5e12` as a power of ten; as numbers
joined by ` to `; in monospaced type; as a symbol of the law; grey, with mathematics."""
TARGETS = {"loss": "loss", "lr": "learning rate", "batch_tokens": "batch"}
"""Short names of the quantities that laws predict."""
MOST_RUNS = 96
"""Runs in the table; of a larger sweep, those with the largest residuals."""
NAME_LENGTH = 40
MOST_HELD_OUT, MOST_DROPPED, MOST_FORECASTS = 24, 20, 20
_SHELL_WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\\.|[^\s'\"\\])+")
_UNBROKEN = re.compile(r"[^\s-]{12}(?=[^\s-]{12})")
"""Twelve letters without a break, after which a longer word may be broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column of a table."""

    head: str
    """May hold mathematics."""
    form: str = "text"
    """One of `FORMS`."""
    right: bool = False
    wide: bool = False
    """Takes the width that the other columns leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with its caption above it."""

    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    dense: bool = False
    """Small type, and it may run over pages."""
    fills_page: bool = False
    """On paper it lists as many rows as end at the foot of a page; the first rows matter most."""
    kind: str = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureBlock:
    """A figure by its name, with its caption beneath."""

    name: str
    caption: str
    width: int = 100
    """Percent of the text's width on paper."""
    kind: str = "figure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph."""

    text: str
    lead: str = ""
    """In bold before it."""
    plain: bool = False
    """Text from the input: dollar signs in it do not mark mathematics."""
    code: str = ""
    """A command beneath it."""
    kind: str = "paragraph"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteList:
    """Notes or checks, each with a grade: good, fair, bad, info, warning or serious."""

    rows: tuple[tuple[str, str], ...]
    kind: str = "notes"


Block = Table | FigureBlock | Paragraph | NoteList


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...] = field(default_factory=tuple)


def math_power(text: str) -> str:
    """A number such as 3.5e12, as mathematics."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text
    return f"$10^{exponent}$" if mantissa == "1" else f"${mantissa} times 10^{exponent}$"


def left(head: str, form: str = "text") -> TableColumn:
    """A column of words."""
    return TableColumn(head=head, form=form)


def right(head: str, form: str = "text") -> TableColumn:
    """A column of numbers."""
    return TableColumn(head=head, form=form, right=True)


def wide(head: str, form: str = "text") -> TableColumn:
    """A column of words that takes the remaining width."""
    return TableColumn(head=head, form=form, wide=True)


def shape_words(shape: Shape) -> str:
    """A shape in words: "48 wide, 3 deep, 1 head"."""
    return f"{shape.width} wide, {shape.depth} deep, {count_noun(shape.heads, 'head')}"


def clean(text: str, most: int = 200) -> str:
    """A text that can be typeset: no control characters, middle cut out, long words breakable."""
    line = one_line(str(text))
    if len(line) > most:
        half = (most - 1) // 2
        line = f"{line[:half]}\N{HORIZONTAL ELLIPSIS}{line[-half:]}"
    return _UNBROKEN.sub(lambda match: f"{match[0]}\N{ZERO WIDTH SPACE}", line)


def theta(fit: Fit) -> list[list[str]]:
    """Parameters and exponents: [symbol, value, interval]."""
    exponents = {} if fit.verdict.refused else fit.exponents  # those are of N* and D*
    both = {**fit.theta, **exponents}
    return [[name, digits(value), _bounds(fit, name)] for name, value in both.items()]


def checks(fit: Fit, answers: Sequence[Answer]) -> list[list[str]]:
    """What each approach finds: [approach, a, interval, N* at the largest budget, remark].

    Args:
        fit: The fit.
        answers: Its answers, the first at the largest budget; empty where there are none.
    """
    used = "not used: the fit is refused" if fit.verdict.refused else "used for the answer"
    law = (
        [DASH, DASH] if fit.verdict.refused else [digits(fit.exponents.get("a")), _bounds(fit, "a")]
    )
    size = short(answers[0].params.value) if answers else DASH
    rows = [["3, this law", *law, size, used]]
    top = math.log(fit.range["flops"].high)
    for c in fit.cross_checks:
        ends = DASH if c.a_interval is None else " to ".join(map(digits, c.a_interval))
        remark = clean(c.reason or "", 220)
        if c.a is not None:
            verdict = (
                "disagrees beyond the joint interval" if c.disagrees else cross_check_remark(fit, c)
            )
            remark = f"{verdict}; {remark}" if remark else verdict
        size = DASH
        if answers and c.a is not None and c.coefficient is not None:
            size = short(math.exp(c.coefficient + c.a * top))
        name = approach_name(c.name).removeprefix("approach ")
        rows.append([name, digits(c.a), ends, size, remark])
    return rows


def target_name(name: str) -> str:
    """Short name of the quantity that a law predicts."""
    return TARGETS.get(law(name).target, law(name).target)


def predicted(fit: Fit, value: float) -> str:
    """A prediction or a measurement: losses with four decimals, others with three digits."""
    return f"{value:.4f}" if law(fit.law).target == "loss" else three_digits(value)


def holdout(held_out: Holdout, fit: Fit) -> list[list[str]]:
    """Runs of the held-out budget: [run, predicted, measured, error], the first of them."""
    rows = zip(held_out.runs, held_out.predicted, held_out.measured, strict=True)
    return [
        [clean(run, NAME_LENGTH), predicted(fit, p), predicted(fit, m), signed(p / m - 1, "+.2%")]
        for run, p, m in itertools.islice(rows, MOST_HELD_OUT)
    ]


def influence(fit: Fit) -> list[list[str]]:
    """Influence on N*: [left out, change of N*, share, compute of the run]."""
    rows = []
    for i in fit.influence:
        rows.append(
            [
                _and_others(i.run, i.runs, " of its cluster"),
                signed(math.expm1(i.shift), "+.1%"),
                f"{i.share:.0%}",
                power(i.flops),
            ]
        )
    return rows


def runs(fit: Fit) -> list[list[str]]:
    """Runs, those farthest from the law first: [run, shape, N, D, C, lr, loss, residual]."""
    p = fit.points
    order = np.argsort(-np.abs(p.residual), kind="stable")[:MOST_RUNS]
    rows = []
    for i in order:
        rows.append(
            [
                clean(p.run[i], NAME_LENGTH),
                _shape(p.columns, int(i)),
                short(p.params[i]),
                short(p.tokens[i]),
                re.sub(r"e\+0*", "e", f"{p.flops[i]:.2e}"),
                _column(p.columns, "lr", int(i), "{:.2g}"),
                predicted(fit, p.loss[i]),
                signed(100 * math.expm1(p.residual[i]), "+.2f"),
            ]
        )
    return rows


def dropped(fit: Fit) -> list[list[str]]:
    """Runs left out of the fit by their reason, most first: [run and how many others, reason]."""
    runs: dict[str, list[str]] = {}
    for run, why in fit.runs_dropped:
        runs.setdefault(why, []).append(run)
    groups = sorted(runs.items(), key=lambda group: -len(group[1]))[:MOST_DROPPED]
    return [[_and_others(names[0], len(names)), clean(why, 160)] for why, names in groups]


def _and_others(run: str, count: int, suffix: str = "") -> str:
    """The name of the first of several runs, and how many others there are."""
    others = f" and {count_noun(count - 1, 'other')}{suffix}" if count > 1 else ""
    return f"{clean(run, NAME_LENGTH)}{others}"


def one_line(text: str) -> str:
    """A command without control characters; unlike text from `clean` it can be copied and run."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shell_lines(command: str, width: int = 92) -> str:
    """A command over several lines that a shell reads as one: broken between words only.

    A line ends in a backslash where the shell allows no bare break, and after `&&` in nothing.
    """
    lines = [""]
    for word in _SHELL_WORD.findall(command):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += "" if lines[-1].endswith("&&") else " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
        if word == "&&":
            lines.append("  ")
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    return re.sub(r"(?m)^ {3,}", "  ", text)


def forecasts(ledger: Ledger) -> list[list[str]]:
    """Sealed forecasts, the newest last: [name, FLOP, loss, interval, measured, error, status]."""
    rows = []
    for entry in ledger.entries[-MOST_FORECASTS:]:
        f, e, outcome = entry.forecast, entry.forecast.expected, entry.outcome
        ends = f"{e.low:.4f} to {e.high:.4f}"
        measured = [DASH, DASH]
        if outcome is not None:
            measured = [f"{outcome.verdict.measured:.4f}", signed(outcome.verdict.error, "+.2%")]
        name = clean(f.name, NAME_LENGTH)
        rows.append([name, power(f.flops), f"{e.loss:.4f}", ends, *measured, entry.status])
    return rows


def facts(fit: Fit) -> list[list[str]]:
    """Data, conventions, source and versions: [name, value]."""
    ranges = {
        "params": ("Parameters fitted", short),
        "tokens": ("Tokens fitted", short),
        "flops": ("Compute fitted [FLOP]", power),
        "tokens_per_param": ("Tokens per parameter", three_digits),
        "loss": ("Loss [nats/token]", three_digits),
    }
    rows = [
        [label, f"{form(fit.range[key].low)} to {form(fit.range[key].high)}"]
        for key, (label, form) in ranges.items()
        if key in fit.range
    ]
    rows += [[f"data: {k.replace('_', ' ')}", _value(v)] for k, v in fit.data.items() if v]
    rows += [[f"source: {k}", _value(v)] for k, v in fit.source.items()]
    rows += [[f"option: {k}", _value(v)] for k, v in fit.options.items() if v not in (None, (), [])]
    rows += [[f"version: {k}", _value(v)] for k, v in sorted(fit.versions.items())]
    return rows


def basis_words(fit: Fit) -> dict[str, str]:
    """Counting conventions, objective and numbers of runs, clusters and draws.

    Conventions come from the input, so dollar signs are removed: they would start mathematics.
    """
    delta = fit.objective.delta
    threshold = "" if delta is None else f", threshold {delta:.3g}"
    counts = {k: str(fit.convention.get(k, "as given")) for k in ("params", "flops")}
    facts = {
        **{k: "given" if text == "as given" else text for k, text in counts.items()},
        "objective": f"{fit.objective.name}{threshold}",
        "used": str(fit.runs_used),
        "dropped": str(len(fit.runs_dropped)),
        "clusters": str(len(np.unique(fit.points.cluster))),
        "draws": str(len(fit.draws)),
    }
    return {name: text.replace("$", "") for name, text in facts.items()}


def end(value: float, form: str) -> str:
    """An end of an interval."""
    return format(value, form) if math.isfinite(value) else "unbounded"


def digits(value: float | None) -> str:
    """Four significant digits."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "unbounded"
    plain = value == 0 or 1e-4 < abs(value) < 9999.5
    text = f"{value:#.4g}".rstrip(".") if plain else power(value)
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, form: str) -> str:
    """A signed number with a minus sign in place of a hyphen."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _shape(columns: Mapping[str, Any], row: int) -> str:
    """Width by depth of a run."""
    if not {"width", "depth"} <= columns.keys():
        return DASH
    return f"{columns['width'][row]:.0f}{TIMES}{columns['depth'][row]:.0f}"


def _column(columns: Mapping[str, Any], name: str, row: int, form: str) -> str:
    """A cell of an optional column."""
    value = columns[name][row] if name in columns else math.nan
    return form.format(value) if math.isfinite(value) else DASH


def _bounds(fit: Fit, name: str) -> str:
    """The interval of a parameter or exponent."""
    bounds = fit.interval.bounds.get(name)
    if bounds is None:
        return DASH
    if all(map(math.isfinite, bounds)):
        return f"{digits(bounds[0])} to {digits(bounds[1])}"
    return interval_text(*bounds, digits, least=-math.inf)


def _value(value: Any) -> str:
    """A value of any type on one line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return clean(", ".join(f"{k} {_value(v)}" for k, v in value.items()), 300)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return clean(", ".join(_value(v) for v in value), 300)
    return clean(str(value), 120)
