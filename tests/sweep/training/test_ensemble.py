"""Runs trained as one ensemble leave what they leave alone."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from fit.data.accounting import Shape
from sweep.launch.jobs import in_step, members_of, pack_cells
from sweep.model import Transformer
from sweep.planning.grid import compose_config, grid
from sweep.planning.trajectory import plan
from sweep.training import ensemble as pack_module
from sweep.training.ensemble import Ensemble
from sweep.training.loop import train, train_together
from tests.sweep.test_app import results as results_of
from tests.sweep.test_app import run
from tests.sweep.training.test_checkpoint import Signalling
from tests.sweep.training.test_loop import TINY, Quiet, trajectory

LENGTHS = ("train.tokens=[3e3,6e3]", "train.batch_at_1m=3000")
MEMBERS = (("seed=0",), ("seed=1",), ("seed=0", "train.lr=0.02"))


def members(*more):
    return [trajectory(*LENGTHS, *own, *more) for own in MEMBERS]


def check(packed, alone):
    for ours, theirs in zip(packed, alone, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one.run, one.status, one.tokens_seen) == (
                other.run,
                other.status,
                other.tokens_seen,
            )
            assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder, trackers = tmp_path_factory.mktemp("alone"), [Quiet() for _ in MEMBERS]
    records = [train(t, folder, q) for t, q in zip(members(), trackers, strict=True)]
    return records, trackers


@pytest.fixture
def together(monkeypatch):
    """How many members every shared pass had."""
    sizes = []
    whole = pack_module.try_gradients

    def counted(ensemble, sessions, rows):
        sizes.append(len(sessions))
        return whole(ensemble, sessions, rows)

    monkeypatch.setattr(pack_module, "try_gradients", counted)
    return sizes


@pytest.mark.parametrize(
    "shape",
    [
        {"gated": False, "tied": True, "conv": 3},
        {"gated": True, "tied": False, "conv": 0},
    ],
)
def test_an_ensemble_has_the_losses_and_gradients_of_its_members(shape):
    sizes = {"width": 16, "depth": 2, "heads": 2, "head_dim": 8, "d_ff": 40}
    size = Shape(**sizes, vocab=50, seq_len=12, experts=0, top_k=0, **shape)
    generator = torch.Generator().manual_seed(0)
    models = [Transformer(size, residual=0.7) for _ in range(3)]
    with torch.no_grad():
        for model in models:
            for weight in model.parameters():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    rows = torch.randint(50, (3, 4, 13), generator=generator)
    losses = [m(r[:, :-1], r[:, 1:], 1e-2) for m, r in zip(models, rows, strict=True)]
    for loss in losses:
        loss.backward()
    wanted = [[p.grad.clone() for p in m.parameters()] for m in models]
    ensemble = Ensemble(models)
    found = ensemble.losses(rows[..., :-1], rows[..., 1:], 1e-2)
    found.sum().backward()
    ensemble.assign_gradients()
    assert found.tolist() == pytest.approx([loss.item() for loss in losses], rel=1e-6)
    for model, gradients in zip(models, wanted, strict=True):
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            assert torch.allclose(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_packed_runs_leave_the_records_and_curves_of_single_ones(tmp_path, alone, together):
    trackers = [Quiet() for _ in MEMBERS]
    packed = train_together(members(), tmp_path, trackers)
    check(packed, alone[0])
    assert set(together) == {3}
    for ours, theirs in zip(trackers, alone[1], strict=True):
        assert ours.curves.keys() == theirs.curves.keys()
        for run_name, curve in ours.curves.items():
            for row, other in zip(curve, theirs.curves[run_name], strict=True):
                assert row == pytest.approx(other, rel=1e-4)
    assert not [p for p in (tmp_path / "tiny").glob(".work-*") if p.is_dir()]


def test_a_member_that_diverges_spoils_no_other(tmp_path, alone, together):
    three = [*members()[:2], trajectory(*LENGTHS, "train.lr=1e30", "train.clip=1e30")]
    packed = train_together(three, tmp_path, [Quiet() for _ in three])
    check(packed[:2], alone[0][:2])
    assert [r.status for r in packed[2]] == ["diverged", "diverged"]
    assert {2, 3} == set(together)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_member_that_is_behind_catches_up(tmp_path, alone, together, stop_at):
    with pytest.raises(KeyboardInterrupt):
        train(members("train.checkpoint_seconds=0")[1], tmp_path, Quiet(stop_at))
    packed = train_together(members(), tmp_path, [Quiet() for _ in MEMBERS])
    check(packed, alone[0])
    assert together and packed[1][-1].attempts == 2


def test_an_interrupted_pack_saves_every_member(tmp_path, alone):
    earlier = signal.signal(signal.SIGTERM, leave)
    try:
        trackers = [Quiet(), Signalling(signal.SIGTERM, 3), Quiet()]
        with pytest.raises(SystemExit):
            train_together(members(), tmp_path, trackers)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    saved = list((tmp_path / "tiny").glob(".work-*/state.pt"))
    assert len(saved) == 3
    for path in saved:
        (attempt,) = json.loads((path.parent / "attempts.json").read_text())
        state = torch.load(path, weights_only=True)
        assert (attempt["outcome"], attempt["tokens"]) == ("stopped", state["position"])
    singles = [train(t, tmp_path, Quiet()) for t in members()]
    check(singles, alone[0])


def leave(number, frame):
    raise SystemExit(os.EX_TEMPFAIL)


def test_memory_that_runs_out_halves_the_pieces_of_all(tmp_path, alone, monkeypatch):
    whole, sizes = Ensemble.losses, []

    def losses(self, tokens, target, z_loss):
        sizes.append(tokens.shape[1])
        if tokens.shape[1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, tokens, target, z_loss)

    monkeypatch.setattr(Ensemble, "losses", losses)
    packed = train_together(members(), tmp_path, [Quiet() for _ in MEMBERS])
    assert sizes[:3] == [4, 2, 1] and max(sizes[3:]) == 1
    for ours, theirs in zip(packed, alone[0], strict=True):
        assert [r.loss for r in ours] == pytest.approx([r.loss for r in theirs], abs=1e-3)


def test_a_kernel_that_fails_makes_every_member_a_failed_record(tmp_path, monkeypatch):
    def broken(self, tokens, target, z_loss):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(Ensemble, "losses", broken)
    packed = train_together(members(), tmp_path, [Quiet() for _ in MEMBERS])
    assert {r.status for records in packed for r in records} == {"failed"}
    assert "no kernel image" in packed[2][1].reason


def test_cells_are_joined_where_only_their_own_settings_differ():
    cells = grid(
        [*TINY, "model.width=8,16", "seed=0,1,2", "train.lr=0.01,0.02", "train.pack=4"],
        multirun=True,
    )
    jobs = pack_cells(cells)
    assert [len(job.trajectories) for job in jobs] == [4, 2, 4, 2]
    planned = {run.run for cell in cells for _, run in cell.runs()}
    found = [
        r.run
        for job in jobs
        for member in members_of(compose_config(job.overrides))
        for t in plan(member)
        for r in t.runs
    ]
    assert sorted(found) == sorted(planned)
    assert {w for job in jobs for w in job.work} == {w for cell in cells for w in cell.work}
    alone = grid([*TINY, "seed=0,1"], multirun=True)
    assert pack_cells(alone) == list(alone)


def test_paths_that_differ_are_not_walked_in_step():
    one, other = trajectory("train.tokens=3e3"), trajectory("train.tokens=6e3")
    again = trajectory("train.tokens=3e3", "seed=4")
    assert in_step([one, other, again]) == [[one, again], [other]]
    experts = [trajectory("model.experts=2", f"seed={s}") for s in (0, 1)]
    assert in_step(experts) == [[experts[0]], [experts[1]]]


@pytest.mark.parametrize(
    ("options", "packed"),
    [
        (["model.rope_base=5e5"], True),
        (["model.mlp=swiglu"], True),
        (["model.mlp=gelu"], False),
        (["model.width=16", "model.kv_heads=1"], False),
        (["model.pad_vocab_to=64"], False),
    ],
)
def test_models_that_an_ensemble_does_not_compute_train_alone(options, packed):
    cells = grid([*TINY, *options, "seed=0,1", "train.pack=2"], multirun=True)
    assert len(pack_cells(cells)) == (1 if packed else 2)
    pair = [trajectory(*options, f"seed={s}") for s in (0, 1)]
    assert len(in_step(pair)) == (1 if packed else 2)


@pytest.mark.slow
def test_a_packed_multirun_leaves_the_records_of_a_plain_one(tmp_path):
    grid_of = ("-m", "model.width=8,16", "seed=0,1,2", "train.tokens=[4e3,8e3]", "tracking=none")
    assert run(tmp_path / "a", *grid_of).returncode == 0
    packed = run(tmp_path / "b", *grid_of, "train.pack=3", "hydra/launcher=joblib")
    assert packed.returncode == 0, packed.stderr
    plain, found = results_of(tmp_path / "a"), results_of(tmp_path / "b")
    assert plain.keys() == found.keys()
    for name, result in plain.items():
        assert found[name]["loss"] == pytest.approx(result["loss"], rel=1e-5)
