"""Scaling laws in Python: a table of training runs in, the best model of a budget out.

    import isoflop

    runs = {"params": [...], "tokens": [...], "loss": [...]}
    law = isoflop.fit(runs)                  # or a data frame, a path, a list of rows

    law                                      # the law and its verdict, in ten lines
    law.summary()                            # all of it, as `isoflop fit` prints it
    law.predict([1e8, 1e9], "20B").loss      # arrays, with .low and .high
    law.plot()                               # a figure of the report, or law.plot(ax=ax)
    law.to_frame()                           # the runs with their residuals
    law.save("reports/mine")                 # isoflop.read_fit("reports/mine") reads it

    best = isoflop.query(law, "1e21")        # or dollars=, loss=, max_params=, ...
    best.params.value, best.loss.low, best.verdict.verdict

What there is:

    fit           runs -> FittedLaw
    read_fit      a report folder -> FittedLaw
    load          a folder of run records or a table -> RunTable, for several fits
    query         a law and a budget -> Answer: N, D, loss, limits, cost, how to launch it
    predict       a law, N and D -> Prediction, with its warnings
    predict_many  the same for arrays -> Predictions
    record        leaves records of runs of a trainer of yours, which `fit` reads

A law is a `FittedLaw`, the path of its report folder, its name ("mine" is reports/mine), or the
name of a published one, such as "besiroglu2024". A loss is in nats per token, a number's `low` and
`high` are its 90% interval, and `verdict` says whether to believe it: trust, careful or refuse.

Every mistake in what is given to these functions raises a `ScalingError`, whose message says what
was found, what is needed and what to do. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit.allocation.scaling_law import ScalingLaw
    from fit.data.readers import load
    from fit.data.recording import record
    from fit.errors import ScalingError
    from fit.fitting import FitOptions
    from fit.interface import FittedLaw, fit, read_fit
    from fit.query.answer import predict, query
    from fit.query.documents import Answer, Number, Prediction
    from fit.query.predictions import Predictions, predict_many
    from fit.query.question import Question
    from fit.results import Fit

_MODULES = {
    "Answer": "fit.query.documents",
    "Fit": "fit.results",
    "FitOptions": "fit.fitting",
    "FittedLaw": "fit.interface",
    "Number": "fit.query.documents",
    "Prediction": "fit.query.documents",
    "Predictions": "fit.query.predictions",
    "Question": "fit.query.question",
    "ScalingError": "fit.errors",
    "ScalingLaw": "fit.allocation.scaling_law",
    "fit": "fit.interface",
    "load": "fit.data.readers",
    "predict": "fit.query.answer",
    "predict_many": "fit.query.predictions",
    "query": "fit.query.answer",
    "read_fit": "fit.interface",
    "record": "fit.data.recording",
}

__all__ = [
    "Answer",
    "Fit",
    "FitOptions",
    "FittedLaw",
    "Number",
    "Prediction",
    "Predictions",
    "Question",
    "ScalingError",
    "ScalingLaw",
    "fit",
    "load",
    "predict",
    "predict_many",
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
