"""The point fit: Newton's method from every basin, and the weights of the runs.

From the starting points of `general`, a damped Newton method with the exact Hessian minimises the
robust loss; a threshold that is given is lowered in steps. Bounds are kept by freezing a variable
that sits on one while its gradient points outwards. A law without a fast kernel starts from the
best of many points spread over its parameters, and its curvature is left out (Gauss-Newton) until
the last, exact steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.estimation.general import (
    CANDIDATES,
    KEPT,
    GeneralProblem,
    LinearRestriction,
    candidates,
    local_minima,
    lowest,
    thinned,
)
from fit.estimation.objective import (
    ALPHA,
    BETA,
    HUBER_EFFICIENCY,
    LN_E,
    LOSSES,
    FitProblem,
    Loss,
    derivatives,
    majorant,
    robust_scale,
)
from fit.laws.law import NO_E_SHARE

BASINS = 8
"""Minima of least squares that are followed to a declared law's robust loss."""
DELTA = 1e-3
"""Huber's threshold on ln loss where none is given: Hoffmann et al. 2022, sec. 3.3."""
SMALL_E = 1e-2
"""E over the least loss below which it is tried at zero as well."""
LEAST_EFFECT = 1e-6
"""Change of every ln loss with a parameter below which its term is nothing."""
STEPS = 200
LONGEST = 2.0
"""Most that a variable moves in one step."""
TOLERANCE = 1e-13
"""Relative fall of the objective in one step that counts as none."""
ROUNDS = 3
"""Of the scale and the fit about which it is measured; the third moves the scale below 1%."""
UNDAMPED = 1e-3
"""Damping up to which the slope along a step says what there is to gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """S problems solved."""

    theta: Floats
    """(S, p), internal."""
    value: Floats
    """(S,)."""
    converged: NDArray[np.bool_]
    """(S,)."""

    def rows(self, some: NDArray[Any]) -> Solution:
        """Some of them."""
        return Solution(
            theta=self.theta[some], value=self.value[some], converged=self.converged[some]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The point fit of one table."""

    problem: FitProblem
    family: LinearRestriction
    loss: Loss
    theta: Floats
    """(p,), internal."""
    value: float
    converged: bool
    at_bound: tuple[str, ...]
    """Names of parameters that sit on a bound, or that no run's loss depends on."""
    residual: Floats
    noise: float
    """Robust standard deviation of the residuals; of a run of mean weight."""
    weights: Floats
    """Weight of each run, mean 1, (n,)."""
    basins: int
    """Distinct local minima within 5% of the best objective."""
    minima: Solution | None = field(default=None, repr=False)
    """All minima that the search ended in, the best first."""

    @property
    def raw(self) -> Floats:
        """Parameters on raw counts; of a fast law E (0 where it has none), A, B, alpha, beta."""
        theta = self.problem.raw(self.theta)
        return np.where(np.arange(5) == LN_E, 0.0, theta) if self.family.without_e else theta


def estimate(
    problem: FitProblem,
    *,
    law: str = "chinchilla",
    loss: str = "adaptive",
    delta: float | None = None,
    weights: Floats | None = None,
    near: Floats | None = None,
) -> Estimate:
    """Fit a law to runs.

    Args:
        problem: The runs.
        law: Name of a two-term law; ignored where the problem holds its law.
        loss: One of `objective.LOSSES`; `adaptive` is Huber's at 1.345 robust deviations.
        delta: Huber's threshold on ln loss for `huber`; 1e-3 is the papers' choice.
        weights: Weight per run, positive, (n,); only their ratios count.
        near: Parameters on raw counts of a declared law, (p,), to start from in place of a search.

    Raises:
        FitError: Unknown loss, or a threshold that is not positive.
    """
    family = LinearRestriction.within(problem, law)
    w = np.ones((1, len(problem.y))) if weights is None else weights[None] / weights.mean()
    cloud = None
    if not isinstance(problem, GeneralProblem):
        starts = _starts(problem, family, w)
    elif near is not None:
        starts = problem.internal(near)[None]
    else:
        cloud = candidates(problem, CANDIDATES)
        few, w_few = thinned(problem, w)
        starts = lowest(few, cloud, w_few)
        if few is not problem:
            starts = _minima(few, starts, Loss(name="l2"), w_few, family)[:BASINS]
    squares = solve(problem, starts, np.repeat(w, len(starts), axis=0), Loss(name="l2"), family)
    basins = squares.theta if cloud is None else _distinct(squares)[:BASINS]
    scale = _scale(problem, squares.theta[np.argmin(squares.value)], w[0], family)
    chosen, basins = _final_loss(problem, basins, scale, loss, delta, w, family)
    minima = _continue(problem, basins, scale, chosen, w, family)
    if cloud is not None:  # a loss near L1 has minima of its own, which least squares cannot see
        more = lowest(few, cloud, w_few, chosen)
        if few is not problem:
            more = _minima(few, more, chosen, w_few, family)
        minima = _polished(problem, np.concatenate([minima.theta, more]), chosen, w, family)
    return _best(problem, minima, chosen, w, family)


def estimate_parts(
    problem: FitProblem,
    parts: Sequence[NDArray[np.bool_]],
    *,
    law: str,
    loss: str,
    delta: float | None = None,
    weights: Floats | None = None,
) -> list[Estimate]:
    """Fit a two-term law to several parts of its runs, as `estimate` does, all of them at once.

    Args:
        problem: All runs.
        parts: Which runs are in a part, (n,) each.
        law: Name of a two-term law.
        loss: One of `objective.LOSSES`; one by one where its scale is not measured.
        delta: Huber's threshold, as in `estimate`.
        weights: Weight per run, positive, (n,).
    """
    own = np.ones(len(problem.y)) if weights is None else weights
    w = np.array([own * part / own[part].mean() for part in parts])
    kept = [row[None, part] for row, part in zip(w, parts, strict=True)]
    some = [problem.part(part) for part in parts]
    family, deviations = LinearRestriction.of(law), LOSSES[loss].deviations
    if deviations is None:
        how: dict[str, Any] = {"law": law, "loss": loss, "delta": delta}
        return [estimate(p, **how, weights=v[0]) for p, v in zip(some, kept, strict=True)]
    starts = [_starts(problem, family, row[None]) for row in w]
    of = np.repeat(np.arange(len(parts)), [len(s) for s in starts])

    def minima(theta: Floats, step: Loss) -> tuple[list[Solution], Floats, Floats]:
        """Minima of each part, all their thetas, and the scales about the best of each."""
        found = solve(problem, theta, w[of], step, family)
        moved = [problem.about(p.centre, found.theta) for p in some]
        each = [dataclasses.replace(found, theta=t).rows(of == i) for i, t in enumerate(moved)]
        best = [e.theta[np.argmin(e.value)] for e in each]
        scales = [_scale(p, t, v[0], family) for p, t, v in zip(some, best, kept, strict=True)]
        return each, found.theta, np.array(scales)

    _, theta, scale = minima(np.concatenate(starts), Loss(name="l2"))
    for _ in range(ROUNDS):
        rough = Loss(name="huber", scale=HUBER_EFFICIENCY * scale[of, None])
        _, theta, scale = minima(theta, rough)
    each = minima(theta, Loss(name=loss, scale=deviations * scale[of, None]))[0]
    last = [Loss(name=loss, scale=deviations * float(s)) for s in scale]
    return [_best(*part, family) for part in zip(some, each, last, kept, strict=True)]


def _best(
    problem: FitProblem, minima: Solution, loss: Loss, w: Floats, family: LinearRestriction
) -> Estimate:
    """The estimate where the best of these minima is, or one with E at zero; weights (1, n)."""
    minima = _with_e_at_zero(problem, minima, loss, w, family)
    order = np.argsort(minima.value, kind="stable")
    theta = minima.theta[order[0]]
    residual = problem.residual(theta)
    return Estimate(
        problem=problem,
        family=family,
        loss=loss,
        theta=theta,
        value=float(minima.value[order[0]]),
        converged=bool(minima.converged[order[0]]),
        at_bound=at_bound(problem, theta, family),
        residual=residual,
        noise=robust_scale(np.sqrt(w[0]) * residual, family.free),
        weights=w[0],
        basins=_basins(problem, minima),
        minima=minima.rows(order),
    )


def at_bound(problem: FitProblem, theta: Floats, family: LinearRestriction) -> tuple[str, ...]:
    """Names of the parameters on a bound, and of those of a term that has gone to zero."""
    low, high = problem.bounds()
    on = (theta <= low + 1e-9) | (theta >= high - 1e-9)
    free = np.array([row.any() for row in family.basis])
    on |= free & (np.abs(problem.jacobian(theta)).max(axis=0) < LEAST_EFFECT)
    if problem.names[LN_E] == "E":
        # E far below every loss moves nothing: it is at zero wherever the solver happened to stop.
        on[LN_E] = theta[LN_E] < problem.y.min() + math.log(NO_E_SHARE)
        on[LN_E] &= not family.without_e
    return tuple(n for n, o in zip(problem.names, on, strict=True) if o)


def _scale(problem: FitProblem, theta: Floats, weights: Floats, family: LinearRestriction) -> float:
    """Robust scale of the residuals at mean weight, never quite zero."""
    return max(robust_scale(np.sqrt(weights) * problem.residual(theta), family.free), 1e-12)


def _final_loss(
    problem: FitProblem,
    starts: Floats,
    scale: float,
    name: str,
    delta: float | None,
    weights: Floats,
    family: LinearRestriction,
) -> tuple[Loss, Floats]:
    """The loss to end with; a scale in standard deviations is measured about a robust fit.

    Returns:
        The loss, and where its search starts: the minima of that robust fit, (k, p).
    """
    plain = Loss(name=name)
    if plain.family.takes_delta:
        return Loss(name=name, scale=DELTA if delta is None else delta), starts
    if plain.family.deviations is None:
        return plain, starts
    for _ in range(ROUNDS):
        rough = Loss(name="huber", scale=HUBER_EFFICIENCY * scale)
        minima = solve(problem, starts, np.repeat(weights, len(starts), axis=0), rough, family)
        starts = minima.theta
        scale = _scale(problem, starts[np.argmin(minima.value)], weights[0], family)
    return Loss(name=name, scale=plain.family.deviations * scale), starts


def _continue(
    problem: FitProblem,
    starts: Floats,
    scale: float,
    last: Loss,
    weights: Floats,
    family: LinearRestriction,
) -> Solution:
    """Lower Huber's threshold in steps to the wanted one, following every basin."""
    w = np.repeat(weights, len(starts), axis=0)
    if last.family.takes_delta:
        for factor in (4.0, 1.0, 0.25):
            if factor * scale > last.scale:
                step = Loss(name="huber", scale=factor * scale)
                starts = solve(problem, starts, w, step, family).theta
    return solve(problem, starts, w, last, family)


def _polished(
    problem: FitProblem, starts: Floats, loss: Loss, weights: Floats, family: LinearRestriction
) -> Solution:
    """Minima from many starts: Gauss-Newton, then exact steps from those that differ."""
    distinct = _minima(problem, starts, loss, weights, family)[:KEPT]
    w = np.repeat(weights, len(distinct), axis=0)
    return solve(problem, distinct, w, loss, family, exact=True)


def _with_e_at_zero(
    problem: FitProblem, minima: Solution, loss: Loss, weights: Floats, family: LinearRestriction
) -> Solution:
    """Minima, and those with E at its bound where the best has hardly any E.

    The ln of an E that wants to be zero creeps there, a step of one at a time, and may not arrive.
    """
    best = int(np.argmin(minima.value))
    hardly = minima.theta[best, LN_E] < problem.y.min() + math.log(SMALL_E)
    if problem.names[LN_E] != "E" or not family.basis[LN_E].any() or family.without_e:
        return minima
    if not hardly and minima.converged[best]:
        return minima
    starts = minima.theta[[best]].copy()
    starts[:, LN_E] = family.bounds(problem)[0][LN_E]
    zero = solve(problem, starts, weights, loss, family, exact=True)
    return Solution(
        theta=np.concatenate([zero.theta, minima.theta]),
        value=np.concatenate([zero.value, minima.value]),
        converged=np.concatenate([zero.converged, minima.converged]),
    )


def _minima(
    problem: FitProblem, starts: Floats, loss: Loss, weights: Floats, family: LinearRestriction
) -> Floats:
    """Distinct minima from many starts, the best first, (k, p)."""
    return _distinct(solve(problem, starts, np.repeat(weights, len(starts), axis=0), loss, family))


def _distinct(minima: Solution) -> Floats:
    """Minima that differ, the best first, (k, p)."""
    order = np.argsort(minima.value, kind="stable")
    _, first = np.unique(np.round(minima.theta[order], 4), axis=0, return_index=True)
    return np.asarray(minima.theta[order[np.sort(first)]])


def _basins(problem: FitProblem, minima: Solution) -> int:
    """Distinct minima whose objective is within 5% of the best."""
    near = minima.theta[minima.value <= 1.05 * minima.value.min() + 1e-300]
    return len({tuple(np.round(t[problem.identifying], 2)) for t in near})


def solve(
    problem: FitProblem,
    starts: Floats,
    weights: Floats,
    loss: Loss,
    family: LinearRestriction,
    *,
    exact: bool = False,
) -> Solution:
    """Damped Newton on S problems at once; those that have converged leave the batch.

    Args:
        problem: The runs.
        starts: (S, p), internal.
        weights: (S, n).
        loss: What to minimise.
        family: Ties and frozen variables.
        exact: Exact Hessian of a declared law too, for few problems; the fast laws' always is.
    """
    low, high = family.bounds(problem)
    theta = np.clip(starts, low, high)
    objective, gradient, hessian = derivatives(problem, theta, weights, loss, exact=exact)
    damping = np.full(len(theta), 1e-4)
    open_, w = np.arange(len(theta)), weights
    second = exact or not isinstance(problem, GeneralProblem)
    for _ in range(STEPS):
        t, some = theta[open_], problem.subset(open_)
        slopes = (gradient[open_], hessian[open_], damping[open_])
        own = loss.subset(open_)
        step, size = _step(some, t, w, own, family, slopes, exact=second)
        trial = np.clip(t + step, low, high)
        ahead = np.abs(np.einsum("sp,sp->s", gradient[open_], trial - t))
        last = (ahead <= TOLERANCE * objective[open_]) & (damping[open_] <= UNDAMPED)
        theta[open_[last]] = trial[last]  # what it would gain is nothing: it is not looked at
        if last.any():
            open_, trial, size, w = open_[~last], trial[~last], size[~last], w[~last]
        if not len(open_):
            break
        own = loss.subset(open_)
        after, *new = derivatives(problem.subset(open_), trial, w, own, exact=exact)
        fall = objective[open_] - after
        better = fall >= 0
        moved = open_[better]
        theta[moved], objective[moved] = trial[better], after[better]
        gradient[moved], hessian[moved] = new[0][better], new[1][better]
        damping[open_] = np.maximum(np.where(better, 0.1, 8.0) * damping[open_], 1e-12)
        settled = better & (fall <= TOLERANCE * (np.abs(after) + 1e-300))
        stuck = ~better & ((damping[open_] > 1e10) | (size < 1e-14))
        if (settled | stuck).any():
            open_, w = open_[~(settled | stuck)], w[~(settled | stuck)]
        if not len(open_):
            break
    converged = np.ones(len(theta), dtype=bool)
    converged[open_] = False
    return Solution(theta=theta, value=objective, converged=converged)


def _step(
    problem: FitProblem,
    theta: Floats,
    weights: Floats,
    loss: Loss,
    family: LinearRestriction,
    slopes: tuple[Floats, Floats, Floats],
    *,
    exact: bool,
) -> tuple[Floats, Floats]:
    """A damped Newton step per problem (S, p) and its size; outward variables on a bound stay.

    `slopes` are gradient, Hessian and damping; where the Hessian is not positive, its majorant.
    The step of E is taken in E itself, as a share of it, in which the law is nearly straight: in
    ln E the minimum of a small E lies at the end of a bent valley, 100 steps long.
    """
    gradient, hessian, damping = slopes
    low, high = family.bounds(problem)
    frozen = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    if family.without_e:
        frozen[:, LN_E] = True
    basis = family.basis
    held = (frozen @ basis) > 0
    g, h = gradient @ basis, basis.T @ hessian @ basis
    level = np.flatnonzero(basis[LN_E] if problem.names[LN_E] == "E" else np.zeros(0))
    if exact:
        h[:, level, level] -= g[:, level]
    bent = np.flatnonzero(~_positive(_held(h, held)))
    if len(bent):
        major = majorant(problem.subset(bent), theta[bent], weights[bent], loss.subset(bent))
        h[bent] = basis.T @ major @ basis
    u = _damped(g, h, held, damping)
    least, most = np.maximum(low - theta, -LONGEST), np.minimum(high - theta, LONGEST)
    if len(level):
        e = theta[:, LN_E]
        least[:, LN_E] = np.expm1(low[LN_E] - e)
        most[:, LN_E] = np.expm1(np.maximum(problem.y.min() - e, LONGEST))
    inside = basis.T > 0
    least = np.where(inside, least[:, None], -np.inf).max(axis=2)
    most = np.where(inside, most[:, None], np.inf).min(axis=2)
    ends = np.clip(u, least, most)
    beyond = (ends != u) & ~held
    far = np.flatnonzero(beyond.any(axis=1))
    if len(far):  # what would go too far stops there, and the others move as is best beside it
        end = np.where(beyond[far], ends[far], 0.0)
        slope = g[far] + (h[far] @ end[..., None])[..., 0]
        u[far] = end + _damped(slope, h[far], held[far] | beyond[far], damping[far])
    others = np.delete(u, level, axis=1)
    limit = np.abs(others).max(axis=1, initial=0.0, keepdims=True)
    u *= np.minimum(1.0, LONGEST / np.maximum(limit, 1e-300))
    u[:, level] = np.log1p(np.clip(u[:, level], least[:, level], most[:, level]))
    step = u @ basis.T
    return step, np.abs(step).max(axis=1)


def _damped(gradient: Floats, hessian: Floats, held: NDArray[np.bool_], damping: Floats) -> Floats:
    """Damped Newton steps (S, free) with held variables at rest."""
    h, index = _held(hessian, held), np.arange(gradient.shape[1])
    h[:, index, index] += np.maximum(damping[:, None] * h[:, index, index], 1e-300)
    step = -np.linalg.solve(h, np.where(held, 0.0, gradient)[..., None])[..., 0]
    return np.where(held, 0.0, step)


def _positive(hessian: Floats) -> NDArray[np.bool_]:
    """Whether each matrix is positive definite, beyond rounding."""
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    root = np.sqrt(np.maximum(diagonal, 1e-300))
    with np.errstate(over="ignore"):  # beside a diagonal of nothing: not positive
        unit = np.clip(hessian / (root[:, :, None] * root[:, None, :]), -1e9, 1e9)
    lowest = np.linalg.eigvalsh(unit)[:, 0]
    return np.asarray((lowest > 1e-10) & (diagonal > 0).all(axis=1))


def _held(matrix: Floats, held: NDArray[np.bool_]) -> Floats:
    """Rows and columns of held variables replaced by those of the identity."""
    keep = ~held
    out = matrix * (keep[:, :, None] & keep[:, None, :])
    index = np.arange(matrix.shape[1])
    out[:, index, index] += held
    return np.asarray(out)


def _starts(problem: FitProblem, family: LinearRestriction, weights: Floats) -> Floats:
    """Starting points of a fast law; tied exponents share their geometric mean."""
    starts = local_minima(problem, weights[0], without_e=family.without_e)
    if family.basis.shape[1] < 5:
        starts[:, ALPHA] = starts[:, BETA] = np.sqrt(starts[:, ALPHA] * starts[:, BETA])
    return starts
