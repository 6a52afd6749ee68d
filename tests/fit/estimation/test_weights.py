"""Weights of the runs, from the table into everything that is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.errors import FitError
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.estimation.weights import weighted, weights_of
from fit.fitting import FitOptions, fit_table
from fit.inference.misspecification import detect_misfit
from fit.inference.resampling import bootstrap, clusters, kappa, sandwich, wild_bootstrap
from fit.results import read_fit
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")

QUICK = FitOptions(resamples=200)


def with_column(name, values, **options):
    one = table(noise=0.01, **options)
    return dataclasses.replace(one, columns={name: np.asarray(values, dtype=float)})


def test_a_run_of_weight_two_is_two_runs():
    one = table(noise=0.01)
    weight = np.where(np.arange(30) % 7 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(30), weight.astype(int))
    heavy = estimate(FitProblem.of(one.params, one.tokens, one.loss), loss="l2", weights=weight)
    many = estimate(
        FitProblem.of(*(v[twice] for v in (one.params, one.tokens, one.loss))), loss="l2"
    )
    np.testing.assert_allclose(heavy.raw, many.raw, rtol=1e-6)
    theirs = sandwich(many, clusters(twice), 0.9).covariance
    mine = sandwich(heavy, np.arange(30), 0.9).covariance
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_only_ratios_of_weights_count_and_equal_ones_change_nothing():
    one = table(noise=0.01, seed=2)
    problem, weight = FitProblem.of(one.params, one.tokens, one.loss), np.linspace(1, 3, 30)
    for loss in ("adaptive", "asymmetric"):
        once, ten = (estimate(problem, loss=loss, weights=f * weight) for f in (1.0, 10.0))
        np.testing.assert_allclose(once.theta, ten.theta, rtol=1e-7)
        bare, flat = estimate(problem, loss=loss), estimate(problem, loss=loss, weights=np.ones(30))
        np.testing.assert_array_equal(bare.theta, flat.theta)
        assert (once.noise, kappa(once)) == pytest.approx((ten.noise, kappa(ten)))


def test_inverse_variances_give_smaller_errors_and_intervals_that_know_it():
    scale = np.where(np.arange(30) % 2, 0.03, 0.003)
    errors, spreads = [], []
    for seed in range(30):
        one = table(noise=0.0)
        loss = one.loss * np.exp(scale * np.random.default_rng(seed).normal(size=30))
        problem = FitProblem.of(one.params, one.tokens, loss)
        found = [estimate(problem, loss="l2", weights=w) for w in (np.ones(30), 1 / scale**2)]
        errors.append([f.raw[3] - 0.35 for f in found])
        spreads.append([sandwich(f, np.arange(30), 0.9).covariance[3, 3] ** 0.5 for f in found])
    plain, weighed = np.std(errors, axis=0)
    assert weighed < 0.4 * plain
    # 15 runs carry nearly all the weight: HC3 is on the wide side of so few.
    assert 0.8 < np.median(spreads, axis=0)[1] / weighed < 1.8


def test_both_bootstraps_agree_with_the_weighted_sandwich():
    one = table(noise=0.002)
    weight = np.where(np.arange(30) % 2, 0.2, 1.8)
    problem = FitProblem.of(one.params, one.tokens, one.loss)
    found = estimate(problem, loss="l2", weights=weight)
    spread = np.sqrt(np.diag(sandwich(found, np.arange(30), 0.9).covariance))[3:]
    for draw in (bootstrap, wild_bootstrap):
        draws = draw(found, np.arange(30), 1500, 0)
        assert draws[:, 3:].std(axis=0) == pytest.approx(spread, rel=0.3)
    assert detect_misfit(found, np.arange(30)) is None


def test_the_column_weight_is_taken_and_can_be_refused():
    one = with_column("weight", np.linspace(0.5, 5, 30))
    taken, other = (fit_table(one, dataclasses.replace(QUICK, weight=w)) for w in (None, "none"))
    assert taken.theta != other.theta
    assert taken.points.columns["weight"].mean() == pytest.approx(1)
    assert "weight" not in other.points.columns
    assert other.theta == fit_table(table(noise=0.01), QUICK).theta


def test_standard_errors_become_weights_that_never_trust_one_run_alone():
    errors = np.full(30, 0.02)
    errors[:3], errors[5] = 1e-9, 0.5
    found = weights_of(weighted(with_column("loss_se", errors), "loss_se"))
    assert found.mean() == pytest.approx(1)
    assert found[5] < 0.1 * np.median(found)
    assert found[0] < 200 * np.median(found)  # without the floor it would be 1e14


def test_runs_of_weight_zero_are_dropped_by_name():
    weight = np.ones(30)
    weight[4] = 0
    fit = fit_table(with_column("w", weight), dataclasses.replace(QUICK, weight="w"))
    assert fit.runs_dropped == (("r4", "w is 0"),)


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        (np.r_[-1, np.ones(29)], "w", "run r0 is -1"),
        (np.r_[np.nan, np.ones(29)], "w", "finite weights"),
        (np.zeros(30), "w", "every w is 0"),
        (np.ones(30), "other", "there are w"),
    ],
)
def test_weights_that_cannot_be_are_refused_in_one_line(values, name, words):
    with pytest.raises(FitError, match=words):
        weighted(with_column("w", values), name)


def test_weights_go_from_the_command_line_into_the_document(tmp_path):
    one = table(noise=0.01)
    rows = [
        f"{n},{d},{loss},{1 + i % 3}"
        for i, (n, d, loss) in enumerate(zip(one.params, one.tokens, one.loss, strict=True))
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["params,tokens,loss,trust", *rows]))
    args = ["fit", str(path), "--out", str(tmp_path / "o"), "--no-report", "--resamples", "0"]
    result = CliRunner().invoke(main, [*args, "--weight", "trust"])
    assert result.exit_code == 0, result.output
    fit = read_fit(tmp_path / "o")
    assert fit.options["weight"] == "trust"
    assert len(set(fit.points.columns["weight"].round(9))) == 3
    assert CliRunner().invoke(main, [*args, "--weight", "lr"]).exit_code == 1
