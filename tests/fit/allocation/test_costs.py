"""What money and machine time buy."""

import pytest

from fit.allocation.costs import DEVICES, device, flops_of_hours, hours_of_flops
from fit.errors import QueryError


@pytest.mark.parametrize(
    ("name", "peak"),
    [("a100", 312e12), ("h100", 989e12), ("h200", 989e12), ("b200", 2.25e15), ("mi300x", 1.3e15),
     ("tpu-v5p", 459e12)],
)  # fmt: skip
def test_peaks_are_those_of_dense_bf16(name, peak):
    assert device(name).flops_per_second == peak


def test_hours_and_flops_invert_each_other():
    assert hours_of_flops(flops_of_hours(123.0, 312e12, 0.38), 312e12, 0.38) == pytest.approx(123)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 989e12, 0.4), "device-hours"),
        ((1e4, 0, 0.4), "peak"),
        ((1e4, 989e12, 40), "MFU is 40"),
        ((1e4, 989e12, float("nan")), "MFU"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(QueryError, match=message):
        flops_of_hours(*arguments)


def test_an_unknown_device_names_the_known_ones():
    with pytest.raises(QueryError, match="h100"):
        device("abacus")
    assert all(d.name == name for name, d in DEVICES.items())
