"""The command `isoflop` and its subcommands: parse the arguments, call the library, print.

Results go to stdout and everything else to stderr. A `ScalingError` is one line on stderr and exit
code 1; wrong usage is one line and exit code 2. Each command imports what it needs when it runs, so
that `isoflop query` starts in a fraction of a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fit.cli.options import (
    LEDGER,
    POSITIVE,
    BudgetType,
    check_output_options,
    column_options,
    count_type,
    device_options,
    fit_options,
    gate_options,
    interval_option,
    json_option,
    launch_command,
    launch_text,
    level_option,
    notes_option,
    output_options,
    parse_chances,
    question_options,
    read_question,
    reading_of,
    report_options,
    seal_answer,
    skills_options,
    source_options,
    suggest_options,
    table_options,
)
from fit.cli.plugins import add_sweep_commands, log_report, wandb_option, write_report_of
from fit.cli.terminal import CommandGroup, NumberCommand, dumped, print_document, progress, show
from fit.errors import RefusedError
from fit.query.question import LAW_COLUMNS

if TYPE_CHECKING:
    from fit.allocation.scaling_law import ScalingLaw

MOST_NOTES = 3
"""Notes under an answer; --notes prints the others."""
HELP = {"help_option_names": ["-h", "--help"]}

runs_argument = click.argument("runs", metavar="RUNS...", nargs=-1, required=True)
"""Add RUNS: a folder of run records, or paths and globs of tables."""


@click.group(cls=CommandGroup, context_settings=HELP)
@click.version_option(package_name="isoflop")
def main() -> None:
    """Fit scaling laws to runs. Given a budget: what N and D, at what loss, and how sure are we?"""


@main.command("score")
@click.argument("name", required=False)
@click.option(
    "--runs", type=click.Path(path_type=Path), help="Folder in which its run is searched.  [runs]"
)
@click.option("--loss", type=POSITIVE, metavar="X", help="The measured loss, in nats/token.")
@json_option
def score_command(name: str | None, runs: Path | None, loss: float | None, as_json: bool) -> None:
    """Compare the forecast NAME with its run, or all open ones, and show how often they were right.

    Forecasts are sealed by: isoflop query ... --seal NAME
    """
    from fit.data.records import read_runs
    from fit.forecasts.ledger import read_ledger
    from fit.forecasts.scoring import score_loss, score_open, score_run
    from fit.report.listings import entry_text, ledger_document, ledger_text, rate_text

    if loss is not None and (name is None or runs is not None):
        raise click.UsageError("--loss goes with the NAME of a forecast, and without --runs.")
    folder = runs or Path("runs")
    if name is None:
        search = runs or folder.is_dir()  # the default folder need not exist
        ledger = score_open(LEDGER, read_runs(folder).records if search else ())
        text = ledger_text(ledger)
    else:
        if loss is not None:
            entry = score_loss(LEDGER, name, loss)
        else:
            entry = score_run(LEDGER, name, lambda: read_runs(folder).records)
        ledger = read_ledger(LEDGER)
        text = f"{entry_text(entry)}\n\n{rate_text(ledger)}"
    print_document(ledger_document(ledger), text, as_json=as_json)


@main.command("fit")
@runs_argument
@click.option("--out", type=click.Path(path_type=Path), help="Report folder.  [reports/<RUNS>]")
@click.option("--no-report", is_flag=True, help="Write fit.json only, no PDF.")
@wandb_option
@fit_options
@json_option
def fit_command(
    runs: tuple[str, ...], out: Path | None, no_report: bool, as_json: bool, wandb: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Fit a law to RUNS: a folder of run records; or tables (.csv, .jsonl, .parquet, .gz)."""
    from fit.cli.runs import dated, name_of, summary
    from fit.fitting import fit_runs
    from fit.results import REPORTS, write_fit

    folder = out or REPORTS / name_of(runs)
    with progress("fitting"):
        fit = dated(fit_runs(runs, name=folder.name, **options))
    write_fit(folder, fit)
    click.echo(dumped(fit.document(draws=False))) if as_json else show(summary(fit, folder))
    if not no_report:
        from fit.report.render import write_report

        with progress("report"):
            path = write_report(folder).path
        click.echo(f"report   {path}", err=as_json)
    if wandb is not None:
        click.echo(f"logged   {log_report(folder, wandb)}", err=as_json)


@main.command("query", cls=NumberCommand)
@source_options
@question_options
@output_options
@notes_option
@json_option
def query_command(
    folder: Path | None, law: str | None, config: bool, trainer: str | None, sealed: str | None,
    as_json: bool, all_notes: bool, **fields: Any,
) -> None:  # fmt: skip
    """Split a budget between parameters and tokens, or find the budget that reaches a loss.

    The budget is FLOPS (1e21, '10 PFLOP-days', '$5k on h100', '8 h100 for 3 days'), or --dollars,
    --hours, --deadline or --loss.
    """
    from fit.query.answer import answer
    from fit.query.documents import refused_document
    from fit.report.text import answer_text, limit_rows

    check_output_options(config=config, trainer=trainer, as_json=as_json)
    source, path = _select_law(folder, law)
    asked = read_question(source, fields)
    try:
        reply = answer(asked)
    except RefusedError as error:
        if as_json:
            click.echo(dumped(refused_document(error.reason)))
        if folder is not None or law is not None:
            raise
        # A fit that was not named was perhaps never made for such a question.
        raise RefusedError(
            f"{error} No fit was named, and {path} is the newest: name another with --fit, or ask "
            "a published law with --law besiroglu2024.",
            error.reason,
        ) from error
    sealed_line = seal_answer(sealed, asked, reply)
    if config or trainer:
        click.echo(launch_text(asked, reply, trainer))
    else:
        command = launch_command(asked, fields, path)
        text = answer_text(reply, command, limit_rows(reply), None if all_notes else MOST_NOTES)
        print_document(reply.document(), text, as_json=as_json)
    if sealed_line:
        click.echo(sealed_line, err=bool(trainer or config or as_json))


add_sweep_commands(main)


@main.command("doctor")
@json_option
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Check the installation: versions, extras, devices, compiler, folders.

    Exit code 1 where something is broken; a part that is not installed is not.
    """
    from fit.cli.doctor import checks, doctor_document, doctor_text

    with progress("looking"):
        found = checks()
    document = doctor_document(found)
    print_document(document, "" if as_json else doctor_text(found), as_json=as_json)
    ctx.exit(0 if document["ok"] else 1)


@main.command("predict", cls=NumberCommand)
@click.option("--params", type=count_type("params"), required=True, metavar="N", help="Such as 7B.")
@click.option(
    "--tokens", type=count_type("tokens"), required=True, metavar="D", help="Such as 1.4T."
)
@source_options
@column_options(*LAW_COLUMNS)
@click.option("--force", is_flag=True, help="Predict although the verdict is `refuse`.")
@notes_option
@json_option
def predict_command(
    params: float, tokens: float, folder: Path | None, law: str | None, force: bool, as_json: bool,
    all_notes: bool, **fixed: float | None,
) -> None:  # fmt: skip
    """Predict the loss of a model of N parameters trained on D tokens."""
    from fit.query.answer import predict
    from fit.query.documents import PREDICTION_SCHEMA, refused_document
    from fit.report.text import prediction_text

    columns = {k: v for k, v in fixed.items() if v is not None}
    source = _select_law(folder, law)[0].given(**columns)
    try:
        prediction = predict(source, params, tokens, force=force)
    except RefusedError as error:
        if as_json:
            click.echo(dumped(refused_document(error.reason, PREDICTION_SCHEMA)))
        raise
    text = prediction_text(prediction, None if all_notes else MOST_NOTES)
    print_document(prediction.document(), text, as_json=as_json)


@main.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--flops", "budgets", type=BudgetType(), multiple=True, metavar="C", help="Budget of B."
)
@interval_option(
    "fit.comparison.compare:INTERVALS",
    "hc3, or pairs: a bootstrap.",
)
@level_option
@click.option("--force", is_flag=True, help="Compare losses that have no common unit.")
@json_option
def compare_command(
    a: Path, b: Path, budgets: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Estimate how much compute A needs to reach the loss of B.

    A and B are fits (NAME or reports/NAME) or published laws. A multiplier of 2 means twice the
    compute of B; its interval leaves out the noise that paired runs share.
    """
    from fit.comparison.compare import compare
    from fit.report.listings import comparison_text

    with progress("comparing"):
        comparison = compare(_select_law(a)[0], _select_law(b)[0], flops=budgets, **options)
    print_document(comparison.document(), comparison_text(comparison), as_json=as_json)


@main.command("gate")
@click.argument("base")
@click.argument("change")
@gate_options
@json_option
def gate_command(base: str, change: str, as_json: bool, **options: Any) -> None:
    """Is a change worth it? What it saves in compute, seconds and dollars, from a few sizes.

    BASE and CHANGE are folders of runs or tables, of the same sizes, lengths and seeds. Two sizes
    give a first answer, four show whether it lasts; the answer says how many seeds would settle it.
    """
    from fit.cli.gates import gate_text, read_gate

    asked = {name: options.pop(name) for name in ("least", "noise", "prices", "level")}
    found = read_gate(base, change, **asked, **reading_of(**options))
    print_document(found.document(), gate_text(found, base, change), as_json=as_json)


@main.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .csv or .jsonl.")
@table_options
def import_command(
    paths: tuple[str, ...], out: Path, column: tuple[str, ...], unit: tuple[str, ...],
    where: tuple[str, ...], wide: str | None, keep_failed: bool,
) -> None:  # fmt: skip
    """Make a table for `isoflop fit` of the runs that a tracker or a trainer has left.

    PATH is a table such as W&B's page of runs exports, the files of MLflow, TensorBoard or trackio,
    or logs of nanoGPT, nanochat or torchtitan: a file, or a folder of them. --column names keys,
    such as loss=val/loss or width=config.model.width.

    Runs on W&B's servers, and its offline ones: isoflop fetch --help
    """
    from fit.data.columns import parse_columns
    from fit.data.detection import find_runs, import_text
    from fit.data.trackers import build_table, skipped_lines, write_table
    from fit.quantities import parse_units

    columns, units = parse_columns(column), parse_units(unit)
    with progress("reading the runs"):
        found = find_runs(paths, wide=wide)
        if "loss" not in columns:  # the units are those of the columns that were found
            units = {**found.units, **units}
        imported = build_table(found.runs, columns, units, where=where, keep_failed=keep_failed)
        write_table(out, imported.rows)
    for line in skipped_lines(imported):
        click.echo(line, err=True)
    click.echo(import_text(imported, out, found))


@main.command("laws")
@json_option
def laws_command(as_json: bool) -> None:
    """List the published laws that can be queried, and the families of laws that can be fitted."""
    from fit.laws.families import LAWS, laws_document
    from fit.laws.published import PRESETS
    from fit.report.listings import families_text, laws_text

    text = f"{laws_text(PRESETS.values())}\n\n{families_text(LAWS.values())}"
    print_document(laws_document(), text, as_json=as_json)


@main.command("explain")
@click.argument("note", required=False)
@json_option
def explain_command(note: str | None, as_json: bool) -> None:
    """Explain a NOTE by the code at its end: what was seen, why it matters, what to do.

    Without one, all are listed, and the questions that no fit answers.
    """
    from fit.note_codes import explanation_document
    from fit.report.listings import explanation_text, explanations_text

    document = explanation_document(note)
    text = explanations_text() if note is None else explanation_text(document["notes"])
    print_document(document, text, as_json=as_json)


@main.command("runs")
@runs_argument
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path), help="Also write all columns to a file."
)
@click.option("--watch", is_flag=True, help="Follow a sweep until it ends.")
@table_options
@json_option
def runs_command(
    runs: tuple[str, ...], csv_file: Path | None, watch: bool, as_json: bool, **reading: Any
) -> None:
    """List the runs of a folder or table: how each ended, its size and its loss.

    With --watch: what runs, what is missing and what was spent, every two seconds.
    """
    from fit.cli.runs import runs_document, runs_listing, watch_sweep
    from fit.files import csv_text, write_atomically

    if watch:
        if len(runs) > 1 or any(reading.values()):
            raise click.UsageError("--watch follows one folder of runs, without other options.")
        return watch_sweep(Path(runs[0]), as_json=as_json)
    document = runs_document(runs, **reading_of(**reading))
    if csv_file is not None:
        write_atomically(csv_file, csv_text(document["runs"]))
    print_document(document, runs_listing(document), as_json=as_json)


@main.command("tuning")
@runs_argument
@click.option("--law", default="rate", show_default=True, help="rate, batch or a column.")
@click.option("--rule", type=float, help="Setting whose cost is asked.  [the middle one tried]")
@table_options
@json_option
def tuning_command(
    runs: tuple[str, ...], law: str, rule: float | None, as_json: bool, **reading: Any
) -> None:
    """Fit the best learning rate or batch over N and D to scans of it, and judge the rule used."""
    from fit.cli.runs import tuning_document, tuning_listing

    with progress("fitting the scans"):
        document = tuning_document(runs, law, rule, **reading_of(**reading))
    print_document(document, tuning_listing(document), as_json=as_json)


@main.command("skills")
@runs_argument
@skills_options
@table_options
@json_option
def skills_command(
    runs: tuple[str, ...], flops: tuple[str, ...], chance: tuple[str, ...], as_json: bool,
    **reading: Any,
) -> None:  # fmt: skip
    """Show what each skill costs each shape, and at what compute each score is reached.

    Scores are columns score_NAME of 0 to 1: in records, train.scores=accuracy and data.tasks.
    """
    from fit.query.budget import budget_flops
    from fit.report.scores import skills_document, skills_listing

    budgets, assumed = zip(*map(budget_flops, flops), strict=True) if flops else ((), ())
    for note in dict.fromkeys(n for notes in assumed for n in notes):
        click.echo(f"{note.severity}: {note.message}", err=True)
    document = skills_document(runs, budgets, parse_chances(chance), **reading_of(**reading))
    print_document(document, skills_listing(document), as_json=as_json)


@main.command("report")
@click.argument("folder", metavar="FIT", type=click.Path(path_type=Path))
@report_options
@wandb_option
@json_option
def report_command(
    folder: Path, form: str, out: Path | None, author: str, as_json: bool, wandb: str | None,
    **fields: str | None,
) -> None:  # fmt: skip
    """Write report.pdf and its figures beside FIT, a fit by its folder or its name.

    Page 1 answers your question, put as to isoflop query: --flops 1e24, --dollars, limits. Without
    one: ten times the largest budget fitted.

    If FIT is a folder of runs of several shapes: what width and depth buy, by skill.
    """
    options = {"form": form, "out": out, "author": author, "fields": fields}
    write_report_of(folder, as_json=as_json, wandb=wandb, **options)


@main.command("suggest")
@click.argument("folder", metavar="[FIT]", required=False, type=click.Path(path_type=Path))
@suggest_options
@device_options
@json_option
def suggest_command(
    folder: Path | None, law: str | None, out: Path | None, device: str | None, mfu: float | None,
    price: float | None, as_json: bool, **limits: Any,
) -> None:  # fmt: skip
    """Choose the next runs: those that narrow N* and the loss at a budget most per FLOP.

    FIT is the one that they extend, NAME or reports/NAME; without it or --law, the newest.
    """
    from fit.design.candidates import parse_request
    from fit.design.plan_files import FOLDER, write_plan
    from fit.design.suggest import propose
    from fit.query.budget import priced_machine
    from fit.report.listings import proposal_text
    from fit.results import REPORTS, report_folder

    source, path = _select_law(folder, law)
    machine = priced_machine(source.fit, device=device, mfu=mfu, price=price, spend=limits["spend"])
    beside = REPORTS / path if isinstance(path, str) else report_folder(path)
    home = out or beside / FOLDER
    limits |= {"device": device, "mfu": mfu, "price": price}
    with progress("choosing runs"):
        proposal = propose(parse_request(source, **limits))
    launch = write_plan(home, proposal, source.fit)
    cost = None if machine is None else machine.cost(proposal.flops_spent)
    text = proposal_text(proposal, home, launch, cost)
    print_document(proposal.document() | ({"cost": cost} if cost else {}), text, as_json=as_json)


@main.command("serve")
@click.argument("more", nargs=-1, metavar="[FIT]...", type=click.Path(path_type=Path))
@click.option(
    "--fit", "folders", multiple=True, type=click.Path(path_type=Path), metavar="NAME",
    help="A fit to serve; several may follow.  [all in reports/]",
)  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE",
    help="Token that requests carry.  [$ISOFLOP_TOKEN]",
)  # fmt: skip
@click.option("--token", help="The token itself, visible to ps.")
@click.option(
    "--uploads", type=click.Choice(["off", "session", "keep"]), default="session",
    metavar="MODE", help="Tables sent in: off, session or keep.  [session]",
)  # fmt: skip
@click.option(
    "--runs", type=click.Path(path_type=Path), metavar="FOLDER", help="A sweep to follow live."
)
def serve_command(more: tuple[Path, ...], folders: tuple[Path, ...], **options: Any) -> None:
    """Serve fits: a web page to explore them, and the same answers over HTTP."""
    from fit.service.serve import serve

    serve(
        folders=(*folders, *more), announce=click.echo,
        warn=lambda text: click.echo(text, err=True), **options,
    )  # fmt: skip


def _select_law(folder: Path | None, law: str | None = None) -> tuple[ScalingLaw, Path | str]:
    """The fit or published law that --fit and --law name, and its path or its name."""
    from fit.allocation.scaling_law import ScalingLaw
    from fit.laws.published import preset
    from fit.results import newest_fit

    if folder is not None and law is not None:
        raise click.UsageError("give --fit or --law, not both.")
    if law is not None:
        return ScalingLaw.from_preset(preset(law)), law
    path = folder or newest_fit()
    source = ScalingLaw.of(path)
    return source, path if source.preset is None else str(path)
