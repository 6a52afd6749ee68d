"""The command line in a process of its own whose memory is bounded: for tables of strangers.

A small file may unfold into many gigabytes; here that is one line on stderr and exit code 1.
"""

from __future__ import annotations

import sys

MEMORY_BYTES = 4 << 30
"""Address space of one worker: a fit of 100,000 rows takes a quarter of it."""


def bounded() -> None:
    """Refuse memory beyond the bound, where the platform can."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def work() -> None:
    """Run `isoflop` with this process's arguments."""
    bounded()
    from fit.cli import main

    try:
        main()
    except MemoryError:
        print(f"isoflop: the table needs more than {MEMORY_BYTES >> 30} GiB.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    work()
