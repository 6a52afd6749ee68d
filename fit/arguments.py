"""Kinds of arguments on the command line: what cannot be meant is wrong usage, exit code 2."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from fit.errors import QueryError
from fit.fields import FIELDS
from fit.quantity import parse_count, parse_flops

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
POSITIVE = click.FloatRange(0, min_open=True)
NATURAL = click.IntRange(0)
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


def asking(command: T) -> T:
    """Add an option for each field of a question; its text is read by `asking.question`."""
    for name, entry in reversed(list(FIELDS.items())):
        word = f"--{name.replace('_', '-')}"
        if not entry.metavar:
            add = click.option(word, name, is_flag=True, default=None, help=entry.about)
        elif name == "flops":
            add = click.argument(name, metavar="[FLOPS]", required=False)
        else:
            add = click.option(word, name, metavar=entry.metavar, help=entry.about)
        command = add(command)
    return command


def again(fields: dict[str, Any]) -> str:
    """The options that ask the same question again."""
    given = {k: v for k, v in fields.items() if v is not None and k not in ("flops", "force")}
    words = [
        f"--{k.replace('_', '-')}" + ("" if v is True else f" {shlex.quote(str(v).strip())}")
        for k, v in given.items()
    ]
    return " ".join(words)


def asked_of_report(command: T) -> T:
    """Add the options of a report beside its fit."""
    for option in reversed(
        [
            click.option(
                "--format", "form", type=Known("fit.report:FORMATS"), default="pdf",
                show_default=True, help="pdf, or html: one file that needs nothing else.",
            ),
            click.option(
                "--out", type=click.Path(path_type=Path),
                help="Where a report on runs goes.  [reports/<FOLDER>]",
            ),
            click.option(
                "--serve-tokens", type=count("serve_tokens"), metavar="S",
                help="Chart what serving S tokens costs at each size.",
            ),
            click.option(
                "--unique-tokens", type=count("unique_tokens"), metavar="U",
                help="Chart what repeating U unique tokens costs.",
            ),
            click.option("--price", type=POSITIVE, metavar="$", help="Dollars per device-hour."),
            click.option(
                "--device", type=Known("fit.hardware:DEVICES"), help="That the price is of.",
            ),
            click.option("--mfu", type=SHARE, help="Share of its peak that is reached.  [0.4]"),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def fitting(command: T) -> T:
    """Add the options of a fit; their meanings stand in docs/method.md."""
    for option in reversed(
        [
            click.option(
                "--law", type=Known("fit.laws:LAWS"), default="chinchilla", show_default=True,
                help="Law family.",
            ),
            click.option("--base", metavar="LAW|FOLDER", help="Law whose E, A, ... are held."),
            click.option(
                "--hold", type=Assignment("E=1.87"), multiple=True, metavar="NAME=VALUE",
                help="Not to be fitted.",
            ),
            click.option(
                "--params", type=Known("fit.accounting:PARAMS_CONVENTIONS"),
                show_default="matmul", help="How N of records is counted.",
            ),
            click.option(
                "--flops", type=Known("fit.accounting:FLOPS_CONVENTIONS"),
                show_default="exact", help="How C of records is counted.",
            ),
            click.option("--where", metavar="COND", help="Runs to use, such as 'loss < 5'."),
            click.option(
                "--loss", type=Known("fit.objective:LOSSES"), default="adaptive",
                show_default=True, help="adaptive, huber, l2, l2-levels, student, asymmetric.",
            ),
            click.option("--delta", type=POSITIVE, help="Fixed threshold of the Huber loss."),
            click.option(
                "--interval", type=Known("fit.derived:METHODS"), default="hc3", show_default=True,
                help="hc3, pairs, wild, bca, profile.",
            ),
            click.option("--level", type=SHARE, default=0.9, show_default=True),
            click.option("--resamples", type=NATURAL, default=4000, show_default=True),
            click.option("--cluster", metavar="COLUMN", help="Equal values: correlated errors."),
            click.option("--weight", metavar="COLUMN", help="Weights; loss_se: errors.  [weight]"),
            click.option(
                "--column", type=Assignment("params=n_params"), multiple=True,
                metavar="OURS=YOURS", help="Rename a column.",
            ),
            click.option(
                "--unit", type=Assignment("params=M"), multiple=True, metavar="OURS=UNIT",
                help="Unit of a table's column: params=M, tokens=1e9, loss=bits.",
            ),
            click.option("--seed", type=NATURAL, default=0, show_default=True),
        ]
    ):  # fmt: skip
        command = option(command)
    return command
