"""The budget of a question in FLOP, and what FLOP cost in hours and money."""

from __future__ import annotations

import dataclasses

import numpy as np

from fit.allocation.costs import Machine, MeasuredMfu, machine, rental_price
from fit.errors import FieldError, QueryError
from fit.quantities import check_count
from fit.query.documents import AnswerCost, Number, mapped
from fit.query.question import Question, budget_fields, without_device
from fit.results import Fit
from fit.verdict import Note

MOST_FLOPS = 1e40
"""Above it a budget is a typing error; every computer ever built has done less."""


def machine_of(question: Question) -> Machine | None:
    """The devices of a question; None where it names none.

    A budget in dollars without a price is taken at the stored rental price, with a note.

    Raises:
        FieldError: The device is neither known nor a number, or its price is needed and unknown.
    """
    if question.device is None:
        return None
    price, assumed = question.price, tuple[Note, ...]()
    if question.dollars is not None and price is None:
        price, note = rental_price(question.device)
        assumed = (note,)
    devices = machine(
        question.device,
        mfu=question.mfu,
        price=price,
        devices=None if question.devices is None else round(question.devices),
        measured=measured_mfu(question.source.fit),
    )
    return dataclasses.replace(devices, notes=(*assumed, *devices.notes))


def budget_of(question: Question, devices: Machine | None) -> float | None:
    """The budget [FLOP]; None where the question gives a target loss.

    Raises:
        QueryError: It is above `MOST_FLOPS`.
    """
    if question.loss is not None:
        return None
    flops, hours = question.flops, question.hours
    if devices is not None and flops is None:
        if question.dollars is not None and devices.price is not None:
            hours = question.dollars / devices.price
        if question.deadline is not None and devices.devices is not None:
            hours = question.deadline * devices.devices
        assert hours is not None
        flops = hours * devices.flops_per_hour
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


def budget_flops(
    text: str | float,
    what: str = "budget",
    *,
    fit: Fit | None = None,
    device: str | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> tuple[float, tuple[Note, ...]]:
    """The compute of a budget that is no question [FLOP], and what was assumed for it.

    Args:
        text: A number of FLOP, or what was typed.
        what: Its name, for the message.
        fit: Whose measured utilisation is used, on such a device.
        device: The device, where the text names none.
        mfu: Share of its peak.
        price: Dollars of an hour of it; the stored one where None.

    Raises:
        QueryError: It is no budget, or names money or hours and no device.
    """
    if not isinstance(text, str):
        return check_budget(text), ()
    try:
        fields = budget_fields(text, {})
    except FieldError as error:
        raise QueryError(str(error).replace("budget is", f"{what} is", 1)) from error
    if "flops" in fields:
        return check_budget(float(str(fields["flops"]))), ()
    device = str(fields.get("device") or device or "") or None
    if device is None:
        raise QueryError(without_device(text, what))
    notes: tuple[Note, ...] = ()
    if "dollars" in fields and price is None:
        price, note = rental_price(device)
        notes = (note,)
    devices = machine(device, mfu=mfu, price=price, measured=measured_mfu(fit))
    if "dollars" in fields:
        assert price is not None
        hours = float(str(fields["dollars"])) / price
    elif "hours" in fields:
        hours = float(str(fields["hours"]))
    else:
        hours = float(str(fields["deadline"])) * float(str(fields.get("devices", 1)))
    return check_budget(hours * devices.flops_per_hour), (*notes, *devices.notes)


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
    hours = mapped(spent, machine.hours)
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


def priced_machine(
    fit: Fit | None,
    *,
    device: str | None,
    mfu: float | None,
    price: float | None,
    spend: str = "",
) -> Machine | None:
    """The devices that compute is priced on; None where neither `device` nor `spend` names any.

    A spend in dollars is at the stored rental price, as `budget_flops` takes it.

    Raises:
        QueryError: A utilisation or a price without a device, or out of range.
    """
    try:
        spent = budget_fields(spend, {}) if spend else {}
    except FieldError:  # `budget_flops` refuses it
        spent = {}
    device = device or str(spent.get("device") or "") or None
    if device is not None:
        if "dollars" in spent and price is None:
            price, _ = rental_price(device)
        return machine(device, mfu=mfu, price=price, measured=measured_mfu(fit))
    if mfu is not None or price is not None:
        raise QueryError("--price and --mfu are those of a device; name it, such as --device h100.")
    return None


def measured_mfu(fit: Fit | None) -> MeasuredMfu | None:
    """Median MFU of the largest fitted runs that recorded one, and the device that they ran on."""
    column = None if fit is None else fit.points.columns.get("mfu")
    if fit is None or column is None:
        return None
    recorded = np.isfinite(column) & (column > 0) & (column <= 1)
    if not recorded.any():
        return None
    params = fit.points.params
    largest = recorded & (params == params[recorded].max())
    peaks = fit.points.columns.get("device_flops_per_second", np.full(len(params), np.nan))
    peak = np.unique(peaks[largest])
    return MeasuredMfu(
        mfu=float(np.median(column[largest])),
        params=float(params[largest][0]),
        flops_per_second=float(peak[0]) if len(peak) == 1 and np.isfinite(peak[0]) else None,
    )
