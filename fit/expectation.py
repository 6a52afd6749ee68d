"""What a run at a given N and D should reach, and how far from it a measured loss is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fit.errors import QueryError
from fit.query import Point, predict
from fit.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The loss of one run that is still to be made, with its prediction interval."""

    params: float
    """N in the fit's convention."""
    tokens: float
    loss: float
    """[nats/token]"""
    low: float
    high: float
    level: float
    quantile: float
    """Student's t at the level: the interval's ends in standard errors."""
    dof: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A measured loss against what was expected."""

    measured: float
    """[nats/token]"""
    error: float
    """measured / expected - 1"""
    z: float
    """ln(measured / expected) in standard errors of that side: beyond the quantile is a miss."""
    hit: bool
    """Inside the prediction interval."""


def expect(source: Source, params: float, tokens: float) -> Expectation:
    """What one run should reach.

    Args:
        source: A fit; a published law has no intervals.
        params: N in its convention.
        tokens: D.

    Raises:
        QueryError: There is no interval, or it has no bound, so that nothing could miss it.
    """
    found = predict(Point(source=source, params=params, tokens=tokens))
    run, fit = found.loss_next_run, source.fit
    if fit is None or run.low is None or run.high is None:
        raise QueryError(
            f"{source.name} has no intervals, so that no run could miss them; a fit of runs is "
            "needed. Name one: --fit reports/NAME."
        )
    if not 0 < run.low < run.value < run.high < math.inf:
        raise QueryError(
            f"the prediction of {source.name} at {params:g} parameters has no bounds; a fit with "
            "more runs than parameters is needed. Add runs."
        )
    return Expectation(
        params=params,
        tokens=tokens,
        loss=run.value,
        low=run.low,
        high=run.high,
        level=fit.interval.level,
        quantile=fit.interval.quantile,
        dof=fit.interval.dof,
    )


def judge(expected: Expectation, measured: float) -> Verdict:
    """A measured loss against what was expected.

    Args:
        expected: From `expect`.
        measured: Held-out loss [nats/token].

    Raises:
        QueryError: The loss is not a positive number.
    """
    if not 0 < measured < math.inf:
        raise QueryError(f"the loss is {measured}; a positive number of nats/token is needed.")
    off = math.log(measured / expected.loss)
    end = expected.high if off > 0 else expected.low
    return Verdict(
        measured=measured,
        error=measured / expected.loss - 1,
        z=expected.quantile * off / abs(math.log(end / expected.loss)),
        hit=expected.low <= measured <= expected.high,
    )
