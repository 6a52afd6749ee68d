"""A cell in one launch: what is missing of it, how often it was tried, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass, field

from fit.errors import RecordError, ScalingError
from fit.store import RECORD_NAME, read_record, write_record
from sweep.attempts import Attempt, read_attempts
from sweep.grid import Cell, run_folder
from sweep.pace import estimate, known_pace
from sweep.plan import RunSpec, Trajectory


class WorkerLost(ScalingError):
    """No worker could end a run, and none lived to say why."""


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
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
        return sum(estimate(t, run, known_pace(t)).seconds for t, run in self.missing())

    def give_up(self) -> None:
        """Write failed records for runs that no worker could end: no cell is silently lost."""
        from sweep.outcome import Facts, failed_record

        for trajectory, run in self.missing():
            folder = run_folder(trajectory, run)
            try:
                read_record(folder / RECORD_NAME)
            except RecordError:
                attempts = tuple(self.attempts())
                started = attempts[-1].started if attempts else None
                facts = Facts(trajectory=trajectory, run=run, started=started, earlier=attempts)
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
