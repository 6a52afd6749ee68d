"""The command `score`: what happened to the forecasts."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fit.arguments import POSITIVE
from fit.outlet import LEDGER


@click.command("score")
@click.argument("name", required=False)
@click.option("--runs", type=click.Path(path_type=Path), help="Where to look for its run.  [runs]")
@click.option("--loss", type=POSITIVE, metavar="X", help="What was measured, in nats/token.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document and nothing else.")
def score_command(name: str | None, runs: Path | None, loss: float | None, as_json: bool) -> None:
    """Say what happened to the forecast NAME, or to all that are open, and how often they hit."""
    from fit.ledger import read_ledger
    from fit.ledger_text import entry_text, ledger_document, ledger_text, rate_text
    from fit.scoring import records_below, score_given, score_open, score_run

    if loss is not None and (name is None or runs is not None):
        raise click.UsageError("--loss goes with the NAME of a forecast, and without --runs.")
    where = Path("runs") if runs is None else runs
    if name is None:
        known = where.is_dir() or runs is not None
        ledger = score_open(LEDGER, records_below(where) if known else ())
        text = ledger_text(ledger)
    else:
        if loss is not None:
            entry = score_given(LEDGER, name, loss)
        else:
            entry = score_run(LEDGER, name, lambda: records_below(where))
        ledger = read_ledger(LEDGER)
        text = f"{entry_text(entry)}\n\n{rate_text(ledger)}"
    document = ledger_document(ledger)
    click.echo(json.dumps(document, indent=1, allow_nan=False) if as_json else text)
