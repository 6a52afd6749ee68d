"""The forecast: the wider law, its posterior, and what answers make of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.data.readers import load
from fit.inference import forecast as forecasts
from fit.interface import fit
from fit.laws.families import law as family
from fit.laws.forecast import FORECAST, NEAR, Frame, forecast_law
from fit.query.answer import predict, query
from fit.results import Fit, ForecastLaw

FRAME = Frame(
    log_params=np.log(3e7),
    log_tokens=np.log(1e9),
    reach_params=2.0,
    reach_tokens=2.5,
    log_product=np.log(1e8) + np.log(2e9),
)
THETA = np.array([1.7, 0.5, 0.6, 0.4, 0.35, 0.8, 0.01, -0.02, 0.0, 0.0])


def published(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The law of Besiroglu et al. 2024."""
    return 1.8172 + 482.01 / n**0.3478 + 2085.43 / d**0.3658


def bent(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Farseer's kind of surface: the exponent of D falls slowly with N."""
    return (
        1.7
        + 60 / n**0.25
        + 400 * np.exp(0.01 * np.log(n / 1e8)) / d ** (0.31 - 0.006 * np.log(n / 1e8))
    )


def sweep(law: object = published, *, noise: float = 0.003, seed: int = 0) -> pd.DataFrame:
    """Five budgets of seven sizes, around the optimum."""
    budgets = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    n = 0.11 * budgets**0.5 * np.tile(np.geomspace(0.25, 4, 7), 5)
    d = budgets / (6 * n)
    e = np.random.default_rng(seed).standard_normal(len(n))
    return pd.DataFrame({"params": n, "tokens": d, "loss": law(n, d) * np.exp(noise * e)})  # type: ignore[operator]


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(sweep(), name="sweep", resamples=0)


def test_without_outer_exponent_and_bends_the_wider_law_is_the_two_term_law():
    theta = THETA.copy()
    theta[5:] = [1, 0, 0, 0, 0]
    n, d = np.geomspace(1e6, 1e9, 7), np.geomspace(1e8, 1e11, 7)
    x, y = np.log(n) - FRAME.log_params, np.log(d) - FRAME.log_tokens
    expected = 1.7 + 0.5 * np.exp(-0.4 * x) + 0.6 * np.exp(-0.35 * y)
    assert np.allclose(
        forecast_law(FRAME, family("chinchilla")).loss(theta, n, d), expected, rtol=1e-12
    )


def test_derivatives_of_the_wider_law_are_those_of_differences():
    p = np.array([np.log(1.7), -0.7, np.log(0.4), -0.5, np.log(0.35), -0.2, 0.01, -0.02])
    x, y = np.linspace(-3, 4, 9), np.linspace(4, -3, 9)
    slopes = forecasts._law(FRAME, p, x, y)[1]
    for i in range(8):
        step = 1e-6 * np.eye(8)[i]
        ends = [forecasts._law(FRAME, p + s * step, x, y)[0] for s in (1, -1)]
        assert np.allclose(slopes[:, i], (ends[0] - ends[1]) / 2e-6, atol=1e-7), FORECAST[i]


def test_the_valley_moves_the_optimum_and_leaves_its_loss():
    law = forecast_law(FRAME, family("chinchilla"))
    product = FRAME.log_product + 3.0
    moved = THETA.copy()
    moved[9] = 0.1
    before, after = (float(law._log_optimum(t, product)) for t in (THETA, moved))
    assert after - before == pytest.approx(0.1 * np.sqrt(3.0 + NEAR), rel=1e-4)
    losses = [
        float(law.loss(t, np.exp(x), np.exp(product - x)))
        for t, x in ((THETA, before), (moved, after))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_the_level_misses_a_share_of_the_gain_beyond_the_runs_and_nothing_within():
    law = forecast_law(FRAME, family("chinchilla"))
    moved = THETA.copy()
    moved[8] = 0.2
    n, d = np.exp(FRAME.log_params), np.exp(FRAME.log_tokens)
    assert law.loss(moved, n, d) == law.loss(THETA, n, d)
    n, d = 1e9, 1e10
    beyond = np.log(n * d) - FRAME.log_product + NEAR
    near = law.loss(THETA, n * np.exp(-beyond / 2), d * np.exp(-beyond / 2))
    here = law.loss(THETA, n, d)
    share = np.log(law.loss(moved, n, d) / here) / np.log(near / here)
    assert share == pytest.approx(0.2, rel=1e-9)


def test_bends_never_turn_an_exponent_round():
    theta = THETA.copy()
    theta[6] = -0.5
    sizes = np.geomspace(1e2, 1e14, 200)
    losses = forecast_law(FRAME, family("chinchilla")).loss(theta, sizes, 1e10)
    assert (np.diff(losses) < 0).all()


def test_a_forecast_does_not_depend_on_the_units_of_loss_size_and_length():
    runs = sweep()
    scaled = runs.assign(params=runs.params * 7, tokens=runs.tokens / 3, loss=runs.loss / np.log(2))
    ends = []
    for table, n, d, unit in ((runs, 1e9, 1e11, 1.0), (scaled, 7e9, 1e11 / 3, np.log(2))):
        found = predict(fit(table, name="unit", resamples=0), n, d).loss
        ends.append(np.array([found.value, found.low, found.high]) * unit)
    assert np.allclose(ends[0], ends[1], rtol=1e-5)


def test_under_the_two_term_law_forecasts_far_out_hold(fitted):
    for flops in (1e20, 1e21, 1e22):
        answer = query(fitted, flops)
        n, d = answer.params.value, answer.tokens.value
        assert answer.loss.low <= published(n, d) <= answer.loss.high
        best = np.geomspace(n / 30, n * 30, 20001)
        best = best[np.argmin(published(best, flops / (6 * best)))]
        assert answer.params.low <= best <= answer.params.high


def test_runs_of_the_two_term_law_say_so_and_leave_less_to_discrepancy(fitted):
    assert fitted.forecast.two_terms > 0.5
    assert fitted.forecast.discrepancy < 0.05
    assert valley(fitted.forecast) < 0.08
    assert abs(fitted.forecast.theta["k"] - 1) < 0.05


def test_runs_of_another_form_leave_the_two_term_law_out():
    def outer(n, d):
        return 1.7 + ((400 / n**0.35) ** (1 / 0.6) + (1500 / d**0.37) ** (1 / 0.6)) ** 0.6

    found = forecasts.forecast(load(sweep(outer)), 0.9)
    assert found.two_terms == 0.0
    assert found.discrepancy > 0.06
    assert valley(found) == pytest.approx(forecasts.VALLEY)


def valley(ahead: ForecastLaw) -> float:
    """Standard deviation of what a forecast misses of ln N*."""
    return float(np.sqrt(ahead.covariance[FORECAST.index("valley"), FORECAST.index("valley")]))


def posterior(mode: float, spread: float) -> forecasts.Posterior:
    """A posterior with ln k at a mode, alike in all its parameters."""
    at = np.zeros(forecasts.SHAPES)
    at[5] = mode
    covariance = spread**2 * np.eye(forecasts.SHAPES)
    return forecasts.Posterior(frame=FRAME, mode=at, covariance=covariance, noise=0.01, dof=20.0)


def test_the_two_term_law_weighs_less_where_k_is_not_one_and_where_budgets_were_missed():
    near, far, prior = posterior(0.0, 0.005), posterior(-0.5, 0.005), forecasts.POPULATION
    weights = [
        forecasts.weight_of_two_terms(near, prior, [(level, 0.03**2)] * 2)
        for level in (0.0, 0.05, 0.1, 0.2)
    ]
    assert 0.9 < weights[0] < 1
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] == 0.0 == forecasts.weight_of_two_terms(far, prior, [])


def test_a_prior_drawn_to_the_two_term_law_is_nearer_to_it_and_narrower():
    prior = forecasts.POPULATION
    drawn = prior.drawn_to_two_terms(0.5)
    assert drawn.spread[5] == pytest.approx((0.3**-2 + 0.05**-2) ** -0.5)
    assert drawn.centre[5] == pytest.approx(-0.5 * (drawn.spread[5] / 0.3) ** 2)
    assert (drawn.spread[:5] == prior.spread[:5]).all()
    assert prior.drawn_to_two_terms(0.0) is prior


def test_answers_come_from_the_forecast_unless_the_law_itself_is_asked_for(fitted):
    plain = fit(sweep(), name="sweep", resamples=0, discrepancy="none")
    assert plain.forecast is None and plain.theta == fitted.theta
    assert plain.interval == fitted.interval
    wide, narrow = query(fitted, 1e21).loss, query(plain, 1e21).loss
    assert wide.high / wide.low > narrow.high / narrow.low
    for options in ({"law": "tied"}, {"interval": "profile"}, {"hold": ("E=1.8",)}):
        of_the_law = fit(sweep(), name="sweep", resamples=0, **options)
        assert of_the_law.forecast is None


def test_the_interval_within_the_runs_has_no_discrepancy_and_far_out_much(fitted):
    assert fitted.forecast is not None
    certain = np.array(fitted.forecast.covariance)
    certain[8:, :] = certain[:, 8:] = 0.0
    sure = dataclasses.replace(
        fitted, forecast=dataclasses.replace(fitted.forecast, covariance=certain)
    )
    widths = {}
    for flops in (1e18, 1e22):
        with_it, without = (query(f, flops).loss for f in (fitted, sure))
        widths[flops] = np.log(with_it.high / with_it.low) / np.log(without.high / without.low)
    assert widths[1e18] == pytest.approx(1.0, rel=1e-6)
    assert widths[1e22] > 1.3


def test_a_forecast_survives_its_document(fitted):
    again = Fit.from_json(fitted.to_json())
    assert again.forecast is not None and fitted.forecast is not None
    assert again.forecast.theta == fitted.forecast.theta
    assert np.array_equal(again.forecast.covariance, fitted.forecast.covariance)
    assert query(again, 1e21) == query(fitted, 1e21)


def test_too_few_runs_have_a_law_and_no_forecast():
    runs = sweep().iloc[[0, 3, 6, 14, 17, 20, 31]]
    assert fit(runs, name="few", resamples=0).forecast is None


def test_repeated_tokens_are_discounted_in_a_forecast_as_in_the_law(fitted):
    plain = ScalingLaw.of(fitted).plain
    assert plain.fit is not None
    ratios = []
    for source in (fitted, plain.fit):
        fresh, repeated = (query(source, 1e21, unique_tokens=u).loss.value for u in (1e15, 1e9))
        ratios.append(repeated / fresh)
    assert ratios[0] > 1.01
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("law", [published, bent])
def test_forecasts_at_ten_and_a_hundred_times_the_largest_run_hold_as_often_as_they_say(law):
    held = []
    for seed in range(30):
        fitted = fit(sweep(law, seed=seed), name="sweep", resamples=0)
        for flops in (1e21, 1e22):
            answer = query(fitted, flops)
            n = np.geomspace(answer.params.value / 30, answer.params.value * 30, 20001)
            losses = law(n, flops / (6 * n))
            best = n[np.argmin(losses)]
            held.append(answer.params.low <= best <= answer.params.high)
            held.append(answer.loss.low <= losses.min() <= answer.loss.high)
    assert np.mean(held) >= 0.85


def test_real_forecasts_are_quoted_for_the_level_at_which_they_were_counted(fitted):
    narrow = fit(sweep(), name="sweep", resamples=0, level=0.5)
    quoted = [[n.code for n in query(f, 5e20).warnings] for f in (fitted, narrow)]
    assert "track_record" in quoted[0]
    assert "track_record" not in quoted[1]
