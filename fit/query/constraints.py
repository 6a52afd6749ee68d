"""The best model within limits: at a budget the least loss, for a loss the least compute.

More tokens never hurt the law, so that at each size as many are taken as the budget and the limits
allow (or, for a loss, as few as reach it). What is left is one dimension, ln N, along which the
loss falls while a ceiling on tokens holds, and then has one minimum along the budget: the best size
is the free one, moved to the nearer end where the limits cut it off. Closed form under C = k N D
for a two-term law; else a coarse grid and bisection, for all thetas at once.

What a model is held to, as limits on ln N, ln D and ln D/N, and what it has to pay for.

The tokens that a size needs to reach a loss: in closed form where the law allows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fit.allocation.allocate import BISECTIONS, COARSE, SETTLED, SLOPE_STEP, RegretBand, closed_form
from fit.allocation.ladder import Ladder, TokenCost
from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import count_params
from fit.data.records import Floats
from fit.laws.families import DECAY_PARAMS, DECAY_TOKENS
from fit.laws.law import Law
from fit.query.question import BYTES_PER_PARAM, LIMITS, Question

FORWARD_SHARE = 3.0
"""FLOP of training on a token over those of serving it: a backward pass costs two forward ones."""
MOST_LOG = 200.0
"""The ln of more parameters or tokens than anybody could mean."""
ON = {"params": "params", "tokens": "tokens", "ratio": "tokens_per_param", "memory": "params"}
"""What a field limits, by the last word of its name."""
STEPS = 45
"""Of Ridders' method in ln D at most: a bracket of up to 200 is halved by each."""
CLOSE = 1e-11
"""Width of a bracket in ln D that is narrow enough."""
TWO_TERM = {"E", "A", "B", "alpha", "beta", "R_D*", "R_N*"}
"""Parameters of a two-term law of what params and repeated tokens are worth."""
CROSSINGS = 60
"""Halvings of a bracket of at most 200 in ln: to rounding."""
SNAP = 1e-9
"""A minimum nearer than this to an end is that end: its own error in ln N is as large."""
TOUCH = 1e-7
"""Limits nearer than this in ln are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit of a question; ends in ln, infinite where open."""

    name: str
    """The question's field."""
    on: str
    """`params`, `tokens` or `tokens_per_param`."""
    value: float
    """As the question has it."""
    low: float
    high: float
    wider: tuple[float, float]
    """The ends with twice the limit: half of a floor, both sides of a fixed value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstrainedProblem:
    """Which N and D are allowed, and what they cost: training, and serving where asked."""

    law: Law
    cost: TokenCost
    limits: tuple[Limit, ...] = ()
    served: float = 0.0
    """Tokens served, paid from the same budget."""

    def ends(self, on: str) -> tuple[float, float]:
        """The ln of the least and of the most allowed of `params`, `tokens` or their ratio."""
        some = [limit for limit in self.limits if limit.on == on]
        least = -math.inf if on == "tokens_per_param" else 0.0
        return max([least, *(s.low for s in some)]), min([math.inf, *(s.high for s in some)])

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

    def paid(self, log_params: Floats, log_flops: float) -> Floats:
        """The ln of the training tokens that a budget pays at ln N once serving is paid."""
        per_token = self.cost.log_flops_per_token(log_params)
        if not self.served:
            return np.asarray(log_flops - per_token)
        share = np.exp(np.log(self.served / FORWARD_SHARE) + per_token - log_flops)
        with np.errstate(divide="ignore"):
            return np.asarray(log_flops - per_token + np.log1p(-np.minimum(share, 1.0)))

    def spent(self, log_params: Floats, log_tokens: Floats) -> Floats:
        """The ln of the FLOP of training and serving."""
        per_token = self.cost.log_flops_per_token(log_params)
        if not self.served:
            return np.asarray(per_token + log_tokens)
        with np.errstate(invalid="ignore"):  # NaN where a theta has no place
            both = np.logaddexp(log_tokens, np.log(self.served / FORWARD_SHARE))
        return np.asarray(per_token + both)

    def without(self, name: str) -> ConstrainedProblem:
        """The same, a limit lifted."""
        return dataclasses.replace(self, limits=tuple(x for x in self.limits if x.name != name))

    def doubled(self, name: str) -> ConstrainedProblem:
        """The same with twice a limit."""
        limits = tuple(
            dataclasses.replace(x, low=x.wider[0], high=x.wider[1]) if x.name == name else x
            for x in self.limits
        )
        return dataclasses.replace(self, limits=limits)


def constrained_problem(question: Question, source: ScalingLaw) -> ConstrainedProblem:
    """The limits of a question on a source, which has the question's unique tokens already."""
    given = {n: getattr(question, n) for n in LIMITS}
    limits = tuple(_limit(question, source, n, v) for n, v in given.items() if v is not None)
    served = question.serve_tokens or 0.0
    return ConstrainedProblem(law=source.law, cost=source.cost, limits=limits, served=served)


def _limit(question: Question, source: ScalingLaw, name: str, value: float) -> Limit:
    """One limit from its field."""
    at, double = math.log(value), math.log(2)
    low, high = (-math.inf if name.startswith("max_") else at), at
    wider = (low - double, high + double)
    if name.startswith("min_"):
        high, wider = math.inf, (at - double, math.inf)
    if name == "memory":
        each = question.bytes_per_param or BYTES_PER_PARAM
        low, high = -math.inf, largest_params(source.ladder, value / each)
        wider = (low, largest_params(source.ladder, 2 * value / each))
    on = ON[name.rpartition("_")[2]]
    return Limit(name=name, on=on, value=value, low=low, high=high, wider=wider)


def largest_params(ladder: Ladder | None, stored: float) -> float:
    """The ln N of the model on the ladder whose parameters, all of them, are `stored`.

    N may leave out the embedding or idle experts, which take memory all the same. Without a
    ladder it is `stored` itself.
    """
    if ladder is None:
        return math.log(stored)
    counts = np.log(ladder.along(lambda s: (ladder.count(s)[0], count_params(s).total)))
    total, gap = counts[:, 1], counts[:, 0] - counts[:, 1]
    return float(np.log(stored) + np.interp(np.log(stored), total, gap))


def log_loss(law: Law, theta: Floats, log_params: Floats, log_tokens: Floats) -> Floats:
    """The ln of the law, thetas (m, p) by places (m,) or (m, q)."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        rows = theta[:, None, :] if np.ndim(log_params) == 2 else theta
        return np.asarray(np.log(law.loss(rows, np.exp(log_params), np.exp(log_tokens))))


def tokens_needed(law: Law, theta: Floats, log_params: Floats, target: Floats) -> Floats:
    """The ln of the fewest tokens with which sizes reach a loss; infinite where none do.

    Args:
        law: Law family.
        theta: (m, p).
        log_params: ln N, (m,) or (m, q).
        target: ln of the loss [nats/token], (m,) or (m, 1).
    """
    if law.expand is not None:
        e, a, b, alpha, beta = (
            p[:, None] if np.ndim(log_params) == 2 else p for p in law.expand(theta)
        )
        return _two_term(e, a, b, alpha, beta, log_params, target)
    if "unique_tokens" in law.columns and set(law.parameters) <= TWO_TERM:
        return _repeating(law, theta, log_params, target)
    low, high = np.zeros_like(log_params), np.full_like(log_params, MOST_LOG)
    return _searched(law, theta, log_params, target, low, high)


def _two_term(
    e: Floats, a: Floats, b: Floats, alpha: Floats, beta: Floats, x: Floats, target: Floats
) -> Floats:
    """D = (B / (l - E - A N^-alpha))^(1/beta), in ln.

    Source: Sardana et al. 2024, arXiv:2401.00448, eq. 2.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        left = np.exp(target) - e - a * np.exp(-alpha * x)
        return np.asarray((np.log(b) - np.log(np.maximum(left, 0.0))) / beta)


def _repeating(law: Law, theta: Floats, x: Floats, target: Floats) -> Floats:
    """The same where tokens repeat: `repeats.worth` inverted.

    With every unique token seen, N' is known, and D' and the repeats follow. With fewer, N' is N
    unless N exceeds what the tokens can feed: only there it is searched.
    """
    wide = np.ndim(x) == 2
    t = {k: v[:, None] if wide else v for k, v in law.named(theta).items()}
    a, b, alpha = t["A"], t["B"], t["alpha"]
    beta, e = t.get("beta", alpha), np.exp(t["E"]) if "E" in t else np.zeros_like(alpha)
    unique = np.log(law.held["unique_tokens"])
    decay = np.exp(t["R_D*"]) if "R_D*" in t else DECAY_TOKENS
    use = np.exp(t["R_N*"]) if "R_N*" in t else DECAY_PARAMS
    feeds = np.log(alpha / beta) + a - b
    fed = np.minimum(x, (feeds + beta * unique) / alpha)
    excess = np.expm1(np.minimum(x - fed, 30.0))
    worth = fed + np.log1p(-use * np.expm1(-excess / use))
    whole = _two_term(e, np.exp(a), np.exp(b), alpha, beta, worth, target)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        share = np.expm1(whole - unique) / decay
        repeats = np.where(share < 1, -decay * np.log1p(-np.minimum(share, 1.0)), np.inf)
        past = unique + np.log1p(repeats)
    fresh = _two_term(e, np.exp(a), np.exp(b), alpha, beta, x, target)
    y = np.where(whole >= unique, past, fresh)
    starved = (whole < unique) & (alpha * x > feeds + beta * fresh)
    if starved.any():
        index = np.arange(len(theta))
        rows = np.broadcast_to(index[:, None] if wide else index, x.shape)[starved]
        goal = np.broadcast_to(target, x.shape)[starved]
        low = np.clip(fresh[starved], 0.0, unique)
        high = np.full(len(rows), unique)
        y[starved] = _searched(law, theta[rows], x[starved], goal, low, high)
    return np.asarray(y)


def _searched(
    law: Law, theta: Floats, x: Floats, target: Floats, low: Floats, high: Floats
) -> Floats:
    """Tokens needed under a law without a closed form: Ridders' method on ln L, in a bracket."""

    def above(y: Floats) -> Floats:
        return log_loss(law, theta, x, y) - target

    first, last = above(low), above(high)
    never, always = last > 0, first <= 0
    start = low
    for _ in range(STEPS):
        if (never | always | (high - low < CLOSE)).all():
            break
        middle = 0.5 * (low + high)
        between = above(middle)
        root = np.sqrt(np.maximum(between**2 - first * last, 1e-300))
        guess = np.clip(middle + (middle - low) * between / root, low, high)
        for at, value in ((middle, between), (guess, above(guess))):
            up, down = (value > 0) & (at > low), (value <= 0) & (at < high)
            low, first = np.where(up, at, low), np.where(up, value, first)
            high, last = np.where(down, at, high), np.where(down, value, last)
    return np.where(never, np.inf, np.where(always, start, 0.5 * (low + high)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
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


def reachable(problem: ConstrainedProblem, log_flops: float) -> tuple[float, float]:
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


def least_loss(problem: ConstrainedProblem, theta: Floats, log_flops: float) -> Optimum:
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
    return Optimum(
        log_params=best,
        log_tokens=tokens,
        log_loss=log_loss(law, theta, best, tokens),
        log_flops=problem.spent(best, tokens),
    )


def least_cost(problem: ConstrainedProblem, theta: Floats, target: Floats) -> Optimum:
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
    return Optimum(
        log_params=best,
        log_tokens=tokens,
        log_loss=log_loss(problem.law, theta, best, tokens),
        log_flops=problem.spent(best, tokens),
    )


def tokens_at(problem: ConstrainedProblem, log_params: Floats, log_flops: float) -> Floats:
    """The ln of the most tokens that a budget and the ceilings allow at ln N."""
    return np.minimum(problem.paid(log_params, log_flops), problem.ceiling(log_params))


def sizes_within_tolerance(
    problem: ConstrainedProblem, theta: Floats, log_flops: float, tolerance: float
) -> RegretBand:
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
    return RegretBand(low=float(np.exp(lower[0])), high=float(np.exp(upper[0])))


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
