"""What money and machine time buy in FLOP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fit.errors import QueryError
from fit.quantity import check_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An accelerator."""

    name: str
    flops_per_second: float
    """Peak of dense bf16 matrix products; vendors print twice that for sparse ones."""
    memory_bytes: float
    source: str


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Device(
                name="a100",
                flops_per_second=312e12,
                memory_bytes=80e9,
                source="NVIDIA A100 80GB data sheet",
            ),
            Device(
                name="h100",
                flops_per_second=989e12,
                memory_bytes=80e9,
                source="NVIDIA H100 SXM data sheet",
            ),
            Device(
                name="h200",
                flops_per_second=989e12,
                memory_bytes=141e9,
                source="NVIDIA H200 SXM data sheet",
            ),
            Device(
                name="b200",
                flops_per_second=2.25e15,
                memory_bytes=180e9,
                source="NVIDIA HGX B200 data sheet",
            ),
            Device(
                name="mi300x",
                flops_per_second=1.3e15,
                memory_bytes=192e9,
                source="AMD Instinct MI300X data sheet",
            ),
            Device(
                name="tpu-v5p",
                flops_per_second=459e12,
                memory_bytes=95e9,
                source="Google Cloud TPU v5p documentation",
            ),
        )
    }
)


def device(name: str) -> Device:
    """An accelerator by name.

    Raises:
        QueryError: It is not in the table.
    """
    if name not in DEVICES:
        raise QueryError(
            f"unknown device '{name}'; known are {', '.join(DEVICES)}. Choose one of them."
        )
    return DEVICES[name]


def flops_of_hours(hours: float, flops_per_second: float, mfu: float) -> float:
    """What device-hours do: hours 3600 peak MFU [FLOP].

    Args:
        hours: Device-hours, devices times hours.
        flops_per_second: Peak of one device.
        mfu: Model FLOPs utilisation, a share of the peak; of the user's own runs where there are.

    Raises:
        QueryError: A number is not positive, or the utilisation is above 1.
    """
    check_count(hours, "device-hours")
    check_count(flops_per_second, "peak")
    if not check_count(mfu, "MFU") <= 1:
        raise QueryError(f"MFU is {mfu:g}; a share of the peak up to 1 is needed, such as 0.4.")
    return hours * 3600 * flops_per_second * mfu


def flops_of_dollars(dollars: float, price: float, flops_per_second: float, mfu: float) -> float:
    """What money buys: dollars / price device-hours, and those in FLOP.

    Args:
        dollars: Budget [$].
        price: Of one device-hour [$/h].
        flops_per_second: Peak of one device.
        mfu: Model FLOPs utilisation, a share of the peak.

    Raises:
        QueryError: A number is not positive, or the utilisation is above 1.
    """
    hours = check_count(dollars, "dollars") / check_count(price, "price")
    return flops_of_hours(hours, flops_per_second, mfu)


def hours_of_flops(flops: float, flops_per_second: float, mfu: float) -> float:
    """Device-hours that a budget takes, the inverse of `flops_of_hours`."""
    return check_count(flops) / flops_of_hours(1.0, flops_per_second, mfu)
