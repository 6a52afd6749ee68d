"""What was tried on a trajectory: every start is noted, so that a lost worker is known."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fit.provenance import now
from fit.store import write_atomically

ATTEMPTS_NAME = "attempts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a worker on a trajectory."""

    started: str
    host: str
    pid: int
    outcome: str = "lost"
    """`lost` until the worker says how it ended: `failed`, or `stopped` by a signal."""
    reason: str | None = None
    tokens: int | None = None
    """Where on its path it ended, if it could say."""


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """The attempts in a working folder; none where there is no readable list."""
    try:
        rows = json.loads((folder / ATTEMPTS_NAME).read_text())
        return tuple(Attempt(**row) for row in rows)
    except (OSError, ValueError, TypeError):
        return ()


def begin(folder: Path) -> tuple[Attempt, ...]:
    """Note a start; returns the earlier attempts.

    Raises:
        RecordError: The folder cannot be written to.
    """
    earlier = read_attempts(folder)
    _write(folder, (*earlier, Attempt(started=now(), host=platform.node(), pid=os.getpid())))
    return earlier


def end(folder: Path, outcome: str, reason: str, tokens: int | None) -> None:
    """Note how the newest attempt ended.

    Raises:
        RecordError: The folder cannot be written to.
    """
    attempts = read_attempts(folder)
    if attempts:
        last = dataclasses.replace(attempts[-1], outcome=outcome, reason=reason, tokens=tokens)
        _write(folder, (*attempts[:-1], last))


def _write(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Replace the list."""
    rows = [dataclasses.asdict(a) for a in attempts]
    write_atomically(folder / ATTEMPTS_NAME, json.dumps(rows, indent=1) + "\n")
