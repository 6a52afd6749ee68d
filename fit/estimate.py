"""The point fit: variable projection for where to start, Newton for where to stop.

For fixed (alpha, beta) the law is linear in (E, A, B): a grid over the exponents with non-negative
least squares at each point finds every basin (Golub & Pereyra 1973). From each, a damped Newton
method with the exact Hessian runs down the robust loss, whose threshold is lowered in steps.
Bounds are held by freezing a variable that sits on one with its gradient pointing outwards.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.objective import (
    ALPHA,
    BETA,
    HUBER_EFFICIENCY,
    LN_E,
    Loss,
    Problem,
    derivatives,
    majorant,
    robust_scale,
)
from fit.record import Floats

EXPONENTS = np.geomspace(0.03, 2.5, 21)
"""Grid of alpha and beta; published exponents lie in 0.1-0.75, tiny models reach 1.5."""
EXPONENT_BOUNDS = (1e-3, 5.0)
LEAST_SHARE = 1e-6
"""E below this share of the smallest loss is taken as 0: a bound, and reported as one."""
CELLS = 200_000
"""Exponents times runs projected at once: 5 MB an array, whatever the number of runs."""
STEPS = 200
TOLERANCE = 1e-13
"""Relative fall of the objective in one step that counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A law within (ln E, ln A, ln B, alpha, beta): theta = basis u, some variables frozen."""

    basis: Floats
    """(5, p): identity, or alpha and beta sharing a column."""
    without_e: bool = False

    @classmethod
    def of(cls, law: str) -> Family:
        """The family of a law's name."""
        basis = np.eye(5)
        if law == "tied":
            basis = np.delete(basis, BETA, axis=1)
            basis[BETA, ALPHA] = 1.0
        return cls(basis=basis, without_e=law == "no-e")

    @property
    def free(self) -> int:
        """Free parameters."""
        return int(self.basis.shape[1]) - self.without_e


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """S problems solved."""

    theta: Floats
    """(S, 5), internal."""
    value: Floats
    """(S,)."""
    converged: NDArray[np.bool_]
    """(S,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The point fit of one table."""

    problem: Problem
    family: Family
    loss: Loss
    theta: Floats
    """(5,), internal."""
    value: float
    converged: bool
    at_bound: tuple[str, ...]
    """Names of parameters that sit on a bound: E, alpha, beta."""
    residual: Floats
    noise: float
    """Robust standard deviation of the residuals; of a run of mean weight."""
    weights: Floats
    """Weight of each run, mean 1, (n,)."""
    basins: int
    """Distinct local minima within 5% of the best objective."""

    @property
    def raw(self) -> Floats:
        """E, A, B, alpha, beta on raw counts; E is 0 where the law has none."""
        theta = self.problem.raw(self.theta)
        return np.where(np.arange(5) == LN_E, 0.0, theta) if self.family.without_e else theta


def lower_bounds(problem: Problem) -> Floats:
    """Lower bounds of theta, (5,)."""
    least = float(problem.y.min()) + math.log(LEAST_SHARE)
    return np.array([least, -np.inf, -np.inf, EXPONENT_BOUNDS[0], EXPONENT_BOUNDS[0]])


def upper_bounds() -> Floats:
    """Upper bounds of theta, (5,)."""
    return np.array([np.inf, np.inf, np.inf, EXPONENT_BOUNDS[1], EXPONENT_BOUNDS[1]])


def estimate(
    problem: Problem,
    *,
    law: str = "chinchilla",
    loss: str = "adaptive",
    delta: float | None = None,
    weights: Floats | None = None,
) -> Estimate:
    """Fit a law to runs.

    Args:
        problem: The runs.
        law: `chinchilla`, `tied` or `no-e`.
        loss: One of `objective.LOSSES`; `adaptive` is Huber's at 1.345 robust deviations.
        delta: Huber's threshold on ln loss for `huber`; 1e-3 is the papers' choice.
        weights: Weight per run, positive, (n,); only their ratios count.

    Raises:
        FitError: Unknown loss, or a threshold that is not positive.
    """
    family = Family.of(law)
    w = np.ones((1, len(problem.y))) if weights is None else weights[None] / weights.mean()
    starts = local_minima(problem, family, w[0])
    squares = solve(problem, starts, np.repeat(w, len(starts), axis=0), Loss(name="l2"), family)
    best = squares.theta[np.argmin(squares.value)]
    scale = _scale(problem, best, w[0], family)
    chosen = _final_loss(problem, squares.theta, scale, loss, delta, w, family)
    found = _continue(problem, squares.theta, scale, chosen, w, family)
    order = np.argsort(found.value, kind="stable")
    theta = found.theta[order[0]]
    residual = problem.residual(theta)
    return Estimate(
        problem=problem,
        family=family,
        loss=chosen,
        theta=theta,
        value=float(found.value[order[0]]),
        converged=bool(found.converged[order[0]]),
        at_bound=at_bound(problem, theta, family),
        residual=residual,
        noise=robust_scale(np.sqrt(w[0]) * residual, family.free),
        weights=w[0],
        basins=_basins(found),
    )


def at_bound(problem: Problem, theta: Floats, family: Family) -> tuple[str, ...]:
    """Names of the parameters on a bound."""
    low, high = lower_bounds(problem), upper_bounds()
    names = ("E", "A", "B", "alpha", "beta")
    on = (theta <= low + 1e-9) | (theta >= high - 1e-9)
    # E far below every loss moves nothing: it is at zero wherever the solver happened to stop.
    on[LN_E] |= theta[LN_E] < low[LN_E] + math.log(1e2)
    on[LN_E] &= not family.without_e
    return tuple(n for n, o in zip(names, on, strict=True) if o)


def _scale(problem: Problem, theta: Floats, weights: Floats, family: Family) -> float:
    """Robust scale of the residuals at mean weight, never quite zero."""
    return max(robust_scale(np.sqrt(weights) * problem.residual(theta), family.free), 1e-12)


def _final_loss(
    problem: Problem,
    starts: Floats,
    scale: float,
    loss: str,
    delta: float | None,
    weights: Floats,
    family: Family,
) -> Loss:
    """The loss to end with; an adaptive scale is measured about a robust fit."""
    if loss == "huber":
        return Loss(name="huber", scale=1e-3 if delta is None else delta)
    if loss in ("l2", "l2-levels"):
        return Loss(name=loss)
    for _ in range(3):  # the scale and the fit settle together; the third round moves it below 1%
        rough = Loss(name="huber", scale=HUBER_EFFICIENCY * scale)
        found = solve(problem, starts, np.repeat(weights, len(starts), axis=0), rough, family)
        starts = found.theta
        scale = _scale(problem, starts[np.argmin(found.value)], weights[0], family)
    if loss == "student":
        return Loss(name="student", scale=scale)
    return Loss(name=loss, scale=HUBER_EFFICIENCY * scale)


def _continue(
    problem: Problem, starts: Floats, scale: float, last: Loss, weights: Floats, family: Family
) -> Solution:
    """Lower Huber's threshold in steps to the wanted one, following every basin."""
    w = np.repeat(weights, len(starts), axis=0)
    if last.name in ("huber", "adaptive"):
        for factor in (4.0, 1.0, 0.25):
            if factor * scale > last.scale:
                step = Loss(name="huber", scale=factor * scale)
                starts = solve(problem, starts, w, step, family).theta
    return solve(problem, starts, w, last, family)


def _basins(found: Solution) -> int:
    """Distinct minima whose objective is within 5% of the best."""
    near = found.theta[found.value <= 1.05 * found.value.min() + 1e-300]
    return len({tuple(np.round(t[ALPHA:], 2)) for t in near})


def local_minima(problem: Problem, family: Family, weights: Floats) -> Floats:
    """Starting points: local minima of the profiled least squares over the exponents, (k, 5)."""
    alpha, beta = (g.ravel() for g in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    scales, cost = project(problem, alpha, beta, weights, without_e=family.without_e)
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
    if family.without_e:
        logs[:, 0] = lower_bounds(problem)[LN_E]
    starts = np.column_stack([logs, alpha[lowest], beta[lowest]])
    return _fold(starts, family)


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


def solve(
    problem: Problem, starts: Floats, weights: Floats, loss: Loss, family: Family
) -> Solution:
    """Damped Newton on S problems at once; those that have converged leave the batch.

    Args:
        problem: The runs.
        starts: (S, 5), internal.
        weights: (S, n).
        loss: What to minimise.
        family: Ties and frozen variables.
    """
    low, high = lower_bounds(problem), upper_bounds()
    theta = np.clip(starts, low, high)
    objective, gradient, hessian = derivatives(problem, theta, weights, loss)
    damping = np.full(len(theta), 1e-4)
    open_ = np.arange(len(theta))
    for _ in range(STEPS):
        t, w, some = theta[open_], weights[open_], problem.among(open_)
        slopes = (gradient[open_], hessian[open_], damping[open_])
        step, size = _step(some, t, w, loss, family, slopes)
        trial = np.clip(t + step, low, high)
        after, *new = derivatives(some, trial, w, loss)
        fall = objective[open_] - after
        better = fall >= 0
        moved = open_[better]
        theta[moved], objective[moved] = trial[better], after[better]
        gradient[moved], hessian[moved] = new[0][better], new[1][better]
        damping[open_] = np.maximum(np.where(better, 0.1, 8.0) * damping[open_], 1e-12)
        settled = better & (fall <= TOLERANCE * (np.abs(after) + 1e-300))
        stuck = ~better & ((damping[open_] > 1e10) | (size < 1e-14))
        open_ = open_[~(settled | stuck)]
        if not len(open_):
            break
    converged = np.ones(len(theta), dtype=bool)
    converged[open_] = False
    return Solution(theta=theta, value=objective, converged=converged)


def _step(
    problem: Problem,
    theta: Floats,
    weights: Floats,
    loss: Loss,
    family: Family,
    slopes: tuple[Floats, Floats, Floats],
) -> tuple[Floats, Floats]:
    """A damped Newton step per problem (S, 5) and its size; outward variables on a bound stay.

    `slopes` are gradient, Hessian and damping; where the Hessian is not positive, its majorant.
    """
    gradient, hessian, damping = slopes
    frozen = ((theta <= lower_bounds(problem)) & (gradient > 0)) | (
        (theta >= upper_bounds()) & (gradient < 0)
    )
    if family.without_e:
        frozen[:, LN_E] = True
    basis = family.basis
    held = (frozen @ basis) > 0
    g = np.where(held, 0.0, gradient @ basis)
    h = _held(basis.T @ hessian @ basis, held)
    bent = np.flatnonzero(~_positive(h))
    if len(bent):
        major = majorant(problem.among(bent), theta[bent], weights[bent], loss)
        h[bent] = _held(basis.T @ major @ basis, held[bent])
    index = np.arange(len(basis.T))
    h[:, index, index] += np.maximum(damping[:, None] * h[:, index, index], 1e-300)
    u = np.where(held, 0.0, -np.linalg.solve(h, g[..., None])[..., 0])
    step = u @ basis.T
    limit = np.abs(step).max(axis=1, keepdims=True)
    step = step * np.minimum(1.0, 2.0 / np.maximum(limit, 1e-300))
    return step, np.abs(step).max(axis=1)


def _positive(hessian: Floats) -> NDArray[np.bool_]:
    """Whether each matrix is positive definite, beyond rounding."""
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    root = np.sqrt(np.maximum(diagonal, 1e-300))
    lowest = np.linalg.eigvalsh(hessian / (root[:, :, None] * root[:, None, :]))[:, 0]
    return np.asarray((lowest > 1e-10) & (diagonal > 0).all(axis=1))


def _held(matrix: Floats, held: NDArray[np.bool_]) -> Floats:
    """Rows and columns of held variables replaced by those of the identity."""
    keep = ~held
    out = matrix * (keep[:, :, None] & keep[:, None, :])
    index = np.arange(matrix.shape[1])
    out[:, index, index] += held
    return np.asarray(out)


def _fold(starts: Floats, family: Family) -> Floats:
    """Starting points moved onto the family: tied exponents share their geometric mean."""
    if family.basis.shape[1] == 5:
        return starts
    folded = starts.copy()
    folded[:, ALPHA] = folded[:, BETA] = np.sqrt(starts[:, ALPHA] * starts[:, BETA])
    return folded
