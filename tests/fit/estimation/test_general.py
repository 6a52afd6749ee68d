"""The general engine: any declared law recovered, and the fast kernel's equal."""

import dataclasses

import numpy as np
import pytest

from fit.errors import FitError, RecordError
from fit.estimation.general import fit_problem, general_problem
from fit.estimation.objective import Loss, derivatives
from fit.estimation.solver import estimate, solve
from fit.fitting import FitOptions, fit_table
from fit.inference.resampling import bootstrap, kappa, sandwich
from fit.laws.families import LAWS, law
from fit.laws.law import Law, Parameter, coefficient, exponent, floor, log_sum
from tests.fit.laws.builders import TRUTH, lawful

FAST = ("chinchilla", "tied", "no-e")


@pytest.mark.parametrize("name", LAWS)
def test_every_law_is_recovered_from_runs_without_noise(name):
    found = estimate(general_problem(lawful(law(name), TRUTH[name]), law(name)))
    assert found.converged
    assert found.raw == pytest.approx(TRUTH[name], rel=1e-5)


def test_a_scale_of_two_units_with_one_exponent_is_recovered():
    product = Law(
        name="product",
        formula="L = E + A/N^alpha + K/(N D)^gamma",
        declared=(
            floor(),
            coefficient("A", params="alpha"),
            coefficient("K", params="gamma", tokens="gamma"),
            exponent("alpha"),
            exponent("gamma"),
        ),
        log_law=lambda t, c: log_sum(
            t["E"],
            t["A"] - t["alpha"] * c["params"],
            t["K"] - t["gamma"] * (c["params"] + c["tokens"]),
        ),
    )
    truth = (1.8, 480.0, 3e4, 0.35, 0.2)
    found = estimate(general_problem(lawful(product, truth), product))
    assert found.raw == pytest.approx(truth, rel=1e-4)


def test_a_variant_that_joins_the_scales_is_refused():
    with pytest.raises(AssertionError, match="a scale stands twice"):
        dataclasses.replace(law("tied"), two_terms=("E", "A", "A", "alpha", "alpha"))


def test_every_declared_law_is_under_test():
    assert TRUTH.keys() == LAWS.keys()


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("loss", ["huber", "l2-levels", "student"])
def test_gradient_and_hessian_are_those_of_differences(name, loss):
    problem = general_problem(lawful(law(name), TRUTH[name], noise=0.02), law(name))
    theta = problem.internal(np.array(TRUTH[name], dtype=float))[None] + 0.003
    weights = np.random.default_rng(1).uniform(0.5, 2, (1, 64))
    how = Loss(name=loss, scale=0.5)
    _, gradient, hessian = derivatives(problem, theta, weights, how)
    for j in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, j] = 1e-5
        ends = [derivatives(problem, theta + s * step, weights, how) for s in (1, -1)]
        slope, bend = ((ends[0][k] - ends[1][k]) / 2e-5 for k in (0, 1))
        assert gradient[0, j] == pytest.approx(slope[0], rel=1e-5, abs=1e-6)
        # Sizes of second derivatives differ by parameter; errors are of the largest.
        assert hessian[0, j] == pytest.approx(bend[0], rel=1e-4, abs=1e-5 * np.abs(hessian).max())


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("loss", ["adaptive", "huber", "l2", "student"])
def test_the_general_engine_and_the_fast_kernel_give_one_fit(name, loss):
    table = lawful(law(name), TRUTH[name], noise=0.01)
    how = {"loss": loss, "delta": 1e-2 if loss == "huber" else None, "law": name}
    fast = estimate(fit_problem(table, law(name)), **how)
    general = estimate(general_problem(table, law(name)), **how)
    places = [fast.problem.names.index(n) for n in law(name).parameters]
    assert general.value == pytest.approx(fast.value, rel=1e-8)
    # The adaptive scale settles in rounds, each from where the one before it stopped.
    assert general.raw == pytest.approx(fast.raw[places], rel=1e-7 if loss == "student" else 1e-6)
    own = sandwich(fast, table.cluster, 0.9).covariance[np.ix_(places, places)]
    assert sandwich(general, table.cluster, 0.9).covariance == pytest.approx(own, rel=1e-4)
    assert kappa(general) == pytest.approx(kappa(fast), rel=1e-6)


def test_the_general_engine_and_the_fast_kernel_agree_to_1e_8_at_one_loss():
    table = lawful(law("chinchilla"), TRUTH["chinchilla"], noise=0.01)
    loss, ones = Loss(name="huber", scale=0.012), np.ones((1, 64))
    ends = []
    for problem in (
        fit_problem(table, law("chinchilla")),
        general_problem(table, law("chinchilla")),
    ):
        found = estimate(problem, loss="huber", delta=0.012)
        end = solve(problem, found.theta[None], ones, loss, found.family, exact=True)
        ends.append(end)
    assert ends[1].value == pytest.approx(ends[0].value, rel=1e-12)
    assert ends[1].theta == pytest.approx(ends[0].theta, abs=1e-8)


def test_both_engines_resample_to_the_same_draws():
    table = lawful(law("chinchilla"), TRUTH["chinchilla"], noise=0.01)
    fast = estimate(fit_problem(table, law("chinchilla")), loss="huber", delta=0.01)
    general = estimate(general_problem(table, law("chinchilla")), loss="huber", delta=0.01)
    draws = [bootstrap(f, table.cluster, 100, seed=3) for f in (fast, general)]
    assert draws[1] == pytest.approx(draws[0], rel=1e-4)


def test_a_law_is_added_by_one_declaration():
    aspect = Law(
        name="aspect",
        formula="L = E + A/N^alpha + B/D^beta + ... with a penalty for the aspect ratio",
        declared=(
            floor(),
            coefficient("A", params="alpha"),
            coefficient("B", tokens="beta"),
            exponent("alpha"),
            exponent("beta"),
            Parameter(name="s", start=(-0.3, 0.3)),
        ),
        log_law=lambda t, c: (
            log_sum(t["E"], t["A"] - t["alpha"] * c["params"], t["B"] - t["beta"] * c["tokens"])
            + t["s"] * np.square(c["width"] - c["depth"])
        ),
        columns={"params": "params", "tokens": "tokens", "width": "depth", "depth": "depth"},
    )
    truth = (1.8, 480.0, 2085.0, 0.35, 0.366, 0.01)
    table = lawful(aspect, truth, noise=1e-3)
    found = estimate(general_problem(table, aspect))
    spread = sandwich(found, table.cluster, 0.9)
    half = spread.quantile * np.sqrt(np.diag(spread.covariance))
    assert abs(found.raw[5] - 0.01) < 3 * half[5]
    assert len(bootstrap(found, table.cluster, 50, seed=0)) == 50
    predicted = aspect.at(width=512, depth=8).loss(truth, 1e8, 1e9)
    assert predicted == pytest.approx(
        law("chinchilla").loss(truth[:5], 1e8, 1e9) * np.exp(0.01 * np.log(64) ** 2)
    )


def test_pulls_and_coverage_of_a_declared_law():
    # 30 sweeps: mean z within 3 / sqrt(30), and 90% intervals within three binomial errors.
    truth, hits, pulls = TRUTH["kaplan"], [], []
    for seed in range(30):
        table = lawful(law("kaplan"), truth, noise=0.01, seed=seed)
        found = estimate(general_problem(table, law("kaplan")), near=np.array(truth))
        spread = sandwich(found, table.cluster, 0.9)
        error = np.sqrt(np.diag(spread.covariance))[2:]
        z = (found.raw[2:] - truth[2:]) / error
        pulls.append(z)
        hits.append(np.abs(z) < spread.quantile)
    assert np.abs(np.mean(pulls, axis=0)).max() < 3 / np.sqrt(30)
    assert np.mean(hits, axis=0) == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / 30))


def test_held_parameters_stay_and_the_others_are_fitted():
    table = lawful(law("data-constrained"), TRUTH["data-constrained"], noise=1e-3)
    names = law("data-constrained").parameters
    held = dict(zip(names[:5], TRUTH["data-constrained"], strict=False))
    found = estimate(general_problem(table, law("data-constrained"), held))
    assert found.raw[:5] == pytest.approx(TRUTH["data-constrained"][:5], rel=1e-12)
    assert found.raw[5:] == pytest.approx(TRUTH["data-constrained"][5:], rel=0.1)
    spread = sandwich(found, table.cluster, 0.9)
    assert (np.diag(spread.covariance) > 0).tolist() == [False] * 5 + [True] * 2


def test_a_fast_law_may_be_held_too():
    table = lawful(law("chinchilla"), TRUTH["chinchilla"], noise=1e-3)
    fit = fit_table(table, FitOptions(hold=(("E", 1.8),), resamples=50))
    assert fit.theta["E"] == pytest.approx(1.8)
    assert fit.interval.bounds["E"] == pytest.approx((1.8, 1.8))
    assert fit.theta["alpha"] == pytest.approx(0.35, abs=0.02)
    assert fit.draws[:, 0] == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"gamma": 1.0}, "has E, A, B, alpha, beta"),
        ({"E": 0.0}, "positive finite number"),
        ({"A": 400.0}, "Hold alpha as well"),
        (dict(zip(law("chinchilla").parameters, TRUTH["chinchilla"], strict=True)), "leave one"),
    ],
)
def test_what_cannot_be_held_is_refused(held, words):
    with pytest.raises(FitError, match=words):
        general_problem(lawful(law("chinchilla"), TRUTH["chinchilla"]), law("chinchilla"), held)


def test_a_missing_column_is_named():
    table = lawful(law("moe"), TRUTH["moe"])
    with pytest.raises(FitError, match="needs a column width, depth; the table has params"):
        fit_problem(dataclasses.replace(table, columns={}), law("width-depth-tokens"))
    bad = {**table.columns, "params_total": np.where(np.arange(64) == 5, np.nan, 1e9)}
    with pytest.raises(FitError, match="run 5 has none"):
        fit_problem(dataclasses.replace(table, columns=bad), law("moe"))
    words = {**table.columns, "params_total": np.array(["many"] * 64)}
    with pytest.raises(RecordError, match="column params_total of the table holds text"):
        fit_problem(dataclasses.replace(table, columns=words), law("moe"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n == "farseer" else ())
        for n in LAWS
        if n not in FAST
    ],
)
def test_every_law_goes_through_the_whole_study(name):
    table = lawful(law(name), TRUTH[name], noise=2e-3)
    fit = fit_table(table, FitOptions(law=name, resamples=20))
    assert set(fit.theta) == set(law(name).parameters)
    assert set(law(name).parameters) <= set(fit.interval.bounds)
    assert fit.holdout is not None
    assert fit.holdout.max_relative_error < 0.05
    again = type(fit).from_json(fit.to_json())
    assert again.theta == fit.theta


@pytest.mark.parametrize("interval", ["pairs", "wild", "bca"])
def test_every_method_of_intervals_takes_a_declared_law(interval):
    table = lawful(law("kaplan"), TRUTH["kaplan"], noise=5e-3)
    options = {"law": "kaplan", "resamples": 200}
    plain = fit_table(table, FitOptions(**options))
    other = fit_table(table, FitOptions(**options, interval=interval))
    for name in ("alpha_N", "alpha_D"):
        ends = [f.interval.bounds[name] for f in (plain, other)]
        widths = [high - low for low, high in ends]
        assert ends[1][0] < plain.theta[name] < ends[1][1]
        assert widths[1] == pytest.approx(widths[0], rel=0.35)


def test_a_profile_is_refused_for_a_declared_law():
    with pytest.raises(FitError, match="not for 'kaplan'. Use hc3, pairs"):
        FitOptions(law="kaplan", interval="profile")


def test_a_profile_takes_a_held_parameter():
    table = lawful(law("chinchilla"), TRUTH["chinchilla"], noise=1e-3)
    ends = []
    for interval in ("hc3", "profile"):
        options = FitOptions(hold=(("E", 1.8),), interval=interval, resamples=0)
        ends.append(fit_table(table, options).interval.bounds)
    assert ends[1]["E"] == pytest.approx((1.8, 1.8))
    assert ends[1]["alpha"] == pytest.approx(ends[0]["alpha"], rel=0.05)
