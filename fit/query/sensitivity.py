"""Questions that no model answers: which two of their demands conflict, and what would be feasible.

Each refusal is one line; a problem that passes has at least one model within its limits.

What each limit of a question is worth: the loss or the compute that relaxing it gains.

What another size than the answer's costs in training, and what it gives back in serving.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.errors import QueryError
from fit.laws.families import ENDLESS, borrows_repeat_constants
from fit.laws.law import option
from fit.quantities import gigabytes, power, short, three_digits
from fit.query.constraints import (
    FORWARD_SHARE,
    MOST_LOG,
    TOUCH,
    ConstrainedProblem,
    Limit,
    Optimum,
    least_cost,
    least_loss,
    log_loss,
    tokens_at,
    tokens_needed,
)
from fit.query.question import Constraint, Gain, Number, Regret, ShadowPrice, mapped

SIZES = (0.5, 0.7, 1.0, 1.5, 2.0)
"""Over the answer's parameters."""
BUDGET, UNIQUE = "budget", "unique_tokens"


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
                f"{limit_as_asked(low)} and {limit_as_asked(high)} conflict: the one asks for "
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
    binding = [limit_as_asked(v) for v in active(problem, float(x), float(y))]
    served = f", {short(problem.served)} tokens served" if problem.served else ""
    why = f" ({' and '.join(binding)})" if binding else ""
    sizes = f"{short(math.exp(float(x)))} parameters on {short(math.exp(float(y)))} tokens"
    raise QueryError(
        f"{power(math.exp(log_flops))} FLOP do not pay for the smallest model allowed{why}: "
        f"{sizes}{served} take {power(math.exp(least))} FLOP. Raise the budget to that, or relax "
        "what asks for it."
    )


def refuse_loss(problem: ConstrainedProblem, theta: Floats, loss: float) -> None:
    """Refuse a loss that no model within the limits reaches, or that any reaches.

    Raises:
        QueryError: It is at or below what the largest allowed model goes down to, or above what
            one parameter on one token has.
    """
    x = np.array([min(problem.sizes()[1], 0.5 * MOST_LOG)])
    y = np.minimum(problem.ceiling(x), MOST_LOG)
    least = float(np.exp(log_loss(problem.law, theta[None], x, y))[0])
    if not loss > least:
        names = [limit_as_asked(v) for v in active(problem, float(x[0]), float(y[0]))]
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


def active(problem: ConstrainedProblem, log_params: float, log_tokens: float) -> list[Limit]:
    """The limits on which a model lies."""
    at = {"params": log_params, "tokens": log_tokens, "tokens_per_param": log_tokens - log_params}
    near = 10 * TOUCH
    return [v for v in problem.limits if min(abs(at[v.on] - e) for e in (v.low, v.high)) < near]


def limit_as_asked(limit: Limit) -> str:
    """A limit as it was asked for."""
    return f"{option(limit.name)} {limit_text(limit.name, limit.value)}"


def limit_text(name: str, value: float) -> str:
    """The value of a limit in its unit."""
    if name == "memory":
        return gigabytes(value)
    return three_digits(value) if name.endswith("ratio") else short(value)


def limit_noun(on: str, log_value: float) -> str:
    """A count of what is limited."""
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
    """Size, tokens and ratio: any two leave the third no room."""
    (low, _), (_, many) = problem.ends("params"), problem.ends("tokens")
    least = problem.ends("tokens_per_param")[0]
    if low > many - least:
        size, ratio = _lowest(problem, "params"), _lowest(problem, "tokens_per_param")
        tokens = _highest(problem, "tokens")
        raise QueryError(
            f"{limit_as_asked(size)} at {limit_as_asked(ratio)} needs "
            f"{short(math.exp(low + least))} "
            f"tokens, and {limit_as_asked(tokens)} allows no more than that. Feasible: a ratio of "
            f"{three_digits(math.exp(many - low))}, or {short(math.exp(many - least))} parameters."
        )
    few, most = problem.ends("tokens")[0], problem.ends("tokens_per_param")[1]
    high = problem.ends("params")[1]
    size, ratio = _highest(problem, "params"), _highest(problem, "tokens_per_param")
    raise QueryError(
        f"{limit_as_asked(_lowest(problem, 'tokens'))} at {limit_as_asked(ratio)} needs "
        f"{short(math.exp(few - most))} parameters, and {limit_as_asked(size)} allows no more "
        f"than that. Feasible: a ratio of {three_digits(math.exp(few - high))}, or "
        f"{short(math.exp(high + most))} "
        "tokens."
    )


def log_regrets(
    problem: ConstrainedProblem, theta: Floats, place: Optimum, log_flops: float
) -> list[Floats]:
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
    problem: ConstrainedProblem, log_params: float, numbers: Iterator[Number]
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


def _served(problem: ConstrainedProblem, log_params: float) -> float:
    """FLOP to serve a token at ln N: a forward pass."""
    return math.exp(float(problem.cost.log_flops_per_token(np.array(log_params)))) / FORWARD_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One limit relaxed."""

    name: str
    problem: ConstrainedProblem
    log_flops: float
    budget: bool = False
    """It is the budget itself, so that compute is no measure of its worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingLimit:
    """A limit, whether the answer lies on it, and how it is relaxed if it does."""

    name: str
    value: float
    binds: bool
    lifted: Relaxation | None = None
    doubled: Relaxation | None = None

    def relaxations(self) -> list[Relaxation]:
        """Those there are, lifted first."""
        return [r for r in (self.lifted, self.doubled) if r is not None]


def binding_limits(
    problem: ConstrainedProblem,
    source: ScalingLaw,
    place: Optimum,
    log_flops: float,
    *,
    fixed: bool,
) -> list[BindingLimit]:
    """The limits of a question, with those that bind at its answer.

    Args:
        problem: The limits.
        source: What was asked, before unique tokens were fixed.
        place: The answer at the point estimate, one model.
        log_flops: The ln of the budget.
        fixed: Whether the budget was given, and not found for a loss.
    """
    x, y = float(place.log_params[0]), float(place.log_tokens[0])
    on = {v.name for v in active(problem, x, y)}
    bounds = []
    for v in problem.limits:
        lifted = doubled = None
        if v.name in on:
            lifted = Relaxation(name=v.name, problem=problem.without(v.name), log_flops=log_flops)
            doubled = Relaxation(name=v.name, problem=problem.doubled(v.name), log_flops=log_flops)
        bounds.append(
            BindingLimit(
                name=v.name, value=v.value, binds=v.name in on, lifted=lifted, doubled=doubled
            )
        )
    if UNIQUE in problem.law.held:
        bounds.append(_unique(problem, source, place, log_flops))
    return [_budget(problem, log_flops, x, y), *bounds] if fixed else bounds


def _budget(problem: ConstrainedProblem, log_flops: float, x: float, y: float) -> BindingLimit:
    """The budget, which more limits may leave unspent."""
    binds = bool(problem.paid(np.array(x), log_flops) < y + TOUCH)
    twice = Relaxation(name=BUDGET, problem=problem, log_flops=log_flops + math.log(2), budget=True)
    value = math.exp(log_flops)
    return BindingLimit(name=BUDGET, value=value, binds=binds, doubled=twice if binds else None)


def _unique(
    problem: ConstrainedProblem, source: ScalingLaw, place: Optimum, log_flops: float
) -> BindingLimit:
    """The unique tokens: they bind where repeats, or too many parameters for them, cost loss."""
    unique, law = problem.law.held[UNIQUE], problem.law

    def with_law(tokens: float) -> ConstrainedProblem:
        endless = tokens >= ENDLESS and borrows_repeat_constants(law)
        other = source.law if endless else law.at(**{UNIQUE: tokens})
        return dataclasses.replace(problem, law=other)

    lifted, doubled = with_law(ENDLESS), with_law(2 * unique)
    fresh = log_loss(lifted.law, source.theta[None], place.log_params, place.log_tokens)
    if not float(place.log_loss[0] - fresh[0]) > 1e-9:
        return BindingLimit(name=UNIQUE, value=unique, binds=False)
    return BindingLimit(
        name=UNIQUE,
        value=unique,
        binds=True,
        lifted=Relaxation(name=UNIQUE, problem=lifted, log_flops=log_flops),
        doubled=Relaxation(name=UNIQUE, problem=doubled, log_flops=log_flops),
    )


def log_gains(bounds: Sequence[BindingLimit], theta: Floats, place: Optimum) -> list[Floats]:
    """The ln of what each relaxation gains at thetas (m, p): nats, then compute; each (m,)."""
    columns = []
    for r in (r for b in bounds for r in b.relaxations()):
        better = least_loss(r.problem, theta, r.log_flops).log_loss
        with np.errstate(divide="ignore"):  # a limit beside another gains nothing
            share = np.maximum(-np.expm1(better - place.log_loss), 0.0)
            columns.append(place.log_loss + np.log(share))
        if not r.budget:
            cheaper = least_cost(r.problem, theta, place.log_loss).log_flops
            columns.append(np.maximum(place.log_flops - cheaper, 0.0))
    return columns


def constraints_of(
    bounds: Sequence[BindingLimit], numbers: Iterator[Number]
) -> tuple[Constraint, ...]:
    """The rows of an answer from the numbers of `log_gains`, in their order."""

    def gain(r: Relaxation) -> Gain:
        loss = next(numbers)
        return Gain(loss=loss, multiplier=None if r.budget else next(numbers))

    rows = []
    for b in bounds:
        lifted = None if b.lifted is None else gain(b.lifted)
        worth = None if b.doubled is None else ShadowPrice(lifted=lifted, doubled=gain(b.doubled))
        rows.append(Constraint(name=b.name, limit=b.value, binds=b.binds, worth=worth))
    return tuple(rows)
