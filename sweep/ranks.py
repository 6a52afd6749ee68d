"""One run on several devices of a machine: a process per device, started and watched here.

Fabric's own launchers run the whole script again, or take DDP alone; inside a Hydra job, which is
itself one of many in a worker, neither serves. So the ranks are spawned here, meet through a file
(no port to be taken) and run the same function. If one of them stops, all are stopped, and what it
said is raised in the parent: ranks that wait for a lost one would wait for ever.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from fit.errors import PlanError

INTERRUPTED = 130
PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 10.0
"""Given to a rank between SIGTERM and SIGKILL."""


def in_ranks(work: Callable[[], None], *, devices: int, accelerator: str) -> None:
    """Run a function in one process per device, each a rank of one group; return when all have.

    Args:
        work: Can be pickled; called without arguments in every rank.
        devices: Number of ranks.
        accelerator: Fabric's name; decides the group's backend.

    Raises:
        PlanError: The machine has fewer devices, or of a kind that cannot work together.
        KeyboardInterrupt: A rank, or this process, was interrupted.
        Exception: What the first rank to fail raised, its traceback added as a note.
    """
    backend = _backend(devices, accelerator)
    with tempfile.TemporaryDirectory(prefix="isoflop-") as name:
        folder, context = Path(name), multiprocessing.get_context("spawn")
        ranks: list[BaseProcess] = [
            context.Process(target=_rank, args=(work, rank, devices, backend, folder))
            for rank in range(devices)
        ]
        try:
            for process in ranks:
                process.start()
            _watch(ranks)
        finally:
            _stop(ranks)
        _raise_first(folder, ranks)


def _backend(devices: int, accelerator: str) -> str:
    """Gloo between CPU processes, nccl between GPUs."""
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return "gloo"
    if accelerator not in ("auto", "cuda", "gpu"):
        raise PlanError(
            f"train.devices={devices} with train.accelerator={accelerator}; several devices work "
            "together on cpu and cuda. Set train.devices=1."
        )
    there = torch.cuda.device_count()
    if there < devices:
        raise PlanError(
            f"train.devices={devices}, and this machine shows {there} CUDA device"
            f"{'' if there == 1 else 's'}. Set train.devices to at most that, or "
            "train.accelerator=cpu."
        )
    return "nccl"


def _rank(
    work: Callable[[], None], rank: int, devices: int, backend: str, folder: Path
) -> None:  # pragma: no cover - in a process of its own
    """The main function of a rank."""
    _end_with_parent()
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    try:
        torch.distributed.init_process_group(
            backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=devices
        )
        work()
        torch.distributed.destroy_process_group()
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # crosses to the parent, which makes it a record
        _leave_word(folder / f"error-{rank}", error, rank)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # a group in disorder can block an ordinary exit


def _end_with_parent() -> None:
    """Linux: be killed when the parent is, so that no orphan goes on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_word(path: Path, error: Exception, rank: int) -> None:
    """Put an error where the parent finds it, with the time at which it came."""
    trace = f"in rank {rank}:\n{traceback.format_exc()}"
    try:
        raw = pickle.dumps((time.time(), error, trace))
        pickle.loads(raw)
    except Exception:  # an error that cannot be pickled goes as its words
        raw = pickle.dumps((time.time(), RuntimeError(f"{type(error).__name__}: {error}"), trace))
    path.write_bytes(raw)


def _watch(ranks: Sequence[BaseProcess]) -> None:
    """Wait until every rank is done, or one has failed."""
    while running := [p for p in ranks if p.exitcode is None]:
        multiprocessing.connection.wait([p.sentinel for p in running])
        if any(p.exitcode for p in ranks):
            return


def _stop(ranks: Sequence[BaseProcess]) -> None:
    """End whatever still runs; the first to fail keeps its exit code."""
    running = [p for p in ranks if p.pid is not None and p.exitcode is None]
    if running:
        time.sleep(0.2)  # whoever failed at the same moment leaves its own word
    for process in running:
        process.terminate()
    for process in running:
        process.join(PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()


def _raise_first(folder: Path, ranks: Sequence[BaseProcess]) -> None:
    """Raise what stopped the ranks, if anything did."""
    codes = [p.exitcode for p in ranks]
    if INTERRUPTED in codes:
        raise KeyboardInterrupt
    for rank, code in enumerate(codes):
        if code is not None and code < 0 and -code != signal.SIGTERM:
            raise RuntimeError(f"rank {rank} of {len(ranks)} was killed by signal {-code}")
    words = [pickle.loads(path.read_bytes()) for path in folder.glob("error-*")]
    if words:
        _, error, trace = min(words, key=lambda word: word[0])
        error.add_note(trace)
        raise error
    if any(codes):
        raise RuntimeError(f"the ranks ended with exit codes {codes}")
