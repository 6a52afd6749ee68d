"""Intervals of a compute multiplier, with the noise that paired runs share taken out.

The interval is the set of multipliers m for which ln L_A(m C) and ln L_B(C) do not differ beyond
sampling (Fieller 1954). Unlike a standard error of m it stays valid where A levels off and m may
have no bound: an end is then 0 or infinite. `MultiplierProblem` offers two:

- `sandwich_intervals` (`hc3`), from the covariances: fast, and the default;
- `bootstrap_intervals` (`pairs`), from joint resamples: for two fits of runs alone, and for checks.

Two sweeps over the same cells (same N, D and seed, or same shape, D and seed) see the same batches
in the same order, so their losses err together. `pair_runs` matches such runs; leaving the same
cell out of both fits, or drawing it in both, keeps that covariance. Intervals that treat the two as
independent are too wide.

Where both laws forecast, the covariance is that of both posteriors together (`joint_posterior`):
paired runs move both, and what forecasts miss beyond the runs is in part alike on both sides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.errors import FitError, QueryError
from fit.estimation.objective import FitProblem
from fit.estimation.solver import Estimate, estimate, solve
from fit.inference.forecast import CHEAPER
from fit.inference.forecast_prior import SHAPES, prior_precision
from fit.inference.intervals import shifted
from fit.inference.profile import STEP
from fit.inference.resampling import BATCH, left_out
from fit.laws.families import law, two_term_laws
from fit.laws.forecast import FORECAST
from fit.results import Fit, Points

PARAMETERS = ("E", "A", "B", "alpha", "beta")
SAME_ESTIMATE = 1e-3
"""Largest difference in ln E, ln A, ln B and the exponents between a repeated and a stored fit."""
LARGEST_LOG_MULTIPLIER = math.log(1e6)
"""ln of the largest multiplier followed: beyond a million either way it counts as unbounded."""
SPACING = 0.05
"""Step of the grid in ln C on which A's loss is computed. Straight lines between its points change
ln m by less than 1e-4."""
ALIKE = 0.25
"""Least correlation, between two fits, of what forecasts miss and priors leave open: see
docs/league.md for how often intervals of multipliers held on public sweeps with it."""
LEAST_FLOPS = 1e4
"""Budget at which the grid begins at the lowest [FLOP]."""


Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRuns:
    """Two fits whose runs are matched, cell by cell."""

    fits: tuple[Fit, Fit]
    estimates: tuple[Estimate, Estimate]
    """Their point estimates, repeated from the runs that they store."""
    codes: tuple[Index, Index]
    """Cluster of each run, in one numbering for both fits: (n,) and (m,)."""
    rows: tuple[Index, Index]
    """Rows of the paired runs in either fit, (size,) each."""
    size: int
    """Number of cells in both."""
    correlation: float | None
    """Of the paired residuals; None below three pairs or where one side does not vary."""


def pair_runs(a: Fit, b: Fit) -> PairedRuns | None:
    """Match the runs of two fits, and join the clusters that a pair connects.

    Args:
        a: One fit.
        b: The other.

    Returns:
        The pairs; a cell that occurs twice in a table, as replicates without a seed do, is left
        unpaired. None where a fit cannot be repeated from its document, see `refit_from_points`.
    """
    first, second = refit_from_points(a), refit_from_points(b)
    if first is None or second is None:
        return None
    left, right = a.points, b.points
    names = _cell_columns(left, right)
    rows = [_cells(p, names) for p in (left, right)]
    both = sorted(rows[0].keys() & rows[1].keys())
    i = np.array([rows[0][cell] for cell in both], dtype=np.int64)
    j = np.array([rows[1][cell] for cell in both], dtype=np.int64)
    return PairedRuns(
        fits=(a, b),
        estimates=(first, second),
        codes=_join_clusters(left.cluster, right.cluster, i, j),
        rows=(i, j),
        size=len(both),
        correlation=_correlation(left.residual[i], right.residual[j]),
    )


def refit_from_points(fit: Fit) -> Estimate | None:
    """Repeat a fit's point estimate from the runs that it stores.

    Returns:
        The estimate; None for a law without the two terms in N and D, or where it differs from the
        stored one.
    """
    if fit.law not in two_term_laws():
        return None
    p, options = fit.points, fit.options
    try:
        repeated = estimate(
            FitProblem.of(p.params, p.tokens, p.loss),
            law=fit.law,
            loss=options.get("loss", "adaptive"),
            delta=options.get("delta"),
        )
    except FitError:
        return None
    stored, again = fit.vector(), repeated.raw[_columns(fit)]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.array([n[0].isupper() for n in fit.parameters()])
        difference = np.where(scale, np.log(again / stored), again - stored)
    same = (np.abs(difference) < SAME_ESTIMATE) | (stored == again)
    return repeated if same.all() else None


def joint_covariance(pairs: PairedRuns) -> Floats:
    """Covariance of both fits' parameters together, (p + q, p + q).

    The blocks on the diagonal are the fits' own, widening for misfit included; the off-diagonal
    ones come from leaving the same cluster out of both fits.
    """
    groups = 1 + max(int(c.max()) for c in pairs.codes)
    moves, blocks = [], []
    for fit, point, codes in zip(pairs.fits, pairs.estimates, pairs.codes, strict=True):
        pick = _columns(fit)
        present, index = np.unique(codes, return_inverse=True)
        moved = np.zeros((groups, len(pick)))
        moved[present] = left_out(point, index)[:, pick]
        unjoined = np.unique(fit.points.cluster, return_inverse=True)[1]
        plain = left_out(point, unjoined)[:, pick]
        moves.append(moved)
        # the joined clusters replace the fit's own in its covariance; its widening for misfit stays
        blocks.append(np.asarray(fit.covariance) - plain.T @ plain + moved.T @ moved)
    across = moves[0].T @ moves[1]
    return np.block([[blocks[0], across], [across.T, blocks[1]]])


def joint_posterior(a: Fit, b: Fit, pairs: PairedRuns | None) -> Floats:
    """Covariance of the parameters of both fits' forecasts together, (10 + 10, 10 + 10).

    The blocks on the diagonal are the posteriors' own. Across, paired runs move both by what each
    run informs of it, times the correlation of their residuals; and what each owes to its prior,
    which has what forecasts miss (`level`, `valley`), is correlated by `likeness`.
    """
    ends = [fit.posterior().covariance for fit in (a, b)]
    left, right = (c * np.sqrt(_prior_of(f)) for f, c in zip((a, b), ends, strict=True))
    across = likeness(pairs) * left @ right.T
    if pairs is not None and pairs.size and pairs.correlation is not None:
        i, j = pairs.rows
        across += max(pairs.correlation, 0.0) * run_influence(a)[:, i] @ run_influence(b)[:, j].T
    return np.block([[ends[0], across], [across.T, ends[1]]])


def likeness(pairs: PairedRuns | None) -> float:
    """Correlation of what two forecasts miss: `ALIKE`, or more where their residuals are alike.

    What the law misses of paired runs, and is alike on both sides, will be alike further on: the
    rest of the way from `ALIKE` to 1 is taken by the residuals' correlation times the share of the
    runs that are paired, so that a fit and itself have the correlation 1.
    """
    if pairs is None or pairs.correlation is None:
        return ALIKE
    share = pairs.size / max(len(fit.points.loss) for fit in pairs.fits)
    return ALIKE + (1 - ALIKE) * share * max(pairs.correlation, 0.0)


def run_influence(fit: Fit) -> Floats:
    """Moves of a forecast's parameters by one standard deviation of each run's loss, (10, n).

    Times their own transpose they are the part of the covariance that comes from the runs: what a
    run's standard deviation is follows from how much the posterior knows beyond its prior.
    """
    covariance, points = fit.posterior().covariance, fit.points
    steps = STEP * np.eye(SHAPES, len(FORECAST))
    thetas = shifted(fit.posterior(), np.concatenate([steps, -steps]))
    log_losses = ScalingLaw.from_fit(fit).log_losses(points.params, points.tokens)
    up, down = np.split(log_losses(thetas), 2)
    behind = CHEAPER * np.log(points.flops.max() / points.flops)
    slopes = (up - down) / (2 * STEP) / np.sqrt(1 + behind**2)
    own = covariance[:SHAPES, :SHAPES]
    informed = SHAPES - float((_prior_of(fit)[:SHAPES] * np.diag(own)).sum())
    scale = math.sqrt(max(informed, 0.0) / float(np.einsum("in,ij,jn->", slopes, own, slopes)))
    moves = covariance[:, :SHAPES] @ slopes * scale
    # Where outliers pull less than others the match is not exact: no more than all of it.
    excess = np.linalg.norm(np.linalg.solve(np.linalg.cholesky(own), moves[:SHAPES]), ord=2)
    return np.asarray(moves / max(1.0, float(excess)))


def _prior_of(fit: Fit) -> Floats:
    """Precision of a forecast's prior, (10,)."""
    assert fit.forecast is not None
    return prior_precision(fit.forecast, float(fit.points.loss.min()))


def joint_draws(pairs: PairedRuns, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Bootstrap both fits with the same draws of their common clusters.

    Clusters in both tables, in the first alone and in the second alone are drawn separately, so
    that each table keeps its number of clusters. Every refit starts at the point estimate.

    Args:
        pairs: The matched fits.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        Parameters of each fit in every draw, (resamples, p) and (resamples, q).
    """
    left, right = pairs.codes
    both = np.intersect1d(left, right)
    drawn = np.zeros((resamples, 1 + int(max(left.max(), right.max()))))
    random = np.random.default_rng(seed)
    for stratum in (both, np.setdiff1d(left, both), np.setdiff1d(right, both)):
        if len(stratum):
            even = np.full(len(stratum), 1 / len(stratum))
            drawn[:, stratum] = random.multinomial(len(stratum), even, size=resamples)
    a, b = (
        _refit(point, drawn[:, codes])[:, _columns(fit)]
        for fit, point, codes in zip(pairs.fits, pairs.estimates, pairs.codes, strict=True)
    )
    return a, b


def _refit(point: Estimate, weights: Floats) -> Floats:
    """E, A, B, alpha, beta of every weighting (resamples, n) of the runs, (resamples, 5)."""
    size = max(1, BATCH // weights.shape[1])
    parts = []
    for start in range(0, len(weights), size):
        w = weights[start : start + size]
        starts = np.repeat(point.theta[None], len(w), axis=0)
        parts.append(solve(point.problem, starts, w, point.loss, point.family).theta)
    raw = point.problem.raw(np.concatenate(parts))
    raw[:, 0] = 0.0 if point.family.without_e else raw[:, 0]
    return np.asarray(raw)


def _columns(fit: Fit) -> Index:
    """Indices of the law's parameters among E, A, B, alpha, beta."""
    return np.array([PARAMETERS.index(n) for n in law(fit.law).parameters], dtype=np.int64)


def _cell_columns(left: Points, right: Points) -> tuple[str, ...]:
    """Columns that identify a cell besides its tokens: shape where both have it, else N; seed."""
    common = set(left.columns) & set(right.columns)
    size = ("width", "depth") if {"width", "depth"} <= common else ("params",)
    return (*size, "seed") if "seed" in common else size


def _cells(points: Points, names: tuple[str, ...]) -> dict[tuple[Any, ...], int]:
    """The row of every cell that occurs in the table once."""
    columns = [points.params if n == "params" else points.columns[n] for n in names]
    cells = list(zip(points.tokens.tolist(), *(c.tolist() for c in columns), strict=True))
    count = Counter(cells)
    return {cell: row for row, cell in enumerate(cells) if count[cell] == 1}


def _join_clusters(left: Floats, right: Floats, i: Index, j: Index) -> tuple[Index, Index]:
    """Cluster codes in one numbering, (n,) and (m,): clusters that pairs connect become one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    _, a = np.unique(left, return_inverse=True)
    _, b = np.unique(right, return_inverse=True)
    b = b + int(a.max()) + 1
    size = int(b.max()) + 1
    edges = coo_matrix((np.ones(len(i)), (a[i], b[j])), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return component[a].astype(np.int64), component[b].astype(np.int64)


def _correlation(left: Floats, right: Floats) -> float | None:
    """Correlation of paired residuals; None where it is not defined."""
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(left, right)[0, 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplierProblem:
    """Two laws and the budgets of B whose losses A has to reach."""

    a: ScalingLaw
    b: ScalingLaw
    log_flops: Floats
    """ln of B's budgets C [FLOP], (j,)."""
    log_scales: Floats
    """ln of the nats per token of one unit of comparison, for A and B, (2,)."""

    @property
    def grid(self) -> Floats:
        """Logarithms ln C of the budgets at which A's loss is computed, (k,)."""
        low = max(float(self.log_flops.min()) - LARGEST_LOG_MULTIPLIER, math.log(LEAST_FLOPS))
        return np.arange(low, float(self.log_flops.max()) + LARGEST_LOG_MULTIPLIER, SPACING)

    def curves(self, theta_a: Floats, theta_b: Floats) -> tuple[Floats, Floats]:
        """Loss curves of both laws for m parameter vectors each, (m, p) and (m, q).

        Returns:
            ln L of A on the grid (m, k) and of B at its budgets (m, j), in one unit.
        """
        a = self.a.splits(np.exp(self.grid))(theta_a).log_loss - self.log_scales[0]
        b = self.b.splits(np.exp(self.log_flops))(theta_b).log_loss - self.log_scales[1]
        return a, b

    def sandwich_intervals(
        self, level: float, pairs: PairedRuns | None
    ) -> Iterator[tuple[float, float]]:
        """Low and high of the multiplier at each budget, from the sandwich covariances.

        The reference is Student's t, with the smaller of the two fits' degrees of freedom where
        clusters are paired, and else with those of Welch 1947.

        Raises:
            QueryError: The runs of a fit leave no degree of freedom.
        """
        centre_a, centre_b = self.curves(self.a.theta[None], self.b.theta[None])
        slope_a, slope_b = self._slopes(_covariance(self.a, self.b, pairs))
        paired = pairs is not None and pairs.size > 0
        for j, log_flops in enumerate(self.log_flops):
            error = np.sqrt(((slope_a - slope_b[:, j, None]) ** 2).sum(axis=0))
            parts = (slope_a**2).sum(axis=0), (slope_b[:, j, None] ** 2).sum(axis=0)
            dof = _degrees(self.a, self.b, parts, paired=paired)
            gap = centre_a[0] - centre_b[0, j]
            outside = np.abs(gap) - stdtrit(dof, 0.5 + level / 2) * error
            low, high = _acceptance_interval(self.grid, gap, outside)
            yield _multiplier(low - log_flops), _multiplier(high - log_flops)

    def bootstrap_intervals(
        self, level: float, pairs: PairedRuns, resamples: int, seed: int
    ) -> Iterator[tuple[float, float]]:
        """Low and high at each budget as percentiles over joint bootstrap draws."""
        a, b = self.curves(*joint_draws(pairs, resamples, seed))
        tails = [(1 - level) / 2, (1 + level) / 2]
        for j, log_flops in enumerate(self.log_flops):
            met = np.array([_crossing_at(self.grid, curve, b[r, j]) for r, curve in enumerate(a)])
            # an observed value: met may be infinite, and infinities cannot be interpolated
            low, high = np.quantile(met, tails, method="closest_observation") - log_flops
            yield _multiplier(low), _multiplier(high)

    def _slopes(self, covariance: Floats) -> tuple[Floats, Floats]:
        """Change of both curves per standard error along the covariance's axes, (p + q, ...)."""
        values, vectors = np.linalg.eigh(covariance)
        axes = (vectors * np.sqrt(np.clip(values, 0.0, None))).T
        size = len(self.a.theta)
        steps = STEP * np.concatenate([axes, -axes])
        moved = [
            np.repeat(s.theta[None], len(steps), axis=0)
            if s.fit is None
            else shifted(s.fit.posterior(), part)
            for s, part in ((self.a, steps[:, :size]), (self.b, steps[:, size:]))
        ]
        ends = self.curves(moved[0], moved[1])
        a, b = ((e[: len(axes)] - e[len(axes) :]) / (2 * STEP) for e in ends)
        return a, b


def _covariance(a: ScalingLaw, b: ScalingLaw, pairs: PairedRuns | None) -> Floats:
    """Covariance of both laws' parameters together; a published law is taken as exact."""
    if a.fit is not None and b.fit is not None and forecasts(a):
        joint = joint_posterior(a.fit, b.fit, pairs)
    elif pairs is not None and pairs.size:
        joint = joint_covariance(pairs)
    else:
        joint = np.zeros((len(a.theta) + len(b.theta),) * 2)
        if a.fit is not None:
            joint[: len(a.theta), : len(a.theta)] = a.fit.posterior().covariance
        if b.fit is not None:
            joint[len(a.theta) :, len(a.theta) :] = b.fit.posterior().covariance
    if not np.isfinite(joint).all():
        raise QueryError(
            "the runs of a fit leave no degree of freedom for an interval. Add runs and fit again."
        )
    names = (*a.law.parameters, *b.law.parameters)
    theta = np.concatenate([a.theta, b.theta])
    # A scale (E, A, B) at zero is at its bound: it stays there, whatever its row says.
    fixed = np.array([n[0].isupper() for n in names]) & (theta == 0)
    joint[fixed, :] = joint[:, fixed] = 0.0
    return joint


def _degrees(a: ScalingLaw, b: ScalingLaw, parts: tuple[Floats, Floats], *, paired: bool) -> Floats:
    """Degrees of freedom of the difference (k,), by Welch 1947 where the two are independent."""
    dofs = [_dof(s.fit) for s in (a, b) if s.fit is not None]
    if paired or len(dofs) < 2:
        return np.full(len(parts[0]), float(min(dofs)))
    total = np.maximum(parts[0] + parts[1], 1e-300)
    shares = [p / total for p in parts]
    spread = shares[0] ** 2 / dofs[0] + shares[1] ** 2 / dofs[1]
    return np.asarray(1 / np.maximum(spread, 1e-12))


def _dof(fit: Fit) -> float:
    """Degrees of freedom of what a fit answers by."""
    return fit.interval.dof if fit.forecast is None else fit.forecast.dof


def forecasts(source: ScalingLaw) -> bool:
    """Whether a law forecasts, rather than only describing its runs."""
    return source.fit is not None and source.fit.forecast is not None


def like_with_like(a: ScalingLaw, b: ScalingLaw) -> tuple[ScalingLaw, ScalingLaw]:
    """Both as they are, or, where one fit has a forecast and the other has none, without it."""
    fits = [s for s in (a, b) if s.fit is not None]
    return (a, b) if all(map(forecasts, fits)) else (a.plain, b.plain)


def _acceptance_interval(grid: Floats, gap: Floats, outside: Floats) -> tuple[float, float]:
    """Ends of the range of ln C_A in which the two losses do not differ significantly.

    Args:
        grid: The budgets ln C_A, (k,).
        gap: ln L_A less ln L_B, falling, (k,).
        outside: Size of the gap less its critical value, (k,); negative if not significant.
    """
    at = _crossing_at(grid, gap, 0.0)
    if math.isfinite(at):  # added as a point: the interval may be narrower than a step of the grid
        centre = int(np.searchsorted(grid, at))
        error = float(np.interp(at, grid, outside - np.abs(gap)))
        outside = np.insert(outside, centre, min(error, 0.0))
        grid = np.insert(grid, centre, at)
    else:
        centre = len(grid) - 1 if at > 0 else 0
        if outside[centre] > 0:
            return at, at
    left = np.flatnonzero(outside[:centre] > 0)
    right = np.flatnonzero(outside[centre:] > 0)
    low = -math.inf if not len(left) else _crossing(grid, outside, int(left[-1]))
    high = math.inf if not len(right) else _crossing(grid, outside, centre + int(right[0]) - 1)
    return low, high


def _crossing(grid: Floats, values: Floats, i: int) -> float:
    """Where the straight line between points i and i + 1 crosses zero."""
    share = values[i] / (values[i] - values[i + 1])
    return float(grid[i] + share * (grid[i + 1] - grid[i]))


def _crossing_at(grid: Floats, falling: Floats, level: float) -> float:
    """Where a falling curve crosses a level; infinite where it never does."""
    if falling[-1] > level:
        return math.inf
    if falling[0] < level:
        return -math.inf
    return float(np.interp(-level, -falling, grid))


def _multiplier(log_ratio: float) -> float:
    """A multiplier from its logarithm; 0 or infinite beyond `LARGEST_LOG_MULTIPLIER`."""
    if abs(log_ratio) < LARGEST_LOG_MULTIPLIER:
        return float(np.exp(log_ratio))
    return math.inf if log_ratio > 0 else 0.0
