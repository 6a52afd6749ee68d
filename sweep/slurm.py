"""Waiting for Slurm jobs by what the queue says.

submitit asks `sacct`. Without accounting a cancelled job then counts as running for ever, and the
first job that fails hides those that still run. `squeue` knows the living ones everywhere.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

POLL_SECONDS = 2.0
"""Between two looks; a look costs the controller a few milliseconds."""
LIVING = frozenset(
    "PENDING RUNNING SUSPENDED COMPLETING CONFIGURING RESIZING REQUEUED REQUEUE_HOLD REQUEUE_FED "
    "SIGNALING STAGE_OUT STOPPED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
"""States of jobs that run or will run; PREEMPTED and TIMEOUT are PENDING once requeued."""
QUIET_LOOKS = 3
"""Looks without a living job that end the wait: between death and requeue a job may show none."""


def until_gone(name: str, launch: Callable[[], T]) -> T | None:
    """Launch jobs of one name, and wait until Slurm has none of them left.

    Args:
        name: The jobs' name, unlike all others'.
        launch: Submits the jobs and waits for them, perhaps for ever.

    Returns:
        What `launch` returned; None if it waits for jobs that are gone.

    Raises:
        Exception: What `launch` raised, once no job is left.
    """
    outcome: dict[str, Any] = {}

    def body() -> None:
        try:
            outcome["value"] = launch()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=body, name="launch", daemon=True)
    thread.start()
    seen, quiet = False, 0
    while quiet < QUIET_LOOKS:
        thread.join(POLL_SECONDS)
        if "value" in outcome:
            break
        states = job_states(name)
        seen = seen or bool(states)
        if "error" in outcome and not seen:  # nothing was submitted, or Slurm does not answer
            break
        quiet = quiet + 1 if seen and states is not None and not LIVING & set(states) else 0
        if "error" in outcome:
            time.sleep(POLL_SECONDS)
    if "error" in outcome:
        raise outcome["error"]
    value: T | None = outcome.get("value")
    return value


def job_states(name: str) -> list[str] | None:
    """States of the jobs of a name, ended ones for as long as Slurm shows them; None: no answer."""
    command = ["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%T"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.split()
