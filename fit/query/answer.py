"""From a question to an answer: the same for the command line, HTTP, the page, Python and reports.

A published law answers in its own counting convention with point values alone. A fit adds
intervals, the regret band (the sizes whose loss is within one run's noise of the best), a trainable
shape near N*, and the overrides that launch a run of that shape. Every number but the next run's
loss is a function of the law's parameters, and one call of `derived_interval` computes all their
intervals together, by the fit's own method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fit.allocation.costs import TRAINING_OVER_SERVING
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.errors import QueryError
from fit.inference.intervals import LogQuantity, positive_interval, prediction_interval
from fit.quantities import read_count
from fit.query import warnings
from fit.query.budget import answer_cost, budget_of, check_budget, machine_of
from fit.query.constraints import (
    ConstrainedProblem,
    Optimum,
    constrained_problem,
    least_cost,
    least_loss,
    sizes_within_tolerance,
    starts,
)
from fit.query.documents import Answer, Number, Prediction, mapped
from fit.query.launch import launch_config, launch_refusal
from fit.query.question import Question
from fit.query.question import question as question_of
from fit.query.sensitivity import (
    LimitRow,
    constraint_rows,
    limit_rows,
    log_gains,
    log_regrets,
    refuse_budget,
    refuse_conflicts,
    refuse_loss,
    regret_rows,
)
from fit.results import Fit
from fit.verdict import Note, worst

__all__ = ["Answer", "Number", "Prediction", "Question", "answer", "predict", "query"]


def answer(question: Question) -> Answer:
    """Split a budget between parameters and tokens, with intervals, a shape and warnings.

    Args:
        question: Budget or target loss, limits and source.

    Returns:
        N*, D*, the loss there, the regret band, the reach, and what launches it; with limits also
        which bind and what relaxing them gains, with devices hours and money.

    Raises:
        QueryError: The law splits no budget, or this one is not positive or pays for less than one
            token, or limits conflict.
        RefusedError: The verdict on the fit or on the answer is `refuse`, and `force` is not set.
    """
    source = question.source
    if question.unique_tokens is not None:
        source = source.given(unique_tokens=question.unique_tokens)
    machine = machine_of(question)
    flops = budget_of(question, machine)
    source.law.check_split()
    if source.verdict is not None:
        warnings.check_verdict(source.verdict, source, force=question.force)
    fit, rows, spread = source.fit, source.theta[None], source.uncertainty
    problem = constrained_problem(question, source)
    refuse_conflicts(problem)
    target = None
    if flops is None:
        assert question.loss is not None
        refuse_loss(problem, source.theta, question.loss)
        target = math.log(question.loss)
        least = least_cost(problem, rows, np.array([target]))
        flops = check_budget(math.exp(least.log_flops[0]))
    log_flops = math.log(flops)
    limited = question.constrained or question.regret or question.unique_tokens is not None
    if limited:
        refuse_budget(problem, log_flops)
    # The point estimate and the steps of the intervals together: one search, not two.
    thetas = source.thetas
    searched = source.cost.constant is None and question.unique_tokens is None
    near = starts(source, log_flops) if searched and fit is not None else None
    every = least_loss(problem, thetas, log_flops, None if near is None else near[:-2])
    place = every.rows(slice(1))
    if not (place.log_params[0] >= 0 and place.log_tokens[0] >= 0):
        raise QueryError(f"{flops:g} FLOP buy less than one parameter or token. Ask for more.")
    notes = list(_answer_notes(source, problem, place, flops, exact=not limited))
    verdict = warnings.verdict(source, notes)
    warnings.check_verdict(verdict, source, force=question.force)
    limits: list[LimitRow] = []
    if problem.limits or question.unique_tokens is not None:
        limits = limit_rows(problem, question.source, place, log_flops, fixed=target is None)
    regret = question.regret or question.constrained

    def quantities_at(theta: Floats, best: Optimum) -> Floats:
        columns = [best.log_params, best.log_tokens, best.log_tokens - best.log_params]
        columns.append(best.log_loss)
        if limited:
            columns += _log_compute(problem, best)
        if target is not None:
            cheapest = least_cost(problem, theta, np.full(len(theta), target))
            columns += [cheapest.log_flops, *_log_compute(problem, cheapest)]
        columns += log_gains(limits, theta, best)
        if regret:
            columns += log_regrets(problem, theta, best, log_flops)
        return np.stack(columns, axis=1)

    whole = quantities_at(thetas, every)

    def log_quantities(theta: Floats) -> Floats:
        for part in (slice(1), slice(1, None)):
            if np.array_equal(theta, thetas[part]):
                return whole[part]
        return quantities_at(theta, least_loss(problem, theta, log_flops))

    # Beyond the farthest reach an insisted answer is the law's value alone: no interval is true.
    far = any(note.code == "extrapolates_far" for note in notes)
    numbers = iter(_numbers(source, log_quantities, ranged=not far))
    params, tokens, ratio = (
        _exact_limit(problem, on, next(numbers)) for on in ("params", "tokens", "tokens_per_param")
    )
    loss = next(numbers)
    if fit is not None and fit.forecast is not None:
        notes += warnings.loss_warnings(loss, fit.data.get("entropy"))
        verdict = warnings.verdict(source, notes)
    end = None if spread is None or far else flops
    budget = Number(value=flops, low=end, high=end)
    training, serving = _compute(problem, numbers) if limited else (budget, None)
    if target is not None:
        budget = next(numbers)
        training, serving = _compute(problem, numbers)
    constraints = constraint_rows(limits, numbers)
    regrets = regret_rows(problem, float(place.log_params[0]), numbers) if regret else ()

    config = launch_config(question, source, problem, float(np.exp(place.log_params[0])), flops)
    notes += warnings.limit_warnings(
        question,
        source,
        training=training.value,
        serving=None if serving is None else serving.value,
        flops=budget.value,
    )
    band = None
    # Beyond a thousandfold the band of a bent frontier runs to sizes of no use.
    if fit is not None and not far:
        begin = None if near is None or limited else near[-2:]
        band = sizes_within_tolerance(problem, source.theta, log_flops, fit.noise, place, begin)
        notes += warnings.shape_warnings(band, None if config is None else config.params)
    if config is None and source.ladder is not None:
        notes.append(warnings.NO_SHAPE)
    notes += () if machine is None else machine.notes
    refusal = launch_refusal(config, notes)
    shape_loss = None
    if config is not None:
        n, d = np.asarray(config.params), np.asarray(config.tokens)
        shape_loss = float(source.law.loss(source.theta, n, d))
    return Answer(
        flops=budget,
        params=params,
        tokens=tokens,
        tokens_per_param=ratio,
        loss=loss,
        loss_next_run=_next_run(source, loss),
        level=None if spread is None or far else spread.level,
        method=None if spread is None or far else spread.method,
        regret_band=band,
        reach=source.reach(training.value),
        shape=None if config is None else config.shape,
        shape_params=None if config is None else config.params,
        shape_tokens=None if config is None else config.tokens,
        shape_loss=shape_loss,
        lr=None if config is None else config.lr,
        batch_tokens=None if config is None else config.batch_tokens,
        law=source.law.name,
        source=source.name,
        convention=dict(source.convention),
        warnings=tuple(notes),
        verdict=verdict,
        config=() if config is None or refusal is not None else config.config,
        constraints=constraints,
        cost=answer_cost(machine, training, serving, budget) if limited or machine else None,
        epochs=None if question.unique_tokens is None else tokens.value / question.unique_tokens,
        regret=regrets,
        fit_hash=source.hash,
        launch_refusal=refusal,
    )


def query(
    source: ScalingLaw | Fit | Path | str, flops: float | str | None = None, **fields: object
) -> Answer:
    """Split a budget between parameters and tokens: `isoflop query` as a function.

    Args:
        source: A fit, its report folder, or the name of a published law.
        flops: Training budget C [FLOP], a number or text such as `1e21`; None where `fields` state
            the budget otherwise.
        **fields: The other options of the command, by the names of `question.FIELDS`.

    Returns:
        N*, D*, the loss there, their intervals, and the overrides that launch it.

    Raises:
        QueryError: The question has no answer as posed; see `answer`.
        RecordError: There is no such fit.
    """
    return answer(question_of(ScalingLaw.of(source), {"flops": flops, **fields}))


def predict(
    source: ScalingLaw | Fit | Path | str,
    params: float | str,
    tokens: float | str,
    *,
    force: bool = False,
    **columns: float,
) -> Prediction:
    """Predict the loss of a number of parameters and tokens, with intervals.

    Between the fitted runs a law predicts even where its parameters are not identified: there the
    verdict on the prediction is `careful`, not the fit's.

    Args:
        source: A fit, its report folder, or the name of a published law.
        params: N [parameters], a number or text such as `7B`.
        tokens: D [tokens], likewise.
        force: Insist on a prediction whose verdict is `refuse`; beyond the farthest reach it has no
            interval.
        **columns: Further columns of the law, such as `unique_tokens`.

    Returns:
        The loss, or the quantity that the law predicts, and its intervals.

    Raises:
        QueryError: A count is below 1, or a column is missing or unknown.
        RefusedError: The verdict is `refuse`, and `force` is not set.
        RecordError: There is no such fit.
    """
    given = {name: read_count(value, name) for name, value in columns.items()}
    source = ScalingLaw.of(source).given(**given)
    n, d = read_count(params, "params"), read_count(tokens, "tokens")
    for name, value in {"params": n, "tokens": d}.items():
        if value < 1:
            raise QueryError(f"{name} is {value:g}; at least 1 is needed, such as 7B.")
    flops = d * float(np.exp(source.cost.log_flops_per_token(np.log([n])))[0])
    log_losses = source.log_losses(np.array([n]), np.array([d]))
    loss = _numbers(source, log_losses, ranged=False)[0]
    notes = warnings.answer_warnings(source, flops=flops, params=n, tokens=d)
    verdict = warnings.prediction_verdict(source, notes, params=n, tokens=d)
    warnings.check_verdict(verdict, source, force=force)
    spread = source.uncertainty
    ranged = spread is not None and all(note.code != "extrapolates_far" for note in notes)
    if ranged:
        loss = _numbers(source, log_losses)[0]
    if source.fit is not None and source.fit.forecast is not None and ranged:
        if doubts := warnings.loss_warnings(loss, source.fit.data.get("entropy")):
            notes = (*notes, *doubts)
            verdict = worst(verdict, warnings.verdict(source, doubts))
    return Prediction(
        params=n,
        tokens=d,
        flops=flops,
        loss=loss,
        loss_next_run=_next_run(source, loss),
        level=spread.level if spread is not None and ranged else None,
        method=spread.method if spread is not None and ranged else None,
        reach=source.reach(flops),
        law=source.law.name,
        source=source.name,
        convention=dict(source.convention),
        warnings=notes,
        verdict=verdict,
        quantity=source.law.target,
        given=dict(source.law.held),
    )


def _log_compute(problem: ConstrainedProblem, place: Optimum) -> list[Floats]:
    """The ln of the FLOP of training, and of serving where there is any."""
    per_token = problem.cost.log_flops_per_token(place.log_params)
    served = problem.served / TRAINING_OVER_SERVING
    serving = [per_token + math.log(served)] if served else []
    return [per_token + place.log_tokens, *serving]


def _compute(
    problem: ConstrainedProblem, numbers: Iterator[Number]
) -> tuple[Number, Number | None]:
    """FLOP of training, and of serving where there is any, from the numbers of `_log_compute`."""
    return next(numbers), next(numbers) if problem.served else None


def _exact_limit(problem: ConstrainedProblem, on: str, number: Number) -> Number:
    """A number that lies on a limit as the limit has it, without the rounding of logarithms."""
    values = [v.value for v in problem.limits if v.on == on and v.name != "memory"]

    def exact(value: float) -> float:
        return next((v for v in values if abs(value - v) <= 1e-9 * v), value)

    return mapped(number, exact)


def _next_run(source: ScalingLaw, loss: Number) -> Number:
    """The prediction of one run from the loss of the law there: the noise is added."""
    spread = source.uncertainty
    if spread is None or loss.low is None or loss.high is None:
        return loss
    ends = (np.asarray(v) for v in (loss.value, loss.low, loss.high))
    low, high = prediction_interval(spread.quantile, source.noise_of_a_run, *ends)
    return Number(value=loss.value, low=float(low), high=float(high))


def _answer_notes(
    source: ScalingLaw, problem: ConstrainedProblem, place: Optimum, flops: float, *, exact: bool
) -> tuple[Note, ...]:
    """Warnings of the optimum at a budget, all of which is training where it is `exact`."""
    n, d = float(np.exp(place.log_params[0])), float(np.exp(place.log_tokens[0]))
    training = flops if exact else float(np.exp(_log_compute(problem, place)[0][0]))
    return warnings.answer_warnings(source, flops=training, params=n, tokens=d)


def _numbers(
    source: ScalingLaw, log_quantities: LogQuantity, *, ranged: bool = True
) -> tuple[Number, ...]:
    """Values, on request with their intervals where the source is a fit; the quantities (m, q)."""
    with np.errstate(over="ignore"):
        values = np.exp(log_quantities(source.theta[None, :])[0])
    if (spread := source.uncertainty) is None or not ranged:
        return tuple(Number(value=float(v)) for v in values)
    low, high = positive_interval(spread, log_quantities)
    ends = zip(values, low, high, strict=True)
    return tuple(Number(value=float(v), low=float(a), high=float(b)) for v, a, b in ends)
