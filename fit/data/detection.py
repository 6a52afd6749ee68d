"""Find out what a file or folder of runs is, and read the runs in it.

- `find_runs` is the door: tables that a tracker has exported, what MLflow, TensorBoard and trackio
  leave (`fit.data.stores`), and what trainers print (`fit.data.training_logs`).
- `import_text` says what was found, which keys were taken, and what came of it.

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

from fit.data.formats import TABLE_READERS
from fit.data.stores import EVENTS, SQLITE, read_events, read_mlflow_run, read_sqlite
from fit.data.trackers import ImportedTable, LoggedRun, read_exports
from fit.data.training_logs import read_training_log
from fit.errors import RecordError
from fit.files import COMPRESSIONS, checked_path
from fit.quantities import count_noun

LOGS = (".log", ".txt", ".out", "")
"""Suffixes of files that may be the log of a trainer."""


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
