"""A sign of life of a running trajectory: a small file for `isoflop runs --watch`."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from fit.progress import HEARTBEAT_NAME, HEARTBEAT_SCHEMA
from fit.record import finite_or_null
from sweep.session import Session

BEAT_SECONDS = 2.0
"""Least time between two beats."""


class Heartbeat:
    """Writes where a trajectory is, every few seconds at most."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / HEARTBEAT_NAME
        self._next = 0.0
        self._run, self._tokens, self._began = "", 0, 0.0

    def beat(self, run: str, total: int, session: Session) -> None:
        """A run of `total` tokens goes on; trouble with the disk is left to the records."""
        now = time.time()
        if now < self._next and run == self._run:
            return
        self._next = now + BEAT_SECONDS
        if run != self._run:
            self._run, self._tokens, self._began = run, session.position, now
        trained, passed = session.position - self._tokens, now - self._began
        document = {
            "schema": HEARTBEAT_SCHEMA,
            "run": run,
            "tokens": session.position,
            "total": total,
            "loss": session.curve[-1][1] if session.curve else None,
            "tokens_per_second": trained / passed if trained > 0 and passed > 0 else None,
            "time": now,
            "host": platform.node(),
            "pid": os.getpid(),
        }
        with suppress(OSError):  # without fsync: a beat that is lost is followed by the next
            temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
            temporary.write_text(json.dumps(finite_or_null(document)))
            temporary.replace(self._path)
