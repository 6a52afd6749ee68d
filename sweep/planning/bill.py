"""What a grid of runs costs: time of workers and in total, money, memory, what shared trunks save.

Also the options of `python -m sweep.plan`, which stand among Hydra's overrides; what each of them
means is in `sweep.plan.USAGE`.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from fit.allocation.costs import Machine, machine, peak_of, rental_price
from fit.data.accounting import find_device
from fit.data.records import RunRecord
from fit.errors import PlanError, QueryError
from fit.quantities import (
    count_noun,
    parse_count,
    parse_dollars,
    parse_flops,
    parse_hours,
    parse_price,
    parse_share,
    power,
)
from fit.query.budget import budget_flops
from sweep.config import TrainConfig
from sweep.planning.devices import device_kind, found_device
from sweep.planning.grid import Cell, LauncherChoice, split_branches
from sweep.planning.timing import (
    CostEstimate,
    ShapeTiming,
    estimable,
    estimate,
    known_timing,
)
from sweep.planning.trajectory import RunSpec, Trajectory, keep_lengths

STATE_BYTES = 12
"""Bytes of a kept trunk per parameter: itself and two moments in single precision."""
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
    priced: bool
    """Whether the estimate is of the device that the run is meant for."""
    branch_seconds: float | None
    """Time of its branch where that is a job of its own, after the one of the trunk [s]."""
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
    priced: bool
    """Whether the times are those of the devices that the runs are meant for."""
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


def planned_runs(cells: Sequence[Cell], options: PlanOptions) -> list[PlannedCost]:
    """Estimate every run of a grid, for the devices of the options or by timings on this machine.

    Raises:
        PlanError: A run is meant for another device than the named one.
    """
    rows = []
    for number, cell in enumerate(cells):
        due = {run.run: (part, run) for part, run in cell.due()}
        trunks, jobs = split_branches(cell)
        branches = {run.run: (t, run) for job in jobs if trunks for t, run in job.runs()}
        for t in cell.trajectories:
            check_device(t.config.train, options)
            timing = known_timing(t) if options.measure and not options.machine else None
            rows += [
                PlannedCost(
                    cell=number,
                    trajectory=t,
                    run=run,
                    timing=timing,
                    estimate=estimate(part, run, timing, options.machine),
                    priced=estimable(t, timing, options.machine),
                    branch_seconds=estimate(*branches[run.run], timing, options.machine).seconds
                    if run.run in branches
                    else None,
                    record=cell.record(t, run),
                )
                for part, run in (due.get(run.run, (t, run)) for run in t.runs)
            ]
    return rows


def check_device(train: TrainConfig, options: PlanOptions) -> None:
    """Refuse to price runs of a CPU as those of an accelerator.

    Raises:
        PlanError: They are meant for a CPU.
    """
    if options.machine is not None and train.accelerator == "cpu":
        raise PlanError(
            f"device={options.machine.name} prices runs that train.accelerator=cpu keeps on a CPU; "
            "leave one out."
        )


def require_prices(rows: Sequence[PlannedCost], options: PlanOptions) -> None:
    """Refuse to name a price, or to keep to one, where the time of a run is not known.

    Raises:
        PlanError: A run is meant for a device that is not here and was not named.
    """
    needing = [
        w for w, (field, _) in PLAN_OPTIONS.items() if field in ("price", "hours", "dollars")
    ]
    asked = [f"{w}=" for w in needing if getattr(options, PLAN_OPTIONS[w][0]) is not None]
    unknown = next((r for r in rows if r.record is None and not r.priced), None)
    if asked and unknown is not None:
        raise PlanError(f"{' and '.join(asked)} cannot be applied: {unknown_device(unknown)}")


def unknown_device(row: PlannedCost) -> str:
    """Why the time of a run is not known, and what to give."""
    train = row.trajectory.config.train
    many = f" train.devices={train.devices}" if train.devices > 1 else ""
    return (
        f"a run on {device_kind(row.trajectory.config)}{many} was not timed here; name the device: "
        "device=h100 mfu=0.4"
    )


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
        before = max(0.0, row.estimate.seconds - (row.branch_seconds or 0.0))
        jobs[row.cell] = jobs.get(row.cell, 0.0) + before
    branches = [row.branch_seconds for row in left if row.branch_seconds is not None]
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
        priced=all(row.priced for row in left),
        wall=None
        if workers is None
        else makespan(list(jobs.values()), workers) + makespan(branches, workers),
        workers=workers,
        memory_bytes=0.0 if largest is None else largest.estimate.memory_bytes,
        largest="" if shape is None else f"width {shape.width}, depth {shape.depth}",
        saved=sum(row.estimate.alone - row.estimate.training for row in left),
        dollars=None if options.price is None else options.price * hours,
    )


def device_hours(row: PlannedCost) -> float:
    """Device-hours of a run: of a shared GPU its part; on a CPU a worker counts as a device."""
    train = row.trajectory.config.train
    # A named device is counted by its FLOP: how many runs share it changes nothing.
    shared = device_kind(row.trajectory.config) == "cuda" and row.timing is not None
    runs_per_device = train.runs_per_gpu if shared else 1
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
    lines += _wrapped("planned", _planned_for(rows))
    memory = f"{cost.memory_bytes / 2**30:.2g} GiB at most in a run ({cost.largest})"
    if not cost.priced:
        unknown = next(row for row in rows if row.record is None and not row.priced)
        return [*lines, _line("memory", memory), *_wrapped("time", unknown_device(unknown))]
    beside = f" + {compact_duration(cost.beside)} beside it" if cost.beside else ""
    lines.append(_line("workers", f"{compact_duration(cost.training)} of training{beside}"))
    if cost.wall is not None:
        many = count_noun(cost.workers or 1, "worker")
        lines.append(_line("wall", f"about {compact_duration(cost.wall)} on {many}"))
    price = "" if cost.dollars is None else f", ${cost.dollars:,.2f} at ${options.price:g} an hour"
    lines.append(_line("devices", f"{cost.hours:.3g} device-hours{price}"))
    if options.price_note:
        lines += _wrapped("price", options.price_note)
    lines.append(_line("memory", memory))
    share = cost.saved / (cost.saved + cost.training) if cost.training else 0.0
    if share > 0.005:
        lines.append(
            _line("trunks", f"shared ones save {compact_duration(cost.saved)}, {share:.0%}")
        )
    return [
        *lines,
        *kept_lines(rows),
        *(line for text in _estimate_basis(rows, options) for line in _wrapped("estimate", text)),
    ]


def kept_lines(rows: Sequence[PlannedCost]) -> list[str]:
    """What kept trunks save, and the room that those which are to be kept take."""
    left: dict[str, tuple[Trajectory, list[int]]] = {}
    for row in rows:
        if row.record is None:
            name = f"{row.cell} {row.trajectory.trunk}"
            left.setdefault(name, (row.trajectory, []))[1].append(row.run.tokens)
    lines, saved, going_on, keeping = [], 0.0, 0, []
    for t, lengths in left.values():
        anew, now = (
            sum(run.flops_spent for run in keep_lengths(each, lengths).runs)
            for each in (dataclasses.replace(t, kept=0), t)
        )
        saved, going_on = saved + anew - now, going_on + (now < anew)
        if "trunk" in t.config.train.keep:
            keeping.append(t)
    if going_on:
        go = f"{count_noun(going_on, 'trunk')} kept earlier {'go' if going_on > 1 else 'goes'} on"
        lines.append(_line("kept", f"{go}, which saves {saved:.2e} FLOP"))
    if keeping:
        size = sum(STATE_BYTES * t.params.total for t in keeping) / 2**20
        lines.append(_line("to keep", f"{count_noun(len(keeping), 'trunk')}, {size:.2g} MiB"))
    return lines


def _planned_for(rows: Sequence[PlannedCost]) -> str:
    """The device and the precision that the runs are planned for, in words."""
    configs = [row.trajectory.config for row in rows if row.record is None]
    pairs = sorted({(device_kind(c), c.train.precision) for c in configs})
    why = ""
    if all(c.train.accelerator == "auto" for c in configs):
        here = {device for device, _ in pairs} == {found_device()}
        why = ", found here" if here else ", since the launcher asks for GPUs"
    return f"for {' and '.join(f'{device} in {how}' for device, how in pairs)}{why}"


def _estimate_basis(rows: Sequence[PlannedCost], options: PlanOptions) -> list[str]:
    """What the estimates are based on: named devices, timings by device, or the formula."""
    if options.machine is not None:
        machine = options.machine
        assumed = "" if options.mfu is not None else ", assumed: measure yours, mfu="
        peak = power(machine.flops_per_second)
        device = find_device(machine.name)
        slower = "; in fp16, without bf16 a run is several times slower"
        slower = "" if device is None or device.bf16 else slower
        return [f"for {machine.name}, {peak} FLOP/s at an MFU of {machine.mfu:g}{assumed}{slower}"]
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


def _wrapped(name: str, text: str) -> list[str]:
    """A line and its continuation, at most 80 columns wide."""
    return textwrap.wrap(f"{name:{LABEL}}{text}", 80, subsequent_indent=" " * LABEL)


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
    price_note: str = ""
    """Where the price is from, if the user named none."""
    device: str | None = None
    """Accelerator that the runs are meant for: a name of `DEVICES`, or its peak [FLOP/s]."""
    mfu: float | None = None
    """Share of its peak that training reaches; None for the one that is assumed."""
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
    def machine(self) -> Machine | None:
        """The named devices; None where the runs are timed here, or estimated for a CPU."""
        if self.device is None:
            return None
        return machine(self.device, mfu=self.mfu, price=self.price)

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
            dollars without a price or a device.
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
    if options.mfu is not None and options.device is None:
        raise PlanError("mfu= is a share of a device's peak; add device=h100, say.")
    if options.dollars is not None and options.price is None:
        if options.device is None:
            needed = "the price of a device-hour; add price=2.5, say, or device=h100"
            raise PlanError(f"spend.dollars needs {needed}.")
        try:
            price, note = rental_price(options.device)
        except QueryError as error:
            raise PlanError(str(error)) from error
        options = replace(
            options, price=price, price_note=note.message.replace("--price", "price=")
        )
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


def _parse_device(word: str, value: str) -> str:
    """Take the name of a device, or its peak."""
    try:
        peak_of(value)
    except QueryError as error:
        raise PlanError(str(error)) from error
    return value


def _parser(parse: Callable[[str, str], float]) -> Callable[[str, str], float]:
    """A parser of quantities whose errors are those of a plan."""

    def read(word: str, value: str) -> float:
        try:
            return parse(value, word)
        except QueryError as error:
            raise PlanError(str(error)) from error

    return read


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
        "price": ("price", _parser(parse_price)),
        "device": ("device", _parse_device),
        "mfu": ("mfu", _parser(parse_share)),
        "workers": ("workers", _parse_whole),
        "spend.hours": ("hours", _parser(parse_hours)),
        "spend.dollars": ("dollars", _parser(parse_dollars)),
        "spend.flops": ("flops", _parser(lambda value, word: budget_flops(value, word)[0])),
        "spend.prior": ("prior", _parse_prior),
        "spend.target": ("target", _parser(parse_flops)),
    }
)
"""Option -> field of `PlanOptions` and the function that parses its value."""
