"""Questions that no model answers: which two of their demands conflict, and what would be feasible.

Each refusal is one line; a problem that passes has at least one model within its limits.
"""

from __future__ import annotations

import math

import numpy as np

from fit.bounded import TOUCH
from fit.errors import QueryError
from fit.forms import option
from fit.needs import log_loss
from fit.problem import MOST_LOG, Limit, Problem
from fit.quantity import gigabytes, power, short, three
from fit.record import Floats


def refuse_conflicts(problem: Problem) -> None:
    """Refuse limits that leave no size, no number of tokens or no ratio.

    Raises:
        QueryError: Two limits, or three, conflict.
    """
    for on in ("params", "tokens", "tokens_per_param"):
        least, most = problem.ends(on)
        if least > most + TOUCH:
            low, high = _lowest(problem, on), _highest(problem, on)
            raise QueryError(
                f"{said(low)} and {said(high)} conflict: the one asks for "
                f"{counted(on, least)} at least, the other for {counted(on, most)} at most. Lower "
                "the first, raise the second, or leave one out."
            )
    low_size, high_size = problem.sizes()
    if low_size > high_size + TOUCH:
        _refuse_triple(problem)


def refuse_budget(problem: Problem, log_flops: float) -> None:
    """Refuse a budget that pays for no model within the limits.

    Raises:
        QueryError: The cheapest allowed model costs more.
    """
    x = np.array(problem.sizes()[0])
    y = problem.floor(x)
    least = float(problem.spent(x, y))
    if least <= log_flops + TOUCH:
        return
    binding = [said(v) for v in active(problem, float(x), float(y))]
    served = f", {short(problem.served)} tokens served" if problem.served else ""
    why = f" ({' and '.join(binding)})" if binding else ""
    sizes = f"{short(math.exp(float(x)))} parameters on {short(math.exp(float(y)))} tokens"
    raise QueryError(
        f"{power(math.exp(log_flops))} FLOP do not pay for the smallest model allowed{why}: "
        f"{sizes}{served} take {power(math.exp(least))} FLOP. Raise the budget to that, or relax "
        "what asks for it."
    )


def refuse_loss(problem: Problem, theta: Floats, loss: float) -> None:
    """Refuse a loss that no model within the limits reaches, or that any reaches.

    Raises:
        QueryError: It is at or below what the largest allowed model goes down to, or above what
            one parameter on one token has.
    """
    x = np.array([min(problem.sizes()[1], 0.5 * MOST_LOG)])
    y = np.minimum(problem.ceiling(x), MOST_LOG)
    least = float(np.exp(log_loss(problem.law, theta[None], x, y))[0])
    if not loss > least:
        names = [said(v) for v in active(problem, float(x[0]), float(y[0]))]
        held = f" with {' and '.join(names)}" if names else ""
        raise QueryError(
            f"a loss of {loss:g} nats/token cannot be reached{held}: {source_word(held)} goes down "
            f"to {least:.4f} and no further. Ask for more than that{', or relax' * bool(held)}."
        )
    first = np.zeros(1)
    most = float(np.exp(log_loss(problem.law, theta[None], first, first))[0])
    if not loss < most:
        raise QueryError(
            f"a loss of {loss:g} nats/token is reached by one parameter on one token; ask for less "
            f"than {most:.4f}."
        )


def source_word(held: str) -> str:
    """What goes no further."""
    return "the best model allowed" if held else "the law"


def active(problem: Problem, log_params: float, log_tokens: float) -> list[Limit]:
    """The limits on which a model lies."""
    at = {"params": log_params, "tokens": log_tokens, "tokens_per_param": log_tokens - log_params}
    near = 10 * TOUCH
    return [v for v in problem.limits if min(abs(at[v.on] - e) for e in (v.low, v.high)) < near]


def said(limit: Limit) -> str:
    """A limit as it was asked for."""
    return f"{option(limit.name)} {limit_text(limit.name, limit.value)}"


def limit_text(name: str, value: float) -> str:
    """The value of a limit in its unit."""
    if name == "memory":
        return gigabytes(value)
    return three(value) if name.endswith("ratio") else short(value)


def counted(on: str, log_value: float) -> str:
    """A count of what is limited."""
    value = math.exp(log_value)
    if on == "tokens_per_param":
        return f"{three(value)} tokens per parameter"
    return f"{short(value)} {'parameters' if on == 'params' else on}"


def _lowest(problem: Problem, on: str) -> Limit:
    """The limit that sets the lower end."""
    return max((v for v in problem.limits if v.on == on), key=lambda v: v.low)


def _highest(problem: Problem, on: str) -> Limit:
    """The limit that sets the upper end."""
    return min((v for v in problem.limits if v.on == on), key=lambda v: v.high)


def _refuse_triple(problem: Problem) -> None:
    """Size, tokens and ratio: any two leave the third no room."""
    (low, _), (_, many) = problem.ends("params"), problem.ends("tokens")
    least = problem.ends("tokens_per_param")[0]
    if low > many - least:
        size, ratio = _lowest(problem, "params"), _lowest(problem, "tokens_per_param")
        tokens = _highest(problem, "tokens")
        raise QueryError(
            f"{said(size)} at {said(ratio)} needs {short(math.exp(low + least))} tokens, and "
            f"{said(tokens)} allows no more than that. Feasible: a ratio of "
            f"{three(math.exp(many - low))}, or {short(math.exp(many - least))} parameters."
        )
    few, most = problem.ends("tokens")[0], problem.ends("tokens_per_param")[1]
    high = problem.ends("params")[1]
    size, ratio = _highest(problem, "params"), _highest(problem, "tokens_per_param")
    raise QueryError(
        f"{said(_lowest(problem, 'tokens'))} at {said(ratio)} needs "
        f"{short(math.exp(few - most))} parameters, and {said(size)} allows no more than that. "
        f"Feasible: a ratio of {three(math.exp(few - high))}, or {short(math.exp(high + most))} "
        "tokens."
    )
