"""Models smaller than compute-optimal: what they cost in training, and what serving gives back.

A model that will be asked for many tokens is cheaper in all when it is smaller and trained longer.
Everything here holds for C = k N D; the law's loss is what must be reached.

What the next hundredth of a nat costs, what serving does, and what repeats are worth.

What money and machine time buy in FLOP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fit.allocation.scaling_law import IntervalCurve, ScalingLaw, fit_of
from fit.data.accounting import FLOPS_PER_PARAM_TOKEN
from fit.data.records import Floats
from fit.errors import QueryError
from fit.inference.intervals import derived_interval
from fit.laws.law import Law
from fit.quantities import check_count

FLOPS_PER_SERVED_TOKEN = 2.0
"""Forward only: FLOP per parameter and token."""
MOST_TIMES_FLOOR = 1e9
"""Sizes looked at, over the smallest that reaches the loss at all."""
HALVINGS = 200
STEP = 0.01
"""Nats per token."""
FARTHEST = 1e5
"""Budgets over the largest asked at which the lower loss is still looked for."""
SPACING = 0.05
"""Of the table in ln C. A line through it is off by gamma^2 (L - E) SPACING^2 / 8, below 2e-5 nats
for the published laws: 0.2% of the step."""
SIZES = 400
"""Sizes looked at for a lifetime."""
USUAL_MFU = 0.4
"""Published: 38-46% for large models."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """A model trained and then served, at the least compute for both."""

    params: float
    tokens: float
    """Training tokens."""
    training_flops: float
    serving_flops: float

    @property
    def flops(self) -> float:
        """Both together."""
        return self.training_flops + self.serving_flops


def tokens_for_loss(law: Law, theta: Floats, params: Floats, loss: float) -> Floats:
    """Training tokens with which sizes reach a loss: D = (B / (l - E - A N^-alpha))^(1/beta).

    Args:
        law: Law family.
        theta: One theta, (p,).
        params: N [parameters], any shape.
        loss: Target [nats/token].

    Returns:
        D [tokens], infinite for a model too small to reach the loss with any.

    Source: Sardana et al. 2024, arXiv:2401.00448, eq. 2.
    """
    e, a, b, alpha, beta = law.parts(theta)
    left = loss - e - a * np.asarray(params, dtype=np.float64) ** -alpha
    with np.errstate(divide="ignore"):
        return np.asarray((b / np.maximum(left, 0.0)) ** (1 / beta))


def smallest_params(law: Law, theta: Floats, loss: float) -> float:
    """The size below which no number of tokens reaches a loss: (A / (l - E))^(1/alpha).

    Raises:
        QueryError: The loss is not above the law's irreducible one.
    """
    e, a, _, alpha, _ = law.parts(theta)
    if not loss > e:
        raise QueryError(
            f"a loss of {loss:g} nats/token is asked for; the law goes down to {float(e):.4f} and "
            "no further. Ask for more than that."
        )
    return float((a / (loss - e)) ** (1 / alpha))


def lifetime_optimum(
    law: Law,
    theta: Floats,
    loss: float,
    served_tokens: float,
    *,
    training: float = FLOPS_PER_PARAM_TOKEN,
    serving: float = FLOPS_PER_SERVED_TOKEN,
) -> Lifetime:
    """The size that reaches a loss with the least compute over training and serving.

    6 N D(N) + 2 N D_served falls with N and then rises; its minimum is found by ternary search in
    ln N. With no token served it is the compute-optimal model of that loss.

    Args:
        law: Law family.
        theta: One theta, (p,).
        loss: Target [nats/token].
        served_tokens: Tokens that the model will read or write in its life, 0 or more.
        training: FLOP per parameter and training token.
        serving: FLOP per parameter and served token.

    Raises:
        QueryError: The loss cannot be reached, or the served tokens are negative.

    Source: Sardana et al. 2024, arXiv:2401.00448, eq. 2.
    """
    if not (np.isfinite(served_tokens) and served_tokens >= 0):
        raise QueryError(f"served tokens are {served_tokens:g}; 0 or a positive number is needed.")
    least = np.log(smallest_params(law, theta, loss))

    def cost(log_params: float) -> float:
        tokens = float(tokens_for_loss(law, theta, np.exp(log_params), loss))
        return float(np.exp(log_params)) * (training * tokens + serving * served_tokens)

    low, high = least, least + np.log(MOST_TIMES_FLOOR)
    for _ in range(HALVINGS):
        third = (high - low) / 3
        left, right = low + third, high - third
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    n = float(np.exp((low + high) / 2))
    d = float(tokens_for_loss(law, theta, np.array(n), loss))
    return Lifetime(
        params=n,
        tokens=d,
        training_flops=training * n * d,
        serving_flops=serving * n * served_tokens,
    )


def tokens_factor(law: Law, theta: Floats, size: float) -> float:
    """Tokens that a model of `size` times N* needs for the same loss, over D*.

    k_D = (1 - (k_N^-alpha - 1) beta/alpha)^(-1/beta); infinite at and below the smallest size.

    Args:
        law: Law family.
        theta: One theta, (p,).
        size: k_N, its parameters over the compute-optimal ones.

    Raises:
        QueryError: The size is not positive.

    Source: de Vries 2023, "Go smol or go home".
    """
    if not (np.isfinite(size) and size > 0):
        raise QueryError(f"a model of {size:g} times the optimal size is asked for; say .5 or 2.")
    _, _, _, alpha, beta = law.parts(theta)
    left = 1 - (size ** -float(alpha) - 1) * float(beta / alpha)
    return float(left ** (-1 / float(beta))) if left > 0 else float("inf")


def training_overhead(law: Law, theta: Floats, size: float) -> float:
    """Training compute of a model of `size` times N* at the same loss, over the least, less one."""
    return size * tokens_factor(law, theta, size) - 1


def smallest_size(law: Law, theta: Floats) -> float:
    """The k_N at which the tokens needed become infinite: (1 + alpha/beta)^(-1/alpha)."""
    _, _, _, alpha, beta = law.parts(theta)
    return float((1 + alpha / beta) ** (-1 / alpha))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """What a report is asked for beside the fit."""

    serve_tokens: float | None = None
    """Tokens that the model will read and write in its life."""
    unique_tokens: float | None = None
    """Tokens that there are; more are repeats."""
    price: float | None = None
    """Of a device-hour [$]."""
    device: str | None = None
    """A name of `hardware.DEVICES`."""
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the device's peak."""

    def dollars(self, flops: float) -> float | None:
        """What compute costs, where a price and a device are given.

        Raises:
            QueryError: No such device, or a number that cannot be meant.
        """
        if self.price is None or self.device is None:
            return None
        peak = device(self.device).flops_per_second
        return self.price * hours_of_flops(flops, peak, self.mfu or USUAL_MFU)


def next_price(source: ScalingLaw, flops: Floats, step: float = STEP) -> IntervalCurve:
    """Compute that takes the loss of the best split of a budget down by a step, beyond the budget.

    Args:
        source: A fit as a source, whose law splits budgets.
        flops: Budgets (k,), ascending [FLOP].
        step: Nats per token.

    Returns:
        FLOP beyond each budget, (k,), with intervals; infinite where E is nearer than the step.
    """
    first, last = float(np.log(flops[0])), float(np.log(FARTHEST * flops[-1]))
    table = np.linspace(first, last, int((last - first) / SPACING) + 2)
    at = source.splits(np.exp(table))
    places = np.log(flops)

    def logs(theta: Floats) -> Floats:
        falling = -np.exp(at(theta).log_loss)  # (m, table), ascending
        rows = []
        for row in falling:
            wanted = np.interp(places, table, row) + step
            reached = np.interp(wanted, row, table)
            rows.append(places + np.log(np.expm1(np.maximum(reached - places, 1e-9))))
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
    """Models of one loss and many sizes: what training each takes, and what serving it does."""

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
        """Both together."""
        return self.training + self.serving

    @property
    def cheapest(self) -> int:
        """The row that costs least in all."""
        return int(np.argmin(self.total))


def serving_costs(source: ScalingLaw, flops: float, served_tokens: float) -> ServingCosts | None:
    """What models of other sizes cost that reach the loss of a budget's best split.

    Args:
        source: A fit as a source.
        flops: The budget [FLOP].
        served_tokens: Tokens that the model will read and write in its life.

    Returns:
        Sizes around the optimum; None where the law is no sum of two power laws. Serving a token
        takes a third of what training on it does.

    Source: Sardana et al. 2024, arXiv:2401.00448.
    """
    if source.law.expand is None:
        return None
    best = source.best(np.array([flops]))
    loss, optimum = float(np.exp(best.log_loss[0])), float(np.exp(best.log_params[0]))
    least = smallest_params(source.law, source.theta, loss)
    params = np.geomspace(1.02 * least, 4 * optimum, SIZES)
    tokens = tokens_for_loss(source.law, source.theta, params, loss)
    per_token = np.exp(source.cost.log_flops_per_token(np.log(params)))
    return ServingCosts(
        loss=loss,
        served_tokens=served_tokens,
        params=params,
        tokens=tokens,
        training=tokens * per_token,
        serving=served_tokens * per_token / 3,
        optimum=optimum,
    )


def with_unique_tokens(source: ScalingLaw, unique_tokens: float) -> ScalingLaw | None:
    """The same law where only so many tokens are unique; None where it cannot be said.

    A law without repeats borrows what they are worth, see `repeats.over_repeats`.
    """
    known = "unique_tokens" in source.law.columns or source.law.exponents is not None
    return source.given(unique_tokens=unique_tokens) if known else None
