"""The command `isoflop`: runs in, a law, an answer and a report out.

Every command imports what it needs when it runs, so that `query` starts in a fraction of a second.
Results go to stdout; a `ScalingError` is one line on stderr and exit code 1.

The command `score`: what happened to the forecasts.

How the command line meets its users: mistakes are one line, negative numbers are arguments.
"""

from __future__ import annotations

import errno
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fit.cli.options import (
    LEDGER,
    POSITIVE,
    SHARE,
    AssignmentType,
    NameType,
    check_output_options,
    column_options,
    count_type,
    fit_options,
    flops_type,
    launch_text,
    options_again,
    output_options,
    question_options,
    report_options,
    seal_answer,
)
from fit.cli.plugins import add_sweep_commands
from fit.errors import FieldError, ScalingError
from fit.query.question import LAW_COLUMNS

if TYPE_CHECKING:
    from fit.allocation.scaling_law import ScalingLaw
    from fit.query.question import Question

REPORTS = Path("reports")
HELP = {"help_option_names": ["-h", "--help"]}
Command = TypeVar("Command", bound=Callable[..., Any])


class CommandGroup(click.Group):
    """A group whose users never see a traceback of their own mistakes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a mistake or a full disk is one line: exit code 1, wrong usage 2."""
        code = 1
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            asked = error.ctx.command_path if error.ctx else ctx.command_path
            message, code = f"{error.format_message()} See: {asked} --help", 2
        except ScalingError as error:
            message = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has gone, as with `| head`: click's own
                raise
            message = f"{error}; free space and readable files are needed. Mend it and run again."
        click.echo(f"isoflop: {' '.join(message.split())}", err=True)
        ctx.exit(code)


class NumberCommand(click.Command):
    """A command whose argument may look like an option: -1 is a bad number, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A blank in front keeps a negative number an argument."""
        kept = [f" {a}" if re.match(r"-(\.?\d|inf|nan)", a) else a for a in args]
        return super().parse_args(ctx, kept)


@click.command("score")
@click.argument("name", required=False)
@click.option("--runs", type=click.Path(path_type=Path), help="Where to look for its run.  [runs]")
@click.option("--loss", type=POSITIVE, metavar="X", help="What was measured, in nats/token.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document and nothing else.")
def score_command(name: str | None, runs: Path | None, loss: float | None, as_json: bool) -> None:
    """Say what happened to the forecast NAME, or to all that are open, and how often they hit."""
    from fit.data.records import read_runs
    from fit.forecasts.ledger import read_ledger
    from fit.forecasts.scoring import score_loss, score_open, score_run
    from fit.report.listings import entry_text, ledger_document, ledger_text, rate_text

    if loss is not None and (name is None or runs is not None):
        raise click.UsageError("--loss goes with the NAME of a forecast, and without --runs.")
    where = Path("runs") if runs is None else runs
    if name is None:
        known = where.is_dir() or runs is not None
        ledger = score_open(LEDGER, read_runs(where).records if known else ())
        text = ledger_text(ledger)
    else:
        if loss is not None:
            entry = score_loss(LEDGER, name, loss)
        else:
            entry = score_run(LEDGER, name, lambda: read_runs(where).records)
        ledger = read_ledger(LEDGER)
        text = f"{entry_text(entry)}\n\n{rate_text(ledger)}"
    document = ledger_document(ledger)
    click.echo(json.dumps(document, indent=1, allow_nan=False) if as_json else text)


@click.group(cls=CommandGroup, context_settings=HELP)
@click.version_option(package_name="isoflop")
def main() -> None:
    """Fit scaling laws to runs and ask them: given a budget, what N and D, and how sure are we?"""


def _as_json(command: Command) -> Command:
    """Add --json."""
    text = "Print the JSON document and nothing else."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def _asked(command: Command) -> Command:
    """Add --fit and --law, of which at most one is given."""
    for option in (
        click.option(
            "--law", type=NameType("fit.laws.published:PRESETS"), metavar="NAME",
            help="A published law; see: isoflop laws",
        ),
        click.option(
            "--fit", "folder", type=click.Path(path_type=Path), metavar="reports/NAME",
            help="A fit; without it or --law, the newest under reports/.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@main.command("fit")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Report folder.  [reports/<RUNS>]")
@click.option("--no-report", is_flag=True, help="Write fit.json only, no PDF.")
@fit_options
@_as_json
def fit_command(
    runs: Path, out: Path | None, no_report: bool, as_json: bool, **options: Any
) -> None:
    """Fit a law to RUNS: a folder of run records, or a .csv, .parquet or .jsonl table."""
    from fit.cli.runs import summary
    from fit.fitting import fit_runs
    from fit.results import write_fit

    folder = out or REPORTS / (runs.resolve().stem or "runs")
    found = fit_runs(runs, name=folder.name, **options)
    write_fit(folder, found)
    click.echo(_dump(found.document(draws=False)) if as_json else summary(found, folder))
    if not no_report:
        from fit.report.render import write_report

        click.echo(f"report   {write_report(folder)}", err=as_json)


@main.command("query", cls=NumberCommand)
@_asked
@question_options
@output_options
@_as_json
def query_command(
    folder: Path | None, law: str | None, config: bool, trainer: str | None, sealed: str | None,
    as_json: bool, **fields: Any,
) -> None:  # fmt: skip
    """Split a budget between parameters and tokens, or find the budget of a loss.

    The budget is FLOPS (1e21), or --dollars, --hours, --deadline or --loss.
    """
    from fit.query.answer import answer
    from fit.query.question import question
    from fit.report.text import answer_text, limit_rows

    check_output_options(config=config, trainer=trainer, as_json=as_json)
    source, option = _source(folder, law)
    try:
        asked = question(source, fields)
    except FieldError as error:
        raise click.UsageError(str(error)) from error
    found = answer(asked)
    note = seal_answer(sealed, asked, found)
    if config or trainer:
        click.echo(launch_text(asked, found, trainer))
    else:
        launch = (
            f"isoflop query {_again(asked, fields, option)} --config | xargs -r python -m sweep"
        )
        if as_json:
            click.echo(_dump(found.document()))
        else:
            click.echo(answer_text(found, launch, limit_rows(found)))
    if note:
        click.echo(note, err=bool(trainer or config or as_json))


main.add_command(score_command)
add_sweep_commands(main)


@main.command("predict", cls=NumberCommand)
@click.option(
    "--params",
    type=count_type("params"),
    required=True,
    metavar="N",
    help="Parameters, such as 7B.",
)
@click.option(
    "--tokens", type=count_type("tokens"), required=True, metavar="D", help="Tokens, such as 1.4T."
)
@_asked
@column_options(*LAW_COLUMNS)
@_as_json
def predict_command(
    params: float, tokens: float, folder: Path | None, law: str | None, as_json: bool,
    **fixed: float | None,
) -> None:  # fmt: skip
    """Predict the loss of a model of N parameters trained on D tokens."""
    from fit.query.answer import predict
    from fit.report.text import prediction_text

    source = _source(folder, law, **fixed)[0]
    found = predict(source, params, tokens)
    click.echo(_dump(found.document()) if as_json else prediction_text(found))


@main.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--flops", "budgets", type=flops_type(), multiple=True, metavar="C", help="B's budget."
)
@click.option(
    "--interval",
    type=NameType("fit.comparison.compare:INTERVALS"),
    default="hc3",
    show_default=True,
    help="By the sandwich (hc3), or by a bootstrap of both together (pairs).",
)
@click.option("--level", type=SHARE, default=0.9, show_default=True)
@click.option("--force", is_flag=True, help="Compare what has no common unit.")
@_as_json
def compare_command(
    a: Path, b: Path, budgets: tuple[float, ...], as_json: bool, **options: Any
) -> None:
    """Say how much compute A needs to reach B's loss.

    A and B are reports/NAME, or published laws by name. A multiplier of 2 means twice B's compute;
    its interval leaves out noise that paired runs share.
    """
    from fit.comparison.compare import compare
    from fit.report.listings import comparison_text

    found = compare(_rival(a), _rival(b), flops=budgets, **options)
    click.echo(_dump(found.document()) if as_json else comparison_text(found))


@main.command("import")
@click.argument("table", metavar="EXPORT", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .csv or .jsonl.")
@click.option(
    "--column",
    type=AssignmentType("loss=val/loss"),
    multiple=True,
    metavar="OURS=KEY",
    help="Key of a column, as loss=val/loss or width=config.model.width.",
)
@click.option(
    "--unit",
    type=AssignmentType("params=M"),
    multiple=True,
    metavar="OURS=UNIT",
    help="Unit of a column: params=M, tokens=1e9, loss=bits.",
)
def import_command(table: Path, out: Path, column: tuple[str, ...], unit: tuple[str, ...]) -> None:
    """Make a table of runs that a tracker has exported.

    EXPORT is the csv that a page such as W&B's gives; `isoflop fit` reads the table made.

    Runs on W&B's servers, and offline ones, are fetched by: python -m sweep.imports --help
    """
    from fit.data.trackers import (
        build_table,
        import_text,
        parse_columns,
        read_export,
        skipped_lines,
        write_table,
    )
    from fit.quantities import parse_units

    found = build_table(read_export(table), parse_columns(column), parse_units(unit))
    write_table(out, found.rows)
    for line in skipped_lines(found):
        click.echo(line, err=True)
    click.echo(import_text(found, out))


@main.command("laws")
@_as_json
def laws_command(as_json: bool) -> None:
    """List the published laws that can be asked, and the families that can be fitted."""
    from fit.laws.families import LAWS, laws_document
    from fit.laws.published import PRESETS
    from fit.report.text import families_text, laws_text

    text = f"{laws_text(PRESETS.values())}\n\n{families_text(LAWS.values())}"
    click.echo(_dump(laws_document()) if as_json else text)


@main.command("runs")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write all columns.")
@click.option("--watch", is_flag=True, help="What runs, is missing, was spent; until it is over.")
@_as_json
def runs_command(runs: Path, csv_file: Path | None, watch: bool, as_json: bool) -> None:
    """List the runs in a folder or table: how each ended, its size and its loss."""
    from fit.cli.runs import runs_document, runs_listing, watch_sweep, write_csv

    if watch:
        return watch_sweep(runs, as_json=as_json)

    document = runs_document(runs)
    if csv_file is not None:
        write_csv(csv_file, document["runs"])
    click.echo(_dump(document) if as_json else runs_listing(document))


@main.command("tuning")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--where", metavar="CONDITION", help='Rows to keep, such as "depth == 2".')
@_as_json
def tuning_command(runs: Path, where: str | None, as_json: bool) -> None:
    """Find the best learning rate of each size in a scan, and what one rule for all costs."""
    from fit.report.listings import tuning_document, tuning_listing

    document = tuning_document(runs, where=where)
    click.echo(_dump(document) if as_json else tuning_listing(document))


@main.command("skills")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--where", metavar="CONDITION", help='Rows to keep, such as "depth <= 4".')
@_as_json
def skills_command(runs: Path, where: str | None, as_json: bool) -> None:
    """Show what each skill costs each shape: what width buys and what depth buys."""
    from fit.report.listings import skills_document, skills_listing

    document = skills_document(runs, where=where)
    click.echo(_dump(document) if as_json else skills_listing(document))


@main.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@report_options
@_as_json
def report_command(folder: Path, form: str, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Write FOLDER/report.pdf and its figures from FOLDER/fit.json.

    FOLDER may also hold runs of several shapes: what width buys and what depth buys, by skill.
    """
    from fit.allocation.costs import ReportRequest
    from fit.report.render import write_any_report

    path = write_any_report(folder, out=out, form=form, request=ReportRequest(**asked))
    click.echo(_dump({"schema": "isoflop.report/1", "report": str(path)}) if as_json else str(path))


@main.command("suggest")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--flops", required=True, metavar="C", help="Budget to be sure about, such as 1e21.")
@click.option("--spend", required=True, metavar="C2", help="FLOPs for all the next runs together.")
@click.option("--law", metavar="NAME", help="A published law in place of a fit.")
@click.option("--runs", "most_runs", type=click.IntRange(1, 200), default=24, show_default=True)
@click.option("--replicates", type=click.IntRange(1, 10), default=3, show_default=True)
@click.option("--max-run", metavar="C", help="FLOPs of one run at most.  [a quarter of the spend]")
@click.option("--min-run", metavar="C", help="FLOPs of one run at least.")
@click.option("--ratio", metavar="LOW:HIGH", help="Tokens per parameter.  [as fitted]")
@click.option("--params", metavar="LOW:HIGH", help="Sizes.  [from the smallest fitted]")
@click.option("--tokens", metavar="LOW:HIGH", help="Lengths.  [from the shortest fitted]")
@click.option("--widths", metavar="W,W,...", help="Widths allowed.  [the ladder's]")
@click.option("--noise", type=click.FloatRange(0, 1, min_open=True), help="Of ln loss, one run.")
@click.option("--out", type=click.Path(path_type=Path), help="Plan's folder.")
@_as_json
def suggest_command(
    folder: Path | None, law: str | None, out: Path | None, as_json: bool, **limits: Any
) -> None:
    """Choose the next runs: those that narrow N* and the loss at a budget most per FLOP.

    FOLDER is the fit that they extend, reports/NAME; without it or --law, the newest.
    """
    from fit.design.candidates import parse_request
    from fit.design.plan_files import FOLDER, write_plan
    from fit.design.suggest import propose
    from fit.report.listings import proposal_text

    source, named = _source(folder, law)
    asked = REPORTS / str(law) if law else Path(shlex.split(named)[1])
    home = out or (asked.parent if asked.is_file() else asked) / FOLDER
    found = propose(parse_request(source, **limits))
    launch = write_plan(home, found, source.fit)
    click.echo(_dump(found.document()) if as_json else proposal_text(found, home, launch))


@main.command("serve")
@click.argument("more", nargs=-1, metavar="[reports/NAME]...", type=click.Path(path_type=Path))
@click.option(
    "--fit",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="reports/NAME",
    help="A fit to serve; several may follow.  [all in reports/]",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--token", envvar="ISOFLOP_TOKEN", help="Needed beyond loopback.  [$ISOFLOP_TOKEN]")
def serve_command(more: tuple[Path, ...], folders: tuple[Path, ...], **bound: Any) -> None:
    """Serve fits: a page to play with, and the same answers over HTTP."""
    from fit.service.serve import serve

    serve(folders=(*folders, *more), reports=REPORTS, announce=click.echo, **bound)


def _source(folder: Path | None, law: str | None, **fixed: float | None) -> tuple[ScalingLaw, str]:
    """The fit or published law that is asked, and the options that ask it again."""
    from fit.allocation.scaling_law import ScalingLaw
    from fit.laws.published import preset
    from fit.results import newest_fit

    if folder is not None and law is not None:
        raise click.UsageError("give --fit or --law, not both.")
    counts = {k: v for k, v in fixed.items() if v is not None}
    again = "".join(f" --{k.replace('_', '-')} {v:g}" for k, v in counts.items())
    if law is not None:
        return ScalingLaw.from_preset(preset(law)).given(**counts), f"--law {law}{again}"
    path = newest_fit(REPORTS) if folder is None else folder
    option = f"--fit {shlex.quote(str(path))}{again}"
    return ScalingLaw.at(path).given(**counts), option


def _again(asked: Question, fields: dict[str, Any], option: str) -> str:
    """The words that ask a question again."""
    budget = "" if asked.flops is None else f"{asked.flops:.12g}".replace("e+", "e")
    return " ".join(word for word in (budget, option, options_again(fields)) if word)


def _rival(name: Path) -> ScalingLaw:
    """A fit by its folder, or a published law by its name."""
    from fit.laws.published import PRESETS

    known = str(name) in PRESETS and not name.exists()
    return _source(None, str(name))[0] if known else _source(name, None)[0]


def _dump(document: dict[str, Any]) -> str:
    """JSON as people can read it too."""
    return json.dumps(document, indent=1, allow_nan=False)
