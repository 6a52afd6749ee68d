"""The best split along budgets, and what goes with it, with intervals: curves for figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.derived import derived_interval
from fit.doubts import refused
from fit.record import Floats
from fit.result import Fit
from fit.source import Source

BUDGETS = 48
"""Points along the frontier."""
FURTHER = 10.0
"""The second budget of page 1 over the largest one fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A quantity along budgets with its interval; all (k,)."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The best split over a range of budgets."""

    flops: Floats
    """(k,), ascending [FLOP]."""
    inside: NDArray[np.bool_]
    """Budgets up to the largest fitted; the others extrapolate."""
    params: Curve
    tokens: Curve
    loss: Curve
    ratio: Curve
    """Tokens per parameter."""
    level: float


def frontier_of(source: Source) -> Frontier | None:
    """The frontier, where the law splits budgets and the runs tell its parameters apart."""
    known = splits_budgets(source) and not refused(fit_of(source))
    return frontier(source) if known else None


def further_budget(source: Source) -> float:
    """The second budget of page 1 [FLOP]."""
    return FURTHER * fit_of(source).range["flops"].high


def splits_budgets(source: Source) -> bool:
    """Whether the law is a loss of N and D alone."""
    return source.law.target == "loss" and not source.law.further


def frontier(source: Source, *, beyond: float = 100.0) -> Frontier:
    """Split a range of budgets, from the smallest fitted to some way beyond the largest.

    Args:
        source: A fit as a source.
        beyond: Last budget over the largest one fitted.
    """
    fit = fit_of(source)
    low, high = float(fit.points.flops.min()), float(fit.points.flops.max())
    inner = np.geomspace(low, high, BUDGETS // 2)
    flops = np.concatenate([inner, np.geomspace(high, high * beyond, BUDGETS // 2)[1:]])
    at = source.splits(flops)

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        ratio = s.log_tokens - s.log_params
        return np.stack([s.log_params, s.log_tokens, s.log_loss, ratio], axis=-1)

    value = np.exp(logs(fit.vector()[None, :])[0])
    bounds = derived_interval(fit, logs)
    curves = [Curve(value=value[:, i], low=bounds[0][:, i], high=bounds[1][:, i]) for i in range(4)]
    return Frontier(
        flops=flops,
        inside=flops <= high * (1 + 1e-12),
        params=curves[0],
        tokens=curves[1],
        loss=curves[2],
        ratio=curves[3],
        level=fit.interval.level,
    )


def fit_of(source: Source) -> Fit:
    """The fit behind a source; figures need one."""
    assert source.fit is not None
    return source.fit
