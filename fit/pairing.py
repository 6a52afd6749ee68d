"""Runs of two fits that belong together: what their errors share cancels in a comparison.

Two sweeps over the same cells (same N, D and seed, or same shape, D and seed) see the same batches
in the same order, so their losses err together. Leaving out the same cell, or drawing it again, in
both at once keeps that covariance; treated as strangers, the two would get intervals too wide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fit.errors import FitError
from fit.estimate import Estimate, estimate, solve
from fit.laws import law
from fit.objective import Problem
from fit.record import Floats
from fit.result import Fit, Points
from fit.uncertainty import BATCH, left_out

PARAMETERS = ("E", "A", "B", "alpha", "beta")
FAMILIES = ("chinchilla", "tied", "no-e")
"""Laws that live in (ln E, ln A, ln B, alpha, beta), whose covariances can be joined."""
SAME_ESTIMATE = 1e-3
"""How far ln E, ln A, ln B and the exponents of a fit made again may lie from the stored ones."""

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Two fits whose runs are matched, cell by cell."""

    fits: tuple[Fit, Fit]
    found: tuple[Estimate, Estimate]
    """Their estimates, made again from their own points."""
    codes: tuple[Index, Index]
    """Cluster of each run of either, on one count: (n,) and (m,)."""
    size: int
    """How many cells are in both."""
    correlation: float | None
    """Of the paired residuals; None below three pairs or where one of them does not vary."""


def pair(a: Fit, b: Fit) -> Pairs | None:
    """Match the cells of two fits, and join clusters that a pair connects.

    A cell that stands twice in a table, as replicates without a seed do, is left unpaired. None
    where a fit cannot be made again from its document, as one of another family of laws.
    """
    found = refitted(a), refitted(b)
    if found[0] is None or found[1] is None:
        return None
    left, right = a.points, b.points
    names = _cell_columns(left, right)
    rows = [_cells(p, names) for p in (left, right)]
    both = sorted(rows[0].keys() & rows[1].keys())
    i = np.array([rows[0][cell] for cell in both], dtype=np.int64)
    j = np.array([rows[1][cell] for cell in both], dtype=np.int64)
    return Pairs(
        fits=(a, b),
        found=(found[0], found[1]),
        codes=_joined(left.cluster, right.cluster, i, j),
        size=len(both),
        correlation=_correlation(left.residual[i], right.residual[j]),
    )


def refitted(fit: Fit) -> Estimate | None:
    """The fit's estimate made again from its own points; None where it cannot be."""
    if fit.law not in FAMILIES:
        return None
    p, options = fit.points, fit.options
    try:
        found = estimate(
            Problem.of(p.params, p.tokens, p.loss),
            law=fit.law,
            loss=options.get("loss", "adaptive"),
            delta=options.get("delta"),
        )
    except FitError:
        return None
    stored, again = fit.vector(), found.raw[_columns(fit)]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.array([n[0].isupper() for n in fit.parameters()])
        off = np.where(scale, np.log(again / stored), again - stored)
    same = (np.abs(off) < SAME_ESTIMATE) | (stored == again)
    return found if same.all() else None


def joint_covariance(pairs: Pairs) -> Floats:
    """Covariance of both fits' parameters together, (p + q, p + q).

    The blocks on the diagonal are the fits' own, with what was added for misfit; those beside it
    come from leaving the same cluster out of both.
    """
    groups = 1 + max(int(c.max()) for c in pairs.codes)
    moves, blocks = [], []
    for fit, found, codes in zip(pairs.fits, pairs.found, pairs.codes, strict=True):
        pick = _columns(fit)
        there, own = np.unique(codes, return_inverse=True)
        moved = np.zeros((groups, len(pick)))
        moved[there] = left_out(found, own)[:, pick]
        alone = np.unique(fit.points.cluster, return_inverse=True)[1]
        plain = left_out(found, alone)[:, pick]
        moves.append(moved)
        blocks.append(np.asarray(fit.covariance) - plain.T @ plain + moved.T @ moved)
    across = moves[0].T @ moves[1]
    return np.block([[blocks[0], across], [across.T, blocks[1]]])


def joint_draws(pairs: Pairs, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Bootstrap both fits with the same draws of their common clusters, (resamples, p) each.

    Clusters in both tables, in the first alone and in the second alone are drawn apart, so that
    each table keeps its number of clusters. Every refit starts at the point estimate.
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
        _refits(found, drawn[:, codes])[:, _columns(fit)]
        for fit, found, codes in zip(pairs.fits, pairs.found, pairs.codes, strict=True)
    )
    return a, b


def _refits(found: Estimate, weights: Floats) -> Floats:
    """E, A, B, alpha, beta of every weighting of the runs, (resamples, 5)."""
    size = max(1, BATCH // weights.shape[1])
    parts = []
    for start in range(0, len(weights), size):
        w = weights[start : start + size]
        starts = np.repeat(found.theta[None], len(w), axis=0)
        parts.append(solve(found.problem, starts, w, found.loss, found.family).theta)
    raw = found.problem.raw(np.concatenate(parts))
    raw[:, 0] = 0.0 if found.family.without_e else raw[:, 0]
    return np.asarray(raw)


def _columns(fit: Fit) -> Index:
    """Where the law's own parameters stand among E, A, B, alpha, beta."""
    return np.array([PARAMETERS.index(n) for n in law(fit.law).parameters], dtype=np.int64)


def _cell_columns(left: Points, right: Points) -> tuple[str, ...]:
    """What makes a cell, besides its tokens: the shape where both know it, else N; and the seed."""
    known = set(left.columns) & set(right.columns)
    size = ("width", "depth") if {"width", "depth"} <= known else ("params",)
    return (*size, "seed") if "seed" in known else size


def _cells(points: Points, names: tuple[str, ...]) -> dict[tuple[Any, ...], int]:
    """The row of every cell that stands in the table once."""
    columns = [points.params if n == "params" else points.columns[n] for n in names]
    cells = list(zip(points.tokens.tolist(), *(c.tolist() for c in columns), strict=True))
    count = Counter(cells)
    return {cell: row for row, cell in enumerate(cells) if count[cell] == 1}


def _joined(left: Floats, right: Floats, i: Index, j: Index) -> tuple[Index, Index]:
    """Cluster codes on one count: what a pair connects is one cluster."""
    _, a = np.unique(left, return_inverse=True)
    _, b = np.unique(right, return_inverse=True)
    b = b + int(a.max()) + 1
    size = int(b.max()) + 1
    edges = coo_matrix((np.ones(len(i)), (a[i], b[j])), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return component[a].astype(np.int64), component[b].astype(np.int64)


def _correlation(left: Floats, right: Floats) -> float | None:
    """Correlation of paired residuals, where it can be told."""
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(left, right)[0, 1])
