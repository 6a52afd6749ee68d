"""The best model within limits: the least loss of a budget, or the least compute of a loss.

More tokens never hurt the law, so that each size takes as many as the budget and the limits allow
(or, for a loss, as few as reach it). What is left is one dimension, ln N. Along it the loss falls
while a ceiling on tokens holds, and then has one minimum along the budget: the best size is that of
the split without limits, moved to the nearer end where the limits exclude it. Served tokens and a
target loss need a search of their own.

What to use when: `least_loss` for a budget, `least_cost` for a target loss, and
`sizes_within_tolerance` for the regret band. All take many thetas at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fit.allocation.allocate import (
    MOST_LOG,
    falling_root,
    falling_root_of_few,
    log_loss_at,
    minimise,
    split,
    tokens_needed,
)
from fit.allocation.costs import TRAINING_OVER_SERVING
from fit.allocation.ladder import Ladder, TokenCost
from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import count_params
from fit.data.records import Floats
from fit.laws.law import Law
from fit.query.documents import RegretBand
from fit.query.question import BYTES_PER_PARAM, FIELDS, LIMITS, Question

TOUCH = 1e-7
"""Limits nearer than this in ln are one."""
SPACING = 0.25
"""Spacing in ln C of the budgets between which the starts of searches are interpolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit of a question; ends in ln, infinite where open."""

    name: str
    """The question's field."""
    on: str
    """`params`, `tokens` or `tokens_per_param`."""
    value: float
    """The value of the field."""
    low: float
    high: float
    wider: tuple[float, float]
    """The ends with twice the limit: half of a floor, both sides of a fixed value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstrainedProblem:
    """Which N and D are allowed, and what they cost: training, and serving of tokens."""

    law: Law
    cost: TokenCost
    limits: tuple[Limit, ...] = ()
    served: float = 0.0
    """Tokens served, paid from the same budget."""

    def ends(self, on: str) -> tuple[float, float]:
        """The ln of the least and of the most allowed of `params`, `tokens` or their ratio."""
        least = -math.inf if on == "tokens_per_param" else 0.0
        if not self.limits:
            return least, math.inf
        limits = [limit for limit in self.limits if limit.on == on]
        return max([least, *(v.low for v in limits)]), min([math.inf, *(v.high for v in limits)])

    def floor(self, log_params: Floats) -> Floats:
        """The ln of the fewest training tokens allowed at ln N."""
        return np.maximum(self.ends("tokens")[0], log_params + self.ends("tokens_per_param")[0])

    def ceiling(self, log_params: Floats) -> Floats:
        """The ln of the most training tokens allowed at ln N."""
        return np.minimum(self.ends("tokens")[1], log_params + self.ends("tokens_per_param")[1])

    def sizes(self) -> tuple[float, float]:
        """The ln N between which some number of tokens is allowed; crossed where none is."""
        (low, high), (few, many) = self.ends("params"), self.ends("tokens")
        least, most = self.ends("tokens_per_param")
        return max(low, few - most), min(high, many - least, MOST_LOG)

    def affordable(self, log_params: Floats, log_flops: float) -> Floats:
        """The ln of the training tokens that a budget pays at ln N once serving is paid."""
        per_token = self.cost.log_flops_per_token(log_params)
        if not self.served:
            return np.asarray(log_flops - per_token)
        share = np.exp(np.log(self.served / TRAINING_OVER_SERVING) + per_token - log_flops)
        with np.errstate(divide="ignore"):
            return np.asarray(log_flops - per_token + np.log1p(-np.minimum(share, 1.0)))

    def tokens(self, log_params: Floats, log_flops: float) -> Floats:
        """The ln of the most training tokens that a budget and the ceilings allow at ln N."""
        return np.minimum(self.affordable(log_params, log_flops), self.ceiling(log_params))

    def spent(self, log_params: Floats, log_tokens: Floats) -> Floats:
        """The ln of the FLOP of training and serving."""
        per_token = self.cost.log_flops_per_token(log_params)
        if not self.served:
            return np.asarray(per_token + log_tokens)
        with np.errstate(invalid="ignore"):  # NaN where a theta reaches the loss at no size
            both = np.logaddexp(log_tokens, np.log(self.served / TRAINING_OVER_SERVING))
        return np.asarray(per_token + both)

    def without(self, name: str) -> ConstrainedProblem:
        """The same with a limit lifted."""
        return dataclasses.replace(self, limits=tuple(x for x in self.limits if x.name != name))

    def doubled(self, name: str) -> ConstrainedProblem:
        """The same with twice a limit."""
        limits = tuple(
            dataclasses.replace(x, low=x.wider[0], high=x.wider[1]) if x.name == name else x
            for x in self.limits
        )
        return dataclasses.replace(self, limits=limits)


def constrained_problem(question: Question, source: ScalingLaw) -> ConstrainedProblem:
    """The limits of a question on a law, in which unique tokens are already fixed."""
    limits = []
    for name in LIMITS:
        value = getattr(question, name)
        if value is not None:
            on = FIELDS[name].limits
            assert on is not None
            low, high = limit_ends(question, source, name, value)
            twice = limit_ends(question, source, name, 2 * value)[1]
            wider = (low - math.log(2), twice)
            limits.append(Limit(name=name, on=on, value=value, low=low, high=high, wider=wider))
    served = question.serve_tokens or 0.0
    return ConstrainedProblem(law=source.law, cost=source.cost, limits=tuple(limits), served=served)


def limit_ends(
    question: Question, source: ScalingLaw, name: str, value: float
) -> tuple[float, float]:
    """The rule of a limit: the ln of the least and of the most that a value of its field allows.

    A field whose value is no bound of params, tokens or their ratio itself has its own rule here.
    """
    at = math.log(value)
    if name == "memory":
        at = stored_params(source.ladder, value / (question.bytes_per_param or BYTES_PER_PARAM))
    end = FIELDS[name].end
    return (-math.inf if end == "high" else at), (math.inf if end == "low" else at)


def stored_params(ladder: Ladder | None, stored: float) -> float:
    """The ln N of the model on the ladder that has `stored` parameters, all of them counted.

    N may leave out the embedding or idle experts, which take memory all the same. Without a
    ladder N is `stored` itself.
    """
    if ladder is None:
        return math.log(stored)
    counts = np.log(ladder.along(lambda s: (ladder.count(s)[0], count_params(s).total)))
    total, gap = counts[:, 1], counts[:, 0] - counts[:, 1]
    return float(np.log(stored) + np.interp(np.log(stored), total, gap))


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best models, one per theta, (m,); NaN where a theta reaches the loss with none."""

    log_params: Floats
    log_tokens: Floats
    log_loss: Floats
    log_flops: Floats
    """Of training and serving."""

    def rows(self, which: slice) -> Optimum:
        """Those of some thetas."""
        names = (field.name for field in dataclasses.fields(self))
        return Optimum(**{name: getattr(self, name)[which] for name in names})


def reachable(problem: ConstrainedProblem, log_flops: float) -> tuple[float, float]:
    """The ln N between which the best size at a budget lies; crossed where the budget pays none.

    Below the lower end a ceiling on tokens leaves some of the budget unspent.
    """
    low, high = problem.sizes()

    def budget_meets(tokens: Callable[[Floats], Floats]) -> float:
        def left(x: Floats) -> Floats:
            return problem.affordable(x, log_flops) - tokens(x)

        return float(falling_root_of_few(left, 0.0, MOST_LOG))

    high = min(high, budget_meets(problem.floor))
    if high < low <= high + TOUCH:
        high = low
    at_low = np.array(low)
    if problem.affordable(at_low, log_flops) < problem.floor(at_low) - TOUCH:
        return low, -np.inf
    unspent = budget_meets(problem.ceiling) if problem.limits else 0.0
    return min(max(low, unspent), max(low, high)), high


def starts(source: ScalingLaw, log_flops: float) -> Floats | None:
    """Where the searches of an answer begin, without limits: interpolated, to about 1e-5 in ln.

    The budgets between which is interpolated are searched once for a law.

    Args:
        source: A fit.
        log_flops: The ln of the budget [FLOP].

    Returns:
        ln N* of each of `source.thetas`, then both ends of the regret band, (1 + m + 2,); None
        where at one of those budgets any of them has one parameter or one token.
    """
    first = math.floor(log_flops / SPACING) - 1
    known, budgets = source.starts, range(first, first + 4)
    for i in (i for i in budgets if i not in known):
        known[i] = _searched_starts(source, i * SPACING)
    t = log_flops / SPACING - first - 1  # cubic, through the values at -1, 0, 1 and 2
    u, v, w = t + 1, t - 1, t - 2
    near = (
        (u * v * w / 2) * known[first + 1]
        - (t * v * w / 6) * known[first]
        - (u * t * w / 2) * known[first + 2]
        + (u * t * v / 6) * known[first + 3]
    )
    return near if np.isfinite(near).all() else None


def _searched_starts(source: ScalingLaw, log_flops: float) -> Floats:
    """The same at one budget, by a search; NaN where any has one parameter or one token."""
    assert source.fit is not None
    problem = ConstrainedProblem(law=source.law, cost=source.cost)
    best = least_loss(problem, source.thetas, log_flops)
    place, noise = best.rows(slice(1)), source.fit.noise
    band = sizes_within_tolerance(problem, source.theta, log_flops, noise, place)
    sizes = np.concatenate([best.log_params, np.log([band.low, band.high])])
    inside = sizes.min() > TOUCH and problem.affordable(sizes, log_flops).min() > TOUCH
    return sizes if inside else np.full_like(sizes, np.nan)


def least_loss(
    problem: ConstrainedProblem, theta: Floats, log_flops: float, near: Floats | None = None
) -> Optimum:
    """The model of least loss that a budget pays for within the limits.

    Args:
        problem: Law, cost and limits; some model must be within them, see `reachable`.
        theta: Thetas on raw counts, (m, p).
        log_flops: The ln of the budget [FLOP], for training and serving.
        near: About ln N* without limits, (m,), if that is known.
    """
    if problem.served:
        at = log_loss_at(problem.law, theta)
        left, right = reachable(problem, log_flops)
        ends = np.full(len(theta), left), np.full(len(theta), right)
        best = minimise(lambda x: at(x, problem.tokens(x, log_flops)), *ends)
    else:
        begin = None if near is None else near[:, None]
        free = split(problem.law, theta, np.exp([log_flops]), problem.cost, begin)
        best = free.log_params[:, 0]
        if not problem.limits:
            return Optimum(
                log_params=best,
                log_tokens=free.log_tokens[:, 0],
                log_loss=free.log_loss[:, 0],
                log_flops=np.full(len(theta), log_flops),
            )
        at = log_loss_at(problem.law, theta)
        best = np.clip(best, *reachable(problem, log_flops))
    tokens = problem.tokens(best, log_flops)
    return Optimum(
        log_params=best,
        log_tokens=tokens,
        log_loss=at(best, tokens),
        log_flops=problem.spent(best, tokens),
    )


def least_cost(problem: ConstrainedProblem, theta: Floats, target: Floats) -> Optimum:
    """The model that reaches a loss with the least compute, training and serving.

    Args:
        problem: Law, cost and limits.
        theta: Thetas on raw counts, (m, p).
        target: The ln of the loss [nats/token], (m,).

    Returns:
        The optimum; NaN for thetas that reach the loss within no limits.
    """
    law = problem.law
    low, right = problem.sizes()
    right = min(right, 0.5 * MOST_LOG)

    def tokens_at(x: Floats) -> Floats:
        return np.maximum(tokens_needed(law, theta, x, target), problem.floor(x))

    at = log_loss_at(law, theta)

    def excess(x: Floats, tokens: Floats) -> Floats:
        return at(x, tokens) - target

    # Too small to reach it under the ceiling; and so large that the floor alone goes beyond it.
    ends = np.full(len(theta), low), np.full(len(theta), max(low, right))
    smallest = falling_root(lambda x: excess(x, np.minimum(problem.ceiling(x), MOST_LOG)), *ends)
    largest = falling_root(lambda x: excess(x, problem.floor(x)), *ends)
    best = minimise(lambda x: problem.spent(x, tokens_at(x)), smallest, largest)
    tokens = tokens_at(best)
    wrong = (tokens > problem.ceiling(best) + TOUCH) | (tokens > MOST_LOG) | (low > right)
    best, tokens = np.where(wrong, np.nan, best), np.where(wrong, np.nan, tokens)
    return Optimum(
        log_params=best,
        log_tokens=tokens,
        log_loss=at(best, tokens),
        log_flops=problem.spent(best, tokens),
    )


def sizes_within_tolerance(
    problem: ConstrainedProblem,
    theta: Floats,
    log_flops: float,
    tolerance: float,
    best: Optimum | None = None,
    near: Floats | None = None,
) -> RegretBand:
    """The range of N within the limits whose loss at a budget is within a tolerance of the best.

    Args:
        problem: Law, cost and limits.
        theta: One theta, (p,).
        log_flops: The ln of the budget [FLOP].
        tolerance: How far above the least loss, in ln; one run's noise, say.
        best: The model of least loss, one, where it is computed already.
        near: About where both ends are in ln N, (2,), if that is known; within the limits.

    Returns:
        Smallest and largest N; where even one parameter, one token or a limit is within the
        tolerance, that is the end.
    """
    best = best or least_loss(problem, theta[None], log_flops)
    centre, most = float(best.log_params[0]), float(best.log_loss[0]) + tolerance
    low = problem.sizes()[0]
    high = log_flops if near is not None else max(reachable(problem, log_flops)[1], centre)
    side, at = np.array([-1.0, 1.0]), log_loss_at(problem.law, theta)

    def margin(distance: Floats) -> Floats:
        x = centre + side * distance
        return most - at(x, problem.tokens(x, log_flops))

    ends = np.array([centre - low, high - centre])
    begin = None if near is None else side * (near - centre)
    distance = falling_root_of_few(margin, np.zeros(2), ends, begin)
    band = np.exp(centre + side * distance)
    return RegretBand(low=float(band[0]), high=float(band[1]))
