"""`isoflop runs --watch`: a sweep at a glance, for a terminal of 80 columns."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fit.errors import RecordError
from fit.progress import Progress, Running, find_progress
from fit.quantity import power, short, three
from fit.record import STATUSES, RunRecord, finite_or_null
from fit.store import read_runs
from fit.text import WIDTH, one_line, table_text

WATCH_SCHEMA = "isoflop.watch/1"
NAMED = 5
"""Most missing runs that are named."""
LOOK_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A sweep at one moment."""

    folder: Path
    records: tuple[RunRecord, ...]
    progress: Progress

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing is missing."""
        return not self.progress.missing and not any(r.alive for r in self.progress.running)

    def counts(self) -> dict[str, int]:
        """Runs by state."""
        ended = Counter(r.status for r in self.records)
        alive = sum(r.alive for r in self.progress.running)
        counts = {status: ended[status] for status in STATUSES}
        return counts | {"running": alive, "missing": len(self.progress.missing)}


def look(folder: Path, *, now: float | None = None) -> Look:
    """See how a sweep stands.

    Raises:
        RecordError: No such folder, or nothing of a sweep in it.
    """
    records = read_runs(folder).records
    progress = find_progress(folder, records, now=now)
    if not records and not progress.planned and not progress.running:
        raise RecordError(f"no run records in {folder}. Launch a sweep: python -m sweep -m ...")
    return Look(folder=folder, records=records, progress=progress)


def looks(folder: Path) -> Iterator[Look]:
    """See how a sweep stands every few seconds, until it is over."""
    while True:
        found = look(folder)
        yield found
        if found.over:
            return
        time.sleep(LOOK_SECONDS)


def show(folder: Path, *, as_json: bool) -> None:
    """Print a sweep until it is over; a JSON document a line, or a screen of text."""
    for found in looks(folder):
        if as_json:
            click.echo(json.dumps({"schema": WATCH_SCHEMA, **look_document(found)}))
        else:
            click.clear()
            click.echo(look_text(found))


def look_document(found: Look) -> dict[str, Any]:
    """What the `isoflop.watch/1` document says."""
    progress = found.progress
    document = {
        "counts": found.counts(),
        "planned": progress.planned,
        "running": [
            {**dataclasses.asdict(r), "alive": r.alive, "seconds_left": r.seconds_left}
            for r in progress.running
        ],
        "missing": [p.run for p in progress.missing],
        "flops_spent": progress.flops_spent,
        "flops_left": progress.flops_left,
        "hours_spent": progress.hours_spent,
        "hours_left": progress.hours_left,
        "seconds_left": progress.seconds_left,
    }
    return dict(finite_or_null(document))


def look_text(found: Look) -> str:
    """A look as people read it."""
    progress = found.progress
    counts = [f"{n} {state}" for state, n in found.counts().items() if n]
    of = f" of {progress.planned} planned" if progress.planned else ""
    lines = [str(found.folder), f"{', '.join(counts)}{of}"]
    alive = [r for r in progress.running if r.alive]
    if alive:
        header = ("running", "tokens", "of", "", "loss", "tokens/s", "left")
        lines += ["", table_text(header, map(_running_row, alive))]
    lines += ["", *_cost_rows(progress), *_trouble(found)]
    return "\n".join(_cut(line) for line in "\n".join(lines).splitlines())


def time_text(seconds: float) -> str:
    """A time with its unit: 42 s, 3.5 min, 2.1 h, 4 d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{three(seconds / size)} {unit}"
    return f"{seconds:.0f} s"


def _running_row(run: Running) -> tuple[str, ...]:
    """One trajectory."""
    left, rate = run.seconds_left, run.tokens_per_second
    return (
        run.run,
        short(run.tokens),
        short(run.total),
        f"{run.tokens / run.total:.0%}",
        "-" if run.loss is None else f"{run.loss:.3f}",
        "-" if rate is None else short(rate),
        "-" if left is None else time_text(left),
    )


def _cost_rows(progress: Progress) -> list[str]:
    """What was spent, and what is left."""
    spent = f"spent  {power(progress.flops_spent)} FLOP, {time_text(progress.hours_spent * 3600)}"
    rows = [f"{spent} of workers"]
    if progress.hours_left is None or not progress.flops_left:
        return rows
    left = f"left   {power(progress.flops_left)} FLOP, about "
    left += f"{time_text(progress.hours_left * 3600)} of workers"
    if progress.seconds_left is not None:
        left += f": {time_text(progress.seconds_left)} with those that run"
    return [*rows, left]


def _trouble(found: Look) -> list[str]:
    """Runs that did not go well, a line each."""
    rows = [
        f"{r.status:8}  {r.run}: {one_line(r.reason or 'no reason given')}"
        for r in found.records
        if r.status != "done"
    ]
    rows += [
        f"silent    {r.run}: nothing from {r.host} for {time_text(r.silent_seconds)}"
        for r in found.progress.running
        if not r.alive
    ]
    missing = found.progress.missing
    rows += [f"missing   {p.run}" for p in missing[:NAMED]]
    if len(missing) > NAMED:
        rows.append(f"missing   and {len(missing) - NAMED} more")
    return ["", *rows] if rows else []


def _cut(line: str) -> str:
    """A line of at most 80 columns."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
