"""A trajectory into run records: the visible loop.

    for each run of the trajectory, by ascending tokens:
        train the trunk up to where the run leaves it
        remember the trunk, cool down to the run's end, measure, write the record
        return to the trunk

The newest state on disk is at most `checkpoint_seconds` old: a killed process loses no more.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fit.data.records import RunRecord, write_record
from fit.errors import RecordError
from fit.files import now
from sweep.cache import locked
from sweep.planning.trajectory import RunSpec, Trajectory, finished_record, work_folder
from sweep.training.checkpoint import DeferredSignals, load, save
from sweep.training.devices import broadcast_choice, gather_train_state, in_ranks
from sweep.training.ensemble import Pack
from sweep.training.evaluate import measure
from sweep.training.outcome import Heartbeat, RunFacts, diverged_record, done_record, failed_record
from sweep.training.session import Diverged, Session, Way
from sweep.training.tracking import Attempt, Tracker, begin, end, say

SAVING_SHARE = 20
"""Time between two checkpoints, at least, in units of the time that one takes."""


def train(trajectory: Trajectory, runs_dir: Path, tracker: Tracker) -> tuple[RunRecord, ...]:
    """Train what is missing of a trajectory; every run ends as a record on disk.

    Args:
        trajectory: What to train, from `sweep.planning.trajectory`.
        runs_dir: Folder of sweeps; records go to `runs_dir/<sweep>/<run>/record.json`.
        tracker: Where progress and curves go.

    Returns:
        One record per run, by ascending tokens: done, diverged or failed.

    Raises:
        KeyboardInterrupt: Stopped by hand; the newest checkpoint is kept to resume from.
    """
    (records,) = train_together([trajectory], runs_dir, [tracker])
    return records


def train_together(
    trajectories: Sequence[Trajectory], runs_dir: Path, trackers: Sequence[Tracker]
) -> list[tuple[RunRecord, ...]]:
    """Train several trajectories of one shape in this process; see `train`.

    Args:
        trajectories: That differ in seed and rates alone, or a single one.
        runs_dir: Folder of sweeps.
        trackers: One for each.

    Returns:
        The records of each.
    """
    walks = [
        TrajectoryTrainer(trajectory=t, folder=runs_dir / t.sweep, tracker=tracker)
        for t, tracker in zip(trajectories, trackers, strict=True)
    ]
    interruption = DeferredSignals()
    for walk in walks:
        walk.company, walk.interruption = walks, interruption
    in_order = sorted(walks, key=lambda walk: str(walk.checkpoint))  # two processes lock alike
    with interruption if all(t.config.train.devices == 1 for t in trajectories) else nullcontext():
        Pack(in_order).walk()
    return [tuple(w.records[run.run] for run in w.trajectory.runs) for w in walks]


@dataclass(slots=True, kw_only=True)
class TrajectoryTrainer:
    """The way of one process along a trajectory; of several ranks, number 0 alone writes."""

    trajectory: Trajectory
    folder: Path
    tracker: Tracker
    records: dict[str, RunRecord] = field(default_factory=dict)
    started: str = field(default_factory=now)
    earlier: tuple[Attempt, ...] = ()
    """Attempts before this one."""
    session: Session | None = None
    interruption: DeferredSignals = field(default_factory=DeferredSignals)
    company: list[TrajectoryTrainer] = field(default_factory=list)
    """The walks of this process, itself among them: a signal has all of them saved."""
    heartbeat: Heartbeat = field(init=False)
    _index: int = 0
    _next_save: float = field(init=False)
    _signal: str | None = None

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(self.work)
        self._next_save = time.monotonic() + self.trajectory.config.train.checkpoint_seconds

    @property
    def work(self) -> Path:
        """Folder of what an unfinished trajectory needs."""
        return self.folder / work_folder(self.trajectory)

    @property
    def checkpoint(self) -> Path:
        """The newest state."""
        return self.work / "state.pt"

    @property
    def writes(self) -> bool:
        """Whether records and checkpoints are this process's to write."""
        return self.session is None or bool(self.session.fabric.is_global_zero)

    def missing(self) -> list[RunSpec]:
        """Runs without a record."""
        return [run for run in self.trajectory.runs if run.run not in self.records]

    def look(self) -> None:
        """Take up what records there are by now."""
        for run in self.trajectory.runs:
            record = finished_record(self.folder / run.run)
            if record is not None:
                self.records[run.run] = record

    @property
    def place(self) -> tuple[int, int]:
        """The run that it is on its way to, and its position [tokens]."""
        return self._index, self.at().position

    def at(self) -> Session:
        """The session, once it has begun."""
        assert self.session is not None
        return self.session

    def way(self) -> Way:
        """Train what is missing; yields the rows whose gradients the caller makes, step by step."""
        self.look()
        if not self.missing():
            self.clear()
            return
        with locked(self.checkpoint):  # another process at the same cell is waited for
            self.look()
            yield from self.settle()

    def settle(self) -> Way:
        """Train what is missing; whatever stops that becomes a record, and the sweep goes on."""
        try:
            if self.missing():
                self.earlier = begin(self.work)
                yield from self._go_on_all_devices()
            self.clear()
        except Exception as error:
            trace = traceback.format_exc()
            self.look()  # where locks do nothing, another process may have got there
            for run in self.missing():
                self.keep(run, failed_record(self.facts(run), error, trace))
            self._close("failed", f"{type(error).__name__}: {error}")
        except BaseException as error:
            self._close("stopped", self._signal or type(error).__name__)
            raise

    def _go_on_all_devices(self) -> Way:
        """Train in this process, or in a rank per device; what the ranks did is read from disk."""
        asked = self.trajectory.config.train
        if asked.devices == 1:
            yield from self.go()
        else:
            in_ranks(self.go_alone, devices=asked.devices, accelerator=asked.accelerator)
            self.look()

    def go_alone(self) -> None:
        """Train every missing run in this process."""
        for rows in self.go():
            self.at().backward(rows)

    def facts(self, run: RunSpec) -> RunFacts:
        """What is known of a run so far."""
        return RunFacts(
            trajectory=self.trajectory,
            run=run,
            started=self.started,
            session=self.session,
            earlier=self.earlier,
        )

    def _close(self, outcome: str, reason: str) -> None:
        """Note how this attempt ended; a full disk must not hide why."""
        position = None if self.session is None else self.session.position
        with suppress(RecordError):
            end(self.work, outcome, reason, position)

    def keep(self, run: RunSpec, record: RunRecord) -> None:
        """A run has ended: write what belongs to it, the record last."""
        curve = self.session.curve if self.session is not None else []
        if self.writes:
            self.tracker.finished(self.folder / run.run, record, curve)
            write_record(self.folder / run.run, record)
        self.records[run.run] = record

    def go(self) -> Way:
        """Train every missing run; yields as `way` does."""
        session = self.session = Session.open(self.trajectory)
        self._restore(session)
        for index, run in enumerate(self.trajectory.runs):
            if run.run in self.records:
                continue
            if session.branch is not None and session.branch != index:
                session.return_to_trunk()
            session.between = partial(self._between, run)
            self._index = index
            try:
                yield from self._train(session, index, run)
                self._measure(session, run)
            except Diverged as error:
                for stopped in self.missing() if session.branch is None else [run]:
                    self._measure(session, stopped, reason=str(error))

    def _restore(self, session: Session) -> None:
        """Go to the newest state on disk, or to the start where there is none that fits."""
        state = load(self.checkpoint)
        if state is None:
            return
        try:
            session.restore(state)
        except (RuntimeError, KeyError, ValueError) as error:
            say(f"{self.checkpoint} is not of this model ({error}); training starts afresh")
            session.rewind()

    def clear(self) -> None:
        """Remove the working folder: nothing is missing any more."""
        shutil.rmtree(self.checkpoint.parent, ignore_errors=True)

    def _train(self, session: Session, index: int, run: RunSpec) -> Way:
        """Along the trunk to where the run leaves it, then down its branch."""
        if session.branch is None:
            if session.position > run.cooldown_start:
                session.rewind()
            yield from session.path(run.rate, run.cooldown_start, lambda: self._tick(run))
            session.leave_trunk(index, come_back=len(self.missing()) > 1)
            self._save()
        yield from session.path(run.rate, run.tokens, lambda: self._tick(run))

    def _measure(self, session: Session, run: RunSpec, reason: str | None = None) -> None:
        """Held-out loss and record of a run that came to its end, or was stopped for a reason."""
        source = session.source
        measured = measure(session.module, source.heldout(), self.trajectory.data, session.fabric)
        if reason is None and not measured.loss <= source.unigram_loss:
            reason = (
                f"held-out loss {measured.loss:.3f} is worse than the unigram loss "
                f"{source.unigram_loss:.3f}"
            )
        facts = self.facts(run)
        if reason is None:
            self.keep(run, done_record(facts, measured))
        else:
            self.keep(run, diverged_record(facts, measured, reason))

    def _tick(self, run: RunSpec) -> None:
        """Report progress; save when it is time."""
        assert self.session is not None
        loss = self.session.curve[-1][1]
        if self.writes:
            self.tracker.progress(run.run, self.session.position, run.tokens, loss)
        if broadcast_choice(self.session.fabric, time.monotonic() >= self._next_save):
            self._save()

    def _between(self, run: RunSpec) -> None:
        """Between two steps: a sign of life; and where a signal asks to end, save, then obey."""
        assert self.session is not None
        if self.writes:
            self.heartbeat.beat(run.run, run.tokens, self.session)
        if self.interruption.pending is not None:
            for walk in self.company:
                walk.save_for(self.interruption.pending.name)
            self.interruption.obey()

    def save_for(self, signal: str) -> None:
        """Save, if there is anything to save, since a signal asks to end."""
        if self.session is not None and self.missing():
            self._signal = signal
            self._save()
            self._close("stopped", signal)

    def _save(self) -> None:
        """Put the present state on disk; the next time is such that saving takes 5% at most."""
        assert self.session is not None
        started = time.monotonic()
        state = gather_train_state(self.session.state())
        if self.writes:
            save(self.checkpoint, state)
        now = time.monotonic()
        every = self.trajectory.config.train.checkpoint_seconds
        self._next_save = now + (every and max(every, SAVING_SHARE * (now - started)))
