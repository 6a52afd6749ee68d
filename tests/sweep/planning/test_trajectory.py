"""Positions, batches and learning rates as pure functions of tokens."""

import pytest

from fit.errors import PlanError
from sweep.planning.trajectory import BatchRule, LearningRate, cooldown_start, warmup_tokens

RULE = BatchRule(batch_tokens=512, doublings=(10_000, 50_000))


def test_every_run_walks_on_one_sequence_of_positions():
    long = [p for p, _ in RULE.steps(0, RULE.nearest(400_000))]
    for tokens in (700, 9_000, 12_345, 60_000, 200_000):
        end = RULE.nearest(tokens)
        steps = list(RULE.steps(0, end))
        assert [p for p, _ in steps] == long[: len(steps)]
        assert sum(batch for _, batch in steps) == end


def test_nearest_position_is_nearest():
    positions = [p + batch for p, batch in RULE.steps(0, 200_000)]
    for tokens in range(300, 150_000, 777):
        best = min(abs(p - tokens) for p in positions)
        assert abs(RULE.nearest(tokens) - tokens) == best


def test_batch_doubles_at_the_given_tokens():
    assert [RULE.batch(p) for p in (0, 9_999, 10_000, 49_999, 50_000)] == [
        512,
        512,
        1024,
        1024,
        2048,
    ]


def test_less_than_half_a_batch_is_refused():
    with pytest.raises(PlanError, match="below one batch"):
        RULE.nearest(255)


def test_a_branch_follows_its_trunk_until_it_leaves():
    ends = (RULE.nearest(60_000), RULE.nearest(240_000))
    rates = [
        LearningRate(
            kind="wsd", warmup=3_000, tokens=end, cooldown_start=cooldown_start(RULE, end, 0.2)
        )
        for end in ends
    ]
    for position, batch in RULE.steps(0, rates[0].cooldown_start):
        assert rates[0].factor(position, batch) == rates[1].factor(position, batch)
    assert rates[0].cooldown_start == pytest.approx(0.8 * ends[0], abs=2048)


@pytest.mark.parametrize("kind", ["wsd", "cosine"])
def test_rate_warms_up_then_never_rises(kind):
    end = RULE.nearest(240_000)
    rate = LearningRate(kind=kind, warmup=5_000, tokens=end, cooldown_start=190_000)
    factors = [rate.factor(p, batch) for p, batch in RULE.steps(0, end)]
    top = factors.index(max(factors))
    assert 0 < factors[0] < factors[top] <= 1
    assert all(a >= b for a, b in zip(factors[top:], factors[top + 1 :], strict=False))
    assert 0 < factors[-1] < (0.15 if kind == "cosine" else 0.1)


def test_warmup_is_the_smaller_of_params_and_a_tenth_of_the_shortest_run():
    assert warmup_tokens(5_000, 300_000, None) == 5_000
    assert warmup_tokens(500_000, 300_000, None) == 30_000
    assert warmup_tokens(5_000, 300_000, 123.0) == 123
