"""The sizes of stories: what makes their losses exact, and that they read like stories."""

import math

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.grammars import BODY_WEIGHTS
from sweep.data.language import SKILLS, Draw, Update, Word, rows, sample, text
from sweep.data.stories import SIZES, language

LENGTH = 128


def tokens_of(slot):
    """Every token that a slot can show."""
    if isinstance(slot, Word):
        return {slot.token}
    values = slot.tokens if isinstance(slot, Draw) else slot.table
    return set(np.unique(values).tolist())


@pytest.mark.parametrize("size", SIZES)
def test_the_first_token_of_a_segment_reveals_which_was_chosen(size):
    for segments in language(size, 3).states.values():
        firsts = [tokens_of(s.slots[0]) for s in segments]
        assert len(set.union(*firsts)) == sum(map(len, firsts))


@pytest.mark.parametrize("size", SIZES)
def test_every_drawn_value_shows_a_token_of_its_own(size):
    segments = [s for found in language(size, 3).states.values() for s in found]
    slots = [slot for s in segments for slot in s.slots if not isinstance(slot, Update)]
    draws = [slot for slot in slots if isinstance(slot, Draw)]
    assert draws and all(len(np.unique(d.tokens)) == len(d.tokens) for d in draws)
    shown = set.union(*map(tokens_of, slots))
    every = set(range(1, len(language(size, 3).vocab)))  # all but <bos>
    assert shown <= every
    assert shown == every or size != "full"  # smaller sizes keep the words of the larger


def test_language_seeds_change_facts_and_hash_but_not_the_entropy():
    one, two = language("demo", 0), language("demo", 1)
    assert one.hash != two.hash
    assert one.entropy(LENGTH) == pytest.approx(two.entropy(LENGTH), rel=1e-12)
    assert language.__wrapped__("demo", 0).hash == one.hash


@pytest.mark.parametrize("size", SIZES)
def test_skills_share_the_entropy_and_sizes_hold_the_skills_they_say(size):
    tongue = language(size, 0)
    shares = tongue.entropy_by_skill(LENGTH)
    assert math.fsum(shares.values()) == pytest.approx(tongue.entropy(LENGTH), rel=1e-12)
    found = sample(tongue, stream="t", seed=0, start=0, count=2000, seq_len=LENGTH)
    counts = np.bincount(found.skill.ravel(), minlength=len(tongue.skills))
    tokens = dict(zip(tongue.skills, counts, strict=True))
    share = {skill: n / found.skill.size for skill, n in tokens.items()}
    assert min(share["grammar"], share["novel"], share["facts"], share["consistency"]) > 0.02
    assert (share.get("instruct", 0) > 0) == (size == "tales-instruct")
    least = {"demo": 0, "small": 0, "skills": 0.03}.get(size, 0.003)
    assert share["reasoning"] >= least and (share["reasoning"] > 0) == (least > 0)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_every_answer_of_the_counting_game_counts_as_reasoning(length):
    tongue = language("skills", 0)
    found = sample(tongue, stream="t", seed=0, start=0, count=500, seq_len=LENGTH)
    number = {word: i for i, word in enumerate(tongue.vocab)}
    tokens, reasoning = found.tokens[:, 1:], found.skill == SKILLS.index("reasoning")
    moves = [number[w] for w in ("hop", "spin", "clap", "wave")]
    starts = np.argwhere(tokens == number["counts"])
    answers = 0
    for row, at in starts[starts[:, 1] + length + 3 < LENGTH]:
        if tokens[row, at + length + 3] == number["."]:
            assert np.isin(tokens[row, at + 2 : at + 2 + length], moves).all()
            assert reasoning[row, at + 1 : at + length + 4].tolist() == [
                *[False] * (length + 1),
                True,
                False,
            ]
            answers += 1
    assert answers > 100


@pytest.mark.parametrize("size", list(BODY_WEIGHTS))
def test_stories_read_like_stories(size):
    tongue = language(size, 0)
    found = text(tongue, rows(tongue, stream="t", seed=0, start=0, count=64, seq_len=400)[:, 1:])
    assert found.startswith("once upon a time there was a ")
    assert "so ends the story. once upon a time" in found
    assert ("mom counts" in found) == ("mom" in BODY_WEIGHTS[size])
    for line in found.splitlines():
        for story in line.split("once upon a time")[1:]:
            girl = " girl named" in story
            assert not (girl and (" he lived" in story or " his best" in story))


@pytest.mark.parametrize("size", ["small", "full"])
def test_names_and_objects_of_a_story_come_back(size):
    tongue = language(size, 0)
    found = text(tongue, rows(tongue, stream="t", seed=0, start=0, count=200, seq_len=400)[:, 1:])
    gifts = 0
    for story in found.replace("\n", " ").split("once upon a time")[1:]:
        for sentence in story.split(". ")[3:]:
            if " gave the " in sentence and " to the " in sentence.rstrip():
                hero, rest = sentence.split(" gave the ")
                thing, friend = rest.split(" to the ")
                assert f"named {hero}." in story
                assert f" {thing}. " in story.split("best friend")[0]
                assert f"best friend was a {friend.strip('. ')}" in story
                gifts += 1
    assert gifts > 100


def test_facts_are_a_fixed_table_and_answers_follow_from_moves():
    tongue = language("skills", 0)
    found = text(tongue, rows(tongue, stream="t", seed=0, start=0, count=3000, seq_len=200)[:, 1:])
    words = [w.strip(".,") for w in found.replace("\n", " ").split()]
    verbs = {"eat", "ride", "wear", "play", "grow", "build", "paint", "trade"}
    facts: dict[tuple[str, str], set[str]] = {}
    for act, place, thing in zip(words, words[1:], words[2:], strict=False):
        if act in verbs and place[0].isupper() and len(place) > 5:
            facts.setdefault((act, place), set()).add(thing)
    often = [things for things in facts.values() if things]
    assert len(often) > 200
    assert sum(len(things) > 1 for things in often) < 0.02 * len(often)  # rows cut inside a fact
    games: dict[tuple[str, ...], set[str]] = {}
    for line in found.split("."):
        if "mom counts" in line:
            game = line.split("mom counts")[1].split()
            games.setdefault(tuple(game[:-1]), set()).add(game[-1])
    repeated = [answers for game, answers in games.items() if len(game) == 2]
    assert len(repeated) == 32 and all(len(answers) == 1 for answers in repeated)


@pytest.mark.parametrize(("size", "seed"), [("huge", 0), ("demo", -1), ("demo", 1 << 64)])
def test_an_unknown_size_or_an_impossible_seed_is_named(size, seed):
    with pytest.raises(PlanError, match=size if size == "huge" else str(seed)):
        language(size, seed)
