"""The league's scores, against brute force."""

import sys

import numpy as np
import pandas as pd
import pytest

import isoflop
from tests.bench.forecasters import NotRun, approach2, default_fit, huber, peers
from tests.bench.league import (
    Series,
    average,
    loss_figures,
    optimum_figures,
    read_series,
    two_budgets,
    valleys,
)
from tests.bench.reach import Forecast, forecasts, row


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


def test_families_weigh_the_same_however_many_splits_they_have():
    rows = {"a": [{"error": 0.01}, {"error": 0.02}, {"error": 0.03}], "b": [{"error": 0.06}]}
    figures = average(rows)
    assert figures["error"] == pytest.approx(0.04)
    assert np.isnan(figures["score"])


def exact_sweep():
    """Noiseless runs of E 1.7, A 400, B 1500, alpha .34, beta .3 at five budgets of seven sizes."""
    flops = np.repeat(np.geomspace(1e17, 1e19, 5), 7)
    params = np.sqrt(flops / 6) / 4 * np.tile(np.geomspace(0.2, 5, 7), 5)
    tokens = flops / 6 / params
    loss = 1.7 + 400 * params**-0.34 + 1500 * tokens**-0.3
    return params, tokens, loss, flops, np.array([f"run{i}" for i in range(len(flops))])


def test_hubers_fit_recovers_a_noiseless_law():
    columns = exact_sweep()
    forecaster = huber(*columns)
    median, low, _ = forecaster.predict(np.array([1e9]), np.array([2e10]))
    assert median[0] == pytest.approx(1.7 + 400 * 1e9**-0.34 + 1500 * 2e10**-0.3, rel=2e-3)
    assert np.isnan(low[0])
    # N* of C = 6 N D in closed form, Hoffmann et al. 2022, eq. 4.
    best = (0.34 * 400 / (0.3 * 1500) * (1e20 / 6) ** 0.3) ** (1 / 0.64)
    assert forecaster.optimum(1e20)[0] == pytest.approx(best, rel=0.1)


def test_parabolas_extrapolate_a_law_of_like_exponents():
    params, tokens, _, flops, cluster = exact_sweep()
    loss = 1.7 + 400 * params**-0.3 + 400 * tokens**-0.3
    n, _, _ = approach2(params, tokens, loss, flops, cluster).optimum(1e20)
    assert n == pytest.approx(np.sqrt(1e20 / 6), rel=0.2)


def test_losses_are_predicted_as_by_the_public_function():
    params, tokens, loss, flops, cluster = exact_sweep()
    loss = loss * np.exp(np.random.default_rng(0).normal(0, 0.003, len(loss)))
    median, low, high = default_fit(params, tokens, loss, flops, cluster).predict(
        np.array([3e8, 1e9]), np.array([2e10, 2e10])
    )
    table = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss, "flops": flops})
    single = isoflop.predict(isoflop.fit(table, resamples=0), 1e9, 2e10, force=True).loss_next_run
    assert (median[1], low[1], high[1]) == pytest.approx((single.value, single.low, single.high))


def test_a_package_that_is_not_installed_is_named_as_not_run():
    packages = peers(sys.executable)
    with pytest.raises(NotRun, match="not installed"):
        packages["simple-scaling-laws"](*exact_sweep())


def test_a_small_table_has_six_sizes_of_the_last_budget_and_the_last_but_two():
    params, tokens, loss, flops, cluster = exact_sweep()
    columns = {"params": params, "tokens": tokens, "flops": flops, "loss": loss}
    series = Series(name="sweep", family="a", cluster=cluster, **columns)
    chosen = two_budgets(series, flops < 5e18)  # 1e17, 3e17, 1e18 and 3e18
    assert sorted(set(flops[chosen])) == pytest.approx([10**17.5, 10**18.5])
    for budget in set(flops[chosen]):
        best = loss[flops == budget].min()
        assert (chosen & (flops == budget)).sum() == 6
        assert best in loss[chosen]
    assert two_budgets(series, flops < 2e17) is None


def test_the_best_run_of_a_range_of_reach_is_forecast_from_the_cheaper_ones():
    columns = dict(
        zip(("params", "tokens", "loss", "flops", "cluster"), exact_sweep(), strict=True)
    )
    columns["loss"] = columns["loss"] * np.exp(np.random.default_rng(0).normal(0, 0.003, 35))
    three = {name: values[-21:] for name, values in columns.items()}
    # Of budgets of 1e18, 3e18 and 1e19 a third of the largest leaves two, a tenth too few runs.
    (found,) = forecasts(Series(name="sweep", family="a", **three))
    assert found.farthest == 10.0
    assert found.loss == three["loss"][-7:].min()
    assert found.held and found.error < 0.02
    assert found.verdict in ("trust", "careful")


def test_a_row_weighs_families_alike_and_counts_all_forecasts():
    made = [("a", True), ("a", True), ("a", True), ("b", False)]
    found = [
        Forecast(family=f, farthest=3.0, verdict="trust", loss=2.0, held=h, half=0.02, error=0.01)
        for f, h in made
    ]
    assert row("3", found) == "| 3 | 4 | 3 | 50% | 2.0% | 1.0% |"
