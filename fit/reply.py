"""Answers and predictions, and the documents they make: nothing here computes.

Numbers that a source gives no interval for have None at both ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fit.accounting import Shape
from fit.allocate import Band
from fit.record import finite_or_null
from fit.result import Note

INTERVALS = {
    **dict.fromkeys(("params", "tokens", "tokens_per_param", "loss"), "confidence"),
    "loss_next_run": "prediction",
}
"""What kind of interval each number of a document has: of the law, or of the next run."""
ANSWER_SCHEMA = "isoflop.answer/1"
PREDICTION_SCHEMA = "isoflop.prediction/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A value with its interval; None where the source has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What a relaxed limit gains."""

    loss: Number
    """By how much the loss falls at the same budget [nats/token]."""
    multiplier: Number | None
    """Compute over what then reaches today's loss; None for the budget itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What relaxing a limit is worth."""

    lifted: Gain | None
    """Without it; None for the budget."""
    doubled: Gain
    """With twice the limit: half of a floor, twice and half of a fixed value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A limit of the question."""

    name: str
    """The question's field, or `budget`."""
    limit: float
    binds: bool
    """Whether the answer lies on it."""
    worth: Worth | None
    """None where it does not bind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the answer costs; None where it was not asked."""

    training_flops: Number
    serving_flops: Number | None
    """Of the served tokens; None without any."""
    device: str | None = None
    devices: int | None = None
    device_hours: Number | None = None
    """Of training and serving."""
    hours: Number | None = None
    """Device-hours over devices."""
    dollars: Number | None = None
    mfu: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """What another size costs in training and gives back in serving."""

    size: float
    """Its parameters over the answer's."""
    params: float
    loss_up: Number
    """At the same budget [nats/token]."""
    compute_up: Number
    """Training compute for the same loss, over the answer's, less 1; null: not at any."""
    serving_flops_per_token: float
    """Forward only [FLOP]."""
    serving_saved: float
    """Of the answer's FLOP per served token, a share; negative: it costs more."""
    break_even_tokens: Number | None
    """Served tokens at which the same loss costs the same in all; None: at no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a budget buys, and how sure that is."""

    flops: Number
    """The budget, or what a target loss takes: training, and serving where that was asked."""
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
    constraints: tuple[Constraint, ...] = ()
    """The question's limits; empty where it had none."""
    cost: Bill | None = None
    """None for a plain budget in FLOP."""
    epochs: float | None = None
    """Tokens over unique tokens; None where those were not said."""
    regret: tuple[Regret, ...] = ()
    """Other sizes, ascending; empty where not asked."""
    fit_hash: str | None = None
    """Of the file of the fit that was asked; None for a published law."""
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


def mapped(number: Number, function: Callable[[float], float]) -> Number:
    """A rising function of a number and of the ends of its interval."""
    low, high = (None if v is None else function(v) for v in (number.low, number.high))
    return Number(value=function(number.value), low=low, high=high)


def _ranged(fields: Mapping[str, Any]) -> set[str]:
    """Names of the numbers that have an interval."""
    return {k for k, v in fields.items() if isinstance(v, Number) and v.low is not None}


def _sizes(shape: Shape) -> dict[str, int]:
    """The part of a shape that is chosen by size."""
    return {k: getattr(shape, k) for k in ("width", "depth", "heads", "head_dim")}


def _document(fields: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON values, the schema first; what JSON cannot hold is null."""
    plain = {
        k: dataclasses.asdict(v) if isinstance(v, Number | Band | Bill) else v
        for k, v in fields.items()
    }
    plain["intervals"] = {k: kind for k, kind in INTERVALS.items() if k in _ranged(fields)}
    for name in ("constraints", "regret"):
        if name in plain:
            plain[name] = [dataclasses.asdict(row) for row in fields[name]]
    plain["warnings"] = [dataclasses.asdict(w) for w in fields["warnings"]]
    ordered = {"schema": plain.pop("schema"), **plain}
    return dict(finite_or_null(ordered))
