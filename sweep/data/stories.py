"""The data source `stories`: a generated language of short stories, its entropy known exactly.

| size   | holds                                                                              |
| ------ | ---------------------------------------------------------------------------------- |
| demo   | stories around a long tail of facts: a clean power law in minutes of training      |
| small  | demo with names and objects that come back (consistency)                           |
| full   | small with the counting game (reasoning) at a few percent of sentences             |
| skills | facts and mostly the counting game, 1 to 4 moves: the effect of width and of depth  |
| tales  | a plot: dialogue, twist, bad ending, moral (`.tales`); `tales-even`: of objects that |
|        | are all as common; `tales-instruct`: as asked                                        |

`language` builds the grammar of a size (`sweep.data.grammars`, `sweep.data.tales`), and
`StoriesSource` serves its rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import DataInfo
from fit.errors import PlanError
from sweep.config import DataConfig
from sweep.data.grammars import MOVES, StoryBuilder
from sweep.data.language import Language, Sample, bytes_per_token, rows, sample, text
from sweep.data.rows import Heldout, Ints, Rows, capped_rows, heldout_count, in_epochs, unigram_loss
from sweep.data.tales import TaleBuilder

SIZES = ("demo", "small", "full", "skills", "tales", "tales-even", "tales-instruct")
UNIGRAM_ROWS = 1024
"""Training rows whose token frequencies give the unigram loss."""
REPEATED_TOKENS = 1 << 30
"""Most tokens that can be repeated: they stay in memory, 2 bytes each."""


@functools.lru_cache(maxsize=4)
def language(size: str, seed: int) -> Language:
    """Build the language of a size and seed.

    Args:
        size: One of `SIZES`.
        seed: Decides which words, places and facts go together.

    Raises:
        PlanError: The size is unknown, or the seed is not in [0, 2^63).
    """
    if size not in SIZES:
        raise PlanError(
            f"data.size={size} is unknown; known sizes of stories are {', '.join(SIZES)}."
        )
    if not 0 <= seed < 1 << 63:
        raise PlanError(
            f"data.seed={seed} is out of range; stories needs a seed of at least 0 and below 2^63."
        )
    builder = TaleBuilder if size.startswith("tales") else StoryBuilder
    return builder(size, seed).build()


class StoriesSource:
    """The data source `stories`, endless unless `unique_tokens` caps it.

    Under a cap the first epoch is the beginning of the endless stream; later epochs repeat its rows
    in other orders. The held-out sample is a stream of its own.
    """

    available_tokens = None
    start = (0,)
    facts: tuple[tuple[str, str], ...] = (
        ("tokenizer", "words of the language"),
        ("documents", "endless, none repeated"),
    )

    def __init__(self, config: DataConfig, seq_len: int, seed: int) -> None:
        self._language, self._config, self._seed = language(config.size, config.seed), config, seed
        self.vocab, self.seq_len = len(self._language.vocab), seq_len
        self._unique = _unique_rows(config.unique_tokens, seq_len)
        self._kept: Rows | None = None
        self.info = _describe_language(config.size, config.seed, seq_len)
        if self._unique is not None:
            self.info = dataclasses.replace(self.info, unique_tokens=self._unique * seq_len)

    @functools.cached_property
    def unigram_loss(self) -> float:
        """Loss of the token frequencies of the first `UNIGRAM_ROWS` rows."""
        first = self._rows(0, min(UNIGRAM_ROWS, self._unique or UNIGRAM_ROWS))
        return unigram_loss(first, self.heldout().rows, self.vocab)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in words of the language.

        Raises:
            PlanError: It has another word.
        """
        number = {word: token for token, word in enumerate(self._language.vocab)}
        tokens = []
        for word in text.replace(",", " , ").replace(".", " . ").split():
            spelled = _spell(word, number)
            if not spelled:
                raise PlanError(f"'{word}' is no word of stories, data.size={self._config.size}.")
            tokens += spelled
        return tokens

    @property
    def language(self) -> Language:
        """The language whose text this is."""
        return self._language

    @property
    def ending(self) -> list[int]:
        """The tokens that end a story."""
        return self.encode("the end ." if "tales" in self._config.size else "so ends the story .")

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, as people write it."""
        return text(self._language, np.array(tokens, dtype=np.int32))

    def train(self, start: int, count: int, every: int = 1) -> Rows:
        unique = self._unique
        if unique is None or start + every * (count - 1) < unique:
            return self._rows(start, count, every)
        if self._kept is None:
            self._kept = self._rows(0, unique).astype(np.uint16)
        number = np.arange(start, start + every * count, every, dtype=np.int64)
        repeated = number >= unique
        number[repeated] = in_epochs(number[repeated], unique, self._seed)
        return np.asarray(self._kept[number], dtype=np.int32)

    def heldout(self) -> Heldout:
        return self._heldout

    def verify(self) -> None:
        """Nothing can change: the language is generated."""

    @functools.cached_property
    def _heldout(self) -> Heldout:
        """The held-out sample, drawn only where it is needed: a plan does without."""
        count = heldout_count(self._config, self.seq_len)
        drawn = sample(
            self._language, stream="heldout", seed=0, start=0, count=count, seq_len=self.seq_len
        )
        part, parts = parts_by_moves(self._language, drawn, MOVES)
        return Heldout(
            rows=drawn.tokens, ideal=drawn.ideal, skill=drawn.skill,
            skills=self._language.skills, part=part, parts=parts,
        )  # fmt: skip

    def _rows(self, start: int, count: int, every: int = 1) -> Rows:
        """Rows of the endless stream."""
        return rows(
            self._language,
            stream="train",
            seed=self._seed,
            start=start,
            count=count,
            seq_len=self.seq_len,
            every=every,
        )


def _spell(word: str, number: dict[str, int]) -> list[int]:
    """The tokens of a word, of several syllables where it is a place; none where there are none."""
    if word in number:
        return [number[word]]
    for end in range(1, len(word)):
        if f"{word[:end]}-" in number and (rest := _spell(word[end:], number)):
            return [number[f"{word[:end]}-"], *rest]
    return []


def _unique_rows(unique_tokens: int | None, seq_len: int) -> int | None:
    """Distinct rows of a capped language; None is endless."""
    if unique_tokens is None:
        return None
    if unique_tokens > REPEATED_TOKENS:
        raise PlanError(
            f"data.unique_tokens={unique_tokens} is too large; stories can repeat at most "
            f"{REPEATED_TOKENS} tokens. Set it to null: the language is endless."
        )
    return capped_rows(unique_tokens, seq_len, REPEATED_TOKENS)


@functools.lru_cache(maxsize=32)
def _describe_language(size: str, seed: int, seq_len: int) -> DataInfo:
    """Facts of the uncapped language, kept because the sums over positions take time."""
    grammar = language(size, seed)
    return DataInfo(
        name="stories",
        hash=grammar.hash,
        unique_tokens=None,
        bytes_per_token=bytes_per_token(grammar, seq_len),
        entropy=grammar.entropy(seq_len),
        entropy_by_skill=grammar.entropy_by_skill(seq_len),
    )


def moves_before(grammar: Language, tokens: NDArray[Any], moves: Sequence[str]) -> Ints:
    """Length of the unbroken sequence of moves that ends at each token, (rows, positions)."""
    moving = np.isin(tokens, [grammar.vocab.index(m) for m in moves if m in grammar.vocab])
    place = np.arange(tokens.shape[1])
    return np.asarray(place - np.maximum.accumulate(np.where(moving, -1, place), axis=1))


def parts_by_moves(
    grammar: Language, drawn: Sample, moves: Sequence[str]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Which part of a sample each target token belongs to, and names of the parts.

    Returns:
        Index (rows, seq_len), len(names) for tokens that are no answers; names such as `2 moves`.
    """
    answers = drawn.skill == grammar.skills.index("reasoning")
    counts = np.where(answers, moves_before(grammar, drawn.tokens[:, :-1], moves), 0)
    lengths = np.unique(counts[answers])
    names = tuple(f"{k} {'move' if k == 1 else 'moves'}" for k in lengths)
    index = np.where(answers, np.searchsorted(lengths, counts), len(lengths))
    return index.astype(np.uint8), names
