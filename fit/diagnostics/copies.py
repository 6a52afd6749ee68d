"""Rows that repeat a run: one run exported twice, rounded, or under two names, is no evidence.

- `without_near_copies` drops rows whose size, length and loss agree to `EQUAL`, before the fit.
- `join_copies` counts as one cluster the rows of one size and length that agree far better than
  runs of different seeds can, after it: rounded losses, or one run evaluated twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.verdict import Note

EQUAL = 1e-6
"""Relative difference below which two numbers are one: seeds differ by 1e-3 of the loss."""
AGREE = 0.05
"""Of the noise of one run: two seeds agree so well in `BY_CHANCE` of all pairs."""
BY_CHANCE = 0.0282
UNLIKELY = 1e-3
"""Probability of so many agreeing pairs among seeds, below which they are copies."""


def without_near_copies(table: RunTable, columns: Sequence[str]) -> RunTable:
    """The table without rows that equal an earlier one in size, length and loss.

    Args:
        table: The runs, all of them positive and finite.
        columns: Further columns by which runs differ.
    """
    order, same = _sorted_cells(table, columns)
    gap = np.diff(np.log(table.loss)[order])
    copy = np.zeros(len(table), dtype=bool)
    # the earliest row of each stretch of equal ones stays
    stretch = np.concatenate([[0], np.cumsum(~(same & (np.abs(gap) <= EQUAL)))])
    first = np.full(stretch[-1] + 1, len(table))
    np.minimum.at(first, stretch, order)
    copy[order] = order != first[stretch]
    return table if not copy.any() else table.take(~copy, reason="copy of an earlier row")


def join_copies(
    table: RunTable, columns: Sequence[str], noise: float
) -> tuple[RunTable, NDArray[np.bool_]]:
    """The table with near copies in one cluster, and which rows these are, (runs,).

    None are joined where so many seeds may agree by chance.

    Args:
        table: The runs.
        columns: Further columns by which runs differ.
        noise: Standard deviation of ln loss about the law.
    """
    from scipy import stats
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    order, same = _sorted_cells(table, columns)
    cells = np.concatenate([[0], np.cumsum(~same)])
    count = np.bincount(cells)[cells][1:]
    # of k seeds the nearest two lie k^2 / 4 times nearer than two alone
    linked = same & (np.diff(np.log(table.loss)[order]) < AGREE * noise * (2 / count) ** 2)
    copies = np.zeros(len(table), dtype=bool)
    copies[order[1:][linked]] = copies[order[:-1][linked]] = True
    codes = np.unique(table.cluster, return_inverse=True)[1]
    pairs = codes[order[:-1][linked]], codes[order[1:][linked]]
    chance = stats.binom.sf(linked.sum() - 1, same.sum(), BY_CHANCE)
    if chance > UNLIKELY or not (pairs[0] != pairs[1]).any():
        return table, np.zeros(len(table), dtype=bool)
    graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(codes.max() + 1,) * 2)
    joined = connected_components(graph, directed=False)[1].astype(np.int64)
    return dataclasses.replace(table, cluster=joined[codes]), copies


def copies_note(copies: NDArray[np.bool_]) -> tuple[Note, ...]:
    """Say that rows count as one run."""
    if not copies.any():
        return ()
    text = (
        f"{int(copies.sum())} rows have the size, length and, within a twentieth of the noise, the "
        "loss of another: one run exported twice, or evaluated again. Those of one run count as "
        "one in the intervals. Leave all but one out, or say which belong together: --cluster."
    )
    return (Note(code="copies", severity="warning", message=text),)


def _sorted_cells(
    table: RunTable, columns: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows in order of their size, length and loss; whether each has the cell of the one before."""
    keys: list[Floats] = []
    for name in dict.fromkeys(("params", "tokens", *columns)):
        values = np.log(table.column(name))
        ranked = np.sort(values)
        steps = np.cumsum(np.concatenate([[False], np.diff(ranked) > EQUAL]))
        keys.append(steps[np.searchsorted(ranked, values)])
    order = np.lexsort([np.log(table.loss), *keys])
    same = np.all([np.diff(k[order]) == 0 for k in keys], axis=0)
    return order, same
