"""The best split of a budget between parameters and tokens, and the two searches behind it.

What to use when:
    `split` for budgets without limits. It is closed form for a two-term law under C = k N D; with
        exact counting, C(N, D) = c(N) D with c(N) from the ladder of shapes, it is a search.
    `fit.query.constraints` for limits, served tokens or a target loss. It uses the same searches.
    `minimise` for any other optimum along one dimension, `falling_root` for any inverse. Both solve
        one problem per theta and budget at once, so that bands over thousands of draws cost
        milliseconds.
    `tokens_needed` for the inverse of a law in its tokens, in closed form where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.allocation.ladder import TokenCost
from fit.data.records import Floats
from fit.laws.families import DECAY_PARAMS, DECAY_TOKENS
from fit.laws.law import Law

JUST_BEYOND = 1e-9
"""Of ln N, by which a root of D is passed so that no token is repeated by rounding."""
COARSE = 96
"""Points of the first grid of `minimise`."""
EVERY = 5
"""Of these, every fifth is computed first, and then those around the least of them."""
ROUNDING = 1e-12
"""A smaller change of ln L from point to point of the grid is none."""
BLOCK = 1 << 21
"""Values of that grid that `split` computes at once, 16 MiB each."""
NEWTON_STEPS = 50
"""Newton's steps or halvings of a cell of the grid, at most; halvings reach 1e-15 of its width."""
SLOPE_STEP = 1e-4
"""Step in ln N of a difference quotient; its bias and its rounding both move ln N* by 1e-9."""
SETTLED = 1e-5
"""Last Newton step in ln N that counts; steps square, so the next would be lost in rounding."""
SNAP = 1e-9
"""A minimum nearer than this to an end is that end: its own error in ln N is as large."""
RIDDERS_STEPS = 50
"""Steps of `falling_root`, at most: each at least halves the bracket, of at most 200 in ln."""
BRACKET = 1e-12
"""Width of a bracket in ln that is narrow enough."""
ABOUT = np.concatenate([-(0.25 ** np.arange(15)), [0.0], 0.25 ** np.arange(14, -1, -1)])
"""Points about a guess, in widths of its bracket."""
STRAIGHT = 1e-9
"""A straight line's root this near to a parabola's: the parabola's own error is below 1e-13."""
MOST_LOG = 200.0
"""The ln of more parameters or tokens than anybody could mean."""
TWO_TERM = {"E", "A", "B", "alpha", "beta", "R_D*", "R_N*"}
"""Parameters of a two-term law in effective parameters and effective tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Budgets at their best split; every field of shape (..., k): thetas by budgets."""

    log_params: Floats
    """ln N*."""
    log_tokens: Floats
    """ln D*."""
    log_loss: Floats
    """ln L* [nats/token]."""


def split(
    law: Law, theta: Floats, flops: Floats, cost: TokenCost, near: Floats | None = None
) -> Split:
    """Split budgets between parameters and tokens so that the loss is least.

    At the optimum the last FLOP gains the same on either side: under C = k N D that is
    alpha A / N^alpha = beta B / D^beta.

    Args:
        law: Law family.
        theta: Parameters on raw counts, (..., p).
        flops: Budgets C [FLOP], (k,).
        cost: FLOP per token as a function of N.
        near: ln N* to about 1e-3 where it is known, (..., k): a search begins there.

    Returns:
        ln N*, ln D* and ln L*, each (..., k).

    Source: Hoffmann et al. 2022, arXiv:2203.15556, eq. 4.
    """
    log_flops = np.log(np.asarray(flops, dtype=np.float64))
    rows = theta[..., None, :]

    at = log_loss_at(law, rows)

    def search(budgets: Floats, near: Floats | None = None) -> Floats:
        def loss(x: Floats) -> Floats:
            return at(x, budgets - cost.log_flops_per_token(x))

        # From one parameter to one token. The grid has no axis of thetas yet: the cost of a token
        # is the same for all of them.
        top = (budgets - np.log(6)).reshape((1,) * (theta.ndim - 1) + (-1,))
        return minimise(loss, np.zeros_like(top), top, near)

    if cost.constant is not None and law.expand is not None:
        log_params = closed_form(law, theta, log_flops, cost.constant)
    elif near is not None:
        log_params = search(log_flops, near)
    else:
        per_budget = COARSE * max(1, theta.size // theta.shape[-1])
        blocks = range(0, len(log_flops), max(1, BLOCK // per_budget))
        size = blocks.step
        log_params = np.concatenate([search(log_flops[i : i + size]) for i in blocks], axis=-1)
    if "unique_tokens" in law.held:  # where repeats begin there may be a minimum without a width
        last = np.log(law.held["unique_tokens"])
        top = np.maximum(log_flops - np.log(6), 0.0)
        edge = JUST_BEYOND + falling_root(
            lambda x: log_flops - cost.log_flops_per_token(x) - last, np.zeros_like(top), top
        )
        of_edge, of_search = (
            at(x, log_flops - cost.log_flops_per_token(x)) for x in (edge, log_params)
        )
        log_params = np.where(of_edge < of_search, edge, log_params)
    log_tokens = log_flops - cost.log_flops_per_token(log_params)
    return Split(
        log_params=log_params,
        log_tokens=log_tokens,
        log_loss=at(log_params, log_tokens),
    )


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
    return np.exp(log_loss(law, theta[..., None, :], log_params, log_tokens))


def log_loss(law: Law, theta: Floats, log_params: Floats, log_tokens: Floats) -> Floats:
    """The ln of the law at thetas (..., p), whose leading axes broadcast with ln N and ln D."""
    return log_loss_at(law, theta)(log_params, log_tokens)


def log_loss_at(law: Law, theta: Floats) -> Callable[[Floats, Floats], Floats]:
    """The same as a function of ln N and ln D, for a search."""
    log_loss = law.log_loss_at(theta)

    def at(log_params: Floats, log_tokens: Floats) -> Floats:
        # A wild theta has its optimum at no size, or reaches a loss at none: infinite or NaN.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return log_loss(log_params, log_tokens)

    return at


def minimise(
    function: Callable[[Floats], Floats],
    low: Floats,
    high: Floats,
    near: Floats | None = None,
) -> Floats:
    """Arg min between two ends of functions with one minimum each: a grid, then Newton's steps.

    The start is the vertex of the parabola through the best point of the grid and its neighbours. A
    Newton step that leaves its bracket, or starts beside an end, is replaced by a halving.

    Args:
        function: Maps points (q, ...) to values (q, *shape): q points of each problem.
        low: Lower ends, which broadcast to `shape`.
        high: Upper ends; where one is below the lower end, the lower end is the answer.
        near: Where Newton's steps begin, of `shape`, where that is known to about 1e-3; no grid.

    Returns:
        The arguments, of `shape`.
    """
    left = np.asarray(low, dtype=np.float64)
    right = np.maximum(left, high)
    start = _on_grid(function, left, right) if near is None else (left, right, near)
    low, high, x = start
    settled = high - low < SNAP
    for _ in range(NEWTON_STEPS):
        if settled.all():
            break
        ahead, behind = np.minimum(x + SLOPE_STEP, right), np.maximum(x - SLOPE_STEP, left)
        up, centre, down = function(np.stack([ahead, x, behind]))
        with np.errstate(invalid="ignore", divide="ignore"):
            falling = up < down
            step = -0.5 * SLOPE_STEP * (up - down) / (up - 2 * centre + down)
        low, high = np.where(falling, x, low), np.where(falling, high, x)
        free = (x - left > SLOPE_STEP) & (right - x > SLOPE_STEP)
        small = free & (np.abs(step) <= SETTLED)  # rounding may then put the root just beyond x
        inside = free & (x + step > low) & (x + step < high)
        new = np.where(small | inside, x + step, 0.5 * (low + high))
        x, settled = np.where(settled, x, new), settled | small | (high - low < SNAP)
    x = np.where(x - left < SNAP, left, x)
    return np.where(right - x < SNAP, right, x)


def _on_grid(
    function: Callable[[Floats], Floats], left: Floats, right: Floats
) -> tuple[Floats, Floats, Floats]:
    """Brackets of the minima by a grid, and the points at which `minimise` begins within them."""
    share = np.linspace(0, 1, COARSE)

    def along(rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Those points of the grid, and the values there."""
        x = left + share[rows] * (right - left)
        values = function(x)
        return x, np.where(np.isnan(values), np.inf, values)

    # With one minimum it lies beside the least of every EVERY-th point.
    rows = np.arange(0, COARSE, EVERY).reshape(-1, *(1,) * right.ndim)
    values = along(rows)[1]
    if np.isfinite(values).any(axis=0).all() and not _falls_again(values):
        around = np.arange(2 * EVERY + 3).reshape(-1, *(1,) * (values.ndim - 1))
        first = EVERY * np.argmin(values, axis=0) - EVERY - 1
        rows = np.clip(first, 0, COARSE - len(around)) + around
    else:
        rows = np.arange(COARSE).reshape(-1, *(1,) * right.ndim)
    grid, values = along(rows)
    grid, last = np.broadcast_to(grid, values.shape).reshape(len(rows), -1), len(rows) - 1
    shape, values = values.shape[1:], values.reshape(len(rows), -1)
    best, column = np.argmin(values, axis=0), np.arange(values.shape[1])
    low, high = grid[np.maximum(best - 1, 0), column], grid[np.minimum(best + 1, last), column]
    middle = np.minimum(np.maximum(best, 1), last - 1)
    before, at, after = (values[middle + i, column] for i in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        vertex = 0.5 + 0.25 * (before - after) / (before - 2 * at + after)
    usable = ((vertex > 0.02) & (vertex < 0.98) & (middle == best)).reshape(shape)
    low, high, vertex = (v.reshape(shape) for v in (low, high, vertex))
    return low, high, low + np.where(usable, vertex, 0.5) * (high - low)


def _falls_again(values: Floats) -> bool:
    """Whether any column rises and then falls, so that it has more than one minimum."""
    with np.errstate(invalid="ignore"):
        change = np.diff(values, axis=0)
    risen = np.logical_or.accumulate(change > ROUNDING, axis=0)
    return bool((risen[:-1] & (change[1:] < -ROUNDING)).any())


def falling_root(
    function: Callable[[Floats], Floats], low: Floats | float, high: Floats | float
) -> Floats:
    """Where falling functions pass zero, or the end beyond which they do: Ridders' method.

    Args:
        function: Maps arguments to values of one shape, elementwise; values may be infinite.
        low: Lower ends, the answer where the function is not positive there.
        high: Upper ends, the answer where the function is not negative there.
    """
    left, right = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    first, last = function(left), function(right)
    at_left, at_right = first <= 0, last >= 0
    low, high = left, right
    for _ in range(RIDDERS_STEPS):
        if np.all(at_left | at_right | (high - low < BRACKET)):
            break
        middle = 0.5 * (low + high)
        between = function(middle)
        with np.errstate(invalid="ignore", over="ignore"):
            root = np.sqrt(np.maximum(between**2 - first * last, 1e-300))
            guess = np.clip(middle + (middle - low) * between / root, low, high)
        guess = np.where(np.isnan(guess), middle, guess)  # of infinite values: halve
        for at, value in ((middle, between), (guess, function(guess))):
            up, down = (value > 0) & (at > low), ~(value > 0) & (at < high)
            low, first = np.where(up, at, low), np.where(up, value, first)
            high, last = np.where(down, at, high), np.where(down, value, last)
    return np.where(at_left, left, np.where(at_right, right, 0.5 * (low + high)))


def falling_root_of_few(
    function: Callable[[Floats], Floats],
    low: Floats | float,
    high: Floats | float,
    near: Floats | None = None,
) -> Floats:
    """The same of few problems, where a call costs more than its values: many points a call.

    Each round puts points about the root of the parabola through three of the last ones, nearer
    and nearer to it: 3 or 4 calls, where Ridders' method takes some 25; one from near the root.

    Args:
        function: Maps arguments (q, ...) to values of that shape.
        low: Lower ends, as in `falling_root`.
        high: Upper ends.
        near: About where the roots are, if that is known.
    """
    left, right = np.broadcast_arrays(np.asarray(low, dtype=np.float64), high)
    a, b = left.reshape(-1), right.reshape(-1)
    column, most = np.arange(len(a)), len(ABOUT) - 1
    if near is None:
        x = a + np.linspace(0, 1, most + 1)[:, None] * (b - a)
    else:
        x = np.minimum(np.maximum(near.reshape(-1) + ABOUT[:, None] * (b - a), a), b)
    ended = None
    for _ in range(RIDDERS_STEPS):
        values = function(x.reshape(-1, *left.shape)).reshape(x.shape)
        if ended is None:
            at_left, at_right = values[0] <= 0, values[-1] >= 0
            ended = at_left | at_right
        row = np.minimum(np.maximum((values > 0).sum(axis=0), 1), most)
        rows = np.stack([row - 1, row, np.where(row < most, row + 1, row - 2)])
        (a, b, c), (f, g, h) = x[rows, column], values[rows, column]
        with np.errstate(all="ignore"):  # of infinite values: halve
            straight = a + (b - a) * f / (f - g)
            guess = straight + f * g / (h - f) * ((c - b) / (h - g) - (b - a) / (g - f))
        guess = np.where((guess >= a) & (guess <= b), guess, 0.5 * (a + b))
        straight = np.where(np.isfinite(h), straight, np.nan)
        if (ended | (b - a < BRACKET) | (np.abs(guess - straight) < STRAIGHT)).all():
            break
        x = np.minimum(np.maximum(guess + ABOUT[:, None] * (b - a), a), b)
    root = np.where(at_left, left.reshape(-1), np.where(at_right, right.reshape(-1), guess))
    return np.asarray(root.reshape(left.shape))


def tokens_needed(law: Law, theta: Floats, log_params: Floats, target: Floats) -> Floats:
    """The ln of the fewest tokens with which sizes reach a loss; infinite where none do.

    In closed form for a two-term law, also where its tokens repeat; else by search.

    Args:
        law: Law family.
        theta: Thetas on raw counts, (m, p).
        log_params: ln N, (..., m).
        target: ln of the loss [nats/token], (m,) or (..., m).
    """
    if law.expand is not None:
        e, a, b, alpha, beta = law.expand(theta)
        return _two_term_tokens(e, a, b, alpha, beta, log_params, target)
    if "unique_tokens" in law.columns and set(law.parameters) <= TWO_TERM:
        return _repeated_tokens(law, theta, log_params, target)
    low, high = np.zeros_like(log_params), np.full_like(log_params, MOST_LOG)
    return _searched_tokens(law, theta, log_params, target, low, high)


def _two_term_tokens(
    e: Floats, a: Floats, b: Floats, alpha: Floats, beta: Floats, x: Floats, target: Floats
) -> Floats:
    """D = (B / (l - E - A N^-alpha))^(1/beta), in ln.

    Source: Sardana et al. 2024, arXiv:2401.00448, eq. 2.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        left = np.exp(target) - e - a * np.exp(-alpha * x)
        return np.asarray((np.log(b) - np.log(np.maximum(left, 0.0))) / beta)


def _repeated_tokens(law: Law, theta: Floats, x: Floats, target: Floats) -> Floats:
    """The same where tokens repeat: the law of repeated data solved for the tokens.

    With every unique token seen, the effective parameters N' are known, and from them the effective
    tokens D' and the repeats. With fewer, N' is N unless N exceeds what the tokens can feed: only
    there it is searched.

    Source: Muennighoff et al. 2023, arXiv:2305.16264, eqs. 5-11.
    """
    t = law.named(theta)
    a, b, alpha = t["A"], t["B"], t["alpha"]
    beta, e = t.get("beta", alpha), np.exp(t["E"]) if "E" in t else np.zeros_like(alpha)
    unique = np.log(law.held["unique_tokens"])
    decay_tokens = np.exp(t["R_D*"]) if "R_D*" in t else DECAY_TOKENS
    decay_params = np.exp(t["R_N*"]) if "R_N*" in t else DECAY_PARAMS
    feeds = np.log(alpha / beta) + a - b
    fed = np.minimum(x, (feeds + beta * unique) / alpha)
    excess = np.expm1(np.minimum(x - fed, 30.0))
    effective = fed + np.log1p(-decay_params * np.expm1(-excess / decay_params))
    whole = _two_term_tokens(e, np.exp(a), np.exp(b), alpha, beta, effective, target)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        share = np.expm1(whole - unique) / decay_tokens
        repeats = np.where(share < 1, -decay_tokens * np.log1p(-np.minimum(share, 1.0)), np.inf)
        past = unique + np.log1p(repeats)
    fresh = _two_term_tokens(e, np.exp(a), np.exp(b), alpha, beta, x, target)
    y = np.where(whole >= unique, past, fresh)
    starved = (whole < unique) & (alpha * x > feeds + beta * fresh)
    if starved.any():
        rows = np.broadcast_to(np.arange(len(theta)), x.shape)[starved]
        goal = np.broadcast_to(target, x.shape)[starved]
        low = np.clip(fresh[starved], 0.0, unique)
        high = np.full(len(rows), unique)
        y[starved] = _searched_tokens(law, theta[rows], x[starved], goal, low, high)
    return np.asarray(y)


def _searched_tokens(
    law: Law, theta: Floats, x: Floats, target: Floats, low: Floats, high: Floats
) -> Floats:
    """Tokens needed under a law without a closed form, between two ln D."""
    at = log_loss_at(law, theta)

    def missing(y: Floats) -> Floats:
        return at(x, y) - target

    return np.where(missing(high) > 0, np.inf, falling_root(missing, low, high))
