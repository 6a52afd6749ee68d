"""Hands cells to one of Hydra's launchers, the costly first, and again what it lost.

A launcher is trusted with starting processes and with nothing else: whether a run has ended stands
in its record, and whether a worker began it in its trajectory's list of attempts. joblib gives the
whole launch up when one worker is killed; submitit waits for ever for a job that was cancelled.

A cell in one launch: what is missing of it, how often it was tried, and when it is given up.

Waiting for Slurm jobs by what the queue says.

submitit asks `sacct`. Without accounting a cancelled job then counts as running for ever, and the
first job that fails hides those that still run. `squeue` knows the living ones everywhere.
"""

from __future__ import annotations

import os
import secrets
import site
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omegaconf import open_dict

from fit.data.records import RECORD_NAME, read_record, write_record
from fit.errors import PlanError, RecordError, ScalingError
from sweep import ROOT
from sweep.launch.jobs import pack_cells, train_cell
from sweep.planning.compose import compose_multirun, hydra_initialised, make_launcher
from sweep.planning.grid import Cell, run_folder
from sweep.planning.timing import estimate, known_timing
from sweep.planning.trajectory import RunSpec, Trajectory
from sweep.training.tracking import Attempt, read_attempts, say

T = TypeVar("T")
POLL_SECONDS = 2.0
"""Between two looks; a look costs the controller a few milliseconds."""
LIVING = frozenset(
    "PENDING RUNNING SUSPENDED COMPLETING CONFIGURING RESIZING REQUEUED REQUEUE_HOLD REQUEUE_FED "
    "SIGNALING STAGE_OUT STOPPED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
"""States of jobs that run or will run; PREEMPTED and TIMEOUT are PENDING once requeued."""
QUIET_LOOKS = 3
"""Looks without a living job that end the wait: between death and requeue a job may show none."""


def until_gone(name: str, launch: Callable[[], T]) -> T | None:
    """Launch jobs of one name, and wait until Slurm has none of them left.

    Args:
        name: The jobs' name, unlike all others'.
        launch: Submits the jobs and waits for them, perhaps for ever.

    Returns:
        What `launch` returned; None if it waits for jobs that are gone.

    Raises:
        Exception: What `launch` raised, once no job is left.
    """
    outcome: dict[str, Any] = {}

    def body() -> None:
        try:
            outcome["value"] = launch()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=body, name="launch", daemon=True)
    thread.start()
    seen, quiet = False, 0
    while quiet < QUIET_LOOKS:
        thread.join(POLL_SECONDS)
        if "value" in outcome:
            break
        states = job_states(name)
        seen = seen or bool(states)
        if "error" in outcome and not seen:  # nothing was submitted, or Slurm does not answer
            break
        quiet = quiet + 1 if seen and states is not None and not LIVING & set(states) else 0
        if "error" in outcome:
            time.sleep(POLL_SECONDS)
    if "error" in outcome:
        raise outcome["error"]
    value: T | None = outcome.get("value")
    return value


def job_states(name: str) -> list[str] | None:
    """States of the jobs of a name, ended ones for as long as Slurm shows them; None: no answer."""
    command = ["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%T"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.split()


def launch_cells(cells: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Train what is missing of a grid; what cannot be trained ends as a failed record.

    Args:
        cells: The grid.
        overrides: The command's, which choose and set the launcher.

    Raises:
        PlanError: The launcher is not installed, or starts nothing.
    """
    tickets = [PendingCell(cell=cell) for cell in pack_cells(cells) if cell.refusal is None]
    with hydra_initialised():
        engine = HydraLauncher(overrides)
        idle = 0
        while batch := next_batch(tickets, one_pool=engine.one_pool):
            error = engine.launch(batch)
            idle = idle + 1 if error is not None and not any(t.has_begun() for t in batch) else 0
            if idle > 1:  # once may be a worker that was killed before it began
                raise PlanError(f"the launcher {engine.name} started no run: {error}")
            for ticket in batch:
                ticket.returned(whole=error is None)
            missing = sum(len(t.missing()) for t in tickets)
            if error is not None and missing:
                say(f"the launch broke off with {missing} runs missing: {error}")
    for ticket in tickets:
        ticket.give_up()


def next_batch(tickets: Sequence[PendingCell], *, one_pool: bool) -> list[PendingCell]:
    """What to launch now: all that may be tried, the least tried and then the costliest first.

    Args:
        tickets: The cells of the launch.
        one_pool: Workers share a pool that ends with any of them. A cell that may have killed its
            worker then has its last try alone, so that it takes no other with it again.
    """
    left = [t for t in tickets if t.missing() and t.tries <= t.retries]
    suspects = [t for t in left if one_pool and t.lost and t.tries == t.retries]
    together = [t for t in left if t not in suspects]
    if not together:
        return suspects[:1]
    return sorted(together, key=lambda t: (t.tries, -t.cost()))


class HydraLauncher:
    """The launcher that the overrides choose; lives inside an initialised Hydra."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._config = compose_multirun(overrides)
        target = str(self._config.hydra.launcher["_target_"])
        self.name = str(self._config.hydra.runtime.choices.get("hydra/launcher"))
        self._slurm = target.endswith(".SlurmLauncher")
        self.one_pool = target.endswith(".JoblibLauncher")
        self._jobs = 0

    def launch(self, batch: Sequence[PendingCell]) -> str | None:
        """Run a batch to its end; returns in one line what broke the launch off, if anything."""
        name = f"isoflop-{secrets.token_hex(4)}"
        if "submitit_folder" in self._config.hydra.launcher:
            with open_dict(self._config):
                self._config.hydra.launcher.name = name
            isolate_child_interpreters()
        try:
            if self._slurm:
                returned = until_gone(name, lambda: self._run(batch))
            else:
                returned = self._run(batch)
        except Exception as error:  # each launcher has its own kinds
            return one_sentence(error)
        for ticket, job in zip(batch, returned or (), strict=False):
            ticket.reason = job.return_value
        return None

    def _run(self, batch: Sequence[PendingCell]) -> Sequence[Any]:
        """Let Hydra's launcher run a batch."""
        launcher = make_launcher(self._config, train_cell)
        first, self._jobs = self._jobs, self._jobs + len(batch)
        return launcher.launch([t.cell.overrides for t in batch], initial_job_idx=first)


def isolate_child_interpreters() -> None:
    """Let the interpreters that submitit starts find our packages before the user's files.

    They run `python -m submitit...`, which would put the working folder first: the task, pickled by
    its name, would then be looked for in a `sweep.py` of the user's. joblib needs no such care: it
    hands `sys.path` to its workers before the task.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # since Python 3.11: no working folder in front
    if str(ROOT) not in site.getsitepackages():  # a checkout, perhaps found by the working folder
        paths = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(ROOT)]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def one_sentence(error: BaseException) -> str:
    """The kind of an error and the first sentence of what it says."""
    text = " ".join(str(error).split()).partition(". ")[0]
    return f"{type(error).__name__}: {text[:200]}"


class WorkerLost(ScalingError):
    """No worker could end a run, and none lived to say why."""


@dataclass(slots=True, kw_only=True, eq=False)
class PendingCell:
    """A cell that is to be trained."""

    cell: Cell
    tries: int = 0
    """Launches after which something of it was still missing."""
    reason: str | None = None
    """Why a worker would not begin it."""
    _left: int = field(init=False)
    _tried: int = field(init=False)

    def __post_init__(self) -> None:
        self.mark()

    def mark(self) -> None:
        """Remember where things stand before a batch."""
        self._left = len(self.missing())
        self._tried = len(self.attempts())

    def attempts(self) -> list[Attempt]:
        """Attempts at those of its trajectories that have not ended."""
        return [a for folder in self.cell.work for a in read_attempts(folder)]

    def has_begun(self) -> bool:
        """Whether a worker has begun it since the mark."""
        return len(self.missing()) < self._left or len(self.attempts()) > self._tried

    def returned(self, *, whole: bool) -> None:
        """A batch is over; `whole` says that its launch did not break off."""
        self.tries += bool(self.missing()) and (whole or self.has_begun())
        self.mark()

    @property
    def lost(self) -> bool:
        """Whether its last worker went without a word."""
        return any(a.outcome == "lost" for a in self.attempts()[-1:])

    @property
    def retries(self) -> int:
        """Tries that it may have beyond the first."""
        assert self.cell.config is not None
        return self.cell.config.train.retries

    def missing(self) -> list[tuple[Trajectory, RunSpec]]:
        """Runs without a valid record."""
        return [(t, run) for t, run in self.cell.runs() if self.cell.record(t, run) is None]

    def cost(self) -> float:
        """Estimated time of what is missing [s]."""
        return sum(estimate(t, run, known_timing(t)).seconds for t, run in self.missing())

    def give_up(self) -> None:
        """Write failed records for runs that no worker could end: no cell is silently lost."""
        from sweep.training.outcome import RunFacts, failed_record

        for trajectory, run in self.missing():
            folder = run_folder(trajectory, run)
            try:
                read_record(folder / RECORD_NAME)
            except RecordError:
                attempts = tuple(self.attempts())
                started = attempts[-1].started if attempts else None
                facts = RunFacts(trajectory=trajectory, run=run, started=started, earlier=attempts)
                write_record(folder, failed_record(facts, WorkerLost(self._epitaph(attempts)), ""))

    def _epitaph(self, attempts: tuple[Attempt, ...]) -> str:
        """What is known of the end of its workers."""
        if self.reason is not None:
            return self.reason
        if not attempts:
            return "no worker began it; see what the launcher says, and whether the data are there"
        last = attempts[-1]
        return (
            f"its worker ended {len(attempts)} times without a record, last on {last.host} "
            f"({last.reason or 'killed, as for want of memory, or its node lost'}); more memory or "
            "a smaller train.micro_batch_tokens may help"
        )
