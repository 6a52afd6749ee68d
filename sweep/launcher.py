"""Hands cells to one of Hydra's launchers, the costly first, and again what it lost.

A launcher is trusted with starting processes and with nothing else: whether a run has ended stands
in its record, and whether a worker began it in its trajectory's list of attempts. joblib gives the
whole launch up when one worker is killed; submitit waits for ever for a job that was cancelled.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.initialize import initialize_config_module
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from fit.errors import PlanError
from sweep.grid import Cell
from sweep.job import train_cell
from sweep.members import joined
from sweep.slurm import until_gone
from sweep.ticket import Ticket
from sweep.tracking import say


def launch_cells(cells: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Train what is missing of a grid; what cannot be trained ends as a failed record.

    Args:
        cells: The grid.
        overrides: The command's, which choose and set the launcher.

    Raises:
        PlanError: The launcher is not installed, or starts nothing.
    """
    tickets = [Ticket(cell=cell) for cell in joined(cells) if cell.refusal is None]
    with initialize_config_module("conf", job_name="isoflop", version_base="1.3"):
        engine = Engine(overrides)
        idle = 0
        while batch := next_batch(tickets, one_pool=engine.one_pool):
            error = engine.launch(batch)
            idle = idle + 1 if error is not None and not any(t.has_begun() for t in batch) else 0
            if idle > 1:  # once may be a worker that was killed before it began
                raise PlanError(f"the launcher {engine.name} started no run: {error}")
            for ticket in batch:
                ticket.returned(whole=error is None)
            missing = sum(len(t.missing()) for t in tickets)
            if error is not None and missing:
                say(f"the launch broke off with {missing} runs missing: {error}")
    for ticket in tickets:
        ticket.give_up()


def next_batch(tickets: Sequence[Ticket], *, one_pool: bool) -> list[Ticket]:
    """What to launch now: all that may be tried, the least tried and then the costliest first.

    Args:
        tickets: The cells of the launch.
        one_pool: Workers share a pool that ends with any of them. A cell that may have killed its
            worker then has its last try alone, so that it takes no other with it again.
    """
    left = [t for t in tickets if t.missing() and t.tries <= t.retries]
    suspects = [t for t in left if one_pool and t.lost and t.tries == t.retries]
    together = [t for t in left if t not in suspects]
    if not together:
        return suspects[:1]
    return sorted(together, key=lambda t: (t.tries, -t.cost()))


class Engine:
    """The launcher that the overrides choose; lives inside an initialised Hydra."""

    def __init__(self, overrides: Sequence[str]) -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        self._loader = hydra.config_loader
        self._config: DictConfig = hydra.compose_config(
            config_name="config", overrides=list(overrides), run_mode=RunMode.MULTIRUN
        )
        target = str(self._config.hydra.launcher["_target_"])
        self.name = str(self._config.hydra.runtime.choices.get("hydra/launcher"))
        self._slurm = target.endswith(".SlurmLauncher")
        self.one_pool = target.endswith(".JoblibLauncher")
        self._jobs = 0

    def launch(self, batch: Sequence[Ticket]) -> str | None:
        """Run a batch to its end; returns in one line what broke the launch off, if anything."""
        name = f"isoflop-{secrets.token_hex(4)}"
        if "submitit_folder" in self._config.hydra.launcher:
            with open_dict(self._config):
                self._config.hydra.launcher.name = name
        try:
            if self._slurm:
                returned = until_gone(name, lambda: self._run(batch))
            else:
                returned = self._run(batch)
        except Exception as error:  # each launcher has its own kinds
            return one_sentence(error)
        for ticket, job in zip(batch, returned or (), strict=False):
            ticket.reason = job.return_value
        return None

    def _run(self, batch: Sequence[Ticket]) -> Sequence[Any]:
        """Let Hydra's launcher run a batch."""
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(
                config_loader=self._loader, callbacks=Callbacks(self._config)
            ),
            task_function=train_cell,
            config=self._config,
        )
        first, self._jobs = self._jobs, self._jobs + len(batch)
        return launcher.launch([t.cell.overrides for t in batch], initial_job_idx=first)


def one_sentence(error: BaseException) -> str:
    """The kind of an error and the first sentence of what it says."""
    text = " ".join(str(error).split()).partition(". ")[0]
    return f"{type(error).__name__}: {text[:200]}"
