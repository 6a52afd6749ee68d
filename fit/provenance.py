"""What a number depends on beside its inputs: versions, the commit of the code, the time."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed version of each library; those that are absent are left out."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The present time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> str | None:
    """The commit of the code, `-dirty` where files differ; None unless this file is in a checkout.

    An installed copy may lie inside a checkout of something else.
    """
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{head}-dirty" if head and changes else head


def _git(*arguments: str) -> str | None:
    """What git says where this file lies; None where it refuses or is not there."""
    here = Path(__file__).resolve().parent
    try:
        out = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None
