"""Intervals of what follows from the law."""

import dataclasses

import numpy as np
import pytest

from fit.errors import QueryError
from fit.inference.intervals import derived_interval, shifted
from tests.fit.builders import NOISE, make_covariance, make_fit


def with_method(method):
    fit = make_fit()
    return dataclasses.replace(fit, interval=dataclasses.replace(fit.interval, method=method))


def log_alpha(theta):
    return np.log(theta[:, [3]])


def test_the_interval_of_a_parameter_is_its_own():
    fit = make_fit()
    low, high = derived_interval(fit, lambda t: np.log(t[:, 1]))
    expected = fit.interval.bounds["A"]
    assert (float(low), float(high)) == pytest.approx(expected, rel=1e-6)


def test_the_delta_method_agrees_with_the_gradient_by_hand():
    fit = make_fit()
    at_n, at_d = 1e6, 2e7
    e, a, b, alpha, beta = fit.vector()
    parts = np.array([e, a * at_n**-alpha, b * at_d**-beta])
    gradient = np.array([*parts, -parts[1] * np.log(at_n), -parts[2] * np.log(at_d)]) / parts.sum()
    half = fit.interval.quantile * np.sqrt(gradient @ make_covariance() @ gradient)

    def log_loss(t):
        return np.log(t[:, 0] + t[:, 1] * at_n ** -t[:, 3] + t[:, 2] * at_d ** -t[:, 4])

    low, high = derived_interval(fit, log_loss)
    assert float(np.log(high / low)) == pytest.approx(2 * half, rel=1e-5)


def test_percentiles_come_from_the_draws_and_not_from_the_covariance():
    fit = with_method("pairs")
    low, high = derived_interval(fit, log_alpha)
    expected = np.quantile(fit.draws[:, 3], [0.05, 0.95])
    assert [low[0], high[0]] == pytest.approx(expected, rel=5e-3)
    flat = dataclasses.replace(fit, covariance=np.zeros((5, 5)))
    assert derived_interval(flat, log_alpha) == (low, high)


def test_the_sandwich_ignores_the_draws():
    fit = make_fit()
    other = dataclasses.replace(fit, draws=fit.draws * 3)
    assert derived_interval(fit, log_alpha) == derived_interval(other, log_alpha)


@pytest.mark.parametrize("method", ["hc3", "pairs"])
def test_a_prediction_interval_adds_the_noise_of_one_run(method):
    fit = with_method(method)
    low, high = derived_interval(fit, log_alpha)
    wider = derived_interval(fit, log_alpha, next_run=True)
    centre = np.log(fit.theta["alpha"])
    noise = fit.interval.quantile * NOISE
    assert np.log(wider[1]) - centre == pytest.approx(np.hypot(np.log(high) - centre, noise))
    assert centre - np.log(wider[0]) == pytest.approx(np.hypot(centre - np.log(low), noise))


def test_whole_curves_are_intervals_at_once():
    low, high = derived_interval(make_fit(), lambda t: np.log(t[:, :1] + np.arange(1, 5.0)))
    assert low.shape == high.shape == (4,)
    assert np.all(low < high)


def test_a_draw_without_a_value_is_unbounded_and_never_nan():
    fit = with_method("pairs")

    def broken(theta):
        return np.where(theta[:, 3] > 0.30, np.nan, 0.0)

    low, high = derived_interval(fit, broken)
    assert not np.isnan(low)
    assert high == np.inf


def test_scales_move_by_factors_and_exponents_by_sums():
    fit = make_fit()
    moved = shifted(fit, np.array([[0.1, 0, 0, 0.1, 0]]))[0]
    assert moved[0] == pytest.approx(fit.theta["E"] * np.exp(0.1))
    assert moved[3] == pytest.approx(fit.theta["alpha"] + 0.1)


def test_a_scale_at_zero_stays_there_whatever_its_row_says():
    covariance = make_covariance()
    covariance[0] = covariance[:, 0] = np.nan
    fit = make_fit(theta={**make_fit().theta, "E": 0.0}, covariance=covariance)
    low, high = derived_interval(fit, lambda t: np.log(t[:, 0] + t[:, 1]))
    assert 0 < low < high


@pytest.mark.parametrize("quantile", [None, float("inf"), float("nan")])
@pytest.mark.parametrize("next_run", [False, True])
def test_no_degree_of_freedom_leaves_no_bounds(quantile, next_run):
    fit = make_fit()
    fit = dataclasses.replace(fit, interval=dataclasses.replace(fit.interval, quantile=quantile))
    low, high = derived_interval(fit, log_alpha, next_run=next_run)
    assert (low[0], high[0]) == (0.0, np.inf)


def test_an_unknown_covariance_leaves_no_bounds():
    low, high = derived_interval(make_fit(covariance=np.full((5, 5), np.nan)), log_alpha)
    assert (low[0], high[0]) == (0.0, np.inf)


def test_percentiles_without_draws_are_refused():
    fit = dataclasses.replace(with_method("pairs"), draws=np.empty((0, 5)))
    with pytest.raises(QueryError, match="--resamples"):
        derived_interval(fit, log_alpha)
