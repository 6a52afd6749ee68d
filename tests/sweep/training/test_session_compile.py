"""Compiled models, traced on a CPU as for a GPU: how many graphs, and no breaks in them."""

from __future__ import annotations

import functools
import os
import stat

import pytest
import torch

from sweep.config import Compile
from sweep.model import HeadLoss, Transformer, head_loss
from sweep.planning import timing
from sweep.training import session as session_module
from sweep.training.loop import train
from sweep.training.session import Session, compile_module
from sweep.training.step import SingleDeviceStepper
from tests.sweep.training.test_loop import Quiet, trajectory


class Counting:
    """A backend that counts the graphs and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend(monkeypatch):
    """Trace in the place of compiling; a break in a graph or too many of them is an error."""
    counting = Counting()
    traced = functools.partial(torch.compile, backend=counting, fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda *a, mode=None, **how: traced(*a, **how))
    config = torch._dynamo.config
    new, old = "fail_on_recompile_limit_hit", "fail_on_cache_limit_hit"  # before torch 2.7
    with config.patch({new if hasattr(config, new) else old: True}):
        yield counting
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cuda", "bf16-mixed"),
        ("cpu", "32-true"),
        pytest.param("cuda", "32-true", marks=pytest.mark.slow),
        pytest.param("cpu", "bf16-mixed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("depth", [1, 4])
def test_a_trunk_whose_batch_grows_has_one_graph(backend, device, precision, depth):
    words = (f"model.depth={depth}", f"train.precision={precision}", "model.gated=true")
    session = Session.open(trajectory("train.tokens=3e3", *words))
    compile_module(session.module, torch.device(device))
    stepper = SingleDeviceStepper(
        session.module, session.optimizer.optimizer, session.fabric, 1.0, any_rows=True
    )
    for rows in (1, 2, 3, 4, 5, 7, 12, 20, 30, 64):
        stepper.accumulate_gradients(torch.arange(rows * 33).view(rows, 33) % 50, 16, 1e-4)
        stepper.update()
    assert backend.graphs == 1
    session.close()


@pytest.mark.parametrize("tied", [True, False])
def test_every_kind_of_block_is_one_graph(backend, tied):
    for words in (["model.gated=false"], ["model.conv=2"], ["train.depth_rule=completep"]):
        module = Transformer(trajectory(*words, f"model.tied={str(tied).lower()}").shape)
        module.init_weights(torch.Generator().manual_seed(0))
        compile_module(module, torch.device("cuda"))
        tokens = torch.arange(64).view(2, 32)
        module(tokens, tokens, 1e-4).backward()  # fullgraph: a break would raise


def test_the_head_of_a_gpu_gives_the_loss_and_gradients_of_ours():
    draw = torch.Generator().manual_seed(0)
    x, head = (torch.randn(*size, generator=draw) for size in ((2, 8, 6), (11, 6)))
    target = torch.randint(11, (2, 8), generator=draw)
    found = []
    compiled = torch.compile(head_loss, backend="aot_eager", fullgraph=True)
    for loss_of in (
        head_loss,
        compiled,
        lambda a, b, c, z: HeadLoss.apply(a.flatten(0, 1), b, c.flatten(), z, 11),
    ):
        a, b = x.clone().requires_grad_(), head.clone().requires_grad_()
        loss = loss_of(a, b, target, 1e-2)
        loss.backward()
        found.append((loss.detach(), a.grad, b.grad))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two)


def without_compilers(monkeypatch, tmp_path, *names):
    """A path with the named compilers alone."""
    for name in names:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.parametrize(
    ("names", "missing"),
    [([], "a C compiler (gcc)"), (["cc"], "a C compiler (gcc)"), (["gcc"], ""), (["clang"], "")],
)
def test_a_gpu_needs_the_c_compiler_that_triton_looks_for(monkeypatch, tmp_path, names, missing):
    monkeypatch.setattr(timing.Path, "is_file", lambda self: True)
    without_compilers(monkeypatch, tmp_path, *names)
    assert timing.missing_for_compile("cuda") == missing
    t = trajectory("train.tokens=3e3")
    t.config.train.compile = Compile.auto
    assert timing.wants_compile(t.config.train, t, "cuda") is not bool(missing)
    monkeypatch.setattr(timing.Path, "is_file", lambda self: False)
    assert timing.missing_for_compile("cuda")


def test_a_machine_without_a_compiler_trains_uncompiled_and_says_so_once(
    monkeypatch, tmp_path, capsys
):
    without_compilers(monkeypatch, tmp_path)
    monkeypatch.setattr(timing, "COMPILE_SECONDS", 0.0)
    session_module.say_uncompiled.cache_clear()
    for seed in range(2):
        planned = trajectory("train.tokens=2e3", "train.compile=auto", f"seed={seed}")
        (record,) = train(planned, tmp_path, Quiet())
        assert record.status == "done"
    said = capsys.readouterr().err
    assert said.count("training uncompiled") == 1 and "g++" in said


def test_compiled_code_is_kept_in_one_folder_unless_the_user_names_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    session_module.keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    session_module.keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "isoflop" / "compiled")
