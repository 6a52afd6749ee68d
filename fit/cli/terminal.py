"""Commands as a terminal shows them: colour, progress on stderr, --help, and errors of one line.

Colour and progress appear on a terminal alone; NO_COLOR turns colour off. Nothing of it changes the
text, so that what is piped or redirected is plain.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import IO, Any

import click

from fit.errors import RefusedError, ScalingError
from fit.quantities import duration

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""
PATIENCE = 2.0
"""Seconds that a command may take before it says what it does."""
REDRAW = 0.25
WIDTH = 80
COLOURS = {
    "TRUST": "green", "CAREFUL": "yellow", "REFUSE": "red",
    "serious": "red", "warning": "yellow", "info": "cyan",
    "failed:": "red", "diverged:": "red", "unreadable:": "red",
}  # fmt: skip
_COLOURED = re.compile(
    r"^(  verdict +)(TRUST|CAREFUL|REFUSE)\b|^(  |)(serious|warning|info)(?= {2,}\S)"
    r"|^()(failed:|diverged:|unreadable:)",
    re.MULTILINE,
)
_CODE = re.compile(r"\[[a-z_]+\]$", re.MULTILINE)
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "Ask": "query predict compare laws",
        "Fit and judge": "fit report runs tuning skills gate score explain",
        "Plan and train": "suggest plan sweep rehearse",
        "Bring runs in": "import fetch",
        "Serve, and check the installation": "serve doctor",
    }
)
"""Headings of `isoflop --help` with their commands."""
RENAMED: Mapping[str, str] = MappingProxyType({"imports": "fetch"})
"""Commands by their former names."""
SECTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "query": {
            "Fit or law": "folder law",
            "Budget": "dollars hours deadline loss",
            "Devices": "device devices price mfu",
            "Limits": "params min_params max_params tokens max_tokens min_ratio max_ratio "
            "unique_tokens memory bytes_per_param serve_tokens",
            "Output": "regret all_notes config trainer sealed as_json force",
        },
        "predict": {
            "The model": "params tokens",
            "Fit or law": "folder law",
            "Further columns of a law": "width depth unique_tokens params_total params_embedding "
            "experts flops batch_tokens",
            "Output": "all_notes as_json force",
        },
        "fit": {
            "Law": "law base hold",
            "The runs": "where heldout params flops",
            "Tables": "column unit wide keep_failed",
            "Estimate": "loss delta weight prior entropy discrepancy",
            "Intervals": "interval level resamples cluster seed",
            "Output": "out no_report wandb as_json",
        },
        "gate": {
            "The change": "least noise prices level",
            "The runs": "where column unit wide keep_failed",
            "Output": "as_json",
        },
        "report": {
            "Form": "form out author wandb as_json",
            "Budget": "flops dollars hours deadline loss",
            "Devices": "device devices price mfu",
            "Limits": "params min_params max_params tokens max_tokens min_ratio max_ratio "
            "unique_tokens memory bytes_per_param serve_tokens",
        },
        "suggest": {
            "Budgets": "flops spend",
            "Law": "law",
            "The runs": "most_runs replicates max_run min_run ratio params tokens widths noise",
            "Devices": "device price mfu",
            "Output": "out as_json",
        },
    }
)
"""Sections of the options of commands that have many; of others all stand under Options."""
EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "query": (
            "isoflop query 1e21 --law besiroglu2024",
            "isoflop query '8 h100 for 3 days' --memory 8GB",
            "isoflop query '$5k on 4090' --max-tokens 10B",
            "isoflop query --loss 2.5 --unique-tokens 5B --notes",
        ),
        "predict": ("isoflop predict --params 7B --tokens 1.4T --law hoffmann2022",),
        "compare": (
            "isoflop compare reports/new reports/old --flops '10 PFLOP-days'",
            "isoflop compare besiroglu2024 hoffmann2022",
        ),
        "gate": (
            "isoflop gate runs/base runs/change",
            "isoflop gate runs/base runs/change --worth 1.05 --price '$2.50'",
            "isoflop gate base.csv change.csv --column params=N",
        ),
        "laws": ("isoflop laws", "isoflop laws --json"),
        "fit": (
            "isoflop fit runs/reference",
            "isoflop fit runs.csv --column params=N --unit params=M",
            "isoflop fit runs.csv --where 'loss < 5' --cluster run --no-report",
            "isoflop fit 'logs/*.csv' --column 'params=llama-{file}-*'",
        ),
        "report": (
            "isoflop report reports/reference",
            "isoflop report reports/reference --format html --device h100 --price '$2.50'",
            "isoflop report reports/reference --wandb scaling",
        ),
        "runs": ("isoflop runs runs/reference --csv runs.csv", "isoflop runs runs/mine --watch"),
        "tuning": ("isoflop tuning runs/lr", "isoflop tuning runs/batch --law batch"),
        "skills": ("isoflop skills runs/skills",),
        "score": ("isoflop score", "isoflop score mine --loss 2.31"),
        "explain": ("isoflop explain extrapolates", "isoflop explain which_data"),
        "suggest": (
            "isoflop suggest --flops 1e21 --spend '$500 on h100'",
            "isoflop suggest reports/mine --flops 1e20 --spend 1e18 --runs 12",
        ),
        "import": (
            "isoflop import export.csv --out runs.csv --column loss=val/loss",
            "isoflop import mlruns --out runs.csv --column params=n_params",
            "isoflop import 'logs/*.jsonl' --out runs.csv --wide tokens",
        ),
        "serve": (
            "isoflop serve --uploads keep",
            "isoflop serve reports/mine --port 9000",
            "isoflop serve --runs runs/mine",
        ),
        "doctor": ("isoflop doctor", "isoflop doctor --json"),
    }
)
"""Commands that --help shows at its end; a test parses them."""
COMPLETION = (
    'Completion in bash: eval "$(_ISOFLOP_COMPLETE=bash_source isoflop)"; in zsh and fish with '
    "zsh_source and fish_source."
)


def has_colour(stream: IO[Any]) -> bool:
    """Whether a stream is a terminal that may be coloured (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str) -> str:
    """Verdicts and severities of a text in colour; codes of notes dim."""

    def paint(match: re.Match[str]) -> str:
        before, word = (g for g in match.groups() if g is not None)
        return f"{before}{click.style(word, fg=COLOURS[word], bold=True)}"

    dim = _CODE.sub(lambda m: click.style(m[0], dim=True), text)
    return _COLOURED.sub(paint, dim)


def show(text: str) -> None:
    """Print a text for people, in colour where stdout can."""
    click.echo(coloured(text) if has_colour(sys.stdout) else text)


def print_document(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a document as JSON or as text."""
    click.echo(dumped(document)) if as_json else show(text)


def dumped(document: dict[str, Any]) -> str:
    """A document as indented JSON."""
    return json.dumps(document, indent=1, allow_nan=False)


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on stderr what a command does, and for how long, once it takes more than `PATIENCE`.

    What the library reports meanwhile (`fit.data.progress.report_stage`) stands in place of `what`.
    Where stderr is no terminal nothing is written.
    """
    stream = sys.stderr
    if not stream.isatty():
        yield
        return
    from fit.data.progress import stages_to  # imports numpy, and --help needs none

    stage, start, done = [what], time.monotonic(), threading.Event()

    def draw() -> None:
        if done.wait(PATIENCE):
            return
        while True:
            line = f"{stage[0]} ({duration(time.monotonic() - start)})"
            # The cursor goes back to the start of the line: what is printed next replaces it.
            stream.write(f"\x1b[2K{line[: WIDTH - 1]}\r")
            stream.flush()
            if done.wait(REDRAW):
                break
        stream.write("\x1b[2K\r")
        stream.flush()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        with stages_to(lambda text: stage.__setitem__(0, text)):
            yield
    finally:
        done.set()
        thread.join()


def write_commands(group: click.Group, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The commands of a group by heading, each with its whole summary."""
    for heading, names in GROUPS.items():
        rows = []
        for name in names.split():
            command = group.get_command(ctx, name)
            assert command is not None
            about = command.short_help or (command.help or "").split("\n\n")[0]
            rows.append((name, " ".join(about.split())))
        with formatter.section(heading):
            formatter.write_dl(rows)
    formatter.write("\n")
    formatter.write_text(COMPLETION)


def write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """The options of a command by section, then its examples."""
    options = (p for p in command.get_params(ctx) if isinstance(p, click.Option))
    rows = {p.name: r for p in options if (r := p.get_help_record(ctx))}
    for heading, names in SECTIONS.get(command.name or "", {}).items():
        with formatter.section(heading):
            formatter.write_dl([rows.pop(name) for name in names.split()])
    if rows:
        with formatter.section("Options"):
            formatter.write_dl(list(rows.values()))
    if examples := EXAMPLES.get(command.name or ""):
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class OneValueCommand(click.Command):
    """A command whose options are refused where a second value would replace the first.

    Its help lists them by section and ends with examples.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options."""
        write_options(self, ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            UsageError: An option that takes one value is given twice.
        """
        order = self.make_parser(ctx).parse_args(list(args))[2]
        for parameter in dict.fromkeys(order):
            single = isinstance(parameter, click.Option) and not (
                parameter.multiple or parameter.is_flag or parameter.count
            )
            if single and order.count(parameter) > 1:
                raise click.UsageError(
                    f"{parameter.opts[0]} is given {order.count(parameter)} times, and takes one "
                    "value. Leave one.", ctx
                )  # fmt: skip
        return super().parse_args(ctx, args)


class CommandGroup(click.Group):
    """A group in which a mistake of the user is one line on stderr, never a traceback."""

    command_class = OneValueCommand

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that has another name by now is named by it."""
        if args and args[0] in RENAMED:
            ctx.fail(f"'{args[0]}' is called '{RENAMED[args[0]]}' now.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for."""
        write_commands(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error or a full disk exits with 1, wrong usage with 2, Ctrl-C 130."""
        code = 1
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else ctx.command_path
            message, code = f"{error.format_message()} See: {command} --help", 2
        except RefusedError as error:
            message = f"{error}{' To see it all the same: --force.' if error.insistent else ''}"
        except ScalingError as error:
            message = str(error)
        except KeyboardInterrupt:
            message, code = "stopped by Ctrl-C.", INTERRUPTED
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has gone, as with `| head`: left to click
                raise
            message = f"{error}; free space and readable files are needed. Fix this and run again."
        click.echo(f"isoflop: {' '.join(message.split())}", err=True)
        ctx.exit(code)


class NumberCommand(OneValueCommand):
    """A command whose argument may be a negative number: -1 is a wrong budget, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; with a blank in front, a negative number stays an argument."""
        kept = [f" {a}" if re.match(r"-(\.?\d|inf|nan)", a) else a for a in args]
        return super().parse_args(ctx, kept)
