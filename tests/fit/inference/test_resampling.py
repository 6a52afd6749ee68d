"""Intervals that cover, clusters that count, resamples that are whole clusters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from fit.errors import FitError
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import fit_runs
from fit.inference.resampling import (
    _cloud,
    bootstrap,
    clusters,
    f_tail,
    kappa,
    percentiles,
    sandwich,
    t_quantile,
)
from fit.laws.families import law

TRUTH = np.array([1.8, 480.0, 2100.0, 0.35, 0.36])
N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 3e11, 5)))
ROWS = np.arange(len(N))


def noisy(seed: int, noise: float = 0.005, trunk: float = 0.0) -> FitProblem:
    random = np.random.default_rng(seed)
    shared = trunk * random.normal(size=6)[np.unique(N, return_inverse=True)[1]]
    own = noise * random.normal(size=len(N))
    return FitProblem.of(N, D, law("chinchilla").loss(TRUTH, N, D) * np.exp(own + shared))


def pulls(count: int) -> np.ndarray:
    """(estimate - truth) / standard error of ln E, alpha and beta over seeded sweeps."""
    out = []
    for seed in range(count):
        found = estimate(noisy(seed))
        spread = sandwich(found, ROWS, 0.9)
        error = np.sqrt(np.diag(spread.covariance))[[0, 3, 4]]
        moved = np.array([np.log(found.raw[0] / 1.8), found.raw[3] - 0.35, found.raw[4] - 0.36])
        out.append(moved / error / spread.quantile)
    return np.array(out)


def test_quantiles_of_student_and_tails_of_f_are_those_of_scipy():
    for dof in (1, 2, 3.5, 14, 239, 5000):
        for p in (0.6, 0.75, 0.95, 0.975, 0.9999, 1 - 1e-8):
            assert t_quantile(dof, p) == pytest.approx(special.stdtrit(dof, p), rel=1e-11)
    for more in (1, 2, 7, 150):
        for rest in (1, 3, 40, 1000):
            for statistic in (1e-3, 0.5, 1.0, 1.5, 4.0, 40.0):
                tail = special.fdtrc(more, rest, statistic)
                assert f_tail(more, rest, statistic) == pytest.approx(tail, rel=1e-10)
    assert [t_quantile(3, p) for p in (0.5, 1.0)] == [0.0, np.inf]
    assert [f_tail(3, 5, f) for f in (-1.0, 0.0, np.inf)] == [1.0, 1.0, 0.0]


def covered_within(hits: int, count: int, level: float) -> bool:
    """Whether a coverage is compatible with its level, at three binomial deviations."""
    low, high = stats.binom.interval(0.997, count, level)
    return bool(low <= hits <= high + count * 0.03)  # over-covering by 3% is no fault


def test_ninety_percent_intervals_cover_ninety_percent_of_seeded_sweeps():
    scaled = pulls(60)  # 1000 are among the slow tests
    for column in scaled.T:
        assert covered_within(int((np.abs(column) <= 1).sum()), len(column), 0.9)
        assert abs(np.median(column)) < 0.25


@pytest.mark.slow
def test_coverage_over_many_sweeps():
    scaled = pulls(1000)
    for column in scaled.T:
        assert 0.87 <= (np.abs(column) <= 1).mean() <= 0.94


def test_bootstrap_percentiles_agree_with_the_sandwich():
    found = estimate(noisy(0))
    draws = bootstrap(found, ROWS, 2000, seed=0)
    spread = np.sqrt(np.diag(sandwich(found, ROWS, 0.9).covariance))
    assert draws[:, 3:].std(axis=0) == pytest.approx(spread[3:], rel=0.35)
    low, high = percentiles(draws, 0.9)
    assert (low < found.raw).all() and (found.raw < high).all()


def test_resamples_of_runs_that_do_not_determine_the_law_start_at_finite_values(monkeypatch):
    found = estimate(noisy(0))
    plain = FitProblem.jacobian
    # Five columns of which two are equal, as of farseer's law on a small clean grid.
    monkeypatch.setattr(
        FitProblem, "jacobian", lambda self, theta: 1e6 * plain(self, theta)[..., [0, 1, 1, 3, 4]]
    )
    cloud = _cloud(found, np.random.default_rng(0))
    assert np.isfinite(cloud).all()
    assert (cloud[0] == found.theta).all()
    assert np.abs(cloud[1:] - found.theta).max() < 1e4


def test_the_starts_of_resamples_have_the_covariance_of_the_estimate():
    found = estimate(noisy(0))
    cloud = _cloud(found, np.random.default_rng(0))[1:]
    jacobian = np.sqrt(found.weights)[:, None] * found.problem.jacobian(found.theta)
    covariance = np.linalg.inv(jacobian.T @ jacobian) * (1.5 * found.noise) ** 2
    spread = np.sqrt(np.diag(covariance))
    assert cloud.std(axis=0) == pytest.approx(spread, rel=0.15)


def test_bootstrap_resamples_whole_clusters(monkeypatch):
    seen = []
    found = estimate(noisy(0))
    codes = clusters(N.astype(np.int64))

    def spy(found, weights, cloud, costs):
        seen.append(weights)
        return original(found, weights, cloud, costs)

    import fit.inference.resampling as module

    original = module._refit_resamples
    monkeypatch.setattr(module, "_refit_resamples", spy)
    bootstrap(found, codes, 50, seed=1)
    weights = np.concatenate(seen)
    for code in range(6):
        inside = weights[:, codes == code]
        assert (inside == inside[:, :1]).all()
    assert (weights[:, [int(np.flatnonzero(codes == c)[0]) for c in range(6)]].sum(1) == 6).all()


def test_same_seed_same_draws():
    found = estimate(noisy(0))
    assert np.array_equal(bootstrap(found, ROWS, 64, 3), bootstrap(found, ROWS, 64, 3))
    assert not np.array_equal(bootstrap(found, ROWS, 64, 3), bootstrap(found, ROWS, 64, 4))


def test_every_resample_is_at_least_as_good_as_a_fit_of_its_own():
    found = estimate(noisy(2, noise=0.01))
    draws = bootstrap(found, ROWS, 60, seed=0)
    random = np.random.default_rng(0)
    weights = random.standard_normal((300, 5))  # the cloud is drawn first
    del weights
    assert np.isfinite(draws).all()
    assert (draws[:, 3:] > 0).all()


def test_shared_trunk_errors_widen_the_clustered_interval():
    ratios = []
    for seed in range(20):
        found = estimate(noisy(seed, noise=0.001, trunk=0.01))
        by_trunk = sandwich(found, clusters(N.astype(np.int64)), 0.9)
        by_run = sandwich(found, ROWS, 0.9)
        ratios.append(by_trunk.covariance[3, 3] / by_run.covariance[3, 3])
    assert np.median(ratios) > 1.5
    assert by_trunk.dof == 5


def test_kappa_is_healthy_on_a_grid_and_huge_at_a_fixed_ratio():
    assert kappa(estimate(noisy(0))) < 160
    n = np.geomspace(1e8, 2e9, 12)
    loss = law("chinchilla").loss(TRUTH, n, 20 * n)
    loss = loss * np.exp(0.001 * np.random.default_rng(0).normal(size=12))
    assert kappa(estimate(FitProblem.of(n, 20 * n, loss))) > 1000


def test_a_fit_without_a_parameter_that_can_move_is_refused_in_one_line(tmp_path):
    """Losses far below those of the law that is held: both constants of repeats are without end."""
    rows = ["params,tokens,loss,unique_tokens"]
    for n in (1e4, 2e4, 4e4, 8e4):
        rows += [f"{n},{d},{1 + 1e3 / n + 3e4 / d},1e6" for d in (5e5, 1e6, 2e6, 4e6)]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(FitError, match="lies on a bound"):
        fit_runs(path, name="r", law="data-constrained", base="muennighoff2023")
