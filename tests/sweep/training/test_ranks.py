"""One run over two nodes, each a process of its own: as on one, and after the loss of one too."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from fit.data.records import read_runs
from fit.errors import PlanError
from sweep.planning.grid import compose_config
from sweep.training.loop import train
from sweep.training.ranks import VARIABLES, check_ranks, started_rank
from tests.sweep.training.test_devices import BATCH
from tests.sweep.training.test_loop import TINY, Quiet, trajectory

LENGTHS = ("train.tokens=[4e3,8e3]", *BATCH, "train.micro_batch_tokens=64")
NODES = ("train.devices=2", "train.nodes=2", "train.accelerator=cpu")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_nodes(folder, *words, per_node=1):
    """Two nodes of some processes each, with the environment that torchrun sets."""
    world = 2 * per_node
    devices = f"train.devices={world}"
    settings = dict(word.split("=", 1) for word in (*TINY, *NODES, *words, devices))
    given = [f"{key}={value}" for key, value in settings.items()]
    port, command = free_port(), [sys.executable, "-m", "sweep", *given]
    places = [
        {"RANK": str(rank), "WORLD_SIZE": str(world)}
        | {"LOCAL_RANK": str(rank % per_node), "LOCAL_WORLD_SIZE": str(per_node)}
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in range(world)
    ]
    return [
        subprocess.Popen(
            [*command, f"runs_dir={folder}"],
            env=os.environ | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in places
    ]


def ended(nodes):
    outputs = [node.communicate(timeout=600)[0] for node in nodes]
    return [node.returncode for node in nodes], outputs


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "per_node"), [("ddp", 1), ("fsdp", 1), ("hsdp", 2)])
def test_two_nodes_give_what_one_gives_also_after_one_was_killed(tmp_path, strategy, per_node):
    rows = f"train.batch_tokens={256 * per_node}"  # four for every rank
    longer = ("train.tokens=[2e4,4e4]", rows, *LENGTHS[2:])
    one = train(trajectory(*longer), tmp_path / "one", Quiet())
    words = (*longer, f"train.strategy={strategy}", "train.checkpoint_seconds=0")
    nodes = start_nodes(tmp_path, *words, per_node=per_node)
    kept = "state.pt" if strategy == "ddp" else "shards-*/.metadata"
    while not list(tmp_path.glob(f"tiny/.work-*/{kept}")):
        assert all(node.poll() is None for node in nodes), ended(nodes)
        time.sleep(0.01)
    nodes[-1].send_signal(signal.SIGKILL)
    codes, _ = ended(nodes)
    assert codes[0] != 0
    codes, outputs = ended(start_nodes(tmp_path, *words, per_node=per_node))
    assert not any(codes), outputs
    two = {r.run: r for r in read_runs(tmp_path / "tiny").records}
    assert set(two) == {r.run for r in one}
    for record in one:
        assert two[record.run].loss == pytest.approx(record.loss, abs=5e-4)
        assert two[record.run].device.startswith(f"{2 * per_node} x cpu")
    assert not list(tmp_path.glob("tiny/.work-*/state.pt"))
    again = start_nodes(tmp_path, *words, per_node=per_node)  # all done: nothing is trained again
    codes, outputs = ended(again)
    assert not any(codes), outputs


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_trunk_kept_by_two_nodes_serves_a_longer_run_on_one(tmp_path, strategy):
    words = (*LENGTHS, f"train.strategy={strategy}", "train.keep=trunk")
    codes, outputs = ended(start_nodes(tmp_path, *words))
    assert codes == [0, 0], outputs
    longer = ("train.tokens=6e4", *LENGTHS[1:])
    planned = trajectory(*longer, f"runs_dir={tmp_path}")
    assert planned.kept > 0
    (extended,) = train(planned, tmp_path, Quiet())
    (scratch,) = train(trajectory(*longer), tmp_path / "one", Quiet())
    assert extended.flops_spent < extended.flops
    assert extended.loss == pytest.approx(scratch.loss, abs=5e-4)


@pytest.mark.parametrize(
    ("world", "overrides", "multirun", "words"),
    [
        (None, NODES, False, "torchrun --nnodes 2 --nproc-per-node 1"),
        ("4", NODES, False, "train.devices=4"),
        ("2", (), False, "train.devices=2"),
        ("2", NODES, True, "leave out -m"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(monkeypatch, world, overrides, multirun, words):
    for name in VARIABLES:
        monkeypatch.setenv(name, "0") if world else monkeypatch.delenv(name, raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    config = compose_config([*TINY, *LENGTHS, *overrides])
    with pytest.raises(PlanError, match=words):
        check_ranks([config.train], multirun=multirun)


def test_without_torchrun_there_is_no_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert started_rank() is None
    check_ranks([compose_config(TINY).train], multirun=True)


@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (2, 2)])
def test_shards_within_a_node_need_several_devices_on_several_nodes(devices, nodes):
    words = [f"train.devices={devices}", f"train.nodes={nodes}", "train.strategy=hsdp"]
    with pytest.raises(PlanError, match="several of both"):
        compose_config([*TINY, *words])


def test_nodes_that_do_not_share_the_devices_evenly_are_refused():
    with pytest.raises(PlanError, match=r"train.nodes=2; a divisor of train.devices=3"):
        compose_config([*TINY, "train.devices=3", "train.nodes=2"])
