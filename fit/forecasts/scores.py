"""Forecasts of the scores of a run, sealed and scored beside that of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fit.allocation.scaling_law import ScalingLaw, fit_of
from fit.data.records import RunRecord
from fit.data.table import score_columns


def sealed_scores(source: ScalingLaw, params: float, tokens: float) -> dict[str, dict[str, float]]:
    """Forecast of every score of one run, by name; empty where the fitted runs have none.

    Args:
        source: A fit.
        params: N in its convention [parameters].
        tokens: D [tokens].
    """
    if not score_columns(fit_of(source).points.columns):
        return {}
    from fit.scores.law import places_of, score_laws  # needs scipy, which a query does without

    place = places_of(source, np.array([params]), np.array([tokens]))
    found = {}
    for law in score_laws(source)[0]:
        (value,), (low,), (high,) = law.intervals(place, next_run=True).tolist()
        found[law.name] = {"value": value, "low": low, "high": high, "level": law.level}
    return found


def score_outcomes(
    sealed: Mapping[str, Mapping[str, float]], record: RunRecord
) -> dict[str, dict[str, Any]]:
    """Measured scores against the sealed ones, by name; those that the run does not have are out.

    Returns:
        `measured`, its standard error, the error in points (measured less forecast, times 100), and
        whether the measured score is inside the interval.
    """
    scores = record.scores or {}
    outcomes = {}
    for name in sealed.keys() & scores.keys():
        measured, forecast = float(scores[name]["accuracy"] or 0.0), sealed[name]
        outcomes[name] = {
            "measured": measured,
            "measured_se": scores[name].get("accuracy_se"),
            "points": 100 * (measured - forecast["value"]),
            "hit": forecast["low"] <= measured <= forecast["high"],
        }
    return dict(sorted(outcomes.items()))
