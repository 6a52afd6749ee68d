"""Intervals of quantities that follow from the law: N*, D*, a loss at a budget, whole curves.

The interval of a derived quantity is made by the method that made the law's own: from the sandwich
covariance by the delta method on the logarithm (`hc3`), else from percentiles of the resampled
thetas. One answer never mixes the two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fit.errors import QueryError
from fit.record import Floats
from fit.result import Fit

LogQuantity = Callable[[Floats], Floats]
"""Maps thetas (m, p) on raw counts to the ln of a quantity, (m, ...)."""

STEP = 1e-3
"""Central-difference step in standard errors: truncation and rounding both stay below 1e-6."""


def derived_interval(
    fit: Fit, log_quantity: LogQuantity, *, next_run: bool = False
) -> tuple[Floats, Floats]:
    """Interval of a quantity that is a function of the law's parameters.

    Args:
        fit: Fitted law.
        log_quantity: Maps thetas (m, p) to the ln of the quantity, (m, ...).
        next_run: Prediction interval of one further run: adds the runs' noise. Otherwise it is
            the confidence interval of the law itself.

    Returns:
        Low and high of the quantity (not of its ln), each of shape (...); 0 and infinite where the
        runs leave no degree of freedom.

    Raises:
        QueryError: The interval is to come from draws, and the fit has none.
    """
    centre = log_quantity(fit.vector()[None, :])[0]
    if fit.interval.method == "hc3":
        low, high = _delta_method(fit, log_quantity, centre)
    else:
        low, high = _percentiles(fit, log_quantity)
    if next_run:
        noise = _quantile(fit) * fit.noise
        low = centre - np.hypot(np.maximum(centre - low, 0), noise)
        high = centre + np.hypot(np.maximum(high - centre, 0), noise)
    return np.exp(low), np.exp(high)


def shifted(fit: Fit, offsets: Floats) -> Floats:
    """Thetas at offsets (m, p) in the coordinates of `fit.covariance`.

    Scales (E, A, B: names that begin with a capital) move by factors, exponents by sums.
    """
    theta = fit.vector()
    scale = np.array([name[0].isupper() for name in fit.parameters()])
    return np.where(scale, theta * np.exp(np.where(scale, offsets, 0.0)), theta + offsets)


def _delta_method(fit: Fit, log_quantity: LogQuantity, centre: Floats) -> tuple[Floats, Floats]:
    """Quantile times the standard error, by central differences along the covariance's axes.

    Stepping along the axes and not along the parameters keeps the thetas inside the valley in which
    A and alpha trade against each other, where the quantity is nearly linear.
    """
    axes = _axes(fit)
    if axes is None:
        return np.full_like(centre, -np.inf), np.full_like(centre, np.inf)
    ends = log_quantity(shifted(fit, STEP * np.concatenate([axes, -axes])))
    slopes = (ends[: len(axes)] - ends[len(axes) :]) / (2 * STEP)
    error = np.sqrt(np.sum(slopes**2, axis=0))
    half = np.where(error > 0, _quantile(fit) * np.maximum(error, 1e-300), 0.0)
    return centre - half, centre + half


def _axes(fit: Fit) -> Floats | None:
    """Standard errors along the covariance's axes, (p, p); None where it is not known.

    A scale at zero sits on its bound: it stays there, whatever its row says.
    """
    scale_at_zero = np.array([n[0].isupper() and v == 0 for n, v in fit.theta.items()])
    covariance = np.array(fit.covariance)
    covariance[scale_at_zero, :] = covariance[:, scale_at_zero] = 0.0
    if not np.isfinite(covariance).all():
        return None
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))).T)


def _quantile(fit: Fit) -> float:
    """The reference quantile; none, with no degree of freedom left, is infinite."""
    found = fit.interval.quantile
    return np.inf if found is None or np.isnan(found) else found


def _percentiles(fit: Fit, log_quantity: LogQuantity) -> tuple[Floats, Floats]:
    """Central percentiles over the draws; a draw without a value counts as unbounded above."""
    if not len(fit.draws):
        raise QueryError(
            f"the fit '{fit.name}' has intervals by {fit.interval.method} and no draws to make "
            "others from. Fit again with --resamples 4000."
        )
    values = np.nan_to_num(log_quantity(fit.draws), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    tail = (1 - fit.interval.level) / 2
    ends = np.quantile(values, [tail, 1 - tail], axis=0, method="closest_observation")
    return ends[0], ends[1]
