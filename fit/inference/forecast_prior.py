"""The prior of a forecast: where the parameters of shape lie in public sweeps or earlier fits.

It is Student's, so that runs of another kind move it away (docs/league.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError
from fit.results import Fit, ForecastLaw

SHAPES = 8
"""Parameters that the runs inform: ln E, ln A, ln alpha, ln B, ln beta, ln k, g_N, g_D."""
BEYOND = slice(5, SHAPES)
"""Those by which the wider law differs from the two-term law, where they are zero."""
ORDER = [0, 1, 3, 2, 4, 5, 6, 7]
"""Where FORECAST has them; it is its own inverse."""
CENTRE = np.array([math.log(0.65), 0.0, math.log(0.45), 0.0, math.log(0.45), -0.5, 0.0, 0.0])
"""Middle of the prior; that of ln E counts from the ln of the least loss."""
SPREAD = np.array([0.2, 1e3, 0.25, 1e3, 0.25, 0.3, 0.01, 0.01])
"""Its spread: nothing is said of A and B."""
HELD = np.array([0.05, 0.01, 0.01])
"""Spread at zero that a two-term law of weight one half gives the parameters `BEYOND`."""
PRIOR_DOF = 8.0
"""Of the prior's Student's t."""
RELATED = 0.35
"""By how much sweeps of one recipe differ, as a share of `SPREAD` (docs/league.md)."""
KNOWN_ENTROPY = 0.003
"""Spread of ln E about an entropy that is known: of what a form can miss."""
FREE = 100.0
"""A spread beyond which a parameter has no prior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Where the parameters of shape are expected, in the order of `SHAPES`; both (8,)."""

    centre: Floats
    """That of ln E counts from the ln of the least loss."""
    spread: Floats

    def drawn_to_two_terms(self, weight: float) -> Prior:
        """The prior where the two-term law has a weight, from 0 to below 1."""
        if weight == 0:
            return self
        centre, spread = self.centre.copy(), self.spread.copy()
        precision = spread[BEYOND] ** -2 + weight / (1 - weight) / HELD**2
        centre[BEYOND] *= spread[BEYOND] ** -2 / precision
        spread[BEYOND] = precision**-0.5
        return Prior(centre=centre, spread=spread)

    def log_density_of_two_terms(self) -> float:
        """The ln of the density of the parameters `BEYOND` at zero."""
        spread, off = self.spread[BEYOND], self.centre[BEYOND] / self.spread[BEYOND]
        one = math.lgamma((PRIOR_DOF + 1) / 2) - math.lgamma(PRIOR_DOF / 2)
        one -= 0.5 * math.log(PRIOR_DOF * math.pi)
        fall = 0.5 * (PRIOR_DOF + 1) * np.log1p(off**2 / PRIOR_DOF)
        return float((one - fall - np.log(spread)).sum())

    def document(self) -> dict[str, tuple[float, ...]]:
        """Its fields as a document has them."""
        return {n: tuple(getattr(self, n).tolist()) for n in ("centre", "spread")}


POPULATION = Prior(centre=CENTRE, spread=SPREAD)


def prior_beside(earlier: Sequence[Fit], table: RunTable) -> Prior:
    """The population, moved to and narrowed about a user's earlier forecasts.

    Each counts by its own precision and by how much sweeps of one recipe differ.

    Args:
        earlier: Fits of related sweeps.
        table: The runs that are to be fitted.

    Raises:
        FitError: An earlier fit has no forecast, or has runs that are fitted now.
    """
    if not earlier:
        return POPULATION
    weight, total = SPREAD**-2, CENTRE * SPREAD**-2
    related = (RELATED * SPREAD) ** 2
    now = set(zip(table.params, table.tokens, table.loss, strict=True))
    for fit in earlier:
        points, ahead = fit.points, fit.forecast
        if ahead is None:
            raise FitError(
                f"--prior {fit.name}: that fit has no forecast, so that nothing can be taken from "
                "it. Fit its runs again without --law, --interval, --hold and --discrepancy."
            )
        if twice := now & set(zip(points.params, points.tokens, points.loss, strict=True)):
            raise FitError(
                f"--prior {fit.name}: {len(twice)} of its runs are among those to be fitted, and "
                "would count twice. Give a fit of other runs."
            )
        place, slopes = _shapes(ahead)
        place = place - np.eye(SHAPES)[0] * math.log(points.loss.min())
        own = np.diag(ahead.covariance)[:SHAPES][ORDER] / slopes**2
        weight, total = weight + 1 / (own + related), total + place / (own + related)
    free = SPREAD > FREE  # nothing is carried over of what has no prior
    return Prior(
        centre=np.where(free, CENTRE, total / weight),
        spread=np.where(free, SPREAD, np.sqrt(related + 1 / weight)),
    )


def with_known_entropy(prior: Prior, table: RunTable) -> Prior:
    """The prior with E at the entropy that the data state.

    Raises:
        FitError: The data of the runs do not state one.
    """
    entropy = None if table.data is None else table.data.entropy
    if entropy is None:
        raise FitError(
            "--entropy known needs runs whose data state their entropy, as those of data=stories "
            "do. Leave it out."
        )
    centre, spread = prior.centre.copy(), prior.spread.copy()
    centre[0], spread[0] = math.log(entropy / table.loss.min()), KNOWN_ENTROPY
    return Prior(centre=centre, spread=spread)


def _shapes(ahead: ForecastLaw) -> tuple[Floats, Floats]:
    """Parameters of a forecast in the order of `SHAPES`, and d theta / d of each; (8,) each."""
    theta = np.array(list(ahead.theta.values()))[ORDER]
    logged = np.arange(SHAPES) < SHAPES - 2  # all but the bends
    place = np.where(logged, np.log(np.where(logged, theta, 1.0)), theta)
    slopes = np.ones(SHAPES)
    slopes[[2, 4, 5]] = theta[[2, 4, 5]]  # the covariance has alpha, beta and k themselves
    return place, slopes


def prior_precision(ahead: ForecastLaw, least_loss: float) -> Floats:
    """What is known of a forecast's parameters beside its runs, in the order of its law, (10,).

    Args:
        ahead: The forecast.
        least_loss: Of its runs.
    """
    place, slopes = _shapes(ahead)
    prior = POPULATION if ahead.prior is None else Prior(**_arrays(ahead.prior))
    prior = prior.drawn_to_two_terms(ahead.two_terms)
    off = place - prior.centre - np.eye(SHAPES)[0] * math.log(least_loss)
    precision = (PRIOR_DOF + 1) / (PRIOR_DOF + (off / prior.spread) ** 2) / prior.spread**2
    return np.concatenate([(precision / slopes**2)[ORDER], 1 / np.diag(ahead.covariance)[SHAPES:]])


def _arrays(prior: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """The fields of a prior as a document has them."""
    return {name: np.array(values) for name, values in prior.items()}
