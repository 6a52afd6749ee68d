"""Tables that are sent in: bounded in size, fitted by a worker, kept for a while under a name.

Work that takes seconds, done in processes beside the service: few at a time, each with a limit.

A worker is the command line itself, so a fit made here is the fit that `isoflop fit` makes.

Reports on request: made by a worker from the fit in service, kept while the fit is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from starlette.requests import ClientDisconnect

from fit.results import FIT_NAME
from fit.service.fits import FitRegistry, ServedLaw
from fit.service.http import RequestError

MOST_PDFS = 16
"""PDFs in memory, half a megabyte each."""
MOST_BYTES = 20 << 20
READ_SECONDS = 30.0
"""From the first byte of an upload to the last."""
MOST_UPLOADS = 32
"""Uploaded fits; of more the oldest goes."""
FORMATS: Mapping[str, str] = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/vnd.apache.parquet": "parquet",
}
"""Content types. None of them can be sent by a form of a foreign page without a preflight."""
OPTIONS: Mapping[str, str] = {
    "law": "Family to fit, see /v1/laws: chinchilla, tied, ...",
    "loss": "adaptive, huber, l2, l2-levels, student or asymmetric.",
    "delta": "Fixed threshold of the Huber loss.",
    "interval": "hc3, pairs, wild, bca or profile.",
    "level": "Level of the intervals, such as 0.9.",
    "resamples": "Resamples of the bootstrap, 4000 at most.",
    "cluster": "Column whose equal values mark runs with correlated errors.",
    "weight": "Column of weights; loss_se counts each run by its own error.",
    "column": "Renaming, such as params=n_params; may be repeated.",
    "unit": "Unit of a column, such as params=M; may be repeated.",
}
"""What may be asked of a fit; conditions and files are left to the command line."""
MOST_RESAMPLES = 4000
MOST_NAMED, LONGEST_VALUE = 50, 200
"""Renamings and units in one request, and characters of any value."""
WORKERS = 2
WAITING = 8
"""Requests that may wait for a worker; a further one is told to come back."""
SECONDS = 60.0
"""For one fit or one report."""
MEMORY_LIMIT = "ISOFLOP_WORKER_BYTES"
"""Read by `python -m fit`."""
MEMORY_BYTES = 4 << 30
"""Address space of one worker: a fit of 100,000 rows takes a quarter of it."""
PACKAGE = Path(__file__).resolve().parents[2]
SEE_HELP = re.compile(r"\s*See: \S+.*--help\s*$")
OPTION_WORD = re.compile(r"--(\w+) (?=[\w'])")
"""`--column params=YOURS` of a command is `column=params=YOURS` of a request."""
OPTION = re.compile(r"^Invalid value for '--(\w+)'")


class PdfCache:
    """PDFs by the hash of their fit."""

    def __init__(self, workshop: WorkerPool) -> None:
        self.workshop = workshop
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._begun: dict[tuple[str, str], asyncio.Task[bytes]] = {}

    async def report(self, held: ServedLaw) -> bytes:
        """The report of a fit; one that is being made is waited for.

        Raises:
            Fault: It cannot be made, or took too long.
        """
        key = (held.name, held.hash)
        if held.fit and key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._begun:
            task = asyncio.create_task(self._made(held))
            self._begun[key] = task
            task.add_done_callback(lambda _: self._begun.pop(key, None))
        pages = self._kept[key] = await asyncio.shield(self._begun[key])
        while len(self._kept) > MOST_PDFS:
            self._kept.popitem(last=False)
        return pages

    async def _made(self, held: ServedLaw) -> bytes:
        """Set the pages, in a folder of their own: the service writes nothing into reports/."""
        with tempfile.TemporaryDirectory(prefix="isoflop-report-") as name:
            folder = Path(name) / held.name
            folder.mkdir()
            (folder / FIT_NAME).write_text(held.fit.to_json(), encoding="utf-8")
            await self.workshop.command(["report", held.name], folder=Path(name), kind="report")
            return await asyncio.to_thread((folder / "report.pdf").read_bytes)


async def read_body(stream: AsyncIterator[bytes], length: str | None) -> bytes:
    """Read an upload, at most `MOST_BYTES` and no longer than `READ_SECONDS`.

    What is too large is read to its end and thrown away, so that the sender hears why.

    Raises:
        Fault: Too large, too slow or empty.
    """
    parts, size = [], 0
    too_large = RequestError(
        413, "too_large", f"a table of at most {MOST_BYTES >> 20} MiB is taken."
    )
    if length is not None and length.isdecimal() and int(length) > 8 * MOST_BYTES:
        raise too_large
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in stream:
                size += len(part)
                if size > 8 * MOST_BYTES:
                    break
                if size <= MOST_BYTES:
                    parts.append(part)
                else:
                    parts.clear()
    except ClientDisconnect:
        raise RequestError(
            400, "disconnected", "the sender left before the table was there."
        ) from None
    except TimeoutError:
        raise RequestError(
            408, "request_timeout", f"the table was not there after {READ_SECONDS:g} s."
        ) from None
    if size > MOST_BYTES:
        raise too_large
    if not size:
        raise RequestError(
            422, "record", "the body is empty; a csv, jsonl or parquet table is needed."
        )
    return b"".join(parts)


def suffix_of(content_type: str) -> str:
    """The suffix of a table by its content type.

    Raises:
        Fault: Not a table's.
    """
    plain = content_type.partition(";")[0].strip().lower()
    if plain not in FORMATS:
        known = ", ".join(FORMATS)
        raise RequestError(
            415,
            "unsupported_media_type",
            f"content-type is '{plain}'; one of {known} is needed.",
            "content-type",
        )
    return FORMATS[plain]


def arguments_of(fields: Mapping[str, list[str]]) -> list[str]:
    """Options of `isoflop fit` from a request's.

    Raises:
        Fault: An unknown option, or one that is given twice.
    """
    out = []
    for name, values in sorted(fields.items()):
        if name not in OPTIONS:
            raise RequestError(
                422, "invalid", f"unknown field '{name}'; known are {', '.join(OPTIONS)}.", name
            )
        most = MOST_NAMED if name in ("column", "unit") else 1
        if len(values) > most:
            text = f"{name} is given {len(values)} times; at most {most} can be."
            raise RequestError(422, "invalid", text, name)
        if not all(v.isprintable() and len(v) <= LONGEST_VALUE for v in values):
            text = f"{name} has what is not printable, or more than {LONGEST_VALUE} characters."
            raise RequestError(422, "invalid", text, name)
        if name == "resamples" and values[0].isdecimal() and int(values[0]) > MOST_RESAMPLES:
            raise RequestError(
                422, "invalid", f"at most {MOST_RESAMPLES} resamples are made here.", name
            )
        out += [f"--{name}={value}" for value in values]
    return out


class Uploads:
    """Fits of tables that were sent in, in a temporary folder."""

    def __init__(
        self, shelf: FitRegistry, workshop: WorkerPool, *, most: int = MOST_UPLOADS
    ) -> None:
        self.shelf, self.workshop, self.most = shelf, workshop, most
        self._begun: dict[str, asyncio.Task[ServedLaw]] = {}

    @cached_property
    def folder(self) -> Path:
        """Where they lie, made when it is first needed."""
        return Path(tempfile.mkdtemp(prefix="isoflop-"))

    async def fit(self, data: bytes, suffix: str, arguments: list[str]) -> ServedLaw:
        """Fit a table; the same table with the same options is fitted once.

        Raises:
            Fault: The table cannot be read or carry the fit, or it took too long.
        """
        digest = hashlib.sha256("\0".join([suffix, *arguments]).encode() + b"\0" + data)
        name = f"upload-{digest.hexdigest()[:12]}"
        if name in self.shelf.uploads:
            return self.shelf.get(name)
        if name not in self._begun:
            task = asyncio.create_task(self._made(name, data, suffix, arguments))
            self._begun[name] = task
            task.add_done_callback(lambda _: self._begun.pop(name, None))
        return await asyncio.shield(self._begun[name])

    async def _made(self, name: str, data: bytes, suffix: str, arguments: list[str]) -> ServedLaw:
        """Write the table, fit it and put the fit on the shelf."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        try:
            await asyncio.to_thread((home / f"table.{suffix}").write_bytes, data)
            command = ["fit", f"table.{suffix}", f"--out={name}", "--no-report", *arguments]
            await self.workshop.command(command, folder=home, kind="fit")
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        while len(self.shelf.uploads) >= self.most:
            oldest = next(iter(self.shelf.uploads))
            self.shelf.drop(oldest)
            shutil.rmtree(self.folder / oldest, ignore_errors=True)
        return self.shelf.add(name, home / name)

    def close(self) -> None:
        """Remove them all."""
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)


class WorkerPool:
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
            raise RequestError(
                503, "busy", f"{self.waiting} requests wait for a worker. Try again soon."
            )
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
                *(sys.executable, "-P", "-m", "fit", *arguments),
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
                raise RequestError(
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
            raise RequestError(422, kind, message, option[1] if option else None)

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._processes:
            _end(process)


def _environment() -> dict[str, str]:
    """One thread each; the package as it is here, wherever it was started from."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {k: v for k, v in os.environ.items() if k != "ISOFLOP_TOKEN"}
    limit = {MEMORY_LIMIT: str(MEMORY_BYTES)}
    return {**kept, **limit, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


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
