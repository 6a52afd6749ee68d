"""Read training runs, from a folder of records or from tables, into a checked `RunTable`.

`load` is what callers use. It takes

- a folder: every `record.json` below it, counted by the conventions asked for;
- tables, by path or glob (`fit.data.formats`): other people's runs, counted as they counted them;
- a data frame, or a list of records.

A table goes through these steps: its columns get our names (`fit.data.columns`), their cells become
numbers in raw counts and nats (`fit.data.cells`), the conditions select rows
(`fit.data.conditions`), and what is left is checked. Nothing is corrected: a cell that is not a
positive number, a loss that seems to be a perplexity or a 64-bit integer that has overflowed is
refused with its row or column.

A law of the best learning rate or batch size predicts another column than the loss, its *target*.
Its table either has no losses (each row is an optimum) or is a scan, of which the run of least loss
is taken at each size and length.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fit.data.accounting import FLOPS_PER_PARAM_TOKEN
from fit.data.cells import (
    UNIT_COLUMN,
    convert_errors,
    convert_loss,
    loss_unit,
    read_numbers,
    refuse_perplexity,
    stated_unit,
    why_unread,
)
from fit.data.columns import (
    FILE,
    OURS,
    REQUIRED,
    check_units_of_names,
    columns_alike,
    find_column,
    melt,
    name_columns,
    require_columns,
)
from fit.data.conditions import as_conditions, rows_that_meet
from fit.data.formats import TABLE_READERS, as_frame, find_tables, read_frame
from fit.data.records import Dropped, Floats, RunFolder, RunRecord, read_runs
from fit.data.table import (
    RECORD_COLUMNS,
    RunTable,
    filter_rows,
    on_heldout,
    recluster,
    without_copies,
)
from fit.data.trackers import unfinished_rows
from fit.errors import RecordError, check_type
from fit.files import content_hash
from fit.quantities import Units, check_units, count_noun

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REQUIRED", "TABLE_READERS", "load"]
FRAME = "the data frame"
"""Name of a table that came without a path."""
NUMERIC = frozenset((*RECORD_COLUMNS, "unique_tokens"))
"""Columns beside ours that are of use as numbers only."""
TOTALS = frozenset("total totals sum mean average avg median std min max".split())
"""Names of a last row that is no run."""
LARGEST_INTEGER = float(2**63)
MOST_ROWS = 6
"""Row numbers shown in a message."""


def load(
    source: object,
    *,
    params: str | None = None,
    flops: str | None = None,
    rename: Mapping[str, str] | None = None,
    cluster: str | None = None,
    where: str | Sequence[str] | None = None,
    units: Units | None = None,
    wide: str | None = None,
    keep_failed: bool = False,
    target: str = "loss",
    heldout: str | None = None,
) -> RunTable:
    """Read run records or tables into a `RunTable`.

    Args:
        source: Path of a folder of runs; path or glob of a table with a suffix of `TABLE_READERS`,
            or a sequence of these; a data frame (pandas, or anything with `to_pandas` or
            `__dataframe__`); or a sequence of `RunRecord`.
        params: Counting convention of N for records, `matmul` unless given; a table has its own.
        flops: Counting convention of C for records, `exact` unless given; a table has its own.
        rename: Our column name -> the table's column name, a constant or a pattern of file names,
            see `fit.data.columns`; records have ours.
        cluster: Column whose equal values mark runs with correlated errors.
        where: Conditions on the columns, such as `loss < 5`, all of which a run must meet.
        units: Our column name -> factor to raw counts, FLOP or nats, for a table; for the loss also
            one of `quantities.LOSS_UNITS`.
        wide: Our column, `params` or `tokens`, whose values name columns of losses.
        keep_failed: Keep rows of a table that a tracker calls failed and that reached their end.
        target: Column that the law predicts. Unless it is the loss, the table holds the run of
            least loss at each params and tokens, with the target as its `loss`.
        heldout: Held-out set of records whose loss stands in place of the main one.

    Raises:
        RecordError: Nothing is there, a column is missing, cells are not positive finite numbers,
            or an argument has no meaning for this source.
    """
    for name, value in (("rename", rename), ("units", units)):
        check_type(RecordError, name, value, (Mapping, type(None)), "a dictionary by column")
    texts = {"cluster": cluster, "wide": wide, "params": params, "flops": flops}
    texts |= {"heldout": heldout, "target": target, **(rename or {})}
    for name, text in texts.items():
        check_type(RecordError, name, text, (str, type(None)), "text")
    check_type(RecordError, "keep_failed", keep_failed, (bool,), "True or False")
    conditions = as_conditions(where)
    records = _as_records(source)
    paths = [] if records is not None else _paths(source)
    if records is not None or (paths and paths[0].is_dir()):
        folder = str(paths[0]) if paths else "the list"
        options = {
            "--unit": units,
            "--column": rename,
            "--wide": wide,
            "--keep-failed": keep_failed,
        }
        _refuse_options(options, folder)
        runs = records or read_runs(paths[0])
        about: dict[str, Any] = {"source": folder if paths else "records", "hash": runs.hash}
        about |= {"params": params or "matmul", "flops": flops or "exact", "folders": runs.folders}
        if heldout is not None:  # training curves are of another loss than the fitted one
            runs = dataclasses.replace(runs, records=on_heldout(runs.records, heldout, folder))
            about["folders"] = {}
        table = _read_records(runs, conditions, about)
        if cluster is not None:
            table = recluster(table, cluster)
        return table if target == "loss" else _best_of_scan(table, target)
    if heldout is not None:
        raise RecordError(
            f"--heldout {heldout} chooses a loss of run records; {paths[0] if paths else 'this'} "
            "is a table. Name its column: --column loss=YOURS."
        )
    counting = [f"--{k} {v}" for k, v in (("params", params), ("flops", flops)) if v is not None]
    if counting:
        raise RecordError(
            f"{' and '.join(counting)} recount run records; {paths[0] if paths else 'this'} is a "
            "table, whose columns are taken as they are counted. Leave it out, or choose columns: "
            "--column."
        )
    reading: dict[str, Any] = {
        "rename": rename or {},
        "cluster": cluster,
        "units": check_units(units or {}),
    }
    reading |= {"where": conditions, "wide": wide, "keep_failed": keep_failed, "target": target}
    if paths:
        frame, data = read_frames(paths)
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        return _table_of(frame, f"{paths[0]}{more}", data, **reading)
    frame = as_frame(source)
    return _table_of(frame, FRAME, frame.to_csv(index=False).encode(), **reading)


def _paths(source: object) -> list[Path]:
    """The folder or tables that a path, a glob or a sequence of them means; none for a frame."""
    if isinstance(source, str | os.PathLike):
        return find_tables([os.fspath(source)])
    if not isinstance(source, list | tuple):
        return []
    if not all(isinstance(s, str | os.PathLike) for s in source):
        return []
    return find_tables([os.fspath(s) for s in source])


def _refuse_options(options: Mapping[str, Any], folder: str) -> None:
    """Refuse options that have no meaning for run records."""
    for option, value in options.items():
        if value:
            names = f" ({', '.join(value)})" if isinstance(value, Mapping) else ""
            raise RecordError(
                f"{option}{names} is for tables; the records of {folder} hold raw counts and their "
                "status under our names. Leave it out."
            )


def _as_records(source: object) -> RunFolder | None:
    """A sequence of run records as if read from a folder; None for anything else."""
    records = tuple(source) if isinstance(source, list | tuple) else ()
    if not records or not all(isinstance(record, RunRecord) for record in records):
        return None
    text = "\n".join(record.to_json() for record in records)
    return RunFolder(records=records, skipped=(), hash=content_hash(text.encode()))


def read_frames(paths: Sequence[Path]) -> tuple[pd.DataFrame, bytes]:
    """The rows of one or several tables as one frame with the column `FILE`, and their bytes."""
    import pandas as pd

    frames, parts = [], []
    for path in paths:
        frame, data = read_frame(path)
        frames.append(frame.assign(**{FILE: str(path)}))
        parts.append(data)
    together = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    return together, b"".join(parts)


def _table_of(
    frame: pd.DataFrame,
    path: str,
    data: bytes,
    *,
    rename: Mapping[str, str],
    cluster: str | None,
    units: Units,
    where: Sequence[str],
    wide: str | None,
    keep_failed: bool,
    target: str,
) -> RunTable:
    """Select and check the rows of a data frame; `path` names it, `data` is what its hash is of."""
    given = frame
    frame = name_columns(frame, rename, path)
    if wide is not None:
        frame = given = melt(frame, wide, path)
    check_units_of_names(rename, units, path)
    scan = target != "loss" and "loss" in frame
    frame = require_columns(frame, path, target, units)
    names = np.array(_run_names(frame), dtype=object)
    unit = stated_unit(units, frame, path)
    read = {c: _read(frame, c, units, unit) for c in (*REQUIRED, "flops") if c in frame}
    columns = {str(c): f[c].to_numpy() for f in (given, frame) for c in f if c != FILE}
    columns |= {"run": names, **_complete_counts({c: values for c, (values, _) in read.items()})}
    keep = np.ones(len(frame), dtype=bool)
    dropped: list[Dropped] = []

    def drop(rows: NDArray[np.bool_], reason: str) -> None:
        dropped.extend(Dropped(run=str(name), reason=reason) for name in names[keep & rows])
        keep[rows] = False

    for condition in where:
        drop(~rows_that_meet(condition, columns, len(frame)), f"not {condition}")
    for reason, rows in unfinished_rows(frame, keep, read["loss"][0], path, keep_failed):
        drop(rows, reason)
    _refuse_totals(frame, keep, path)
    for column, (values, unread) in read.items():
        _check_numbers(frame, column, values, unread | ~(values > 0), keep, path, unit)
    core = {c: np.where(np.isfinite(v), v, math.nan)[keep] for c, (v, _) in read.items()}
    rows_kept = np.flatnonzero(keep)
    _refuse_overflow(core, frame, rows_kept, path)
    full = _complete_counts(core)
    if unit is None and (target == "loss" or scan):
        refuse_perplexity(full["params"], full["tokens"], full["loss"], path)
    codes = rows_kept
    if cluster is not None:
        home = frame if columns_alike(cluster, frame) else given
        clusters = home[find_column(cluster, home, path, "to cluster by")][keep]
        if clusters.isna().any():
            raise RecordError(
                f"{path} has {int(clusters.isna().sum())} rows without a {cluster}; --cluster "
                f'needs one in each. Leave them out: --where "{cluster} is not None"'
            )
        codes = clusters.factorize()[0]
    extra, remarks = _further_columns(frame[keep], read["loss"][0][keep], units, unit)
    table = RunTable(
        run=tuple(map(str, names[keep])),
        cluster=codes,
        columns=extra,
        params_convention="as given",
        flops_convention="as given" if {"params", "tokens", "flops"} <= core.keys() else "6nd",
        source=path,
        hash=content_hash(data),
        dropped=tuple(dropped),
        loss_unit="" if unit is None else loss_unit(unit),
        remarks=remarks,
        **full,
    )
    table = without_copies(table)
    return _best_of_scan(table, target) if scan else table


def _read(
    frame: pd.DataFrame, column: str, units: Units, unit: float | str | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """A column in raw counts, FLOP, or the unit of the loss; and where a cell is no number."""
    factor = units.get(column, 1.0)
    values, unread = read_numbers(frame[column], column, scaled=factor != 1.0)
    if column == "loss":
        return convert_loss(values, unit), unread
    return values * float(factor), unread


def _further_columns(
    frame: pd.DataFrame, loss: Floats, units: Units, unit: float | str | None
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The columns beside ours, and remarks on those that are left out since they hold text."""
    columns: dict[str, NDArray[Any]] = {}
    remarks = []
    for column in frame.drop(columns=[*OURS, FILE, UNIT_COLUMN], errors="ignore"):
        name, cells = str(column), frame[column]
        if name in NUMERIC:
            values, unread = read_numbers(cells, name)
            if unread.any():
                text = cells.iloc[int(np.argmax(unread))]
                remarks.append(
                    f"the column {name} is left out: '{text}' is no number "
                    f"({count_noun(int(unread.sum()), 'such cell')})"
                )
                continue
            columns[name] = convert_errors(values, loss, unit) if name == "loss_se" else values
        elif not (name.startswith("Unnamed:") or cells.isna().all()):
            columns[name] = cells.to_numpy()
    return columns, tuple(remarks)


def _complete_counts(core: Mapping[str, Floats]) -> dict[str, Any]:
    """Params, tokens, flops and loss, the absent one by C = 6 N D, in floating point."""
    full, k = dict(core), FLOPS_PER_PARAM_TOKEN
    with np.errstate(all="ignore"):  # cells that are no counts are refused later, if they are kept
        if "flops" not in full:
            full["flops"] = k * full["params"] * full["tokens"]
        elif "tokens" not in full:
            full["tokens"] = full["flops"] / (k * full["params"])
        elif "params" not in full:
            full["params"] = full["flops"] / (k * full["tokens"])
    return full


def _place(frame: pd.DataFrame, rows: NDArray[np.int64], path: str) -> str:
    """Where rows stand: the table or the file, and their numbers counted from 1."""
    numbers = rows
    if FILE in frame and frame[FILE].nunique() > 1:
        files = frame[FILE].to_numpy()
        path = str(files[rows[0]])
        rows = rows[files[rows] == path]
        numbers = rows - int(np.argmax(files == path))
    shown = ", ".join(str(i + 1) for i in numbers[:MOST_ROWS])
    more = f" and {len(numbers) - MOST_ROWS} more" if len(numbers) > MOST_ROWS else ""
    return f"{path}, row{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _check_numbers(
    frame: pd.DataFrame,
    column: str,
    values: Floats,
    bad: NDArray[np.bool_],
    keep: NDArray[np.bool_],
    path: str,
    unit: float | str | None,
) -> None:
    """Refuse rows that are kept and have no positive finite number in a column.

    A missing or non-finite loss is let through: the run did not finish, and the fit drops it.
    """
    if column == "loss":
        cells = frame[column]
        absent = np.isnan(values) & ~_is_text(cells)
        bad = bad & ~absent & ~(values == math.inf)
    else:
        bad = bad | ~np.isfinite(values)
    rows = np.flatnonzero(bad & keep)
    if not len(rows):
        return
    cell = frame[column].iloc[rows[0]]
    overflow = " (an overflow of 64-bit integers?)" if values[rows[0]] < -1e9 else ""
    needed = "a perplexity above 1" if unit == "ppl" and column == "loss" else "a positive number"
    shown = "" if cell != cell or cell is None else str(cell)[:60]
    raise RecordError(
        f"{_place(frame, rows, path)}: {column} is '{shown}'{overflow}{why_unread(cell)}; {needed} "
        f"is needed ({count_noun(len(rows), 'such cell')}). Correct these rows, or leave them out: "
        f'--where "{column} > 0"'
    )


def _is_text(cells: pd.Series[Any]) -> NDArray[np.bool_]:
    """Which cells hold something that is no number, (rows,)."""
    return read_numbers(cells, "loss")[1]


def _refuse_totals(frame: pd.DataFrame, keep: NDArray[np.bool_], path: str) -> None:
    """Refuse a last row that sums up the others."""
    rows = np.flatnonzero(keep)
    for column in dict.fromkeys(["run", *frame.columns[:1]]):
        if not len(rows) or column not in frame:
            continue
        name = str(frame[column].iloc[rows[-1]]).strip().lower()
        others = frame[column].iloc[rows[:-1]].astype(str).str.strip().str.lower()
        if name in TOTALS and not others.isin(TOTALS).any():
            raise RecordError(
                f"{_place(frame, rows[-1:], path)} is called '{name}' and seems to be no run. "
                f"Leave it out: --where \"{column} != '{frame[column].iloc[rows[-1]]}'\""
            )


def _refuse_overflow(
    core: Mapping[str, Floats], frame: pd.DataFrame, rows: NDArray[np.int64], path: str
) -> None:
    """Refuse FLOPs that are 6 params tokens wrapped around in 64-bit integers."""
    if not {"params", "tokens", "flops"} <= core.keys():
        return
    true = FLOPS_PER_PARAM_TOKEN * core["params"] * core["tokens"]
    suspect = np.flatnonzero((true >= LARGEST_INTEGER) & (core["flops"] < 0.5 * true))
    wrapped = [i for i in suspect[:1000] if _has_wrapped(core, int(i))]
    if wrapped:
        row = wrapped[0]
        raise RecordError(
            f"{_place(frame, rows[row : row + 1], path)}: flops is {core['flops'][row]:.4g} where "
            f"6 params tokens is {true[row]:.4g}, an overflow of 64-bit integers ({len(wrapped)} "
            "such rows). Compute flops in floating point, or leave the column out."
        )


def _has_wrapped(core: Mapping[str, Floats], row: int) -> bool:
    """Whether a row's FLOPs are what signed 64-bit arithmetic makes of 6 params tokens."""
    n, d, c = (int(core[name][row]) for name in ("params", "tokens", "flops"))
    low_bits = (int(FLOPS_PER_PARAM_TOKEN) * n * d) % 2**64
    signed = low_bits - 2**64 if low_bits >= 2**63 else low_bits
    return abs(signed - c) <= max(abs(c), 1) * 1e-9


def _run_names(frame: pd.DataFrame) -> tuple[str, ...]:
    """The column `run`, or row numbers counted from 1."""
    if "run" in frame:
        return tuple(frame["run"].astype(str))
    return tuple(f"row {i + 1}" for i in range(len(frame)))


def _best_of_scan(table: RunTable, target: str) -> RunTable:
    """The run of least loss at each params and tokens, its target in place of its loss.

    Raises:
        RecordError: The runs have no such column, or its values are not positive.
    """
    if target not in table.columns:
        columns = ", ".join(table.columns) or "no others"
        raise RecordError(
            f"the law needs a column {target}; {table.source} has params, tokens, loss and "
            f"{columns}. Name yours: --column {target}=YOURS"
        )
    table = table.take(np.isfinite(table.loss), reason="no finite loss")
    order = np.lexsort((table.loss, table.tokens, table.params))
    points = np.stack([table.params, table.tokens], axis=1)[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(points, axis=0) != 0).any(axis=1)
    keep = np.zeros(len(table), dtype=bool)
    keep[order[first]] = True
    best = table.take(keep, reason="not the best of its params and tokens")
    values = best.column(target)
    if not (values > 0).all():
        raise RecordError(
            f"{target} of {best.source} has values that are not positive; positive ones are "
            "needed. Correct the column."
        )
    return dataclasses.replace(best, loss=values)


def _read_records(runs: RunFolder, where: Sequence[str], about: Mapping[str, Any]) -> RunTable:
    """The records of a folder that meet the conditions, as a table.

    With a condition the table is built a second time, from the records that meet it: what all of
    its runs share, such as their data, depends on which they are.
    """
    if runs.skipped and not runs.records:
        first = runs.skipped[0]
        raise RecordError(
            f"{about['source']} has {count_noun(len(runs.skipped), 'record')} and none can be "
            f"read: {first.run}: {first.reason} Launch the sweep again, or check the folder."
        )
    table = RunTable.from_records(runs.records, **about)
    if where:
        met = filter_rows(table, where)
        kept = [r for r in runs.records if r.status == "done" and r.run in set(met.run)]
        table = RunTable.from_records(kept, **about) if kept else met
        table = dataclasses.replace(table, dropped=met.dropped)
    return dataclasses.replace(table, dropped=(*table.dropped, *runs.skipped))
