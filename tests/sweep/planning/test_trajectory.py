"""Positions, batches and learning rates as pure functions of tokens."""

import pytest

from fit.data.schedule import BatchRule, LearningRate, cooldown_start, warmup_tokens
from fit.errors import PlanError

RULE = BatchRule(batch_tokens=512, row=128, doublings=(10_000, 50_000))
SMOOTH = BatchRule(batch_tokens=512, row=128, at_1m=4_000)


RULES = pytest.mark.parametrize("rule", [RULE, SMOOTH])


@RULES
def test_every_run_walks_on_one_sequence_of_positions(rule):
    long = [p for p, _ in rule.steps(0, rule.nearest(400_000))]
    for tokens in (700, 9_000, 12_345, 60_000, 200_000):
        end = rule.nearest(tokens)
        steps = list(rule.steps(0, end))
        assert [p for p, _ in steps] == long[: len(steps)]
        assert sum(batch for _, batch in steps) == end


@RULES
def test_nearest_position_is_nearest(rule):
    positions = [p + batch for p, batch in rule.steps(0, 200_000)]
    for tokens in range(300, 150_000, 777):
        best = min(abs(p - tokens) for p in positions)
        assert abs(rule.nearest(tokens) - tokens) == best


@RULES
def test_steps_are_those_of_walking_batch_by_batch(rule):
    position, walked = 0, []
    while position < 3_000_000:
        walked.append((position, rule.batch(position)))
        position += rule.batch(position)
    assert list(rule.steps(0, position)) == walked
    assert rule.count(0, position) == len(walked)
    assert rule.count(walked[7][0], walked[300][0]) == 293


def test_a_smooth_batch_follows_the_root_of_tokens_seen_in_steps_of_a_quarter_at_most():
    sizes = [SMOOTH.batch(p) for p in range(0, 10**8, 9_999)]
    assert sizes == sorted(sizes) and all(size % 128 == 0 for size in sizes)
    assert max(b / a for a, b in zip(sizes, sizes[1:], strict=False)) <= 1.25
    for tokens in (1_000_000, 4_000_000, 50_000_000):
        assert SMOOTH.batch(tokens) == pytest.approx(4_000 * (tokens / 1e6) ** 0.5, rel=0.07)
    assert len(set(sizes)) < 8 * 7  # 512 to 40,000 tokens are less than 7 doublings


def test_a_doubling_late_in_a_run_is_found_and_a_smooth_batch_has_none():
    assert RULE.late_doubling(60_000) == 50_000
    assert RULE.late_doubling(200_000) is None
    assert all(SMOOTH.late_doubling(tokens) is None for tokens in (20_000, 10**6, 10**9))


def test_a_rule_is_read_from_a_record_of_either_kind():
    old = {"train.batch_tokens": 512, "model.seq_len": 128, "train.batch_doublings": [1e4, 5e4]}
    assert BatchRule.from_recipe(old) == RULE
    new = {**old, "train.batch_doublings": [], "train.batch_at_1m": 4e3, "train.batch_power": 0.5}
    assert BatchRule.from_recipe(new) == SMOOTH
    assert BatchRule.from_recipe({"train.lr": 0.1}) is None


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


def test_warmup_is_the_least_of_params_and_a_hundred_batches_and_a_tenth_of_the_run():
    assert warmup_tokens(5_000, 512, 300_000, None) == 5_000
    assert warmup_tokens(500_000, 512, 300_000, None) == 30_000
    assert warmup_tokens(500_000, 512, 3_000_000, None) == 51_200
    assert warmup_tokens(5_000, 512, 300_000, 123.0) == 123


def test_the_rate_of_hidden_matrices_falls_with_a_power_of_tokens_seen():
    rate = LearningRate(
        kind="wsd",
        warmup=0,
        tokens=10**7,
        cooldown_start=8 * 10**6,
        decay_from=2e5,
        decay_power=0.1,
    )
    assert rate.decay(100_000, 512) == 1.0
    assert rate.decay(3_200_000 - 256, 512) == pytest.approx(16**-0.1)
    assert rate.factor(3_200_000, 512) == 1.0


@pytest.mark.parametrize(("shape", "half"), [("sqrt", 1 - 0.5**0.5), ("linear", 0.5)])
def test_a_cooldown_falls_to_zero_by_its_shape(shape, half):
    rate = LearningRate(kind="wsd", warmup=0, tokens=2000, cooldown_start=1000, shape=shape)
    assert rate.factor(1499, 2) == pytest.approx(half)
    assert rate.factor(1999, 2) == pytest.approx(0, abs=1e-3)
