"""Loss over parameters and tokens around an answer, with its budget and limits: a contour chart."""

from __future__ import annotations

from typing import Any

import numpy as np

from fit.allocation.allocate import log_loss
from fit.data.records import Floats, finite_or_null
from fit.query.answer import answer
from fit.query.constraints import ConstrainedProblem, constrained_problem
from fit.query.question import Question
from fit.results import loss_unit

CONTOURS_SCHEMA = "isoflop.contours/1"
ACROSS, UP = 48, 48
"""Sizes and lengths at which the loss is computed: 2304 numbers, 9 kB compressed."""
ALONG = 65
"""Points of the line of equal compute, and of the path of best splits."""
ROOM = 3.0
"""Factor by which the chart goes beyond the runs and the answer, on every side."""
DIGITS = 6
"""Significant digits of the losses: a pixel of the chart is a part in 400."""


def contours(question: Question) -> dict[str, Any]:
    """The `isoflop.contours/1` document of a question.

    Args:
        question: The question, with its budget and limits.

    Returns:
        The verdict; `params` (48,), `tokens` (48,) and `loss` (tokens, params); the answer; the
        line on which training costs what the answer's does; the path of best splits; the
        ends of every limit; the range of the runs.

    Raises:
        QueryError, RefusedError: The question has no answer.
    """
    found = answer(question)
    source = question.source
    if question.unique_tokens is not None:
        source = source.given(unique_tokens=question.unique_tokens)
    problem = constrained_problem(question, source)
    best = {"params": found.params.value, "tokens": found.tokens.value, "loss": found.loss.value}
    axes = {}
    for name, count in (("params", ACROSS), ("tokens", UP)):
        span = source.range.get(name)
        ends = [best[name], *(() if span is None else (span.low, span.high))]
        axes[name] = np.log(np.geomspace(min(ends) / ROOM, max(ends) * ROOM, count))
    x, y = np.maximum(axes["params"], 0.0), np.maximum(axes["tokens"], 0.0)
    loss = np.exp(log_loss(source.law, source.theta, x[None, :], y[:, None]))
    paid = float(found.flops.value)
    along = np.linspace(x[0], x[-1], ALONG)
    span = source.range.get("flops")
    budgets = [paid, *(() if span is None else (span.low, span.high))]
    path = source.best(np.geomspace(min(budgets) / ROOM, max(budgets) * ROOM, ALONG))
    document = {
        "schema": CONTOURS_SCHEMA,
        "verdict": found.verdict.verdict,
        "verdict_reason": found.verdict.reason,
        "source": source.name,
        "law": source.law.name,
        "loss_unit": loss_unit(source.convention),
        "params": np.exp(x).tolist(),
        "tokens": np.exp(y).tolist(),
        "loss": [[float(f"{v:.{DIGITS}g}") for v in row] for row in loss],
        "answer": best,
        "budget": {"flops": paid, **_line(along, problem.affordable(along, np.log(paid)))},
        "path": _line(path.log_params, path.log_tokens),
        "limits": _limits(problem),
        "range": {k: [v.low, v.high] for k, v in source.range.items()},
    }
    return dict(finite_or_null(document))


def _line(log_params: Floats, log_tokens: Floats) -> dict[str, list[float]]:
    """Points of a line; those at which not one token is paid for are left out."""
    kept = np.isfinite(log_params) & np.isfinite(log_tokens) & (log_tokens >= 0)
    return {
        "params": np.exp(log_params[kept]).tolist(),
        "tokens": np.exp(log_tokens[kept]).tolist(),
    }


def _limits(problem: ConstrainedProblem) -> list[dict[str, Any]]:
    """The ends of each limit: of params, of tokens or of their ratio; None where open."""
    return [
        {
            "name": limit.name,
            "on": limit.on,
            "value": limit.value,
            "low": float(np.exp(limit.low)) if np.isfinite(limit.low) else None,
            "high": float(np.exp(limit.high)) if np.isfinite(limit.high) else None,
        }
        for limit in problem.limits
    ]
