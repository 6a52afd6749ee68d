"""All that is to be known of the first hour on a GPU, in one command of at most ten minutes.

`make gpu-day`, or `python -m tests.bench.gpu_day [--small] [--out FOLDER]`:

- *agreement*: 200 steps of one small run with every switch on and off, against fp32 on the CPU;
- *resume*: the same steps, stopped in the middle, written to disk and read again;
- *speed*: share of the ceiling of matrix products at 1M to 100M parameters and 8k and 65k tokens a
  step, against a plain compiled loop;
- *tiny*: a run of a few thousand parameters, eager, compiled and with CUDA graphs.

It writes one JSON file into docs/gpu/, named by the device. `--small` is the same on a CPU, at
sizes that a CPU can do: it shows that the script runs, and says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fit.files import now, versions
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import Trajectory, plan
from sweep.training.checkpoint import load, save
from sweep.training.devices import device_name
from sweep.training.session import Session
from tests.bench.gpu import GPU, SMALL, Setting, matmul_ceiling, ours, plain, planned, tiny_table

STEPS = 200
LAST = 50
"""Steps whose mean loss is compared."""
TOKENS_A_STEP = (8192, 65536)
SCHEMA = "isoflop.gpu_day/1"
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


def agreement(setting: Setting, device: torch.device) -> dict[str, Any]:
    """Mean loss of the last steps with every switch, and its difference from fp32 on the CPU."""
    reference = train(Session.open(run_of(setting, "cpu", *SWITCHES["fp32, eager"])), 0, STEPS)
    found: dict[str, Any] = {"cpu, fp32, eager": {"loss": float(np.mean(reference[-LAST:]))}}
    for name, switches in SWITCHES.items():
        started = time.perf_counter()
        try:
            session = Session.open(run_of(setting, device.type, *switches))
            losses = train(session, 0, STEPS)
            session.close()
        except Exception as error:  # one switch that fails is a finding, not the end
            found[name] = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
            continue
        mean = float(np.mean(losses[-LAST:]))
        found[name] = {
            "loss": mean,
            "difference": mean - found["cpu, fp32, eager"]["loss"],
            "first_step": losses[0] - reference[0],
            "seconds": time.perf_counter() - started,
        }
    return found


def resume(setting: Setting, device: torch.device) -> dict[str, float]:
    """Largest difference between the losses of a run that went through and one that stopped."""
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


def speed(setting: Setting, device: torch.device) -> dict[str, Any]:
    """Tokens/s and share of the ceiling by size and batch, ours and a plain compiled loop's."""
    ceiling = matmul_ceiling(setting, device)
    rows: list[dict[str, Any]] = []
    for tokens in (setting.rows * setting.length,) if device.type == "cpu" else TOKENS_A_STEP:
        cell = dataclasses.replace(setting, rows=tokens // setting.length, seconds=3.0)
        for shape in setting.shapes:
            t = planned(shape, cell, device)
            row: dict[str, Any] = {"params": t.params.matmul, "tokens_a_step": tokens}
            for name, measure in (
                ("ours", lambda t=t, cell=cell: ours(t, cell)),
                ("plain", lambda shape=shape, cell=cell: plain(shape, cell, device)),
            ):
                row[name] = measured(measure, t.flops_per_token.exact / ceiling)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {"ceiling_flops_per_second": ceiling, "precision": setting.precision, "rows": rows}


def measured(measure: Callable[[], float], share_of: float) -> dict[str, Any]:
    """Tokens/s, share of the ceiling, and seconds with compilation; or why there are none."""
    started = time.perf_counter()
    try:
        rate = measure()
    except Exception as error:
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    seconds = time.perf_counter() - started
    return {"tokens_per_second": rate, "of_ceiling": rate * share_of, "seconds": seconds}


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
    name, document = device_name(device), {}
    document = {"schema": SCHEMA, "device": name, "small": options.small, "time": now()}
    document["versions"] = versions(("torch", "lightning", "triton"))
    parts: dict[str, Callable[[Setting, torch.device], Any]] = {
        "agreement": agreement,
        "resume": resume,
        "speed": speed,
        "tiny": tiny_table,
    }
    for part, work in parts.items():
        started = time.perf_counter()
        document[part] = work(setting, device)
        document[f"{part}_seconds"] = time.perf_counter() - started
        print(json.dumps({part: document[part]}, indent=1), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().split(" (")[0]).strip("-")
    path = options.out / f"{slug}{'-small' if options.small else ''}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
