"""A trunk kept on request: a longer run later goes on from it, to the bits of one from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fit.errors import PlanError
from sweep.plan import main as print_plan
from sweep.planning.grid import compose_config, grid
from sweep.planning.identity import shared_identity
from sweep.planning.trunks import find_trunk
from sweep.training import loop
from sweep.training.loop import train
from tests.sweep.training.test_loop import TINY, Quiet, results, trajectory

KEEP = "train.keep=trunk"
SHORT, BOTH = "train.tokens=[2e3,4e3]", "train.tokens=[2e3,4e3,8e3]"


def planned_at(folder: Path, *overrides: str):
    return trajectory(f"runs_dir={folder}", *overrides)


@pytest.fixture
def positions(monkeypatch):
    """Positions from which a session trains on, in order."""
    seen = []
    advance = loop.Session.advance

    def noted(session, rate, until, on_row):
        seen.append((session.position, until))
        advance(session, rate, until, on_row)

    monkeypatch.setattr(loop.Session, "advance", noted)
    return seen


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two runs and their trunk, and one of the three runs from scratch."""
    folder = tmp_path_factory.mktemp("trained")
    train(planned_at(folder / "kept", SHORT, KEEP), folder / "kept", Quiet())
    whole = Quiet()
    scratch = train(planned_at(folder / "whole", BOTH), folder / "whole", whole)
    return folder / "kept", scratch, whole.curves


@pytest.fixture
def kept(tmp_path, trained):
    """A copy of the folder with two runs and their trunk."""
    return Path(shutil.copytree(trained[0], tmp_path / "kept"))


def test_a_longer_run_goes_on_from_a_kept_trunk_to_the_bits_of_one_from_scratch(
    trained, kept, positions
):
    _, scratch, curves = trained
    planned, later = planned_at(kept, BOTH), Quiet()
    extended = train(planned, kept, later)
    longest, start = planned.runs[-1], planned.runs[1].cooldown_start
    assert positions == [(start, longest.cooldown_start), (longest.cooldown_start, longest.tokens)]
    assert results(extended) == results(scratch)
    assert later.curves == {longest.run: curves[longest.run]}
    assert [r.tokens_seen for r in extended] == [r.tokens for r in extended]
    assert extended[-1].flops_spent == scratch[-1].flops_spent


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [("train.optimizer=muon",), ("train.lr_decay_power=.3",), ("model.experts=2",)]
)
def test_other_optimizers_and_models_go_on_to_the_same_bits(tmp_path, more):
    scratch = train(planned_at(tmp_path / "a", BOTH, *more), tmp_path / "a", Quiet())
    train(planned_at(tmp_path / "b", SHORT, KEEP, *more), tmp_path / "b", Quiet())
    planned = planned_at(tmp_path / "b", BOTH, *more)
    assert planned.kept > 0
    assert results(train(planned, tmp_path / "b", Quiet())) == results(scratch)


def test_a_longer_run_alone_costs_only_what_is_new(kept, positions):
    planned = planned_at(kept, "train.tokens=8e3", KEEP)
    (record,) = train(planned, kept, Quiet())
    start = planned.kept
    assert 0 < start == positions[0][0]
    assert record.flops_spent == (record.tokens - start) / record.tokens * record.flops
    assert find_trunk(kept / "tiny", planned.trunk).tokens == planned.runs[0].cooldown_start
    assert len(list((kept / "tiny").glob(".trunk-*"))) == 1, "the longer replaces the shorter"


def test_a_run_between_starts_anew_and_the_longer_one_goes_on(kept, positions):
    planned = planned_at(kept, "train.tokens=[3e3,8e3,9e3]", "train.cooldown=.5")
    train(planned, kept, Quiet())
    starts = [run.cooldown_start for run in planned.runs]
    assert starts[0] < planned.kept <= starts[1]
    assert [span for span in positions if span[1] in starts] == [
        (0, starts[0]),
        (planned.kept, starts[1]),
        (starts[1], starts[2]),
    ]


def test_a_trunk_of_another_recipe_is_never_used(kept, positions):
    for change in (
        *("model.width=16", "train.lr=0.001", "data.size=small", "train.precision=64-true"),
        *("train.warmup_tokens=400", "train.z_loss=0", "data.unique_tokens=4e3", "seed=1"),
    ):
        other = planned_at(kept, "train.tokens=8e3", change)
        assert other.kept == 0, change
    train(other, kept, Quiet())
    assert positions[0][0] == 0


def test_a_trunk_of_another_source_or_version_of_the_recipe_is_never_used(kept, monkeypatch):
    from sweep.planning import trajectory as planning

    assert planned_at(kept, "train.tokens=8e3").kept > 0
    for changed in ({"recipe": "3"}, {"plug_ins": {"train.optimizer": ["mine", "sha", {}]}}):
        monkeypatch.setattr(
            planning, "shared_identity", lambda *a, c=changed: {**shared_identity(*a), **c}
        )
        assert planned_at(kept, "train.tokens=8e3").kept == 0


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_trunk_costs_time_not_truth(trained, kept, damage):
    planned = planned_at(kept, BOTH)
    (state,) = (kept / "tiny").glob(".trunk-*/state.pt")
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:1000])
    else:
        shutil.rmtree(state.parent)
    assert results(train(planned, kept, Quiet())) == results(trained[1])


@pytest.mark.parametrize("stop_at", [2, 4])
def test_an_interrupted_run_keeps_the_same_trunk(tmp_path, kept, stop_at):
    options = (SHORT, KEEP, "train.checkpoint_seconds=0")
    with pytest.raises(KeyboardInterrupt):
        train(planned_at(tmp_path / "b", *options), tmp_path / "b", Quiet(stop_at))
    assert not list((tmp_path / "b" / "tiny").glob(".trunk-*")), "kept once all runs have ended"
    train(planned_at(tmp_path / "b", *options), tmp_path / "b", Quiet())
    first, second = (
        torch.load(next((folder / "tiny").glob(".trunk-*/state.pt")), weights_only=True)
        for folder in (kept, tmp_path / "b")
    )
    assert first["position"] == second["position"]
    assert first["curve"] == second["curve"]
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert not list((tmp_path / "b" / "tiny").glob(".work-*"))


def test_a_plan_prints_what_kept_trunks_save_and_take(kept, capsys):
    common = [*TINY, f"runs_dir={kept}", "measure=off"]
    for overrides, code in ((["train.tokens=8e3", KEEP], 0), (["train.tokens=8e3", "seed=1"], 0)):
        with pytest.raises(SystemExit) as ended:
            print_plan([*common, *overrides])
        assert ended.value.code == code
    first, second = capsys.readouterr().out.split("1 run, 0 there already")[1:]
    planned = planned_at(kept, "train.tokens=8e3")
    saved = planned.flops_per_token.exact * planned.kept
    assert f"kept      1 trunk kept earlier goes on, which saves {saved:.2e} FLOP" in first
    assert "to keep   1 trunk, " in first
    assert "kept" not in second and "to keep" not in second


def test_a_run_that_is_due_costs_its_trunk_anew_where_none_was_kept(kept):
    """The plan and the opening line count what will be trained, not what a whole launch shares."""
    costs = []
    for _ in range(2):
        (cell,) = grid([*TINY, f"runs_dir={kept}", BOTH], multirun=True)
        ((_, run),) = cell.due()
        costs.append(run.flops_spent / run.flops)
        for folder in (kept / "tiny").glob(".trunk-*"):
            shutil.rmtree(folder)
    assert costs[0] < 1 == costs[1]


def test_a_trunk_and_weights_are_kept_together(tmp_path):
    planned = planned_at(tmp_path, "train.tokens=4e3", "train.keep=[weights,trunk]")
    (record,) = train(planned, tmp_path, Quiet())
    assert (tmp_path / "tiny" / record.run / "weights.safetensors").exists()
    assert find_trunk(tmp_path / "tiny", planned.trunk) is not None


def test_a_schedule_without_a_trunk_is_refused():
    with pytest.raises(PlanError, match="train.keep=trunk with train.schedule=cosine"):
        trajectory("train.tokens=4e3", "train.schedule=cosine", KEEP)
    with pytest.raises(PlanError, match="train.keep=trunks; known are none, weights, trunk"):
        compose_config([*TINY, "train.tokens=4e3", "train.keep=trunks"])
