"""Rows of stories: random access, independent streams, and losses that agree with the truth."""

import itertools
import math

import numpy as np
import pytest

from sweep.data.language import (
    LANE,
    Draw,
    Update,
    Word,
    _lanes,
    _write,
    bytes_per_token,
    rows,
    sample,
    text,
)
from sweep.data.stories import SIZES, language
from tests.sweep.data.test_language import tiny

LENGTH = 128
GOLDEN = (
    "once upon a time there was a brave girl named Anna. she lived in Furobro and had a big "
    "cup. her best friend was a frog. people cook Funethu figs, carve Funeshu swings and "
    "carve Funeglu buckets. people draw Funedro giants. they cook Fu-"
)


def scores(tongue, *, stream, seed, count, block=1 << 13):
    """Sampled ideal loss minus the exact one in standard errors, per skill and in total."""
    exact = tongue.entropy_by_skill(LENGTH)
    wanted = np.array([*exact.values(), math.fsum(exact.values())])
    sums, squares = np.zeros(len(wanted)), np.zeros(len(wanted))
    for start in range(0, count, block):
        n = min(block, count - start)
        part = sample(tongue, stream=stream, seed=seed, start=start, count=n, seq_len=LENGTH)
        cell = (np.arange(n)[:, None] * len(tongue.skills) + part.skill).ravel()
        shares = np.bincount(cell, weights=part.ideal.ravel(), minlength=n * len(tongue.skills))
        per_row = shares.reshape(n, len(tongue.skills)) / LENGTH
        per_row = np.column_stack([per_row, per_row.sum(axis=1)])
        sums += per_row.sum(axis=0)
        squares += (per_row**2).sum(axis=0)
    error = np.sqrt((squares / count - (sums / count) ** 2) / count)
    assert (sums[error == 0] == 0).all() and (wanted[error == 0] == 0).all()
    return (sums / count - wanted)[error > 0] / error[error > 0]


@pytest.mark.parametrize(
    ("at", "counts"),
    [
        (0, {"so": 40_000, ",": LANE - 40_000}),  # which segment
        (1, {"a": 49_152, "b": 16_384}),  # a draw
        (2, {"x": 32_768, "y": 32_768}),  # a draw that depends on the one before
    ],
)
def test_each_option_is_drawn_by_exactly_its_count_of_the_lanes_65536_values(at, counts):
    lanes = np.zeros((LANE, 8), np.int64)
    lanes[:, at] = np.arange(LANE)
    found = _write(tiny(), lanes, 3, measured=True)
    token, ideal = found.tokens[:, at + 1], found.ideal[:, at]
    for word, count in counts.items():
        chosen = token == tiny().vocab.index(word)
        assert chosen.sum() == count
        assert ideal[chosen] == pytest.approx(-math.log(count / LANE), abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_sampled_ideal_loss_agrees_with_the_exact_one_in_total_and_per_skill(size):
    assert np.abs(scores(language(size, 0), stream="check", seed=5, count=20_000)).max() < 3.5


@pytest.mark.slow
def test_many_seeds_show_no_bias_on_either_side():
    found = np.array(
        [scores(language("full", 1), stream="z", seed=s, count=512) for s in range(40)]
    )
    assert found.shape[1] == 4  # novel, consistency, reasoning, total
    assert np.abs(found.mean(axis=0)).max() * math.sqrt(40) < 3.5
    assert (0.75 < found.std(axis=0)).all() and (found.std(axis=0) < 1.3).all()


@pytest.mark.slow
def test_over_a_million_rows_and_six_seeds_the_ideal_loss_is_exact_in_total_and_per_skill():
    """Per language seed 1,048,576 rows; signs count, so that a bias below one error is seen."""
    found = np.array(
        [scores(language("full", s), stream="z", seed=s, count=1 << 20) for s in range(6)]
    )
    assert np.abs(found).max() < 3.5
    assert np.abs(found.mean(axis=0)).max() * math.sqrt(6) < 3


def test_a_row_depends_on_its_index_alone():
    tongue = language("demo", 0)
    whole = sample(tongue, stream="train", seed=3, start=0, count=50, seq_len=LENGTH)
    part = sample(tongue, stream="train", seed=3, start=17, count=9, seq_len=LENGTH)
    assert np.array_equal(whole.tokens[17:26], part.tokens)
    assert np.array_equal(whole.ideal[17:26], part.ideal)
    assert np.array_equal(whole.skill[17:26], part.skill)
    assert (whole.tokens[:, 0] == 0).all() and (whole.tokens[:, 1:] > 0).all()


def test_a_shorter_row_is_the_beginning_of_a_longer_one():
    tongue = language("full", 0)
    make = {"stream": "train", "seed": 3, "start": 10**12, "count": 40}
    long, short = (sample(tongue, seq_len=n, **make) for n in (200, 37))
    assert np.array_equal(long.tokens[:, :38], short.tokens)
    assert np.array_equal(long.ideal[:, :37], short.ideal)


def test_rows_hold_what_they_held_when_the_reference_sweep_was_made():
    tokens = rows(language("demo", 0), stream="train", seed=0, start=7, count=1, seq_len=60)
    assert text(language("demo", 0), tokens[:, 1:]) == GOLDEN


def test_streams_and_seeds_differ_and_heldout_rows_are_not_in_training():
    tongue = language("demo", 0)
    make = {"count": 4000, "start": 0, "seq_len": LENGTH}
    train = rows(tongue, stream="train", seed=0, **make)
    heldout = rows(tongue, stream="heldout", seed=0, **make)
    other = rows(tongue, stream="train", seed=1, **make)
    seen = [{r.tobytes() for r in part} for part in (train, heldout, other)]
    assert len(set.union(*seen)) == 3 * 4000


def test_lanes_are_uniform_and_independent_of_their_neighbours():
    """Chi-square of nibble pairs: next lane, next row, next seed; 255 degrees of freedom each."""
    one, two = (_lanes("train", seed, np.arange(4000, dtype=np.uint64), LENGTH) for seed in (0, 1))
    high, low = one >> 12, one & 15
    pairs = [
        (high[:, :-1], high[:, 1:]), (low[:, :-1], high[:, 1:]),
        (high[:-1], high[1:]), (low[:-1], low[1:]), (high, two >> 12), (low, high),
    ]  # fmt: skip
    for a, b in pairs:
        counts = np.bincount((a * 16 + b).ravel(), minlength=256)
        expected = counts.sum() / 256
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi - 255) < 4.5 * math.sqrt(2 * 255)
    assert one.min() >= 0 and one.max() < LANE


def test_text_is_joined_as_english_is_written():
    tongue = language("demo", 0)
    number = {word: i for i, word in enumerate(tongue.vocab)}
    syllables = [w for w in tongue.vocab if w.endswith("-")]
    first = next(w for w in syllables if w[0].isupper())
    second = next(w for w in syllables if not w[0].isupper())
    words = ["people", "eat", first, second, "cha", "plums", ",", "eat"]
    tokens = np.array([[number[w] for w in words], [number["."]] * len(words)])
    lines = text(tongue, tokens).splitlines()
    assert lines[0] == f"people eat {first[:-1]}{second[:-1]}cha plums, eat"
    assert len(lines) == 2


def test_bytes_per_token_is_that_of_the_text():
    for size, length in itertools.product(("demo", "full"), (64, 128)):
        tongue = language(size, 0)
        drawn = rows(tongue, stream="other", seed=9, start=0, count=400, seq_len=length)
        found = len(text(tongue, drawn[:, 1:]).encode()) / (400 * length)
        assert bytes_per_token(tongue, length) == pytest.approx(found, rel=0.01)


def written_one_by_one(tongue, lanes, length):
    """A row by the definition of a language: its tokens, ideal losses and skills."""
    tokens, ideal, skill, variables = [0], [], [], {}
    lane, state = iter(lanes), tongue.start
    while len(ideal) < length:
        segments, first = tongue.states[state], len(ideal)
        several = len(segments) > 1
        drawn = next(lane) if several else 0
        ends = np.cumsum([s.count for s in segments])
        segment = segments[int(np.searchsorted(ends, drawn, side="right"))]
        for slot in segment.slots:
            given = tuple(int(variables[name]) for name in getattr(slot, "given", ()))
            if isinstance(slot, Update):
                variables[slot.var] = slot.table[given]
                continue
            cost = np.float32(0)
            if isinstance(slot, Draw):
                options = slot.counts.shape[1]
                counts = slot.counts[sum(v * options**i for i, v in enumerate(given[::-1]))]
                value = int(np.searchsorted(np.cumsum(counts), next(lane), side="right"))
                variables[slot.var] = value
                tokens.append(slot.tokens[value])
                cost = np.float32(-math.log(counts[value] / LANE))
            else:
                tokens.append(slot.token if isinstance(slot, Word) else slot.table[given])
            ideal.append(cost)
            skill.append(tongue.skills.index(slot.skill))
        if several:
            ideal[first] += np.float32(-math.log(segment.count / LANE))
            skill[first] = tongue.choice(segment)
        state = segment.then
    return tokens[: length + 1], ideal[:length], skill[:length]


@pytest.mark.parametrize("size", SIZES)
def test_rows_written_together_are_those_that_the_definition_gives_one_by_one(size):
    tongue, length = language(size, 2), 150
    found = sample(tongue, stream="train", seed=3, start=70, count=40, seq_len=length)
    lanes = _lanes("train", 3, np.arange(70, 110, dtype=np.uint64), length).tolist()
    for row in range(40):
        tokens, ideal, skill = written_one_by_one(tongue, lanes[row], length)
        assert found.tokens[row].tolist() == tokens
        assert found.skill[row].tolist() == skill
        assert np.array_equal(found.ideal[row], np.array(ideal, np.float32))
    alone = rows(tongue, stream="train", seed=3, start=70, count=40, seq_len=length)
    assert np.array_equal(alone, found.tokens)
