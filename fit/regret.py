"""What another size than the answer's costs in training, and what it gives back in serving."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fit.bounded import Place, tokens_at
from fit.needs import log_loss, tokens_needed
from fit.problem import FORWARD_SHARE, Problem
from fit.record import Floats
from fit.reply import Number, Regret, mapped

SIZES = (0.5, 0.7, 1.0, 1.5, 2.0)
"""Over the answer's parameters."""


def log_regrets(problem: Problem, theta: Floats, place: Place, log_flops: float) -> list[Floats]:
    """For each other size: nats lost, and the ln of compute for the same loss and of break-even.

    Nats are a difference of either sign, and so the ln of a positive number too: of perplexity's
    factor.

    Ceilings on tokens hold for every size; limits on size do not, and floors neither.

    Args:
        problem: Law, cost and limits.
        theta: Thetas, (m, p).
        place: The answer at each.
        log_flops: The ln of the budget [FLOP].

    Returns:
        Three columns (m,) per size. Compute is over the answer's training; infinite where no
        tokens are enough. Tokens served are NaN where no number makes up for the training.
    """
    columns = []
    for size in (s for s in SIZES if s != 1):
        x = place.log_params + math.log(size)
        loss = log_loss(problem.law, theta, x, tokens_at(problem, x, log_flops))
        needed = tokens_needed(problem.law, theta, x, place.log_loss)
        needed = np.where(needed > problem.ceiling(x), np.inf, needed)
        own, other = (problem.cost.log_flops_per_token(v) for v in (place.log_params, x))
        dearer = other + needed - own - place.log_tokens
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            columns.append(np.exp(loss) - np.exp(place.log_loss))
            columns.append(dearer)
            pays = -np.expm1(dearer) / np.expm1(other - own)
            columns.append(np.log(FORWARD_SHARE * pays) + place.log_tokens)
    return columns


def regrets_of(
    problem: Problem, log_params: float, numbers: Iterator[Number]
) -> tuple[Regret, ...]:
    """The rows of an answer from the numbers of `log_regrets`, in their order."""
    own = _served(problem, log_params)
    rows = []
    for size in SIZES:
        per_token = _served(problem, log_params + math.log(size))
        loss = compute = Number(value=1.0)
        even = Number(value=math.nan)
        if size != 1:
            loss, compute, even = next(numbers), next(numbers), next(numbers)
        rows.append(
            Regret(
                size=size,
                params=math.exp(log_params) * size,
                loss_up=mapped(loss, lambda v: math.log(v) if v > 0 else -math.inf),
                compute_up=mapped(compute, lambda v: v - 1),
                serving_flops_per_token=per_token,
                serving_saved=1 - per_token / own,
                break_even_tokens=even if math.isfinite(even.value) else None,
            )
        )
    return tuple(rows)


def _served(problem: Problem, log_params: float) -> float:
    """FLOP to serve a token at ln N: a forward pass."""
    return math.exp(float(problem.cost.log_flops_per_token(np.array(log_params)))) / FORWARD_SHARE
