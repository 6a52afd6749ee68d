"""What a machine is and can do: threads, allocator, measured and published peaks."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import time
from contextlib import suppress
from pathlib import Path

import torch

DENSE_BF16_PEAK = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2.25e15,
    "MI300X": 1.3e15,
}
"""Dense bf16 FLOP/s by vendors' data sheets (they print twice that for sparse matrices); the first
name that a device's holds counts."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@functools.cache
def prepare_process(threads: int) -> None:
    """Set up a worker process once: threads of a run, and an allocator that keeps its pages.

    glibc returns every buffer above 128 kB to the system and faults its pages in again at the next
    step; keeping them saves a quarter of a small model's step on CPU (measured, docs/log.md).
    """
    if threads > 0:
        torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, or, told by the message alone, the machine's."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def free_cache(device: torch.device) -> None:
    """Give cached blocks back, so that smaller ones can be cut from them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Begin to watch the most memory that this process holds; Linux and CUDA alone can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """The most that this process held since: of the device, or resident on the machine [bytes]."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_memory(device: torch.device) -> int | None:
    """Free memory of a GPU [bytes]; None elsewhere."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def poisoned() -> bool:
    """Whether a failed kernel has made this process's GPU context useless, as after an assert.

    Every later call in the process would fail like the first; a fresh process would not.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def device_name(device: torch.device) -> str:
    """A device as it stands in a record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} of {os.cpu_count()} threads)"


@functools.cache
def peak_flops_per_second(device: torch.device, precision: str = "32-true") -> float | None:
    """Matrix-multiply ceiling: the data sheet's on known GPUs in bf16, measured on CPU; or None."""
    if device.type == "cuda":
        if not precision.startswith("bf16"):
            return None
        name = torch.cuda.get_device_name(device)
        return next((peak for key, peak in DENSE_BF16_PEAK.items() if key in name), None)
    return _measured_peak() if device.type == "cpu" else None


def _measured_peak(size: int = 768, repeats: int = 5) -> float:
    """Best of a few fp32 products with the threads of a run (10 ms each)."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
