"""A budget's best split between parameters and tokens, and what a wrong split costs.

Under C = k N D the split is closed form. With exact counting, C(N, D) = c(N) D with c(N) from the
ladder of shapes, it is the root of d ln L / d ln N along the budget, found by bisection for all
thetas and budgets at once, so that bands over thousands of draws cost milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.errors import QueryError
from fit.ladder import Cost
from fit.laws import Law
from fit.record import Floats

COARSE = 96
"""Points of the first search over ln N, from one parameter to one token."""
BISECTIONS = 50
"""Halvings of one coarse cell: below 1e-14 in ln N."""
SLOPE_STEP = 1e-4
"""Step in ln N of the slope: its bias and its rounding both move ln N* by about 1e-9."""
LOG_FLOPS_RANGE = (np.log(1e4), np.log(1e45))
"""Where the inverse C(L) is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Budgets at their best split; every field of shape (..., k): thetas by budgets."""

    log_params: Floats
    """ln N*."""
    log_tokens: Floats
    """ln D*."""
    log_loss: Floats
    """ln L* [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A range of N at one budget."""

    low: float
    high: float


def split(law: Law, theta: Floats, flops: Floats, cost: Cost) -> Split:
    """Split budgets between parameters and tokens so that the loss is least.

    At the optimum the last FLOP gains the same on either side: under C = k N D that is
    alpha A / N^alpha = beta B / D^beta.

    Args:
        law: Law family.
        theta: Parameters on raw counts, (..., p).
        flops: Budgets C [FLOP], (k,).
        cost: FLOP per token as a function of N.

    Returns:
        ln N*, ln D* and ln L*, each (..., k).

    Source: Hoffmann et al. 2022, arXiv:2203.15556, eq. 4.
    """
    log_flops = np.log(np.asarray(flops, dtype=np.float64))
    k = cost.constant
    if k is not None and law.expand is not None:
        log_params = closed_form(law, theta, log_flops, k)
    else:
        log_params = _search(law, theta, log_flops, cost)
    log_tokens = log_flops - cost.log_flops_per_token(log_params)
    log_loss = _log_loss(law, theta, log_params, log_tokens)
    return Split(log_params=log_params, log_tokens=log_tokens, log_loss=log_loss)


def closed_form(law: Law, theta: Floats, log_flops: Floats, k: float) -> Floats:
    """Return ln N* = ln G + a ln(C / k) under C = k N D, (..., k).

    a = beta / (alpha + beta), G = (alpha A / (beta B))^(1 / (alpha + beta)).
    """
    _, a, b, alpha, beta = (np.asarray(v)[..., None] for v in law.parts(theta))
    ratio = np.log(alpha * a) - np.log(beta * b)
    return np.asarray((ratio + beta * (log_flops - np.log(k))) / (alpha + beta))


def along_budget(law: Law, theta: Floats, log_params: Floats, flops: float, cost: Cost) -> Floats:
    """Loss [nats/token] at sizes ln N (m,) when a budget C is spent on each; (..., m)."""
    log_tokens = np.log(flops) - cost.log_flops_per_token(log_params)
    return np.exp(_log_loss(law, theta, log_params, log_tokens))


def regret_band(law: Law, theta: Floats, flops: float, cost: Cost, tolerance: float) -> Band:
    """The range of N whose loss at this budget lies within a tolerance of the best.

    Args:
        law: Law family.
        theta: One theta, (p,).
        flops: Budget C [FLOP].
        cost: FLOP per token as a function of N.
        tolerance: How far above the least loss, in ln; one run's noise, say.

    Returns:
        Smallest and largest N; an end where even one parameter, or one token, stays within the
        tolerance is that end.
    """
    best = split(law, theta, np.array([flops]), cost)
    centre, limit = float(best.log_params[0]), float(best.log_loss[0]) + tolerance

    def within(x: float) -> bool:
        return bool(np.log(along_budget(law, theta, np.array([x]), flops, cost)[0]) <= limit)

    ends = []
    for outside in (0.0, np.log(flops)):
        inside = centre
        for _ in range(BISECTIONS):
            middle = 0.5 * (inside + outside)
            inside, outside = (middle, outside) if within(middle) else (inside, middle)
        ends.append(float(np.exp(inside)))
    return Band(low=ends[0], high=ends[1])


def flops_for_loss(law: Law, theta: Floats, loss: float, cost: Cost) -> float:
    """The least budget whose best split reaches a loss: the inverse of L*(C).

    Args:
        law: Law family.
        theta: One theta, (p,).
        loss: Target [nats/token].
        cost: FLOP per token as a function of N.

    Raises:
        QueryError: No budget up to 1e45 FLOP reaches it, or any does.

    Source: Hoffmann et al. 2022, arXiv:2203.15556; under k N D it is k (K / (L - E))^(1/gamma).
    """

    def least(log_flops: float) -> float:
        return float(np.exp(split(law, theta, np.exp([log_flops]), cost).log_loss[0]))

    low, high = LOG_FLOPS_RANGE
    if not least(high) < loss < least(low):
        raise QueryError(
            f"a loss of {loss:g} nats/token is not between {least(high):.4f} (the law at 1e45 FLOP)"
            f" and {least(low):.4f} (at 1e4 FLOP). Ask for a loss between them."
        )
    for _ in range(2 * BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if least(middle) > loss else (low, middle)
    return float(np.exp(high))


def _search(law: Law, theta: Floats, log_flops: Floats, cost: Cost) -> Floats:
    """Root of the slope of ln L along each budget: coarse grid, then bisection; (..., k)."""
    top = log_flops - np.log(6)
    grid = np.linspace(0, 1, COARSE) * top[:, None]
    shape = (*theta.shape[:-1], len(log_flops))
    low, high = np.empty(shape), np.empty(shape)
    for j, c in enumerate(log_flops):
        losses = _log_loss(law, theta, grid[j], c - cost.log_flops_per_token(grid[j]))
        best = np.argmin(losses, axis=-1)
        low[..., j] = grid[j][np.maximum(best - 1, 0)]
        high[..., j] = grid[j][np.minimum(best + 1, COARSE - 1)]
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        falling = _slope(law, theta, middle, log_flops, cost) < 0
        low, high = np.where(falling, middle, low), np.where(falling, high, middle)
    return np.asarray(0.5 * (low + high))


def _slope(law: Law, theta: Floats, x: Floats, log_flops: Floats, cost: Cost) -> Floats:
    """Difference of ln L on either side of ln N along the budget; its sign is the slope's."""
    right, left = x + SLOPE_STEP, x - SLOPE_STEP
    up = _log_loss(law, theta, right, log_flops - cost.log_flops_per_token(right))
    down = _log_loss(law, theta, left, log_flops - cost.log_flops_per_token(left))
    return np.asarray(up - down)


def _log_loss(law: Law, theta: Floats, log_params: Floats, log_tokens: Floats) -> Floats:
    """The ln of the law, with an axis of budgets or sizes after those of theta; (..., k)."""
    with np.errstate(over="ignore", divide="ignore"):  # a wild law's optimum may be at no size
        loss = law.loss(theta[..., None, :], np.exp(log_params), np.exp(log_tokens))
        return np.asarray(np.log(loss))
