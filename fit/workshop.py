"""Work that takes seconds, done in processes beside the service: few at a time, each with a limit.

A worker is the command line itself, so a fit made here is the fit that `isoflop fit` makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fit.faults import Fault

WORKERS = 2
WAITING = 8
"""Requests that may wait for a worker; a further one is told to come back."""
SECONDS = 60.0
"""For one fit or one report."""
PACKAGE = Path(__file__).resolve().parent.parent
SEE_HELP = re.compile(r"\s*See: \S+.*--help\s*$")

OPTION_WORD = re.compile(r"--(\w+) (?=[\w'])")
"""`--column params=YOURS` of a command is `column=params=YOURS` of a request."""
OPTION = re.compile(r"^Invalid value for '--(\w+)'")


class Workshop:
    """A bounded number of workers."""

    def __init__(
        self, *, seconds: float = SECONDS, workers: int = WORKERS, most: int = WAITING
    ) -> None:
        self.seconds, self.most = seconds, most
        self.running = 0
        self.waiting = 0
        self._places = asyncio.Semaphore(workers)
        self._processes: set[asyncio.subprocess.Process] = set()

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place to work in, after those who came before.

        Raises:
            Fault: Too many wait already.
        """
        if self.waiting >= self.most:
            raise Fault(503, "busy", f"{self.waiting} requests wait for a worker. Try again soon.")
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()

    async def command(self, arguments: Sequence[str], *, folder: Path, kind: str) -> None:
        """Run `isoflop ARGUMENTS` in a folder.

        Args:
            arguments: The command and its options.
            folder: Where it runs.
            kind: Kind of the fault if it fails.

        Raises:
            Fault: It failed, with its own line; or it took too long.
        """
        async with self.place():
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "fit.worker", *arguments),
                cwd=folder,
                env=_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            self._processes.add(process)
            try:
                _, said = await asyncio.wait_for(process.communicate(), self.seconds)
            except TimeoutError:
                _end(process)
                await process.communicate()
                raise Fault(
                    422,
                    "time_limit",
                    f"not done after {self.seconds:g} s and stopped. Send fewer rows or resamples.",
                ) from None
            finally:
                _end(process)
                self._processes.discard(process)
        if process.returncode:
            message = _last_line(said)
            option = OPTION.search(message)
            raise Fault(422, kind, message, option[1] if option else None)

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._processes:
            _end(process)


def _environment() -> dict[str, str]:
    """One thread each; the package as it is here, wherever it was started from."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {k: v for k, v in os.environ.items() if k != "ISOFLOP_TOKEN"}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a worker and what it has started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_line(said: bytes) -> str:
    """What a worker said last, without the command line's own hints."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    if not lines or not lines[-1].startswith("isoflop: "):
        return "the worker failed without a word; the table may need more memory than it is given."
    return OPTION_WORD.sub(r"\1=", SEE_HELP.sub("", lines[-1].removeprefix("isoflop: ")))
