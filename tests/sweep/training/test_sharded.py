"""Sharded checkpoints of one process: what is split is joined, unfinished ones are passed over."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from fit.errors import RecordError
from sweep.training.checkpoint import TrainState
from sweep.training.sharded import (
    is_sharded,
    load_shards,
    newest_shards,
    next_folder,
    save_shards,
)


@pytest.fixture
def group(tmp_path):
    """A group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield torch.distributed.new_group(backend="gloo")
    torch.distributed.destroy_process_group()


def sharded_state():
    mesh = init_device_mesh("cpu", (1,))
    weight = distribute_tensor(torch.arange(12.0).reshape(4, 3), mesh, [Shard(0)])
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": weight + 1}}
    state = TrainState(
        position=96,
        model={"weight": weight},
        optimizer={"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]},
        curve=[(96.0, 2.0, 0.1, 1.0)],
        losses=[(torch.tensor(1.5), 4)],
    )
    state.trunk = TrainState(position=64, model={"weight": weight * 2}, optimizer=state.optimizer)
    return state


def test_what_is_written_in_shards_is_read_whole_or_sharded(tmp_path, group):
    state = sharded_state()
    assert is_sharded(state)
    save_shards(next_folder(tmp_path), state, group, first=True)
    folder = newest_shards(tmp_path)
    module = torch.nn.Linear(3, 4, bias=False)
    read = load_shards(folder, module, torch.optim.AdamW(module.parameters()))
    whole = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(read.model["weight"], whole)
    assert not isinstance(read.model["weight"], DTensor)
    assert torch.equal(read.optimizer["state"][0]["exp_avg"], whole + 1)
    assert float(read.optimizer["state"][0]["step"]) == 7
    assert (read.position, read.curve) == (96, state.curve)
    assert torch.equal(read.trunk.model["weight"], 2 * whole)
    assert read.optimizer["param_groups"] == state.optimizer["param_groups"]

    mesh = init_device_mesh("cpu", (1,))
    module.weight = torch.nn.Parameter(distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)]))
    again = load_shards(folder, module, torch.optim.AdamW(module.parameters()))
    assert isinstance(again.model["weight"], DTensor)
    assert torch.equal(again.model["weight"].full_tensor(), whole)


def test_the_newest_finished_checkpoint_counts_and_replaces_those_before(tmp_path, group):
    for _ in range(2):
        save_shards(next_folder(tmp_path), sharded_state(), group, first=True)
    assert [p.name for p in tmp_path.glob("shards-*")] == ["shards-2"]
    (tmp_path / "shards-3").mkdir()  # killed before its last file
    assert newest_shards(tmp_path).name == "shards-2"
    assert next_folder(tmp_path).name == "shards-4"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, group):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="every node"):
        save_shards(tmp_path / "file" / "shards-1", sharded_state(), group, first=True)
