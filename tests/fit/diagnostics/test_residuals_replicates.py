"""Noise between runs of one size and length, and whether the law fits within it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.diagnostics.residuals import lack_of_fit, replicates
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, fit_table
from fit.report.text import fit_text
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")


def repeated(bend=0.0, seed=0, noise=0.003):
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 3e11, 5)))
    one = table(np.repeat(n, 3), np.repeat(d, 3), noise=noise, seed=seed)
    x = np.log(one.params / 2e8)
    return dataclasses.replace(one, loss=one.loss * np.exp(bend * np.sin(1.5 * x)))


def found(one):
    return replicates(one, estimate(FitProblem.of(one.params, one.tokens, one.loss), loss="l2"))


def test_the_noise_between_replicates_is_the_noise_put_in():
    got = found(repeated(noise=0.004))
    assert (got.groups, got.runs) == (30, 90)
    assert got.noise == pytest.approx(0.004, rel=0.25)


def test_the_statistic_is_that_of_analysis_of_variance():
    one = repeated(seed=3)
    fit = estimate(FitProblem.of(one.params, one.tokens, one.loss), loss="l2")
    cells = fit.residual.reshape(30, 3)
    within = ((cells - cells.mean(axis=1, keepdims=True)) ** 2).sum()
    between = 3 * (cells.mean(axis=1) ** 2).sum()
    assert found(one).lack_of_fit == pytest.approx(between / 25 / (within / 60), rel=1e-9)


def test_the_law_passes_as_often_as_it_should_and_a_bent_surface_never():
    fair = [found(repeated(seed=s)).probability for s in range(60)]
    assert 0.3 < np.mean(fair) < 0.7
    assert np.mean(np.array(fair) < 0.1) < 0.25
    assert found(repeated(bend=0.01)).probability < 1e-4


def test_one_bad_run_is_left_out_of_the_test():
    one = repeated()
    loss = one.loss.copy()
    loss[10] *= 1.3
    got = replicates(
        dataclasses.replace(one, loss=loss),
        estimate(FitProblem.of(one.params, one.tokens, loss)),
    )
    assert got.noise == pytest.approx(found(one).noise, rel=0.1)


def test_runs_that_differ_in_their_recipe_are_no_replicates():
    one = repeated()
    lr = np.tile([0.1, 0.2, 0.3], 30)
    assert found(dataclasses.replace(one, columns={"lr": lr})) is None
    assert found(table()) is None


def test_the_fit_says_what_its_replicates_say(monkeypatch):
    options = FitOptions(resamples=0)
    good, bent = fit_table(repeated(), options), fit_table(repeated(bend=0.01), options)
    assert "lack_of_fit" not in {n.code for n in good.notes}
    assert "lack_of_fit" in {n.code for n in bent.notes}
    assert "replicates        0." in fit_text(good)
    assert type(good).from_json(good.to_json()).replicates == good.replicates
    assert fit_table(table(), options).replicates is None


def test_a_law_of_the_lower_edge_is_not_tested_for_missing_the_means():
    one = repeated()
    fit = estimate(FitProblem.of(one.params, one.tokens, one.loss), loss="asymmetric")
    assert replicates(one, fit).probability is None


def test_without_a_test_there_is_no_note():
    assert lack_of_fit(None) == ()
