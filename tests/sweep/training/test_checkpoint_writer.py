"""Saves in the background: what is written is the state of one step, and no error is lost."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import time

import pytest
import torch

from fit.errors import RecordError
from sweep.training import loop
from sweep.training.checkpoint import StateWriter, TrainState, host_copy, load, save
from sweep.training.loop import train
from sweep.training.session import Session
from tests.sweep.training.test_loop import Quiet, results, trajectory

OPTIONS = ("train.tokens=[4e3,8e3]", "train.checkpoint_seconds=0")


def flat(value, name=""):
    """Leaves of a nested state by their path."""
    if isinstance(value, TrainState):
        value = {k: getattr(value, k) for k in TrainState.__slots__}
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, v in enumerate(value) for k, v in flat(v, f"{name}.{i}").items()}
    return {name: value}


def assert_equal(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def test_what_is_written_is_the_state_of_its_step_though_training_goes_on(tmp_path, monkeypatch):
    kept, written, steps, late = [], [], [], []
    update = Session.update

    def counted(session):
        steps.append(1)
        return update(session)

    def copy_and_keep(state):
        kept.append((copy.deepcopy(state), len(steps)))
        return host_copy(state)

    def save_late(path, state):
        time.sleep(0.05)
        late.append(len(steps))
        save(path, state)
        written.append(load(path))

    monkeypatch.setattr(Session, "update", counted)
    monkeypatch.setattr(loop, "host_copy", copy_and_keep)
    monkeypatch.setattr(loop, "save", save_late)
    train(trajectory(*OPTIONS), tmp_path, Quiet())
    assert len(written) == len(kept) > 2
    assert any(there > then for there, (_, then) in zip(late, kept, strict=True))
    for read, (meant, _) in zip(written, kept, strict=True):
        assert_equal(read, meant)
    assert any(state.trunk is not None for state in written)


def test_a_copy_does_not_change_with_the_model():
    weight = torch.zeros(3)
    state = TrainState(
        model={"w": weight}, optimizer={"state": {0: {"step": weight}}}, losses=[(weight, 2)]
    )
    state.trunk = copy.deepcopy(state)
    kept = host_copy(state)
    weight += 1
    state.curve.append((1.0,))
    assert not any(bool(v.any()) for v in flat(kept).values() if isinstance(v, torch.Tensor))
    assert kept.curve == []
    assert kept.trunk is state.trunk  # itself a copy, on the host


def test_one_write_at_a_time_and_its_error_is_raised_by_the_next_check():
    writer, go, order = StateWriter(), threading.Event(), []

    def slow():
        go.wait(20)
        order.append("slow")

    def broken():
        order.append("broken")
        raise RecordError("disk full")

    writer.start(slow)
    writer.check()
    assert order == []
    threading.Timer(0.05, go.set).start()
    writer.start(broken)
    with pytest.raises(RecordError, match="disk full"):
        writer.wait()
    assert order == ["slow", "broken"]
    writer.start(broken)
    with pytest.raises(RecordError, match="disk full"):
        writer.start(slow)
    writer.check()
    writer.wait()


def test_an_error_of_the_disk_ends_the_run_as_a_failed_record(tmp_path, monkeypatch):
    def full(path, state):
        raise RecordError("cannot write the checkpoint: no space left")

    monkeypatch.setattr(loop, "save", full)
    records = train(trajectory(*OPTIONS), tmp_path, Quiet())
    assert [r.status for r in records] == ["failed", "failed"]
    assert "no space left" in records[0].reason


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path):
    code = f"""
import os, signal, threading
from pathlib import Path
from sweep.training import checkpoint, loop
from tests.sweep.training.test_loop import Quiet, trajectory
calls, whole = [], checkpoint.torch.save
def killed(document, stream):
    calls.append(1)
    if len(calls) == 3:
        stream.write(b"half")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(document, stream)
checkpoint.torch.save = killed
loop.train(trajectory(*{OPTIONS!r}), Path({str(tmp_path / "b")!r}), Quiet())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (path,) = (tmp_path / "b" / "tiny").glob(".work-*/state.pt")
    state = load(path)
    assert state is not None
    assert state.position > 0
    resumed = train(trajectory(*OPTIONS), tmp_path / "b", Quiet())
    assert results(resumed) == results(train(trajectory(*OPTIONS), tmp_path / "a", Quiet()))
