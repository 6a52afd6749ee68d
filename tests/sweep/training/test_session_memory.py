"""What a finished trajectory leaves in memory: nothing, also before Python looks for cycles."""

from __future__ import annotations

import functools
import gc
import importlib
import weakref

import pytest
import torch

from sweep.training import devices
from sweep.training.loop import train
from sweep.training.session import Session
from sweep.training.timing import measure_timing
from tests.sweep.training.test_loop import Quiet, trajectory


@pytest.fixture
def opened(monkeypatch):
    """Weak references to what every session opens, while cycles are not looked for."""
    found: list[weakref.ref] = []
    open_session = Session.open.__func__

    def remembered(cls, *args, **kwargs):
        session = open_session(cls, *args, **kwargs)
        found.extend(map(weakref.ref, (session.module, session.optimizer, *session.module.blocks)))
        return session

    monkeypatch.setattr(Session, "open", classmethod(remembered))
    importlib.import_module("lightning.fabric")  # whose first import leaves frames in cycles
    torch._dynamo.reset()
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


def alive(opened):
    return [type(found()).__name__ for found in opened if found() is not None]


@pytest.fixture
def cheap_compiler(monkeypatch):
    """torch.compile without a C++ compiler: the traced graphs run as they are."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.parametrize(
    ("how", "depth"),  # compiled whole, and block by block
    [("off", 1), ("off", 3), pytest.param("on", 1, marks=pytest.mark.slow), ("on", 3)],
)
def test_no_model_is_alive_after_its_trajectory(tmp_path, opened, cheap_compiler, how, depth):
    for seed in range(2):
        words = (f"seed={seed}", f"model.depth={depth}", f"train.compile={how}")
        records = train(trajectory("train.tokens=[2e3,4e3]", *words), tmp_path, Quiet())
        assert [r.status for r in records] == ["done", "done"]
        assert not alive(opened)
    assert len(opened) == 2 * (2 + depth)


def test_a_run_that_failed_leaves_no_model(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("sweep.training.loop.measure", lambda *_: 1 / 0)
    (record,) = train(trajectory("train.tokens=2e3"), tmp_path, Quiet())
    assert record.status == "failed" and record.tokens_seen
    assert len(opened) == 3 and not alive(opened)


def test_shapes_that_were_timed_leave_no_model(opened, monkeypatch):
    monkeypatch.setattr("sweep.training.timing.SECONDS", 0.01)
    measure_timing(trajectory("train.tokens=2e3"))
    assert len(opened) == 6 and not alive(opened)


class Cycle:
    """An object that only the search for cycles frees, with its tensor."""

    def __init__(self, tensor):
        self.tensor, self.myself = tensor, self


def test_memory_that_torch_keeps_of_an_earlier_run_counts_as_free(monkeypatch):
    """The driver counts blocks that torch's allocator keeps as taken: they are given back first."""
    kept = {"bytes": 30}
    left = weakref.ref(Cycle(torch.zeros(3)).tensor)

    def empty_cache():
        assert left() is None
        kept.update(bytes=0)

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 - kept["bytes"], 80))
    assert devices.free_memory(torch.device("cuda")) == 80
    assert devices.free_memory(torch.device("cpu")) is None
