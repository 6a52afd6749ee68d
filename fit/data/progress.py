"""How far a sweep is: its plan, what is running, and what is left, as JSON documents on disk.

The launch writes `plan.json` beside the records, and each running trajectory writes `progress.json`
into its working folder every few seconds; `find_progress` reads these, without the trainer. And how
far a long computation is: it reports its stages to whoever listens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.data.records import (
    STATUSES,
    RunRecord,
    fields_of,
    finite_or_null,
    parse_document,
    read_runs,
)
from fit.errors import RecordError

PLAN_NAME = "plan.json"
PLAN_SCHEMA = "isoflop.plan/1"
HEARTBEAT_NAME = "progress.json"
HEARTBEAT_SCHEMA = "isoflop.progress/1"
SILENT_SECONDS = 60.0
"""Without a heartbeat for so long a trajectory is taken to have stopped; it sends one every 2 s."""

_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def report_stage(text: str) -> None:
    """Say what is being computed, such as `bootstrap: 500 of 4000`, if anybody listens."""
    if (listener := _LISTENER.get()) is not None:
        listener(text)


@contextlib.contextmanager
def stages_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Give what is reported meanwhile to a listener."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run of a sweep's plan."""

    run: str
    params: int
    """N in the matmul convention [parameters]."""
    tokens: int
    flops_spent: float
    """Cost of its cooldown and its own stretch of a shared trunk [FLOP]."""
    seconds: float
    """Time of that on one worker, as estimated before the launch [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrajectory:
    """A trajectory that is being trained, by its last heartbeat."""

    run: str
    """The run that it trains towards."""
    tokens: int
    """Tokens trained on so far."""
    total: int
    """Tokens of that run."""
    loss: float | None
    tokens_per_second: float | None
    host: str
    silent_seconds: float
    """Time since the heartbeat [s]."""

    @property
    def alive(self) -> bool:
        """Whether its last heartbeat is recent."""
        return self.silent_seconds < SILENT_SECONDS

    @property
    def seconds_left(self) -> float | None:
        """Time to the end of this run at the present rate [s]."""
        rate = self.tokens_per_second
        return (self.total - self.tokens) / rate if rate else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """Progress of a sweep, or of several."""

    running: tuple[RunningTrajectory, ...]
    missing: tuple[PlannedRun, ...]
    """Planned runs that have neither ended nor are running."""
    planned: int
    """Number of planned runs."""
    flops_spent: float
    flops_left: float
    hours_spent: float
    """Time of workers in training [h]."""
    hours_left: float | None
    """Time of workers, by the rates of what runs and the plan, scaled by what runs took [h]."""

    @property
    def seconds_left(self) -> float | None:
        """Time to the end with as many workers as run now [s]; None if there are none."""
        workers = sum(r.alive for r in self.running)
        return None if self.hours_left is None or not workers else self.hours_left * 3600 / workers


def find_progress(
    folder: Path,
    records: Sequence[RunRecord],
    *,
    now: float | None = None,
    planned: Sequence[PlannedRun] | None = None,
) -> SweepProgress:
    """Read the plans and heartbeats below a folder of runs.

    Args:
        folder: A sweep's folder, or one that holds several.
        records: The records there; a failed run counts as ended, as it has a record.
        now: The present time [s since 1970]; None for the clock's.
        planned: The runs to follow; None for those of the plans, with all that is running.
    """
    moment = time.time() if now is None else now
    files = _files(folder, PLAN_NAME) if planned is None else ()
    listed = [p for path in files for p in read_plan(path)] if planned is None else planned
    by_name = {p.run: p for p in listed}
    valid = {r.run for r in records if r.status != "failed"}
    ended = {r.run for r in records}
    beats = (_read_heartbeat(path, moment) for path in _files(folder, f".work-*/{HEARTBEAT_NAME}"))
    running = tuple(
        sorted(
            (
                r
                for r in beats
                if r and r.run not in valid and (planned is None or r.run in by_name)
            ),
            key=lambda r: r.run,
        )
    )
    alive = {r.run for r in running if r.alive}
    left = [p for p in by_name.values() if p.run not in valid]
    return SweepProgress(
        running=running,
        missing=tuple(p for p in left if p.run not in ended | alive),
        planned=len(by_name),
        flops_spent=sum(r.flops_spent or r.flops for r in records if r.status == "done"),
        flops_left=sum(p.flops_spent * _share_left(p, running) for p in left),
        hours_spent=sum(map(_added_seconds, records)) / 3600,
        hours_left=_hours_left(left, running, by_name, records),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSnapshot:
    """A sweep at one moment: its records, and its progress by plan and heartbeats."""

    folder: Path
    records: tuple[RunRecord, ...]
    progress: SweepProgress

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing is missing."""
        return not self.progress.missing and not any(r.alive for r in self.progress.running)

    def counts(self) -> dict[str, int]:
        """Runs by state."""
        ended = Counter(r.status for r in self.records)
        alive = sum(r.alive for r in self.progress.running)
        counts = {status: ended[status] for status in STATUSES}
        return counts | {"running": alive, "missing": len(self.progress.missing)}


def take_snapshot(folder: Path, *, now: float | None = None) -> SweepSnapshot:
    """Read the records, the plan and the heartbeats of a sweep.

    Args:
        folder: Folder of the sweep.
        now: Time against which heartbeats are judged [s since 1970]; the present unless given.

    Raises:
        RecordError: There is no such folder, or no record, plan or heartbeat in it.
    """
    records = read_runs(folder).records
    progress = find_progress(folder, records, now=now)
    if not records and not progress.planned and not progress.running:
        raise no_records(folder)
    return SweepSnapshot(folder=folder, records=records, progress=progress)


def snapshot_document(snapshot: SweepSnapshot) -> dict[str, Any]:
    """The fields of the documents `isoflop.watch/1` and `isoflop.sweep/1`."""
    progress = snapshot.progress
    document = {
        "counts": snapshot.counts(),
        "planned": progress.planned,
        "running": [
            {**dataclasses.asdict(r), "alive": r.alive, "seconds_left": r.seconds_left}
            for r in progress.running
        ],
        "missing": [p.run for p in progress.missing],
        "flops_spent": progress.flops_spent,
        "flops_left": progress.flops_left,
        "hours_spent": progress.hours_spent,
        "hours_left": progress.hours_left,
        "seconds_left": progress.seconds_left,
    }
    return dict(finite_or_null(document))


def no_records(folder: Path) -> RecordError:
    """A folder without runs."""
    return RecordError(
        f"no run records and no plan in {folder}. Launch a sweep: python -m sweep -m ... (one that "
        "was just launched writes its plan within seconds)"
    )


def read_plan(path: Path) -> tuple[PlannedRun, ...]:
    """Read the runs of a plan; none if it does not exist or cannot be read."""
    try:
        document = parse_document(path.read_text(encoding="utf-8"), PLAN_SCHEMA)
        return tuple(PlannedRun(**fields_of(PlannedRun, row)) for row in document["runs"])
    except (OSError, UnicodeDecodeError, RecordError, KeyError, TypeError):
        return ()


def _read_heartbeat(path: Path, now: float) -> RunningTrajectory | None:
    """Read a heartbeat; None if it cannot be read, as when the run has just ended."""
    try:
        document = parse_document(path.read_text(encoding="utf-8"), HEARTBEAT_SCHEMA)
        silent = max(0.0, now - float(document["time"]))
        return RunningTrajectory(**fields_of(RunningTrajectory, document), silent_seconds=silent)
    except (OSError, UnicodeDecodeError, RecordError, KeyError, TypeError, ValueError):
        return None


def _files(folder: Path, pattern: str) -> Iterable[Path]:
    """Files of a sweep's folder, or of the sweeps in a folder, by a pattern."""
    yield from folder.glob(pattern)
    for path in folder.glob(f"*/{pattern}"):
        if not path.relative_to(folder).parts[0].startswith("."):
            yield path


def _added_seconds(record: RunRecord) -> float:
    """Training time that a run added, a shared trunk counted once [s]."""
    if not record.wall_seconds or not record.flops:
        return 0.0
    spent = record.flops if record.flops_spent is None else record.flops_spent
    return record.wall_seconds * min(1.0, spent / record.flops)


def _share_left(run: PlannedRun, running: Sequence[RunningTrajectory]) -> float:
    """The share of a run that is still to be trained, by its tokens."""
    done = [r.tokens / r.total for r in running if r.run == run.run and r.total]
    return 1.0 - max(done, default=0.0)


def _hours_left(
    left: Sequence[PlannedRun],
    running: Sequence[RunningTrajectory],
    planned: Mapping[str, PlannedRun],
    records: Sequence[RunRecord],
) -> float | None:
    """Worker hours still needed; None without a plan.

    A run that is being trained takes what its own rate says, a further one its estimate, scaled by
    what runs took so far over theirs.
    """
    if not planned:
        return None
    done = [r for r in records if r.run in planned and r.status == "done" and r.wall_seconds]
    estimated = sum(planned[r.run].seconds for r in done)
    if estimated:
        scale = sum(map(_added_seconds, done)) / estimated
    else:  # speeds of the running ones over those of the plan, with 6 FLOP per parameter and token
        rated = [(planned[r.run], r.tokens_per_second) for r in running if r.run in planned]
        speeds = [6 * p.params * rate * p.seconds / p.flops_spent for p, rate in rated if rate]
        scale = len(speeds) / sum(speeds) if sum(speeds) else 1.0
    timed = {r.run: r.seconds_left for r in running if r.alive}

    def seconds(run: PlannedRun) -> float:
        own = timed.get(run.run)
        return scale * run.seconds * _share_left(run, running) if own is None else own

    return sum(map(seconds, left)) / 3600
