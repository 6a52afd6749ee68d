"""The device that runs are planned for, found without torch, and the precision that follows.

`resolve_device` fills in what a configuration leaves to the plan: `planned_device`, and a
`train.precision` that is `auto`. Precision is part of a run's identity, so it is decided once, by
the plan, and handed to the workers with the data's hash (`sweep.launch.jobs.pin_plan`).

A plan is often made where no run is trained: on a login node, or for another machine. What
`train.accelerator` says therefore decides; only where it is `auto` is this machine looked at.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from sweep.config import Config

BF16_CAPABILITY = (8, 0)
"""Least compute capability of NVIDIA GPUs with bf16 arithmetic (Ampere)."""


def resolve_device(config: Config) -> Config:
    """The configuration with the device that it is planned for, and no precision left open."""
    kind, precision = device_kind(config), config.train.precision
    if precision == "auto":
        precision = "bf16-mixed" if kind == "cuda" and _bf16_expected() else "32-true"
    if (kind, precision) == (config.planned_device, config.train.precision):
        return config
    return dataclasses.replace(
        config,
        planned_device=kind,
        train=dataclasses.replace(config.train, precision=precision),
    )


def device_kind(config: Config) -> str:
    """The device that a run is planned for, as torch names it: cpu, cuda or mps."""
    accelerator = config.train.accelerator
    if accelerator == "gpu":
        return "mps" if sys.platform == "darwin" else "cuda"
    if accelerator != "auto":
        return accelerator
    return config.planned_device or found_device()


def found_device() -> str:
    """The device that torch would take on this machine, without the seconds of importing it."""
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    if _hidden(os.environ.get("CUDA_VISIBLE_DEVICES")) or _torch_for_cpu_only():
        return "cpu"
    capabilities = nvml_capabilities()
    if capabilities is None:  # no library of the driver: by device files, whatever their number
        found = any(Path("/dev").glob("nvidia[0-9]*"))
    else:
        found = bool(capabilities)
    return "cuda" if found or Path("/dev/kfd").exists() else "cpu"


def _hidden(visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs: by "", "-1", or Slurm's "NoDevFiles"."""
    if visible is None:
        return False
    first = visible.split(",")[0].strip()
    return not (first.isdecimal() or first.startswith(("GPU-", "MIG-")))


def _bf16_expected() -> bool:
    """Whether GPUs have bf16 arithmetic: those of this machine, or any where it has none."""
    capabilities = nvml_capabilities()
    return not capabilities or max(capabilities) >= BF16_CAPABILITY


def _torch_for_cpu_only() -> bool:
    """Whether the installed torch was built without CUDA, as its version tells."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:  # on a login node, perhaps
        return False


@functools.cache
def nvml_capabilities() -> list[tuple[int, int]] | None:
    """Compute capabilities of the NVIDIA GPUs that this process may use, by the driver's NVML.

    Unlike CUDA, NVML may be asked in a process that forks afterwards.

    Returns:
        One per GPU; None where the driver's library is not installed.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return []
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    found = []
    for index in range(count.value):
        device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            continue  # of another container
        nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
        found.append((major.value, minor.value))
    nvml.nvmlShutdown()
    return found
