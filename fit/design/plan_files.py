"""A proposal as files that `python -m sweep -m` launches as they are.

Hydra spans products, and a design is a list. So every trunk is a file of a config group `cell`, and
an experiment sweeps over their names: Hydra finds both when the folder is put on its search path,
and every launcher and `python -m sweep.plan` take them like any other grid.

    suggested/proposal.json
    suggested/experiment/suggested.yaml    sweep's name, shared recipe, names of the cells
    suggested/cell/w64-d2-s2.yaml          one trunk: shape, seed, lengths

The next runs and what they are expected to buy, as a document; nothing that computes.
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
from fit.results import Fit, Note

PROPOSAL_SCHEMA = "isoflop.proposal/1"
FOLDER = "suggested"
PACKAGE = "# @package _global_\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Half an interval at the target."""

    params_factor: float
    """N* times or divided by this; infinite where nothing is known."""
    loss_margin: float
    """Loss plus or minus this [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendStep:
    """What a part of the spend buys."""

    share: float
    """Of the spend asked for; 1.1 is a tenth more."""
    flops: float
    runs: int
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedRun:
    """One run to make."""

    params: float
    tokens: float
    flops: float
    flops_spent: float
    """What it adds to the bill, trunk shared [FLOP]."""
    replicate: int
    """Which copy, or which trunk of its size, from 0."""
    seed: int | None
    """Of the trunk; seeds of the fitted runs are not used again. None without shapes."""
    shape: Shape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The next runs and what they are worth."""

    source: str
    law: str
    convention: Mapping[str, str]
    flops: float
    params: float
    """N* at the target by the present law."""
    loss: float
    spend: float
    level: float
    noise: float
    shared: float
    """Share of the error variance that runs of one trunk are taken to have in common."""
    before: Precision | None
    """None where there are no runs yet."""
    after: Precision
    steps: tuple[SpendStep, ...]
    runs: tuple[SuggestedRun, ...]
    notes: tuple[Note, ...] = ()
    schema: str = PROPOSAL_SCHEMA

    @property
    def flops_spent(self) -> float:
        """The bill [FLOP]."""
        return sum(r.flops_spent for r in self.runs)

    def document(self) -> dict[str, Any]:
        """The `isoflop.proposal/1` document."""
        document = dataclasses.asdict(self)
        ordered = {"schema": document.pop("schema"), "flops_spent": self.flops_spent, **document}
        return dict(finite_or_null(ordered))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """One job: a shape and a seed at one length or more."""

    shape: Shape
    seed: int
    tokens: tuple[float, ...]

    @property
    def name(self) -> str:
        """Readable and unique within the proposal."""
        return f"w{self.shape.width}-d{self.shape.depth}-s{self.seed}"

    def settings(self) -> dict[str, Any]:
        """As the config has them."""
        s = self.shape
        names = ("width", "depth", "heads", "head_dim")
        tokens = [round(t) for t in self.tokens]
        model = {name: getattr(s, name) for name in names}
        return {"seed": self.seed, "model": model, "train": {"tokens": tokens}}


def planned_jobs(proposal: Proposal) -> tuple[PlannedJob, ...]:
    """The proposal's runs by trunk; empty where it knows no shapes."""
    trunks: dict[tuple[Shape, int], list[float]] = {}
    for run in proposal.runs:
        if run.shape is not None and run.seed is not None:
            trunks.setdefault((run.shape, run.seed), []).append(run.tokens)
    return tuple(
        PlannedJob(shape=shape, seed=seed, tokens=tuple(sorted(tokens)))
        for (shape, seed), tokens in trunks.items()
    )


def write_plan(folder: Path, proposal: Proposal, fit: Fit | None) -> str | None:
    """Write a proposal, and the files that launch it, in place of an earlier one.

    Args:
        folder: Folder of the plan.
        proposal: The next runs.
        fit: The fit that they extend; its recipe and its sweep's folder are theirs too.

    Returns:
        The arguments of `python -m sweep -m` and of `python -m sweep.plan`, quoted for a shell;
        None where the proposal has no shapes to launch.

    Raises:
        RecordError: The folder cannot be written to.
    """
    for group in ("experiment", "cell"):
        shutil.rmtree(folder / group, ignore_errors=True)
    write_atomically(folder / "proposal.json", json.dumps(proposal.document(), indent=1) + "\n")
    found = planned_jobs(proposal)
    if not found or fit is None:
        return None
    for cell in found:
        write_atomically(folder / "cell" / f"{cell.name}.yaml", config_text(cell.settings()))
    experiment = config_text(
        _experiment(fit, found), defaults=[{"override /data": fit.recipe["data"]}]
    )
    write_atomically(folder / "experiment" / f"{FOLDER}.yaml", experiment)
    search = hydra_value([f"file://{folder}"])
    return f"+experiment={FOLDER} {shlex.quote(f'hydra.searchpath={search}')}"


def _experiment(fit: Fit, found: tuple[PlannedJob, ...]) -> dict[str, Any]:
    """What all runs share: the sweep's folder, the fitted runs' recipe, the list of cells."""
    runs_dir, name = _home(fit)
    settings: dict[str, Any] = {"name": name, "runs_dir": str(runs_dir)}
    for key, value in fit.recipe.items():
        group, _, setting = key.partition(".")
        if setting:
            settings.setdefault(group, {})[setting] = value
    names = ",".join(cell.name for cell in found)
    return {**settings, "hydra": {"sweeper": {"params": {"+cell": names}}}}


def _home(fit: Fit) -> tuple[Path, str]:
    """Folder of sweeps and name of the sweep: the fitted runs' own, so that one fit sees both.

    A folder of several sweeps gets one more.
    """
    path = Path(fit.source.get("path") or "runs")
    if any((path / run / RECORD_NAME).is_file() for run in fit.points.run):
        return path.parent, path.name
    return path, f"{fit.name}-next"


def config_text(settings: Mapping[str, Any], defaults: list[Any] | None = None) -> str:
    """A config file: JSON after the keys, which YAML reads."""
    listed = {"defaults": defaults} if defaults else {}
    lines = [f"{key}: {json.dumps(value)}" for key, value in {**listed, **settings}.items()]
    return PACKAGE + "\n".join(lines) + "\n"
