"""How fast a shape trains on a device, as measured once and remembered; without torch.

A step of a batch takes a fixed time and a time per token: two batches, the first and the last of
the rule, give both. The answer is kept in the cache folder by shape, batches, device, torch's
version, precision and compilation, so that a plan made again costs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.errors import ScalingError
from fit.store import write_atomically
from sweep.cache import cache_folder, digest
from sweep.cost import device_kind, memory_bytes, seconds
from sweep.defaults import wants_compile, wants_graphs
from sweep.plan import RunSpec, Trajectory

SLOW_STEP_SECONDS = 10.0
"""A step that the formula puts above this is not timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a shape takes on a device."""

    device: str
    step_seconds: float
    """Of every optimiser step."""
    token_seconds: float
    """Of every token trained, beyond that."""
    start_seconds: float
    """From nothing to the end of the first step, compiled code being in the cache."""
    heldout_seconds: float
    """Of every held-out token."""
    memory_bytes: float
    """Most that the process (on a GPU: its share of the device) held."""

    def training(self, steps: int, tokens: int) -> float:
        """Time of some steps over some tokens [s]."""
        return self.step_seconds * steps + self.token_seconds * tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one run of a plan is expected to take."""

    training: float
    """Of its own part of its trajectory [s]."""
    alone: float
    """Of the whole run, had it no trunk to share [s]."""
    beside: float
    """Held-out loss; for the first run of a trajectory the start too [s]."""
    memory_bytes: float
    measured: str | None
    """The device it was measured on; None for the formula's word."""

    @property
    def seconds(self) -> float:
        """All that the run adds to its worker's time [s]."""
        return self.training + self.beside


def estimate(trajectory: Trajectory, run: RunSpec, pace: Pace | None) -> Estimate:
    """Time and memory of a run, from what was measured of its shape, else by the formula."""
    if pace is None:
        shape, train = trajectory.shape, trajectory.config.train
        return Estimate(
            training=seconds(shape, run.flops_spent),
            alone=seconds(shape, run.flops),
            beside=0.0,
            memory_bytes=float(memory_bytes(shape, trajectory.params, train)),
            measured=None,
        )
    start = pace.start_seconds if run == trajectory.runs[0] else 0.0
    return Estimate(
        training=pace.training(*own_part(trajectory, run)),
        alone=pace.training(trajectory.rule.count(0, run.tokens), run.tokens),
        beside=start + pace.heldout_seconds * trajectory.config.data.heldout_tokens,
        memory_bytes=pace.memory_bytes,
        measured=pace.device,
    )


def own_part(trajectory: Trajectory, run: RunSpec) -> tuple[int, int]:
    """Steps and tokens that a run adds to its trajectory: its cooldown and a stretch of trunk."""
    tokens = round(run.flops_spent / trajectory.flops_per_token.exact)
    trunk = tokens - (run.tokens - run.cooldown_start)
    rule, start = trajectory.rule, run.cooldown_start
    return rule.count(start - trunk, start) + rule.count(start, run.tokens), tokens


def known_pace(trajectory: Trajectory) -> Pace | None:
    """What was measured of a trajectory's shape on this machine; None where nothing was."""
    with suppress(OSError, ValueError, TypeError):
        return Pace(**json.loads(pace_file(trajectory).read_text()))
    return None


def keep_pace(trajectory: Trajectory, pace: Pace) -> None:
    """Remember a measurement; a cache that cannot be written costs measuring again."""
    with suppress(ScalingError):
        write_atomically(pace_file(trajectory), json.dumps(dataclasses.asdict(pace)))


def unmeasured(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """One trajectory per pace that is not known and can be measured here, by ascending size."""
    found = {pace_file(t): t for t in trajectories if t.runs and _measurable(t)}
    missing = [t for path, t in found.items() if not path.exists()]
    return sorted(missing, key=lambda t: t.params.total)


def end_batches(trajectory: Trajectory) -> tuple[int, int]:
    """Tokens of the first and of the last step."""
    return trajectory.rule.batch(0), trajectory.rule.batch(trajectory.runs[-1].tokens - 1)


def pace_file(trajectory: Trajectory) -> Path:
    """Where a pace is kept: its name is a hash of all that it depends on."""
    train = trajectory.config.train
    kind = device_kind(train)
    question: dict[str, Any] = {
        "shape": dataclasses.asdict(trajectory.shape),
        "batches": end_batches(trajectory),
        "micro": train.micro_batch_tokens,
        "precision": train.precision,
        "threads": train.threads,
        "compiled": wants_compile(train, trajectory, kind),
        "graphs": wants_graphs(train, trajectory, kind),
        "machine": [kind, *machine(kind)],
        "torch": _torch_version(),
    }
    return cache_folder(None) / "pace" / f"{digest(question)}.json"


@functools.cache
def machine(kind: str) -> list[str]:
    """What the device is called, without asking torch."""
    if kind == "cuda":
        found = Path("/proc/driver/nvidia/gpus").glob("*/information")
        names = sorted(_line(path, "Model") for path in found)
        return [os.environ.get("CUDA_VISIBLE_DEVICES", ""), *names]
    return [_line(Path("/proc/cpuinfo"), "model name") or platform.processor(), platform.machine()]


@functools.cache
def _torch_version() -> str:
    """Of the torch that would train."""
    return importlib.metadata.version("torch")


def _measurable(trajectory: Trajectory) -> bool:
    """Whether a few steps can be timed here: one device, and none that takes for ever."""
    train = trajectory.config.train
    flops = trajectory.flops_per_token.exact * max(end_batches(trajectory))
    slow = seconds(trajectory.shape, flops) > SLOW_STEP_SECONDS
    return train.devices == 1 and not (slow and device_kind(train) == "cpu")


def _line(path: Path, key: str) -> str:
    """The value of the first `key: value` line of one of the system's files."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""
