"""From a question to numbers: the only road, whoever asks (terminal, HTTP, page or report).

A preset answers in its own counting convention with point values alone; a fit adds intervals, the
regret band, a shape of its ladder and the overrides that launch it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fit import doubts
from fit.allocate import regret_band
from fit.budget import Machine, budget_of, machine_of
from fit.derived import LogQuantity, derived_interval, prediction_interval
from fit.errors import QueryError
from fit.launch import Rung, rung_for
from fit.quantity import check_count
from fit.question import Question
from fit.record import Floats
from fit.reply import Answer, Bill, Number, Prediction
from fit.source import Source

__all__ = ["Answer", "Number", "Point", "Prediction", "Question", "answer", "predict"]

MOST_FLOPS = 1e40
"""Above it a budget is a slip of the keyboard; every computer ever built has done less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model whose loss is asked for."""

    source: Source
    params: float
    tokens: float


def answer(question: Question) -> Answer:
    """Split a budget between parameters and tokens, with intervals, a shape and warnings.

    Args:
        question: Budget and source.

    Returns:
        N*, D*, the loss there, the regret band, the reach, and what launches it.

    Raises:
        QueryError: The law splits no budget, or this one is not positive or buys less than one
            token, or the fit cannot tell its parameters apart (kappa above 1000) and `force` is
            not set.
    """
    if question.constrained:
        raise QueryError(
            "limits, a target loss and served tokens are read but not answered yet; ask for a "
            "budget with unique tokens at most."
        )
    source = question.source
    if question.unique_tokens is not None:
        source = source.given(unique_tokens=question.unique_tokens)
    machine = machine_of(question)
    fit, flops = source.fit, _budget(budget_of(question, machine))
    doubts.refuse_unidentified(fit, force=question.force)
    best = source.best(np.array([flops]))
    n, d = float(np.exp(best.log_params[0])), float(np.exp(best.log_tokens[0]))
    if not (n >= 1 and d >= 1):
        raise QueryError(f"{flops:g} FLOP buy less than one parameter or token. Ask for more.")
    rung = rung_for(source.ladder, fit, n, flops)
    notes = [*doubts.about(source, flops=flops, params=n, tokens=d)]
    band, reach = None, source.reach(flops)
    # Beyond a thousandfold the band of a bent frontier runs to sizes that nobody could mean.
    if fit is not None and (reach is None or reach <= doubts.LOUD_REACH):
        band = regret_band(source.law, source.theta, flops, source.cost, fit.noise)
        notes += doubts.about_shape(band, None if rung is None else rung.params)
    return Answer(
        flops=Number(value=flops) if fit is None else Number(value=flops, low=flops, high=flops),
        **_split_numbers(source, flops),
        level=None if fit is None else fit.interval.level,
        method=None if fit is None else fit.interval.method,
        regret_band=band,
        reach=reach,
        **_launched(source, rung),
        law=source.law.name,
        source=source.name,
        convention=dict(source.convention),
        warnings=(*notes, *(() if machine is None else machine.notes)),
        cost=None if machine is None else _bill(machine, flops, flops),
        epochs=None if question.unique_tokens is None else d / question.unique_tokens,
        fit_hash=source.hash,
    )


def _bill(machine: Machine, training: float, total: float) -> Bill:
    """What a budget costs."""
    hours = total / machine.flops_per_hour
    return Bill(
        training_flops=Number(value=training),
        serving_flops=None,
        device=machine.name,
        devices=machine.devices,
        device_hours=Number(value=hours),
        hours=None if machine.devices is None else Number(value=hours / machine.devices),
        dollars=None if machine.price is None else Number(value=hours * machine.price),
        mfu=machine.mfu,
    )


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
        warnings=doubts.about(source, flops=flops, params=n, tokens=d),
        quantity=source.law.target,
        given=dict(source.law.held),
    )


def _budget(flops: float | None) -> float:
    """A budget that can be meant."""
    assert flops is not None
    if check_count(flops) > MOST_FLOPS:
        raise QueryError(f"budget is {flops:g} FLOP; at most {MOST_FLOPS:g} is believed. Check it.")
    return flops


def _split_numbers(source: Source, flops: float) -> dict[str, Any]:
    """N*, D*, their ratio and the loss, each with its interval."""
    at = source.splits(np.array([flops]))

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        ratio = s.log_tokens - s.log_params
        return np.concatenate([s.log_params, s.log_tokens, ratio, s.log_loss], axis=-1)

    numbers = _numbers(source, logs)
    names = ("params", "tokens", "tokens_per_param", "loss")
    next_run = _next_run(source, numbers[-1])
    return {**dict(zip(names, numbers, strict=True)), "loss_next_run": next_run}


def _next_run(source: Source, loss: Number) -> Number:
    """The prediction of one run from the law's loss there: the noise is added."""
    if source.fit is None or loss.low is None or loss.high is None:
        return loss
    ends = (np.asarray(v) for v in (loss.value, loss.low, loss.high))
    low, high = prediction_interval(source.fit, *ends)
    return Number(value=loss.value, low=float(low), high=float(high))


def _numbers(source: Source, log_quantities: LogQuantity) -> tuple[Number, ...]:
    """Values with their intervals where the source is a fit; the quantities are (m, q)."""
    values = np.exp(log_quantities(source.theta[None, :])[0])
    if source.fit is None:
        return tuple(Number(value=float(v)) for v in values)
    low, high = derived_interval(source.fit, log_quantities)
    ends = zip(values, low, high, strict=True)
    return tuple(Number(value=float(v), low=float(a), high=float(b)) for v, a, b in ends)


def _launched(source: Source, rung: Rung | None) -> dict[str, Any]:
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
