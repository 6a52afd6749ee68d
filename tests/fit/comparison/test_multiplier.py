"""Runs of two fits that belong together."""

import dataclasses

import numpy as np
import pytest

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.comparison.compare import compare
from fit.comparison.multiplier import (
    ALIKE,
    joint_covariance,
    joint_draws,
    joint_posterior,
    likeness,
    pair_runs,
    refit_from_points,
    run_influence,
)
from fit.inference.forecast_prior import prior_precision
from tests.fit.comparison.builders import CELLS, fitted, sweep_table

pytestmark = pytest.mark.usefixtures("few_checks")


def test_cells_are_matched_by_size_tokens_and_seed():
    a, b = fitted(sweep_table(seed=1)), fitted(sweep_table(seed=2))
    assert pair_runs(a, b).size == CELLS
    order = np.random.default_rng(0).permutation(CELLS)[: CELLS - 6]
    assert pair_runs(a, fitted(sweep_table(seed=2).take(order))).size == CELLS - 6
    other = dataclasses.replace(b, points=dataclasses.replace(b.points, params=b.points.params * 2))
    assert pair_runs(a, fitted(sweep_table(seed=2, sizes=0.9))).size == 0
    assert pair_runs(a, dataclasses.replace(other, law="chinchilla")) is None  # not its own points


def test_replicates_that_nothing_tells_apart_are_left_unpaired():
    table = sweep_table(seed=1)
    twice = table.take(np.concatenate([np.arange(CELLS), [0, 1]]))
    assert pair_runs(fitted(twice), fitted(sweep_table(seed=2))).size == CELLS - 2


def test_shapes_pair_runs_whose_counts_differ():
    a, b = sweep_table(seed=1), sweep_table(seed=2, sizes=1.05)
    columns = {"width": np.repeat(np.arange(6.0), 6), "depth": np.full(CELLS, 2.0)}
    a, b = (fitted(dataclasses.replace(t, columns=columns)) for t in (a, b))
    assert pair_runs(a, b).size == CELLS


def test_clusters_that_a_pair_connects_are_one():
    a = dataclasses.replace(sweep_table(seed=1), cluster=np.repeat(np.arange(6), 6))
    pairs = pair_runs(fitted(a), fitted(sweep_table(seed=2)))
    left, right = pairs.codes
    assert len(np.unique(left)) == len(np.unique(right)) == 6
    assert (left == right).all()


def test_a_fit_is_made_again_from_its_document_alone():
    fit = fitted(sweep_table(seed=1))
    assert refit_from_points(fit).raw == pytest.approx(fit.vector(), rel=1e-6)
    moved = {**fit.theta, "alpha": fit.theta["alpha"] + 0.01}
    assert refit_from_points(dataclasses.replace(fit, theta=moved)) is None
    assert refit_from_points(dataclasses.replace(fit, law="of width and depth")) is None


def test_the_joint_covariance_keeps_each_fits_own():
    a, b = fitted(sweep_table(seed=1)), fitted(sweep_table(seed=2))
    joint = joint_covariance(pair_runs(a, b))
    assert joint[:5, :5] == pytest.approx(a.covariance)
    assert joint[5:, 5:] == pytest.approx(b.covariance)
    assert np.linalg.eigvalsh(joint).min() > -1e-9 * np.linalg.eigvalsh(joint).max()


def test_a_fit_paired_with_itself_moves_as_one():
    fit = fitted(sweep_table(seed=1))
    joint = joint_covariance(pair_runs(fit, fit))
    assert joint[:5, 5:] == pytest.approx(joint[:5, :5], rel=1e-6)
    a, b = joint_draws(pair_runs(fit, fit), 200, 0)
    assert (a == b).all()


def test_joint_draws_spread_as_the_covariance_says():
    a, b = fitted(sweep_table(seed=1, shared=3)), fitted(sweep_table(seed=2, shared=3))
    pairs = pair_runs(a, b)
    draws = [np.column_stack([np.log(d[:, :3]), d[:, 3:]]) for d in joint_draws(pairs, 800, 0)]
    drawn, wanted = np.cov(np.hstack(draws).T), joint_covariance(pairs)
    # E and the exponents; 36 clusters, of which HC3 is the more careful, and 800 draws
    for i in (0, 3, 4):
        assert drawn[i, i] / wanted[i, i] == pytest.approx(0.85, abs=0.3)
        correlation = drawn[i, i + 5] / np.sqrt(drawn[i, i] * drawn[i + 5, i + 5])
        expected = wanted[i, i + 5] / np.sqrt(wanted[i, i] * wanted[i + 5, i + 5])
        assert correlation == pytest.approx(expected, abs=0.12)
        assert correlation > 0.6


def test_runs_and_prior_together_are_all_of_a_forecasts_covariance():
    fit = isoflop.fit(sweep_table(seed=1, shared=7), resamples=0)
    covariance, moves = fit.forecast.covariance[:8, :8], run_influence(fit)
    precision = np.diag(prior_precision(fit.forecast, fit.points.loss.min())[:8])
    of_both = moves[:8] @ moves[:8].T + covariance @ precision @ covariance
    share = np.diag(of_both) / np.diag(covariance)
    assert share == pytest.approx(np.ones(8), abs=0.03)
    assert not moves[8:].any()  # no run informs what forecasts miss


def test_two_forecasts_together_keep_their_own_and_are_possible():
    a, b = (isoflop.fit(sweep_table(seed=s, shared=3), resamples=0) for s in (1, 2))
    for pairs in (None, pair_runs(a, b)):
        joint = joint_posterior(a, b, pairs)
        assert (joint[:10, :10] == a.forecast.covariance).all()
        assert (joint[10:, 10:] == b.forecast.covariance).all()
        scale = np.sqrt(np.diag(joint))
        assert np.linalg.eigvalsh(joint / scale / scale[:, None]).min() > -1e-9
    paired, apart = joint_posterior(a, b, pair_runs(a, b)), joint_posterior(a, b, None)
    assert np.trace(paired[:10, 10:]) > np.trace(apart[:10, 10:])


def test_what_forecasts_miss_is_as_alike_as_the_residuals_of_paired_runs():
    fit = isoflop.fit(sweep_table(seed=1, shared=7), resamples=0)
    other = isoflop.fit(sweep_table(seed=2), resamples=0)
    assert likeness(None) == ALIKE
    assert likeness(pair_runs(fit, fit)) == pytest.approx(1.0)
    assert ALIKE <= likeness(pair_runs(fit, other)) < 0.6
    law = ScalingLaw.of(fit)
    (row,) = compare(law, law, flops=(float(fit.points.flops.max()),)).rows
    assert row.multiplier.low == pytest.approx(1.0, abs=0.02)
    assert row.multiplier.high == pytest.approx(1.0, abs=0.02)
