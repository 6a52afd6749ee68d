"""Rows of a language by index: random access, vectorised over rows, one 16-bit lane per draw.

Row i of a stream depends on (language, stream, seed, i) only, through a keyed counter hash, so that
training resumes anywhere and evaluation, another stream, cannot overlap it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.language import LANE, Draw, Ints, Language, Recall, Segment, Update, Word

U64 = np.uint64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows with the ideal loss of every token."""

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
    language: Language, *, stream: str, seed: int, start: int, count: int, seq_len: int
) -> Sample:
    """Rows [start, start + count) of a stream with the ideal loss and skill of every token."""
    writer = _Writer(language, _lanes(stream, seed, start, count, seq_len), seq_len)
    return writer.write()


def text(language: Language, tokens: NDArray[np.int32]) -> str:
    """Readable stories: tokens joined, syllables (`-`) glued to what follows, one row a line."""
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


def _lanes(stream: str, seed: int, start: int, count: int, seq_len: int) -> Ints:
    """Independent 16-bit numbers (count, lanes): more than a row of seq_len tokens can use."""
    per_row = (seq_len + 64 + 3) // 4
    key = hashlib.sha256(f"{stream}/{seed}".encode()).digest()
    key0, key1 = np.frombuffer(key[:16], dtype=U64)
    index = np.arange(start, start + count, dtype=U64)[:, None] * U64(1 << 20)
    counter = index + np.arange(per_row, dtype=U64)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(counter * U64(0x9E3779B97F4A7C15) + key0) ^ key1)
    return mixed.view(np.uint16).reshape(count, 4 * per_row).astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit moves every output bit."""
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


class _Writer:
    """All rows at once, a segment per round."""

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
        """A fresh draw: the option whose cumulative counts hold the lane."""
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
        """The next unused lane of each row."""
        lane = self.lanes[here, self.cursor[here]]
        self.cursor[here] += 1
        return lane

    def _set(self, name: str, here: Ints, values: Ints) -> None:
        """Set a variable in some rows."""
        if name not in self.vars:
            self.vars[name] = np.zeros(len(self.at), np.int64)
        self.vars[name][here] = values
