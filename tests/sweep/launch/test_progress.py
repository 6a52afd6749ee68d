"""What a launch says: what starts before the imports, and how far the sweep and its runs are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import pytest

from fit.data.progress import PlannedRun, find_progress
from fit.data.records import write_record
from sweep import __main__ as command
from sweep.config import Tracking
from sweep.launch import progress
from sweep.training import tracking
from tests.fit.cli.test_runs_watch import NOW, beat
from tests.fit.data.builders import record


def test_a_sweep_says_what_starts_before_it_imports_anything_large(monkeypatch, capsys):
    script = "import sys, sweep.__main__; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert not {"numpy", "hydra", "omegaconf", "fit", "torch"} & set(loaded.split())
    called = []
    monkeypatch.setattr("sweep.app.main", lambda words, prog: called.append((words, prog)))
    words = ["-m", "model=w16,w24", f"name={'x' * 90}"]
    command.main(words, prog="isoflop sweep")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("planning -m model=w16,w24 name=xxx") and len(line) == 80
    assert called == [(words, "isoflop sweep")]


@pytest.mark.parametrize(
    ("words", "trains"),
    [
        ([], True),
        (["model=w16"], True),
        (["-m", "+experiment=demo", "--config-dir", "own"], True),
        (["-m", "~model"], True),
        (["--help"], False),
        (["--cfg", "job", "model=w16"], False),
        (["write", "runs/a"], False),
    ],
)
def test_only_what_trains_is_announced(words, trains):
    assert command.trains(words) is trains


@pytest.fixture
def sweep(tmp_path):
    """Four planned runs: one done, one failed, one trains, one waits; another sweep's run too."""
    folder = tmp_path / "pilot"
    runs = [record(16, 300_000 * (i + 1)) for i in range(5)]
    write_record(folder / runs[0].run, dataclasses.replace(runs[0], wall_seconds=100.0))
    gone = {"loss": None, "tokens_seen": None, "status": "failed", "reason": "killed"}
    write_record(folder / runs[1].run, dataclasses.replace(runs[1], **gone))
    beat(folder, runs[2], age=1)
    beat(folder, runs[4], age=1)
    planned = [
        PlannedRun(run=r.run, params=1000, tokens=r.tokens, flops_spent=5e11, seconds=100.0)
        for r in runs[:4]
    ]
    return folder, planned


def test_a_line_counts_the_runs_that_were_asked_for_with_their_rate_and_the_time_left(sweep):
    folder, planned = sweep
    records = [record(16, 300_000)]
    found = find_progress(folder, records, now=NOW, planned=planned)
    assert [r.run for r in found.running] == [planned[2].run]  # not that of another command
    line = progress.progress_line("pilot", records, found)
    assert line.startswith("pilot  1 of 4 done, 1 running, 2 left; 10.0k tokens/s, about ")
    assert line.endswith(" left")
    nothing = dataclasses.replace(found, running=())
    assert progress.progress_line("pilot", [], nothing).endswith("2 left; workers are starting")


def test_the_time_left_follows_the_speed_of_the_first_runs_before_any_has_ended(sweep):
    folder, planned = sweep
    slow = [dataclasses.replace(p, flops_spent=6e10 * p.seconds) for p in planned]  # 10 M tokens/s
    found = find_progress(folder, [], now=NOW, planned=slow)
    assert found.hours_left * 3600 == pytest.approx(67.5 + 1000 * 3 * 100)


def test_a_run_that_is_trained_takes_what_its_own_rate_says(sweep):
    folder, planned = sweep  # the plan says 100 s for each, the run that is done took 200
    done = [dataclasses.replace(record(16, 300_000), wall_seconds=200.0)]
    found = find_progress(folder, done, now=NOW, planned=planned)
    assert found.hours_left * 3600 == pytest.approx(2 * 200 + 67.5)


def test_a_launch_prints_lines_until_it_ends(sweep, monkeypatch):
    folder, planned = sweep
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.001)
    lines = []
    monkeypatch.setattr(progress, "say", lines.append)

    def wait_for_lines(count):
        deadline = time.monotonic() + 10
        while len(lines) < count and time.monotonic() < deadline:
            time.sleep(0.005)

    with progress.progress_printed({folder: planned}):
        wait_for_lines(1)
        time.sleep(0.02)
        assert len(lines) == 1  # the same again is not printed
        write_record(folder / planned[3].run, record(16, planned[3].tokens))
        wait_for_lines(2)
    first, second = lines
    assert first.startswith("pilot  1 of 4 done, 1 failed, 1 running, 1 left; 10.0k tokens/s")
    assert second.startswith("pilot  2 of 4 done, 1 failed, 1 running, 0 left")


def test_a_run_says_its_rate_and_its_time_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    tracker = tracking.CommandLineTracker(_config(), quiet_seconds=5.0)
    tracker.show_progress("w16", 100_000, 1_000_000, 2.0)
    tracker.show_progress("w16", 300_000, 1_000_000, 1.5)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "w16   10%  loss 2.000"
    assert second == "w16   30%  loss 1.500  20.0k tokens/s, 35 s left"


def _config():
    from sweep.planning.grid import compose_config

    return dataclasses.replace(compose_config([]), tracking=Tracking.none)
