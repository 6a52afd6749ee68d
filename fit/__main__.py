"""`python -m fit` is the command `isoflop`, and the worker of the service.

With `ISOFLOP_WORKER_BYTES` in the environment it is a worker. It may use that much memory and no
more, since a small uploaded table may unfold into many gigabytes. An error is one line of JSON on
stderr, {"message", "field"}, without the hints that people get on the command line. A worker alone
also takes `preview TABLE`, which prints how the table would be read.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import click

from fit.cli.main import main
from fit.errors import ScalingError

MEMORY_LIMIT = "ISOFLOP_WORKER_BYTES"


def limit_memory(limit_bytes: int) -> None:
    """Limit the address space of this process [bytes], if the platform can."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_worker(limit_bytes: int) -> None:
    """Run the command within a memory limit; an error is written as JSON, with exit code 1."""
    limit_memory(limit_bytes)
    try:
        if sys.argv[1:2] == ["preview"]:
            from fit.data.detection import preview

            print(json.dumps(preview(Path(sys.argv[2]))))
            return
        with main.make_context("isoflop", sys.argv[1:]) as context:
            click.Group.invoke(main, context)  # without the error messages of `CommandGroup`
    except MemoryError:
        _exit(_needs_memory(limit_bytes))
    except click.UsageError as error:
        parameter = getattr(error, "param", None)
        name = parameter.opts[0].lstrip("-") if isinstance(parameter, click.Option) else None
        _exit(error.format_message(), name)
    except ScalingError as error:
        _exit(str(error), getattr(error, "field", None))
    except OSError as error:  # without memory, opening a file or a folder fails with ENOMEM
        _exit(_needs_memory(limit_bytes) if error.errno == errno.ENOMEM else str(error))


def _needs_memory(limit_bytes: int) -> str:
    return f"the table needs more than {limit_bytes >> 30} GiB of memory."


def _exit(message: str, field: str | None = None) -> None:
    """End the process with an error."""
    print(json.dumps({"message": " ".join(message.split()), "field": field}), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    if MEMORY_LIMIT in os.environ:
        run_worker(int(os.environ[MEMORY_LIMIT]))
    else:
        main(prog_name="isoflop")
