"""Real Slurm, started here: a sweep with a cell that fails, one cancelled and one out of time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fit.data.records import read_runs
from tests.sweep.launch import slurm_cluster as cluster
from tests.sweep.test_app import ROOT, TINY

pytestmark = pytest.mark.slurm

LONG, CELLS = "8e5", 12
"""Tokens of half a minute to two beside three others on two cores, and the number of cells."""
SLURM = [
    "hydra/launcher=slurm",
    "hydra.launcher.timeout_min=5",
    "hydra.launcher.signal_delay_s=25",
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    reason = cluster.missing()
    if reason is not None:
        pytest.skip(reason)
    pytest.importorskip("submitit", reason="needs the extra [slurm]")
    found = cluster.Slurm(tmp_path_factory.mktemp("slurm") / "s", cpus=4)
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Twelve cells: two long ones, and one that asks for a GPU where there is none."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "cell").mkdir()
    for number in range(CELLS):
        lines = ["# @package _global_", f"seed: {number}", "model:", "  width: 8", "train:"]
        lines.append(f"  tokens: {LONG if number < 2 else '4e4'}")
        lines += ["  accelerator: cuda"] * (number == CELLS - 1)
        (folder / "cell" / f"c{number}.yaml").write_text("\n".join(lines) + "\n")
    names = ",".join(f"c{number}" for number in range(CELLS))
    return ["-m", "--config-dir", str(folder), f"+cell={names}"]


@contextmanager
def sweep(folder: Path, arguments: list[str], environment=None):
    overrides = [*TINY, f"runs_dir={folder}", "name=pilot", "tracking=none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep", *arguments, *overrides],
        cwd=ROOT,
        env={**(environment or os.environ), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def until(condition, seconds=120):
    """Wait for something to become true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError("waited in vain")


def running_long(folder: Path) -> dict[int, tuple[str, int]]:
    """Job and process of each long cell that trains, by its seed."""
    found = {}
    for path in (folder / "pilot").glob(".work-*/progress.json"):
        beat = json.loads(path.read_text())
        if beat["total"] > 1e5 and beat["loss"] is not None:
            seed = int(beat["run"].split("-s")[1].split("-")[0])
            environ = Path(f"/proc/{beat['pid']}/environ")
            if environ.exists():
                pairs = dict(p.partition("=")[::2] for p in environ.read_text().split("\0"))
                job = f"{pairs['SLURM_ARRAY_JOB_ID']}_{pairs['SLURM_ARRAY_TASK_ID']}"
                found[seed] = job, beat["pid"]
    return found


def signalled(process: int) -> bool:
    """Whether a stopped process has been sent USR2, or has had it and is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)", status, re.M)
    return bool(int(pending, 16) & 1 << (signal.SIGUSR2 - 1))


def test_failed_cancelled_and_timed_out_cells_leave_the_records_of_a_local_sweep(
    tmp_path, slurm, cells
):
    with sweep(tmp_path / "slurm", [*cells, *SLURM], slurm.environment) as process:
        jobs = until(lambda: len(f := running_long(tmp_path / "slurm")) == 2 and f)
        late, worker = jobs[1]
        for _, process_id in jobs.values():  # else a fast machine ends them in time
            os.kill(process_id, signal.SIGSTOP)
        slurm.call("scancel", jobs[0][0])
        slurm.call("scontrol", "update", f"JobId={late}", "TimeLimit=1")
        until(lambda: signalled(worker))
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", late, check=False))
        _, err = process.communicate(timeout=400)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "11 done, 1 failed" in err
    with sweep(tmp_path / "local", cells) as local:
        local.communicate(timeout=400)
    shared = {r.run: r for r in read_runs(tmp_path / "slurm").records}
    alone = {r.run: r for r in read_runs(tmp_path / "local").records}
    assert len(shared) == CELLS
    failed = [r for r in shared.values() if r.status == "failed"]
    assert len(failed) == 1 and failed[0].seed == CELLS - 1
    assert {k: r.result() for k, r in shared.items()} == {k: r.result() for k, r in alone.items()}
    history = {r.seed: [a["outcome"] for a in r.history] for r in shared.values()}
    assert set(history[1]) == {"stopped"} and history[0] in (["stopped"], ["lost"])
    assert {a["reason"] for r in shared.values() if r.seed == 1 for a in r.history} == {"SIGUSR2"}
    assert all(not history[seed] for seed in range(2, CELLS - 1))


def test_cells_that_share_jobs_leave_few_jobs_and_files_and_all_records(tmp_path, slurm, cells):
    with sweep(tmp_path, [*cells, *SLURM, "bundle=4", "files=few"], slurm.environment) as process:
        _, err = process.communicate(timeout=400)
    assert "11 done, 1 failed" in err
    (archive,) = (tmp_path / "pilot").glob(".hydra/.submitit/*/files.zip")
    with zipfile.ZipFile(archive) as packed:
        jobs = [name for name in packed.namelist() if name.endswith("_submitted.pkl")]
    assert len(jobs) == 5, "each long cell, and the ten short ones in fours"
    files = [p for p in (tmp_path / "pilot").glob("w*/*") if p.is_file()]
    assert len(files) <= 3 * CELLS


def test_a_partition_that_is_unknown_is_one_line(tmp_path, slurm, cells):
    gold = [*SLURM, "hydra.launcher.partition=gold"]
    with sweep(tmp_path, [*cells, *gold], slurm.environment) as wrong:
        _, err = wrong.communicate(timeout=120)
    assert wrong.returncode == 1
    *_, last = err.splitlines()
    assert last.startswith("error: the launcher slurm started no run") and "gold" in last, err
    assert "Traceback" not in err
