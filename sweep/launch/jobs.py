"""What one job trains, and what a worker process does with it; imports torch only when it trains.

Packs: cells that differ only in settings of a single run (seed, learning rates, what the optimiser
does with a gradient) are joined, `train.pack` to a job. The job is its first cell, whose setting
`also` names the others by what differs: `also=['seed=1','seed=0 train.lr=0.01']`. Any launcher can
pass that on, and `data_hash`, `planned_device` and `train.precision` likewise, by which a worker
knows what was planned.

GPUs: Slurm and Ray give each job its own. joblib and submitit_local do not, so their workers share
the machine's GPUs by locks: a worker takes a slot, which is a locked file per GPU and share of it,
and uses that GPU alone. The lock ends with the process.
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
from sweep.config import Config, TrainConfig
from sweep.planning.devices import resolve_device
from sweep.planning.grid import Cell
from sweep.planning.identity import plugins_hash
from sweep.planning.trajectory import Trajectory
from sweep.settings import parse

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED = "ISOFLOP_SHARED_GPUS"
"""Environment variable by which a launcher tells its workers that they share a machine's GPUs."""
WAIT_SECONDS = 0.5
"""Time between two attempts to take a GPU slot."""
MEMBER_SETTINGS = (
    "lr",
    "embedding_lr",
    "embedding_lr_power",
    "muon_lr",
    "muon_momentum",
    "weight_decay",
    "beta1",
    "beta2",
    "clip",
)
"""Settings of `train` in which the members of a pack may differ, besides the seed."""


@contextmanager
def gpu_slot(train: TrainConfig) -> Iterator[None]:
    """Hold a share of one GPU, which becomes the only one that this process sees.

    A process that has used a GPU keeps to it, and waits while all shares of it are taken. Does
    nothing without GPUs, for runs over several of them, and under Slurm or Ray.
    """
    names = visible_gpus() if wants_slot(train) else []
    if not names:
        yield
        return
    handle = _take_slot(names, train.runs_per_gpu)
    try:
        yield
    finally:
        handle.close()


def wants_slot(train: TrainConfig) -> bool:
    """Whether this process has to share the GPUs by locks."""
    return (
        SHARED in os.environ and train.devices == 1 and train.accelerator in ("auto", "cuda", "gpu")
    )


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without initialising any."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _take_slot(names: list[str], shares: int, folder: Path | None = None) -> IO[bytes]:
    """Wait for a free share of a GPU and make it the only visible one; returns the locked file."""
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
    """Join the cells that can share a pack into one job, in the place of the first of them."""
    groups: dict[str, list[Cell]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(_pack_key(cell, number), []).append(cell)
    jobs = []
    for group in groups.values():
        assert group[0].config is not None
        size = group[0].config.train.pack
        jobs += [_join_cells(group[i : i + size]) for i in range(0, len(group), size)]
    return jobs


def pin_plan(job: Cell) -> Cell:
    """The job with what its plan found out, as overrides: data, plug-ins, device and precision.

    Its worker may start hours later and on another machine: it trains with these, on such a device
    and in this precision, or not at all.
    """
    if job.config is None or not job.trajectories:
        return job
    first, config = job.trajectories[0], job.trajectories[0].config
    sources = plugins_hash(first.plug_ins)
    pinned = {
        "data_hash": hydra_value(first.data.hash),
        "planned_device": str(config.planned_device),
        "train.precision": config.train.precision,
    }
    if sources is not None:
        pinned["plugins_hash"] = f"'{sources}'"
    kept = [o for o in job.overrides if o.lstrip("+").partition("=")[0] not in pinned]
    return dataclasses.replace(
        job,
        overrides=(*kept, *(f"{name}={value}" for name, value in pinned.items())),
        config=dataclasses.replace(
            job.config,
            data_hash=first.data.hash,
            plugins_hash=sources,
            planned_device=config.planned_device,
            train=dataclasses.replace(job.config.train, precision=config.train.precision),
        ),
    )


def members_of(config: Config) -> list[Config]:
    """The configurations of a job: that of its first cell, and those named by `also`."""
    first = dataclasses.replace(config, also=[])
    return [first, *(_apply_settings(first, text) for text in config.also)]


def in_step(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Groups of trajectories that can train in step: of the same shape, lengths and batches."""
    groups: dict[Any, list[Trajectory]] = {}
    for number, t in enumerate(trajectories):
        alone = trains_alone(t.config)
        lengths = tuple((run.tokens, run.cooldown_start) for run in t.runs)
        key = (t.shape, t.rule, t.scaled.residual, lengths, number if alone else None)
        groups.setdefault(key, []).append(t)
    return list(groups.values())


def trains_alone(config: Config) -> bool:
    """Whether a pack cannot hold the model: what `sweep.training.ensemble` does not compute."""
    model = config.model
    shared = model.kv_heads is not None or model.document_mask or bool(model.pad_vocab_to)
    own_mlp = model.mlp in ("gelu", "geglu") or bool(model.experts)
    own_model = model._target_ is not None
    return shared or own_mlp or own_model or config.train.devices > 1


def _pack_key(cell: Cell, number: int) -> str:
    """A key that is equal for cells that can share a pack."""
    config = cell.config
    if config is None or cell.refusal is not None or config.train.pack == 1:
        return str(number)
    if trains_alone(config):
        return str(number)
    settings = dataclasses.asdict(config)
    settings.pop("seed")
    for name in MEMBER_SETTINGS:
        settings["train"].pop(name)
    return json.dumps(settings, default=str, sort_keys=True)


def _join_cells(cells: Sequence[Cell]) -> Cell:
    """Join several cells into one, which names the others by its setting `also`."""
    first = cells[0]
    if len(cells) == 1:
        return first
    assert first.config is not None
    also = [_settings_that_differ(first.config, cell.config) for cell in cells[1:]]
    return dataclasses.replace(
        first,
        overrides=(*first.overrides, f"also={hydra_value(also)}"),
        trajectories=tuple(t for cell in cells for t in cell.trajectories),
        work=tuple(folder for cell in cells for folder in cell.work),
    )


def _settings_that_differ(first: Config, other: Config | None) -> str:
    """The settings of a member that differ from the first cell's, as overrides."""
    assert other is not None
    words = [f"seed={other.seed}"] if other.seed != first.seed else []
    for name in MEMBER_SETTINGS:
        value = getattr(other.train, name)
        if value != getattr(first.train, name):
            words.append(f"train.{name}={value!r}")
    return " ".join(words)


def _apply_settings(config: Config, text: str) -> Config:
    """A configuration with the overrides of one entry of `also` applied."""
    words = dict(word.split("=", 1) for word in text.split())
    seed = int(words.pop("seed", config.seed))
    values: dict[str, Any] = {k.removeprefix("train."): float(v) for k, v in words.items()}
    return dataclasses.replace(config, seed=seed, train=dataclasses.replace(config.train, **values))


def train_cell(config: DictConfig) -> str | None:
    """Train one cell of the grid: Hydra's task function, called in a worker's process."""
    search_working_folder_last()
    return run(parse(config))


def run(config: Config) -> str | None:
    """Train one job; returns what went wrong where no record says it.

    A failure is not raised: a launcher shows at best the first one of a launch, so failures are
    kept in the records, the closing table and the exit code.
    """
    from sweep.training.devices import gpu_context_lost
    from sweep.training.tracking import say

    try:
        with gpu_slot(config.train):
            if gpu_context_lost():
                _train_in_new_process(config)
            else:
                _train(config)
    except ScalingError as error:
        say(f"error: {error}")
        return str(error)
    return None


def _train_in_new_process(config: Config) -> None:
    """Train in a new process: a CUDA context that was lost cannot be opened again in this one."""
    child = multiprocessing.get_context("spawn").Process(target=_train, args=(config,))
    child.start()
    child.join()


def _train(config: Config) -> None:
    """Plan a job and train it; members of a pack that can train in step do.

    The job was planned at launch already, but perhaps in another process or on another machine: its
    settings are all that a launcher hands over, and planning takes little beside training.
    """
    from sweep.planning.trajectory import plan
    from sweep.training.devices import check_planned_device
    from sweep.training.loop import train_together
    from sweep.training.tracking import CommandLineTracker

    check_planned_device(resolve_device(config))
    configs = members_of(config)
    trajectories = [t for member in configs for t in plan(member)]
    for group in in_step(trajectories) if len(configs) > 1 else [[t] for t in trajectories]:
        logs = [CommandLineTracker(t.config, shown=t is group[0]) for t in group]
        train_together(group, Path(config.runs_dir), logs)
