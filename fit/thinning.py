"""A table too long to refit thousands of times, thinned evenly over its compute.

The choice looks at compute alone, never at the loss, so that it biases nothing; rows of rare
budgets are all kept, those of common ones drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fit.record import Floats, RunTable

MOST_RUNS = 10_000
"""Runs fitted: 4000 resamples of them take 20 s of one core, and at 0.3% noise they tell exponents
to .001, finer than any law is true."""
STEP = np.log(2.0)
"""Width of a bin in ln C."""


def thinned(table: RunTable, *, most: int = MOST_RUNS, seed: int = 0) -> RunTable:
    """The table itself, or of a longer one `most` rows in their order.

    Args:
        table: The runs.
        most: Rows kept.
        seed: Of the draw within bins.
    """
    if len(table) <= most:
        return table
    bins = _bins(table.flops)
    counts = np.bincount(bins)
    room = _shares(counts, most)[bins]
    # a row's place in the shuffled order of its own bin decides whether it fits into the bin's room
    shuffled = np.random.default_rng(seed).permutation(len(table))
    order = shuffled[np.argsort(bins[shuffled], kind="stable")]
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table)) - np.repeat(np.cumsum(counts) - counts, counts)
    return table.take(place < room)


def _bins(flops: Floats) -> NDArray[np.int64]:
    """Codes of bins in ln C, ascending, without gaps."""
    codes = np.floor(np.log(flops / flops.min()) / STEP)
    return np.asarray(np.unique(codes, return_inverse=True)[1].astype(np.int64))


def _shares(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """How many rows of each bin are kept: all of the small bins, equal parts of the others."""
    shares = np.zeros_like(counts)
    left, bins = most, len(counts)
    for i in np.argsort(counts, kind="stable"):
        shares[i] = min(counts[i], left // bins)
        left, bins = left - shares[i], bins - 1
    return shares
