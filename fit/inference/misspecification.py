"""Test whether a law misses a term, and what that adds to the intervals.

Sampling intervals hold when the loss surface is the law. Whether it is, is tested by giving the law
one more term, to first order: exponents that drift with size or with length, or a start that decays
with D. Under the law the estimate with the term and without it aim at one truth (Hausman 1978);
where the term's coefficient is beyond sampling error, the shift of the parameters that it brings
along is added to the covariance as a direction of its own. The point estimate stays.

Such a term says where the loss bends and not why. One kind of cause can be tested, since the
settings of the runs tell it: events of the schedule, which fall late into runs of some lengths and
not of others (`detect_phase`). It is tested first, and the rest with it taken out.

Refitting without the smallest runs, the usual check, was tried and has no power: dropping a fifth
of 30 runs loses more precision than the misfit moves the estimate (docs/calibration.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.schedule import LATE, BatchRule
from fit.data.table import RunTable
from fit.estimation.general import GeneralProblem
from fit.estimation.solver import Estimate
from fit.inference.resampling import (
    Uncertainty,
    by_cluster,
    clusters,
    f_tail,
    grams,
    t_quantile,
)
from fit.laws.law import EXPONENT_BOUNDS

LEVEL = 0.95
"""Of the test on all terms together."""
LARGEST_KAPPA = 1e6
"""Condition number above which a term cannot be distinguished from the law's own."""
LARGEST_SHIFT = 0.5
"""A shift may move an exponent by this share of itself, and ln E by this much: first order ends
there. Over a range of 8 in tokens a wiggle of 0.06% in the losses would move beta from 0.5 by 1.7;
such a shift is reported and not added."""
LEAST_BEND = 0.1
"""Curvature of a run beyond the loss's threshold, over that of its majorant, in Newton's step."""
LEAST_LEFT = 1e-6
"""Share of its information that every combination of parameters keeps without any one cluster."""
TERMS: Mapping[str, str] = {
    "size": "over params the loss bends away from a power law",
    "length": "over tokens the loss bends away from a power law",
    "start": "the shortest runs lie off the law that the longer ones follow",
}
"""What is measured of each further term. What bends the loss is another question: of the causes,
events of the schedule alone are tested (`detect_phase`)."""
UNLIKELY = 0.01
FAR = 5.0
"""Noise units beyond which a run is left out of the test of phases."""
LEAST_EXPLAINED = 0.02
"""Share of the residuals' variance below which an event, however certain, does not matter."""
EVENTS: Mapping[str, tuple[str, str]] = {
    "batch_step": (
        f"the batch doubles inside the last {LATE:.0%} of the run",
        "Grow the batch smoothly (train.batch_doublings=[]), or choose lengths that meet no "
        "doubling, and train again",
    ),
    "shared_trunk": (
        "the run branches off a trunk that other lengths share",
        "Train all lengths in one way, and fit one kind at a time: --where",
    ),
    "schedule": (
        "the run has another schedule than the others",
        "Train all runs under one schedule, and fit one at a time: --where",
    ),
}
"""Events of a schedule: what happens in a run, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """The further term that the runs need, and how it moves the law's parameters."""

    term: str
    """One of `TERMS`."""
    statistic: float
    """Its coefficient in standard errors."""
    shift: Floats
    """(5,): how far (ln E, ln A, ln B, alpha, beta) on raw counts move when it is added; zero
    where that is beyond first order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A term of the residuals that follows an event of the schedule."""

    event: str
    """One of `EVENTS`."""
    effect: float
    """Difference in ln loss between the runs that meet the event and those that do not."""
    error: float
    """Its standard error."""
    statistic: float
    """F of one term."""
    probability: float
    """Of as large an F by chance, times the number of events tested."""
    met: tuple[bool, ...]
    """Of each run, whether it meets the event."""
    shift: Floats
    """(5,): as of a `Misfit`."""
    fitted: Estimate
    """The fit with residuals from which the event is taken out."""


def detect_misfit(fitted: Estimate, codes: NDArray[np.int64]) -> Misfit | None:
    """Test whether the runs need a further term; None where they do not.

    Args:
        fitted: The point fit; only the two-term law with E, off its bounds, is tested.
        codes: Cluster of each run, (n,).
    """
    if fitted.at_bound or fitted.family.free < 5 or isinstance(fitted.problem, GeneralProblem):
        return None
    problem = fitted.problem
    jacobian = problem.jacobian(fitted.theta)
    _, (_, a, b) = problem.shares(fitted.theta[None])
    directions = {
        "size": a[0] * problem.x**2,
        "length": b[0] * problem.z**2,
        "start": np.exp(-np.exp(problem.z - problem.z.min())),
    }
    designs = np.stack([np.column_stack([jacobian, d]) for d in directions.values()])
    added = _add_terms(designs, fitted, clusters(codes))
    results = {k: v for k, v in zip(directions, added, strict=True) if v is not None}
    dof = max(1, min(int(clusters(codes).max()), len(problem.y) - 6))
    limit = t_quantile(dof, 1 - (1 - LEVEL) / max(len(results), 1) / 2)
    wanted = {k: v for k, v in results.items() if abs(v[1]) > limit}
    if not wanted:
        return None
    near = {k: v for k, v in wanted.items() if _credible(v[0], fitted)}
    term, (shift, statistic) = max((near or wanted).items(), key=lambda item: abs(item[1][1]))
    raw = problem.log_raw_jacobian() @ shift if near else np.zeros(5)
    return Misfit(term=term, statistic=statistic, shift=raw)


def _credible(shift: Floats, fitted: Estimate) -> bool:
    """Whether a shift is within first order."""
    exponents = np.abs(shift[3:]) <= LARGEST_SHIFT * fitted.raw[3:]
    return bool(exponents.all() and abs(shift[0]) <= LARGEST_SHIFT)


def _add_terms(
    designs: Floats, fitted: Estimate, codes: NDArray[np.int64]
) -> list[tuple[Floats, float] | None]:
    """Shift of the parameters when a last column is added, and its coefficient in errors.

    The robust fit is made again with the column: a misfit shows in the corners of a sweep, where
    the fit without it takes the runs for outliers. Errors are by cluster, each score divided by
    the root of what leaving it out leaves (HC2, Bell & McCaffrey 2002); None where that is nothing.

    Args:
        designs: The law's columns and the one that is added, (terms, n, p).
        fitted: The fit without it.
        codes: Cluster of each run, 0 to groups - 1, (n,).
    """
    out: list[tuple[Floats, float] | None] = [None] * len(designs)
    units = designs / np.linalg.norm(designs, axis=1, keepdims=True)
    tried = np.flatnonzero(np.linalg.cond(units) < LARGEST_KAPPA)
    if not len(tried):
        return out
    root = np.sqrt(fitted.weights)[:, None]
    factors = np.linalg.qr(root * designs[tried])[1]
    # orthonormal columns, under the weights
    z = np.linalg.solve(factors.transpose(0, 2, 1), designs[tried].transpose(0, 2, 1))
    z = np.ascontiguousarray(z.transpose(0, 2, 1))
    moved, psi, weight = _robust(z, fitted)
    for i, term in enumerate(tried):
        moves = _moves_of_last(root * z[i], by_cluster(psi[i][:, None] * z[i], codes), codes)
        if moves is not None:
            error = max(float(np.sqrt((moves**2).sum()) / weight[i]), 1e-300)
            out[term] = np.linalg.solve(factors[i], moved[i])[:-1], float(moved[i, -1]) / error
    return out


def _moves_of_last(z: Floats, scores: Floats, codes: NDArray[np.int64]) -> Floats | None:
    """What each cluster adds to the last coefficient, (groups,); None where one leaves nothing.

    `z` (n, p) has orthonormal columns, `scores` is (groups, p). What a single run leaves has its
    own direction as an eigenvector, so that only clusters of several need their eigenvalues.
    """
    several = np.bincount(codes) > 1
    left = 1.0 - np.bincount(codes, (z**2).sum(axis=1))
    moves = scores[:, -1] / np.sqrt(np.where(several, 1.0, np.maximum(left, LEAST_LEFT)))
    least = left[~several].min(initial=1.0)
    if several.any():
        some = several[codes]
        values, vectors = np.linalg.eigh(np.eye(z.shape[1]) - grams(z[some], clusters(codes[some])))
        least = min(least, values.min())
        along = np.einsum("gij,gi->gj", vectors, scores[several])
        roots = np.sqrt(np.maximum(values, LEAST_LEFT))
        moves[several] = np.einsum("gj,gj->g", vectors[:, -1] / roots, along)
    return None if least < LEAST_LEFT else moves


def _robust(z: Floats, fitted: Estimate) -> tuple[Floats, Floats, Floats]:
    """Coefficients of linear robust fits to the residuals, their psi and their mean curvature.

    For designs (terms, n, p): (terms, p), (terms, n) and (terms,). Weights of the runs are in psi
    and in the mean.
    """
    weights, m = fitted.weights, fitted.problem.y - fitted.residual
    turned = np.ascontiguousarray(z.transpose(0, 2, 1))

    def terms(moved: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        along = (z @ moved[..., None])[..., 0]
        r = fitted.residual - along
        rho, psi, curve = (weights * v for v in fitted.loss.terms(r, m + along))
        return r, rho, psi, curve

    moved = np.zeros((len(z), z.shape[2]))
    r, _, psi, curve = terms(moved)
    # The loss is convex, so there is one minimum. Reweighted least squares never overshoots and is
    # slow (65 steps for Hoffmann's runs); Newton's step is taken where it ends lower (10).
    for _ in range(100):
        ratio = np.divide(psi, r, out=np.zeros_like(r) + weights, where=np.abs(r) > 1e-300)
        pull = turned @ psi[..., None]
        bends = (ratio, np.maximum(curve, LEAST_BEND * ratio))
        ends = [moved + np.linalg.solve((turned * h[:, None]) @ z, pull)[..., 0] for h in bends]
        safe, fast = (terms(end) for end in ends)
        lower = (fast[1].sum(axis=1) < safe[1].sum(axis=1))[:, None]
        before, moved = moved, np.where(lower, ends[1], ends[0])
        r, _, psi, curve = (np.where(lower, f, s) for f, s in zip(fast, safe, strict=True))
        if np.abs(moved - before).max() <= 1e-6 * fitted.noise:
            break
    return moved, psi, curve.mean(axis=1)


def detect_phase(table: RunTable, fitted: Estimate) -> Phase | None:
    """Test whether residuals follow an event of the schedule, by an F test on one term.

    The law and a term that is 1 where the event falls into a run are fitted together, to first
    order, without runs far off the law. On the shipped first reference the late doubling has
    F = 13.2, p = .0009.

    Args:
        table: The runs; without the settings of each there is nothing to test.
        fitted: The point fit; only the two-term law with E, off its bounds, is tested.
    """
    general = isinstance(fitted.problem, GeneralProblem)
    if not table.recipes or fitted.at_bound or general or fitted.family.free < 5:
        return None
    events = {name: term for name, term in _events(table).items() if 0 < term.sum() < len(table)}
    jacobian = fitted.problem.jacobian(fitted.theta)
    root = np.sqrt(fitted.weights)
    near = np.abs(root * fitted.residual) <= FAR * max(fitted.noise, 1e-300)
    results = []
    for name, term in events.items():
        design = np.column_stack([jacobian, term])
        weighted = (root[:, None] * design)[near]
        y = (root * fitted.residual)[near]
        free = len(y) - design.shape[1]
        if free < 2 or np.linalg.matrix_rank(weighted / np.linalg.norm(weighted, axis=0)) < 6:
            continue
        alone = np.linalg.lstsq(weighted[:, :-1], y, rcond=None)[0]
        law_alone = float(((y - weighted[:, :-1] @ alone) ** 2).sum())
        moved = np.linalg.lstsq(weighted, y, rcond=None)[0]
        squares = float(((y - weighted @ moved) ** 2).sum())
        statistic = (law_alone - squares) / max(squares / free, 1e-300)
        probability = len(events) * f_tail(1, free, statistic)
        if probability < UNLIKELY and law_alone - squares > LEAST_EXPLAINED * law_alone:
            results.append(
                Phase(
                    event=name,
                    effect=float(moved[-1]),
                    error=float(abs(moved[-1]) / np.sqrt(statistic)),
                    statistic=float(statistic),
                    probability=probability,
                    met=tuple(bool(v) for v in term),
                    shift=fitted.problem.log_raw_jacobian() @ moved[:-1]
                    if _credible(np.asarray(moved[:-1]), fitted)
                    else np.zeros(5),
                    fitted=dataclasses.replace(fitted, residual=fitted.residual - design @ moved),
                )
            )
    return min(results, key=lambda r: r.probability, default=None)


def _events(table: RunTable) -> dict[str, Floats]:
    """1 where an event of the schedule falls into a run, else 0, (runs,) each."""
    late = []
    for recipe, tokens in zip(table.recipes, table.tokens, strict=True):
        rule = BatchRule.from_recipe(recipe)
        doublings = rule.doublings if rule is not None else ()
        late.append(any((1 - LATE) * tokens < d < tokens for d in doublings))
    schedules = np.array([str(r.get("train.schedule")) for r in table.recipes])
    names, codes, counts = np.unique(schedules, return_inverse=True, return_counts=True)
    shared = (schedules == "wsd") & (np.bincount(table.cluster)[table.cluster] > 1)
    return {
        "batch_step": np.array(late, dtype=np.float64),
        "shared_trunk": shared.astype(np.float64),
        "schedule": (codes != np.argmax(counts)) * float(len(names) == 2),
    }


def widen_by_misfit(
    spread: Uncertainty, misfit: Misfit | Phase | None, seed: int = 0
) -> Uncertainty:
    """Add the misfit's direction to the covariance, the draws and the moves of an estimate.

    Args:
        spread: Covariance, and draws and moves where there are any.
        misfit: The term that the runs need, or the event that they follow; None leaves everything
            as it is.
        seed: Seed of how far each draw is moved along the direction.
    """
    if misfit is None:
        return spread
    moves, draws = spread.moves, spread.draws
    if len(moves):  # a pair of opposite moves adds its square to the variance and no skewness
        half = misfit.shift / np.sqrt(2)
        moves = np.concatenate([moves, [half, -half]])
    if len(draws):
        amount = np.random.default_rng([seed, 1]).standard_normal(len(draws))
        moved = amount[:, None] * misfit.shift
        exponents = np.maximum(draws[:, 3:] + moved[:, 3:], EXPONENT_BOUNDS[0])
        draws = np.concatenate([draws[:, :3] * np.exp(moved[:, :3]), exponents], axis=1)
    covariance = spread.covariance + np.outer(misfit.shift, misfit.shift)
    return dataclasses.replace(spread, covariance=covariance, draws=draws, moves=moves)
