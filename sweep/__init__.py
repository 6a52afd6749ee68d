"""Sweeps of small transformers: every run leaves one record, failed runs included.

`python -m sweep` trains, `python -m sweep.plan` prices a sweep without training, `python -m
sweep.rehearse` trains a recommendation in small, and `python -m sweep.fetch` reads runs from W&B.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""
ROOT = Path(__file__).resolve().parents[1]
"""Folder of our packages: a checkout, or the site-packages of an installation."""


def search_working_folder_last() -> None:
    """Move the working folder to the end of `sys.path`.

    Modules of the user's that lie there can still be imported, but a user's `fit.py` or folder
    `conf` no longer hides our package of that name. In a checkout of this project the order stays.
    """
    folder = os.getcwd()
    if Path(folder).resolve() == ROOT:
        return
    while sys.path and sys.path[0] in ("", folder):
        del sys.path[0]
    for path in (str(ROOT), folder):
        if path not in sys.path:
            sys.path.append(path)


@contextmanager
def command_line(hint: str = "nothing was written") -> Iterator[None]:
    """What every command does around its work.

    A `ScalingError` is one line and exit code 1, and Ctrl-C one line and its own code. Where the
    reader of the output has gone, as `| head`, the command ends with 1 and without a word.

    Args:
        hint: What is said of the work where it was stopped.
    """
    search_working_folder_last()
    from fit.errors import ScalingError  # found now, whatever the working folder holds

    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except ScalingError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        stopped(hint)
    except BrokenPipeError:
        with suppress(
            OSError, ValueError
        ):  # what is left in the buffer must not be written at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def stopped(hint: str) -> NoReturn:
    """End after Ctrl-C: one line on stderr, and the exit code of an interrupted command."""
    print(f"stopped; {hint}", file=sys.stderr)
    sys.exit(INTERRUPTED)


# `python -m sweep.plan` puts the working folder first and imports this package before the module
# itself; as long as Python is still locating that module, its name in argv is "-m".
if sys.argv[:1] == ["-m"]:
    search_working_folder_last()
