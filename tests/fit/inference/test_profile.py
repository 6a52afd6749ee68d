"""The profile likelihood, against an independent constrained search and known limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize

from fit.allocation.scaling_law import ScalingLaw
from fit.estimation.objective import derivatives
from fit.fitting import FitOptions, fit_table
from fit.inference.intervals import derived_interval, parameter_intervals
from fit.inference.profile import DevianceSurface, _gradients, profile
from fit.results import Fit
from tests.fit.test_fitting import table

QUICK = FitOptions(resamples=0, interval="profile")


def fitted(noise=0.02, seed=2, **options) -> Fit:
    return fit_table(table(noise=noise, seed=seed), dataclasses.replace(QUICK, **options))


def logs(fit):
    """E, alpha, a, and N*, L* at 100 times the largest budget."""
    at = ScalingLaw.from_fit(fit).splits(np.array([fit.range["flops"].high * 100]))

    def quantity(theta):
        split = at(theta)
        share = theta[:, 4] / (theta[:, 3] + theta[:, 4])
        own = np.stack([np.log(np.maximum(theta[:, 0], 1e-300)), theta[:, 3], share], axis=-1)
        return np.concatenate([own, split.log_params, split.log_loss], axis=-1)

    return quantity


def limits(surface, quantity, quantile):
    """How far the deviance may rise for each quantity."""
    home = np.zeros((1, surface.basis.shape[1]))
    slope = _gradients(surface, quantity, home)[0]
    bread = np.linalg.inv(surface.slopes(home)[1][0] / 2)
    own, plain = (np.einsum("qi,ij,qj->q", slope, v, slope) for v in (surface.covariance, bread))
    return quantile**2 * own / plain, np.linalg.cholesky(bread)


@pytest.mark.parametrize("loss", ["adaptive", "l2", "student"])
def test_the_best_fit_held_to_an_end_has_the_deviance_that_was_allowed(loss):
    fit = fitted(loss=loss)
    surface, quantity = DevianceSurface.of(fit.inputs()), logs(fit)
    ends = profile(surface, quantity, fit.interval.quantile)
    limit, root = limits(surface, quantity, fit.interval.quantile)

    def deviance(v):
        u = surface.clipped((root @ v)[None])
        return surface.deviance(u)[0], root.T @ surface.slopes(u)[0][0]

    for i, ends_i in enumerate(zip(*ends, strict=True)):
        for end in ends_i:

            def gap(v, i=i, end=end):
                return 100 * (quantity(surface.raw(surface.clipped((root @ v)[None])))[0, i] - end)

            held = minimize(
                deviance,
                np.zeros(5),
                jac=True,
                method="SLSQP",
                constraints={"type": "eq", "fun": gap},
                options={"maxiter": 500, "ftol": 1e-9 * limit[i]},
            )
            assert abs(gap(held.x)) < 1e-4
            assert held.fun == pytest.approx(limit[i], rel=2e-3)


def test_little_noise_brings_it_to_the_sandwich():
    fit = fitted(noise=1e-4, loss="l2")
    plain = dataclasses.replace(fit, interval=dataclasses.replace(fit.interval, method="hc3"))
    mine, theirs = parameter_intervals(fit.inputs()), parameter_intervals(plain.inputs())
    for name, (low, high) in theirs.items():
        assert mine[name] == pytest.approx((low, high), abs=0.01 * (high - low)), name


def test_much_noise_skews_e_towards_zero_and_never_below():
    fit = fitted(noise=0.15, seed=4)
    low, high = parameter_intervals(fit.inputs())["E"]
    assert low == pytest.approx(0, abs=1e-6)
    assert high > fit.theta["E"]


def test_its_gradient_and_hessian_are_those_of_the_deviance():
    surface = DevianceSurface.of(fitted().inputs())
    error = np.sqrt(np.diag(surface.covariance))
    u = 0.5 * error * np.array([[1.0, -1.0, 0.5, -0.3, 0.2]])
    gradient, hessian = surface.slopes(u)
    for i in range(5):
        step = np.zeros((1, 5))
        step[0, i] = 1e-5 * error[i]
        ends = [surface.deviance(u + s * step)[0] for s in (1, -1)]
        assert (ends[0] - ends[1]) / (2e-5 * error[i]) == pytest.approx(gradient[0, i], rel=1e-4)
        slopes = [surface.slopes(u + s * step)[0][0] for s in (1, -1)]
        bend = (slopes[0] - slopes[1]) / (2e-5 * error[i])
        assert bend == pytest.approx(hessian[0, i], rel=2e-3, abs=1e-3 * np.abs(hessian).max())


@pytest.mark.parametrize("law", ["tied", "no-e"])
def test_other_families_have_profiles_about_their_estimate(law):
    fit = fitted(noise=0.003, law=law)
    for name, (low, high) in fit.interval.bounds.items():
        value = {**fit.theta, **fit.exponents}[name]
        assert low <= value <= high
        assert low < high or (law == "tied" and name in "ab")


def test_a_document_gives_the_same_intervals_as_the_fit():
    fit = fitted()
    again = Fit.from_json(fit.to_json())
    for name, ends in parameter_intervals(again.inputs()).items():
        assert ends == pytest.approx(fit.interval.bounds[name], rel=1e-6)


def test_a_curve_is_within_a_hundredth_of_what_each_point_of_it_is_alone():
    fit = fitted()
    budgets = np.geomspace(1e18, 1e23, 60)
    at = ScalingLaw.from_fit(fit).splits(budgets)
    low, high = derived_interval(fit, lambda t: at(t).log_params)
    for i in (0, 7, 33, 59):
        own = ScalingLaw.from_fit(fit).splits(budgets[i : i + 1])
        alone = derived_interval(fit, lambda t, own=own: own(t).log_params)
        width = np.log(alone[1][0] / alone[0][0])
        assert np.log([low[i], high[i]]) == pytest.approx(
            np.log([alone[0][0], alone[1][0]]), abs=0.01 * width
        )


def test_the_deviance_holds_the_weights_of_the_runs():
    one = table(noise=0.01)
    weight = np.linspace(0.2, 2, len(one))
    fit = fit_table(dataclasses.replace(one, columns={"weight": weight}), QUICK)
    surface = DevianceSurface.of(fit.inputs())
    w = weight[None] / weight.mean()
    _, gradient, _ = derivatives(surface.problem, surface.theta[None], w, surface.loss)
    assert np.abs(gradient).max() < 1e-8
