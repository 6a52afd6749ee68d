"""An exact judge of stories, for any `sweep.data.language.Language`.

`judge` reads a text by the machine that writes the language's texts, so that the two cannot drift
apart. A segment is recognised by its first token; then every slot is compared. What a text says
itself sets the variables (names, objects, places), by which later words are right or wrong:

    fixed word             grammar: it is that word
    random choice          grammar: it is a word of that kind; consistency: one that is possible
                           here, as a girl's name for a girl
    determined word        grammar: it is a word of that kind; and its own skill (consistency,
                           facts, reasoning, instruct): it is the right one

Two adjacent tokens that agree again end a fault: a word was replaced, left out or added. Else the
sentence was given up, and the judge goes on where a token begins a sentence; what it passes over
are faults of grammar. A text that stops early has no fault there. No sequence of tokens raises.

This grades what Eldan & Li 2023 (TinyStories, arXiv:2305.07759) let a large model grade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sweep.data.language import Draw, Language, Recall, Segment, Slot, Update, Word

GRAMMAR, CONSISTENCY = "grammar", "consistency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A token that is wrong."""

    position: int
    """In the text, without `<bos>`."""
    skill: str


@dataclass(slots=True, kw_only=True)
class Judgement:
    """What a text got right."""

    right: dict[str, int] = field(default_factory=dict)
    """Tokens by skill."""
    asked: dict[str, int] = field(default_factory=dict)
    """Tokens by skill, right or wrong."""
    faults: list[Fault] = field(default_factory=list)

    def grades(self) -> dict[str, float]:
        """Share of right tokens, 0 to 1, of every skill that the text asked for."""
        return {skill: self.right.get(skill, 0) / count for skill, count in self.asked.items()}

    def count(self, skill: str, position: int, *, right: bool) -> None:
        """Count a token."""
        self.asked[skill] = self.asked.get(skill, 0) + 1
        self.right[skill] = self.right.get(skill, 0) + right
        if not right:
            self.faults.append(Fault(position=position, skill=skill))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A skill over many texts."""

    value: float
    """Mean over the texts that asked for it, 0 to 1."""
    error: float
    """Its standard error; 0 for one text."""
    texts: int


def grade(language: Language, texts: Sequence[Sequence[int]]) -> dict[str, Grade]:
    """Grade texts, by skill.

    Args:
        language: What they should be texts of.
        texts: Token ids, with or without `<bos>`.
    """
    return summarised([judge(language, text).grades() for text in texts])


def summarised(grades: Sequence[Mapping[str, float]]) -> dict[str, Grade]:
    """Mean and standard error of the grades of texts, by skill."""
    by_skill: dict[str, list[float]] = {}
    for of_text in grades:
        for skill, value in of_text.items():
            by_skill.setdefault(skill, []).append(value)
    found = {}
    for skill in sorted(by_skill):
        values = np.array(by_skill[skill])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        found[skill] = Grade(
            value=float(values.mean()), error=spread / len(values) ** 0.5, texts=len(values)
        )
    return found


def judge(language: Language, text: Sequence[int]) -> Judgement:
    """Judge one text, given as token ids, with or without `<bos>` (0)."""
    tokens = [int(t) for t in text]
    return _Reader(language, tokens[1:] if tokens[:1] == [0] else tokens).read()


class _Reader:
    """Reads one text."""

    def __init__(self, language: Language, tokens: list[int]) -> None:
        self.language, self.tokens = language, tokens
        self.at = 0
        self.values: dict[str, int] = {}
        self.found = Judgement()

    def read(self) -> Judgement:
        """Read to the end of the text."""
        state: str | None = self.language.start
        while self.at < len(self.tokens):
            segment = None if state is None else self.begun(state)
            if segment is None:
                segment = self.elsewhere()
                self.found.count(GRAMMAR, self.at, right=False)
                if segment is None:
                    self.at += 1
                    state = None
                    continue
            state = segment.then if self.read_segment(segment) else None
        return self.found

    def begun(self, state: str) -> Segment | None:
        """The segment of a state that the present token begins, exactly or as a wrong word."""
        segments = self.language.states[state]
        if len(segments) == 1:
            return segments[0]
        token = self.tokens[self.at]
        exact = [s for s in segments if self.is_right(_first(s), token)]
        of_kind = exact or [s for s in segments if token in _words(_first(s))]
        return of_kind[0] if of_kind else None

    def elsewhere(self) -> Segment | None:
        """A segment of any state that begins with the present token, as a fixed word."""
        return _openings(self.language).get(self.tokens[self.at])

    def read_segment(self, segment: Segment) -> bool:
        """Compare the slots of a segment; whether it was kept to its end."""
        slots, number = segment.slots, 0
        while number < len(slots):
            slot = slots[number]
            if isinstance(slot, Update):
                self.update(slot)
            elif self.at >= len(self.tokens):
                return True
            elif self.tokens[self.at] in _words(slot):
                self.compare(slot)
                self.at += 1
            elif not self.repair(slot, slots[number + 1 :], segment.then):
                return False
            number += 1
        return True

    def repair(self, slot: Slot, later: Sequence[Slot], then: str) -> bool:
        """Count a token that is no word of its slot, and go on; False if the sentence is left.

        `later` are the slots after it in the segment, `then` the state that follows.
        """
        self.found.count(GRAMMAR, self.at, right=False)
        own = _skill_of(slot)
        if own is not None:
            self.found.count(own, self.at, right=False)
        if isinstance(slot, Draw):
            self.values.pop(slot.var, None)
        after = [_words(s) for s in later if not isinstance(s, Update)]
        if len(after) < 2:
            begins = frozenset().union(*(_words(_first(s)) for s in self.language.states[then]))
            after.append(begins)
        following = self.tokens[self.at : self.at + 3]
        if len(following) < 2 or following[1] in after[0]:  # replaced
            self.at += 1
            return True
        if following[0] in after[0] and (len(after) < 2 or following[1] in after[1]):  # left out
            return True
        if following[1] in _words(slot) and (len(following) < 3 or following[2] in after[0]):
            self.at += 2  # added
            return True
        return False

    def compare(self, slot: Slot) -> None:
        """Count a token that is a word of its slot, and set the variable that it says."""
        token = self.tokens[self.at]
        self.found.count(GRAMMAR, self.at, right=True)
        if isinstance(slot, Recall):
            if self.context(slot.given, slot.table.shape) is not None:
                self.found.count(slot.skill, self.at, right=self.is_right(slot, token))
        elif isinstance(slot, Draw):
            option = int(np.flatnonzero(slot.tokens == token)[0])
            context = self.context(slot.given, (slot.counts.shape[1],) * len(slot.given))
            row = 0 if context is None else _flat(context, slot.counts.shape[1])
            if context is not None and (slot.counts[row] == 0).any():
                self.found.count(CONSISTENCY, self.at, right=bool(slot.counts[row, option]))
            self.values[slot.var] = option

    def is_right(self, slot: Slot, token: int) -> bool:
        """Whether a token is what a slot calls for, as far as the text has said."""
        if isinstance(slot, Recall):
            context = self.context(slot.given, slot.table.shape)
            return context is not None and int(slot.table[context]) == token
        return token in _words(slot)

    def update(self, slot: Update) -> None:
        """Set a variable from others; unknown where one of them is."""
        context = self.context(slot.given, slot.table.shape)
        if context is None:
            self.values.pop(slot.var, None)
        else:
            self.values[slot.var] = int(slot.table[context])

    def context(self, given: Sequence[str], sizes: Sequence[int]) -> tuple[int, ...] | None:
        """Values of variables; None where the text has not said one, or not one that is known."""
        values = tuple(self.values.get(name, -1) for name in given)
        fits = all(0 <= v < size for v, size in zip(values, sizes, strict=True))
        return values if fits else None


def _flat(context: Sequence[int], options: int) -> int:
    """The row of a draw's counts."""
    row = 0
    for value in context:
        row = row * options + value
    return row


def _first(segment: Segment) -> Slot:
    """The slot of a segment's first token."""
    return next(s for s in segment.slots if not isinstance(s, Update))


def _skill_of(slot: Slot) -> str | None:
    """The skill of a determined word."""
    return slot.skill if isinstance(slot, Recall) else None


_kinds: dict[int, tuple[Slot, frozenset[int]]] = {}


def _words(slot: Slot) -> frozenset[int]:
    """All tokens that can ever stand in a slot; a slot is kept with them, so that its id stays."""
    known = _kinds.get(id(slot))
    if known is None or known[0] is not slot:
        if isinstance(slot, Word):
            words = frozenset([slot.token])
        elif isinstance(slot, Draw):
            words = frozenset(slot.tokens.tolist())
        else:
            words = frozenset(np.unique(slot.table).tolist())
        known = _kinds[id(slot)] = slot, words
    return known[1]


_tables: dict[str, dict[int, Segment]] = {}


def _openings(language: Language) -> Mapping[int, Segment]:
    """Segments by the fixed word that they begin with, those of the first state that has one."""
    if language.hash not in _tables:
        table: dict[int, Segment] = {}
        for segments in language.states.values():
            for segment in segments:
                first = _first(segment)
                if isinstance(first, Word):
                    table.setdefault(first.token, segment)
        _tables[language.hash] = table
    return _tables[language.hash]
