"""Token sources: what every run trains on and is measured with.

    stories   the embedded language, endless, its entropy known             sweep.stories
    text      the user's files, as bytes or as a bpe trained on them        sweep.files
    tokens    memory-mapped shards of tokens made elsewhere                 sweep.shards
    hf        a data set of the Hugging Face hub, or one saved to disk      sweep.hub

Text and data sets are tokenised once into a cache. All of them keep the held-out sample apart from
training, order rows by the run's seed, can be read from any position, and repeat in whole epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from fit.data.records import DataInfo
from fit.errors import PlanError
from sweep.config import DataConfig
from sweep.data.grammars import language
from sweep.data.language import Language, bytes_per_token, rows, sample
from sweep.data.rows import (
    CorpusSource,
    Heldout,
    Rows,
    TokenizedCorpus,
    TokenSource,
    capped_rows,
    heldout_count,
    in_epochs,
    unigram_loss,
)
from sweep.data.shards import open_shards
from sweep.data.text import open_hub, open_text

UNIGRAM_ROWS = 1024
REPEATED_TOKENS = 1 << 30
"""Most tokens of `stories` that can be repeated: they are kept, 2 bytes each."""


class StoriesSource:
    """The embedded language; `unique_tokens` repeats the rows that an endless run begins with."""

    def __init__(self, config: DataConfig, *, seq_len: int, seed: int) -> None:
        self._language, self._seed = language(config.size, config.seed), seed
        self.vocab, self.seq_len = len(self._language.vocab), seq_len
        self.info = _stories_info(config, seq_len)
        self._unique = _stories_unique(config, seq_len)
        self._kept: Rows | None = None
        count = heldout_count(config, seq_len)
        drawn = sample(
            self._language, stream="heldout", seed=0, start=0, count=count, seq_len=seq_len
        )
        self._heldout = Heldout(
            rows=drawn.tokens,
            ideal=drawn.ideal,
            skill=drawn.skill,
            skills=self._language.skills,
        )
        first = self._rows(0, min(UNIGRAM_ROWS, self._unique or UNIGRAM_ROWS))
        self.unigram_loss = unigram_loss(first, self._heldout.rows, self.vocab)

    def train(self, start: int, count: int) -> Rows:
        unique = self._unique
        if unique is None or start + count <= unique:
            return self._rows(start, count)
        if self._kept is None:
            self._kept = self._rows(0, unique).astype(np.uint16)
        number = np.arange(start, start + count, dtype=np.int64)
        later = number >= unique
        number[later] = in_epochs(number[later], unique, self._seed)
        return np.asarray(self._kept[number], dtype=np.int32)

    def heldout(self) -> Heldout:
        return self._heldout

    def _rows(self, start: int, count: int) -> Rows:
        """Rows of the endless stream."""
        return rows(
            self._language,
            stream="train",
            seed=self._seed,
            start=start,
            count=count,
            seq_len=self.seq_len,
        )


def open_source(config: DataConfig, *, seq_len: int, seed: int) -> TokenSource:
    """Open a data source for training.

    Args:
        config: Where tokens come from.
        seq_len: Predicted tokens of a row, T.
        seed: The run's seed: sets the order of training, not the held-out sample.

    Raises:
        PlanError: The data are missing, unreadable, or shorter than the held-out sample and a row.
    """
    if config.name == "stories":
        return StoriesSource(config, seq_len=seq_len, seed=seed)
    return CorpusSource(_open_packed(config, seq_len), config, seq_len=seq_len, seed=seed)


def describe(config: DataConfig, seq_len: int) -> tuple[int, int | None, DataInfo]:
    """Vocabulary, distinct training tokens before any cap (None: endless), and facts.

    Cheap where the data have been tokenised before.

    Raises:
        PlanError: As `open_source`.
    """
    if config.name == "stories":
        return len(language(config.size, config.seed).vocab), None, _stories_info(config, seq_len)
    source = CorpusSource(_open_packed(config, seq_len), config, seq_len=seq_len, seed=0)
    return source.vocab, source.available * seq_len, source.info


def _open_packed(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open tokens on disk by the config's name."""
    openers: dict[str, Callable[[DataConfig, int], TokenizedCorpus]] = {
        "text": open_text,
        "tokens": open_shards,
        "hf": open_hub,
    }
    if config.name not in openers:
        known = ", ".join(["stories", *openers])
        raise PlanError(f"data.name='{config.name}' is unknown; known are {known}.")
    return openers[config.name](config, seq_len)


def _stories_unique(config: DataConfig, seq_len: int) -> int | None:
    """Distinct rows of a capped language; None is endless."""
    if config.unique_tokens is None:
        return None
    if config.unique_tokens > REPEATED_TOKENS:
        raise PlanError(
            f"data.unique_tokens={config.unique_tokens}; stories repeats {REPEATED_TOKENS} tokens "
            "at most. Set it to null: the language is endless."
        )
    return capped_rows(config.unique_tokens, seq_len, REPEATED_TOKENS)


def _stories_info(config: DataConfig, seq_len: int) -> DataInfo:
    """Facts of the language, with its cap."""
    unique = _stories_unique(config, seq_len)
    spoken, per_byte, entropy, by_skill = _facts(config.size, config.seed, seq_len)
    return DataInfo(
        name="stories",
        hash=spoken.hash,
        unique_tokens=None if unique is None else unique * seq_len,
        bytes_per_token=per_byte,
        entropy=entropy,
        entropy_by_skill=dict(by_skill),
    )


@lru_cache(maxsize=32)
def _facts(size: str, seed: int, seq_len: int) -> tuple[Language, float, float, dict[str, float]]:
    """What takes a sum over positions, once a process."""
    spoken = language(size, seed)
    return (
        spoken,
        bytes_per_token(spoken, seq_len),
        spoken.entropy(seq_len),
        spoken.entropy_by_skill(seq_len),
    )
