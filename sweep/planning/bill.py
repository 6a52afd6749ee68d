"""What a grid of runs costs: time of workers and in total, money, memory, what shared trunks save.

Also the options of `python -m sweep.plan`, which stand among Hydra's overrides; what each of them
means is in `sweep.plan.USAGE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fit.data.records import RunRecord
from fit.errors import PlanError, QueryError
from fit.quantities import count_noun, parse_count, parse_flops
from sweep.planning.grid import Cell, LauncherChoice
from sweep.planning.timing import CostEstimate, ShapeTiming, device_kind, estimate, known_timing
from sweep.planning.trajectory import RunSpec, Trajectory

LABEL = 10
"""Width of the first column, the names of the lines."""
LIMITS = ("hours", "dollars", "flops")
"""Fields of `PlanOptions` that limit what a grid may cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCost:
    """A run of the plan, its expected time and memory, and its record if it has ended."""

    cell: int
    """Number of the cell that it belongs to; a cell is one job of the launcher."""
    trajectory: Trajectory
    run: RunSpec
    timing: ShapeTiming | None
    estimate: CostEstimate
    record: RunRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """Total cost of the planned runs that have no record yet."""

    runs: int
    flops: float
    training: float
    """Training time of all workers together [s]."""
    beside: float
    """Time of starts and held-out losses, likewise [s]."""
    hours: float
    """Time on devices [device-hours]."""
    wall: float | None
    """Until the last run ends, the costliest first [s]; None where the workers are not known."""
    workers: int | None
    memory_bytes: float
    """Memory of the run that needs most."""
    largest: str
    """Shape of that run, in words."""
    saved: float
    """Training time that shared trunks save [s]."""
    dollars: float | None


def planned_runs(cells: Sequence[Cell], *, measured: bool) -> list[PlannedCost]:
    """Estimate every run of a grid, by the formula alone unless `measured`."""
    rows = []
    for number, cell in enumerate(cells):
        for t in cell.trajectories:
            timing = known_timing(t) if measured else None
            rows += [
                PlannedCost(
                    cell=number,
                    trajectory=t,
                    run=run,
                    timing=timing,
                    estimate=estimate(t, run, timing),
                    record=cell.record(t, run),
                )
                for run in t.runs
            ]
    return rows


def plan_cost(
    rows: Sequence[PlannedCost], options: PlanOptions, launcher: LauncherChoice
) -> PlanCost:
    """Add up the cost of the runs that have no record yet.

    Args:
        rows: Runs of a plan, finished ones among them.
        options: For the price, and for the number of workers where it is set.
        launcher: The launcher that would start the runs.
    """
    left = [row for row in rows if row.record is None]
    jobs: dict[int, float] = {}
    for row in left:
        jobs[row.cell] = jobs.get(row.cell, 0.0) + row.estimate.seconds
    workers = options.workers or launcher.workers
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
        dollars=None if options.price is None else options.price * hours,
    )


def device_hours(row: PlannedCost) -> float:
    """Device-hours of a run: of a shared GPU its part; on a CPU a worker counts as a device."""
    train = row.trajectory.config.train
    runs_per_device = train.runs_per_gpu if device_kind(train) == "cuda" else 1
    return row.estimate.seconds / 3600 * train.devices / runs_per_device


def makespan(jobs: Sequence[float], workers: int) -> float:
    """Time until all jobs are done when each worker takes the longest one left [s]."""
    free = [0.0] * workers
    for job in sorted(jobs, reverse=True):
        soonest = free.index(min(free))
        free[soonest] += job
    return max(free)


def cost_lines(cost: PlanCost, options: PlanOptions, rows: Sequence[PlannedCost]) -> list[str]:
    """The cost of a plan as lines of at most 80 columns."""
    if not cost.runs:
        return []
    lines = [_line("to do", f"{count_noun(cost.runs, 'run')}, {cost.flops:.2e} FLOP")]
    beside = f" + {compact_duration(cost.beside)} beside it" if cost.beside else ""
    lines.append(_line("workers", f"{compact_duration(cost.training)} of training{beside}"))
    if cost.wall is not None:
        many = count_noun(cost.workers or 1, "worker")
        lines.append(_line("wall", f"about {compact_duration(cost.wall)} on {many}"))
    price = "" if cost.dollars is None else f", ${cost.dollars:,.2f} at ${options.price:g} an hour"
    lines.append(_line("devices", f"{cost.hours:.3g} device-hours{price}"))
    memory = f"{cost.memory_bytes / 2**30:.2g} GiB at most in a run ({cost.largest})"
    lines.append(_line("memory", memory))
    share = cost.saved / (cost.saved + cost.training) if cost.training else 0.0
    if share > 0.005:
        lines.append(
            _line("trunks", f"shared ones save {compact_duration(cost.saved)}, {share:.0%}")
        )
    return lines + [_line("estimate", text) for text in _estimate_basis(rows)]


def _estimate_basis(rows: Sequence[PlannedCost]) -> list[str]:
    """What the estimates are based on: timings by device, or the formula."""
    left = [row for row in rows if row.record is None]
    devices = sorted({row.estimate.measured for row in left if row.estimate.measured})
    timed = sum(row.estimate.measured is not None for row in left)
    texts = [f"timed on {name}, one run at a time" for name in devices]
    if timed < len(left):
        which = "by formula" if not timed else f"{len(left) - timed} runs by formula"
        texts.append(f"{which}, for one thread of a CPU: good to a factor of two")
    return texts


def _line(name: str, text: str) -> str:
    """A line: its name in the first column, then its text."""
    return f"{name:{LABEL}}{text}"[:80]


def compact_duration(seconds: float) -> str:
    """A time in at most seven characters, for a narrow column: 42s, 3.5min, 2.1h, 4d, 2e+08d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds:.0f}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Options of a plan: how its runs are timed, priced and thinned."""

    measure: bool = True
    """Time a few steps of every shape, where no timing is stored."""
    price: float | None = None
    """Price of one device-hour [$]."""
    workers: int | None = None
    """Runs at a time; None for the number that the launcher says."""
    hours: float | None = None
    """Most to spend [device-hours]."""
    dollars: float | None = None
    """Most to spend [$]."""
    flops: float | None = None
    """Most to spend [FLOP]."""
    prior: str = "besiroglu2024"
    """Published law, or folder of a fit, that the thinned grid is chosen for."""
    target: float | None = None
    """Budget at which N* and the loss are wanted [FLOP]; None for ten times the largest run."""

    @property
    def limited(self) -> bool:
        """Whether a limit is set, to which the grid is thinned."""
        return any(getattr(self, name) is not None for name in LIMITS)


def split_plan_options(overrides: Sequence[str]) -> tuple[PlanOptions, list[str]]:
    """Separate the options of a plan from Hydra's overrides.

    Args:
        overrides: Arguments of the command, of both kinds.

    Returns:
        The options, and the overrides that are Hydra's.

    Raises:
        PlanError: A value that the option cannot have, an unknown option `spend.*`, or a spend in
            dollars without a price.
    """
    values: dict[str, Any] = {}
    rest = []
    for override in overrides:
        word, equals, value = override.partition("=")
        if word.startswith("spend.") and word not in PLAN_OPTIONS:
            known = ", ".join(w for w in PLAN_OPTIONS if w.startswith("spend."))
            raise PlanError(f"{word} is not an option of a plan; known are {known}.")
        if equals and word in PLAN_OPTIONS:
            field, parse = PLAN_OPTIONS[word]
            values[field] = parse(word, value)
        else:
            rest.append(override)
    options = PlanOptions(**values)
    if options.dollars is not None and options.price is None:
        raise PlanError("spend.dollars needs the price of a device-hour; add price=2.5, say.")
    if (options.target or "prior" in values) and not options.limited:
        needed = ", ".join(f"spend.{name}" for name in LIMITS)
        raise PlanError(f"spend.prior and spend.target thin a grid to a limit; add {needed}.")
    return options, rest


def refuse_plan_options(overrides: Sequence[str]) -> None:
    """Refuse options of a plan in a command that trains.

    Raises:
        PlanError: There is one.
    """
    for override in overrides:
        word = override.partition("=")[0].lstrip("+~")
        if word in PLAN_OPTIONS or word.startswith("spend."):
            raise PlanError(
                f"{override} is an option of the plan, and what trains does not read it; leave it "
                "out, or see the plan first: isoflop plan (python -m sweep.plan)."
            )


def _parse_switch(word: str, value: str) -> bool:
    """Parse on or off."""
    if value not in ("on", "off"):
        raise PlanError(f"{word}={value}; on or off is needed.")
    return value == "on"


def _parse_number(word: str, value: str) -> float:
    """Parse a positive number, units as in 2k allowed."""
    try:
        return parse_count(value, word, examples="2.5 or 1e3")
    except QueryError as error:
        raise PlanError(str(error)) from error


def _parse_flops(word: str, value: str) -> float:
    """Parse a compute budget [FLOP]."""
    try:
        return parse_flops(value, word)
    except QueryError as error:
        raise PlanError(str(error)) from error


def _parse_whole(word: str, value: str) -> int:
    """Parse a positive whole number."""
    number = _parse_number(word, value)
    if number != int(number):
        raise PlanError(f"{word}={value}; a whole number is needed.")
    return int(number)


def _parse_prior(word: str, value: str) -> str:
    """Take the name of a law or the folder of a fit as it is."""
    if not value:
        raise PlanError(f"{word} is empty; a published law or the folder of a fit is needed.")
    return value


PLAN_OPTIONS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = MappingProxyType(
    {
        "measure": ("measure", _parse_switch),
        "price": ("price", _parse_number),
        "workers": ("workers", _parse_whole),
        "spend.hours": ("hours", _parse_number),
        "spend.dollars": ("dollars", _parse_number),
        "spend.flops": ("flops", _parse_flops),
        "spend.prior": ("prior", _parse_prior),
        "spend.target": ("target", _parse_flops),
    }
)
"""Option -> field of `PlanOptions` and the function that parses its value."""
