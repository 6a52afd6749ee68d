"""What money and machine time buy."""

import pytest

from fit.allocation.costs import DEVICES, MeasuredMfu, machine
from fit.errors import QueryError
from fit.quantities import DEFAULT_MFU


@pytest.mark.parametrize(
    ("name", "peak"),
    [("a100", 312e12), ("h100", 989e12), ("h200", 989e12), ("b200", 2.25e15), ("mi300x", 1.3e15),
     ("tpu-v5p", 459e12)],
)  # fmt: skip
def test_peaks_are_those_of_dense_bf16(name, peak):
    assert machine(name).flops_per_second == peak


def test_an_h100_at_40_percent_trains_1e21_flop_in_702_hours_for_1755_dollars():
    h100 = machine("h100", mfu=0.4, price=2.5)
    assert h100.hours(1e21) == pytest.approx(702.17, rel=1e-4)
    assert h100.dollars(1e21) == pytest.approx(1755.4, rel=1e-4)
    assert machine("9.89e14", mfu=0.4).hours(1e21) == pytest.approx(h100.hours(1e21))
    assert machine("h100").dollars(1e21) is None


def test_a_utilisation_is_used_only_on_the_device_that_it_was_measured_on():
    on_cpu = MeasuredMfu(mfu=0.12, params=1e6, flops_per_second=None)
    on_h100 = MeasuredMfu(mfu=0.31, params=1e8, flops_per_second=989e12)
    assert machine("h100", measured=on_cpu).mfu == DEFAULT_MFU
    assert "is not used" in machine("h100", measured=on_cpu).notes[0].message
    assert machine("h100", measured=on_h100).mfu == 0.31
    assert machine("a100", measured=on_h100).mfu == DEFAULT_MFU
    assert machine("h100", mfu=0.5, measured=on_h100).notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "0"}, "unknown device"),
        ({"device": "h100", "mfu": 40.0}, "MFU is 40"),
        ({"device": "h100", "mfu": float("nan")}, "MFU"),
        ({"device": "h100", "price": -1.0}, "price"),
        ({"device": "989"}, "unknown device '989'"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(QueryError, match=message):
        machine(**options)


def test_an_unknown_device_names_the_known_ones():
    with pytest.raises(QueryError, match="h100"):
        machine("abacus")
    assert all(d.name == name for name, d in DEVICES.items())
    assert machine("H100").flops_per_second == machine("h100").flops_per_second
