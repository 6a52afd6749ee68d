"""The same runs under every way of counting: what the choice alone does to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fit.accounting import FlopsPerToken, Params, flops_per_token_in, params_in
from fit.estimate import estimate
from fit.objective import Problem
from fit.record import Floats, RunTable
from fit.weights import weights_of

SHOWN = (("matmul", "exact"), ("total", "6nd"), ("body", "6nd"), ("chinchilla", "chinchilla"))
"""Counts of N and C that go together in the literature."""
GROUPS = ("params_body", "params_head", "params_embedding", "params_other")
TERMS = ("flops_body", "flops_head", "flops_attention")


def conventions(
    table: RunTable, *, law: str, loss: str, delta: float | None
) -> tuple[Mapping[str, Any], ...]:
    """Exponent a and D/N at the largest budget under each convention; none without the counts.

    Args:
        table: Runs whose columns hold parameters per group and FLOPs per token by term.
        law: Family, as in `estimate`.
        loss: Robust loss.
        delta: Huber's threshold.
    """
    if not {*GROUPS, *TERMS} <= set(table.columns):
        return ()
    rows = []
    for params, flops in SHOWN:
        n, per_token = _counted(table, params, flops)
        problem = Problem.of(n, table.tokens, table.loss)
        raw = estimate(problem, law=law, loss=loss, delta=delta, weights=weights_of(table)).raw
        rows.append(
            {
                "params": params,
                "flops": flops,
                "a": float(raw[4] / (raw[3] + raw[4])),
                "tokens_per_param": _best_ratio(raw, n, per_token, table.tokens),
            }
        )
    return tuple(rows)


def _counted(table: RunTable, params: str, flops: str) -> tuple[Floats, Floats]:
    """N and FLOP per token of every run under a convention."""
    groups = zip(*(table.column(c).astype(int).tolist() for c in GROUPS), strict=True)
    idle = table.column("params_idle") if "params_idle" in table.columns else 0 * table.params
    n = [
        params_in(params, Params(body=b, head=h, embedding=e, other=o, idle=int(i)))
        for (b, h, e, o), i in zip(groups, np.nan_to_num(idle), strict=True)
    ]
    terms = zip(n, *(table.column(c).astype(int).tolist() for c in TERMS), strict=True)
    per_token = [
        flops_per_token_in(flops, flops=FlopsPerToken(body=b, head=h, attention=t), params=k)
        for k, b, h, t in terms
    ]
    return np.array(n, dtype=np.float64), np.array(per_token, dtype=np.float64)


def _best_ratio(raw: Floats, params: Floats, per_token: Floats, tokens: Floats) -> float:
    """D/N of the least loss at the largest budget, with FLOPs per token interpolated in ln N."""
    sizes, first = np.unique(params, return_index=True)
    n = np.geomspace(sizes[0] / 100, sizes[-1] * 100, 4001)
    per_param = np.interp(np.log(n), np.log(sizes), np.log(per_token[first] / sizes))
    d = (per_token * tokens).max() / (n * np.exp(per_param))
    with np.errstate(over="ignore"):
        best = int(np.argmin(raw[1] * n ** -raw[3] + raw[2] * d ** -raw[4]))
    return float(d[best] / n[best])
