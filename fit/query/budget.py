"""The budget of a question in FLOP, and what FLOP cost in hours and money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.allocation.costs import DEVICES, flops_of_hours
from fit.errors import FieldError, QueryError
from fit.quantities import DEFAULT_MFU, check_count, parse_number, power, three_digits
from fit.query.documents import AnswerCost, Number, mapped
from fit.query.question import Question
from fit.results import Fit, Note

MOST_FLOPS = 1e40
"""Above it a budget is a typing error; every computer ever built has done less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The devices of a question: kind, number, utilisation and price."""

    name: str
    flops_per_hour: float
    """Of one device at the utilisation."""
    mfu: float
    devices: int | None
    price: float | None
    """Of a device-hour [$]."""
    notes: tuple[Note, ...] = ()
    """Where the utilisation is from, if the question does not give it."""


def machine_of(question: Question) -> Machine | None:
    """The devices of a question; None where it names none.

    Raises:
        FieldError: The device is neither known nor a number.
    """
    if question.device is None:
        return None
    mfu, notes = _utilisation(question)
    return Machine(
        name=question.device,
        flops_per_hour=flops_of_hours(1.0, _peak(question.device), mfu),
        mfu=mfu,
        devices=None if question.devices is None else round(question.devices),
        price=question.price,
        notes=notes,
    )


def budget_of(question: Question, machine: Machine | None) -> float | None:
    """The budget [FLOP]; None where the question gives a target loss.

    Raises:
        QueryError: It is above `MOST_FLOPS`.
    """
    if question.loss is not None:
        return None
    flops, hours = question.flops, question.hours
    if machine is not None and flops is None:
        if question.dollars is not None and question.price is not None:
            hours = question.dollars / question.price
        if question.deadline is not None and machine.devices is not None:
            hours = question.deadline * machine.devices
        assert hours is not None
        flops = hours * machine.flops_per_hour
    assert flops is not None  # `Question` has checked that one of the five is there
    return check_budget(flops)


def check_budget(flops: float) -> float:
    """A budget [FLOP], if it is positive and no typing error.

    Raises:
        QueryError: It is not positive, or above `MOST_FLOPS`.
    """
    if check_count(flops) > MOST_FLOPS:
        raise QueryError(f"budget is {flops:g} FLOP; at most {MOST_FLOPS:g} is believed. Check it.")
    return flops


def answer_cost(
    machine: Machine | None, training: Number, serving: Number | None, total: Number
) -> AnswerCost:
    """What FLOP cost in hours and money, on machines where the question names some.

    Args:
        machine: The devices; None for no hours.
        training: FLOP of training.
        serving: FLOP of serving; None without any.
        total: The budget of both, of which limits may leave a part unspent.
    """
    if machine is None:
        return AnswerCost(training_flops=training, serving_flops=serving)
    devices, price = machine.devices, machine.price
    spent = training if serving is None else total
    hours = mapped(spent, lambda v: v / machine.flops_per_hour)
    return AnswerCost(
        training_flops=training,
        serving_flops=serving,
        device=machine.name,
        devices=devices,
        device_hours=hours,
        hours=None if devices is None else mapped(hours, lambda v: v * (1 / devices)),
        dollars=None if price is None else mapped(hours, lambda v: v * price),
        mfu=machine.mfu,
    )


def _peak(name: str) -> float:
    """Peak of a device by name, or given as a number [FLOP/s]."""
    if name in DEVICES:
        return DEVICES[name].flops_per_second
    try:
        return parse_number(name, "device")
    except QueryError:
        raise FieldError(
            f"unknown device '{name}'; known are {', '.join(DEVICES)}. Choose one, or give its "
            "peak of dense bf16 products in FLOP/s, such as 1.65e14.",
            "device",
        ) from None


def _utilisation(question: Question) -> tuple[float, tuple[Note, ...]]:
    """The MFU, and a note on where it is from if the question does not give it."""
    if question.mfu is not None:
        return question.mfu, ()
    measured = _measured_mfu(question.source.fit)
    if measured is None:
        text = (
            f"the MFU of {DEFAULT_MFU:g} is assumed, as of large runs (38-46% are published); "
            "hours and money go as 1 / MFU. Measure yours: --mfu."
        )
        return DEFAULT_MFU, (Note(code="mfu_assumed", severity="warning", message=text),)
    value, params = measured
    text = (
        f"the MFU of {three_digits(value)} is that of the fitted runs of {power(params)} "
        "parameters, the largest, on their own devices; another size or device differs: --mfu."
    )
    return value, (Note(code="mfu_fitted", severity="info", message=text),)


def _measured_mfu(fit: Fit | None) -> tuple[float, float] | None:
    """Median MFU of the largest fitted runs that recorded one, and their N."""
    column = None if fit is None else fit.points.columns.get("mfu")
    if fit is None or column is None:
        return None
    recorded = np.isfinite(column) & (column > 0) & (column <= 1)
    if not recorded.any():
        return None
    largest = float(fit.points.params[recorded].max())
    return float(np.median(column[recorded & (fit.points.params == largest)])), largest
