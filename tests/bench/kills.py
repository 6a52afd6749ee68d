"""50 random kill -9 over a sweep of 20 runs: controller and workers together, or one worker alone.

After each kill of the controller the same command is given again. At the end the records are
compared with those of an undisturbed sweep: none lost, none twice, none different.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fit.data.records import read_runs

KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
GRID = [
    "model.width=8,16,24,32",
    "train.tokens=[2e5,4e5,6e5,8e5,10e5]",
    "model.depth=1",
    "model.head_dim=8",
    "model.seq_len=32",
    "data.heldout_tokens=2048",
    "train.batch_tokens=128",
    "train.compile=off",
    "train.checkpoint_seconds=0.5",
    "tracking=none",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "name=pilot",
]


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The sweep, leader of a process group of its own."""
    command = [sys.executable, "-m", "sweep", "-m", *GRID, f"runs_dir={folder}"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Its joblib workers."""
    try:
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = [int(c) for c in path.read_text().split()]
        return [c for c in children if b"popen_loky" in Path(f"/proc/{c}/cmdline").read_bytes()]
    except OSError:
        return []


def shaken(folder: Path, chance: random.Random, kills: int) -> tuple[int, int]:
    """A sweep that is killed until it ends; how often the controller and a worker were."""
    controller = worker = 0
    process = start(folder)
    while True:
        until = time.monotonic() + chance.uniform(3, 12)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        if process.poll() == 0:
            return controller, worker
        if process.poll() is not None:  # a cell was given up after several kills of its workers
            process = start(folder)
        elif controller + worker < kills:
            there = workers(process)
            if there and chance.random() < 0.5:
                os.kill(chance.choice(there), signal.SIGKILL)
                worker += 1
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                controller += 1
                process = start(folder)


def results(folder: Path) -> list[tuple[str, dict[str, object]]]:
    """Every record's name and result, copies included."""
    return sorted(((r.run, r.result()) for r in read_runs(folder).records), key=lambda x: x[0])


with tempfile.TemporaryDirectory() as name:
    root, chance = Path(name), random.Random(0)
    start(root / "calm").wait()
    calm = results(root / "calm")
    assert len(calm) == 20, len(calm)
    kills, sweeps = [0, 0], 0
    while sum(kills) < KILLS:
        sweeps += 1
        folder = root / f"shaken-{sweeps}"
        both = shaken(folder, chance, KILLS - sum(kills))
        kills = [a + b for a, b in zip(kills, both, strict=True)]
        found = results(folder)
        names = [run for run, _ in found]
        lost = {run for run, _ in calm} - set(names)
        differing = [run for run, result in found if (run, result) not in calm]
        leftover = list(folder.glob("*/.work-*"))
        print(
            f"sweep {sweeps}: {both[0]} kills of the controller, {both[1]} of a worker; "
            f"{len(found)} records, {len(lost)} lost, {len(names) - len(set(names))} twice, "
            f"{len(differing)} differing, {len(leftover)} working folders left",
            flush=True,
        )
    print(f"{sum(kills)} kills in all")
