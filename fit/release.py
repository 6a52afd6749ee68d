"""Version of the package while it is built: of the newest tag, or of the newest release.

The build loads this file by itself (`pyproject.toml`), so that it imports nothing of the package.
An installed package knows its version from its metadata.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

RELEASED = "0.1.0"
"""The newest release, as in CITATION.cff and CHANGELOG.md; a test compares them."""


def version(root: Path | None = None) -> str:
    """The version of a source tree.

    Args:
        root: The tree; None is that of this file.

    Returns:
        In an unpacked sdist what its PKG-INFO states; in a checkout that of a tag `v1.2.3`, or
        1.2.4.dev5 at five commits after it; `RELEASED` where there is neither.
    """
    root = root or Path(__file__).resolve().parents[1]
    try:
        stated = re.search(r"^Version: (\S+)$", (root / "PKG-INFO").read_text("utf-8"), re.M)
    except OSError:
        stated = None
    if stated:
        return stated[1]
    if not (root / ".git").exists():  # a copy may lie inside a checkout of another project
        return RELEASED
    command = ("git", "describe", "--tags", "--long", "--match", "v[0-9]*")
    try:
        described = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return RELEASED
    tag = re.fullmatch(r"v(\d+(?:\.\d+)*?)\.(\d+)-(\d+)-g\w+", described.stdout.strip())
    if tag is None:
        return RELEASED
    head, last, commits = tag[1], int(tag[2]), int(tag[3])
    return f"{head}.{last + 1}.dev{commits}" if commits else f"{head}.{last}"
