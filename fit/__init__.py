"""Scaling-law fits: any table of runs in, an answer that can be trusted out.

    table = fit.load("runs/pilot")
    found = fit.fit(table)
    print(fit.query(found, 1e21).params)

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit.desk import fit
    from fit.errors import ScalingError
    from fit.query import Answer, Point, Question, predict, query
    from fit.result import Fit
    from fit.source import Source
    from fit.store import load, read_fit
    from fit.study import FitOptions

__all__ = [
    "Answer",
    "Fit",
    "FitOptions",
    "Point",
    "Question",
    "ScalingError",
    "Source",
    "fit",
    "load",
    "predict",
    "query",
    "read_fit",
]

_HOMES = {
    "Answer": "query",
    "Fit": "result",
    "FitOptions": "study",
    "Point": "query",
    "Question": "query",
    "ScalingError": "errors",
    "Source": "source",
    "fit": "desk",
    "load": "store",
    "predict": "query",
    "query": "query",
    "read_fit": "store",
}


def __getattr__(name: str) -> Any:
    """Load an exported name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fit' has no attribute '{name}'")
    return getattr(import_module(f"fit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The exported names."""
    return list(__all__)
