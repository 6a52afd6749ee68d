"""Everything that isoflop reads from and writes to disk: run records, tables and fits.

A document is written beside its place, flushed, and renamed: a reader sees the old one or the new
one, never half of one. Folders whose name begins with a dot are working space and are not read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.accounting import FLOPS_PER_PARAM_TOKEN
from fit.errors import RecordError
from fit.record import STATUSES, Dropped, RunRecord, RunTable, read_only
from fit.result import Fit

if TYPE_CHECKING:
    import pandas as pd

RECORD_NAME = "record.json"
FIT_NAME = "fit.json"
TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")
REQUIRED_COLUMNS = ("params", "tokens", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What was found in a folder of runs."""

    records: tuple[RunRecord, ...]
    skipped: tuple[Dropped, ...]
    """Records that could not be read, each with its path and reason."""
    hash: str
    """Content hash over all records, in order of their paths."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        RecordError: The folder cannot be written to, or the disk is full; nothing was changed.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; a writable folder with free space is "
            "needed. Nothing was changed."
        ) from error


def write_record(folder: Path, record: RunRecord) -> Path:
    """Write `record.json` into the run's folder, atomically; returns its path."""
    path = folder / RECORD_NAME
    write_atomically(path, record.to_json())
    return path


def read_record(path: Path) -> RunRecord:
    """Read one record.

    Raises:
        RecordError: Missing, truncated, foreign or of a newer major version.
    """
    return RunRecord.from_json(_read_text(path))


def read_runs(folder: Path) -> RunFolder:
    """Read every `record.json` below a folder; what cannot be read is named and skipped.

    Raises:
        RecordError: No such folder.
    """
    if not folder.is_dir():
        raise RecordError(f"no folder {folder}; a folder of runs or a table is needed. Check RUNS.")
    records, skipped, digest = [], [], hashlib.sha256()
    for path in sorted(_record_paths(folder)):
        try:
            text = _read_text(path)
            records.append(RunRecord.from_json(text))
        except RecordError as error:
            skipped.append(Dropped(run=str(path.relative_to(folder)), reason=str(error)))
            continue
        digest.update(text.encode())
    return RunFolder(
        records=tuple(records), skipped=tuple(skipped), hash=f"sha256:{digest.hexdigest()}"
    )


def load(
    source: Path,
    *,
    params: str = "matmul",
    flops: str = "exact",
    rename: Mapping[str, str] | None = None,
    cluster: str | None = None,
    where: str | None = None,
) -> RunTable:
    """Read a folder of run records or a table into a `RunTable`.

    Args:
        source: Folder of runs, or a `.csv`, `.parquet` or `.jsonl` table with at least `params`,
            `tokens` and `loss`. A table without `flops` is taken as 6 params tokens.
        params: Counting convention of N for records; a table's own count is kept.
        flops: Counting convention of C for records.
        rename: Our column name -> the table's column name.
        cluster: Column whose equal values mark runs with correlated errors.
        where: Condition on the columns that a run must meet, such as `loss < 5`.

    Raises:
        RecordError: Nothing there, or cells that are not positive finite numbers.
    """
    if source.is_dir():
        found = read_runs(source)
        table = RunTable.from_records(
            found.records, params=params, flops=flops, source=str(source), hash=found.hash
        )
        table = dataclasses.replace(table, dropped=(*table.dropped, *found.skipped))
    elif source.suffix in TABLE_SUFFIXES:
        table = _read_table(source, rename or {}, cluster)
    else:
        raise RecordError(
            f"{source} is neither a folder of runs nor a table ({', '.join(TABLE_SUFFIXES)}). "
            "Check the path."
        )
    if source.is_dir() and cluster is not None:
        table = _recluster(table, cluster)
    return table if where is None else _filtered(table, where)


def write_fit(folder: Path, fit: Fit) -> Path:
    """Write `fit.json` into a report folder, atomically; returns its path."""
    path = folder / FIT_NAME
    write_atomically(path, fit.to_json())
    return path


def read_fit(path: Path) -> Fit:
    """Read a fit from its report folder or its `fit.json`.

    Raises:
        RecordError: Missing, corrupt, foreign or of a newer major version.
    """
    file = path / FIT_NAME if path.is_dir() else path
    if not file.is_file():
        there = sorted(str(p.parent) for p in Path("reports").glob(f"*/{FIT_NAME}"))
        raise RecordError(
            f"cannot read the fit {path}: there is none; fits here: {', '.join(there) or 'none'}. "
            f"Make one: isoflop fit RUNS --out {path}"
        )
    try:
        return Fit.from_json(_read_text(file))
    except RecordError as error:
        raise RecordError(f"cannot read the fit {file}: {error}") from error


def newest_fit(reports: Path) -> Path:
    """The report folder whose fit was written last.

    Raises:
        RecordError: There is none.
    """
    files = [p for p in reports.glob(f"*/{FIT_NAME}") if not p.parent.name.startswith(".")]
    if not files:
        raise RecordError(
            f"no fit under {reports}/; a fit or a published law is needed. "
            "Run: isoflop fit RUNS --out reports/NAME, or ask with --law besiroglu2024."
        )
    return max(files, key=lambda p: (p.stat().st_mtime, p.parent.name)).parent


def content_hash(data: bytes) -> str:
    """Content hash as it stands in documents."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _umask() -> int:
    """The process's file mode mask (reading it needs setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_text(path: Path) -> str:
    """A file's text, or a RecordError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error


def _record_paths(folder: Path) -> list[Path]:
    """Paths of all records below a folder, dot folders left out."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if RECORD_NAME in files:
            found.append(Path(root) / RECORD_NAME)
    return found


def _recluster(table: RunTable, column: str) -> RunTable:
    """The table clustered by a column's values."""
    _, codes = np.unique(table.column(column), return_inverse=True)
    return dataclasses.replace(table, cluster=codes)


def _read_table(path: Path, rename: Mapping[str, str], cluster: str | None) -> RunTable:
    """Read and check a csv, parquet or jsonl table."""
    frame = _read_frame(path).rename(columns={theirs: ours for ours, theirs in rename.items()})
    missing = [c for c in REQUIRED_COLUMNS if c not in frame]
    if missing:
        raise RecordError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, frame))}. "
            f"Name yours: --column {missing[0]}=YOURS"
        )
    names = _run_names(frame)
    core = {c: _numbers(frame, c, path) for c in REQUIRED_COLUMNS}
    if "flops" in frame:
        flops, convention = _numbers(frame, "flops", path), "as given"
    else:
        flops, convention = FLOPS_PER_PARAM_TOKEN * core["params"] * core["tokens"], "6nd"
    if cluster is not None and cluster not in frame:
        raise RecordError(
            f"{path} has no column {cluster} to cluster by; it has {', '.join(map(str, frame))}."
        )
    codes = np.arange(len(frame)) if cluster is None else frame[cluster].factorize()[0]
    extra = frame.drop(columns=[*REQUIRED_COLUMNS, "flops", "run", "status"], errors="ignore")
    table = RunTable(
        run=names,
        flops=flops,
        cluster=codes,
        columns={str(c): extra[c].to_numpy() for c in extra},
        params_convention="as given",
        flops_convention=convention,
        source=str(path),
        hash=content_hash(path.read_bytes()),
        **core,
    )
    return _without_copies(_finished(table, frame, path))


def _finished(table: RunTable, frame: pd.DataFrame, path: Path) -> RunTable:
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


def _without_copies(table: RunTable) -> RunTable:
    """The table without rows that say the same as an earlier one: a copy is no evidence."""
    cells = np.column_stack([table.params, table.tokens, table.flops, table.loss])
    _, first = np.unique(cells, axis=0, return_index=True)
    keep = np.isin(np.arange(len(table)), first) | np.isnan(table.loss)
    return table if keep.all() else table.take(keep, reason="copy of an earlier row")


def _read_frame(path: Path) -> pd.DataFrame:
    """Read a table's cells with pandas."""
    import pandas as pd

    try:
        if path.suffix == ".csv":
            return pd.read_csv(path)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_json(path, lines=True)
    except FileNotFoundError as error:
        raise RecordError(f"no file {path}; a table of runs is needed. Check the path.") from error
    except Exception as error:  # readers raise their own kinds, some not even ValueError
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RecordError(f"cannot read {path} as {path.suffix[1:]}: {first}") from error


def _run_names(frame: pd.DataFrame) -> tuple[str, ...]:
    """The column `run`, or row numbers counted from 1."""
    if "run" in frame:
        return tuple(str(v) for v in frame["run"])
    return tuple(f"row {i + 1}" for i in range(len(frame)))


def _numbers(frame: pd.DataFrame, column: str, path: Path) -> Any:
    """A column of positive finite numbers.

    A missing or non-finite loss is let through as NaN, a run that did not finish; the fit drops it.
    """
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    given = frame[column].notna() & (frame[column].astype(str).str.lower() != "nan")
    unreadable = np.isnan(values) & given.to_numpy(dtype=bool)
    bad = unreadable | (values <= 0)
    if column != "loss":
        bad |= ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise RecordError(
            f"{path}, row {row + 1}: {column} is '{frame[column].iloc[row]}'; a positive number "
            f"is needed ({int(bad.sum())} such cells). Mend or remove these rows."
        )
    return read_only(np.where(np.isfinite(values), values, math.nan))


def _filtered(table: RunTable, where: str) -> RunTable:
    """The runs that meet a condition; the others are listed as dropped."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "run": table.run,
            **{c: table.column(c) for c in ("params", "tokens", "flops", "loss")},
            **{k: v for k, v in table.columns.items()},
        }
    )
    try:
        keep = np.asarray(frame.eval(where, engine="python"))
        if keep.dtype != np.bool_ or keep.shape != (len(table),):
            raise ValueError("it is not true or false for each run")
    except Exception as error:  # pandas raises many kinds for one bad expression
        raise RecordError(
            f"cannot use --where '{where}': {error}. Columns are {', '.join(map(str, frame))}."
        ) from error
    return table.take(keep, reason=f"not {where}")
