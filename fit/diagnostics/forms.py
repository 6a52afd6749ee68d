"""A small league of forms: how well each predicts the costly runs of a sweep from the cheap ones.

The forms differ little within the runs and much beyond them. So every form that takes params and
tokens alone is fitted to the runs below a cut in compute and predicts those above it, as the
forecast is (`inference.forecast`), and says what it expects at a budget beyond all runs. The spread
of those answers is what the choice of the form is worth, which no form's own interval has in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import ScalingError
from fit.estimation.general import fit_problem
from fit.estimation.solver import estimate
from fit.estimation.weights import weights_of
from fit.inference.forecast import LEAST_BELOW, Runs, cuts, posterior_of
from fit.inference.intervals import offset
from fit.inference.profile import axes_of, slopes_along
from fit.laws.families import law
from fit.laws.law import Law
from fit.laws.published import preset
from fit.results import Fit

FORMS = ("chinchilla", "outer", "kaplan")
"""Laws of params and tokens that stand beside the forecast; with more parameters the cheap runs of
a sweep do not determine them."""
BEATEN = 2.0
"""A form is set aside whose rolled error is this many times the least."""
FORECAST_NAME = "forecast"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormScore:
    """How one form did on the costly runs of a sweep, and what it says beyond them."""

    name: str
    formula: str
    errors: tuple[float, ...]
    """For each cut its prediction error of ln loss, root mean square; NaN where it has no fit."""
    loss: float
    """Expected at the budget and split asked for."""

    @property
    def error(self) -> float:
        """Root mean square over the cuts."""
        return float(np.sqrt(np.mean(np.square(self.errors))))


def league_of_forms(fit: Fit, params: float, tokens: float) -> tuple[FormScore, ...]:
    """Every form's rolled errors and its loss at a point, the best first.

    Args:
        fit: A fit with a forecast.
        params: N of a point beyond the runs.
        tokens: D of that point.

    Returns:
        Empty where the cheaper runs cannot carry a forecast at any cut.
    """
    table = table_of(fit)
    parts = [
        (table.take(below), table.take(ahead))
        for below, ahead in cuts(np.log(table.flops))
        if Runs.of(table.take(below)).enough(LEAST_BELOW) and ahead.sum() >= 2
    ]
    if not parts:
        return ()
    point = np.array([params]), np.array([tokens])
    scores = [
        FormScore(
            name=FORECAST_NAME,
            formula="the wider law, cheap runs counting less",
            errors=tuple(
                _rms(left, _forecast(kept, left.params, left.tokens)) for kept, left in parts
            ),
            loss=float(np.exp(_forecast(table, *point)[0])),
        )
    ]
    for name in FORMS:
        family = law(name)
        errors = (_rms(left, _form(family, kept, left.params, left.tokens)) for kept, left in parts)
        scores.append(
            FormScore(
                name=name,
                formula=family.formula,
                errors=tuple(errors),
                loss=float(np.exp(_form(family, table, *point)[0])),
            )
        )
    return tuple(sorted(scores, key=lambda s: math.inf if math.isnan(s.error) else s.error))


def stands(score: FormScore, scores: Sequence[FormScore]) -> bool:
    """Whether a form predicts about as well as the best; the forecast, which answers, always."""
    return score.name == FORECAST_NAME or score.error <= BEATEN * min(s.error for s in scores)


def share_of_floor(source: ScalingLaw, flops: float) -> tuple[float, float, float]:
    """What E says of the loss at a budget: its weight in the variance, and the move of both ends.

    Returns:
        Share of the variance of ln L* at the budget that E accounts for, and by how much ln L* and
        ln N* move with an E one standard error higher, all else as it then is most likely.
    """
    inputs = source.uncertainty
    assert inputs is not None
    at = source.splits(np.array([flops]))

    def wanted(theta: Floats) -> Floats:
        best = at(theta)
        return np.stack([theta[:, 0], best.log_loss[:, 0], best.log_params[:, 0]], axis=-1)

    def logs(steps: Floats) -> Floats:
        out = wanted(offset(source.law.parameters, source.theta, steps))
        out[:, 0] = np.log(out[:, 0])
        return out

    slopes = slopes_along(logs, axes_of(inputs.covariance))
    covariance = slopes.T @ slopes
    step = covariance[0] / np.sqrt(covariance[0, 0])
    return float(step[1] ** 2 / covariance[1, 1]), float(step[1]), float(step[2])


def table_of(fit: Fit) -> RunTable:
    """The fitted runs as a table."""
    points = fit.points
    clusters = np.unique(points.cluster, return_inverse=True)[1]
    return RunTable(
        run=points.run, params=points.params, tokens=points.tokens, flops=points.flops,
        loss=points.loss, cluster=clusters.astype(np.int64), columns=dict(points.columns),
    )  # fmt: skip


def fitted_form(family: Law, table: RunTable) -> Floats:
    """Parameters of a form, on raw counts.

    Two are followed from one point in place of a search, which takes 6 times as long and ended in
    the same minimum in 218 of 218 fits to public sweeps, whole and below their cuts (docs/log.md).
    """
    near = None
    if family.name == "outer":
        near = np.append(fitted_form(law("chinchilla"), table), family.null["k"][0])
    elif family.name == "kaplan":
        near = np.array([preset("kaplan2020").theta[n] for n in family.parameters])
    weights = weights_of(table)
    return estimate(fit_problem(table, family), law=family.name, weights=weights, near=near).raw


def _forecast(table: RunTable, params: Floats, tokens: Floats) -> Floats:
    """The ln loss that the forecast from a table expects of runs, (k,)."""
    found = posterior_of(Runs.of(table))
    if found is None:
        return np.full(len(params), np.nan)
    return found.predict(np.log(params), np.log(tokens))[0]


def _form(family: Law, table: RunTable, params: Floats, tokens: Floats) -> Floats:
    """The ln loss that a law fitted to a table expects of runs, (k,)."""
    try:
        return np.asarray(np.log(family.loss(fitted_form(family, table), params, tokens)))
    except ScalingError:
        return np.full(len(params), np.nan)


def _rms(left: RunTable, expected: Floats) -> float:
    """Prediction error of ln loss, root mean square."""
    return float(np.sqrt(np.mean((np.log(left.loss) - expected) ** 2)))
