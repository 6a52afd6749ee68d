"""Convert runs that an experiment tracker has logged into a table for `fit.data.readers`.

A logged run is a config and a summary, nested as its author chose. `read_exports` reads tables that
a tracker's page exports (`sweep.fetch` fetches runs from a server instead), `build_table` picks
the columns, selects and checks the runs, and `write_table` writes them.

Nothing is guessed: a column is the key of its own name, or the one that `--column` gives. Each row
keeps where it came from. `unfinished_rows` reads the states of trackers in any table.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fit.data.cells import (
    UNIT_COLUMN,
    convert_errors,
    convert_loss,
    loss_unit,
    read_numbers,
    refuse_perplexity,
)
from fit.data.columns import (
    REQUIRED,
    check_units_of_names,
    listed,
    melt,
    values_without_column,
    wide_hint,
)
from fit.data.conditions import rows_that_meet
from fit.data.formats import find_tables, flatten, parse_cell, read_frame
from fit.data.records import Floats, finite_or_null
from fit.errors import RecordError
from fit.files import csv_text, write_atomically
from fit.quantities import Units, count_noun

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_COLUMNS = (*REQUIRED, "flops", "loss_se", "width", "depth", "lr", "batch_tokens", "seed")
"""Columns that are taken without --column, where a run has a key of that name: numbers, all."""
MEASURED = frozenset({"loss", "loss_se", "tokens", "flops"})
"""Columns that are looked up in the summary first; the others in the config first."""
STATUS_OF_STATE: Mapping[str, str] = {
    "finished": "done", "done": "done", "completed": "done", "complete": "done",
    "success": "done", "succeeded": "done", "diverged": "diverged", "failed": "failed",
    "crashed": "failed", "killed": "failed", "preempted": "failed", "stopped": "failed",
}  # fmt: skip
"""A tracker's state of an ended run, in small letters -> the status in a table."""
UNENDED = frozenset(("running", "pending", "queued", "preempting", "starting", "resuming"))
"""States of runs that have not ended."""
STEPS = frozenset(("_step", "step", "global_step", "iter", "iteration"))
PLANNED = frozenset(
    ("max_steps", "total_steps", "num_steps", "n_steps", "train_steps", "num_train_steps",
     "planned_steps", "max_iters", "num_iterations", "steps")
)  # fmt: skip
"""Last parts of the keys of the step that a run reached, and of the one that was planned."""
RUN_COLUMNS = ("Name", "State", "ID", "name", "state", "id", "url", "run", "status", "source")
"""Columns of an exported table that describe the run, not its config or summary."""
MOST_NAMED = 3
"""Runs that one line names; more are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """One run as a tracker has logged it."""

    name: str
    source: str
    """Where it can be found again: project and id, or file and row."""
    state: str = "finished"
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    """Path of the table that it was read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTable:
    """Rows of a table, and the runs that were left out."""

    rows: tuple[Mapping[str, Any], ...]
    skipped: tuple[tuple[str, str], ...]
    """(run, reason)."""
    remarks: tuple[str, ...] = ()
    """Columns that were left out, and runs that were kept, in words."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Each of params, tokens and loss -> the key, constant or pattern that it was taken from."""


def build_table(
    runs: Iterable[LoggedRun],
    columns: Mapping[str, str],
    units: Units,
    *,
    where: Sequence[str] = (),
    keep_failed: bool = False,
) -> ImportedTable:
    """Build a table from logged runs.

    Args:
        runs: The runs.
        columns: Our column -> key in the config or summary, dots between levels; a prefix as in
            `config.lr` or `summary.loss` says in which of the two. What is no key may be a number,
            a text in quotes or a pattern of file names, see `fit.data.columns`.
        units: Our column -> factor to raw counts, FLOP or nats, or the unit of the loss.
        where: Conditions on keys and on our columns, all of which a run must meet.
        keep_failed: Take runs for done that the tracker calls failed, if they have a loss and
            stand at the last step that was planned, or say nothing of a plan.

    Raises:
        RecordError: There are no runs, none can be used, or none has a required column.
    """
    import pandas as pd

    logged = list(runs)
    flat = [(flatten(r.config), flatten(r.summary)) for r in logged]
    if not flat:
        raise RecordError("there are no runs there; a filter may have left none. Check it.")
    check_units_of_names(columns, units, "the runs")
    keys = {**{c: c for c in DEFAULT_COLUMNS}, **columns}
    cells = {n: [_look_up(n, k, c, s) for c, s in flat] for n, k in keys.items()}
    for name, key in columns.items():
        if all(cell is None for cell in cells[name]):
            cells[name] = values_without_column(key, name, [r.file for r in logged])
    _require_keys(flat, cells, keys, [*REQUIRED, *columns])
    unit = units.get("loss")
    read: dict[str, tuple[Floats, NDArray[np.bool_]]] = {}
    for name, column in cells.items():
        factor = units.get(name, 1.0) if name != "loss" else 1.0
        series = pd.Series(column, dtype=object)
        values, unread = read_numbers(series, name, scaled=factor != 1.0)
        read[name] = (
            convert_loss(values, unit) if name == "loss" else values * float(factor),
            unread,
        )
    if "loss_se" in read:
        errors, unread = read["loss_se"]
        read["loss_se"] = (convert_errors(errors, read["loss"][0], unit), unread)
    names = _unique_names(logged)
    skipped = _unselected(where, names, flat, cells, read)
    texts = {n for n, (_, unread) in read.items() if n not in REQUIRED and unread.any()}
    left_out = [n for n in texts if n in DEFAULT_COLUMNS]
    remarks = [f"the column {n} is left out: it holds text ({_first_text(read, cells, n)})"
               for n in sorted(left_out)]  # fmt: skip
    rows, kept, diverged = [], [], []
    for i, run in enumerate(logged):
        if i in skipped:
            continue
        status = STATUS_OF_STATE.get(run.state.lower(), run.state)
        if keep_failed and status == "failed" and read["loss"][0][i] > 0:
            left = steps_left({**flat[i][0], **flat[i][1]})
            if not left:
                status = "done"
                kept.append(names[i] + (" (no plan of its steps)" if left is None else ""))
        loss, unread = read["loss"][0][i], read["loss"][1][i]
        if status == "done" and cells["loss"][i] is not None and math.isnan(loss) and not unread:
            status = "diverged"
            diverged.append(names[i])
        reason = _reason_to_skip(run, status, i, read, cells)
        if reason is not None:
            skipped[i] = reason
            continue
        row = {n: cells[n][i] if n in texts else _tidy(read[n][0][i])
               for n in cells if n not in left_out}  # fmt: skip
        about = {"run": names[i], "source": run.source, "status": status}
        rows.append({**about, **row, **({} if unit is None else {UNIT_COLUMN: loss_unit(unit)})})
    if not rows:
        raise RecordError(
            f"none of {len(flat)} runs can be used: {next(iter(skipped.values()))}. Check them."
        )
    done = [r for r in rows if r["status"] == "done" and r["loss"]]
    if unit is None and all(r["params"] and r["tokens"] for r in done):
        n, d, loss = (np.array([r[c] for r in done], dtype=np.float64) for c in REQUIRED)
        refuse_perplexity(n, d, loss, "the runs")
    if diverged:
        remarks.append(f"taken for diverged, since the loss is no number: {_named(diverged)}")
    if kept:
        remarks.append(f"kept, though the tracker calls them failed: {_named(kept)}")
    return ImportedTable(
        rows=tuple(_without_empty(rows)),
        skipped=tuple((names[i], reason) for i, reason in sorted(skipped.items())),
        remarks=tuple(remarks),
        taken={c: keys[c] for c in REQUIRED if any(row[c] is not None for row in rows)},
    )


def skipped_lines(table: ImportedTable) -> list[str]:
    """The runs that were left out, with the reason, a line for each reason; then the remarks."""
    reasons: dict[str, list[str]] = {}
    for run, reason in table.skipped:
        reasons.setdefault(reason, []).append(run)
    lines = [f"left out: {_named(runs)}: {reason}" for reason, runs in reasons.items()]
    return [*lines, *table.remarks]


def _named(runs: Sequence[str]) -> str:
    """Names of runs, not too many."""
    more = len(runs) - MOST_NAMED
    return ", ".join(runs[:MOST_NAMED]) + (
        f" and {count_noun(more, 'more run')}" if more > 0 else ""
    )


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


def read_exports(sources: Sequence[str | Path], *, wide: str | None = None) -> Iterator[LoggedRun]:
    """Read tables of runs that a tracker's page has exported, one row a run.

    Cells may hold JSON or Python literals, as a config does. Columns `config` and `summary` that
    hold mappings become the run's config and summary.

    Args:
        sources: Paths or globs of tables in any format of `fit.data.formats`.
        wide: Our column whose values name columns of losses, see `fit.data.columns.melt`.

    Raises:
        RecordError: No such file, or no table.
    """
    for source in sources:
        path = Path(source)
        if not path.suffix and not path.exists():
            raise RecordError(
                f"cannot read {path}: there is no such file; a table of runs is needed. For a "
                f"project of W&B: python -m sweep.fetch wandb {path}"
            )
    paths = find_tables(sources)
    for path in paths:
        if path.is_dir():
            raise RecordError(f"cannot read {path}: it is a folder; a table of runs is needed.")
        frame, _ = read_frame(path, nested=True)
        head = f"{path.name}, " if len(paths) > 1 else ""
        yield from _logged_runs(frame if wide is None else melt(frame, wide, path), path, head)


def _logged_runs(frame: pd.DataFrame, path: Path, head: str) -> Iterator[LoggedRun]:
    """The rows of a frame as logged runs; `head` begins the names of those that have none."""
    names = [str(c) for c in frame]
    for number, values in enumerate(zip(*(frame[c].tolist() for c in frame), strict=True), start=1):
        cells = {k: v for k, v in zip(names, values, strict=True) if not _empty(v)}
        inner = {k: parse_cell(cells[k]) for k in ("config", "summary") if k in cells}
        maps = {k: v for k, v in inner.items() if isinstance(v, Mapping)}
        rest = {k: v for k, v in cells.items() if k not in (*RUN_COLUMNS, *maps)}
        where = next((cells[k] for k in ("url", "ID", "id") if k in cells), f"row {number}")
        unnamed = f"{head}row {number}"
        state = next((cells[k] for k in ("State", "state", "status") if k in cells), "finished")
        yield LoggedRun(
            name=str(next((cells[k] for k in ("run", "Name", "name") if k in cells), unnamed)),
            source=f"{path.name}/{where}",
            state=str(state).strip(),
            config=maps.get("config", {}),
            summary={**rest, **maps.get("summary", {})},
            file=str(path),
        )


def _empty(cell: Any) -> bool:
    """Whether a cell holds nothing."""
    return cell is None or cell == "" or bool(isinstance(cell, float) and math.isnan(cell))


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


def _unique_names(logged: Sequence[LoggedRun]) -> list[str]:
    """Names of the runs; those that several have are followed by the source."""
    counts = Counter(r.name for r in logged)
    return [
        r.name if counts[r.name] == 1 else f"{r.name} ({r.source.split('/')[-1]})" for r in logged
    ]


def _unselected(
    where: Sequence[str],
    names: Sequence[str],
    flat: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    cells: Mapping[str, Sequence[Any]],
    read: Mapping[str, tuple[Floats, NDArray[np.bool_]]],
) -> dict[int, str]:
    """The runs that do not meet the conditions, by number, and the condition."""
    if not where:
        return {}
    keys = dict.fromkeys(k for pair in flat for part in pair for k in part)
    columns: dict[str, Any] = {k: _objects([s.get(k, c.get(k)) for c, s in flat]) for k in keys}
    for name, (values, unread) in read.items():
        columns[name] = _objects(cells[name]) if unread.all() or name not in keys else values
        if not unread.any():
            columns[name] = values
    columns["run"] = _objects(names)
    skipped: dict[int, str] = {}
    for condition in where:
        for i in np.flatnonzero(~rows_that_meet(condition, columns, len(names))):
            skipped.setdefault(int(i), f"not {condition}")
    return skipped


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    """Values of any type as an array of one dimension."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _first_text(
    read: Mapping[str, tuple[Floats, NDArray[np.bool_]]],
    cells: Mapping[str, Sequence[Any]],
    name: str,
) -> str:
    """The first cell of a column that is no number, in quotes."""
    return f"'{str(cells[name][int(np.argmax(read[name][1]))])[:40]}'"


def _tidy(number: float) -> Any:
    """A number as a whole one where it is, None where it is missing."""
    if not math.isfinite(number):
        return None
    return int(number) if float(number).is_integer() and abs(number) < 2**53 else float(number)


def _reason_to_skip(
    run: LoggedRun,
    status: str,
    row: int,
    read: Mapping[str, tuple[Floats, NDArray[np.bool_]]],
    cells: Mapping[str, Sequence[Any]],
) -> str | None:
    """Why a run cannot be a row; None if it can."""
    if run.state.lower() not in STATUS_OF_STATE:
        return f"it is {run.state}, not finished"
    derived = [n for n in ("params", "tokens") if cells["flops"][row] is not None]
    absent = [n for n in ("params", "tokens") if cells[n][row] is None]
    for name in (*REQUIRED, "flops"):
        values, unread = read[name]
        cell, value = cells[name][row], float(values[row])
        missing = cell is None or (math.isnan(value) and not unread[row])
        if missing and (name == "flops" or (name in derived and len(absent) == 1)):
            continue
        if name == "loss" and (status != "done" or (missing and cell is not None)):
            continue
        if missing or unread[row]:
            return f"its {name} is {'missing' if cell is None else repr(cell)}"
        if not (value > 0 and math.isfinite(value)):
            return f"its {name} is {cell}, not a positive number"
    return None


def _require_keys(
    flat: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    cells: Mapping[str, Sequence[Any]],
    keys: Mapping[str, str],
    needed: Sequence[str],
) -> None:
    """Refuse a column whose key no run has, and list numeric keys that there are."""
    absent = [n for n in dict.fromkeys(needed) if all(cell is None for cell in cells[n])]
    has_flops = any(cell is not None for cell in cells["flops"])
    if absent in (["params"], ["tokens"]) and has_flops and keys[absent[0]] == absent[0]:
        return
    if absent:
        numeric = dict.fromkeys(
            k for pair in flat for part in pair for k, v in part.items()
            if isinstance(v, int | float) and not isinstance(v, bool) and v == v
        )  # fmt: skip
        wanted = ", nor ".join(f"'{keys[n]}' for the column {n}" for n in absent)
        hint = wide_hint(numeric, absent)
        yours = " ".join(f"--column {n}=KEY" for n in absent)
        raise RecordError(
            f"no run has {wanted}; among the numbers there are {listed(numeric, absent)}."
            + (hint or f" Name yours: {yours}")
        )


def steps_left(flat: Mapping[str, Any]) -> float | None:
    """Steps between the one that a run reached and its planned last one; None without a plan."""

    def largest(names: frozenset[str]) -> float | None:
        values = [
            float(v) for k, v in flat.items()
            if k.rsplit(".", 1)[-1].rsplit("/", 1)[-1] in names
            and isinstance(v, int | float) and not isinstance(v, bool)
        ]  # fmt: skip
        return max(values, default=None)

    reached, planned = largest(STEPS), largest(PLANNED)
    if reached is None or planned is None:
        return None
    return max(0.0, planned - 1 - reached)  # trackers count steps from 0


def unfinished_rows(
    frame: pd.DataFrame, keep: NDArray[np.bool_], loss: Floats, path: str, keep_failed: bool
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Rows of a table that its column `status` or `state` says have failed, diverged or not ended.

    Args:
        frame: The table.
        keep: Rows that are of interest, (rows,).
        loss: Losses, (rows,).
        path: Name of the table in messages.
        keep_failed: Leave out failed rows that have a loss and stand at their planned last step,
            or say nothing of a plan.

    Returns:
        (reason, mask) for each reason.

    Raises:
        RecordError: A row has another status.
    """
    states = {**STATUS_OF_STATE, **dict.fromkeys(UNENDED, "running")}
    column = "status" if "status" in frame else None
    if column is None:
        alike = [str(c) for c in frame if str(c).strip().lower() == "state"]
        cells = frame[alike[0]].astype(str).str.strip().str.lower() if len(alike) == 1 else None
        column = alike[0] if cells is not None and cells.isin(states).any() else None
    if column is None:
        if keep_failed:
            raise RecordError(
                f"--keep-failed needs a column status or state; {path} has {listed(frame)}. Leave "
                "it out, or name yours: --column status=YOURS"
            )
        return []
    status = frame[column].astype(str).str.strip().str.lower()
    unknown = sorted(set(status[keep]) - set(states))
    if unknown:
        raise RecordError(
            f"{path} has {column} '{unknown[0]}'; known are done, diverged, failed and a tracker's "
            f"{', '.join(s for s in states if s not in ('done', 'diverged', 'failed'))[:60]} ... "
            f"Rename it, or leave such rows out: --where \"{column} != '{unknown[0]}'\""
        )
    ended = status.map(states)
    failed = np.array(ended == "failed")
    if keep_failed:
        columns = {str(c): frame[c].tolist() for c in frame}
        for i in np.flatnonzero(failed & (loss > 0)):
            failed[i] = bool(steps_left({name: cells[i] for name, cells in columns.items()}))
    if failed[keep].all() and keep.any():
        hint = (
            "Name another column" if keep_failed else "--keep-failed keeps those at their last step"
        )
        raise RecordError(
            f"all {int(keep.sum())} rows of {path} are failed by its column {column}. {hint}."
        )
    return [
        ("failed", failed),
        ("diverged", (ended == "diverged").to_numpy(dtype=bool)),
        ("it has not ended", (ended == "running").to_numpy(dtype=bool)),
    ]


def _without_empty(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the columns that are empty in all of them."""
    filled = [n for n in rows[0] if any(r[n] is not None for r in rows)]
    return [{n: r[n] for n in filled} for r in rows]
