"""The league's scores, against brute force."""

import numpy as np
import pytest

from tests.bench.league import loss_figures, optimum_figures, read_series, valleys


def test_the_interval_score_is_the_width_and_twenty_times_the_miss():
    rng = np.random.default_rng(0)
    measured, median = np.exp(rng.normal(1, 0.1, (2, 50)))
    low, high = median * 0.95, median * 1.04
    scores = []
    for y, lo, hi in zip(np.log(measured), np.log(low), np.log(high), strict=True):
        miss = lo - y if y < lo else y - hi if y > hi else 0.0
        scores.append(min(hi - lo + 20 * miss, 10.0))
    row = loss_figures(measured, median, low, high)
    inside = [lo <= y <= hi for y, lo, hi in zip(measured, low, high, strict=True)]
    assert row["score"] == pytest.approx(np.mean(scores))
    assert row["held"] == pytest.approx(np.mean(inside))
    assert row["half"] == pytest.approx(np.log(1.04 / 0.95) / 2)


def test_a_forecast_without_intervals_has_errors_alone():
    none = np.full(3, np.nan)
    row = loss_figures(np.full(3, 2.0), np.array([2.02, 2.02, 1.9]), none, none)
    assert row == {"error": pytest.approx(0.01), "signed": pytest.approx(0.01)}


def test_a_valley_lies_where_the_cubic_is_least():
    params = np.geomspace(3e7, 3e8, 9)
    x = np.log(params / 1e8)
    loss = np.exp(1 + 0.05 * x**2 + 0.004 * x**3)
    ((flops, best),) = valleys(params, np.full(9, 1e19), loss)
    assert flops == pytest.approx(1e19)
    assert best == pytest.approx(1e8, rel=1e-6)


def test_a_valley_needs_five_sizes():
    params = np.geomspace(5e7, 2e8, 4)
    assert not list(valleys(params, np.full(4, 1e19), 2 + np.log(params / 1e8) ** 2))


def test_optima_are_scored_in_ln():
    row = optimum_figures([1e8, 1e8], [(2e8, 5e7, 3e8), (1e8, 2e8, 4e8)])
    assert row["ratio"] == pytest.approx(np.log(2) / 2)
    assert row["covered"] == 0.5


def test_a_missing_table_is_named_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"no such file.*LEAGUE="):
        read_series(tmp_path / "none.csv")
