"""The interpreter of RASP: steps against brute force, and the layers that it counts."""

import numpy as np
import pytest

from sweep.skills.rasp import (
    earliest,
    inputs,
    latest,
    lookup,
    mean,
    select,
    selector_width,
    shifted,
)

VOCAB, ROWS, LENGTH = 5, 6, 9


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_gathering_agrees_with_loops_over_positions(seed, causal):
    random = np.random.default_rng(seed)
    tokens = random.integers(VOCAB, size=(ROWS, LENGTH))
    table = random.random((VOCAB, VOCAB)) < 0.3
    x = inputs(tokens)
    chosen = select(x, x, table, causal=causal)
    results = [f(chosen, x).values for f in (latest, earliest, mean)]
    counts = selector_width(chosen).values
    for row in range(ROWS):
        for query in range(LENGTH):
            keys = range(query + 1 if causal else LENGTH)
            found = [k for k in keys if table[tokens[row, k], tokens[row, query]]]
            read = tokens[row, found] if found else np.zeros(1, int)
            want = (read[-1], read[0], read.mean())
            assert [r[row, query] for r in results] == pytest.approx(want)
            assert counts[row, query] == len(found)


def test_distances_and_intersections_restrict_the_keys():
    tokens = np.array([[3, 1, 3, 2, 3, 1]])
    x = inputs(tokens)
    near = select(x, distances=np.arange(6) < 3)
    threes = select(x, table=np.arange(VOCAB) == 3)
    assert selector_width(near).values.tolist() == [[1, 2, 3, 3, 3, 3]]
    assert selector_width(near & threes).values.tolist() == [[1, 1, 2, 1, 2, 1]]


def test_no_step_but_a_selector_sees_another_position():
    random = np.random.default_rng(0)
    tokens = random.integers(VOCAB, size=(1, LENGTH))
    table = random.integers(7, size=(VOCAB, VOCAB))
    order = random.permutation(LENGTH)
    one = lookup(table, inputs(tokens), inputs(tokens)).values[:, order]
    moved = inputs(tokens[:, order])
    assert np.array_equal(one, lookup(table, moved, moved).values)


def test_later_tokens_change_nothing_under_a_causal_selector():
    tokens = np.random.default_rng(1).integers(VOCAB, size=(1, LENGTH))
    changed = tokens.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % VOCAB
    same = np.eye(VOCAB, dtype=bool)
    for step in (latest, earliest, mean):
        one, other = (
            step(select(inputs(t), inputs(t), same), inputs(t)) for t in (tokens, changed)
        )
        assert np.array_equal(one.values[:, :5], other.values[:, :5])


def test_layers_count_attention_then_mlp():
    x = inputs(np.zeros((1, 4), int))
    several, single = np.zeros((5, 5), int), np.zeros(5, int)
    head = latest(select(x), x)
    assert (x.layers, head.time, head.layers) == (0, 1, 1)
    assert lookup(single, x).time == 0, "a table of one token is an embedding"
    assert lookup(single, head).time == 1
    assert lookup(several, head, x).time == 2, "the MLP of the same block"
    assert lookup(several, x, x).time == 2, "no MLP stands before the first attention"
    after = lookup(several, head, x)
    assert latest(select(after), x).time == 3, "an MLP's result is a key of the next block"
    assert latest(select(head), x).time == 3, "and so is that of another head"
    assert selector_width(select(x)).layers == 1
    assert (select(after) & select(x)).time == 2
    assert after.units == 25 and latest(select(after), x).units == 25


def test_a_convolution_saves_the_layer_that_looks_back():
    x = inputs(np.array([[4, 1, 2, 3]]))
    for lag in (1, 2, 3):
        near, far = shifted(x, lag, taps=4), shifted(x, lag, taps=lag)
        assert (near.time, far.time) == (0, 1)
        assert np.array_equal(near.values[:, lag:], far.values[:, lag:])
        assert near.values[:, lag:].tolist() == [[4, 1, 2, 3][: 4 - lag]]


def test_a_mean_is_refused_by_a_table():
    x = inputs(np.array([[1, 2]]))
    with pytest.raises(TypeError, match="mean"):
        lookup(np.zeros(5, int), mean(select(x), x))


def test_the_histogram_of_the_paper_counts_every_token():
    tokens = np.array([[0, 4, 0, 2, 4, 0]])
    x = inputs(tokens)
    counts = selector_width(select(x, x, np.eye(VOCAB, dtype=bool), causal=False))
    assert counts.values.tolist() == [[3, 2, 3, 1, 2, 3]] and counts.layers == 1


def test_sorting_as_in_the_paper_takes_two_layers():
    tokens = np.array([[3, 0, 4, 1, 2]])
    x = inputs(tokens)
    smaller = np.arange(VOCAB)[:, None] < np.arange(VOCAB)
    rank = selector_width(select(x, x, smaller, causal=False))
    place = inputs(np.arange(5)[None])
    ordered = latest(select(rank, place, np.eye(6, dtype=bool), causal=False), x)
    assert ordered.values.tolist() == [[0, 1, 2, 3, 4]] and ordered.layers == 2
