"""Runs within limits, and what they cost."""

import dataclasses
import math

import numpy as np
import pytest

from fit.allocation.ladder import constant_cost, ladder_of
from fit.design.candidates import (
    Candidates,
    RunLimits,
    candidates_of_sizes,
    candidates_on_ladder,
    incremental_flops,
)
from fit.errors import PlanError
from fit.results import Span
from tests.fit.builders import make_fit

LIMITS = RunLimits(
    params=Span(low=1e4, high=1e9),
    tokens=Span(low=3e5, high=1e8),
    flops=Span(low=1e10, high=1e13),
    ratio=Span(low=4, high=300),
)


def inside(values, span):
    return bool(np.all((values >= span.low * (1 - 1e-6)) & (values <= span.high * (1 + 1e-6))))


@pytest.mark.parametrize("made", ["ladder", "plain"])
def test_every_candidate_is_within_every_limit(made):
    if made == "plain":
        found = candidates_of_sizes(constant_cost(), LIMITS)
    else:
        found = candidates_on_ladder(ladder_of(make_fit()), LIMITS, cooldown=0.2)
    assert len(found) > 20
    assert inside(found.params, LIMITS.params)
    assert inside(found.tokens, LIMITS.tokens)
    assert inside(found.flops, LIMITS.flops)
    assert inside(found.tokens / found.params, LIMITS.ratio)


def test_shapes_are_the_ladders_and_count_as_it_counts():
    ladder = ladder_of(make_fit())
    found = candidates_on_ladder(ladder, LIMITS, cooldown=0.2)
    for size, shape in enumerate(found.shapes):
        n, per_token = ladder.count(shape)
        own = found.size == size
        if not own.any():  # no length of this size lies within the limits
            continue
        assert set(found.params[own]) == {n}
        assert set(found.flops_per_token[own]) == {per_token}
        assert shape.width % shape.head_dim == 0


def test_widths_asked_for_are_the_only_ones():
    limits = dataclasses.replace(LIMITS, widths=(32, 64))
    found = candidates_on_ladder(ladder_of(make_fit()), limits, cooldown=0.2)
    assert {s.width for s in found.shapes} == {32, 64}


def test_limits_that_leave_nothing_are_refused_by_name():
    tight = dataclasses.replace(LIMITS, flops=Span(low=1, high=10))
    with pytest.raises(PlanError, match=r"no run of at least .* costs 1e0 to 1e1 FLOP"):
        candidates_of_sizes(constant_cost(), tight)
    with pytest.raises(PlanError, match="no run of at least"):
        candidates_on_ladder(ladder_of(make_fit()), tight, cooldown=0.2)


def test_a_trunk_is_paid_once():
    two = Candidates(
        params=np.array([1e4, 1e4, 2e4]),
        tokens=np.array([1e6, 4e6, 4e6]),
        flops_per_token=np.array([6e4, 6e4, 12e4]),
        size=np.array([0, 0, 1]),
        cooldown=0.2,
    )
    chosen = np.arange(3)
    apart = incremental_flops(two, chosen, np.array([0, 1, 2]))
    assert apart == pytest.approx(two.flops)
    together = incremental_flops(two, chosen, np.array([0, 0, 2]))
    # the short branch pays its run; the long one its cooldown and the trunk beyond the short one's
    assert together[0] == pytest.approx(6e4 * 1e6)
    assert together[1] == pytest.approx(6e4 * (0.2 * 4e6 + 0.8 * 3e6))
    assert math.isclose(together[2], two.flops[2])
    whole = dataclasses.replace(two, cooldown=1.0)
    assert incremental_flops(whole, chosen, np.array([0, 0, 2])) == pytest.approx(two.flops)
