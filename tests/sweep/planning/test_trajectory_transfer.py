"""One recipe at every shape; and what came later than the first records leaves them recognised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit.data.accounting import Shape
from fit.data.readers import load
from fit.diagnostics.scans import find_scans
from sweep.model import Transformer
from sweep.planning.grid import compose_config, grid
from sweep.planning.trajectory import plan, scale_recipe
from sweep.training.loop import train
from sweep.training.session import build_optimizer
from tests.sweep.training.test_loop import Quiet

ROOT = Path(__file__).parents[3]
SHAPE = {"width": 16, "heads": 2, "head_dim": 8, "d_ff": 64, "vocab": 40, "seq_len": 32}


def trajectory(*overrides):
    (found,) = plan(compose_config(["model=w64", *overrides]))
    return found


def test_the_committed_sweep_is_still_recognised():
    both = grid(["+experiment=reference"], multirun=True)
    third = grid(["+experiment=reference", "+ladder=w96d6,w16d1", "seed=2"], multirun=True)
    planned = {run.run for cell in both + third for _, run in cell.runs()}
    assert planned == {p.parent.name for p in (ROOT / "runs/reference").glob("*/record.json")}


def test_completep_changes_nothing_at_the_base_shape_and_the_identity_everywhere():
    plain = trajectory("model.width=32", "model.depth=2")
    complete = trajectory("model.width=32", "model.depth=2", "train.depth_rule=completep")
    assert plain.scaled == complete.scaled
    assert plain.runs[0].run != complete.runs[0].run
    assert plain.runs[0].run == trajectory("model.width=32", "train.base_depth=4").runs[0].run


def test_completep_follows_its_published_rules():
    found = trajectory("model.depth=8", "train.depth_rule=completep").scaled
    plain = trajectory("model.depth=8").scaled
    assert (found.lr, found.embedding_lr) == (plain.lr, plain.embedding_lr)
    assert found.residual == 2 / 8
    assert found.weight_decay == pytest.approx(2 * plain.weight_decay)
    assert found.epsilon == pytest.approx(plain.epsilon / 2)
    assert found.hidden_epsilon == pytest.approx(plain.hidden_epsilon / 2 / 4)
    assert plain.residual == 1.0


def test_the_residual_factor_is_that_of_both_branches():
    shape = Shape(**SHAPE, depth=3)
    models = [Transformer(shape, residual=r) for r in (1.0, 0.25)]
    for model in models:
        model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block, other in zip(*(m.blocks for m in models), strict=True):
            for name, factor in (("out", 0.25), ("down", 0.25)):
                weight = getattr(other, name)
                weight.normal_(generator=torch.Generator().manual_seed(1))
                getattr(block, name).copy_(weight * factor)
        tokens = torch.randint(40, (2, 32), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(*(m.hidden(tokens) for m in models))


def test_every_parameter_is_optimised_once_by_the_rule_of_its_kind():
    found = trajectory("train.depth_rule=completep", "model.depth=4", "model.tied=false")
    module = Transformer(found.shape)
    groups = build_optimizer(module, found, torch.device("cpu")).param_groups
    assert sum(p.numel() for g in groups for p in g["params"]) == found.params.total
    by_size = {sum(p.numel() for p in g["params"]): g for g in groups}
    hidden = by_size[found.params.body]
    expected = scale_recipe(found.config.train, found.shape)
    assert (hidden["lr"], hidden["weight_decay"]) == (expected.lr, expected.weight_decay)
    assert hidden["eps"] == expected.hidden_epsilon
    assert all(g["weight_decay"] == 0 for g in groups if g is not hidden)


@pytest.mark.slow
def test_the_best_rate_carries_over_widths_and_under_completep_over_depths(tmp_path):
    """The experiment `lr` in short form: 0.2 M tokens, two widths and two depths, five rates."""
    quick = ("train.tokens=2e5", "train.depth_rule=completep", "data.heldout_tokens=65536")
    for width, depth in ((16, 2), (32, 2), (16, 6)):
        for rate in (0.0005, 0.002, 0.008, 0.032, 0.128):
            shape = (f"model.width={width}", f"model.depth={depth}")
            train(trajectory(*quick, *shape, f"train.lr={rate}"), tmp_path, Quiet())
    narrow, *others = find_scans(load(tmp_path)).scans
    assert {(s.width, s.depth) for s in (narrow, *others)} == {(16, 2), (32, 2), (16, 6)}
    assert [s.found for s in (narrow, *others)] == ["inside"] * 3
    for scan in others:
        assert 1 / 3 < scan.best / narrow.best < 3
