"""Trunks kept on request (`train.keep=trunk`), so that a longer run later costs only what is new.

    runs/<sweep>/.trunk-<hash>-<tokens>/    a checkpoint of the trunk at a position

The hash is that of everything that changes a trunk: shape, data, recipe, seed and the sources of
plug-ins, but no length. So a trunk serves every longer run of its recipe and no other. A folder
appears by rename, whole, once all runs of its trajectory have ended; a longer one replaces it.

Where the branches of a trunk are jobs of their own (`branch_jobs=true`), its states at the
branching points lie in the working folder of the trajectory until all its runs have ended.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = ".trunk-"
TRUNK = "trunk"
"""The part of a cell that is its trunk alone, `Config.part`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTrunk:
    """The state of a trunk on disk."""

    folder: Path
    tokens: int
    """Its position [tokens]."""


def trunk_folder(parent: Path, trunk: str, tokens: int) -> Path:
    """Folder of a trunk's state: in a sweep's folder, or in a working folder while runs train."""
    return parent / f"{PREFIX}{trunk}-{tokens}"


def kept_trunks(parent: Path, trunk: str) -> list[KeptTrunk]:
    """States of a trunk in a folder, by ascending position."""
    found = []
    for folder in parent.glob(f"{PREFIX}{trunk}-*"):
        with suppress(ValueError):
            found.append(KeptTrunk(folder=folder, tokens=int(folder.name.rpartition("-")[2])))
    return sorted(found, key=lambda kept: kept.tokens)


def is_kept(parent: Path, trunk: str, tokens: int) -> bool:
    """Whether a state of a trunk has been written, in whole or in shards."""
    return any(trunk_folder(parent, trunk, tokens).glob("[!.]*"))


def find_trunk(parent: Path, trunk: str) -> KeptTrunk | None:
    """The furthest state of a trunk in a sweep's folder; None where there is none."""
    return next(iter(kept_trunks(parent, trunk)[::-1]), None)


def install_trunk(work: Path, sweep: Path, trunk: str) -> None:
    """Move the state that a trajectory kept to its sweep's folder, and remove shorter ones."""
    for kept in kept_trunks(work, trunk):
        with suppress(OSError):  # another process has kept the same
            os.rename(kept.folder, sweep / kept.folder.name)
    for shorter in kept_trunks(sweep, trunk)[:-1]:
        shutil.rmtree(shorter.folder, ignore_errors=True)
