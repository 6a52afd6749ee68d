"""How much each run counts: a column of the table, or the standard errors of its losses."""

from __future__ import annotations

import dataclasses

import numpy as np

from fit.data.records import Floats
from fit.data.table import RunTable, read_only
from fit.errors import FitError
from fit.estimation.general import fit_problem
from fit.estimation.solver import estimate
from fit.laws.families import law as law_named

COLUMN = "weight"
NONE = "none"
STANDARD_ERROR = "loss_se"
"""The column that holds errors [nats/token] and not weights."""
LEAST_SHARE = 0.01
"""Least share of the runs' noise that is taken to be each run's own, whatever the errors say."""


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
