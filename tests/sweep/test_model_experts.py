"""A mixture of experts: the right tokens to the right experts, counted, trained and recorded."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fit.data.accounting import Shape, count_flops, count_params
from fit.data.records import RunRecord
from fit.data.table import RunTable
from fit.errors import PlanError
from sweep.model import Transformer, mixture
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from tests.sweep.training.test_loop import TINY, Quiet, trajectory

DENSE = Shape(width=16, depth=2, heads=2, head_dim=8, d_ff=64, vocab=40, seq_len=32)
MIXED = ("model.experts=4", "model.top_k=2")


def plain(x, up, down):
    return F.linear(F.linear(x, up).relu().square(), down)


def weights(experts=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((50, 8), (experts, 8), (experts, 12, 8), (experts, 8, 12))
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_a_mixture_is_the_gated_sum_over_each_tokens_experts(top_k):
    x, router, up, down = weights()
    found, balance = mixture(x, router, up, down, top_k, plain)
    probability = (x @ router.t()).float().softmax(-1).double()
    for n, row in enumerate(probability):
        chosen = row.argsort(descending=True)[:top_k]
        gates = row[chosen] / (row[chosen].sum() if top_k > 1 else 1.0)
        expected = sum(g * plain(x[n], up[e], down[e]) for g, e in zip(gates, chosen, strict=True))
        torch.testing.assert_close(found[n], expected, rtol=1e-5, atol=1e-6)
    assert 0 < float(balance) <= 4 / top_k


def test_balance_is_one_where_all_are_used_alike_and_its_gradient_spreads_the_load():
    x, router, up, down = weights()
    even = torch.eye(4, dtype=torch.float64).repeat(10, 2)
    _, balance = mixture(even, torch.eye(4, 8, dtype=torch.float64), up, down, 1, plain)
    assert float(balance) == pytest.approx(1.0, abs=1e-6)
    router = (router * 0.1 + torch.tensor([[2.0], [0.0], [0.0], [0.0]]) * x.mean(0)).detach()
    router.requires_grad_(True)
    x = x + 3 * x.mean(0)
    before = None
    for _ in range(200):
        _, balance = mixture(x, router, up, down, 1, plain)
        before = before or float(balance.detach())
        (gradient,) = torch.autograd.grad(balance, router)
        router = (router - 0.5 * gradient).detach().requires_grad_(True)
    assert float(balance.detach()) < 1 + 0.5 * (before - 1)


def test_experts_that_are_all_alike_and_chosen_alike_equal_one_mlp():
    mixed = dataclasses.replace(DENSE, experts=3, top_k=3)
    models = [Transformer(DENSE), Transformer(mixed)]
    for model in models:
        model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for one, many in zip(*(m.blocks for m in models), strict=True):
            one.down.normal_(generator=torch.Generator().manual_seed(1))
            for name in ("q_gain", "qkv", "out"):
                getattr(many, name).copy_(getattr(one, name))
            many.up.copy_(one.up.expand_as(many.up))
            many.down.copy_(one.down.expand_as(many.down))
        models[1].embedding.copy_(models[0].embedding)
        tokens = torch.randint(40, (2, 32), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(*(m.hidden(tokens) for m in models), rtol=1e-4, atol=1e-5)


def test_idle_experts_count_in_the_total_and_cost_nothing():
    mixed = dataclasses.replace(DENSE, experts=8, top_k=2)
    dense, sparse = count_params(DENSE), count_params(mixed)
    mlp, router = 2 * 16 * 64, 8 * 16
    assert sparse.body - dense.body == 2 * (mlp + router)
    assert sparse.idle == 2 * 6 * mlp
    assert sparse.total - sparse.idle == sparse.matmul + sparse.other
    assert count_flops(mixed).body == 6 * sparse.body


def test_a_mixture_trains_to_a_record_that_counts_both(tmp_path):
    planned = trajectory("train.tokens=[3e3,6e3]", *MIXED)
    records = train(planned, tmp_path, Quiet())
    assert [r.status for r in records] == ["done", "done"]
    one = RunRecord.from_json(records[0].to_json())
    assert (one.experts, one.top_k) == (4, 2)
    assert one.params_total == planned.params.total
    assert one.params_idle == planned.params.idle
    assert "-e4k2-" in one.run
    active, total = (RunTable.from_records(records, params=p) for p in ("matmul", "total"))
    assert total.params[0] - active.params[0] >= one.params_idle
    assert list(active.column("experts")) == [4, 4]
    assert list(active.column("params_total") - active.params) == [one.params_idle] * 2
    assert "params_total" not in total.columns


def test_mixtures_of_one_seed_are_bitwise_equal(tmp_path):
    first, second = (
        train(trajectory("train.tokens=3e3", *MIXED), tmp_path / name, Quiet()) for name in "ab"
    )
    assert first[0].loss == second[0].loss


def test_records_of_one_mlp_say_nothing_of_experts():
    (dense,) = plan(compose_config(TINY + ["train.tokens=3e3"]))
    (other,) = plan(compose_config([*TINY, "train.tokens=3e3", "model.top_k=5"]))
    assert dense.runs[0].run == other.runs[0].run
    assert dense.shape.top_k == 0


def test_more_chosen_than_there_are_is_refused():
    with pytest.raises(PlanError, match="top_k is 5 of 4 experts"):
        plan(compose_config([*TINY, "model.experts=4", "model.top_k=5"]))
