"""Fit the small, predict the large: the one test of a law that costs nothing extra."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fit.estimate import Estimate, estimate
from fit.isoflop import budgets
from fit.misfit import examine, widened
from fit.objective import Problem
from fit.record import Floats, RunTable
from fit.result import Holdout, Rolled
from fit.uncertainty import sandwich
from fit.weights import weights_of

LEAST_RUNS = 6
LEAST_BELOW = 10
"""Runs that the first of rolling predictions rests on: twice the law's parameters."""
MOST_ROLLED = 8
"""Budgets predicted one after the other, the largest."""


def largest(flops: Floats) -> NDArray[np.bool_]:
    """The runs to hold out: those of the largest budget.

    Where runs stand in budgets (several runs at one compute) that is the last of them; on a grid of
    sizes and lengths, where hardly two runs share a budget, all within a factor 2 of the largest.
    """
    codes = _steps(flops)
    return np.asarray(codes == codes.max())


def _steps(flops: Floats) -> NDArray[np.int64]:
    """Codes of budgets, ascending; of factors of 2 down from the largest, where there are none."""
    codes = budgets(flops)
    if np.median(np.bincount(codes)) >= 3:
        return codes
    halvings = np.floor(np.log2(flops.max() / flops)).astype(np.int64)
    return np.asarray(np.unique(-halvings, return_inverse=True)[1])


def holdout(
    table: RunTable,
    *,
    law: str,
    loss: str,
    delta: float | None,
    level: float,
    whole: Estimate | None = None,
) -> Holdout | None:
    """Fit without the largest budget and predict it; None where too few runs would be left.

    Args:
        table: The runs.
        law: Family, as in `estimate`.
        loss: Robust loss.
        delta: Huber's threshold.
        level: Of the prediction intervals.
        whole: The fit to all of them: a declared law is fitted again from there.
    """
    out = largest(table.flops)
    kept = table.take(~out)
    if not _enough(kept, max(LEAST_RUNS, _free(whole)) + 1):
        return None
    left = table.take(out)
    small = _fitted(kept, whole, law=law, loss=loss, delta=delta)
    predicted, inside = _predict(small, kept, left, level)
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


def rolling(
    table: RunTable,
    *,
    law: str,
    loss: str,
    delta: float | None,
    level: float,
    whole: Estimate | None = None,
) -> tuple[Rolled, ...]:
    """Predict each larger budget by the law fitted to all below it.

    Args:
        table: The runs.
        law: Family, as in `estimate`.
        loss: Robust loss.
        delta: Huber's threshold.
        level: Of the prediction intervals.
        whole: The fit to all of them.

    Returns:
        The last `MOST_ROLLED` budgets that enough runs lie below, ascending.
    """
    codes = _steps(table.flops)
    out: list[Rolled] = []
    for code in range(int(codes.max()), 0, -1):
        kept, left = table.take(codes < code), table.take(codes == code)
        if len(out) == MOST_ROLLED or not _enough(kept, max(LEAST_BELOW, 2 * _free(whole))):
            break
        small = _fitted(kept, whole, law=law, loss=loss, delta=delta)
        predicted, inside = _predict(small, kept, left, level)
        ratio = predicted / left.loss - 1
        out.append(
            Rolled(
                budget=float(left.flops.min()),
                runs=len(left),
                below=len(kept),
                mean_relative_error=float(ratio.mean()),
                max_relative_error=float(np.abs(ratio).max()),
                covered=float(inside.mean()),
            )
        )
    return tuple(reversed(out))


def _enough(kept: RunTable, least: int) -> bool:
    """Whether runs can carry a law that predicts others."""
    sizes, lengths = len(np.unique(kept.params)), len(np.unique(kept.tokens))
    return len(kept) >= least and sizes >= 3 and lengths >= 3


def _free(whole: Estimate | None) -> int:
    """Parameters of the law; of the fast ones at most 5."""
    return 5 if whole is None else whole.family.free


def _fitted(
    kept: RunTable, whole: Estimate | None, *, law: str, loss: str, delta: float | None
) -> Estimate:
    """The law by the runs kept; a declared one from where all runs have it."""
    weights = weights_of(kept)
    if whole is None:
        problem = Problem.of(kept.params, kept.tokens, kept.loss)
        return estimate(problem, law=law, loss=loss, delta=delta, weights=weights)
    problem = whole.problem.anew(kept)
    return estimate(problem, law=law, loss=loss, delta=delta, weights=weights, near=whole.raw)


def _predict(
    small: Estimate, kept: RunTable, left: RunTable, level: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Loss of the runs left out, and whether it lies in its prediction interval (hc3).

    Widened by the misfit that the smaller runs show: it is what they would have answered.
    """
    problem = small.problem
    far = problem.elsewhere(left)
    # The covariance is of raw-count logarithms; map it back to the internal parameters.
    bread = widened(sandwich(small, kept.cluster, level), examine(small, kept.cluster))
    inverse = np.linalg.inv(problem.log_raw_jacobian())
    covariance = inverse @ bread.covariance @ inverse.T
    jacobian = far.jacobian(small.theta)
    weights, before = weights_of(left), weights_of(kept)
    ratio = 1.0 if weights is None or before is None else before.mean() / weights
    law = np.einsum("ni,ij,nj->n", jacobian, covariance, jacobian)
    variance = law + small.noise**2 * ratio
    gap = far.residual(small.theta)
    inside = np.abs(gap) <= bread.quantile * np.sqrt(variance)
    return left.loss * np.exp(-gap), inside
