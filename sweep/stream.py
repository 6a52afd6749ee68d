"""Token streams: stretches of memory-mapped shards, read as one sequence, in rows.

Nothing is copied when a corpus is split: the training stream is the shards with the held-out
stretches left out. Row i holds tokens i*T to i*T + T of the stream, so that every token but the
first is predicted exactly once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sweep.order import Ints

Tokens = NDArray[Any]
"""One shard, (n,) of any integer type, usually a memory map."""
Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Stretches of shards, one after the other."""

    shards: tuple[Tokens, ...]
    shard: Ints
    """(stretches,) number of each stretch's shard."""
    begin: Ints
    """(stretches,) where each begins in its shard."""
    place: Ints
    """(stretches + 1,) where each begins in the stream, and the stream's end."""

    def __len__(self) -> int:
        return int(self.place[-1])

    def row_count(self, seq_len: int) -> int:
        """Whole rows of seq_len predicted tokens."""
        return max(0, (len(self) - 1) // seq_len)

    def rows(self, index: Ints, seq_len: int) -> Rows:
        """Gather rows by number.

        Args:
            index: (n,), each in [0, row_count(seq_len)).
            seq_len: Predicted tokens of a row, T.

        Returns:
            (n, T + 1).
        """
        out = np.empty((len(index), seq_len + 1), dtype=np.int32)
        start = index * seq_len
        stretch = self._stretch(start)
        whole = start + seq_len < self.place[stretch + 1]
        address = self.begin[stretch] + start - self.place[stretch]
        for number in np.unique(self.shard[stretch[whole]]):
            chosen = np.flatnonzero(whole & (self.shard[stretch] == number))
            windows = sliding_window_view(self.shards[number], seq_len + 1)
            out[chosen] = windows[address[chosen]]
        broken = np.flatnonzero(~whole)
        out[broken] = self._tokens(start[broken, None] + np.arange(seq_len + 1))
        return out

    def _tokens(self, positions: Ints) -> Rows:
        """Tokens at any positions of the stream, same shape."""
        stretch = self._stretch(positions)
        address = self.begin[stretch] + positions - self.place[stretch]
        out = np.empty(positions.shape, dtype=np.int32)
        for number in np.unique(self.shard[stretch]):
            chosen = self.shard[stretch] == number
            out[chosen] = self.shards[number][address[chosen]]
        return out

    def _stretch(self, positions: Ints) -> Ints:
        """The stretch that each position lies in."""
        found = np.searchsorted(self.place, positions, side="right") - 1
        return np.asarray(found, dtype=np.int64)


def stream_of(shards: Sequence[Tokens], intervals: Ints | None = None) -> Stream:
    """A stream of some intervals of the shards put end to end.

    Args:
        shards: Each (n,) of an integer type.
        intervals: (m, 2) begin and end, ascending and disjoint; None takes everything.
    """
    plain = tuple(np.asarray(shard) for shard in shards)
    borders = np.concatenate([[0], np.cumsum([len(s) for s in plain], dtype=np.int64)])
    if intervals is None:
        intervals = np.array([[0, borders[-1]]])
    cut = np.unique(np.concatenate([intervals.ravel(), borders]))
    owner = np.searchsorted(intervals[:, 0], cut[:-1], side="right") - 1
    inside = (owner >= 0) & (cut[:-1] < intervals[owner, 1])
    begin, end = cut[:-1][inside], cut[1:][inside]
    shard = np.searchsorted(borders, begin, side="right") - 1
    return Stream(
        shards=plain,
        shard=shard.astype(np.int64),
        begin=begin - borders[shard],
        place=np.concatenate([[0], np.cumsum(end - begin, dtype=np.int64)]),
    )
