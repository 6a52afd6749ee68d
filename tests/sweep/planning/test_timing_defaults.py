"""Switches that follow from size and device."""

from __future__ import annotations

import pytest
import torch

from sweep.config import Compile
from sweep.planning.grid import compose_config
from sweep.planning.timing import (
    activation_bytes,
    rows_that_fit,
    state_bytes,
    wants_compile,
)
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from tests.sweep.training.test_loop import Quiet, trajectory


def planned(*overrides: str):
    (found,) = plan(compose_config(list(overrides)))
    return found


def test_a_short_run_is_not_compiled_on_cpu_and_a_long_one_is(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    short, long = planned("model=w32", "train.tokens=1e5"), planned("model=w32", "train.tokens=1e8")
    assert not wants_compile(short.config.train, short, "cpu")
    assert wants_compile(long.config.train, long, "cpu")
    assert wants_compile(short.config.train, short, "cuda")
    long.config.train.compile = Compile.off
    assert not wants_compile(long.config.train, long, "cpu")
    short.config.train.compile = Compile.reduce_overhead
    assert wants_compile(short.config.train, short, "cuda")


@pytest.mark.parametrize("free", [1e9, 3e9, 8e10])
def test_rows_of_a_pass_fill_no_more_than_the_free_memory(free):
    t = planned("model=w256")
    rows = rows_that_fit(t.shape, t.params, free)
    taken = state_bytes(t.params) + rows * t.shape.seq_len * activation_bytes(t.shape)
    assert taken <= free < 4 * taken
    assert rows & (rows - 1) == 0
    assert rows_that_fit(t.shape, t.params, 1.0) == 1


CUDA = ("train.accelerator=cuda", "train.batch_doublings=[8e3]")


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["on", "reduce_overhead"])
def test_compiled_steps_give_the_losses_of_eager_ones(tmp_path, how):
    options = ("train.tokens=[8e3,16e3]", *CUDA)
    eager = train(trajectory(*options, "train.compile=off"), tmp_path / "a", Quiet())
    compiled = train(trajectory(*options, f"train.compile={how}"), tmp_path / "b", Quiet())
    for one, other in zip(eager, compiled, strict=True):
        assert (one.run, one.status) == (other.run, "done")
        assert other.loss == pytest.approx(one.loss, rel=1e-3)


@pytest.mark.gpu
def test_a_replayed_run_resumes_from_its_checkpoint(tmp_path):
    how = ("train.compile=reduce_overhead", "train.checkpoint_seconds=0")
    options = ("train.tokens=[8e3,16e3]", *CUDA, *how)
    calm = train(trajectory(*options), tmp_path / "a", Quiet())
    with pytest.raises(KeyboardInterrupt):
        train(trajectory(*options), tmp_path / "b", Quiet(4))
    resumed = train(trajectory(*options), tmp_path / "b", Quiet())
    for one, other in zip(calm, resumed, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-3)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_between_rows_of_the_curve():
    from sweep.training.session import Session

    session = Session.open(trajectory("train.tokens=1e5", *CUDA, "train.batch_doublings=[]"))
    for _ in range(8):
        session.step(0, 128, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            session.step(0, 128, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
