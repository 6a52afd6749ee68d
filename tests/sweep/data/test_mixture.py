"""Mixtures: shares of every prefix, rows of the parts, held-out samples, and what is refused."""

import json
from fractions import Fraction

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.mixture import heldout_shares, pattern_of
from sweep.data.registry import describe, open_source
from tests.sweep.data.builders import data_config

T = 8


def fractions(*weights):
    parts = [Fraction(str(w)) for w in weights]
    return [p / sum(parts) for p in parts]


@pytest.mark.parametrize(
    "weights",
    [(1,), (1, 1), (3, 1), (0.7, 0.2, 0.1), (5, 3, 3, 1, 1), (1, 1, 1, 1, 1, 1, 1), (997, 2, 1),
     (0.333, 0.667), (13, 11, 7, 5, 3, 2, 1)],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 3])
def test_every_prefix_has_the_weights_to_within_a_row_of_each_part(weights, seed):
    shares = fractions(*weights)
    pattern = pattern_of(shares, seed)
    rows = np.arange(2 * len(pattern.part) + 50)
    part, number = pattern.place(rows)
    for i, share in enumerate(shares):
        given = np.cumsum(part == i)
        assert np.abs(given - (rows + 1) * float(share)).max() < 1
        assert np.array_equal(number[part == i], np.arange(given[-1]))


def test_the_seed_decides_which_of_equal_parts_comes_first():
    firsts = {int(pattern_of(fractions(1, 1, 1), seed).part[0]) for seed in range(12)}
    assert firsts == {0, 1, 2}


def test_held_out_rows_are_shared_by_largest_remainders():
    assert heldout_shares(fractions(3, 1), 8) == [6, 2]
    assert heldout_shares(fractions(0.55, 0.45), 3) == [2, 1]
    assert heldout_shares(fractions(98, 1, 1), 10) == [8, 1, 1]
    assert heldout_shares(fractions(98, 1, 1), 2) == [1, 1, 1]


@pytest.fixture
def folders(tmp_path):
    """Three folders whose documents have letters of their own."""
    for name, letters, count in (("ab", "ab", 400), ("cd", "cd", 100), ("ef", "ef", 300)):
        (tmp_path / name).mkdir()
        random = np.random.default_rng(len(name) + count)
        texts = ["".join(random.choice(list(letters), 20)) for _ in range(count)]
        lines = "\n".join(json.dumps({"text": text}) for text in dict.fromkeys(texts))
        (tmp_path / name / "x.jsonl").write_text(lines)
    return tmp_path


def parts(folders, **weights):
    return [{"name": "text", "path": str(folders / k), "weight": w} for k, w in weights.items()]


def config(folders, given, **more):
    return data_config("mix", folders, parts=given, heldout_tokens=160, vocab=None, **more)


def opened(folders, given, seed=0, **more):
    return open_source(config(folders, given, **more), seq_len=T, seed=seed)


def which(rows):
    """The part of each row, by its letters."""
    return np.array([0 if set(r) & {97, 98} else 1 if set(r) & {99, 100} else 2 for r in rows])


def test_rows_are_those_of_the_parts_in_their_own_order_wherever_reading_begins(folders):
    source = opened(folders, parts(folders, ab=3, cd=1))
    rows = source.train(0, 400)
    owner = which(rows.tolist())
    assert np.bincount(owner).tolist() == [300, 100]
    alone = source.sources[0].train(0, 300)
    assert np.array_equal(rows[owner == 0], alone)
    for start, count in ((0, 1), (7, 5), (123, 200), (399, 1)):
        assert np.array_equal(source.train(start, count), rows[start : start + count])


def test_a_part_repeats_in_whole_epochs_of_its_own(folders):
    source = opened(folders, parts(folders, ab=1, cd=1))
    small = source.sources[1]
    count = small.unique
    rows = source.train(0, 4 * count)
    mine = rows[which(rows.tolist()) == 1]
    assert len(mine) == 2 * count
    first, second = ({r.tobytes() for r in part} for part in (mine[:count], mine[count:]))
    assert first == second
    assert source.info.unique_tokens == 2 * count * T
    found = source.part_facts(4 * count * T)
    assert found["cd"] == {"weight": 0.5, "unique_tokens": count * T, "epochs": 2.0}
    assert "an epoch every" in dict(source.facts)["part 2"]


def test_the_held_out_sample_has_the_proportions_and_is_the_same_for_every_seed(folders):
    one, other = (opened(folders, parts(folders, ab=3, cd=1, ef=1), seed=s) for s in (0, 1))
    held = one.heldout()
    assert np.array_equal(held.rows, other.heldout().rows)
    assert np.array_equal(held.part, which(held.rows.tolist()))
    assert np.bincount(held.part).tolist() == [12, 4, 4] and held.parts == ("ab", "cd", "ef")
    assert np.array_equal(held.rows, np.concatenate([s.heldout().rows for s in one.sources]))
    assert not np.array_equal(one.train(0, 50), other.train(0, 50))


def test_bytes_per_token_and_the_unigram_loss_are_of_the_whole_sample(folders):
    source = opened(folders, parts(folders, ab=1, cd=1))
    held = source.heldout().rows[:, 1:]
    assert source.info.bytes_per_token == pytest.approx(np.mean(held < 256))
    assert np.log(4) < source.unigram_loss < np.log(5.5)


def test_the_identity_holds_parts_weights_and_caps(folders):
    def identity(given, **more):
        info = describe(config(folders, given, **more), T)[2]
        return info.hash, info.unique_tokens

    base = identity(parts(folders, ab=3, cd=1))
    assert identity(parts(folders, ab=6, cd=2)) == base
    assert identity(parts(folders, ab=2, cd=1)) != base
    assert identity(parts(folders, ab=3, ef=1)) != base
    assert identity(parts(folders, ab=3, cd=1), unique_tokens=800) != base
    capped = parts(folders, ab=3, cd=1)
    capped[0]["unique_tokens"] = 400
    assert identity(capped) != base


def test_a_cap_on_the_mixture_is_shared_by_weight(folders):
    source = opened(folders, parts(folders, ab=3, cd=1), unique_tokens=800)
    assert [s.info.unique_tokens for s in source.sources] == [600, 200]
    assert source.info.unique_tokens == 800


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "needs its parts"),
        ([3], "part 1 of data.parts is 3"),
        ([{"name": "text", "path": "x"}], "weight:3"),
        ([{"name": "stories", "weight": 1}], "text, tokens, hf can be mixed"),
        ([{"name": "text", "weight": -1}], "positive number"),
        ([{"name": "text", "weight": "much"}], "positive number"),
        ([{"name": "text", "weight": 1, "dtype": "uint16"}], "dtype, which is not read"),
        ([{"name": "text", "weight": 1, "vocab": 300}], "vocab, which is not read"),
        ([{"name": "text", "weight": 1, "seed": 3}], "of the mixture: data.seed"),
        ([{"name": "text", "weight": 0.123457}, {"name": "text", "weight": 1}], "fewer digits"),
        ([{"name": "text", "path": "a/x", "weight": 1}, {"name": "text", "path": "b/x",
          "weight": 1}], "called 'x'"),
    ],
)  # fmt: skip
def test_parts_that_are_none_are_refused(folders, change, message):
    with pytest.raises(PlanError, match=message):
        opened(folders, change)


def test_byte_pairs_trained_by_part_are_refused(folders):
    with pytest.raises(PlanError, match="tokenizer=bytes"):
        opened(folders, parts(folders, ab=1), tokenizer="bpe")
