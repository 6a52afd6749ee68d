"""From overrides to every cell of the grid that they span: composed, checked and planned."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fit.data.accounting import Device
from fit.data.records import DataInfo, RunRecord
from fit.errors import PlanError
from sweep.cache import worker_closed
from sweep.config import Config, DataConfig
from sweep.data.registry import describe
from sweep.planning.compose import (
    ConfigComposer,
    compose_shared,
    expand_grid,
    hydra_initialised,
    wrong_overrides_refused,
)
from sweep.planning.devices import asks_for_gpus, resolve_device
from sweep.planning.overrides import check_effect, check_overrides
from sweep.planning.sizes import check_shape_overrides
from sweep.planning.timing import check_memory
from sweep.planning.trajectory import (
    Describe,
    RunSpec,
    Trajectory,
    check_batches,
    finished_record,
    keep_lengths,
    plan,
    work_folder,
)
from sweep.planning.trunks import TRUNK, is_kept

SHOWN = 3
"""Refused cells that are named where several share a reason."""
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One job of the grid: its overrides, what they were checked and planned to, or a refusal.

    A worker composes and plans its cell again from the overrides: they are all that Hydra's
    launchers hand to a process, which may be on another machine. What is planned here serves to
    refuse, price, order and count the runs before any of them starts.
    """

    overrides: tuple[str, ...]
    config: Config | None
    trajectories: tuple[Trajectory, ...] = ()
    work: tuple[Path, ...] = ()
    """Working folders of the trajectories."""
    refusal: str | None = None
    """Why the cell cannot be trained."""

    def runs(self) -> list[tuple[Trajectory, RunSpec]]:
        """Every run of the cell."""
        return [(t, run) for t in self.trajectories for run in t.runs]

    def due(self) -> list[tuple[Trajectory, RunSpec]]:
        """The runs without a valid record, with what they cost now that the others have ended.

        Those have left no trunk to go on from, unless it was kept or the work is unfinished.
        """
        pairs = []
        for t, work in zip(self.trajectories, self.work, strict=True):
            lengths = [run.tokens for run in t.runs if self.record(t, run) is None]
            if self.part == TRUNK:
                lengths = [n for n in lengths if not is_kept(work, t.trunk, n)]
            part = keep_lengths(t, lengths)
            costs = t.runs if work.exists() or self.part else part.runs
            pairs += [(part, run) for run in costs if run.tokens in lengths]
        return pairs

    @property
    def part(self) -> str | None:
        """What is trained of the cell, `Config.part`."""
        return None if self.config is None else self.config.part

    def record(self, trajectory: Trajectory, run: RunSpec) -> RunRecord | None:
        """The valid record of a run, if it has ended."""
        return finished_record(run_folder(trajectory, run))


def split_branches(cell: Cell) -> tuple[list[Cell], list[Cell]]:
    """Split a cell into jobs for what is missing: one of its trunks, then one of each branch.

    The runs of a job cost what its part costs; those of a trunk end where they would branch off.
    A cell stays whole where this was not asked for, or where there is nothing to share.
    """
    due = [pair for pair in cell.due() if pair[1].cooldown_start]
    if cell.config is None or not cell.config.branch_jobs or len(due) < 2:
        return [], [cell]
    missing = {run.run: run for _, run in cell.due()}
    branches, trunks = [], []
    for t, work in zip(cell.trajectories, cell.work, strict=True):
        on_trunk = []
        for run in (missing[r.run] for r in t.runs if r.run in missing):
            cooldown = t.flops_per_token.exact * (run.tokens - run.cooldown_start)
            spent = run.flops_spent - cooldown
            on_trunk.append(replace(run, tokens=run.cooldown_start, flops_spent=spent))
            branch = replace(t, runs=(replace(run, flops_spent=cooldown),))
            folder = work.parent / work_folder(branch)
            branches.append(_part_of(cell, str(run.tokens), [branch], [folder]))
        trunks.append(replace(t, runs=tuple(on_trunk)))
    return [_part_of(cell, TRUNK, trunks, cell.work)], branches


def _part_of(
    cell: Cell, part: str, trajectories: Sequence[Trajectory], work: Sequence[Path]
) -> Cell:
    """The job of a part of a cell."""
    return replace(
        cell,
        overrides=(*cell.overrides, f"part={part}"),
        config=None if cell.config is None else replace(cell.config, part=part),
        trajectories=tuple(trajectories),
        work=tuple(work),
    )


def refusals(cells: Sequence[Cell]) -> list[str]:
    """One line for each reason for which cells are refused, with what sets them apart.

    Reasons that differ in their numbers alone are one: it names the numbers of the first cells.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.refusal is not None:
            groups.setdefault(tuple(NUMBER.split(cell.refusal)), []).append(cell)
    shared = set.intersection(*(set(c.overrides) for c in cells)) if len(cells) > 1 else set()
    lines = []
    for words, group in groups.items():
        own = [" ".join(o for o in c.overrides if o not in shared) for c in group]
        named = ", ".join(_first_of(own))
        numbers = zip(*(NUMBER.findall(c.refusal or "") for c in group), strict=True)
        texts = ["/".join(_first_of(list(dict.fromkeys(column)))) for column in numbers]
        reason = "".join(w + n for w, n in zip(words, [*texts, ""], strict=True))
        lines.append(
            f"{named}: {reason}" if len(group) == 1 else f"{len(group)} cells ({named}): {reason}"
        )
    return lines


def _first_of(items: list[str]) -> list[str]:
    """The first few of several, and how many more there are."""
    more = len(items) - SHOWN
    return items if more <= 0 else [*items[: SHOWN - 1], f"{items[SHOWN - 1]} and {more} more"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherChoice:
    """The launcher that starts the cells of a multirun."""

    name: str
    """Its choice in the config group hydra/launcher."""
    settings: Mapping[str, Any]

    @property
    def workers(self) -> int | None:
        """Cells trained at a time; None where a cluster decides."""
        if self.name == "basic":
            return 1
        jobs = self.settings.get("n_jobs")
        if not isinstance(jobs, int):
            return None
        return jobs if jobs > 0 else max(1, len(os.sched_getaffinity(0)) + 1 + jobs)


def run_folder(trajectory: Trajectory, run: RunSpec) -> Path:
    """Folder of a run's record."""
    return Path(trajectory.config.runs_dir) / trajectory.sweep / run.run


def grid(
    overrides: Sequence[str],
    *,
    multirun: bool,
    device: Device | None = None,
    describe: Describe = describe,
) -> tuple[Cell, ...]:
    """Compose and plan every cell that the overrides span.

    Args:
        overrides: Hydra's overrides, sweeping ones among them.
        multirun: Span the grid; else the overrides are one cell.
        device: Accelerator that the runs are planned for; None for that of the launcher's jobs or
            of this machine.
        describe: What looks at the data; `describe_unfetched` for what only tells.

    Returns:
        The cells; those that cannot be trained say why in `refusal`.

    Raises:
        PlanError: The overrides themselves are wrong (unknown key, wrong type, bad grammar, no
            effect), or the only cell cannot be trained.
    """
    with worker_closed():
        return _plan_grid(overrides, multirun, device, describe)


def _plan_grid(
    overrides: Sequence[str], multirun: bool, device: Device | None, describe: Describe
) -> tuple[Cell, ...]:
    """Compose and plan every cell; see `grid`."""
    with wrong_overrides_refused(), hydra_initialised():
        check_overrides(overrides, multirun=multirun)
        jobs = expand_grid(overrides) if multirun else [list(overrides)]
        composer = ConfigComposer()
        configs = [_checked(composer, job) for job in jobs]
        check_effect(overrides, jobs, configs, composer.checked([])())
        on_gpus = multirun and asks_for_gpus(compose_shared(overrides).hydra.launcher)
    if on_gpus or device is not None:
        bf16 = None if device is None else device.bf16
        configs = [
            c if isinstance(c, PlanError) else resolve_device(c, on_gpus=on_gpus, bf16=bf16)
            for c in configs
        ]
    seen: set[Path] = set()
    described = _describe_once(describe)
    cells = tuple(
        _plan_cell(job, config, seen, described) for job, config in zip(jobs, configs, strict=True)
    )
    if not multirun and cells[0].refusal is not None:
        raise PlanError(cells[0].refusal)
    return cells


def chosen_launcher(overrides: Sequence[str]) -> LauncherChoice:
    """The launcher that the overrides choose, and its settings.

    Raises:
        PlanError: The overrides are wrong.
    """
    with wrong_overrides_refused(), hydra_initialised():
        config = compose_shared(overrides)
        settings: Any = OmegaConf.to_container(config.hydra.launcher)
        name = str(config.hydra.runtime.choices.get("hydra/launcher"))
    return LauncherChoice(name=name, settings=settings)


def compose_config(overrides: Sequence[str]) -> Config:
    """The checked configuration of one job.

    Raises:
        PlanError: The overrides are wrong.
    """
    with wrong_overrides_refused(), hydra_initialised():
        return ConfigComposer().checked(overrides)()


def _checked(composer: ConfigComposer, job: Sequence[str]) -> Config | PlanError:
    """The checked configuration of one job, or why there is none."""
    build = composer.checked(job)
    try:
        check_shape_overrides(job)
        return build()
    except PlanError as error:
        return error


def _describe_once(describe: Describe) -> Describe:
    """A `describe` that looks at the data of equal settings once: of many files, that is long."""
    answers: dict[str, tuple[int, int | None, DataInfo] | PlanError] = {}

    def described(config: DataConfig, seq_len: int) -> tuple[int, int | None, DataInfo]:
        key = repr((config, seq_len))
        if key not in answers:
            try:
                answers[key] = describe(config, seq_len)
            except PlanError as error:
                answers[key] = error
        answer = answers[key]
        if isinstance(answer, PlanError):
            raise answer
        return answer

    return described


def _plan_cell(
    job: Sequence[str], config: Config | PlanError, seen: set[Path], described: Describe
) -> Cell:
    """Plan one job without the runs of earlier jobs, as where two lengths round to one."""
    overrides = tuple(o for o in job if not o.lstrip("+~").startswith("hydra"))
    if isinstance(config, PlanError):
        return Cell(overrides=overrides, config=None, refusal=str(config))
    try:
        trajectories = plan(config, described)
        for t in trajectories:
            check_batches(t)
            check_memory(t)
        sweep = Path(config.runs_dir) / config.name
        return Cell(
            overrides=overrides,
            config=config,
            trajectories=tuple(_without_seen_runs(t, seen) for t in trajectories),
            work=tuple(sweep / work_folder(t) for t in trajectories),
        )
    except PlanError as error:
        return Cell(overrides=overrides, config=config, refusal=str(error))


def _without_seen_runs(trajectory: Trajectory, seen: set[Path]) -> Trajectory:
    """The trajectory without runs whose folders were seen; adds the others to `seen`."""
    folders = {run.run: run_folder(trajectory, run) for run in trajectory.runs}
    runs = tuple(run for run in trajectory.runs if folders[run.run] not in seen)
    seen.update(folders.values())
    return replace(trajectory, runs=runs)
