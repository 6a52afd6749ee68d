"""The sweep's door: what the command line asks for is planned, launched and accounted for.

What a launch says before and after: plain text for people, at 80 columns.

`plan.json` beside the records: what was asked for, so that status knows what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fit.data.records import (
    PLAN_NAME,
    PLAN_SCHEMA,
    RECORD_NAME,
    PlannedRun,
    RunRecord,
    read_plan,
    read_record,
)
from fit.errors import PlanError, RecordError
from fit.files import write_atomically
from sweep import search_working_folder_last
from sweep.cache import locked
from sweep.planning.compose import command_overrides, parse_command, show_information
from sweep.planning.grid import Cell, grid, run_folder
from sweep.planning.timing import estimate, known_timing
from sweep.planning.trajectory import RunSpec, Trajectory
from sweep.training.tracking import say


def write_plan(cells: Sequence[Cell]) -> None:
    """Add the runs of a grid to the plans of their sweeps; what earlier commands planned stays.

    Raises:
        RecordError: The folder cannot be written to.
    """
    sweeps: dict[Path, list[PlannedRun]] = {}
    for cell in cells:
        for trajectory, run in cell.runs():
            folder = run_folder(trajectory, run).parent
            sweeps.setdefault(folder, []).append(planned_run(trajectory, run))
    for folder, runs in sweeps.items():
        path = folder / PLAN_NAME
        with locked(path):
            known = {p.run: p for p in read_plan(path)}
            rows = [dataclasses.asdict(p) for p in {**known, **{p.run: p for p in runs}}.values()]
            write_atomically(path, json.dumps({"schema": PLAN_SCHEMA, "runs": rows}, indent=1))


def planned_run(trajectory: Trajectory, run: RunSpec) -> PlannedRun:
    """A run as it stands in a plan."""
    return PlannedRun(
        run=run.run,
        params=trajectory.params.matmul,
        tokens=run.tokens,
        flops_spent=run.flops_spent,
        seconds=estimate(trajectory, run, known_timing(trajectory)).training,
    )


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep") -> None:
    """Train a run or, with -m, a sweep; exit 1 where any run has failed.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in messages.
    """
    search_working_folder_last()
    options = parse_command(arguments, prog)
    if options.cfg or options.help or options.hydra_help or options.info:
        show_information(options, prog)
        return
    try:
        sys.exit(launch(command_overrides(options), multirun=bool(options.multirun)))
    except PlanError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command again goes on from the newest checkpoints")


def launch(overrides: Sequence[str], *, multirun: bool) -> int:
    """Check the whole grid, let Hydra run it, and say how it ended."""
    from sweep.launch.jobs import run
    from sweep.launch.launcher import launch_cells

    cells = grid(overrides, multirun=multirun)
    if not multirun and cells[0].refusal is not None:
        raise PlanError(cells[0].refusal)
    if print_opening(cells):
        _check_writable(cells)
        write_plan(cells)
        if multirun:
            launch_cells(cells, overrides)
        else:
            assert cells[0].config is not None
            run(cells[0].config)
    return print_closing(cells)


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


def print_opening(cells: Sequence[Cell]) -> bool:
    """Say what will be run; False where nothing is left to do."""
    for cell in cells:
        if cell.refusal is not None:
            say(f"refused  {' '.join(cell.overrides)}: {cell.refusal}")
    runs = [(cell, t, run) for cell in cells for t, run in cell.runs()]
    missing = [run for cell, t, run in runs if cell.record(t, run) is None]
    spent = sum(run.flops_spent for run in missing)
    if missing:
        say(f"{len(missing)} of {len(runs)} runs to do, {spent:.2e} FLOP")
    return bool(missing)


def print_closing(cells: Sequence[Cell]) -> int:
    """Say how every run ended; the exit code: 1 where any failed, is missing or was refused."""
    records = [_record(t, run) for cell in cells for t, run in cell.runs()]
    counts = {
        s: sum(r is not None and r.status == s for _, r in records)
        for s in ("done", "diverged", "failed")
    }
    missing = [name for name, r in records if r is None]
    refused = [cell for cell in cells if cell.refusal is not None]
    parts = [f"{n} {s}" for s, n in counts.items() if n]
    parts += [f"{len(missing)} without a record"] * bool(missing)
    parts += [f"{len(refused)} refused"] * bool(refused)
    say(", ".join(parts) or "nothing to run")
    for name, record in records:
        if record is None:
            say(f"  {name}  no record: its worker was lost; the same command runs it again")
        elif record.status != "done":
            say(f"  {name}  {record.status}: {record.reason}")
    for cell in refused:
        say(f"  {' '.join(cell.overrides)}  refused: {cell.refusal}")
    folders = {run_folder(t, run).parent for cell in cells for t, run in cell.runs()}
    for folder in sorted(folders) if counts["done"] else []:
        say(f"records in {folder}; next: isoflop fit {folder} --out reports/{folder.name}")
    return int(bool(counts["failed"] or missing or refused))


def _record(trajectory: Trajectory, run: RunSpec) -> tuple[str, RunRecord | None]:
    """A run's name and its record, failed ones included."""
    try:
        return run.run, read_record(run_folder(trajectory, run) / RECORD_NAME)
    except RecordError:
        return run.run, None
