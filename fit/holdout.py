"""Fit the small, predict the large: the one test of a law that costs nothing extra."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fit.estimate import Estimate, estimate
from fit.isoflop import budgets
from fit.objective import Problem
from fit.record import Floats, RunTable
from fit.result import Holdout
from fit.uncertainty import sandwich

LEAST_RUNS = 6


def largest(flops: Floats) -> NDArray[np.bool_]:
    """The runs to hold out: those of the largest budget.

    Where runs stand in budgets (several runs at one compute) that is the last of them; on a grid of
    sizes and lengths, where hardly two runs share a budget, all within a factor 2 of the largest.
    """
    codes = budgets(flops)
    counts = np.bincount(codes)
    if np.median(counts) >= 3:
        return np.asarray(codes == codes.max())
    return np.asarray(flops > flops.max() / 2)


def holdout(
    table: RunTable, *, law: str, loss: str, delta: float | None, level: float
) -> Holdout | None:
    """Fit without the largest budget and predict it; None where too few runs would be left."""
    out = largest(table.flops)
    kept = table.take(~out)
    enough = len(np.unique(kept.params)) >= 3 and len(np.unique(kept.tokens)) >= 3
    if len(kept) < LEAST_RUNS + 1 or not enough:
        return None
    problem = Problem.of(kept.params, kept.tokens, kept.loss)
    small = estimate(problem, law=law, loss=loss, delta=delta)
    left = table.take(out)
    predicted, inside = _predict(small, kept.cluster, left, level)
    ratio = predicted / left.loss - 1
    return Holdout(
        budget=float(left.flops.min()),
        runs=left.run,
        predicted=tuple(predicted.tolist()),
        measured=tuple(left.loss.tolist()),
        mean_relative_error=float(ratio.mean()),
        max_relative_error=float(np.abs(ratio).max()),
        covered=float(inside.mean()),
    )


def _predict(
    small: Estimate, cluster: NDArray[np.int64], left: RunTable, level: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Loss of the runs left out, and whether it lies in its prediction interval."""
    problem = small.problem
    far = Problem(
        x=np.log(left.params) - problem.centre[0],
        z=np.log(left.tokens) - problem.centre[1],
        y=np.log(left.loss),
        centre=problem.centre,
    )
    # The covariance is of raw-count logarithms; map it back to the internal parameters.
    bread = sandwich(small, cluster, level)
    inverse = np.linalg.inv(problem.log_raw_jacobian())
    covariance = inverse @ bread.covariance @ inverse.T
    jacobian = far.jacobian(small.theta)
    variance = np.einsum("ni,ij,nj->n", jacobian, covariance, jacobian) + small.noise**2
    gap = far.residual(small.theta)
    inside = np.abs(gap) <= bread.quantile * np.sqrt(variance)
    return left.loss * np.exp(-gap), inside
