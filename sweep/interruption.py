"""Signals that ask a process to end, kept until the training loop is between two steps.

Slurm sends USR2 (as submitit asks it to) before a time limit or a preemption, and TERM before it
kills. An optimiser step that is cut in half cannot be saved; after it the state is saved first, and
then the signal does what it would have done: under submitit, requeue the job and leave.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class Interruption:
    """A context in which the signals wait; `pending` names the first that came."""

    def __init__(self) -> None:
        self.pending: signal.Signals | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                earlier = signal.getsignal(number)
                if callable(earlier) or (earlier is signal.SIG_DFL and number == signal.SIGTERM):
                    self._earlier[number] = earlier
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def obey(self) -> None:
        """Let the signal do what it would have done; returns where that is nothing."""
        number, self.pending = self.pending, None
        if number is None:
            return
        earlier: Callable[[int, FrameType | None], Any] | signal.Handlers = self._earlier[number]
        if callable(earlier):
            earlier(number, None)
            return
        self._restore()
        os.kill(os.getpid(), number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; USR2 outranks TERM, which Slurm sends together with it."""
        found = signal.Signals(number)
        if self.pending is None or found == signal.SIGUSR2:
            self.pending = found

    def _restore(self) -> None:
        """Give the signals back."""
        for number, earlier in self._earlier.items():
            signal.signal(number, earlier)
        self._earlier = {}
