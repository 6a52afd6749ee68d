"""Which cells of a grid are trained as one pack, and how one job says so; without torch.

Cells that differ only in what belongs to a run alone (seed, rates, what the optimiser does with a
gradient) are joined, `train.pack` to a job. The job is its first cell, whose setting `also` names
the others by what differs: `also=['seed=1','seed=0 train.lr=0.01']`. Any launcher takes it.

GPUs of a machine shared out among the worker processes of launchers that hand out none.

Slurm and Ray give each job its own GPUs. joblib and submitit_local do not: their workers take a
slot, a locked file per GPU and share of it, and keep to that GPU. The lock goes with the process.

What a worker does with one cell, whatever launched it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig

from fit.errors import ScalingError
from fit.query.launch import hydra_value
from sweep import search_working_folder_last
from sweep.config import Config, TrainConfig, parse
from sweep.planning.grid import Cell
from sweep.planning.trajectory import Trajectory

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT_SECONDS = 0.5
OWN = ("lr", "embedding_lr", "embedding_lr_power", "weight_decay", "beta1", "beta2", "clip")
"""Settings of `train` that members of a pack may differ in, beside the seed."""


@contextmanager
def gpu_slot(train: TrainConfig) -> Iterator[None]:
    """Hold a share of one GPU, which becomes the only one that this process sees.

    A process that has touched a GPU stays with it; where all shares of it are taken, it waits.
    Does nothing without GPUs, for runs over several of them, and under Slurm or Ray.
    """
    names = visible_gpus() if wants_slot(train) else []
    if not names:
        yield
        return
    handle = _taken(names, train.runs_per_gpu)
    try:
        yield
    finally:
        handle.close()


def wants_slot(train: TrainConfig) -> bool:
    """Whether this process is to share a GPU by locks."""
    local = "LOKY_PARENT_PID" in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local"
    return local and train.devices == 1 and train.accelerator in ("auto", "cuda", "gpu")


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without initialising any."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _taken(names: list[str], shares: int, folder: Path | None = None) -> IO[bytes]:
    """Wait for a free share of a GPU; sets the environment, returns the lock."""
    folder = folder or Path(tempfile.gettempdir()) / f"isoflop-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for share in range(shares):
            for name in names:
                handle = (folder / f"{name.replace('/', '-')}.{share}").open("wb")
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    handle.close()
                    continue
                os.environ[VISIBLE] = name
                return handle
        time.sleep(WAIT_SECONDS)


def pack_cells(cells: Sequence[Cell]) -> list[Cell]:
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


def train_cell(config: DictConfig) -> str | None:
    """Train one cell of the grid: Hydra's task function, called in a worker's process."""
    search_working_folder_last()
    return run(parse(config))


def run(config: Config) -> str | None:
    """Train one cell; returns what went wrong where no record says it.

    It never raises: a launcher shows at best its first failure, so failures live in the records, in
    the closing table and in the exit code.
    """
    from sweep.training.devices import gpu_context_lost
    from sweep.training.tracking import say

    try:
        with gpu_slot(config.train):
            if gpu_context_lost():
                _train_afresh(config)
            else:
                _train(config)
    except ScalingError as error:
        say(f"error: {error}")
        return str(error)
    return None


def _train_afresh(config: Config) -> None:
    """Train in a process of its own."""
    child = multiprocessing.get_context("spawn").Process(target=_train, args=(config,))
    child.start()
    child.join()


def _train(config: Config) -> None:
    """Plan and train; what can be walked in step is."""
    from sweep.planning.trajectory import plan
    from sweep.training.loop import train_together
    from sweep.training.tracking import CommandLineTracker

    configs = members_of(config)
    trajectories = [t for member in configs for t in plan(member)]
    for group in in_step(trajectories) if len(configs) > 1 else [[t] for t in trajectories]:
        logs = [CommandLineTracker(t.config, shown=t is group[0]) for t in group]
        train_together(group, Path(config.runs_dir), logs)
