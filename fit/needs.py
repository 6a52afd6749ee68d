"""The tokens that a size needs to reach a loss: in closed form where the law allows it."""

from __future__ import annotations

import numpy as np

from fit.forms import Law
from fit.problem import MOST_LOG
from fit.record import Floats
from fit.repeats import DECAY_PARAMS, DECAY_TOKENS

STEPS = 45
"""Of Ridders' method in ln D at most: a bracket of up to 200 is halved by each."""
CLOSE = 1e-11
"""Width of a bracket in ln D that is narrow enough."""
TWO_TERM = {"E", "A", "B", "alpha", "beta", "R_D*", "R_N*"}
"""Parameters of a two-term law of what params and repeated tokens are worth."""


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
