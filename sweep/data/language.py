"""Random languages whose entropy is known exactly, and rows of their text by index.

A `Language` is a machine of states. In each state one of a few segments is chosen, each with a
known probability and each beginning with another token, so that the first token reveals the choice.
A segment is a fixed number of slots: a fixed word, a random draw from a known distribution, or a
word that earlier draws determine. Nothing else is random, so the ideal loss of every token is known
when it is generated, and the expected loss of a perfect predictor is a sum over positions. Every
probability is a count out of 65,536, drawn by one 16-bit number: exact, not approximate.

`sample` generates any rows at once, vectorised over rows. Row i of a stream depends only on
(language, stream, seed, i), through a keyed counter hash, so that training resumes anywhere, and
the rows of evaluation, which are another stream, cannot overlap it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sweep.data.rows import GOLDEN_GAMMA, Ints, finalised

LANE = 65_536
"""Values of a lane, the 16-bit number behind one draw."""
SKILLS = ("grammar", "novel", "facts", "consistency", "reasoning")
"""What a token asks of a model: fixed words; random choices; the language's table of facts; names
and objects of the same story; answers that take steps (Eldan & Li 2023, arXiv:2305.07759)."""
U64 = np.uint64

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A fixed token, which has no loss under a perfect predictor."""

    token: int
    skill: str = "grammar"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """A random draw of variable `var`, whose distribution may depend on earlier variables.

    `counts` is (contexts, options) and sums to 65,536 along options; `tokens` has one per option.
    """

    var: str
    counts: Ints
    tokens: Ints
    given: tuple[str, ...] = ()
    """Variables whose values select the row of `counts`, most significant first.

    The names of slot fields are part of the language's hash.
    """
    skill: str = "novel"

    def entropy(self) -> Floats:
        """Entropy of each row [nats], shape (contexts,)."""
        p = self.counts / LANE
        return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recall:
    """A token that variables determine, which has no loss under a perfect predictor."""

    table: Ints
    """Token by the values of the variables, one axis per variable."""
    given: tuple[str, ...]
    skill: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Update:
    """Sets a variable from others between two slots; it is not a token."""

    var: str
    table: Ints
    given: tuple[str, ...]


Slot = Word | Draw | Recall | Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sequence of slots, chosen with probability count / 65,536; `then` is the next state."""

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
    """A machine of states with its vocabulary; every row begins in the state `start`."""

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
        position t, times the loss of its tokens, without those beyond the end of the row.
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
        """Index of the skill of a segment's first token where it reveals a choice."""
        return self.skills.index(segment.skill or self.choice_skill)


def _joint(weights: Mapping[str, Floats], variables: tuple[str, ...]) -> Floats:
    """Joint distribution of the variables that a draw depends on, flattened."""
    return weights["/".join(variables)] if variables else np.ones(1)


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
    """Hash of everything that decides the text."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows with the ideal loss and the skill of every token."""

    tokens: NDArray[np.int32]
    """(rows, seq_len + 1), beginning with `<bos>`."""
    ideal: NDArray[np.float32]
    """(rows, seq_len): negative log-probability under the language itself [nats]."""
    skill: NDArray[np.uint8]
    """(rows, seq_len): index into the language's skills."""


def rows(
    language: Language, *, stream: str, seed: int, start: int, count: int, seq_len: int
) -> NDArray[np.int32]:
    """Tokens of rows [start, start + count), shape (count, seq_len + 1)."""
    return sample(
        language, stream=stream, seed=seed, start=start, count=count, seq_len=seq_len
    ).tokens


def sample(
    language: Language,
    *,
    stream: str,
    seed: int,
    start: int,
    count: int,
    seq_len: int,
    every: int = 1,
) -> Sample:
    """Rows start, start + every, ... of a stream with the ideal loss and skill of every token."""
    lanes = _lanes(stream, seed, np.arange(start, start + every * count, every, dtype=U64), seq_len)
    writer = _RowWriter(language, lanes, seq_len)
    return writer.write()


def text(language: Language, tokens: NDArray[np.int32]) -> str:
    """Readable text, one row a line; a syllable that ends in `-` is joined to the next one."""
    lines = []
    for row in np.atleast_2d(tokens):
        words = " ".join(language.vocab[t] for t in row)
        line = words.replace("- ", "").replace(" ,", ",").replace(" .", ".")
        lines.append(line)
    return "\n".join(lines)


def bytes_per_token(language: Language, seq_len: int, count: int = 512) -> float:
    """Bytes of the rendered text per token, over a fixed sample of rows."""
    tokens = rows(language, stream="bytes", seed=0, start=0, count=count, seq_len=seq_len)
    return len(text(language, tokens[:, 1:]).encode()) / (count * seq_len)


def _lanes(stream: str, seed: int, rows: NDArray[np.uint64], seq_len: int) -> Ints:
    """Independent 16-bit numbers (rows, lanes), more than a row of seq_len tokens can use."""
    per_row = (seq_len + 64 + 3) // 4
    key = hashlib.sha256(f"{stream}/{seed}".encode()).digest()
    key0, key1 = np.frombuffer(key[:16], dtype=U64)
    index = rows[:, None] * U64(1 << 20)
    counter = index + np.arange(per_row, dtype=U64)
    with np.errstate(over="ignore"):
        words = finalised(finalised(counter * GOLDEN_GAMMA + key0) ^ key1)
    return words.view(np.uint16).reshape(len(rows), 4 * per_row).astype(np.int64)


class _RowWriter:
    """Generates all rows at once, one segment of each row per round."""

    def __init__(self, language: Language, lanes: Ints, seq_len: int) -> None:
        count = len(lanes)
        longest = max(s.length for segments in language.states.values() for s in segments)
        self.language, self.lanes, self.seq_len = language, lanes, seq_len
        self.tokens = np.zeros((count, seq_len + 1 + longest), np.int32)
        self.ideal = np.zeros((count, seq_len + longest), np.float32)
        self.skill = np.zeros((count, seq_len + longest), np.uint8)
        self.at = np.zeros(count, np.int64)
        self.cursor = np.zeros(count, np.int64)
        self.names = sorted(language.states)
        self.state = np.full(count, self.names.index(language.start))
        self.vars: dict[str, Ints] = {}
        self.log = np.zeros(LANE + 1, np.float32)
        self.log[1:] = -np.log(np.arange(1, LANE + 1) / LANE)

    def write(self) -> Sample:
        """Fill every row."""
        active = np.arange(len(self.at))
        while len(active):
            for state, name in enumerate(self.names):
                here = active[(self.state[active] == state) & (self.at[active] < self.seq_len)]
                if len(here):
                    self._choose(here, self.language.states[name])
            active = active[self.at[active] < self.seq_len]
        end = self.seq_len
        return Sample(
            tokens=np.ascontiguousarray(self.tokens[:, : end + 1]),
            ideal=np.ascontiguousarray(self.ideal[:, :end]),
            skill=np.ascontiguousarray(self.skill[:, :end]),
        )

    def _choose(self, here: Ints, segments: tuple[Segment, ...]) -> None:
        """Choose a segment for each row of one state and write it."""
        if len(segments) == 1:
            self._segment(here, segments[0])
            return
        ends = np.cumsum([s.count for s in segments])
        picked = np.searchsorted(ends, self._lane(here), side="right")
        for i, segment in enumerate(segments):
            chosen = here[picked == i]
            if len(chosen):
                first = self.at[chosen]
                self._segment(chosen, segment)
                self.ideal[chosen, first] += self.log[segment.count]
                self.skill[chosen, first] = self.language.choice(segment)

    def _segment(self, here: Ints, segment: Segment) -> None:
        """Write a segment's tokens into its rows."""
        for slot in segment.slots:
            if isinstance(slot, Update):
                self._set(slot.var, here, slot.table[tuple(self.vars[v][here] for v in slot.given)])
                continue
            at = self.at[here]
            if isinstance(slot, Word):
                self.tokens[here, at + 1] = slot.token
            elif isinstance(slot, Recall):
                values = tuple(self.vars[v][here] for v in slot.given)
                self.tokens[here, at + 1] = slot.table[values]
            else:
                self._draw(here, at, slot)
            self.skill[here, at] = self.language.skills.index(slot.skill)
            self.at[here] = at + 1
        self.state[here] = self.names.index(segment.then)

    def _draw(self, here: Ints, at: Ints, slot: Draw) -> None:
        """Write a random draw: the option whose cumulative counts contain the lane."""
        lane = self._lane(here)
        options = slot.counts.shape[1]
        if slot.given:
            context = np.zeros(len(here), np.int64)
            for name in slot.given:
                context = context * options + self.vars[name][here]
            ends = np.cumsum(slot.counts, axis=1)[context]
            value = (lane[:, None] >= ends).sum(axis=1)
            count = slot.counts[context, value]
        else:
            value = np.searchsorted(np.cumsum(slot.counts[0]), lane, side="right")
            count = slot.counts[0, value]
        self._set(slot.var, here, value)
        self.tokens[here, at + 1] = slot.tokens[value]
        self.ideal[here, at] = self.log[count]

    def _lane(self, here: Ints) -> Ints:
        """Take the next unused lane of each row."""
        lane = self.lanes[here, self.cursor[here]]
        self.cursor[here] += 1
        return lane

    def _set(self, name: str, here: Ints, values: Ints) -> None:
        """Set a variable in some rows."""
        if name not in self.vars:
            self.vars[name] = np.zeros(len(self.at), np.int64)
        self.vars[name][here] = values
