"""The device that runs are planned for, found without torch, and the precision that follows.

`resolve_device` fills in what a configuration leaves to the plan: `planned_device`, and a
`train.precision` that is `auto`. Precision is part of a run's identity, so it is decided once, by
the plan, and handed to the workers with the data's hash (`sweep.launch.jobs.pin_plan`).

A plan is often made where no run is trained: on a login node, or for another machine. What
`train.accelerator` says therefore decides, and where it is `auto` the launcher that asks for GPUs;
only else is this machine looked at.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.config import Config

BF16_CAPABILITY = (8, 0)
"""Least compute capability of NVIDIA GPUs with bf16 arithmetic (Ampere)."""
CPUS_PER_GPU = 4
"""Least CPU threads for a GPU in a Slurm job: they train, read rows ahead and write checkpoints."""


def resolve_device(config: Config, *, on_gpus: bool = False, bf16: bool | None = None) -> Config:
    """The configuration with the device that it is planned for, and no precision left open.

    Args:
        config: Of a job.
        on_gpus: Whether its launcher asks for GPUs (`asks_for_gpus`), whatever this machine has.
        bf16: Whether the device has bf16 arithmetic; None asks the GPUs of this machine.
    """
    train, kind = config.train, device_kind(config)
    if on_gpus and train.accelerator == "auto" and config.planned_device is None:
        kind = "cuda"
    precision = train.precision
    if precision == "auto":
        bf16 = _bf16_expected() if bf16 is None else bf16
        precision = "bf16-mixed" if kind == "cuda" and bf16 else "32-true"
    if (kind, precision) == (config.planned_device, train.precision):
        return config
    return dataclasses.replace(
        config, planned_device=kind, train=dataclasses.replace(train, precision=precision)
    )


def asks_for_gpus(launcher: Mapping[str, Any]) -> bool:
    """Whether the settings of a Hydra launcher ask a cluster for GPUs.

    Slurm: gpus_per_node, gpus_per_task or gres, also in `additional_parameters`; Ray: num_gpus.
    What is launched on this machine trains on what is found here.
    """
    if str(launcher.get("_target_")).endswith(".LocalLauncher"):
        return False
    slurm = (launcher, launcher.get("additional_parameters") or {})
    ray = (launcher.get("ray") or {}).get("remote") or {}
    named = [part.get(n) for part in slurm for n in ("gpus", "gpus_per_node", "gpus_per_task")]
    listed = [entry for part in slurm for entry in str(part.get("gres") or "").split(",")]
    return any(
        _above_zero(count)
        for count in (*named, ray.get("num_gpus"), *(e for e in listed if "gpu" in e))
        if count is not None
    )


def job_cpus(threads: int, devices: int, *, _parent_: Mapping[str, Any]) -> int:
    """CPU threads of a job with the settings of a launcher, `conf/hydra/launcher/slurm.yaml`."""
    return max(CPUS_PER_GPU if asks_for_gpus(_parent_) else 1, threads) * devices


def _above_zero(count: Any) -> bool:
    """Whether a number of GPUs as Slurm reads it (2, a100:2, gpu:a100) is more than none."""
    try:
        return float(str(count).rpartition(":")[2]) > 0
    except ValueError:  # a type alone is one of it
        return True


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
