"""Train the cells of a grid through one of Hydra's launchers, the costliest first.

What to use when (`hydra/launcher=NAME`):

- basic: one cell after the other, in this process; the default.
- joblib: several workers on this machine, `hydra.launcher.n_jobs` at a time.
- submitit_local: likewise, but each cell in a process of its own, with a time limit.
- slurm: jobs of a Slurm cluster, with our settings for being stopped and queued again
  (`conf/hydra/launcher/slurm.yaml`).
- ray: workers of a Ray cluster.

A launcher is trusted with starting processes and with nothing else: whether a run has ended stands
in its record, and whether a worker began it in its trajectory's list of attempts. So what a launch
lost is launched again. joblib gives the whole launch up when one worker is killed; submitit waits
for ever for a job that was cancelled.

Slurm jobs are waited for by what the queue says. submitit asks `sacct`: without accounting a
cancelled job then counts as running for ever, and the first job that fails hides those that still
run. `squeue` works everywhere and knows the jobs that are alive.
"""

from __future__ import annotations

import os
import secrets
import shutil
import site
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import open_dict

from fit.data.records import RECORD_NAME, read_record, write_record
from fit.errors import PlanError, RecordError, ScalingError
from fit.quantities import count_noun
from fit.query.launch import hydra_value
from sweep import ROOT
from sweep.launch.jobs import SHARED, pin_plan, train_cells, write_bundle
from sweep.launch.jobs import run as train_job
from sweep.launch.queue import (
    ALIVE,
    POLL_SECONDS,
    QUIET_POLLS,
    earlier_launches,
    job_states,
    note_launch,
    wait_for_launches,
)
from sweep.planning.compose import compose_multirun, hydra_initialised, make_launcher
from sweep.planning.grid import Cell, run_folder, split_branches
from sweep.planning.timing import estimate, known_timing
from sweep.planning.trajectory import RunSpec, Trajectory
from sweep.planning.trunks import TRUNK
from sweep.training.tracking import Attempt, pack_files, read_attempts, say

T = TypeVar("T")


def launch_cells(cells: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Train the runs of a grid without a record; one that cannot be trained gets a failed record.

    Args:
        cells: The grid.
        overrides: Of the command; they choose the launcher and its settings.

    Raises:
        PlanError: The launcher is not installed, or starts nothing.
    """
    jobs = [pin_plan(cell) for cell in cells if cell.refusal is None]
    with hydra_initialised():
        launcher = HydraLauncher(overrides)
        earlier = earlier_launches(w.parent for job in jobs for w in job.work[:1])
        begun = {name for names in earlier.values() for name in names}
        free: list[Cell] = []
        held: list[Cell] = []
        for job in jobs:
            (held if begun & {run.run for _, run in job.due()} else free).append(job)
        if held:
            say(f"{count_noun(len(held), 'cell')} in Slurm jobs of an earlier command, which go on")
        tried = train_in_parts(launcher, free)
        if held:
            wait_for_launches(list(earlier))
            tried += train_in_parts(launcher, held)
    for cell in tried:
        cell.give_up()


def train_in_parts(launcher: HydraLauncher, cells: Sequence[Cell]) -> list[PendingCell]:
    """Train cells, where `branch_jobs` asks for it their trunks first and then their branches.

    A branch whose trunk was lost trains it itself.

    Returns:
        What was to end with records.

    Raises:
        PlanError: The launcher starts nothing.
    """
    first, then = [], []
    for trunks, branches in map(split_branches, cells):
        first += [PendingCell(cell=cell) for cell in trunks or branches]
        then += [PendingCell(cell=cell) for cell in branches if trunks]
    train_pending(launcher, first)
    train_pending(launcher, then)
    return [c for c in first if c.cell.part != TRUNK] + then


def train_pending(launcher: HydraLauncher, pending: Sequence[PendingCell]) -> None:
    """Launch cells until none may be tried again.

    Raises:
        PlanError: The launcher starts nothing.
    """
    idle = 0
    while batch := next_batch(pending, one_pool=launcher.one_pool):
        jobs = bundle_cells(batch)
        error = launcher.launch(jobs)
        begun = {cell for cell in batch if cell.has_begun()}
        idle = idle + 1 if error is not None and not begun else 0
        if idle > 1:  # a single time, a worker may have been killed before it began
            raise PlanError(f"the launcher {launcher.name} started no run: {error}")
        for job in jobs:
            for cell in job:  # one whose job ended with another cell has not been tried
                untried = cell not in begun and not begun.isdisjoint(job)
                cell.count_try(whole=error is None and not untried)
        missing = sum(len(c.missing()) for c in pending)
        if error is not None and missing:
            say(f"the launch broke off with {missing} runs missing: {error}")


def train_here(cell: Cell) -> None:
    """Train a single cell in this process, without a launcher."""
    job = pin_plan(cell)
    assert job.config is not None
    pending = PendingCell(cell=job)
    pending.reason = train_job(job.config)
    if pending.reason is not None:
        pending.give_up()


def follow_first_rank(cell: Cell) -> int:
    """Train a single cell with rank 0, in a process that torchrun started; the exit code."""
    job = pin_plan(cell)
    assert job.config is not None
    return int(train_job(job.config) is not None)


def next_batch(pending: Sequence[PendingCell], *, one_pool: bool) -> list[PendingCell]:
    """What to launch now: every cell that may be tried, the least tried, then the costliest first.

    Args:
        pending: The cells of the launch.
        one_pool: Whether workers share a pool that ends when any of them dies. A cell that may have
            killed its worker then has its last try alone, so that no other cell is lost with it.
    """
    left = [c for c in pending if c.reason is None and c.missing() and c.tries <= c.retries]
    suspects = [c for c in left if one_pool and c.lost and c.tries == c.retries]
    together = [c for c in left if c not in suspects]
    if not together:
        return suspects[:1]
    return sorted(together, key=lambda c: (c.tries, -c.cost()))


def bundle_cells(batch: Sequence[PendingCell]) -> list[list[PendingCell]]:
    """Share the cells of a launch out among jobs: at most `bundle` of similar cost in each.

    No job is expected to last longer than the costliest cell, or than `bundle` cells of the mean
    cost. A cell whose last worker was lost has a job of its own: it may end others with it.
    """
    costs = {cell: cell.cost() for cell in batch}
    mean, most = sum(costs.values()) / len(batch), max(costs.values())
    jobs: list[list[PendingCell]] = []
    for cell in batch:
        assert cell.cell.config is not None
        size = cell.cell.config.bundle
        job = jobs[-1] if jobs else []
        fits = sum(costs[c] for c in job) + costs[cell] <= 1.001 * max(most, size * mean)
        if 0 < len(job) < size and fits and not (cell.lost or job[0].lost):
            job.append(cell)
        else:
            jobs.append([cell])
    return jobs


class HydraLauncher:
    """The launcher that the overrides choose; to be used while Hydra is initialised."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._config = compose_multirun(overrides)
        target = str(self._config.hydra.launcher["_target_"])
        self.name = str(self._config.hydra.runtime.choices.get("hydra/launcher"))
        self._slurm = target.endswith(".SlurmLauncher")
        self.one_pool = target.endswith(".JoblibLauncher")
        self._local = self.one_pool or target.endswith(".LocalLauncher")
        self._submitit_folder = str(self._config.hydra.launcher.get("submitit_folder"))
        self._jobs = 0

    def launch(self, jobs: Sequence[Sequence[PendingCell]]) -> str | None:
        """Launch jobs and wait for their end; returns the error that broke it off, in one line."""
        name, logs = f"isoflop-{secrets.token_hex(4)}", None
        bundles = Path(self._config.hydra.sweep.dir) / name
        if self._slurm:
            note_launch(bundles, (r.run for job in jobs for c in job for _, r in c.missing()))
        if "submitit_folder" in (settings := self._config.hydra.launcher):
            logs = Path(self._submitit_folder.replace("%j", name))
            with open_dict(self._config):
                settings.name, settings.submitit_folder = name, str(logs / "%j")
        if "ray" in settings:  # Hydra's launcher would set a size, which a running cluster refuses
            with open_dict(self._config):
                settings.ray.init.setdefault("object_store_memory", None)
        if self._local:  # workers inherit it
            os.environ[SHARED] = "1"
        # Ray's own processes need their script's folder on the path.
        isolated = nullcontext() if self.name == "ray" else isolated_child_interpreters()
        problem: str | None = None
        try:
            with isolated:
                if self._slurm:
                    returned = wait_for_jobs(name, lambda: self._run(jobs, bundles))
                else:
                    returned = self._run(jobs, bundles)
        except Exception as error:  # each launcher has its own kinds
            problem, returned = one_sentence(error), None
        # Not where this process is interrupted: Slurm's jobs go on, and need their files.
        shutil.rmtree(bundles, ignore_errors=True)
        if self._config.files == "few" and logs is not None and logs.is_dir():
            pack_files(logs)
        for job, result in zip(jobs, returned or (), strict=False):
            try:
                for cell, reason in zip(job, result.return_value, strict=True):
                    cell.reason = reason
            except Exception as error:  # of a job that raised, which other jobs survived
                problem = one_sentence(error)
        return problem

    def _run(self, jobs: Sequence[Sequence[PendingCell]], bundles: Path) -> Sequence[Any]:
        """Let Hydra's launcher run jobs; cells that share one are written to a file."""
        launcher = make_launcher(self._config, train_cells)
        first, self._jobs = self._jobs, self._jobs + len(jobs)
        overrides = []
        for number, job in enumerate(jobs):
            words = job[0].cell.overrides
            if len(job) > 1:
                write_bundle(path := bundles / f"{number}.pkl", [c.cell for c in job])
                words = (*words, f"bundle_file={hydra_value(str(path))}")
            overrides.append(words)
        return launcher.launch(overrides, initial_job_idx=first)


def wait_for_jobs(name: str, launch: Callable[[], T]) -> T | None:
    """Launch jobs of one name and wait until Slurm has none of them left.

    Args:
        name: A name that only these jobs have.
        launch: Submits the jobs and waits for them, perhaps for ever.

    Returns:
        What `launch` returned; None if it waits for jobs that are gone.

    Raises:
        Exception: What `launch` raised, once no job is left.
    """
    outcome: dict[str, Any] = {}

    def run_launch() -> None:
        try:
            outcome["value"] = launch()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=run_launch, name="launch", daemon=True)
    thread.start()
    seen, quiet = False, 0
    while quiet < QUIET_POLLS:
        thread.join(POLL_SECONDS)
        if "value" in outcome:
            break
        states = job_states(name)
        seen = seen or bool(states)
        if "error" in outcome and not seen:  # nothing was submitted, or Slurm does not answer
            break
        quiet = quiet + 1 if seen and states is not None and not ALIVE & set(states) else 0
        if "error" in outcome:
            time.sleep(POLL_SECONDS)
    if "error" in outcome:
        raise outcome["error"]
    value: T | None = outcome.get("value")
    return value


@contextmanager
def isolated_child_interpreters() -> Iterator[None]:
    """Let the interpreters that a launcher starts find our packages before the user's files.

    They run `python -m joblib...` or `python -m submitit...`, which would put the working folder
    first: a task is pickled by its name and would then be looked for in a `sweep.py` of the user's.
    """
    kept = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "PYTHONPATH")}
    os.environ["PYTHONSAFEPATH"] = "1"  # since Python 3.11: no working folder in front
    if str(ROOT) not in site.getsitepackages():  # a checkout, perhaps found by the working folder
        paths = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(ROOT)]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        if str(ROOT) not in sys.path:  # joblib hands this list to its workers
            sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def one_sentence(error: BaseException) -> str:
    """The type of an error and the first sentence of its message."""
    text = " ".join(str(error).split()).partition(". ")[0]
    return f"{type(error).__name__}: {text[:200]}"


class WorkerLost(ScalingError):
    """No worker completed a run, and none lived to say why."""


@dataclass(slots=True, kw_only=True, eq=False)
class PendingCell:
    """A cell that is to be trained: what is missing of it, and how often it was tried."""

    cell: Cell
    tries: int = 0
    """Launches after which some of its runs were still missing."""
    reason: str | None = None
    """Why a worker refused to begin it."""
    _missing: int = field(init=False)
    _attempts: int = field(init=False)

    def __post_init__(self) -> None:
        self.note_progress()

    def note_progress(self) -> None:
        """Note how many runs are missing and how many attempts were made, before a launch."""
        self._missing = len(self.missing())
        self._attempts = len(self.attempts())

    def attempts(self) -> list[Attempt]:
        """Attempts at its trajectories that have not ended."""
        return [a for folder in self.cell.work for a in read_attempts(folder)]

    def has_begun(self) -> bool:
        """Whether a worker has begun it since the last `note_progress`."""
        return len(self.missing()) < self._missing or len(self.attempts()) > self._attempts

    def count_try(self, *, whole: bool) -> None:
        """Count a launch that is over as a try; `whole` says that it did not break off."""
        self.tries += bool(self.missing()) and (whole or self.has_begun())
        self.note_progress()

    @property
    def lost(self) -> bool:
        """Whether its last worker ended without saying why."""
        return any(a.outcome == "lost" for a in self.attempts()[-1:])

    @property
    def retries(self) -> int:
        """Number of tries that it may have beyond the first."""
        assert self.cell.config is not None
        return self.cell.config.train.retries

    def missing(self) -> list[tuple[Trajectory, RunSpec]]:
        """Runs without a valid record."""
        return self.cell.due()

    def cost(self) -> float:
        """Estimated time of what is missing [s]."""
        return sum(estimate(t, run, known_timing(t)).seconds for t, run in self.missing())

    def give_up(self) -> None:
        """Write failed records for runs that no worker completed: no cell is lost silently."""
        from sweep.training.outcome import RunFacts, failed_record

        for trajectory, run in self.missing():
            folder = run_folder(trajectory, run)
            if self.reason is None:
                with suppress(RecordError):  # a worker wrote why it failed
                    read_record(folder / RECORD_NAME)
                    continue
            attempts = tuple(self.attempts())
            started = attempts[-1].started if attempts else None
            facts = RunFacts(trajectory=trajectory, run=run, started=started, earlier=attempts)
            lost = self.reason is None
            error = WorkerLost(self._why_lost(attempts)) if lost else PlanError(self.reason)
            write_record(folder, failed_record(facts, error, ""))

    def _why_lost(self, attempts: tuple[Attempt, ...]) -> str:
        """What is known about the end of its workers, in words."""
        if not attempts:
            return "no worker began it; see what the launcher says, and whether the data are there"
        last = attempts[-1]
        return (
            f"its worker ended {len(attempts)} times without a record, last on {last.host} "
            f"({last.reason or 'killed, as for want of memory, or its node lost'}); more memory or "
            "a smaller train.micro_batch_tokens may help"
        )
