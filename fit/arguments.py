"""Kinds of arguments on the command line: what cannot be meant is wrong usage, exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click

from fit.errors import QueryError
from fit.quantity import parse_count, parse_flops

T = TypeVar("T", bound=Callable[..., Any])

GIVEN = {
    "width": "Width, for a law of shapes.",
    "depth": "Depth, for a law of shapes.",
    "unique_tokens": "Unique tokens there are, for a law of repeated data.",
    "params_total": "All parameters, for a law of experts (--params: active ones).",
}
"""Columns that a question may fix, each with its option's help."""


class Known(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """One of the names of a table; the module that holds it is loaded when a value is checked."""

    name = "name"

    def __init__(self, home: str) -> None:
        """Take `module:TABLE`, such as `fit.laws:LAWS`."""
        self.module, self.table = home.split(":")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name, if it is there."""
        names = list(getattr(import_module(self.module), self.table))
        if value not in names:
            self.fail(f"'{value}' is not known; choose one of {', '.join(names)}.", param, ctx)
        return value


class Amount(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A positive number: FLOP, or a count with a unit."""

    name = "number"

    def __init__(self, what: str, read: Callable[[str, str], float]) -> None:
        self.what = what
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        if isinstance(value, float):
            return value
        try:
            return self.read(str(value), self.what)
        except QueryError as error:
            self.fail(str(error), param, ctx)


class Assignment(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """`left=right`, both of them there."""

    name = "assignment"

    def __init__(self, example: str) -> None:
        self.example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text as it is."""
        left, sign, right = str(value).partition("=")
        if not (left.strip() and sign and right.strip()):
            self.fail(f"'{value}' is no assignment; such as {self.example} is needed.", param, ctx)
        return value


def flops(what: str = "budget") -> Amount:
    """A budget [FLOP]."""
    return Amount(what, parse_flops)


def count(what: str) -> Amount:
    """A count of parameters or tokens."""
    return Amount(what, parse_count)


def given(*columns: str) -> Callable[[T], T]:
    """Add an option for each column beside params and tokens that a law may need."""

    def add(command: T) -> T:
        for name in reversed(columns):
            option = f"--{name.replace('_', '-')}"
            command = click.option(option, name, type=count(name), metavar="X", help=GIVEN[name])(
                command
            )
        return command

    return add
