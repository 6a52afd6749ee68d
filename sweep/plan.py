"""`python -m sweep.plan`: print what a sweep would train and what it would cost; trains nothing."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from fit.data.accounting import find_device
from fit.quantities import count_noun
from sweep import command_line
from sweep.data.registry import describe_unfetched, open_source
from sweep.data.rows import heldout_count
from sweep.data.text import NOT_FETCHED
from sweep.planning.bill import (
    PlannedCost,
    PlanOptions,
    compact_duration,
    cost_lines,
    plan_cost,
    planned_runs,
    require_prices,
    split_plan_options,
)
from sweep.planning.compose import command_overrides, parse_command, show_information
from sweep.planning.grid import Cell, LauncherChoice, chosen_launcher, grid, refusals
from sweep.planning.identity import compact_count
from sweep.planning.timing import unmeasured
from sweep.planning.trajectory import Trajectory

MOST_SETS = 3
"""Data sets of a grid that are described; more of them differ in a seed or a cap."""
USAGE = """\
{prog} [override ...] [option=value ...]

Prints every run of a grid, what is left to do and what that costs; launches nothing.
Overrides are those of a sweep, such as +experiment=demo model=w16,w32. Options:

measure=off          estimate by the formula; else a few steps of every shape are timed once
device=h100          price the runs on this device, wherever the plan is made: a100, h100, h200,
                     b200, mi300x, tpu-v5p, or its dense bf16 FLOP/s
mfu=0.4              share of its peak that the runs reach (0.4 is assumed)
price=2.5            dollars of one device-hour
workers=8            runs at a time, where the launcher does not say it
spend.hours=2        device-hours to spend at most (or spend.dollars=5, spend.flops=1e13):
                     thin the grid to that
spend.prior=NAME     published law or folder of a fit that the thinned grid is chosen for
spend.target=1e15    budget at which its answer is wanted [FLOP]"""


@command_line("a plan trains nothing")
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.plan") -> None:
    """Print the plan of the given overrides; exit 1 where a cell cannot be trained.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in messages.
    """
    parsed = parse_command(arguments, prog)
    if parsed.help:
        print(USAGE.format(prog=prog))
        return
    if parsed.cfg or parsed.hydra_help or parsed.info:
        show_information(parsed, prog)
        return
    options, overrides = split_plan_options(command_overrides(parsed))
    if options.device is not None and not any("train.accelerator=" in o for o in overrides):
        overrides.append("train.accelerator=cuda")  # this machine's memory does not matter
    device = None if options.device is None else find_device(options.device)
    cells = grid(overrides, multirun=True, device=device, describe=describe_unfetched)
    launcher = chosen_launcher(overrides)
    notes = measure_shapes(cells, options)
    rows = planned_runs(cells, options)
    require_prices(rows, options)
    table = [*plan_table(cells, rows), *plan_totals(rows, options, launcher), *notes]
    print("\n".join([*data_lines(cells), *table]))
    if options.limited:
        from sweep.planning.thinning import trim_lines

        print("\n".join(trim_lines(rows, options, launcher)))
    sys.exit(int(any(cell.refusal is not None for cell in cells)))


def measure_shapes(cells: Sequence[Cell], options: PlanOptions) -> list[str]:
    """Time the shapes without a stored timing; returns notes on those that could not be timed."""
    missing = (
        unmeasured([t for cell in cells for t in cell.trajectories])
        if options.measure and options.device is None
        else []
    )
    if not missing:
        return []
    from sweep.training.timing import measure_timings

    failed = measure_timings(missing, say)
    if not failed:
        return []
    names = ", ".join(f"width {t.shape.width} depth {t.shape.depth}" for t in failed)
    return [f"could not be timed here, and are estimated by the formula: {names}"]


def data_lines(cells: Sequence[Cell]) -> list[str]:
    """What the runs train on and are measured with, for each data set of a grid."""
    sets: dict[str, list[Trajectory]] = {}
    for t in (t for cell in cells for t in cell.trajectories if t.runs):
        sets.setdefault(f"{t.config.data} {t.shape.seq_len}", []).append(t)
    blocks = [line for group in list(sets.values())[:MOST_SETS] for line in describe_data(group)]
    if len(sets) > MOST_SETS:
        blocks += [f"and {len(sets) - MOST_SETS} further settings of the data", ""]
    return blocks


def describe_data(trajectories: Sequence[Trajectory]) -> list[str]:
    """What one data set holds, and how often the runs of some trajectories repeat it."""
    first = trajectories[0]
    data, seq_len = first.config.data, first.shape.seq_len
    if first.data.hash == NOT_FETCHED:
        unknown = (
            "not known before the data set is fetched, as the sweep is launched; the digits at "
            "the end of names are others then"
        )
        facts = {"data": first.data.name, "vocabulary": f"{first.shape.vocab:,}", "tokens": unknown}
        return [line for name, text in facts.items() for line in _wrapped(name, text)] + [""]
    source = open_source(data, seq_len=seq_len, seed=0)
    unique = source.info.unique_tokens
    where = "" if data.path is None else f", data.path={data.path}"
    size = f" of size {data.size}" if data.name == "stories" else ""
    capped = "" if data.unique_tokens is None else " by data.unique_tokens"
    rows = heldout_count(data, seq_len)
    hash_ = source.info.hash.removeprefix("sha256:")[:16]
    facts = {
        "data": f"{source.info.name}{size} (hash {hash_}){where}",
        "tokenizer": "that of the files",
        "vocabulary": f"{source.vocab:,}",
        "documents": "not marked in the files",
        "tokens": "endless" if unique is None else f"{unique:,} to train on{capped}",
        "epochs": epochs_in_words(trajectories, unique),
        "held out": f"{rows * seq_len:,} tokens, {rows:,} rows of {seq_len}, never trained on",
    }
    found = dict(source.facts)
    if capped and "tokens" in found:
        found["tokens"] += f"; {facts['tokens']}"
    pairs = {**facts, **found}.items()
    return [line for name, text in pairs for line in _wrapped(name, text)] + [""]


def epochs_in_words(trajectories: Sequence[Trajectory], unique: int | None) -> str:
    """How often the shortest and the longest run see each token."""
    lengths = [run.tokens for t in trajectories for run in t.runs]
    if unique is None:
        return "none: no token is repeated"
    least, most = (f"{n / unique:.3g}" for n in (min(lengths), max(lengths)))
    return f"{most} over these tokens" if least == most else f"{least} to {most} over these tokens"


def _wrapped(name: str, text: str) -> list[str]:
    """A named fact in lines of at most 80 columns; a long path is cut, not lost."""
    return textwrap.wrap(
        text, 80, initial_indent=f"{name:11}", subsequent_indent=" " * 11, break_on_hyphens=False
    )


def plan_table(cells: Sequence[Cell], rows: Sequence[PlannedCost]) -> list[str]:
    """A table of the plan's runs, at most 80 columns wide, and the cells that are refused."""
    lines = [size_line(cell) for cell in cells if cell.config and cell.config.model.params]
    lines = [line for line in dict.fromkeys(lines) if line]
    lines += [f"{'run':29} {'N':>5} {'D':>5} {'D/N':>6} {'batch':>9} {'FLOP':>8} {'about':>7}"]
    for row in rows:
        n, run = row.trajectory.params.matmul, row.run
        state = "" if row.record is None else row.record.status
        ratio = run.tokens / n
        per_param = f"{ratio:.1f}" if ratio < 1e4 else f"{ratio:.0e}"
        first, last = row.trajectory.rule.batch(0), row.trajectory.rule.batch(run.tokens - 1)
        batch = "-".join(dict.fromkeys((compact_count(first), compact_count(last))))
        time = compact_duration(row.estimate.seconds) if row.priced else "?"
        lines.append(
            f"{run.run:29} {compact_count(n):>5} {compact_count(run.tokens):>5} {per_param:>6} "
            f"{batch:>9} {run.flops:8.2e} {time:>7} {state}".rstrip()
        )
    lines += [f"refused  {line}" for line in refusals(cells)]
    return lines


def size_line(cell: Cell) -> str:
    """Which shape a size in parameters chose; empty where the cell is refused."""
    if cell.config is None or not cell.trajectories:
        return ""
    shape, n = cell.trajectories[0].shape, cell.trajectories[0].params.matmul
    return (
        f"model.params={compact_count(cell.config.model.params)} is width {shape.width}, depth "
        f"{shape.depth}: {compact_count(n)} matmul parameters"
    )


def plan_totals(
    rows: Sequence[PlannedCost], options: PlanOptions, launcher: LauncherChoice
) -> list[str]:
    """How many runs have a record, and what the others cost."""
    if not rows:
        return ["no run can be trained"]
    done = sum(row.record is not None for row in rows)
    head = f"{count_noun(len(rows), 'run')}, {done} there already"
    return [head, *cost_lines(plan_cost(rows, options, launcher), options, rows)]


def say(line: str) -> None:
    """Print a line on stderr: standard output is for the plan."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
