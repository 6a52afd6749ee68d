"""Tables for laws that predict something else than the loss: the best learning rate, the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from fit.errors import FitError, RecordError
from fit.record import RunTable

Read = Callable[[Mapping[str, str]], RunTable]
"""Reads the runs under given renamings of columns."""


def aimed(read: Read, target: str, rename: Mapping[str, str]) -> RunTable:
    """Runs whose `loss` is the column that a law predicts.

    A table with losses is a scan: of each params and tokens the run of least loss is taken. One
    without is a table of optima already.

    Args:
        read: Reads the runs.
        target: Column that the law predicts.
        rename: The user's own renamings, ours to theirs.

    Raises:
        FitError: No such column.
        RecordError: The runs cannot be read.
    """
    try:
        table = read(rename)
    except RecordError as error:
        if "no column loss" not in str(error):
            raise
        try:  # a table of optima has its target where others have losses
            theirs = {k: v for k, v in rename.items() if k != target}
            return read({**theirs, "loss": rename.get(target, target)})
        except RecordError:
            text = str(error).replace("no column loss", f"no column {target}")
            raise FitError(text.replace("--column loss=", f"--column {target}=")) from error
    if target not in table.columns:
        known = ", ".join(table.columns) or "no others"
        raise FitError(
            f"the law needs a column {target}; {table.source} has params, tokens, loss and {known}."
            f" Name yours: --column {target}=YOURS"
        )
    return _best(table, target)


def _best(table: RunTable, target: str) -> RunTable:
    """The run of least loss of each params and tokens, its target as what is predicted."""
    table = table.take(np.isfinite(table.loss), reason="no finite loss")
    order = np.lexsort((table.loss, table.tokens, table.params))
    points = np.stack([table.params, table.tokens], axis=1)[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(points, axis=0) != 0).any(axis=1)
    keep = np.zeros(len(table), dtype=bool)
    keep[order[first]] = True
    best = table.take(keep, reason="not the best of its params and tokens")
    values = best.column(target)
    if not (values > 0).all():
        raise FitError(f"{target} must be positive; {best.source} has others. Mend the column.")
    return dataclasses.replace(best, loss=values)
