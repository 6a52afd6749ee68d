"""The training loop: a trajectory in, one run record per run out.

    for each run of the trajectory, by ascending tokens:
        train the trunk up to the position where the run leaves it
        keep the trunk's state, cool down to the run's end, measure, write the record
        return to the trunk

A trajectory is a trunk and its runs: each run is a branch that leaves the trunk and cools down. Of
a job that is a part of it (`Config.part`) only the trunk is trained, whose states at the branching
points are kept in the trajectory's working folder, or only one branch, which begins with them. A
checkpoint is written every `train.checkpoint_seconds`, in the background, or less often where
training waits for it for more than 5% of that time; a killed process loses what it trained since
the last one.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
import traceback
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fit.data.progress import HEARTBEAT_NAME
from fit.data.records import STORIES_NAME, RunRecord, write_record
from fit.errors import RecordError
from fit.files import now, write_atomically
from sweep.cache import locked
from sweep.config import SCORES
from sweep.data.measured import further_heldout, read_tasks, task_name
from sweep.planning.devices import device_kind
from sweep.planning.trajectory import RunSpec, Trajectory, finished_record, work_folder
from sweep.planning.trunks import TRUNK, install_trunk, is_kept, kept_trunks, trunk_folder
from sweep.skills.grading import story_scores
from sweep.training.checkpoint import (
    DeferredSignals,
    StateWriter,
    TrainState,
    host_copy,
    load,
    save,
)
from sweep.training.devices import (
    broadcast_choice,
    gather_state,
    group_backend,
    run_in_ranks,
)
from sweep.training.outcome import (
    RunFacts,
    diverged_record,
    done_record,
    error_in_words,
    failed_record,
    measure,
    own_scores,
    score_tasks,
)
from sweep.training.ranks import from_first_rank, join_ranks, started_rank
from sweep.training.session import Diverged, Session
from sweep.training.sharded import (
    METADATA,
    is_sharded,
    load_shards,
    newest_shards,
    next_folder,
    save_shards,
)
from sweep.training.tracking import Attempt, Heartbeat, Tracker, end_attempt, say, start_attempt
from sweep.writing.weights import distinct_weights, write_weights

STATE_NAME = "state.pt"
SAVING_SHARE = 20
"""Least time between two checkpoints, in units of the time that training waits for one."""


def train(trajectory: Trajectory, runs_dir: Path, tracker: Tracker) -> tuple[RunRecord, ...]:
    """Train the missing runs of a trajectory; every run ends as a record on disk.

    Args:
        trajectory: What to train, from `sweep.planning.trajectory`.
        runs_dir: Folder of sweeps; records go to `runs_dir/<sweep>/<run>/record.json`.
        tracker: Where progress and curves go.

    Returns:
        One record per run that has ended, by ascending tokens: done, diverged or failed.

    Raises:
        KeyboardInterrupt: Stopped by hand; the newest checkpoint is kept to resume from.
    """
    trainer = TrajectoryTrainer(
        trajectory=trajectory, folder=runs_dir / trajectory.sweep, tracker=tracker
    )
    alone = trajectory.config.train.devices == 1
    with trainer.interruption if alone else nullcontext():
        trainer.train()
    return tuple(trainer.records[r.run] for r in trajectory.runs if r.run in trainer.records)


@dataclass(slots=True, kw_only=True)
class TrajectoryTrainer:
    """Trains one trajectory in this process; of several ranks, rank 0 alone writes files."""

    trajectory: Trajectory
    folder: Path
    tracker: Tracker
    records: dict[str, RunRecord] = field(default_factory=dict)
    started: str = field(default_factory=now)
    earlier: tuple[Attempt, ...] = ()
    """Attempts at the trajectory before the present one."""
    session: Session | None = None
    interruption: DeferredSignals = field(default_factory=DeferredSignals)
    heartbeat: Heartbeat = field(init=False)
    writer: StateWriter = field(default_factory=StateWriter)
    _next_save: float = field(init=False)
    _signal: str | None = None
    _group: Any = None
    """Group of the ranks in which shards are saved."""

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(self.work)
        self._next_save = time.monotonic() + self.trajectory.config.train.checkpoint_seconds

    @property
    def part(self) -> str | None:
        """What is trained of the trajectory, `Config.part`."""
        return self.trajectory.config.part

    @property
    def whole_work(self) -> Path:
        """Working folder of the whole trajectory."""
        return self.folder / work_folder(self.trajectory)

    @property
    def work(self) -> Path:
        """Folder of the checkpoint, the attempts and the heartbeat while runs are missing."""
        if self.part in (None, TRUNK):
            return self.whole_work
        runs = tuple(run for run in self.trajectory.runs if self.part == str(run.tokens))
        return self.folder / work_folder(dataclasses.replace(self.trajectory, runs=runs))

    @property
    def checkpoint(self) -> Path:
        """File of the newest state."""
        return self.work / STATE_NAME

    @property
    def writes(self) -> bool:
        """Whether this process writes records and checkpoints (rank 0 does)."""
        return self.session is None or bool(self.session.fabric.is_global_zero)

    def missing(self) -> list[RunSpec]:
        """Runs of this part without a record; of a trunk, those whose branching point is ahead."""
        runs = [run for run in self.trajectory.runs if run.run not in self.records]
        if self.part == TRUNK:
            trunk, work = self.trajectory.trunk, self.work
            return [run for run in runs if not is_kept(work, trunk, run.cooldown_start)]
        return [run for run in runs if self.part in (None, str(run.tokens))]

    def read_records(self) -> None:
        """Read the records of finished runs from disk."""
        for run in self.trajectory.runs:
            record = finished_record(self.folder / run.run)
            if record is not None:
                self.records[run.run] = record

    @property
    def active_session(self) -> Session:
        """The session, which must be open."""
        assert self.session is not None
        return self.session

    def train(self) -> None:
        """Train the missing runs."""
        if started_rank():
            self.follow()
            return
        self.read_records()
        if not self.missing() and started_rank() is None:
            self.remove_work_folder()
            return
        with locked(self.checkpoint):  # waits for another process that trains the same cell
            self.read_records()
            self.train_and_record()

    def follow(self) -> None:
        """Train what rank 0 trains, in a rank that torchrun started; an error ends the process."""
        self._join_started_ranks()
        self.records = from_first_rank(None)
        try:
            if self.missing():
                self.train_missing()
            self.writer.wait()
        finally:
            self._end_save()

    def _join_started_ranks(self) -> None:
        """Join the ranks that torchrun started."""
        config, kind = self.trajectory.config.train, device_kind(self.trajectory.config)
        join_ranks(config, group_backend(config.devices // config.nodes, kind))

    def train_and_record(self) -> None:
        """Train the missing runs; write failed records on an error, so that the sweep goes on."""
        try:
            if started_rank() is not None:
                self._join_started_ranks()
                from_first_rank(self.records)
            if self.missing():
                self.earlier = start_attempt(self.work)
                self._train_on_devices()
            self.remove_work_folder()
        except Exception as error:
            trace = traceback.format_exc()
            self._end_save()
            self.read_records()  # on file systems without locks another process may have finished
            for run in self.missing():
                self.write_result(run, failed_record(self.facts(run), error, trace))
            self._record_end("failed", error_in_words(error))
        except BaseException as error:
            self._end_save()
            self._record_end("stopped", self._signal or type(error).__name__)
            raise
        finally:
            self.close_session()

    def close_session(self) -> None:
        """Give up the session: its `after_step` and this object would keep each other alive."""
        if self.session is not None:
            self.session.close()
            self.session = None

    def _train_on_devices(self) -> None:
        """Train in this process, or in one rank per device, whose records are read from disk."""
        devices = self.trajectory.config.train.devices
        if devices == 1 or started_rank() is not None:
            self.train_missing()
            self.writer.wait()
        else:
            kind = device_kind(self.trajectory.config)
            run_in_ranks(self.train_in_rank, devices=devices, device=kind)
            self.read_records()

    def train_in_rank(self) -> None:
        """Train the missing runs in this process."""
        try:
            self.train_missing()
            self.writer.wait()
        finally:
            self._end_save()

    def facts(self, run: RunSpec) -> RunFacts:
        """What a record of the run is made from."""
        return RunFacts(
            trajectory=self.trajectory,
            run=run,
            started=self.started,
            session=self.session,
            earlier=self.earlier,
        )

    def _end_save(self) -> None:
        """Wait for a save in the background; its failure must not hide the original error."""
        with suppress(RecordError):
            self.writer.wait()

    def _record_end(self, outcome: str, reason: str) -> None:
        """Write how this attempt ended; a full disk must not hide the original error."""
        position = None if self.session is None else self.session.position
        with suppress(RecordError):
            end_attempt(self.work, outcome, reason, position)

    def write_result(self, run: RunSpec, record: RunRecord) -> None:
        """Write the files of an ended run; the record is last, since it marks the run as done."""
        curve = self.session.curve if self.session is not None else []
        if self.writes:
            self.tracker.finish_run(self.folder / run.run, record, curve)
            write_record(self.folder / run.run, record)
        self.records[run.run] = record

    def train_missing(self) -> None:
        """Open a session and train every missing run."""
        session = self.session = Session.open(self.trajectory)
        self._restore(session, self.work)
        trunk_alone = self.part == TRUNK
        for index, run in enumerate(self.trajectory.runs):
            if run not in self.missing():
                continue
            if session.branch is not None and (session.branch != index or trunk_alone):
                session.return_to_trunk()
            session.after_step = partial(self._after_step, run)
            try:
                self._train(session, index, run)
                if not trunk_alone:
                    self._measure_trained(session, run)
            except Diverged as error:
                ahead = [r for r in self.missing() if r.tokens >= run.tokens]
                for stopped in ahead if session.branch is None else [run]:
                    self._finish_run(session, stopped, reason=str(error))

    def _restore(self, session: Session, folder: Path) -> None:
        """Restore the newest state in a folder; start at step 0 where it does not fit."""
        state = self._newest_state(session, folder)
        if state is None:
            return
        try:
            session.restore(state)
        except (RuntimeError, KeyError, ValueError) as error:
            say(
                f"the checkpoint {folder / STATE_NAME} does not fit this model ({error}); "
                "training starts again from step 0"
            )
            session.rewind()

    def _newest_state(self, session: Session, folder: Path) -> TrainState | None:
        """Read the newest state in a folder, whole or sharded; None if there is none."""
        whole, shards = folder / STATE_NAME, newest_shards(folder)
        with suppress(OSError):
            if shards and whole.stat().st_mtime > (shards / METADATA).stat().st_mtime:
                shards = None
        if shards is not None:
            try:
                return load_shards(shards, session.module, session.optimizer)
            except Exception as error:  # damaged files raise many unrelated types
                say(f"the checkpoint {shards} cannot be read ({type(error).__name__})")
        return load(whole)

    def remove_work_folder(self) -> None:
        """Remove the working folder once no run is missing; what is kept of the trunk is moved."""
        if self.part == TRUNK:
            (self.work / HEARTBEAT_NAME).unlink(missing_ok=True)
            self._record_end("stopped", "the trunk is trained")
        elif self.part is not None:
            shutil.rmtree(self.work, ignore_errors=True)
        self.read_records()
        if all(run.run in self.records for run in self.trajectory.runs):
            if "trunk" in self.trajectory.config.train.keep:
                install_trunk(self.whole_work, self.folder, self.trajectory.trunk)
            shutil.rmtree(self.whole_work, ignore_errors=True)

    def _train(self, session: Session, index: int, run: RunSpec) -> None:
        """Train along the trunk to the position where the run leaves it, then along its branch."""
        if session.branch is None:
            if session.position > run.cooldown_start:
                session.rewind()
            self._use_kept_trunk(session, run)
            session.advance(run.rate, run.cooldown_start, lambda: self._report(run))
            if self.part == TRUNK:
                self._keep_trunk(session)
                return
            last, keep = len(self.missing()) == 1, "trunk" in self.trajectory.config.train.keep
            if last and session.position and keep and self.part is None:
                self._keep_trunk(session)
            session.leave_trunk(index, come_back=not last)
            self._save()
        session.advance(run.rate, run.tokens, lambda: self._report(run))

    def _use_kept_trunk(self, session: Session, run: RunSpec) -> None:
        """Go to the furthest kept state of the trunk from which the run can be reached, if any."""
        folders = {self.folder, self.whole_work}
        kept = [k for folder in folders for k in kept_trunks(folder, self.trajectory.trunk)]
        usable = [k for k in kept if session.position < k.tokens <= run.cooldown_start]
        usable = sorted(usable, key=lambda k: k.tokens)[-1:]
        if session.fabric.world_size > 1:  # ranks may see a folder at different times
            usable = session.fabric.broadcast(usable)
        for trunk in usable:
            self._restore(session, trunk.folder)

    def _keep_trunk(self, session: Session) -> None:
        """Write the state of the trunk into the working folder, from where it moves in the end."""
        folder = trunk_folder(self.work, self.trajectory.trunk, session.position)
        if self.writes:  # what a process that was killed left behind
            shutil.rmtree(folder, ignore_errors=True)
        self._write(folder)

    def _measure_trained(self, session: Session, run: RunSpec) -> None:
        """Measure a trained run; where that fails, keep its state, from which it can be repeated.

        Several ranks keep none: one that fails alone cannot save with the others.
        """
        try:
            self._finish_run(session, run)
        except Exception:
            if session.fabric.world_size == 1:
                with suppress(Exception):  # must not hide what failed
                    self._save()
                    self.writer.wait()
                    say(
                        f"{run.run} is trained, but could not be measured; the same command "
                        "measures it again and trains nothing"
                    )
            raise

    def _finish_run(self, session: Session, run: RunSpec, reason: str | None = None) -> None:
        """Measure a run that ended, or was stopped for a reason, and write its record."""
        source = session.source
        source.verify()
        data, module, fabric = self.trajectory.config.data, session.module, session.fabric
        further = further_heldout(data, source)
        asked = self.trajectory.config.train.scores
        measured = measure(module, source.heldout(), self.trajectory.data, fabric, further, asked)
        if reason is None and not measured.loss <= source.unigram_loss:
            reason = (
                f"held-out loss {measured.loss:.3f} is worse than the unigram loss "
                f"{source.unigram_loss:.3f}"
            )
        facts = self.facts(run)
        if reason is None:
            scores = dict(measured.scores or {})
            if tasks := read_tasks(data, source):
                scores |= score_tasks(module, task_name(data), tasks, fabric)
            if "stories" in asked:
                count, seed = self.trajectory.config.train.stories, self.trajectory.seed
                graded, texts = story_scores(module, source, stories=count, seed=seed)
                scores |= graded
                if self.writes:
                    folder = self.folder / run.run
                    write_atomically(folder / STORIES_NAME, "\n".join(texts) + "\n")
            for function in (name for name in asked if name not in SCORES):
                scores |= own_scores(function, module, source, taken=scores)
            measured = dataclasses.replace(measured, scores=scores or None)
        if reason is None:
            record = done_record(facts, measured)
            if "weights" in self.trajectory.config.train.keep:
                self._keep_weights(run, record)
            self.write_result(run, record)
        else:
            self.write_result(run, diverged_record(facts, measured, reason))

    def _keep_weights(self, run: RunSpec, record: RunRecord) -> None:
        """Write the weights of a run; every rank calls it, since a sharded model is gathered."""
        weights = distinct_weights(self.active_session.module)
        whole = {name: gather_state(weight).cpu() for name, weight in weights.items()}
        if self.writes:
            write_weights(self.folder / run.run, whole, record, self.trajectory)

    def _report(self, run: RunSpec) -> None:
        """Show the progress of a run; save a checkpoint when it is due."""
        session = self.active_session
        if self.writes:
            loss = session.curve[-1][1]
            self.tracker.show_progress(run.run, session.position, run.tokens, loss)
        if broadcast_choice(session.fabric, time.monotonic() >= self._next_save):
            self._save()

    def _after_step(self, run: RunSpec) -> None:
        """Write the heartbeat; if a signal is pending, save and deliver it."""
        session = self.active_session
        self.writer.check()
        if self.writes:
            loss = session.curve[-1][1] if session.curve else None
            self.heartbeat.write(run.run, run.tokens, session.position, loss)
        if self.interruption.pending is not None:
            self.save_on_signal(self.interruption.pending.name)
            self.interruption.deliver()

    def save_on_signal(self, signal: str) -> None:
        """Save a checkpoint before a signal ends the process, unless nothing is in training."""
        if self.session is not None and self.missing():
            self._signal = signal
            self._save()
            self.writer.wait()
            self._record_end("stopped", signal)

    def _save(self) -> None:
        """Begin to write a checkpoint, and set when the next is due so that 5% at most are lost."""
        started = time.monotonic()
        self._write(self.work)
        now = time.monotonic()
        every = self.trajectory.config.train.checkpoint_seconds
        self._next_save = now + (every and max(every, SAVING_SHARE * (now - started)))

    def _write(self, folder: Path) -> None:
        """Begin to write the present state into a folder; every rank calls it."""
        state = self.active_session.state()
        if is_sharded(state):
            self._save_shard(folder, host_copy(state))
        elif self.writes:
            self.writer.start(partial(save, folder / STATE_NAME, host_copy(state)))

    def _save_shard(self, parent: Path, state: TrainState) -> None:
        """Begin to write this rank's shard of a state; every rank calls it."""
        self.writer.wait()
        if self._group is None:  # of its own, since training goes on in the default group
            self._group = torch.distributed.new_group(backend="gloo")
        folder = self.active_session.fabric.broadcast(next_folder(parent))
        self.writer.start(partial(save_shards, folder, state, self._group, first=self.writes))
