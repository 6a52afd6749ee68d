"""Data that move between the plan and its workers: one clear line, and no record of other data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fit.data.records import RECORD_NAME, read_record
from fit.errors import PlanError
from sweep.app import train_grid
from sweep.data.registry import open_source
from sweep.launch import launcher as launcher_module
from sweep.launch.jobs import pin_plan, run
from sweep.launch.launcher import launch_cells, train_here
from sweep.planning.grid import compose_config, grid, run_folder
from sweep.planning.trajectory import plan
from sweep.training import loop
from sweep.training.session import Session

CHANGED = "changed after the runs were planned: their content hash was {}"


def write_tokens(folder, name, seed):
    ids = np.random.default_rng(seed).zipf(1.5, 4000) % 60
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(ids.astype("<u2").tobytes())


def write_text(folder, name, seed):
    words = np.random.default_rng(seed).choice(["one", "two", "three", "four"], 2000)
    folder.mkdir(exist_ok=True)
    (folder / name.replace(".bin", ".txt")).write_text(" ".join(words))


WRITERS = {"tokens": write_tokens, "text": write_text}


def overrides(tmp_path, source="tokens", widths="8,16"):
    return [
        f"model.width={widths}",
        "model.depth=1",
        "model.head_dim=8",
        "model.seq_len=32",
        f"data={source}",
        f"data.path={tmp_path / 'd'}",
        f"data.cache={tmp_path / 'cache'}",
        *(["data.tokenizer=bytes"] if source == "text" else []),
        "data.heldout_tokens=512",
        "train.batch_tokens=128",
        "train.batch_doublings=[]",
        "train.compile=off",
        "train.tokens=1e3",
        "tracking=none",
        "name=moving",
        f"runs_dir={tmp_path / 'runs'}",
    ]


@pytest.fixture(params=WRITERS)
def source(request, tmp_path):
    for number in range(2):
        WRITERS[request.param](tmp_path / "d", f"{number}.bin", number)
    return request.param


def grow(tmp_path, source):
    WRITERS[source](tmp_path / "d", "2.bin", 2)


def change(tmp_path, source):
    WRITERS[source](tmp_path / "d", "1.bin", 3)


def shrink(tmp_path, source):
    sorted((tmp_path / "d").iterdir())[-1].unlink()


def vanish(tmp_path, source):
    shutil.rmtree(tmp_path / "d")


def all_records(tmp_path):
    return {p.parent.name: read_record(p) for p in (tmp_path / "runs").rglob(RECORD_NAME)}


@pytest.mark.parametrize("move", [grow, change, shrink, vanish])
def test_data_that_move_after_the_plan_fail_every_cell_in_one_line(tmp_path, source, move, capsys):
    cells = grid(overrides(tmp_path, source), multirun=True)
    planned = cells[0].trajectories[0].data.hash
    move(tmp_path, source)
    launch_cells(cells, [])
    records = all_records(tmp_path)
    assert set(records) == {r.run for c in cells for _, r in c.runs()}
    for record in records.values():
        assert (record.status, record.loss, record.data.hash) == ("failed", None, planned)
        needed = "does not exist" if move is vanish else CHANGED.format(planned)
        assert needed in record.reason and "\n" not in record.reason
    assert capsys.readouterr().err.count("error: ") == len(cells)  # no cell is tried again


def test_cells_that_are_done_stay_done_when_the_data_move_between_two(
    tmp_path, source, monkeypatch
):
    cells = grid(overrides(tmp_path, source), multirun=True)
    planned = cells[0].trajectories[0].data.hash
    train_job = launcher_module.HydraLauncher.launch

    def launch(self, batch):
        first = train_job(self, batch[:1])
        grow(tmp_path, source)
        return train_job(self, batch[1:]) or first

    monkeypatch.setattr(launcher_module.HydraLauncher, "launch", launch)
    assert train_grid(cells, [], multirun=True) == 1
    statuses = sorted(r.status for r in all_records(tmp_path).values())
    assert statuses in (["done", "failed"], ["diverged", "failed"])
    assert {r.data.hash for r in all_records(tmp_path).values()} == {planned}

    # The same command goes on with what is there now; the record of the old data stays.
    monkeypatch.undo()
    again = grid(overrides(tmp_path, source), multirun=True)
    train_grid(again, [], multirun=True)
    records = all_records(tmp_path).values()
    assert sum(r.data.hash == planned and r.loss is not None for r in records) == 1
    assert sum(r.data.hash != planned and r.loss is not None for r in records) == 2


def test_data_that_move_between_the_worker_s_plan_and_its_session_are_refused(tmp_path, source):
    (trajectory,) = plan(compose_config(overrides(tmp_path, source, "8")))
    grow(tmp_path, source)
    with pytest.raises(PlanError, match=CHANGED.format(trajectory.data.hash)):
        Session.open(trajectory)


def test_a_single_run_is_refused_in_one_line_too(tmp_path, source):
    (cell,) = grid(overrides(tmp_path, source, "8"), multirun=False)
    grow(tmp_path, source)
    train_here(cell)
    (record,) = all_records(tmp_path).values()
    assert record.status == "failed" and "changed after the runs were planned" in record.reason


def test_a_resumed_run_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    """The checkpoint of the first half is kept, and goes on where the old data come back."""
    for number in range(2):
        write_tokens(tmp_path / "d", f"{number}.bin", number)
    cells = grid([*overrides(tmp_path), "train.checkpoint_seconds=0"], multirun=True)[:1]
    job = pin_plan(cells[0])
    steps = iter(range(4))

    def interrupt(self, run):
        if next(steps, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.TrajectoryTrainer, "_after_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(job.config)
    monkeypatch.undo()
    write_tokens(tmp_path / "d", "2.bin", 2)
    assert "changed after the runs were planned" in run(job.config)
    (tmp_path / "d/2.bin").unlink()
    assert run(job.config) is None
    (record,) = all_records(tmp_path).values()
    assert record.attempts == 2 and record.loss is not None


@pytest.mark.parametrize("how", ["rewritten", "cut", "touched", "replaced", "deleted"])
def test_files_that_change_under_a_run_end_it_unless_its_tokens_stay(tmp_path, how):
    write_tokens(tmp_path / "d", "0.bin", 0)
    write_tokens(tmp_path / "d", "1.bin", 1)
    config = compose_config(overrides(tmp_path, widths="8"))
    source = open_source(config.data, seq_len=32, seed=0)
    source.verify()
    path = tmp_path / "d/1.bin"
    if how == "rewritten":
        with path.open("r+b") as stream:
            stream.write(b"\7\0" * 100)
    elif how == "cut":
        with path.open("r+b") as stream:
            stream.truncate(1000)
    elif how == "touched":
        path.touch()
    elif how == "replaced":
        write_tokens(tmp_path, "new.bin", 5)
        (tmp_path / "new.bin").replace(path)
    else:
        path.unlink()
    if how in ("rewritten", "cut"):
        with pytest.raises(PlanError, match="changed after the runs were planned"):
            source.verify()
    else:  # the old content stays mapped
        source.verify()


def test_every_job_carries_the_hash_it_was_planned_on(tmp_path):
    write_tokens(tmp_path / "d", "0.bin", 0)
    jobs = grid([*overrides(tmp_path), "seed=0,1"], multirun=True)
    for job in map(pin_plan, jobs):
        planned = job.trajectories[0].data.hash
        assert f"data_hash={planned}" in job.overrides and job.config.data_hash == planned
    (stories,) = map(pin_plan, grid(["name=x", f"runs_dir={tmp_path}"], multirun=True))
    assert stories.config.data_hash.startswith("sha256:")
    assert compose_config(stories.overrides).data_hash == stories.config.data_hash
    assert Path(run_folder(*jobs[0].runs()[0])).parent.name == "moving"
