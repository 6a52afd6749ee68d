"""The documents of answers and predictions: nothing here computes.

Apart from `fit.query.question`, which the command line imports to list its options: `--help` can do
without these classes.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fit.data.records import finite_or_null
from fit.verdict import Verdict

if TYPE_CHECKING:
    from fit.data.accounting import Shape
    from fit.verdict import Note

INTERVALS = {
    **dict.fromkeys(("params", "tokens", "tokens_per_param", "loss"), "confidence"),
    "loss_next_run": "prediction",
}
"""Kind of interval of each number of a document: of the law, or of the next run."""
ANSWER_SCHEMA = "isoflop.answer/1"
PREDICTION_SCHEMA = "isoflop.prediction/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A value with its interval; low and high are None where the law has no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        ends = "" if self.low is None else f", low={self.low:.6g}, high={self.high:.6g}"
        return f"Number({self.value:.6g}{ends})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Loss and compute gained by relaxing a limit."""

    loss: Number
    """By how much the loss falls at the same budget [nats/token]."""
    multiplier: Number | None
    """Compute over that which then reaches the same loss; None for the budget itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPrice:
    """The gain of relaxing a limit."""

    lifted: Gain | None
    """Without the limit; None for the budget."""
    doubled: Gain
    """With twice the limit: half of a floor, twice and half of a fixed value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A limit of the question, and the gain of relaxing it where it binds."""

    name: str
    """The question's field, or `budget`."""
    limit: float
    binds: bool
    """Whether the answer lies on it."""
    worth: ShadowPrice | None
    """None where it does not bind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCost:
    """Compute, time and money of an answer; None where the question names no device or price."""

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
    """The cost of another size in training, and its saving in serving."""

    size: float
    """Parameters over the answer's."""
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
class RegretBand:
    """A range of N at one budget whose loss is within a tolerance of the best."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """The best model of a question, with intervals, doubts and the run that trains it."""

    flops: Number
    """The budget, or the compute of a target loss: training, and serving if tokens are served."""
    params: Number
    tokens: Number
    tokens_per_param: Number
    loss: Number
    """Of the law at the optimum: a confidence interval [nats/token]."""
    loss_next_run: Number
    """Of one run there: a prediction interval, the runs' noise added."""
    level: float | None
    method: str | None
    """Method of every interval here: `hc3`, `pairs`, `wild`, `bca` or `profile`."""
    regret_band: RegretBand | None
    """N whose loss is within one run's noise of the best; None above a reach of 1000."""
    reach: float | None
    """Budget over the largest one fitted; above 1 it extrapolates."""
    shape: Shape | None
    """A trainable shape of the ladder near N*."""
    shape_params: float | None
    """N of the shape."""
    shape_tokens: float | None
    """Tokens that the budget pays for at the shape."""
    shape_loss: float | None
    """Loss of the law there [nats/token]."""
    lr: float | None
    """Peak learning rate of the hidden matrices at that width."""
    batch_tokens: int | None
    """Tokens per step at the end of the run."""
    law: str
    source: str
    convention: Mapping[str, str]
    warnings: tuple[Note, ...]
    verdict: Verdict
    config: tuple[str, ...]
    """Overrides of `python -m sweep` that launch the shape; empty where launching is refused."""
    constraints: tuple[Constraint, ...] = ()
    """The question's limits; empty where it had none."""
    cost: AnswerCost | None = None
    """None for a budget in FLOP without limits."""
    epochs: float | None = None
    """Tokens over unique tokens; None where the question has no unique tokens."""
    regret: tuple[Regret, ...] = ()
    """Other sizes, ascending; empty for a budget in FLOP without limits or `regret`."""
    fit_hash: str | None = None
    """Hash of the fit's file; None for a published law."""
    launch_refusal: str | None = None
    """Why the answer cannot be launched or exported; None where `config` launches it."""
    schema: str = ANSWER_SCHEMA

    def __repr__(self) -> str:
        """The answer in a few lines; `document()` has all of it."""
        return _listing(self, ("flops", "params", "tokens", "tokens_per_param", "loss"))

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return _html(self)

    def document(self) -> dict[str, Any]:
        """The `isoflop.answer/1` document."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        counts = {k: fields.pop(f"shape_{k}") for k in ("params", "tokens", "loss")}
        if self.shape is not None:
            sizes = ["width", "depth", "heads", "head_dim"]
            if self.shape.kv_heads is not None:
                sizes.append("kv_heads")
            fields["shape"] = {**{k: getattr(self.shape, k) for k in sizes}, **counts}
        return _document(fields)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prediction:
    """The loss of a model of N parameters trained on D tokens."""

    params: float
    tokens: float
    flops: float
    loss: Number
    """Value of the law: a loss [nats/token], or its `quantity`."""
    loss_next_run: Number
    level: float | None
    method: str | None
    reach: float | None
    law: str
    source: str
    convention: Mapping[str, str]
    warnings: tuple[Note, ...]
    verdict: Verdict
    quantity: str = "loss"
    """The quantity predicted: loss, lr or batch_tokens."""
    given: Mapping[str, float] = field(default_factory=dict)
    """Columns of the law that the question fixed."""
    schema: str = PREDICTION_SCHEMA

    def __repr__(self) -> str:
        """The prediction in a few lines; `document()` has all of it."""
        return _listing(self, ("params", "tokens", "flops", "loss", "loss_next_run"))

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return _html(self)

    def document(self) -> dict[str, Any]:
        """The `isoflop.prediction/1` document; the prediction stands under its quantity's name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _document({k.replace("loss", self.quantity): v for k, v in fields.items()})


def _html(result: Answer | Prediction) -> str:
    """The lines of a result's text as a table."""
    head, *lines = repr(result).splitlines()
    rows = (line.split(maxsplit=1) for line in lines)
    cells = "".join(
        f'<tr><th style="text-align:left">{name}</th>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in rows
    )
    return f"<p><b>{html.escape(head)}</b></p><table>{cells}</table>"


def _listing(result: Answer | Prediction, names: tuple[str, ...]) -> str:
    """Some numbers of a result by the names of their fields, and its verdict."""
    values = {name: getattr(result, name) for name in names}
    rows = {k: f"{v:.6g}" if isinstance(v, float) else repr(v) for k, v in values.items()}
    rows |= {"reach": "None" if result.reach is None else f"{result.reach:.3g}"}
    rows |= {"verdict": f"{result.verdict.verdict}: {result.verdict.reason}"}
    head = f"{type(result).__name__} by {result.source}"
    return "\n".join([head, *(f"  {name:<17}{text}" for name, text in rows.items())])


def refused_document(reason: str, schema: str = ANSWER_SCHEMA) -> dict[str, Any]:
    """The document of a refused answer or prediction: the verdict, and no number."""
    numbers = dict.fromkeys(INTERVALS if schema == ANSWER_SCHEMA else ("loss", "loss_next_run"))
    verdict = Verdict(verdict="refuse", reason=reason)
    return {"schema": schema, **verdict.document(), **numbers, "config": []}


def mapped(number: Number, function: Callable[[float], float]) -> Number:
    """A number, its value and ends mapped by a rising function."""
    low, high = (None if v is None else function(v) for v in (number.low, number.high))
    return Number(value=function(number.value), low=low, high=high)


def _document(fields: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON values, the schema first; infinities and NaN become null."""
    ranged = {k for k, v in fields.items() if isinstance(v, Number) and v.low is not None}
    fields["intervals"] = {k: kind for k, kind in INTERVALS.items() if k in ranged}
    head = {"schema": fields.pop("schema"), **fields.pop("verdict").document()}
    return dict(finite_or_null({**head, **fields}))
