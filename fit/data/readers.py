"""Read training runs, from a folder of records or from a table, into a checked `RunTable`.

`load` is what callers use. It takes

- a folder: every `record.json` below it, counted by the conventions asked for;
- a table, by its suffix (`TABLE_READERS`): other people's runs, counted as they counted them.

Column names are matched without regard to capitals, blanks and separators. Numbers are not
interpreted: a cell that is not a positive number, a loss in bits or a 64-bit integer that has
overflowed is refused with its row or column, never corrected.

A law of the best learning rate or batch size predicts another column than the loss, its *target*.
Its table either has no losses (each row is an optimum) or is a scan, of which the run of least loss
is taken at each size and length.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fit.data.accounting import FLOPS_PER_PARAM_TOKEN
from fit.data.records import STATUSES, Floats, RunFolder, RunRecord, read_runs
from fit.data.table import RunTable, filter_rows, read_only, recluster, without_copies
from fit.errors import RecordError
from fit.files import content_hash, unescape_formula
from fit.quantities import count_noun

if TYPE_CHECKING:
    import pandas as pd

FRAME = "the data frame"
"""Name of a table that came without a path."""
REQUIRED = ("params", "tokens", "loss")
OURS = (*REQUIRED, "flops", "run", "status")
"""Columns with a meaning of their own; all others are kept by their names in `RunTable.columns`."""
CONVERSIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "a perplexity": (("perplexity", "ppl"), "take its natural logarithm"),
    "in bits": (("bits", "bpb", "bpt", "bpc"), "multiply bits per token by ln 2 = 0.6931"),
}
"""Losses that are not in nats: what they are, words in their column's name, how to convert them."""
LARGEST_INTEGER = float(2**63)
LISTED_COLUMNS = 12
"""Column names shown in a message."""


def load(
    source: object,
    *,
    params: str | None = None,
    flops: str | None = None,
    rename: Mapping[str, str] | None = None,
    cluster: str | None = None,
    where: str | None = None,
    units: Mapping[str, float] | None = None,
    target: str = "loss",
) -> RunTable:
    """Read run records or a table into a `RunTable`.

    Args:
        source: Path of a folder of runs, or of a table with a suffix of `TABLE_READERS` (see
            `read_table`); a data frame (pandas, or anything with `to_pandas` or `__dataframe__`);
            or a sequence of `RunRecord`.
        params: Counting convention of N for records, `matmul` unless given; a table has its own.
        flops: Counting convention of C for records, `exact` unless given; a table has its own.
        rename: Our column name -> the table's column name; records have ours.
        cluster: Column whose equal values mark runs with correlated errors.
        where: Condition on the columns that a run must meet, such as `loss < 5`.
        units: Our column name -> factor to raw counts, FLOP or nats, for a table.
        target: Column that the law predicts. Unless it is the loss, the table holds the run of
            least loss at each params and tokens, with the target as its `loss`.

    Raises:
        RecordError: Nothing is there, a column is missing, cells are not positive finite numbers,
            or an argument has no meaning for this source.
    """
    rename, units = rename or {}, units or {}
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    records = None if path is not None else _as_records(source)
    if records is not None or (path is not None and path.is_dir()):
        if units or rename:
            option = f"--unit ({', '.join(units)})" if units else f"--column ({', '.join(rename)})"
            raise RecordError(
                f"{option} is for tables; the records of {path or 'the list'} hold raw counts "
                "under our names. Leave it out."
            )
        runs = records or read_runs(cast(Path, path))
        table = _read_records(runs, str(path or "records"), params, flops, where)
        if cluster is not None:
            table = recluster(table, cluster)
        return table if target == "loss" else _best_of_scan(table, target)
    if path is not None and path.suffix.lower() not in TABLE_READERS:
        raise RecordError(
            f"{path} is neither a folder of runs nor a table ({', '.join(TABLE_READERS)}). "
            "Check the path."
        )
    options = [f"--{k} {v}" for k, v in (("params", params), ("flops", flops)) if v is not None]
    if options:
        raise RecordError(
            f"{' and '.join(options)} recount run records; {path or 'this'} is a table, whose "
            "columns are taken as they are counted. Leave it out, or choose columns: --column."
        )
    about: dict[str, Any] = {"rename": rename, "cluster": cluster, "units": units}
    about |= {"where": where, "target": target}
    if path is not None:
        return read_table(path, **about)
    frame = _as_frame(source)
    return _table_of(frame, Path(FRAME), frame.to_csv(index=False).encode(), **about)


def _as_records(source: object) -> RunFolder | None:
    """A sequence of run records as if read from a folder; None for anything else."""
    records = tuple(source) if isinstance(source, list | tuple) else ()
    if not records or not all(isinstance(record, RunRecord) for record in records):
        return None
    text = "\n".join(record.to_json() for record in records)
    return RunFolder(records=records, skipped=(), hash=content_hash(text.encode()))


def _as_frame(source: object) -> pd.DataFrame:
    """A data frame of any library as one of pandas."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source.copy()
    if hasattr(source, "to_pandas"):
        return pd.DataFrame(source.to_pandas())
    if hasattr(source, "__dataframe__"):
        return pd.api.interchange.from_dataframe(source)
    raise RecordError(
        f"runs are given as {type(source).__name__}; a path, a data frame or a list of run records "
        "is needed. Convert them: pandas.DataFrame(...)."
    )


def read_table(
    path: Path,
    *,
    rename: Mapping[str, str],
    cluster: str | None,
    units: Mapping[str, float] = MappingProxyType({}),
    where: str | None = None,
    target: str = "loss",
) -> RunTable:
    """Read and check a table of runs.

    Args:
        path: Table with `params`, `tokens` and `loss`, its format by its suffix. `flops` is taken
            as 6 params tokens where it is absent; with it, params or tokens may be absent instead.
        rename: Our column name -> the table's.
        cluster: Column whose equal values mark runs with correlated errors.
        units: Our column name -> factor to raw counts, FLOP or nats.
        where: Condition on the columns that a run must meet.
        target: Column that the law predicts; see `load`.

    Raises:
        RecordError: Not a table, columns missing, or cells that are not positive numbers.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(f"no file {path}; a table of runs is needed. Check the path.") from error
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    about: dict[str, Any] = {"rename": rename, "cluster": cluster, "units": units}
    return _table_of(_read_frame(path), path, data, where=where, target=target, **about)


def _table_of(
    frame: pd.DataFrame,
    path: Path,
    data: bytes,
    *,
    rename: Mapping[str, str],
    cluster: str | None,
    units: Mapping[str, float],
    where: str | None,
    target: str,
) -> RunTable:
    """Check a data frame of runs; `path` names it in messages, `data` is what its hash is of."""
    frame = _rename_columns(frame, rename, path, units)
    scan = target != "loss" and "loss" in frame
    frame = _require_columns(frame, path, target)
    names = _run_names(frame)
    core = {
        c: _numbers(frame, c, path) * units.get(c, 1.0) for c in (*REQUIRED, "flops") if c in frame
    }
    _refuse_overflow(core, path)
    convention = "as given" if {"params", "tokens", "flops"} <= core.keys() else "6nd"
    codes = np.arange(len(frame))
    if cluster is not None:
        codes = frame[_find_column(cluster, frame, path, "to cluster by")].factorize()[0]
    extra = frame.drop(columns=list(OURS), errors="ignore")
    table = RunTable(
        run=names,
        cluster=codes,
        columns={str(c): extra[c].to_numpy() for c in extra},
        params_convention="as given",
        flops_convention=convention,
        source=str(path),
        hash=content_hash(data),
        **_complete_counts(core),
    )
    table = without_copies(_without_unfinished(table, frame, path))
    if where is not None:
        table = filter_rows(table, where)
    return _best_of_scan(table, target) if scan else table


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a csv separated by comma, semicolon or tab, as its first two lines show."""
    import pandas as pd

    with path.open(encoding="utf-8", errors="replace") as stream:
        head, first = stream.readline(65536), stream.readline(65536)
    separator = max(",;\t", key=head.count)
    comma = separator != "," and re.search(r"\d,\d", first) and not re.search(r"\d\.\d", first)
    decimal = "," if comma else "."
    frame = pd.read_csv(path, sep=separator, decimal=decimal, skipinitialspace=True)
    return _unescaped(frame)


def _unescaped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the apostrophes that `files.csv_text` puts before formulas."""
    for column in frame:
        if frame[column].dtype.kind == "O":
            cells = frame[column].map(unescape_formula)
            # Only where a cell changes: `map` may infer another type for the column.
            if not cells.equals(frame[column]):
                frame[column] = cells
    return frame.rename(columns={c: unescape_formula(c) for c in frame})


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file."""
    import pandas as pd

    return pd.read_parquet(path)


def _read_jsonl(path: Path) -> pd.DataFrame:
    """Read one JSON object a line."""
    import pandas as pd

    return pd.read_json(path, lines=True)


TABLE_READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
}
"""Formats of tables by suffix. A new format is one entry here; everything after is checked alike.

pandas is imported inside the readers: a query reads no table and must not wait for it."""


def _read_frame(path: Path) -> pd.DataFrame:
    """Read a table's cells with the reader of its suffix."""
    suffix = path.suffix.lower()
    try:
        return TABLE_READERS[suffix](path)
    except Exception as error:  # readers raise their own kinds, some not even ValueError
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RecordError(f"cannot read {path} as {suffix[1:]}: {first}") from error


def _rename_columns(
    frame: pd.DataFrame, rename: Mapping[str, str], path: Path, units: Mapping[str, float]
) -> pd.DataFrame:
    """The frame under our names: the user's renamings, then names that differ by spelling alone."""
    frame = frame.rename(columns={c: str(c).strip() for c in frame})
    for ours, theirs in rename.items():
        column = _find_column(theirs, frame, path, f"as --column {ours}={theirs} says")
        if ours == "loss" and "loss" not in units:
            _refuse_units(column, path)
        if ours != column:
            frame = frame.drop(columns=[ours], errors="ignore").rename(columns={column: ours})
    for ours in OURS:
        alike = [str(c) for c in frame if _plain(c) == ours]
        if ours in frame or not alike:
            continue
        if len(alike) > 1:
            raise RecordError(
                f"{path} has {' and '.join(alike)}; one column {ours} is needed. Choose: "
                f"--column '{ours}={alike[0]}'"
            )
        frame = frame.rename(columns={alike[0]: ours})
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise RecordError(f"{path} has two columns {twice[0]}; one is needed. Remove the other.")
    return frame


def _columns_alike(name: str, frame: pd.DataFrame) -> list[str]:
    """Columns of exactly this name, or else those that differ from it by spelling alone."""
    names = [str(c) for c in frame]
    return [c for c in names if c == name] or [c for c in names if _plain(c) == _plain(name)]


def _find_column(name: str, frame: pd.DataFrame, path: Path, why: str) -> str:
    """The one column that a user's name for it means.

    Raises:
        RecordError: None or several are of that name; `why` says what it is needed for.
    """
    alike = _columns_alike(name, frame)
    if len(alike) != 1:
        raise RecordError(f"{path} has no column {name} {why}; it has {_listed(frame)}.")
    return alike[0]


def _plain(name: object) -> str:
    """A column's name without capitals, blanks and separators at its ends."""
    return re.sub(r"[\s_\-]+", "_", str(name).strip().casefold()).strip("_")


def _listed(names: Iterable[object]) -> str:
    """Column names for a message, not too many."""
    shown = [str(n) for n in names]
    more = len(shown) - LISTED_COLUMNS
    return (", ".join(shown[:LISTED_COLUMNS]) or "none") + (f" and {more} more" if more > 0 else "")


def _require_columns(frame: pd.DataFrame, path: Path, target: str) -> pd.DataFrame:
    """The frame, its target as `loss` where it has no losses; refused if a column is missing."""
    missing = [c for c in REQUIRED if c not in frame]
    if missing == ["loss"]:
        for column in (str(c) for c in frame if _plain(c) not in ("bits", "weight_bits")):
            _refuse_units(column, path)
    if "loss" in missing and target != "loss":
        alike = _columns_alike(target, frame)
        if len(alike) == 1:
            frame = frame.rename(columns={alike[0]: "loss"})
            missing.remove("loss")
    if missing and not (missing in (["params"], ["tokens"]) and "flops" in frame):
        missing = [target if c == "loss" else c for c in missing]
        raise RecordError(
            f"{path} has no column {', '.join(missing)}; it has {_listed(frame)}. "
            f"Name yours: --column {missing[0]}=YOURS"
        )
    return frame


def _refuse_units(column: str, path: Path) -> None:
    """Refuse a loss whose column name says that it is not in nats."""
    words = set(re.split(r"[^a-z]+", column.casefold()))
    for what, (names, cure) in CONVERSIONS.items():
        if words & set(names):
            raise RecordError(
                f"the losses of {path} are in {column}, {what}; nats per token are needed. "
                f"Convert the column ({cure}), name it loss, and fit again."
            )


def _complete_counts(core: Mapping[str, Floats]) -> dict[str, Any]:
    """Params, tokens, flops and loss, the absent one by C = 6 N D, in floating point."""
    full, k = dict(core), FLOPS_PER_PARAM_TOKEN
    if "flops" not in full:
        full["flops"] = k * full["params"] * full["tokens"]
    elif "tokens" not in full:
        full["tokens"] = full["flops"] / (k * full["params"])
    elif "params" not in full:
        full["params"] = full["flops"] / (k * full["tokens"])
    return full


def _refuse_overflow(core: Mapping[str, Floats], path: Path) -> None:
    """Refuse FLOPs that are 6 params tokens wrapped around in 64-bit integers."""
    if not {"params", "tokens", "flops"} <= core.keys():
        return
    true = FLOPS_PER_PARAM_TOKEN * core["params"] * core["tokens"]
    suspect = np.flatnonzero((true >= LARGEST_INTEGER) & (core["flops"] < 0.5 * true))
    wrapped = [i for i in suspect[:1000] if _has_wrapped(core, int(i))]
    if wrapped:
        row = wrapped[0]
        raise RecordError(
            f"{path}, row {row + 1}: flops is {core['flops'][row]:.4g} where 6 params tokens is "
            f"{true[row]:.4g}, an overflow of 64-bit integers ({len(wrapped)} such rows). Compute "
            "flops in floating point, or leave the column out."
        )


def _has_wrapped(core: Mapping[str, Floats], row: int) -> bool:
    """Whether a row's FLOPs are what signed 64-bit arithmetic makes of 6 params tokens."""
    n, d, c = (int(core[name][row]) for name in ("params", "tokens", "flops"))
    low_bits = (int(FLOPS_PER_PARAM_TOKEN) * n * d) % 2**64
    signed = low_bits - 2**64 if low_bits >= 2**63 else low_bits
    return abs(signed - c) <= max(abs(c), 1) * 1e-9


def _without_unfinished(table: RunTable, frame: pd.DataFrame, path: Path) -> RunTable:
    """The table without rows whose `status` says that they failed or diverged."""
    if "status" not in frame:
        return table
    status = frame["status"].astype(str)
    unknown = sorted(set(status) - set(STATUSES))
    if unknown:
        raise RecordError(
            f"{path} has status '{unknown[0]}'; known are {', '.join(STATUSES)}. Rename it."
        )
    for name in ("failed", "diverged"):
        keep = (status != name).to_numpy(dtype=bool)
        table, status = table.take(keep, reason=name), status[keep]
    return table


def _run_names(frame: pd.DataFrame) -> tuple[str, ...]:
    """The column `run`, or row numbers counted from 1."""
    if "run" in frame:
        return tuple(frame["run"].astype(str))
    return tuple(f"row {i + 1}" for i in range(len(frame)))


def _numbers(frame: pd.DataFrame, column: str, path: Path) -> Floats:
    """A column of positive finite numbers, (rows,), read-only.

    A missing or non-finite loss becomes NaN: the run did not finish, and the fit drops it.
    """
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    unreadable = np.isnan(values)
    if unreadable.any():  # a cell that is empty or says nan is missing; other text is an error
        cells = frame.loc[unreadable, column]
        text = cells.notna() & (cells.astype(str).str.strip().str.lower() != "nan")
        unreadable[unreadable] = text.to_numpy(dtype=bool)
    bad = unreadable | (values <= 0)
    if column != "loss":
        bad |= ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        overflow = " (an overflow of 64-bit integers?)" if values[row] < -1e9 else ""
        raise RecordError(
            f"{path}, row {row + 1}: {column} is '{frame[column].iloc[row]}'{overflow}; a positive "
            f"number is needed ({int(bad.sum())} such cells). Correct or remove these rows."
        )
    return read_only(np.where(np.isfinite(values), values, math.nan))


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


def _read_records(
    runs: RunFolder, folder: str, params: str | None, flops: str | None, where: str | None
) -> RunTable:
    """The records of a folder that meet a condition, as a table.

    With a condition the table is built a second time, from the records that meet it: what all of
    its runs share, such as their data, depends on which they are.
    """
    if runs.skipped and not runs.records:
        first = runs.skipped[0]
        raise RecordError(
            f"{folder} has {count_noun(len(runs.skipped), 'record')} and none can be read: "
            f"{first.run}: {first.reason} Launch the sweep again, or check the folder."
        )
    about: dict[str, Any] = {"params": params or "matmul", "flops": flops or "exact"}
    about |= {"source": folder, "hash": runs.hash}
    table = RunTable.from_records(runs.records, **about)
    if where is not None:
        met = filter_rows(table, where)
        kept = [r for r in runs.records if r.status == "done" and r.run in set(met.run)]
        table = RunTable.from_records(kept, **about) if kept else met
        table = dataclasses.replace(table, dropped=met.dropped)
    return dataclasses.replace(table, dropped=(*table.dropped, *runs.skipped))
