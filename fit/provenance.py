"""What a number depends on beside its inputs."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed version of each library; those that are absent are left out."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
