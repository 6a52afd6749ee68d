"""The wild bootstrap: signs by cluster, residuals from without it, the sandwich's covariance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.estimation.objective import FitProblem, value
from fit.estimation.solver import estimate
from fit.inference import resampling
from fit.inference.resampling import clusters, sandwich, wild_bootstrap
from tests.fit.inference.test_resampling import ROWS, N, noisy

TRUNKS = clusters(N.astype(np.int64))


def logs(draws):
    return np.concatenate([np.log(draws[:, :3]), draws[:, 3:]], axis=1)


@pytest.mark.parametrize("codes", [ROWS, TRUNKS], ids=["by run", "by trunk"])
def test_its_draws_of_least_squares_scatter_as_the_sandwich_says(codes):
    found = estimate(noisy(3, noise=0.001), loss="l2")
    draws = logs(wild_bootstrap(found, codes, 3000, seed=0))
    expected = np.sqrt(np.diag(sandwich(found, codes, 0.9).covariance))
    assert draws.std(axis=0) == pytest.approx(expected, rel=0.08)


def test_weights_have_mean_zero_variance_one_and_many_points_for_few_clusters():
    few = resampling._signs(np.random.default_rng(0), 50_000, 5)
    many = resampling._signs(np.random.default_rng(0), 50_000, 13)
    for signs in (few, many):
        assert signs.mean() == pytest.approx(0, abs=0.01)
        assert signs.std() == pytest.approx(1, abs=0.01)
    assert len(np.unique(few.round(9))) == 6
    assert sorted(np.unique(many)) == [-1, 1]


def test_whole_clusters_change_sign_together(monkeypatch):
    seen = []
    found = estimate(noisy(0))
    original = resampling._refit_signs

    def spy(found, problem, guess):
        seen.append(problem.y)
        return original(found, problem, guess)

    monkeypatch.setattr(resampling, "_refit_signs", spy)
    wild_bootstrap(found, TRUNKS, 40, seed=1)
    law = found.problem.y - found.residual
    moved = seen[0] - law
    ratio = moved / moved[0]
    for code in range(6):
        inside = ratio[:, TRUNKS == code]
        assert inside == pytest.approx(np.repeat(inside[:, :1], inside.shape[1], axis=1))
    assert len({tuple(r.round(6)) for r in ratio[:, :: len(N) // 6]}) > 30


def test_each_draw_is_the_fit_of_its_own_losses(monkeypatch):
    seen = []
    found = estimate(noisy(1, noise=0.01))
    original = resampling._refit_signs

    def spy(found, problem, guess):
        seen.append((problem.y, original(found, problem, guess)))
        return seen[-1][1]

    monkeypatch.setattr(resampling, "_refit_signs", spy)
    wild_bootstrap(found, ROWS, 20, seed=1)
    (y, theta), ones = seen[0], np.ones((1, len(N)))
    for k in range(20):
        own = FitProblem.of(*(np.exp(v) for v in (found.problem.x, found.problem.z, y[k])))
        alone = estimate(own, loss="huber", delta=found.loss.scale)
        mine = value(dataclasses.replace(own, y=y[k]), theta[k : k + 1], ones, alone.loss)
        assert mine[0] <= alone.value * (1 + 1e-7)


def test_same_seed_same_draws_and_a_law_without_e_has_none():
    found = estimate(noisy(0), law="no-e")
    once, again = (wild_bootstrap(found, ROWS, 64, 3) for _ in range(2))
    assert np.array_equal(once, again)
    assert (once[:, 0] == 0).all()
    assert not np.array_equal(once, wild_bootstrap(found, ROWS, 64, 4))


def test_stretched_residuals_widen_the_draws():
    found = estimate(noisy(0, noise=0.001))
    plain, wide = (wild_bootstrap(found, ROWS, 1000, 0, s)[:, 3].std() for s in (1.0, 1.5))
    assert wide / plain == pytest.approx(1.5, rel=0.05)
