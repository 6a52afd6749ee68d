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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.data.rows import GOLDEN_GAMMA, Ints, finalised

LANE = 65_536
"""Values of a lane, the 16-bit number behind one draw."""
SKILLS = ("grammar", "novel", "facts", "consistency", "reasoning")
"""What a token asks of a model: fixed words; random choices; the language's table of facts; names
and objects of the same story; answers that take steps (Eldan & Li 2023, arXiv:2305.07759)."""
DIRECT_CONTEXTS = 32
"""Most contexts of a draw whose options stand in a table of all lanes, 64 kB a context."""
MOST_PREPARED = 4
COSTS = np.zeros(LANE + 1, np.float32)
"""Loss of a choice of each count out of 65,536 [nats]."""
COSTS[1:] = -np.log(np.arange(1, LANE + 1) / LANE)
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
    """Variables whose values select the row of `counts`, most significant first."""
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
                context = _context(slot, weights)
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


def _context(draw: Draw, weights: Mapping[str, Floats]) -> Floats:
    """Distribution of the rows of a draw's counts; that of earlier segments must not matter."""
    if not draw.given or "/".join(draw.given) in weights:
        return weights["/".join(draw.given)] if draw.given else np.ones(1)
    assert np.ptp(draw.entropy()) == 0, f"the entropy of {draw.var} depends on an earlier segment"
    return np.full(len(draw.counts), 1 / len(draw.counts))


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
    """Hash of everything that decides the text, names of slot fields included."""
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
    language: Language,
    *,
    stream: str,
    seed: int,
    start: int,
    count: int,
    seq_len: int,
    every: int = 1,
) -> NDArray[np.int32]:
    """Tokens of rows start, start + every, ..., shape (count, seq_len + 1)."""
    number = np.arange(start, start + every * count, every, dtype=U64)
    lanes = _lanes(stream, seed, number, seq_len)
    return _write(language, lanes, seq_len, measured=False).tokens


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
    number = np.arange(start, start + every * count, every, dtype=U64)
    return _write(language, _lanes(stream, seed, number, seq_len), seq_len, measured=True)


def text(language: Language, tokens: NDArray[np.int32]) -> str:
    """Readable text, one row a line; a syllable that ends in `-` is joined to the next one."""
    lines = []
    for row in np.atleast_2d(tokens):
        words = " ".join(language.vocab[t] for t in row)
        line = words.replace("- ", "").replace(" ,", ",").replace(" .", ".")
        lines.append(line)
    return "\n".join(lines)


def bytes_per_token(language: Language, seq_len: int, count: int = 512) -> float:
    """Bytes of the text per token, over a fixed sample of rows."""
    tokens = rows(language, stream="bytes", seed=0, start=0, count=count, seq_len=seq_len)
    return len(text(language, tokens[:, 1:]).encode()) / (count * seq_len)


def _lanes(stream: str, seed: int, rows: NDArray[np.uint64], seq_len: int) -> NDArray[np.uint16]:
    """Independent 16-bit numbers (rows, lanes), more than a row of seq_len tokens can use."""
    per_row = (seq_len + 64 + 3) // 4
    key = hashlib.sha256(f"{stream}/{seed}".encode()).digest()
    key0, key1 = np.frombuffer(key[:16], dtype=U64)
    counter = rows[:, None] * U64(1 << 20) + np.arange(per_row, dtype=U64)
    with np.errstate(over="ignore"):
        words = finalised(finalised(counter * GOLDEN_GAMMA + key0) ^ key1)
    return words.view(np.uint16).reshape(len(rows), 4 * per_row)


class _Chooser:
    """The option that a lane chooses: a look into a table or, for many contexts, a search."""

    def __init__(self, counts: Ints) -> None:
        contexts, self.options = counts.shape
        self.table: NDArray[np.uint8] | None = None
        if contexts <= DIRECT_CONTEXTS and self.options <= 256:
            options = np.tile(np.arange(self.options, dtype=np.uint8), contexts)
            self.table = np.repeat(options, counts.ravel())
        # Ends of all contexts in one ascending sequence, each context on a stretch of its own.
        stretch = LANE * np.arange(contexts)[:, None]
        self.ends = (np.cumsum(counts, axis=1) + stretch).ravel()

    def __call__(self, context: Any, lane: NDArray[np.uint16]) -> Ints:
        """Options (n,) of contexts (n,), or of one, and lanes (n,)."""
        key = context * LANE + lane.astype(np.int64)
        if self.table is not None:
            return np.asarray(self.table[key], dtype=np.int64)
        return np.asarray(np.searchsorted(self.ends, key, side="right") - context * self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A slot that is no fixed word, prepared."""

    place: int | None
    """Of its token in the segment; None for an `Update`."""
    given: tuple[tuple[str, int], ...]
    """Variables that select an entry, each with its number of values."""
    table: Ints
    """(entries,) tokens, or values of a variable."""
    var: str = ""
    """The variable that it sets."""
    chooser: _Chooser | None = None
    cost: NDArray[np.float32] | None = None
    """(contexts * options,) of a draw [nats]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """A segment prepared to be written in many rows at once."""

    tokens: NDArray[np.int32]
    """(length,), with the fixed words in their places."""
    skill: NDArray[np.uint8]
    """(length,)."""
    cost: np.float32
    """Loss of the choice of the segment, which its first token reveals [nats]."""
    places: Ints
    steps: tuple[_Step, ...]
    then: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Programs:
    """A language as programs, its segments numbered through and its states by name."""

    segments: tuple[_Program, ...]
    chosen: tuple[NDArray[np.uint8], ...]
    """For each state, (65,536,): the segment that a lane chooses."""
    takes_lane: tuple[bool, ...]
    """For each state, whether it has several segments, so that the choice takes a lane."""
    kept: frozenset[str]
    """Variables that some segment reads before it sets them."""
    start: int
    longest: int


_prepared: dict[str, _Programs] = {}


def _programs_of(language: Language) -> _Programs:
    """The programs of a language, kept by its hash."""
    if language.hash not in _prepared:
        if len(_prepared) >= MOST_PREPARED:
            _prepared.clear()
        _prepared[language.hash] = _prepare(language)
    return _prepared[language.hash]


def _prepare(language: Language) -> _Programs:
    """Turn every segment into a program."""
    names = sorted(language.states)
    choosers: dict[int, _Chooser] = {}
    programs: list[_Program] = []
    chosen, kept = [], set[str]()
    for name in names:
        segments = language.states[name]
        numbers = np.arange(len(programs), len(programs) + len(segments), dtype=np.uint8)
        chosen.append(np.repeat(numbers, [s.count for s in segments]))
        for segment in segments:
            slots = [s for s in segment.slots if not isinstance(s, Update)]
            skill = [language.skills.index(s.skill) for s in slots]
            if len(segments) > 1:
                skill[0] = language.choice(segment)
            steps, place, written = list[_Step](), 0, set[str]()
            for slot in segment.slots:
                if not isinstance(slot, Word):
                    kept |= set(slot.given) - written
                    steps.append(_step_of(slot, place, choosers))
                    written.add(steps[-1].var)
                place += not isinstance(slot, Update)
            program = _Program(
                tokens=np.array([s.token if isinstance(s, Word) else 0 for s in slots], np.int32),
                skill=np.array(skill, np.uint8),
                cost=COSTS[segment.count] if len(segments) > 1 else np.float32(0),
                places=np.arange(len(slots)),
                steps=tuple(steps),
                then=names.index(segment.then),
            )
            programs.append(program)
    return _Programs(
        segments=tuple(programs),
        chosen=tuple(chosen),
        takes_lane=tuple(len(language.states[n]) > 1 for n in names),
        kept=frozenset(kept),
        start=names.index(language.start),
        longest=max(len(p.tokens) for p in programs),
    )


def _step_of(slot: Draw | Recall | Update, place: int, choosers: dict[int, _Chooser]) -> _Step:
    """A slot as a step; draws from one distribution share a chooser."""
    if isinstance(slot, Draw):
        if id(slot.counts) not in choosers:
            choosers[id(slot.counts)] = _Chooser(slot.counts)
        given = tuple((name, slot.counts.shape[1]) for name in slot.given)
        chooser = choosers[id(slot.counts)]
        return _Step(
            place=place,
            given=given,
            table=slot.tokens,
            var=slot.var,
            chooser=chooser,
            cost=COSTS[slot.counts].ravel(),
        )
    given = tuple(zip(slot.given, slot.table.shape, strict=True))
    table = slot.table.ravel()
    if isinstance(slot, Recall):
        return _Step(place=place, given=given, table=table)
    return _Step(place=None, given=given, table=table, var=slot.var)


def _write(
    language: Language, lanes: NDArray[np.uint16], seq_len: int, *, measured: bool
) -> Sample:
    """Write rows; their ideal losses and skills too where they are `measured`, else zeros.

    Rows that write the same segment do so at once; rows of a rare segment wait until they are as
    many as those of the mean one, since a small block costs as much as a large.
    """
    programs, count = _programs_of(language), len(lanes)
    stride = seq_len + 1 + programs.longest
    tokens, drawn = np.zeros(count * stride, np.int32), lanes.ravel()
    ideal = np.zeros(count * stride if measured else 0, np.float32)
    skill = np.zeros(ideal.shape, np.uint8)
    at, cursor = np.arange(count) * stride + 1, np.arange(count) * lanes.shape[1]
    end, segment = at + seq_len, np.zeros(count, np.intp)
    kept = {name: np.zeros(count, np.int64) for name in programs.kept}

    def choose(here: Ints, state: int) -> None:
        if programs.takes_lane[state]:
            segment[here] = programs.chosen[state][drawn[cursor[here]]]
            cursor[here] += 1
        else:
            segment[here] = programs.chosen[state][0]

    active = np.arange(count)
    choose(active, programs.start)
    while len(active):
        now = segment[active]
        sizes = np.bincount(now, minlength=len(programs.segments))
        for number in np.flatnonzero(sizes * np.count_nonzero(sizes) >= len(active)):
            program, here = programs.segments[number], active[now == number]
            lane, places = cursor[here], at[here][:, None] + program.places
            block = np.empty(places.shape, np.int32)
            block[:] = program.tokens
            costs = np.zeros(places.shape if measured else 0, np.float32)
            own: dict[str, Ints] = {}
            for step in program.steps:
                index: Any = 0
                for name, size in step.given:
                    index = index * size + (own[name] if name in own else kept[name][here])
                if step.chooser is not None:
                    context, index = index, step.chooser(index, drawn[lane])
                    lane += 1
                    own[step.var] = index
                    if measured and step.cost is not None:
                        costs[:, step.place] = step.cost[context * step.chooser.options + index]
                elif step.var:
                    own[step.var] = step.table[index]
                if step.place is not None:
                    block[:, step.place] = step.table[index]
            tokens[places] = block
            if measured:
                costs[:, 0] += program.cost
                ideal[places], skill[places] = costs, program.skill
            cursor[here] = lane
            at[here] += len(program.tokens)
            for name in own.keys() & kept.keys():
                kept[name][here] = own[name]
            choose(here, program.then)
        active = active[at[active] < end[active]]

    def cut(flat: Any, begin: int) -> Any:
        part = flat.reshape(count if len(flat) else 0, stride)[:, begin : seq_len + 1]
        return np.ascontiguousarray(part)

    return Sample(tokens=cut(tokens, 0), ideal=cut(ideal, 1), skill=cut(skill, 1))
