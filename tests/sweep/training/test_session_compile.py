"""Compiled models, traced on a CPU as for a GPU: how many graphs, and no breaks in them."""

from __future__ import annotations

import functools
import os
import stat
import subprocess
import sys

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from fit.errors import PlanError
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
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # as torch itself sets it
    session_module.keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "isoflop" / "compiled")


class FailsFirst:
    """A stepper whose first passes fail as compiled code does."""

    def __init__(self, stepper, *errors):
        self.stepper, self.errors = stepper, list(errors)

    def __getattr__(self, name):
        return getattr(self.stepper, name)

    def accumulate_gradients(self, *args):
        if self.errors:
            raise self.errors.pop(0)
        return self.stepper.accumulate_gradients(*args)


def compiled_session(monkeypatch, tmp_path, mode, *errors):
    """A session that takes its model for compiled and whose first passes fail."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    session_module.say_uncompiled.cache_clear()
    planned = trajectory("train.tokens=2e3")
    planned.config.train.compile = Compile.off
    session = Session.open(planned)
    planned.config.train.compile, session.compiled = mode, True
    session.stepper = FailsFirst(session.stepper, *errors)
    return session


def one_batch(session):
    session.advance(session.trajectory.runs[0].rate, 128, lambda: None)
    return session.curve[-1][1]


def damaged_files(tmp_path, *names):
    """Files of a compiler that was killed, and what torch says of them."""
    for name in names:
        (tmp_path / name).write_bytes(b"")
    return [ImportError(f"{tmp_path / name}: file too short") for name in names]


def test_files_that_a_killed_compiler_left_are_deleted_and_compiled_again(
    monkeypatch, tmp_path, capsys
):
    errors = damaged_files(tmp_path, "a.main.so", "b.main.so")
    session = compiled_session(monkeypatch, tmp_path, Compile.on, *errors)
    (tmp_path / "c.main.so").write_bytes(b"whole")
    assert one_batch(session) == one_batch(compiled_session(monkeypatch, tmp_path, Compile.on))
    assert session.compiled
    assert [file.name for file in tmp_path.iterdir()] == ["c.main.so"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("mode", [Compile.on, Compile.auto])
def test_a_file_that_stays_damaged_ends_a_run_only_if_it_was_to_be_compiled(
    monkeypatch, tmp_path, capsys, mode
):
    (error,) = damaged_files(tmp_path, "a.main.so")
    session = compiled_session(monkeypatch, tmp_path, mode, error, error)
    monkeypatch.setattr(session_module.Path, "unlink", lambda *_, **__: None)  # comes back at once
    if mode is Compile.on:
        with pytest.raises(PlanError, match="a.main.so.*train.compile=off"):
            one_batch(session)
        return
    one_batch(session)
    said = capsys.readouterr().err
    assert not session.compiled and said.count("training uncompiled") == 1
    assert "the model cannot be compiled (ImportError" in said


def test_other_errors_of_a_step_are_not_taken_for_those_of_compiling(monkeypatch, tmp_path):
    session = compiled_session(monkeypatch, tmp_path, Compile.auto, OSError("/etc/x.so: no"))
    with pytest.raises(OSError, match="/etc/x.so"):
        one_batch(session)


WITHOUT_ASKING = """
import sweep.planning.timing as timing
timing.COMPILE_SECONDS = 0.0
from pathlib import Path
from tests.bench.ours import Compile, open_session, rate
session = open_session(16, 2, 16, Compile.auto, 1e5)
session.advance(rate(session.trajectory), 4 * 512, lambda: None)
print(session.compiled, len(session.damaged), session.curve[-1][1])
"""


@pytest.mark.slow
def test_a_sweep_trains_on_after_a_compiler_was_killed_or_does_not_work(tmp_path):
    def trained(**changes):
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "code"), **changes}
        out = subprocess.run(
            [sys.executable, "-c", WITHOUT_ASKING],
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
        return *out.stdout.split(), out.stderr

    compiled, damaged, loss, _ = trained()
    assert (compiled, damaged) == ("True", "0")
    libraries = sorted((tmp_path / "code").rglob("*.so"), key=lambda file: file.stat().st_size)
    libraries[-1].write_bytes(b"")
    assert trained()[:3] == ("True", "1", loss)
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho no such file: cc1plus >&2\nexit 1\n")
    compiler.chmod(stat.S_IRWXU)
    compiled, _, other, said = trained(
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "new"),
        PATH=f"{compiler.parent}:{os.environ['PATH']}",
    )
    assert compiled == "False" and float(other) == pytest.approx(float(loss), rel=1e-5)
    assert "training uncompiled, which is slower: the model cannot be compiled" in said
