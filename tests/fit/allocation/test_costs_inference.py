"""Models smaller than compute-optimal, against published values and brute force."""

import numpy as np
import pytest

from fit.allocation.allocate import flops_for_loss, split
from fit.allocation.costs import (
    lifetime_optimum,
    smallest_params,
    smallest_size,
    tokens_factor,
    tokens_for_loss,
    training_overhead,
)
from fit.allocation.ladder import constant_cost
from fit.errors import QueryError
from fit.laws.families import law
from fit.laws.published import preset

LAW = law("chinchilla")
HOFFMANN, BESIROGLU = (
    np.array(list(preset(n).theta.values())) for n in ("hoffmann2022", "besiroglu2024")
)


def optimal(params: float, theta: np.ndarray) -> tuple[float, float]:
    """Tokens and loss of the budget whose best split has these parameters."""
    low, high = 0.0, 70.0
    for _ in range(100):
        middle = (low + high) / 2
        found = split(LAW, theta, np.exp([middle]), constant_cost())
        low, high = (middle, high) if found.log_params[0] < np.log(params) else (low, middle)
    return float(np.exp(found.log_tokens[0])), float(np.exp(found.log_loss[0]))


@pytest.mark.parametrize(
    ("served", "params", "tokens", "cost"),
    [(1e11, 6.05e9, 1.16, 0.993), (1e12, 3.8e9, 2.14, 0.83), (1e13, 2.1e9, 7.0, 0.45)],
)
def test_serving_makes_the_best_model_smaller_as_published(served, params, tokens, cost):
    d, loss = optimal(7e9, HOFFMANN)
    found = lifetime_optimum(LAW, HOFFMANN, loss, served)
    assert found.params == pytest.approx(params, rel=0.01)
    assert found.tokens / d == pytest.approx(tokens, rel=0.01)
    alone = 6 * 7e9 * d + 2 * 7e9 * served
    assert found.flops / alone == pytest.approx(cost, abs=0.006)  # stated to two digits


def test_without_serving_it_is_the_compute_optimal_model():
    _, loss = optimal(7e9, HOFFMANN)
    found = lifetime_optimum(LAW, HOFFMANN, loss, 0)
    assert found.params == pytest.approx(7e9, rel=1e-6)
    least = flops_for_loss(LAW, HOFFMANN, loss, constant_cost())
    assert found.flops == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("served", [1e9, 1e12, 1e15])
def test_no_size_on_a_dense_grid_beats_the_optimum(served):
    _, loss = optimal(7e9, BESIROGLU)
    found = lifetime_optimum(LAW, BESIROGLU, loss, served)
    sizes = smallest_params(LAW, BESIROGLU, loss) * np.geomspace(1 + 1e-6, 1e3, 200_001)
    costs = sizes * (6 * tokens_for_loss(LAW, BESIROGLU, sizes, loss) + 2 * served)
    assert found.flops <= costs.min() * (1 + 1e-9)
    assert found.params == pytest.approx(sizes[np.argmin(costs)], rel=1e-3)
    reached = LAW.loss(BESIROGLU, found.params, found.tokens)
    assert reached == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize(("size", "overhead"), [(0.75, 0.034), (0.5, 0.259), (0.3, 1.61)])
def test_smaller_models_cost_as_much_more_as_published(size, overhead):
    assert training_overhead(LAW, BESIROGLU, size) == pytest.approx(overhead, rel=0.015)


@pytest.mark.parametrize("size", [0.3, 0.5, 2.0])
def test_a_model_off_the_optimum_reaches_its_loss(size):
    d, loss = optimal(1e9, BESIROGLU)
    tokens = d * tokens_factor(LAW, BESIROGLU, size)
    assert LAW.loss(BESIROGLU, size * 1e9, tokens) == pytest.approx(loss, rel=1e-9)


def test_below_the_floor_no_number_of_tokens_is_enough():
    floor = smallest_size(LAW, BESIROGLU)
    _, alpha, beta = BESIROGLU[2:]
    assert floor == pytest.approx((1 + alpha / beta) ** (-1 / alpha))
    assert np.isinf(tokens_factor(LAW, BESIROGLU, floor * (1 - 1e-9)))
    assert tokens_factor(LAW, BESIROGLU, floor * (1 + 1e-6)) > 1e12
    _, loss = optimal(1e9, BESIROGLU)
    assert smallest_params(LAW, BESIROGLU, loss) == pytest.approx(floor * 1e9, rel=1e-9)
    assert np.isinf(tokens_for_loss(LAW, BESIROGLU, np.array(0.99 * floor * 1e9), loss))


def test_questions_that_cannot_be_meant_are_refused():
    with pytest.raises(QueryError, match="goes down to 1.8172"):
        lifetime_optimum(LAW, BESIROGLU, 1.8, 1e12)
    with pytest.raises(QueryError, match="served tokens"):
        lifetime_optimum(LAW, BESIROGLU, 2.2, -1.0)
    with pytest.raises(QueryError, match="times the optimal size"):
        tokens_factor(LAW, BESIROGLU, 0.0)
