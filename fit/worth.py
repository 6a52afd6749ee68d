"""What each limit of a question is worth: the loss or the compute that relaxing it gains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fit.bounded import TOUCH, Place, least_cost, least_loss
from fit.conflicts import active
from fit.needs import log_loss
from fit.problem import Problem
from fit.record import Floats
from fit.repeats import ENDLESS, borrows
from fit.reply import Constraint, Gain, Number, Worth
from fit.source import Source

BUDGET, UNIQUE = "budget", "unique_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One limit relaxed."""

    name: str
    problem: Problem
    log_flops: float
    budget: bool = False
    """It is the budget itself, so that compute is no measure of its worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A limit, whether the answer lies on it, and how it is relaxed if it does."""

    name: str
    value: float
    binds: bool
    lifted: Relaxation | None = None
    doubled: Relaxation | None = None

    def relaxations(self) -> list[Relaxation]:
        """Those there are, lifted first."""
        return [r for r in (self.lifted, self.doubled) if r is not None]


def bounds_of(
    problem: Problem, source: Source, place: Place, log_flops: float, *, fixed: bool
) -> list[Bound]:
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
            Bound(name=v.name, value=v.value, binds=v.name in on, lifted=lifted, doubled=doubled)
        )
    if UNIQUE in problem.law.held:
        bounds.append(_unique(problem, source, place, log_flops))
    return [_budget(problem, log_flops, x, y), *bounds] if fixed else bounds


def _budget(problem: Problem, log_flops: float, x: float, y: float) -> Bound:
    """The budget, which more limits may leave unspent."""
    binds = bool(problem.paid(np.array(x), log_flops) < y + TOUCH)
    twice = Relaxation(name=BUDGET, problem=problem, log_flops=log_flops + math.log(2), budget=True)
    value = math.exp(log_flops)
    return Bound(name=BUDGET, value=value, binds=binds, doubled=twice if binds else None)


def _unique(problem: Problem, source: Source, place: Place, log_flops: float) -> Bound:
    """The unique tokens: they bind where repeats, or too many parameters for them, cost loss."""
    unique, law = problem.law.held[UNIQUE], problem.law

    def with_law(tokens: float) -> Problem:
        endless = tokens >= ENDLESS and borrows(law)
        other = source.law if endless else law.at(**{UNIQUE: tokens})
        return dataclasses.replace(problem, law=other)

    lifted, doubled = with_law(ENDLESS), with_law(2 * unique)
    fresh = log_loss(lifted.law, source.theta[None], place.log_params, place.log_tokens)
    if not float(place.log_loss[0] - fresh[0]) > 1e-9:
        return Bound(name=UNIQUE, value=unique, binds=False)
    return Bound(
        name=UNIQUE,
        value=unique,
        binds=True,
        lifted=Relaxation(name=UNIQUE, problem=lifted, log_flops=log_flops),
        doubled=Relaxation(name=UNIQUE, problem=doubled, log_flops=log_flops),
    )


def log_gains(bounds: Sequence[Bound], theta: Floats, place: Place) -> list[Floats]:
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


def constraints_of(bounds: Sequence[Bound], numbers: Iterator[Number]) -> tuple[Constraint, ...]:
    """The rows of an answer from the numbers of `log_gains`, in their order."""

    def gain(r: Relaxation) -> Gain:
        loss = next(numbers)
        return Gain(loss=loss, multiplier=None if r.budget else next(numbers))

    rows = []
    for b in bounds:
        lifted = None if b.lifted is None else gain(b.lifted)
        worth = None if b.doubled is None else Worth(lifted=lifted, doubled=gain(b.doubled))
        rows.append(Constraint(name=b.name, limit=b.value, binds=b.binds, worth=worth))
    return tuple(rows)
