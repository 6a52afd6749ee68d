"""Models smaller than compute-optimal: what they cost in training, and what serving gives back.

A model that will be asked for many tokens is cheaper in all when it is smaller and trained longer.
Everything here holds for C = k N D; the law's loss is what must be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.accounting import FLOPS_PER_PARAM_TOKEN
from fit.errors import QueryError
from fit.laws import Law
from fit.record import Floats

FLOPS_PER_SERVED_TOKEN = 2.0
"""Forward only: FLOP per parameter and token."""
MOST_TIMES_FLOOR = 1e9
"""Sizes looked at, over the smallest that reaches the loss at all."""
HALVINGS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """A model trained and then served, at the least compute for both."""

    params: float
    tokens: float
    """Training tokens."""
    training_flops: float
    serving_flops: float

    @property
    def flops(self) -> float:
        """Both together."""
        return self.training_flops + self.serving_flops


def tokens_for_loss(law: Law, theta: Floats, params: Floats, loss: float) -> Floats:
    """Training tokens with which sizes reach a loss: D = (B / (l - E - A N^-alpha))^(1/beta).

    Args:
        law: Law family.
        theta: One theta, (p,).
        params: N [parameters], any shape.
        loss: Target [nats/token].

    Returns:
        D [tokens], infinite for a model too small to reach the loss with any.

    Source: Sardana et al. 2024, arXiv:2401.00448, eq. 2.
    """
    e, a, b, alpha, beta = law.parts(theta)
    left = loss - e - a * np.asarray(params, dtype=np.float64) ** -alpha
    with np.errstate(divide="ignore"):
        return np.asarray((b / np.maximum(left, 0.0)) ** (1 / beta))


def smallest_params(law: Law, theta: Floats, loss: float) -> float:
    """The size below which no number of tokens reaches a loss: (A / (l - E))^(1/alpha).

    Raises:
        QueryError: The loss is not above the law's irreducible one.
    """
    e, a, _, alpha, _ = law.parts(theta)
    if not loss > e:
        raise QueryError(
            f"a loss of {loss:g} nats/token is asked for; the law goes down to {float(e):.4f} and "
            "no further. Ask for more than that."
        )
    return float((a / (loss - e)) ** (1 / alpha))


def lifetime_optimum(
    law: Law,
    theta: Floats,
    loss: float,
    served_tokens: float,
    *,
    training: float = FLOPS_PER_PARAM_TOKEN,
    serving: float = FLOPS_PER_SERVED_TOKEN,
) -> Lifetime:
    """The size that reaches a loss with the least compute over training and serving.

    6 N D(N) + 2 N D_served falls with N and then rises; its minimum is found by ternary search in
    ln N. With no token served it is the compute-optimal model of that loss.

    Args:
        law: Law family.
        theta: One theta, (p,).
        loss: Target [nats/token].
        served_tokens: Tokens that the model will read or write in its life, 0 or more.
        training: FLOP per parameter and training token.
        serving: FLOP per parameter and served token.

    Raises:
        QueryError: The loss cannot be reached, or the served tokens are negative.

    Source: Sardana et al. 2024, arXiv:2401.00448, eq. 2.
    """
    if not (np.isfinite(served_tokens) and served_tokens >= 0):
        raise QueryError(f"served tokens are {served_tokens:g}; 0 or a positive number is needed.")
    least = np.log(smallest_params(law, theta, loss))

    def cost(log_params: float) -> float:
        tokens = float(tokens_for_loss(law, theta, np.exp(log_params), loss))
        return float(np.exp(log_params)) * (training * tokens + serving * served_tokens)

    low, high = least, least + np.log(MOST_TIMES_FLOOR)
    for _ in range(HALVINGS):
        third = (high - low) / 3
        left, right = low + third, high - third
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    n = float(np.exp((low + high) / 2))
    d = float(tokens_for_loss(law, theta, np.array(n), loss))
    return Lifetime(
        params=n,
        tokens=d,
        training_flops=training * n * d,
        serving_flops=serving * n * served_tokens,
    )


def tokens_factor(law: Law, theta: Floats, size: float) -> float:
    """Tokens that a model of `size` times N* needs for the same loss, over D*.

    k_D = (1 - (k_N^-alpha - 1) beta/alpha)^(-1/beta); infinite at and below the smallest size.

    Args:
        law: Law family.
        theta: One theta, (p,).
        size: k_N, its parameters over the compute-optimal ones.

    Raises:
        QueryError: The size is not positive.

    Source: de Vries 2023, "Go smol or go home".
    """
    if not (np.isfinite(size) and size > 0):
        raise QueryError(f"a model of {size:g} times the optimal size is asked for; say .5 or 2.")
    _, _, _, alpha, beta = law.parts(theta)
    left = 1 - (size ** -float(alpha) - 1) * float(beta / alpha)
    return float(left ** (-1 / float(beta))) if left > 0 else float("inf")


def training_overhead(law: Law, theta: Floats, size: float) -> float:
    """Training compute of a model of `size` times N* at the same loss, over the least, less one."""
    return size * tokens_factor(law, theta, size) - 1


def smallest_size(law: Law, theta: Floats) -> float:
    """The k_N at which the tokens needed become infinite: (1 + alpha/beta)^(-1/alpha)."""
    _, _, _, alpha, beta = law.parts(theta)
    return float((1 + alpha / beta) ** (-1 / alpha))
