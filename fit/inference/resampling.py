"""Covariance by leaving out clusters, and bootstraps of whole clusters: pairs and wild.

Runs that share a trunk, a shape's checkpoints or a seed have correlated errors, so clusters, not
runs, are left out and drawn. The sandwich is HC3 (MacKinnon & White 1985) carried over to robust
losses and clusters: cluster g moves the estimate by (H - H_g)^-1 s_g when it is left out, and the
covariance is the sum of these moves' squares. Its reference is Student's t.

The pairs bootstrap draws clusters with replacement. In the wild bootstrap the runs stay and their
residuals change sign, a cluster at a time: every run keeps its size and length, so that a resample
never loses a corner of the sweep, as pairs can. Its residuals are those of the law fitted without
their own cluster, because plain ones are too small and so are the draws from them. With least
squares the draws' covariance is then that of HC3.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fit.data.progress import report_stage
from fit.data.records import Floats
from fit.errors import FitError
from fit.estimation.objective import LN_E, FitProblem, derivatives, value
from fit.estimation.solver import Estimate, Solution, solve
from fit.inference.intervals import FEWEST_CLUSTERS, METHODS, NORMAL

BATCH = 1_000_000
"""Weights (resamples x runs) solved at once: 8 MB an array. The few that need many steps make them
together, and a step of a few costs as much as one of a hundred."""
BLOCK = 250_000
"""Weights of the resamples tried at one another's solutions, and of one wild bootstrap's solve."""
CLOUD, CLOUD_CELLS = 300, 20_000_000
"""Candidates for where a resample starts, and at most so many times runs: 160 MB."""
GROUPS = 20_000
"""Clusters left out at once."""
LEAST_INFORMATION = 1e-12
"""Information about a direction, over that of its parameters one by one, that is rounding alone."""
FLAT = 1e-8
"""Effect of a parameter on the losses, over that of the one with most, below which it has none."""
LEAST_NOISE = 1e-3
"""Scatter about the law [of the loss] that runs have at least where they determine nothing."""
MOST_SCATTER = 1e12
"""The most, where nearly every run lies beyond the threshold of the loss and none has a say."""
LEAST_BATCH = 4
"""Resamples solved at once at least, so that there are others to be checked against."""
FEW_CLUSTERS = 12
"""Up to here Webb's six points, above two: 2^5 signs of 5 clusters are but 32 different draws."""
WEBB = np.sqrt([0.5, 1.0, 1.5])


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """Covariance, bootstrap draws and jackknife moves of an estimate.

    The coordinates are the parameters on raw counts, scales as their ln: for the two-term laws
    ln E, ln A, ln B, alpha and beta.
    """

    covariance: Floats
    """(p, p); infinite where there is but one cluster."""
    dof: int
    quantile: float
    """Student's t at the level."""
    draws: Floats = field(default_factory=lambda: np.empty((0, 0)))
    """(resamples, p) parameters on raw counts, scales not as logarithms; empty if not drawn."""
    moves: Floats = field(default_factory=lambda: np.empty((0, 0)))
    """(groups, p): moves of the estimate without each cluster; empty unless a method needs them."""


def estimate_uncertainty(
    fitted: Estimate,
    codes: NDArray[np.int64],
    *,
    interval: str,
    level: float,
    resamples: int,
    seed: int,
) -> Uncertainty:
    """Compute what a method of intervals needs: the covariance, draws and moves.

    Args:
        fitted: The point fit.
        codes: Cluster of each run, (n,).
        interval: One of `intervals.METHODS`.
        level: Confidence level, such as 0.9.
        resamples: How many draws.
        seed: Seed of the draws.

    Raises:
        FitError: No parameter is free to move, or the intervals come from draws, and there are too
            few clusters to draw from.
    """
    if not _free_basis(fitted).shape[1]:
        raise FitError(
            f"every parameter that is not held lies on a bound ({', '.join(fitted.at_bound)}): "
            "these runs say nothing about them. Hold fewer, or fit runs that depend on them."
        )
    method, plain = METHODS[interval], sandwich(fitted, codes, level)
    groups = len(np.unique(codes))
    several = groups > 1
    least = 2 if method.signs else FEWEST_CLUSTERS
    if method.needs_draws and groups < least:
        raise FitError(
            f"interval '{interval}' needs runs of at least {least} clusters (independent "
            f"trajectories) to draw from; found {groups}. Use hc3."
        )
    draws = moves = np.empty((0, len(fitted.theta)))
    if resamples and several and method.signs:
        stretch = plain.quantile / NORMAL.inv_cdf(0.5 + level / 2)
        draws = wild_bootstrap(fitted, codes, resamples, seed, stretch)
    elif resamples and several:
        draws = bootstrap(fitted, codes, resamples, seed)
    if method.needs_moves:
        moves = left_out(fitted, clusters(codes))
    return dataclasses.replace(plain, draws=draws, moves=moves)


def clusters(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes from 0 without gaps."""
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def sandwich(fitted: Estimate, codes: NDArray[np.int64], level: float) -> Uncertainty:
    """HC3 by cluster, of every parameter that is not held.

    A parameter on a bound is free here: the runs that put it there say how far from it the truth
    may lie, and what else would move with it. What only one cluster says has the scatter of the
    other runs about the law, since leaving that cluster out leaves nothing to compare it with; what
    no run says has a variance that nothing can mistake for knowledge. With a single cluster nothing
    is left to compare, and the covariance is infinite.

    Args:
        fitted: The point fit.
        codes: Cluster of each run, (n,).
        level: Confidence level, such as 0.9.
    """
    codes = clusters(codes)
    groups = int(codes.max()) + 1
    dof = max(1, min(groups - 1, len(codes) - fitted.family.free))
    size = len(fitted.theta)
    covariance = np.full((size, size), np.inf)
    if groups > 1:
        basis = _free_basis(fitted, on_bounds=True)
        moves, alone = _moves(fitted, codes, basis)
        rows = np.concatenate([np.sqrt((groups - 1) / groups) * moves, alone])
        rows = rows @ (fitted.problem.log_raw_jacobian() @ basis).T
        covariance = rows.T @ rows
    return Uncertainty(covariance=covariance, dof=dof, quantile=t_quantile(dof, 0.5 + level / 2))


def t_quantile(dof: float, probability: float) -> float:
    """Quantile of Student's t at a probability from 0.5 up, by Newton's method in logarithms.

    As scipy's `stdtrit`, whose import takes a quarter of a second, an eighth of a whole fit.
    """
    if probability in (0.5, 1.0):
        return math.inf if probability == 1 else 0.0
    t = NORMAL.inv_cdf(probability)
    peak = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi * dof)
    for _ in range(20):
        tail = f_tail(1, dof, t * t) / 2
        slope = t * math.exp(peak - (dof + 1) / 2 * math.log1p(t * t / dof))
        step = tail / slope * math.log(tail / (1 - probability))
        t *= math.exp(step)
        if abs(step) < 1e-13:
            break
    return t


def f_tail(more: float, rest: float, statistic: float) -> float:
    """Probability of an F of (more, rest) degrees of freedom above a statistic; as `fdtrc`."""
    if not statistic > 0:
        return 1.0
    return _beta(rest / 2, more / 2, rest / (rest + more * float(statistic)))


def _beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function at x < 1, by its continued fraction.

    Source: Press et al. 2007, Numerical Recipes, sec. 6.4, by the method of Lentz.
    """
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(b, a, 1 - x)
    if x <= 0:
        return 0.0
    d = 1 / (1 - (a + b) * x / (a + 1))
    c, fraction = 1.0, d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= c * d
        if abs(fraction - before) <= 1e-16 * abs(fraction):
            break
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return fraction / a * math.exp(front + a * math.log(x) + b * math.log1p(-x))


def left_out(fitted: Estimate, codes: NDArray[np.int64]) -> Floats:
    """How far the estimate moves when each cluster is left out, scaled so that squares add up.

    Parameters on a bound stay there.

    Args:
        fitted: The point fit.
        codes: Cluster of each run, 0 to groups - 1, (n,).

    Returns:
        (groups, p), in the coordinates of `Uncertainty.covariance`.
    """
    basis = _free_basis(fitted)
    groups = int(codes.max()) + 1
    moves, _ = _moves(fitted, codes, basis)
    to_raw = fitted.problem.log_raw_jacobian() @ basis
    return np.asarray(np.sqrt((groups - 1) / groups) * moves @ to_raw.T)


def _moves(fitted: Estimate, codes: NDArray[np.int64], basis: Floats) -> tuple[Floats, Floats]:
    """Moves of the free directions (f) without each cluster, and what single clusters determine.

    Returns:
        (groups, f), and (k, f) whose squares add to theirs.
    """
    groups, free = int(codes.max()) + 1, basis.shape[1]
    jacobian = fitted.problem.jacobian(fitted.theta) @ basis
    residual, m = fitted.residual, fitted.problem.values(fitted.theta[None])[0]
    bound = any((basis[fitted.problem.names.index(n)] != 0).any() for n in fitted.at_bound)
    if bound:  # one step to where the minimum would be without bounds, where scores add up to zero
        _, psi, curve = (fitted.weights * v for v in fitted.loss.terms(residual, m))
        root = np.sqrt(np.maximum(curve, 0.0))
        length = _lengths(root[:, None] * jacobian)
        aim = np.divide(psi, root, out=np.zeros_like(psi), where=root > 0)
        step = np.linalg.lstsq(root[:, None] * jacobian / length, aim, rcond=1e-9)[0]
        shift = np.where(root > 0, jacobian @ (step / length), 0.0)
        residual, m = residual - shift, m + shift
    _, psi, curve = (fitted.weights * v for v in fitted.loss.terms(residual, m))
    exact = derivatives(fitted.problem, fitted.theta[None], fitted.weights[None], fitted.loss)[2][0]
    bread = basis.T @ exact @ basis
    # The exact Hessian of a logarithm off its minimum holds the slope, which is not information.
    if bound or not free or np.linalg.eigvalsh(bread).min() <= 0:
        bread = jacobian.T @ (np.maximum(curve, 0.0)[:, None] * jacobian)
    parts = grams(np.sqrt(np.maximum(curve, 0.0))[:, None] * jacobian, codes)
    unit = _lengths(np.sqrt(np.maximum(curve, 0.0))[:, None] * jacobian)
    both = unit[:, None] * unit
    bread, parts = bread / both, parts / both
    scores = by_cluster(psi[:, None] * jacobian / unit, codes)
    moves, alone = np.zeros((groups, free)), [np.empty((0, free))]
    scatter = _scatter(fitted, psi, curve)
    for some in np.array_split(np.arange(groups), groups // GROUPS + 1):
        values, vectors = np.linalg.eigh(bread - parts[some])
        known = values > LEAST_INFORMATION
        inverse = np.divide(1.0, values, out=np.zeros_like(values), where=known)
        moves[some] = np.einsum(
            "gij,gj,gkj,gk->gi", vectors, inverse, vectors, scores[some], optimize=True
        )
        rows = vectors.transpose(0, 2, 1)[~known]
        whole = np.einsum("ki,ij,kj->k", rows, bread, rows)
        alone.append(rows * np.sqrt(scatter / np.maximum(whole, LEAST_INFORMATION))[:, None])
    return moves / unit, np.concatenate(alone) / unit


def _lengths(columns: Floats) -> Floats:
    """Lengths of columns (n, f); `FLAT` of the longest at least, and 1 where all are zero."""
    lengths = np.linalg.norm(columns, axis=0)
    least = FLAT * lengths.max(initial=0.0)
    return np.asarray(np.maximum(lengths, least if least > 0 else 1.0))


def _scatter(fitted: Estimate, psi: Floats, curve: Floats) -> float:
    """Variance of a direction with one unit of information, were all runs alike.

    At least that of runs which scatter by `LEAST_NOISE` about the law: losses that lie on it to the
    last digit say nothing about a parameter that they do not depend on.
    """
    weights = np.where(fitted.weights > 0, fitted.weights, 1.0)
    bend = max(float((curve / weights).mean()), 1e-300)
    dof = max(1, len(psi) - fitted.family.free)
    spread = float((psi**2 / weights).sum()) / dof / bend
    return min(max(spread, LEAST_NOISE**2 * bend), MOST_SCATTER)


def by_cluster(rows: Floats, codes: NDArray[np.int64]) -> Floats:
    """Sums of rows (n, k) over each cluster, (groups, k); codes from 0 without gaps."""
    order = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.asarray(np.add.reduceat(rows[order], first, axis=0))


def grams(rows: Floats, codes: NDArray[np.int64]) -> Floats:
    """Sums of outer products of rows (n, k) over each cluster, (groups, k, k)."""
    columns = [by_cluster(rows[:, i : i + 1] * rows, codes) for i in range(rows.shape[1])]
    return np.stack(columns, axis=1)


def _free_basis(fitted: Estimate, *, on_bounds: bool = False) -> Floats:
    """Columns of the family's basis, without those on a bound unless asked for."""
    basis = fitted.family.basis
    held = np.array([n in fitted.at_bound and not on_bounds for n in fitted.problem.names])
    held[LN_E] |= fitted.family.without_e
    keep = ~((held @ np.abs(basis)) > 0)
    return np.asarray(basis[:, keep])


def bootstrap(fitted: Estimate, codes: NDArray[np.int64], resamples: int, seed: int) -> Floats:
    """Refit resamples of whole clusters, all at once.

    Each starts at the best of a cloud of candidates, chosen by one matrix product; afterwards every
    resample is tried at the solutions of others, and what is beaten is polished from there.

    Args:
        fitted: The point fit; its loss is kept.
        codes: Cluster of each run, (n,).
        resamples: How many.
        seed: Seed of the draws.

    Returns:
        (resamples, p) parameters on raw counts; of the fast laws E, A, B, alpha, beta.
    """
    codes = clusters(codes)
    groups = int(codes.max()) + 1
    random = np.random.default_rng(seed)
    out = np.empty((resamples, len(fitted.theta)))
    cloud = _cloud(fitted, random)
    costs = _candidates(fitted, cloud)
    size = max(LEAST_BATCH, BATCH // len(codes))
    for start in range(0, resamples, size):
        report_stage(f"bootstrap: {start} of {resamples} resamples")
        count = min(size, resamples - start)
        drawn = random.multinomial(groups, np.full(groups, 1 / groups), size=count)
        weights = drawn[:, codes] * fitted.weights
        out[start : start + count] = _refit_resamples(fitted, weights, cloud, costs).theta
    raw = fitted.problem.raw(out)
    if fitted.family.without_e:
        raw[:, LN_E] = 0.0
    return raw


def _refit_resamples(fitted: Estimate, weights: Floats, cloud: Floats, costs: Floats) -> Solution:
    """Solve the resamples, then cross-check them against one another."""
    starts = cloud[np.argmin(costs @ weights.T, axis=0)]
    solved = solve(fitted.problem, starts, weights, fitted.loss, fitted.family)
    best, least = np.empty_like(solved.theta), np.empty_like(solved.value)
    size = max(LEAST_BATCH, BLOCK // weights.shape[1])
    for some in (slice(i, i + size) for i in range(0, len(weights), size)):
        others = solved.theta[some][:: max(1, len(weights[some]) // 200)]
        costs = _candidates(fitted, others) @ weights[some].T
        best[some], least[some] = others[np.argmin(costs, axis=0)], costs.min(axis=0)
    beaten = np.flatnonzero(least < solved.value * (1 - 1e-9))
    if len(beaten):
        again = solve(fitted.problem, best[beaten], weights[beaten], fitted.loss, fitted.family)
        better = again.value < solved.value[beaten]
        solved.theta[beaten[better]] = again.theta[better]
        solved.value[beaten[better]] = again.value[better]
    return solved


def _candidates(fitted: Estimate, thetas: Floats) -> Floats:
    """Loss of every run at every candidate, (candidates, n)."""
    out = np.empty((len(thetas), len(fitted.residual)))
    size = max(1, BATCH // out.shape[1])
    for start in range(0, len(thetas), size):
        m = fitted.problem.values(thetas[start : start + size])
        out[start : start + size] = fitted.loss.terms(fitted.problem.y - m, m)[0]
    return out


def _cloud(fitted: Estimate, random: np.random.Generator) -> Floats:
    """Candidates around the estimate along its own uncertainty, and the estimate itself."""
    size = max(LEAST_BATCH, min(CLOUD, CLOUD_CELLS // len(fitted.residual)))
    basis = _free_basis(fitted)
    jacobian = np.sqrt(fitted.weights)[:, None] * (fitted.problem.jacobian(fitted.theta) @ basis)
    # Of J'J + 1e-9 the inverse's lower factor, without forming either: J may lack full rank.
    ridge = np.sqrt(1e-9) * np.eye(basis.shape[1])
    upper = np.linalg.qr(np.vstack([jacobian, ridge])[:, ::-1], mode="r")
    factor = np.linalg.inv(upper)[::-1, ::-1]
    spread = factor * np.sign(np.diag(factor)) * max(fitted.noise, 1e-9) * 1.5
    moved = fitted.theta + (random.standard_normal((size, basis.shape[1])) @ spread.T) @ basis.T
    moved[0] = fitted.theta
    return np.asarray(moved)


def percentiles(draws: Floats, level: float) -> tuple[Floats, Floats]:
    """Low and high percentile of each column."""
    tails = 50 * (1 - level)
    low, high = np.percentile(draws, [tails, 100 - tails], axis=0)
    return low, high


def kappa(fitted: Estimate, *, known_e: bool = False) -> float:
    """Condition number of the centred Jacobian with unit columns.

    An E of zero is left out, and one that is known besides.
    """
    without = known_e or "E" in fitted.at_bound
    keep = np.array([n != "E" or not without for n in fitted.problem.names])
    keep[LN_E] &= not fitted.family.without_e
    basis = fitted.family.basis[:, (keep @ np.abs(fitted.family.basis)) > 0]
    jacobian = np.sqrt(fitted.weights)[:, None] * (fitted.problem.jacobian(fitted.theta) @ basis)
    norms = np.linalg.norm(jacobian, axis=0)
    if (norms == 0).any():
        return float("inf")
    return float(np.linalg.cond(jacobian / norms))


def e_is_needed(fitted: Estimate, without: Estimate) -> float:
    """F statistic of E = 0: loss given up by leaving E out, in units of the noise."""
    weights = fitted.weights[None]
    full = float(value(fitted.problem, fitted.theta[None], weights, fitted.loss)[0])
    less = float(value(fitted.problem, without.theta[None], weights, fitted.loss)[0])
    dof = len(fitted.residual) - fitted.family.free
    return (less - full) / max(full, 1e-300) * dof


def wild_bootstrap(
    fitted: Estimate, codes: NDArray[np.int64], resamples: int, seed: int, stretch: float = 1.0
) -> Floats:
    """Refit losses whose residuals are multiplied by random weights of mean 0 and variance 1.

    Args:
        fitted: The point fit; its loss and weights are kept.
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
    internal = left_out(fitted, codes) @ np.linalg.inv(fitted.problem.log_raw_jacobian()).T
    shifts = np.einsum("nj,nj->n", fitted.problem.jacobian(fitted.theta), internal[codes])
    outside = stretch * (shrink * fitted.residual + shifts)
    out = np.empty((resamples, len(fitted.theta)))
    size = max(LEAST_BATCH, BLOCK // len(codes))
    for start in range(0, resamples, size):
        report_stage(f"wild bootstrap: {start} of {resamples} resamples")
        signs = _signs(random, min(size, resamples - start), groups)
        y = fitted.problem.y - fitted.residual + signs[:, codes] * outside
        problem = dataclasses.replace(fitted.problem, y=y)
        guess = fitted.theta + stretch * signs @ internal
        out[start : start + size] = _refit_signs(fitted, problem, guess)
    raw = fitted.problem.raw(out)
    if fitted.family.without_e:
        raw[:, LN_E] = 0.0
    return raw


def _signs(random: np.random.Generator, count: int, groups: int) -> Floats:
    """Weights of the clusters, (count, groups)."""
    shape = (count, groups)
    signs = random.choice([-1.0, 1.0], size=shape)
    return signs if groups > FEW_CLUSTERS else signs * random.choice(WEBB, size=shape)


def _refit_signs(fitted: Estimate, problem: FitProblem, guess: Floats) -> Floats:
    """The better minimum from the estimate and from the linear prediction, (S, 5)."""
    weights = np.broadcast_to(fitted.weights, problem.y.shape)
    near = solve(problem, guess, weights, fitted.loss, fitted.family)
    at_home = np.broadcast_to(fitted.theta, guess.shape)
    lower = np.flatnonzero(value(problem, at_home, weights, fitted.loss) < near.value)
    if len(lower):
        again = solve(
            problem.subset(lower), at_home[lower], weights[lower], fitted.loss, fitted.family
        )
        better = again.value < near.value[lower]
        near.theta[lower[better]] = again.theta[better]
    return near.theta
