"""Muon beside AdamW: its rule, its state, what it refuses."""

from __future__ import annotations

import importlib.metadata
import math

import pytest
import torch

from fit.errors import PlanError
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from sweep.training.optimizers import MuonAdamW
from sweep.training.session import Session
from tests.sweep.training.test_devices import BATCH, TWO, Diary
from tests.sweep.training.test_loop import TINY, Quiet, results, trajectory

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9"
)
MUON = ("train.optimizer=muon", "train.tokens=[4e3,8e3]")


@pytest.mark.parametrize("stop_at", [2, 3])
def test_an_interrupted_run_under_muon_resumes_to_the_same_bits(tmp_path, stop_at):
    whole = train(trajectory(*MUON), tmp_path / "a", Quiet())
    overrides = (*MUON, "train.checkpoint_seconds=0")
    with pytest.raises(KeyboardInterrupt):
        train(trajectory(*overrides), tmp_path / "b", Quiet(stop_at))
    assert list((tmp_path / "b" / "tiny").glob(".work-*/state.pt"))
    resumed = train(trajectory(*overrides), tmp_path / "b", Quiet())
    assert results(resumed) == results(whole)
    assert whole[0].recipe["train.optimizer"] == "muon"
    assert whole[0].lr == whole[0].recipe["train.muon_lr"]


def test_muon_moves_hidden_matrices_along_orthogonal_factors_and_adamw_moves_the_rest():
    session = Session.open(trajectory(*MUON))
    before = {n: p.detach().clone() for n, p in session.module.named_parameters()}
    twin = Session.open(trajectory("train.tokens=[4e3,8e3]"))
    rows = session._rows(0, 128)
    for one in (session, twin):
        one.stepper.set_rate(1.0)
        one.backward(rows)
    gradients = {n: p.grad.clone() for n, p in session.module.named_parameters()}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    session.update()
    twin.update()
    for (name, parameter), other in zip(
        session.module.named_parameters(), twin.module.parameters(), strict=True
    ):
        moved = parameter.detach() - before[name]
        if not name.startswith("blocks") or parameter.ndim < 2:
            assert torch.equal(parameter, other), name
            continue
        if not gradients[name].any():  # inputs of blocks whose outputs are still zero
            continue
        gradient = gradients[name].double() / max(1.0, float(norm))
        u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
        rate = session.trajectory.config.train.muon_lr
        rate *= math.sqrt(max(1, parameter.shape[0] / parameter.shape[1]))
        moved = moved + 0.1 * session.trajectory.scaled.lr * before[name]
        # Five Newton-Schulz steps leave singular values between .7 and 1.2, in bfloat16.
        along = torch.linalg.svdvals((u.T @ moved.double() @ vh.T) / rate)
        assert float(along.max()) < 1.3, name
        assert float(((u @ vh) * moved).sum()) < -0.6 * rate * min(gradient.shape), name


def test_the_state_of_both_is_one_and_survives_a_round_trip():
    session = Session.open(trajectory(*MUON))
    session.advance(session.trajectory.runs[0].rate, 1024, lambda: None)
    state = session.state()
    again = Session.open(trajectory(*MUON))
    again.restore(state)
    inner = again.optimizer.optimizer
    assert isinstance(inner, MuonAdamW)
    assert inner._muon.state is inner.state is inner._adam.state
    kept = again.optimizer.state_dict()["state"]
    names = {frozenset(s) for s in kept.values()}
    assert names == {frozenset({"momentum_buffer"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}
    assert len(kept) == len(list(again.module.parameters()))


def test_one_rate_of_muon_serves_every_width_and_has_names_of_its_own():
    rates = {
        plan(compose_config([*TINY, *MUON, f"model.width={w}"]))[0].scaled.lr for w in (8, 16, 64)
    }
    assert rates == {compose_config(TINY).train.muon_lr}
    plain, muon = trajectory("train.tokens=4e3"), trajectory(*MUON, "train.tokens=4e3")
    other = trajectory(*MUON, "train.tokens=4e3", "train.muon_lr=0.01")
    assert len({t.runs[0].run for t in (plain, muon, other)}) == 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.experts=4"], "model.experts=4"),
        (["train.depth_rule=completep"], "completep"),
        (["train.devices=2", "train.batch_tokens=256", "train.strategy=fsdp"], "ddp"),
    ],
)
def test_what_muon_does_not_serve_is_refused_in_one_line(overrides, said):
    with pytest.raises(PlanError, match=said) as refusal:
        trajectory("train.optimizer=muon", *overrides)
    assert "\n" not in str(refusal.value)


def test_an_older_torch_is_refused_with_the_version_that_is_needed(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.6.0" if name == "torch" else version(name)
    )
    from sweep.planning import trajectory as module

    module.torch_version.cache_clear()
    try:
        with pytest.raises(PlanError, match=r"torch 2\.9 or newer.*this is 2\.6\.0"):
            trajectory("train.optimizer=muon")
    finally:
        module.torch_version.cache_clear()


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one_under_muon(tmp_path):
    """Muon works on whole averaged gradients: on every rank the same update."""
    overrides = ("train.optimizer=muon", "train.tokens=[4e3,8e3]", *BATCH)
    one = train(trajectory(*overrides), tmp_path / "one", Quiet())
    planned = trajectory(*overrides, *TWO)
    two = train(planned, tmp_path / "two", Diary(tmp_path / "diary"))
    assert [r.status for r in two] == ["done", "done"]
    for a, b in zip(one, two, strict=True):
        assert a.run == b.run
        # Newton-Schulz steps round to bfloat16, so that sums in another order show sooner.
        assert b.loss == pytest.approx(a.loss, rel=2e-3)
