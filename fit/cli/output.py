"""What commands print: a document as JSON or as text, and where a report was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fit.cli.plugins import log_report
from fit.cli.terminal import progress, show
from fit.errors import FieldError, QueryError


def print_document(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a document as JSON or as text."""
    click.echo(dumped(document)) if as_json else show(text)


def dumped(document: dict[str, Any]) -> str:
    """A document as indented JSON."""
    return json.dumps(document, indent=1, allow_nan=False)


def write_report_of(folder: Path, *, as_json: bool, wandb: str | None, **options: Any) -> None:
    """Write the report of a fit or of runs, print where it is, and log it to W&B on request.

    Args:
        folder: Of the fit, or its name, or a folder of runs.
        as_json: Print the document.
        wandb: W&B's project.
        options: Of `fit.report.render.write_any_report`.

    Raises:
        UsageError: A field of the question cannot be read, or --wandb and --out are both given.
        QueryError: The report was written and its question refused.
    """
    from fit.report.render import write_any_report

    if wandb is not None and options["out"] is not None:
        raise click.UsageError("--wandb logs the report beside its fit: leave --out out.")
    try:
        with progress("report"):
            made = write_any_report(folder, **options)
    except FieldError as error:
        raise click.UsageError(str(error)) from error
    document = {"schema": "isoflop.report/1", "report": str(made.path), "verdict": made.verdict}
    print_document(document, str(made.path), as_json=as_json)
    if wandb is not None:
        click.echo(f"logged   {log_report(made.path.parent, wandb)}", err=True)
    if made.refusal is not None:
        raise QueryError(
            f"{made.path} was written and answers no question: {made.refusal} Page 2 says what "
            "the answer takes."
        )
