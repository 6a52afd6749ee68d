"""What the intervals of a fit are made from: covariance, draws, and moves, by the method asked for.

`derived` makes every interval from these, at once for the parameters and later for any answer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fit.errors import FitError
from fit.estimate import Estimate
from fit.misfit import Misfit, shifted, widened
from fit.record import Floats
from fit.surface import FAMILIES
from fit.uncertainty import Sandwich, bootstrap, clusters, left_out, sandwich
from fit.wild import wild_bootstrap

FROM_DRAWS = ("pairs", "wild", "bca")
DRAWS_IN_TAILS = 20
"""Draws that must lie outside an interval made of percentiles, both tails together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How intervals are made."""

    interval: str
    """One of `derived.METHODS`."""
    level: float
    resamples: int
    seed: int

    def check(self, law: str) -> None:
        """Refuse what cannot be.

        Raises:
            FitError: Too few resamples for percentiles at this level, or no profile for the law.
        """
        least = int(np.ceil(DRAWS_IN_TAILS / (1 - self.level) - 1e-6))
        if self.interval in FROM_DRAWS and self.resamples < least:
            raise FitError(
                f"interval '{self.interval}' at level {self.level:g} needs {least} resamples; "
                f"found {self.resamples}. Ask for more: --resamples {least}."
            )
        if self.interval == "profile" and law not in FAMILIES:
            raise FitError(
                f"interval 'profile' is made for {', '.join(FAMILIES)}, not for '{law}'. "
                "Use hc3, pairs, wild or bca."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How uncertain the estimate is, in (ln E, ln A, ln B, alpha, beta) on raw counts."""

    sandwich: Sandwich
    draws: Floats
    """(resamples, p) parameters on raw counts: wild for `wild`, else pairs."""
    moves: Floats
    """(groups, p): moves of the estimate without each cluster; for `bca` alone, else (0, p)."""


def spread(found: Estimate, codes: NDArray[np.int64], method: Method) -> Spread:
    """What a method needs.

    Args:
        found: The point fit.
        codes: Cluster of each run, (n,).
        method: How intervals are made.

    Raises:
        FitError: They are to come from draws, and one cluster leaves nothing to draw.
    """
    made = sandwich(found, codes, method.level)
    several = len(np.unique(codes)) > 1
    if method.interval in FROM_DRAWS and not several:
        raise FitError(
            f"interval '{method.interval}' needs runs of at least two clusters; found one. Use hc3."
        )
    draws = moves = np.empty((0, len(found.theta)))
    if method.resamples and several:
        draws = _draws(found, codes, method, made)
    if method.interval == "bca":
        moves = left_out(found, clusters(codes))
    return Spread(sandwich=made, draws=draws, moves=moves)


def _draws(found: Estimate, codes: NDArray[np.int64], method: Method, made: Sandwich) -> Floats:
    """Wild draws stretched to Student's reference, or pairs."""
    if method.interval != "wild":
        return bootstrap(found, codes, method.resamples, method.seed)
    stretch = made.quantile / float(stats.norm.ppf(0.5 + method.level / 2))
    return wild_bootstrap(found, codes, method.resamples, method.seed, stretch)


def widen(made: Spread, misfit: Misfit | None, seed: int) -> Spread:
    """The same with the misfit's direction added to the covariance, the draws and the moves."""
    if misfit is None:
        return made
    moves = made.moves
    if len(moves):  # a pair of opposite moves adds its square to the variance and no skewness
        half = misfit.shift / np.sqrt(2)
        moves = np.concatenate([moves, [half, -half]])
    return dataclasses.replace(
        made,
        sandwich=widened(made.sandwich, misfit),
        draws=shifted(made.draws, misfit, seed),
        moves=moves,
    )
