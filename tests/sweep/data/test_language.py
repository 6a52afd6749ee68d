"""The language's entropy by enumeration and by a Bayesian predictor, on a tiny language."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from sweep.data.language import (
    LANE,
    SKILLS,
    Draw,
    Language,
    Recall,
    Segment,
    Update,
    Word,
    counts_from,
    rows,
    sample,
)


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
                Segment(count=LANE - 20_000, slots=(dot,), then="start", skill="reasoning"),
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


def bayesian_losses(probabilities: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], list]:
    """Loss of every token of every row to a predictor that knows nothing but all rows' odds."""
    prefixes: Counter[tuple[int, ...]] = Counter()
    for row, p in probabilities.items():
        for i in range(len(row) + 1):
            prefixes[row[:i]] += p
    return {
        row: [-math.log(prefixes[row[: i + 1]] / prefixes[row[:i]]) for i in range(len(row))]
        for row in probabilities
    }


def test_ideal_loss_of_each_token_equals_a_bayesian_predictors():
    losses = bayesian_losses(enumerate_rows(tiny(), 6))
    found = sample(tiny(), stream="t", seed=0, start=0, count=300, seq_len=6)
    for tokens, ideal in zip(found.tokens[:, 1:].tolist(), found.ideal, strict=True):
        assert ideal == pytest.approx(losses[tuple(tokens)], abs=1e-6)


def test_shares_of_the_skills_equal_those_of_every_row_enumerated():
    probabilities = enumerate_rows(tiny(), 5)
    losses = bayesian_losses(probabilities)
    found = sample(tiny(), stream="t", seed=0, start=0, count=20_000, seq_len=5)
    skills = dict(zip(map(tuple, found.tokens[:, 1:].tolist()), found.skill.tolist(), strict=True))
    assert skills.keys() == probabilities.keys()
    shares = dict.fromkeys(SKILLS, 0.0)
    for row, p in probabilities.items():
        for loss, skill in zip(losses[row], skills[row], strict=True):
            shares[SKILLS[skill]] += p * loss / 5
    assert tiny().entropy_by_skill(5) == pytest.approx(shares, rel=1e-12)
    assert shares["novel"] and shares["grammar"] and shares["reasoning"]


def test_rows_occur_as_often_as_they_should():
    probabilities = enumerate_rows(tiny(), 3)
    drawn = rows(tiny(), stream="t", seed=1, start=0, count=60_000, seq_len=3)[:, 1:]
    counts = Counter(tuple(int(t) for t in row) for row in drawn)
    assert counts.keys() <= probabilities.keys()
    for row, p in probabilities.items():
        deviation = math.sqrt(p * (1 - p) / 60_000)
        assert abs(counts[row] / 60_000 - p) < 5 * deviation + 1e-9


def test_counts_are_proportional_exact_and_positive():
    weights = (np.arange(1024) + 4.0) ** -1.5
    counts = counts_from(weights)[0]
    assert counts.sum() == LANE and counts.min() >= 1
    assert np.abs(counts / LANE - weights / weights.sum()).max() < 0.02
    for options in itertools.product([1, 2, 7], repeat=2):
        assert counts_from(np.array(options, float)).sum() == LANE
