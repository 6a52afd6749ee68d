"""Laws of scores in worlds of which the truth is known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.table import RunTable, score_columns
from fit.errors import FitError
from fit.fitting import FitOptions, fit_table
from fit.report.scores import budget_text
from fit.scores import law as law_module
from fit.scores import sigmoid
from fit.scores.law import RIVALS, Places, ScoreLaw, places_of, score_laws, score_path
from fit.scores.sigmoid import Sigmoid
from tests.bench.skills import (
    WORLDS,
    E,
    interval_score,
    laws_of,
    loss,
    observed,
    of_compute,
    of_excess,
    simulated,
    true_budget,
)

pytestmark = pytest.mark.usefixtures("few_checks")

TRUE = {"early": of_compute(1e10, 1.0, 0.1), "half": of_excess(1.3, 2.5, 0.1)}


@pytest.fixture(scope="module")
def fitted():
    return laws_of(simulated(TRUE, seed=5))


def test_intervals_hold_the_scores_at_ten_times_the_compute(fitted):
    source, laws = fitted
    assert [law.name for law in laws] == ["early", "half"]
    for law in laws:
        best = source.best(np.array([10 * np.exp(law.span[1])]))
        n, d = np.exp(best.log_params), np.exp(best.log_tokens)
        drawn = observed(np.repeat(TRUE[law.name](n, d), 100), np.random.default_rng(0))
        value, low, high = law.intervals(places_of(source, n, d), next_run=True)
        assert ((low <= drawn) & (drawn <= high)).mean() > 0.7
        assert 0 <= low[0] < value[0] < high[0] <= 1
        # the curve is known better than a run
        assert np.ptp(law.intervals(places_of(source, n, d))[1:]) <= high[0] - low[0]


def test_thresholds_are_passed_where_the_truth_passes_them(fitted):
    source, laws = fitted
    path = score_path(source)
    early = laws[0].passes(0.5, path)
    assert early.low <= true_budget(TRUE["early"], 0.5, source) <= early.high
    assert early.high / early.low < 3
    assert laws[0].passes(0.5, path).value < laws[1].passes(0.5, path).value
    assert laws[0].passes(0.01, path).value == 0.0  # it is above that at the smallest budget
    assert laws[0].passes(0.99999, path).high == np.inf


def law_of(eta: float, slope: float, top: float) -> ScoreLaw:
    """A law that is known well, of compute, with its runs from ln C = -3 to 0 and chance 0.1."""
    nothing = np.zeros(0)
    curve = Sigmoid(
        centre=np.zeros(1),
        unit=np.ones(1),
        cap=0.5,
        chance=0.1,
        mode=np.array([eta, slope, 0.0, np.log(top / (1 - top)), 0.0, -6.0, -7.0]),
        covariance=1e-6 * np.eye(7),
        dof=30.0,
    )
    return ScoreLaw(
        name="made",
        curves={"compute": curve},
        weights={"compute": 1.0},
        misses={},
        drift=0.0,
        sample=np.inf,
        floor=1.0,
        level=0.9,
        span=(-3.0, 0.0),
        losses=lambda n, d: (np.zeros(len(n)), np.zeros(len(n))),
        places=at_compute(),
        log_loss=nothing,
        score=nothing,
        error=nothing,
        cluster=np.zeros(0, np.int64),
    )


def at_compute(*log_flops: float) -> Places:
    values = np.array(log_flops)
    return Places(log_params=values / 2, log_tokens=values / 2, log_flops=values)


TENFOLD = at_compute(-1.0, 0.0, np.log(10.0))


@pytest.mark.parametrize(("slope", "level"), [(2.0, 0.37), (0.0, 0.1)])
def test_a_score_at_rest_may_rise_anew_beyond_the_runs_and_only_there(slope, level, monkeypatch):
    monkeypatch.setattr(sigmoid, "ONSETS", 0.1)
    # it has risen to a plateau (eta 12), or it has never left chance (eta -12)
    law = law_of(12.0 if slope else -12.0, slope, 0.3)
    value, low, high = law.intervals(TENFOLD)
    assert value == pytest.approx(level, abs=0.01) and low == pytest.approx(value, abs=0.01)
    assert np.ptp([low, high], axis=0)[:2].max() < 0.01 and high[2] > level + 0.3
    begun = (law.draws(TENFOLD)[:, 2] > level + 0.02).mean()
    assert begun == pytest.approx(1 - 10**-sigmoid.ONSETS, abs=0.03)
    assert 0 <= law.draws(TENFOLD, next_run=True).min() <= law.draws(TENFOLD).max() <= 1


@pytest.mark.parametrize("eta", [-1.0, 0.0, 1.0])
def test_a_score_that_rises_by_itself_is_hardly_less_certain_for_that(eta, monkeypatch):
    law = law_of(eta, 1.0, 0.999)
    width = np.ptp(law.intervals(TENFOLD)[1:, 2])
    monkeypatch.setattr(sigmoid, "ONSETS", 1e-12)
    assert width - np.ptp(law.intervals(TENFOLD)[1:, 2]) < 0.01


def test_rivals_share_the_draws_by_what_they_missed():
    assert law_module._weights({}) == {"compute": 1.0}
    assert law_module._weights({"compute": 1e-4, "loss": 2e-3}) == {"compute": 0.5, "loss": 0.5}
    found = law_module._weights({"compute": 0.05, "size": 0.2, "loss": 0.04})
    assert list(found) == ["loss", "compute"]
    assert found["loss"] / found["compute"] == pytest.approx(1.25**8)
    low, high = law_of(-12.0, 0.0, 0.3), law_of(12.0, 2.0, 0.3)
    curves = {"compute": low.curve, "loss": high.curve}
    both = dataclasses.replace(low, curves=curves, weights={"compute": 0.75, "loss": 0.25})
    draws = both.draws(at_compute(0.0))
    assert draws.shape == (law_module.DRAWS, 1)
    assert (draws < 0.2).mean() == 0.75


def test_the_interval_score_is_the_width_and_twenty_times_the_miss():
    found = interval_score(np.array([0.5, 0.1, 0.9]), 0.2, 0.8)
    assert found == pytest.approx([0.6, 0.6 + 2.0, 0.6 + 2.0])


def test_the_rival_is_the_one_with_the_least_error_on_costlier_runs(fitted):
    for law in fitted[1]:
        assert set(law.misses) == set(RIVALS)
        assert law.rival == min(law.misses, key=lambda r: law.misses[r])
        assert sum(law.weights.values()) == pytest.approx(1.0, abs=0.03)
        assert law.curves.keys() == law.weights.keys()
    by_length = {"length alone": WORLDS["length alone"]}
    assert laws_of(simulated(by_length, seed=0))[1][0].rival == "size"


def test_a_known_entropy_is_the_floor_and_chance_is_taken_over():
    table = simulated({"half": TRUE["half"]}, seed=1)
    source, (law,) = laws_of(table)
    assert law.floor == pytest.approx(source.fit.posterior().theta["E"])
    assert law.floor == pytest.approx(E, abs=0.3)
    (law,), _ = score_laws(source, {"half": 0.1})
    assert law.curve.chance == 0.1
    with pytest.raises(FitError, match="--chance other is of no score; the runs have half"):
        score_laws(source, {"other": 0.1})


def test_a_score_of_few_runs_or_in_percent_has_no_law_and_the_reason_is_said():
    table = simulated(TRUE, seed=0)
    few = np.where(np.arange(len(table)) < 5, table.column("score_half"), np.nan)
    percent = 100 * table.column("score_half")
    for column, reason in ((few, "5 runs of"), (percent, "divide percentages by 100")):
        given = dataclasses.replace(table, columns={**table.columns, "score_half": column})
        laws, reasons = score_laws(ScalingLaw.from_fit(fit_table(given, FitOptions(resamples=0))))
        assert [law.name for law in laws] == ["early"]
        assert reason in dict(reasons)["half"]


def test_columns_of_scores_are_known_by_their_names():
    names = "score_a score_a_se accuracy accuracy_b c_accuracy loss_d score_se width".split()
    columns = {**dict.fromkeys(names, np.zeros(2)), "score_text": np.array(["a", "b"])}
    found = score_columns(columns)
    assert found == {
        "a": "score_a", "accuracy": "accuracy", "b": "accuracy_b", "c": "c_accuracy",
        "se": "score_se",
    }  # fmt: skip


def write_table(path, table: RunTable):
    names = ("params", "tokens", "loss", *(c for c in table.columns if not c.endswith("_se")))
    lines = [",".join(names)]
    columns = [table.column(n) for n in names]
    lines += [",".join(map(repr, map(float, row))) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(lines))


def test_the_command_shows_scores_of_any_table(tmp_path):
    write_table(tmp_path / "t.csv", simulated({"half": TRUE["half"]}, seed=2))
    command = ["skills", str(tmp_path / "t.csv"), "--flops", "1e12", "--chance", "half=0.1"]
    text = CliRunner().invoke(main, command)
    assert text.exit_code == 0, text.output
    assert "passes 50% [FLOP]" in text.output and "at 1e12" in text.output
    assert max(map(len, text.output.splitlines())) <= 80
    shown = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert shown["schema"] == "isoflop.skills/1" and shown["shapes"] == []
    (law,) = shown["scores"]["laws"]
    (at,) = law["at"]
    n, d = at["params"], at["tokens"]
    assert at["low"] <= TRUE["half"](np.array(n), np.array(d)) <= at["high"]
    assert at["flops"] == 1e12 and loss(n, d) > E
    paid = CliRunner().invoke(main, [*command[:2], "--flops", "1$ on h100", "--json"])
    assert "an hour of one h100 is taken at $" in paid.stderr and paid.exit_code == 0
    refused = CliRunner().invoke(main, ["skills", "runs/reference", "--flops", "1e12"])
    assert refused.exit_code == 1 and "train.scores=accuracy" in refused.output


def test_open_ends_of_budgets_are_said():
    inf = np.inf
    assert budget_text(None, None, None) == "not in sight"
    assert budget_text(0.0, 0.0, 0.0) == "before the runs"
    assert budget_text(1e10, inf, inf) == "beyond 1e10"
    assert budget_text(0.0, 1.234e10, 2e10) == "1.2e10 (any to 2e10)"
    assert budget_text(1e10, 1.234e10, inf) == "1.2e10 (1e10 to unbounded)"
