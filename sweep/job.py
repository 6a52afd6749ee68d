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
    """Plan and train; what can be walked in step is."""
    from sweep.members import in_step, members_of
    from sweep.plan import plan
    from sweep.tracking import Log
    from sweep.train import train_together

    configs = members_of(config)
    trajectories = [t for member in configs for t in plan(member)]
    for group in in_step(trajectories) if len(configs) > 1 else [[t] for t in trajectories]:
        logs = [Log(t.config, shown=t is group[0]) for t in group]
        train_together(group, Path(config.runs_dir), logs)
