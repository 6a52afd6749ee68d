"""The newest state of an unfinished trajectory on disk, so that an interruption costs seconds.

A state holds the model, the optimiser, the position and the curve; inside a branch it also holds
the trunk's state at the branching point. Nothing else is needed: data are addressed by position and
the training itself draws no random numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fit.errors import RecordError


@dataclass(slots=True, kw_only=True)
class State:
    """Where a trajectory is."""

    position: int = 0
    """Tokens seen on the current path."""
    branch: int | None = None
    """Index of the branch that is cooling down; None on the trunk."""
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[float, ...]] = field(default_factory=list)
    seconds: float = 0.0
    """Training time behind this state."""
    losses: list[tuple[Any, int]] = field(default_factory=list)
    """Losses since the curve's last row, as tensors, with their rows."""
    trunk: State | None = None
    """The trunk where the branch left it."""


def save(path: Path, state: State) -> None:
    """Write a state beside its place, flush, rename.

    Raises:
        RecordError: The folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save(_to_dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write the checkpoint {path}: {error}. Free some space."
        ) from error


def load(path: Path) -> State | None:
    """Read a state; None where there is none or it cannot be read (the run then starts afresh)."""
    try:
        return _from_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        return None
    except Exception:  # a damaged archive raises whatever its first bad byte leads to
        return None


def _to_dict(state: State) -> dict[str, Any]:
    """Plain containers that `torch.load(weights_only=True)` accepts."""
    document = {name: getattr(state, name) for name in State.__slots__}
    document["trunk"] = None if state.trunk is None else _to_dict(state.trunk)
    return document


def _from_dict(document: dict[str, Any]) -> State:
    """Inverse of `_to_dict`."""
    trunk = document.pop("trunk")
    return State(**document, trunk=None if trunk is None else _from_dict(trunk))
