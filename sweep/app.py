"""`python -m sweep`: plan the grid of a command, train what has no record yet, report how it ended.

Messages are plain text for people, at 80 columns. `plan.json` beside the records lists every run
that was asked for, so that `isoflop runs` knows what is missing.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fit.data.progress import PLAN_NAME, PLAN_SCHEMA, PlannedRun, read_plan
from fit.data.records import RECORD_NAME, WEIGHTS_NAME, RunRecord, read_record
from fit.errors import PlanError, RecordError
from fit.files import write_atomically
from fit.quantities import count_noun, duration
from sweep import command_line
from sweep.cache import locked
from sweep.planning.bill import refuse_plan_options
from sweep.planning.compose import command_overrides, parse_command, show_information
from sweep.planning.grid import Cell, grid, refusals, run_folder
from sweep.planning.timing import estimate, known_timing
from sweep.training.ranks import check_ranks, started_rank
from sweep.training.tracking import say

COMMANDS = {
    "write": "sweep.write",
    "export": "sweep.write",
    "grade": "sweep.write",
    "ladder": "sweep.ladder",
    "depth": "sweep.depth",
}
"""First words that are no overrides but name a command, and the module whose `main` it is."""


def write_plan(cells: Sequence[Cell]) -> dict[Path, list[PlannedRun]]:
    """Add the runs of a grid to the `plan.json` of their sweeps, beside those of earlier commands.

    Returns:
        The runs of this grid, by the folder of their sweep.

    Raises:
        RecordError: The folder cannot be written to.
    """
    sweeps: dict[Path, list[PlannedRun]] = {}
    for cell in cells:
        for trajectory, run in cell.runs():
            planned = PlannedRun(
                run=run.run,
                params=trajectory.params.matmul,
                tokens=run.tokens,
                flops_spent=run.flops_spent,
                seconds=estimate(trajectory, run, known_timing(trajectory)).training,
            )
            sweeps.setdefault(run_folder(trajectory, run).parent, []).append(planned)
    for folder, runs in sweeps.items():
        path = folder / PLAN_NAME
        with locked(path):
            by_name = {p.run: p for p in [*read_plan(path), *runs]}
            rows = [dataclasses.asdict(p) for p in by_name.values()]
            write_atomically(path, json.dumps({"schema": PLAN_SCHEMA, "runs": rows}, indent=1))
    return sweeps


@command_line("the same command again continues from the newest checkpoints")
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep") -> None:
    """Train a run or, with -m, a sweep; exit 1 where any run has failed.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in messages.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in COMMANDS:
        command = importlib.import_module(COMMANDS[words[0]])
        command.main(words, prog=prog)
        return
    if words and words[0].isalpha():
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        raise PlanError(
            f"{words[0]} is no command of {prog}, and no override name=value; "
            + (f"the nearest is {near[0]}." if near else f"commands are {', '.join(COMMANDS)}.")
        )
    options = parse_command(words, prog)
    if options.cfg or options.help or options.hydra_help or options.info:
        show_information(options, prog)
        return
    overrides, multirun = command_overrides(options), bool(options.multirun)
    refuse_plan_options(overrides)
    sys.exit(train_grid(grid(overrides, multirun=multirun), overrides, multirun=multirun))


def train_grid(cells: Sequence[Cell], overrides: Sequence[str], *, multirun: bool) -> int:
    """Train the runs of a grid that have no record yet, and report how all of them ended.

    Args:
        cells: The grid, planned.
        overrides: Of the command; with `multirun` they choose the launcher.
        multirun: Let one of Hydra's launchers train the cells; else train the only one here.

    Returns:
        The exit code: 1 where a run failed, is missing or was refused.

    Raises:
        PlanError: The records could not be written, or the launcher starts nothing.
    """
    from sweep.launch.launcher import follow_first_rank, launch_cells, train_here
    from sweep.launch.progress import progress_printed

    check_ranks([c.config.train for c in cells if c.config is not None], multirun=multirun)
    rank = started_rank()
    if rank:
        return follow_first_rank(cells[0])
    if print_opening(cells) or rank == 0:  # the other ranks wait for the first
        check_writable(cells)
        with progress_printed(write_plan(cells)):
            if multirun:
                launch_cells(cells, overrides)
            else:
                train_here(cells[0])
    return print_closing(cells)


def check_writable(cells: Sequence[Cell]) -> None:
    """Refuse to train where no record could be written.

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


def print_opening(cells: Sequence[Cell]) -> bool:
    """Print the refused cells and how much is to be trained; False where nothing is left to do."""
    for line in refusals(cells):
        say(f"refused  {line}")
    runs = [(cell, t, run) for cell in cells for t, run in cell.runs()]
    ahead = [pair for cell in cells for pair in cell.due()]
    missing = {run.run: run for _, run in ahead}
    if missing:
        flops = sum(run.flops_spent for run in missing.values())
        seconds = sum(estimate(t, run, known_timing(t)).training for t, run in ahead)
        say(
            f"{len(missing)} of {len(runs)} runs to do, {flops:.2e} FLOP, about "
            f"{duration(seconds)} of one worker; it loads torch first"
        )
    bare = [
        run.run
        for _, t, run in runs
        if "weights" in t.config.train.keep
        and run.run not in missing
        and not (run_folder(t, run) / WEIGHTS_NAME).exists()
    ]
    if bare:
        say(
            f"{count_noun(len(bare), 'run')} trained earlier kept no weights, such as {bare[0]}; "
            "remove their folders to train them again"
        )
    return bool(missing)


def print_closing(cells: Sequence[Cell]) -> int:
    """Print how every run ended; the exit code: 1 where any failed, is missing or was refused."""
    records: list[tuple[str, RunRecord | None]] = []
    for cell in cells:
        for trajectory, run in cell.runs():
            try:
                record = read_record(run_folder(trajectory, run) / RECORD_NAME)
            except RecordError:
                record = None
            records.append((run.run, record))
    counts = {
        s: sum(r is not None and r.status == s for _, r in records)
        for s in ("done", "diverged", "failed")
    }
    missing = [name for name, r in records if r is None]
    refused = [cell for cell in cells if cell.refusal is not None]
    parts = [f"{n} {s}" for s, n in counts.items() if n]
    parts += [f"{len(missing)} without a record"] * bool(missing)
    parts += [f"{len(refused)} refused, as named above"] * bool(refused)
    say(", ".join(parts) or "nothing to run")
    for name, record in records:
        if record is None:
            say(f"  {name}  no record: its worker was lost; the same command runs it again")
        elif record.status != "done":
            say(f"  {name}  {record.status}: {record.reason}")
    folders = {run_folder(t, run).parent for cell in cells for t, run in cell.runs()}
    for folder in sorted(folders) if counts["done"] else []:
        say(f"records in {folder}; next: isoflop fit {folder} --out reports/{folder.name}")
    return int(bool(counts["failed"] or missing or refused))
