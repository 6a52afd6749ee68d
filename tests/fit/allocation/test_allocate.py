"""A budget's best split, against brute force and published values."""

import numpy as np
import pytest

from fit.allocation.allocate import (
    _search,
    along_budget,
    closed_form,
    flops_for_loss,
    regret_band,
    split,
)
from fit.allocation.ladder import constant_cost, ladder_of, smooth_cost, token_cost
from fit.errors import QueryError
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


def test_the_regret_band_ends_where_the_loss_leaves_the_tolerance():
    flops, tolerance = 1e20, 0.004
    band = regret_band(CHINCHILLA, BESIROGLU, flops, SIX, tolerance)
    best = split(CHINCHILLA, BESIROGLU, np.array([flops]), SIX)
    ends = np.log([band.low, band.high])
    losses = np.log(along_budget(CHINCHILLA, BESIROGLU, ends, flops, SIX))
    assert losses == pytest.approx(best.log_loss[0] + tolerance, abs=1e-9)
    assert band.low < np.exp(best.log_params[0]) < band.high


def test_without_tolerance_the_band_is_the_optimum():
    band = regret_band(CHINCHILLA, BESIROGLU, 1e20, SIX, 0.0)
    assert band.low == pytest.approx(band.high, rel=1e-4)


def test_a_tolerance_that_nothing_exceeds_gives_all_sizes():
    band = regret_band(CHINCHILLA, BESIROGLU, 1e12, SIX, 50.0)
    assert band.low == pytest.approx(1.0)
    assert band.high == pytest.approx(1e12)


@pytest.mark.parametrize("cost", [SIX, token_cost(make_fit(), ladder_of(make_fit()))])
def test_the_budget_for_a_loss_is_the_inverse_of_the_split(cost):
    found = split(CHINCHILLA, BESIROGLU, np.array([3e19]), cost)
    loss = float(np.exp(found.log_loss[0]))
    assert flops_for_loss(CHINCHILLA, BESIROGLU, loss, cost) == pytest.approx(3e19, rel=1e-8)


def test_the_budget_for_a_loss_agrees_with_the_closed_form():
    e, a, b, alpha, beta = HOFFMANN
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    k = a * g**-alpha + b * g**beta
    expected = 6 * (k / (2.2 - e)) ** ((alpha + beta) / (alpha * beta))
    assert flops_for_loss(CHINCHILLA, HOFFMANN, 2.2, SIX) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("loss", [1.0, 1.6, 1e9])
def test_a_loss_that_no_budget_reaches_is_refused(loss):
    with pytest.raises(QueryError, match="is not between"):
        flops_for_loss(CHINCHILLA, HOFFMANN, loss, SIX)


def test_the_search_finds_the_least_loss_to_rounding_far_inside_and_far_beyond():
    family, theta = law("chinchilla"), np.array([0.98, 124.0, 36.0, 0.85, 0.47])
    thetas = theta * (1 + 0.05 * np.random.default_rng(2).standard_normal((40, 5)))
    flops = np.array([1e8, 1e12, 1e16, 1e21])
    found = _search(family, thetas, np.log(flops), constant_cost(6.0))
    exact = closed_form(family, thetas, np.log(flops), 6.0)
    # Rounding of the loss, 1e-16, over its curvature, which falls to 1e-8 of the loss at 1e21.
    assert found == pytest.approx(exact, abs=2e-5)
    assert found[:, :2] == pytest.approx(exact[:, :2], abs=1e-7)
