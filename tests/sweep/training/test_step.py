"""The parts of an optimiser step, by doubles of what a GPU does."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from fit.errors import PlanError
from sweep.planning.grid import compose_config
from sweep.training import session as session_module
from sweep.training.session import Session
from sweep.training.step import FEED_ROWS, BatchFeed, SingleDeviceStepper
from tests.sweep.training.test_loop import trajectory

ROWS = torch.arange(6 * 33).view(6, 33) % 50


class Source:
    """Rows that hold their own number; it notes what is read, and in which thread."""

    def __init__(self):
        self.reads = []

    def train(self, start, count):
        self.reads.append((threading.current_thread().name.split("_")[0], start, count))
        return np.repeat(np.arange(start, start + count, dtype=np.int32)[:, None], 3, axis=1)


@pytest.mark.parametrize("reads_ahead", [True, False])
@pytest.mark.parametrize(
    "batches", [[24] * 300, [2048] * 4, [3000] * 4, range(1, 150), [100, 5000, 7, 2048, 2048]]
)
def test_the_next_block_is_read_while_this_one_trains_at_any_batch(batches, reads_ahead):
    feed = BatchFeed(source=Source(), device=torch.device("cpu"), reads_ahead=reads_ahead)
    start = 0
    for count in batches:
        rows = feed.rows(start, count)
        assert rows.dtype == torch.int64 and rows.shape == (count, 3)
        assert torch.equal(rows[:, 0], torch.arange(start, start + count))
        start += count
    feed.close()
    reads = feed.source.reads
    waited = [read for read in reads if read[0] != "feed"]
    # A batch larger than any before it may be larger than the block that was read ahead.
    grew = sum(FEED_ROWS < b > max(batches[:i], default=0) for i, b in enumerate(batches))
    assert len(waited) <= 1 + grew if reads_ahead else waited == reads


def test_a_feed_goes_back_to_the_branching_point():
    feed = BatchFeed(source=Source(), device=torch.device("cpu"), reads_ahead=True)
    for start in (0, 3000, 6000, 3000, 3010, 0):
        assert torch.equal(feed.rows(start, 10)[:, 0], torch.arange(start, start + 10))
    feed.close()


class Replayed(torch.nn.Module):
    """A double of a CUDA graph: each call overwrites what the call before it returned."""

    def __init__(self, module):
        super().__init__()
        self.module, self.last = module, None

    def forward(self, *inputs):
        if self.last is not None:
            self.last.data.fill_(float("nan"))
        self.last = self.module(*inputs)
        return self.last


def stepper_of(session, forward, *, graphs):
    return SingleDeviceStepper(
        forward, session.optimizer.optimizer, session.fabric, 1.0, graphs=graphs
    )


def test_losses_and_gradients_outlive_the_buffers_of_a_graph():
    plain, replayed = (Session.open(trajectory("train.tokens=3e3")) for _ in range(2))
    ours = stepper_of(replayed, Replayed(replayed.module), graphs=True)
    theirs = stepper_of(plain, plain.module, graphs=False)
    places = [p.grad.data_ptr() for p in ours.parameters]
    for _ in range(3):
        results = []
        for stepper in (ours, theirs):
            stepper.set_rate(1.0)
            losses = stepper.accumulate_gradients(ROWS, 2, 1e-4)
            results.append([float(loss) for loss, _ in losses] + [float(stepper.update())])
        assert results[0] == results[1] and len(results[0]) == 4
    # Gradients are added to buffers of our own, never taken from those that the next call reuses.
    assert [p.grad.data_ptr() for p in ours.parameters] == places
    assert not any(p.grad.any() for p in ours.parameters)


@pytest.mark.parametrize("depth", [1, 3])
def test_torch_itself_makes_the_graphs_of_reduce_overhead(monkeypatch, depth):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda module, **how: modes.append(how) or module)
    module = Session.open(trajectory(f"model.depth={depth}", "train.tokens=3e3")).module
    for graphs in (True, False):
        session_module.compile_module(module, torch.device("cpu"), graphs=graphs)
    count = len(modes) // 2
    assert modes == [{"mode": "reduce-overhead"}] * count + [{"mode": None}] * count


def test_graphs_on_several_devices_are_refused():
    with pytest.raises(PlanError, match="train.devices=1"):
        compose_config(["train.compile=reduce_overhead", "train.devices=2"])


@pytest.mark.parametrize("word", ["train.graphs=off", "++train.graphs=auto"])
def test_a_setting_that_was_removed_says_what_is_there_instead(word):
    with pytest.raises(PlanError, match="no longer a setting.*train.compile=reduce_overhead"):
        compose_config([word])
