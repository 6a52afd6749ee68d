"""What `query` gives out beside its table: overrides, another trainer's words, a forecast."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fit.arguments import Known

if TYPE_CHECKING:
    from fit.query import Answer
    from fit.question import Question

LEDGER = Path("reports/ledger")
T = TypeVar("T", bound=Callable[..., Any])


def outlets(command: T) -> T:
    """Add --config, --export and --seal."""
    for option in reversed(
        [
            click.option(
                "--config", is_flag=True, help="Print the overrides that launch it, for xargs."
            ),
            click.option(
                "--export", "trainer", type=Known("fit.exports:TARGETS"), metavar="TRAINER",
                help="Print it for nanogpt, nanochat, litgpt or hf.",
            ),
            click.option(
                "--seal", "sealed", metavar="NAME", help="Freeze it as a forecast: isoflop score."
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def check_outlets(*, config: bool, trainer: str | None, as_json: bool) -> None:
    """At most one of them prints.

    Raises:
        UsageError: Two were asked for.
    """
    if config and as_json:
        raise click.UsageError("give --config or --json, not both: the JSON has the overrides too.")
    if trainer and (config or as_json):
        raise click.UsageError("give --export, --config or --json, one of them.")


def launchers(asked: Question, found: Answer, trainer: str | None) -> str:
    """The overrides that launch an answer in one line, or its export for another trainer.

    Raises:
        QueryError: The source has neither, or money would be wasted.
    """
    from fit.errors import QueryError

    if not found.config:
        for note in (n for n in found.warnings if n.code == "no_shape"):
            raise QueryError(f"not launched: {note.message}")
        raise QueryError(
            "this law has no shapes to launch; overrides need a fit of isoflop's own run records."
        )
    serious = [n.message for n in found.warnings if n.severity == "serious"]
    if serious and not asked.force:
        raise QueryError(f"not launched: {serious[0]} To launch it all the same, add --force.")
    if trainer is None:
        return " ".join(shlex.quote(c) for c in found.config)
    from fit.exports import export

    assert asked.source.fit is not None
    return export(found, asked.source.fit, trainer)


def seal_answer(name: str | None, asked: Question, found: Answer) -> str:
    """Seal an answer under a name, if one was given; says where."""
    if name is None:
        return ""
    from fit.ledger import seal

    forecast = seal(LEDGER, name, asked, found)
    return f"sealed   {LEDGER / name}.json ({forecast.hash[:19]})"
