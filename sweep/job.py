"""What a worker does with one cell, whatever launched it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from omegaconf import DictConfig

from fit.errors import ScalingError
from sweep.config import Config, parse


def train_cell(config: DictConfig) -> str | None:
    """Train one cell of the grid: Hydra's task function."""
    return run(parse(config))


def run(config: Config) -> str | None:
    """Train one cell; returns what went wrong where no record says it.

    It never raises: a launcher shows at best its first failure, so failures live in the records, in
    the closing table and in the exit code.
    """
    from sweep.device import poisoned
    from sweep.gpus import gpu_slot
    from sweep.tracking import say

    try:
        with gpu_slot(config.train):
            if poisoned():
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
    """Plan and train."""
    from sweep.plan import plan
    from sweep.tracking import Log
    from sweep.train import train

    for trajectory in plan(config):
        train(trajectory, Path(config.runs_dir), Log(config))
