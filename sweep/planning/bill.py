"""What a grid costs: hours of workers, hours on the wall, dollars, memory, what trunks save.

Words of `python -m sweep.plan` that are not Hydra's: what to measure, at what price, up to what.

measure=off          keep the formula; else a few steps of every shape are timed, once
price=2.5            dollars of one device-hour
workers=8            runs at a time, where the launcher does not say it
spend.hours=2        device-hours, spend.dollars=5 or spend.flops=1e13: thin the grid to that
spend.prior=NAME     law or fit that the thinned grid is chosen for, spend.target=1e15 its budget
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fit.data.records import RunRecord
from fit.errors import PlanError, QueryError
from fit.quantities import count_noun, parse_count, parse_flops
from sweep.config import Config
from sweep.planning.grid import Cell, LauncherChoice
from sweep.planning.timing import CostEstimate, ShapeTiming, device_kind, estimate, known_timing
from sweep.planning.trajectory import RunSpec, Trajectory

LABEL = 10
"""Columns of the names of the bill's lines."""
LIMITS = ("hours", "dollars", "flops")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCost:
    """A run of the plan, what it is expected to take, and its record if it has ended."""

    cell: int
    """Number of its cell: a launcher's job."""
    trajectory: Trajectory
    run: RunSpec
    pace: ShapeTiming | None
    estimate: CostEstimate
    record: RunRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
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


def planned_runs(cells: Sequence[Cell], *, measured: bool) -> list[PlannedCost]:
    """Every run of a grid with its estimate, by the formula alone unless `measured`."""
    rows = []
    for number, cell in enumerate(cells):
        for t in cell.trajectories:
            pace = known_timing(t) if measured else None
            rows += [
                PlannedCost(
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


def plan_cost(
    rows: Sequence[PlannedCost], terms: PlanOptions, launcher: LauncherChoice
) -> PlanCost:
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
    return PlanCost(
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


def device_hours(row: PlannedCost) -> float:
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


def cost_lines(bill: PlanCost, terms: PlanOptions, rows: Sequence[PlannedCost]) -> list[str]:
    """The bill for people, at most 80 columns."""
    if not bill.runs:
        return []
    lines = [_line("to do", f"{count_noun(bill.runs, 'run')}, {bill.flops:.2e} FLOP")]
    beside = f" + {duration(bill.beside)} beside it" if bill.beside else ""
    lines.append(_line("workers", f"{duration(bill.training)} of training{beside}"))
    if bill.wall is not None:
        many = count_noun(bill.workers or 1, "worker")
        lines.append(_line("wall", f"about {duration(bill.wall)} on {many}"))
    lines.append(_line("devices", f"{bill.hours:.3g} device-hours{_price(bill, terms)}"))
    memory = f"{bill.memory_bytes / 2**30:.2g} GiB at most in a run ({bill.largest})"
    lines.append(_line("memory", memory))
    share = bill.saved / (bill.saved + bill.training) if bill.training else 0.0
    if share > 0.005:
        lines.append(_line("trunks", f"shared ones save {duration(bill.saved)}, {share:.0%}"))
    return lines + [_line("estimate", text) for text in _basis(rows)]


def _price(bill: PlanCost, terms: PlanOptions) -> str:
    """Dollars, where a price is given."""
    if bill.dollars is None:
        return ""
    return f", ${bill.dollars:,.2f} at ${terms.price:g} an hour"


def _basis(rows: Sequence[PlannedCost]) -> list[str]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """How a plan is to be priced and thinned."""

    measure: bool = True
    price: float | None = None
    """Of one device-hour [$]."""
    workers: int | None = None
    """Runs at a time; None for what the launcher says."""
    hours: float | None = None
    """Device-hours to spend at most."""
    dollars: float | None = None
    flops: float | None = None
    """FLOP to spend at most."""
    prior: str = "besiroglu2024"
    """Published law or folder of a fit."""
    target: float | None = None
    """Budget at which N* and the loss are wanted [FLOP]; None for ten times the largest run."""

    @property
    def limited(self) -> bool:
        """Whether the grid is to be thinned."""
        return any(getattr(self, name) is not None for name in LIMITS)


def split_plan_options(overrides: Sequence[str]) -> tuple[PlanOptions, list[str]]:
    """Take the plan's own words out of a command line.

    Args:
        overrides: Words of the command, Hydra's among them.

    Returns:
        The terms, and the overrides that are Hydra's.

    Raises:
        PlanError: A value that the word cannot have, an unknown word of spend, or a spend in
            dollars without a price.
    """
    found: dict[str, Any] = {}
    rest = []
    for override in overrides:
        word, equals, value = override.partition("=")
        if word.startswith("spend.") and word not in WORDS:
            known = ", ".join(w for w in WORDS if w.startswith("spend."))
            raise PlanError(f"{word} is not a word of the plan; known are {known}.")
        if equals and word in WORDS:
            name, read = WORDS[word]
            found[name] = read(word, value)
        else:
            rest.append(override)
    terms = PlanOptions(**found)
    if terms.dollars is not None and terms.price is None:
        raise PlanError("spend.dollars needs the price of a device-hour; add price=2.5, say.")
    if (terms.target or "prior" in found) and not terms.limited:
        needed = ", ".join(f"spend.{name}" for name in LIMITS)
        raise PlanError(f"spend.prior and spend.target thin a grid to a limit; add {needed}.")
    return terms, rest


def _switch(word: str, value: str) -> bool:
    """On or off."""
    if value not in ("on", "off"):
        raise PlanError(f"{word}={value}; on or off is needed.")
    return value == "on"


def _count(word: str, value: str) -> float:
    """A positive number."""
    try:
        return parse_count(value, word, examples="2.5 or 1e3")
    except QueryError as error:
        raise PlanError(str(error)) from error


def _flops(word: str, value: str) -> float:
    """A budget."""
    try:
        return parse_flops(value, word)
    except QueryError as error:
        raise PlanError(str(error)) from error


def _whole(word: str, value: str) -> int:
    """A positive whole number."""
    number = _count(word, value)
    if number != int(number):
        raise PlanError(f"{word}={value}; a whole number is needed.")
    return int(number)


def _text(word: str, value: str) -> str:
    """A name."""
    if not value:
        raise PlanError(f"{word} is empty; a published law or the folder of a fit is needed.")
    return value


WORDS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = MappingProxyType(
    {
        "measure": ("measure", _switch),
        "price": ("price", _count),
        "workers": ("workers", _whole),
        "spend.hours": ("hours", _count),
        "spend.dollars": ("dollars", _count),
        "spend.flops": ("flops", _flops),
        "spend.prior": ("prior", _text),
        "spend.target": ("target", _flops),
    }
)
"""Word -> field of `Terms` and how its value is read."""
