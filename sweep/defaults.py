"""Switches that follow from a run's size and its device, without torch: what is measured to pay."""

from __future__ import annotations

import os
import shutil

from sweep.config import Compile, TrainConfig
from sweep.cost import seconds
from sweep.plan import Trajectory

COMPILE_SECONDS = 40.0
"""Trajectories estimated longer are compiled on CPU: compiling takes 10-20 s cold, 2 s from torch's
disk cache, and saves a third of the time."""


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
