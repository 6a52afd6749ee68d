"""Runs that another tool has logged: configs and summaries in, a table that a fit can read out.

A logged run is a config and a summary, nested as its author liked. Nothing is guessed: a column is
the key of its own name, or the one that `--column` gives. Each row keeps where it came from.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fit.data.records import finite_or_null
from fit.errors import RecordError
from fit.files import csv_text, unescape_formula, write_atomically

NEEDED = ("params", "tokens", "loss")
TAKEN = (*NEEDED, "flops", "loss_se", "width", "depth", "lr", "batch_tokens", "seed")
"""Columns that are taken without being asked for, where a run has a key of that name."""
MEASURED = frozenset({"loss", "loss_se", "tokens", "flops"})
"""Looked for in the summary first; the others in the config first."""
ENDED: Mapping[str, str] = {
    "finished": "done", "done": "done", "diverged": "diverged", "failed": "failed",
    "crashed": "failed", "killed": "failed",
}  # fmt: skip
"""What a tracker calls the end of a run, and what a table does."""
OWN = ("Name", "State", "ID", "name", "state", "id", "url", "run", "status", "source")
"""Columns of an exported table that speak of the run itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """One run as a tracker has it."""

    name: str
    source: str
    """Where it can be looked up: project and id, file and row."""
    state: str = "finished"
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTable:
    """Rows of a table, and the runs that gave none."""

    rows: tuple[Mapping[str, Any], ...]
    skipped: tuple[tuple[str, str], ...]
    """(run, reason)."""


def build_table(
    runs: Iterable[LoggedRun], columns: Mapping[str, str], units: Mapping[str, float]
) -> ImportedTable:
    """Make a table of logged runs.

    Args:
        runs: The runs.
        columns: Our column -> key in the config or summary, dots between levels; `config.lr` and
            `summary.loss` say in which.
        units: Our column -> factor to raw counts, FLOP or nats.

    Raises:
        RecordError: There are no runs, or a needed column is in none of them.
    """
    known = list(runs)
    if not known:
        raise RecordError("there are no runs there; a filter may have left none. Check it.")
    flat = [(r, flatten(r.config), flatten(r.summary)) for r in known]
    wanted = {**{c: c for c in TAKEN}, **columns}
    needed = [*NEEDED, *(c for c in columns if c not in NEEDED)]
    _refuse_missing([(c, s) for _, c, s in flat], {n: wanted[n] for n in needed})
    names = Counter(r.name for r in known)
    rows, skipped = [], []
    for run, config, summary in flat:
        name = run.name if names[run.name] == 1 else f"{run.name} ({run.source.split('/')[-1]})"
        row = {n: _look_up(n, key, config, summary) for n, key in wanted.items()}
        reason = _unusable(run, row)
        if reason is not None:
            skipped.append((name, reason))
            continue
        status = ENDED[run.state.lower()]
        scaled = {n: _scaled(v, units.get(n, 1.0)) for n, v in row.items()}
        rows.append({"run": name, "source": run.source, "status": status, **scaled})
    if not rows:
        raise RecordError(f"none of {len(known)} runs can be used: {skipped[0][1]}. Check them.")
    return ImportedTable(rows=tuple(_without_empty(rows)), skipped=tuple(skipped))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, dots between levels; JSON in strings is opened too."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        opened = _opened(value)
        if isinstance(opened, Mapping) and opened:
            flat |= flatten(opened, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = opened
    return flat


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """Our column -> key, from `ours=key`.

    Raises:
        RecordError: Not of that form.
    """
    columns = {}
    for text in texts:
        ours, sign, key = (part.strip() for part in text.partition("="))
        if not (ours and sign and key):
            raise RecordError(f"--column is '{text}'; OURS=KEY is needed, such as loss=val/loss.")
        columns[ours] = key
    return columns


def skipped_lines(found: ImportedTable) -> list[str]:
    """The runs that gave no row, a line each."""
    return [f"left out: {run}: {reason}" for run, reason in found.skipped]


def import_text(found: ImportedTable, out: Path) -> str:
    """What was written, and what comes next."""
    ends = Counter(str(r["status"]) for r in found.rows)
    counts = ", ".join(f"{n} {status}" for status, n in ends.items())
    columns = textwrap.fill(f"columns  {', '.join(found.rows[0])}", 80, subsequent_indent=" " * 9)
    return f"runs     {counts}\n{columns}\ntable    {out}\nask      isoflop fit {out}"


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as `.csv` or `.jsonl`, atomically.

    Raises:
        RecordError: Another suffix, or the file cannot be written.
    """
    if path.suffix == ".jsonl":
        lines = [json.dumps(finite_or_null(dict(r)), allow_nan=False) for r in rows]
        write_atomically(path, "\n".join(lines) + "\n")
        return
    if path.suffix != ".csv":
        raise RecordError(f"--out is {path}; a .csv or .jsonl is needed. Name one.")
    write_atomically(path, csv_text(rows))


def read_export(path: Path) -> Iterator[LoggedRun]:
    """Read a run table that a tracker's page has exported, a row a run.

    Cells may hold JSON or Python literals, as a config does; columns `config` and `summary` that
    hold mappings are taken for what they say.

    Raises:
        RecordError: No such file, or no table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        text = f"cannot read {path}: {reason}; a csv of runs is needed."
        if not path.suffix:
            text += f" For a project of W&B: python -m sweep.imports wandb {path}"
        raise RecordError(text) from error
    for number, row in enumerate(table, start=1):
        cells = {
            unescape_formula(k): unescape_formula(v)
            for k, v in row.items()
            if k is not None and v not in (None, "")
        }
        inner = {k: _opened(cells[k]) for k in ("config", "summary") if k in cells}
        maps = {k: v for k, v in inner.items() if isinstance(v, Mapping)}
        rest = {k: v for k, v in cells.items() if k not in (*OWN, *maps)}
        where = next((cells[k] for k in ("url", "ID", "id") if k in cells), f"row {number}")
        yield LoggedRun(
            name=next((cells[k] for k in ("run", "Name", "name") if k in cells), f"row {number}"),
            source=f"{path.name}/{where}",
            state=next((cells[k] for k in ("State", "state", "status") if k in cells), "finished"),
            config=maps.get("config", {}),
            summary={**rest, **maps.get("summary", {})},
        )


def _opened(value: Any) -> Any:
    """A cell's own value: JSON, a Python literal, or a tracker's {"value": ...} taken out."""
    if isinstance(value, str) and value[:1] in "{[":
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, Mapping) and value.keys() <= {"value", "desc"} and "value" in value:
        return value["value"]
    return value


def _look_up(
    name: str, key: str, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> Any | None:
    """A key's value in the summary or the config; None where neither has it."""
    head, _, rest = key.partition(".")
    if rest and head in ("config", "summary") and key not in config and key not in summary:
        return (config if head == "config" else summary).get(rest)
    first, second = (summary, config) if name in MEASURED else (config, summary)
    found = first.get(key)
    return second.get(key) if found is None else found


def _number(value: Any) -> float | None:
    """A cell as a number; None where it is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _scaled(value: Any, factor: float) -> Any:
    """A number in our unit; what is no number stays."""
    number = _number(value)
    if number is None:
        return value
    scaled = number * factor
    return int(scaled) if scaled.is_integer() and abs(scaled) < 2**53 else scaled


def _unusable(run: LoggedRun, row: Mapping[str, Any]) -> str | None:
    """Why a run gives no row."""
    if run.state.lower() not in ENDED:
        return f"it is {run.state}, not finished"
    ended = ENDED[run.state.lower()]
    for name in NEEDED:
        value = _number(row[name])
        if name == "loss" and (ended != "done" or (value is not None and math.isnan(value))):
            continue
        if value is None:
            return f"its {name} is {'missing' if row[name] is None else repr(row[name])}"
        if not (value > 0 and math.isfinite(value)):
            return f"its {name} is {value:g}, not a positive number"
    return None


def _refuse_missing(
    flat: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], wanted: Mapping[str, str]
) -> None:
    """Refuse a column that no run has, and say what there is."""
    for name, key in wanted.items():
        if any(_look_up(name, key, c, s) is not None for c, s in flat):
            continue
        numeric = {k for pair in flat for part in pair for k, v in part.items() if _number(v)}
        near = sorted(numeric, key=lambda k: (name not in k.lower(), k.startswith("_"), k))[:8]
        raise RecordError(
            f"no run has '{key}' for the column {name}; among the numbers there are "
            f"{', '.join(near) or 'none'}. Name yours: --column {name}=KEY"
        )


def _without_empty(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the columns that none of them fills."""
    filled = [n for n in rows[0] if any(r[n] is not None for r in rows)]
    return [{n: r[n] for n in filled} for r in rows]
