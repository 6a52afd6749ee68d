"""`python -m sweep.plan <overrides>`: what would run and what it costs; launches nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser

from fit.errors import PlanError
from sweep.cost import seconds
from sweep.grid import Cell, grid, overrides_of
from sweep.plan import RunSpec, Trajectory, short


def main() -> None:
    """Print the plan of the given overrides; exit 1 where a cell cannot be trained."""
    arguments = get_args_parser().parse_args()
    try:
        cells = grid(overrides_of(arguments), multirun=True)
    except PlanError as error:
        sys.exit(f"error: {error}")
    for line in table(cells):
        print(line)
    sys.exit(int(any(cell.refusal is not None for cell in cells)))


def table(cells: Sequence[Cell]) -> list[str]:
    """The plan as lines of at most 80 columns."""
    lines = [f"{'run':38} {'N':>6} {'D':>6} {'D/N':>6} {'FLOP':>8} {'about':>7}  "]
    rows = [(t, run, cell.record(t, run)) for cell in cells for t, run in cell.runs()]
    for t, run, record in rows:
        n = t.params.matmul
        state = "" if record is None else record.status
        ratio = run.tokens / n
        per_param = f"{ratio:.1f}" if ratio < 1e4 else f"{ratio:.0e}"
        lines.append(
            f"{run.run:38} {short(n):>6} {short(run.tokens):>6} {per_param:>6} "
            f"{run.flops:8.2e} {duration(estimate(t, run)):>7}  {state}".rstrip()
        )
    lines += [f"refused  {' '.join(c.overrides)}: {c.refusal}" for c in cells if c.refusal]
    lines += _totals(rows)
    return lines


def _totals(rows: Sequence[tuple[Trajectory, RunSpec, Any]]) -> list[str]:
    """Sums over the grid, and what the shared trunks save."""
    if not rows:
        return ["no run can be trained"]
    alone = sum(run.flops for _, run, _ in rows)
    spent = sum(run.flops_spent for _, run, _ in rows)
    left = [(t, run) for t, run, record in rows if record is None]
    time = sum(estimate(t, run) for t, run in left)
    lines = [
        f"{len(rows)} runs, {len(rows) - len(left)} there already; "
        f"{sum(run.flops_spent for _, run in left):.2e} FLOP and about {duration(time)} of one "
        "worker to go"
    ]
    if spent < alone:
        lines.append(f"shared trunks save {1 - spent / alone:.0%} of {alone:.2e} FLOP")
    return lines


def estimate(trajectory: Trajectory, run: RunSpec) -> float:
    """Time of the run's own part of its trajectory [s]."""
    return seconds(trajectory.shape, run.flops_spent)


def duration(time: float) -> str:
    """A time with its unit in at most seven characters: 42s, 3.5min, 2.1h, 4d, 2e+08d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if time >= size:
            return f"{time / size:.3g}{unit}"
    return f"{time:.0f}s"
