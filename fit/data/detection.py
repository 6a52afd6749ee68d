"""Find out what a file or folder of runs is, and read the runs in it.

- `find_runs` is the door: tables that a tracker has exported, what MLflow, TensorBoard and trackio
  leave (`fit.data.stores`), and what trainers print (`fit.data.training_logs`).
- `import_text` says what was found, which keys were taken, and what came of it.
- `preview` says how a table would be read: its columns, its first rows, what each may be by the
  names that `fit.data.columns` knows. `isoflop fit` guesses nothing: who sends the table confirms.

`fit.data.trackers.build_table` makes a table of the runs.
"""

from __future__ import annotations

import glob
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fit.data.cells import read_numbers
from fit.data.columns import FILE, RANKED, REQUIRED, likely_columns, number_names, unit_of_name
from fit.data.formats import TABLE_READERS, read_frame
from fit.data.stores import EVENTS, SQLITE, read_events, read_mlflow_run, read_sqlite
from fit.data.trackers import ImportedTable, LoggedRun, read_exports
from fit.data.training_logs import read_training_log
from fit.errors import RecordError
from fit.files import COMPRESSIONS, checked_path
from fit.quantities import count_noun

LOGS = (".log", ".txt", ".out", "")
"""Suffixes of files that may be the log of a trainer."""
PREVIEW_SCHEMA = "isoflop.preview/1"
FIRST_ROWS = 6
JUDGED_ROWS = 1000
"""Rows by which a column is taken to hold numbers."""
MOST_COLUMNS = 200
LONGEST_CELL = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRuns:
    """Runs in a file or folder, and what it was found to be."""

    kind: str
    """Such as `MLflow`."""
    runs: Sequence[LoggedRun]
    units: Mapping[str, float | str] = field(default_factory=dict)
    """Our column -> unit, where none is asked for."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Key -> what it was made of, in words."""


def find_runs(sources: Sequence[str | Path], *, wide: str | None = None) -> FoundRuns:
    """Find out what files or folders are, and read the runs in them.

    Args:
        sources: Paths; tables may be globs.
        wide: Our column whose values name columns of losses, of tables alone.

    Raises:
        RecordError: Nothing there can be read, or what is there is of several kinds.
    """
    paths = [
        checked_path(path)
        for source in map(str, sources)
        for path in (sorted(glob.glob(source)) if glob.has_magic(source) else [source])
    ]
    if all(_is_table(path) or not path.exists() for path in paths):
        runs = list(read_exports(sources, wide=wide))
        return FoundRuns(kind="table" if len(paths) == 1 else "tables", runs=runs)
    if wide is not None:
        raise RecordError("--wide is for tables, and there is another kind of file. Leave it out.")
    found = [item for path in paths for item in _found(path)]
    kinds = list(dict.fromkeys(item.kind for item in found))
    if len(kinds) > 1:
        raise RecordError(
            f"{', '.join(map(str, paths))} holds {' and '.join(kinds)}; one kind is read at a "
            "time. Name the files, or a folder with one kind."
        )
    runs = [run for item in found for run in item.runs]
    return FoundRuns(
        kind=kinds[0], runs=runs, units=found[0].units,
        origins={key: words for item in found for key, words in item.origins.items()},
    )  # fmt: skip


def _is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return not path.is_dir() and Path(name).suffix in TABLE_READERS


def _found(path: Path) -> list[FoundRuns]:
    """What a file, or the files below a folder, hold; at least one thing.

    Raises:
        RecordError: Nothing that is read here.
    """
    if not path.is_dir():
        found = _read_file(path, path.parent)
        if found is None:
            raise RecordError(
                f"{path} is none of what is read: a table ({', '.join(TABLE_READERS)}), an event "
                "file of TensorBoard, a SQLite file of MLflow or trackio, a log of nanoGPT, "
                "nanochat or torchtitan. Check the path."
            )
        return [found]
    items, events, mlflow = [], [], []
    for folder, folders, names in os.walk(path):
        folders.sort()
        here = Path(folder)
        if "meta.yaml" in names and (here / "metrics").is_dir():
            run = read_mlflow_run(here, path)
            mlflow += [run] if run else []
            folders.clear()
            continue
        if "record.json" in names:
            raise RecordError(f"{path} holds run records, which need no import: isoflop fit {path}")
        if any(name.startswith("run-") and name.endswith(".wandb") for name in names):
            raise RecordError(
                f"{path} holds offline runs of W&B. Read them: isoflop fetch offline {path}"
            )
        events += [here / name for name in sorted(names) if name.startswith(EVENTS)]
        for name in sorted(names):
            if not name.startswith(EVENTS) and (item := _read_file(here / name, path)):
                items.append(item)
    if mlflow:
        items.append(FoundRuns(kind="MLflow", runs=mlflow))
    if events:
        items.append(FoundRuns(kind="TensorBoard", runs=read_events(events, path)))
    if not items:
        raise RecordError(
            f"{path} holds no runs: neither MLflow's nor trackio's, no event file of TensorBoard "
            "and no log of nanoGPT, nanochat or torchtitan (.log, .txt, .out). Check the path."
        )
    return items


def _read_file(path: Path, root: Path) -> FoundRuns | None:
    """The runs of one file by its name and first bytes; None where it is none of these.

    Raises:
        RecordError: It is of such a kind, and damaged.
    """
    if path.name.startswith(EVENTS):
        return FoundRuns(kind="TensorBoard", runs=read_events([path], root))
    if path.suffix not in (*LOGS, ".db", ".sqlite", ".sqlite3"):
        return None
    try:
        with path.open("rb") as stream:
            head = stream.read(len(SQLITE))
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    if head == SQLITE:
        base = read_sqlite(path)
        return None if base is None else FoundRuns(kind=base[0], runs=base[1])
    if path.suffix not in LOGS or b"\0" in head:
        return None
    name = str(path.relative_to(root).with_suffix("")).replace(os.sep, "/")
    log = read_training_log(path, name)
    return None if log is None else FoundRuns(
        kind=f"logs of {log.trainer}", runs=log.runs, origins=log.origins, units=log.units
    )  # fmt: skip


def import_text(table: ImportedTable, out: Path, found: FoundRuns) -> str:
    """What was found, where params, tokens and loss are from, and the command that fits them."""
    ends = Counter(str(r["status"]) for r in table.rows)
    counts = ", ".join(f"{n} {status}" for status, n in ends.items())
    if table.skipped:
        counts += f"; {len(table.skipped)} left out"
    lines = [f"found    {found.kind}: {count_noun(len(found.runs), 'run')}"]
    for column, key in table.taken.items():
        lines.append(f"{column:<8} from {found.origins.get(key, key)}")
    columns = textwrap.fill(f"columns  {', '.join(table.rows[0])}", 80, subsequent_indent=" " * 9)
    lines += [f"runs     {counts}", columns, f"table    {out}", f"ask      isoflop fit {out}"]
    return "\n".join(lines)


def preview(path: Path) -> dict[str, Any]:
    """The `isoflop.preview/1` document of a table.

    Returns:
        `rows`; `columns`, each with its name, whether it holds `numbers`, its `first` cells as text
        and the `units` that its name states, by the column of ours that it may be; `mapping`, our
        column -> the table's, as far as the names say; `wide`, the column of ours that the names of
        the others are values of, or None.

    Raises:
        RecordError: The file is no table of its format, or has no rows or too many columns.
    """
    frame, _ = read_frame(path)
    frame = frame.rename(columns={c: str(c).strip() for c in frame})
    if not len(frame):
        raise RecordError(f"{path} has a header and no rows; a row for each run is needed.")
    if len(frame.columns) > MOST_COLUMNS:
        raise RecordError(
            f"{path} has {len(frame.columns)} columns; {MOST_COLUMNS} can be shown. "
            "Leave out those that are no counts and no losses."
        )
    names = [str(c) for c in frame if c != FILE]
    numbers = {n: _holds_numbers(frame.iloc[:JUDGED_ROWS, i]) for i, n in enumerate(names)}
    found = likely_columns([n for n in names if numbers[n]])
    missing = [c for c in REQUIRED if c not in found]
    wide = None
    if "loss" in missing and len(number_names(names)) > 1:
        wide = next((c for c in missing if c != "loss"), None)
    return {
        "schema": PREVIEW_SCHEMA,
        "rows": len(frame),
        "columns": [
            {
                "name": name,
                "numbers": numbers[name],
                "first": [_cell(v) for v in frame.iloc[:FIRST_ROWS, i].tolist()],
                "units": {c: unit for c in RANKED if (unit := unit_of_name(c, name))},
            }
            for i, name in enumerate(names)
        ],
        "mapping": found,
        "wide": wide,
    }


def _holds_numbers(cells: Any) -> bool:
    """Whether every cell that is there is a number, and one is there."""
    values, unread = read_numbers(cells, "params")
    return not unread.any() and bool(np.isfinite(values).any())


def _cell(value: object) -> str:
    """A cell as text, short enough for a table."""
    if value is None or value != value:
        return ""
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return (
        text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
