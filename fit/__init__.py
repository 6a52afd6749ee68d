"""Scaling-law fits: any table of runs in, an answer that can be trusted out.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit.errors import ScalingError
    from fit.query import Answer, Point, Question, answer, predict
    from fit.result import Fit
    from fit.source import Source
    from fit.store import load, read_fit
    from fit.study import FitOptions, fit_table

__all__ = [
    "Answer",
    "Fit",
    "FitOptions",
    "Point",
    "Question",
    "ScalingError",
    "Source",
    "answer",
    "fit_table",
    "load",
    "predict",
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
    "answer": "query",
    "fit_table": "study",
    "load": "store",
    "predict": "query",
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
