"""A budget in whatever words, as FLOP; and what FLOP cost in hours and money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.errors import FieldError, QueryError
from fit.hardware import DEVICES, device, flops_of_hours
from fit.quantity import parse_number, power, three
from fit.question import Question
from fit.reply import Bill, Number, mapped
from fit.result import Fit, Note

DEFAULT_MFU = 0.4
"""Of large runs 38-46% are published (Chowdhery et al. 2022, arXiv:2204.02311, table 3, and
after); tiny models reach 1-15%."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What does the work: a kind of device, how many, how well used, at what price."""

    name: str
    flops_per_hour: float
    """Of one device at the utilisation."""
    mfu: float
    devices: int | None
    price: float | None
    """Of a device-hour [$]."""
    notes: tuple[Note, ...] = ()


def machine_of(question: Question) -> Machine | None:
    """The devices of a question; None where it names none.

    Raises:
        FieldError: The device is neither known nor a number.
    """
    if question.device is None:
        return None
    mfu, notes = _mfu(question)
    peak = _peak(question.device)
    return Machine(
        name=question.device,
        flops_per_hour=flops_of_hours(1.0, peak, mfu),
        mfu=mfu,
        devices=None if question.devices is None else round(question.devices),
        price=question.price,
        notes=notes,
    )


def budget_of(question: Question, machine: Machine | None) -> float | None:
    """The budget [FLOP]; None where a loss is asked for."""
    if question.flops is not None:
        return question.flops
    if machine is None:
        return None
    hours = question.hours
    if question.dollars is not None and question.price is not None:
        hours = question.dollars / question.price
    if question.deadline is not None and machine.devices is not None:
        hours = question.deadline * machine.devices
    return None if hours is None else hours * machine.flops_per_hour


def bill(machine: Machine | None, training: Number, serving: Number | None, total: Number) -> Bill:
    """What FLOP cost in hours and money, on machines where some were named.

    Args:
        machine: The devices; None where no hours are asked.
        training: FLOP of training.
        serving: FLOP of serving; None without any.
        total: The budget of both, of which limits may leave a part unspent.
    """
    spent = training if serving is None else total
    if machine is None:
        return Bill(training_flops=training, serving_flops=serving)
    hours = mapped(spent, lambda v: v / machine.flops_per_hour)
    return Bill(
        training_flops=training,
        serving_flops=serving,
        device=machine.name,
        devices=machine.devices,
        device_hours=hours,
        hours=_scaled(hours, None if machine.devices is None else 1 / machine.devices),
        dollars=_scaled(hours, machine.price),
        mfu=machine.mfu,
    )


def _scaled(number: Number, factor: float | None) -> Number | None:
    """A number times a factor; None without one."""
    return None if factor is None else mapped(number, lambda v: v * factor)


def _peak(name: str) -> float:
    """Peak of a device by name, or given as a number [FLOP/s]."""
    if name in DEVICES:
        return device(name).flops_per_second
    try:
        return parse_number(name, "device")
    except QueryError:
        raise FieldError(
            f"unknown device '{name}'; known are {', '.join(DEVICES)}. Choose one, or give its "
            "peak of dense bf16 products in FLOP/s, such as 1.65e14.",
            "device",
        ) from None


def _mfu(question: Question) -> tuple[float, tuple[Note, ...]]:
    """The utilisation, and where it is from if the question does not say."""
    if question.mfu is not None:
        return question.mfu, ()
    own = _own_mfu(question.source.fit)
    if own is None:
        text = (
            f"the MFU of {DEFAULT_MFU:g} is assumed, as of large runs (38-46% are published); "
            "hours and money go as 1 / MFU. Measure yours: --mfu."
        )
        return DEFAULT_MFU, (Note(code="mfu_assumed", severity="warning", message=text),)
    value, params = own
    text = (
        f"the MFU of {three(value)} is that of the fitted runs of {power(params)} parameters, the "
        "largest, on their own devices; another size or device differs: --mfu."
    )
    return value, (Note(code="mfu_fitted", severity="info", message=text),)


def _own_mfu(fit: Fit | None) -> tuple[float, float] | None:
    """Median utilisation of the largest fitted runs that have one, and their size."""
    column = None if fit is None else fit.points.columns.get("mfu")
    if fit is None or column is None:
        return None
    known = np.isfinite(column) & (column > 0) & (column <= 1)
    if not known.any():
        return None
    largest = float(fit.points.params[known].max())
    return float(np.median(column[known & (fit.points.params == largest)])), largest
