"""The language's entropy: by enumeration, by a Bayesian predictor, and by sampling."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from sweep.grammars import BODY_WEIGHTS, SIZES, language
from sweep.language import LANE, SKILLS, Draw, Language, Recall, Segment, Update, Word, counts_from
from sweep.stories import rows, sample, text

LENGTH = 128


def tiny() -> Language:
    """A language small enough to enumerate: draws that depend on draws, recall, updates, lists."""
    words = {w: i for i, w in enumerate(["<bos>", "a", "b", "x", "y", ".", ",", "so"])}
    first = Draw(var="v", counts=counts_from(np.array([3.0, 1.0])), tokens=np.array([1, 2]))
    second = Draw(
        var="w",
        counts=counts_from(np.array([[1.0, 1.0], [1.0, 7.0]])),
        tokens=np.array([3, 4]),
        given=("v",),
    )
    swap = Update(var="v", table=np.array([1, 0]), given=("v",))
    recall = Recall(table=np.array([[3, 4], [4, 3]]), given=("v", "w"), skill="facts")
    dot, comma, so = (Word(token=words[w]) for w in (".", ",", "so"))
    return Language(
        name="tiny",
        seed=0,
        vocab=tuple(words),
        start="start",
        states={
            "start": (
                Segment(count=40_000, slots=(so, first, second), then="list"),
                Segment(count=LANE - 40_000, slots=(comma, first), then="start"),
            ),
            "list": (
                Segment(count=20_000, slots=(comma, first, second, swap, recall), then="list"),
                Segment(count=LANE - 20_000, slots=(dot,), then="start"),
            ),
        },
    )


def enumerate_rows(tongue: Language, length: int) -> dict[tuple[int, ...], float]:
    """Probability of every row of `length` tokens, by walking every choice."""
    out: Counter[tuple[int, ...]] = Counter()

    def walk(state: str, done: tuple[int, ...], memory: dict[str, int], p: float) -> None:
        if len(done) >= length:
            out[done[:length]] += p
            return
        for segment in tongue.states[state]:
            spell(segment.slots, segment, done, memory, p * segment.count / LANE)

    def spell(slots, segment, done, memory, p) -> None:
        if not slots:
            walk(segment.then, done, memory, p)
            return
        slot, rest = slots[0], slots[1:]
        if isinstance(slot, Draw):
            row = memory[slot.given[0]] if slot.given else 0
            for value, count in enumerate(slot.counts[row]):
                if count:
                    token = int(slot.tokens[value])
                    spell(
                        rest, segment, (*done, token), memory | {slot.var: value}, p * count / LANE
                    )
            return
        if isinstance(slot, Update):
            value = int(slot.table[tuple(memory[v] for v in slot.given)])
            spell(rest, segment, done, memory | {slot.var: value}, p)
            return
        token = (
            slot.token
            if isinstance(slot, Word)
            else int(slot.table[tuple(memory[v] for v in slot.given)])
        )
        spell(rest, segment, (*done, token), memory, p)

    walk(tongue.start, (), {}, 1.0)
    return dict(out)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
def test_exact_entropy_equals_that_of_every_row_enumerated(length):
    probabilities = enumerate_rows(tiny(), length)
    assert math.fsum(probabilities.values()) == pytest.approx(1, abs=1e-12)
    entropy = -math.fsum(p * math.log(p) for p in probabilities.values()) / length
    assert tiny().entropy(length) == pytest.approx(entropy, rel=1e-12)


def test_ideal_loss_of_each_token_equals_a_bayesian_predictors():
    length = 6
    probabilities = enumerate_rows(tiny(), length)
    prefixes: Counter[tuple[int, ...]] = Counter()
    for row, p in probabilities.items():
        for i in range(length + 1):
            prefixes[row[:i]] += p
    found = sample(tiny(), stream="t", seed=0, start=0, count=300, seq_len=length)
    for tokens, ideal in zip(found.tokens[:, 1:], found.ideal, strict=True):
        row = tuple(int(t) for t in tokens)
        for i in range(length):
            expected = -math.log(prefixes[row[: i + 1]] / prefixes[row[:i]])
            assert ideal[i] == pytest.approx(expected, abs=1e-6)


def test_rows_occur_as_often_as_they_should():
    probabilities = enumerate_rows(tiny(), 3)
    drawn = rows(tiny(), stream="t", seed=1, start=0, count=60_000, seq_len=3)[:, 1:]
    counts = Counter(tuple(int(t) for t in row) for row in drawn)
    assert counts.keys() <= probabilities.keys()
    for row, p in probabilities.items():
        deviation = math.sqrt(p * (1 - p) / 60_000)
        assert abs(counts[row] / 60_000 - p) < 5 * deviation + 1e-9


@pytest.mark.parametrize("size", SIZES)
def test_sampled_ideal_loss_agrees_with_the_exact_one_in_total_and_per_skill(size):
    tongue = language(size, 0)
    exact = tongue.entropy_by_skill(LENGTH)
    found = sample(tongue, stream="check", seed=5, start=0, count=20_000, seq_len=LENGTH)
    for i, skill in enumerate(SKILLS):
        per_row = np.where(found.skill == i, found.ideal, 0.0).sum(axis=1) / LENGTH
        error = per_row.std() / math.sqrt(len(per_row))
        assert abs(per_row.mean() - exact[skill]) <= 3.5 * error + 1e-12
    assert math.fsum(exact.values()) == pytest.approx(tongue.entropy(LENGTH), rel=1e-12)


@pytest.mark.slow
def test_over_a_million_rows_and_six_seeds_the_ideal_loss_is_exact():
    """1,048,576 rows per seed-language; deviations in standard errors, signs included."""
    scores = []
    for seed in range(6):
        tongue = language("full", seed)
        exact = tongue.entropy(LENGTH)
        sums = np.zeros(2)
        for start in range(0, 1 << 20, 1 << 14):
            part = sample(tongue, stream="z", seed=seed, start=start, count=1 << 14, seq_len=LENGTH)
            per_row = part.ideal.sum(axis=1, dtype=np.float64) / LENGTH
            sums += per_row.sum(), (per_row**2).sum()
        mean = sums[0] / (1 << 20)
        error = math.sqrt((sums[1] / (1 << 20) - mean**2) / (1 << 20))
        scores.append((mean - exact) / error)
    assert max(map(abs, scores)) < 3
    assert abs(float(np.mean(scores))) * math.sqrt(6) < 3


def test_many_small_seeds_show_no_bias():
    tongue = language("demo", 1)
    exact = tongue.entropy(LENGTH)
    scores = []
    for seed in range(60):
        part = sample(tongue, stream="z", seed=seed, start=0, count=512, seq_len=LENGTH)
        per_row = part.ideal.sum(axis=1, dtype=np.float64) / LENGTH
        scores.append((per_row.mean() - exact) / (per_row.std(ddof=1) / math.sqrt(512)))
    assert abs(np.mean(scores)) * math.sqrt(60) < 3
    assert 0.75 < np.std(scores) < 1.3


def test_a_row_depends_on_its_index_alone():
    tongue = language("demo", 0)
    whole = rows(tongue, stream="train", seed=3, start=0, count=50, seq_len=LENGTH)
    part = rows(tongue, stream="train", seed=3, start=17, count=9, seq_len=LENGTH)
    assert np.array_equal(whole[17:26], part)
    assert (whole[:, 0] == 0).all()


def test_streams_and_seeds_differ_and_heldout_rows_are_not_in_training():
    tongue = language("demo", 0)
    make = {"count": 4000, "start": 0, "seq_len": LENGTH}
    train = rows(tongue, stream="train", seed=0, **make)
    heldout = rows(tongue, stream="heldout", seed=0, **make)
    other = rows(tongue, stream="train", seed=1, **make)
    assert not {r.tobytes() for r in train} & {r.tobytes() for r in heldout}
    assert not np.array_equal(train, other)


def test_language_seeds_change_facts_and_hash_but_not_the_entropy():
    one, two = language("demo", 0), language("demo", 1)
    assert one.hash != two.hash
    assert one.entropy(LENGTH) == pytest.approx(two.entropy(LENGTH), rel=1e-12)
    assert language("demo", 0).hash == one.hash


@pytest.mark.parametrize("size", SIZES)
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


def test_counts_are_proportional_exact_and_positive():
    weights = (np.arange(1024) + 4.0) ** -1.5
    counts = counts_from(weights)[0]
    assert counts.sum() == LANE and counts.min() >= 1
    assert np.abs(counts / LANE - weights / weights.sum()).max() < 0.02
    for options in itertools.product([1, 2, 7], repeat=2):
        assert counts_from(np.array(options, float)).sum() == LANE
