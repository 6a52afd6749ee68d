"""Scans of a recipe number: the best value of each size and length by its own parabola."""

from __future__ import annotations

import numpy as np
import pytest

from fit.data.table import RunTable
from fit.diagnostics.scans import find_scans
from fit.diagnostics.tuning import tuning_notes
from fit.errors import FitError, RecordError

RATES = np.array([0.0015, 0.003, 0.006, 0.012, 0.024])


def scan_table(shift=0.0, noise=0.001, seed=0, rates=RATES, bend=0.01, best=0.006, seeds=1):
    """Three sizes whose best rate moves by `shift` in ln for each doubling of width."""
    random = np.random.default_rng(seed)
    rows = []
    for k, width in enumerate((16, 32, 64)):
        for rate in np.repeat(rates, seeds):
            off = np.log(rate / best) - k * shift
            loss = 1.1 - 0.05 * k + bend * off**2 + noise * random.standard_normal()
            rows.append((1e4 * 3**k, 1e6, loss, rate * 32 / width, width, 2))
    params, tokens, loss, lr, width, depth = np.array(rows).T
    return RunTable(
        run=tuple(f"r{i}" for i in range(len(rows))),
        params=params,
        tokens=tokens,
        flops=6 * params * tokens,
        loss=loss,
        cluster=np.arange(len(rows)),
        columns={"lr": lr, "width": width, "depth": depth},
        recipe={"train.base_width": 32},
    )


def test_without_noise_the_best_rate_is_found_in_the_rules_unit():
    scans = find_scans(scan_table(noise=0.0)).scans
    assert [s.width for s in scans] == [16, 32, 64]
    assert [s.best for s in scans] == pytest.approx([0.006] * 3, rel=1e-6)
    assert [s.loss for s in scans] == pytest.approx([1.1, 1.05, 1.0])
    assert [s.factor for s in scans] == pytest.approx([2.0, 1.0, 0.5])


def test_intervals_of_the_best_rate_cover():
    held = [
        s.low <= 0.006 <= s.high
        for seed in range(300)
        for s in find_scans(scan_table(noise=0.0005, seed=seed)).scans
        if s.found == "inside"
    ]
    assert len(held) == 900
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_a_best_rate_at_the_edge_has_no_interval_and_says_so():
    low, *_ = find_scans(scan_table(best=0.0005)).scans
    high, *_ = find_scans(scan_table(best=0.1)).scans
    assert (low.found, high.found) == ("low edge", "high edge")
    assert (low.low, low.high) == (0.0, np.inf)


def test_three_rates_without_replicates_have_no_interval_but_a_best():
    scan, *_ = find_scans(scan_table(rates=RATES[1:4])).scans
    assert scan.found == "inside"
    assert (scan.low, scan.high) == (0.0, np.inf)


def test_seeds_narrow_the_interval():
    one, *_ = find_scans(scan_table(seeds=1)).scans
    four, *_ = find_scans(scan_table(seeds=4)).scans
    assert np.log(four.high / four.low) < 0.75 * np.log(one.high / one.low)


def test_a_table_without_a_scan_is_refused_in_one_line_and_noted_by_nobody():
    table = scan_table(rates=RATES[:2])
    with pytest.raises(FitError, match="no size that was trained at 3 learning rates"):
        find_scans(table)
    with pytest.raises(RecordError, match=r"no column 'train\.nothing'"):
        find_scans(table, "train.nothing")
    assert not list(tuning_notes(table))
