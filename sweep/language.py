"""The grammar of `stories`: a small English-like language whose entropy is known exactly.

A language is a machine of states. In each state one of a few segments is chosen, each with a known
probability and each beginning with another token, so that the first token reveals the choice. A
segment is a fixed number of slots: a fixed word, a fresh draw from a known distribution, or a word
that follows from draws made before. Nothing else is random, so the ideal loss of every token is
known as it is made, and the expected loss of a perfect predictor is a sum over positions.

Every probability is a count out of 65,536, drawn by one 16-bit lane: exact, not approximate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LANE = 65_536
SKILLS = ("grammar", "novel", "facts", "consistency", "reasoning")
"""Fixed words; fresh choices; the language's table of facts; this story's names and objects again;
answers that take steps (Eldan & Li 2023, arXiv:2305.07759)."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A fixed token: costs a perfect predictor nothing."""

    token: int
    skill: str = "grammar"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """A fresh draw of variable `var`, whose distribution may depend on an earlier variable.

    `counts` is (contexts, options) and sums to 65,536 along options; `tokens` has one per option.
    """

    var: str
    counts: Ints
    tokens: Ints
    given: tuple[str, ...] = ()
    """Variables that pick the row of `counts`, most significant first, each of `options` values."""
    skill: str = "novel"

    def entropy(self) -> Floats:
        """Entropy of each row [nats], shape (contexts,)."""
        p = self.counts / LANE
        return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recall:
    """A token that follows from variables: costs a perfect predictor nothing."""

    table: Ints
    """Token by the variables' values, one axis per variable."""
    given: tuple[str, ...]
    skill: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Update:
    """Not a token: sets a variable from others, between two slots."""

    var: str
    table: Ints
    given: tuple[str, ...]


Slot = Word | Draw | Recall | Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Slots in a row, chosen with probability count / 65,536; then the machine is in `then`."""

    count: int
    slots: tuple[Slot, ...]
    then: str
    skill: str | None = None
    """Skill of the first token when it reveals a choice; None: the language's `choice_skill`."""

    @property
    def length(self) -> int:
        """Tokens in the segment."""
        return sum(not isinstance(slot, Update) for slot in self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A machine with its vocabulary. Stories begin in `start`, where every row begins too."""

    name: str
    seed: int
    vocab: tuple[str, ...]
    """Token strings; 0 is `<bos>`."""
    states: Mapping[str, tuple[Segment, ...]]
    start: str
    choice_skill: str = "grammar"
    """Skill of a segment's first token when it reveals a choice and the segment names none."""
    skills: tuple[str, ...] = SKILLS
    hash: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, segments in self.states.items():
            total = sum(s.count for s in segments)
            assert total == LANE, f"state {name}: counts sum to {total}"
        object.__setattr__(self, "hash", _content_hash(self))

    def entropy_by_skill(self, seq_len: int) -> dict[str, float]:
        """Expected loss of a perfect predictor on rows of `seq_len` tokens [nats/token], by skill.

        A dynamic programme over positions: the probability that a segment of each state starts at
        position t, times what its tokens cost, those past the row's end left out.
        """
        costs = {
            name: [self._costs(s, segments) for s in segments]
            for name, segments in self.states.items()
        }
        starts = {name: np.zeros(seq_len) for name in self.states}
        starts[self.start][0] = 1.0
        totals = np.zeros(len(self.skills))
        for position in range(seq_len):
            for name, segments in self.states.items():
                mass = starts[name][position]
                if mass == 0.0:
                    continue
                for segment, cost in zip(segments, costs[name], strict=True):
                    share = mass * segment.count / LANE
                    totals += share * cost[: seq_len - position].sum(axis=0)
                    after = position + segment.length
                    if after < seq_len:
                        starts[segment.then][after] += share
        return {s: float(v) / seq_len for s, v in zip(self.skills, totals, strict=True)}

    def entropy(self, seq_len: int) -> float:
        """Expected loss of a perfect predictor on rows of `seq_len` tokens [nats/token]."""
        return math.fsum(self.entropy_by_skill(seq_len).values())

    def _costs(self, segment: Segment, siblings: Sequence[Segment]) -> Floats:
        """Expected ideal loss (length, skills) of a segment's tokens."""
        costs = np.zeros((segment.length, len(self.skills)))
        weights: dict[str, Floats] = {}
        position = 0
        for slot in segment.slots:
            if isinstance(slot, Update):
                continue
            if isinstance(slot, Draw):
                context = _joint(weights, slot.given)
                costs[position, self.skills.index(slot.skill)] += float(context @ slot.entropy())
                weights[slot.var] = context @ (slot.counts / LANE)
                weights["/".join((*slot.given, slot.var))] = (
                    context[:, None] * slot.counts / LANE
                ).ravel()
            position += 1
        if len(siblings) > 1:
            costs[0, self.choice(segment)] -= math.log(segment.count / LANE)
        return costs

    def choice(self, segment: Segment) -> int:
        """Number of the skill of a segment's first token when it reveals a choice."""
        return self.skills.index(segment.skill or self.choice_skill)


def _joint(weights: Mapping[str, Floats], given: tuple[str, ...]) -> Floats:
    """Joint distribution of the variables that a draw depends on, flattened."""
    return weights["/".join(given)] if given else np.ones(1)


def counts_from(weights: NDArray[np.float64]) -> Ints:
    """Counts out of 65,536 in proportion to weights, every one at least 1, along the last axis."""
    flat = np.atleast_2d(weights)
    share = flat / flat.sum(axis=1, keepdims=True) * (LANE - flat.shape[1])
    counts = 1 + np.floor(share).astype(np.int64)
    order = np.argsort(np.floor(share) - share, axis=1, kind="stable")
    missing = LANE - counts.sum(axis=1)
    ranks = np.argsort(order, axis=1, kind="stable")
    return np.asarray(counts + (ranks < missing[:, None]))


def _content_hash(language: Language) -> str:
    """Hash of everything that generates the text."""
    digest = hashlib.sha256(repr((language.vocab, language.start, language.choice_skill)).encode())
    for name, segments in language.states.items():
        digest.update(name.encode())
        for segment in segments:
            digest.update(repr((segment.count, segment.then)).encode())
            digest.update((segment.skill or "").encode())
            for slot in segment.slots:
                for key in slot.__slots__:
                    value = getattr(slot, key)
                    raw = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
                    digest.update(key.encode() + raw)
    return f"sha256:{digest.hexdigest()}"
