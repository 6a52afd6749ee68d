"""What a grid costs: hours of workers, hours on the wall, dollars, memory, what trunks save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fit.quantity import counted
from fit.record import RunRecord
from sweep.config import Config
from sweep.cost import device_kind
from sweep.grid import Cell, Launcher
from sweep.pace import Estimate, Pace, estimate, known_pace
from sweep.plan import RunSpec, Trajectory
from sweep.terms import Terms

LABEL = 10
"""Columns of the names of the bill's lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run of the plan, what it is expected to take, and its record if it has ended."""

    cell: int
    """Number of its cell: a launcher's job."""
    trajectory: Trajectory
    run: RunSpec
    pace: Pace | None
    estimate: Estimate
    record: RunRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What is left to do of some planned runs, added up."""

    runs: int
    flops: float
    training: float
    """Of all workers together [s]."""
    beside: float
    """Starts and held-out losses, likewise [s]."""
    hours: float
    """Device-hours."""
    wall: float | None
    """Until the last is done, the costliest first [s]; None where the workers are not known."""
    workers: int | None
    memory_bytes: float
    """Of the largest run."""
    largest: str
    """Its shape."""
    saved: float
    """What shared trunks save [s]."""
    dollars: float | None


def planned_runs(cells: Sequence[Cell], *, measured: bool) -> list[Planned]:
    """Every run of a grid with its estimate, by the formula alone unless `measured`."""
    rows = []
    for number, cell in enumerate(cells):
        for t in cell.trajectories:
            pace = known_pace(t) if measured else None
            rows += [
                Planned(
                    cell=number,
                    trajectory=t,
                    run=run,
                    pace=pace,
                    estimate=estimate(t, run, pace),
                    record=cell.record(t, run),
                )
                for run in t.runs
            ]
    return rows


def bill_of(rows: Sequence[Planned], terms: Terms, launcher: Launcher) -> Bill:
    """Add up what is left to do.

    Args:
        rows: Runs of a plan, those with a record left out of the sums.
        terms: The price, and the workers where they are given.
        launcher: What would start the runs.
    """
    left = [row for row in rows if row.record is None]
    jobs: dict[int, float] = {}
    for row in left:
        jobs[row.cell] = jobs.get(row.cell, 0.0) + row.estimate.seconds
    workers = terms.workers or launcher.workers
    largest = max(left, key=lambda row: row.estimate.memory_bytes, default=None)
    hours = sum(device_hours(row) for row in left)
    shape = None if largest is None else largest.trajectory.shape
    return Bill(
        runs=len(left),
        flops=sum(row.run.flops_spent for row in left),
        training=sum(row.estimate.training for row in left),
        beside=sum(row.estimate.beside for row in left),
        hours=hours,
        wall=None if workers is None else makespan(list(jobs.values()), workers),
        workers=workers,
        memory_bytes=0.0 if largest is None else largest.estimate.memory_bytes,
        largest="" if shape is None else f"width {shape.width}, depth {shape.depth}",
        saved=sum(row.estimate.alone - row.estimate.training for row in left),
        dollars=None if terms.price is None else terms.price * hours,
    )


def device_hours(row: Planned) -> float:
    """Hours that a run takes of devices: of a GPU its share, elsewhere a worker is a device."""
    train = row.trajectory.config.train
    return row.estimate.seconds / 3600 * train.devices / sharers(row.trajectory.config)


def sharers(config: Config) -> int:
    """Runs that share a device."""
    return config.train.runs_per_gpu if device_kind(config.train) == "cuda" else 1


def makespan(jobs: Sequence[float], workers: int) -> float:
    """Time until all jobs are done when each worker takes the longest one left [s]."""
    free = [0.0] * workers
    for job in sorted(jobs, reverse=True):
        soonest = free.index(min(free))
        free[soonest] += job
    return max(free)


def bill_lines(bill: Bill, terms: Terms, rows: Sequence[Planned]) -> list[str]:
    """The bill for people, at most 80 columns."""
    if not bill.runs:
        return []
    lines = [_line("to do", f"{counted(bill.runs, 'run')}, {bill.flops:.2e} FLOP")]
    beside = f" + {duration(bill.beside)} beside it" if bill.beside else ""
    lines.append(_line("workers", f"{duration(bill.training)} of training{beside}"))
    if bill.wall is not None:
        many = counted(bill.workers or 1, "worker")
        lines.append(_line("wall", f"about {duration(bill.wall)} on {many}"))
    lines.append(_line("devices", f"{bill.hours:.3g} device-hours{_price(bill, terms)}"))
    memory = f"{bill.memory_bytes / 2**30:.2g} GiB at most in a run ({bill.largest})"
    lines.append(_line("memory", memory))
    share = bill.saved / (bill.saved + bill.training) if bill.training else 0.0
    if share > 0.005:
        lines.append(_line("trunks", f"shared ones save {duration(bill.saved)}, {share:.0%}"))
    return lines + [_line("estimate", text) for text in _basis(rows)]


def _price(bill: Bill, terms: Terms) -> str:
    """Dollars, where a price is given."""
    if bill.dollars is None:
        return ""
    return f", ${bill.dollars:,.2f} at ${terms.price:g} an hour"


def _basis(rows: Sequence[Planned]) -> list[str]:
    """What the estimates rest on."""
    left = [row for row in rows if row.record is None]
    devices = sorted({row.estimate.measured for row in left if row.estimate.measured})
    known = sum(row.estimate.measured is not None for row in left)
    texts = [f"timed on {name}, one run at a time" for name in devices]
    if known < len(left):
        which = "by formula" if not known else f"{len(left) - known} runs by formula"
        texts.append(f"{which}, for one thread of a CPU: good to a factor of two")
    return texts


def _line(name: str, text: str) -> str:
    """A line of the bill."""
    return f"{name:{LABEL}}{text}"[:80]


def duration(time: float) -> str:
    """A time with its unit in at most seven characters: 42s, 3.5min, 2.1h, 4d, 2e+08d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if time >= size:
            return f"{time / size:.3g}{unit}"
    return f"{time:.0f}s"
