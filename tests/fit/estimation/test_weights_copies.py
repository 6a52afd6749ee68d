"""Rows that repeat a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.estimation.weights import join_copies, without_near_copies
from fit.fitting import FitOptions, fit_table
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")

QUICK = FitOptions(resamples=0)


def twice(error):
    """Thirty runs and each again, its loss multiplied by 1 + error."""
    one = table(noise=0.01)
    both = np.r_[np.arange(30), np.arange(30)]
    factor = np.r_[np.ones(30), 1 + error * np.random.default_rng(0).standard_normal(30)]
    copied = one.take(both)
    return dataclasses.replace(
        copied,
        run=tuple(f"r{i}" for i in range(60)),
        loss=copied.loss * factor,
        cluster=np.arange(60),
    )


def test_rows_equal_to_rounding_are_dropped_and_the_first_stays():
    kept = without_near_copies(twice(1e-9), ("params", "tokens"))
    assert kept.run == tuple(f"r{i}" for i in range(30))
    assert {d.reason for d in kept.dropped} == {"copy of an earlier row"}


def test_copies_narrow_no_interval():
    once = fit_table(table(noise=0.01), QUICK).interval.bounds
    for error in (1e-9, 1e-5, 1e-4):
        again = fit_table(twice(error), QUICK).interval.bounds
        for name in ("E", "alpha", "beta", "a"):
            width, alone = np.ptp(again[name]), np.ptp(once[name])
            assert 0.9 * alone < width < 1.2 * alone, (name, error)


def test_seeds_stay_independent():
    seeds = twice(0.01)
    assert without_near_copies(seeds, ()) is seeds
    joined, copies = join_copies(seeds, (), 0.01)
    assert joined is seeds and not copies.any()
    assert "copies" not in {n.code for n in fit_table(seeds, QUICK).notes}
