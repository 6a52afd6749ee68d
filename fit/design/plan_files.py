"""A proposal of next runs as a document, and as files that `python -m sweep -m` launches.

Hydra sweeps over products of choices, and a design is a list of runs. So every trunk is a file of a
config group `cell`, and an experiment sweeps over their names: Hydra finds both when the folder is
put on its search path, and every launcher and `python -m sweep.plan` take them like any other grid.

    suggested/proposal.json
    suggested/experiment/suggested.yaml    sweep's name, shared recipe, names of the cells
    suggested/cell/w64-d2-s2.yaml          one trunk: shape, seed, lengths
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.data.accounting import Shape
from fit.data.records import RECORD_NAME, finite_or_null
from fit.files import write_atomically
from fit.query.launch import hydra_value
from fit.results import Fit
from fit.verdict import Note

PROPOSAL_SCHEMA = "isoflop.proposal/1"
FOLDER = "suggested"
PACKAGE = "# @package _global_\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Half widths of the intervals at the target."""

    params_factor: float
    """The interval of N* is N* divided and multiplied by this; infinite where it has no bound."""
    loss_margin: float
    """The interval of the loss is the loss minus and plus this [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendStep:
    """Expected precision after a part of the spend."""

    share: float
    """Share of the spend; 1.1 is a tenth more."""
    flops: float
    """Cost of its runs [FLOP]."""
    runs: int
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedRun:
    """One run of a proposal."""

    params: float
    tokens: float
    flops: float
    """Cost of the run on its own [FLOP]."""
    flops_spent: float
    """What it adds to the total cost, its trunk shared [FLOP]."""
    replicate: int
    """Number of the copy, or of the trunk of its size, from 0."""
    seed: int | None
    """Seed of the trunk; those of the fitted runs are not used again. None without shapes."""
    shape: Shape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The next runs and the precision expected after them."""

    source: str
    law: str
    convention: Mapping[str, str]
    flops: float
    """Target budget [FLOP]."""
    params: float | None
    """N* at the target by the present law; None where the fit is refused."""
    loss: float | None
    """Loss there [nats/token]; None likewise."""
    refusal: str | None
    """Why these are not given, where they are not."""
    spend: float
    """Limit on the cost of all runs together [FLOP]."""
    level: float
    noise: float
    """Standard deviation of ln loss of one run."""
    shared: float
    """Share of the error variance that runs of one trunk are taken to have in common."""
    before: Precision | None
    """Present precision; None where there are no runs yet."""
    after: Precision
    """Expected precision."""
    discrepancy: Mapping[str, float] | None
    """Share of the variance of ln `params` and ln `loss` that is left to what forms miss beyond the
    costliest run; None for a law without a forecast."""
    belief: Mapping[str, float] | None
    """Of a published law: standard deviations of the ln of its `exponents`, of `E` and of either of
    its `terms` that the design was made for; None for a fit, whose posterior it is."""
    kappa: tuple[float | None, float]
    """Condition number of the law by the runs that there are, None without any, and with these."""
    steps: tuple[SpendStep, ...]
    runs: tuple[SuggestedRun, ...]
    notes: tuple[Note, ...] = ()
    schema: str = PROPOSAL_SCHEMA

    @property
    def flops_spent(self) -> float:
        """Cost of all runs together [FLOP]."""
        return sum(r.flops_spent for r in self.runs)

    def document(self) -> dict[str, Any]:
        """The `isoflop.proposal/1` document."""
        document = dataclasses.asdict(self)
        ordered = {"schema": document.pop("schema"), "flops_spent": self.flops_spent, **document}
        return dict(finite_or_null(ordered))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """One job, a trunk: a shape and a seed at one length or more."""

    shape: Shape
    seed: int
    tokens: tuple[float, ...]

    @property
    def name(self) -> str:
        """Name of its file, unique within the proposal."""
        return f"w{self.shape.width}-d{self.shape.depth}-s{self.seed}"

    def settings(self) -> dict[str, Any]:
        """Its settings, nested as in the training config."""
        names = ["width", "depth", "heads", "head_dim"]
        if self.shape.kv_heads is not None:
            names.append("kv_heads")
        return {
            "seed": self.seed,
            "model": {name: getattr(self.shape, name) for name in names},
            "train": {"tokens": [round(t) for t in self.tokens]},
        }


def planned_jobs(proposal: Proposal) -> tuple[PlannedJob, ...]:
    """The proposal's runs grouped by trunk; empty where their shapes are not known."""
    trunks: dict[tuple[Shape, int], list[float]] = {}
    for run in proposal.runs:
        if run.shape is not None and run.seed is not None:
            trunks.setdefault((run.shape, run.seed), []).append(run.tokens)
    return tuple(
        PlannedJob(shape=shape, seed=seed, tokens=tuple(sorted(tokens)))
        for (shape, seed), tokens in trunks.items()
    )


def write_plan(folder: Path, proposal: Proposal, fit: Fit | None) -> str | None:
    """Write a proposal and the files that launch it; an earlier one is replaced.

    Args:
        folder: Folder of the plan.
        proposal: The next runs.
        fit: The fit that they extend; they get its recipe and its sweep's folder.

    Returns:
        The arguments of `python -m sweep -m` and of `python -m sweep.plan`, quoted for a shell;
        None where the proposal has no shapes to launch.

    Raises:
        RecordError: The folder cannot be written to.
    """
    for group in ("experiment", "cell"):
        shutil.rmtree(folder / group, ignore_errors=True)
    write_atomically(folder / "proposal.json", json.dumps(proposal.document(), indent=1) + "\n")
    jobs = planned_jobs(proposal)
    if not jobs or fit is None:
        return None
    for job in jobs:
        write_atomically(folder / "cell" / f"{job.name}.yaml", config_text(job.settings()))
    experiment = config_text(
        _experiment(fit, jobs), defaults=[{"override /data": fit.recipe["data"]}]
    )
    write_atomically(folder / "experiment" / f"{FOLDER}.yaml", experiment)
    search = hydra_value([f"file://{folder}"])
    return f"+experiment={FOLDER} {shlex.quote(f'hydra.searchpath={search}')}"


def _experiment(fit: Fit, jobs: tuple[PlannedJob, ...]) -> dict[str, Any]:
    """Settings that all runs share: the sweep's folder, the fitted runs' recipe, names of cells."""
    runs_dir, name = _sweep_folder(fit)
    settings: dict[str, Any] = {"name": name, "runs_dir": str(runs_dir)}
    for key, value in fit.recipe.items():
        *groups, setting = key.split(".")
        table = settings
        for group in groups:
            table = table.setdefault(group, {})
        if groups:
            table[setting] = value
    names = ",".join(job.name for job in jobs)
    return {**settings, "hydra": {"sweeper": {"params": {"+cell": names}}}}


def _sweep_folder(fit: Fit) -> tuple[Path, str]:
    """Folder of sweeps and name of the sweep that the runs go to.

    That of the fitted runs, so that one fit reads both; a folder of several sweeps gets a new one.
    """
    path = Path(fit.source.get("path") or "runs")
    if any((path / run / RECORD_NAME).is_file() for run in fit.points.run):
        return path.parent, path.name
    return path, f"{fit.name}-next"


def config_text(settings: Mapping[str, Any], defaults: list[Any] | None = None) -> str:
    """A config file of Hydra's, each value as JSON, which is YAML too.

    Args:
        settings: Top-level keys and their values.
        defaults: The file's defaults list.
    """
    listed = {"defaults": defaults} if defaults else {}
    lines = [f"{key}: {json.dumps(value)}" for key, value in {**listed, **settings}.items()]
    return PACKAGE + "\n".join(lines) + "\n"
