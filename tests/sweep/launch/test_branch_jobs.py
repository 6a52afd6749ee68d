"""Branches as jobs of their own: the bits of one after the other, and what a lost trunk costs."""

from __future__ import annotations

import re
import shutil

import pytest

from fit.data.records import RECORD_NAME, read_record
from sweep.launch import jobs as jobs_module
from sweep.launch.launcher import HydraLauncher, launch_cells
from sweep.plan import main as print_plan
from sweep.planning.grid import grid, split_branches
from sweep.planning.trunks import find_trunk, kept_trunks
from sweep.training import loop
from tests.sweep.launch.test_launcher import TINY as ONE_LENGTH

TINY = [
    *(word for word in ONE_LENGTH if not word.startswith("train.tokens")),
    *("model.width=8", "train.tokens=[2e3,4e3,8e3]"),
]
APART = "branch_jobs=true"


def cells_of(folder, *words):
    return grid([*TINY, f"runs_dir={folder}", *words], multirun=True)


def launch(folder, *words):
    """Launch a sweep through the basic launcher; its records by ascending tokens."""
    launch_cells(cells_of(folder, *words), [f"runs_dir={folder}", "name=tiny"])
    return records_of(folder, *words)


def records_of(folder, *words):
    runs = [run for cell in cells_of(folder, *words) for _, run in cell.runs()]
    return [read_record(folder / "tiny" / run.run / RECORD_NAME) for run in runs]


def facts(records):
    """What must be equal: results, and the compute that is counted as spent."""
    return [(r.run, r.status, r.result(), r.flops_spent) for r in records]


def left_over(folder):
    return [p.name for p in (folder / "tiny").glob(".[wt]*-*")]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return facts(launch(folder))


@pytest.fixture
def parts(monkeypatch):
    """Parts of the jobs of each launch."""
    launched, original = [], HydraLauncher._run

    def noted(launcher, jobs, bundles):
        launched.append([c.cell.part for job in jobs for c in job])
        return original(launcher, jobs, bundles)

    monkeypatch.setattr(HydraLauncher, "_run", noted)
    return launched


@pytest.fixture
def spans(monkeypatch):
    """Positions between which sessions train."""
    seen, advance = [], loop.Session.advance

    def noted(session, rate, until, on_row):
        seen.append((session.position, until))
        advance(session, rate, until, on_row)

    monkeypatch.setattr(loop.Session, "advance", noted)
    return seen


@pytest.mark.slow
def test_branches_as_jobs_have_the_bits_of_one_after_the_other(tmp_path, together, parts, spans):
    apart = launch(tmp_path, APART)
    assert facts(apart) == together
    (cell,) = cells_of(tmp_path)
    runs = cell.trajectories[0].runs
    assert parts == [["trunk"], [str(run.tokens) for run in reversed(runs)]]
    starts = [run.cooldown_start for run in runs]
    trunk = list(zip([0, *starts], starts, strict=False))
    assert spans[:3] == trunk, "nothing is trained twice"
    assert {span for span in spans[3:] if span[0] < span[1]} == {
        (run.cooldown_start, run.tokens) for run in runs
    }
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_trunk_is_kept_on_request_and_only_then(tmp_path, together):
    assert facts(launch(tmp_path, APART, "train.keep=trunk")) == together
    (cell,) = cells_of(tmp_path)
    trunk = cell.trajectories[0]
    assert find_trunk(tmp_path / "tiny", trunk.trunk).tokens == trunk.runs[-1].cooldown_start
    assert len(left_over(tmp_path)) == 1


@pytest.mark.slow
def test_a_trunk_job_that_is_killed_goes_on_and_lost_states_cost_time_alone(
    tmp_path, together, spans
):
    (cell,) = cells_of(tmp_path, APART)
    (trunk,), branches = split_branches(cell)
    jobs_module.run(trunk.config)
    (work,) = cell.work
    states = kept_trunks(work, cell.trajectories[0].trunk)
    assert [s.tokens for s in states] == [r.cooldown_start for r in cell.trajectories[0].runs]
    assert trunk.due() == []
    for lost in (states[0], states[2]):  # as of a job that was killed, or a disk that was cleaned
        shutil.rmtree(lost.folder)
    assert [run.tokens for _, run in trunk.due()] == [states[0].tokens, states[2].tokens]
    spans.clear()
    assert facts(launch(tmp_path, APART)) == together
    assert spans[:2] == [(0, states[0].tokens), (states[1].tokens, states[2].tokens)]

    # Without any state, branches train what they need.
    for record in (tmp_path / "tiny").glob("*/record.json"):
        record.unlink()
    for job in branches:
        jobs_module.run(job.config)
    assert facts(records_of(tmp_path)) == together
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_what_was_begun_in_one_job_is_finished_in_parts(tmp_path, together, monkeypatch):
    (cell,) = cells_of(tmp_path)
    report, calls = loop.TrajectoryTrainer._report, []

    def stopped(trainer, run):
        report(trainer, run)
        trainer._save()
        calls.append(run)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.TrajectoryTrainer, "_report", stopped)
    with pytest.raises(KeyboardInterrupt):
        jobs_module.run(cell.config)
    monkeypatch.setattr(loop.TrajectoryTrainer, "_report", report)
    assert facts(launch(tmp_path, APART)) == together
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_trunk_that_diverges_ends_the_runs_ahead_as_it_does_in_one_job(tmp_path):
    words = ("train.lr=3e3", "train.embedding_lr=3e3")
    one = launch(tmp_path / "a", *words)
    assert {r.status for r in one} == {"diverged"}
    assert facts(launch(tmp_path / "b", *words, APART)) == facts(one)
    assert left_over(tmp_path / "b") == []


@pytest.mark.parametrize("words", [["train=cosine"], ["train.tokens=8e3"]])
def test_runs_without_a_common_trunk_stay_in_one_job(tmp_path, words):
    tiny = [w for w in TINY if w.partition("=")[0] not in {x.partition("=")[0] for x in words}]
    for cell in grid([*tiny, *words, APART, f"runs_dir={tmp_path}"], multirun=True):
        assert split_branches(cell) == ([], [cell])


def test_the_plan_shows_the_time_of_trunks_and_then_of_branches(tmp_path, capsys):
    walls = []
    for more in ([], [APART]):
        words = ["model=w64", "train.tokens=[1e7,2e7,4e7]", f"runs_dir={tmp_path}", *more]
        with pytest.raises(SystemExit):
            print_plan(["-m", "measure=off", "workers=4", *words])
        walls.append(float(re.search(r"wall +about ([\d.]+)min", capsys.readouterr().out)[1]))
    # A trunk of 3/4 of the longest and three cooldowns of 1/4, or the longest of these alone.
    assert walls[1] / walls[0] == pytest.approx((3 + 1) / (3 + 1 + 0.5 + 0.25), rel=0.02)


@pytest.mark.slow
def test_workers_of_joblib_train_branches_side_by_side(tmp_path, together):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    cells = grid([*TINY, f"runs_dir={tmp_path}", APART], multirun=True)
    launch_cells(cells, [*launcher, f"runs_dir={tmp_path}", "name=tiny"])
    assert facts(records_of(tmp_path)) == together
