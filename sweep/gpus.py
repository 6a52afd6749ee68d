"""GPUs of a machine shared out among the worker processes of launchers that hand out none.

Slurm and Ray give each job its own GPUs. joblib and submitit_local do not: their workers take a
slot, a locked file per GPU and share of it, and keep to that GPU. The lock goes with the process.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sweep.config import TrainConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT_SECONDS = 0.5


@contextmanager
def gpu_slot(train: TrainConfig) -> Iterator[None]:
    """Hold a share of one GPU, which becomes the only one that this process sees.

    A process that has touched a GPU stays with it; where all shares of it are taken, it waits.
    Does nothing without GPUs, for runs over several of them, and under Slurm or Ray.
    """
    names = visible_gpus() if wants_slot(train) else []
    if not names:
        yield
        return
    handle = _taken(names, train.runs_per_gpu)
    try:
        yield
    finally:
        handle.close()


def wants_slot(train: TrainConfig) -> bool:
    """Whether this process is to share a GPU by locks."""
    local = "LOKY_PARENT_PID" in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local"
    return local and train.devices == 1 and train.accelerator in ("auto", "cuda", "gpu")


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without initialising any."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _taken(names: list[str], shares: int, folder: Path | None = None) -> IO[bytes]:
    """Wait for a free share of a GPU; sets the environment, returns the lock."""
    folder = folder or Path(tempfile.gettempdir()) / f"isoflop-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for share in range(shares):
            for name in names:
                handle = (folder / f"{name.replace('/', '-')}.{share}").open("wb")
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    handle.close()
                    continue
                os.environ[VISIBLE] = name
                return handle
        time.sleep(WAIT_SECONDS)
