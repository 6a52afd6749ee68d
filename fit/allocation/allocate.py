"""A budget's best split between parameters and tokens, and what a wrong split costs.

Under C = k N D the split is closed form. With exact counting, C(N, D) = c(N) D with c(N) from the
ladder of shapes, it is the root of d ln L / d ln N along the budget, found by Newton's steps for
all thetas and budgets at once, so that bands over thousands of draws cost milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.allocation.ladder import TokenCost
from fit.data.records import Floats
from fit.errors import QueryError
from fit.laws.law import Law

COARSE = 96
"""Points of the first search over ln N, from one parameter to one token."""
BISECTIONS = 50
"""Halvings of one coarse cell, where Newton's steps lead out of it: below 1e-14 in ln N."""
SLOPE_STEP = 1e-4
"""Step in ln N of the slope: its bias and its rounding both move ln N* by about 1e-9."""
SETTLED = 1e-5
"""Last step in ln N that counts; steps square, so the next would be lost in rounding."""
NESTED, NESTS = 256, 5
"""Points of each grid in which an end of the regret band is sought, how often: to 1e-11 in ln N."""
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
class RegretBand:
    """A range of N at one budget."""

    low: float
    high: float


def split(law: Law, theta: Floats, flops: Floats, cost: TokenCost) -> Split:
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


def along_budget(
    law: Law, theta: Floats, log_params: Floats, flops: float, cost: TokenCost
) -> Floats:
    """Loss [nats/token] at sizes ln N (m,) when a budget C is spent on each; (..., m)."""
    log_tokens = np.log(flops) - cost.log_flops_per_token(log_params)
    return np.exp(_log_loss(law, theta, log_params, log_tokens))


def regret_band(
    law: Law,
    theta: Floats,
    flops: float,
    cost: TokenCost,
    tolerance: float,
    best: Split | None = None,
) -> RegretBand:
    """The range of N whose loss at this budget lies within a tolerance of the best.

    Args:
        law: Law family.
        theta: One theta, (p,).
        flops: Budget C [FLOP].
        cost: FLOP per token as a function of N.
        tolerance: How far above the least loss, in ln; one run's noise, say.
        best: The budget's best split, of one value, where it is known.

    Returns:
        Smallest and largest N; an end where even one parameter, or one token, stays within the
        tolerance is that end.
    """
    best = best or split(law, theta, np.array([flops]), cost)
    centre, limit = best.log_params.item(), best.log_loss.item() + tolerance

    inside, outside = np.full(2, centre), np.array([0.0, np.log(flops)])
    for _ in range(NESTS):
        grid = inside + np.linspace(0, 1, NESTED)[:, None] * (outside - inside)
        losses = along_budget(law, theta, grid.ravel(), flops, cost).reshape(grid.shape)
        beyond = ~(np.log(losses) <= limit)
        beyond[0], beyond[-1] = False, True
        first = beyond.argmax(axis=0)
        inside, outside = grid[first - 1, [0, 1]], grid[first, [0, 1]]
    low, high = (float(v) for v in np.exp(inside))
    return RegretBand(low=low, high=high)


def flops_for_loss(law: Law, theta: Floats, loss: float, cost: TokenCost) -> float:
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


def _search(law: Law, theta: Floats, log_flops: Floats, cost: TokenCost) -> Floats:
    """Root of the slope of ln L along each budget: coarse grid, then Newton; (..., k)."""
    top = log_flops - np.log(6)
    grid = np.linspace(0, 1, COARSE) * top[:, None]
    shape = (*theta.shape[:-1], len(log_flops))
    low, high, start = np.empty(shape), np.empty(shape), np.empty(shape)
    for j, c in enumerate(log_flops):
        losses = _log_loss(law, theta, grid[j], c - cost.log_flops_per_token(grid[j]))
        best = np.argmin(losses, axis=-1)
        low[..., j] = grid[j][np.maximum(best - 1, 0)]
        high[..., j] = grid[j][np.minimum(best + 1, COARSE - 1)]
        start[..., j] = low[..., j] + _vertex(losses, best) * (high[..., j] - low[..., j])
    return _descended(law, theta, start, (low, high), log_flops, cost)


def _vertex(losses: Floats, best: NDArray[np.int64]) -> Floats:
    """Where between the least point's neighbours (0 to 1) the parabola through them is least."""
    rows, at = losses.reshape(-1, COARSE), np.clip(best.ravel(), 1, COARSE - 2)
    each = np.arange(len(rows))
    left, middle, right = rows[each, at - 1], rows[each, at], rows[each, at + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 0.5 + 0.25 * (left - right) / (left - 2 * middle + right)
    inside = (found > 0.02) & (found < 0.98) & (at == best.ravel())
    return np.where(inside, found, 0.5).reshape(best.shape)


def _descended(
    law: Law,
    theta: Floats,
    start: Floats,
    cell: tuple[Floats, Floats],
    log_flops: Floats,
    cost: TokenCost,
) -> Floats:
    """The least of ln L between two ln N, (..., k): Newton's steps, halved where they lead out."""
    k, around = len(log_flops), np.repeat([SLOPE_STEP, 0.0, -SLOPE_STEP], len(log_flops))
    budgets = np.tile(log_flops, 3)
    (low, high), x, settled = cell, start, np.zeros(start.shape, dtype=bool)
    for _ in range(BISECTIONS):
        near = np.concatenate([x, x, x], axis=-1) + around
        loss = _log_loss(law, theta, near, budgets - cost.log_flops_per_token(near))
        up, middle, down = loss[..., :k], loss[..., k : 2 * k], loss[..., 2 * k :]
        falling = up < down
        low, high = np.where(falling, x, low), np.where(falling, high, x)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = -0.5 * SLOPE_STEP * (up - down) / (up - 2 * middle + down)
        small = np.abs(step) <= SETTLED  # rounding may then put the root just beyond x
        inside = (x + step > low) & (x + step < high)
        new = np.where(small | inside, x + step, 0.5 * (low + high))
        x, settled = np.where(settled, x, new), settled | (np.abs(new - x) <= SETTLED)
        if settled.all():
            break
    return np.asarray(x)


def _log_loss(law: Law, theta: Floats, log_params: Floats, log_tokens: Floats) -> Floats:
    """The ln of the law, with an axis of budgets or sizes after those of theta; (..., k)."""
    with np.errstate(over="ignore", divide="ignore"):  # a wild law's optimum may be at no size
        loss = law.loss(theta[..., None, :], np.exp(log_params), np.exp(log_tokens))
        return np.asarray(np.log(loss))
