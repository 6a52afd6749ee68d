"""Tables of a report: the law, its checks, the runs, and all that a reader may look up.

What a report is made of: sections of figures, tables and paragraphs, for any printer.

Texts of ours may hold mathematics between dollar signs, in typst's notation; cells are plain texts
whose column says how they are set.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fit.forecasts.ledger import Ledger
from fit.laws.families import law
from fit.quantities import count_noun, power, short, three_digits
from fit.query.warnings import cross_check_remark
from fit.results import Fit, is_identified

FORMS = ("text", "small", "number", "span", "raw", "symbol", "meaning")
"""How a cell is set: as text; small and grey; a number, `3.5e12` as a power; numbers joined by
` to `; in type of fixed width; a symbol of the law; mathematics between dollar signs, grey."""
TARGETS = {"loss": "loss", "lr": "learning rate", "batch_tokens": "batch"}
"""What laws predict, in a word."""
DASH = "\N{EN DASH}"
MOST_RUNS = 96
"""Runs in the table; of a larger sweep, those that lie farthest from the law."""
NAME_LENGTH = 40
MOST_DROPPED, MOST_FORECASTS = 20, 20
_UNBROKEN = re.compile(r"[^\s-]{12}(?=[^\s-]{12})")
"""Stretches after which a word that goes on may be broken."""
APPROACHES = {"isoflop": "2 (isoFLOP valleys)", "envelope": "1 (envelope of curves)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column of a table."""

    head: str
    """May hold mathematics."""
    form: str = "text"
    """One of `FORMS`."""
    right: bool = False
    wide: bool = False
    """Takes the width that the others leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with its caption above it."""

    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    dense: bool = False
    """Small type, and it may run over pages."""
    kind: str = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureBlock:
    """A figure by its name, with its caption beneath."""

    name: str
    caption: str
    width: int = 100
    """Percent of the text's width on paper."""
    kind: str = "picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph."""

    text: str
    lead: str = ""
    """In bold before it."""
    plain: bool = False
    """Written by others: nothing in it is mathematics."""
    code: str = ""
    """A command beneath it."""
    kind: str = "words"


Block = Table | FigureBlock | Paragraph


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
    """A column of words that takes what room there is."""
    return TableColumn(head=head, form=form, wide=True)


def clean(text: str, most: int = 200) -> str:
    """A text that can be set: no control characters, its middle cut, long words breakable."""
    line = one_line(str(text))
    if len(line) > most:
        half = (most - 1) // 2
        line = f"{line[:half]}\N{HORIZONTAL ELLIPSIS}{line[-half:]}"
    return _UNBROKEN.sub(lambda found: f"{found[0]}\N{ZERO WIDTH SPACE}", line)


def theta(fit: Fit) -> list[list[str]]:
    """Parameters and exponents: [symbol, value, interval]."""
    both = {**fit.theta, **fit.exponents}
    return [[name, digits(value), _bounds(fit, name)] for name, value in both.items()]


def checks(fit: Fit) -> list[list[str]]:
    """Exponent of N* by each approach: [approach, a, interval, remark]."""
    own = "the answer's" if is_identified(fit) else "not told by these runs"
    rows = [["3 (this law)", digits(fit.exponents.get("a")), _bounds(fit, "a"), own]]
    for c in fit.cross_checks:
        ends = DASH if c.a_interval is None else " to ".join(map(digits, c.a_interval))
        remark = clean(c.reason or "", 220)
        if c.a is not None:
            said = (
                "disagrees beyond the joint interval" if c.disagrees else cross_check_remark(fit, c)
            )
            remark = f"{said}; {remark}" if remark else said
        rows.append([APPROACHES.get(c.name, c.name), digits(c.a), ends, remark])
    return rows


def target_name(name: str) -> str:
    """What a law predicts, in a word."""
    return TARGETS.get(law(name).target, law(name).target)


def predicted(fit: Fit, value: float) -> str:
    """A prediction or a measurement: losses with four decimals, others with three digits."""
    return f"{value:.4f}" if law(fit.law).target == "loss" else three_digits(value)


def convention(row: Mapping[str, Any]) -> list[str]:
    """One way of counting: [N, C, a, D/N]."""
    a, ratio = row.get("a"), row.get("tokens_per_param")
    return [
        str(row.get("params", DASH)),
        str(row.get("flops", DASH)),
        DASH if a is None else f"{a:.3f}",
        DASH if ratio is None else three_digits(float(ratio)),
    ]


def holdout(fit: Fit) -> dict[str, Any] | None:
    """The held-out budget: [run, predicted, measured, error] per run."""
    h = fit.holdout
    if h is None:
        return None
    rows = [
        [clean(run, NAME_LENGTH), predicted(fit, p), predicted(fit, m), signed(p / m - 1, "+.2%")]
        for run, p, m in zip(h.runs, h.predicted, h.measured, strict=True)
    ]
    covered = None if h.covered is None else f"{h.covered:.0%}"
    return {"budget": power(h.budget), "rows": rows[:24], "covered": covered, "count": len(rows)}


def rolling(fit: Fit) -> list[list[str]]:
    """Each larger budget by the smaller: [budget, runs, rests on, mean, largest error, covered]."""
    return [
        [
            power(r.budget),
            str(r.runs),
            str(r.below),
            signed(r.mean_relative_error, "+.2%"),
            f"{r.max_relative_error:.2%}",
            f"{r.covered:.0%}",
        ]
        for r in fit.rolling
    ]


def influence(fit: Fit) -> list[list[str]]:
    """What decides N*: [left out, change of N*, share, what doing it again costs]."""
    rows = []
    for i in fit.influence:
        others = f" and {count_noun(i.runs - 1, 'other')} of its cluster" if i.runs > 1 else ""
        rows.append(
            [
                f"{clean(i.run, NAME_LENGTH)}{others}",
                signed(math.expm1(i.shift), "+.1%"),
                f"{i.share:.0%}",
                power(i.flops),
            ]
        )
    return rows


def runs(fit: Fit) -> dict[str, Any]:
    """The run table: [run, shape, N, D, C, lr, loss, residual] per run, by compute."""
    p = fit.points
    order = np.argsort(-np.abs(p.residual), kind="stable")[:MOST_RUNS]
    order = order[np.argsort(p.flops[order], kind="stable")]
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
    return {"rows": rows, "total": len(p.run), "used": fit.runs_used}


def dropped(fit: Fit) -> list[list[str]]:
    """Runs left out of the fit: [run, why], the first twenty."""
    return [[clean(r, NAME_LENGTH), clean(why, 160)] for r, why in fit.runs_dropped[:MOST_DROPPED]]


def one_line(text: str) -> str:
    """A command without control characters; unlike `clean` it can be copied and run."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def forecasts(ledger: Ledger) -> list[list[str]]:
    """Sealed forecasts: [name, FLOP, loss, interval, measured, error, verdict], the newest last."""
    rows = []
    for entry in ledger.entries[-MOST_FORECASTS:]:
        f, e, found = entry.forecast, entry.forecast.expected, entry.outcome
        ends = f"{e.low:.4f} to {e.high:.4f}"
        measured = [DASH, DASH]
        if found is not None:
            measured = [f"{found.verdict.measured:.4f}", signed(found.verdict.error, "+.2%")]
        name = clean(f.name, NAME_LENGTH)
        rows.append([name, power(f.flops), f"{e.loss:.4f}", ends, *measured, entry.status])
    return rows


def quoted(overrides: Sequence[str]) -> str:
    """Overrides as a shell takes them."""
    return " ".join(shlex.quote(o) for o in overrides)


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


def basis(fit: Fit) -> dict[str, str]:
    """How things were counted and minimised."""
    delta = fit.objective.delta
    threshold = "" if delta is None else f", threshold {delta:.3g}"
    return {
        "params": str(fit.convention.get("params", "as given")),
        "flops": str(fit.convention.get("flops", "as given")),
        "objective": f"{fit.objective.name}{threshold}",
        "used": str(fit.runs_used),
        "clusters": str(len(np.unique(fit.points.cluster))),
        "draws": str(len(fit.draws)),
    }


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
    """A number with its sign, a minus and not a hyphen."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _shape(columns: Mapping[str, Any], row: int) -> str:
    """Width by depth of a run."""
    if not {"width", "depth"} <= columns.keys():
        return DASH
    return f"{columns['width'][row]:.0f}\N{MULTIPLICATION SIGN}{columns['depth'][row]:.0f}"


def _column(columns: Mapping[str, Any], name: str, row: int, form: str) -> str:
    """A cell of an optional column."""
    value = columns[name][row] if name in columns else math.nan
    return form.format(value) if math.isfinite(value) else DASH


def _bounds(fit: Fit, name: str) -> str:
    """The interval of a parameter or exponent."""
    bounds = fit.interval.bounds.get(name)
    return DASH if bounds is None else f"{digits(bounds[0])} to {digits(bounds[1])}"


def _value(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return clean(", ".join(f"{k} {_value(v)}" for k, v in value.items()), 300)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return clean(", ".join(_value(v) for v in value), 300)
    return clean(str(value), 120)
