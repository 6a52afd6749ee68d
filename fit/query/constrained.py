"""The answer to a question with limits, served tokens or a target loss, as quantities of theta.

Everything that an answer says with an interval is one row of functions of the law's parameters, so
that one call of `derived` makes all intervals together, by the fit's own method.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from fit.allocation.allocate import RegretBand
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.query.constraints import (
    FORWARD_SHARE,
    MOST_LOG,
    TOUCH,
    ConstrainedProblem,
    Optimum,
    constrained_problem,
    least_cost,
    least_loss,
    sizes_within_tolerance,
    tokens_needed,
)
from fit.query.question import BYTES_PER_PARAM, Constraint, Number, Question, Regret, mapped
from fit.query.sensitivity import (
    BindingLimit,
    binding_limits,
    constraints_of,
    log_gains,
    log_regrets,
    refuse_budget,
    refuse_conflicts,
    refuse_loss,
    regrets_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question made ready: its limits, and the budget given or found."""

    source: ScalingLaw
    problem: ConstrainedProblem
    flops: float
    """The budget: for a target loss what the point estimate takes."""
    target: float | None
    """The ln of the loss asked for."""
    place: Optimum
    """The answer at the point estimate, one model."""
    bounds: tuple[BindingLimit, ...]
    regret: bool
    stored: float | None
    """Parameters that the memory holds, all counted."""

    @property
    def log_flops(self) -> float:
        """The ln of the budget."""
        return math.log(self.flops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The numbers of an answer."""

    params: Number
    tokens: Number
    tokens_per_param: Number
    loss: Number
    flops: Number
    training_flops: Number
    serving_flops: Number | None
    constraints: tuple[Constraint, ...]
    regret: tuple[Regret, ...]


def task_of(question: Question, source: ScalingLaw, flops: float | None) -> Task:
    """Make a question ready.

    Args:
        question: The question.
        source: Its source, with the unique tokens fixed where it has them.
        flops: The budget [FLOP]; None where a loss is asked for.

    Raises:
        QueryError: Demands conflict, or no model within the limits can be paid or reaches the loss.
    """
    source.law.check_split()
    problem, target, rows = constrained_problem(question, source), None, source.theta[None]
    refuse_conflicts(problem)
    if question.loss is not None:
        refuse_loss(problem, source.theta, question.loss)
        target = math.log(question.loss)
        flops = math.exp(least_cost(problem, rows, np.array([target])).log_flops[0])
    assert flops is not None
    log_flops = math.log(flops)
    refuse_budget(problem, log_flops)
    place = least_loss(problem, rows, log_flops)
    bounds: list[BindingLimit] = []
    if problem.limits or question.unique_tokens is not None:
        bounds = binding_limits(problem, question.source, place, log_flops, fixed=target is None)
    return Task(
        source=source,
        problem=problem,
        flops=flops,
        target=target,
        place=place,
        bounds=tuple(bounds),
        regret=question.regret or question.constrained,
        stored=None
        if question.memory is None
        else question.memory / (question.bytes_per_param or BYTES_PER_PARAM),
    )


def log_quantities(task: Task, theta: Floats) -> Floats:
    """The ln of every number of the answer at thetas (m, p); (m, q)."""
    problem = task.problem
    place = least_loss(problem, theta, task.log_flops)
    columns = [
        place.log_params,
        place.log_tokens,
        place.log_tokens - place.log_params,
        place.log_loss,
        *_paid(problem, place),
    ]
    if task.target is not None:
        goal = least_cost(problem, theta, np.full(len(theta), task.target))
        columns += [goal.log_flops, *_paid(problem, goal)]
    columns += log_gains(task.bounds, theta, place)
    if task.regret:
        columns += log_regrets(problem, theta, place, task.log_flops)
    return np.stack(columns, axis=1)


def _paid(problem: ConstrainedProblem, place: Optimum) -> list[Floats]:
    """The ln of the FLOP of training, and of serving where there is any."""
    per_token = problem.cost.log_flops_per_token(place.log_params)
    served = [per_token + math.log(problem.served / FORWARD_SHARE)] if problem.served else []
    return [per_token + place.log_tokens, *served]


def outcome_of(task: Task, numbers: tuple[Number, ...]) -> Outcome:
    """The numbers of `log_quantities` by their names."""
    rest = iter(numbers)
    params, tokens, ratio, loss, training = (next(rest) for _ in range(5))
    serving = next(rest) if task.problem.served else None
    known = None if task.source.fit is None else task.flops
    flops = Number(value=task.flops, low=known, high=known)
    if task.target is not None:
        flops, training = next(rest), next(rest)
        serving = next(rest) if task.problem.served else None
    return Outcome(
        params=_limit_itself(task, "params", params),
        tokens=_limit_itself(task, "tokens", tokens),
        tokens_per_param=_limit_itself(task, "tokens_per_param", ratio),
        loss=loss,
        flops=flops,
        training_flops=training,
        serving_flops=serving,
        constraints=constraints_of(task.bounds, rest),
        regret=regrets_of(task.problem, float(task.place.log_params[0]), rest)
        if task.regret
        else (),
    )


def _limit_itself(task: Task, on: str, number: Number) -> Number:
    """A number that lies on a limit as the limit has it, free of the rounding of logarithms."""
    values = [v.value for v in task.problem.limits if v.on == on and v.name != "memory"]

    def exact(value: float) -> float:
        near = [v for v in values if abs(value - v) <= 1e-9 * v]
        return near[0] if near else value

    return mapped(number, exact)


def band_of(task: Task, tolerance: float) -> RegretBand:
    """The sizes within the limits that are as good as the answer's, to a tolerance in ln loss."""
    return sizes_within_tolerance(task.problem, task.source.theta, task.log_flops, tolerance)


def tokens_of(task: Task, params: float, flops_per_token: float, *, stored: float) -> float | None:
    """Training tokens of a shape by its own counts; None where it is outside the limits.

    As many as budget and limits allow, or as few as reach the loss. It need not have exactly the
    parameters that were fixed, of which the answer's are the nearest that a ladder has.

    Args:
        task: The question.
        params: Its N.
        flops_per_token: What a token costs in training.
        stored: All its parameters, those included that N leaves out.
    """
    limits = tuple(v for v in task.problem.limits if v.name not in ("params", "memory"))
    own, x = dataclasses.replace(task.problem, limits=limits), np.array([math.log(params)])
    low, high = own.sizes()
    if not low - TOUCH <= x[0] <= high + TOUCH or (task.stored and stored > task.stored):
        return None
    if task.target is None:
        paid = math.exp(task.log_flops) / flops_per_token - own.served / FORWARD_SHARE
        y = min(math.log(max(paid, 1e-300)), float(own.ceiling(x)[0]))
    else:
        needed = tokens_needed(own.law, task.source.theta[None], x, np.array([task.target]))
        y = max(float(needed[0]), float(own.floor(x)[0]))
    inside = float(own.floor(x)[0]) - TOUCH <= y <= float(own.ceiling(x)[0]) + TOUCH
    return math.exp(y) if inside and y < MOST_LOG else None
