"""Where the search for a law's minimum begins.

For fixed (alpha, beta) the two-term law is linear in (E, A, B): a grid over the exponents with
non-negative least squares at each point finds every basin (Golub & Pereyra 1973). Any other law is
tried at points spread evenly over its parameters.
"""

from __future__ import annotations

import itertools

import numpy as np

from fit.declared import Declared
from fit.forms import LEAST_SHARE
from fit.objective import LN_E, Loss, Problem, value
from fit.record import Floats

EXPONENTS = np.geomspace(0.03, 2.5, 21)
"""Grid of alpha and beta; published exponents lie in 0.1-0.75, tiny models reach 1.5."""
CELLS = 200_000
"""Exponents times runs projected at once: 5 MB an array, whatever the number of runs."""
CANDIDATES, KEPT = 4096, 48
"""Points tried for a declared law, and how many of the best it goes down from."""


def local_minima(problem: Problem, weights: Floats, *, without_e: bool) -> Floats:
    """Starting points: local minima of the profiled least squares over the exponents, (k, 5)."""
    alpha, beta = (g.ravel() for g in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    scales, cost = project(problem, alpha, beta, weights, without_e=without_e)
    surface = cost.reshape(len(EXPONENTS), -1)
    padded = np.pad(surface, 1, constant_values=np.inf)
    neighbours = [
        padded[1 + i : padded.shape[0] - 1 + i, 1 + j : padded.shape[1] - 1 + j]
        for i, j in itertools.product((-1, 0, 1), repeat=2)
        if (i, j) != (0, 0)
    ]
    lowest = np.flatnonzero((surface <= np.min(neighbours, axis=0)).ravel())
    lowest = lowest[np.argsort(cost[lowest], kind="stable")][:8]
    tiny = np.exp(problem.y.min()) * LEAST_SHARE
    logs = np.log(np.maximum(scales[lowest], tiny))
    if without_e:
        logs[:, 0] = problem.bounds()[0][LN_E]
    return np.column_stack([logs, alpha[lowest], beta[lowest]])


def project(
    problem: Problem, alpha: Floats, beta: Floats, weights: Floats, *, without_e: bool = False
) -> tuple[Floats, Floats]:
    """Best non-negative (E, A, B) at each (alpha, beta) in relative least squares.

    Returns:
        Scales (k, 3) at the centre of the data, and the sum of squared relative errors (k,).
    """
    gram, right = np.zeros((len(alpha), 3, 3)), np.zeros((len(alpha), 3))
    size = max(1, CELLS // len(alpha))
    for part in (slice(k, k + size) for k in range(0, len(problem.y), size)):
        x, z, y = problem.x[part], problem.z[part], problem.y[part]
        a, b = np.exp(-alpha[:, None] * x - y), np.exp(-beta[:, None] * z - y)
        columns = np.stack([np.broadcast_to(np.exp(-y), a.shape), a, b], axis=1)
        weighed = columns * weights[part]
        gram += weighed @ columns.transpose(0, 2, 1)
        right += weighed.sum(axis=2)
    best = np.full(len(alpha), np.inf)
    scales = np.zeros((len(alpha), 3))
    for active in itertools.chain.from_iterable(
        itertools.combinations(range(without_e, 3), size) for size in (1, 2, 3)
    ):
        index = np.array(active)
        block = gram[:, index[:, None], index]
        ridge = 1e-13 * np.trace(block, axis1=1, axis2=2)[:, None, None] * np.eye(len(index))
        found = np.linalg.solve(block + ridge, right[:, index, None])[..., 0]
        cost = weights.sum() - (found * right[:, index]).sum(axis=1)
        better = (found >= 0).all(axis=1) & (cost < best)
        best[better] = cost[better]
        scales[better] = 0.0
        scales[np.ix_(better, index)] = found[better]
    return scales, best


def candidates(problem: Declared, count: int, seed: int = 0) -> Floats:
    """Points spread evenly over where the law's parameters may be, (count, p), held ones held.

    Source: Sobol 1967; scrambled as by Owen 1998.
    """
    from scipy.stats import qmc

    middle = float(np.median(problem.y))
    least = float(problem.y.min())
    ends = np.array([p.start for p in problem.law.declared])
    for i, parameter in enumerate(problem.law.declared):
        if parameter.nats:
            ends[i] += least if parameter.name == "E" else middle
    share = qmc.Sobol(len(ends), seed=seed).random(count)
    points = ends[:, 0] + share * (ends[:, 1] - ends[:, 0])
    if problem.held:
        raw = np.array([problem.held.get(n, 1.0) for n in problem.names])
        home = problem.internal(raw)
        places = [i for i, n in enumerate(problem.names) if n in problem.held]
        points[:, places] = home[places]
    low, high = problem.bounds()
    return np.asarray(np.clip(points, low, high))


def lowest(problem: Problem, points: Floats, weights: Floats, loss: Loss | None = None) -> Floats:
    """The points (k, p) with the least objective, at most `KEPT`; least squares by default."""
    size = max(1, 250_000 // len(problem.x))
    costs = np.concatenate(
        [
            value(problem, points[i : i + size], weights, loss or Loss(name="l2"))
            for i in range(0, len(points), size)
        ]
    )
    order = np.argsort(np.nan_to_num(costs, nan=np.inf), kind="stable")
    return np.asarray(points[order[:KEPT]])
