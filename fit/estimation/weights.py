"""How much each run counts: by a column, by the errors of its losses, and as a copy of another.

One run exported twice, rounded, or under two names, is no evidence:

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
from fit.data.table import RunTable, read_only
from fit.errors import FitError
from fit.estimation.general import fit_problem
from fit.estimation.solver import estimate
from fit.laws.families import law as law_named
from fit.verdict import Note

COLUMN = "weight"
NONE = "none"
STANDARD_ERROR = "loss_se"
"""The column that holds errors [nats/token] and not weights."""
LEAST_SHARE = 0.01
"""Least share of the runs' noise that is taken to be each run's own, whatever the errors say."""
EQUAL = 1e-6
"""Relative difference below which two numbers are one: seeds differ by 1e-3 of the loss."""
AGREE = 0.05
"""Of the noise of one run: two seeds agree so well in `BY_CHANCE` of all pairs."""
BY_CHANCE = 0.0282
UNLIKELY = 1e-3
"""Probability of so many agreeing pairs among seeds, below which they are copies."""


def weighted(table: RunTable, column: str | None, law: str = "chinchilla") -> RunTable:
    """The table with a column `weight` of mean 1, or with none.

    Args:
        table: The runs.
        column: Name of the column; `none` for no weights; None for the column `weight` where there
            is one. `loss_se` holds standard errors: the weight is the inverse of their square plus
            the variance that the runs have beyond them, so that the weight of a run is bounded.
        law: The law whose residuals give that variance.

    Raises:
        FitError: No such column, or weights that are not finite and at least zero.
    """
    name = column or (COLUMN if COLUMN in table.columns else NONE)
    bare = dataclasses.replace(
        table, columns={k: v for k, v in table.columns.items() if k != COLUMN}
    )
    if name == NONE:
        return bare
    if name not in table.columns:
        others = ", ".join(sorted(table.columns)) or "no others"
        raise FitError(f"no column '{name}' to weight by; there are {others}. Name one: --weight")
    values = _numbers(table, name)
    if name == STANDARD_ERROR:
        values = _from_errors(bare, values, law)
    bare = dataclasses.replace(bare, columns={**bare.columns, COLUMN: values})
    bare = bare.take(values > 0, reason=f"{name} is 0")
    kept = bare.column(COLUMN)
    if not len(kept):
        raise FitError(f"every {name} is 0: positive weights are needed. Fix the column.")
    kept = kept / kept.max()  # so that their sum is finite
    scaled = read_only(kept / kept.mean())
    return dataclasses.replace(bare, columns={**bare.columns, COLUMN: scaled})


def check_weights(table: RunTable, free: int) -> None:
    """Refuse weights under which fewer runs count than the law has parameters.

    Args:
        table: Runs, weighted.
        free: Parameters that are fitted.

    Raises:
        FitError: The effective number of runs, (sum w)^2 / sum w^2 (Kish 1965), is too small.
    """
    if (weights := weights_of(table)) is None:
        return
    share = weights / weights.max()
    count = float(share.sum() ** 2 / (share**2).sum())
    if count < free + 1:
        raise FitError(
            f"the weights leave {count:.1f} effective runs of {len(table)}: the largest is "
            f"{1 / float(np.median(share)):.2g} times the middle one, and a law with {free} "
            f"parameters needs {free + 1}. A weight says how many runs a run counts for; give "
            "standard errors as loss_se (--weight loss_se), or none: --weight none."
        )


def weights_of(table: RunTable) -> Floats | None:
    """The runs' weights, (n,); None where all count the same."""
    return table.column(COLUMN) if COLUMN in table.columns else None


def _numbers(table: RunTable, name: str) -> Floats:
    """A column of finite numbers, zero or more."""
    try:
        values = table.column(name)
    except (TypeError, ValueError) as error:
        raise FitError(f"column '{name}' holds no numbers to weight by. Name another.") from error
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        run, value = table.run[int(np.argmax(bad))], values[int(np.argmax(bad))]
        raise FitError(
            f"{name} of run {run} is {value:g}; finite weights of 0 or more are needed. Fix the "
            "column, or leave it out: --weight none."
        )
    return values


def _from_errors(table: RunTable, errors: Floats, law: str) -> Floats:
    """Inverse variances: each loss's own error, and the scatter of the runs beyond it."""
    relative = (errors / table.loss) ** 2
    noise = estimate(fit_problem(table, law_named(law)), law=law).noise
    beyond = max(noise**2 - float(np.median(relative)), LEAST_SHARE * noise**2, 1e-30)
    return np.asarray(1.0 / (beyond + relative))


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
    order, same = _sorted_cells(table, columns)
    cells = np.concatenate([[0], np.cumsum(~same)])
    count = np.bincount(cells)[cells][1:]
    # of k seeds the nearest two lie k^2 / 4 times nearer than two alone
    linked = same & (np.diff(np.log(table.loss)[order]) < AGREE * noise * (2 / count) ** 2)
    copies = np.zeros(len(table), dtype=bool)
    copies[order[1:][linked]] = copies[order[:-1][linked]] = True
    codes = np.unique(table.cluster, return_inverse=True)[1]
    pairs = codes[order[:-1][linked]], codes[order[1:][linked]]
    none = table, np.zeros(len(table), dtype=bool)
    if not (pairs[0] != pairs[1]).any():
        return none
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.special import bdtrc

    if bdtrc(linked.sum() - 1, same.sum(), BY_CHANCE) > UNLIKELY:
        return none
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
