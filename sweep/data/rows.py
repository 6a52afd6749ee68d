"""Rows of tokens: the interface of every data source, and sources of tokens on disk.

`TokenSource` is what a source offers: rows in a seeded order, a held-out sample, facts of the data.
Text, shards and data sets all become a `TokenizedCorpus`, two streams of tokens of which one is
held out, and `CorpusSource` serves its rows.

A `TokenStream` reads intervals of memory-mapped shards as one sequence; splitting a corpus copies
nothing. Row i holds tokens i*T to i*T + T of the stream, so that every token but the first is
predicted exactly once an epoch.

`permuted` gives seeded orders without memory: a keyed permutation, computed at any position. A
balanced Feistel network permutes the smallest square domain of 4^k values that holds n; a value
outside n is sent through again until it lies inside (cycle walking), which leaves a permutation of
n. The domain is below 4n, so a value takes fewer than four passes on average.

Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""Luby and Rackoff need 4; with 6 there is no visible structure even in domains of a few values."""
UNIGRAM_TOKENS = 4_000_000
"""Training tokens counted for the unigram loss: its error is below 0.001 nats at any vocabulary."""
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""Increment of SplitMix64: 2^64 over the golden ratio, odd."""
SUBSET, HELDOUT = -1, -2
"""Used instead of an epoch, which is at least 0, in the keys of other permutations."""


Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


def mixed(values: Words) -> Words:
    """Hash 64-bit words, one to one: a step of SplitMix64."""
    return finalised(values + GOLDEN_GAMMA)


def finalised(x: Words) -> Words:
    """The finaliser of SplitMix64: every input bit affects every output bit.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators".
    """
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
    """Values of a keyed permutation of range(size) at some positions.

    Args:
        positions: (n,), each in [0, size).
        size: Number of values that are permuted, positive.
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
    """Intervals of shards, read as one sequence of tokens."""

    shards: tuple[Tokens, ...]
    shard: Ints
    """(intervals,) number of the shard of each interval."""
    begin: Ints
    """(intervals,) where each begins in its shard."""
    place: Ints
    """(intervals + 1,) where each begins in the stream, and the end of the stream."""

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
        interval = self._interval(start)
        whole = start + seq_len < self.place[interval + 1]
        address = self.begin[interval] + start - self.place[interval]
        for number in np.unique(self.shard[interval[whole]]):
            chosen = np.flatnonzero(whole & (self.shard[interval] == number))
            windows = sliding_window_view(self.shards[number], seq_len + 1)
            out[chosen] = windows[address[chosen]]
        split = np.flatnonzero(~whole)  # rows across a border, token by token
        out[split] = self._tokens(start[split, None] + np.arange(seq_len + 1))
        return out

    def _tokens(self, positions: Ints) -> Rows:
        """Tokens at any positions of the stream, same shape."""
        interval = self._interval(positions)
        address = self.begin[interval] + positions - self.place[interval]
        out = np.empty(positions.shape, dtype=np.int32)
        for number in np.unique(self.shard[interval]):
            chosen = self.shard[interval] == number
            out[chosen] = self.shards[number][address[chosen]]
        return out

    def _interval(self, positions: Ints) -> Ints:
        """The interval that contains each position."""
        after = np.searchsorted(self.place, positions, side="right")
        return np.asarray(after - 1, dtype=np.int64)


def stream_of(shards: Sequence[Tokens], intervals: Ints | None = None) -> TokenStream:
    """Make a stream of intervals of the concatenated shards.

    Args:
        shards: Each (n,) of an integer type.
        intervals: (m, 2) begin and end, ascending and disjoint; None takes everything.
    """
    arrays = tuple(np.asarray(shard) for shard in shards)
    borders = np.concatenate([[0], np.cumsum([len(s) for s in arrays], dtype=np.int64)])
    if intervals is None:
        intervals = np.array([[0, borders[-1]]])
    # Cut at the borders of intervals and shards, then keep the parts inside an interval.
    cut = np.unique(np.concatenate([intervals.ravel(), borders]))
    owner = np.searchsorted(intervals[:, 0], cut[:-1], side="right") - 1
    inside = (owner >= 0) & (cut[:-1] < intervals[owner, 1])
    begin, end = cut[:-1][inside], cut[1:][inside]
    shard = np.searchsorted(borders, begin, side="right") - 1
    return TokenStream(
        shards=arrays,
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
    part: NDArray[np.uint8] | None = None
    """(rows,), or (rows, seq_len) of single tokens: index into `parts`, whose own losses are
    measured besides; what belongs to none has a larger one."""
    parts: tuple[str, ...] = ()


class TokenSource(Protocol):
    """A data source: rows of tokens by index, and a held-out sample.

    One with text may also have `encode`, from a text to a list of tokens, `decode`, and `start`,
    the tokens that begin a document: tasks, further held-out texts and prompts are read by them.
    """

    info: DataInfo
    vocab: int
    seq_len: int
    facts: tuple[tuple[str, str], ...]
    """What was found in the data, for the plan."""

    @property
    def available_tokens(self) -> int | None:
        """Distinct training tokens before any cap; None: endless."""

    @property
    def unigram_loss(self) -> float:
        """Loss of the token frequencies of training on the held-out sample [nats/token]."""

    def train(self, start: int, count: int, every: int = 1) -> Rows:
        """Rows start, start + every, ... of the seeded training order, (count, seq_len + 1)."""

    def heldout(self) -> Heldout:
        """The held-out sample."""

    def verify(self) -> None:
        """Raise a `PlanError` where the data are no longer those that were opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedCorpus:
    """Tokens on disk, split into training and held-out streams."""

    name: str
    hash: str
    """Content hash of all tokens."""
    vocab: int
    train: TokenStream
    heldout: TokenStream
    encode: Callable[[str], list[int]] | None = None
    """The tokens of a text; None where another program made the tokens."""
    decode: Callable[[Sequence[int]], str] | None = None
    """The text of some tokens, as `encode`."""
    end: int | None = None
    """The token that ends a text."""
    token_bytes: Ints | None = None
    """(vocab,) bytes of text that each token stands for."""
    bytes_per_token: float | None = None
    """Given where the bytes of single tokens are not known."""
    verify: Callable[[], None] = lambda: None
    """Raises a `PlanError` where the tokens on disk are no longer those that were opened."""
    facts: tuple[tuple[str, str], ...] = ()
    """What was found in the data, for the plan: a name of at most 10 letters and a text each."""


class CorpusSource:
    """A source of tokens on disk: an epoch has every row of the chosen subset exactly once."""

    def __init__(
        self, corpus: TokenizedCorpus, config: DataConfig, seq_len: int, seed: int
    ) -> None:
        self._corpus, self._config, self._seed = corpus, config, seed
        self.vocab, self.seq_len = corpus.vocab, seq_len
        available = corpus.train.row_count(seq_len)
        self.available_tokens: int | None = available * seq_len
        self._available_rows = available
        self.unique = capped_rows(config.unique_tokens, seq_len, available)
        self._heldout = Heldout(rows=heldout_rows(corpus.heldout, config, seq_len))
        self.facts = corpus.facts
        self.encode, self.decode = corpus.encode, corpus.decode
        self.start = () if corpus.end is None else (corpus.end,)
        self.info = DataInfo(
            name=corpus.name,
            hash=corpus.hash,
            unique_tokens=self.unique * seq_len,
            bytes_per_token=mean_token_bytes(corpus, self._heldout.rows),
        )

    @cached_property
    def unigram_loss(self) -> float:
        """Loss of the frequencies in a part of the subset, the same for every seed of a run."""
        rows = self.first_rows(max(1, UNIGRAM_TOKENS // self.seq_len))
        return unigram_loss(rows, self._heldout.rows, self.vocab)

    def first_rows(self, most: int) -> Rows:
        """The first rows of the subset, at most so many, in an order that no seed of a run sets."""
        count = min(self.unique, most)
        return self._corpus.train.rows(self._subset(np.arange(count)), self.seq_len)

    def train(self, start: int, count: int, every: int = 1) -> Rows:
        return self.rows_at(np.arange(start, start + every * count, every, dtype=np.int64))

    def rows_at(self, number: Ints) -> Rows:
        """Rows of the training order by their numbers (count,), shape (count, seq_len + 1)."""
        rows = in_epochs(number, self.unique, self._seed)
        return self._corpus.train.rows(self._subset(rows), self.seq_len)

    def heldout(self) -> Heldout:
        return self._heldout

    def verify(self) -> None:
        self._corpus.verify()

    def _subset(self, rows: Ints) -> Ints:
        """Rows of the stream: a larger cap adds rows to those of a smaller one."""
        return permuted(rows, self._available_rows, self._config.seed, SUBSET)


def moved_data(config: DataConfig, found: str, planned: str) -> PlanError:
    """What is said of data whose content hash is not the planned one."""
    where = config.name if config.path is None else f"{config.name} of data.path={config.path}"
    return PlanError(
        f"the data ({where}) changed after the runs were planned: their content hash was {planned} "
        f"and is {found}. Bring the old data back, or give the same command again to train on the "
        "new."
    )


def in_epochs(number: Ints, size: int, seed: int) -> Ints:
    """Row number at each place of the training order, with another order in every epoch."""
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
            f"the held-out part has {len(stream)} tokens; data.heldout_tokens="
            f"{config.heldout_tokens} in rows of {seq_len} needs more. Set "
            f"data.heldout_tokens={available * seq_len}."
        )
    places = np.arange(count, dtype=np.int64)
    return stream.rows(np.sort(permuted(places, available, config.seed, HELDOUT)), seq_len)


def mean_token_bytes(corpus: TokenizedCorpus, rows: Rows) -> float | None:
    """Bytes of text per predicted token of the held-out rows."""
    if corpus.token_bytes is None:
        return corpus.bytes_per_token
    return float(corpus.token_bytes[rows[:, 1:]].mean())


def unigram_loss(train: Rows, heldout: Rows, vocab: int) -> float:
    """Loss of the training rows' token frequencies (plus one each) on held-out rows."""
    counts = np.bincount(train[:, 1:].ravel(), minlength=vocab) + 1.0
    logs = -np.log(counts / counts.sum())
    return float(logs[heldout[:, 1:]].mean())
