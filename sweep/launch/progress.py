"""How far a launched sweep is, a line now and then, from the process that launched it.

The lines come from the records and the heartbeats on disk, so that they are the same for every
launcher, on this machine or on others.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fit.data.progress import PlannedRun, SweepProgress, find_progress
from fit.data.records import RECORD_NAME, RunRecord, read_record
from fit.errors import RecordError
from fit.quantities import duration, short
from sweep.training.tracking import say

FIRST_SECONDS, EVERY_SECONDS = 5.0, 30.0
"""Time to the first line and between two."""


@contextmanager
def progress_printed(planned: Mapping[Path, Sequence[PlannedRun]]) -> Iterator[None]:
    """Print the progress of sweeps until the block ends.

    Args:
        planned: The runs that were asked for, by the folder of their sweep.
    """
    over = threading.Event()
    thread = threading.Thread(target=_print_lines, args=(planned, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _print_lines(planned: Mapping[Path, Sequence[PlannedRun]], over: threading.Event) -> None:
    """Print a line for each sweep every now and then until `over` is set."""
    ended: dict[Path, RunRecord] = {}
    start = "\r\x1b[K" if sys.stderr.isatty() else ""  # over the bar of a run
    wait, printed = FIRST_SECONDS, dict.fromkeys(planned, "")
    while not over.wait(wait):
        wait = EVERY_SECONDS
        for folder, runs in planned.items():
            for path in (folder / run.run / RECORD_NAME for run in runs):
                if path not in ended or ended[path].status == "failed":  # which is tried again
                    with suppress(RecordError):
                        ended[path] = read_record(path)
            records = [r for path, r in ended.items() if path.parents[1] == folder]
            progress = find_progress(folder, records, planned=runs)
            line = progress_line(folder.name, records, progress)
            if line != printed[folder]:
                say(start + line)
            printed[folder] = line


def progress_line(name: str, records: Sequence[RunRecord], progress: SweepProgress) -> str:
    """Runs done, running and left, tokens per second of all workers, and the time left."""
    alive = [r for r in progress.running if r.alive]
    counts = Counter(r.status for r in records)
    parts = [f"{counts['done']} of {progress.planned} done"]
    parts += [f"{counts[status]} {status}" for status in ("diverged", "failed") if counts[status]]
    parts += [f"{len(alive)} running", f"{len(progress.missing)} left"]
    line = f"{name}  {', '.join(parts)}"
    rate = sum(r.tokens_per_second or 0.0 for r in alive)
    if rate:
        line += f"; {short(rate)} tokens/s"
    if progress.seconds_left is not None:
        line += f", about {duration(progress.seconds_left)} left"
    elif progress.missing:
        line += "; workers are starting"
    return line
