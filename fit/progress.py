"""How far a sweep is: what was planned, what has ended, what runs and how fast.

The launch writes `plan.json` beside the records; a running trajectory writes `progress.json` into
its working folder every few seconds. Both are small JSON documents, read here without the trainer.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.errors import RecordError
from fit.record import RunRecord, parse_document

PLAN_NAME = "plan.json"
PLAN_SCHEMA = "isoflop.plan/1"
HEARTBEAT_NAME = "progress.json"
HEARTBEAT_SCHEMA = "isoflop.progress/1"

SILENT_SECONDS = 60.0
"""A trajectory that has said nothing for so long is taken to have stopped; it speaks every 2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run of the plan."""

    run: str
    params: int
    """N, matmul convention."""
    tokens: int
    flops_spent: float
    """Its cooldown and its own stretch of a shared trunk [FLOP]."""
    seconds: float
    """Time of that on one worker, as estimated before anything ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trajectory that is being trained."""

    run: str
    """The run that it is on its way to."""
    tokens: int
    total: int
    loss: float | None
    tokens_per_second: float | None
    host: str
    silent_seconds: float

    @property
    def alive(self) -> bool:
        """Whether it has spoken lately."""
        return self.silent_seconds < SILENT_SECONDS

    @property
    def seconds_left(self) -> float | None:
        """Time to the end of this run at the present rate [s]."""
        rate = self.tokens_per_second
        return (self.total - self.tokens) / rate if rate else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a sweep, or several, stand."""

    running: tuple[Running, ...]
    missing: tuple[PlannedRun, ...]
    """Planned, neither ended nor running."""
    planned: int
    flops_spent: float
    flops_left: float
    hours_spent: float
    """Of workers, in training."""
    hours_left: float | None
    """Of workers; by the plan's estimate, scaled by how it has done so far."""

    @property
    def seconds_left(self) -> float | None:
        """Time to the end with as many workers as run now [s]; None where none does."""
        workers = sum(r.alive for r in self.running)
        return None if self.hours_left is None or not workers else self.hours_left * 3600 / workers


def find_progress(
    folder: Path, records: Sequence[RunRecord], *, now: float | None = None
) -> Progress:
    """Read the plans and signs of life below a folder of runs.

    Args:
        folder: A sweep's folder, or one that holds several.
        records: What has ended there.
        now: The present time [s since 1970]; a failed run counts as ended, as it has a record.
    """
    moment = time.time() if now is None else now
    planned = {p.run: p for path in _files(folder, PLAN_NAME) for p in read_plan(path)}
    valid = {r.run for r in records if r.status != "failed"}
    ended = {r.run for r in records}
    found = (_running(path, moment) for path in _files(folder, f".work-*/{HEARTBEAT_NAME}"))
    running = tuple(sorted((r for r in found if r and r.run not in valid), key=lambda r: r.run))
    alive = {r.run for r in running if r.alive}
    left = [p for p in planned.values() if p.run not in valid]
    return Progress(
        running=running,
        missing=tuple(p for p in left if p.run not in ended | alive),
        planned=len(planned),
        flops_spent=sum(r.flops_spent or r.flops for r in records if r.status == "done"),
        flops_left=sum(p.flops_spent * _share_left(p, running) for p in left),
        hours_spent=sum(map(_own_seconds, records)) / 3600,
        hours_left=_hours_left(left, running, planned, records),
    )


def read_plan(path: Path) -> tuple[PlannedRun, ...]:
    """The runs of a plan; none where it is not there or cannot be read."""
    try:
        document = parse_document(path.read_text(encoding="utf-8"), PLAN_SCHEMA)
        return tuple(PlannedRun(**_fields(PlannedRun, row)) for row in document["runs"])
    except (OSError, UnicodeDecodeError, RecordError, KeyError, TypeError):
        return ()


def _running(path: Path, now: float) -> Running | None:
    """A sign of life; None where it cannot be read, as when the run has just ended."""
    try:
        document = parse_document(path.read_text(encoding="utf-8"), HEARTBEAT_SCHEMA)
        silent = max(0.0, now - float(document["time"]))
        return Running(**_fields(Running, document), silent_seconds=silent)
    except (OSError, UnicodeDecodeError, RecordError, KeyError, TypeError, ValueError):
        return None


def _fields(cls: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a document's row belongs to a class; a newer version may say more."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {k: v for k, v in row.items() if k in names}


def _files(folder: Path, pattern: str) -> Iterable[Path]:
    """Files of a sweep's folder, or of the sweeps in a folder."""
    yield from folder.glob(pattern)
    for path in folder.glob(f"*/{pattern}"):
        if not path.relative_to(folder).parts[0].startswith("."):
            yield path


def _own_seconds(record: RunRecord) -> float:
    """Training time of a run's own part of its path: a shared trunk is counted once [s]."""
    if not record.wall_seconds or not record.flops:
        return 0.0
    spent = record.flops if record.flops_spent is None else record.flops_spent
    return record.wall_seconds * min(1.0, spent / record.flops)


def _share_left(run: PlannedRun, running: Sequence[Running]) -> float:
    """The share of a run that is still to be trained, by its tokens."""
    at = [r.tokens / r.total for r in running if r.run == run.run and r.total]
    return 1.0 - max(at, default=0.0)


def _hours_left(
    left: Sequence[PlannedRun],
    running: Sequence[Running],
    planned: Mapping[str, PlannedRun],
    records: Sequence[RunRecord],
) -> float | None:
    """Worker hours to go; None without a plan."""
    if not planned:
        return None
    done = [r for r in records if r.run in planned and r.status == "done" and r.wall_seconds]
    guessed = sum(planned[r.run].seconds for r in done)
    scale = sum(map(_own_seconds, done)) / guessed if guessed else 1.0
    return scale * sum(p.seconds * _share_left(p, running) for p in left) / 3600
