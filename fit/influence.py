"""Which run decides the answer: N* far beyond the runs, with and without each of them.

Every refit is exact and all are solved at once. Where there are too many runs for that, those are
left out that a first-order step (with its leverage) says matter most.

Source: Cook 1977; the first-order step is that of the HC3 sandwich in `uncertainty`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fit.estimate import Estimate, solve
from fit.objective import derivatives
from fit.record import Floats, RunTable
from fit.result import Influence

FURTHER = 10.0
"""Budget at which N* is compared, over the largest one fitted."""
KEPT = 5
"""Runs, and clusters, that are reported: those that move N* most."""
WORK = 2_000_000
"""Weights (refits x runs) solved at most: all of 1400 runs, 20 of 100,000."""
BATCH = 250_000


def influence(table: RunTable, found: Estimate) -> tuple[Influence, ...]:
    """What leaving out each run, and each cluster of several, does to N*.

    Args:
        table: The fitted runs.
        found: Their point fit; the refits keep its loss.

    Returns:
        The runs that move ln N* at ten times the largest budget most, then the clusters.
    """
    out = _ranked(table, found, np.arange(len(table)), "run")
    codes = np.unique(table.cluster, return_inverse=True)[1]
    if 2 < codes.max() + 1 < len(table):
        out += _ranked(table, found, codes, "cluster")
    return tuple(out)


def log_optimum(table: RunTable, raw: Floats) -> Floats:
    """The ln of N* at ten times the largest budget for parameters (..., 5) on raw counts.

    FLOPs per parameter and token are those of the costliest run, the same in every refit.
    """
    top = int(np.argmax(table.flops))
    product = FURTHER * table.params[top] * table.tokens[top]  # N* D* at ten times its FLOPs
    _, a, b, alpha, beta = np.moveaxis(np.asarray(raw), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.log(alpha) + np.log(a) - np.log(beta) - np.log(b)
        return np.asarray((ratio + beta * np.log(product)) / (alpha + beta))


def _ranked(
    table: RunTable, found: Estimate, codes: NDArray[np.int64], kind: str
) -> list[Influence]:
    """The groups of runs that move ln N* most when they are left out."""
    shifts = _first_order(table, found, codes)
    tried = np.argsort(-np.abs(shifts), kind="stable")[: max(KEPT, WORK // len(codes))]
    exact = log_optimum(table, _without(found, codes, tried))
    shifts[tried] = exact - float(log_optimum(table, found.raw))
    shifts[~np.isfinite(shifts)] = 0.0
    total = max(float((shifts**2).sum()), 1e-300)
    out = []
    for i in tried[np.argsort(-np.abs(shifts[tried]), kind="stable")][:KEPT]:
        inside = np.flatnonzero(codes == i)
        out.append(
            Influence(
                kind=kind,
                run=table.run[int(inside[0])],
                runs=len(inside),
                shift=float(shifts[i]),
                share=float(shifts[i] ** 2 / total),
                flops=float(table.flops[inside].sum()),
            )
        )
    return out


def _without(found: Estimate, codes: NDArray[np.int64], tried: NDArray[np.int64]) -> Floats:
    """Parameters on raw counts refitted without each of some groups, (groups tried, 5)."""
    out = np.empty((len(tried), 5))
    size = max(1, BATCH // len(codes))
    for start in range(0, len(tried), size):
        part = tried[start : start + size]
        weights = (codes[None, :] != part[:, None]) * found.weights
        starts = np.repeat(found.theta[None], len(part), axis=0)
        out[start : start + size] = solve(
            found.problem, starts, weights, found.loss, found.family
        ).theta
    return found.problem.raw(out)


def _first_order(table: RunTable, found: Estimate, codes: NDArray[np.int64]) -> Floats:
    """Change of ln N* when each group is left out, by one Newton step with leverage, (groups,)."""
    basis, groups = found.family.basis, int(codes.max()) + 1
    jacobian = found.problem.jacobian(found.theta) @ basis
    m = found.problem.y - found.residual
    _, psi, curve = (found.weights * v for v in found.loss.terms(found.residual, m))
    exact = derivatives(found.problem, found.theta[None], found.weights[None], found.loss)[2][0]
    inverse = np.linalg.pinv(basis.T @ exact @ basis, hermitian=True)
    leverage = np.einsum("ni,ij,nj->n", jacobian, inverse, jacobian) * np.maximum(curve, 0.0)
    scores = jacobian * (psi / np.maximum(1 - leverage, 0.05))[:, None]
    sums = np.stack([np.bincount(codes, s, minlength=groups) for s in scores.T], axis=1)
    return np.asarray(-sums @ inverse @ basis.T @ _slope(table, found))


def _slope(table: RunTable, found: Estimate) -> Floats:
    """Derivative of ln N* with respect to the internal parameters, (5,)."""
    step = 1e-5
    ends = found.problem.raw(found.theta + step * np.concatenate([np.eye(5), -np.eye(5)]))
    values = log_optimum(table, ends)
    return np.asarray((values[:5] - values[5:]) / (2 * step))
