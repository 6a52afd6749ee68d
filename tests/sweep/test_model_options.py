"""Options of the built-in model: counted as torch counts, and each against plain arithmetic."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fit.data.accounting import Shape, count_flops, count_params
from fit.data.records import RunRecord
from fit.errors import PlanError
from sweep.model import Transformer, activate, rotary_table
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from sweep.training.outcome import recipe
from sweep.training.step import any_rows
from tests.sweep.training.test_loop import TINY, Quiet, trajectory

BASE = Shape(width=32, depth=2, heads=4, head_dim=8, d_ff=48, vocab=43, seq_len=24, conv=2)
EXPERTS = {"experts": 3, "top_k": 2}
OPTIONS = (
    {"kv_heads": 2},
    {"kv_heads": 1, "tied": False},
    {"activation": "gelu"},
    {"activation": "gelu", "gated": True},
    {"pad_vocab_to": 32},
    {"rope_base": 5e5},
    {"heads": 2, "head_dim": 32, "kv_heads": 1},
    {"width": 128, "heads": 2, "head_dim": 64, "kv_heads": 1, "depth": 1},
    {"kv_heads": 2, "activation": "gelu", "gated": True, "pad_vocab_to": 64, "rope_base": 1e6},
)
SHAPES = [
    dataclasses.replace(BASE, **{**more, **own})
    for own in OPTIONS
    for more in ({}, {"tied": False}, EXPERTS)
]
SEPARATOR = 7


def build(shape, *, separator=None, spread=0.0):
    """A model at step 0, or with weights moved so that every one of them matters."""
    model = Transformer(shape, separator=separator)
    model.init_weights(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(spread * torch.randn(weight.shape, generator=generator))
    return model


def batch(shape, rows=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(shape.vocab, (rows, shape.seq_len + 1), generator=generator)


@pytest.mark.parametrize("separator", [None, SEPARATOR])
@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_and_flops_are_what_torch_counts(shape, separator):
    model, rows = build(shape, separator=separator), batch(shape)
    assert sum(p.numel() for p in model.parameters()) == count_params(shape).total
    per_token, tokens = count_flops(shape), rows.shape[0] * shape.seq_len
    for step in (lambda *r: model.token_losses(*r).mean(), lambda *r: model(*r, 1e-4)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step(rows[:, :-1], rows[:, 1:]).backward()
        # torch counts the whole square of attention, whatever the mask leaves out
        assert counter.get_total_flops() == tokens * (per_token.exact + per_token.attention)


@pytest.mark.parametrize("shape", SHAPES[::3])
def test_training_and_measuring_give_the_same_loss(shape):
    model, rows = build(shape, separator=SEPARATOR, spread=0.1), batch(shape)
    loss = model(rows[:, :-1], rows[:, 1:], 1e-4)
    measured = model.token_losses(rows[:, :-1], rows[:, 1:]).mean()
    assert float(loss.detach()) == pytest.approx(float(measured.detach()), rel=1e-5)


def test_shared_keys_and_values_equal_separate_ones_with_repeated_weights():
    shared = build(dataclasses.replace(BASE, kv_heads=2), spread=0.2)
    whole = build(BASE, spread=0.2)
    with torch.no_grad():
        for name, weight in shared.named_parameters():
            target = dict(whole.named_parameters())[name]
            if not name.endswith("qkv"):
                target.copy_(weight)
                continue
            q, k, v = weight.split([32, 16, 16])
            repeated = [x.view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32) for x in (k, v)]
            target.copy_(torch.cat([q, *repeated]))
        tokens = batch(BASE)[:, :-1]
        torch.testing.assert_close(
            shared.hidden(tokens), whole.hidden(tokens), rtol=1e-4, atol=1e-5
        )


def test_heads_that_cannot_share_equally_are_refused_and_all_heads_are_the_default():
    with pytest.raises(PlanError, match=r"kv_heads is 3 of 4 heads.*Change kv_heads: 1, 2, 4\."):
        dataclasses.replace(BASE, kv_heads=3)
    assert dataclasses.replace(BASE, kv_heads=4) == BASE


def test_kinds_of_mlp_are_their_formulas():
    h = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gate, up = h[:, :4], h[:, 4:]
    normal = torch.distributions.Normal(0.0, 1.0).cdf
    torch.testing.assert_close(activate(h, False, None), h.clamp_min(0) ** 2)
    torch.testing.assert_close(activate(h, False, "gelu"), h * normal(h))
    torch.testing.assert_close(activate(h, True, None), gate * torch.sigmoid(gate) * up)
    torch.testing.assert_close(activate(h, True, "gelu"), gate * normal(gate) * up)


@pytest.mark.parametrize("more", [{}, EXPERTS, {"kv_heads": 2}, {"conv": 0, "tied": False}])
def test_tokens_before_a_separator_change_no_loss_after_it(more):
    shape = dataclasses.replace(BASE, **more)
    rows = batch(shape)
    rows[rows == SEPARATOR] = SEPARATOR + 1
    rows[:, [9, 16]] = SEPARATOR
    changed = rows.clone()
    changed[:, :9] = (rows[:, :9] + 11) % shape.vocab
    changed[changed == SEPARATOR] = SEPARATOR + 1
    changed[:, [9, 16]] = SEPARATOR
    for separator, same in ((SEPARATOR, True), (None, False)):
        model = build(shape, separator=separator, spread=0.2).double()
        one, other = (model.token_losses(r[:, :-1], r[:, 1:]) for r in (rows, changed))
        # exact but for experts, whose products are computed for other numbers of tokens at once
        close = torch.allclose(one[:, 9:], other[:, 9:], rtol=1e-12, atol=1e-12)
        assert close == same
        assert not torch.allclose(one[:, :9], other[:, :9])


def test_a_masked_document_has_the_losses_that_it_has_alone():
    model = build(BASE, separator=SEPARATOR, spread=0.2).double()
    rows = batch(BASE)
    rows[rows == SEPARATOR] = SEPARATOR + 1
    rows[:, [9, 16]] = SEPARATOR
    whole = model.token_losses(rows[:, :-1], rows[:, 1:])
    for start, end in ((0, 9), (9, 16), (16, 24)):
        alone = rows[:, start : end + 1]
        found = model.token_losses(alone[:, :-1], alone[:, 1:])
        # other angles of rotation for the same distances, and losses in float32
        torch.testing.assert_close(whole[:, start:end], found, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_masked_model_equal_central_differences():
    model = build(BASE, separator=SEPARATOR, spread=0.1).double()
    rows, generator = batch(BASE, 2), torch.Generator().manual_seed(3)
    rows[:, 12] = SEPARATOR
    model(rows[:, :-1], rows[:, 1:], 0.0).backward()
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator).double()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-5 * direction)
                values.append(float(model(rows[:, :-1], rows[:, 1:], 0.0)))
                parameter.sub_(sign * 1e-5 * direction)
        expected = float((parameter.grad * direction).sum())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own
@pytest.mark.parametrize("whole", [True, False])
def test_one_graph_serves_any_number_of_masked_rows(whole):
    model = build(dataclasses.replace(BASE, kv_heads=2), separator=SEPARATOR, spread=0.1)
    rows = [batch(BASE, count) for count in (3, 5, 8)]
    wanted = [float(model(r[:, :-1], r[:, 1:], 1e-4).detach()) for r in rows]
    torch._dynamo.reset()
    graphs = CompileCounter()
    if whole:
        forward = torch.compile(model, backend=graphs, fullgraph=True)
    else:
        forward, model.any_rows = model, True
        for block in model.blocks:
            block.compile(backend=graphs, fullgraph=True)
    found = []
    for r in rows:
        tokens, targets = r[:, :-1], r[:, 1:]
        with any_rows(tokens, targets):
            found.append(float(forward(tokens, targets, 1e-4).detach()))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert graphs.frame_count == 1


def test_the_base_sets_the_slowest_rotation():
    for base in (1e4, 5e5):
        cos, sin = rotary_table(2, 16, base)
        angles = np.arctan2(sin[1, 8:].numpy(), cos[1, 8:].numpy())
        assert angles == pytest.approx(base ** (-np.arange(8) / 8), rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_padded_vocabulary_trains_as_one_without_padding(tied):
    plain = dataclasses.replace(BASE, tied=tied)
    padded = dataclasses.replace(plain, pad_vocab_to=64)
    losses = []
    for shape in (plain, padded):
        model, rows = build(shape), batch(shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = model(rows[:, :-1], rows[:, 1:], 1e-3)
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
        measured = model.token_losses(rows[:, :-1], rows[:, 1:]).mean()
        losses[-1].append(float(measured.detach()))
    assert losses[1][0] == pytest.approx(math.log(43), rel=0.01)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][-1] < losses[1][0] - 0.2
    assert not model.embedding[43:].detach().any() and not model.head[43:].detach().any()


def test_padded_logits_are_left_out_on_every_device():
    shape = dataclasses.replace(BASE, pad_vocab_to=64, tied=False)
    model, rows = build(shape, spread=0.3), batch(shape)
    with torch.no_grad():
        x = model.hidden(rows[:, :-1])
        fused = model._cross_entropy(x, rows[:, 1:], 0.0)
        logits = F.linear(x, model.head)[..., :43].flatten(0, 1)
        assert float(fused) == pytest.approx(float(F.cross_entropy(logits, rows[:, 1:].flatten())))
        assert model._logits(x).shape[-1] == 43


ALL = (
    *("model.width=16", "model.heads=2", "model.kv_heads=1", "model.mlp=geglu"),
    *("model.pad_vocab_to=64", "model.rope_base=5e5", "model.seq_len=32"),
)


def test_a_run_with_every_option_is_recorded_and_its_recipe_plans_it_again(tmp_path):
    planned = trajectory("train.tokens=3e3", *ALL)
    (record,) = train(planned, tmp_path, Quiet())
    assert record.status == "done"
    assert RunRecord.from_json(record.to_json()).kv_heads == 1
    assert record.vocab == planned.shape.vocab
    assert record.params_head == planned.shape.vocab_rows * 16 == count_params(planned.shape).head
    kept = {k: v for k, v in recipe(planned).items() if k.startswith("model.")}
    again = [f"{k}={v}".replace("True", "true").replace("False", "false") for k, v in kept.items()]
    sizes = ["model.width=16", "model.heads=2", "train.tokens=3e3"]
    (same,) = plan(compose_config([*TINY, *sizes, *again]))
    assert same.runs[0].run == record.run


def test_rows_of_documents_are_masked_in_training_and_measuring(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    words = np.random.default_rng(0).choice(["red", "green", "blue", "grey"], size=(40, 30))
    for number, text in enumerate(words):
        (folder / f"{number}.txt").write_text(" ".join(text))
    data = ("data=text", f"data.path={folder}", "data.tokenizer=bytes", "data.heldout_tokens=512")
    given = ("train.tokens=6e3", *data, f"data.cache={tmp_path}/cache")
    masked, plain = (
        trajectory(*given, f"model.document_mask={mask}") for mask in ("true", "false")
    )
    assert masked.separator == 256 and plain.separator is None
    assert masked.runs[0].run != plain.runs[0].run
    losses = [train(t, tmp_path / str(n), Quiet())[0].loss for n, t in enumerate((masked, plain))]
    assert losses[0] != losses[1] and max(losses) < math.log(257)
    assert "model.document_mask" not in recipe(plain)
    assert recipe(masked)["model.document_mask"] is True


def test_a_source_without_a_separator_is_refused_in_one_line():
    with pytest.raises(PlanError, match="data=stories names none; leave it out, or take data=text"):
        trajectory("train.tokens=3e3", "model.document_mask=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.mlp=swish"], "model.mlp=swish; known are relu2, gelu, swiglu, geglu"),
        (["model.mlp=gelu", "model.gated=true"], "model.mlp=gelu is not gated"),
        (["model.width=32", "model.kv_heads=3"], "kv_heads is 3 of 4 heads"),
        (["model.pad_vocab_to=-1"], "model.pad_vocab_to=-1; 0"),
        (["model.rope_base=0"], "model.rope_base"),
    ],
)
def test_wrong_values_are_refused_in_one_line(overrides, message):
    with pytest.raises(PlanError, match=message):
        trajectory("train.tokens=3e3", *overrides)


def test_names_of_mlps_and_settings_without_effect_are_the_runs_that_they_were():
    def name(*overrides):
        return trajectory("train.tokens=3e3", *overrides).runs[0].run

    assert name("model.mlp=relu2") == name()
    assert name("model.mlp=swiglu") == name("model.gated=true") != name()
    assert name("model.kv_heads=1") == name()  # one head
    assert name("model.pad_vocab_to=1") == name()
    assert len({name(), name("model.mlp=gelu"), name("model.mlp=geglu")}) == 3


@pytest.mark.parametrize("seq_len", [512, 2048])
def test_long_rows_are_planned_with_a_batch_of_whole_rows(seq_len):
    planned = trajectory(
        *(f"model.seq_len={seq_len}", "train.batch_tokens=128.0", "train.tokens=1e6"),
        *("train.batch_at_1m=0", "model.rope_base=5e5"),
    )
    assert planned.rule.batch_tokens == seq_len
    short = trajectory("train.tokens=1e6", "train.batch_at_1m=0")
    more = planned.flops_per_token.attention / short.flops_per_token.attention
    assert more == seq_len / short.shape.seq_len
    with pytest.raises(PlanError, match=f"train.batch_tokens=100 .* take {seq_len}"):
        trajectory(f"model.seq_len={seq_len}", "train.batch_tokens=100")


def test_a_run_with_long_rows_trains(tmp_path):
    planned = trajectory(
        *("model.seq_len=512", "train.batch_tokens=512", "train.tokens=6e3"),
        *("train.warmup_tokens=512", "train.batch_at_1m=0", "model.rope_base=5e5"),
    )
    (record,) = train(planned, tmp_path, Quiet())
    assert record.status == "done" and record.seq_len == 512
