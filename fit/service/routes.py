"""The questions that HTTP takes, each a `QueryRoute`: its fields and how they become a document.

`QUERY`, `PREDICT` and `COMPARE` give the documents of the commands of these names; `CURVES`,
`CONTOURS` and `TRAINING` give what the page draws: the frontier with its bands, the runs and loss
against N at equal budgets; the loss over N and D around an answer; the training curve of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fit.allocation.allocate import along_budget
from fit.allocation.scaling_law import FURTHER, ScalingLaw
from fit.data.records import Floats, finite_or_null, read_curve, read_runs, window_means
from fit.diagnostics.approaches import budgets_of
from fit.errors import FieldError, QueryError, RecordError
from fit.inference.intervals import derived_interval
from fit.quantities import option_name, parse_count, parse_flag, parse_flops, parse_share
from fit.query.answer import answer, predict
from fit.query.budget import budget_flops
from fit.query.question import FIELDS, LAW_COLUMNS, REPORT_FIELDS, Question, budget_fields, question
from fit.results import Fit, Span, loss_unit
from fit.service.contours import contours
from fit.service.errors import RequestError, short_name
from fit.service.fits import FitRegistry, ServedLaw
from fit.service.without import without_runs
from fit.verdict import FARTHEST_REACH, Note

Value = TypeVar("Value")
CURVES_SCHEMA = "isoflop.curves/1"
POINTS_INSIDE, POINTS_BEYOND = 24, 40
"""Budgets at which the curves are computed, within the fitted ones and beyond the largest."""
BEYOND = FARTHEST_REACH
"""Last budget of the curves, as a multiple of the largest fitted: further ones are not answered."""
BELOW = 3.0
"""The smallest fitted budget over the first one of the curves."""
DIGITS = 8
"""Significant digits of what charts draw: all 17 would double the size of the document."""
SIZES = 64
"""Sizes on an isoFLOP curve, which runs a factor of two past the sizes fitted at either end."""
MOST_RUNS = 2000
"""Most runs in the document; of more, every k-th by compute is sent."""
TRAINING_SCHEMA = "isoflop.training/1"
MOST_POINTS = 200
"""Most points of a training curve that is sent, 4 kB; of more, neighbours are averaged."""
UNKNOWN_RANGE = Span(low=1e18, high=1e24)
"""Of a published law whose budgets are not known."""
NAMES = ("params", "tokens", "loss")
LONGEST_VALUE = 200
"""Most characters of a field's value."""
_BLANK = re.compile(r"(?<=\d[eE]) (?=\d)")
"""The blank that an unescaped 1e+21 has in an address, where `+` stands for a blank."""
MOST_BUDGETS = 50
CHOICE = {
    "fit": "A fit by its name, see /v1/fits; without it or law, the newest.",
    "law": "A published law by its name, see /v1/laws.",
}


def curves(source: ScalingLaw) -> dict[str, Any]:
    """The `isoflop.curves/1` document of a law that splits budgets.

    Args:
        source: A fit or a published law.

    Returns:
        The verdict on the fit. Budgets [FLOP], none where it is refused, and at each N*, D* and the
        loss with intervals (null without a fit), whether it lies within the budgets fitted; the
        runs; loss against N at equal budgets; the budget that is asked by default, as in a report,
        with all its digits.

    Raises:
        QueryError: The law splits no budget.
    """
    source.law.check_split()
    refused = source.fit is not None and source.fit.verdict.refused
    span = source.range.get("flops", UNKNOWN_RANGE)
    inside = np.geomspace(span.low, max(span.high, span.low * 1.001), POINTS_INSIDE)
    beyond = np.geomspace(inside[-1], inside[-1] * BEYOND, POINTS_BEYOND)
    flops = np.concatenate([[span.low / BELOW], inside, beyond[1:]])[: 0 if refused else None]
    at = source.splits(flops)

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        return np.stack([s.log_params, s.log_tokens, s.log_loss], axis=-1)

    value, ends = np.empty((0, len(NAMES))), None
    with np.errstate(all="ignore"):  # far ends of a poor fit overflow; they are sent as null
        if not refused:
            value = np.exp(logs(source.theta[None, :])[0])
        if source.fit is not None and not refused:
            with contextlib.suppress(QueryError):  # the fit has no covariance and no draws
                ends = derived_interval(source.fit, logs)
    document = {
        "schema": CURVES_SCHEMA,
        **({} if source.fit is None else source.fit.verdict.document()),
        "source": source.name,
        "law": source.law.name,
        "loss_unit": loss_unit(source.convention),
        "level": None if source.fit is None else source.fit.interval.level,
        "range": {k: [v.low, v.high] for k, v in source.range.items()},
        "flops": flops.tolist(),
        "inside": ((flops >= span.low * (1 - 1e-9)) & (flops <= span.high * (1 + 1e-9))).tolist(),
        **{n: _curve(i, value, ends) for i, n in enumerate(NAMES)},
        "floor": source.fit.theta.get("E") if source.fit and not refused else None,
        "runs": [] if source.fit is None else _runs(source.fit),
        "valleys": [] if source.fit is None or refused else _valleys(source, source.fit),
    }
    return {**_rounded(finite_or_null(document)), "further": FURTHER * span.high}


def _rounded(value: Any) -> Any:
    """The same with `DIGITS` of every number, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def _curve(column: int, value: Floats, ends: tuple[Floats, Floats] | None) -> dict[str, Any]:
    """One quantity along the budgets, with its interval."""
    empty = [None] * len(value)
    return {
        "value": value[:, column].tolist(),
        "low": empty if ends is None else ends[0][:, column].tolist(),
        "high": empty if ends is None else ends[1][:, column].tolist(),
    }


def _runs(fit: Fit) -> list[dict[str, Any]]:
    """The fitted runs in order of compute."""
    p = fit.points
    order = np.argsort(p.flops, kind="stable")
    order = order[:: max(1, -(-len(order) // MOST_RUNS))]
    sizes = [n for n in ("width", "depth") if n in p.columns]
    moves = {row.run: row.shift for row in fit.influence if row.kind == "run"}
    return [
        {
            "run": short_name(p.run[i]),
            "row": int(i),
            "influence": moves.get(p.run[i]),
            **{n: float(getattr(p, n)[i]) for n in ("params", "tokens", "flops", "loss")},
            "residual": float(p.residual[i]),
            **{n: float(p.columns[n][i]) for n in sizes},
        }
        for i in order
    ]


def _valleys(source: ScalingLaw, fit: Fit) -> list[dict[str, Any]]:
    """IsoFLOP curves: loss against N at each fitted budget, and their minimum."""
    p = fit.points
    sizes = np.linspace(np.log(p.params.min() / 2), np.log(p.params.max() * 2), SIZES)
    rows = []
    for flops in budgets_of(p.flops):
        loss = along_budget(source.law, source.theta, sizes, flops, source.cost)
        best = source.best(np.array([flops]))
        rows.append(
            {
                "flops": float(flops),
                "params": np.exp(sizes).tolist(),
                "loss": loss.tolist(),
                "best": {
                    "params": float(np.exp(best.log_params[0])),
                    "loss": float(np.exp(best.log_loss[0])),
                },
            }
        )
    return rows


def training(fit: Fit, row: int) -> dict[str, Any]:
    """The `isoflop.training/1` document: the training curve of one run of a fit.

    Args:
        fit: A fit, whose source may be a folder of runs with a curve beside each record.
        row: Position of the run in the fit's own order.

    Returns:
        `tokens` seen and the mean training `loss` [nats/token] since the point before; both are
        empty where there is no curve.

    Raises:
        FieldError: There is no such run.
    """
    names = fit.points.run
    if row >= len(names):
        raise FieldError(f"there is no run {row}; {fit.name} has 0 to {len(names) - 1}.", "row")
    source = fit.source.get("path", ""), fit.source.get("hash", "")
    folder = _run_folders(*source).get(names[row])
    if folder is None:  # the folder may come, too
        _run_folders.cache_clear()
    curve = None if folder is None else read_curve(folder)
    tokens = loss = np.empty(0)
    if curve is not None:
        count = min(len(curve), MOST_POINTS)
        tokens = curve[np.linspace(0, len(curve) - 1, count).round().astype(int), 0]
        loss = window_means(curve, np.r_[0.0, tokens])
    document = {
        "schema": TRAINING_SCHEMA,
        "source": fit.name,
        "run": short_name(names[row]),
        "row": row,
        "tokens": tokens.tolist(),
        "loss": [float(f"{v:.6g}") for v in loss],
    }
    return dict(finite_or_null(document))


@lru_cache(maxsize=32)
def _run_folders(path: str, _: str) -> Mapping[str, str]:
    """Folder of each run that a fit was made from, by the hash of its runs; none for a table."""
    try:
        return read_runs(Path(path)).folders if path else {}
    except (RecordError, OSError, ValueError):  # the folder is gone, or is none
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRoute:
    """A question over HTTP: the fields it takes, what they mean, and how it is answered."""

    about: str
    """A sentence on what it gives."""
    schema: str
    """Name of its document in `openapi.SCHEMAS`."""
    fields: Mapping[str, str]
    needed: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    """Fields that may be repeated."""
    quick: frozenset[str] = frozenset()
    """Fields with which a fit by the sandwich answers in about 2 ms; others take 50 to 100 ms."""
    laws: Callable[[FitRegistry, Fields], tuple[ServedLaw, ...]]
    """The fits or laws that are asked: a document is valid as long as these do not change."""
    document: Callable[[tuple[ServedLaw, ...], Fields], dict[str, Any]]
    lasting: Callable[[dict[str, Any]], bool] = lambda document: True
    """Whether a document stays valid while the laws do."""

    def takes_long(self, laws: tuple[ServedLaw, ...], fields: Fields) -> bool:
        """Whether other requests would notice, so that a thread should compute the document."""
        methods = {law.source.fit.interval.method for law in laws if law.source.fit is not None}
        return not self.quick or not (methods <= {"hc3"} and fields.keys() <= self.quick)


Fields = Mapping[str, Sequence[str]]
"""The values of each field, in the order of the request."""


def report_options(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The question that a request puts to a report, as options of `isoflop report`.

    Raises:
        RequestError: A field is unknown, repeated, far too long or holds a null character.
    """
    taken = {name: FIELDS[name].about for name in REPORT_FIELDS}
    fields = checked_fields(dataclasses.replace(QUERY, fields=taken), pairs)
    for name, values in fields.items():
        if "\0" in values[0]:  # no argument of a process may hold one
            raise RequestError(422, "invalid", f"{name} has a null character; give text.", name)
    return [f"{option_name(name)}={values[0]}" for name, values in fields.items()]


def checked_fields(
    route: QueryRoute, pairs: Sequence[tuple[str, str]]
) -> dict[str, tuple[str, ...]]:
    """Group the fields of a request by name.

    Raises:
        RequestError: A field is unknown, missing, repeated too often, far too long.
    """
    fields: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if name not in route.fields:
            known = ", ".join(route.fields)
            text = f"unknown field '{short_name(name)}'; known are {known}."
            raise RequestError(422, "invalid", text, name)
        if len(value) > LONGEST_VALUE:
            text = f"{name} has {len(value)} characters; {LONGEST_VALUE} are enough."
            raise RequestError(422, "invalid", text, name)
        fields[name] = (*fields.get(name, ()), _BLANK.sub("+", value))
    for name, values in fields.items():
        most = MOST_BUDGETS if name in route.several else 1
        if len(values) > most:
            text = f"{name} is given {len(values)} times; at most {most}."
            raise RequestError(422, "invalid", text, name)
    for name in route.needed:
        if name not in fields:
            raise RequestError(422, "invalid", f"{name} is needed: {route.fields[name]}", name)
    return fields


def refuse_fields(fields: Mapping[str, str]) -> None:
    """Refuse fields at an address that takes none: they would be ignored.

    Raises:
        RequestError: There is one.
    """
    for name in fields:
        text = f"unknown field '{short_name(name)}'; this address takes no fields."
        raise RequestError(422, "invalid", text, name)


def _first(fields: Fields, name: str, default: str) -> str:
    """The value of a field that is given once at most."""
    return fields[name][0] if name in fields else default


def _read(name: str, value: str, parse: Callable[[str, str], Value]) -> Value:
    """Read one value; an error names its field."""
    try:
        return parse(value, name)
    except QueryError as error:
        raise FieldError(str(error), name) from None


def _as_budget(text: str, _: str) -> str:
    """A budget as text, once it can be read."""
    budget_fields(text, {})
    return text


def _with_columns(law: ServedLaw, fields: Fields) -> ScalingLaw:
    """The law with the columns, such as unique_tokens, that a request fixes."""
    columns = {
        n: _read(n, fields[n][0], parse_flops if n == "flops" else parse_count)
        for n in LAW_COLUMNS
        if n in fields
    }
    return law.source.given(**columns)


def _selected(registry: FitRegistry, fields: Fields) -> tuple[ServedLaw, ...]:
    """The law that `fit` or `law` names, or the newest fit."""
    return (registry.select(*(fields[n][0] if n in fields else None for n in ("fit", "law"))),)


def _query(laws: tuple[ServedLaw, ...], fields: Fields) -> dict[str, Any]:
    """The document `isoflop.answer/1`."""
    return answer(_question(laws, fields)).document()


def _contours(laws: tuple[ServedLaw, ...], fields: Fields) -> dict[str, Any]:
    """The document `isoflop.contours/1`."""
    return contours(_question(laws, fields))


def _question(laws: tuple[ServedLaw, ...], fields: Fields) -> Question:
    """The question that the fields ask of the one law."""
    values = {name: values[0] for name, values in fields.items() if name in FIELDS}
    return question(laws[0].source, values)


def _predict(laws: tuple[ServedLaw, ...], fields: Fields) -> dict[str, Any]:
    """The document `isoflop.prediction/1`."""
    n, d = (_read(name, fields[name][0], parse_count) for name in ("params", "tokens"))
    force = _read("force", _first(fields, "force", "false"), parse_flag)
    return predict(_with_columns(laws[0], fields), n, d, force=force).document()


def _compare(laws: tuple[ServedLaw, ...], fields: Fields) -> dict[str, Any]:
    """The document `isoflop.compare/1`."""
    # Imports scipy.stats, which takes a second and which nothing else here needs.
    from fit.comparison.compare import compare

    comparison = compare(
        laws[0].source,
        laws[1].source,
        flops=tuple(_read("flops", v, _as_budget) for v in fields.get("flops", ())),
        interval=_first(fields, "interval", "hc3"),
        level=_read("level", _first(fields, "level", "0.9"), parse_share),
        force=_read("force", _first(fields, "force", "false"), parse_flag),
    )
    return comparison.document()


def _row(text: str) -> int:
    """Position of a run."""
    if not (text.isascii() and text.isdecimal()):
        raise FieldError(f"row is '{short_name(text)}'; a whole number from 0 on.", "row")
    return int(text)


def _without(laws: tuple[ServedLaw, ...], fields: Fields) -> dict[str, Any]:
    """The document `isoflop.without/1`."""
    rows = [_row(text) for text in fields["row"]]
    fit = laws[0].fit  # a published law has no runs
    flops, assumed = None, tuple[Note, ...]()
    if "flops" in fields:
        text = fields["flops"][0]
        flops, assumed = _read("flops", text, lambda t, _: budget_flops(t, fit=fit))
    document = without_runs(laws[0].source, rows, flops)
    return {**document, "warnings": [*map(dataclasses.asdict, assumed), *document["warnings"]]}


QUERY = QueryRoute(
    about="Split a budget between parameters and tokens.",
    schema="Answer",
    fields={**{name: entry.about for name, entry in FIELDS.items()}, **CHOICE},
    quick=frozenset("flops fit law force dollars hours deadline price device devices mfu".split()),
    laws=_selected,
    document=_query,
)
CONTOURS = QueryRoute(
    about="Give the loss over parameters and tokens around an answer, for a chart.",
    schema="Contours",
    fields=QUERY.fields,
    laws=_selected,
    document=_contours,
)
PREDICT = QueryRoute(
    about="Predict the loss of N parameters trained on D tokens.",
    schema="Prediction",
    fields={
        "params": "Parameters N, such as 7B.",
        "tokens": "Training tokens D, such as 1.4T.",
        "force": "true predicts although the verdict is `refuse`.",
        **CHOICE,
        **LAW_COLUMNS,
    },
    needed=("params", "tokens"),
    quick=frozenset({"params", "tokens", "fit", "law", "force"}),
    laws=_selected,
    document=_predict,
)
COMPARE = QueryRoute(
    about="Say how much compute a needs to reach the loss of b.",
    schema="Comparison",
    fields={
        "a": "A fit or a published law by its name.",
        "b": "The other one.",
        "flops": "Budget of b in FLOP; may be repeated. Without it, some inside and beyond.",
        "interval": "How intervals are made: hc3 or pairs.",
        "level": "Level of the intervals, such as 0.9.",
        "force": "true compares what has no common unit.",
    },
    needed=("a", "b"),
    several=("flops",),
    laws=lambda registry, fields: tuple(
        registry.fit_or_law(fields[name][0], name) for name in ("a", "b")
    ),
    document=_compare,
)
CURVES = QueryRoute(
    about="Give the frontier with its bands, the runs and the isoFLOP valleys, for charts.",
    schema="Curves",
    fields={**CHOICE, "unique_tokens": LAW_COLUMNS["unique_tokens"]},
    laws=_selected,
    document=lambda laws, fields: curves(_with_columns(laws[0], fields)),
)
WITHOUT = QueryRoute(
    about="Fit the law again without some runs, and say how far its best split moves.",
    schema="Without",
    fields={
        "fit": CHOICE["fit"],
        "row": "A run that is left out, by its row in runs.csv from 0 on; may be repeated.",
        "flops": "Budget in FLOP at which the move is stated, such as 1e21.",
    },
    needed=("row",),
    several=("row",),
    laws=_selected,
    document=_without,
)
TRAINING = QueryRoute(
    about="Give the training curve of one run, empty where there is none, for a chart.",
    schema="Training",
    fields={"fit": CHOICE["fit"], "row": "A run by its row in runs.csv, from 0 on."},
    needed=("row",),
    laws=_selected,
    document=lambda laws, fields: training(laws[0].fit, _row(fields["row"][0])),
    lasting=lambda document: bool(document["tokens"]),  # a curve that is not there may come
)
QUESTIONS: Mapping[str, QueryRoute] = {
    "/v1/query": QUERY,
    "/v1/predict": PREDICT,
    "/v1/compare": COMPARE,
    "/v1/curves": CURVES,
    "/v1/contours": CONTOURS,
    "/v1/without": WITHOUT,
    "/v1/training": TRAINING,
}
"""Each question by its address."""
