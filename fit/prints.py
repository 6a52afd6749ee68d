"""Reports on request: made by a worker from the fit in service, kept while the fit is the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from pathlib import Path

from fit.shelf import Held
from fit.store import FIT_NAME
from fit.workshop import Workshop

KEPT = 16
"""PDFs in memory, half a megabyte each."""


class Prints:
    """PDFs by the hash of their fit."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._begun: dict[tuple[str, str], asyncio.Task[bytes]] = {}

    async def report(self, held: Held) -> bytes:
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
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return pages

    async def _made(self, held: Held) -> bytes:
        """Set the pages, in a folder of their own: the service writes nothing into reports/."""
        with tempfile.TemporaryDirectory(prefix="isoflop-report-") as name:
            folder = Path(name) / held.name
            folder.mkdir()
            (folder / FIT_NAME).write_text(held.fit.to_json(), encoding="utf-8")
            await self.workshop.command(["report", held.name], folder=Path(name), kind="report")
            return await asyncio.to_thread((folder / "report.pdf").read_bytes)
