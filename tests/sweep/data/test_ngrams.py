"""N-gram models against the definition in plain Python, and against known distributions."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from sweep.data.ngrams import NO_SINGLES, ngram_losses

ORDERS = (1, 2, 3, 4, 5)
MARK = "before the row"


def kneser_ney(train, vocab, order):
    """p(word, context) by the formula, from dictionaries of tuples."""
    marked = [[MARK] * (order - 1) + list(map(int, row)) for row in train]
    grams = {m: Counter() for m in range(1, order + 2)}
    for row in marked:
        for end in range(order, len(row)):  # the first token of a row is not predicted
            for m in range(1, order + 1):
                grams[m][tuple(row[end - m + 1 : end + 1])] += 1
    counts = {order: grams[order]}
    for m in range(1, order):
        counts[m] = Counter(gram[1:] for gram in grams[m + 1])
    followers = {m: defaultdict(set) for m in counts}
    totals = {m: Counter() for m in counts}
    for m, table in counts.items():
        for gram, count in table.items():
            followers[m][gram[:-1]].add(gram[-1])
            totals[m][gram[:-1]] += count

    def probability(word, context, m=order):
        if m == 0:
            return 1 / vocab
        context = tuple(context)[len(context) - (m - 1) :]
        lower = probability(word, context[1:], m - 1)
        total = totals[m][context]
        if not total:
            return lower
        ones = sum(c == 1 for c in counts[m].values())
        twos = sum(c == 2 for c in counts[m].values())
        discount = ones / (ones + 2 * twos) if ones else NO_SINGLES
        own = max(counts[m][(*context, word)] - discount, 0)
        return (own + discount * len(followers[m][context]) * lower) / total

    return probability


def rows_of(count, length, vocab, seed):
    random = np.random.default_rng(seed)
    return (vocab * random.random((count, length)) ** 2).astype(np.int32)


@pytest.mark.parametrize("vocab, count", [(5, 12), (30, 20), (3, 200)])
def test_losses_are_those_of_the_formula(vocab, count):
    train, heldout = rows_of(count, 9, vocab - 1, 0), rows_of(6, 11, vocab, 1)
    for order, losses in ngram_losses(train, heldout, vocab, ORDERS):
        probability = kneser_ney(train, vocab, order)
        for row, found in zip(heldout.tolist(), losses, strict=True):
            marked = [MARK] * (order - 1) + row
            expected = [
                -math.log(probability(row[t], marked[t : t + order - 1]))
                for t in range(1, len(row))
            ]
            assert found == pytest.approx(expected, rel=1e-12)


def test_probabilities_of_all_tokens_sum_to_one_in_any_context():
    vocab, train = 7, rows_of(30, 12, 6, 2)
    for context in ([0, 1, 2, 3], [6, 6, 6, 6], [1, 0, 0, 2]):
        heldout = np.array([[*context, word] for word in range(vocab)], dtype=np.int32)
        for _, losses in ngram_losses(train, heldout, vocab, ORDERS):
            assert np.exp(-losses[:, -1]).sum() == pytest.approx(1, rel=1e-12)


def test_a_chain_is_predicted_at_its_entropy_from_its_own_order_on():
    """A chain of second order: its conditional entropy is what order 3 approaches and 2 cannot."""
    random = np.random.default_rng(3)
    table = random.dirichlet(np.full(6, 0.3), size=(6, 6)).cumsum(-1)
    rows = np.zeros((6000, 42), dtype=np.int32)
    exact = np.zeros((6000, 42))
    for t in range(2, 42):
        steps = table[rows[:, t - 2], rows[:, t - 1]]
        rows[:, t] = (random.random((6000, 1)) > steps).sum(1).clip(0, 5)
        edges = np.concatenate([np.zeros((6000, 1)), steps], 1)
        places = np.arange(6000)
        exact[:, t] = -np.log(edges[places, rows[:, t] + 1] - edges[places, rows[:, t]])
    late = slice(4, None)  # without the constant start
    loss = {
        order: losses[:, late].mean()
        for order, losses in ngram_losses(rows[:5000], rows[5000:], 6, ORDERS)
    }
    truth = exact[5000:, 5:].mean()
    assert loss[1] > loss[2] > loss[3] + 0.1
    assert loss[3] == pytest.approx(truth, abs=0.003)
    assert loss[5] == pytest.approx(truth, abs=0.05)


def test_a_token_that_was_never_seen_is_unlikely_and_possible():
    train = np.tile(np.array([[0, 1, 2, 0, 1, 2]], dtype=np.int32), (500, 1))
    heldout = np.array([[0, 1, 3, 0, 1, 2]], dtype=np.int32)
    for _, losses in ngram_losses(train, heldout, 4, ORDERS):
        assert np.isfinite(losses).all() and losses[0, 1] > 3
