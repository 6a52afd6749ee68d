"""Sensitivity of an answer: conflicting limits, the gain of relaxing each, and other sizes.

`refuse_conflicts`, `refuse_budget` and `refuse_loss` refuse a question that no model answers, in
one line that names the demands and what would be feasible; a problem that passes has at least one
model within its limits. `limit_rows` and `log_gains` price the limits that bind, `log_regrets` the
other sizes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from fit.allocation.allocate import MOST_LOG, log_loss, tokens_needed
from fit.allocation.costs import TRAINING_OVER_SERVING
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.errors import QueryError
from fit.laws.families import ENDLESS, borrows_repeat_constants
from fit.quantities import gigabytes, option_name, power, short, three_digits
from fit.query.constraints import (
    TOUCH,
    ConstrainedProblem,
    Limit,
    Optimum,
    least_cost,
    least_loss,
)
from fit.query.documents import Constraint, Gain, Number, Regret, ShadowPrice, mapped

SIZES = (0.5, 0.7, 1.0, 1.5, 2.0)
"""Sizes of the table of regrets, over the answer's parameters."""
ROUNDING = 1e-15
"""A smaller gain, as a share of the loss, is none: losses are rounded to 2e-16."""
BUDGET, UNIQUE = "budget", "unique_tokens"

LimitRow = tuple[str, float, list[tuple[ConstrainedProblem, float]]]
"""Name and value of a limit; where it binds, problem and ln budget with it lifted, then doubled."""


def refuse_conflicts(problem: ConstrainedProblem) -> None:
    """Refuse limits that leave no size, no number of tokens or no ratio.

    Raises:
        QueryError: Two limits, or three, conflict.
    """
    for on in ("params", "tokens", "tokens_per_param"):
        least, most = problem.ends(on)
        if least > most + TOUCH:
            low, high = _lowest(problem, on), _highest(problem, on)
            raise QueryError(
                f"{option_text(low)} and {option_text(high)} conflict: the one asks for "
                f"{limit_noun(on, least)} at least, the other for {limit_noun(on, most)} at most. "
                "Lower the first, raise the second, or leave one out."
            )
    low_size, high_size = problem.sizes()
    if low_size > high_size + TOUCH:
        _refuse_triple(problem)


def refuse_budget(problem: ConstrainedProblem, log_flops: float) -> None:
    """Refuse a budget that pays for no model within the limits.

    Raises:
        QueryError: The cheapest allowed model costs more.
    """
    x = np.array(problem.sizes()[0])
    y = problem.floor(x)
    least = float(problem.spent(x, y))
    if least <= log_flops + TOUCH:
        return
    names = [option_text(v) for v in active(problem, float(x), float(y))]
    served = f", {short(problem.served)} tokens served" if problem.served else ""
    why = f" ({' and '.join(names)})" if names else ""
    sizes = f"{short(math.exp(float(x)))} parameters on {short(math.exp(float(y)))} tokens"
    raise QueryError(
        f"{power(math.exp(log_flops))} FLOP do not pay for the smallest model allowed{why}: "
        f"{sizes}{served} take {power(math.exp(least))} FLOP. Raise the budget to that, or relax "
        "a limit."
    )


def refuse_loss(problem: ConstrainedProblem, theta: Floats, loss: float) -> None:
    """Refuse a loss that no model within the limits reaches, or that every model reaches.

    Raises:
        QueryError: It is at or below what the largest allowed model goes down to, or above what
            one parameter on one token has.
    """
    x = np.array([min(problem.sizes()[1], 0.5 * MOST_LOG)])
    y = np.minimum(problem.ceiling(x), MOST_LOG)
    least = float(np.exp(log_loss(problem.law, theta[None], x, y))[0])
    if not loss > least:
        names = [option_text(v) for v in active(problem, float(x[0]), float(y[0]))]
        within = f" with {' and '.join(names)}" if names else ""
        subject = "the best model allowed" if names else "the law"
        raise QueryError(
            f"a loss of {loss:g} cannot be reached{within}: {subject} goes down to "
            f"{least:.4f} and no further. Ask for more than that"
            f"{', or relax the limit' if names else ''}."
        )
    first = np.zeros(1)
    most = float(np.exp(log_loss(problem.law, theta[None], first, first))[0])
    if not loss < most:
        raise QueryError(
            f"a loss of {loss:g} is reached by one parameter on one token; ask for less "
            f"than {most:.4f}."
        )


def active(problem: ConstrainedProblem, log_params: float, log_tokens: float) -> list[Limit]:
    """The limits on which a model lies."""
    at = {"params": log_params, "tokens": log_tokens, "tokens_per_param": log_tokens - log_params}
    near = 10 * TOUCH
    return [v for v in problem.limits if min(abs(at[v.on] - e) for e in (v.low, v.high)) < near]


def option_text(limit: Limit) -> str:
    """A limit as an option of the command line."""
    return f"{option_name(limit.name)} {limit_text(limit.name, limit.value)}"


def limit_text(name: str, value: float) -> str:
    """The value of a limit in its unit."""
    if name == "memory":
        return gigabytes(value)
    return three_digits(value) if name.endswith("ratio") else short(value)


def limit_noun(on: str, log_value: float) -> str:
    """A number of parameters, tokens or tokens per parameter, with its noun."""
    value = math.exp(log_value)
    if on == "tokens_per_param":
        return f"{three_digits(value)} tokens per parameter"
    return f"{short(value)} {'parameters' if on == 'params' else on}"


def _lowest(problem: ConstrainedProblem, on: str) -> Limit:
    """The limit that sets the lower end."""
    return max((v for v in problem.limits if v.on == on), key=lambda v: v.low)


def _highest(problem: ConstrainedProblem, on: str) -> Limit:
    """The limit that sets the upper end."""
    return min((v for v in problem.limits if v.on == on), key=lambda v: v.high)


def _refuse_triple(problem: ConstrainedProblem) -> None:
    """Refuse limits of size, tokens and ratio of which any two exclude the third."""
    (low, _), (_, many) = problem.ends("params"), problem.ends("tokens")
    least = problem.ends("tokens_per_param")[0]
    if low > many - least:
        size, ratio = _lowest(problem, "params"), _lowest(problem, "tokens_per_param")
        tokens = _highest(problem, "tokens")
        raise QueryError(
            f"{option_text(size)} at {option_text(ratio)} needs {short(math.exp(low + least))} "
            f"tokens, and {option_text(tokens)} allows no more than that. Feasible: a ratio of "
            f"{three_digits(math.exp(many - low))}, or {short(math.exp(many - least))} parameters."
        )
    few, most = problem.ends("tokens")[0], problem.ends("tokens_per_param")[1]
    high = problem.ends("params")[1]
    size, ratio = _highest(problem, "params"), _highest(problem, "tokens_per_param")
    raise QueryError(
        f"{option_text(_lowest(problem, 'tokens'))} at {option_text(ratio)} needs "
        f"{short(math.exp(few - most))} parameters, and {option_text(size)} allows no more "
        f"than that. Feasible: a ratio of {three_digits(math.exp(few - high))}, or "
        f"{short(math.exp(high + most))} tokens."
    )


def log_regrets(
    problem: ConstrainedProblem, theta: Floats, place: Optimum, log_flops: float
) -> list[Floats]:
    """The ln of the numbers of other sizes: loss lost, compute for the same loss, break-even.

    The loss is a difference of either sign, and stands as the ln of its exponential, the factor in
    perplexity. Ceilings on tokens hold for every size; limits on size and floors do not.

    Args:
        problem: Law, cost and limits.
        theta: Thetas, (m, p).
        place: The answer at each.
        log_flops: The ln of the budget [FLOP].

    Returns:
        Three columns (m,) per size. Compute is over the answer's training; infinite where no
        tokens are enough. The served tokens of the break-even are NaN where no number makes up for
        the training.
    """
    columns = []
    for size in (s for s in SIZES if s != 1):
        x = place.log_params + math.log(size)
        loss = log_loss(problem.law, theta, x, problem.tokens(x, log_flops))
        needed = tokens_needed(problem.law, theta, x, place.log_loss)
        needed = np.where(needed > problem.ceiling(x), np.inf, needed)
        here, there = (problem.cost.log_flops_per_token(v) for v in (place.log_params, x))
        overhead = there + needed - here - place.log_tokens
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            columns.append(np.exp(loss) - np.exp(place.log_loss))
            columns.append(overhead)
            served = -np.expm1(overhead) / np.expm1(there - here)
            columns.append(np.log(TRAINING_OVER_SERVING * served) + place.log_tokens)
    return columns


def regret_rows(
    problem: ConstrainedProblem, log_params: float, numbers: Iterator[Number]
) -> tuple[Regret, ...]:
    """The rows of an answer from the numbers of `log_regrets`, in their order."""

    def serving(x: float) -> float:
        trained = math.exp(float(problem.cost.log_flops_per_token(np.array(x))))
        return trained / TRAINING_OVER_SERVING

    rows = []
    for size in SIZES:
        per_token = serving(log_params + math.log(size))
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
                serving_saved=1 - per_token / serving(log_params),
                break_even_tokens=even if math.isfinite(even.value) else None,
            )
        )
    return tuple(rows)


def limit_rows(
    problem: ConstrainedProblem,
    source: ScalingLaw,
    place: Optimum,
    log_flops: float,
    *,
    fixed: bool,
) -> list[LimitRow]:
    """The limits of a question, with the relaxed problems of those that bind at its answer.

    Args:
        problem: The limits.
        source: The question's law, before unique tokens were fixed.
        place: The answer at the point estimate, one model.
        log_flops: The ln of the budget.
        fixed: Whether the question gives the budget, and not a target loss.
    """
    x, y = float(place.log_params[0]), float(place.log_tokens[0])
    binding = {limit.name for limit in active(problem, x, y)}
    rows: list[LimitRow] = []
    if fixed:  # limits may leave some of it unspent
        binds = bool(problem.affordable(np.array(x), log_flops) < y + TOUCH)
        twice = [(problem, log_flops + math.log(2))] if binds else []
        rows.append((BUDGET, math.exp(log_flops), twice))
    for limit in problem.limits:
        relaxed = []
        if limit.name in binding:
            relaxed = [problem.without(limit.name), problem.doubled(limit.name)]
        rows.append((limit.name, limit.value, [(p, log_flops) for p in relaxed]))
    if UNIQUE in problem.law.held:
        relaxed = _more_unique_tokens(problem, source, place)
        rows.append((UNIQUE, problem.law.held[UNIQUE], [(p, log_flops) for p in relaxed]))
    return rows


def _more_unique_tokens(
    problem: ConstrainedProblem, source: ScalingLaw, place: Optimum
) -> list[ConstrainedProblem]:
    """The problem with endless and with twice the unique tokens; none where they do not bind.

    They bind where repeats, or too many parameters for them, cost loss.
    """
    law = problem.law
    # A law that borrows the constants of repeats is itself the law of fresh tokens.
    endless = source.law if borrows_repeat_constants(law) else law.at(**{UNIQUE: ENDLESS})
    fresh = log_loss(endless, source.theta[None], place.log_params, place.log_tokens)
    if not float(place.log_loss[0] - fresh[0]) > 1e-9:
        return []
    twice = law.at(**{UNIQUE: 2 * law.held[UNIQUE]})
    return [dataclasses.replace(problem, law=other) for other in (endless, twice)]


def log_gains(rows: Sequence[LimitRow], theta: Floats, place: Optimum) -> list[Floats]:
    """The ln of the gains of each relaxation at thetas (m, p): nats, then compute; each (m,)."""
    columns = []
    for name, _, relaxed in rows:
        for problem, log_flops in relaxed:
            better = least_loss(problem, theta, log_flops).log_loss
            with np.errstate(divide="ignore"):  # a limit beside another gains nothing
                share = -np.expm1(better - place.log_loss)
                share = np.where(share > ROUNDING, share, 0.0)
                columns.append(place.log_loss + np.log(share))
            if name != BUDGET:
                cheaper = least_cost(problem, theta, place.log_loss).log_flops
                columns.append(np.maximum(place.log_flops - cheaper, 0.0))
    return columns


def constraint_rows(rows: Sequence[LimitRow], numbers: Iterator[Number]) -> tuple[Constraint, ...]:
    """The rows of an answer from the numbers of `log_gains`, in their order."""
    out = []
    for name, value, relaxed in rows:
        gains = [
            Gain(loss=next(numbers), multiplier=None if name == BUDGET else next(numbers))
            for _ in relaxed
        ]
        lifted = gains[0] if name != BUDGET and gains else None
        worth = ShadowPrice(lifted=lifted, doubled=gains[-1]) if gains else None
        out.append(Constraint(name=name, limit=value, binds=bool(gains), worth=worth))
    return tuple(out)
