"""Coverage of every interval method: the study of docs/calibration.md in a short form."""

from __future__ import annotations

import numpy as np
import pytest

from fit.inference.intervals import METHODS
from tests.bench.calibrate import cell_by_method, chinchilla_table, isoflop_grid, shape_grid


def test_a_cell_of_the_study_says_for_each_method_and_quantity_what_is_covered():
    found = cell_by_method(isoflop_grid(), noise=0.003, sweeps=4)
    assert found.shape == (len(METHODS), 8)
    assert set(np.unique(found * 4)) <= {0, 1, 2, 3, 4}
    assert found.mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0.0, 0.04])
@pytest.mark.parametrize("design", [isoflop_grid, shape_grid, chinchilla_table])
def test_ninety_percent_intervals_hold_the_truth_nine_times_in_ten(design, bad):
    # 80 sweeps: a binomial error of 3.4% in a cell, less in the mean of eight correlated ones
    found = dict(
        zip(METHODS, cell_by_method(design(), noise=0.003, bad=bad, sweeps=80), strict=True)
    )
    assert 0.85 <= found["hc3"].mean() <= 0.97
    for method, coverage in found.items():
        assert coverage.mean() >= 0.83, method
        assert coverage.min() >= 0.78, method


@pytest.mark.slow
def test_errors_shared_by_trunk_are_covered_by_trunk():
    found = cell_by_method(shape_grid(), noise=0.003, trunk=0.003, sweeps=80)
    assert found[list(METHODS).index("hc3")].mean() >= 0.84
    assert found.mean() >= 0.80
