"""What is launched next, with workers that die, fail or never begin, and Slurm's queue read."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace

import pytest
from hydra.errors import ConfigCompositionException

from fit.data.records import RECORD_NAME, read_record, write_record
from fit.errors import PlanError
from sweep import ROOT
from sweep.launch import launcher, queue
from sweep.launch import launcher as launcher_module
from sweep.launch.jobs import run
from sweep.launch.launcher import PendingCell, launch_cells, next_batch
from sweep.planning.compose import one_line
from sweep.planning.grid import grid
from sweep.training.outcome import RunFacts, failed_record
from sweep.training.tracking import end_attempt, start_attempt

TINY = [
    "model.depth=1",
    "model.head_dim=8",
    "model.seq_len=32",
    "data.heldout_tokens=2048",
    "train.batch_tokens=128",
    "train.warmup_tokens=300",
    "train.compile=off",
    "train.tokens=3e3",
    "tracking=none",
    "name=tiny",
]


@pytest.fixture
def cells(tmp_path):
    return grid([*TINY, f"runs_dir={tmp_path}", "model.width=8,16,24,32"], multirun=True)


def die(cell):
    """What a worker that is killed leaves behind."""
    for folder in cell.work:
        start_attempt(folder)


def fail(cell):
    """What a worker whose run raises leaves behind."""
    ((trajectory, spec),) = cell.runs()
    facts = RunFacts(
        trajectory=trajectory, run=spec, started=None, earlier=start_attempt(cell.work[0])
    )
    folder = cell.work[0].parent / spec.run
    write_record(folder, failed_record(facts, RuntimeError("no"), "Traceback"))
    end_attempt(cell.work[0], "failed", "RuntimeError: no", None)


def play(monkeypatch, body, *, one_pool=True):
    """Launch batches by a function of the cells; returns the widths of each batch."""
    batches = []

    class FakeLauncher:
        name = "played"

        def __init__(self, overrides):
            self.one_pool = one_pool

        def launch(self, jobs):
            batch = [t.cell for job in jobs for t in job]
            batches.append([cell.config.model.width for cell in batch])
            return body(batch)

    monkeypatch.setattr(launcher_module, "HydraLauncher", FakeLauncher)
    return batches


def statuses(cells):
    return {
        t.shape.width: read_record(cell.work[0].parent / r.run / RECORD_NAME).status
        for cell in cells
        for t, r in cell.runs()
    }


def test_the_costliest_cells_come_first(cells, monkeypatch):
    batches = play(monkeypatch, lambda batch: [run(c.config) for c in batch] and None)
    launch_cells(cells, [])
    assert batches == [[32, 24, 16, 8]]
    assert set(statuses(cells).values()) == {"done"}


def test_a_cell_that_kills_its_worker_ends_alone_and_the_others_are_done(cells, monkeypatch):
    """Two workers at a time: whoever runs beside width 24 dies with it, until 24 is alone."""

    def pool(batch):
        pairs = [batch[i : i + 2] for i in range(0, len(batch), 2)]
        for pair in pairs:
            if any(c.config.model.width == 24 for c in pair):
                for cell in pair:
                    die(cell)
                return "TerminatedWorkerError: killed"
            for cell in pair:
                run(cell.config)
        return None

    batches = play(monkeypatch, pool)
    launch_cells(cells, [])
    assert batches[0] == [32, 24, 16, 8]
    assert [24] in batches
    assert statuses(cells) == {8: "done", 16: "done", 32: "done", 24: "failed"}
    (record,) = [
        read_record(c.work[0].parent / r.run / RECORD_NAME)
        for c in cells
        for t, r in c.runs()
        if t.shape.width == 24
    ]
    assert "without a record" in record.reason
    assert [a["outcome"] for a in record.history] == ["lost"] * 3


def test_a_failing_cell_is_tried_as_often_as_the_cap_says(cells, monkeypatch):
    cells = [
        dataclasses.replace(c, config=dataclasses.replace(c.config, train=train))
        for c in cells[:1]
        for train in [dataclasses.replace(c.config.train, retries=1)]
    ]
    batches = play(monkeypatch, lambda batch: [fail(c) for c in batch] and None)
    launch_cells(cells, [])
    assert batches == [[8], [8]]
    ((_, spec),) = cells[0].runs()
    record = read_record(cells[0].work[0].parent / spec.run / RECORD_NAME)
    assert (record.status, record.attempts) == ("failed", 2)
    assert record.history[0]["reason"] == "RuntimeError: no"


def test_a_launcher_that_starts_nothing_is_named_in_one_line(cells, monkeypatch):
    play(monkeypatch, lambda batch: "FailedJobError: invalid partition")
    with pytest.raises(PlanError, match="played started no run: FailedJobError: invalid partition"):
        launch_cells(cells, [])


def test_a_cell_that_no_worker_will_begin_ends_as_a_failed_record(cells, monkeypatch):
    batches = play(monkeypatch, lambda batch: None)
    launch_cells(cells[:1], [])
    assert batches == [[8]] * 3
    assert statuses(cells[:1]) == {8: "failed"}


def test_a_lost_cell_shares_no_last_batch_where_workers_share_a_pool(cells):
    pending = [PendingCell(cell=c) for c in cells]
    die(cells[0])
    pending[0].tries = pending[0].retries
    assert pending[0] not in next_batch(pending, one_pool=True)
    assert pending[0] in next_batch(pending, one_pool=False)
    assert next_batch(pending[:1], one_pool=True) == pending[:1]


@pytest.mark.parametrize(
    ("states", "value"),
    [
        ([["PENDING"], ["RUNNING"], ["CANCELLED"], ["CANCELLED"], ["CANCELLED"]], None),
        ([["RUNNING"], [], ["PENDING"], [], [], []], None),
    ],
)
def test_jobs_that_the_queue_no_longer_knows_are_not_waited_for(monkeypatch, states, value):
    import threading

    looks = iter(states)
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "job_states", lambda name: next(looks))
    for_ever = threading.Event()
    try:
        assert launcher.wait_for_jobs("name", for_ever.wait) is value
    finally:
        for_ever.set()
    assert not list(looks)


def test_an_error_of_one_job_waits_for_the_others(monkeypatch):
    looks = iter([["FAILED", "RUNNING"], ["FAILED", "RUNNING"], ["FAILED"], ["FAILED"], []])
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "job_states", lambda name: next(looks))

    def launch():
        raise RuntimeError("one job failed")

    with pytest.raises(RuntimeError, match="one job failed"):
        launcher.wait_for_jobs("name", launch)
    assert not list(looks)


def test_the_queue_that_does_not_answer_is_none(monkeypatch):
    def nothing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(queue.subprocess, "run", nothing)
    assert queue.job_states("name") is None
    monkeypatch.setattr(
        queue.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="RUNNING\nPENDING\n")
    )
    assert queue.job_states("name") == ["RUNNING", "PENDING"]


@pytest.mark.parametrize("verb", ["find", "load"])
def test_a_launcher_without_its_extra_is_one_line_that_names_it(verb):
    """`hydra/launcher=slurm` is ours, and loads the one that the extra brings."""
    error = ConfigCompositionException(f"Could not {verb} 'hydra/launcher/submitit_slurm'")
    text = one_line(error)
    assert "needs the extra 'slurm'" in text and "isoflop[slurm]" in text


def test_the_environment_of_child_interpreters_is_taken_back_after_a_launch(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with launcher.isolated_child_interpreters():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["PYTHONPATH"].split(os.pathsep) == ["mine", str(ROOT)]
    assert os.environ["PYTHONPATH"] == "mine" and "PYTHONSAFEPATH" not in os.environ
