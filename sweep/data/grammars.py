"""The words and sentences of the generated stories, and what builds a language from them.

A fact is `{act} {place} {thing}`, where the thing is a fixed random function of activity and place.
A place is its rank, spelled by three syllables; its probability falls as (rank + 4)^-1.5, so that
the excess loss of a model that knows the k commonest places falls as a power of k.

The words and the order in which they are drawn decide the hash of the language and every record
trained on it: change neither.
"""

from __future__ import annotations

import numpy as np

from sweep.data.language import Draw, Language, Recall, Segment, Slot, Update, Word, counts_from

PLACE_POWER, PLACE_SHIFT = 1.5, 4.0
ACTIVITY_POWER = 1.0
LONGEST_GAME = 4
BODY_WEIGHTS = {
    "demo": {"people": 50, "they": 25, "we": 7, "found": 6, "end": 12},
    "small": {"people": 46, "they": 23, "we": 6, "found": 5, "gave": 4, "loved": 4, "end": 12},
    "full": {"people": 42, "they": 20, "we": 5, "found": 5, "gave": 4, "loved": 4, "mom": 8,
             "end": 12},
    "skills": {"people": 22, "they": 8, "we": 3, "mom": 55, "end": 12},
}  # fmt: skip
"""Relative frequencies of the sentences in the body of a story."""
FIRST_SKILLS = {"gave": "consistency", "answer": "reasoning"}
"""Segments whose first token both reveals the choice and is recalled: the skill it counts for."""
GIRLS = "Lily Mia Anna Sue Lucy Ella Rose Amy".split()
BOYS = "Tom Ben Max Tim Sam Jack Leo Dan".split()
FRIENDS = "fox owl bear cat dog frog duck mouse rabbit horse pig bird turtle cow bee hen".split()
ADJECTIVES = (
    "little happy kind brave clever quiet funny gentle shy proud lucky curious sleepy hungry "
    "silly polite"
).split()
SHADES = (
    "red blue green big small old new shiny soft tiny round pretty heavy warm bright strange"
).split()
OBJECTS = "ball kite doll book drum boat box lamp cup key hat coin bell map ring rope".split()
SPOTS = (
    "tree river hill barn pond gate bridge cave well road beach garden tower mill field wall"
).split()
ACTIVITIES = (
    ("eat", "food"), ("ride", "beasts"), ("wear", "clothes"), ("play", "music"),
    ("grow", "plants"), ("build", "crafts"), ("paint", "scenes"), ("trade", "goods"),
    ("cook", "food"), ("feed", "beasts"), ("sew", "clothes"), ("hear", "music"),
    ("pick", "plants"), ("carve", "crafts"), ("draw", "scenes"), ("buy", "goods"),
)  # fmt: skip
"""Each verb with the list of products that it takes."""
PRODUCTS = {
    "food": "plums figs buns pies beans nuts soup rice corn peas jam bread cakes eggs fish cheese "
    "leeks dates limes pears honey oats yams tarts stew grapes melons olives pasta carrots "
    "berries apples",
    "beasts": "goats mules camels ponies yaks oxen elks deer sheep geese swans llamas bisons "
    "donkeys zebras moose lambs calves foals hounds ducks pigeons otters beavers badgers "
    "hedgehogs squirrels lizards crickets snails crabs whales",
    "clothes": "scarves boots gloves coats socks shirts skirts belts caps vests cloaks gowns robes "
    "shawls sandals slippers mittens hoods aprons jackets trousers ties ribbons sashes veils "
    "bonnets collars sleeves capes wigs masks crowns",
    "music": "flutes harps horns bells fiddles lutes pipes gongs banjos organs pianos trumpets "
    "tubas violins guitars whistles cymbals rattles bugles cellos oboes clarinets zithers chimes "
    "marches waltzes hymns ballads jigs reels carols lullabies",
    "plants": "roses lilies tulips daisies ferns mosses reeds palms pines oaks elms willows "
    "birches maples cedars ivies poppies violets orchids irises clovers herbs mints thistles "
    "nettles vines hedges bushes cacti lotuses asters peonies",
    "crafts": "chairs tables boats barrels bowls spoons combs ladders fences carts wheels chests "
    "shelves stools benches cradles sleds oars masts doors frames baskets buckets brooms rakes "
    "arrows bows shields puppets statues tops swings",
    "scenes": "castles rivers mountains forests valleys islands deserts storms sunsets rainbows "
    "clouds stars moons ships towns markets temples bridges harbors meadows lakes glaciers "
    "volcanoes canyons cliffs waves knights dragons giants fairies kings queens",
    "goods": "silk salt pepper gold silver pearls rubies glass paper ink wax candles soap wool "
    "cotton leather copper iron tin coal oil perfume tea coffee sugar cocoa vanilla ginger amber "
    "ivory marble clay",
}
ONSETS = tuple("b d f g h k l m".split())
FIRST = tuple(o + v for o in ONSETS for v in "aeiu")
SECOND = tuple(o + v for o in "n p r s t v w z".split() for v in "aeio")
THIRD = tuple(o + v for o in "ch sh th br dr gl st tr".split() for v in "aeou")
"""Syllables of place names; each of the three positions has 32."""
FEELINGS = tuple("glad sad calm cross proud shy bold tired".split())
"""The eight states of the counting game."""
MOVES = tuple("hop spin clap wave".split())
"""Its four operations, each a fixed permutation of the states."""


class StoryBuilder:
    """Builds a language: collects the vocabulary while it defines the sentences."""

    def __init__(self, size: str, seed: int) -> None:
        self.size, self.seed = size, seed
        self.random = np.random.Generator(np.random.Philox(key=[seed, 0x5701]))
        self.words: dict[str, int] = {"<bos>": 0}

    def build(self) -> Language:
        """The language of this size."""
        states: dict[str, tuple[Segment, ...]] = {}
        states["start"] = (Segment(count=65_536, slots=self._intro(), then="body"),)
        states["body"] = self._body()
        fact = self._fact()
        states["list"] = self._choice(
            {", ": 30, "and": 40, ".": 30},
            {
                ", ": ((self.word(","), *fact), "list"),
                "and": ((self.word("and"), *fact), "stop"),
                ".": ((self.word("."),), "body"),
            },
        )
        states["stop"] = (Segment(count=65_536, slots=(self.word("."),), then="body"),)
        if "mom" in BODY_WEIGHTS[self.size]:
            states |= self._game()
        return Language(
            name=self.size,
            seed=self.seed,
            vocab=tuple(self.words),
            states=states,
            start="start",
            choice_skill="novel",
        )

    def token(self, word: str) -> int:
        """The token of a word, added to the vocabulary if it is new."""
        return self.words.setdefault(word, len(self.words))

    def word(self, word: str) -> Word:
        """A fixed word."""
        return Word(token=self.token(word))

    def phrase(self, words: str) -> tuple[Word, ...]:
        """Fixed words in a row."""
        return tuple(self.word(w) for w in words.split())

    def draw(self, var: str, words: list[str], power: float = 0.0) -> Draw:
        """A fresh choice among words, in a seeded order, with p falling as rank^-power."""
        order = self.random.permutation(len(words))
        weights = np.arange(1.0, len(words) + 1) ** -power
        tokens = np.array([self.token(words[i]) for i in order])
        return Draw(var=var, counts=counts_from(weights), tokens=tokens)

    def recall(self, var: str, words: list[str]) -> Recall:
        """A word that one variable determines."""
        table = np.array([self.token(w) for w in words])
        return Recall(table=table, given=(var,), skill="consistency")

    def _person(self) -> tuple[Draw, Draw]:
        """Gender and name of the hero, whose pronouns follow from them."""
        people = [*GIRLS, *BOYS]
        self.people = np.array([self.token(w) for w in people])
        counts = np.zeros((2, 16), np.int64)
        counts[0, :8] = counts[1, 8:] = 65_536 // 8
        gender = Draw(
            var="gender",
            counts=counts_from(np.ones(2)),
            tokens=np.array([self.token("girl"), self.token("boy")]),
        )
        hero = Draw(var="hero", counts=counts, tokens=self.people, given=("gender",))
        self.she = self.recall("gender", ["she", "he"])
        self.her = self.recall("gender", ["her", "his"])
        return gender, hero

    def _intro(self) -> tuple[Slot, ...]:
        """The opening sentences: who the story is about."""
        gender, hero = self._person()
        self.object = self.draw("object", list(OBJECTS))
        self.friend = self.draw("friend", list(FRIENDS))
        return (
            *self.phrase("once upon a time there was a"),
            self.draw("mood", list(ADJECTIVES)),
            gender,
            self.word("named"),
            hero,
            self.word("."),
            self.she,
            *self.phrase("lived in"),
            *self._place(),
            *self.phrase("and had a"),
            self.draw("shade", list(SHADES)),
            self.object,
            self.word("."),
            self.her,
            *self.phrase("best friend was a"),
            self.friend,
            self.word("."),
        )

    def _place(self) -> tuple[Slot, ...]:
        """Three syllables that spell a place's rank in base 32."""
        ranks = np.arange(32**3)
        weights = ((ranks + PLACE_SHIFT) ** -PLACE_POWER).reshape(32, 32, 32)
        tables = (weights.sum((1, 2))[None], weights.sum(2), weights.reshape(-1, 32))
        if not hasattr(self, "syllables"):
            spelled = (FIRST, SECOND, THIRD)
            names = [[s + "-" for s in spelled[0]], [s + "-" for s in spelled[1]], list(spelled[2])]
            self.syllables = [
                np.array(
                    [
                        self.token(names[i][j].capitalize() if i == 0 else names[i][j])
                        for j in self.random.permutation(32)
                    ]
                )
                for i in range(3)
            ]
        context: tuple[tuple[str, ...], ...] = ((), ("p0",), ("p0", "p1"))
        return tuple(
            Draw(var=f"p{i}", counts=counts_from(w), tokens=self.syllables[i], given=context[i])
            for i, w in enumerate(tables)
        )

    def _fact(self) -> tuple[Slot, ...]:
        """`{act} {place} {thing}`."""
        if not hasattr(self, "act"):
            verbs = [verb for verb, _ in ACTIVITIES]
            self.act = self.draw("act", verbs, ACTIVITY_POWER)
            number = {self.token(verb): kind for verb, kind in ACTIVITIES}
            lists = {k: np.array([self.token(w) for w in v.split()]) for k, v in PRODUCTS.items()}
            which = self.random.integers(32, size=(len(verbs), 32, 32, 32))
            table = np.stack(
                [lists[number[int(t)]][w] for t, w in zip(self.act.tokens, which, strict=True)]
            )
            self.thing = Recall(table=table, given=("act", "p0", "p1", "p2"), skill="facts")
        return (self.act, *self._place(), self.thing)

    def _body(self) -> tuple[Segment, ...]:
        """The sentences of a story."""
        fact = self._fact()
        hero = Recall(table=self.people, given=("hero",), skill="consistency")
        friend = self.recall("friend", [self._name(t) for t in self.friend.tokens])
        thing = self.recall("object", [self._name(t) for t in self.object.tokens])
        sentences: dict[str, tuple[tuple[Slot, ...], str]] = {
            "people": ((self.word("people"), *fact), "list"),
            "they": ((self.word("they"), *fact), "list"),
            "we": ((*self.phrase("we like to"), *fact, self.word(".")), "body"),
            "found": (
                (
                    self.she,
                    *self.phrase("found a"),
                    self.draw("shade", list(SHADES)),
                    self.draw("find", list(OBJECTS)),
                    *self.phrase("near the"),
                    self.draw("spot", list(SPOTS)),
                    self.word("."),
                ),
                "body",
            ),
            "gave": (
                (
                    hero,
                    *self.phrase("gave the"),
                    thing,
                    *self.phrase("to the"),
                    friend,
                    self.word("."),
                ),
                "body",
            ),
            "loved": (
                (
                    *self.phrase("the"),
                    friend,
                    *self.phrase("loved"),
                    hero,
                    *self.phrase("and"),
                    self.her,
                    thing,
                    self.word("."),
                ),
                "body",
            ),
            "mom": (self._game_start() if "mom" in BODY_WEIGHTS[self.size] else (), "game1"),
            "end": ((*self.phrase("so ends the story ."),), "start"),
        }
        return self._choice(BODY_WEIGHTS[self.size], sentences)

    def _name(self, token: int) -> str:
        """The word of a token."""
        return list(self.words)[int(token)]

    def _choice(
        self, weights: dict[str, int], sentences: dict[str, tuple[tuple[Slot, ...], str]]
    ) -> tuple[Segment, ...]:
        """Segments with probabilities in proportion to weights."""
        counts = counts_from(np.array(list(weights.values()), float))[0]
        return tuple(
            Segment(
                count=int(c), slots=sentences[k][0], then=sentences[k][1], skill=FIRST_SKILLS.get(k)
            )
            for k, c in zip(weights, counts, strict=True)
        )

    def _game_start(self) -> tuple[Slot, ...]:
        """`mom counts {feeling}`: the first state, which the moves change."""
        feelings = list(FEELINGS)
        self.feelings = np.array([self.token(w) for w in feelings])
        drawn = Draw(var="feeling", counts=counts_from(np.ones(8)), tokens=self.feelings)
        return (*self.phrase("mom counts"), drawn)

    def _game(self) -> dict[str, tuple[Segment, ...]]:
        """The counting game: 1 to 4 moves, each a permutation of 8 states, then the final state."""
        moves = {m: self.random.permutation(8) for m in MOVES}
        answer = Recall(table=self.feelings, given=("feeling",), skill="reasoning")
        lengths = {1: 22, 2: 16, 3: 10, 4: 7}
        states = {}
        for k in range(1, LONGEST_GAME + 2):
            moving = sum(w for length, w in lengths.items() if length >= k)
            stopping = lengths.get(k - 1, 0)
            then = f"game{k + 1}"
            options: dict[str, tuple[tuple[Slot, ...], str]] = {
                m: ((self.word(m), Update(var="feeling", table=p, given=("feeling",))), then)
                for m, p in moves.items()
            }
            weights = dict.fromkeys(moves, moving)
            if k > LONGEST_GAME:
                options, weights = {}, {}
            if k > 1:
                options["answer"] = ((answer, self.word(".")), "body")
                weights["answer"] = stopping * len(moves) if weights else 1
            states[f"game{k}"] = self._choice(weights, options)
        return states
