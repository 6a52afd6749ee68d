"""Scaling-law fits in Python: a table of runs in, an answer with intervals out.

    import isoflop

    fit = isoflop.fit("runs/pilot")                # or a pandas DataFrame, or a list of run records
    answer = isoflop.query(fit, 1e21)
    print(answer.params, answer.tokens, answer.loss)

Runs of another trainer leave records that `isoflop fit` reads: see `isoflop.record`.

Names are loaded when they are first used, so that importing the module does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit.allocation.scaling_law import ScalingLaw
    from fit.data.readers import load
    from fit.data.recording import record
    from fit.errors import ScalingError
    from fit.fitting import FitOptions, fit
    from fit.query.answer import predict, query
    from fit.query.documents import Answer, Prediction
    from fit.query.question import Question
    from fit.results import Fit, read_fit

_MODULES = {
    "Answer": "fit.query.documents",
    "Fit": "fit.results",
    "FitOptions": "fit.fitting",
    "Prediction": "fit.query.documents",
    "Question": "fit.query.question",
    "ScalingError": "fit.errors",
    "ScalingLaw": "fit.allocation.scaling_law",
    "fit": "fit.fitting",
    "load": "fit.data.readers",
    "record": "fit.data.recording",
    "predict": "fit.query.answer",
    "query": "fit.query.answer",
    "read_fit": "fit.results",
}

__all__ = [
    "Answer",
    "Fit",
    "FitOptions",
    "Prediction",
    "Question",
    "ScalingError",
    "ScalingLaw",
    "fit",
    "load",
    "predict",
    "query",
    "read_fit",
    "record",
]


def __getattr__(name: str) -> Any:
    """Load an exported name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module 'isoflop' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The exported names."""
    return list(__all__)
