"""Checkpoints of a sharded model: every rank writes its own shard and reads what it needs.

A checkpoint is a folder `shards-N` of `torch.distributed.checkpoint`, in which every tensor that is
sharded over the ranks has its parts in the files of the ranks that hold them; what is not sharded
(position, curve, step counts) is in `rest.pt`, written by rank 0. The file `.metadata` is written
last: a folder without it is unfinished and passed over. No rank ever holds the whole model.

A later run may have another number of ranks, or one device: each reads the parts that overlap its
own. All ranks must see the same folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, empty

from fit.errors import RecordError
from sweep.training.checkpoint import TrainState, state_from_dict, state_to_dict

METADATA = ".metadata"
REST = "rest.pt"
PATTERN = "shards-*"


def is_sharded(state: TrainState) -> bool:
    """Whether the model of a state is sharded over the ranks."""
    return any(isinstance(value, DTensor) for value in state.model.values())


def newest_shards(work: Path) -> Path | None:
    """The newest finished sharded checkpoint in a working folder; None if there is none."""
    whole = [p for p in work.glob(PATTERN) if (p / METADATA).exists()]
    return max(whole, key=_number, default=None)


def next_folder(work: Path) -> Path:
    """The folder of the next sharded checkpoint; equal on all ranks that see one file system."""
    return work / f"shards-{max(map(_number, work.glob(PATTERN)), default=0) + 1}"


def _number(folder: Path) -> int:
    """The number in a folder's name."""
    return int(folder.name.removeprefix("shards-"))


def save_shards(folder: Path, state: TrainState, group: Any, *, first: bool) -> None:
    """Write this rank's shard of a state; every rank calls it, perhaps in a thread.

    Args:
        folder: From `next_folder`, the same on every rank.
        state: A copy on the host, which nothing changes.
        group: A gloo group of all ranks that nothing else uses at the time.
        first: Whether this is rank 0, which writes the rest and removes earlier checkpoints.

    Raises:
        RecordError: A rank could not write.
    """
    try:
        sharded, rest = split_shards(state_to_dict(state))
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / REST).open("wb") as stream:
                torch.save(rest, stream)
                stream.flush()
                os.fsync(stream.fileno())
        save(sharded, checkpoint_id=folder, process_group=group)
        if first:
            for other in folder.parent.glob(PATTERN):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
    except Exception as error:  # an error of any rank reaches all as dcp's own type
        raise RecordError(
            f"cannot write the checkpoint {folder}: {error}. The folder must be writable on every "
            "node and have space: free some space, or set another runs_dir."
        ) from error


def load_shards(folder: Path, module: nn.Module, optimizer: Any) -> TrainState:
    """Read a sharded checkpoint; where there are several ranks, all of them call it.

    Args:
        folder: From `newest_shards`.
        module: What is read is sharded as its parameters now are, or whole where they are.
        optimizer: Of the module.

    Raises:
        Exception: The folder is damaged.
    """
    rest = torch.load(folder / REST, map_location="cpu", weights_only=True)
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    weights = module.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    wanted: dict[str, Tensor] = {}
    for key in _references(rest):
        kind, name = key.removeprefix("trunk.").split(".", 1)
        present = weights[name] if kind == "model" else parameters[int(name.split(".")[1])]
        wanted[key] = _empty_like(present, stored[key])
    load(wanted, checkpoint_id=folder)
    return state_from_dict(_join(rest, wanted))


def _empty_like(present: Tensor, stored: Any) -> Tensor:
    """An empty tensor of a stored size, sharded as one in use is; whole on the host otherwise."""
    size, dtype = tuple(stored.size), stored.properties.dtype
    if not isinstance(present, DTensor):
        return torch.empty(size, dtype=dtype)
    return empty(size, dtype=dtype, device_mesh=present.device_mesh, placements=present.placements)


def split_shards(document: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a nested state into its sharded tensors, by their path, and the rest.

    In the rest a sharded tensor is replaced by `{"shard": path}`.
    """
    sharded: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, DTensor):
            sharded[path] = value
            return {"shard": path}
        if isinstance(value, Mapping):
            return {k: walk(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
        return value

    rest: dict[str, Any] = walk(document, "")
    return sharded, rest


def _references(rest: Any) -> list[str]:
    """Paths of the sharded tensors that a rest refers to."""
    if not isinstance(rest, Mapping):
        return []
    if rest.keys() == {"shard"}:
        return [str(rest["shard"])]
    return [path for value in rest.values() for path in _references(value)]


def _join(rest: Any, sharded: Mapping[str, Tensor]) -> Any:
    """Inverse of `split_shards`."""
    if not isinstance(rest, Mapping):
        return rest
    if rest.keys() == {"shard"}:
        return sharded[rest["shard"]]
    return {k: _join(v, sharded) for k, v in rest.items()}
