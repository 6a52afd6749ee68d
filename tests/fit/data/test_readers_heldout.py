"""A law fitted to the loss on a further held-out set."""

import dataclasses
import json

import pytest

from fit.cli.runs import flat_record
from fit.data.readers import load
from fit.data.records import RunRecord, write_record
from fit.errors import RecordError
from fit.fitting import fit_runs
from tests.fit.data.builders import record

pytestmark = pytest.mark.usefixtures("few_checks")

SCORES = {"quiz": {"items": 3.0, "accuracy": 0.5, "accuracy_se": None}}


@pytest.fixture
def runs(tmp_path):
    for width in (16, 32, 64):
        for tokens in (100_000, 200_000, 400_000, 800_000):
            plain = record(width, tokens, trunk=None)
            further = {"books": 1.1 * plain.loss, "code": 0.5 * plain.loss}
            kept = dataclasses.replace(plain, heldout=further, scores=SCORES)
            write_record(tmp_path / plain.run, kept)
    return tmp_path


def test_the_fit_is_of_the_named_loss_and_says_so_in_its_data(runs):
    main, books = (
        fit_runs(str(runs), name="f", resamples=0, interval="hc3", heldout=heldout)
        for heldout in (None, "books")
    )
    assert books.theta["E"] == pytest.approx(1.1 * main.theta["E"], rel=1e-3)
    assert books.theta["alpha"] == pytest.approx(main.theta["alpha"], rel=1e-2)
    assert books.data["name"] == "stories, loss on books"
    assert books.data["entropy"] is None and main.data["entropy"] == 1.7
    assert books.data["hash"] != main.data["hash"]
    assert books.options["heldout"] == "books" and "heldout" not in main.options


def test_a_run_without_that_loss_is_dropped_with_the_reason(runs):
    write_record(runs / "old", record(128, 100_000))
    table = load(str(runs), heldout="code")
    assert len(table) == 12
    assert "no loss on the held-out set 'code'" in table.dropped[0].reason


def test_an_unknown_set_is_refused_with_the_known_ones(runs):
    with pytest.raises(RecordError, match="'poems'; known are books, code"):
        load(str(runs), heldout="poems")


def test_a_table_has_columns_and_no_held_out_sets(runs, tmp_path):
    (tmp_path / "t.csv").write_text("params,tokens,loss\n1e6,2e6,3\n")
    with pytest.raises(RecordError, match="--column loss=YOURS"):
        load(str(tmp_path / "t.csv"), heldout="books")


def test_held_out_losses_and_scores_are_columns(runs):
    table = load(str(runs))
    assert table.column("heldout.books") == pytest.approx(1.1 * table.loss)
    kept = dataclasses.replace(record(), heldout={"books": 2.5}, scores=SCORES)
    row = flat_record(kept)
    assert row["heldout.books"] == 2.5 and row["scores.quiz.items"] == 3
    assert row["score_quiz"] == 0.5 and row["score_quiz_se"] is None
    assert table.column("score_quiz") == pytest.approx(0.5)
    assert not {"heldout", "scores"} & flat_record(record()).keys()


@pytest.mark.parametrize(
    ("score", "needed"),
    [
        ({"items": 3, "accuracy": 1.5}, "an accuracy from 0 to 1"),
        ({"items": 3, "accuracy": None}, "an accuracy from 0 to 1"),
        ({"items": 3}, "an accuracy from 0 to 1"),
        ("good", "an accuracy from 0 to 1"),
        ({"items": 0, "accuracy": 0.5}, "a positive number of items"),
        ({"items": 3, "accuracy": 0.5, "accuracy_se": -1}, "an accuracy_se of 0 or more"),
    ],
)
def test_a_score_that_is_none_is_refused_when_it_is_read(score, needed):
    document = json.loads(record().to_json()) | {"scores": {"quiz": score}}
    with pytest.raises(RecordError, match=f"the score 'quiz' .*{needed}"):
        RunRecord.from_json(json.dumps(document))


def test_records_without_the_new_fields_are_read_as_before():
    document = json.loads(record().to_json())
    del document["heldout"], document["scores"]
    assert RunRecord.from_json(json.dumps(document)) == record()
