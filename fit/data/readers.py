"""Tables of other people's runs: csv, parquet or jsonl in, a checked `RunTable` out.

Names are met halfway (capitals, blanks and separators do not matter); numbers are not: a cell
that is no positive number, a loss in bits or a wrapped integer is refused by name, never mended.

Everything that isoflop reads from and writes to disk: run records, tables and fits.

A document is written beside its place, flushed, and renamed: a reader sees the old one or the new
one, never half of one. Folders whose name begins with a dot are working space and are not read.

Tables for laws that predict something else than the loss: the best learning rate, the batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.data.accounting import FLOPS_PER_PARAM_TOKEN
from fit.data.records import STATUSES, Floats, read_runs
from fit.data.table import RunTable, read_only
from fit.errors import FitError, RecordError
from fit.files import unescape_formula
from fit.quantities import count_noun

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet", ".jsonl")
REQUIRED = ("params", "tokens", "loss")
OURS = (*REQUIRED, "flops", "run", "status")
CONVERSIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "a perplexity": (("perplexity", "ppl"), "take its natural logarithm"),
    "in bits": (("bits", "bpb", "bpt", "bpc"), "multiply bits per token by ln 2 = 0.6931"),
}
"""What a loss may be called that is not in nats: words in its name, and what to do."""
LARGEST_INTEGER = float(2**63)


def read_table(
    path: Path,
    *,
    rename: Mapping[str, str],
    cluster: str | None,
    units: Mapping[str, float] = MappingProxyType({}),
) -> RunTable:
    """Read and check a table of runs.

    Args:
        path: A `.csv`, `.parquet` or `.jsonl` with `params`, `tokens` and `loss`. `flops` is taken
            as 6 params tokens where it is absent; with it, params or tokens may be absent instead.
        rename: Our column name -> the table's.
        cluster: Column whose equal values mark runs with correlated errors.
        units: Our column name -> factor to raw counts, FLOP or nats.

    Raises:
        RecordError: Not a table, columns missing, or cells that are not positive numbers.
    """
    data = _bytes(path)
    frame = _named(_frame(path), rename, path, units)
    _refuse_missing(frame, path)
    names = _run_names(frame)
    core = {
        c: _numbers(frame, c, path) * units.get(c, 1.0) for c in (*REQUIRED, "flops") if c in frame
    }
    _refuse_wrapped(core, path)
    convention = "as given" if {"params", "tokens", "flops"} <= core.keys() else "6nd"
    codes = np.arange(len(frame))
    if cluster is not None:
        codes = frame[_found(cluster, frame, path, "to cluster by")].factorize()[0]
    extra = frame.drop(columns=list(OURS), errors="ignore")
    table = RunTable(
        run=names,
        cluster=codes,
        columns={str(c): extra[c].to_numpy() for c in extra},
        params_convention="as given",
        flops_convention=convention,
        source=str(path),
        hash=content_hash(data),
        **_completed(core),
    )
    return _without_copies(_finished(table, frame, path))


def content_hash(data: bytes) -> str:
    """Content hash as it stands in documents."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _bytes(path: Path) -> bytes:
    """The file as it is, for its hash."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(f"no file {path}; a table of runs is needed. Check the path.") from error
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error


def _frame(path: Path) -> pd.DataFrame:
    """Read a table's cells with pandas."""
    import pandas as pd

    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            separator, decimal = _dialect(path)
            frame = pd.read_csv(path, sep=separator, decimal=decimal, skipinitialspace=True)
            return _unescaped(frame)
        if kind == ".parquet":
            return pd.read_parquet(path)
        return pd.read_json(path, lines=True)
    except Exception as error:  # readers raise their own kinds, some not even ValueError
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RecordError(f"cannot read {path} as {kind[1:]}: {first}") from error


def _unescaped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the apostrophes that `files.csv_text` puts before formulas."""
    for column in frame:
        if frame[column].dtype.kind == "O":
            cells = frame[column].map(unescape_formula)
            # Only where a cell changes: `map` may infer another type for the column.
            if not cells.equals(frame[column]):
                frame[column] = cells
    return frame.rename(columns={c: unescape_formula(c) for c in frame})


def _dialect(path: Path) -> tuple[str, str]:
    """How cells are separated, from the first two lines: comma, semicolon or tab."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        head, first = stream.readline(65536), stream.readline(65536)
    separator = max(",;\t", key=head.count)
    comma = separator != "," and re.search(r"\d,\d", first) and not re.search(r"\d\.\d", first)
    return separator, "," if comma else "."


def _named(
    frame: pd.DataFrame, rename: Mapping[str, str], path: Path, units: Mapping[str, float]
) -> pd.DataFrame:
    """The frame under our names: those asked for, then those that differ by dress alone."""
    frame = frame.rename(columns={c: str(c).strip() for c in frame})
    for ours, theirs in rename.items():
        found = _found(theirs, frame, path, f"as --column {ours}={theirs} says")
        if ours == "loss" and "loss" not in units:
            _refuse_units(found, path)
        if ours != found:
            frame = frame.drop(columns=[ours], errors="ignore").rename(columns={found: ours})
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


def _found(name: str, frame: pd.DataFrame, path: Path, why: str) -> str:
    """A column by the user's name for it, in any dress."""
    names = [str(c) for c in frame]
    alike = [c for c in names if c == name] or [c for c in names if _plain(c) == _plain(name)]
    if len(alike) != 1:
        raise RecordError(f"{path} has no column {name} {why}; it has {_listed(names)}.")
    return alike[0]


def _plain(name: object) -> str:
    """A column's name without capitals, blanks and separators at its ends."""
    return re.sub(r"[\s_\-]+", "_", str(name).strip().casefold()).strip("_")


def _listed(names: Iterable[object]) -> str:
    """Column names for a message, not too many."""
    shown = [str(n) for n in names]
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    return (", ".join(shown[:12]) or "none") + more


def _refuse_missing(frame: pd.DataFrame, path: Path) -> None:
    """Refuse a frame without the columns that nothing can stand in for."""
    have = {c for c in (*REQUIRED, "flops") if c in frame}
    missing = [c for c in REQUIRED if c not in have]
    if missing in (["params"], ["tokens"]) and "flops" in have:
        return
    if missing == ["loss"]:
        for column in (str(c) for c in frame if _plain(c) not in ("bits", "weight_bits")):
            _refuse_units(column, path)
    if missing:
        raise RecordError(
            f"{path} has no column {', '.join(missing)}; it has {_listed(frame)}. "
            f"Name yours: --column {missing[0]}=YOURS"
        )


def _refuse_units(column: str, path: Path) -> None:
    """Refuse a loss whose name says that it is not in nats."""
    words = set(re.split(r"[^a-z]+", column.casefold()))
    for what, (names, cure) in CONVERSIONS.items():
        if words & set(names):
            raise RecordError(
                f"the losses of {path} stand in {column}, {what}; nats per token are needed. "
                f"Convert the column ({cure}), name it loss, and fit again."
            )


def _completed(core: Mapping[str, Floats]) -> dict[str, Any]:
    """Params, tokens, flops and loss, the absent one by C = 6 N D, in floating point."""
    full, k = dict(core), FLOPS_PER_PARAM_TOKEN
    if "flops" not in full:
        full["flops"] = k * full["params"] * full["tokens"]
    elif "tokens" not in full:
        full["tokens"] = full["flops"] / (k * full["params"])
    elif "params" not in full:
        full["params"] = full["flops"] / (k * full["tokens"])
    return full


def _refuse_wrapped(core: Mapping[str, Floats], path: Path) -> None:
    """Refuse FLOPs that are 6 params tokens wrapped around in 64-bit integers."""
    if not {"params", "tokens", "flops"} <= core.keys():
        return
    true = FLOPS_PER_PARAM_TOKEN * core["params"] * core["tokens"]
    suspect = np.flatnonzero((true >= LARGEST_INTEGER) & (core["flops"] < 0.5 * true))
    wrapped = [i for i in suspect[:1000] if _wraps(core, int(i))]
    if wrapped:
        row = wrapped[0]
        raise RecordError(
            f"{path}, row {row + 1}: flops is {core['flops'][row]:.4g} where 6 params tokens is "
            f"{true[row]:.4g}, an overflow of 64-bit integers ({len(wrapped)} such rows). Form "
            "flops in floating point, or leave the column out."
        )


def _wraps(core: Mapping[str, Floats], row: int) -> bool:
    """Whether a row's FLOPs are what 64-bit arithmetic makes of 6 params tokens."""
    n, d, c = (int(core[name][row]) for name in ("params", "tokens", "flops"))
    kept = (int(FLOPS_PER_PARAM_TOKEN) * n * d) % 2**64
    signed = kept - 2**64 if kept >= 2**63 else kept
    return abs(signed - c) <= max(abs(c), 1) * 1e-9


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
    import pandas as pd

    cells = pd.DataFrame({c: table.column(c) for c in ("params", "tokens", "flops", "loss")})
    keep = ~cells.duplicated().to_numpy(dtype=bool) | np.isnan(table.loss)
    return table if keep.all() else table.take(keep, reason="copy of an earlier row")


def _run_names(frame: pd.DataFrame) -> tuple[str, ...]:
    """The column `run`, or row numbers counted from 1."""
    if "run" in frame:
        return tuple(frame["run"].astype(str))
    return tuple(f"row {i + 1}" for i in range(len(frame)))


def _numbers(frame: pd.DataFrame, column: str, path: Path) -> Floats:
    """A column of positive finite numbers.

    A missing or non-finite loss is let through as NaN, a run that did not finish; the fit drops it.
    """
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    blank = np.isnan(values)
    if blank.any():
        cells = frame.loc[blank, column]
        given = cells.notna() & (cells.astype(str).str.strip().str.lower() != "nan")
        blank[blank] = given.to_numpy(dtype=bool)
    bad = blank | (values <= 0)
    if column != "loss":
        bad |= ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        overflow = " (an overflow of 64-bit integers?)" if values[row] < -1e9 else ""
        raise RecordError(
            f"{path}, row {row + 1}: {column} is '{frame[column].iloc[row]}'{overflow}; a positive "
            f"number is needed ({int(bad.sum())} such cells). Mend or remove these rows."
        )
    return read_only(np.where(np.isfinite(values), values, math.nan))


Read = Callable[[Mapping[str, str]], RunTable]
"""Reads the runs under given renamings of columns."""


def with_target(read: Read, target: str, rename: Mapping[str, str]) -> RunTable:
    """Runs whose `loss` is the column that a law predicts.

    A table with losses is a scan: of each params and tokens the run of least loss is taken. One
    without is a table of optima already.

    Args:
        read: Reads the runs.
        target: Column that the law predicts.
        rename: The user's own renamings, ours to theirs.

    Raises:
        FitError: No such column.
        RecordError: The runs cannot be read.
    """
    try:
        table = read(rename)
    except RecordError as error:
        if "no column loss" not in str(error):
            raise
        try:  # a table of optima has its target where others have losses
            theirs = {k: v for k, v in rename.items() if k != target}
            return read({**theirs, "loss": rename.get(target, target)})
        except RecordError:
            text = str(error).replace("no column loss", f"no column {target}")
            raise FitError(text.replace("--column loss=", f"--column {target}=")) from error
    if target not in table.columns:
        known = ", ".join(table.columns) or "no others"
        raise FitError(
            f"the law needs a column {target}; {table.source} has params, tokens, loss and {known}."
            f" Name yours: --column {target}=YOURS"
        )
    return _best(table, target)


def _best(table: RunTable, target: str) -> RunTable:
    """The run of least loss of each params and tokens, its target as what is predicted."""
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
        raise FitError(f"{target} must be positive; {best.source} has others. Mend the column.")
    return dataclasses.replace(best, loss=values)


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
    elif source.suffix.lower() in SUFFIXES:
        given = [f"--{k} {v}" for k, v in (("params", params), ("flops", flops)) if v is not None]
        if given:
            raise RecordError(
                f"{' and '.join(given)} recount run records; {source} is a table, whose columns "
                "are taken as they are counted. Leave it out, or choose columns: --column."
            )
        table = read_table(source, rename=rename or {}, cluster=cluster, units=units or {})
    else:
        raise RecordError(
            f"{source} is neither a folder of runs nor a table ({', '.join(SUFFIXES)}). "
            "Check the path."
        )
    return table if where is None else _filtered(table, where)


def _records(folder: Path, params: str, flops: str, where: str | None) -> RunTable:
    """The records of a folder that meet a condition, as a table.

    The table is made again of those: only then is what they share known, such as their data.
    """
    found = read_runs(folder)
    if found.skipped and not found.records:
        first = found.skipped[0]
        raise RecordError(
            f"{folder} has {count_noun(len(found.skipped), 'record')} and none can be read: "
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
