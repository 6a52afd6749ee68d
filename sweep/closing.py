"""What a launch says before and after: plain text for people, at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from fit.errors import RecordError
from fit.record import RunRecord
from fit.store import RECORD_NAME, read_record
from sweep.grid import Cell, run_folder
from sweep.plan import RunSpec, Trajectory
from sweep.tracking import say


def opening(cells: Sequence[Cell]) -> bool:
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


def closing(cells: Sequence[Cell]) -> int:
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
