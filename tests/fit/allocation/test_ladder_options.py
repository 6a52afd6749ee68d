"""Options of the model along the ladder of shapes: proposals keep those of the runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.allocation.ladder import ladder_of
from fit.data.accounting import count_params
from fit.design.candidates import RunLimits, candidates_on_ladder
from fit.design.plan_files import PlannedJob
from fit.query.launch import overrides
from fit.results import Span
from tests.fit.builders import RECIPE, make_fit, make_points, shape


def fit_of(kv_heads, widths=(32, 64, 96, 128), **options):
    """A fit of runs whose heads share keys and values, some of them with further options."""
    settings = {"model.mlp": options.pop("mlp")} if "mlp" in options else {}
    shapes = [
        dataclasses.replace(shape(w), kv_heads=k, **options)
        for w, k in zip(widths, kv_heads, strict=True)
    ]
    points = make_points()
    columns = {name: np.array([float(getattr(s, name)) for s in shapes]) for name in (
        "width", "depth", "heads", "head_dim", "vocab", "seq_len"
    )}  # fmt: skip
    columns["kv_heads"] = np.array([np.nan if s.kv_heads is None else s.kv_heads for s in shapes])
    first = slice(len(shapes))
    cut = {
        f.name: getattr(points, f.name)[first]
        for f in dataclasses.fields(points)
        if f.name not in ("columns", "params")
    }
    params = np.array([count_params(s).matmul for s in shapes], dtype=float)
    settings |= {f"model.{k}": v for k, v in options.items() if k != "activation"}
    made = make_points(**cut, params=params, columns=columns)
    return make_fit(points=made, recipe=RECIPE | settings), shapes


@pytest.mark.parametrize(
    ("kv_heads", "beyond"), [((1, 1, 1, 1), 1), ((2, 2, 2, 2), 2), ((1, 2, 3, 4), 24)]
)
def test_heads_of_keys_continue_as_in_the_runs(kv_heads, beyond):
    fit, shapes = fit_of(kv_heads)
    ladder = ladder_of(fit)
    assert [ladder.shape(s.width, s.depth) for s in shapes] == shapes
    found = ladder.shape(768, 12)
    assert (found.heads, found.key_heads) == (48, beyond)
    for params in (2e4, 3e5, 2e7, 3e9):
        near = ladder.nearest(params)
        assert near.heads % near.key_heads == 0
        assert near.heads * near.head_dim == near.width
        told = dict(o.split("=") for o in overrides(fit, near, 1e6))
        assert int(told.get("model.kv_heads", near.heads)) == near.key_heads
        sizes = PlannedJob(shape=near, seed=0, tokens=(1e6,)).settings()["model"]
        assert sizes.get("kv_heads") == near.kv_heads


def test_heads_of_keys_without_a_rule_have_no_ladder():
    fit, _ = fit_of((1, 2, 1, 4))
    assert ladder_of(fit) is None


def test_candidates_for_the_next_runs_share_keys_equally():
    fit, _ = fit_of((2, 2, 2, 2))
    limits = RunLimits(
        params=Span(low=1e4, high=1e9),
        tokens=Span(low=3e5, high=1e8),
        flops=Span(low=1e10, high=1e14),
        ratio=Span(low=4, high=300),
    )
    found = candidates_on_ladder(ladder_of(fit), limits, cooldown=0.25).shapes
    assert len(found) > 5
    assert all(s.heads * s.head_dim == s.width and s.key_heads == 2 for s in found)


def test_kind_of_mlp_padding_and_base_are_those_of_the_runs():
    fit, shapes = fit_of(
        (1, 1, 1, 1), mlp="geglu", gated=True, activation="gelu", pad_vocab_to=128, rope_base=5e5
    )
    ladder = ladder_of(fit)
    assert [ladder.shape(s.width, s.depth) for s in shapes] == shapes
    assert ladder.count(shapes[0])[0] == fit.points.params[0]
    told = overrides(fit, shapes[0], 1e6)
    assert {"model.mlp=geglu", "model.pad_vocab_to=128", "model.rope_base=500000.0"} <= set(told)
