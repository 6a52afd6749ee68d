"""An answer's run trained in small, compared with the fit that gave the answer."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import read_record
from fit.forecasts.ledger import expected_loss
from fit.query.answer import answer
from fit.query.question import Question
from fit.results import write_fit
from sweep.planning.grid import grid
from sweep.rehearse import main
from sweep.training.outcome import recipe
from tests.fit.builders import make_fit

SMALL = [
    "model.width=32",
    "model.seq_len=32",
    "data.heldout_tokens=4096",
    "train.tokens=1e5",
    "train.batch_tokens=256",
    "train.batch_doublings=[]",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a fit whose recipe trains in a second, and an answer by it."""
    monkeypatch.chdir(tmp_path)
    trajectory = grid(SMALL, multirun=False)[0].trajectories[0]
    base = make_fit()
    columns = {**base.points.columns, "seq_len": 0 * base.points.params + 32}
    vocab = trajectory.shape.vocab
    columns["vocab"] = 0 * base.points.params + vocab
    params = base.points.params + (vocab - 500) * columns["width"]
    points = dataclasses.replace(base.points, columns=columns, params=params)
    write_fit(
        Path("reports/small"), make_fit(name="small", recipe=recipe(trajectory), points=points)
    )
    recommendation = answer(Question(source=ScalingLaw.at(Path("reports/small")), flops=1e12))
    assert recommendation.config
    Path("answer.json").write_text(json.dumps(recommendation.document()))
    return tmp_path


def rehearse(capsys, *words):
    main(["answer.json", *words])
    return capsys.readouterr().out


def failed(*words):
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    message = str(stopped.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_a_rehearsal_trains_the_split_of_the_fraction_and_compares_it(folder, capsys):
    document = json.loads(rehearse(capsys, "fraction=0.002", "--json"))
    assert document["schema"] == "isoflop.rehearsal/1"
    assert document["budget"] == pytest.approx(2e9)
    record = read_record(folder / "runs" / "rehearsals" / document["run"] / "record.json")
    assert record.loss == document["measured"]
    assert record.flops == pytest.approx(2e9, rel=0.05)
    expected = expected_loss(
        ScalingLaw.at(Path("reports/small")), record.params_matmul, record.tokens
    )
    assert document["expected"]["low"] == pytest.approx(expected.low)
    assert document["hit"] == (expected.low <= record.loss <= expected.high)
    assert document["error"] == pytest.approx(record.loss / expected.loss - 1)
    assert math.copysign(1, document["z"]) == math.copysign(1, document["error"])
    again = rehearse(capsys, "fraction=0.002")
    assert f"measured          {record.loss:.4f}" in again
    assert ("verdict           hit" in again) == document["hit"]
    assert max(map(len, again.splitlines())) <= 80


def test_the_answer_may_come_by_standard_input(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(Path("answer.json").read_text()))
    main(["-", "fraction=0.001", "--json", "runs_dir=elsewhere"])
    document = json.loads(capsys.readouterr().out)
    assert (folder / "elsewhere" / "rehearsals" / document["run"] / "record.json").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["none.json"], "cannot read none.json"),
        (["half.json"], "half.json is no answer: not a JSON document"),
        (["prediction.json"], "'isoflop.answer/1' is needed"),
        (["bare.json"], "names no budget"),
        (["law.json"], "of which no fit is known"),
        (["moved.json"], "say where it is: fit=PATH"),
        (["answer.json", "fit=reports/none"], "not in reports/none"),
        (["answer.json", "fit=reports/other"], "not the fit that gave the answer"),
        (["answer.json", "fraction=2"], "fraction=2; a share"),
        (["answer.json", "fraction=x"], "fraction=x; a share"),
        (["answer.json", "fraction=1e-7"], "below one batch"),
        (["answer.json", "fraction=0.002", "train.lr=1"], "changes what is trained"),
        (["answer.json", "fraction=0.002", "model.depth=1"], "changes what is trained"),
        (["answer.json", "fraction=0.002", "nonsense=1"], "nonsense"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_trained(folder, words, expected):
    whole = json.loads(Path("answer.json").read_text())
    Path("half.json").write_text('{"schema": "isofl')
    Path("prediction.json").write_text('{"schema": "isoflop.prediction/1"}')
    Path("bare.json").write_text('{"schema": "isoflop.answer/1"}')
    Path("law.json").write_text(json.dumps(whole | {"fit_hash": None}))
    Path("moved.json").write_text(json.dumps(whole | {"source": "moved"}))
    write_fit(Path("reports/other"), make_fit(name="other"))
    assert expected in failed(*words)
    assert not list(Path().glob("**/record.json"))


def test_an_answer_that_a_limit_moved_is_not_rehearsed_as_if_it_were_free(folder):
    document = json.loads(Path("answer.json").read_text())
    row = {"name": "max_params", "limit": 1e4, "worth": None}
    for name, rows in {
        "held": [{**row, "binds": True}],
        "slack": [{**row, "binds": False}],
    }.items():
        Path(f"{name}.json").write_text(json.dumps({**document, "constraints": rows}))
    assert "limited by max_params" in failed("held.json")
    assert "fraction=9; a share" in failed("slack.json", "fraction=9")


def test_help_says_how_it_is_used(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "fraction=0.01" in capsys.readouterr().out
