"""How much each run counts: a column of the table, or the errors of its losses."""

from __future__ import annotations

import dataclasses

import numpy as np

from fit.declared import problem_of
from fit.errors import FitError
from fit.estimate import estimate
from fit.laws import law as law_named
from fit.record import Floats, RunTable, read_only

COLUMN = "weight"
NONE = "none"
STANDARD_ERROR = "loss_se"
"""The column that holds errors [nats/token] and not weights."""
LEAST_SHARE = 0.01
"""Least share of the runs' noise that is taken to be each run's own, whatever the errors say."""


def weighted(table: RunTable, asked: str | None, law: str = "chinchilla") -> RunTable:
    """The table with a column `weight` of mean 1, or with none.

    Args:
        table: The runs.
        asked: Name of the column; `none` for no weights; None for the column `weight` where there
            is one. `loss_se` holds standard errors: the weight is the inverse of their square plus
            the variance that the runs have beyond them, so that no run counts for ever more.
        law: The law whose residuals tell that variance.

    Raises:
        FitError: No such column, or weights that are not finite and at least zero.
    """
    name = asked or (COLUMN if COLUMN in table.columns else NONE)
    bare = dataclasses.replace(
        table, columns={k: v for k, v in table.columns.items() if k != COLUMN}
    )
    if name == NONE:
        return bare
    if name not in table.columns:
        known = ", ".join(sorted(table.columns)) or "no others"
        raise FitError(f"no column '{name}' to weigh by; there are {known}. Name one: --weight")
    values = _numbers(table, name)
    if name == STANDARD_ERROR:
        values = _from_errors(bare, values, law)
    bare = dataclasses.replace(bare, columns={**bare.columns, COLUMN: values})
    bare = bare.take(values > 0, reason=f"{name} is 0")
    kept = bare.column(COLUMN)
    if not len(kept):
        raise FitError(f"every {name} is 0: positive weights are needed. Mend the column.")
    scaled = read_only(kept / kept.mean())
    return dataclasses.replace(bare, columns={**bare.columns, COLUMN: scaled})


def weights_of(table: RunTable) -> Floats | None:
    """The runs' weights, (n,); None where all count the same."""
    return table.column(COLUMN) if COLUMN in table.columns else None


def _numbers(table: RunTable, name: str) -> Floats:
    """A column of finite numbers, zero or more."""
    try:
        values = table.column(name)
    except (TypeError, ValueError) as error:
        raise FitError(f"column '{name}' holds no numbers to weigh by. Name another.") from error
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        run, value = table.run[int(np.argmax(bad))], values[int(np.argmax(bad))]
        raise FitError(
            f"{name} of run {run} is {value:g}; finite weights of 0 or more are needed. Mend the "
            "column, or leave it out: --weight none."
        )
    return values


def _from_errors(table: RunTable, errors: Floats, law: str) -> Floats:
    """Inverse variances: each loss's own error and what the runs scatter beyond it."""
    relative = (errors / table.loss) ** 2
    noise = estimate(problem_of(table, law_named(law)), law=law).noise
    beyond = max(noise**2 - float(np.median(relative)), LEAST_SHARE * noise**2, 1e-30)
    return np.asarray(1.0 / (beyond + relative))
