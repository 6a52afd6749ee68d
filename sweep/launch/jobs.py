"""What one job trains, and what a worker process does with it; imports torch only when it trains.

A job carries what its plan found out as settings, which any launcher can pass on: `data_hash`,
`planned_device` and `train.precision`, by which a worker knows what was planned.

GPUs: Slurm and Ray give each job its own. joblib and submitit_local do not, so their workers share
the machine's GPUs by locks: a worker takes a slot, which is a locked file per GPU and share of it,
and uses that GPU alone. The lock ends with the process.
"""

from __future__ import annotations

import dataclasses
import fcntl
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from omegaconf import DictConfig

from fit.errors import ScalingError
from fit.files import write_atomically
from fit.query.launch import hydra_value
from sweep import search_working_folder_last
from sweep.config import Config, TrainConfig
from sweep.planning.devices import resolve_device
from sweep.planning.grid import Cell
from sweep.planning.identity import plugins_hash
from sweep.settings import parse

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED = "ISOFLOP_SHARED_GPUS"
"""Environment variable by which a launcher tells its workers that they share a machine's GPUs."""
WAIT_SECONDS = 0.5
"""Time between two attempts to take a GPU slot."""


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


def train_cells(config: DictConfig) -> list[str | None]:
    """Train the cells of one job: Hydra's task function, called in a worker's process.

    Returns:
        Of each cell what went wrong where no record says it.
    """
    search_working_folder_last()
    parsed = parse(config)
    if parsed.bundle_file is None:
        return [run(parsed)]
    return run_bundle(Path(parsed.bundle_file))


def write_bundle(path: Path, cells: Sequence[Cell]) -> None:
    """Write what the cells of one job are, for `run_bundle` in its worker.

    Raises:
        RecordError: The folder cannot be written to.
    """
    write_atomically(path, pickle.dumps([cell.config for cell in cells]))


def run_bundle(path: Path) -> list[str | None]:
    """Train the cells of a bundle one after the other; the error of one leaves the others.

    A job that is started again, as after a time limit, passes over the cells that have ended.

    Raises:
        Exception: The first error that no record holds, once all cells were tried.
    """
    reasons: list[str | None] = []
    errors = []
    for config in pickle.loads(path.read_bytes()):
        try:
            reasons.append(run(config))
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return reasons


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
    """Plan a job and train it.

    The job was planned at launch already, but perhaps in another process or on another machine: its
    settings are all that a launcher hands over, and planning takes little beside training.
    """
    from sweep.planning.trajectory import plan
    from sweep.training.devices import check_planned_device
    from sweep.training.loop import train
    from sweep.training.tracking import CommandLineTracker

    check_planned_device(resolve_device(config))
    for trajectory in plan(config):
        train(trajectory, Path(config.runs_dir), CommandLineTracker(trajectory.config))
