"""From a question to numbers: the only road, whoever asks (terminal, HTTP, page or report).

A preset answers in its own counting convention with point values alone; a fit adds intervals, the
regret band, a shape of its ladder and the overrides that launch it.

A budget in whatever words, as FLOP; and what FLOP cost in hours and money.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit.allocation.allocate import Split, regret_band
from fit.allocation.costs import DEVICES, device, flops_of_hours
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.errors import FieldError, QueryError
from fit.inference.intervals import LogQuantity, derived_interval, prediction_interval
from fit.quantities import check_count, parse_number, power, three_digits
from fit.query import warnings
from fit.query.constrained import band_of, log_quantities, outcome_of, task_of
from fit.query.launch import LaunchConfig, launch_config_near, launch_config_within
from fit.query.question import Answer, AnswerCost, Number, Prediction, Question, mapped
from fit.query.question import question as question_of
from fit.results import Fit, Note

DEFAULT_MFU = 0.4
"""Of large runs 38-46% are published (Chowdhery et al. 2022, arXiv:2204.02311, table 3, and
after); tiny models reach 1-15%."""
MOST_FLOPS = 1e40
"""Above it a budget is a slip of the keyboard; every computer ever built has done less."""


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


def answer_cost(
    machine: Machine | None, training: Number, serving: Number | None, total: Number
) -> AnswerCost:
    """What FLOP cost in hours and money, on machines where some were named.

    Args:
        machine: The devices; None where no hours are asked.
        training: FLOP of training.
        serving: FLOP of serving; None without any.
        total: The budget of both, of which limits may leave a part unspent.
    """
    spent = training if serving is None else total
    if machine is None:
        return AnswerCost(training_flops=training, serving_flops=serving)
    hours = mapped(spent, lambda v: v / machine.flops_per_hour)
    return AnswerCost(
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
        f"the MFU of {three_digits(value)} is that of the fitted runs of {power(params)} "
        "parameters, "
        "the largest, on their own devices; another size or device differs: --mfu."
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


__all__ = ["Answer", "Number", "Point", "Prediction", "Question", "answer", "predict", "query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model whose loss is asked for."""

    source: ScalingLaw
    params: float
    tokens: float


def answer(question: Question) -> Answer:
    """Split a budget between parameters and tokens, with intervals, a shape and warnings.

    Args:
        question: Budget or target loss, limits and source.

    Returns:
        N*, D*, the loss there, the regret band, the reach, and what launches it; with limits also
        which bind and what they are worth, with devices hours and money.

    Raises:
        QueryError: The law splits no budget, or this one is not positive or buys less than one
            token, or demands conflict, or the fit cannot tell its parameters apart (kappa above
            1000) and `force` is not set.
    """
    source = question.source
    if question.unique_tokens is not None:
        source = source.given(unique_tokens=question.unique_tokens)
    machine = machine_of(question)
    flops = budget_of(question, machine)
    warnings.refuse_unidentified(source.fit, force=question.force)
    if question.constrained or question.regret or question.unique_tokens is not None:
        return _constrained(question, source, machine, flops)
    return _plain(source, machine, _budget(flops))


def _plain(source: ScalingLaw, machine: Machine | None, flops: float) -> Answer:
    """The best split of a budget, held to nothing."""
    fit, at = source.fit, source.splits(np.array([flops]))
    best = at(source.theta[None, :])
    n, d = float(np.exp(best.log_params[0, 0])), float(np.exp(best.log_tokens[0, 0]))
    if not (n >= 1 and d >= 1):
        raise QueryError(f"{flops:g} FLOP buy less than one parameter or token. Ask for more.")
    rung = launch_config_near(source.ladder, fit, n, flops)
    notes = [*warnings.answer_warnings(source, flops=flops, params=n, tokens=d)]
    band = None
    if _near(source, flops):
        assert fit is not None
        band = regret_band(source.law, source.theta, flops, source.cost, fit.noise, best)
        notes += warnings.shape_warnings(band, None if rung is None else rung.params)
    budget = Number(value=flops) if fit is None else Number(value=flops, low=flops, high=flops)
    return Answer(
        flops=budget,
        **_split_numbers(source, at),
        regret_band=band,
        reach=source.reach(flops),
        **_launched(source, rung),
        **_told(source, machine, notes),
        cost=None if machine is None else answer_cost(machine, budget, None, budget),
    )


def _constrained(
    question: Question, source: ScalingLaw, machine: Machine | None, flops: float | None
) -> Answer:
    """The best model within limits, for a budget or for a loss."""
    task = task_of(question, source, None if flops is None else _budget(flops))
    _budget(task.flops)
    found = outcome_of(task, _numbers(source, lambda theta: log_quantities(task, theta)))
    n, d, training = found.params.value, found.tokens.value, found.training_flops.value
    rung = launch_config_within(source, task)
    notes = [*warnings.answer_warnings(source, flops=training, params=n, tokens=d)]
    notes += warnings.limit_warnings(question, source)
    band = None
    if _near(source, training):
        assert source.fit is not None
        band = band_of(task, source.fit.noise)
        notes += warnings.shape_warnings(band, None if rung is None else rung.params)
    if rung is None and source.ladder is not None:
        notes.append(warnings.NO_SHAPE)
    return Answer(
        flops=found.flops,
        params=found.params,
        tokens=found.tokens,
        tokens_per_param=found.tokens_per_param,
        loss=found.loss,
        loss_next_run=_next_run(source, found.loss),
        regret_band=band,
        reach=source.reach(training),
        **_launched(source, rung),
        **_told(source, machine, notes),
        constraints=found.constraints,
        cost=answer_cost(machine, found.training_flops, found.serving_flops, found.flops),
        epochs=None if question.unique_tokens is None else d / question.unique_tokens,
        regret=found.regret,
    )


def _near(source: ScalingLaw, flops: float) -> bool:
    """Whether the band of good sizes is told.

    Beyond a thousandfold the band of a bent frontier runs to sizes that nobody could mean.
    """
    reach = source.reach(flops)
    return source.fit is not None and (reach is None or reach <= warnings.LOUD_REACH)


def _told(source: ScalingLaw, machine: Machine | None, notes: list[Note]) -> dict[str, Any]:
    """What every answer says of its source, and its warnings."""
    fit = source.fit
    return {
        "level": None if fit is None else fit.interval.level,
        "method": None if fit is None else fit.interval.method,
        "law": source.law.name,
        "source": source.name,
        "convention": dict(source.convention),
        "warnings": (*notes, *(() if machine is None else machine.notes)),
        "fit_hash": source.hash,
    }


def query(
    source: ScalingLaw | Fit | Path | str, flops: float | str | None = None, **fields: object
) -> Answer:
    """Split a budget between parameters and tokens: `isoflop query` as a function.

    Args:
        source: A fit, its report folder, or the name of a published law.
        flops: Training budget C [FLOP], a number or text such as `1e21`; None where `fields` say
            the budget otherwise.
        **fields: What else the command's options say, by the names of `fields.FIELDS`.

    Returns:
        N*, D*, the loss there, how sure that is, and the overrides that launch it.

    Raises:
        QueryError: The question has no answer as posed; see `answer`.
        RecordError: There is no such fit.
    """
    return answer(question_of(ScalingLaw.of(source), {"flops": flops, **fields}))


def predict(point: Point) -> Prediction:
    """The loss of a given number of parameters and tokens, with intervals.

    Raises:
        QueryError: A count is not positive.
    """
    source = point.source
    n, d = check_count(point.params, "params"), check_count(point.tokens, "tokens")
    flops = d * float(np.exp(source.cost.log_flops_per_token(np.log([n])))[0])
    loss = _numbers(source, source.log_losses(np.array([n]), np.array([d])))[0]
    return Prediction(
        params=n,
        tokens=d,
        flops=flops,
        loss=loss,
        loss_next_run=_next_run(source, loss),
        level=None if source.fit is None else source.fit.interval.level,
        method=None if source.fit is None else source.fit.interval.method,
        reach=source.reach(flops),
        law=source.law.name,
        source=source.name,
        convention=dict(source.convention),
        warnings=warnings.answer_warnings(source, flops=flops, params=n, tokens=d),
        quantity=source.law.target,
        given=dict(source.law.held),
    )


def _budget(flops: float | None) -> float:
    """A budget that can be meant."""
    assert flops is not None  # a plain question without a loss has a budget
    if check_count(flops) > MOST_FLOPS:
        raise QueryError(f"budget is {flops:g} FLOP; at most {MOST_FLOPS:g} is believed. Check it.")
    return flops


def _split_numbers(source: ScalingLaw, at: Callable[[Floats], Split]) -> dict[str, Any]:
    """N*, D*, their ratio and the loss of one budget's splits, each with its interval."""

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        ratio = s.log_tokens - s.log_params
        return np.concatenate([s.log_params, s.log_tokens, ratio, s.log_loss], axis=-1)

    numbers = _numbers(source, logs)
    names = ("params", "tokens", "tokens_per_param", "loss")
    next_run = _next_run(source, numbers[-1])
    return {**dict(zip(names, numbers, strict=True)), "loss_next_run": next_run}


def _next_run(source: ScalingLaw, loss: Number) -> Number:
    """The prediction of one run from the law's loss there: the noise is added."""
    if source.fit is None or loss.low is None or loss.high is None:
        return loss
    ends = (np.asarray(v) for v in (loss.value, loss.low, loss.high))
    low, high = prediction_interval(source.fit, *ends)
    return Number(value=loss.value, low=float(low), high=float(high))


def _numbers(source: ScalingLaw, log_quantities: LogQuantity) -> tuple[Number, ...]:
    """Values with their intervals where the source is a fit; the quantities are (m, q)."""
    with np.errstate(over="ignore"):
        values = np.exp(log_quantities(source.theta[None, :])[0])
    if source.fit is None:
        return tuple(Number(value=float(v)) for v in values)
    low, high = derived_interval(source.fit, log_quantities)
    ends = zip(values, low, high, strict=True)
    return tuple(Number(value=float(v), low=float(a), high=float(b)) for v, a, b in ends)


def _launched(source: ScalingLaw, rung: LaunchConfig | None) -> dict[str, Any]:
    """The fields of an answer that launch it; empty ones without a ladder."""
    if rung is None:
        empty = dict.fromkeys("shape shape_params shape_tokens shape_loss lr batch_tokens".split())
        return {**empty, "config": ()}
    n, d = np.asarray(rung.params), np.asarray(rung.tokens)
    return {
        "shape": rung.shape,
        "shape_params": rung.params,
        "shape_tokens": rung.tokens,
        "shape_loss": float(source.law.loss(source.theta, n, d)),
        "lr": rung.lr,
        "batch_tokens": rung.batch_tokens,
        "config": rung.config,
    }
