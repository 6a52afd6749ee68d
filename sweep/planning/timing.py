"""How fast a shape trains on a device, as measured once and remembered; without torch.

A step of a batch takes a fixed time and a time per token: two batches, the first and the last of
the rule, give both. The answer is kept in the cache folder by shape, batches, device, torch's
version, precision and compilation, so that a plan made again costs nothing.

What a run will take: time and memory, from its shape, before anything is launched.

Switches that follow from a run's size and its device, without torch: what is measured to pay.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.data.accounting import ParamCounts, Shape
from fit.errors import PlanError, ScalingError
from fit.files import write_atomically
from sweep.cache import cache_folder, digest
from sweep.config import Compile, Graphs, TrainConfig
from sweep.planning.trajectory import RunSpec, Trajectory

LARGE_WIDTH_RATE, HALF_RATE_WIDTH = 60e9, 40
"""FLOP/s of training on one CPU thread: 60e9 width / (width + 40) meets what was measured at widths
16, 32 and 64 (17, 27 and 40e9 on a core of 105e9 FLOP/s in matrix products, docs/log.md) to 20%."""
BYTES_PER_PARAM = 16
"""fp32 weight, gradient and two moments of AdamW."""
COMPILE_SECONDS = 40.0
"""Trajectories estimated longer are compiled on CPU: compiling takes 10-20 s cold, 2 s from torch's
disk cache, and saves a third of the time."""
GRAPH_PARAMS = 3e7
"""Models up to this size are replayed as CUDA graphs. From the arithmetic of launches, not yet
measured: 300 kernels of 5 us are 1.5 ms, which 30M parameters fill at 16,000 tokens a step."""
FREE_SHARE = 0.8
"""Of a GPU's free memory that activations may take."""
SLOW_STEP_SECONDS = 10.0
"""A step that the formula puts above this is not timed."""


def formula_seconds(shape: Shape, flops: float) -> float:
    """Estimated training time on one CPU thread [s]; good to a factor of two."""
    return flops / (LARGE_WIDTH_RATE * shape.width / (shape.width + HALF_RATE_WIDTH))


def check_memory(shape: Shape, params: ParamCounts, train: TrainConfig) -> None:
    """Refuse a run that cannot fit into the machine's memory.

    Raises:
        PlanError: Weights, optimiser and activations need more than there is.
    """
    if device_kind(train) != "cpu":
        return
    needed = memory_bytes(shape, params, train)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise PlanError(
            f"width {shape.width} and depth {shape.depth} need about {needed / 2**30:.1f} GiB to "
            f"train; this machine has {there / 2**30:.1f}. Choose a smaller shape or a smaller "
            "train.micro_batch_tokens."
        )


def device_kind(train: TrainConfig) -> str:
    """Where a run will go, as torch names it; by the driver's files, for torch takes seconds."""
    if train.accelerator == "auto":
        return "cuda" if any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/kfd")) else "cpu"
    return "cuda" if train.accelerator == "gpu" else train.accelerator


def memory_bytes(shape: Shape, params: ParamCounts, train: TrainConfig) -> int:
    """Weights, optimiser (with the trunk's copy) and activations of one forward pass [bytes]."""
    rows = train.micro_batch_tokens or train.batch_tokens
    return state_bytes(params) + rows * activation_bytes(shape)


def state_bytes(params: ParamCounts) -> int:
    """Weights, gradients and moments, with the trunk's copy [bytes]."""
    return 2 * BYTES_PER_PARAM * params.total


def activation_bytes(shape: Shape) -> int:
    """What a token keeps from the forward for the backward pass, in fp32 [bytes]."""
    inner = shape.heads * shape.head_dim
    per_block = 6 * shape.width + 8 * inner + 3 * shape.d_ff
    return 4 * (shape.depth * per_block + 3 * shape.vocab)


def wants_compile(train: TrainConfig, trajectory: Trajectory, device: str) -> bool:
    """Whether to compile: as asked, or where it pays; a function of the whole trajectory alone.

    Args:
        train: Settings.
        trajectory: What is trained in one go.
        device: Its kind, as torch names it.
    """
    if train.compile is not Compile.auto:
        return train.compile is Compile.on
    if trajectory.shape.experts:
        return False  # how many tokens go to an expert changes with every batch
    if device != "cpu":
        return device == "cuda" and shutil.which(os.environ.get("CC", "cc")) is not None
    flops = sum(run.flops_spent for run in trajectory.runs)
    long = formula_seconds(trajectory.shape, flops) > COMPILE_SECONDS
    return long and shutil.which("g++") is not None


def wants_graphs(train: TrainConfig, trajectory: Trajectory, device: str) -> bool:
    """Whether to capture whole steps: as asked, or on one GPU for small dense models."""
    if device != "cuda" or train.devices > 1 or trajectory.shape.experts:
        return False
    small = trajectory.params.total <= GRAPH_PARAMS
    return train.graphs is Graphs.on or (train.graphs is Graphs.auto and small)


def rows_that_fit(shape: Shape, params: ParamCounts, free_bytes: float) -> int:
    """Rows of one forward pass that a device's free memory can take, a power of two.

    Args:
        shape: Of the model.
        params: Its counts; their optimiser state is set aside.
        free_bytes: Free memory before anything of the model is on the device.
    """
    room = FREE_SHARE * (free_bytes - state_bytes(params))
    rows = int(max(1.0, room / (activation_bytes(shape) * shape.seq_len)))
    return 1 << (rows.bit_length() - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeTiming:
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
class CostEstimate:
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


def estimate(trajectory: Trajectory, run: RunSpec, pace: ShapeTiming | None) -> CostEstimate:
    """Time and memory of a run, from what was measured of its shape, else by the formula."""
    if pace is None:
        shape, train = trajectory.shape, trajectory.config.train
        return CostEstimate(
            training=formula_seconds(shape, run.flops_spent),
            alone=formula_seconds(shape, run.flops),
            beside=0.0,
            memory_bytes=float(memory_bytes(shape, trajectory.params, train)),
            measured=None,
        )
    start = pace.start_seconds if run == trajectory.runs[0] else 0.0
    return CostEstimate(
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


def known_timing(trajectory: Trajectory) -> ShapeTiming | None:
    """What was measured of a trajectory's shape on this machine; None where nothing was."""
    with suppress(OSError, ValueError, TypeError):
        return ShapeTiming(**json.loads(timing_file(trajectory).read_text()))
    return None


def keep_timing(trajectory: Trajectory, pace: ShapeTiming) -> None:
    """Remember a measurement; a cache that cannot be written costs measuring again."""
    with suppress(ScalingError):
        write_atomically(timing_file(trajectory), json.dumps(dataclasses.asdict(pace)))


def unmeasured(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """One trajectory per pace that is not known and can be measured here, by ascending size."""
    found = {timing_file(t): t for t in trajectories if t.runs and _measurable(t)}
    missing = [t for path, t in found.items() if not path.exists()]
    return sorted(missing, key=lambda t: t.params.total)


def end_batches(trajectory: Trajectory) -> tuple[int, int]:
    """Tokens of the first and of the last step."""
    return trajectory.rule.batch(0), trajectory.rule.batch(trajectory.runs[-1].tokens - 1)


def timing_file(trajectory: Trajectory) -> Path:
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
    slow = formula_seconds(trajectory.shape, flops) > SLOW_STEP_SECONDS
    return train.devices == 1 and not (slow and device_kind(train) == "cpu")


def _line(path: Path, key: str) -> str:
    """The value of the first `key: value` line of one of the system's files."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""
