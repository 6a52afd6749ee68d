"""How the command line meets its users: mistakes are one line, negative numbers are arguments."""

from __future__ import annotations

import errno
import re
from typing import Any

import click

from fit.errors import ScalingError


class Door(click.Group):
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
