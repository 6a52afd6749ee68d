"""Everything that isoflop reads from and writes to disk: run records, tables and fits.

A document is written beside its place, flushed, and renamed: a reader sees the old one or the new
one, never half of one. Folders whose name begins with a dot are working space and are not read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit import frame
from fit.errors import RecordError
from fit.quantity import counted
from fit.record import Dropped, RunRecord, RunTable
from fit.result import Fit

RECORD_NAME = "record.json"
FIT_NAME = "fit.json"


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


def write_once(path: Path, content: str) -> bool:
    """Write a file unless one of its name is there; whole or not at all, like the others.

    Returns:
        Whether it was written; False where there is one, which stays as it is.

    Raises:
        RecordError: The folder cannot be written to, or the disk is full.
    """
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    write_atomically(beside, content)
    try:
        os.link(beside, path)  # fails where the name is taken, as no rename does
    except FileExistsError:
        return False
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; a file system with hard links is "
            "needed. Nothing was changed."
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return True


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
    source: Path | str,
    *,
    params: str | None = None,
    flops: str | None = None,
    rename: Mapping[str, str] | None = None,
    cluster: str | None = None,
    where: str | None = None,
    units: Mapping[str, float] | None = None,
) -> RunTable:
    """Read a folder of run records or a table into a `RunTable`.

    Args:
        source: Folder of runs, or a `.csv`, `.parquet` or `.jsonl` table; see `frame.read_table`.
        params: Counting convention of N for records, `matmul` unless given; a table has its own.
        flops: Counting convention of C for records, `exact` unless given; a table has its own.
        rename: Our column name -> the table's column name; records have ours.
        cluster: Column whose equal values mark runs with correlated errors.
        where: Condition on the columns that a run must meet, such as `loss < 5`.
        units: Our column name -> factor to raw counts, FLOP or nats, for a table.

    Raises:
        RecordError: Nothing there, cells that are not positive finite numbers, or an argument that
            means nothing for this source.
    """
    source = Path(source)
    if source.is_dir():
        if units:
            raise RecordError(
                f"--unit is for tables; the records of {source} hold raw counts. Leave it out."
            )
        if rename:
            raise RecordError(
                f"{source} is a folder of run records, whose columns need no --column "
                f"({', '.join(rename)}). Leave it out."
            )
        table = _records(source, params or "matmul", flops or "exact", where)
        return table if cluster is None else _recluster(table, cluster)
    elif source.suffix.lower() in frame.SUFFIXES:
        given = [f"--{k} {v}" for k, v in (("params", params), ("flops", flops)) if v is not None]
        if given:
            raise RecordError(
                f"{' and '.join(given)} recount run records; {source} is a table, whose columns "
                "are taken as they are counted. Leave it out, or choose columns: --column."
            )
        table = frame.read_table(source, rename=rename or {}, cluster=cluster, units=units or {})
    else:
        raise RecordError(
            f"{source} is neither a folder of runs nor a table ({', '.join(frame.SUFFIXES)}). "
            "Check the path."
        )
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


def fit_hash(path: Path) -> str:
    """Content hash of a fit's file, in a report folder or by itself."""
    file = path / FIT_NAME if path.is_dir() else path
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


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


def _records(folder: Path, params: str, flops: str, where: str | None) -> RunTable:
    """The records of a folder that meet a condition, as a table.

    The table is made again of those: only then is what they share known, such as their data.
    """
    found = read_runs(folder)
    if found.skipped and not found.records:
        first = found.skipped[0]
        raise RecordError(
            f"{folder} has {counted(len(found.skipped), 'record')} and none can be read: "
            f"{first.run}: {first.reason} Launch the sweep again, or check the folder."
        )
    about: dict[str, Any] = {"params": params, "flops": flops}
    about |= {"source": str(folder), "hash": found.hash}
    table = RunTable.from_records(found.records, **about)
    if where is not None:
        met = _filtered(table, where)
        kept = [r for r in found.records if r.status == "done" and r.run in set(met.run)]
        table = RunTable.from_records(kept, **about) if kept else met
        table = dataclasses.replace(table, dropped=met.dropped)
    return dataclasses.replace(table, dropped=(*table.dropped, *found.skipped))


def _recluster(table: RunTable, column: str) -> RunTable:
    """The table clustered by a column's values."""
    values = table.columns[column] if column in table.columns else table.column(column)
    _, codes = np.unique(values, return_inverse=True)
    return dataclasses.replace(table, cluster=codes)


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
