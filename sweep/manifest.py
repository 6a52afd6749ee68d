"""`plan.json` beside the records: what was asked for, so that status knows what is missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from fit.progress import PLAN_NAME, PLAN_SCHEMA, PlannedRun, read_plan
from fit.store import write_atomically
from sweep.cache import locked
from sweep.grid import Cell, run_folder
from sweep.pace import estimate, known_pace
from sweep.plan import RunSpec, Trajectory


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
        seconds=estimate(trajectory, run, known_pace(trajectory)).training,
    )
