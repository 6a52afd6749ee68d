"""A comparison of two laws as text for a terminal of 80 columns."""

from __future__ import annotations

import math

from fit.compare import Comparison, Match
from fit.quantity import counted, power, three
from fit.text import WIDTH, note_rows, one_line, shortened, table_text, wrapped

TIMES = "\N{MULTIPLICATION SIGN}"


def comparison_text(found: Comparison) -> str:
    """A comparison as a table, and what it comes to in a sentence.

    Args:
        found: The comparison.
    """
    unit = found.unit.split("/")[0]
    header = [
        "B's budget", "B's loss", "A needs", _level(found), f".01 {unit}: A", "B", "",
    ]  # fmt: skip
    table = table_text(header, [_row(m) for m in found.rows]).splitlines()
    legend = [_named("A", found.a, 0, found), _named("B", found.b, 1, found)]
    about = "A needs this much of B's compute to reach the loss of B's best split."
    parts = [*legend, "", about, "", *(f"  {line}" for line in table), "", _verdict(found)]
    if found.interval is not None:
        parts.append(_pairing(found))
    return "\n".join([*parts, *note_rows(found.warnings)])


def _named(letter: str, name: str, place: int, found: Comparison) -> str:
    """One of the two and how it counts."""
    convention = found.conventions[place]
    counts = f"N {convention.get('params', '?')}, C {convention.get('flops', '?')}"
    return f"{letter}  {shortened(one_line(name), WIDTH - 7 - len(counts))} ({counts})"


def _row(match: Match) -> tuple[str, ...]:
    """One budget."""
    m = match.multiplier
    ends = "" if m.low is None or m.high is None else f"[{_end(m.low)}, {_end(m.high)}]"
    price = [_price(p) for p in (match.price_a, match.price_b)]
    needs = f"{TIMES}{three(m.value)}" if math.isfinite(m.value) else "never"
    where = "" if match.inside else "beyond"
    return (power(match.flops), f"{match.loss_b:.4f}", needs, ends, *price, where)


def _level(found: Comparison) -> str:
    """Heading of the intervals."""
    return "" if found.level is None else f"{100 * found.level:g}% interval"


def _end(value: float) -> str:
    """One end of an interval."""
    return three(value) if math.isfinite(value) else "no bound"


def _price(factor: float | None) -> str:
    """What the next 0.01 costs, over the budget."""
    if factor is None:
        return "never"
    return f"+{factor - 1:.1%}" if factor < 10 else f"{TIMES}{three(factor)}"


def _verdict(found: Comparison) -> str:
    """The largest budget that both cover, in words."""
    inside = [m for m in found.rows if m.inside]
    match = inside[-1] if inside else found.rows[-1]
    where = "inside the runs of both" if inside else "beyond the runs of one of them"
    m = match.multiplier
    if not math.isfinite(m.value):
        return wrapped(f"At {power(match.flops)} FLOP ({where}) A never reaches B's loss.")
    ends = "" if m.low is None or m.high is None else f" [{_end(m.low)}, {_end(m.high)}]"
    text = f"At {power(match.flops)} FLOP ({where}) A needs {TIMES}{three(m.value)}{ends} of B's "
    return wrapped(text + f"compute for the same loss: {_winner(match)}.")


def _winner(match: Match) -> str:
    """Which of the two is cheaper."""
    m = match.multiplier
    if m.low is not None and m.high is not None and m.low <= 1 <= m.high:
        return "the two cannot be told apart there"
    return "A is the cheaper" if m.value < 1 else "B is the cheaper"


def _pairing(found: Comparison) -> str:
    """What the intervals rest on."""
    if not found.runs_paired:
        return wrapped(f"Intervals by {found.interval}; no runs of the two are the same cell.")
    text = f"Intervals by {found.interval}, {counted(found.runs_paired, 'run')} paired"
    if found.correlation is not None:
        text += f": their residuals correlate by {found.correlation:.2f}"
    return wrapped(text + ".")
