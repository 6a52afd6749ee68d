"""Counts against arithmetic done by hand; tests/sweep/test_model.py holds them against torch."""

import pytest

from fit.data.accounting import (
    Shape,
    count_flops,
    count_params,
    device_peak,
    find_device,
    flops_per_token_in,
    params_in,
)
from fit.errors import PlanError

SHAPE = Shape(width=8, depth=2, heads=2, head_dim=4, d_ff=32, vocab=100, seq_len=16, conv=3)


def test_parameters_per_group_are_the_products_of_their_sizes():
    params = count_params(SHAPE)
    assert params.body == 2 * (4 * 8 * 8 + 2 * 8 * 32)
    assert params.head == 800
    assert params.embedding == 0
    assert params.other == 2 * 4 + 3 * 8
    assert params.total == params.body + 800 + params.other


def test_flops_are_six_per_matmul_parameter_and_causal_attention():
    flops = count_flops(SHAPE)
    assert flops.body + flops.head == 6 * count_params(SHAPE).matmul
    assert flops.attention == 6 * 2 * 8 * 16


def test_chinchilla_counts_the_embedding_and_whole_attention():
    flops = count_flops(SHAPE)
    whole = flops_per_token_in("chinchilla", flops=flops, params=0)
    assert whole - flops.exact == flops.head + flops.attention


def test_six_nd_follows_the_chosen_parameters():
    params = count_params(SHAPE)
    for convention in ("matmul", "total", "body", "chinchilla"):
        n = params_in(convention, params)
        assert flops_per_token_in("6nd", flops=count_flops(SHAPE), params=n) == 6 * n


@pytest.mark.parametrize(
    "call",
    [
        lambda: params_in("kaplan", count_params(SHAPE)),
        lambda: flops_per_token_in("7nd", flops=count_flops(SHAPE), params=1),
        lambda: Shape(width=0, depth=1, heads=1, head_dim=2, d_ff=4, vocab=9, seq_len=4),
    ],
)
def test_what_cannot_be_counted_is_named(call):
    with pytest.raises(PlanError):
        call()


@pytest.mark.parametrize(
    ("reported", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA RTX 6000 Ada Generation", 364.2e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 312e12 / 7),
        ("NVIDIA H200 MIG 3g.71gb", 989e12 * 3 / 7),
        ("tpu-v5p", 459e12),
        ("Quadro P400", None),
        ("", None),
        (None, None),
    ],
)
def test_the_peak_of_a_device_is_known_by_the_name_it_reports(reported, peak):
    found = device_peak(reported)
    assert found is None if peak is None else found == pytest.approx(peak)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 144G HBM3e", "gh200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "h100 mig 1g.10gb"),
    ],
)
def test_a_device_is_known_by_the_name_that_torch_gives_it(name, known):
    device = find_device(name)
    assert (device and device.name) == known
