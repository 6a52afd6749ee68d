"""From the fields of a request to a document; what each route takes stands here by name.

What charts are drawn from: the frontier with its bands, the runs, the valleys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from fit.allocation.allocate import along_budget
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats, finite_or_null
from fit.diagnostics.approaches import budgets_of
from fit.errors import QueryError, ScalingError
from fit.inference.intervals import derived_interval
from fit.quantities import parse_count, parse_flops
from fit.query.answer import answer, predict
from fit.query.question import FIELDS, LAW_COLUMNS, question
from fit.results import Fit, Span
from fit.service.fits import FitRegistry, ServedLaw
from fit.service.http import RequestError, request_error_of

CURVES_SCHEMA = "isoflop.curves/1"
POINTS_INSIDE, POINTS_BEYOND = 24, 40
BEYOND = 1e4
"""Last budget of the curves over the largest fitted."""
BELOW = 3.0
"""How far below the smallest."""
SIZES = 64
"""Points of a valley, over twice the range of sizes fitted on either side."""
MOST_RUNS = 2000
"""Runs sent; of more, every so many-th by compute."""
UNKNOWN_RANGE = Span(low=1e18, high=1e24)
"""Of a published law whose budgets are not known."""
NAMES = ("params", "tokens", "loss")
LONGEST_VALUE = 200
_BLANK = re.compile(r"(?<=\d[eE]) (?=\d)")
"""What an unescaped 1e+21 becomes in an address."""
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
        Budgets [FLOP] and at each N*, D* and the loss with intervals (null without a fit), whether
        it lies within the budgets fitted; the runs; loss against N at equal budgets.

    Raises:
        QueryError: The law splits no budget.
    """
    span = source.range.get("flops", UNKNOWN_RANGE)
    flops = _budgets(span)
    at = source.splits(flops)

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        return np.stack([s.log_params, s.log_tokens, s.log_loss], axis=-1)

    with np.errstate(all="ignore"):  # a wild fit's far ends overflow; they are sent as null
        value = np.exp(logs(source.theta[None, :])[0])
        ends = None if source.fit is None else _ends(source.fit, logs)
    document = {
        "schema": CURVES_SCHEMA,
        "source": source.name,
        "law": source.law.name,
        "level": None if source.fit is None else source.fit.interval.level,
        "range": {k: [v.low, v.high] for k, v in source.range.items()},
        "flops": flops.tolist(),
        "inside": ((flops >= span.low * (1 - 1e-9)) & (flops <= span.high * (1 + 1e-9))).tolist(),
        **{n: _curve(i, value, ends) for i, n in enumerate(NAMES)},
        "floor": source.fit.theta.get("E") if source.fit else None,
        "runs": [] if source.fit is None else _runs(source.fit),
        "valleys": [] if source.fit is None else _valleys(source, source.fit),
    }
    return dict(finite_or_null(document))


def _budgets(span: Span) -> Floats:
    """Budgets from below the smallest to far beyond the largest."""
    inside = np.geomspace(span.low, max(span.high, span.low * 1.001), POINTS_INSIDE)
    beyond = np.geomspace(inside[-1], inside[-1] * BEYOND, POINTS_BEYOND)
    return np.concatenate([[span.low / BELOW], inside, beyond[1:]])


def _ends(fit: Fit, logs: Any) -> tuple[Floats, Floats] | None:
    """Intervals along the curves; None where the fit has nothing to make them from."""
    try:
        return derived_interval(fit, logs)
    except QueryError:
        return None


def _curve(row: int, value: Floats, ends: tuple[Floats, Floats] | None) -> dict[str, Any]:
    """One quantity along the budgets."""
    empty = [None] * len(value)
    return {
        "value": value[:, row].tolist(),
        "low": empty if ends is None else ends[0][:, row].tolist(),
        "high": empty if ends is None else ends[1][:, row].tolist(),
    }


def _runs(fit: Fit) -> list[dict[str, Any]]:
    """The fitted runs, by compute."""
    p = fit.points
    order = np.argsort(p.flops, kind="stable")
    order = order[:: max(1, -(-len(order) // MOST_RUNS))]
    sizes = [n for n in ("width", "depth") if n in p.columns]
    return [
        {
            "run": p.run[i],
            **{n: float(getattr(p, n)[i]) for n in ("params", "tokens", "flops", "loss")},
            "residual": float(p.residual[i]),
            **{n: float(p.columns[n][i]) for n in sizes},
        }
        for i in order
    ]


def _valleys(source: ScalingLaw, fit: Fit) -> list[dict[str, Any]]:
    """Loss against N at equal budgets."""
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


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRoute:
    """A route: the fields it takes, what they mean, and how it is answered."""

    fields: Mapping[str, str]
    needed: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    """Fields that may be repeated."""
    reply: Callable[[FitRegistry, Fields], dict[str, Any]]
    sources: Callable[[FitRegistry, Fields], tuple[ServedLaw, ...]]
    """What is asked: an answer holds as long as these do not change."""


Fields = Mapping[str, Sequence[str]]
"""The values of each field, in the order they were given."""


def checked_fields(
    inquiry: QueryRoute, pairs: Sequence[tuple[str, str]]
) -> dict[str, tuple[str, ...]]:
    """The fields of a request by name.

    Raises:
        Fault: An unknown field, one that is missing, given too often, or far too long.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if name not in inquiry.fields:
            known = ", ".join(inquiry.fields)
            raise RequestError(
                422, "invalid", f"unknown field '{name[:80]}'; known are {known}.", name
            )
        if len(value) > LONGEST_VALUE:
            text = f"{name} has {len(value)} characters; {LONGEST_VALUE} are enough."
            raise RequestError(422, "invalid", text, name)
        found[name] = (*found.get(name, ()), _BLANK.sub("+", value))
    for name, values in found.items():
        most = MOST_BUDGETS if name in inquiry.several else 1
        if len(values) > most:
            raise RequestError(
                422, "invalid", f"{name} is given {len(values)} times; at most {most}.", name
            )
    for name in inquiry.needed:
        if name not in found:
            raise RequestError(422, "invalid", f"{name} is needed: {inquiry.fields[name]}", name)
    return found


def _one(fields: Fields, name: str) -> str | None:
    """The value of a field that is given once, or None."""
    return fields[name][0] if name in fields else None


def _read(name: str, value: str, parse: Callable[[str, str], Value]) -> Value:
    """One value; an error names its field."""
    try:
        return parse(value, name)
    except ScalingError as error:
        raise RequestError(422, request_error_of(error).kind, str(error), name) from None


def _truth(value: str, name: str) -> bool:
    """Read true or false."""
    if value.lower() not in ("true", "false", "1", "0"):
        raise RequestError(422, "invalid", f"{name} is '{value}'; true or false is needed.", name)
    return value.lower() in ("true", "1")


def _share(value: str, name: str) -> float:
    """Read a share between 0 and 1."""
    try:
        return float(value)
    except ValueError:
        text = f"{name} is '{value}'; a share between 0 and 1 is needed, such as 0.9."
        raise RequestError(422, "invalid", text, name) from None


def _source(held: ServedLaw, fields: Fields) -> ScalingLaw:
    """The law with the columns that a request fixes."""
    given = {n: _read(n, fields[n][0], parse_count) for n in LAW_COLUMNS if n in fields}
    return held.source.given(**given)


def _chosen(shelf: FitRegistry, fields: Fields) -> tuple[ServedLaw, ...]:
    return (shelf.chosen(_one(fields, "fit"), _one(fields, "law")),)


def _rivals(shelf: FitRegistry, fields: Fields) -> tuple[ServedLaw, ...]:
    return tuple(shelf.rival(fields[name][0], name) for name in ("a", "b"))


def _query(shelf: FitRegistry, fields: Fields) -> dict[str, Any]:
    (held,) = _chosen(shelf, fields)
    own = {name: values[0] for name, values in fields.items() if name in FIELDS}
    return answer(question(held.source, own)).document()


def _predict(shelf: FitRegistry, fields: Fields) -> dict[str, Any]:
    (held,) = _chosen(shelf, fields)
    n, d = (_read(name, fields[name][0], parse_count) for name in ("params", "tokens"))
    return predict(_source(held, fields), n, d).document()


def _compare(shelf: FitRegistry, fields: Fields) -> dict[str, Any]:
    from fit.comparison.compare import (  # scipy.stats, a second that only this needs
        ComparisonOptions,
        compare,
    )

    a, b = _rivals(shelf, fields)
    budgets = tuple(_read("flops", v, parse_flops) for v in fields.get("flops", ()))
    contest = ComparisonOptions(
        a=a.source,
        b=b.source,
        flops=budgets,
        interval=_one(fields, "interval") or "hc3",
        level=_share(_one(fields, "level") or "0.9", "level"),
        force=_truth(_one(fields, "force") or "false", "force"),
    )
    return compare(contest).document()


def _curves(shelf: FitRegistry, fields: Fields) -> dict[str, Any]:
    (held,) = _chosen(shelf, fields)
    return curves(_source(held, fields))


QUERY = QueryRoute(
    fields={**{name: entry.about for name, entry in FIELDS.items()}, **CHOICE},
    reply=_query,
    sources=_chosen,
)
PREDICT = QueryRoute(
    fields={
        "params": "Parameters N, such as 7B.",
        "tokens": "Training tokens D, such as 1.4T.",
        **CHOICE,
        **LAW_COLUMNS,
    },
    needed=("params", "tokens"),
    reply=_predict,
    sources=_chosen,
)
COMPARE = QueryRoute(
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
    reply=_compare,
    sources=_rivals,
)
CURVES = QueryRoute(
    fields={**CHOICE, "unique_tokens": LAW_COLUMNS["unique_tokens"]},
    reply=_curves,
    sources=_chosen,
)
