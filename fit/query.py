"""From a question to numbers: the only road, whoever asks (terminal, HTTP, page or report).

A preset answers in its own counting convention with point values alone; a fit adds intervals, the
regret band, a shape of its ladder and the overrides that launch it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fit import doubts
from fit.accounting import Shape
from fit.allocate import Band, regret_band
from fit.derived import LogQuantity, derived_interval, prediction_interval
from fit.errors import QueryError
from fit.launch import Rung, rung_for
from fit.quantity import check_count
from fit.record import Floats, finite_or_null
from fit.result import Note
from fit.source import Source

INTERVALS = {
    **dict.fromkeys(("params", "tokens", "tokens_per_param", "loss"), "confidence"),
    "loss_next_run": "prediction",
}
"""What kind of interval each number of a document has: of the law, or of the next run."""
ANSWER_SCHEMA = "isoflop.answer/1"
PREDICTION_SCHEMA = "isoflop.prediction/1"
MOST_FLOPS = 1e40
"""Above it a budget is a slip of the keyboard; every computer ever built has done less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A budget to be split."""

    source: Source
    flops: float
    """Training budget C [FLOP] in the source's convention."""
    force: bool = False
    """Answer even from a fit that cannot tell the parameters apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model whose loss is asked for."""

    source: Source
    params: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A value with its interval; None where the source has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a budget buys, and how sure that is."""

    flops: Number
    params: Number
    tokens: Number
    tokens_per_param: Number
    loss: Number
    """Of the law at the optimum: a confidence interval [nats/token]."""
    loss_next_run: Number
    """Of one run there: a prediction interval, the runs' noise added."""
    level: float | None
    method: str | None
    """How every interval here was made: `hc3`, `pairs`, `wild`, `bca` or `profile`."""
    regret_band: Band | None
    """N whose loss is within one run's noise of the best; None above a reach of 1000."""
    reach: float | None
    """Budget over the largest one fitted; above 1 it extrapolates."""
    shape: Shape | None
    """A shape of the ladder near N*, to be launched."""
    shape_params: float | None
    """Its own N."""
    shape_tokens: float | None
    """The tokens that the budget buys for it."""
    shape_loss: float | None
    lr: float | None
    """Peak learning rate of the hidden matrices at that width."""
    batch_tokens: int | None
    """Tokens per step at the end of the run."""
    law: str
    source: str
    convention: Mapping[str, str]
    warnings: tuple[Note, ...]
    config: tuple[str, ...]
    """Overrides of `python -m sweep` that launch it."""
    schema: str = ANSWER_SCHEMA

    def document(self) -> dict[str, Any]:
        """The `isoflop.answer/1` document."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own = {k: found.pop(f"shape_{k}") for k in ("params", "tokens", "loss")}
        found["shape"] = None if self.shape is None else {**_sizes(self.shape), **own}
        return _document(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The loss of a given model."""

    params: float
    tokens: float
    flops: float
    loss: Number
    """What the law predicts: a loss [nats/token], or its `quantity`."""
    loss_next_run: Number
    level: float | None
    method: str | None
    reach: float | None
    law: str
    source: str
    convention: Mapping[str, str]
    warnings: tuple[Note, ...]
    quantity: str = "loss"
    """What is predicted: the loss, lr or batch_tokens."""
    given: Mapping[str, float] = field(default_factory=dict)
    """What else the question fixed."""
    schema: str = PREDICTION_SCHEMA

    def document(self) -> dict[str, Any]:
        """The `isoflop.prediction/1` document; the prediction stands under its quantity's name."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _document({k.replace("loss", self.quantity): v for k, v in found.items()})


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
    source, fit, flops = question.source, question.source.fit, _budget(question.flops)
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
        warnings=tuple(notes),
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


def _budget(flops: float) -> float:
    """A budget that can be meant."""
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


def _ranged(fields: Mapping[str, Any]) -> set[str]:
    """Names of the numbers that have an interval."""
    return {k for k, v in fields.items() if isinstance(v, Number) and v.low is not None}


def _sizes(shape: Shape) -> dict[str, int]:
    """The part of a shape that is chosen by size."""
    return {k: getattr(shape, k) for k in ("width", "depth", "heads", "head_dim")}


def _document(fields: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON values, the schema first; what JSON cannot hold is null."""
    plain = {
        k: dataclasses.asdict(v) if isinstance(v, Number | Band) else v for k, v in fields.items()
    }
    plain["intervals"] = {k: kind for k, kind in INTERVALS.items() if k in _ranged(fields)}
    plain["warnings"] = [dataclasses.asdict(w) for w in fields["warnings"]]
    ordered = {"schema": plain.pop("schema"), **plain}
    return dict(finite_or_null(ordered))
