"""Answers and predictions, and the documents they make: nothing here computes.

Numbers that a source gives no interval for have None at both ends.

What can be asked: a budget, said in one of five ways, and what the model is held to.

The fields of a question: their words on every door, and how each is read.

The command line makes an option of each, the service a parameter; `asking` reads both.

From words to a question: the one road of the command line, the service and the page.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fit.allocation.allocate import RegretBand
from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import Shape
from fit.data.records import finite_or_null
from fit.errors import FieldError, QueryError
from fit.laws.law import option
from fit.quantities import (
    parse_bytes,
    parse_count,
    parse_flag,
    parse_flops,
    parse_name,
    parse_number,
    parse_share,
)
from fit.results import Note

LAW_COLUMNS = {
    "width": "Width, for a law of shapes.",
    "depth": "Depth, for a law of shapes.",
    "unique_tokens": "Unique tokens there are, for a law of repeated data.",
    "params_total": "All parameters, for a law of experts (--params: active ones).",
}
"""Columns that a question may fix, each with its option's help."""
BUDGETS = ("flops", "dollars", "hours", "deadline", "loss")
"""Ways to say a budget, of which a question has exactly one."""
LIMITS = (
    "params",
    "min_params",
    "max_params",
    "memory",
    "tokens",
    "max_tokens",
    "min_ratio",
    "max_ratio",
)
"""Fields that limit the model's size, its tokens or their ratio."""
NEEDS = {
    "price": ("device",),
    "mfu": ("device",),
    "devices": ("device",),
    "dollars": ("price", "device"),
    "hours": ("device",),
    "deadline": ("devices", "device"),
    "bytes_per_param": ("memory",),
}
"""What a field means nothing without."""
REGION = {
    "params": ("min_params", "max_params"),
    "tokens": ("max_tokens",),
}
"""Fields that a fixed one leaves nothing to."""
BYTES_PER_PARAM = 2.0
"""Of weights at serving: bf16."""
INTERVALS = {
    **dict.fromkeys(("params", "tokens", "tokens_per_param", "loss"), "confidence"),
    "loss_next_run": "prediction",
}
"""What kind of interval each number of a document has: of the law, or of the next run."""
ANSWER_SCHEMA = "isoflop.answer/1"
PREDICTION_SCHEMA = "isoflop.prediction/1"


Reader = Callable[[str, str], float | str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionField:
    """One field of a question."""

    read: Reader
    """Reads its text; the second argument is its name, for the message."""
    metavar: str
    about: str
    """One line of help, with its unit."""


def _field(read: Reader, metavar: str, about: str) -> QuestionField:
    return QuestionField(read=read, metavar=metavar, about=about)


FIELDS: Mapping[str, QuestionField] = MappingProxyType(
    {
        "flops": _field(parse_flops, "C", "Budget in FLOP, such as 1e21."),
        "dollars": _field(parse_count, "$", "Budget in dollars; needs --price and --device."),
        "hours": _field(parse_count, "H", "Budget in device-hours; needs --device."),
        "deadline": _field(parse_count, "H", "Hours until it must be done; needs --devices."),
        "loss": _field(parse_number, "L", "Loss to be reached [nats/token]: how much compute?"),
        "price": _field(parse_count, "$", "Dollars per device-hour."),
        "device": _field(parse_name, "NAME", "a100, h100, ..., or its dense bf16 FLOP/s: 1.65e14."),
        "devices": _field(parse_count, "M", "Devices that train at once."),
        "mfu": _field(parse_share, "SHARE", "Share of the peak reached.  [of the runs, or 0.4]"),
        "params": _field(parse_count, "N", "Parameters, fixed."),
        "min_params": _field(parse_count, "N", "Parameters at least."),
        "max_params": _field(parse_count, "N", "Parameters at most."),
        "tokens": _field(parse_count, "D", "Training tokens, fixed."),
        "max_tokens": _field(parse_count, "D", "Training tokens at most."),
        "unique_tokens": _field(parse_count, "U", "Unique tokens there are; more are repeats."),
        "serve_tokens": _field(parse_count, "S", "Tokens served in its life, paid for too."),
        "min_ratio": _field(parse_number, "R", "Tokens per parameter at least."),
        "max_ratio": _field(parse_number, "R", "Tokens per parameter at most."),
        "memory": _field(parse_bytes, "SIZE", "Memory for the weights at serving, such as 8GB."),
        "bytes_per_param": _field(parse_number, "B", "Bytes per parameter at serving.  [2]"),
        "regret": _field(parse_flag, "", "Show what other sizes would cost."),
        "force": _field(parse_flag, "", "Answer from a fit that is not identified."),
    }
)  # fmt: skip
"""Every field, in the order of the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A budget to be split, or a loss to be reached, and what the model is held to.

    Exactly one of `flops`, `dollars`, `hours`, `deadline` and `loss` is given. With `serve_tokens`
    the budget pays for training and serving, and a loss is reached with the least of both.

    Raises:
        FieldError: No budget or two, a field without one that it needs, a value that cannot be
            meant.
    """

    source: ScalingLaw
    flops: float | None = None
    """Budget C [FLOP] in the source's convention."""
    dollars: float | None = None
    """Budget [$], at `price` per hour of `device`."""
    hours: float | None = None
    """Budget in device-hours of `device`."""
    deadline: float | None = None
    """Hours until training must be done, on `devices` of `device`."""
    loss: float | None = None
    """Loss to be reached [nats/token]."""
    price: float | None = None
    """Of a device-hour [$/h]."""
    device: str | None = None
    """A name of `hardware.DEVICES`, or the peak of dense bf16 products [FLOP/s]."""
    devices: float | None = None
    """How many train at once."""
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the peak; None takes the fitted runs', or 0.4."""
    params: float | None = None
    """N is this."""
    min_params: float | None = None
    max_params: float | None = None
    tokens: float | None = None
    """D is this."""
    max_tokens: float | None = None
    unique_tokens: float | None = None
    """Tokens there are; a run past them repeats."""
    serve_tokens: float | None = None
    """Tokens that the model will read or write in its life."""
    min_ratio: float | None = None
    """D / N at least."""
    max_ratio: float | None = None
    memory: float | None = None
    """For the weights at serving [bytes]."""
    bytes_per_param: float | None = None
    """At serving; None is 2."""
    regret: bool = False
    """Say what other sizes would cost, even where nothing constrains the answer."""
    force: bool = False
    """Answer even from a fit that cannot tell the parameters apart."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_positive(f.name, value)
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            _refuse_budget(given)
        _check_together(self)

    @property
    def constrained(self) -> bool:
        """Whether more is asked than the best split of a budget."""
        asked = (*LIMITS, "loss", "serve_tokens")
        return any(getattr(self, name) is not None for name in asked)


def _check_positive(name: str, value: float) -> None:
    """Refuse numbers that cannot be meant."""
    what = "budget" if name == "flops" else name
    if not (math.isfinite(value) and value > 0):
        raise FieldError(f"{what} is '{value:g}'; a positive finite number is needed.", name)
    if name == "mfu" and value > 1:
        raise FieldError(f"mfu is '{value:g}'; a share up to 1 is needed, such as 0.4.", name)
    if name == "devices" and value != round(value):
        raise FieldError(f"devices is '{value:g}'; a whole number is needed.", name)


def _refuse_budget(given: list[str]) -> None:
    """No budget, or more than one."""
    words = [option(name) for name in given]
    known = "FLOPS (flops), --dollars, --hours (device-hours), --deadline and --loss"
    if not given:
        raise FieldError(f"no budget was given; exactly one of {known} is needed.", "flops")
    raise FieldError(
        f"the budget is given {len(given)} times, as {' and '.join(words)}; exactly one of {known} "
        "is needed.",
        given[1],
    )


def _check_together(q: Question) -> None:
    """Refuse fields that need or exclude one another."""
    for name, others in NEEDS.items():
        missing = [o for o in others if getattr(q, o) is None]
        if getattr(q, name) is not None and missing:
            words = " and ".join(option(o) for o in missing)
            raise FieldError(f"{option(name)} was given without {words}; give both.", missing[0])
    for name, others in REGION.items():
        twice = [o for o in others if getattr(q, o) is not None]
        if getattr(q, name) is not None and twice:
            raise FieldError(
                f"{option(name)} fixes what {option(twice[0])} limits; leave one of them out.",
                twice[0],
            )
    if q.params is not None and q.tokens is not None:
        raise FieldError(
            "--params and --tokens fix both, so that nothing is left to choose; ask: isoflop "
            "predict --params N --tokens D",
            "tokens",
        )
    if q.deadline is not None and q.serve_tokens is not None:
        raise FieldError(
            "--deadline limits the training alone and leaves nothing to pay --serve-tokens from; "
            "say the budget as FLOPS, --dollars, --hours or --loss.",
            "serve_tokens",
        )


def question(source: ScalingLaw, fields: Mapping[str, object]) -> Question:
    """A question from fields by name, as people type them or programs send them.

    Args:
        source: The fit or published law that is asked.
        fields: Values by the names of `fields.FIELDS`: text (`1e21`, `7B`, `8GB`, `40%`), numbers
            or booleans. None, and a flag that is not set, is as if it were not there.

    Raises:
        FieldError: A field that is unknown, cannot be read or meant, is missing or one too many;
            its `field` says which.
    """
    read = {name: _read(name, value) for name, value in fields.items() if value is not None}
    return Question(source=source, **read)  # type: ignore[arg-type]


def _read(name: str, value: object) -> float | str | bool:
    """One field."""
    if name not in FIELDS:
        raise FieldError(f"unknown field '{name}'; known are {', '.join(FIELDS)}.", name)
    text = str(value)
    try:
        return FIELDS[name].read(text, "budget" if name == "flops" else name)
    except QueryError as error:
        raise FieldError(str(error), name) from error


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
class ShadowPrice:
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
    worth: ShadowPrice | None
    """None where it does not bind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCost:
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
    regret_band: RegretBand | None
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
    cost: AnswerCost | None = None
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
        k: dataclasses.asdict(v) if isinstance(v, Number | RegretBand | AnswerCost) else v
        for k, v in fields.items()
    }
    plain["intervals"] = {k: kind for k, kind in INTERVALS.items() if k in _ranged(fields)}
    for name in ("constraints", "regret"):
        if name in plain:
            plain[name] = [dataclasses.asdict(row) for row in fields[name]]
    plain["warnings"] = [dataclasses.asdict(w) for w in fields["warnings"]]
    ordered = {"schema": plain.pop("schema"), **plain}
    return dict(finite_or_null(ordered))
