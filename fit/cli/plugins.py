"""Commands that another package adds to `isoflop` through the entry-point group `isoflop.commands`.

The trainer (package `sweep`, extra `[sweep]`) adds `sweep`, `plan`, `rehearse` and `fetch` this
way, so that `fit` imports nothing of it. Their arguments are handed on untouched: Hydra parses
them, not click. `log_report` hands a report to a tracker, found in the group `isoflop.trackers`,
and `write_report_of` writes one and logs it on request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from fit.cli.terminal import print_document, progress
from fit.errors import FieldError, PlanError, QueryError

GROUP = "isoflop.commands"
TRACKERS = "isoflop.trackers"
SWEEP_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "sweep": "Train a grid of runs; Hydra reads the overrides, -m spans them.",
        "plan": "Show what a sweep would run and what it costs; train nothing.",
        "rehearse": "Train an answer's run in small and compare it with the forecast.",
        "fetch": "Fetch runs that were logged to W&B, from its servers or offline.",
    }
)
"""The trainer's commands with their summaries, listed also where the trainer is not installed."""
NEEDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sweep": ("hydra", "torch", "lightning"),
        "plan": ("hydra",),
        "rehearse": ("hydra", "torch", "lightning"),
        "fetch": ("wandb",),
    }
)
"""Libraries without which a command cannot start; looked up, not imported."""
wandb_option = click.option(
    "--wandb", metavar="PROJECT", help="Log fit, report and figures to W&B, offline by default."
)


class PluginCommand(click.Command):
    """A command of another package; every argument after its name is that package's."""

    def __init__(self, name: str) -> None:
        super().__init__(
            name,
            callback=self._run,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            help=SWEEP_COMMANDS[name],
            short_help=SWEEP_COMMANDS[name],
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        )

    def _run(self, arguments: tuple[str, ...]) -> None:
        """Load the package and hand its arguments on.

        Raises:
            PlanError: The package, or a library that it needs, is not installed.
        """
        from importlib.metadata import entry_points  # slow to import, and no other command needs it
        from importlib.util import find_spec

        assert self.name is not None
        missing = [library for library in NEEDED[self.name] if find_spec(library) is None]
        entries = entry_points(group=GROUP, name=self.name)
        if missing or not entries:
            raise PlanError(
                f"'isoflop {self.name}' needs the trainer, and "
                f"{missing[0] if missing else 'its package'} is not installed. "
                "Install it: pip install 'isoflop[sweep]'."
            )
        main = next(iter(entries)).load()
        with progress("planning") if self.name == "plan" else contextlib.nullcontext():
            main(list(arguments), prog=f"isoflop {self.name}")


def add_sweep_commands(group: click.Group) -> None:
    """Add the trainer's commands to the command line."""
    for name in SWEEP_COMMANDS:
        group.add_command(PluginCommand(name))


def log_report(folder: Path, project: str) -> str:
    """Log the fit and the report in a folder to W&B.

    Args:
        folder: Report folder.
        project: W&B's project, or ENTITY/PROJECT.

    Returns:
        Where it was logged.

    Raises:
        PlanError: wandb, or the trainer, is not installed.
        RecordError: W&B took nothing.
    """
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    entries = entry_points(group=TRACKERS, name="wandb")
    if find_spec("wandb") is None or not entries:
        raise PlanError(
            "--wandb needs the trainer and wandb, and one of them is not installed; the report was "
            "written. Install them: pip install 'isoflop[sweep]'."
        )
    with progress("logging to W&B"):
        return str(next(iter(entries)).load()(folder, project))


def write_report_of(folder: Path, *, as_json: bool, wandb: str | None, **options: Any) -> None:
    """Write the report of a fit or of runs, print where it is, and log it to W&B on request.

    Args:
        folder: Of the fit, or its name, or a folder of runs.
        as_json: Print the document.
        wandb: W&B's project.
        options: Of `fit.report.render.write_any_report`.

    Raises:
        UsageError: A field of the question cannot be read, or --wandb and --out are both given.
        QueryError: The report was written and its question refused.
    """
    from fit.report.render import write_any_report

    if wandb is not None and options["out"] is not None:
        raise click.UsageError("--wandb logs the report beside its fit: leave --out out.")
    try:
        with progress("report"):
            made = write_any_report(folder, **options)
    except FieldError as error:
        raise click.UsageError(str(error)) from error
    document = {"schema": "isoflop.report/1", "report": str(made.path), "verdict": made.verdict}
    print_document(document, str(made.path), as_json=as_json)
    if wandb is not None:
        click.echo(f"logged   {log_report(made.path.parent, wandb)}", err=True)
    if made.refusal is not None:
        raise QueryError(
            f"{made.path} was written and answers no question: {made.refusal} Page 2 says what "
            "the answer takes."
        )
