"""Text of `isoflop gate`, and how its runs are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fit.comparison.gate import Gate, gate, seconds_of
from fit.data.readers import load
from fit.data.records import Floats, read_runs
from fit.data.table import RunTable
from fit.errors import QueryError
from fit.quantities import count_noun, percent, power, short, three_digits
from fit.query.documents import Number
from fit.report.text import TIMES, row, table_text, wrapped, wrapped_row

VERDICTS = {
    "adopt": "ADOPT: the change is worth it",
    "reject": "REJECT: the change is not worth it",
    "open": "OPEN: these runs do not settle whether it is worth it",
}


def read_gate(
    base: str,
    change: str,
    *,
    least: float = 1.0,
    noise: float | None = None,
    prices: Sequence[float] = (),
    level: float = 0.9,
    **reading: Any,
) -> Gate:
    """Read the runs of both, and compare them.

    Args:
        base: Folder of run records, or a table.
        change: The same with the change.
        least: The smallest multiplier that is worth having.
        noise: Standard deviation of ln loss of one run; that of the seeds where None.
        prices: Dollars of a device-hour: of both, or of base and change.
        level: Of the intervals.
        **reading: How runs are read, as `fit.data.readers.load` takes it.

    Raises:
        QueryError: More than two prices, or see `fit.comparison.gate.gate`.
    """
    if len(prices) > 2:
        raise QueryError(f"--price is given {len(prices)} times; once, or for base and change.")
    tables = [load([source], **reading) for source in (base, change)]
    own, other = (
        _seconds(table, source) for table, source in zip(tables, (base, change), strict=True)
    )
    return gate(
        tables[0],
        tables[1],
        seconds=(own, other),
        prices=(prices[0], prices[-1]) if prices else None,
        least=least,
        level=level,
        noise=noise,
    )


def _seconds(table: RunTable, source: str) -> Floats | None:
    """Seconds of the training of each run: tokens over their rate, where records have it."""
    if not Path(source).is_dir():
        return seconds_of(table, {})
    rates = {r.run: (r.tokens, r.tokens_per_second) for r in read_runs(Path(source)).records}
    return seconds_of(table, {run: d / rate for run, (d, rate) in rates.items() if rate})


def gate_text(found: Gate, base: str, change: str) -> str:
    """The verdict, the multipliers with their intervals, the sizes, and what would settle it."""
    rows = [
        *wrapped_row("verdict", f"{VERDICTS[found.verdict]} (above {TIMES}{found.least:g})"),
        "",
        row("compute", f"{_interval(found.compute)}, {percent(found.level)} confidence"),
    ]
    for name, number in (("seconds", found.seconds), ("dollars", found.dollars)):
        if number is not None:
            rows.append(row(name, _interval(number)))
    if found.trend is not None:
        text = f"{_interval(found.trend)} for ten times the compute"
        rows += wrapped_row("it changes by", text)
    rows += [row("noise", f"{found.noise:.2%} of the loss, one difference of two runs"), ""]
    header = ("params", "tokens", "FLOP", "pairs", "base", "change", "compute", "seconds")
    cells = [
        (
            short(r.params),
            short(r.tokens),
            power(r.flops),
            str(r.pairs),
            f"{r.loss_base:.4f}",
            f"{r.loss_change:.4f}",
            f"{TIMES}{three_digits(r.multiplier)}",
            "-" if r.seconds is None else f"{TIMES}{three_digits(r.seconds)}",
        )
        for r in found.rows
    ]
    if found.verdict != "open":
        end = "Settled by these runs."
    elif found.seeds is None:
        end = "An effect so small would take more than 100 seeds of each size: leave it."
    else:
        end = f"{count_noun(found.seeds, 'seed')} of each size would settle an effect of this size."
    if len(found.rows) < 4:
        end += " Four sizes would show whether it lasts as models grow."
    head = wrapped(f"{change} against {base}: what the base needs for the same loss, over it")
    return "\n".join([head, "", *rows, table_text(header, cells), "", wrapped(end)])


def _interval(number: Number) -> str:
    """A multiplier with its interval."""
    assert number.low is not None and number.high is not None
    ends = f"[{three_digits(number.low)}, {three_digits(number.high)}]"
    return f"{TIMES}{three_digits(number.value)} {ends}"
