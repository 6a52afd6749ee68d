"""What a run will take: time and memory, from its shape, before anything is launched."""

from __future__ import annotations

import functools
import os
import time

import numpy as np

from fit.accounting import Params, Shape
from fit.errors import PlanError
from sweep.config import TrainConfig
from sweep.schedule import BatchRule

SHARE_OF_PRODUCT = 0.5
"""Training FLOP/s over those of the plain matrix product of the same width, measured on CPU for
widths 16-128 (docs/log.md): between 0.35 and 0.6."""
SECONDS_PER_STEP_AND_BLOCK = 4e-4
"""Overhead of a training step per block, measured on CPU at width 16."""
BYTES_PER_PARAM = 16
"""fp32 weight, gradient and two moments of AdamW."""


def seconds(shape: Shape, flops: float, tokens: int, rule: BatchRule) -> float:
    """Estimated training time of one run on one CPU thread [s]; good to a factor of two."""
    steps = tokens / rule.batch_tokens
    overhead = steps * SECONDS_PER_STEP_AND_BLOCK * (shape.depth + 2)
    return overhead + flops / (SHARE_OF_PRODUCT * product_rate(shape.width))


@functools.cache
def product_rate(width: int) -> float:
    """Measured FLOP/s of a (512, width) by (width, 4 width) fp32 product in numpy."""
    a = np.ones((512, width), np.float32)
    b = np.ones((width, 4 * width), np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * a.size * b.shape[1] / best


def check_memory(shape: Shape, params: Params, train: TrainConfig) -> None:
    """Refuse a run that cannot fit into the machine's memory.

    Raises:
        PlanError: Weights, optimiser and activations need more than there is.
    """
    if train.accelerator not in ("auto", "cpu"):
        return
    needed = memory_bytes(shape, params, train)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise PlanError(
            f"width {shape.width} and depth {shape.depth} need about {needed / 2**30:.1f} GiB to "
            f"train; this machine has {there / 2**30:.1f}. Choose a smaller shape or a smaller "
            "train.micro_batch_tokens."
        )


def memory_bytes(shape: Shape, params: Params, train: TrainConfig) -> int:
    """Weights, optimiser (with the trunk's copy) and activations of one forward pass [bytes]."""
    rows = train.micro_batch_tokens or train.batch_tokens
    inner = shape.heads * shape.head_dim
    per_token = shape.depth * (6 * shape.width + 8 * inner + 3 * shape.d_ff) + 3 * shape.vocab
    return 2 * BYTES_PER_PARAM * params.total + 4 * rows * per_token
