"""What runs of one size and length say about each other: the noise without any law.

Runs that differ in their seed alone scatter by noise and nothing else. Where the law's residuals
scatter by more, the law does not fit (the F test of lack of fit: Draper & Smith 1998, sec. 2.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fit.estimate import Estimate
from fit.objective import robust_scale
from fit.record import RunTable
from fit.result import Note, Replicates

SAME = ("width", "depth", "heads", "lr", "batch_tokens", "vocab", "seq_len", "unique_tokens")
"""Columns that must agree, beside params and tokens, where the runs have them."""
LEAST_DOF = 3
"""Differences between replicates below which nothing is said."""
FAR = 5.0
"""Noise units beyond which a run is an outlier and left out of the test."""
UNLIKELY = 0.01


def replicates(table: RunTable, found: Estimate) -> Replicates | None:
    """Noise between replicates and the test of lack of fit; None without replicates.

    Args:
        table: The runs.
        found: The law fitted to them; weights are kept, so the noise is of a run of mean weight.
    """
    residual = np.sqrt(found.weights) * found.residual
    near = np.abs(residual) <= FAR * max(found.noise, 1e-300)
    cells = _cells(table)[near]
    residual = residual[near]
    _, cells, counts = np.unique(cells, return_inverse=True, return_counts=True)
    within = len(cells) - len(counts)
    if within < LEAST_DOF:
        return None
    gap = residual - (np.bincount(cells, residual) / counts)[cells]
    several = counts[cells] > 1
    between = len(counts) - found.family.free
    pure = float(gap @ gap)
    statistic = probability = None
    if between > 0 and pure > 0 and found.loss.name != "asymmetric":  # which misses means by design
        lack = max(float(residual @ residual) - pure, 0.0)
        statistic = lack / between / (pure / within)
        probability = float(stats.f.sf(statistic, between, within))
    return Replicates(
        groups=int((counts > 1).sum()),
        runs=int(several.sum()),
        noise=robust_scale(gap[several], int((counts > 1).sum())),
        lack_of_fit=statistic,
        probability=probability,
    )


def _cells(table: RunTable) -> NDArray[np.int64]:
    """Code of each run's size, length and recipe."""
    names = ("params", "tokens", *(c for c in SAME if c in table.columns))
    columns = np.column_stack([table.column(c) for c in names])
    codes = np.unique(np.nan_to_num(columns, nan=-1.0), axis=0, return_inverse=True)[1]
    return np.asarray(codes, dtype=np.int64).reshape(-1)


def lack_of_fit(found: Replicates | None) -> tuple[Note, ...]:
    """A warning where replicates agree better with each other than with the law."""
    if found is None or found.probability is None or found.probability >= UNLIKELY:
        return ()
    message = (
        f"runs that differ in their seed alone agree to {found.noise:.2%}, but the law misses "
        f"their means by more than that allows (lack of fit, p = {found.probability:.1g}): the "
        "surface is not exactly this law. Fit a narrower range and compare: --where."
    )
    return (Note(code="lack_of_fit", severity="warning", message=message),)
