"""One bad run among forty: what it does to the answer far out."""

from __future__ import annotations

import numpy as np
import pytest

from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.laws.families import law

TRUTH = np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658])
N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 5e10, 5)))


def optimum(raw: np.ndarray) -> float:
    """N* at 100 times the largest budget."""
    _, a, b, alpha, beta = raw
    product = 100 * (N * D).max()
    return float((alpha * a / (beta * b) * product**beta) ** (1 / (alpha + beta)))


def errors(loss: str, sweeps: int) -> np.ndarray:
    """Relative error of N* in seeded sweeps of 40 runs, one of them off by +0.3."""
    random, out = np.random.default_rng(0), []
    for _ in range(sweeps):
        off = 0.003 * random.normal(size=40) + 0.3 * (np.arange(40) == random.integers(40))
        losses = law("chinchilla").loss(TRUTH, N, D) * np.exp(off)
        out.append(
            optimum(estimate(FitProblem.of(N, D, losses), loss=loss).raw) / optimum(TRUTH) - 1
        )
    return np.array(out)


def test_one_bad_run_in_forty_moves_the_median_optimum_at_100_times_the_budget_by_less_than_5():
    found = errors("adaptive", 40)
    assert abs(np.median(found)) < 0.05
    # single sweeps scatter as clean ones do, [-13%, +13%] in docs/calibration.md
    assert np.quantile(np.abs(found), 0.9) < 0.2


def test_least_squares_is_useless_there():
    assert np.quantile(np.abs(errors("l2", 20)), 0.9) > 0.5


@pytest.mark.parametrize("off", [0.3, -0.3])
def test_a_bad_run_in_any_corner_is_borne(off):
    exact = law("chinchilla").loss(TRUTH, N, D)
    for corner in (0, 7, 32, 39):
        losses = exact * np.exp(0.001 * np.random.default_rng(corner).normal(size=40))
        losses[corner] *= np.exp(off)
        found = estimate(FitProblem.of(N, D, losses))
        assert optimum(found.raw) == pytest.approx(optimum(TRUTH), rel=0.15)
