"""Approach 2: the valleys of isoFLOP curves, narrow, wide, noisy and one-sided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from fit.data.table import RunTable
from fit.diagnostics.approaches import SAME_BUDGET, _akima, budget_codes, isoflop_check
from fit.laws.families import law

BESIROGLU = np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658])
LOPSIDED = np.array([1.7, 400.0, 40.0, 0.465, 0.155])
"""Exponents so far apart that a parabola over 16-fold sizes puts N* 30% off (Czech et al. 2026)."""
BUDGETS = (1e18, 3.16e18, 1e19, 3.16e19, 1e20)


def optimum(theta: np.ndarray, flops: float) -> float:
    _, a, b, alpha, beta = theta
    scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    return float(scale * (flops / 6) ** (beta / (alpha + beta)))


def sweep(theta, *, width, sizes, noise=0.0, seed=0, centre=1.0) -> RunTable:
    factors = centre * np.geomspace(1 / width, width, sizes)
    n = np.concatenate([optimum(theta, c) * factors for c in BUDGETS])
    c = np.repeat(BUDGETS, sizes)
    loss = law("chinchilla").loss(theta, n, c / (6 * n))
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return table(n, c, loss)


def table(n, c, loss) -> RunTable:
    return RunTable(
        run=tuple(f"r{i}" for i in range(len(n))),
        params=n,
        tokens=c / (6 * n),
        flops=c,
        loss=loss,
        cluster=np.arange(len(n)),
    )


@pytest.mark.parametrize("theta", [BESIROGLU, LOPSIDED])
@pytest.mark.parametrize(("width", "sizes"), [(2, 6), (4, 7), (16, 11), (64, 17)])
def test_without_noise_every_valley_lies_where_the_law_has_it(theta, width, sizes):
    found = isoflop_check(sweep(theta, width=width, sizes=sizes), 0.9)
    assert found.a == pytest.approx(theta[4] / (theta[3] + theta[4]), abs=0.002)
    assert found.params == pytest.approx([optimum(theta, c) for c in BUDGETS], rel=0.03)


def test_the_kind_of_curve_follows_from_what_the_noise_allows():
    narrow = isoflop_check(sweep(BESIROGLU, width=3, sizes=7, noise=0.002), 0.9)
    assert narrow.reason == "by parabola"
    wide = isoflop_check(sweep(LOPSIDED, width=32, sizes=13, noise=0.0002), 0.9)
    assert wide.reason == "by akima"


@pytest.mark.parametrize(("width", "sizes", "noise"), [(4, 6, 0.003), (16, 9, 0.003)])
def test_the_interval_holds_the_exponent_at_least_as_often_as_it_says(width, sizes, noise):
    truth = 0.3658 / (0.3478 + 0.3658)
    inside = 0
    for seed in range(60):
        low, high = isoflop_check(
            sweep(BESIROGLU, width=width, sizes=sizes, noise=noise, seed=seed), 0.9
        ).a_interval
        inside += low <= truth <= high
    assert inside >= 51  # 85%: 90% less 1.3 binomial errors of 60


def test_noise_decides_how_much_a_budget_counts():
    quiet, loud = (isoflop_check(sweep(BESIROGLU, width=4, sizes=7, noise=s, seed=3), 0.9)
                   for s in (0.0005, 0.01))  # fmt: skip
    width = [f.a_interval[1] - f.a_interval[0] for f in (quiet, loud)]
    assert width[1] > 5 * width[0]


def test_a_minimum_outside_the_sizes_is_refused_and_said():
    found = isoflop_check(sweep(BESIROGLU, width=2, sizes=6, centre=8.0), 0.9)
    assert found.a is None
    assert "lies outside the sizes" in found.reason
    assert found.reason.endswith("and 3 more")


def test_a_minimum_that_the_noise_hides_at_the_edge_is_refused():
    found = isoflop_check(sweep(BESIROGLU, width=2, sizes=6, centre=1.9, noise=0.004), 0.9)
    assert found.a is None or len(found.budgets) < len(BUDGETS)


def test_one_bad_run_moves_one_valley_and_not_the_exponent_beyond_its_interval():
    runs = sweep(BESIROGLU, width=8, sizes=9, noise=0.001)
    loss = runs.loss.copy()
    loss[13] *= np.exp(0.3)
    found = isoflop_check(table(runs.params, runs.flops, loss), 0.9)
    low, high = found.a_interval
    assert low <= 0.3658 / (0.3478 + 0.3658) <= high
    assert high - low < 0.1


def test_replicates_of_a_size_are_averaged_and_sizes_without_end_are_binned():
    one = sweep(BESIROGLU, width=4, sizes=6)
    n, c, loss = (np.tile(v, 4) for v in (one.params, one.flops, one.loss))
    assert isoflop_check(table(n, c, loss), 0.9).a == pytest.approx(
        isoflop_check(one, 0.9).a, abs=1e-6
    )
    many = isoflop_check(sweep(BESIROGLU, width=4, sizes=5000, noise=0.003), 0.9)
    assert many.a == pytest.approx(0.5126, abs=0.005)


def test_budgets_are_grouped_as_by_going_through_them_one_by_one():
    flops = np.exp(np.random.default_rng(0).uniform(0, 3, 200))
    order, expected, first, code = np.argsort(flops), np.empty(200, int), None, -1
    for i in order:
        if first is None or np.log(flops[i]) - first > SAME_BUDGET:
            first, code = np.log(flops[i]), code + 1
        expected[i] = code
    assert budget_codes(flops).tolist() == expected.tolist()


def test_akimas_curves_are_those_of_scipy():
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(0, 5, 9))
    y = np.column_stack([random.standard_normal((9, 20)), np.maximum(x - 2, 0), x])
    at = np.linspace(x[0], x[-1], 301)
    assert _akima(x, y, at) == pytest.approx(Akima1DInterpolator(x, y)(at), rel=1e-9, abs=1e-12)
