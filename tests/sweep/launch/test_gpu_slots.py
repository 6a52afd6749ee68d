"""Workers of one machine share its GPUs, by real workers of joblib and doubles of GPUs."""

import os
import time
from collections import Counter

import joblib
import pytest

from sweep.config import TrainConfig
from sweep.launch import launcher
from sweep.launch.jobs import SHARED, VISIBLE, gpu_slot
from sweep.planning.grid import grid


def train_of(*overrides: str) -> TrainConfig:
    """The recipe of one cell."""
    (cell,) = grid(["model=w16", "train.tokens=1e5", *overrides], multirun=False)
    assert cell.config is not None
    return cell.config.train


def hold(train: TrainConfig, folder: str, seconds: float) -> tuple[str, float, float]:
    """The GPU that a worker sees while it holds a slot, and when it held it."""
    os.environ["TMPDIR"] = folder
    import tempfile

    tempfile.tempdir = None
    with gpu_slot(train):
        started = time.time()
        time.sleep(seconds)
        return os.environ.get(VISIBLE, ""), started, time.time()


def held(train: TrainConfig, folder: str, *, workers: int, seconds: float = 1.0):
    return joblib.Parallel(n_jobs=workers)(
        joblib.delayed(hold)(train, folder, seconds) for _ in range(workers)
    )


@pytest.fixture
def shared(monkeypatch):
    """What a launcher of local workers sets on a machine of two GPUs."""
    monkeypatch.setenv(SHARED, "1")
    monkeypatch.setenv(VISIBLE, "3,GPU-abc")
    joblib.externals.loky.get_reusable_executor().shutdown()
    yield
    joblib.externals.loky.get_reusable_executor().shutdown()


@pytest.mark.slow
def test_two_workers_of_joblib_take_two_gpus(shared, tmp_path):
    names = [name for name, *_ in held(train_of(), str(tmp_path), workers=2)]
    assert sorted(names) == ["3", "GPU-abc"]


@pytest.mark.slow
def test_more_workers_than_shares_wait_for_one(shared, tmp_path):
    rows = held(train_of(), str(tmp_path), workers=3, seconds=1.5)
    assert Counter(name for name, *_ in rows).keys() == {"3", "GPU-abc"}
    started, ended = sorted(r[1] for r in rows), sorted(r[2] for r in rows)
    assert started[2] >= ended[0] - 0.01


@pytest.mark.slow
def test_a_gpu_is_shared_by_as_many_runs_as_were_asked_for(shared, tmp_path):
    train = train_of("train.runs_per_gpu=2")
    names = Counter(n for n, *_ in held(train, str(tmp_path), workers=4))
    assert names == {"3": 2, "GPU-abc": 2}


def test_a_run_alone_and_a_run_on_cpu_take_no_slot(monkeypatch, tmp_path):
    monkeypatch.setenv(VISIBLE, "0,1")
    with gpu_slot(train_of()):
        assert os.environ[VISIBLE] == "0,1"
    monkeypatch.setenv(SHARED, "1")
    with gpu_slot(train_of("train.accelerator=cpu")):
        assert os.environ[VISIBLE] == "0,1"


@pytest.mark.parametrize(
    ("name", "expected"), [("joblib", "1"), ("basic", None)], ids=["joblib", "basic"]
)
def test_launchers_of_local_workers_say_that_gpus_are_shared(monkeypatch, name, expected):
    monkeypatch.delenv(SHARED, raising=False)
    seen = []
    with launcher.hydra_initialised():
        made = launcher.HydraLauncher([f"hydra/launcher={name}"])
        monkeypatch.setattr(made, "_run", lambda *jobs: seen.append(os.environ.get(SHARED)) or ())
        made.launch([])
    assert seen == [expected]
    monkeypatch.delenv(SHARED, raising=False)
