"""Runs chosen for a forecast: its posterior, where it starts, and health of the law."""

import dataclasses

import numpy as np
import pytest

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.design.candidates import Candidates, SuggestRequest, candidates_of_sizes, limits_of
from fit.design.criterion import HEALTHY_KAPPA
from fit.design.prior import DesignPrior, condition_number, prior_of_fit
from fit.design.suggest import choose_runs, deviations, propose
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.listings import proposal_text
from fit.results import Fit
from tests.bench.follow import TRUNKS, case, worse
from tests.bench.worlds import WORLDS
from tests.fit.inference.test_forecast import sweep


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return isoflop.fit(sweep(), resamples=0)


@pytest.fixture(scope="module")
def source(fitted) -> ScalingLaw:
    return ScalingLaw.from_fit(fitted)


@pytest.fixture(scope="module")
def target(fitted) -> float:
    return 10 * fitted.range["flops"].high


@pytest.fixture(scope="module")
def prior(source, target) -> DesignPrior:
    return prior_of_fit(source, source.fit, target)


def trunked(source: ScalingLaw, target: float, spend: float) -> Candidates:
    plain = candidates_of_sizes(
        source.cost, limits_of(SuggestRequest(source=source, flops=target, spend=spend))
    )
    return dataclasses.replace(plain, cooldown=0.2)


def test_what_a_design_starts_from_is_the_interval_of_a_query(source, target, prior):
    found = answer(Question(source=source, flops=target))
    present = [np.log(x.high / x.low) / 2 for x in (found.params, found.loss)]
    quantile = source.fit.posterior().quantile
    assert quantile * deviations(prior, None) == pytest.approx(present, rel=0.25)


@pytest.mark.slow
def test_a_larger_run_moves_the_start_and_leaves_less_to_the_discrepancy(source, prior, target):
    further = prior.starting_at(10 * prior.top)
    assert further.thetas is prior.thetas
    assert (
        abs(further.targets()[0, :, -2:]).sum(axis=1) < abs(prior.targets()[0, :, -2:]).sum(axis=1)
    ).all()
    near = propose(
        SuggestRequest(source=source, flops=target, spend=1e19, most_flops=1e18, most_runs=8)
    )
    dear = SuggestRequest(
        source=source, flops=target, spend=4 * target, most_flops=target, most_runs=8
    )
    far = propose(dear)
    assert far.discrepancy["params"] < near.discrepancy["params"]
    assert far.after.params_factor < near.after.params_factor


def test_runs_far_below_the_costliest_inform_less(source, prior):
    n, d = np.array([1e8]), np.array([2e9])
    alone = prior.regressors(n, d)[:, :, :-2]
    counted = prior.starting_at(float(prior.run_flops(n, d)[0]) * np.e).informing(n, d)[:, :, :-2]
    assert counted == pytest.approx(alone / np.sqrt(2), rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_branches_are_spread_over_sizes_and_keep_the_law_well_conditioned(source, target, prior):
    spend = float(source.fit.points.flops.sum())
    candidates = trunked(source, target, spend)
    prior = dataclasses.replace(prior, shared=0.3)
    design = choose_runs(prior, candidates, spend, most_runs=12)
    assert len(design) > 6
    assert np.unique(design.params, return_counts=True)[1].max() <= 4
    known = source.fit.points
    n = np.concatenate([known.params, design.params])
    d = np.concatenate([known.tokens, design.tokens])
    assert condition_number(prior, n, d) <= max(HEALTHY_KAPPA, source.fit.kappa)


def test_the_text_says_what_more_runs_cannot_lower(source, target, tmp_path):
    found = propose(SuggestRequest(source=source, flops=target, spend=1e19, most_runs=6))
    text = proposal_text(found, tmp_path, None)
    assert "forms miss beyond" in " ".join(text.split())
    assert found.belief is None


def test_a_law_without_a_condition_number_still_gets_its_runs(target, tmp_path):
    source = ScalingLaw.from_fit(isoflop.fit(sweep(), law="outer", resamples=50))
    found = propose(SuggestRequest(source=source, flops=target, spend=1e19, most_runs=4))
    assert found.runs and found.discrepancy is None
    assert "kappa" not in proposal_text(found, tmp_path, None)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[1:], ids=lambda w: w.__name__)
def test_after_a_suggestion_the_verdict_is_never_worse(world):
    """In 3 of 80 sweeps of tests/bench/follow.py it was; one of branches for each world here."""
    states = case(world, TRUNKS, seed=7)
    assert not worse(states, "suggested")
