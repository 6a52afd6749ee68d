"""From the fields of a request to a document; what each route takes stands here by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fit.arguments import GIVEN
from fit.asking import question
from fit.curves import curves
from fit.errors import ScalingError
from fit.faults import Fault, fault_of
from fit.fields import FIELDS
from fit.quantity import parse_count, parse_flops
from fit.query import Point, answer, predict
from fit.shelf import Held, Shelf
from fit.source import Source

Value = TypeVar("Value")
LONGEST_VALUE = 200
_BLANK = re.compile(r"(?<=\d[eE]) (?=\d)")
"""What an unescaped 1e+21 becomes in an address."""
MOST_BUDGETS = 50
CHOICE = {
    "fit": "A fit by its name, see /v1/fits; without it or law, the newest.",
    "law": "A published law by its name, see /v1/laws.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A route: the fields it takes, what they mean, and how it is answered."""

    fields: Mapping[str, str]
    needed: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    """Fields that may be repeated."""
    reply: Callable[[Shelf, Fields], dict[str, Any]]
    sources: Callable[[Shelf, Fields], tuple[Held, ...]]
    """What is asked: an answer holds as long as these do not change."""


Fields = Mapping[str, Sequence[str]]
"""The values of each field, in the order they were given."""


def checked(inquiry: Inquiry, pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The fields of a request by name.

    Raises:
        Fault: An unknown field, one that is missing, given too often, or far too long.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if name not in inquiry.fields:
            known = ", ".join(inquiry.fields)
            raise Fault(422, "invalid", f"unknown field '{name[:80]}'; known are {known}.", name)
        if len(value) > LONGEST_VALUE:
            text = f"{name} has {len(value)} characters; {LONGEST_VALUE} are enough."
            raise Fault(422, "invalid", text, name)
        found[name] = (*found.get(name, ()), _BLANK.sub("+", value))
    for name, values in found.items():
        most = MOST_BUDGETS if name in inquiry.several else 1
        if len(values) > most:
            raise Fault(
                422, "invalid", f"{name} is given {len(values)} times; at most {most}.", name
            )
    for name in inquiry.needed:
        if name not in found:
            raise Fault(422, "invalid", f"{name} is needed: {inquiry.fields[name]}", name)
    return found


def _one(fields: Fields, name: str) -> str | None:
    """The value of a field that is given once, or None."""
    return fields[name][0] if name in fields else None


def _read(name: str, value: str, parse: Callable[[str, str], Value]) -> Value:
    """One value; an error names its field."""
    try:
        return parse(value, name)
    except ScalingError as error:
        raise Fault(422, fault_of(error).kind, str(error), name) from None


def _truth(value: str, name: str) -> bool:
    """Read true or false."""
    if value.lower() not in ("true", "false", "1", "0"):
        raise Fault(422, "invalid", f"{name} is '{value}'; true or false is needed.", name)
    return value.lower() in ("true", "1")


def _share(value: str, name: str) -> float:
    """Read a share between 0 and 1."""
    try:
        return float(value)
    except ValueError:
        text = f"{name} is '{value}'; a share between 0 and 1 is needed, such as 0.9."
        raise Fault(422, "invalid", text, name) from None


def _source(held: Held, fields: Fields) -> Source:
    """The law with the columns that a request fixes."""
    given = {n: _read(n, fields[n][0], parse_count) for n in GIVEN if n in fields}
    return held.source.given(**given)


def _chosen(shelf: Shelf, fields: Fields) -> tuple[Held, ...]:
    return (shelf.chosen(_one(fields, "fit"), _one(fields, "law")),)


def _rivals(shelf: Shelf, fields: Fields) -> tuple[Held, ...]:
    return tuple(shelf.rival(fields[name][0], name) for name in ("a", "b"))


def _query(shelf: Shelf, fields: Fields) -> dict[str, Any]:
    (held,) = _chosen(shelf, fields)
    own = {name: values[0] for name, values in fields.items() if name in FIELDS}
    return answer(question(held.source, own)).document()


def _predict(shelf: Shelf, fields: Fields) -> dict[str, Any]:
    (held,) = _chosen(shelf, fields)
    n, d = (_read(name, fields[name][0], parse_count) for name in ("params", "tokens"))
    return predict(Point(source=_source(held, fields), params=n, tokens=d)).document()


def _compare(shelf: Shelf, fields: Fields) -> dict[str, Any]:
    from fit.compare import Contest, compare  # scipy.stats, a second that only this needs

    a, b = _rivals(shelf, fields)
    budgets = tuple(_read("flops", v, parse_flops) for v in fields.get("flops", ()))
    contest = Contest(
        a=a.source,
        b=b.source,
        flops=budgets,
        interval=_one(fields, "interval") or "hc3",
        level=_share(_one(fields, "level") or "0.9", "level"),
        force=_truth(_one(fields, "force") or "false", "force"),
    )
    return compare(contest).document()


def _curves(shelf: Shelf, fields: Fields) -> dict[str, Any]:
    (held,) = _chosen(shelf, fields)
    return curves(_source(held, fields))


QUERY = Inquiry(
    fields={**{name: entry.about for name, entry in FIELDS.items()}, **CHOICE},
    reply=_query,
    sources=_chosen,
)
PREDICT = Inquiry(
    fields={
        "params": "Parameters N, such as 7B.",
        "tokens": "Training tokens D, such as 1.4T.",
        **CHOICE,
        **GIVEN,
    },
    needed=("params", "tokens"),
    reply=_predict,
    sources=_chosen,
)
COMPARE = Inquiry(
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
CURVES = Inquiry(
    fields={**CHOICE, "unique_tokens": GIVEN["unique_tokens"]},
    reply=_curves,
    sources=_chosen,
)
