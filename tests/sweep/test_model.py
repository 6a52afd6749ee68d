"""The built model against the accounting, and its own mathematics."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fit.data.accounting import Shape, count_flops, count_params
from sweep.model import CausalConv, Transformer, rms_norm, rotary_table, rotate

BASE = {"width": 16, "depth": 2, "heads": 2, "head_dim": 8, "d_ff": 64, "vocab": 40, "seq_len": 32}
SHAPES = [
    Shape(**BASE),
    Shape(**BASE | {"tied": False}),
    Shape(**BASE | {"gated": True, "conv": 3}),
    Shape(**BASE | {"gated": True, "tied": False, "d_ff": 40}),
    Shape(**BASE | {"heads": 3, "head_dim": 4, "depth": 1}),
    Shape(**BASE | {"width": 24, "depth": 5, "heads": 1, "head_dim": 6, "conv": 2}),
    Shape(**BASE | {"experts": 4, "top_k": 2, "conv": 1}),
    Shape(**BASE | {"experts": 3, "top_k": 1, "gated": True, "tied": False}),
    Shape(**BASE | {"width": 32, "vocab": 7, "seq_len": 8, "tied": False}),
]


def build(shape: Shape, seed: int = 0) -> Transformer:
    model = Transformer(shape)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def batch(shape: Shape, rows: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(shape.vocab, (rows, shape.seq_len + 1), generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_count_equals_the_accounting(shape):
    model = build(shape)
    assert sum(p.numel() for p in model.parameters()) == count_params(shape).total


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_equal_what_torch_counts_with_attention_whole(shape):
    model, rows = build(shape), batch(shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.token_losses(rows[:, :-1], rows[:, 1:]).mean().backward()
    per_token = count_flops(shape)
    tokens = rows.shape[0] * shape.seq_len
    assert counter.get_total_flops() == tokens * (per_token.exact + per_token.attention)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_training_step_costs_the_same_flops(shape):
    model, rows = build(shape), batch(shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(rows[:, :-1], rows[:, 1:], 1e-4).backward()
    per_token = count_flops(shape)
    tokens = rows.shape[0] * shape.seq_len
    assert counter.get_total_flops() == tokens * (per_token.exact + per_token.attention)


@pytest.mark.parametrize("width", [16, 64, 128, 512, 1024])
def test_loss_at_step_zero_is_ln_vocab_at_every_width(width):
    shape = Shape(**BASE | {"vocab": 500, "width": width, "d_ff": 64, "depth": 1})
    model, rows = build(shape), batch(shape, 16)
    loss = model(rows[:, :-1], rows[:, 1:], 1e-4).detach()
    assert float(loss) == pytest.approx(math.log(500), rel=0.01)


def test_head_loss_and_its_gradient_equal_cross_entropy_with_z_loss():
    shape, z_loss = SHAPES[1], 1e-2
    model, rows = build(shape).double(), batch(shape)
    with torch.no_grad():
        model.head.normal_(generator=torch.Generator().manual_seed(2))
    loss = model(rows[:, :-1], rows[:, 1:], z_loss)
    loss.backward()
    loss = loss.detach()
    fused = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    logits = (model.hidden(rows[:, :-1]) @ model.head.t()).flatten(0, 1)
    plain = torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten())
    (plain + z_loss * logits.logsumexp(-1).square().mean()).backward()
    assert float(loss) == pytest.approx(float(plain.detach()), rel=1e-9)
    for ours, parameter in zip(fused, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-6, atol=1e-9)


def test_written_gradients_equal_central_differences():
    shape = SHAPES[2]
    model, rows = build(shape).double(), batch(shape, 2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model(rows[:, :-1], rows[:, 1:], 0.0).backward()
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator).double()
        expected = float((parameter.grad * direction).sum())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-5 * direction)
                values.append(float(model(rows[:, :-1], rows[:, 1:], 0.0)))
                parameter.sub_(sign * 1e-5 * direction)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_no_position_sees_a_later_token():
    shape = SHAPES[2]
    model, rows = build(shape), batch(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
        before = model.hidden(rows[:, :-1])
        changed = rows.clone()
        changed[:, 20] = (changed[:, 20] + 1) % shape.vocab
        after = model.hidden(changed[:, :-1])
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_rotation_makes_scores_depend_on_distance_alone():
    cos, sin = rotary_table(16, 8)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    scores = [rotate(q, cos[i], sin[i]) @ rotate(k, cos[i + 3], sin[i + 3]) for i in range(10)]
    assert torch.stack(scores).std() < 1e-5


def test_norm_has_unit_mean_square_and_conv_reaches_back_its_taps_only():
    x = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(0))
    assert rms_norm(x).square().mean(-1).sub(1).abs().max() < 1e-4
    pulse = torch.zeros(1, 12, 1)
    pulse[0, 4] = 1.0
    taps = torch.tensor([[0.5], [0.25], [0.125]])
    assert (
        CausalConv.apply(pulse, taps)[0, :, 0].tolist() == [0] * 4 + [1, 0.5, 0.25, 0.125] + [0] * 4
    )
