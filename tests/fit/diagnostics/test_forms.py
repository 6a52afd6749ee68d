"""The league of forms of a report, and what E says of a forecast."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.diagnostics.forms import fitted_form, league_of_forms, share_of_floor, stands, table_of
from fit.estimation.general import fit_problem
from fit.estimation.solver import estimate
from fit.estimation.weights import weights_of
from fit.laws.families import law
from fit.report.render import write_report
from fit.results import Fit, write_fit
from tests.fit.inference.test_forecast import published, sweep


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return isoflop.fit(sweep(noise=0.001), name="sweep", resamples=0)


def test_of_runs_that_follow_the_law_it_stands_and_kaplans_is_set_aside(fitted):
    scores = league_of_forms(fitted, 5e9, 1e11)
    by_name = {s.name: s for s in scores}
    assert by_name.keys() == {"forecast", "chinchilla", "outer", "kaplan"}
    assert [s.error for s in scores] == sorted(s.error for s in scores)
    assert scores[0].name == "chinchilla" and stands(by_name["forecast"], scores)
    assert not stands(by_name["kaplan"], scores)
    truth = published(5e9, 1e11)
    assert by_name["chinchilla"].loss == pytest.approx(truth, rel=0.005)
    assert abs(by_name["kaplan"].loss / truth - 1) > abs(by_name["forecast"].loss / truth - 1)


def test_errors_are_those_of_the_runs_beyond_each_cut(fitted):
    points = fitted.points
    below = points.flops <= points.flops.max() / 3 * 1.000001
    n, d, loss = (np.array(x) for x in (points.params, points.tokens, points.loss))
    cheap = pd.DataFrame({"params": n[below], "tokens": d[below], "loss": loss[below]})
    kept = isoflop.fit(cheap, resamples=0, discrepancy="none")
    expected = [isoflop.predict(kept, a, b, force=True).loss.value
                for a, b in zip(n[~below], d[~below], strict=True)]  # fmt: skip
    ahead = points.flops[~below] > points.flops[below].max() * np.exp(0.3)
    error = np.log(loss[~below] / np.array(expected))[ahead]
    found = {s.name: s.errors for s in league_of_forms(fitted, 5e9, 1e11)}
    assert found["chinchilla"][0] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)


@pytest.mark.parametrize("name", [pytest.param("outer", marks=pytest.mark.slow), "kaplan"])
def test_a_form_followed_from_one_point_ends_where_a_search_ends(fitted, name):
    table, family = table_of(fitted), law(name)
    searched = estimate(fit_problem(table, family), law=name, weights=weights_of(table)).raw
    at = table.params, table.tokens
    followed = family.loss(fitted_form(family, table), *at)
    assert followed == pytest.approx(family.loss(searched, *at), rel=1e-6)


def test_too_few_cheap_runs_have_no_league():
    few = isoflop.fit(sweep(noise=0.001).iloc[14:], resamples=0)
    assert len(league_of_forms(few, 5e9, 1e11)) in (0, 4)
    assert league_of_forms(isoflop.fit(sweep().iloc[21:], resamples=0), 5e9, 1e11) == ()


def test_what_e_accounts_for_is_its_regression_in_the_posterior(fitted):
    source, flops = ScalingLaw.from_fit(fitted), 1e21
    share, loss, size = share_of_floor(source, flops)
    ahead = fitted.forecast
    draws = np.random.default_rng(0).multivariate_normal(
        np.zeros(10), 1e-4 * ahead.covariance, size=4000
    )
    theta = np.repeat(source.theta[None], 4000, 0)
    theta[:, :3] *= np.exp(draws[:, :3])
    theta[:, 3:] += draws[:, 3:]
    best = source.splits(np.array([flops]))(theta)
    x, y, z = draws[:, 0], best.log_loss[:, 0], best.log_params[:, 0]
    assert share == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=0.05)
    for found, moved in ((loss, y), (size, z)):
        sampling = 100 * moved.std() / np.sqrt(len(x))
        assert found == pytest.approx(100 * np.cov(x, moved)[0, 1] / x.std(), abs=4 * sampling)


@pytest.mark.usefixtures("few_figures")
def test_a_report_shows_the_forms(fitted, tmp_path: Path):
    write_fit(tmp_path, fitted)
    page = write_report(tmp_path, form="html").path.read_text()
    assert "Forms: error of ln loss" in page
    assert "set aside" in page and "one standard error higher" in page
