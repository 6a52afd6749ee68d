"""Slurm's queue: which jobs are alive, and which cells jobs of an earlier command still train.

A command that waits for Slurm jobs may be killed, and the jobs go on. While they do, the launch has
a folder of its own with a note of its runs:

    runs/<sweep>/.hydra/<name of its jobs>/runs.json    names of the runs that they train
    runs/<sweep>/.hydra/<name of its jobs>/<n>.pkl      what the cells of a bundle are

The next command reads the notes, waits for what is alive and launches only the rest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from fit.files import write_atomically

POLL_SECONDS = 2.0
"""Time between two queries of the queue; one costs Slurm's controller a few milliseconds."""
ALIVE = frozenset(
    "PENDING RUNNING SUSPENDED COMPLETING CONFIGURING RESIZING REQUEUED REQUEUE_HOLD REQUEUE_FED "
    "SIGNALING STAGE_OUT STOPPED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
"""States of jobs that run or will run; PREEMPTED and TIMEOUT are PENDING once requeued."""
QUIET_POLLS = 3
"""Queries without a live job that end the wait: between its end and requeue a job may show none."""
NOTE_NAME = "runs.json"


def job_states(name: str) -> list[str] | None:
    """States of the jobs of a name, ended ones included while Slurm shows them; None: no answer."""
    command = ["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%T"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.split()


def note_launch(folder: Path, runs: Iterable[str]) -> None:
    """Note in the folder of a launch, named as its jobs, which runs they train.

    Raises:
        RecordError: The folder cannot be written to.
    """
    write_atomically(folder / NOTE_NAME, json.dumps(list(runs)))


def earlier_launches(folders: Iterable[Path]) -> dict[Path, frozenset[str]]:
    """Launches of earlier commands whose jobs are alive, with the names of their runs.

    The folders of launches that Slurm says are over are removed.

    Args:
        folders: Of sweeps.
    """
    alive = {}
    for note in (n for folder in set(folders) for n in folder.glob(f".hydra/*/{NOTE_NAME}")):
        try:
            runs = frozenset(json.loads(note.read_text()))
        except (OSError, ValueError):
            continue
        states = job_states(note.parent.name)
        if not ALIVE.isdisjoint(states or ()):
            alive[note.parent] = runs
        elif states is not None:
            shutil.rmtree(note.parent, ignore_errors=True)
    return alive


def wait_for_launches(launches: Sequence[Path]) -> None:
    """Wait until no job of earlier launches is alive, and remove their folders."""
    quiet = 0
    while quiet < QUIET_POLLS:
        states = [job_states(folder.name) for folder in launches]
        over = all(s is not None and ALIVE.isdisjoint(s) for s in states)
        quiet = quiet + 1 if over else 0
        time.sleep(POLL_SECONDS)
    for folder in launches:
        shutil.rmtree(folder, ignore_errors=True)
