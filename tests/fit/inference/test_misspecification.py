"""Intervals where the surface is not the law: wider, said, and only then."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.data.readers import load
from fit.diagnostics.notes import misfit_note
from fit.estimation.general import fit_problem
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, fit_table
from fit.inference.misspecification import detect_misfit, detect_phase, widen_by_misfit
from fit.inference.resampling import clusters, sandwich
from fit.laws.families import law
from tests.fit.test_fitting import TRUTH, table

pytestmark = pytest.mark.usefixtures("few_checks")

N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 5)))
ROWS = np.arange(len(N))


def problem(seed: int, noise: float = 0.001, drift: float = 0.0, off: float = 0.0) -> FitProblem:
    """Runs of a law whose exponent alpha grows with N by 2 drift per e-fold."""
    e, a, b, alpha, beta = TRUTH
    u = np.log(N / 1.7e8)
    loss = e + a * 1.7e8**-alpha * np.exp(-alpha * u - drift * u**2) + b / D**beta
    random = np.random.default_rng(seed)
    bad = off * (np.arange(len(N)) == 4)
    return FitProblem.of(N, D, loss * np.exp(noise * random.normal(size=len(N)) + bad))


def e_covered(seeds: int, drift: float) -> tuple[float, float]:
    """Share of sweeps whose 90% interval of E holds the truth, without and with the misfit."""
    hits = []
    for seed in range(seeds):
        found = estimate(problem(seed, drift=drift))
        plain = sandwich(found, ROWS, 0.9)
        wide = widen_by_misfit(plain, detect_misfit(found, ROWS))
        error = abs(np.log(found.raw[0] / TRUTH[0]))
        hits.append([error <= s.quantile * s.covariance[0, 0] ** 0.5 for s in (plain, wide)])
    plain_share, wide_share = np.mean(hits, axis=0)
    return float(plain_share), float(wide_share)


def test_an_exponent_that_drifts_is_found_and_its_intervals_hold_the_truth():
    plain, wide = e_covered(20, drift=0.01)
    assert plain < 0.3
    assert wide > 0.85


def test_under_the_law_the_test_seldom_fires():
    fired = sum(detect_misfit(estimate(problem(seed)), ROWS) is not None for seed in range(30))
    assert fired <= 6  # 5% are meant; 6 of 30 would be passed once in 500 suites


def test_a_bad_run_is_not_taken_for_a_misfit():
    fired = sum(detect_misfit(estimate(problem(s, off=0.3)), ROWS) is not None for s in range(20))
    assert fired <= 4


def test_errors_that_a_trunk_shares_are_no_misfit():
    trunk = clusters(np.unique(N, return_inverse=True)[1].astype(np.int64))
    by_trunk = by_run = 0
    for seed in range(30):
        p = problem(seed, noise=0.0005)
        shared = 0.003 * np.random.default_rng(1000 + seed).normal(size=6)[trunk]
        found = estimate(FitProblem(x=p.x, z=p.z, y=p.y + shared, centre=p.centre))
        by_trunk += detect_misfit(found, trunk) is not None
        by_run += detect_misfit(found, ROWS) is not None
    assert by_trunk <= 5
    assert by_run > by_trunk


@pytest.mark.parametrize("name", ["tied", "no-e"])
def test_smaller_laws_are_not_asked(name):
    theta = TRUTH[:4] if name == "tied" else TRUTH[1:]
    p = FitProblem.of(N, D, law(name).loss(theta, N, D) * (1 + 0.001 * np.sin(7 * ROWS)))
    assert detect_misfit(estimate(p, law=name), ROWS) is None


def test_draws_widen_as_the_covariance_does():
    found = estimate(problem(0, drift=0.01))
    misfit = detect_misfit(found, ROWS)
    assert misfit is not None and misfit.term == "size"
    misfit = dataclasses.replace(misfit, shift=misfit.shift / 10)  # clear of the bounds
    draws = np.repeat(found.raw[None], 4000, axis=0)
    spread = dataclasses.replace(sandwich(found, ROWS, 0.9), draws=draws)
    moved = widen_by_misfit(spread, misfit).draws
    assert np.log(moved[:, 0]).std() == pytest.approx(abs(misfit.shift[0]), rel=0.05)
    assert moved[:, 3].std() == pytest.approx(abs(misfit.shift[3]), rel=0.05)
    assert widen_by_misfit(spread, None) is spread
    assert (moved[:, 3:] > 0).all()


@pytest.mark.parametrize("interval", ["hc3", "pairs"])
def test_a_fit_says_that_its_intervals_are_wider_and_by_how_much(interval):
    one = table(N, D)
    bent = dataclasses.replace(one, loss=np.exp(problem(0, drift=0.01).y))
    fit = fit_table(bent, FitOptions(resamples=300, interval=interval))
    (note,) = [n for n in fit.notes if n.code == "misfit"]
    assert "over params the loss bends" in note.message and "times wider" in note.message
    low, high = fit.interval.bounds["E"]
    assert low < TRUTH[0] < high


def test_a_wiggle_over_a_short_range_of_lengths_is_not_extrapolated():
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e8, 5), np.geomspace(1e9, 8e9, 4)))
    e, a, b, alpha, beta = TRUTH
    wiggle = np.select([d < 1.5e9, d < 3e9, d < 6e9], [0.0002, -0.0006, 0.0009], -0.0004)
    noise = 0.0003 * np.random.default_rng(0).normal(size=len(n))
    loss = (e + a / n**alpha + b / d**beta) * np.exp(wiggle + noise)
    found = estimate(FitProblem.of(n, d, loss))
    misfit = detect_misfit(found, np.arange(len(n)))
    assert misfit is not None and not misfit.shift.any()
    assert "leave it out" in misfit_note(misfit, {}, {}).message


DOUBLINGS = {"train.batch_tokens": 512, "model.seq_len": 128, "train.schedule": "wsd"}
LENGTHS = np.array([5e5, 1e6, 2e6, 4e6])


def swept(seed: int, effect: float, doublings=(4e5, 1.6e6, 6.4e6), noise: float = 0.001):
    """5 sizes x 4 lengths x 2 seeds; a late doubling of the batch in runs of .5M and 2M counts."""
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e4, 1.3e5, 5), LENGTHS))
    n, d = np.tile(n, 2), np.tile(d, 2)
    late = np.isin(d, (5e5, 2e6))
    random = np.random.default_rng(seed)
    loss = (0.975 + 124 * n**-0.85 + 36 * d**-0.47) * np.exp(
        effect * late + noise * random.normal(size=len(n))
    )
    recipe = DOUBLINGS | {"train.batch_doublings": list(doublings)}
    return table(n, d, loss=loss, recipes=(recipe,) * len(n), flops=6 * n * d)


def fitted_to(runs):
    return estimate(fit_problem(runs, law("chinchilla"), {}), law="chinchilla")


def test_the_first_reference_follows_its_batch_steps_and_the_note_says_so():
    runs = load("runs/reference-1")
    phase = detect_phase(runs, fitted_to(runs))
    assert phase is not None and phase.event == "batch_step" and sum(phase.met) == 20
    assert phase.effect / 2 == pytest.approx(0.00067, abs=2e-5)  # half: the alternating term
    assert phase.error / 2 == pytest.approx(0.00018, abs=1e-5)
    assert phase.statistic == pytest.approx(13.2, abs=0.5)
    assert phase.probability == pytest.approx(0.001, abs=3e-4)
    fit = fit_table(runs, FitOptions(resamples=0))
    notes = {n.code: n.message for n in fit.notes}
    assert "misfit" not in notes and "the batch doubles" in notes["phase"]
    assert "6.7 standard errors; with it nothing is left" in notes["phase"]
    assert fit.verdict.reason.startswith("the 20 runs in which the batch doubles")
    assert fit.curves["phase"]["statistic"] == phase.statistic


def test_events_without_effect_are_found_no_more_often_than_the_level():
    found = [detect_phase(runs, fitted_to(runs)) for runs in (swept(k, 0.0) for k in range(60))]
    assert sum(f is not None for f in found) <= 4  # .6 expected at 1%, 5 or more in .04%


def test_an_effect_of_a_batch_step_is_recovered_within_its_error():
    pulls = []
    for k in range(40):
        runs = swept(k, 0.002)
        phase = detect_phase(runs, fitted_to(runs))
        assert phase is not None
        pulls.append((phase.effect - 0.002) / phase.error)
    assert abs(np.mean(pulls)) < 0.5 and np.std(pulls) == pytest.approx(1, abs=0.35)


def test_a_batch_that_steps_early_in_every_run_is_no_event():
    runs = swept(1, 0.002, doublings=(1e5,))
    assert detect_phase(runs, fitted_to(runs)) is None


def test_a_table_without_settings_has_no_events():
    runs = dataclasses.replace(swept(1, 0.002), recipes=())
    assert detect_phase(runs, fitted_to(runs)) is None


def test_a_bend_whose_cause_is_not_known_is_described_and_not_explained():
    bent = dataclasses.replace(table(N, D), loss=np.exp(problem(0, drift=0.01).y))
    (note,) = [n for n in fit_table(bent, FitOptions(resamples=0)).notes if n.code == "misfit"]
    assert "bends away from a power law" in note.message
    assert not any(word in note.message for word in ("drift", "because", "tuned"))
