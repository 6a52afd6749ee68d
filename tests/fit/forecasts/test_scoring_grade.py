"""What the hits of forecasts say: a grade that can fail, from forecasts that are evidence."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scipy import stats

from fit.allocation.scaling_law import ScalingLaw
from fit.forecasts.ledger import read_ledger, seal
from fit.forecasts.scoring import Calibration, calibration, score_loss
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.summary_page import report_content
from tests.fit.builders import make_fit


def counted(hits, of, promised=0.9):
    return Calibration(
        counted=of, hits=hits, promised=promised, low=None, high=None, bias=None, width=None
    )


@pytest.mark.parametrize(
    ("hits", "of", "grade"),
    [
        (0, 0, "too few to tell"),
        (0, 1, "too few to tell"),
        (1, 1, "too few to tell"),
        (0, 2, "broken"),
        (1, 2, "too few to tell"),
        (8, 8, "too few to tell"),
        (9, 9, "kept"),
        (8, 9, "too few to tell"),
        (27, 30, "kept"),
        (23, 30, "broken"),
        (60, 100, "broken"),
        (90, 100, "kept"),
    ],
)
def test_the_grade_of_the_hits_is_a_binomial_test_that_can_fail(hits, of, grade):
    found, why = counted(hits, of).grade
    assert found == grade and why
    if grade == "broken":
        assert stats.binom.cdf(hits, of, 0.9) < 0.05
    if grade == "kept":
        assert stats.binom.sf(hits - 1, of, 0.7) < 0.05


@pytest.mark.parametrize("promised", [0.05, 0.5, 0.68, 0.99])
def test_every_promise_can_be_broken_and_kept(promised):
    grades = {counted(hits, 400, promised).grade[0] for hits in range(401)}
    assert {"broken", "kept"} <= grades


def sealed(folder, name, fit, hash=None, factor=1.0):
    source = ScalingLaw.from_fit(fit, hash=hash)
    question = Question(source=source, flops=1e14)
    forecast = seal(folder, name, question, answer(question))
    score_loss(folder, name, forecast.expected.loss * factor)


def test_only_forecasts_of_this_fit_its_runs_or_its_data_count(tmp_path):
    mine = make_fit(source={"path": "runs/a", "hash": "sha256:a"}, data={"hash": "sha256:data"})
    others = {
        "same-file": (dataclasses.replace(mine, source={}, data={}), "sha256:mine"),
        "same-runs": (dataclasses.replace(mine, data={}), None),
        "same-data": (dataclasses.replace(mine, source={"hash": "sha256:more"}), None),
        "other": (make_fit(source={"hash": "sha256:b"}, data={"hash": "sha256:other"}), None),
        "unknown": (dataclasses.replace(mine, source={}, data={}), None),
    }
    for name, (fit, hash) in others.items():
        sealed(tmp_path, name, fit, hash)
    about = read_ledger(tmp_path).about(mine, "sha256:mine")
    assert {e.forecast.name for e in about.entries} == {"same-file", "same-runs", "same-data"}
    source = ScalingLaw.from_fit(mine, hash="sha256:mine")
    content = report_content(source, ledger=read_ledger(tmp_path))
    assert content["checks"][-1][0] == "info"
    assert "Of 3 forecasts" in content["checks"][-1][1]
    section = next(s for s in content["sections"] if s["title"] == "Forecasts")
    assert "Not counted, because of other fits: 2 forecasts." in section["blocks"][0]["text"]
    assert "other" not in {r[0] for r in section["blocks"][1]["rows"]}


def test_a_forecast_of_another_law_is_no_evidence(tmp_path):
    mine = make_fit(source={"hash": "sha256:a"})
    sealed(tmp_path, "one", mine)
    path = tmp_path / "one.json"
    document = json.loads(path.read_text())
    document["answer"]["law"] = "kaplan"
    path.write_text(json.dumps(document))
    assert not read_ledger(tmp_path).about(mine).entries


def test_forecasts_that_all_miss_get_no_tick(tmp_path):
    fit = make_fit(source={"hash": "sha256:a"})
    for i in range(3):
        sealed(tmp_path, f"f{i}", fit, factor=2.0)
    content = report_content(ScalingLaw.from_fit(fit), ledger=read_ledger(tmp_path))
    assert content["checks"][-1][0] == "bad"
    assert "0 came true" in content["checks"][-1][1] and "broken" in content["checks"][-1][1]


@pytest.mark.parametrize("field", ["loss", "low", "high", "level", "quantile", "dof"])
@pytest.mark.parametrize("value", [None, "1.0", True, -1.0, 0])
def test_a_forecast_with_a_damaged_number_is_named_and_left_out(tmp_path, field, value):
    sealed(tmp_path, "one", make_fit())
    path = tmp_path / "one.json"
    document = json.loads(path.read_text())
    document["expected"][field] = value
    path.write_text(json.dumps(document))
    ledger = read_ledger(tmp_path)
    assert not ledger.entries
    assert field in ledger.unreadable[0][1]


def test_an_outcome_cannot_call_a_miss_a_hit(tmp_path):
    sealed(tmp_path, "one", make_fit(), factor=2.0)
    path = tmp_path / "one.outcome.json"
    document = json.loads(path.read_text()) | {"hit": True, "error": 0.0}
    path.write_text(json.dumps(document))
    entry = read_ledger(tmp_path).entry("one")
    assert not entry.outcome.verdict.hit and entry.status == "altered"
    assert calibration(read_ledger(tmp_path)).counted == 0
