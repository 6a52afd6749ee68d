"""`python -m sweep.plan <overrides>`: what would run and what it costs; launches nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

from fit.errors import ScalingError
from sweep.planning.bill import (
    PlannedCost,
    PlanOptions,
    cost_lines,
    duration,
    plan_cost,
    planned_runs,
    split_plan_options,
)
from sweep.planning.grid import Cell, LauncherChoice, chosen_launcher, command_overrides, grid
from sweep.planning.timing import unmeasured
from sweep.planning.trajectory import short


def main() -> None:
    """Print the plan of the given overrides; exit 1 where a cell cannot be trained."""
    arguments = get_args_parser().parse_args()
    try:
        terms, overrides = split_plan_options(command_overrides(arguments))
        cells = grid(overrides, multirun=True)
        launcher = chosen_launcher(overrides)
        notes = measure(cells, terms)
        rows = planned_runs(cells, measured=terms.measure)
        print("\n".join([*plan_table(cells, rows), *plan_totals(rows, terms, launcher), *notes]))
        if terms.limited:
            from sweep.planning.thinning import trim_lines

            print("\n".join(trim_lines(rows, terms, launcher)))
    except ScalingError as error:
        sys.stdout.flush()
        sys.exit(f"error: {error}")
    sys.exit(int(any(cell.refusal is not None for cell in cells)))


def measure(cells: Sequence[Cell], terms: PlanOptions) -> list[str]:
    """Time what shapes are not known yet; what could not be timed, in words."""
    left = unmeasured([t for cell in cells for t in cell.trajectories]) if terms.measure else []
    if not left:
        return []
    from sweep.training.timing import measure_timings

    failed = measure_timings(left, say)
    if not failed:
        return []
    names = ", ".join(f"width {t.shape.width} depth {t.shape.depth}" for t in failed)
    return [f"could not be timed here, and stand by the formula: {names}"]


def plan_table(cells: Sequence[Cell], rows: Sequence[PlannedCost]) -> list[str]:
    """The plan's runs as lines of at most 80 columns, then the cells that are refused."""
    lines = [f"{'run':38} {'N':>6} {'D':>6} {'D/N':>6} {'FLOP':>8} {'about':>7}  "]
    for row in rows:
        n, run = row.trajectory.params.matmul, row.run
        state = "" if row.record is None else row.record.status
        ratio = run.tokens / n
        per_param = f"{ratio:.1f}" if ratio < 1e4 else f"{ratio:.0e}"
        lines.append(
            f"{run.run:38} {short(n):>6} {short(run.tokens):>6} {per_param:>6} "
            f"{run.flops:8.2e} {duration(row.estimate.seconds):>7}  {state}".rstrip()
        )
    lines += [f"refused  {' '.join(c.overrides)}: {c.refusal}" for c in cells if c.refusal]
    return lines


def plan_totals(
    rows: Sequence[PlannedCost], terms: PlanOptions, launcher: LauncherChoice
) -> list[str]:
    """What is there, what is left, and what that costs."""
    if not rows:
        return ["no run can be trained"]
    there = sum(row.record is not None for row in rows)
    head = f"{len(rows)} runs, {there} there already"
    return [head, *cost_lines(plan_cost(rows, terms, launcher), terms, rows)]


def say(line: str) -> None:
    """One line on stderr: the plan itself is the output."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
