"""What compute costs: devices, money and time in FLOP, serving, and the next step in loss.

`machine` names devices, whose `Machine` converts FLOP to hours and dollars; `next_price` is the
compute of a lower loss, `serving_costs` compares sizes of one loss over training and serving, and
`with_unique_tokens` is a law whose tokens repeat; `where_repeats_stop` says how long that pays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fit.allocation.allocate import MOST_LOG, falling_root, log_loss, tokens_needed
from fit.allocation.scaling_law import IntervalCurve, ScalingLaw, fit_of
from fit.data.accounting import DEVICES, find_device
from fit.data.records import Floats
from fit.errors import FieldError, QueryError
from fit.inference.intervals import derived_interval
from fit.quantities import DEFAULT_MFU, check_count, parse_number, power, three_digits
from fit.verdict import Note

TRAINING_OVER_SERVING = 3.0
"""FLOP of training on a token over those of serving it: a backward pass costs two forward ones."""
LEAST_PEAK = 1e9
"""A device's peak below this is another unit, or another quantity [FLOP/s]."""
STEP = 0.01
"""Nats per token."""
LARGEST_REACH = 1e5
"""Largest budget at which the lower loss is looked for, over the largest budget of the question."""
SPACING = 0.05
"""Spacing of the table in ln C. Linear interpolation is off by gamma^2 (L - E) SPACING^2 / 8,
below 2e-5 nats for the published laws: 0.2% of the step."""
SIZES = 400
"""Points of the table of serving costs."""
WORTH_HAVING = 0.2
"""Share of what fresh tokens would gain below which repeats are not worth their compute: about 40
epochs by Muennighoff et al. 2023, arXiv:2305.16264, who call their returns nothing from there."""
DECADES = 8
"""How far around a budget that place is looked for."""
DOUBLING_POINTS = 4
"""Points of that table from a budget to twice it: the place is known to a fifth of its compute."""
ENDLESS_TOKENS = 1e30
"""Unique tokens that no budget repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Devices of one kind: the accounting from FLOP to hours and dollars that every door uses."""

    name: str
    flops_per_second: float
    """Peak of one device."""
    mfu: float
    """Model FLOPs utilisation, a share of the peak."""
    devices: int | None = None
    price: float | None = None
    """Of a device-hour [$]."""
    notes: tuple[Note, ...] = ()
    """Where the utilisation is from, if it was not given."""

    def __post_init__(self) -> None:
        check_count(self.flops_per_second, "peak")
        if not check_count(self.mfu, "MFU") <= 1:
            raise QueryError(
                f"MFU is {self.mfu:g}; a share of the peak up to 1 is needed, such as 0.4."
            )

    @property
    def flops_per_hour(self) -> float:
        """FLOP that one device trains with in an hour: 3600 x peak x MFU."""
        return 3600 * self.flops_per_second * self.mfu

    def hours(self, flops: float) -> float:
        """Device-hours of compute, devices times hours."""
        return flops / self.flops_per_hour

    def dollars(self, flops: float) -> float | None:
        """Price of compute [$]; None without a price."""
        return None if self.price is None else self.price * self.hours(flops)

    def cost(self, flops: float) -> dict[str, float | str | None]:
        """Device, utilisation, device-hours and dollars of compute, as documents hold them."""
        return {
            "device": self.name,
            "mfu": self.mfu,
            "device_hours": self.hours(flops),
            "dollars": self.dollars(flops),
        }


def machine(
    device: str,
    *,
    mfu: float | None = None,
    price: float | None = None,
    devices: int | None = None,
    measured: MeasuredMfu | None = None,
) -> Machine:
    """Devices by name or peak, with the utilisation that is given, measured or assumed.

    Args:
        device: A name of `DEVICES`, or the peak of dense bf16 products [FLOP/s].
        mfu: Share of the peak; None for what was measured on such a device, else `DEFAULT_MFU`.
        price: Of a device-hour [$].
        devices: How many train at once.
        measured: Utilisation of fitted runs, used only if they ran on such a device.

    Raises:
        FieldError: The device is neither known nor a number.
        QueryError: The utilisation or the price is out of range.
    """
    peak = peak_of(device)
    notes: tuple[Note, ...] = ()
    if mfu is None:
        mfu, note = _utilisation(device, peak, measured)
        notes = (note,)
    if price is not None:
        check_count(price, "price")
    known = find_device(device)
    name = device if known is None else known.name
    return Machine(
        name=name, flops_per_second=peak, mfu=mfu, devices=devices, price=price, notes=notes
    )


def peak_of(device: str) -> float:
    """Peak of a device by name, or given as a number [FLOP/s].

    Raises:
        FieldError: It is neither.
    """
    if known := find_device(device):
        return known.flops_per_second
    try:
        peak = parse_number(device, "device")
    except QueryError:
        peak = 0.0
    if peak < LEAST_PEAK:
        raise FieldError(
            f"unknown device '{device}'; known are {', '.join(DEVICES)}. Choose one, or give its "
            "peak of dense bf16 products in FLOP/s, such as 1.65e14.",
            "device",
        )
    return peak


def rental_price(device: str) -> tuple[float, Note]:
    """A device's price [$/h] where none is given, with a note on whose it is.

    Raises:
        FieldError: None is known.
    """
    known = find_device(device)
    if known is None or known.rental is None:
        raise FieldError(
            f"a budget in dollars needs the price of an hour, and none of '{device}' is stored; "
            "give it: --price 2.5.",
            "price",
        )
    price, source = known.rental
    text = (
        f"an hour of one {known.name} is taken at ${price:g} ({source}); others ask up to several "
        "times as much, and the budget goes as 1 / price. Give yours: --price."
    )
    return price, Note(code="price_assumed", severity="warning", message=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMfu:
    """Utilisation of the largest fitted runs."""

    mfu: float
    params: float
    """N of those runs."""
    flops_per_second: float | None
    """Peak of the device that they ran on; None on a CPU, or where it is not recorded."""


def _utilisation(device: str, peak: float, measured: MeasuredMfu | None) -> tuple[float, Note]:
    """The MFU where none is given, and a note on where it is from."""
    if measured is not None and measured.flops_per_second == peak:
        text = (
            f"the MFU of {three_digits(measured.mfu)} is that of the fitted runs of "
            f"{power(measured.params)} parameters, the largest; another size differs: --mfu."
        )
        return measured.mfu, Note(code="mfu_fitted", severity="info", message=text)
    text = (
        f"the MFU of {DEFAULT_MFU:g} is assumed, as of large runs (38-46% are published); "
        "hours and money go as 1 / MFU. Measure yours: --mfu."
    )
    if measured is not None:
        text += (
            f" The {three_digits(measured.mfu)} of the fitted runs is not used: it was measured "
            f"on another device than {device}, or on one that is not recorded."
        )
    return DEFAULT_MFU, Note(code="mfu_assumed", severity="warning", message=text)


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
    """A name of `DEVICES`, or a peak."""
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the device's peak."""

    def dollars(self, flops: float) -> float | None:
        """Price of compute [$]; None unless a price and a device are given.

        Raises:
            QueryError: The device is unknown, or a number is not positive.
        """
        if self.price is None or self.device is None:
            return None
        return machine(self.device, mfu=self.mfu, price=self.price).dollars(flops)


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
    value = np.exp(logs(source.theta[None, :])[0])
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
        Sizes around the optimum; None where the law is of more than params and tokens.

    Source: Sardana et al. 2024, arXiv:2401.00448.
    """
    if not source.law.splits:
        return None
    best = source.best(np.array([flops]))
    loss, optimum = float(np.exp(best.log_loss[0])), float(np.exp(best.log_params[0]))
    smallest = math.exp(_least_log_size(source, loss, math.log(optimum)))
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


def _least_log_size(source: ScalingLaw, loss: float, largest: float) -> float:
    """The ln of the N below which no number of tokens reaches a loss."""

    def missing(x: Floats) -> Floats:
        at = log_loss(source.law, source.theta[None], x, np.array([MOST_LOG]))
        return np.asarray(at - math.log(loss))

    return float(falling_root(missing, np.zeros(1), np.array([largest]))[0])


def with_unique_tokens(source: ScalingLaw, unique_tokens: float) -> ScalingLaw | None:
    """The same law with a number of unique tokens; None for a law that can express none.

    A law without repeated tokens borrows the constants of C4, see `families.with_repeats`.
    """
    repeats = "unique_tokens" in source.law.columns or source.plain.law.powers is not None
    return source.given(unique_tokens=unique_tokens) if repeats else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatStop:
    """Where repeats of the unique tokens stop paying."""

    flops: float
    epochs: float
    loss: float
    """At that budget."""
    gain: float
    """Fall of the loss by twice that budget."""
    fresh_gain: float
    """What twice the budget would gain there with fresh tokens."""


def where_repeats_stop(source: ScalingLaw, unique_tokens: float, flops: float) -> RepeatStop | None:
    """The budget from which a doubling gains less than `WORTH_HAVING` of what fresh tokens gain.

    Args:
        source: The law.
        unique_tokens: Unique tokens that there are.
        flops: A budget to look around [FLOP].

    Returns:
        The first such budget, at its best split; None where there is none within `DECADES`.
    """
    limited, fresh = (source.given(unique_tokens=u) for u in (unique_tokens, ENDLESS_TOKENS))
    step = math.log(2) / DOUBLING_POINTS
    half = int(DECADES * math.log(10) / step)
    log_flops = math.log(flops) + step * np.arange(-half, half + 1)
    with np.errstate(all="ignore"):
        here, unlimited = (law.best(np.exp(log_flops)) for law in (limited, fresh))
    gain, fresh_gain = (
        loss[:-DOUBLING_POINTS] - loss[DOUBLING_POINTS:]
        for loss in (np.exp(here.log_loss), np.exp(unlimited.log_loss))
    )
    repeated = here.log_tokens[: len(gain)] > math.log(unique_tokens)
    past = repeated & (gain < WORTH_HAVING * fresh_gain)
    if not past.any():
        return None
    i = int(np.argmax(past))
    return RepeatStop(
        flops=float(np.exp(log_flops[i])),
        epochs=float(np.exp(here.log_tokens[i])) / unique_tokens,
        loss=float(np.exp(here.log_loss[i])),
        gain=float(gain[i]),
        fresh_gain=float(fresh_gain[i]),
    )
