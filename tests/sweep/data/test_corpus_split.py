"""The held-out split: disjoint, complete, reproducible, blind to order."""

import numpy as np
import pytest

from sweep.data.corpus import split

RNG = np.random.default_rng(0)


def corpus(lengths):
    keys = RNG.integers(0, 2**63, len(lengths)).astype(np.uint64)
    return np.cumsum(lengths), keys


def covered(intervals, total):
    hits = np.zeros(total, int)
    for begin, end in intervals:
        hits[begin:end] += 1
    return hits


@pytest.mark.parametrize(
    "lengths", [RNG.integers(1, 300, 500), [100_000], [5, 90_000, 5, 7], [3000] * 30]
)
def test_both_sides_together_are_the_corpus(lengths):
    ends, keys = corpus(lengths)
    parts = split(ends, keys, heldout_tokens=4000, seed=0)
    train, heldout = (covered(side, ends[-1]) for side in (parts.train, parts.heldout))
    assert np.array_equal(train + heldout, np.ones(ends[-1]))
    assert 4000 <= heldout.sum() < 4000 + max(1000, 4000 // 4)


def test_short_documents_are_held_out_whole():
    ends, keys = corpus(RNG.integers(1, 300, 500))
    parts = split(ends, keys, heldout_tokens=4000, seed=0)
    starts = np.concatenate([[0], ends[:-1]])
    documents = set(zip(starts.tolist(), ends.tolist(), strict=True))
    assert {tuple(i) for i in parts.heldout.tolist()} < documents
    assert len(parts.heldout) > 10


def test_one_long_document_is_held_out_in_blocks_from_all_over():
    ends, keys = corpus([1_000_000])
    parts = split(ends, keys, heldout_tokens=16_000, seed=0)
    assert 16 <= len(parts.heldout) <= 17
    assert parts.heldout[0, 0] < 250_000 and parts.heldout[-1, 0] > 750_000


def test_the_choice_follows_content_and_seed_and_not_order():
    lengths = RNG.integers(1, 300, 500)
    ends, keys = corpus(lengths)
    shuffled = RNG.permutation(500)

    def chosen(order, seed):
        parts = split(np.cumsum(lengths[order]), keys[order], heldout_tokens=4000, seed=seed)
        begins = np.cumsum(lengths[order]) - lengths[order]
        return {keys[order][np.flatnonzero(begins == b)[0]] for b, _ in parts.heldout}

    assert chosen(np.arange(500), 0) == chosen(shuffled, 0)
    assert chosen(np.arange(500), 0) != chosen(np.arange(500), 1)


def test_more_heldout_tokens_keep_those_held_out_before():
    ends, keys = corpus(RNG.integers(1, 300, 500))
    small, large = (split(ends, keys, heldout_tokens=n, seed=0) for n in (4000, 8000))
    assert {tuple(i) for i in small.heldout} < {tuple(i) for i in large.heldout}
