"""Stories with a plot: `tales`, `tales-even` and `tales-instruct` of the data source `stories`.

A tale introduces a person and an animal, each with an object, then tells of facts, of objects that
change hands and of the counting game, and ends with four acts, each told in one of two ways:

| act      | with the feature                         | without it                            |
| -------- | ---------------------------------------- | ------------------------------------- |
| dialogue | `said " where is my {object} now " .`   | `looked out and saw the {object} ...` |
| twist    | `but the {friend} was ... secret {other}` | `and the {friend} was ... very {mood}` |
| bad      | `the {object} broke and {she} cried ...` | `the {object} shone and {she} smiled` |
| moral    | `the moral is always be very {virtue} .` | `they all went home feeling very ...` |

In `tales-instruct` a tale begins with its instructions, `features : dialogue straight bad moral
words : fox ball rain story :`, which it then follows: what they announce is no longer a choice.

In `tales-even` all objects are as common; in the other sizes three stories in ten are about one.

Both ways of an act have the same number of words, so that the language stays a machine whose
entropy is exact: the feature is a variable, and every word of the act is determined by it. Objects
and names come back after any number of sentences with other objects and names (distractors).
"""

from __future__ import annotations

import numpy as np

from sweep.data.grammars import (
    ADJECTIVES,
    FRIENDS,
    OBJECTS,
    SHADES,
    SPOTS,
    StoryBuilder,
)
from sweep.data.language import Draw, Language, Recall, Segment, Slot, counts_from

SKILLS = ("grammar", "novel", "facts", "consistency", "reasoning", "instruct")
BODY = {
    "people": 48, "we": 6, "found": 9, "gave": 12, "lent": 12, "missed": 10, "mom": 14, "end": 25
}  # fmt: skip
"""Relative frequencies of the sentences between introduction and acts."""
FEATURES = (("dialogue", "silent"), ("twist", "straight"), ("bad", "good"), ("moral", "plain"))
"""The word that announces an act with its feature, and the one without."""
OBJECT_POWER = {"tales": 1.0, "tales-even": 0.0, "tales-instruct": 1.0}
"""By size, the p with which the probability of the object of rank r falls as r^-p: at 1 some topics
are common and many are rare."""
WEATHER = "rain snow wind sun fog hail frost thunder".split()
VIRTUES = "kind brave honest patient careful fair gentle wise".split()
WAYS: dict[str, tuple[str, str]] = {
    "dialogue": (
        'said " where is my {object} now " .',
        "looked out and saw the {object} lying there .",
    ),
    "bad": ("broke and {she} cried for a long time .", "shone and {she} smiled for a long time ."),
    "moral": (
        "the moral is always be very {virtue} .",
        "they all went home feeling very {virtue} .",
    ),
}
"""Acts of equal length with and without their feature; words in braces are the tale's own."""


class TaleBuilder(StoryBuilder):
    """Builds the language of tales."""

    def build(self) -> Language:
        """The language of this size."""
        self.instruct = self.size == "tales-instruct"
        states: dict[str, tuple[Segment, ...]] = {}
        prefix = self._instructions() if self.instruct else ()
        states["start"] = (Segment(count=65_536, slots=(*prefix, *self._intro()), then="body"),)
        states["body"] = self._body()
        fact = self._fact()
        states["list"] = self._choice(
            {"and": 45, ".": 55},
            {"and": ((self.word("and"), *fact), "stop"), ".": ((self.word("."),), "body")},
        )
        states["stop"] = (Segment(count=65_536, slots=(self.word("."),), then="body"),)
        states |= self._game()
        states["acts"] = (Segment(count=65_536, slots=self._acts(), then="start"),)
        return Language(
            name=self.size,
            seed=self.seed,
            vocab=tuple(self.words),
            states=states,
            start="start",
            choice_skill="novel",
            skills=SKILLS,
        )

    def _instructions(self) -> tuple[Slot, ...]:
        """What the tale is to have: four features, an animal, an object and the weather."""
        announced = (
            Draw(
                var=name,
                counts=counts_from(np.ones(2)),
                tokens=np.array([self.token(without), self.token(name)]),
            )
            for name, without in FEATURES
        )
        return (
            *self.phrase("features :"),
            *announced,
            *self.phrase("words :"),
            *self._topics(),
            *self.phrase("story :"),
        )

    def _topics(self) -> tuple[Slot, Slot, Slot]:
        """What a tale is about: an animal, an object, and the weather."""
        self.friend = self.draw("friend", list(FRIENDS))
        self.object = self.draw("object", list(OBJECTS), OBJECT_POWER[self.size])
        self.weather = self.draw("weather", list(WEATHER))
        return self.friend, self.object, self.weather

    def _told(self, slot: Draw) -> Recall:
        """A word that the instructions ask for."""
        return Recall(table=slot.tokens, given=(slot.var,), skill="instruct")

    def _intro(self) -> tuple[Slot, ...]:
        """Who the tale is about, what they have, and the weather."""
        gender, hero = self._person()
        if self.instruct:
            topics: tuple[Slot, ...] = tuple(
                map(self._told, (self.friend, self.object, self.weather))
            )
        else:
            topics = self._topics()
        friend, thing, weather = topics
        self.other = self.draw("other", list(OBJECTS))
        return (
            *self.phrase("once upon a time a"),
            self.draw("mood", list(ADJECTIVES)),
            gender,
            self.word("named"),
            hero,
            *self.phrase("had a"),
            self.draw("shade", list(SHADES)),
            thing,
            *self.phrase(". the"),
            friend,
            *self.phrase("had a"),
            self.other,
            *self.phrase(". there was"),
            weather,
            self.word("."),
        )

    def _body(self) -> tuple[Segment, ...]:
        """The sentences between introduction and acts."""
        fact = self._fact()
        hero = Recall(table=self.people, given=("hero",), skill="consistency")
        friend, thing, other = (
            Recall(table=s.tokens, given=(s.var,), skill="consistency")
            for s in (self.friend, self.object, self.other)
        )
        self.hero, self.animal, self.thing_again = hero, friend, thing
        find = self.draw("find", list(OBJECTS))
        spot = self.draw("spot", list(SPOTS))
        sentences: dict[str, tuple[tuple[Slot, ...], str]] = {
            "people": ((self.word("people"), *fact), "list"),
            "we": ((*self.phrase("we like to"), *fact, self.word(".")), "body"),
            "found": (
                (*self.phrase("someone found a"), find, *self.phrase("near the"), spot,
                 self.word(".")),
                "body",
            ),
            "gave": (
                (hero, *self.phrase("showed the"), friend, self.her, thing, self.word(".")),
                "body",
            ),
            "lent": (
                (*self.phrase("the"), friend, *self.phrase("showed its"), other, self.word("to"),
                 hero, self.word(".")),
                "body",
            ),
            "missed": (
                (*self.phrase("later"), self.she, *self.phrase("looked for"), self.her, thing,
                 self.word("and"), self.she, *self.phrase("met the"), friend, self.word(".")),
                "body",
            ),
            "mom": (self._game_start(), "game1"),
            "end": ((*self.phrase("in the end"), hero), "acts"),
        }  # fmt: skip
        return self._choice(BODY, sentences)

    def _acts(self) -> tuple[Slot, ...]:
        """The four acts, each in one of two ways, and the end."""
        virtue = self.draw("virtue", VIRTUES)
        return (
            *self._act("dialogue"),
            *self._twist(),
            *self.phrase("the"),
            self.thing_again,
            *self._act("bad"),
            *self._act("moral", virtue),
            *self.phrase("the end ."),
        )

    def _act(self, feature: str, virtue: Draw | None = None) -> tuple[Slot, ...]:
        """An act: its first word tells the way, unless the instructions have told it before."""
        with_it, without = (w.split() for w in WAYS[feature])
        assert len(with_it) == len(without)
        slots: list[Slot] = []
        for one, other in zip(without, with_it, strict=True):
            if one == other:
                slots.append(self._own(one, virtue))
            else:
                slots.append(self._by_way(feature, one, other, first=not slots))
        return tuple(slots)

    def _own(self, word: str, virtue: Draw | None) -> Slot:
        """A word that both ways share."""
        named: dict[str, Slot] = {"{object}": self.thing_again, "{she}": self.she}
        if virtue is not None:
            named["{virtue}"] = virtue
        return named.get(word) or self.word(word)

    def _by_way(self, feature: str, without: str, with_it: str, *, first: bool) -> Slot:
        """A word that depends on the way an act is told."""
        tokens = np.array([self.token(without), self.token(with_it)])
        if first and not self.instruct:
            return Draw(var=feature, counts=counts_from(np.ones(2)), tokens=tokens)
        skill = "instruct" if first else "grammar"
        return Recall(table=tokens, given=(feature,), skill=skill)

    def _twist(self) -> tuple[Slot, ...]:
        """The animal turns out to be another one, or to be as it seemed."""
        kinds = [*FRIENDS, *ADJECTIVES]
        counts = np.zeros((2, len(kinds)), np.int64)
        counts[1, : len(FRIENDS)] = counts[0, len(FRIENDS) :] = 65_536 // 16
        tokens = np.array([self.token(w) for w in kinds])
        return (
            self._by_way("twist", "and", "but", first=True),
            *self.phrase("the"),
            self.animal,
            *self.phrase("was always a"),
            self._by_way("twist", "very", "secret", first=False),
            Draw(var="truth", counts=counts, tokens=tokens, given=("twist",)),
            *self.phrase("friend ."),
        )
