"""What every source promises, on the embedded language and on packed tokens."""

import math

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.registry import describe, open_source, separator_of
from tests.sweep.data.builders import data_config, rows_as_set

T = 16


@pytest.fixture
def numbered(tmp_path):
    """A folder whose tokens are their own positions, so that every row names where it is from."""
    (tmp_path / "tokens").mkdir()
    np.arange(9000, dtype="<u2").tofile(tmp_path / "tokens" / "all.bin")
    return data_config("tokens", tmp_path, path=str(tmp_path / "tokens"))


def test_unknown_source_lists_the_known_ones():
    with pytest.raises(
        PlanError, match="'webtext' is unknown; known are stories, text, tokens, hf"
    ):
        open_source(data_config("webtext"), seq_len=T, seed=0)


def test_training_order_can_be_resumed_anywhere(numbered):
    source = open_source(numbered, seq_len=T, seed=3)
    whole = source.train(0, 2000)
    again = open_source(numbered, seq_len=T, seed=3)
    assert np.array_equal(again.train(777, 900), whole[777:1677])
    assert np.array_equal(np.concatenate([again.train(0, 5), again.train(5, 95)]), whole[:100])


def test_an_epoch_has_every_row_once_and_the_next_another_order(numbered):
    source = open_source(numbered, seq_len=T, seed=3)
    _, available, info = describe(numbered, T)
    rows = available // T
    first, second = source.train(0, rows), source.train(rows, rows)
    assert info.unique_tokens == available == rows * T
    assert len(rows_as_set(first)) == rows
    assert rows_as_set(first) == rows_as_set(second)
    assert not np.array_equal(first, second)


def test_the_run_seed_changes_the_order_and_nothing_else(numbered):
    one, other = (open_source(numbered, seq_len=T, seed=seed) for seed in (0, 1))
    rows = one.info.unique_tokens // T
    assert not np.array_equal(one.train(0, rows), other.train(0, rows))
    assert rows_as_set(one.train(0, rows)) == rows_as_set(other.train(0, rows))
    assert np.array_equal(one.heldout().rows, other.heldout().rows)
    assert (one.info, one.unigram_loss) == (other.info, other.unigram_loss)


def test_a_cap_bounds_distinct_tokens_and_larger_caps_contain_smaller(numbered):
    seen = []
    for cap in (640, 1280, None):
        numbered.unique_tokens = cap
        source = open_source(numbered, seq_len=T, seed=5)
        seen.append(rows_as_set(source.train(0, 1500)))
        assert source.info.unique_tokens == len(seen[-1]) * T
    assert [len(s) for s in seen[:2]] == [40, 80]
    assert seen[0] < seen[1] < seen[2]


def test_a_cap_above_what_there_is_says_what_there_is(numbered):
    numbered.unique_tokens = 10**9
    assert describe(numbered, T)[2].unique_tokens == describe(numbered, T)[1] < 9000


def test_a_cap_below_one_row_is_refused(numbered):
    numbered.unique_tokens = T - 1
    with pytest.raises(PlanError, match="below one row"):
        open_source(numbered, seq_len=T, seed=0)


def test_heldout_tokens_are_never_trained_on(numbered):
    source = open_source(numbered, seq_len=T, seed=0)
    heldout = source.heldout().rows
    assert heldout.shape == (512 // T, T + 1)
    assert not set(heldout.ravel()) & set(source.train(0, 3000).ravel())


def test_unigram_loss_is_what_counting_gives(numbered):
    numbered_path = numbered.path
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.25, 0.125, 0.125])
    rng.choice(4, size=200_000, p=p).astype("<u2").tofile(f"{numbered_path}/all.bin")
    source = open_source(numbered, seq_len=T, seed=0)
    heldout = source.heldout().rows[:, 1:]
    # 200,000 draws put each log-frequency within 0.01 of its probability's.
    assert source.unigram_loss == pytest.approx(-np.log(p)[heldout].mean(), abs=0.01)


def test_stories_know_their_entropy_in_total_and_by_skill():
    source = open_source(data_config("stories", heldout_tokens=1 << 16), seq_len=64, seed=0)
    heldout, info = source.heldout(), source.info
    assert heldout.rows.shape == (1024, 65)
    assert heldout.ideal.shape == heldout.skill.shape == (1024, 64)
    assert math.fsum(info.entropy_by_skill.values()) == pytest.approx(info.entropy, rel=1e-12)
    by_row = heldout.ideal.mean(axis=1)
    error = by_row.std() / math.sqrt(len(by_row))
    assert abs(by_row.mean() - info.entropy) < 4 * error
    assert info.entropy < source.unigram_loss < math.log(source.vocab)
    assert 3 < info.bytes_per_token < 8


def test_stories_are_endless_and_differ_by_seed():
    config = data_config("stories")
    one, other = (open_source(config, seq_len=32, seed=seed) for seed in (0, 1))
    assert one.info.unique_tokens is None
    assert one.train(10**9, 4).shape == (4, 33)
    assert not rows_as_set(one.train(0, 500)) & rows_as_set(other.train(0, 500))
    assert not rows_as_set(one.train(0, 500)) & rows_as_set(one.heldout().rows)
    assert np.array_equal(one.heldout().rows, other.heldout().rows)
    assert np.array_equal(one.train(100, 50), one.train(0, 150)[100:])


def test_capped_stories_repeat_the_beginning_of_the_endless_ones():
    endless = open_source(data_config("stories"), seq_len=32, seed=4)
    capped = open_source(data_config("stories", unique_tokens=3210), seq_len=32, seed=4)
    assert capped.info.unique_tokens == 3200
    assert np.array_equal(capped.train(0, 100), endless.train(0, 100))
    third = capped.train(200, 100)
    assert rows_as_set(third) == rows_as_set(endless.train(0, 100))
    assert not np.array_equal(third, capped.train(100, 100))
    assert np.array_equal(capped.train(90, 120), capped.train(0, 210)[90:])


def test_the_token_between_documents_is_known_told_or_asked_for():
    assert separator_of(data_config("text"), 300) == 299
    assert separator_of(data_config("hf"), 300) == 299
    assert separator_of(data_config("tokens", separator=7), 300) == 7
    with pytest.raises(PlanError, match="data=tokens names none; set data.separator=ID"):
        separator_of(data_config("tokens"), 300)
    with pytest.raises(PlanError, match="data.separator=300; one of the tokens 0 to 299"):
        separator_of(data_config("tokens", separator=300), 300)
    with pytest.raises(PlanError, match="data=stories names none; leave it out"):
        separator_of(data_config("stories"), 300)
