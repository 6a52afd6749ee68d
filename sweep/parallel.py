"""Several devices as one: strategies, sums over ranks, and states that are whole.

DDP keeps the model on every device; FSDP shards weights, gradients and moments (PyTorch's
`fully_shard`, one group per block and one for the rest). A state on disk is always whole and the
same under either, so that a run begun on two devices can be finished on one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sweep.checkpoint import State
from sweep.config import TrainConfig


def open_fabric(train: TrainConfig) -> Any:
    """Fabric as the recipe asks for it; on several devices, for one rank of a group.

    Returns:
        A launched `lightning.fabric.Fabric`.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    fabric = Fabric(
        accelerator=train.accelerator,
        devices=train.devices,
        strategy=_strategy(train) if train.devices > 1 else "auto",
        precision=train.precision,  # type: ignore[arg-type]
        plugins=[LightningEnvironment()],  # Slurm's mere presence is no matter: the ranks are ours
    )
    fabric.launch()
    return fabric


def _strategy(train: TrainConfig) -> Any:
    """Fabric's strategy by name."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    if train.strategy != "fsdp":
        return "ddp"
    return ModelParallelStrategy(
        parallelize_fn=_shard, data_parallel_size=train.devices, tensor_parallel_size=1
    )


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Shard a model's blocks, then the rest of it."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    ranks = mesh["data_parallel"]
    for block in cast(nn.ModuleList, model.blocks):
        fully_shard(block, mesh=ranks)
    fully_shard(model, mesh=ranks)
    register_fsdp_forward_method(model, "token_losses")
    return model


def mean(fabric: Any, value: Tensor) -> Tensor:
    """Mean of a tensor over the ranks."""
    if fabric.world_size == 1:
        return value
    return cast(Tensor, fabric.all_reduce(value.clone(), reduce_op="mean"))


def agreed(fabric: Any, choice: bool) -> bool:
    """What rank 0 chose: clocks differ between ranks, and whatever is done together is chosen once.

    Every rank calls it.
    """
    return choice if fabric.world_size == 1 else bool(fabric.broadcast(choice))


def gather_rows(fabric: Any, own: Tensor, count: int) -> Tensor:
    """Rows that the ranks computed in turn, back in order.

    Args:
        fabric: The ranks.
        own: What rank r has of rows r, r + ranks, ..., padded to the same number on every rank.
        count: Rows in all.
    """
    if fabric.world_size == 1:
        return own
    own = own.to(fabric.device)
    parts = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(parts, own)
    return torch.stack(parts, 1).flatten(0, 1)[:count].cpu()


def whole(value: Any) -> Any:
    """A state with every sharded tensor gathered; every rank calls it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {k: whole(v) for k, v in value.items()}
    return value


def whole_state(state: State) -> State:
    """A state to be written, every sharded tensor gathered; every rank calls it."""
    return dataclasses.replace(
        state,
        model=whole(state.model),
        optimizer=whole(state.optimizer),
        trunk=None if state.trunk is None else whole_state(state.trunk),
    )


def load_model(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load weights, whole or sharded, into a module of any strategy."""
    own = module.state_dict()
    module.load_state_dict({k: _placed(v, own[k]) for k, v in state.items()})


def load_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load an optimiser's state, whole or sharded; moments lie as their parameters do."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            name: _placed(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in own.items()
        }
        for index, own in state["state"].items()
    }
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """A tensor sharded as another one is."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
