"""Devices: set-up of a process, memory and peak speed, and one run on several devices.

One run on several devices has one process, or rank, per device. DDP keeps the model on every
device; FSDP shards weights, gradients and moments (PyTorch's `fully_shard`, one group per block and
one for the rest), HSDP within each node, which has a copy. A state on disk is whole under DDP and
in shards otherwise (`sweep.training.sharded`); either way a run begun on two devices can be
finished on one.

`run_in_ranks` starts the ranks and watches them. Fabric's own launchers run the whole script again,
or support DDP alone; neither works inside a Hydra job, which is itself one of many in a worker. The
ranks meet through a file, so that no port is needed. If one of them stops, all are stopped, since
they would wait for the lost one for ever, and its error is raised in the parent.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing.connection
import os
import pickle
import platform
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from fit.data.accounting import device_peak
from fit.errors import PlanError
from sweep.config import SHARDED, Config, TrainConfig
from sweep.planning.devices import device_kind

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
INTERRUPTED = 130
PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 10.0
"""Time between SIGTERM and SIGKILL for a rank."""


@functools.cache
def prepare_process(threads: int) -> None:
    """Set up a worker process once: its number of threads, and an allocator that keeps pages.

    glibc returns every buffer above 128 kB to the system and faults its pages in again at the next
    step; keeping them saves a quarter of a small model's step on CPU (measured, docs/log.md).
    """
    if threads > 0:
        torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: of a GPU, or of the host, which only the message shows."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def free_cache(device: torch.device) -> None:
    """Release cached blocks of a GPU, so that smaller ones can be allocated from them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak of memory of this process; only Linux and CUDA support it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process since the reset: of the GPU, or resident on the host [bytes]."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_memory(device: torch.device) -> int | None:
    """Free memory of a GPU [bytes]; None elsewhere.

    What an earlier run of this process left is given back first: tensors in cycles that Python has
    not looked for yet, and what torch keeps for later, which the driver counts as taken.
    """
    if device.type != "cuda":
        return None
    gc.collect()
    free_cache(device)
    return int(torch.cuda.mem_get_info(device)[0])


def gpu_context_lost() -> bool:
    """Whether a failed kernel has made the GPU context of this process unusable.

    Every later call in the process would fail too; a new process would not.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def device_name(device: torch.device) -> str:
    """Name of a device, as records hold it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} of {os.cpu_count()} threads)"


@functools.cache
def peak_flops_per_second(device: torch.device, precision: str = "32-true") -> float | None:
    """Peak of matrix products: from data sheets for GPUs in bf16, measured on CPU; else None."""
    if device.type == "cuda":
        if not precision.startswith("bf16"):
            return None
        return device_peak(torch.cuda.get_device_name(device))
    return _measure_peak() if device.type == "cpu" else None


def _measure_peak(size: int = 768, repeats: int = 5) -> float:
    """Time a few fp32 products with the threads of a run (10 ms each); the best counts."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def check_planned_device(config: Config) -> None:
    """Refuse to train on another device than the one that a job was planned for.

    Raises:
        PlanError: The device is not here; or, where the plan found it by itself, there is another,
            which would train in another precision; or it has no bf16 arithmetic.
    """
    kind, precision = device_kind(config), config.train.precision
    found = available_device()
    named = config.train.accelerator != "auto"
    if found != kind and not (named and kind == "cpu"):
        raise PlanError(
            f"the runs were planned for {kind} in {precision}, and torch finds {found} here "
            f"({platform.node()}); a worker with {kind} is needed, or a plan for what it has: "
            f"train.accelerator={found}."
        )
    if kind == "cuda" and precision.startswith("bf16"):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise PlanError(
                f"the runs were planned in {precision}, and {torch.cuda.get_device_name()} has no "
                "bf16 arithmetic; a newer GPU is needed, or train.precision=32-true."
            )


def available_device() -> str:
    """Kind of the device that torch finds here: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def open_fabric(train: TrainConfig, device: str) -> Any:
    """Open Fabric as configured; with several devices, for one rank of the group.

    Args:
        train: Settings.
        device: Kind of the device that the run was planned for.

    Returns:
        A launched `lightning.fabric.Fabric`.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    fabric = Fabric(
        accelerator=device,
        devices=train.devices // train.nodes,
        num_nodes=train.nodes,
        strategy=_strategy(train) if train.devices > 1 else "auto",
        precision=train.precision,  # type: ignore[arg-type]
        plugins=[LightningEnvironment()],  # not Slurm's: `run_in_ranks` starts the ranks
    )
    fabric.launch()
    return fabric


def _strategy(train: TrainConfig) -> Any:
    """The strategy of several devices: ddp unless sharding is configured."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    if train.strategy not in SHARDED:
        return "ddp"
    copies = train.nodes if train.strategy == "hsdp" else 1
    return ModelParallelStrategy(
        parallelize_fn=functools.partial(_shard, copies=copies),
        data_parallel_size=train.devices,
        tensor_parallel_size=1,
    )


def _shard(model: nn.Module, mesh: Any, copies: int) -> nn.Module:
    """Shard the blocks of a model, then the rest of it, over all ranks or those of each copy."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    ranks = mesh["data_parallel"]
    if copies > 1:
        shape = copies, ranks.size() // copies
        names = "copies", "shards"
        ranks = init_device_mesh(mesh.device_type, shape, mesh_dim_names=names)
    for block in cast(nn.ModuleList, model.blocks):
        fully_shard(block, mesh=ranks)
    fully_shard(model, mesh=ranks)
    register_fsdp_forward_method(model, "token_losses")
    register_fsdp_forward_method(model, "token_results")
    return model


def mean_over_ranks(fabric: Any, value: Tensor) -> Tensor:
    """Mean of a tensor over all ranks."""
    if fabric.world_size == 1:
        return value
    return cast(Tensor, fabric.all_reduce(value.clone(), reduce_op="mean"))


def broadcast_choice(fabric: Any, choice: bool) -> bool:
    """The choice of rank 0, broadcast to all: every rank calls it.

    Clocks differ between ranks, and what all must do together can be decided only once.
    """
    return choice if fabric.world_size == 1 else bool(fabric.broadcast(choice))


def gather_rows(fabric: Any, local: Tensor, count: int) -> Tensor:
    """Gather rows that were distributed over the ranks, in their original order.

    Args:
        fabric: Group of the ranks.
        local: Rows r, r + ranks, ... of rank r, padded to the same number on every rank.
        count: Rows in all.
    """
    if fabric.world_size == 1:
        return local
    local = local.to(fabric.device)
    parts = [torch.empty_like(local) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(parts, local)
    return torch.stack(parts, 1).flatten(0, 1)[:count].cpu()


def gather_state(value: Any) -> Any:
    """Gather every sharded tensor of a nested state; every rank calls it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {k: gather_state(v) for k, v in value.items()}
    return value


def load_model(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load weights, whole or sharded, into a module of any strategy."""
    present = module.state_dict()
    module.load_state_dict({k: _shard_like(v, present[k]) for k, v in state.items()})


def load_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load the state of an optimiser, whole or sharded; moments are sharded as their parameters.

    Only what training changed is loaded. Rates and switches of the groups (`fused`, `capturable`)
    are those of the present plan and device: a checkpoint of a CPU may go on on a GPU.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            name: _shard_like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor as another one is."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def run_in_ranks(work: Callable[[], None], *, devices: int, device: str) -> None:
    """Run a function in one process per device, each a rank of one group; wait for all.

    Args:
        work: Can be pickled; called without arguments in every rank.
        devices: Number of ranks.
        device: Kind of the devices; decides the group's backend.

    Raises:
        PlanError: The machine has fewer devices, or they cannot form a group.
        KeyboardInterrupt: A rank, or this process, was interrupted.
        Exception: The error of the first rank that failed, with its traceback as a note.
    """
    backend = group_backend(devices, device)
    with tempfile.TemporaryDirectory(prefix="isoflop-") as name:
        folder, context = Path(name), multiprocessing.get_context("spawn")
        ranks: list[BaseProcess] = [
            context.Process(target=_rank, args=(work, rank, devices, backend, folder))
            for rank in range(devices)
        ]
        try:
            for process in ranks:
                process.start()
            _wait_for_ranks(ranks)
        finally:
            _stop_ranks(ranks)
        _raise_first(folder, ranks)


def group_backend(devices: int, device: str) -> str:
    """The communication backend: gloo between CPU processes, nccl between GPUs."""
    if device == "cpu":
        return "gloo"
    if device != "cuda":
        raise PlanError(
            f"train.devices={devices} with train.accelerator={device}; one run on several "
            "devices needs cpu or cuda. Set train.devices=1."
        )
    available = torch.cuda.device_count()
    if available < devices:
        raise PlanError(
            f"train.devices={devices}, and this machine shows {available} CUDA device"
            f"{'' if available == 1 else 's'}. Set train.devices to at most that, or "
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
    except Exception as error:  # is raised in the parent, which makes a record of it
        _write_error(folder / f"error-{rank}", error, rank)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # an ordinary exit can hang in a group that lost a rank


def _end_with_parent() -> None:
    """Have Linux kill this process with its parent, so that no orphan goes on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _write_error(path: Path, error: Exception, rank: int) -> None:
    """Write an error to a file that the parent reads, with its time."""
    trace = f"in rank {rank}:\n{traceback.format_exc()}"
    try:
        raw = pickle.dumps((time.time(), error, trace))
        pickle.loads(raw)
    except Exception:  # errors that cannot be pickled are passed as text
        raw = pickle.dumps((time.time(), RuntimeError(f"{type(error).__name__}: {error}"), trace))
    path.write_bytes(raw)


def _wait_for_ranks(ranks: Sequence[BaseProcess]) -> None:
    """Wait until every rank is done, or one has failed.

    The exit codes are read once a turn: that of a rank whose sentinel has fired may come later.
    """
    while None in (codes := [p.exitcode for p in ranks]) and not any(codes):
        pending = [p for p, code in zip(ranks, codes, strict=True) if code is None]
        multiprocessing.connection.wait([p.sentinel for p in pending])


def _stop_ranks(ranks: Sequence[BaseProcess]) -> None:
    """End the ranks that still run; the first to fail keeps its exit code."""
    running = [p for p in ranks if p.pid is not None and p.exitcode is None]
    if running:
        time.sleep(0.2)  # lets ranks that fail at the same moment write their errors
    for process in running:
        process.terminate()
    for process in running:
        process.join(PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()


def _raise_first(folder: Path, ranks: Sequence[BaseProcess]) -> None:
    """Raise the error that stopped the ranks, if there is one."""
    codes = [p.exitcode for p in ranks]
    if INTERRUPTED in codes:
        raise KeyboardInterrupt
    for rank, code in enumerate(codes):
        if code is not None and code < 0 and -code != signal.SIGTERM:
            raise RuntimeError(f"rank {rank} of {len(ranks)} was killed by signal {-code}")
    errors = [pickle.loads(path.read_bytes()) for path in folder.glob("error-*")]
    if errors:
        _, error, trace = min(errors, key=lambda entry: entry[0])
        error.add_note(trace)
        raise error
    if any(codes):
        raise RuntimeError(f"the ranks ended with exit codes {codes}")
