"""`python -m fit` is the command `isoflop`.

With `ISOFLOP_WORKER_BYTES` in the environment the process may take that much memory and no more:
the
service fits uploaded tables in such workers, since a small file may unfold into many gigabytes.
"""

import os
import sys

from fit.cli.main import main

MEMORY_LIMIT = "ISOFLOP_WORKER_BYTES"


def limit_memory(limit_bytes: int) -> None:
    """Refuse memory beyond a limit [bytes], where the platform can."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run() -> None:
    """Run `isoflop`; a table that needs too much memory is one line and exit code 1."""
    limit = os.environ.get(MEMORY_LIMIT)
    if limit is None:
        main(prog_name="isoflop")
        return
    limit_memory(int(limit))
    try:
        main(prog_name="isoflop")
    except MemoryError:
        print(f"isoflop: the table needs more than {int(limit) >> 30} GiB.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
