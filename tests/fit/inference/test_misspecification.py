"""Intervals where the surface is not the law: wider, said, and only then."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.diagnostics.notes import misfit_note
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, fit_table
from fit.inference.misspecification import detect_misfit, widen_by_misfit
from fit.inference.resampling import clusters, sandwich
from fit.laws.families import law
from tests.fit.test_fitting import TRUTH, table

N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 5)))
ROWS = np.arange(len(N))


def problem(seed: int, noise: float = 0.001, drift: float = 0.0, off: float = 0.0) -> FitProblem:
    """Runs of a law whose exponent alpha grows with N by 2 drift per e-fold."""
    e, a, b, alpha, beta = TRUTH
    u = np.log(N / 1.7e8)
    loss = e + a * 1.7e8**-alpha * np.exp(-alpha * u - drift * u**2) + b / D**beta
    random = np.random.default_rng(seed)
    bad = off * (np.arange(len(N)) == 4)
    return FitProblem.of(N, D, loss * np.exp(noise * random.normal(size=len(N)) + bad))


def e_covered(seeds: int, drift: float) -> tuple[float, float]:
    """Share of sweeps whose 90% interval of E holds the truth, without and with the misfit."""
    hits = []
    for seed in range(seeds):
        found = estimate(problem(seed, drift=drift))
        plain = sandwich(found, ROWS, 0.9)
        wide = widen_by_misfit(plain, detect_misfit(found, ROWS))
        error = abs(np.log(found.raw[0] / TRUTH[0]))
        hits.append([error <= s.quantile * s.covariance[0, 0] ** 0.5 for s in (plain, wide)])
    plain_share, wide_share = np.mean(hits, axis=0)
    return float(plain_share), float(wide_share)


def test_an_exponent_that_drifts_is_found_and_its_intervals_hold_the_truth():
    plain, wide = e_covered(20, drift=0.01)
    assert plain < 0.3
    assert wide > 0.85


def test_under_the_law_the_test_seldom_fires():
    fired = sum(detect_misfit(estimate(problem(seed)), ROWS) is not None for seed in range(60))
    assert fired <= 9  # 5% are meant; 9 of 60 would be passed once in 500 suites


def test_a_bad_run_is_not_taken_for_a_misfit():
    fired = sum(detect_misfit(estimate(problem(s, off=0.3)), ROWS) is not None for s in range(20))
    assert fired <= 4


def test_errors_that_a_trunk_shares_are_no_misfit():
    trunk = clusters(np.unique(N, return_inverse=True)[1].astype(np.int64))
    by_trunk = by_run = 0
    for seed in range(30):
        p = problem(seed, noise=0.0005)
        shared = 0.003 * np.random.default_rng(1000 + seed).normal(size=6)[trunk]
        found = estimate(FitProblem(x=p.x, z=p.z, y=p.y + shared, centre=p.centre))
        by_trunk += detect_misfit(found, trunk) is not None
        by_run += detect_misfit(found, ROWS) is not None
    assert by_trunk <= 5
    assert by_run > by_trunk


@pytest.mark.parametrize("name", ["tied", "no-e"])
def test_smaller_laws_are_not_asked(name):
    theta = TRUTH[:4] if name == "tied" else TRUTH[1:]
    p = FitProblem.of(N, D, law(name).loss(theta, N, D) * (1 + 0.001 * np.sin(7 * ROWS)))
    assert detect_misfit(estimate(p, law=name), ROWS) is None


def test_draws_widen_as_the_covariance_does():
    found = estimate(problem(0, drift=0.01))
    misfit = detect_misfit(found, ROWS)
    assert misfit is not None and misfit.term == "size"
    misfit = dataclasses.replace(misfit, shift=misfit.shift / 10)  # clear of the bounds
    draws = np.repeat(found.raw[None], 4000, axis=0)
    spread = dataclasses.replace(sandwich(found, ROWS, 0.9), draws=draws)
    moved = widen_by_misfit(spread, misfit).draws
    assert np.log(moved[:, 0]).std() == pytest.approx(abs(misfit.shift[0]), rel=0.05)
    assert moved[:, 3].std() == pytest.approx(abs(misfit.shift[3]), rel=0.05)
    assert widen_by_misfit(spread, None) is spread
    assert (moved[:, 3:] > 0).all()


@pytest.mark.parametrize("interval", ["hc3", "pairs"])
def test_a_fit_says_that_its_intervals_are_wider_and_by_how_much(interval):
    one = table(N, D)
    bent = dataclasses.replace(one, loss=np.exp(problem(0, drift=0.01).y))
    fit = fit_table(bent, FitOptions(resamples=300, interval=interval))
    (note,) = [n for n in fit.notes if n.code == "misfit"]
    assert "over params the loss bends" in note.message and "times wider" in note.message
    low, high = fit.interval.bounds["E"]
    assert low < TRUTH[0] < high


def test_a_wiggle_over_a_short_range_of_lengths_is_not_extrapolated():
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e8, 5), np.geomspace(1e9, 8e9, 4)))
    e, a, b, alpha, beta = TRUTH
    wiggle = np.select([d < 1.5e9, d < 3e9, d < 6e9], [0.0002, -0.0006, 0.0009], -0.0004)
    noise = 0.0003 * np.random.default_rng(0).normal(size=len(n))
    loss = (e + a / n**alpha + b / d**beta) * np.exp(wiggle + noise)
    found = estimate(FitProblem.of(n, d, loss))
    misfit = detect_misfit(found, np.arange(len(n)))
    assert misfit is not None and not misfit.shift.any()
    assert "leave it out" in misfit_note(misfit, {}, {}).message
