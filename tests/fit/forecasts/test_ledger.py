"""Forecasts sealed before a run and scored after it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.accounting import count_flops, count_params
from fit.data.records import DataInfo, write_record
from fit.errors import QueryError
from fit.forecasts.ledger import (
    ForecastOutcome,
    document_hash,
    expected_loss,
    read_ledger,
    score_forecast,
    seal,
)
from fit.forecasts.scoring import calibration, runs_of, score_loss, score_open, score_run
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.listings import entry_text, ledger_document, ledger_text
from tests.fit.builders import make_fit
from tests.fit.data.builders import record

FIT = make_fit()
EARLY, LATE = "2020-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"


def sealed(folder, name="big", flops=1e14, fit=FIT):
    question = Question(source=ScalingLaw.from_fit(fit), flops=flops)
    return seal(folder, name, question, answer(question))


def launched(forecast, **changes):
    """The record that the forecast's launch leaves behind."""
    found = answer(Question(source=ScalingLaw.from_fit(FIT), flops=forecast.flops))
    shape, tokens = found.shape, round(found.shape_tokens)
    params, per_token = count_params(shape), count_flops(shape)
    own = {k: getattr(shape, k) for k in ("width", "depth", "heads", "head_dim", "vocab")}
    fields = {
        **own,
        "run": "launched",
        "seq_len": shape.seq_len,
        "params_body": params.body,
        "params_head": params.head,
        "tokens": tokens,
        "tokens_seen": tokens,
        "flops": float(per_token.exact * tokens),
        "loss": forecast.expected.loss,
        "lr": found.lr,
        "schedule": "wsd",
        "data": DataInfo(name="stories-demo", hash="sha256:12ab"),
        "started": LATE,
        "finished": LATE,
    }
    return record(**fields | changes)


def test_a_forecast_holds_what_was_asked_said_and_used(tmp_path):
    found = sealed(tmp_path)
    document = json.loads((tmp_path / "big.json").read_text())
    assert document["schema"] == "isoflop.forecast/1"
    assert document["answer"]["config"] and document["answer"]["schema"] == "isoflop.answer/1"
    assert document["question"]["flops"] == 1e14
    assert document["data"]["hash"] == "sha256:12ab"
    assert document["code"]["numpy"]
    assert document["fitted"] == list(FIT.points.run)
    assert found.intact and found.hash == document_hash(document)
    assert read_ledger(tmp_path).entry("big").status == "open"


def test_a_sealed_name_is_never_written_over(tmp_path):
    sealed(tmp_path)
    before = (tmp_path / "big.json").read_bytes()
    with pytest.raises(QueryError, match="sealed already"):
        sealed(tmp_path, flops=2e14)
    assert (tmp_path / "big.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["big.json"]


@pytest.mark.parametrize("name", ["", "../out", "a/b", ".hidden", "a b", "x.outcome", "é" * 3])
def test_a_forecasts_name_is_a_plain_one(tmp_path, name):
    with pytest.raises(QueryError, match="letters, digits"):
        sealed(tmp_path / "ledger", name)
    assert not (tmp_path / "ledger").exists()


def test_a_change_after_the_sealing_shows_and_is_not_scored(tmp_path):
    forecast = sealed(tmp_path)
    path = tmp_path / "big.json"
    path.write_text(path.read_text().replace('"level": 0.9', '"level": 0.5', 1))
    entry = read_ledger(tmp_path).entry("big")
    assert not entry.forecast.intact and entry.status == "altered"
    with pytest.raises(QueryError, match="altered"):
        score_loss(tmp_path, "big", forecast.expected.loss)


def test_an_outcome_that_was_altered_does_not_count(tmp_path):
    forecast = sealed(tmp_path)
    score_loss(tmp_path, "big", 2 * forecast.expected.loss)
    path = tmp_path / "big.outcome.json"
    path.write_text(path.read_text().replace('"hit": false', '"hit": true'))
    ledger = read_ledger(tmp_path)
    assert ledger.entry("big").status == "altered" and not ledger.counted


def test_the_verdict_is_the_interval_and_z_its_distance(tmp_path):
    e = expected_loss(ScalingLaw.from_fit(FIT), 1e5, 1e7)
    assert score_forecast(e, e.loss).z == 0
    for end, sign in ((e.low, -1), (e.high, 1)):
        assert score_forecast(e, end).z == pytest.approx(sign * e.quantile)
    beyond = e.high * 1.0001
    assert not score_forecast(e, beyond).hit and score_forecast(e, beyond).z > e.quantile
    assert score_forecast(e, beyond).error == pytest.approx(beyond / e.loss - 1)


def test_the_run_is_found_by_sizes_length_rate_and_data(tmp_path):
    forecast = sealed(tmp_path)
    good = launched(forecast)
    wrong = {
        "width": good.width * 2,
        "depth": good.depth + 1,
        "tokens": 2 * good.tokens,
        "lr": good.lr * 1.1,
        "schedule": "cosine",
        "data": DataInfo(name="stories-demo", hash="sha256:other"),
        "params_body": good.params_body + 1,
        "recipe": {"data.unique_tokens": 1_000_000},
    }
    for name, value in wrong.items():
        also = {"tokens_seen": value} if name == "tokens" else {}
        other = dataclasses.replace(good, **{name: value}, **also)
        assert runs_of(forecast, [other]) == (), name
    assert runs_of(forecast, [good]) == (good,)


def test_the_first_run_after_the_sealing_counts(tmp_path):
    forecast = sealed(tmp_path)
    loss = forecast.expected.loss
    runs = [
        launched(forecast, run="c", finished="2100-01-03T00:00:00+00:00", loss=loss * 1.5),
        launched(forecast, run="b", finished="2100-01-02T00:00:00+00:00"),
        launched(forecast, run="a", finished=EARLY, started=EARLY, loss=loss * 1.5),
    ]
    entry = score_run(tmp_path, "big", lambda: runs)
    assert entry.outcome.run == "b" and entry.status == "hit"
    assert sorted(entry.outcome.document["others"]) == ["a", "c"]
    again = score_run(tmp_path, "big", lambda: runs[:1])
    assert again == entry


def test_what_was_known_when_it_was_sealed_is_no_forecast(tmp_path):
    forecast = sealed(tmp_path)
    entry = score_run(tmp_path, "big", lambda: [launched(forecast, finished=EARLY)])
    assert entry.status == "late"
    other = sealed(tmp_path, "fitted")
    name = FIT.points.run[0]
    assert score_run(tmp_path, "fitted", lambda: [launched(other, run=name)]).status == "late"
    ledger = read_ledger(tmp_path)
    assert not ledger.counted
    assert "not counted" not in ledger_text(ledger) and "late" in ledger_text(ledger)


def test_a_run_that_is_missing_or_failed_is_said(tmp_path):
    forecast = sealed(tmp_path)
    with pytest.raises(QueryError, match="none of 0 runs"):
        score_run(tmp_path, "big", list)
    failed = launched(forecast, status="diverged", reason="loss above the unigram's")
    with pytest.raises(QueryError, match="diverged; one that is done"):
        score_run(tmp_path, "big", lambda: [failed])
    with pytest.raises(QueryError, match="there are: big"):
        score_loss(tmp_path, "small", 1.0)


def test_an_outcome_is_not_written_over(tmp_path):
    forecast = sealed(tmp_path)
    score_loss(tmp_path, "big", forecast.expected.loss)
    score_loss(tmp_path, "big", forecast.expected.loss)
    with pytest.raises(QueryError, match="not overwritten"):
        score_loss(tmp_path, "big", 1.01 * forecast.expected.loss)


def test_open_forecasts_are_scored_together(tmp_path):
    one, _ = sealed(tmp_path, "one"), sealed(tmp_path, "two", flops=3e15)
    ledger = score_open(tmp_path, [launched(one)])
    assert [e.status for e in ledger.entries] == ["hit", "open"]


def test_calibration_is_that_of_honest_forecasts(tmp_path):
    """At every quantile of Student's t once: hits as promised, z a standard normal."""
    forecast, e = sealed(tmp_path), expected_loss(ScalingLaw.from_fit(FIT), 1e5, 1e7)
    entry, many = read_ledger(tmp_path).entry("big"), 1000
    entries = []
    for share in (np.arange(many) + 0.5) / many:
        t = stats.t.ppf(share, e.dof)
        end = e.high if t > 0 else e.low
        loss = e.loss * math.exp(abs(math.log(end / e.loss)) * t / e.quantile)
        entries.append(dataclasses.replace(entry, outcome=outcome(score_forecast(e, loss))))
    found = calibration(dataclasses.replace(read_ledger(tmp_path), entries=tuple(entries)))
    assert found.counted == many and forecast.expected.dof == e.dof
    # the synthetic fit's quantile is rounded to 1.73
    assert found.hits / many == pytest.approx(2 * stats.t.cdf(e.quantile, e.dof) - 1, abs=1e-3)
    assert found.bias == pytest.approx(0, abs=1e-9)
    assert found.width == pytest.approx(1, abs=0.01)


def outcome(verdict):
    return ForecastOutcome(
        verdict=verdict, run=None, started=None, finished=None, scored=LATE, late=False,
        intact=True, document={},
    )  # fmt: skip


@pytest.mark.parametrize(("hits", "counted"), [(0, 1), (1, 1), (7, 9)])
def test_the_rates_interval_is_the_exact_binomial_one(tmp_path, hits, counted):
    for i in range(counted):
        forecast = sealed(tmp_path, f"f{i}")
        factor = 1.0 if i < hits else 1.5
        score_loss(tmp_path, f"f{i}", factor * forecast.expected.loss)
    found = calibration(read_ledger(tmp_path))
    exact = stats.binomtest(hits, counted).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.promised == pytest.approx(0.9)


def test_a_published_law_cannot_be_sealed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["query", "1e21", "--law", "besiroglu2024", "--seal", "big"]
    result = CliRunner().invoke(main, asked)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no intervals" in result.stderr and result.stderr.count("\n") == 1
    assert not Path("reports").exists()


def test_a_plain_tables_forecast_is_scored_by_its_loss(tmp_path):
    from tests.fit.builders import plain_points

    fit = make_fit(points=plain_points(), recipe={})
    forecast = sealed(tmp_path, fit=fit)
    assert not forecast.run
    with pytest.raises(QueryError, match="--loss X"):
        score_run(tmp_path, "big", list)
    assert score_loss(tmp_path, "big", forecast.expected.loss).status == "hit"


def test_the_commands_seal_score_and_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fit.json").write_text(FIT.to_json())

    def run(*args):
        return CliRunner().invoke(main, list(args))

    asked = run("query", "1e14", "--fit", "fit.json", "--seal", "big")
    assert asked.exit_code == 0 and asked.stdout.splitlines()[-1].startswith("sealed   reports/")
    assert run("query", "1e14", "--fit", "fit.json", "--seal", "big").stdout == ""
    quiet = run("query", "1e14", "--fit", "fit.json", "--seal", "two", "--json")
    assert "sealed" in quiet.stderr
    forecast = read_ledger().entry("big").forecast
    assert forecast.document["fit"]["hash"] == json.loads(quiet.stdout)["fit_hash"]
    assert "open" in run("score").stdout
    write_record(Path("runs/big/launched"), launched(forecast))
    shown = run("score", "big").stdout
    assert "verdict           hit, +0.00% (+0.0% of the reducible loss), z = +0.00" in shown
    assert "1 of 1 forecast hit" in shown
    assert run("score", "two", "--loss", "99").exit_code == 0
    document = json.loads(run("score", "--json").stdout)
    assert document["schema"] == "isoflop.ledger/1"
    assert [f["status"] for f in document["forecasts"]] == ["hit", "miss"]
    assert document == ledger_document(read_ledger())
    assert max(map(len, run("score").stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        (["score", "none"], 1, "no forecast 'none' is sealed"),
        (["score", "--runs", "nowhere"], 1, "no folder nowhere"),
        (["score", "--loss", "1.0"], 2, "NAME"),
        (["score", "big", "--loss", "-1"], 2, "--loss"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, args, code, expected):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert expected in result.stderr and result.stderr.count("\n") == 1


def test_the_forecasts_that_are_committed_can_be_read():
    ledger = read_ledger(Path(__file__).parents[3] / "reports" / "ledger")
    assert ledger.entries and not ledger.unreadable


def test_a_broken_file_is_named_and_the_rest_is_read(tmp_path):
    sealed(tmp_path)
    (tmp_path / "half.json").write_text('{"schema": "isoflop.fore')
    (tmp_path / "empty.json").write_text('{"schema": "isoflop.forecast/1"}')
    ledger = read_ledger(tmp_path)
    assert [e.forecast.name for e in ledger.entries] == ["big"]
    assert [name for name, _ in ledger.unreadable] == ["empty.json", "half.json"]
    assert "unreadable: half.json" in ledger_text(ledger)


def test_two_that_score_at_once_agree_or_the_later_is_told(tmp_path, monkeypatch):
    from fit.forecasts import scoring

    forecast = sealed(tmp_path)
    stale = read_ledger(tmp_path)
    score_loss(tmp_path, "big", forecast.expected.loss)
    found = iter([stale])
    monkeypatch.setattr(scoring, "read_ledger", lambda f: next(found, None) or read_ledger(f))
    with pytest.raises(QueryError, match="not overwritten"):
        score_loss(tmp_path, "big", 1.01 * forecast.expected.loss)


def graded_fit():
    """A fit whose runs have a score that follows their compute."""
    p = FIT.points
    score = 0.1 + 0.85 / (1 + np.exp(-(np.log(p.flops) - np.log(p.flops).mean())))
    columns = {**p.columns, "score_facts": score, "score_facts_se": np.full(len(score), 0.01)}
    return dataclasses.replace(FIT, points=dataclasses.replace(p, columns=columns))


def test_scores_are_sealed_with_the_loss_and_scored_with_it(tmp_path):
    forecast = sealed(tmp_path, fit=graded_fit())
    given = forecast.document["scores"]["facts"]
    assert 0 < given["low"] < given["value"] < given["high"] <= 1 and given["level"] == 0.9
    assert "facts" in entry_text(read_ledger(tmp_path).entry("big"))
    facts = {"items": 100, "accuracy": given["low"] - 0.01, "accuracy_se": 0.02}
    run = launched(forecast, scores={"facts": facts, "other": facts})
    entry = score_run(tmp_path, "big", lambda: [run])
    assert entry.status == "hit"  # of the loss
    (name,) = entry.outcome.document["scores"]
    found = entry.outcome.document["scores"][name]
    assert name == "facts" and found["hit"] is False and found["measured_se"] == 0.02
    assert found["points"] == pytest.approx(100 * (facts["accuracy"] - given["value"]))
    assert "points, outside" in entry_text(entry)
    row = ledger_document(read_ledger(tmp_path))["forecasts"][0]
    assert row["scores"]["facts"] == given and row["outcome"]["scores"] == {"facts": found}
    path = tmp_path / "big.json"
    path.write_text(path.read_text().replace(repr(given["low"]), "0.001", 1))
    assert read_ledger(tmp_path).entry("big").status == "altered"


def test_a_forecast_of_runs_without_scores_has_none(tmp_path):
    forecast = sealed(tmp_path)
    assert "scores" not in forecast.document
    entry = score_run(tmp_path, "big", lambda: [launched(forecast)])
    assert "scores" not in entry.outcome.document and "score " not in entry_text(entry)
