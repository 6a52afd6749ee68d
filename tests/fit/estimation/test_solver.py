"""The point fit: recovery, derivatives, bounds, and agreement with an independent solver."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from fit.estimation.general import LinearRestriction
from fit.estimation.objective import LOSSES, FitProblem, Loss, derivatives, robust_scale, value
from fit.estimation.solver import estimate, estimate_parts, solve
from fit.laws.families import law
from fit.laws.published import PRESETS

TWO_TERM = [p for p in PRESETS.values() if law(p.law).expand is not None]
GRID = tuple(g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 3e11, 5)))


def problem(theta, noise: float = 0.0, seed: int = 0, name: str = "chinchilla") -> FitProblem:
    n, d = GRID
    loss = law(name).loss(theta, n, d)
    return FitProblem.of(
        n, d, loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))
    )


@pytest.mark.parametrize("preset", TWO_TERM, ids=lambda p: p.name)
@pytest.mark.parametrize("loss", LOSSES)
def test_noiseless_runs_of_a_published_law_give_it_back(preset, loss):
    theta = np.array(list(preset.theta.values()))
    found = estimate(problem(theta, name=preset.law), law=preset.law, loss=loss)
    expected = law(preset.law).parts(theta)
    np.testing.assert_allclose(found.raw, np.array(expected), rtol=1e-6)
    assert found.converged and not found.at_bound


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_hessian_equal_central_differences(name):
    p = problem(np.array([1.8, 480.0, 2100.0, 0.35, 0.36]), noise=0.01)
    loss = Loss(name=name, scale=0.004)
    weights = np.random.default_rng(1).uniform(0, 2, (1, len(p.y)))
    theta = np.array([[0.6, -0.9, -1.1, 0.33, 0.39]])
    _, gradient, hessian = derivatives(p, theta, weights, loss)
    for i in range(5):
        step = np.zeros((1, 5))
        step[0, i] = 1e-6
        ends = [derivatives(p, theta + s * step, weights, loss) for s in (1, -1)]
        slope = (ends[0][0] - ends[1][0]) / 2e-6
        assert slope[0] == pytest.approx(gradient[0, i], rel=1e-5, abs=1e-9)
        bend = (ends[0][1] - ends[1][1])[0] / 2e-6
        np.testing.assert_allclose(bend, hessian[0, i], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_no_other_solver_finds_a_lower_objective(delta):
    p = problem(np.array([1.8, 480.0, 2100.0, 0.35, 0.36]), noise=0.01, seed=3)
    found = estimate(p, loss="huber", delta=delta)
    ones = np.ones((1, len(p.y)))

    def objective(theta):
        total, gradient, *_ = derivatives(p, theta[None], ones, found.loss)
        return 1e4 * total[0], 1e4 * gradient[0]

    random = np.random.default_rng(0)
    for _ in range(20):
        start = found.theta + random.normal(size=5) * [0.5, 0.5, 0.5, 0.2, 0.2]
        other = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-10})
        assert found.value <= other.fun / 1e4 * (1 + 1e-9)


def test_a_law_without_irreducible_loss_ends_at_its_bound_and_says_so():
    exact = np.array([0.0, 480.0, 2100.0, 0.15, 0.16])
    below = problem(exact)
    dented = FitProblem(x=below.x, z=below.z, y=below.y - 0.02 * (below.z > 1), centre=below.centre)
    for p in (below, dented):
        found = estimate(p)
        assert "E" in found.at_bound
        assert found.raw[0] < 1e-3


def test_tied_exponents_stay_tied_and_no_e_stays_zero():
    theta = np.array([1.8, 400.0, 2000.0, 0.34])
    tied = estimate(problem(theta, noise=0.003, name="tied"), law="tied")
    assert tied.raw[3] == tied.raw[4]
    assert estimate(problem(theta, name="tied"), law="no-e").raw[0] == 0.0
    assert (LinearRestriction.of("tied").free, LinearRestriction.of("no-e").free) == (4, 4)


def test_one_bad_run_in_thirty_hardly_moves_the_default_but_moves_least_squares():
    truth = np.array([1.8, 480.0, 2100.0, 0.35, 0.36])
    p = problem(truth, noise=0.003, seed=5)
    bad = FitProblem(x=p.x, z=p.z, y=p.y + 0.3 * (np.arange(len(p.y)) == 4), centre=p.centre)
    clean, robust = estimate(p), estimate(bad)
    squares = estimate(bad, loss="l2")
    assert abs(robust.raw[0] - clean.raw[0]) < 0.02
    assert abs(squares.raw[0] - clean.raw[0]) > 3 * abs(robust.raw[0] - clean.raw[0])


def test_many_weightings_solved_at_once_equal_each_solved_alone():
    p = problem(np.array([1.8, 480.0, 2100.0, 0.35, 0.36]), noise=0.01)
    weights = np.random.default_rng(0).multinomial(30, [1 / 30] * 30, size=40).astype(float)
    found = estimate(p)
    starts = np.repeat(found.theta[None], 40, axis=0)
    together = solve(p, starts, weights, found.loss, found.family)
    for i in range(40):
        alone = solve(p, starts[:1], weights[i : i + 1], found.loss, found.family)
        assert together.value[i] == pytest.approx(alone.value[0], rel=1e-9)
    assert together.converged.all()


@pytest.mark.parametrize("loss", ["adaptive", "student", "asymmetric", "l2"])
def test_parts_fitted_at_once_equal_each_fitted_alone(loss):
    whole = problem(np.array([1.8, 480.0, 2100.0, 0.35, 0.36]), noise=0.01)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(whole.y))
    parts = [whole.x + whole.z < end for end in (2.0, 4.0, np.inf)]
    together = estimate_parts(whole, parts, law="chinchilla", loss=loss, weights=weights)
    for part, found in zip(parts, together, strict=True):
        n, d, y = (np.exp(v[part]) for v in (whole.x, whole.z, whole.y))
        alone = estimate(FitProblem.of(n, d, y), loss=loss, weights=weights[part])
        assert found.theta[[0, 3, 4]] == pytest.approx(alone.theta[[0, 3, 4]], rel=1e-7)
        assert found.value == pytest.approx(alone.value, rel=1e-9)
        assert found.noise == pytest.approx(alone.noise, rel=1e-7)
        assert found.loss.scale == pytest.approx(alone.loss.scale, rel=1e-7)


def test_scale_is_that_of_the_noise_and_deaf_to_outliers():
    noise = 0.01 * np.random.default_rng(0).normal(size=4000)
    noise[:100] += 5
    assert robust_scale(noise, 5) == pytest.approx(0.01, rel=0.07)


def test_value_weighs_runs():
    p = problem(np.array([1.8, 480.0, 2100.0, 0.35, 0.36]), noise=0.01)
    theta = estimate(p).theta[None]
    loss = Loss(name="l2")
    once, twice = (value(p, theta, np.full((1, len(p.y)), w), loss)[0] for w in (1.0, 2.0))
    assert twice == pytest.approx(2 * once)


def test_resamples_whose_e_is_hardly_there_all_converge() -> None:
    random = np.random.default_rng(6)
    params = np.exp(random.uniform(np.log(1e7), np.log(2e9), 60))
    tokens = np.exp(random.uniform(np.log(2e8), np.log(5e10), 60))
    loss = (0.3 + 40 / params**0.14 + 42 / tokens**0.18) * np.exp(0.03 * random.normal(size=60))
    problem = FitProblem.of(params, tokens, loss)
    fitted = estimate(problem)
    weights = random.multinomial(60, np.full(60, 1 / 60), size=200).astype(float)
    starts = np.repeat(fitted.theta[None], 200, axis=0)
    # In ln E some crept along a bent valley, or with E on its bound, until the steps ran out.
    assert solve(problem, starts, weights, fitted.loss, fitted.family).converged.all()
