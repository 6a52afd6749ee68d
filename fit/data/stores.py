"""Runs in the files that MLflow, trackio and TensorBoard leave.

- MLflow keeps a folder for each run (`mlruns/`) or one SQLite file: `read_mlflow_run`,
  `read_sqlite`.
- trackio keeps a SQLite file for each project: `read_sqlite`.
- TensorBoard keeps event files, records with a length in front, each a protocol buffer:
  `read_events`. Read are scalars and what its hparams plugin holds; images, texts and histograms
  are passed over.

None of the packages that wrote the files is needed. Of a quantity that was logged at many steps the
one of the last step counts. A file that a killed run has cut short is read as far as it goes.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fit.data.trackers import LoggedRun, steps_left
from fit.errors import RecordError

SQLITE = b"SQLite format 3\0"
"""First bytes of a SQLite file."""
EVENTS = "events.out.tfevents."
"""Beginning of the name of an event file."""
HPARAMS = b"hparams"
MLFLOW_STATES = {"1": "running", "2": "scheduled", "3": "finished", "4": "failed", "5": "killed"}
MASK = 0xA282EAD8
"""Added to the checksums of TensorBoard's records."""


def _without_plan(name: str, source: str, config: dict[str, Any], summary: dict[str, Any],
                  state: str = "finished") -> LoggedRun:  # fmt: skip
    """A run whose tracker does not say how it ended: by its steps, where their number is known."""
    left = steps_left({**config, **summary}) if state == "finished" else None
    if left:
        state = f"{left:,.0f} steps short of its plan"
    return LoggedRun(name=name, source=source, state=state, config=config, summary=summary)


def _number(text: str) -> Any:
    """A text as a number where it is a finite one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if value - value else int(value) if value.is_integer() else value


# MLflow: https://mlflow.org/docs/latest/tracking


def read_mlflow_run(folder: Path, root: Path) -> LoggedRun | None:
    """A run of MLflow's file store; None if it was deleted."""
    try:
        lines = (folder / "meta.yaml").read_text(encoding="utf-8").splitlines()
        meta = dict(line.split(": ", 1) for line in lines if ": " in line)
        if meta.get("lifecycle_stage") == "deleted":
            return None
        files = {part: _files_below(folder / part) for part in ("params", "metrics")}
        config = {k: _number(p.read_text("utf-8").strip()) for k, p in files["params"].items()}
        summary = {k: _last_metric(p) for k, p in files["metrics"].items()}
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read the MLflow run {folder}: {error}") from error
    steps = [step for _, step in summary.values()]
    name = meta.get("run_name", "").strip("'\"").replace("''", "'") or folder.name
    return LoggedRun(
        name=name, source=f"{root.name}/{folder.name}", config=config,
        state=MLFLOW_STATES.get(meta.get("status", ""), "of unknown state"),
        summary={**{k: v for k, (v, _) in summary.items()}, "_step": max(steps, default=0)},
    )  # fmt: skip


def _files_below(folder: Path) -> dict[str, Path]:
    """The files below a folder by their path in it, which is the key of a metric."""
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def _last_metric(path: Path) -> tuple[float, int]:
    """(value, step) of the last step of a metric's file: lines `timestamp value step`.

    Raises:
        RecordError: It has no complete line of that form.
    """
    values = []
    for number, line in enumerate(path.read_text("utf-8").splitlines()):
        parts = line.split()
        try:
            values.append((int(parts[2]), number, float(parts[1])))
        except (ValueError, IndexError):
            continue  # the last line of a killed run is cut short
    if not values:
        raise RecordError(f"{path} holds no metric of MLflow (timestamp value step). Remove it.")
    step, _, value = max(values)
    return value, step


# SQLite files of MLflow and trackio


def read_sqlite(path: Path) -> tuple[str, list[LoggedRun]] | None:
    """`MLflow` or `trackio`, and the runs of its SQLite file; None for another one.

    Raises:
        RecordError: It is damaged.
    """
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro"
    try:
        base = sqlite3.connect(address, uri=True)
        try:
            base.row_factory = sqlite3.Row
            base.text_factory = lambda data: data.decode("utf-8", "replace")
            tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master")}
            if {"runs", "latest_metrics", "params"} <= tables:
                return "MLflow", list(_mlflow_base(base, path.name))
            if "metrics" in tables and {"run_name", "step", "metrics"} <= _columns(base, "metrics"):
                return "trackio", list(_trackio_base(base, path.stem, tables))
        finally:
            base.close()
    except (sqlite3.Error, ValueError, IndexError) as error:
        raise RecordError(f"cannot read {path} as a tracker's SQLite file: {error}.") from error
    return None


def _columns(base: sqlite3.Connection, table: str) -> set[str]:
    """Names of the columns of a table."""
    return {row["name"] for row in base.execute(f"PRAGMA table_info({table})")}


def _mlflow_base(base: sqlite3.Connection, file: str) -> Iterator[LoggedRun]:
    """The runs of MLflow's SQLite store that were not deleted."""
    config: dict[str, dict[str, Any]] = {}
    summary: dict[str, dict[str, Any]] = {}
    for row in base.execute("SELECT run_uuid, key, value FROM params"):
        config.setdefault(row["run_uuid"], {})[row["key"]] = _number(str(row["value"]))
    for row in base.execute("SELECT run_uuid, key, value, step, is_nan FROM latest_metrics"):
        metrics = summary.setdefault(row["run_uuid"], {"_step": 0})
        metrics[row["key"]] = float("nan") if row["is_nan"] else row["value"]
        metrics["_step"] = max(metrics["_step"], row["step"])
    query = "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage != 'deleted'"
    for row in base.execute(f"{query} ORDER BY start_time, run_uuid"):
        key = row["run_uuid"]
        yield LoggedRun(
            name=row["name"] or key, source=f"{file}/{key}", state=str(row["status"]).lower(),
            config=config.get(key, {}), summary=summary.get(key, {}),
        )  # fmt: skip


def _trackio_base(base: sqlite3.Connection, project: str, tables: set[str]) -> Iterator[LoggedRun]:
    """The runs of one project of trackio, which does not say how they ended."""
    key = "run_id" if "run_id" in _columns(base, "metrics") else "run_name"  # by its version
    configs: dict[str, dict[str, Any]] = {}
    if "configs" in tables:
        for row in base.execute(f"SELECT {key}, config FROM configs"):
            items = _object(row["config"]).items()
            configs[row[key]] = {k: v for k, v in items if not k.startswith("_")}
    runs: dict[str, tuple[str, dict[str, Any]]] = {}
    for row in base.execute("SELECT * FROM metrics ORDER BY step, id"):
        name, summary = runs.setdefault(row[key], (row["run_name"], {}))
        summary |= {**_object(row["metrics"]), "_step": row["step"]}
    for key_of_run, (name, summary) in runs.items():
        yield _without_plan(name, f"{project}/{key_of_run}", configs.get(key_of_run, {}), summary)


def _object(text: str | bytes) -> dict[str, Any]:
    """An object in JSON.

    Raises:
        ValueError: It is none.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("a cell holds no object")
    return document


# TensorBoard: event.proto, summary.proto, tensor.proto and the hparams plugin's plugin_data.proto


def read_events(paths: Sequence[Path], root: Path) -> list[LoggedRun]:
    """A run for each folder of event files.

    The folder that `SummaryWriter.add_hparams` adds to a run, named by a time, belongs to that run.
    """
    folders = {path.parent for path in paths}
    config: dict[Path, dict[str, Any]] = {}
    last: dict[Path, dict[str, tuple[int, float]]] = {}
    for path in sorted(paths):
        folder = path.parent
        if re.fullmatch(r"\d+\.\d+", folder.name) and folder.parent in folders:
            folder = folder.parent
        values = last.setdefault(folder, {})
        for step, tag, value in _scalars(path, config.setdefault(folder, {})):
            if tag not in values or step >= values[tag][0]:
                values[tag] = (step, value)
    runs = []
    for folder, values in last.items():
        name = folder.relative_to(root).as_posix()
        name = folder.name if name == "." else name
        summary: dict[str, Any] = {tag: value for tag, (_, value) in values.items()}
        summary["_step"] = max((step for step, _ in values.values()), default=0)
        runs.append(_without_plan(name, f"{root.name}/{name}", config[folder], summary))
    return runs


def _scalars(path: Path, config: dict[str, Any]) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of the scalars in an event file; hyperparameters are added to `config`.

    Raises:
        RecordError: It is no event file, or damaged in its middle.
    """
    try:
        for data in _event_records(path):
            event = _fields(data)
            step = _signed(event.get(2, [0])[-1])
            for value in (v for summary in event.get(5, []) for v in _fields(summary).get(1, [])):
                parts = _fields(value)
                tag = parts.get(1, [b""])[-1].decode("utf-8", "replace")
                for plugin in (p for m in parts.get(9, []) for p in _fields(m).get(1, [])):
                    plug = _fields(plugin)
                    if plug.get(1, [b""])[-1] == HPARAMS:
                        config |= _hyperparameters(plug.get(2, [b""])[-1])
                if 2 in parts:
                    yield step, tag, struct.unpack("<f", parts[2][-1])[0]
                elif 8 in parts and (number := _scalar_tensor(parts[8][-1])) is not None:
                    yield step, tag, number
    except (ValueError, IndexError, AttributeError, TypeError, struct.error) as error:
        raise RecordError(
            f"{path} is damaged, or no event file of TensorBoard ({error}). Leave it out."
        ) from error


def _event_records(path: Path) -> Iterator[bytes]:
    """The records of an event file, up to one that is cut short.

    Raises:
        ValueError: The checksum of a length is wrong.
    """
    try:
        left = path.stat().st_size
        with path.open("rb") as stream:
            while left >= 12:
                head = stream.read(12)
                length, checksum = struct.unpack("<QI", head)
                crc = _crc32c(head[:8])
                if checksum != (((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF):
                    raise ValueError("the checksum of a record's length is wrong")
                left -= 16 + length
                if left < 0:
                    return
                yield stream.read(length)
                stream.read(4)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error


def _crc32c(data: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, B.4), bit by bit: lengths alone are checked."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer by number: integers, and bytes of all other types.

    Raises:
        ValueError: It is none.
    """
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            fields.setdefault(number, []).append(value)
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("a field has an unknown type")
        if position + length > len(data):
            raise ValueError("a field is longer than its record")
        fields.setdefault(number, []).append(data[position : position + length])
        position += length
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """An integer of a protocol buffer, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("an integer has no end")


def _signed(value: int) -> int:
    """An unsigned integer of 64 bits as a signed one."""
    return value - (1 << 64) if value >= 1 << 63 else value


_TENSORS: Mapping[int, tuple[str, int]] = {1: ("<f", 5), 2: ("<d", 6)}
"""Type of a tensor -> form of a number, and the field that holds such numbers."""


def _scalar_tensor(data: bytes) -> float | None:
    """The number of a tensor that holds one float; None for other tensors."""
    tensor = _fields(data)
    form, values = _TENSORS.get(tensor.get(1, [0])[-1], ("", 0))
    content = b"".join(tensor.get(values, []) or tensor.get(4, [])) if form else b""
    if not form or len(content) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, content)[0])


def _hyperparameters(content: bytes) -> dict[str, Any]:
    """The hyperparameters at a session's start: a map of names to values of google.protobuf."""
    read: Mapping[int, Callable[[Any], Any]] = {
        2: lambda data: struct.unpack("<d", data)[0],
        3: lambda data: data.decode("utf-8", "replace"),
        4: bool,
    }
    values = {}
    for start in _fields(content).get(3, []):
        for entry in (_fields(item) for item in _fields(start).get(1, [])):
            for number, cells in _fields(entry.get(2, [b""])[-1]).items():
                if number in read:
                    values[entry[1][-1].decode("utf-8", "replace")] = read[number](cells[-1])
    return values
