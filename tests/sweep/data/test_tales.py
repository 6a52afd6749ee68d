"""Tales: acts in two ways, instructions that are followed, and how different they are."""

import numpy as np
import pytest

from sweep.data.grammars import OBJECTS
from sweep.data.language import rows, text
from sweep.data.stories import language
from sweep.data.tales import FEATURES, SKILLS

LENGTH = 400


def stories(size: str, count: int = 200) -> list[str]:
    """Whole tales."""
    tongue = language(size, 0)
    found = rows(tongue, stream="t", seed=0, start=0, count=count, seq_len=LENGTH)
    first = "features :" if size == "tales-instruct" else "once upon a time"
    return [
        first + tale
        for line in text(tongue, found[:, 1:]).splitlines()
        for tale in line.split(first)[1:-1]
    ]


SIGNS = {
    "dialogue": (' said " where is my', "looked out and saw the"),
    "twist": (" but the ", " and the "),
    "bad": (" broke and ", " shone and "),
    "moral": ("the moral is always be", "they all went home feeling"),
}
"""What a tale says with a feature, and without it."""


def test_an_act_is_told_in_one_of_two_ways_each_half_of_the_time():
    tales = stories("tales")
    for with_it, without in SIGNS.values():
        having = [with_it in t.split("in the end")[1] for t in tales]
        lacking = [without in t.split("in the end")[1] for t in tales]
        assert all(a != b for a, b in zip(having, lacking, strict=True))
        assert np.mean(having) == pytest.approx(0.5, abs=4 * 0.5 / len(tales) ** 0.5)


def test_instructions_are_followed_in_features_and_in_words():
    tales = stories("tales-instruct")
    for tale in tales:
        asked, _, story = tale.partition(" story : ")
        features, _, words = asked.removeprefix("features : ").partition(" words : ")
        for (feature, without), given in zip(FEATURES, features.split(), strict=True):
            assert given in (feature, without)
            assert SIGNS[feature][given == without] in story.split("in the end")[1]
        assert all(word in story.split() or f"{word}." in story.split() for word in words.split())


def test_people_animals_and_their_objects_come_back_at_any_distance():
    distances = []
    for tale in stories("tales"):
        words = tale.replace(".", " ").split()
        name = words[words.index("named") + 1]
        again = [i for i, w in enumerate(words) if w == name][1:]
        distances.append(again[0] - words.index(name))
    assert min(distances) < 30 < 60 < max(distances)


def test_most_rows_of_the_usual_length_hold_a_whole_tale():
    lengths = [len(t.replace(".", " .").split()) for t in stories("tales")]
    assert np.mean(np.array(lengths) <= 127) > 0.7


def test_three_tales_in_ten_are_about_one_object_and_no_even_size_has_more_than_one_in_five():
    shares = {}
    for size in ("tales", "tales-even"):
        tales = [tale.replace(".", " ").split() for tale in stories(size)]
        named = [np.mean([thing in tale for tale in tales]) for thing in OBJECTS]
        topics = [next(word for word in tale if word in OBJECTS) for tale in tales]
        shares[size] = max(named), max(topics.count(thing) for thing in OBJECTS) / len(tales)
    assert shares["tales"] == pytest.approx((0.35, 0.30), abs=0.08)
    assert max(shares["tales-even"]) <= 0.2
    even, usual = (language(size, 0).entropy(128) for size in ("tales-even", "tales"))
    assert 0 < even - usual < 0.01


def test_instructions_cost_nothing_once_they_are_given():
    shares = language("tales-instruct", 0).entropy_by_skill(128)
    assert set(shares) == set(SKILLS) and shares["instruct"] == 0 < shares["novel"]
