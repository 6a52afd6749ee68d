"""A fit without some of its runs: how far N*, D* and the loss at each budget move."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fit.allocation.allocate import Split, split
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import finite_or_null
from fit.data.table import RunTable
from fit.errors import FitError, QueryError
from fit.query.warnings import budget_verdict, check_verdict
from fit.verdict import status_notes

WITHOUT_SCHEMA = "isoflop.without/1"
POINTS = 48
"""Budgets of the curves."""
BEYOND = 100.0
"""Last budget of the curves, as a multiple of the largest fitted."""


def without_runs(source: ScalingLaw, rows: Sequence[int], flops: float | None) -> dict[str, Any]:
    """The `isoflop.without/1` document: the law fitted again without some runs.

    The law that describes the runs is estimated anew, exactly and with the same loss function, on
    the runs that are left, and compared with itself on all runs. Answers come from the forecast
    that is built on it, which its prior keeps from moving as far.

    Args:
        source: A fit.
        rows: Positions of the runs to be left out, in the fit's own order.
        flops: Budget [FLOP] at which the move is stated; ten times the largest fitted if None.

    Returns:
        N*, D* and the loss at `flops` with and without these runs; the curves without them, and
        warnings of how that law is determined.

    Raises:
        RefusedError: The verdict on the fit, or on an answer at this budget, is `refuse`.
        QueryError: There is no such run, the fit cannot be repeated from the runs it stores, or the
            runs that are left do not carry the law, as in a fit of them.
    """
    # These import scipy, which takes a second and which nothing else here needs.
    from fit.comparison.multiplier import PARAMETERS, refit_from_points
    from fit.diagnostics.notes import check_runs, fit_status
    from fit.estimation.objective import FitProblem
    from fit.estimation.solver import estimate
    from fit.inference.resampling import kappa

    fit, plain = source.fit, source.plain
    assert fit is not None
    p = fit.points
    span = source.range["flops"]
    budget = 10 * span.high if flops is None else flops
    check_verdict(budget_verdict(source, budget), source)
    if wrong := [row for row in rows if not 0 <= row < len(p.run)]:
        raise QueryError(f"there is no run {wrong[0]}; {fit.name} has 0 to {len(p.run) - 1}.")
    if refit_from_points(fit) is None:
        raise QueryError(
            f"{fit.name} cannot be fitted again from the runs it stores: its law is {fit.law}, or "
            "its runs were weighted. Leave the runs out of the table: isoflop fit RUNS --where ..."
        )
    kept = np.ones(len(p.run), dtype=bool)
    kept[list(rows)] = False
    table = RunTable(
        run=tuple(itertools.compress(p.run, kept)),
        **{n: getattr(p, n)[kept] for n in ("params", "tokens", "flops", "loss", "cluster")},
        params_convention=fit.convention["params"],
        flops_convention=fit.convention["flops"],
        source="the rest",
    )
    try:
        check_runs(table, len(plain.law.parameters))
        again = estimate(
            FitProblem.of(table.params, table.tokens, table.loss),
            law=fit.law,
            loss=fit.options.get("loss", "adaptive"),
            delta=fit.options.get("delta"),
        )
    except FitError as error:
        raise QueryError(f"without these runs the law cannot be fitted: {error}") from None
    raw = dict(zip(PARAMETERS, again.raw, strict=True))
    theta = np.array([raw[name] for name in fit.parameters()])
    notes = status_notes(
        dataclasses.replace(
            fit,
            theta={name: raw[name] for name in fit.parameters()},
            status=fit_status(again, table),
            kappa=kappa(again),
            forecast=None,
        )
    )
    for note in notes:
        if note.severity == "serious":
            raise QueryError(f"without these runs {note.message}")
    grid = np.geomspace(span.low / 3, BEYOND * span.high, POINTS)
    curves = split(plain.law, theta, grid, source.cost)
    document = {
        "schema": WITHOUT_SCHEMA,
        "source": source.name,
        "law": fit.law,
        "rows": sorted(set(rows)),
        "runs": [p.run[row] for row in sorted(set(rows))],
        "runs_used": int(kept.sum()),
        "at": budget,
        "all": _at(split(plain.law, fit.vector(), np.array([budget]), source.cost)),
        "warnings": [dataclasses.asdict(note) for note in notes],
        "left": _at(split(plain.law, theta, np.array([budget]), source.cost)),
        "flops": grid.tolist(),
        "inside": ((grid >= span.low) & (grid <= span.high)).tolist(),
        "params": _values(curves.log_params),
        "tokens": _values(curves.log_tokens),
        "loss": _values(curves.log_loss),
    }
    return dict(finite_or_null(document))


def _at(place: Split) -> dict[str, float]:
    """The one budget of a split."""
    return {
        "params": float(np.exp(place.log_params[0])),
        "tokens": float(np.exp(place.log_tokens[0])),
        "loss": float(np.exp(place.log_loss[0])),
    }


def _values(logs: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, list[Any]]:
    """A curve as the document `isoflop.curves/1` has it, without an interval."""
    empty = [None] * len(logs)
    return {"value": np.exp(logs).tolist(), "low": empty, "high": empty}
