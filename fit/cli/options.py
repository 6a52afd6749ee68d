"""Types and groups of command-line options, and what `isoflop query` can print beside its table.

A value that its type refuses is wrong usage, exit code 2.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fit.errors import FieldError, QueryError
from fit.quantities import option_name, parse_count, parse_flops, parse_price, parse_share
from fit.query.question import FIELDS, LAW_COLUMNS, REPORT_FIELDS, budget_fields

if TYPE_CHECKING:
    from fit.allocation.scaling_law import ScalingLaw
    from fit.query.documents import Answer
    from fit.query.question import Question

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
POSITIVE = click.FloatRange(0, min_open=True)
NATURAL = click.IntRange(0)
Command = TypeVar("Command", bound=Callable[..., Any])
LEDGER = Path("reports/ledger")
"""Folder of sealed forecasts."""


class NameType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """One of the keys of a table, whose module is only imported when a value is checked."""

    name = "name"

    def __init__(self, home: str) -> None:
        """Take `module:TABLE`, such as `fit.laws.families:LAWS`."""
        self.module, self.table = home.split(":")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name if the table has it."""
        names = list(getattr(import_module(self.module), self.table))
        if value not in names:
            self.fail(f"'{value}' is not known; choose one of {', '.join(names)}.", param, ctx)
        return value


class AmountType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
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


class AssignmentType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """`left=right`, neither side empty."""

    name = "assignment"

    def __init__(self, example: str) -> None:
        self.example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text as it is."""
        left, sign, right = str(value).partition("=")
        if not (left.strip() and sign and right.strip()):
            text = f"'{value}' is no assignment; NAME=VALUE is needed, such as {self.example}."
            self.fail(text, param, ctx)
        return value


class BudgetType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A budget as people write it, checked and left as text: 1e21, 8 h100 for 3 days."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text."""
        try:
            budget_fields(value, {})
        except FieldError as error:
            self.fail(str(error), param, ctx)
        return value


def count_type(what: str) -> AmountType:
    """A count of parameters or tokens."""
    return AmountType(what, parse_count)


def option_group(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator that adds several options, in the order in which --help lists them."""

    def add(command: Command) -> Command:
        for decorate in reversed(options):
            command = decorate(command)
        return command

    return add


def _column_type(column: str) -> AmountType:
    """A law's column: compute, or a count."""
    return AmountType(column, parse_flops if column == "flops" else parse_count)


def column_options(*columns: str) -> Callable[[Command], Command]:
    """Add an option for each column that a law may need beside params and tokens."""
    return option_group(
        *(
            click.option(option_name(c), c, type=_column_type(c), metavar="X", help=LAW_COLUMNS[c])
            for c in columns
        )
    )


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the JSON document and nothing else."
)
notes_option = click.option("--notes", "all_notes", is_flag=True, help="Print all notes.")
level_option = click.option(
    "--level", type=SHARE, default=0.9, show_default=True, help="Level of the intervals."
)
where_option = click.option(
    "--where", metavar="CONDITION", multiple=True,
    help='Runs to use, such as "depth == 2"; all must hold.',
)  # fmt: skip
table_options = option_group(
    where_option,
    click.option(
        "--column", type=AssignmentType("params=n_params"), multiple=True, metavar="OURS=YOURS",
        help="Our column from yours, a number or 'text'.",
    ),
    click.option(
        "--unit", type=AssignmentType("params=M"), multiple=True, metavar="OURS=UNIT",
        help="Unit: params=M, tokens=1e9, loss=ppl, bits, bpb.",
    ),
    click.option(
        "--wide", type=click.Choice(["params", "tokens"]),
        help="What columns named by numbers are values of.",
    ),
    click.option(
        "--keep-failed", is_flag=True,
        help="Keep failed runs that took their last step.",
    ),
)  # fmt: skip
"""Add the options that say how a table is read: --where, --column, --unit, --wide, --keep-failed.

`reading_of` gives them to `fit.data.readers.load`."""


skills_options = option_group(
    click.option(
        "--flops", type=BudgetType(), multiple=True, metavar="C",
        help="Budget of a forecast.  [largest, 10 times]",
    ),
    click.option(
        "--chance", type=AssignmentType("reasoning=0.125"), multiple=True, metavar="NAME=LEVEL",
        help="Known level of chance of a score.",
    ),
)  # fmt: skip
"""Add the options of forecasts of scores."""


def parse_chances(texts: tuple[str, ...]) -> dict[str, float]:
    """Levels of chance by score, from texts `NAME=LEVEL`.

    Raises:
        FitError: A level is no number from 0 to below 1.
    """
    from fit.errors import FitError

    levels = {}
    for text in texts:
        name, _, level = text.rpartition("=")
        try:
            levels[name] = float(level)
        except ValueError:
            levels[name] = -1.0
        if not 0 <= levels[name] < 1:
            raise FitError(f"--chance {text}; a number from 0 to below 1 is needed, as 0.125.")
    return levels


def reading_of(
    *, where: tuple[str, ...], column: tuple[str, ...], unit: tuple[str, ...], wide: str | None,
    keep_failed: bool,
) -> dict[str, Any]:  # fmt: skip
    """The options of `table_options` as arguments of `load`."""
    from fit.data.columns import parse_columns
    from fit.quantities import parse_units

    return {
        "where": where, "rename": parse_columns(column), "units": parse_units(unit), "wide": wide,
        "keep_failed": keep_failed,
    }  # fmt: skip


def interval_option(methods: str, about: str) -> Callable[[Command], Command]:
    """Add --interval, one of the keys of the table `module:TABLE`."""
    return click.option(
        "--interval", type=NameType(methods), default="hc3", show_default=True, help=about
    )


source_options = option_group(
    click.option(
        "--fit", "folder", type=click.Path(path_type=Path), metavar="NAME",
        help="A fit, NAME or reports/NAME.  [the newest, without --law]",
    ),
    click.option(
        "--law", type=NameType("fit.laws.published:PRESETS"), metavar="NAME",
        help="A published law; see: isoflop laws",
    ),
)  # fmt: skip
"""Add --fit and --law, of which at most one may be given."""


def question_options(command: Command) -> Command:
    """Add an option for each field of a question, as text that `read_question` parses."""
    for name, entry in reversed(list(FIELDS.items())):
        if not entry.metavar:
            add = click.option(
                option_name(name), name, is_flag=True, default=None, help=entry.about
            )
        elif name == "flops":
            add = click.argument(name, metavar="[FLOPS]", required=False)
        else:
            add = click.option(option_name(name), name, metavar=entry.metavar, help=entry.about)
        command = add(command)
    return command


def read_question(source: ScalingLaw, fields: Mapping[str, Any]) -> Question:
    """Parse the options of a question.

    Raises:
        UsageError: One is missing, one too many or cannot be read.
    """
    from fit.query.question import question

    try:
        return question(source, fields)
    except FieldError as error:
        raise click.UsageError(str(error)) from error


def launch_command(asked: Question, fields: Mapping[str, Any], source: Path | str) -> str:
    """The command that launches the run of an answer.

    Args:
        asked: The question.
        fields: Its fields as they were typed.
        source: Path of the fit, or name of the published law.
    """
    from fit.query.launch import launch_line

    words = [] if asked.flops is None else [f"{asked.flops:.12g}".replace("e+", "e")]
    if asked.flops is None and fields.get("flops"):
        words = [shlex.quote(fields["flops"])]
    words.append(
        f"--law {source}" if isinstance(source, str) else f"--fit {shlex.quote(str(source))}"
    )
    for name, value in fields.items():
        if value is not None and name not in ("flops", "force"):
            text = "" if value is True else f" {shlex.quote(str(value).strip())}"
            words.append(f"{option_name(name)}{text}")
    return launch_line(f"isoflop query {' '.join(words)}")


PRICE = AmountType("price", parse_price)
device_options = option_group(
    click.option("--device", metavar="NAME", help="a100, h100, ..., or its dense bf16 FLOP/s."),
    click.option(
        "--mfu", type=AmountType("mfu", parse_share), metavar="SHARE",
        help="Share of the peak reached.  [of the runs, or 0.4]",
    ),
    click.option(
        "--price", type=PRICE, metavar="$", help="Dollars per device-hour."
    ),
)  # fmt: skip
"""Add --device, --mfu and --price, the accounting of `fit.allocation.costs`."""


gate_options = option_group(
    click.option(
        "--worth", "least", type=POSITIVE, default=1.0, show_default=True, metavar="X",
        help="Least multiplier worth having.",
    ),
    click.option("--noise", type=POSITIVE, help="Of ln loss of one run.  [of the seeds]"),
    click.option(
        "--price", "prices", multiple=True, type=PRICE, metavar="$",
        help="Dollars per device-hour; twice: base, change.",
    ),
    level_option,
    table_options,
)  # fmt: skip
"""Add the options of `isoflop gate`; a command takes those of tables as `reading`."""


report_options = option_group(
    click.option(
        "--format", "form", type=NameType("fit.report.render:FORMATS"), default="pdf",
        show_default=True, help="pdf, html, md or tex.",
    ),
    click.option(
        "--out", type=click.Path(path_type=Path),
        help="Folder to write into.  [the fit's; reports/<FIT>]",
    ),
    click.option("--author", default="", metavar="NAME", help="Name under the title."),
    *(
        click.option(option_name(name), name, metavar=FIELDS[name].metavar, help=FIELDS[name].about)
        for name in REPORT_FIELDS
    ),
)  # fmt: skip
"""Add the options of `isoflop report`."""


fit_options = option_group(
    click.option(
        "--law", type=NameType("fit.laws.families:LAWS"), default="chinchilla",
        show_default=True, help="Law family.",
    ),
    click.option("--base", metavar="LAW|FIT", help="Law whose E, A, ... are fixed."),
    click.option(
        "--hold", type=AssignmentType("E=1.87"), multiple=True, metavar="NAME=VALUE",
        help="Keep a parameter fixed.",
    ),
    click.option(
        "--params", type=NameType("fit.data.accounting:PARAMS_CONVENTIONS"),
        show_default="matmul", help="How N of records is counted.",
    ),
    click.option(
        "--flops", type=NameType("fit.data.accounting:FLOPS_CONVENTIONS"),
        show_default="exact", help="How C of records is counted.",
    ),
    table_options,
    click.option("--heldout", metavar="SET", help="Fit the loss on this held-out set of records."),
    click.option(
        "--loss", type=NameType("fit.estimation.objective:LOSSES"), default="adaptive",
        show_default=True, help="Or huber, l2, l2-levels, student.",
    ),
    click.option("--delta", type=POSITIVE, help="Fixed threshold of the Huber loss."),
    interval_option("fit.inference.intervals:METHODS", "hc3, pairs, wild, bca, profile."),
    level_option,
    click.option(
        "--discrepancy", type=NameType("fit.fitting:DISCREPANCIES"), default="learned",
        show_default=True, help="none: answers by the law alone.",
    ),
    click.option(
        "--entropy", type=NameType("fit.fitting:ENTROPIES"), default="estimated",
        show_default=True, help="known: E as the data state it.",
    ),
    click.option(
        "--prior", multiple=True, metavar="FIT",
        help="Earlier fit of the same recipe to learn from.",
    ),
    click.option(
        "--resamples", metavar="R", type=NATURAL, default=4000, show_default=True,
        help="Draws of a bootstrap.",
    ),
    click.option("--cluster", metavar="COLUMN", help="Equal values: correlated errors."),
    click.option("--weight", metavar="COLUMN", help="Weights; loss_se: errors.  [weight]"),
    click.option(
        "--seed", metavar="S", type=NATURAL, default=0, show_default=True, help="Of the draws."
    ),
)  # fmt: skip
"""Add the options of `isoflop fit`; docs/method.md explains the methods."""


output_options = option_group(
    click.option(
        "--config", is_flag=True, help="Print the overrides that launch the run, for xargs."
    ),
    click.option(
        "--export", "trainer", type=NameType("fit.query.exports:TARGETS"),
        metavar="TRAINER", help="Print the run for nanogpt, nanochat, litgpt or hf.",
    ),
    click.option(
        "--seal", "sealed", metavar="NAME", help="Store the forecast: isoflop score."
    ),
)  # fmt: skip
"""Add --config, --export and --seal, of which the first two replace the table."""


suggest_options = option_group(
    click.option("--flops", required=True, metavar="C", help="Budget of interest."),
    click.option("--spend", required=True, metavar="C2", help="FLOP of all the runs."),
    click.option("--law", metavar="NAME", help="A published law instead of a fit."),
    click.option(
        "--runs", "most_runs", metavar="M", type=click.IntRange(1, 200), default=24,
        show_default=True, help="Most runs.",
    ),
    click.option(
        "--replicates", metavar="R", type=click.IntRange(1, 10), default=3, show_default=True,
        help="Most runs of one size and length.",
    ),
    click.option(
        "--max-run", metavar="C", help="Most FLOP of one run.  [a quarter of the spend]"
    ),
    click.option("--min-run", metavar="C", help="Least FLOP of one run."),
    click.option("--ratio", metavar="LOW:HIGH", help="Tokens per parameter.  [as fitted]"),
    click.option(
        "--params", metavar="LOW:HIGH", help="Sizes.  [from the smallest fitted]"
    ),
    click.option(
        "--tokens", metavar="LOW:HIGH", help="Lengths.  [from the shortest fitted]"
    ),
    click.option("--widths", metavar="W,W,...", help="Widths allowed.  [the ladder's]"),
    click.option(
        "--noise", type=click.FloatRange(0, 1, min_open=True),
        help="Standard deviation of ln loss of one run.",
    ),
    click.option(
        "--out", type=click.Path(path_type=Path), help="Folder of the plan."
    ),
)  # fmt: skip
"""Add the options of `isoflop suggest`; `design.candidates` reads those that are text."""


def check_output_options(*, config: bool, trainer: str | None, as_json: bool) -> None:
    """Check that at most one of the options that print is given.

    Raises:
        UsageError: Two are given.
    """
    if config and as_json:
        raise click.UsageError("give --config or --json, not both: the JSON has the overrides too.")
    if trainer and (config or as_json):
        raise click.UsageError("give --export, --config or --json, one of them.")


def launch_text(asked: Question, reply: Answer, trainer: str | None) -> str:
    """The overrides that launch an answer in one line, or its export for another trainer.

    Raises:
        QueryError: The answer may not be launched, see `fit.query.launch.launch_refusal`.
    """
    if reply.launch_refusal is not None:
        raise QueryError(reply.launch_refusal)
    if trainer is None:
        return " ".join(shlex.quote(c) for c in reply.config)
    from fit.query.exports import export

    assert asked.source.fit is not None
    return export(reply, asked.source.fit, trainer)


def seal_answer(name: str | None, asked: Question, reply: Answer) -> str:
    """Seal an answer as a forecast if a name is given; the line that says where."""
    if name is None:
        return ""
    from fit.forecasts.ledger import seal
    from fit.results import NATS_PER_TOKEN, loss_unit

    if loss_unit(reply.convention) != NATS_PER_TOKEN:
        raise QueryError(
            f"forecasts are scored in {NATS_PER_TOKEN}, and this law predicts "
            f"{loss_unit(reply.convention)}. Fit losses in nats to seal one."
        )
    forecast = seal(LEDGER, name, asked, reply)
    return f"sealed   {LEDGER / name}.json ({forecast.hash[:19]})"
