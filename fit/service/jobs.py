"""Work that takes seconds, done in processes beside the service: fits of uploaded tables, reports.

A worker is the command line itself (`python -m fit`), so that a fit made here is the fit that
`isoflop fit` makes. Number, time and memory of workers are bounded, as are the uploads.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from fit.errors import QueryError
from fit.quantities import parse_count, parse_number, parse_share
from fit.results import FIT_NAME
from fit.service.errors import RequestError, field_words, short_name
from fit.service.fits import LONGEST_REASON, FitRegistry, ServedLaw

Result = TypeVar("Result")
REPORTS: Mapping[str, tuple[str, str | None]] = {
    "pdf": ("application/pdf", None),
    "md": ("text/markdown; charset=utf-8", "figures/*.svg"),
}
"""Forms of a report by suffix: its content type, and the files that it links."""
MOST_REPORTS = 16
"""Reports kept in memory, a megabyte each."""
MOST_BYTES = 20 << 20
"""Size of an uploaded table."""
READ_SECONDS = 30.0
"""From the first byte of an upload to the last."""
MOST_UPLOADS = 32
"""Uploaded fits in service; a further one replaces the oldest."""
FORMATS: Mapping[str, str] = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/json": "json",
    "text/tab-separated-values": "tsv",
    "application/vnd.apache.parquet": "parquet",
}
"""Table formats by content type.

A form on another site can send none of these without a CORS preflight, which is not answered.
"""
OPTIONS: Mapping[str, str] = {
    "law": "Family to fit, see /v1/laws: chinchilla, tied, ...",
    "loss": "adaptive, huber, l2, l2-levels, student or asymmetric.",
    "delta": "Fixed threshold of the Huber loss.",
    "interval": "hc3, pairs, wild, bca or profile.",
    "level": "Level of the intervals, such as 0.9.",
    "discrepancy": "learned, or none: answers by the law alone, with its plain intervals.",
    "entropy": "estimated, or known: the forecast's E is the entropy that the data state.",
    "resamples": "Resamples of the bootstrap, 4000 at most.",
    "cluster": "Column whose equal values mark runs with correlated errors.",
    "weight": "Column of weights; loss_se counts each run by its own error.",
    "column": "Renaming, such as params=n_params; may be repeated.",
    "unit": "Unit of a column, such as params=M or loss=ppl; may be repeated.",
    "where": "Condition on the columns, such as loss < 5; may be repeated, and all must hold.",
    "wide": "params or tokens, of which the columns named by numbers are values.",
}
"""Options of `isoflop fit` that a request may set.

Files are paths on this machine, so `base`, `hold` and `prior` are left to the command line.
"""
NUMBERS: Mapping[str, Callable[[str, str], float]] = {
    "delta": parse_number,
    "level": parse_share,
    "resamples": parse_count,
}
REPEATED = ("column", "unit", "where")
"""Options that may be given several times."""
MOST_RESAMPLES = 4000
MOST_COLUMNS, LONGEST_VALUE = 50, 200
"""Renamings or units in one request, and characters of any value."""
WORKERS = 2
WAITING = 8
"""Requests that may wait for a worker; a further one gets status 503."""
SECONDS = 60.0
"""Time limit of one fit or report."""
MEMORY_LIMIT = "ISOFLOP_WORKER_BYTES"
"""Environment variable that makes `python -m fit` a worker; see `fit.__main__`."""
MEMORY_BYTES = 4 << 30
"""Address space of one worker: a fit of 100,000 rows takes a quarter of it."""
PACKAGE = Path(__file__).resolve().parents[2]


async def read_body(stream: AsyncIterator[bytes], length: str | None) -> bytes:
    """Read the body of an upload, at most `MOST_BYTES` and for at most `READ_SECONDS`.

    A larger body is read on and discarded, up to eight times the limit: clients that are still
    sending when the connection closes do not see the response that says why.

    Raises:
        RequestError: Too large, too slow or empty.
    """
    parts, size = [], 0
    too_large = RequestError(
        413, "too_large", f"the table is too large; at most {MOST_BYTES >> 20} MiB can be sent."
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
            400, "disconnected", "the connection closed before the whole table had arrived."
        ) from None
    except TimeoutError:
        raise RequestError(
            408, "request_timeout", f"the table had not arrived after {READ_SECONDS:g} s."
        ) from None
    if size > MOST_BYTES:
        raise too_large
    if not size:
        raise RequestError(
            422, "record", "the body is empty; a csv, jsonl or parquet table is needed."
        )
    return b"".join(parts)


def suffix_of_content_type(content_type: str, encoding: str = "") -> str:
    """The suffix of a table's file by the headers of its request.

    Raises:
        RequestError: The type is none of `FORMATS`, or the body is compressed or not in UTF-8.
    """
    plain, _, parameters = content_type.lower().partition(";")
    plain, kind = plain.strip(), "unsupported_media_type"
    if plain not in FORMATS:
        text = f"content-type is '{short_name(plain)}'; one of {', '.join(FORMATS)} is needed."
        raise RequestError(415, kind, text, "content-type")
    charset = parameters.replace('"', "").replace(" ", "").partition("charset=")[2]
    if charset.partition(";")[0] not in ("", "utf-8", "utf8", "us-ascii"):
        text = f"the charset is '{short_name(charset)}'; send the table in utf-8."
        raise RequestError(415, kind, text, "content-type")
    if encoding.strip().lower() not in ("", "identity"):
        text = f"content-encoding is '{short_name(encoding)}'; send the table as it is."
        raise RequestError(415, kind, text, "content-encoding")
    return FORMATS[plain]


def fit_arguments(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Options of `isoflop fit` from the fields of a request.

    Raises:
        RequestError: An option is unknown, repeated or out of bounds.
    """
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    arguments = []
    for name, values in sorted(fields.items()):
        if name not in OPTIONS:
            text = f"unknown field '{short_name(name)}'; known are {', '.join(OPTIONS)}."
            raise RequestError(422, "invalid", text, name)
        most = MOST_COLUMNS if name in REPEATED else 1
        if len(values) > most:
            text = f"{name} is given {len(values)} times; at most {most} can be."
            raise RequestError(422, "invalid", text, name)
        if not all(v.isprintable() and len(v) <= LONGEST_VALUE for v in values):
            text = f"{name} is not printable, or longer than {LONGEST_VALUE} characters."
            raise RequestError(422, "invalid", text, name)
        if name in NUMBERS:
            values = [_number_text(name, values[0])]
        arguments += [f"--{name}={value}" for value in values]
    return arguments


def _number_text(name: str, text: str) -> str:
    """A number as the command gets it: it is read here, so that what is checked is what counts.

    Raises:
        RequestError: It is none, or out of bounds.
    """
    if name == "resamples" and text.strip() == "0":
        return "0"
    try:
        value = NUMBERS[name](text, name)
    except QueryError as error:
        raise RequestError(422, "invalid", str(error), name) from None
    if name != "resamples":
        return repr(value)
    if value > MOST_RESAMPLES or value != round(value):
        text = f"resamples is {value:g}; a whole number is needed, at most {MOST_RESAMPLES}."
        raise RequestError(422, "invalid", text, name)
    return str(int(value))


class WorkerPool:
    """A bounded number of workers, and a bounded queue for them."""

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
        """Wait for a free worker, first come, first served.

        Raises:
            RequestError: Too many requests wait already.
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

    async def command(self, arguments: Sequence[str], *, folder: Path, kind: str) -> bytes:
        """Run `isoflop ARGUMENTS` in a folder; what it printed.

        Args:
            arguments: The command and its options.
            folder: Where it runs.
            kind: Kind of the error if it fails.

        Raises:
            RequestError: It failed, with the message of the command; or it took too long.
        """
        async with self.place():
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "fit", *arguments),
                cwd=folder,
                env=_worker_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            self._processes.add(process)
            try:
                stdout, stderr = await asyncio.wait_for(process.communicate(), self.seconds)
            except TimeoutError:
                _kill(process)
                await process.communicate()
                advice = "Send fewer rows or resamples."
                if kind == "report":
                    advice = "Try again when this machine is less busy."
                text = f"not done after {self.seconds:g} s and stopped. {advice}"
                raise RequestError(422, "time_limit", text) from None
            finally:
                _kill(process)
                self._processes.discard(process)
        if process.returncode:
            raise _worker_error(stderr, kind)
        return stdout

    def close(self) -> None:
        """Kill the workers that still run."""
        for process in self._processes:
            _kill(process)


class FitJobs:
    """Fits of uploaded tables, in a temporary folder, and reports, in memory."""

    def __init__(
        self, registry: FitRegistry, workers: WorkerPool, *, most_uploads: int = MOST_UPLOADS
    ) -> None:
        self.registry, self.workers, self.most_uploads = registry, workers, most_uploads
        self._reports: OrderedDict[tuple[str, ...], Mapping[str, bytes]] = OrderedDict()
        self._running: dict[Any, asyncio.Task[Any]] = {}

    @cached_property
    def folder(self) -> Path:
        """Folder of the uploads, created for the first one."""
        return Path(tempfile.mkdtemp(prefix="isoflop-"))

    async def preview(self, table: bytes, suffix: str) -> dict[str, Any]:
        """How a table would be read, the `isoflop.preview/1` document.

        Raises:
            RequestError: It cannot be read, or took too long.
        """
        with tempfile.TemporaryDirectory(prefix="isoflop-preview-") as temporary:
            file = Path(temporary) / f"table.{suffix}"
            await asyncio.to_thread(file.write_bytes, table)
            printed = await self.workers.command(
                ["preview", file.name], folder=Path(temporary), kind="record"
            )
        document: dict[str, Any] = json.loads(printed)
        return document

    async def fit_table(
        self, table: bytes, suffix: str, arguments: list[str], name: str | None = None
    ) -> ServedLaw:
        """Fit a table; without a name, the same table with the same options is fitted once.

        Raises:
            RequestError: The table cannot be read or fitted, or it took too long.
        """
        key = "\0".join([suffix, *arguments]).encode() + b"\0" + table
        digest = hashlib.sha256(key).hexdigest()[:12]
        if name is None:
            name = f"upload-{digest}"
            if name in self.registry.uploads:
                return self.registry.get(name)
        return await self._share(
            (name, digest), lambda: self._fit_table(name, table, suffix, arguments)
        )

    async def fit_sweep(self, folder: Path, name: str) -> ServedLaw:
        """Fit the runs in a folder that are done, in the place of the fit of that name, if any.

        Raises:
            RequestError: They cannot be fitted, or it took too long.
        """
        return await self._share(("sweep", name), lambda: self._fit_sweep(folder, name))

    async def report(
        self, law: ServedLaw, form: str = "pdf", asked: Sequence[str] = ()
    ) -> Mapping[str, bytes]:
        """The files of a report in one of `REPORTS`, by path, from memory if it was made before.

        Args:
            law: The fit.
            form: One of `REPORTS`.
            asked: The question of page 1, as options of `isoflop report`; one that is refused has a
                report that says so.

        Returns:
            `report.FORM`, and the files that it links.

        Raises:
            RequestError: It cannot be made, or took too long.
        """
        fit, key = law.fit, (law.name, law.hash, form, *asked)
        if key not in self._reports:
            document = fit.to_json()
            content = await self._share(
                key, lambda: self._write_report(law.name, document, form, asked)
            )
            self._reports[key] = content
            while len(self._reports) > MOST_REPORTS:
                self._reports.popitem(last=False)
            return content
        self._reports.move_to_end(key)
        return self._reports[key]

    async def _share(self, key: object, job: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run a job, or wait for the one of the same key that runs already.

        A request that goes away does not cancel the job, since others may wait for it.
        """
        if key not in self._running:
            task = self._running[key] = asyncio.create_task(job())
            task.add_done_callback(lambda _: self._running.pop(key, None))
        result: Result = await asyncio.shield(self._running[key])
        return result

    async def _fit_table(
        self, name: str, table: bytes, suffix: str, arguments: list[str]
    ) -> ServedLaw:
        """Write the table, fit it and register the fit."""
        with self._home() as home:
            await asyncio.to_thread((home / f"table.{suffix}").write_bytes, table)
            command = ["fit", f"table.{suffix}", f"--out={name}", "--no-report", *arguments]
            await self.workers.command(command, folder=home, kind="fit")
            if name in self.registry.names():  # by now; it was free when the table came
                raise RequestError(
                    409, "conflict", f"the name '{name}' is taken; choose another.", "name"
                )
        return self._register(name, home)

    async def _fit_sweep(self, folder: Path, name: str) -> ServedLaw:
        """Fit a folder of runs and register the fit; errors name the folder as the service does."""
        with self._home() as home:
            path = str(folder.resolve())
            try:
                command = ["fit", f"--out={name}", "--no-report", "--", path]
                await self.workers.command(command, folder=home, kind="fit")
            except RequestError as error:
                text = short_name(error.message.replace(path, folder.name), LONGEST_REASON)
                raise RequestError(error.status, error.kind, text, error.field) from None
        if name in self.registry.uploads:
            self._forget(name)
        return self._register(name, home)

    @contextlib.contextmanager
    def _home(self) -> Iterator[Path]:
        """A folder for a fit, removed where none is made."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield home
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def _register(self, name: str, home: Path) -> ServedLaw:
        """Put a fit into service; the oldest goes where there are too many."""
        while len(self.registry.uploads) >= self.most_uploads:
            self._forget(next(iter(self.registry.uploads)))
        return self.registry.add(name, home / name)

    def _forget(self, name: str) -> None:
        """Remove a fit that was made here."""
        folder = self.registry.uploads[name]
        self.registry.drop(name)
        shutil.rmtree(folder.parent, ignore_errors=True)

    async def _write_report(
        self, name: str, document: str, form: str, asked: Sequence[str]
    ) -> Mapping[str, bytes]:
        """Write a report in a temporary folder: the service writes nothing into reports/."""
        _, linked = REPORTS[form]
        with tempfile.TemporaryDirectory(prefix="isoflop-report-") as temporary:
            folder = Path(temporary) / name
            folder.mkdir()
            (folder / FIT_NAME).write_text(document, encoding="utf-8")
            command = ["report", f"--format={form}", *asked, "--", name]
            try:
                await self.workers.command(command, folder=Path(temporary), kind="report")
            except RequestError:
                if not (folder / f"report.{form}").exists():
                    raise
            files = [folder / f"report.{form}", *(folder.glob(linked) if linked else ())]
            return {
                file.relative_to(folder).as_posix(): await asyncio.to_thread(file.read_bytes)
                for file in files
            }

    def close(self) -> None:
        """Remove the uploads."""
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)


def _worker_environment() -> dict[str, str]:
    """Environment of a worker: one thread, this package on the path, and no token."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {k: v for k, v in os.environ.items() if k != "ISOFLOP_TOKEN"}
    limit = {MEMORY_LIMIT: str(MEMORY_BYTES)}
    return {**kept, **limit, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a worker and the processes that it has started, which share its session."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _worker_error(stderr: bytes, kind: str) -> RequestError:
    """The error that a worker has written as JSON on its last line; see `fit.__main__`."""
    try:
        error = json.loads(stderr.decode(errors="replace").splitlines()[-1])
        message, field = error["message"], error["field"]
    except (IndexError, ValueError, TypeError, KeyError):  # it was killed, or ended by a bug
        text = "the worker failed without a message; the table may need more memory than allowed."
        return RequestError(422, kind, text)
    return RequestError(422, kind, field_words(message), field)
