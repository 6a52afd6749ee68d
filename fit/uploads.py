"""Tables that are sent in: bounded in size, fitted by a worker, kept for a while under a name."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from pathlib import Path

from starlette.requests import ClientDisconnect

from fit.faults import Fault
from fit.shelf import Held, Shelf
from fit.workshop import Workshop

MOST_BYTES = 20 << 20
READ_SECONDS = 30.0
"""From the first byte of an upload to the last."""
KEPT = 32
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


async def read_body(stream: AsyncIterator[bytes], length: str | None) -> bytes:
    """Read an upload, at most `MOST_BYTES` and no longer than `READ_SECONDS`.

    What is too large is read to its end and thrown away, so that the sender hears why.

    Raises:
        Fault: Too large, too slow or empty.
    """
    parts, size = [], 0
    too_large = Fault(413, "too_large", f"a table of at most {MOST_BYTES >> 20} MiB is taken.")
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
        raise Fault(400, "disconnected", "the sender left before the table was there.") from None
    except TimeoutError:
        raise Fault(
            408, "request_timeout", f"the table was not there after {READ_SECONDS:g} s."
        ) from None
    if size > MOST_BYTES:
        raise too_large
    if not size:
        raise Fault(422, "record", "the body is empty; a csv, jsonl or parquet table is needed.")
    return b"".join(parts)


def suffix_of(content_type: str) -> str:
    """The suffix of a table by its content type.

    Raises:
        Fault: Not a table's.
    """
    plain = content_type.partition(";")[0].strip().lower()
    if plain not in FORMATS:
        known = ", ".join(FORMATS)
        raise Fault(
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
            raise Fault(
                422, "invalid", f"unknown field '{name}'; known are {', '.join(OPTIONS)}.", name
            )
        most = MOST_NAMED if name in ("column", "unit") else 1
        if len(values) > most:
            text = f"{name} is given {len(values)} times; at most {most} can be."
            raise Fault(422, "invalid", text, name)
        if not all(v.isprintable() and len(v) <= LONGEST_VALUE for v in values):
            text = f"{name} has what is not printable, or more than {LONGEST_VALUE} characters."
            raise Fault(422, "invalid", text, name)
        if name == "resamples" and values[0].isdecimal() and int(values[0]) > MOST_RESAMPLES:
            raise Fault(422, "invalid", f"at most {MOST_RESAMPLES} resamples are made here.", name)
        out += [f"--{name}={value}" for value in values]
    return out


class Uploads:
    """Fits of tables that were sent in, in a temporary folder."""

    def __init__(self, shelf: Shelf, workshop: Workshop, *, most: int = KEPT) -> None:
        self.shelf, self.workshop, self.most = shelf, workshop, most
        self._begun: dict[str, asyncio.Task[Held]] = {}

    @cached_property
    def folder(self) -> Path:
        """Where they lie, made when it is first needed."""
        return Path(tempfile.mkdtemp(prefix="isoflop-"))

    async def fit(self, data: bytes, suffix: str, arguments: list[str]) -> Held:
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

    async def _made(self, name: str, data: bytes, suffix: str, arguments: list[str]) -> Held:
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
