"""One honest record per run, and the table made of them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from fit.data.records import RunRecord
from fit.data.table import RunTable
from fit.errors import PlanError, RecordError
from tests.fit.data.builders import record


def test_a_record_survives_the_way_through_json():
    original = record(loss_by_skill={"grammar": 0.5}, versions={"torch": "2"})
    assert RunRecord.from_json(original.to_json()) == original


def test_a_finished_run_needs_a_finite_loss_and_all_its_tokens():
    for changes in ({"loss": None}, {"loss": math.nan}, {"tokens_seen": 5}, {"status": "fine"}):
        with pytest.raises(RecordError):
            record(**changes)


def test_what_json_cannot_hold_becomes_null():
    text = record(status="diverged", loss=math.inf, reason="loss inf").to_json()
    assert json.loads(text)["loss"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a JSON document"),
        ('{"schema": "isoflop.record/1", "run"', "not a JSON document"),
        ("[]", "without a schema"),
        ('{"schema": "isoflop.fit/1"}', "is needed"),
        ('{"schema": "isoflop.record/2"}', "upgrade"),
        ('{"schema": "isoflop.record/1", "run": "x"}', "not a complete run record"),
        ('{"schema": "isoflop.record/1", "data": 5}', "not a complete run record"),
    ],
)
def test_truncated_foreign_and_newer_records_are_refused_by_name(text, words):
    with pytest.raises(RecordError, match=words):
        RunRecord.from_json(text)


def test_a_newer_minor_version_is_read():
    document = json.loads(record().to_json()) | {"schema": "isoflop.record/1.4", "later": 1}
    assert RunRecord.from_json(json.dumps(document)).run == record().run


def test_the_result_leaves_out_what_may_differ_between_equal_runs():
    slow = record(wall_seconds=9.0, started="now", device="cpu")
    assert slow.result() == record().result()
    assert record(loss=2.0).result() != record().result()


def test_a_table_holds_done_runs_and_names_the_others():
    table = RunTable.from_records(
        [record(32), record(48), record(64, status="failed", loss=None, reason="boom")]
    )
    assert len(table) == 2
    assert [d.reason for d in table.dropped] == ["failed: boom"]
    assert table.data is not None and table.recipe["train.lr"] == 0.01


def test_runs_of_one_trunk_are_one_cluster():
    table = RunTable.from_records([record(32, t) for t in (1e5, 2e5)] + [record(64)])
    assert table.cluster[0] == table.cluster[1] != table.cluster[2]


def test_every_convention_can_be_recomputed_from_a_record():
    one = record(32, 100_000)
    for params, expected in (
        ("matmul", one.params_matmul),
        ("body", one.params_body),
        ("total", one.params_total),
    ):
        table = RunTable.from_records([one], params=params, flops="6nd")
        assert table.params[0] == expected
        assert table.flops[0] == 6 * expected * 100_000
    assert RunTable.from_records([one]).flops[0] == one.flops
    with pytest.raises(PlanError, match="known are"):
        RunTable.from_records([one], params="kaplan")


def test_facts_that_runs_do_not_share_are_not_claimed_for_all():
    mixed = [record(32), record(48, recipe={"data": "stories", "train.lr": 0.02})]
    assert RunTable.from_records(mixed).recipe == {"data": "stories"}


def test_columns_are_read_only_and_missing_ones_are_named():
    table = RunTable.from_records([record(32), record(48)])
    with pytest.raises(ValueError, match="read-only"):
        table.loss[0] = 1.0
    with pytest.raises(RecordError, match="no column 'aspect'"):
        table.column("aspect")


def test_taking_runs_with_a_reason_lists_the_rest():
    table = RunTable.from_records([record(w) for w in (16, 32, 48)])
    kept = table.take(np.array([True, False, True]), reason="not wanted")
    assert kept.run == (table.run[0], table.run[2])
    assert [d.run for d in kept.dropped] == [table.run[1]]
    assert {f.name for f in dataclasses.fields(kept)} == {f.name for f in dataclasses.fields(table)}
