"""A budget's best split, against brute force and published values."""

import numpy as np
import pytest

from fit.allocation.allocate import (
    along_budget,
    closed_form,
    falling_root,
    falling_root_of_few,
    log_loss,
    minimise,
    split,
)
from fit.allocation.ladder import constant_cost, ladder_of, smooth_cost, token_cost
from fit.laws.families import law
from fit.laws.published import PRESETS, preset
from tests.fit.builders import make_fit

CHINCHILLA = law("chinchilla")
SIX = constant_cost()
HOFFMANN = np.array([preset("hoffmann2022").theta[p] for p in CHINCHILLA.parameters])
BESIROGLU = np.array([preset("besiroglu2024").theta[p] for p in CHINCHILLA.parameters])
ALMOST_SIX = smooth_cost(np.array([0.0, 60.0]), np.log([6.0, 6.0]))
"""C = 6 N D, but as a table, so that the search runs instead of the closed form."""


@pytest.mark.parametrize(
    ("theta", "flops", "params", "ratio"),
    [
        (HOFFMANN, 1e18, 9.47e7, 18.6),
        (HOFFMANN, 1e20, 7.75e8, 27.8),
        (HOFFMANN, 1e21, 2.22e9, 33.9),
        (HOFFMANN, 5.76e23, 4.04e10, 58.9),
        (HOFFMANN, 3.8e25, 2.73e11, 84.8),
        (BESIROGLU, 1e18, 8.05e7, 25.7),
        (BESIROGLU, 1e20, 8.53e8, 22.9),
        (BESIROGLU, 1e21, 2.78e9, 21.6),
        (BESIROGLU, 5.76e23, 7.22e10, 18.4),
        (BESIROGLU, 3.8e25, 6.19e11, 16.5),
    ],
)
def test_published_laws_split_budgets_as_published(theta, flops, params, ratio):
    found = split(CHINCHILLA, theta, np.array([flops]), SIX)
    assert np.exp(found.log_params[0]) == pytest.approx(params, rel=4e-3)
    log_ratio = found.log_tokens[0] - found.log_params[0]
    assert np.exp(log_ratio) == pytest.approx(ratio, rel=4e-3)


@pytest.mark.parametrize("theta", [HOFFMANN, BESIROGLU])
@pytest.mark.parametrize("cost", [SIX, ALMOST_SIX, token_cost(make_fit(), ladder_of(make_fit()))])
def test_no_size_on_a_dense_grid_beats_the_split(theta, cost):
    for flops in (1e13, 1e18, 1e24):
        found = split(CHINCHILLA, theta, np.array([flops]), cost)
        grid = found.log_params[0] + np.linspace(-3, 3, 60_001)
        losses = along_budget(CHINCHILLA, theta, grid, flops, cost)
        assert np.exp(found.log_loss[0]) <= losses.min() * (1 + 1e-12)
        # the grid's spacing is 1e-4 in ln N
        assert grid[np.argmin(losses)] == pytest.approx(found.log_params[0], abs=1.5e-4)


def test_the_search_finds_the_closed_form():
    flops = np.geomspace(1e12, 1e26, 8)
    exact = split(CHINCHILLA, BESIROGLU, flops, SIX)
    searched = split(CHINCHILLA, BESIROGLU, flops, ALMOST_SIX)
    assert searched.log_params == pytest.approx(exact.log_params, abs=1e-6)
    assert searched.log_loss == pytest.approx(exact.log_loss, abs=1e-12)


TWO_TERM = [name for name, p in PRESETS.items() if law(p.law).expand is not None]


@pytest.mark.parametrize("name", TWO_TERM)
def test_every_published_law_has_its_optimum_by_both_roads(name):
    family = law(preset(name).law)
    theta = np.array([preset(name).theta[p] for p in family.parameters])
    exact = split(family, theta, np.array([1e21]), SIX)
    searched = split(family, theta, np.array([1e21]), ALMOST_SIX)
    assert searched.log_params == pytest.approx(exact.log_params, abs=1e-6)


def test_both_sides_gain_the_same_at_the_optimum():
    found = split(CHINCHILLA, HOFFMANN, np.array([1e21]), SIX)
    _, a, b, alpha, beta = HOFFMANN
    of_params = alpha * a * np.exp(-alpha * found.log_params)
    of_tokens = beta * b * np.exp(-beta * found.log_tokens)
    assert of_params == pytest.approx(of_tokens, rel=1e-10)


def test_a_split_spends_the_whole_budget():
    fit = make_fit()
    cost = token_cost(fit, ladder_of(fit))
    flops = np.geomspace(1e11, 1e20, 10)
    found = split(CHINCHILLA, fit.vector(), flops, cost)
    spent = found.log_tokens + cost.log_flops_per_token(found.log_params)
    assert spent == pytest.approx(np.log(flops), rel=1e-12)


def test_many_thetas_and_budgets_split_as_each_alone():
    fit = make_fit()
    cost = token_cost(fit, ladder_of(fit))
    flops = np.array([1e12, 1e15])
    together = split(CHINCHILLA, fit.draws[:7], flops, cost)
    assert together.log_params.shape == (7, 2)
    alone = split(CHINCHILLA, fit.draws[3], flops[1:], cost)
    assert together.log_params[3, 1] == pytest.approx(alone.log_params[0], abs=1e-10)


def test_a_minimum_inside_at_an_end_and_at_a_kink_is_found():
    at = np.array([1.7, -3.0, 9.0, 2.5])

    def function(x):
        return np.where(at == 2.5, np.abs(x - at), np.cosh(x - at))

    best = minimise(function, np.zeros(4), np.full(4, 5.0))
    assert best == pytest.approx([1.7, 0.0, 5.0, 2.5], abs=2e-9)
    assert minimise(function, np.full(4, 4.0), np.full(4, 3.0)) == pytest.approx(4.0)


def test_where_repeats_may_overfit_the_lower_of_two_minima_is_found():
    # One is where the unique tokens end, one far into the repeats.
    overfit = law("overfit").at(unique_tokens=2_939_350.0)
    found = {"E": 0.948, "A": 354.65, "B": 12421.5, "P": 0.005356}
    found |= {"alpha": 0.321575, "beta": 0.507, "kappa": 0.3777}
    theta = np.array([[found[name] for name in overfit.parameters]])
    best = split(overfit, theta, np.exp([52.331637]), constant_cost())
    log_params = np.linspace(0, 52.3 - np.log(6), 20_001)
    grid = log_loss(overfit, theta, log_params, 52.331637 - np.log(6) - log_params)
    assert best.log_loss[0, 0] < grid.min() + 1e-4


def test_the_split_that_repeats_no_token_is_tried_wherever_it_lies_between_points_of_the_search():
    random, flops = np.random.default_rng(1), np.geomspace(1e14, 1e24, 12)
    for _ in range(12):
        unique = np.exp(random.uniform(14, 25))
        of = {"E": 1.5, "A": 200.0, "B": 900.0, "P": np.exp(random.uniform(-8, 0))}
        of |= dict(zip(("alpha", "beta", "kappa"), random.uniform(0.2, 0.6, 3), strict=True))
        family = law("overfit").at(unique_tokens=unique)
        theta = np.array([[of[name] for name in family.parameters]])
        found = split(family, theta, flops, SIX).log_loss[0]
        for budget, least in zip(np.log(flops / 6), found, strict=True):
            log_params = np.append(np.linspace(0, budget, 4001), budget - np.log(unique))
            grid = log_loss(family, theta, log_params, budget - log_params)
            assert least < grid.min() + 1e-6


@pytest.mark.parametrize("find", [falling_root, falling_root_of_few])
def test_a_root_inside_or_beyond_an_end_is_found_also_between_infinite_values(find):
    at = np.array([1.7, -3.0, 9.0, 4.0, 2.3])

    def function(x):
        steps = np.where(at == 4.0, np.where(x < at, np.inf, -np.inf), np.expm1(at - x))
        return np.where((at == 2.3) & (x > 2.32), -np.inf, steps)

    root = find(function, np.zeros(5), np.full(5, 5.0))
    assert root == pytest.approx([1.7, 0.0, 5.0, 4.0, 2.3], abs=1e-11)


def test_the_search_finds_the_least_loss_to_rounding_far_inside_and_far_beyond():
    family, theta = law("chinchilla"), np.array([0.98, 124.0, 36.0, 0.85, 0.47])
    thetas = theta * (1 + 0.05 * np.random.default_rng(2).standard_normal((40, 5)))
    flops = np.array([1e8, 1e12, 1e16, 1e21])
    found = split(family, thetas, flops, ALMOST_SIX).log_params
    exact = closed_form(family, thetas, np.log(flops), 6.0)
    # Rounding of the loss, 1e-16, over its curvature, which falls to 1e-8 of the loss at 1e21.
    assert found == pytest.approx(exact, abs=2e-5)
    assert found[:, :2] == pytest.approx(exact[:, :2], abs=1e-7)


@pytest.mark.parametrize("place", [0.03, 1.0, 7.3, 13.99])
def test_a_root_of_few_takes_four_calls_of_a_smooth_function_and_is_true_to_rounding(place):
    calls = []

    def function(x):
        calls.append(x.shape)
        return np.array([1.0, 2.0]) * (np.exp(-x / 3) - np.exp(-place / 3))

    root = falling_root_of_few(function, np.zeros(2), np.full(2, 14.0))
    np.testing.assert_allclose(root, place, rtol=1e-13)
    assert len(calls) <= 4


def test_a_minimum_is_sought_on_a_part_of_the_grid_and_between_infinite_values_on_all_of_it():
    points = []

    def function(x, low=-np.inf, high=np.inf):
        points.append(len(x))
        return np.where((x > low) & (x < high), (x - 4.321) ** 2, np.inf)

    whole = minimise(function, np.zeros(1), np.full(1, 30.0))
    assert sum(points[:2]) < 40
    points.clear()
    narrow = minimise(lambda x: function(x, 4.2, 4.5), np.zeros(1), np.full(1, 30.0))
    assert points[1] == 96
    np.testing.assert_allclose([whole, narrow], 4.321, rtol=1e-9)
