"""A real Ray cluster on this machine: a worker is killed, or the command, in the middle of runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fit.data.records import RECORD_NAME, read_runs
from sweep.launch.launcher import HydraLauncher
from sweep.planning.compose import hydra_initialised
from sweep.training.checkpoint import load
from sweep.training.loop import STATE_NAME
from tests.sweep.launch.test_launcher_slurm import sweep, until

pytestmark = pytest.mark.ray

GRID = ["-m", "model.width=8,16", "train.tokens=[2e5,4e5]", "seed=0,1"]
SEEDS = ["-m", "model.width=8", "train.tokens=[1e5,2e5]", "seed=0,1,2"]
RAY = [
    "hydra/launcher=ray",
    "+hydra.launcher.ray.init._node_ip_address=127.0.0.1",
    "+hydra.launcher.ray.init.num_cpus=2",
    "+hydra.launcher.ray.init.include_dashboard=false",
]


def busy(folder):
    """Process of the wide model that trains."""
    for path in (folder / "pilot").glob(".work-*/progress.json"):
        beat = json.loads(path.read_text())
        if beat["run"].startswith("w16") and beat["loss"] is not None:
            return beat["pid"]
    return None


def results(folder):
    """What the runs of a sweep came to, by name."""
    return {r.run: r.result() for r in read_runs(folder).records}


@pytest.fixture
def cluster():
    """Environment of a Ray cluster that goes on without the command, as `ray start` begins it."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's are too long for the names of sockets
    words = f"start --head --block --port={port} --num-cpus=2 --include-dashboard=false"
    words += f" --object-store-memory=80000000 --disable-usage-stats --temp-dir={folder}"
    with subprocess.Popen(
        [Path(sys.executable).with_name("ray"), *words.split()],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as head:
        try:
            assert head.stdout is not None
            began = any("Ray runtime started" in line for line in head.stdout)
            assert began, "the cluster did not start"
            yield environment
        finally:
            head.terminate()
            head.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("tries_of_ray", [3, 0])
def test_a_killed_worker_leaves_the_records_of_a_local_sweep(tmp_path, tries_of_ray):
    """Ray tries the task again by itself; where it may not, the launch does."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    retried = f"+hydra.launcher.ray.remote.max_retries={tries_of_ray}"
    with sweep(tmp_path / "ray", [*GRID, *RAY, retried]) as process:
        os.kill(until(lambda: busy(tmp_path / "ray")), signal.SIGKILL)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "8 done" in err
    assert ("the launch broke off" in err) == (tries_of_ray == 0)
    with sweep(tmp_path / "local", GRID) as local:
        local.communicate(timeout=300)
    shared = results(tmp_path / "ray")
    assert len(shared) == 8
    assert shared == results(tmp_path / "local")
    history = [a["outcome"] for r in read_runs(tmp_path / "ray").records for a in r.history]
    assert "lost" in history


def training(folder):
    """Heartbeat and saved position on the trunk of each cell that trains, by its folder."""
    found = {}
    for path in (folder / "pilot").glob(".work-*/progress.json"):
        with suppress(FileNotFoundError):  # the cell has ended
            beat, state = json.loads(path.read_text()), load(path.with_name(STATE_NAME))
            position = 0 if state is None else (state.trunk or state).position
            if position > 1e4 and Path(f"/proc/{beat['pid']}").exists():
                found[path.parent] = beat, position
    return found


def test_a_sweep_whose_command_was_killed_goes_on_where_it_was(tmp_path, cluster):
    """Ray ends the workers of a lost command within seconds, those that hang by force.

    They are stopped here, so that they live and hold their locks when the next command begins.
    """
    words = [*SEEDS, "hydra/launcher=ray", "train.checkpoint_seconds=0.5"]
    folder, records = tmp_path / "ray", f"pilot/*/{RECORD_NAME}"
    with sweep(tmp_path / "local", SEEDS) as local:
        with sweep(folder, words, cluster) as lost:
            until(lambda: [*folder.glob(records)] and len(training(folder)) == 2, 300)
            for beat, _ in training(folder).values():
                os.kill(beat["pid"], signal.SIGSTOP)
            lost.kill()
        workers = training(folder)
        assert workers
        finished = {path: path.stat().st_mtime_ns for path in folder.glob(records)}
        resumed = {}
        with sweep(folder, words, cluster) as again:
            while len(resumed) < len(workers):
                assert again.poll() is None
                for work, (beat, _) in training(folder).items():
                    old = workers.get(work, (beat, 0))[0]["pid"]
                    if beat["pid"] != old:
                        assert not Path(f"/proc/{old}").exists(), "two processes train one cell"
                        resumed.setdefault(work, (beat["total"], beat["tokens"]))
                time.sleep(0.1)
            _, err = again.communicate(timeout=400)
        local.communicate(timeout=400)
    assert again.returncode == 0, err
    assert "6 done" in err
    for work, (beat, saved) in workers.items():
        assert resumed[work] >= (beat["total"], saved)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    assert not [*folder.glob("pilot/.work-*")]
    assert results(folder) == results(tmp_path / "local")


def test_a_cluster_that_runs_already_is_given_no_size_of_its_memory(tmp_path, monkeypatch):
    """Ray refuses `object_store_memory` for it, which Hydra's launcher sets unless it is there."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    monkeypatch.setattr(HydraLauncher, "_run", lambda self, jobs, bundles: [])
    with hydra_initialised():
        launcher = HydraLauncher(["hydra/launcher=ray", f"runs_dir={tmp_path}"])
        assert launcher.launch([]) is None
    sent = dict(launcher._config.hydra.launcher.ray.init)
    assert sent == {"address": None, "object_store_memory": None}
