"""Small cells that share a job: of similar cost; the failure or death of one leaves the others."""

from __future__ import annotations

import pytest

from fit.errors import PlanError
from sweep.launch import jobs as jobs_module
from sweep.launch import launcher as launcher_module
from sweep.launch.jobs import pin_plan, run_bundle, write_bundle
from sweep.launch.launcher import HydraLauncher, PendingCell, bundle_cells, launch_cells
from sweep.planning.grid import compose_config, grid
from tests.sweep.launch.test_launcher import TINY, die, statuses


def cells_of(folder, widths="8,16,24", bundle=3):
    words = [*TINY, f"runs_dir={folder}", f"bundle={bundle}", f"model.width={widths}"]
    return grid(words, multirun=True)


def bundles(monkeypatch, cells, costs):
    """The costs of the cells of each job."""
    pending = [PendingCell(cell=c) for c in cells]
    of = dict(zip(pending, costs, strict=True))
    monkeypatch.setattr(PendingCell, "cost", lambda cell: of[cell])
    return [[of[c] for c in job] for job in bundle_cells(pending)]


def test_cells_of_similar_cost_share_a_job_and_none_lasts_longer_than_it_must(
    tmp_path, monkeypatch
):
    cells = cells_of(tmp_path, "8,16,24,32,40,48,56", bundle=3)
    equal = bundles(monkeypatch, cells, [5.0] * 7)
    assert [len(job) for job in equal] == [3, 3, 1]
    wide = bundles(monkeypatch, cells, [1000, 400, 90, 80, 10, 9, 8])
    assert wide == [[1000], [400, 90, 80], [10, 9, 8]]
    die(cells[2])
    lost = bundles(monkeypatch, cells, [5.0] * 7)
    assert [len(job) for job in lost] == [2, 1, 3, 1]
    one_each = bundles(monkeypatch, cells_of(tmp_path, bundle=1), [5.0] * 3)
    assert [len(job) for job in one_each] == [1, 1, 1]


def test_an_error_of_one_cell_leaves_the_others_of_its_job_and_is_tried_again(
    tmp_path, monkeypatch
):
    cells = cells_of(tmp_path)
    train, shared, fails = jobs_module.run, [], [16]

    def broken_once(config):
        if config.model.width in fails:
            raise RuntimeError(f"no room on this node for {fails.pop()}")
        return train(config)

    def noted(launcher, jobs, bundles):
        shared.append([[c.cell.config.model.width for c in job] for job in jobs])
        return original(launcher, jobs, bundles)

    original = HydraLauncher._run
    monkeypatch.setattr(jobs_module, "run", broken_once)
    monkeypatch.setattr(HydraLauncher, "_run", noted)
    monkeypatch.setattr(PendingCell, "cost", lambda cell: 1.0)
    launch_cells(cells, [f"runs_dir={tmp_path}", "name=tiny"])
    assert shared == [[[8, 16, 24]], [[16]]]
    assert statuses(cells) == {8: "done", 16: "done", 24: "done"}
    assert not list((tmp_path / "tiny").glob(".hydra/isoflop-*")), "bundles go with their jobs"


def test_a_job_that_is_started_again_goes_on_where_it_was(tmp_path, monkeypatch):
    cells = cells_of(tmp_path, "8,16")
    path = tmp_path / "bundle.pkl"
    write_bundle(path, [pin_plan(cell) for cell in cells])
    train, begun = jobs_module._train, []

    def stopped_once(config):
        begun.append(config.model.width)
        if begun == [8, 16]:
            raise SystemExit("requeued")
        train(config)

    monkeypatch.setattr(jobs_module, "_train", stopped_once)
    with pytest.raises(SystemExit):
        run_bundle(path)
    records = {p: p.stat().st_mtime_ns for p in tmp_path.glob("tiny/*/record.json")}
    assert len(records) == 1
    assert run_bundle(path) == [None, None]
    assert begun == [8, 16, 8, 16]
    assert all(p.stat().st_mtime_ns == at for p, at in records.items()), "trained once"
    assert statuses(cells) == {8: "done", 16: "done"}


def test_a_cell_that_kills_its_job_is_launched_alone_and_the_others_lose_no_try(
    tmp_path, monkeypatch
):
    cells = cells_of(tmp_path, "8,16,24,32", bundle=4)
    shared = []

    class Killed:
        name, one_pool = "played", False

        def __init__(self, overrides):
            pass

        def launch(self, jobs):
            shared.append([[c.cell.config.model.width for c in job] for job in jobs])
            for job in jobs:
                for cell in job:
                    if cell.cell.config.model.width in (16, 24):
                        die(cell.cell)
                        break  # and the job with it
                    jobs_module.run(cell.cell.config)

    monkeypatch.setattr(launcher_module, "HydraLauncher", Killed)
    monkeypatch.setattr(PendingCell, "cost", lambda cell: 1.0)
    launch_cells(cells, [])
    assert shared[0] == [[8, 16, 24, 32]]
    assert shared[1] == [[24, 32], [16]], "what was not begun has not been tried"
    assert shared[2][0] == [32]
    assert statuses(cells) == {8: "done", 16: "failed", 24: "failed", 32: "done"}


def test_a_bundle_without_cells_is_refused():
    with pytest.raises(PlanError, match="bundle=0; 1 or more is needed"):
        compose_config([*TINY, "bundle=0"])
