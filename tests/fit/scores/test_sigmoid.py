"""The sigmoid of a score against a computation by hand, and on curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from fit.scores.sigmoid import CHEAPER, ScoredRuns, _Objective, fit_sigmoid


def runs(score, x, error=0.01, chance=None, seed=0):
    """Runs over one feature, with noise of a known size."""
    noise = error * np.random.default_rng(seed).standard_normal(len(x))
    return ScoredRuns(
        features=x[:, None],
        behind=x.max() - x,
        score=np.clip(score + noise, 0, 1),
        error=np.full(len(x), error),
        cluster=np.arange(len(x)),
        chance=chance,
    )


X = np.linspace(20.0, 26.0, 40)


def at(curve, x):
    mode = curve.mode[None]
    return curve.score(mode, curve.eta(mode, np.array([[[x]]])))[0, 0]


def test_the_objective_is_that_of_the_formula_and_its_gradient_of_differences():
    given = runs(0.2 + 0.8 * expit(X - 24), X)
    objective = _Objective(curve=fit_sigmoid(given), runs=given)
    p = objective.curve.mode + np.array([0.1, -0.2, 0.3, -1.0, 0.2, 0.1, -0.1])
    a, b, c, t, v, spread, noise = p
    values = []
    for x, score, error in zip(X, given.score, given.error, strict=True):
        eta = a + b * (x - 23.0) / (6.0 / 6.0)
        floor = objective.curve.cap / (1 + np.exp(-c))
        room = (1 - floor) / (1 + np.exp(-t))
        curve = floor + room * (1 - (1 + np.exp(eta)) ** -np.exp(v))
        step = 1e-6
        rise = room * ((1 + np.exp(eta)) ** -np.exp(v) - (1 + np.exp(eta + step)) ** -np.exp(v))
        cheaper = 1 + (CHEAPER * (26.0 - x)) ** 2
        own = (np.exp(spread) * rise / step) ** 2 + np.exp(noise) ** 2
        variance = error**2 + own * cheaper
        values.append(0.5 * ((score - curve) ** 2 / variance + np.log(variance)))
    assert objective.by_run(p)[0] == pytest.approx(values, rel=1e-5)
    steps = 1e-5 * np.eye(len(p))
    slopes = [(objective.total(p + s)[0] - objective.total(p - s)[0]) / 2e-5 for s in steps]
    assert objective.total(p)[1] == pytest.approx(slopes, rel=1e-5, abs=1e-5)


def test_a_known_curve_is_recovered():
    truth = 0.1 + 0.9 * expit(1.1 * (X - 23))
    curve = fit_sigmoid(runs(truth, X))
    for x in (20.5, 22.0, 23.5, 25.0):
        assert at(curve, x) == pytest.approx(0.1 + 0.9 * expit(1.1 * (x - 23)), abs=0.015)
    assert at(curve, 28.0) == pytest.approx(1.0, abs=0.03)


def test_a_plateau_below_one_is_found_and_a_long_tail_is_none():
    plateau = fit_sigmoid(runs(0.74 * expit(1.5 * (X - 22)), X))
    assert at(plateau, 30.0) == pytest.approx(0.74, abs=0.01)
    tail = fit_sigmoid(runs(1 - (1 + np.exp(1.5 * (X - 23))) ** -0.3, X))
    assert at(tail, 28.0) == pytest.approx(1 - (1 + np.exp(7.5)) ** -0.3, abs=0.05)


def test_a_level_of_chance_that_is_known_is_kept():
    given = runs(0.125 + 0.875 * expit(1.2 * (X - 26)), X, chance=0.125)
    curve = fit_sigmoid(given)
    assert at(curve, 0.0) == pytest.approx(0.125, abs=1e-6)
    draws = curve.draw(50, np.random.default_rng(0))
    assert (curve.floor(draws) == 0.125).all()


def test_a_curve_that_has_just_left_chance_is_open_far_ahead_and_known_near():
    late = fit_sigmoid(runs(0.1 + 0.9 * expit(1.5 * (X - 26)), X))
    draws = late.draw(2000, np.random.default_rng(0))
    near = late.score(draws, late.eta(draws, np.array([[[25.5]]])))[:, 0]
    far = late.score(draws, late.eta(draws, np.array([[[29.0]]])))[:, 0]
    narrow, wide = (np.ptp(np.quantile(v, (0.05, 0.95))) for v in (near, far))
    assert narrow < 0.1 < wide
    flat = fit_sigmoid(runs(np.full(len(X), 0.1), X))  # no rise is foreseen where none is seen
    assert at(flat, 29.0) == pytest.approx(0.1, abs=0.02)


def test_runs_of_one_cluster_count_less():
    truth, rng = 0.1 + 0.9 * expit(X - 23), np.random.default_rng(1)
    shared = np.repeat(rng.standard_normal(8) * 0.04, 5)  # an error common to each cluster
    alone = runs(truth + shared, X)
    together = ScoredRuns(
        **{f: getattr(alone, f) for f in ScoredRuns.__slots__ if f != "cluster"},
        cluster=np.repeat(np.arange(8), 5),
    )
    one, other = (np.diag(fit_sigmoid(r).covariance)[0] for r in (alone, together))
    assert other > 1.3 * one
