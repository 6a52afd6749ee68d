"""W&B's offline file `run-<id>.wandb`: what a run logged, without W&B's servers.

The file is a log of protocol buffers in LevelDB's format: blocks of 32 KiB, in them chunks with a
header of 7 bytes (checksum, length, kind), a record being one whole chunk or a first, some middle
and a last one. A file cut short, as by a killed run, is read as far as it goes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from fit.errors import RecordError
from fit.imports import Logged

MAGIC = b":W&B"
FILE_HEADER = 7
BLOCK = 32768
CHUNK_HEADER = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_logbook(path: Path) -> Logged:
    """Read one offline run: its config, and the summary with what was logged last.

    Raises:
        RecordError: Not such a file, or one without a run.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    if data[: len(MAGIC)] != MAGIC:
        raise RecordError(f"{path} is no offline run of W&B; a file run-ID.wandb is needed.")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    run, exit_code = None, None
    for chunk in records(data):
        record = wandb_internal_pb2.Record()
        try:
            record.ParseFromString(chunk)
        except DecodeError:
            break
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            _update(config, record.run.config.update)
        elif kind == "config":
            _update(config, record.config.update)
        elif kind == "history":
            _update(summary, record.history.item)
        elif kind == "summary":
            _update(summary, record.summary.update)
        elif kind == "exit":
            exit_code = record.exit.exit_code
    if run is None:
        raise RecordError(f"{path} holds no run: it was cut off at its start. Leave it out.")
    ended = {None: "running", 0: "finished"}.get(exit_code, "failed")
    return Logged(
        name=run.display_name or run.run_id,
        source=f"{run.project or 'offline'}/{run.run_id}",
        state=ended,
        config=config,
        summary=summary,
    )


def records(data: bytes) -> Iterator[bytes]:
    """The whole records of a log; it ends where a chunk is cut short."""
    position, parts = FILE_HEADER, b""
    while position + CHUNK_HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER.size:
            position += left
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, position)
        start = position + CHUNK_HEADER.size
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or start + length > len(data):
            return
        body = data[start : start + length]
        parts = body if kind in (WHOLE, FIRST) else parts + body
        if kind in (WHOLE, LAST):
            yield parts
        position = start + length


def _update(target: MutableMapping[str, Any], items: Iterable[Any]) -> None:
    """Take over items of a key, or a path of keys, and a value in JSON."""
    for item in items:
        keys = list(item.nested_key) or [item.key]
        try:
            target[".".join(keys)] = json.loads(item.value_json)
        except ValueError:
            target[".".join(keys)] = item.value_json
