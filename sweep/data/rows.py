"""What every token source gives: rows in a seeded order, a held-out sample, facts.

A source of packed tokens is two streams, one to train on and one held out; the user's text, shards
and data sets all end here.

Token streams: stretches of memory-mapped shards, read as one sequence, in rows.

Nothing is copied when a corpus is split: the training stream is the shards with the held-out
stretches left out. Row i holds tokens i*T to i*T + T of the stream, so that every token but the
first is predicted exactly once an epoch.

Seeded orders without memory: a keyed permutation that gives any position at once.

A balanced Feistel network permutes the smallest square domain of 4^k values that holds n; a value
that falls outside n is sent through again until it lands inside (cycle walking), which leaves a
permutation of n. The domain is below 4n, so a value takes fewer than four walks on average.

Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fit.data.records import DataInfo
from fit.errors import PlanError
from sweep.config import DataConfig

ROUNDS = 6
"""Luby and Rackoff need 4; six leave no visible structure in domains of a few values either."""
UNIGRAM_TOKENS = 4_000_000
"""Training tokens counted for the unigram loss: its error is below 0.001 nats at any vocabulary."""
SUBSET, HELDOUT = -1, -2
"""Epochs are numbered from 0; these take their place in keys of other permutations."""


Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


def mixed(values: Words) -> Words:
    """Scramble 64-bit words, one to one.

    Source: the finaliser of SplitMix64, Steele et al. 2014.
    """
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def key_of(*parts: int) -> Words:
    """One 64-bit key, shape (1,), from integers of any sign and size."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mixed(key ^ np.array([part % 2**64], dtype=np.uint64))
    return key


def permuted(positions: Ints, size: int, *key: int) -> Ints:
    """Where a keyed permutation of range(size) sends some positions.

    Args:
        positions: (n,), each in [0, size).
        size: Number of things permuted, positive.
        key: Integers that choose the permutation, such as a seed and an epoch.

    Returns:
        (n,) in [0, size); all positions together give every value once.
    """
    if size == 1:
        return np.zeros(len(positions), dtype=np.int64)
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = [key_of(*key, number) for number in range(ROUNDS)]
    values = _feistel(positions.astype(np.uint64), half, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _feistel(values[outside], half, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: Words, half: np.uint64, keys: list[Words]) -> Words:
    """One pass through the network on words of 2 * half bits."""
    mask = np.uint64((1 << int(half)) - 1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return np.asarray((left << half) | right, dtype=np.uint64)


Tokens = NDArray[Any]
"""One shard, (n,) of any integer type, usually a memory map."""
Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStream:
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


def stream_of(shards: Sequence[Tokens], intervals: Ints | None = None) -> TokenStream:
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
    return TokenStream(
        shards=plain,
        shard=shard.astype(np.int64),
        begin=begin - borders[shard],
        place=np.concatenate([[0], np.cumsum(end - begin, dtype=np.int64)]),
    )


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


class TokenSource(Protocol):
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
class TokenizedCorpus:
    """Tokens on disk, split."""

    name: str
    hash: str
    """Content hash of all tokens."""
    vocab: int
    train: TokenStream
    heldout: TokenStream
    token_bytes: Ints | None = None
    """(vocab,) bytes of text that each token stands for."""
    bytes_per_token: float | None = None
    """Where the bytes of single tokens are not known."""


class CorpusSource:
    """Rows of packed tokens: an honest epoch is every row of the chosen subset once."""

    def __init__(
        self, packed: TokenizedCorpus, config: DataConfig, *, seq_len: int, seed: int
    ) -> None:
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


def heldout_rows(stream: TokenStream, config: DataConfig, seq_len: int) -> Rows:
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


def bytes_per_token(packed: TokenizedCorpus, rows: Rows) -> float | None:
    """Bytes of text per predicted token of the held-out rows."""
    if packed.token_bytes is None:
        return packed.bytes_per_token
    return float(packed.token_bytes[rows[:, 1:]].mean())


def unigram_loss(train: Rows, heldout: Rows, vocab: int) -> float:
    """Loss of the training rows' token frequencies (plus one each) on held-out rows."""
    counts = np.bincount(train[:, 1:].ravel(), minlength=vocab) + 1.0
    logs = -np.log(counts / counts.sum())
    return float(logs[heldout[:, 1:]].mean())
