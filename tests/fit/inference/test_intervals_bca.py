"""Bias-corrected accelerated percentiles, against what they are known to give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fit.inference.intervals import acceleration, bca_percentiles


def test_without_bias_and_skewness_they_are_plain_percentiles():
    values = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    low, high = bca_percentiles(values, np.zeros(1), np.array([[1.0], [-1.0]]), 0.9)
    assert [low[0], high[0]] == pytest.approx(stats.norm.ppf([0.05, 0.95]), abs=2e-3)


def test_the_mean_of_skewed_numbers_gets_the_interval_of_an_independent_implementation():
    random = np.random.default_rng(0)
    sample = random.gamma(1.5, size=40)
    theirs = stats.bootstrap(
        (sample,), np.mean, n_resamples=20_000, method="BCa", confidence_level=0.9,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    draws = random.choice(sample, size=(20_000, 40)).mean(axis=1)[:, None]
    moves = ((sample - sample.mean()) / 39)[:, None]
    low, high = bca_percentiles(draws, np.array([sample.mean()]), moves, 0.9)
    ends = theirs.confidence_interval
    assert [low[0], high[0]] == pytest.approx([ends.low, ends.high], rel=0.01)
    assert high[0] - sample.mean() > 1.1 * (sample.mean() - low[0])


def test_acceleration_is_a_sixth_of_the_skewness_of_the_moves():
    moves = np.random.default_rng(0).gamma(2.0, size=(50, 3)) - 2.0
    expected = (moves**3).sum(0) / (6 * (moves**2).sum(0) ** 1.5)
    assert acceleration(moves) == pytest.approx(expected)
    assert acceleration(np.zeros((4, 2))) == pytest.approx([0, 0])


def test_draws_that_all_lie_on_one_side_give_an_interval_all_the_same():
    low, high = bca_percentiles(np.linspace(1, 2, 200)[:, None], np.zeros(1), np.zeros((2, 1)), 0.9)
    assert 1 <= low[0] <= high[0] <= 2
