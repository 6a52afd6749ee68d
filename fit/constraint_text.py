"""What limits an answer, what that is worth, what it costs: rows for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

from fit.conflicts import limit_text
from fit.quantity import power, short, three
from fit.reply import Answer, Bill, Constraint, Gain, Number, Regret, mapped
from fit.text import LABEL, WIDTH, table_text

HEADER = ("size", "params", "loss up", "compute up", "serve", "even at")
MOST_PERCENT = 100.0
"""A larger share is said as a factor."""
LEGEND = (
    "Loss up at the same budget [nats/token], training compute up at the same loss, FLOP per "
    "served token, and the served tokens at which the same loss costs the same in all."
)


def limit_rows(answer: Answer) -> list[str]:
    """Costs, limits and other sizes, as far as they were asked."""
    rows = [] if answer.cost is None else _cost_rows(answer.cost)
    if answer.epochs is not None:
        rows += _row("epochs", f"{three(answer.epochs)} of the unique tokens")
    rows = ["", *rows] if rows else []
    if answer.constraints:
        rows.append("")
        for c in answer.constraints:
            rows += _row("binds" if c.binds else "does not bind", _worth_text(c))
    if answer.regret:
        table = table_text(HEADER, [_regret_cells(r) for r in answer.regret], WIDTH - 2)
        note = textwrap.wrap(LEGEND, WIDTH - 2)
        rows += ["", *(f"  {line}" for line in [*table.splitlines(), *note])]
    return rows


def _cost_rows(bill: Bill) -> list[str]:
    """Compute, hours and money."""
    text = f"{_ranged(bill.training_flops, power)} FLOP"
    rows = _row("training", text)
    if bill.serving_flops is not None:
        rows += _row("serving", f"{_ranged(bill.serving_flops, power)} FLOP")
    if bill.device_hours is None or bill.mfu is None:
        return rows
    count = "" if bill.devices is None else f"{bill.devices} "
    parts = [f"{_ranged(bill.device_hours, _grouped)} device-hours"]
    if bill.hours is not None:
        parts.append(f"{_ranged(bill.hours, _grouped)} hours")
    if bill.dollars is not None:
        parts.append(f"${_ranged(bill.dollars, _grouped)}")
    return [*rows, *_row(f"on {count}{bill.device}"[:LABEL], f"{', '.join(parts)}; MFU "
                         f"{three(bill.mfu)}")]  # fmt: skip


def _worth_text(c: Constraint) -> str:
    """One limit, and what relaxing it gains."""
    if c.name == "budget":
        name = f"the budget, {power(c.limit)} FLOP"
    else:
        name = f"{c.name.replace('_', ' ')} {limit_text(c.name, c.limit)}"
    if c.worth is None:
        return name
    lifted, doubled = c.worth.lifted, c.worth.doubled
    if lifted is None:
        return f"{name}; twice it: {_gain_text(doubled)}"
    fixed = c.name in ("params", "tokens")
    twice = (
        "half it" if c.name.startswith("min_") else "within a factor of 2" if fixed else "twice it"
    )
    if doubled == lifted or abs(doubled.loss.value - lifted.loss.value) < 1e-6:
        return f"{name}; without it, or with {twice}: {_gain_text(lifted)}"
    return f"{name}; without it: {_gain_text(lifted)}; {twice}: {_gain_text(doubled)}"


def _gain_text(gain: Gain) -> str:
    """What is gained."""
    loss = f"loss less by {_ranged(gain.loss, _nats)}"
    if gain.multiplier is None:
        return loss
    return f"{loss}, worth \N{MULTIPLICATION SIGN}{_ranged(gain.multiplier, three)} the compute"


def _regret_cells(r: Regret) -> tuple[str, ...]:
    """One line of the table of other sizes."""
    even = "-" if r.break_even_tokens is None else short(r.break_even_tokens.value)
    size = f"\N{MULTIPLICATION SIGN}{r.size:g}"
    if r.size == 1:
        return size, short(r.params), "-", "-", "-", "-"
    serving = f"{-100 * r.serving_saved:+.0f}%"
    cells = _ranged(r.loss_up, _nats), _compute(r.compute_up)
    return size, short(r.params), *cells, serving, even


def _ranged(
    number: Number, form: Callable[[float], str], end: Callable[[float], str] | None = None
) -> str:
    """A value with its interval, unless that is the value itself; its ends may have a form."""
    end, low, high = end or form, number.low, number.high
    if low is None or high is None or form(low) == form(high) or not math.isfinite(number.value):
        return form(number.value)
    return f"{form(number.value)} [{end(low)}, {end(high)}]"


def _nats(loss: float) -> str:
    """A difference of losses, four digits behind the point where it is small."""
    if not math.isfinite(loss):
        return "never"
    return f"{loss:.4f}" if abs(loss) < 1 else three(loss)


def _compute(number: Number) -> str:
    """A share, or a factor where it is large, with its interval; the unit is said once."""
    if not math.isfinite(number.value):
        return "never"
    if number.value > MOST_PERCENT / 100:
        text = _ranged(
            mapped(number, lambda v: v + 1), lambda v: short(v) if v >= 1e3 else three(v)
        )
        return f"\N{MULTIPLICATION SIGN}{text}"
    return _ranged(number, lambda v: f"{100 * v:+.0f}%", lambda v: f"{100 * v:.0f}")


def _grouped(value: float) -> str:
    """Hours or dollars: 1,234 or 0.0123."""
    return f"{value:,.0f}" if 1e3 <= value < 1e12 else three(value)


def _row(label: str, text: str) -> list[str]:
    """A label and a wrapped text beside it."""
    lines = textwrap.wrap(text, WIDTH - LABEL - 3, break_on_hyphens=False)
    return [f"  {label if i == 0 else '':<{LABEL}} {line}" for i, line in enumerate(lines)]
