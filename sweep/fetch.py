"""`python -m sweep.fetch`: make a table to be fitted from runs that were logged to W&B.

Runs come from W&B's servers or from the files that its offline mode leaves. This module stands
beside the trainer since `fit` never imports wandb; an exported run table needs no wandb and is read
by `isoflop import`.

An offline file `run-<id>.wandb` is a log of protocol buffers in LevelDB's format: blocks of 32 KiB,
in them chunks with a header of 7 bytes (checksum, length, kind). A record is one whole chunk, or a
first, some middle and a last one. A file that was cut short, as by a killed run, is read as far as
it goes.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from fit.cli.options import where_option
from fit.cli.terminal import OneValueCommand
from fit.data.columns import parse_columns
from fit.data.detection import FoundRuns, import_text
from fit.data.trackers import LoggedRun, build_table, skipped_lines, write_table
from fit.errors import RecordError
from fit.quantities import parse_units
from sweep import command_line, stopped

TIMEOUT_SECONDS = 30
Command = TypeVar("Command", bound=Callable[..., Any])
MAGIC = b":W&B"
FILE_HEADER = 7
BLOCK = 32768
CHUNK_HEADER = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Kinds of chunks: a whole record, or a part of one."""


class Commands(click.Group):
    """A group that Ctrl-C ends with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stopped("nothing was written")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Make a table of runs that were logged to W&B."""


def _table_options(command: Command) -> Command:
    """Add the options that every import takes."""
    for option in (
        click.option("--unit", "units", multiple=True, metavar="OURS=UNIT", help="As params=M."),
        click.option(
            "--column", "columns", multiple=True, metavar="OURS=KEY",
            help="Key of a column, as loss=val/loss or width=config.model.width.",
        ),
        where_option,
        click.option(
            "--keep-failed", is_flag=True,
            help="Take runs for done that failed at their planned last step.",
        ),
        click.option("--out", type=click.Path(path_type=Path), required=True, help=".csv, .jsonl"),
    ):  # fmt: skip
        command = option(command)
    return command


@commands.command("wandb", cls=OneValueCommand)
@click.argument("project", metavar="ENTITY/PROJECT")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE",
    help="Runs to take, as group=demo or config.lr=0.01; or W&B's own filter in JSON.",
)  # fmt: skip
@_table_options
def wandb_command(
    project: str,
    filters: tuple[str, ...],
    out: Path,
    columns: tuple[str, ...],
    units: tuple[str, ...],
    **selection: Any,
) -> None:
    """Fetch the runs of a project through W&B's public API."""
    save(fetch(project, parse_filters(filters)), out, columns, units, **selection)


@commands.command("offline", cls=OneValueCommand, short_help="Read offline runs below FOLDER.")
@click.argument("folder", type=click.Path(path_type=Path))
@_table_options
def offline_command(
    folder: Path, out: Path, columns: tuple[str, ...], units: tuple[str, ...], **selection: Any
) -> None:
    """Read the offline runs below FOLDER, as WANDB_MODE=offline leaves them."""
    save(offline(folder), out, columns, units, **selection)


def save(
    runs: Iterable[LoggedRun],
    out: Path,
    columns: tuple[str, ...],
    units: tuple[str, ...],
    **selection: Any,
) -> None:
    """Write the table and print what is in it; `selection` is `where` and `keep_failed`.

    Raises:
        RecordError: No run can be used, or the file cannot be written.
    """
    found = FoundRuns(kind="W&B", runs=list(runs))
    table = build_table(found.runs, parse_columns(columns), parse_units(units), **selection)
    write_table(out, table.rows)
    for line in skipped_lines(table):
        click.echo(line, err=True)
    click.echo(import_text(table, out, found))


def fetch(project: str, filters: Mapping[str, Any]) -> Iterator[LoggedRun]:
    """Runs of a project on W&B's servers.

    Args:
        project: `entity/project`.
        filters: In the form of W&B's API; an empty one takes all.

    Raises:
        RecordError: There is no key, no network or no such project.
    """
    if project.count("/") != 1 or not all(project.split("/")):
        raise RecordError(f"the project is '{project}'; ENTITY/PROJECT is needed. Name both.")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        for run in wandb.Api(timeout=TIMEOUT_SECONDS).runs(project, filters=dict(filters)):
            yield LoggedRun(
                name=run.name or run.id,
                source="/".join(run.path),
                state=run.state,
                config=dict(run.config),
                summary=dict(run.summary),
            )
    except (wandb.errors.Error, ValueError, TypeError, OSError) as error:
        raise RecordError(_describe_error(project, error)) from error


def offline(folder: Path) -> Iterator[LoggedRun]:
    """Offline runs below a folder, in order of their paths; links are not followed twice.

    Raises:
        RecordError: No such folder, or no such runs in it.
    """
    paths = sorted({p.resolve() for p in folder.rglob("run-*.wandb")})
    if not paths:
        raise RecordError(
            f"no offline runs below {folder}; a folder with wandb/offline-run-*/run-*.wandb is "
            "needed. Check the path."
        )
    return (read_wandb_file(p) for p in paths)


def _describe_error(project: str, error: Exception) -> str:
    """What went wrong with W&B's servers, and what to do about it."""
    message = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    text = message.lower()
    if "api key" in text or "log in" in text or "login" in text:
        return "no W&B key is configured; one is needed to fetch runs. Run: wandb login"
    if "could not find project" in text or "not found" in text:
        return f"W&B has no project {project}, or none that this key may see ({message}). Check it."
    if "credentials" in text or "permission" in text or "401" in text or "403" in text:
        return f"W&B could not check the key ({message}). Check the network, then: wandb login"
    return (
        f"W&B did not answer for {project} ({message}). Check the network; offline runs are read "
        "by: python -m sweep.fetch offline FOLDER"
    )


def parse_filters(texts: Iterable[str]) -> dict[str, Any]:
    """Parse filters: `key=value` with a value in JSON or plain text, or a whole filter in JSON.

    Raises:
        RecordError: A filter is neither.
    """
    filters: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if sign and key in filters:
            raise RecordError(f"--filter names {key} twice; one value is needed. Remove the other.")
        if text.lstrip().startswith("{"):
            try:
                filters |= json.loads(text)
            except (ValueError, RecursionError) as error:
                raise RecordError(f"--filter is no JSON: {error}. Correct it.") from error
        elif key and sign and value:
            try:
                filters[key] = json.loads(value)
            except (ValueError, RecursionError):
                filters[key] = value
        else:
            raise RecordError(f"--filter is '{text}'; KEY=VALUE is needed, such as group=demo.")
    return filters


def read_wandb_file(path: Path) -> LoggedRun:
    """Read one offline run: its config, and the summary with what was logged last.

    Raises:
        RecordError: The file is no offline run, or holds none.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    if data[: len(MAGIC)] != MAGIC:
        raise RecordError(f"{path} is no offline run of W&B; a file run-ID.wandb is needed.")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    run, exit_code = None, None
    for chunk in records(data):
        record = wandb_internal_pb2.Record()
        try:
            record.ParseFromString(chunk)
        except DecodeError:
            break
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            _update(config, record.run.config.update)
        elif kind == "config":
            _update(config, record.config.update)
        elif kind == "history":
            _update(summary, record.history.item)
        elif kind == "summary":
            _update(summary, record.summary.update)
        elif kind == "exit":
            exit_code = record.exit.exit_code
    if run is None:
        raise RecordError(f"{path} holds no run: it was cut off at its start. Leave it out.")
    ended = {None: "running", 0: "finished"}.get(exit_code, "failed")
    return LoggedRun(
        name=run.display_name or run.run_id,
        source=f"{run.project or 'offline'}/{run.run_id}",
        state=ended,
        config=config,
        summary=summary,
    )


def records(data: bytes) -> Iterator[bytes]:
    """The complete records of a log, up to a chunk that is cut short."""
    position, parts = FILE_HEADER, b""
    while position + CHUNK_HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER.size:
            position += left
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, position)
        start = position + CHUNK_HEADER.size
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or start + length > len(data):
            return
        body = data[start : start + length]
        parts = body if kind in (WHOLE, FIRST) else parts + body
        if kind in (WHOLE, LAST):
            yield parts
        position = start + length


def _update(target: MutableMapping[str, Any], items: Iterable[Any]) -> None:
    """Add items of a key, or a path of keys, and a value in JSON."""
    for item in items:
        keys = list(item.nested_key) or [item.key]
        try:
            target[".".join(keys)] = json.loads(item.value_json)
        except ValueError:
            target[".".join(keys)] = item.value_json


@command_line()
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.fetch") -> None:
    """Run the command.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in help and messages.
    """
    commands(None if arguments is None else list(arguments), prog_name=prog)


if __name__ == "__main__":
    main()
