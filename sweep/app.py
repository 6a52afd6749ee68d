"""The sweep's door: what the command line asks for is planned, launched and accounted for."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from fit.errors import PlanError
from sweep.config import Config

if TYPE_CHECKING:
    from sweep.grid import Cell

ConfigStore.instance().store(name="config_schema", node=Config)


@hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
def job(config: DictConfig) -> None:
    """Never runs: Hydra shows its help, or what it composes, and returns."""


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
    from sweep.job import run
    from sweep.launcher import launch_cells
    from sweep.manifest import write_plan

    cells = grid(overrides, multirun=multirun)
    if not multirun and cells[0].refusal is not None:
        raise PlanError(cells[0].refusal)
    if opening(cells):
        _check_writable(cells)
        write_plan(cells)
        if multirun:
            launch_cells(cells, overrides)
        else:
            assert cells[0].config is not None
            run(cells[0].config)
    return closing(cells)


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
