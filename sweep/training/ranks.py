"""The ranks that torchrun has started: one run on the devices of several machines.

torchrun starts the same command once per device of every node and tells each process its place in
the environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. Any launcher that sets
these will do. Rank 0 then does all that a command does; the others follow it: they plan the same
cell, train with it and write nothing but their shards of a checkpoint.

What has a record is decided by rank 0 alone, since the others may look at another moment. If a rank
is lost, the collectives of the others fail, and torchrun ends what is left.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fit.errors import PlanError
from sweep.config import TrainConfig

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def started_rank() -> int | None:
    """This process's rank among those that torchrun started; None where it started none."""
    started = all(name in os.environ for name in VARIABLES)
    return int(os.environ["RANK"]) if started and int(os.environ["WORLD_SIZE"]) > 1 else None


def check_ranks(train: Sequence[TrainConfig], *, multirun: bool) -> None:
    """Compare the ranks that were started with what is to be trained.

    Raises:
        PlanError: They do not fit one another.
    """
    world = None if started_rank() is None else int(os.environ["WORLD_SIZE"])
    for config in train:
        if config.nodes > 1 and world is None:
            raise PlanError(
                f"train.nodes={config.nodes}, and no ranks were started on them. Start the command "
                f"on every node: torchrun --nnodes {config.nodes} --nproc-per-node "
                f"{config.devices // config.nodes} --rdzv-endpoint HOST:PORT --rdzv-backend c10d "
                "-m sweep ..."
            )
        if world is not None and world != config.devices:
            raise PlanError(
                f"{world} ranks were started and train.devices={config.devices}; both count the "
                f"devices of all nodes. Set train.devices={world}."
            )
    if world is not None and multirun:
        raise PlanError(
            "ranks that were started from outside train one cell; leave out -m, and start one "
            "command per cell. A list as in train.tokens=[1e9,2e9] is one cell."
        )


def join_ranks(train: TrainConfig, backend: str) -> None:
    """Join the group of the started ranks, once in a process; waits for all of them."""
    import torch

    if torch.distributed.is_initialized():
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", train.devices // train.nodes))
    os.environ["NODE_RANK"] = str(int(os.environ["RANK"]) // local)  # what Fabric reads
    torch.distributed.init_process_group(backend, init_method="env://")


def from_first_rank(value: Any) -> Any:
    """The value of rank 0, on every rank; all call it."""
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
