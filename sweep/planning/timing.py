"""Time and memory of runs before they are launched, and what follows from them; without torch.

What to use when: `known_timing` gives what was measured of a shape on this machine; `estimate`
takes it, or falls back on a formula for one CPU thread, good to a factor of two; `unmeasured`
lists the shapes that `sweep.training.timing.measure_timings` can still time.

An optimiser step takes a fixed time and a time per token: two batches, the first and the last of
the batch rule, give both. Timings are kept in the cache folder by shape, batches, device, version
of torch, precision and compilation, so that planning again costs nothing.

`wants_compile` and `rows_that_fit` choose what pays for a run of some size on some
device.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.allocation.costs import Machine
from fit.data.accounting import ParamCounts, Shape
from fit.errors import PlanError, ScalingError
from fit.files import write_atomically
from sweep.cache import cache_folder, digest
from sweep.config import Compile, TrainConfig
from sweep.planning.devices import device_kind
from sweep.planning.trajectory import RunSpec, Trajectory, keep_lengths

LARGE_WIDTH_RATE, HALF_RATE_WIDTH = 60e9, 40
"""FLOP/s of training on one CPU thread: 60e9 width / (width + 40) meets what was measured at widths
16, 32 and 64 (17, 27 and 40e9 on a core of 105e9 FLOP/s in matrix products, docs/log.md) to 20%."""
BYTES_PER_PARAM = 16
"""fp32 weight, gradient and two moments of AdamW."""
COMPILE_SECONDS = 40.0
"""Trajectories estimated longer are compiled on CPU: compiling takes 10-20 s cold, 2 s from torch's
disk cache, and saves a third of the time."""
FREE_SHARE = 0.8
"""Share of a GPU's free memory that activations may take."""
SLOW_STEP_SECONDS = 10.0
"""Steps that the formula estimates longer are not timed."""


def estimable(trajectory: Trajectory, timing: ShapeTiming | None, machine: Machine | None) -> bool:
    """Whether the time of a run can be told: named devices, a timing, or the formula for a CPU."""
    device = device_kind(trajectory.config)
    return machine is not None or timing is not None or device == "cpu"


def formula_seconds(shape: Shape, flops: float) -> float:
    """Estimated training time on one CPU thread [s]; good to a factor of two."""
    return flops / (LARGE_WIDTH_RATE * shape.width / (shape.width + HALF_RATE_WIDTH))


def check_memory(trajectory: Trajectory) -> None:
    """Refuse a run that cannot fit into the machine's memory.

    Raises:
        PlanError: Weights, optimiser and activations need more than there is.
    """
    if device_kind(trajectory.config) != "cpu":
        return
    shape = trajectory.shape
    needed = memory_bytes(shape, trajectory.params, trajectory.config.train)
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > installed:
        raise PlanError(
            f"width {shape.width} and depth {shape.depth} need about {needed / 2**30:.1f} GiB to "
            f"train; this machine has {installed / 2**30:.1f}. Choose a smaller shape or a smaller "
            "train.micro_batch_tokens."
        )


def memory_bytes(shape: Shape, params: ParamCounts, train: TrainConfig) -> int:
    """Weights, optimiser (with the trunk's copy) and activations of one forward pass [bytes]."""
    rows: int = train.micro_batch_tokens or train.batch_tokens
    return state_bytes(params) + rows * activation_bytes(shape)


def state_bytes(params: ParamCounts) -> int:
    """Weights, gradients and moments, with the trunk's copy [bytes]."""
    return 2 * BYTES_PER_PARAM * params.total


def activation_bytes(shape: Shape) -> int:
    """Memory that a token keeps from the forward for the backward pass, in fp32 [bytes]."""
    inner = shape.heads * shape.head_dim
    per_block = 6 * shape.width + 8 * inner + 3 * shape.d_ff
    return 4 * (shape.depth * per_block + 3 * shape.vocab_rows)


def wants_compile(train: TrainConfig, trajectory: Trajectory, device: str) -> bool:
    """Whether to compile the model: as set, or where it pays for the whole trajectory.

    Args:
        train: Settings.
        trajectory: What is trained in one go.
        device: Kind of the device, as torch names it.
    """
    if train.compile is not Compile.auto:
        return train.compile is not Compile.off
    return compile_pays(trajectory, device) and not missing_for_compile(device)


def compile_pays(trajectory: Trajectory, device: str) -> bool:
    """Whether a compiled model trains a trajectory sooner: on CUDA, and on CPU where it is long."""
    if "model._target_" in trajectory.plug_ins:
        return False  # what pays for the transformer may not even compile
    if trajectory.shape.experts:
        return False  # how many tokens go to an expert changes with every batch
    if device != "cpu":
        return device == "cuda"
    # A kept trunk does not count: what is compiled from scratch is compiled when it goes on.
    lengths = [run.tokens for run in trajectory.runs]
    scratch = keep_lengths(dataclasses.replace(trajectory, kept=0), lengths)
    flops = sum(run.flops_spent for run in scratch.runs)
    return formula_seconds(trajectory.shape, flops) > COMPILE_SECONDS


def missing_for_compile(device: str) -> str:
    """What torch.compile needs of this machine and does not find, in words; empty if nothing."""
    if device == "cpu":
        return "" if shutil.which("g++") else "a C++ compiler (g++)"
    # Triton builds its launchers with the C compiler, against the headers of Python.
    named = os.environ.get("CC")
    if not any(shutil.which(name) for name in ([named] if named else ["gcc", "clang"])):
        return f"a C compiler ({named or 'gcc'})"
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return "" if headers.is_file() else f"the headers of Python ({headers})"


def rows_that_fit(shape: Shape, params: ParamCounts, free_bytes: float) -> int:
    """Rows of one forward pass that a device's free memory can take, a power of two.

    Args:
        shape: Shape of the model.
        params: Its parameter counts; memory for their optimiser state is set aside.
        free_bytes: Free memory before anything of the model is on the device.
    """
    room = FREE_SHARE * (free_bytes - state_bytes(params))
    rows = int(max(1.0, room / (activation_bytes(shape) * shape.seq_len)))
    return 1 << (rows.bit_length() - 1)  # the largest power of two up to `rows`


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeTiming:
    """Measured time and memory of a shape on a device."""

    device: str
    step_seconds: float
    """Fixed time of an optimiser step [s]."""
    token_seconds: float
    """Time per token trained, beyond that [s]."""
    start_seconds: float
    """From the start to the end of the first step, with compiled code in the cache [s]."""
    heldout_seconds: float
    """Time per held-out token [s]."""
    memory_bytes: float
    """Peak memory of the process; on a GPU, what it took of the device [bytes]."""

    def training(self, steps: int, tokens: int) -> float:
        """Training time of a number of steps over a number of tokens [s]."""
        return self.step_seconds * steps + self.token_seconds * tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """Expected time and memory of one run of a plan."""

    training: float
    """Training time of what the run adds to its trajectory [s]."""
    alone: float
    """Training time of the whole run, if it shared no trunk [s]."""
    beside: float
    """Time of the held-out loss, and of the start for the first run of a trajectory [s]."""
    memory_bytes: float
    measured: str | None
    """The device that the shape was timed on; None for an estimate by the formula."""

    @property
    def seconds(self) -> float:
        """Time that the run adds to its worker's [s]."""
        return self.training + self.beside


def estimate(
    trajectory: Trajectory, run: RunSpec, timing: ShapeTiming | None, machine: Machine | None = None
) -> CostEstimate:
    """Estimate time and memory of a run.

    Args:
        trajectory: What it is trained with.
        run: The run.
        timing: Of its shape; None for the formula of one CPU thread.
        machine: Named devices, whose accounting replaces both.
    """
    if timing is None or machine is not None:
        shape, train = trajectory.shape, trajectory.config.train

        def seconds(flops: float) -> float:
            if machine is None:
                return formula_seconds(shape, flops)
            return 3600 * machine.hours(flops) / train.devices

        return CostEstimate(
            training=seconds(run.flops_spent),
            alone=seconds(run.flops),
            beside=0.0,
            memory_bytes=float(memory_bytes(shape, trajectory.params, train)),
            measured=None,
        )
    start = timing.start_seconds if run == trajectory.runs[0] else 0.0
    return CostEstimate(
        training=timing.training(*added_part(trajectory, run)),
        alone=timing.training(trajectory.rule.count(0, run.tokens), run.tokens),
        beside=start + timing.heldout_seconds * trajectory.config.data.heldout_tokens,
        memory_bytes=timing.memory_bytes,
        measured=timing.device,
    )


def added_part(trajectory: Trajectory, run: RunSpec) -> tuple[int, int]:
    """Steps and tokens that a run adds to its trajectory: its cooldown and a part of the trunk."""
    tokens = round(run.flops_spent / trajectory.flops_per_token.exact)
    trunk = tokens - (run.tokens - run.cooldown_start)
    rule, start = trajectory.rule, run.cooldown_start
    return rule.count(start - trunk, start) + rule.count(start, run.tokens), tokens


def known_timing(trajectory: Trajectory) -> ShapeTiming | None:
    """The stored timing of a trajectory's shape on this machine; None where there is none."""
    with suppress(OSError, ValueError, TypeError):
        return ShapeTiming(**json.loads(timing_file(trajectory).read_text()))
    return None


def keep_timing(trajectory: Trajectory, timing: ShapeTiming) -> None:
    """Store a timing; where the cache cannot be written, it is measured again next time."""
    with suppress(ScalingError):
        write_atomically(timing_file(trajectory), json.dumps(dataclasses.asdict(timing)))


def unmeasured(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """One trajectory per missing timing that can be measured here, by ascending size."""
    by_file = {timing_file(t): t for t in trajectories if t.runs and _measurable(t)}
    missing = [t for path, t in by_file.items() if not path.exists()]
    return sorted(missing, key=lambda t: t.params.total)


def end_batches(trajectory: Trajectory) -> tuple[int, int]:
    """Tokens of a step after a tenth of the longest run, and of its last step."""
    longest = trajectory.runs[-1].tokens
    return trajectory.rule.batch(longest // 10), trajectory.rule.batch(longest - 1)


def timing_file(trajectory: Trajectory) -> Path:
    """The file of a timing, named by a hash of all that the timing depends on."""
    train, kind = trajectory.config.train, device_kind(trajectory.config)
    conditions: dict[str, Any] = {
        "shape": dataclasses.asdict(trajectory.shape),
        "masked": trajectory.separator is not None,
        "batches": end_batches(trajectory),
        "micro": train.micro_batch_tokens,
        "precision": train.precision,
        "threads": train.threads,
        "compiled": wants_compile(train, trajectory, kind),
        "graphs": train.compile is Compile.reduce_overhead,
        "machine": [kind, *machine(kind)],
        "torch": _torch_version(),
    }
    if train.optimizer != "adamw":
        conditions["optimizer"] = train.optimizer
    if trajectory.plug_ins:
        conditions["plug_ins"] = {s: p.source for s, p in trajectory.plug_ins.items()}
    return cache_folder(None) / "pace" / f"{digest(conditions)}.json"


@functools.cache
def machine(kind: str) -> list[str]:
    """Names of the device and the processor, without importing torch."""
    if kind == "cuda":
        files = Path("/proc/driver/nvidia/gpus").glob("*/information")
        names = sorted(_line(path, "Model") for path in files)
        return [os.environ.get("CUDA_VISIBLE_DEVICES", ""), *names]
    return [_line(Path("/proc/cpuinfo"), "model name") or platform.processor(), platform.machine()]


@functools.cache
def _torch_version() -> str:
    """Version of the torch that would train."""
    return importlib.metadata.version("torch")


def _measurable(trajectory: Trajectory) -> bool:
    """Whether a few steps can be timed here: on one device, and in seconds."""
    train = trajectory.config.train
    flops = trajectory.flops_per_token.exact * max(end_batches(trajectory))
    slow = formula_seconds(trajectory.shape, flops) > SLOW_STEP_SECONDS
    return train.devices == 1 and not (slow and device_kind(trajectory.config) == "cpu")


def _line(path: Path, key: str) -> str:
    """The value of the first line `key: value` in one of the system's files."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""
