"""What a run will take: time and memory, from its shape, before anything is launched."""

from __future__ import annotations

import os
from pathlib import Path

from fit.accounting import Params, Shape
from fit.errors import PlanError
from sweep.config import TrainConfig

LARGE_WIDTH_RATE, HALF_RATE_WIDTH = 60e9, 40
"""FLOP/s of training on one CPU thread: 60e9 width / (width + 40) meets what was measured at widths
16, 32 and 64 (17, 27 and 40e9 on a core of 105e9 FLOP/s in matrix products, docs/log.md) to 20%."""
BYTES_PER_PARAM = 16
"""fp32 weight, gradient and two moments of AdamW."""


def seconds(shape: Shape, flops: float) -> float:
    """Estimated training time on one CPU thread [s]; good to a factor of two."""
    return flops / (LARGE_WIDTH_RATE * shape.width / (shape.width + HALF_RATE_WIDTH))


def check_memory(shape: Shape, params: Params, train: TrainConfig) -> None:
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


def memory_bytes(shape: Shape, params: Params, train: TrainConfig) -> int:
    """Weights, optimiser (with the trunk's copy) and activations of one forward pass [bytes]."""
    rows = train.micro_batch_tokens or train.batch_tokens
    return state_bytes(params) + rows * activation_bytes(shape)


def state_bytes(params: Params) -> int:
    """Weights, gradients and moments, with the trunk's copy [bytes]."""
    return 2 * BYTES_PER_PARAM * params.total


def activation_bytes(shape: Shape) -> int:
    """What a token keeps from the forward for the backward pass, in fp32 [bytes]."""
    inner = shape.heads * shape.head_dim
    per_block = 6 * shape.width + 8 * inner + 3 * shape.d_ff
    return 4 * (shape.depth * per_block + 3 * shape.vocab)
