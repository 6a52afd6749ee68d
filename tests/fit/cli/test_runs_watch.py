"""A sweep at a glance: plans, signs of life and records put together."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from fit.cli import runs
from fit.cli.main import main
from fit.data.progress import (
    HEARTBEAT_NAME,
    HEARTBEAT_SCHEMA,
    PLAN_NAME,
    PLAN_SCHEMA,
    take_snapshot,
)
from fit.data.records import write_record
from fit.errors import RecordError
from tests.fit.data.builders import record

NOW = 1_800_000_000.0


@pytest.fixture
def sweep(tmp_path):
    """Six planned runs: one done, one failed, one diverged, one trains, one is silent."""
    folder = tmp_path / "pilot"
    tokens = [300_000 * (i + 1) for i in range(6)]
    runs = [record(16, t) for t in tokens]
    fast = {"wall_seconds": 50.0, "flops": 1e12, "flops_spent": 5e11}
    long = "OutOfMemoryError: " + "x" * 90
    gone = {"loss": None, "tokens_seen": None}
    ended = [
        dataclasses.replace(runs[0], **fast),
        dataclasses.replace(runs[1], status="failed", reason=long, **gone),
        dataclasses.replace(runs[2], status="diverged", reason="loss nan"),
    ]
    for one in ended:
        write_record(folder / one.run, one)
    rows = [
        {"run": r.run, "params": 333_333, "tokens": r.tokens, "flops_spent": 5e11, "seconds": 50.0}
        for r in runs
    ]
    (folder / PLAN_NAME).write_text(json.dumps({"schema": PLAN_SCHEMA, "runs": rows}))
    beat(folder, runs[3], age=1)
    beat(folder, runs[4], age=600)
    return folder


def beat(folder, run, *, age):
    work = folder / f".work-{run.run}"
    work.mkdir()
    document = {
        "schema": HEARTBEAT_SCHEMA,
        "run": run.run,
        "tokens": run.tokens // 4,
        "total": run.tokens,
        "loss": 1.5,
        "tokens_per_second": 1e4,
        "time": NOW - age,
        "host": "node7",
        "pid": 1,
    }
    (work / HEARTBEAT_NAME).write_text(json.dumps(document))


def test_runs_are_counted_by_state(sweep):
    result = take_snapshot(sweep, now=NOW)
    assert result.counts() == {"done": 1, "failed": 1, "diverged": 1, "running": 1, "missing": 2}
    assert not result.over
    assert take_snapshot(sweep.parent, now=NOW).counts() == result.counts()


def test_what_is_spent_and_left_follows_from_records_and_plan(sweep):
    progress = take_snapshot(sweep, now=NOW).progress
    assert progress.flops_spent == 5e11
    assert progress.hours_spent == pytest.approx(25 / 3600)
    # Four are left, two of them a quarter done; they take half of the time that the plan guessed,
    # the one that trains what its rate says.
    assert progress.flops_left == pytest.approx(5e11 * (2 + 2 * 0.75))
    assert progress.hours_left * 3600 == pytest.approx(90 + 0.5 * 50 * (2 + 0.75), rel=1e-5)
    assert progress.seconds_left == pytest.approx(progress.hours_left * 3600)


def test_a_trajectory_that_is_silent_is_not_running(sweep):
    running = {r.host: r for r in take_snapshot(sweep, now=NOW).progress.running if not r.alive}
    assert len(running) == 1
    assert "silent" in runs.snapshot_text(take_snapshot(sweep, now=NOW))


def test_the_text_fits_a_terminal_and_names_what_went_wrong(sweep):
    text = runs.snapshot_text(take_snapshot(sweep, now=NOW))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "1 done, 1 failed, 1 diverged, 1 running, 2 missing of 6 planned" in text
    assert "OutOfMemoryError" in text and "25%" in text and "loss nan" in text
    assert not [line for line in lines if line != line.rstrip()]


def test_an_unreadable_plan_or_sign_of_life_is_passed_over(sweep):
    (sweep / PLAN_NAME).write_text("{")
    for path in sweep.glob(f".work-*/{HEARTBEAT_NAME}"):
        path.write_text('{"schema": "isoflop.progress/1"}')
    result = take_snapshot(sweep, now=NOW)
    assert result.counts() == {"done": 1, "failed": 1, "diverged": 1, "running": 0, "missing": 0}
    assert result.progress.hours_left is None


def test_a_folder_without_a_sweep_is_one_line(tmp_path):
    with pytest.raises(RecordError, match="no run records"):
        take_snapshot(tmp_path)
    result = CliRunner().invoke(main, ["runs", str(tmp_path / "nowhere"), "--watch"])
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1


def test_watching_ends_when_the_sweep_is_over(tmp_path):
    one = record(16, 300_000)
    write_record(tmp_path / one.run, one)
    result = CliRunner().invoke(main, ["runs", str(tmp_path), "--watch"])
    assert result.exit_code == 0
    assert result.output.startswith(str(tmp_path)[:40]) and "1 done" in result.output
    result = CliRunner().invoke(main, ["runs", str(tmp_path), "--watch", "--json"])
    (line,) = result.output.splitlines()
    document = json.loads(line)
    assert document["schema"] == "isoflop.watch/1" and document["counts"]["done"] == 1


def test_a_sweep_whose_workers_start_is_listed_as_begun(tmp_path):
    row = {"run": "a", "params": 1000, "tokens": 10**5, "flops_spent": 6e8, "seconds": 3.0}
    plan = {"schema": PLAN_SCHEMA, "runs": [row, {**row, "run": "b"}]}
    (tmp_path / PLAN_NAME).write_text(json.dumps(plan))
    found = CliRunner().invoke(main, ["runs", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "2 runs planned, and none has begun: their workers are starting" in found.output
    assert "2 missing; --watch follows them" in found.output
