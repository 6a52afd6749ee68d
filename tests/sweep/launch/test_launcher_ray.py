"""A real Ray cluster on this machine: a worker is killed in the middle of its run."""

from __future__ import annotations

import json
import os
import signal

import pytest

from fit.data.records import read_runs
from sweep.launch.launcher import HydraLauncher
from sweep.planning.compose import hydra_initialised
from tests.sweep.launch.test_launcher_slurm import sweep, until

pytestmark = pytest.mark.ray

GRID = ["-m", "model.width=8,16", "train.tokens=[2e5,4e5]", "seed=0,1"]
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
    shared = {r.run: r for r in read_runs(tmp_path / "ray").records}
    alone = {r.run: r for r in read_runs(tmp_path / "local").records}
    assert len(shared) == 8
    assert {k: r.result() for k, r in shared.items()} == {k: r.result() for k, r in alone.items()}
    assert "lost" in [a["outcome"] for r in shared.values() for a in r.history]


def test_a_cluster_that_runs_already_is_given_no_size_of_its_memory(tmp_path, monkeypatch):
    """Ray refuses `object_store_memory` for it, which Hydra's launcher sets unless it is there."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    monkeypatch.setattr(HydraLauncher, "_run", lambda self, jobs, bundles: [])
    with hydra_initialised():
        launcher = HydraLauncher(["hydra/launcher=ray", f"runs_dir={tmp_path}"])
        assert launcher.launch([]) is None
    sent = dict(launcher._config.hydra.launcher.ray.init)
    assert sent == {"address": None, "object_store_memory": None}
