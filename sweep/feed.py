"""Rows of a source, fetched in blocks and kept on the device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.source import Source

FEED_ROWS = 2048
"""Rows fetched at once: one call to the source per hundreds of steps."""


@dataclass(slots=True, kw_only=True)
class Feed:
    """Rows of a source in order, fetched in blocks and kept on the device."""

    source: Source
    device: torch.device
    block: Tensor | None = None
    start: int = 0
    ahead: tuple[int, int, Future[Tensor]] | None = None
    """On a GPU: first row, count and tensor of the next block, fetched while this one trains."""
    worker: ThreadPoolExecutor | None = None

    def rows(self, start: int, count: int) -> Tensor:
        """Rows [start, start + count) of the training order, (count, seq_len + 1) int64."""
        begin = start - self.start
        if self.block is None or begin < 0 or begin + count > len(self.block):
            self.block = self._fetched(start, max(count, FEED_ROWS))
            self.start, begin = start, 0
        return self.block[begin : begin + count]

    def _fetched(self, start: int, count: int) -> Tensor:
        """A block on the device; on a GPU the one after it is asked for at once."""
        if self.device.type != "cuda":
            return self._read(start, count).long().to(self.device)
        if self.ahead is not None and self.ahead[:2] == (start, count):
            block = self.ahead[2].result()
        else:
            block = self._read(start, count)
        self.worker = self.worker or ThreadPoolExecutor(1, "feed")
        after = start + count
        self.ahead = (after, count, self.worker.submit(self._read, after, count))
        return block.to(self.device, non_blocking=True).long()

    def _read(self, start: int, count: int) -> Tensor:
        """A block on the host, int32; in pinned memory where a GPU will fetch it."""
        rows = torch.from_numpy(self.source.train(start, count))
        return rows.pin_memory() if self.device.type == "cuda" else rows
