"""All that is to be known of the first hour on a GPU, in one command of at most ten minutes.

`make gpu-day`, or `python -m tests.bench.gpu_day [--small] [--out FOLDER]`:

- *agreement*: 200 steps of one small run with every switch on and off, against fp32 on the CPU;
- *resume*: the same steps, stopped in the middle, written to disk and read again;
- *tiny*: a run of a few thousand parameters, eager, compiled and with CUDA graphs;
- *sweep*: a whole sweep of such runs on one GPU, one and four at once (`train.runs_per_gpu`);
- *speed*: share of the ceiling of matrix products at 1M to 100M parameters and 8k and 65k tokens a
  step, against a plain compiled loop.

It writes one JSON file into docs/gpu/, named by the device, again after every cell. After nine
minutes no cell is begun any more; the file names those that were left out. `--small` is the same on
a CPU, at sizes that a CPU can do: it shows that the script runs, and says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fit.data.records import read_runs
from fit.files import now, versions, write_atomically
from fit.quantities import short
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import Trajectory, plan
from sweep.training.checkpoint import load, save
from sweep.training.devices import device_name
from sweep.training.session import Session
from tests.bench.gpu import (
    COMPILED,
    GPU,
    SMALL,
    Setting,
    matmul_ceiling,
    ours,
    plain,
    planned,
    tiny_rate,
)

STEPS = 200
LAST = 50
"""Steps whose mean loss is compared."""
TOKENS_A_STEP = (8192, 65536)
LIMIT_SECONDS = 540.0
"""After so long no cell is begun."""
CELL_SECONDS = 150.0
"""Most time of a command that trains a sweep."""
RUNS_PER_GPU = (1, 4)
SWEEP_RUNS = 8
SWEEP_TOKENS = 500_000
SCHEMA = "isoflop.gpu_day/2"
Cell = tuple[str, Callable[[], dict[str, Any]]]
"""Name and measurement."""
Cells = Iterator[Cell]
SWITCHES = {
    "fp32, eager": ("train.precision=32-true", "train.compile=off"),
    "fp32, compiled": ("train.precision=32-true", "train.compile=on"),
    "bf16, eager": ("train.precision=bf16-mixed", "train.compile=off"),
    "bf16, compiled": ("train.precision=bf16-mixed", "train.compile=on"),
    "bf16, CUDA graphs": ("train.precision=bf16-mixed", "train.compile=reduce_overhead"),
    "bf16, a row a pass": ("train.precision=bf16-mixed", "train.micro_batch_tokens=128"),
    "the defaults": (),
}


def run_of(setting: Setting, accelerator: str, *more: str) -> Trajectory:
    """A run of 200 steps of 1024 tokens of the embedded language."""
    width, depth, head_dim = setting.tiny
    config = compose_config(
        [
            f"model.width={width}",
            f"model.depth={depth}",
            f"model.head_dim={head_dim}",
            "train.batch_tokens=1024",
            "train.batch_at_1m=0",
            f"train.tokens={STEPS * 1024}",
            f"train.accelerator={accelerator}",
            *more,
        ]
    )
    (trajectory,) = plan(config)
    return trajectory


def train(session: Session, first: int, last: int) -> list[float]:
    """Train steps [first, last) and return their losses [nats/token]."""
    (run,) = session.trajectory.runs
    losses: list[float] = []
    rule = session.trajectory.rule
    for position, batch in rule.steps(first * 1024, last * 1024):
        session.stepper.set_rate(run.rate.factor(position, batch), run.rate.decay(position, batch))
        session.backward(session._rows(position, batch))
        total = sum(count for _, count in session.pending)
        losses.append(sum(float(loss) * count for loss, count in session.pending) / total)
        session.update()
        session.position = position + batch
    assert len(losses) == last - first
    return losses


def agreement(setting: Setting, device: torch.device) -> Cells:
    """Mean loss of the last steps with every switch, and its difference from fp32 on the CPU."""
    reference: list[float] = []

    def measure(kind: str, switches: tuple[str, ...]) -> dict[str, Any]:
        session = Session.open(run_of(setting, kind, *switches))
        losses = train(session, 0, STEPS)
        session.close()
        reference.extend(() if reference else losses)  # the first cell
        mean = float(np.mean(losses[-LAST:]))
        return {
            "loss": mean,
            "difference": mean - float(np.mean(reference[-LAST:])),
            "first_step": losses[0] - reference[0],
        }

    yield "cpu, fp32, eager", lambda: measure("cpu", SWITCHES["fp32, eager"])
    if not reference:  # nothing to compare with
        return
    for name, switches in SWITCHES.items():
        yield name, lambda switches=switches: measure(device.type, switches)


def resume(setting: Setting, device: torch.device) -> Cells:
    """Largest difference between the losses of a run that went through and one that stopped."""

    def measure() -> dict[str, Any]:
        trajectory = run_of(setting, device.type)
        through = train(Session.open(trajectory), 0, STEPS)
        session = Session.open(trajectory)
        before = train(session, 0, STEPS // 2)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            save(path, session.state())
            again = Session.open(trajectory)
            state = load(path)
        assert state is not None
        again.restore(state)
        losses = [*before, *train(again, STEPS // 2, STEPS)]
        return {"largest_difference": float(np.abs(np.subtract(through, losses)).max())}

    yield "stopped in the middle", measure


def tiny(setting: Setting, device: torch.device) -> Cells:
    """Tokens/s of a run of a few thousand parameters, by how it is compiled."""
    for name, how in COMPILED.items():
        yield name, lambda how=how: {"tokens_per_second": tiny_rate(setting, device, how)}


def sweep(setting: Setting, device: torch.device) -> Cells:
    """Tokens/s of a whole sweep of tiny runs on one GPU, by how many train at once."""
    for runs in RUNS_PER_GPU:
        yield f"train.runs_per_gpu={runs}", lambda runs=runs: sweep_rate(setting, device, runs)


def sweep_rate(setting: Setting, device: torch.device, at_once: int) -> dict[str, Any]:
    """Time of a command that trains `SWEEP_RUNS` tiny runs, its start included."""
    if device.type == "cpu":
        return {"skipped": "workers share a GPU; on a CPU each takes a core of its own"}
    width, depth, head_dim = setting.tiny
    one = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *(f"model.width={width}", f"model.depth={depth}", f"model.head_dim={head_dim}"),
            *("train.batch_tokens=1024", "train.batch_at_1m=0", f"train.tokens={SWEEP_TOKENS}"),
            *("train.compile=off", f"train.accelerator={device.type}", f"runs_dir={folder}"),
            *(f"seed={','.join(map(str, range(SWEEP_RUNS)))}", "name=tiny"),
            *("hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}"),
            f"train.runs_per_gpu={at_once}",
        ]
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sweep", "-m", *words],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": one},
            check=True, capture_output=True, timeout=CELL_SECONDS,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        records = read_runs(Path(folder) / "tiny").records
    assert [r.status for r in records] == ["done"] * SWEEP_RUNS
    tokens = sum(r.tokens for r in records)
    return {"runs": len(records), "tokens": tokens, "tokens_per_second": tokens / seconds}


def speed(setting: Setting, device: torch.device) -> Cells:
    """Tokens/s and share of the ceiling by size and batch, ours and a plain compiled loop's."""
    ceiling: list[float] = []

    def best() -> dict[str, Any]:
        ceiling.append(matmul_ceiling(setting, device))
        return {"flops_per_second": ceiling[0], "precision": setting.precision}

    def share(measure: Callable[[], float], flops: float) -> dict[str, Any]:
        rate = measure()
        of = {"of_ceiling": rate * flops / ceiling[0]} if ceiling else {}
        return {"tokens_per_second": rate, **of}

    yield "ceiling", best
    for tokens in (setting.rows * setting.length,) if device.type == "cpu" else TOKENS_A_STEP:
        cell = dataclasses.replace(setting, rows=tokens // setting.length, seconds=3.0)
        for shape in setting.shapes:
            t = planned(shape, cell, device)
            flops, where = t.flops_per_token.exact, f"{short(t.params.matmul)}, {tokens} tokens"
            yield (
                f"{where}, ours",
                lambda t=t, cell=cell, flops=flops: share(lambda: ours(t, cell), flops),
            )
            yield (
                f"{where}, plain",
                lambda shape=shape, cell=cell, flops=flops: share(
                    lambda: plain(shape, cell, device), flops
                ),
            )


PARTS: dict[str, Callable[[Setting, torch.device], Cells]] = {
    "agreement": agreement,
    "resume": resume,
    "tiny": tiny,
    "sweep": sweep,
    "speed": speed,
}


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a cell gives, and its seconds with compilation; or why there is nothing."""
    started = time.perf_counter()
    try:
        found = work()
    except Exception as error:  # one cell that fails is a finding, not the end
        found = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {**found, "seconds": time.perf_counter() - started}


def measure_all(
    document: dict[str, Any], path: Path, parts: Mapping[str, Iterable[Cell]], limit: float
) -> None:
    """Measure cell by cell, writing the document after each; after `limit` [s] none is begun.

    Cells that are left out stand in the document's `left_out`, and are printed.
    """
    started = time.perf_counter()
    left_out: list[str] = []
    for part, cells in parts.items():
        found: dict[str, Any] = document.setdefault(part, {})
        for name, work in cells:
            if time.perf_counter() - started > limit:
                left_out.append(f"{part}: {name}")
            else:
                found[name] = measured(work)
                print(f"{part}: {name}: {json.dumps(found[name])}", flush=True)
            document |= {"seconds": time.perf_counter() - started, "left_out": left_out}
            write_atomically(path, json.dumps(document, indent=1) + "\n")
    if left_out:
        print(f"left out, as {limit:.0f} s had passed: {'; '.join(left_out)}")


def main() -> None:
    """Measure, print and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the same on a CPU, small")
    parser.add_argument("--out", type=Path, default=Path("docs/gpu"))
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --small runs the same on a CPU, small")
    setting = SMALL if options.small else GPU
    device = torch.device("cpu" if options.small else "cuda")
    torch.set_num_threads(1)
    name = device_name(device)
    document = {"schema": SCHEMA, "device": name, "small": options.small, "time": now()}
    document["versions"] = versions(("torch", "lightning", "triton"))
    options.out.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().split(" (")[0]).strip("-")
    path = options.out / f"{slug}{'-small' if options.small else ''}.json"
    cells = {part: work(setting, device) for part, work in PARTS.items()}
    measure_all(document, path, cells, LIMIT_SECONDS)
    print(path)


if __name__ == "__main__":
    main()
