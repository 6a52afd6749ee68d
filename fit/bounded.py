"""The best model within limits: at a budget the least loss, for a loss the least compute.

More tokens never hurt the law, so that at each size as many are taken as the budget and the limits
allow (or, for a loss, as few as reach it). What is left is one dimension, ln N, along which the
loss falls while a ceiling on tokens holds, and then has one minimum along the budget: the best size
is the free one, moved to the nearer end where the limits cut it off. Closed form under C = k N D
for a two-term law; else a coarse grid and bisection, for all thetas at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fit.allocate import BISECTIONS, COARSE, SETTLED, SLOPE_STEP, Band, closed_form
from fit.needs import log_loss, tokens_needed
from fit.problem import MOST_LOG, Problem
from fit.record import Floats

CROSSINGS = 60
"""Halvings of a bracket of at most 200 in ln: to rounding."""
SNAP = 1e-9
"""A minimum nearer than this to an end is that end: its own error in ln N is as large."""
TOUCH = 1e-7
"""Limits nearer than this in ln are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Models, one per theta, (m,); NaN where a theta reaches the loss with none."""

    log_params: Floats
    log_tokens: Floats
    log_loss: Floats
    log_flops: Floats
    """Of training and serving."""

    @property
    def params(self) -> float:
        """N of the first."""
        return float(np.exp(self.log_params[0]))


def reachable(problem: Problem, log_flops: float) -> tuple[float, float]:
    """The ln N between which the best size at a budget lies; crossed where nothing can be paid.

    Below the lower end a ceiling on tokens leaves some of the budget unspent.
    """
    low, high = problem.sizes()
    paid = crossing(lambda x: problem.paid(x, log_flops) - problem.floor(x), 0.0, MOST_LOG)
    high = min(high, float(paid))
    if high < low <= high + TOUCH:
        high = low
    full = crossing(lambda x: problem.paid(x, log_flops) - problem.ceiling(x), 0.0, MOST_LOG)
    if problem.paid(np.array(low), log_flops) < problem.floor(np.array(low)) - TOUCH:
        return low, -np.inf
    return min(max(low, float(full)), max(low, high)), high


def least_loss(problem: Problem, theta: Floats, log_flops: float) -> Place:
    """The model of least loss that a budget pays for within the limits.

    Args:
        problem: Law, cost and limits; some model must be within them, see `reachable`.
        theta: Thetas on raw counts, (m, p).
        log_flops: The ln of the budget [FLOP], for training and serving.
    """
    left, right = reachable(problem, log_flops)
    law, k = problem.law, problem.cost.constant

    def loss(x: Floats) -> Floats:
        return log_loss(law, theta, x, tokens_at(problem, x, log_flops))

    if k is not None and law.expand is not None and not problem.served:
        best = closed_form(law, theta, np.array([log_flops]), k)[:, 0]
        best = np.clip(best, left, right)
    else:
        best = _minimum(loss, np.full(len(theta), left), np.full(len(theta), right))
    tokens = tokens_at(problem, best, log_flops)
    return Place(
        log_params=best,
        log_tokens=tokens,
        log_loss=log_loss(law, theta, best, tokens),
        log_flops=problem.spent(best, tokens),
    )


def least_cost(problem: Problem, theta: Floats, target: Floats) -> Place:
    """The model that reaches a loss with the least compute, training and serving.

    Args:
        problem: Law, cost and limits.
        theta: Thetas on raw counts, (m, p).
        target: The ln of the loss [nats/token], (m,).

    Returns:
        Its place; NaN for thetas that reach the loss within no limits.
    """
    low, right = problem.sizes()
    right = min(right, 0.5 * MOST_LOG)

    def needed(x: Floats) -> Floats:
        goal = target[:, None] if np.ndim(x) == 2 else target
        return tokens_needed(problem.law, theta, x, goal)

    def flops(x: Floats) -> Floats:
        return problem.spent(x, np.maximum(needed(x), problem.floor(x)))

    def missed(x: Floats, tokens: Floats) -> Floats:
        return log_loss(problem.law, theta, x, tokens) - target

    # Too small to reach it under the ceiling; and so large that the floor alone goes beyond it.
    ends = np.full(len(theta), low), np.full(len(theta), max(low, right))
    left = crossing(lambda x: missed(x, np.minimum(problem.ceiling(x), MOST_LOG)), *ends)
    best = _minimum(flops, left, crossing(lambda x: missed(x, problem.floor(x)), *ends))
    tokens = np.maximum(tokens_needed(problem.law, theta, best, target), problem.floor(best))
    wrong = (tokens > problem.ceiling(best) + TOUCH) | (tokens > MOST_LOG) | (low > right)
    best, tokens = np.where(wrong, np.nan, best), np.where(wrong, np.nan, tokens)
    return Place(
        log_params=best,
        log_tokens=tokens,
        log_loss=log_loss(problem.law, theta, best, tokens),
        log_flops=problem.spent(best, tokens),
    )


def tokens_at(problem: Problem, log_params: Floats, log_flops: float) -> Floats:
    """The ln of the most tokens that a budget and the ceilings allow at ln N."""
    return np.minimum(problem.paid(log_params, log_flops), problem.ceiling(log_params))


def good_sizes(problem: Problem, theta: Floats, log_flops: float, tolerance: float) -> Band:
    """The range of N within the limits whose loss at a budget is within a tolerance of the best.

    Args:
        problem: Law, cost and limits.
        theta: One theta, (p,).
        log_flops: The ln of the budget [FLOP].
        tolerance: How far above the least loss, in ln; one run's noise, say.
    """
    rows = theta[None, :]
    best = least_loss(problem, rows, log_flops)
    low, high = problem.sizes()[0], reachable(problem, log_flops)[1]

    def room(x: Floats) -> Floats:
        loss = log_loss(problem.law, rows, x, tokens_at(problem, x, log_flops))
        return best.log_loss + tolerance - loss

    centre = best.log_params
    lower = crossing(lambda x: -room(x), np.array([low]), centre)
    upper = crossing(room, centre, np.array([max(high, float(centre[0]))]))
    return Band(low=float(np.exp(lower[0])), high=float(np.exp(upper[0])))


def crossing(function: Callable[[Floats], Floats], low: object, high: object) -> Floats:
    """Where a falling function passes zero, or the end beyond which it does."""
    left, right = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    start, end = function(left) <= 0, function(right) >= 0
    below, above = left, right
    for _ in range(CROSSINGS):
        middle = 0.5 * (below + above)
        positive = function(middle) > 0
        below, above = np.where(positive, middle, below), np.where(positive, above, middle)
    return np.where(start, left, np.where(end, right, 0.5 * (below + above)))


def _minimum(function: Callable[[Floats], Floats], left: Floats, right: Floats) -> Floats:
    """Arg min between ends (m,) of a function with one minimum: coarse grid, then Newton.

    A step that leads out of its bracket, or comes from beside an end, is a halving instead.
    """
    right = np.maximum(left, right)
    grid = left[:, None] + (right - left)[:, None] * np.linspace(0, 1, COARSE)
    values = np.nan_to_num(function(grid), nan=np.inf, posinf=np.inf)
    best, rows = np.argmin(values, axis=1), np.arange(len(left))
    low = grid[rows, np.maximum(best - 1, 0)]
    high = grid[rows, np.minimum(best + 1, COARSE - 1)]
    x, settled = 0.5 * (low + high), high - low < SNAP
    for _ in range(BISECTIONS):
        if settled.all():
            break
        ahead, behind = np.minimum(x + SLOPE_STEP, right), np.maximum(x - SLOPE_STEP, left)
        up, middle, down = function(np.stack([ahead, x, behind], axis=1)).T
        with np.errstate(invalid="ignore", divide="ignore"):
            falling = up < down
            step = -0.5 * SLOPE_STEP * (up - down) / (up - 2 * middle + down)
        low, high = np.where(falling, x, low), np.where(falling, high, x)
        free = (x - left > SLOPE_STEP) & (right - x > SLOPE_STEP)
        small = free & (np.abs(step) <= SETTLED)  # rounding may then put the root just beyond x
        inside = free & (x + step > low) & (x + step < high)
        new = np.where(small | inside, x + step, 0.5 * (low + high))
        x, settled = np.where(settled, x, new), settled | small | (high - low < SNAP)
    x = np.where(x - left < SNAP, left, x)
    return np.where(right - x < SNAP, right, x)
