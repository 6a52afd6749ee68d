"""How much compute one law needs to reach another's loss."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.comparison import multiplier
from fit.comparison.compare import compare
from fit.errors import QueryError, RefusedError
from fit.laws.published import preset
from fit.query.warnings import budget_verdict
from fit.report.listings import comparison_text
from fit.verdict import Verdict
from tests.fit.builders import make_fit
from tests.fit.comparison.builders import ALPHA, BETA, A, B, E, fitted, sweep_table

pytestmark = pytest.mark.usefixtures("few_checks")


def exact(factor: float, **given) -> ScalingLaw:
    """A fit whose parameters are the law's own, its reducible loss for `factor` the compute."""
    scale = factor ** (ALPHA * BETA / (ALPHA + BETA))
    theta = {"E": E, "A": scale * A, "B": scale * B, "alpha": ALPHA, "beta": BETA}
    return ScalingLaw.from_fit(
        dataclasses.replace(fitted(sweep_table(seed=1)), theta=theta, **given)
    )


def of(seed: int, factor: float = 1.0, shared: int | None = None) -> ScalingLaw:
    return ScalingLaw.from_fit(fitted(sweep_table(factor=factor, seed=seed, shared=shared)))


def width(row) -> float:
    return math.log(row.multiplier.high / row.multiplier.low)


def test_a_law_scaled_to_twice_the_compute_needs_twice_the_compute():
    found = compare(exact(2.0), exact(1.0))
    assert len(found.rows) == 5
    for row in found.rows:
        assert row.multiplier.value == pytest.approx(2.0, rel=1e-6)
        assert row.flops_a == pytest.approx(2 * row.flops, rel=1e-6)
        assert row.multiplier.low < 2 < row.multiplier.high


def test_exchanging_the_two_inverts_the_multiplier_and_its_interval():
    forth = compare(of(1, 2.0), of(2), flops=(1e19,)).rows[0]
    back = compare(of(2), of(1, 2.0), flops=(forth.flops_a,)).rows[0]
    assert back.flops_a == pytest.approx(1e19, rel=1e-6)
    assert back.multiplier.value == pytest.approx(1 / forth.multiplier.value, rel=1e-6)
    # the interval is of another budget's loss, so that it is met only nearly
    assert width(back) == pytest.approx(width(forth), rel=0.1)


def test_the_loss_of_one_is_met_by_the_budget_of_the_other():
    a, b = of(1, 3.0), of(2)
    for row in compare(a, b).rows:
        met = a.best(np.array([row.flops_a])).log_loss[0]
        assert np.exp(met) == pytest.approx(row.loss_b, rel=1e-9)
        cheaper = b.best(np.array([row.flops * row.price_b])).log_loss[0]
        assert np.exp(cheaper) == pytest.approx(row.loss_b - 0.01, rel=1e-9)


@pytest.mark.parametrize("interval", ["hc3", "pairs"])
def test_common_noise_cancels_between_paired_runs(interval):
    a, b = of(1, 2.0, shared=7), of(2, shared=7)
    paired = compare(a, b, flops=(1e19,), interval=interval)
    assert paired.runs_paired == 36
    assert paired.correlation > 0.8

    def with_seeds(source, seeds):
        points = dataclasses.replace(source.fit.points, columns={"seed": seeds})
        return ScalingLaw.from_fit(dataclasses.replace(source.fit, points=points))

    first, second = with_seeds(a, SEEDS + 1), with_seeds(b, SEEDS)
    unpaired = compare(first, second, flops=(1e19,), interval=interval)
    assert unpaired.runs_paired == 0
    assert unpaired.rows[0].multiplier.value == pytest.approx(paired.rows[0].multiplier.value)
    # 0.3% of common noise against 0.1% of one's own: a third of the width would be perfect
    assert width(paired.rows[0]) < 0.5 * width(unpaired.rows[0])


SEEDS = np.zeros(36)


def forecast_of(seed: int, factor: float = 1.0, **given) -> ScalingLaw:
    table = sweep_table(factor=factor, seed=seed, shared=7)
    return ScalingLaw.from_fit(isoflop.fit(table, resamples=0, **given))


def test_forecasts_are_compared_by_forecasts_and_like_with_like():
    a, b, bare = forecast_of(1, 2.0), forecast_of(2), forecast_of(2, discrepancy="none")
    far = (1e22,)  # ten times the largest run
    ahead, mixed = compare(a, b, flops=far).rows[0], compare(a, bare, flops=far).rows[0]
    plain = compare(a.plain, bare, flops=far).rows[0]
    assert ahead.loss_a == pytest.approx(np.exp(a.best(np.array(far)).log_loss[0]))
    assert mixed == plain
    assert ahead.multiplier.low < 2 < ahead.multiplier.high
    assert width(ahead) > width(plain)  # the plain laws take their form for the truth
    bootstrap = compare(a, b, flops=far, interval="pairs").rows[0]
    assert bootstrap.multiplier.value == pytest.approx(plain.multiplier.value)


def test_common_noise_cancels_between_paired_forecasts():
    a, b = forecast_of(1, 2.0), forecast_of(2)
    points = dataclasses.replace(a.fit.points, columns={"seed": SEEDS + 1})
    c = ScalingLaw.from_fit(dataclasses.replace(a.fit, points=points))
    points = dataclasses.replace(b.fit.points, columns={"seed": SEEDS})
    d = ScalingLaw.from_fit(dataclasses.replace(b.fit, points=points))
    paired, unpaired = (compare(*two, flops=(1e19,)) for two in ((a, b), (c, d)))
    assert (paired.runs_paired, unpaired.runs_paired) == (36, 0)
    assert width(paired.rows[0]) < 0.75 * width(unpaired.rows[0])


def coverage(sweeps: int, interval: str, *, paired: bool) -> np.ndarray:
    """Share of sweeps whose interval holds the true multiplier of 2: inside, at the top, beyond."""
    held = []
    for k in range(sweeps):
        shared = (k, k) if paired else (2 * k, 2 * k + 1)
        a = of(2 * k, 2.0, shared=shared[0])
        b = of(2 * k + 1, 1.0, shared=shared[1])
        budgets = (3e18, 1e20, 1e21)
        rows = compare(a, b, flops=budgets, interval=interval).rows
        held.append([r.multiplier.low <= 2 <= r.multiplier.high for r in rows])
    return np.mean(held, axis=0)


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_true_multiplier(paired):
    # 10 sweeps: a standard error of 9.5%, three of them below 90%; 400 are among the slow tests
    assert (coverage(10, "hc3", paired=paired) >= 0.6).all()


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("interval", ["hc3", "pairs"])
def test_intervals_hold_the_true_multiplier_as_often_as_they_say(interval, paired):
    # 400 sweeps: a standard error of 1.5%; the bootstrap of 36 clusters is known to be narrow
    found = coverage(400, interval, paired=paired)
    low = 0.86 if interval == "hc3" else 0.80
    assert ((found > low) & (found < 0.95)).all(), found


def test_a_loss_that_is_never_reached_has_no_multiplier():
    b = exact(1.0)
    theta = {**b.fit.theta, "E": 2.5}
    a = ScalingLaw.from_fit(dataclasses.replace(b.fit, theta=theta, covariance=1e-12 * np.eye(5)))
    found = compare(a, b, flops=(1e22,))
    assert found.rows[0].flops_a is None
    assert found.rows[0].multiplier.value == math.inf
    assert found.document()["rows"][0]["multiplier"]["value"] is None
    assert "A never reaches B's loss" in comparison_text(found)


def test_an_interval_may_be_without_bound():
    b = exact(1.0)
    vague = b.fit.covariance.copy()
    vague[0] = vague[:, 0] = 0
    vague[0, 0] = 0.2**2
    a = ScalingLaw.from_fit(dataclasses.replace(b.fit, covariance=vague))
    row = compare(a, b, flops=(1e22,)).rows[0]
    assert row.multiplier.high == math.inf
    assert 0 < row.multiplier.low < 1
    assert "no bound]" in comparison_text(compare(a, b, flops=(1e22,)))


def test_the_ends_are_where_the_difference_is_just_significant():
    a, b = of(1, 2.0), of(2)
    problem = multiplier.MultiplierProblem(
        a=a, b=b, log_flops=np.log([1e20]), log_scales=np.zeros(2)
    )
    low, high = next(problem.sandwich_intervals(0.9, None))
    for end in (low, high):
        gap, error = brute(a, b, end * 1e20, 1e20)
        # 62 degrees of freedom by Welch at most, 31 at least: the quantile is 1.67 to 1.70
        assert 1.66 < abs(gap) / error < 1.70


def brute(a: ScalingLaw, b: ScalingLaw, flops_a: float, flops_b: float) -> tuple[float, float]:
    """Difference of ln loss at two budgets and its standard error, parameter by parameter."""
    gap, variance = 0.0, 0.0
    for sign, source, flops in ((1, a, flops_a), (-1, b, flops_b)):
        log_loss = lambda t, s=source, c=flops: s.splits(np.array([c]))(t[None]).log_loss[0, 0]  # noqa: E731
        centre = source.theta
        gap += sign * log_loss(centre)
        slopes = []
        for i in range(5):
            step = 1e-6 * np.eye(5)[i]
            up, down = (
                centre + step * (centre if i < 3 else 1),
                centre - step * (centre if i < 3 else 1),
            )
            slopes.append((log_loss(up) - log_loss(down)) / 2e-6)
        variance += np.array(slopes) @ source.fit.covariance @ np.array(slopes)
    return gap, math.sqrt(variance)


def test_default_budgets_lie_inside_both_and_a_bit_beyond():
    found = compare(exact(4.0), exact(1.0))
    span = fitted(sweep_table(seed=1)).range["flops"]
    assert found.shared[0] == pytest.approx(span.low)
    assert found.shared[1] == pytest.approx(span.high / 4)
    assert [r.inside for r in found.rows] == [True, True, True, False, False]
    assert [r.flops / span.high for r in found.rows[3:]] == pytest.approx([3, 10])


def test_default_budgets_that_no_query_answers_are_left_out(monkeypatch):
    a, b = of(0), of(1)
    usual = compare(a, b).rows
    far = [row.flops for row in usual][-2]
    refused = Verdict(verdict="refuse", reason="far", message="far")

    def judged(source, flops):
        return refused if source is b and flops >= far else budget_verdict(source, flops)

    monkeypatch.setattr(sys.modules[compare.__module__], "budget_verdict", judged)
    assert [row.flops for row in compare(a, b).rows] == [row.flops for row in usual][:-2]
    far = 0.0
    with pytest.raises(RefusedError, match="far"):
        compare(a, b)


def test_published_laws_are_compared_without_intervals():
    laws = [ScalingLaw.from_preset(preset(n)) for n in ("hoffmann2022", "besiroglu2024")]
    found = compare(laws[0], laws[1])
    assert found.interval is found.level is None
    assert all(r.multiplier.low is None for r in found.rows)
    assert "preset" in [w.code for w in found.warnings]


def test_a_published_law_counts_as_exact_against_a_fit():
    law = ScalingLaw.from_preset(preset("besiroglu2024"))
    found = compare(of(1, 2.0), law, flops=(1e20,), force=True)
    row = found.rows[0].multiplier
    assert row.value == pytest.approx(2, rel=0.05)
    assert 1.01 < row.high / row.low < 1.1


def test_the_document_is_json_with_its_schema_first():
    document = compare(of(1, 2.0), of(2)).document()
    assert next(iter(document)) == "schema"
    assert document["schema"] == "isoflop.compare/1"
    assert document["rows"][0]["multiplier"].keys() == {"value", "low", "high"}
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": "wide"}, "known are hc3, pairs"),
        ({"level": 2.0}, "level is 2"),
        ({"resamples": 3}, "resamples is 3"),
        ({"flops": (-1.0,)}, "positive finite"),
        ({"flops": (1e60,)}, "is believed"),
        ({"flops": ("$500",)}, "without a device"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(QueryError, match=message):
        compare(of(1), of(2), **changes)


def test_a_fit_that_is_not_identified_is_compared_only_by_force():
    blind = ScalingLaw.from_fit(make_fit(kappa=2000.0))
    with pytest.raises(QueryError, match="are not identified"):
        compare(blind, blind)
    assert "ill_conditioned" in [w.code for w in compare(blind, blind, force=True).warnings]


def test_a_budget_that_no_query_answers_is_not_compared():
    a, b = of(1, 2.0), of(2)
    far = 2000 * b.range["flops"].high
    with pytest.raises(RefusedError, match="beyond the largest budget fitted"):
        compare(a, b, flops=(far,))
    assert compare(a, b, flops=(far,), force=True).rows[0].flops == far
