"""The best model within limits, against dense grids, its own inverse and published values."""

import dataclasses

import numpy as np
import pytest

from fit.allocation.allocate import MOST_LOG, split, tokens_needed
from fit.allocation.scaling_law import ScalingLaw
from fit.laws.published import preset
from fit.query.constraints import (
    ConstrainedProblem,
    constrained_problem,
    least_cost,
    least_loss,
    sizes_within_tolerance,
    starts,
)
from fit.query.question import question
from tests.fit.builders import make_fit

PUBLISHED = ScalingLaw.from_preset(preset("besiroglu2024"))
LADDER = ScalingLaw.from_fit(make_fit())
SIX = ScalingLaw.from_preset(preset("hoffmann2022"))
REPEATED = ScalingLaw.from_preset(preset("muennighoff2023-repeated"))
BUDGETS = ((PUBLISHED, 1e22), (SIX, 5.76e23), (LADDER, 1e14))
IDS = ("kND", "hoffmann", "ladder")
ALONE = (
    "params min_params max_params memory tokens max_tokens min_ratio max_ratio serve_tokens"
).split()


def fields_at(source, flops, factors):
    """Limits as multiples of the free optimum."""
    best = source.best(np.array([flops]))
    n, d = np.exp(best.log_params[0]), np.exp(best.log_tokens[0])
    scale = {"tokens": d, "ratio": d / n}
    fields = {
        name: value * (3 * d if name == "serve_tokens" else scale.get(name.rpartition("_")[2], n))
        for name, value in factors.items()
    }
    return {k: f"{v:.17g}B" if k == "memory" else v for k, v in fields.items()}


def dense(problem, theta, log_flops):
    """Size, tokens and loss of the best on 200,000 sizes."""
    low, high = problem.sizes()
    x = np.linspace(low, min(high, log_flops), 200_001)
    y = problem.tokens(x, log_flops)
    allowed = y >= problem.floor(x) - 1e-9
    loss = problem.law.loss(theta, np.exp(x), np.exp(np.where(allowed, y, 0.0)))
    at = np.argmin(np.where(allowed, loss, np.inf))
    return x[at], y[at], np.log(loss[at])


def check(source, flops, fields):
    """One question's least loss, against the grid; and what reaches that loss, against it."""
    asked = question(source, {"flops": flops, **fields})
    problem, theta, log_flops = (
        constrained_problem(asked, source),
        source.theta[None],
        np.log(flops),
    )
    found = least_loss(problem, theta, log_flops)
    x, y, loss = dense(problem, source.theta, log_flops)
    assert found.log_loss[0] <= loss + 1e-9, fields
    # the grid's spacing is below 3e-4 in ln N; the best is flat, so that N is told to a thousandth
    assert found.log_params[0] == pytest.approx(x, abs=1e-3), fields
    assert found.log_tokens[0] == pytest.approx(y, abs=1.5e-3), fields
    back = least_cost(problem, theta, found.log_loss)
    assert back.log_flops[0] == pytest.approx(found.log_flops[0], abs=1e-6), fields
    # far into repeats a loss hardly tells sizes apart
    assert back.log_params[0] == pytest.approx(found.log_params[0], abs=1e-4), fields


@pytest.mark.parametrize(("source", "flops"), BUDGETS, ids=IDS)
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_each_limit_alone_has_the_optimum_of_a_dense_grid(source, flops, name, factor):
    check(source, flops, fields_at(source, flops, {name: factor}))


def drawn(rng):
    """A random set of limits that can be met, as multiples of the free optimum."""
    factors = {
        "min_params": rng.uniform(0.02, 0.6),
        "max_params": rng.uniform(0.6, 4.0),
        "max_tokens": rng.uniform(0.6, 4.0),
        "min_ratio": rng.uniform(0.05, 0.9),
        "max_ratio": rng.uniform(0.95, 9.0),
        "memory": 2 * rng.uniform(0.6, 4.0),
        "serve_tokens": rng.uniform(0.01, 0.5),
    }
    chosen = rng.choice(list(factors), size=rng.integers(2, 6), replace=False)
    return {name: factors[name] for name in chosen}


@pytest.mark.parametrize(("source", "flops"), BUDGETS, ids=IDS)
def test_limits_together_have_the_optimum_of_a_dense_grid(source, flops):
    rng = np.random.default_rng(7)
    for _ in range(25):
        check(source, flops, fields_at(source, flops, drawn(rng)))


@pytest.mark.parametrize("unique", [5e9, 25e9, 1e12])
@pytest.mark.parametrize("factors", [{}, {"max_params": 0.4}, {"max_ratio": 0.1}])
def test_limits_on_a_law_of_repeats_have_the_optimum_of_a_dense_grid(unique, factors):
    source = REPEATED.given(unique_tokens=unique)
    check(source, 1e22, fields_at(source, 1e22, factors))


def test_repeats_are_inverted_wherever_the_size_lies():
    source = REPEATED.given(unique_tokens=25e9)
    x = np.linspace(np.log(1e8), np.log(1e12), 400)
    loss = np.log(source.law.loss(source.theta, 1e10, 1e10))
    y = tokens_needed(source.law, source.theta[None], x[None], np.array([[loss]]))[0]
    reached = np.isfinite(y)
    there = source.law.loss(source.theta, np.exp(x[reached]), np.exp(y[reached]))
    assert np.log(there) == pytest.approx(loss, abs=1e-8)
    assert 50 < reached.sum() < 400
    assert {bool(v) for v in y[reached] > np.log(25e9)} == {True, False}
    most = source.law.loss(source.theta, np.exp(x[~reached]), np.exp(MOST_LOG))
    assert (np.log(most) > loss).all()


def test_a_law_without_a_closed_form_is_inverted_too():
    source = ScalingLaw.from_preset(preset("kaplan2020"))
    y = tokens_needed(source.law, source.theta[None], np.log([1e8]), np.log([3.5]))
    assert source.law.loss(source.theta, 1e8, np.exp(y[0])) == pytest.approx(3.5, rel=1e-9)


@pytest.mark.parametrize(
    ("served", "params", "tokens", "flops"),
    [(1e11, 6.05e9, 1.16, 0.993), (1e12, 3.8e9, 2.14, 0.83), (1e13, 2.1e9, 7.0, 0.45)],
)
def test_serving_makes_the_best_model_smaller_as_published(served, params, tokens, flops):
    # the loss of a 7B model that is optimal without serving; Sardana et al. 2024, eq. 2
    low, high = 40.0, 70.0
    for _ in range(60):
        middle = (low + high) / 2
        free = split(SIX.law, SIX.theta, np.exp([middle]), SIX.cost)
        low, high = (middle, high) if free.log_params[0] < np.log(7e9) else (low, middle)
    d = np.exp(free.log_tokens[0])
    problem = ConstrainedProblem(law=SIX.law, cost=SIX.cost, served=served)
    best = least_cost(problem, SIX.theta[None], free.log_loss)
    assert np.exp(best.log_params[0]) == pytest.approx(params, rel=0.01)
    assert np.exp(best.log_tokens[0]) / d == pytest.approx(tokens, rel=0.01)
    alone = 6 * 7e9 * d + 2 * 7e9 * served
    assert np.exp(best.log_flops[0]) / alone == pytest.approx(flops, abs=0.006)  # to two digits
    without = least_cost(dataclasses.replace(problem, served=0.0), SIX.theta[None], free.log_loss)
    assert np.exp(without.log_params[0]) == pytest.approx(7e9, rel=1e-6)


def test_many_thetas_are_solved_as_each_alone():
    source = LADDER
    draws = source.fit.draws[:7]
    asked = {"flops": 1e14, "max_ratio": 30, "serve_tokens": 1e8}
    problem = constrained_problem(question(source, asked), source)
    together = least_loss(problem, draws, np.log(1e14))
    costs = least_cost(problem, draws, together.log_loss)
    for i, theta in enumerate(draws):
        alone = least_loss(problem, theta[None], np.log(1e14))
        assert alone.log_params[0] == pytest.approx(together.log_params[i], abs=1e-8)
        alone = least_cost(problem, theta[None], together.log_loss[i : i + 1])
        assert alone.log_flops[0] == pytest.approx(costs.log_flops[i], abs=1e-9)


def test_ceilings_leave_a_budget_unspent():
    source = PUBLISHED
    asked = question(source, {"flops": 1e24, "max_params": 1e9, "max_tokens": 1e11})
    found = least_loss(constrained_problem(asked, source), source.theta[None], np.log(1e24))
    assert np.exp(found.log_params[0]) == pytest.approx(1e9, rel=1e-12)
    assert np.exp(found.log_tokens[0]) == pytest.approx(1e11, rel=1e-12)
    assert np.exp(found.log_flops[0]) == pytest.approx(6e20, rel=1e-12)


def test_a_theta_that_cannot_reach_the_loss_has_no_place():
    source = PUBLISHED
    problem = constrained_problem(question(source, {"loss": 2.0, "max_params": 1e9}), source)
    thetas = np.stack([source.theta, source.theta])
    thetas[1, 0] = 2.1
    found = least_cost(problem, thetas, np.log([2.6, 2.0]))
    assert np.isfinite(found.log_flops[0])
    assert np.isnan([found.log_flops[1], found.log_params[1], found.log_tokens[1]]).all()


def test_without_tolerance_the_good_sizes_are_the_best_and_with_enough_they_are_all():
    problem = ConstrainedProblem(law=PUBLISHED.law, cost=PUBLISHED.cost)
    band = sizes_within_tolerance(problem, PUBLISHED.theta, np.log(1e20), 0.0)
    assert band.low == pytest.approx(band.high, rel=1e-4)
    band = sizes_within_tolerance(problem, PUBLISHED.theta, np.log(6e12), 50.0)
    assert band.low == pytest.approx(1.0)
    assert band.high == pytest.approx(1e12)


@pytest.mark.parametrize("flops", [3e9, 1e14, 1.09e14, 7e17])
def test_searches_that_begin_near_the_answer_end_where_searches_of_a_grid_do(flops):
    source, at = ScalingLaw.from_fit(make_fit()), np.log(flops)
    problem, near = ConstrainedProblem(law=source.law, cost=source.cost), starts(source, at)
    best = least_loss(problem, source.thetas, at)
    np.testing.assert_allclose(near[:-2], best.log_params, atol=1e-4)
    begun = least_loss(problem, source.thetas, at, near[:-2])
    np.testing.assert_allclose(begun.log_params, best.log_params, atol=1e-8)
    bands = [
        sizes_within_tolerance(problem, source.theta, at, 0.003, best.rows(slice(1)), begin)
        for begin in (None, near[-2:])
    ]
    assert dataclasses.astuple(bands[0]) == pytest.approx(dataclasses.astuple(bands[1]), rel=1e-9)


def test_no_search_begins_near_an_answer_of_one_parameter_or_of_one_token():
    source = ScalingLaw.from_fit(make_fit())
    assert starts(source, np.log(50.0)) is None
    assert len(source.starts) == 4


@pytest.mark.parametrize("factors", [{}, {"max_params": 1.2}, {"min_params": 0.9}])
def test_good_sizes_end_where_the_loss_is_a_tolerance_above_the_best_or_at_a_limit(factors):
    source, flops = LADDER, 1e14
    asked = question(source, {"flops": flops, **fields_at(source, flops, factors)})
    problem = constrained_problem(asked, source)
    best = least_loss(problem, source.theta[None], np.log(flops)).log_loss[0]
    band = sizes_within_tolerance(problem, source.theta, np.log(flops), 0.004)
    for name, end in (("min_params", band.low), ("max_params", band.high)):
        x = np.log([end])
        y = problem.tokens(x, np.log(flops))
        loss = np.log(source.law.loss(source.theta, np.exp(x), np.exp(y)))[0]
        if name in factors:
            assert end == pytest.approx(getattr(asked, name), rel=1e-9)
            assert loss <= best + 0.004
        else:
            assert loss == pytest.approx(best + 0.004, abs=1e-9)


def test_doubling_a_limit_moves_floors_down_and_ceilings_up():
    asked = question(PUBLISHED, {"flops": 1e22, "min_ratio": 10, "max_params": 1e9})
    wide = constrained_problem(asked, PUBLISHED).doubled("min_ratio").doubled("max_params")
    assert np.exp(wide.ends("params")[1]) == pytest.approx(2e9)
    assert np.exp(wide.ends("tokens_per_param")[0]) == pytest.approx(5)
    fixed = constrained_problem(question(PUBLISHED, {"flops": 1e22, "tokens": 1e11}), PUBLISHED)
    assert np.exp(fixed.doubled("tokens").ends("tokens")) == pytest.approx([5e10, 2e11])
    assert fixed.without("tokens") == dataclasses.replace(fixed, limits=())
