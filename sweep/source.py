"""What every token source gives: rows in a seeded order, a held-out sample, facts.

A source of packed tokens is two streams, one to train on and one held out; the user's text, shards
and data sets all end here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fit.errors import PlanError
from fit.record import DataInfo
from sweep.config import DataConfig
from sweep.order import Ints, permuted
from sweep.stream import Rows, Stream

UNIGRAM_TOKENS = 4_000_000
"""Training tokens counted for the unigram loss: its error is below 0.001 nats at any vocabulary."""

SUBSET, HELDOUT = -1, -2
"""Epochs are numbered from 0; these take their place in keys of other permutations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heldout:
    """The held-out sample, which training never sees."""

    rows: Rows
    """(rows, seq_len + 1)."""
    ideal: NDArray[np.float32] | None = None
    """(rows, seq_len): loss of a perfect predictor, where it is known [nats]."""
    skill: NDArray[np.uint8] | None = None
    """(rows, seq_len): index into `skills`."""
    skills: tuple[str, ...] = ()


class Source(Protocol):
    """Rows of tokens by index."""

    info: DataInfo
    vocab: int
    seq_len: int

    @property
    def unigram_loss(self) -> float:
        """Loss of the training tokens' frequencies on the held-out sample [nats/token]."""

    def train(self, start: int, count: int) -> Rows:
        """Rows [start, start + count) of the seeded training order, (count, seq_len + 1)."""

    def heldout(self) -> Heldout:
        """The held-out sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Tokens on disk, split."""

    name: str
    hash: str
    """Content hash of all tokens."""
    vocab: int
    train: Stream
    heldout: Stream
    token_bytes: Ints | None = None
    """(vocab,) bytes of text that each token stands for."""
    bytes_per_token: float | None = None
    """Where the bytes of single tokens are not known."""


class PackedSource:
    """Rows of packed tokens: an honest epoch is every row of the chosen subset once."""

    def __init__(self, packed: Packed, config: DataConfig, *, seq_len: int, seed: int) -> None:
        self._packed, self._config, self._seed = packed, config, seed
        self.vocab, self.seq_len = packed.vocab, seq_len
        self.available = packed.train.row_count(seq_len)
        self.unique = capped_rows(config.unique_tokens, seq_len, self.available)
        self._heldout = Heldout(rows=heldout_rows(packed.heldout, config, seq_len))
        self.info = DataInfo(
            name=packed.name,
            hash=packed.hash,
            unique_tokens=self.unique * seq_len,
            bytes_per_token=bytes_per_token(packed, self._heldout.rows),
        )

    @cached_property
    def unigram_loss(self) -> float:
        """Counted on a part of the subset, the same for every seed of a run."""
        count = min(self.unique, max(1, UNIGRAM_TOKENS // self.seq_len))
        rows = self._packed.train.rows(self._subset(np.arange(count)), self.seq_len)
        return unigram_loss(rows, self._heldout.rows, self.vocab)

    def train(self, start: int, count: int) -> Rows:
        number = np.arange(start, start + count, dtype=np.int64)
        rows = in_epochs(number, self.unique, self._seed)
        return self._packed.train.rows(self._subset(rows), self.seq_len)

    def heldout(self) -> Heldout:
        return self._heldout

    def _subset(self, rows: Ints) -> Ints:
        """Rows of the stream: a larger cap keeps the rows of a smaller one and adds to them."""
        return permuted(rows, self.available, self._config.seed, SUBSET)


def in_epochs(number: Ints, size: int, seed: int) -> Ints:
    """Which of `size` rows comes at each place of the training order: a fresh order every epoch."""
    epoch, place = np.divmod(number, size)
    out = np.empty_like(place)
    for value in np.unique(epoch):
        chosen = epoch == value
        out[chosen] = permuted(place[chosen], size, seed, int(value))
    return out


def capped_rows(unique_tokens: int | None, seq_len: int, available: int) -> int:
    """Distinct training rows under the cap.

    Raises:
        PlanError: The cap is below one row.
    """
    if unique_tokens is None:
        return available
    if unique_tokens < seq_len:
        raise PlanError(
            f"data.unique_tokens={unique_tokens} is below one row of model.seq_len={seq_len} "
            "tokens; raise it, or set it to null for all there is."
        )
    return min(available, int(unique_tokens) // seq_len)


def heldout_count(config: DataConfig, seq_len: int) -> int:
    """Rows of the held-out sample."""
    return max(1, round(int(config.heldout_tokens) / seq_len))


def heldout_rows(stream: Stream, config: DataConfig, seq_len: int) -> Rows:
    """A fixed sample of the held-out stream, the same for every seed of a run.

    Raises:
        PlanError: The stream is shorter than the sample.
    """
    count, available = heldout_count(config, seq_len), stream.row_count(seq_len)
    if count > available:
        raise PlanError(
            f"{len(stream)} held-out tokens where data.heldout_tokens={config.heldout_tokens} are "
            f"asked for in rows of {seq_len}; set data.heldout_tokens={available * seq_len}."
        )
    places = np.arange(count, dtype=np.int64)
    return stream.rows(np.sort(permuted(places, available, config.seed, HELDOUT)), seq_len)


def bytes_per_token(packed: Packed, rows: Rows) -> float | None:
    """Bytes of text per predicted token of the held-out rows."""
    if packed.token_bytes is None:
        return packed.bytes_per_token
    return float(packed.token_bytes[rows[:, 1:]].mean())


def unigram_loss(train: Rows, heldout: Rows, vocab: int) -> float:
    """Loss of the training rows' token frequencies (plus one each) on held-out rows."""
    counts = np.bincount(train[:, 1:].ravel(), minlength=vocab) + 1.0
    logs = -np.log(counts / counts.sum())
    return float(logs[heldout[:, 1:]].mean())
