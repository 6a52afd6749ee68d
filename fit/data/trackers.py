"""Convert runs that an experiment tracker has logged into a table for `fit.data.readers`.

A logged run is a config and a summary, nested as its author chose. `read_export` reads the csv that
a tracker's page exports (`sweep.imports` fetches runs from a server instead), `build_table` picks
the columns, and `write_table` writes them.

Nothing is guessed: a column is the key of its own name, or the one that `--column` gives. Each row
keeps where it came from.
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

from fit.data.readers import REQUIRED
from fit.data.records import finite_or_null
from fit.errors import RecordError
from fit.files import csv_text, unescape_formula, write_atomically

DEFAULT_COLUMNS = (*REQUIRED, "flops", "loss_se", "width", "depth", "lr", "batch_tokens", "seed")
"""Columns that are taken without --column, where a run has a key of that name."""
MEASURED = frozenset({"loss", "loss_se", "tokens", "flops"})
"""Columns that are looked up in the summary first; the others in the config first."""
STATUS_OF_STATE: Mapping[str, str] = {
    "finished": "done", "done": "done", "diverged": "diverged", "failed": "failed",
    "crashed": "failed", "killed": "failed",
}  # fmt: skip
"""A tracker's state of an ended run -> the status in a table."""
RUN_COLUMNS = ("Name", "State", "ID", "name", "state", "id", "url", "run", "status", "source")
"""Columns of an exported table that describe the run, not its config or summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """One run as a tracker has logged it."""

    name: str
    source: str
    """Where it can be found again: project and id, or file and row."""
    state: str = "finished"
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTable:
    """Rows of a table, and the runs that were left out."""

    rows: tuple[Mapping[str, Any], ...]
    skipped: tuple[tuple[str, str], ...]
    """(run, reason)."""


def build_table(
    runs: Iterable[LoggedRun], columns: Mapping[str, str], units: Mapping[str, float]
) -> ImportedTable:
    """Build a table from logged runs.

    Args:
        runs: The runs.
        columns: Our column -> key in the config or summary, dots between levels; a prefix as in
            `config.lr` or `summary.loss` says in which of the two.
        units: Our column -> factor to raw counts, FLOP or nats.

    Raises:
        RecordError: There are no runs, none can be used, or none has a required column.
    """
    flat = [(r, flatten(r.config), flatten(r.summary)) for r in runs]
    if not flat:
        raise RecordError("there are no runs there; a filter may have left none. Check it.")
    keys = {**{c: c for c in DEFAULT_COLUMNS}, **columns}
    _require_keys([(c, s) for _, c, s in flat], {n: keys[n] for n in (*REQUIRED, *columns)})
    names = Counter(r.name for r, _, _ in flat)
    rows, skipped = [], []
    for run, config, summary in flat:
        name = run.name if names[run.name] == 1 else f"{run.name} ({run.source.split('/')[-1]})"
        row = {n: _look_up(n, key, config, summary) for n, key in keys.items()}
        reason = _reason_to_skip(run, row)
        if reason is not None:
            skipped.append((name, reason))
            continue
        status = STATUS_OF_STATE[run.state.lower()]
        scaled = {n: _scaled(v, units.get(n, 1.0)) for n, v in row.items()}
        rows.append({"run": name, "source": run.source, "status": status, **scaled})
    if not rows:
        raise RecordError(f"none of {len(flat)} runs can be used: {skipped[0][1]}. Check them.")
    return ImportedTable(rows=tuple(_without_empty(rows)), skipped=tuple(skipped))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, dots between levels; JSON in strings is parsed too."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        cell = _parse_cell(value)
        if isinstance(cell, Mapping) and cell:
            flat |= flatten(cell, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = cell
    return flat


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """Our column -> key, from texts `ours=key`.

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


def skipped_lines(table: ImportedTable) -> list[str]:
    """The runs that were left out, with the reason, a line each."""
    return [f"left out: {run}: {reason}" for run, reason in table.skipped]


def import_text(table: ImportedTable, out: Path) -> str:
    """Summary of an imported table, and the command that fits it."""
    ends = Counter(str(r["status"]) for r in table.rows)
    counts = ", ".join(f"{n} {status}" for status, n in ends.items())
    columns = textwrap.fill(f"columns  {', '.join(table.rows[0])}", 80, subsequent_indent=" " * 9)
    return f"runs     {counts}\n{columns}\ntable    {out}\nask      isoflop fit {out}"


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as `.csv` or `.jsonl`, atomically.

    Text in a csv that a spreadsheet would compute as a formula is guarded by an apostrophe.

    Args:
        path: The file; its suffix decides the format.
        rows: The rows, all with the same columns.

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
    """Read a csv of runs that a tracker's page has exported, one row a run.

    Cells may hold JSON or Python literals, as a config does. Columns `config` and `summary` that
    hold mappings become the run's config and summary.

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
        inner = {k: _parse_cell(cells[k]) for k in ("config", "summary") if k in cells}
        maps = {k: v for k, v in inner.items() if isinstance(v, Mapping)}
        rest = {k: v for k, v in cells.items() if k not in (*RUN_COLUMNS, *maps)}
        where = next((cells[k] for k in ("url", "ID", "id") if k in cells), f"row {number}")
        yield LoggedRun(
            name=next((cells[k] for k in ("run", "Name", "name") if k in cells), f"row {number}"),
            source=f"{path.name}/{where}",
            state=next((cells[k] for k in ("State", "state", "status") if k in cells), "finished"),
            config=maps.get("config", {}),
            summary={**rest, **maps.get("summary", {})},
        )


def _parse_cell(value: Any) -> Any:
    """A cell's value: JSON and Python literals parsed, a tracker's {"value": ...} unwrapped."""
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
    """A key's value in the summary or the config; None if neither has it."""
    head, _, rest = key.partition(".")
    if rest and head in ("config", "summary") and key not in config and key not in summary:
        return (config if head == "config" else summary).get(rest)
    first, second = (summary, config) if name in MEASURED else (config, summary)
    value = first.get(key)
    return second.get(key) if value is None else value


def _number(value: Any) -> float | None:
    """A cell as a number; None if it is not one."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _scaled(value: Any, factor: float) -> Any:
    """A number in our unit; other values are returned as they are."""
    number = _number(value)
    if number is None:
        return value
    scaled = number * factor
    return int(scaled) if scaled.is_integer() and abs(scaled) < 2**53 else scaled


def _reason_to_skip(run: LoggedRun, row: Mapping[str, Any]) -> str | None:
    """Why a run cannot be a row; None if it can."""
    if run.state.lower() not in STATUS_OF_STATE:
        return f"it is {run.state}, not finished"
    status = STATUS_OF_STATE[run.state.lower()]
    for name in REQUIRED:
        value = _number(row[name])
        if name == "loss" and (status != "done" or (value is not None and math.isnan(value))):
            continue
        if value is None:
            return f"its {name} is {'missing' if row[name] is None else repr(row[name])}"
        if not (value > 0 and math.isfinite(value)):
            return f"its {name} is {value:g}, not a positive number"
    return None


def _require_keys(
    flat: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], keys: Mapping[str, str]
) -> None:
    """Refuse a column whose key no run has, and list numeric keys that there are."""
    for name, key in keys.items():
        if any(_look_up(name, key, c, s) is not None for c, s in flat):
            continue
        numeric = {k for pair in flat for part in pair for k, v in part.items() if _number(v)}
        near = sorted(numeric, key=lambda k: (name not in k.lower(), k.startswith("_"), k))[:8]
        raise RecordError(
            f"no run has '{key}' for the column {name}; among the numbers there are "
            f"{', '.join(near) or 'none'}. Name yours: --column {name}=KEY"
        )


def _without_empty(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the columns that are empty in all of them."""
    filled = [n for n in rows[0] if any(r[n] is not None for r in rows)]
    return [{n: r[n] for n in filled} for r in rows]
