"""Which cells of a grid are trained as one pack, and how one job says so; without torch.

Cells that differ only in what belongs to a run alone (seed, rates, what the optimiser does with a
gradient) are joined, `train.pack` to a job. The job is its first cell, whose setting `also` names
the others by what differs: `also=['seed=1','seed=0 train.lr=0.01']`. Any launcher takes it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from fit.launch import hydra_value
from sweep.config import Config
from sweep.grid import Cell
from sweep.plan import Trajectory

OWN = ("lr", "embedding_lr", "embedding_lr_power", "weight_decay", "beta1", "beta2", "clip")
"""Settings of `train` that members of a pack may differ in, beside the seed."""


def joined(cells: Sequence[Cell]) -> list[Cell]:
    """The cells as jobs: those that can share a pack become one, in the place of the first."""
    groups: dict[str, list[Cell]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(_key(cell, number), []).append(cell)
    jobs = []
    for group in groups.values():
        assert group[0].config is not None
        size = group[0].config.train.pack
        jobs += [_job(group[i : i + size]) for i in range(0, len(group), size)]
    return jobs


def members_of(config: Config) -> list[Config]:
    """The configurations of a job: its own, and those of the cells that it takes along."""
    own = dataclasses.replace(config, also=[])
    return [own, *(_changed(own, text) for text in config.also)]


def in_step(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Groups of trajectories whose gradients can be made at once: same shape, path and batches."""
    groups: dict[Any, list[Trajectory]] = {}
    for number, t in enumerate(trajectories):
        alone = bool(t.shape.experts) or t.config.train.devices > 1
        path = tuple((run.tokens, run.cooldown_start) for run in t.runs)
        key = (t.shape, t.rule, t.scaled.residual, path, number if alone else None)
        groups.setdefault(key, []).append(t)
    return list(groups.values())


def _key(cell: Cell, number: int) -> str:
    """The same for cells that can share a pack."""
    config = cell.config
    if config is None or cell.refusal is not None or config.train.pack == 1:
        return str(number)
    if config.model.experts or config.train.devices > 1:
        return str(number)
    settings = dataclasses.asdict(config)
    settings.pop("seed")
    for name in OWN:
        settings["train"].pop(name)
    return json.dumps(settings, default=str, sort_keys=True)


def _job(cells: Sequence[Cell]) -> Cell:
    """One cell that stands for several."""
    first = cells[0]
    if len(cells) == 1:
        return first
    assert first.config is not None
    also = [_difference(first.config, cell.config) for cell in cells[1:]]
    return dataclasses.replace(
        first,
        overrides=(*first.overrides, f"also={hydra_value(also)}"),
        trajectories=tuple(t for cell in cells for t in cell.trajectories),
        work=tuple(folder for cell in cells for folder in cell.work),
    )


def _difference(first: Config, other: Config | None) -> str:
    """What differs of a member, as words."""
    assert other is not None
    words = [f"seed={other.seed}"] if other.seed != first.seed else []
    for name in OWN:
        value = getattr(other.train, name)
        if value != getattr(first.train, name):
            words.append(f"train.{name}={value!r}")
    return " ".join(words)


def _changed(config: Config, text: str) -> Config:
    """A configuration with some words applied."""
    words = dict(word.split("=", 1) for word in text.split())
    seed = int(words.pop("seed", config.seed))
    own: dict[str, Any] = {
        name.removeprefix("train."): float(value) for name, value in words.items()
    }
    return dataclasses.replace(config, seed=seed, train=dataclasses.replace(config.train, **own))
