"""Every interval by the method that the fit names, and by no other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.errors import FitError, QueryError
from fit.estimation.objective import BELOW, FitProblem, Loss
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, fit_table
from fit.inference.intervals import METHODS, derived_interval, parameter_intervals
from fit.inference.misspecification import Misfit, widen_by_misfit
from fit.inference.resampling import estimate_uncertainty
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.text import answer_text, fit_text
from fit.results import Fit
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")

ROWS = np.arange(30)


def fitted(method, **options):
    return fit_table(table(noise=0.005, seed=1), FitOptions(interval=method, **options))


@pytest.fixture(scope="module")
def fits():
    return {m: fitted(m, resamples=1000) for m in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_methods_agree_on_healthy_runs_within_a_third(fits, method):
    mine, theirs = fits[method].interval.bounds, fits["hc3"].interval.bounds
    assert tuple(mine) == ("E", "A", "B", "alpha", "beta", "a", "b")
    for name in ("E", "alpha", "beta", "a", "b"):
        width = theirs[name][1] - theirs[name][0]
        assert mine[name][1] - mine[name][0] == pytest.approx(width, rel=0.35), name
        assert mine[name] == pytest.approx(theirs[name], abs=0.35 * width), name


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_made_by_the_method_of_its_fit(fits, method):
    fit = Fit.from_json(fits[method].to_json())
    got = answer(Question(source=ScalingLaw.from_fit(fit), flops=1e23))
    assert got.method == method
    for number in (got.params, got.tokens, got.loss, got.loss_next_run):
        assert number.low < number.value < number.high
    inner, outer = got.loss, got.loss_next_run
    assert outer.low < inner.low and inner.high < outer.high
    theirs = answer(Question(source=ScalingLaw.from_fit(fits["hc3"]), flops=1e23))
    if method != "hc3":
        assert got.params.low != theirs.params.low


def test_the_document_tells_confidence_from_prediction(fits):
    got = answer(Question(source=ScalingLaw.from_fit(fits["hc3"]), flops=1e23))
    kinds = got.document()["intervals"]
    assert kinds["loss"] == kinds["params"] == "confidence"
    assert kinds["loss_next_run"] == "prediction"
    shown = answer_text(got, "launch")
    assert "90% confidence" in shown and "90% prediction" in shown


def test_only_what_a_method_needs_is_kept(fits):
    assert {m: len(f.moves) for m, f in fits.items() if len(f.moves)} == {"bca": 30}
    assert not np.array_equal(fits["wild"].draws, fits["pairs"].draws)
    assert np.array_equal(fits["bca"].draws, fits["pairs"].draws)


def test_the_answer_of_a_profile_needs_no_draws_and_that_of_bca_its_moves():
    fit = fitted("profile", resamples=0)
    assert len(fit.draws) == 0
    low, high = derived_interval(fit, lambda t: np.log(t[:, 3]))
    assert low < fit.theta["alpha"] < high
    bare = dataclasses.replace(fitted("bca", resamples=200), moves=np.empty((0, 5)))
    with pytest.raises(QueryError, match="--resamples"):
        parameter_intervals(bare.inputs())


@pytest.mark.parametrize("method", ["pairs", "wild", "bca"])
def test_percentiles_need_draws_in_their_tails_and_clusters_to_draw(method):
    with pytest.raises(FitError, match="needs 20000 resamples"):
        FitOptions(interval=method, level=0.999)
    one = dataclasses.replace(table(), cluster=np.zeros(30))
    with pytest.raises(FitError, match="clusters .* found 1"):
        fit_table(one, FitOptions(interval=method, resamples=200))


def test_a_level_is_shown_with_its_digits():
    fit = fitted("hc3", level=0.999, resamples=0)
    assert "99.9% confidence (hc3)" in fit_text(fit)


@pytest.mark.parametrize("interval", METHODS)
def test_a_misfit_widens_what_every_method_makes_its_intervals_from(interval):
    one = table(noise=0.005, seed=1)
    found = estimate(FitProblem.of(one.params, one.tokens, one.loss))
    made = estimate_uncertainty(found, ROWS, interval=interval, level=0.9, resamples=400, seed=0)
    shift = np.array([0.05, 0.2, 0.1, 0.03, 0.02])
    wide = widen_by_misfit(made, Misfit(term="size", statistic=4.0, shift=shift), 0)
    gained = wide.covariance - made.covariance
    np.testing.assert_allclose(gained, np.outer(shift, shift), atol=1e-12)
    assert np.log(wide.draws[:, 0]).std() > 2 * np.log(made.draws[:, 0]).std()
    if interval == "bca":
        more = (wide.moves.T @ wide.moves) - (made.moves.T @ made.moves)
        np.testing.assert_allclose(more, np.outer(shift, shift), atol=1e-12)
        cubes = (wide.moves**3).sum(axis=0)
        np.testing.assert_allclose(cubes, (made.moves**3).sum(axis=0), atol=1e-12)


def test_the_asymmetric_loss_follows_the_lower_edge():
    one = table(noise=0.0)
    late = np.abs(0.02 * np.random.default_rng(0).normal(size=30))
    problem = FitProblem.of(one.params, one.tokens, one.loss * np.exp(late))
    below, middle = (estimate(problem, loss=n).residual for n in ("asymmetric", "adaptive"))
    assert np.median(below) > np.median(middle)
    assert (below < -0.003).sum() < (middle < -0.003).sum()
    loss = Loss(name="asymmetric", scale=0.01)
    up, down = (loss.terms(np.array([r]), np.zeros(1))[0][0] for r in (0.004, -0.004))
    assert down == pytest.approx(BELOW * up)
