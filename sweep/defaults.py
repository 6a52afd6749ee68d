"""Switches that follow from a run's size and its device, without torch: what is measured to pay."""

from __future__ import annotations

import os
import shutil

from fit.accounting import Params, Shape
from sweep.config import Compile, Graphs, TrainConfig
from sweep.cost import activation_bytes, seconds, state_bytes
from sweep.plan import Trajectory

COMPILE_SECONDS = 40.0
"""Trajectories estimated longer are compiled on CPU: compiling takes 10-20 s cold, 2 s from torch's
disk cache, and saves a third of the time."""

GRAPH_PARAMS = 3e7
"""Models up to this size are replayed as CUDA graphs. From the arithmetic of launches, not yet
measured: 300 kernels of 5 us are 1.5 ms, which 30M parameters fill at 16,000 tokens a step."""
FREE_SHARE = 0.8
"""Of a GPU's free memory that activations may take."""


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
    long = seconds(trajectory.shape, flops) > COMPILE_SECONDS
    return long and shutil.which("g++") is not None


def wants_graphs(train: TrainConfig, trajectory: Trajectory, device: str) -> bool:
    """Whether to capture whole steps: as asked, or on one GPU for small dense models."""
    if device != "cuda" or train.devices > 1 or trajectory.shape.experts:
        return False
    small = trajectory.params.total <= GRAPH_PARAMS
    return train.graphs is Graphs.on or (train.graphs is Graphs.auto and small)


def rows_that_fit(shape: Shape, params: Params, free_bytes: float) -> int:
    """Rows of one forward pass that a device's free memory can take, a power of two.

    Args:
        shape: Of the model.
        params: Its counts; their optimiser state is set aside.
        free_bytes: Free memory before anything of the model is on the device.
    """
    room = FREE_SHARE * (free_bytes - state_bytes(params))
    rows = int(max(1.0, room / (activation_bytes(shape) * shape.seq_len)))
    return 1 << (rows.bit_length() - 1)
