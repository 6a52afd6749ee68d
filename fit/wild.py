"""The wild cluster bootstrap: the runs stay, their residuals change sign, a cluster at a time.

Every run keeps its size and length, so a resample never loses a corner of the sweep, as pairs can.
Residuals are those of the law fitted without their own cluster: plain ones are too small, and the
draws from them as well. With least squares the draws' covariance is then that of HC3.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fit.estimate import Estimate, solve
from fit.objective import LN_E, Problem, value
from fit.record import Floats
from fit.uncertainty import BATCH, LEAST_BATCH, clusters, left_out

FEW_CLUSTERS = 12
"""Up to here Webb's six points, above two: 2^5 signs of 5 clusters are but 32 different draws."""
WEBB = np.sqrt([0.5, 1.0, 1.5])


def wild_bootstrap(
    found: Estimate, codes: NDArray[np.int64], resamples: int, seed: int, stretch: float = 1.0
) -> Floats:
    """Refit losses whose residuals are multiplied by random weights of mean 0 and variance 1.

    Args:
        found: The point fit; its loss and weights are kept.
        codes: Cluster of each run, (n,).
        resamples: How many.
        seed: Seed of the draws.
        stretch: Factor on all residuals: Student's over the normal quantile, so that percentiles
            of the draws have the small-sample reference.

    Returns:
        (resamples, 5) E, A, B, alpha, beta on raw counts.

    Source: Wu 1986; Webb 2013; MacKinnon & Webb 2017, sec. 3 (few clusters).
    """
    codes = clusters(codes)
    groups = int(codes.max()) + 1
    random = np.random.default_rng([seed, 2])
    shrink = np.sqrt((groups - 1) / groups)  # which `left_out` has already taken
    internal = left_out(found, codes) @ np.linalg.inv(found.problem.log_raw_jacobian()).T
    shifts = np.einsum("nj,nj->n", found.problem.jacobian(found.theta), internal[codes])
    outside = stretch * (shrink * found.residual + shifts)
    out = np.empty((resamples, len(found.theta)))
    size = max(LEAST_BATCH, BATCH // len(codes))
    for start in range(0, resamples, size):
        signs = _signs(random, min(size, resamples - start), groups)
        y = found.problem.y - found.residual + signs[:, codes] * outside
        problem = dataclasses.replace(found.problem, y=y)
        guess = found.theta + stretch * signs @ internal
        out[start : start + size] = _refit(found, problem, guess)
    raw = found.problem.raw(out)
    if found.family.without_e:
        raw[:, LN_E] = 0.0
    return raw


def _signs(random: np.random.Generator, count: int, groups: int) -> Floats:
    """Weights of the clusters, (count, groups)."""
    shape = (count, groups)
    signs = random.choice([-1.0, 1.0], size=shape)
    return signs if groups > FEW_CLUSTERS else signs * random.choice(WEBB, size=shape)


def _refit(found: Estimate, problem: Problem, guess: Floats) -> Floats:
    """The better minimum from the estimate and from the linear prediction, (S, 5)."""
    weights = np.broadcast_to(found.weights, problem.y.shape)
    near = solve(problem, guess, weights, found.loss, found.family)
    at_home = np.broadcast_to(found.theta, guess.shape)
    lower = np.flatnonzero(value(problem, at_home, weights, found.loss) < near.value)
    if len(lower):
        again = solve(
            problem.among(lower), at_home[lower], weights[lower], found.loss, found.family
        )
        better = again.value < near.value[lower]
        near.theta[lower[better]] = again.theta[better]
    return near.theta
