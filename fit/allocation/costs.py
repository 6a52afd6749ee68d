"""What compute costs: devices, money and time in FLOP, serving, and the next step in loss.

`flops_of_hours` and `hours_of_flops` convert machine time, `next_price` is the compute of a lower
loss, `serving_costs` compares sizes of one loss over training and serving, and `with_unique_tokens`
is a law whose tokens repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fit.allocation.allocate import tokens_needed
from fit.allocation.scaling_law import IntervalCurve, ScalingLaw, fit_of
from fit.data.records import Floats
from fit.errors import QueryError
from fit.inference.intervals import derived_interval
from fit.quantities import DEFAULT_MFU, check_count

TRAINING_OVER_SERVING = 3.0
"""FLOP of training on a token over those of serving it: a backward pass costs two forward ones."""
STEP = 0.01
"""Nats per token."""
LARGEST_REACH = 1e5
"""Largest budget at which the lower loss is looked for, over the largest budget of the question."""
SPACING = 0.05
"""Spacing of the table in ln C. Linear interpolation is off by gamma^2 (L - E) SPACING^2 / 8,
below 2e-5 nats for the published laws: 0.2% of the step."""
SIZES = 400
"""Points of the table of serving costs."""


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
    """FLOP of device-hours: hours x 3600 x peak x MFU.

    Args:
        hours: Device-hours, devices times hours.
        flops_per_second: Peak of one device.
        mfu: Model FLOPs utilisation, a share of the peak; of the user's own runs where known.

    Raises:
        QueryError: A number is not positive, or the utilisation is above 1.
    """
    check_count(hours, "device-hours")
    check_count(flops_per_second, "peak")
    if not check_count(mfu, "MFU") <= 1:
        raise QueryError(f"MFU is {mfu:g}; a share of the peak up to 1 is needed, such as 0.4.")
    return hours * 3600 * flops_per_second * mfu


def hours_of_flops(flops: float, flops_per_second: float, mfu: float) -> float:
    """Device-hours that a budget takes, the inverse of `flops_of_hours`."""
    return check_count(flops) / flops_of_hours(1.0, flops_per_second, mfu)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """Options of a report beside its fit."""

    serve_tokens: float | None = None
    """Tokens that the model will read and write in its life."""
    unique_tokens: float | None = None
    """Unique tokens available; a run past them repeats them."""
    price: float | None = None
    """Price of a device-hour [$]."""
    device: str | None = None
    """A name of `DEVICES`."""
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the device's peak."""

    def dollars(self, flops: float) -> float | None:
        """Price of compute [$]; None unless a price and a device are given.

        Raises:
            QueryError: The device is unknown, or a number is not positive.
        """
        if self.price is None or self.device is None:
            return None
        peak = device(self.device).flops_per_second
        return self.price * hours_of_flops(flops, peak, self.mfu or DEFAULT_MFU)


def next_price(source: ScalingLaw, flops: Floats, step: float = STEP) -> IntervalCurve:
    """Further compute that lowers the loss of a budget's best split by a step.

    Args:
        source: A fit whose law splits budgets.
        flops: Budgets (k,), ascending [FLOP].
        step: Nats per token.

    Returns:
        FLOP beyond each budget, (k,), with intervals; infinite where E is nearer than the step.
    """
    first, last = float(np.log(flops[0])), float(np.log(LARGEST_REACH * flops[-1]))
    table = np.linspace(first, last, int((last - first) / SPACING) + 2)
    at = source.splits(np.exp(table))
    log_flops = np.log(flops)

    def logs(theta: Floats) -> Floats:
        falling = -np.exp(at(theta).log_loss)  # (m, table), ascending
        rows = []
        for row in falling:
            target = np.interp(log_flops, table, row) + step
            reached = np.interp(target, row, table)
            rows.append(log_flops + np.log(np.expm1(np.maximum(reached - log_flops, 1e-9))))
        return np.array(rows)

    fit = fit_of(source)
    value = np.exp(logs(fit.vector()[None, :])[0])
    low, high = derived_interval(fit, logs)
    end = 0.99 * (np.exp(table[-1]) - flops)
    return IntervalCurve(
        value=np.where(value < end, value, np.inf),
        low=low,
        high=np.where(high < end, high, np.inf),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCosts:
    """Training and serving compute of models of one loss and many sizes."""

    loss: float
    served_tokens: float
    params: Floats
    """(k,), ascending."""
    tokens: Floats
    training: Floats
    """[FLOP]."""
    serving: Floats
    """[FLOP]."""
    optimum: float
    """N* of the budget: the least training [parameters]."""

    @property
    def total(self) -> Floats:
        """Training and serving together [FLOP]."""
        return self.training + self.serving

    @property
    def cheapest(self) -> int:
        """Index of the size with the least total."""
        return int(np.argmin(self.total))


def serving_costs(source: ScalingLaw, flops: float, served_tokens: float) -> ServingCosts | None:
    """Compute of models of other sizes that reach the loss of a budget's best split.

    Args:
        source: The law.
        flops: The budget [FLOP].
        served_tokens: Tokens that the model will read and write in its life.

    Returns:
        Sizes around the optimum; None where the law is no sum of two power laws.

    Source: Sardana et al. 2024, arXiv:2401.00448.
    """
    if source.law.expand is None:
        return None
    best = source.best(np.array([flops]))
    loss, optimum = float(np.exp(best.log_loss[0])), float(np.exp(best.log_params[0]))
    e, a, _, alpha, _ = source.law.parts(source.theta)
    smallest = float((a / (loss - e)) ** (1 / alpha))  # below it no number of tokens is enough
    params = np.geomspace(1.02 * smallest, 4 * optimum, SIZES)
    log_tokens = tokens_needed(
        source.law, source.theta[None], np.log(params), np.array([np.log(loss)])
    )
    tokens = np.exp(log_tokens)
    per_token = np.exp(source.cost.log_flops_per_token(np.log(params)))
    return ServingCosts(
        loss=loss,
        served_tokens=served_tokens,
        params=params,
        tokens=tokens,
        training=tokens * per_token,
        serving=served_tokens * per_token / TRAINING_OVER_SERVING,
        optimum=optimum,
    )


def with_unique_tokens(source: ScalingLaw, unique_tokens: float) -> ScalingLaw | None:
    """The same law with a number of unique tokens; None for a law that can express none.

    A law without repeated tokens borrows the constants of C4, see `families.with_repeats`.
    """
    repeats = "unique_tokens" in source.law.columns or source.law.powers is not None
    return source.given(unique_tokens=unique_tokens) if repeats else None
