"""The sweep's door: Hydra composes and launches; every cell ends as a record.

A job never raises: a launcher shows at best its first failure, so failures live in the records, in
the closing table and in the exit code.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from fit.errors import PlanError, ScalingError
from sweep.config import Config, parse

if TYPE_CHECKING:
    from sweep.grid import Cell

ROUNDS = 3
"""Times that a grid is launched while workers are lost."""

ConfigStore.instance().store(name="config_schema", node=Config)


@hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
def job(config: DictConfig) -> None:
    """Train one cell of the grid."""
    from sweep.tracking import say

    try:
        run_cell(parse(config))
    except ScalingError as error:
        say(f"error: {error}")


def run_cell(config: Config) -> None:
    """Plan and train one configuration."""
    from sweep.plan import plan
    from sweep.tracking import Log
    from sweep.train import train

    for trajectory in plan(config):
        train(trajectory, Path(config.runs_dir), Log(config))


def main() -> None:
    """Launch a run or, with -m, a sweep; exit 1 where any run has failed."""
    arguments = get_args_parser().parse_args()
    if arguments.cfg or arguments.help or arguments.hydra_help or arguments.info:
        job()
        return
    from sweep.grid import overrides_of

    try:
        sys.exit(launch(overrides_of(arguments), multirun=bool(arguments.multirun)))
    except PlanError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command again goes on from the newest checkpoints")


def launch(overrides: Sequence[str], *, multirun: bool) -> int:
    """Check the whole grid, let Hydra run it, and say how it ended."""
    from sweep.closing import closing, opening
    from sweep.grid import grid

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise to us instead of printing a traceback
    cells = grid(overrides, multirun=multirun)
    if not multirun and cells[0].refusal is not None:
        raise PlanError(cells[0].refusal)
    if opening(cells):
        _check_writable(cells)
        _run(cells)
    return closing(cells)


def _run(cells: Sequence[Cell]) -> None:
    """Let Hydra run the grid, and again what is missing where a lost worker ended the launch.

    joblib gives the whole launch up when one of its workers is killed, by the kernel for want of
    memory as a rule; cells that have ended are passed over at once.
    """
    from sweep.tracking import say

    for left in reversed(range(ROUNDS)):
        try:
            job()
        except Exception as error:
            what = str(error).partition(". ")[0].strip()
            say(f"the launch broke off: {type(error).__name__}: {what}")
            missing = sum(cell.record(t, run) is None for cell in cells for t, run in cell.runs())
            if left and missing:
                say(f"launching the {missing} missing runs again")
                continue
        return


def _check_writable(cells: Sequence[Cell]) -> None:
    """Refuse to train what could not be kept.

    Raises:
        PlanError: The sweep's folder cannot be written to.
    """
    for folder in {Path(t.config.runs_dir) / t.sweep for cell in cells for t in cell.trajectories}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise PlanError(
                f"cannot write to {folder}: {error.strerror or error}; a writable folder with free "
                "space is needed. Choose another: runs_dir=PATH."
            ) from error
