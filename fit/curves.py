"""What charts are drawn from: the frontier with its bands, the runs, the valleys."""

from __future__ import annotations

from typing import Any

import numpy as np

from fit.allocate import along_budget
from fit.derived import derived_interval
from fit.errors import QueryError
from fit.plots import budgets_of
from fit.record import Floats, finite_or_null
from fit.result import Fit, Span
from fit.source import Source

CURVES_SCHEMA = "isoflop.curves/1"
POINTS_INSIDE, POINTS_BEYOND = 24, 40
BEYOND = 1e4
"""Last budget of the curves over the largest fitted."""
BELOW = 3.0
"""How far below the smallest."""
SIZES = 64
"""Points of a valley, over twice the range of sizes fitted on either side."""
MOST_RUNS = 2000
"""Runs sent; of more, every so many-th by compute."""
UNKNOWN_RANGE = Span(low=1e18, high=1e24)
"""Of a published law whose budgets are not known."""
NAMES = ("params", "tokens", "loss")


def curves(source: Source) -> dict[str, Any]:
    """The `isoflop.curves/1` document of a law that splits budgets.

    Args:
        source: A fit or a published law.

    Returns:
        Budgets [FLOP] and at each N*, D* and the loss with intervals (null without a fit), whether
        it lies within the budgets fitted; the runs; loss against N at equal budgets.

    Raises:
        QueryError: The law splits no budget.
    """
    span = source.range.get("flops", UNKNOWN_RANGE)
    flops = _budgets(span)
    at = source.splits(flops)

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        return np.stack([s.log_params, s.log_tokens, s.log_loss], axis=-1)

    with np.errstate(all="ignore"):  # a wild fit's far ends overflow; they are sent as null
        value = np.exp(logs(source.theta[None, :])[0])
        ends = None if source.fit is None else _ends(source.fit, logs)
    document = {
        "schema": CURVES_SCHEMA,
        "source": source.name,
        "law": source.law.name,
        "level": None if source.fit is None else source.fit.interval.level,
        "range": {k: [v.low, v.high] for k, v in source.range.items()},
        "flops": flops.tolist(),
        "inside": ((flops >= span.low * (1 - 1e-9)) & (flops <= span.high * (1 + 1e-9))).tolist(),
        **{n: _curve(i, value, ends) for i, n in enumerate(NAMES)},
        "floor": source.fit.theta.get("E") if source.fit else None,
        "runs": [] if source.fit is None else _runs(source.fit),
        "valleys": [] if source.fit is None else _valleys(source, source.fit),
    }
    return dict(finite_or_null(document))


def _budgets(span: Span) -> Floats:
    """Budgets from below the smallest to far beyond the largest."""
    inside = np.geomspace(span.low, max(span.high, span.low * 1.001), POINTS_INSIDE)
    beyond = np.geomspace(inside[-1], inside[-1] * BEYOND, POINTS_BEYOND)
    return np.concatenate([[span.low / BELOW], inside, beyond[1:]])


def _ends(fit: Fit, logs: Any) -> tuple[Floats, Floats] | None:
    """Intervals along the curves; None where the fit has nothing to make them from."""
    try:
        return derived_interval(fit, logs)
    except QueryError:
        return None


def _curve(row: int, value: Floats, ends: tuple[Floats, Floats] | None) -> dict[str, Any]:
    """One quantity along the budgets."""
    empty = [None] * len(value)
    return {
        "value": value[:, row].tolist(),
        "low": empty if ends is None else ends[0][:, row].tolist(),
        "high": empty if ends is None else ends[1][:, row].tolist(),
    }


def _runs(fit: Fit) -> list[dict[str, Any]]:
    """The fitted runs, by compute."""
    p = fit.points
    order = np.argsort(p.flops, kind="stable")
    order = order[:: max(1, -(-len(order) // MOST_RUNS))]
    sizes = [n for n in ("width", "depth") if n in p.columns]
    return [
        {
            "run": p.run[i],
            **{n: float(getattr(p, n)[i]) for n in ("params", "tokens", "flops", "loss")},
            "residual": float(p.residual[i]),
            **{n: float(p.columns[n][i]) for n in sizes},
        }
        for i in order
    ]


def _valleys(source: Source, fit: Fit) -> list[dict[str, Any]]:
    """Loss against N at equal budgets."""
    p = fit.points
    sizes = np.linspace(np.log(p.params.min() / 2), np.log(p.params.max() * 2), SIZES)
    rows = []
    for flops in budgets_of(p.flops):
        loss = along_budget(source.law, source.theta, sizes, flops, source.cost)
        best = source.best(np.array([flops]))
        rows.append(
            {
                "flops": float(flops),
                "params": np.exp(sizes).tolist(),
                "loss": loss.tolist(),
                "best": {
                    "params": float(np.exp(best.log_params[0])),
                    "loss": float(np.exp(best.log_loss[0])),
                },
            }
        )
    return rows
