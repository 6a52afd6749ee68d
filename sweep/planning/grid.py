"""From overrides to every cell of the grid that they span, composed, checked and planned.

Composes the jobs of a grid; those that differ in plain values only share one composition.

Hydra takes 50 ms and more to compose a config from its groups, which is most of what a launch of a
thousand tiny runs would do. Its own last step, setting values, takes 2.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fit.data.records import RunRecord
from fit.errors import PlanError
from sweep.config import Config, parse
from sweep.planning.timing import check_memory
from sweep.planning.trajectory import RunSpec, Trajectory, finished_record, plan, work_folder

EXTRAS = {
    "joblib": "sweep",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "ray_aws": "ray",
}
"""Extra of isoflop that brings a launcher."""
WRONG_OVERRIDES = (HydraException, OmegaConfBaseException, ValueError)
"""What Hydra raises for overrides that it cannot take; some are plain ValueErrors."""


class ConfigComposer:
    """Lives inside an initialised Hydra."""

    def __init__(self) -> None:
        loader: Any = GlobalHydra.instance().config_loader()
        self._groups = loader.repository
        self._parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, job: Sequence[str]) -> DictConfig:
        """What `hydra.compose("config", job)` returns.

        Raises:
            hydra.errors.HydraException: As Hydra does.
        """
        parsed = [self._parsed(text) for text in job]
        plain = [o for o in parsed if self._is_plain(o)]
        rest = [o for o in parsed if o not in plain]
        if not all(self._is_group(o) or o.is_hydra_override() for o in rest):
            return compose("config", overrides=list(job))
        chosen = tuple(str(o.input_line) for o in rest)
        if chosen not in self._bases:
            self._bases[chosen] = compose("config", overrides=list(chosen))
        config = copy.deepcopy(self._bases[chosen])
        ConfigLoaderImpl._apply_overrides_to_config(plain, config)
        return config

    def _parsed(self, text: str) -> Override:
        """One override; a grid has few that differ."""
        if text not in self._overrides:
            (self._overrides[text],) = self._parser.parse_overrides([text])
        return self._overrides[text]

    def _is_group(self, override: Override) -> bool:
        """Whether it chooses a file of a group."""
        return bool(self._groups.group_exists(override.key_or_group))

    def _is_plain(self, override: Override) -> bool:
        """Whether it sets one value, whatever the others do."""
        return not (
            override.is_add()
            or override.is_force_add()
            or override.is_delete()
            or override.is_hydra_override()
            or override.package is not None
            or isinstance(override.value(), dict)
            or self._is_group(override)
        )


ConfigStore.instance().store(name="config_schema", node=Config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One job of the grid."""

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

    def record(self, trajectory: Trajectory, run: RunSpec) -> RunRecord | None:
        """The valid record of a run, if it has ended."""
        return finished_record(run_folder(trajectory, run))


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherChoice:
    """What starts the cells of a multirun."""

    name: str
    """Of its config in the group hydra/launcher."""
    settings: Mapping[str, Any]

    @property
    def workers(self) -> int | None:
        """Cells at a time; None where a cluster decides."""
        if self.name == "basic":
            return 1
        jobs = self.settings.get("n_jobs")
        if not isinstance(jobs, int):
            return None
        return jobs if jobs > 0 else max(1, len(os.sched_getaffinity(0)) + 1 + jobs)


def run_folder(trajectory: Trajectory, run: RunSpec) -> Path:
    """Folder of a run's record."""
    return Path(trajectory.config.runs_dir) / trajectory.sweep / run.run


def command_overrides(arguments: Namespace) -> list[str]:
    """The overrides of a command line, a folder of the user's own configs among them.

    Raises:
        PlanError: Another root config is asked for.
    """
    if arguments.config_name or arguments.config_path:
        raise PlanError(
            "--config-name and --config-path replace the schema; add configs of your own by "
            "--config-dir FOLDER, such as FOLDER/experiment/mine.yaml with +experiment=mine."
        )
    if not arguments.config_dir:
        return list(arguments.overrides)
    folder = Path(arguments.config_dir).absolute()
    return [*arguments.overrides, f"hydra.searchpath=[file://{folder}]"]


def grid(overrides: Sequence[str], *, multirun: bool) -> tuple[Cell, ...]:
    """Compose and plan every cell that the overrides span.

    Args:
        overrides: Hydra's overrides, sweeping ones among them.
        multirun: Span the grid; else the overrides are one cell.

    Raises:
        PlanError: The overrides themselves are wrong: unknown key, wrong type, bad grammar.
    """
    try:
        with initialize_config_module("conf", version_base="1.3"):
            jobs = _expand(overrides) if multirun else [list(overrides)]
            composer = ConfigComposer()
            configs = [_compose(composer, job) for job in jobs]
    except WRONG_OVERRIDES as error:
        raise PlanError(one_line(error)) from error
    seen: set[Path] = set()
    return tuple(_cell(job, config, seen) for job, config in zip(jobs, configs, strict=True))


def chosen_launcher(overrides: Sequence[str]) -> LauncherChoice:
    """The launcher that the overrides choose, and its settings.

    Raises:
        PlanError: The overrides are wrong.
    """
    try:
        with initialize_config_module("conf", version_base="1.3"):
            config = _shared(overrides)
            found: Any = OmegaConf.to_container(config.hydra.launcher)
            name = str(config.hydra.runtime.choices.get("hydra/launcher"))
            return LauncherChoice(name=name, settings=found)
    except WRONG_OVERRIDES as error:
        raise PlanError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The message of a Hydra or OmegaConf error in one line."""
    launcher = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", str(error))
    if launcher and launcher[1] in EXTRAS:
        extra = EXTRAS[launcher[1]]
        return (
            f"hydra/launcher={launcher[1]} needs the extra '{extra}', which is not installed: "
            f"pip install 'isoflop[{extra}]'"
        )
    text = f"{error}\n{error.__cause__ or ''}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "See https"))]
    return " ".join(dict.fromkeys(kept)) or repr(error)


def _expand(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a multirun, as Hydra's basic sweeper makes them, sweeper.params included."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    preset = _shared(overrides).hydra.sweeper.get("params") or {}
    parsed = parser.parse_overrides([f"{k}={v}" for k, v in preset.items()] + list(overrides))
    return list(BasicSweeper.split_arguments(parsed, None)[0])


def _shared(overrides: Sequence[str]) -> DictConfig:
    """The configuration, Hydra's own part included, of what all jobs of a multirun share."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    fixed = [
        o.input_line
        for o in parser.parse_overrides(list(overrides))
        if not o.is_sweep_override() and o.input_line is not None
    ]
    return compose("config", overrides=fixed, return_hydra_config=True)


def compose_config(overrides: Sequence[str]) -> Config:
    """The checked configuration of one job.

    Raises:
        PlanError: The overrides are wrong.
    """
    try:
        with initialize_config_module("conf", version_base="1.3"):
            return parse(compose("config", overrides=list(overrides)))
    except WRONG_OVERRIDES as error:
        raise PlanError(one_line(error)) from error


def _compose(composer: ConfigComposer, job: Sequence[str]) -> Config | PlanError:
    """The checked configuration of one job, or why there is none."""
    try:
        return parse(composer.compose(job))
    except PlanError as error:
        return error


def _cell(job: Sequence[str], config: Config | PlanError, seen: set[Path]) -> Cell:
    """Plan one job; a run that an earlier one makes, as when lengths round alike, is left out."""
    overrides = tuple(o for o in job if not o.lstrip("+~").startswith("hydra"))
    if isinstance(config, PlanError):
        return Cell(overrides=overrides, config=None, refusal=str(config))
    try:
        trajectories = plan(config)
        for t in trajectories:
            check_memory(t.shape, t.params, config.train)
        sweep = Path(config.runs_dir) / config.name
        return Cell(
            overrides=overrides,
            config=config,
            trajectories=tuple(_unseen(t, seen) for t in trajectories),
            work=tuple(sweep / work_folder(t) for t in trajectories),
        )
    except PlanError as error:
        return Cell(overrides=overrides, config=config, refusal=str(error))


def _unseen(trajectory: Trajectory, seen: set[Path]) -> Trajectory:
    """The trajectory with its first-seen runs only, which become seen."""
    folders = {run.run: run_folder(trajectory, run) for run in trajectory.runs}
    runs = tuple(run for run in trajectory.runs if folders[run.run] not in seen)
    seen.update(folders.values())
    return dataclasses.replace(trajectory, runs=runs)
