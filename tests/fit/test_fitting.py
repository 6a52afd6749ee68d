"""From a table to a judged fit, and every kind of table that cannot carry one."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from fit.data.records import DataInfo
from fit.data.table import RunTable
from fit.errors import FitError
from fit.fitting import FitOptions, fit_table
from fit.laws.families import law
from fit.results import Fit
from tests.fit.data.builders import record

TRUTH = np.array([1.8, 480.0, 2100.0, 0.35, 0.36])


def table(n=None, d=None, noise=0.003, seed=0, **changes) -> RunTable:
    if n is None:
        n, d = (
            g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 3e11, 5))
        )
    loss = law("chinchilla").loss(TRUTH, n, d)
    loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))
    fields = {
        "run": tuple(f"r{i}" for i in range(len(n))),
        "params": n,
        "tokens": d,
        "flops": 6 * n * d,
        "loss": loss,
        "cluster": np.arange(len(n)),
        "source": "here",
    }
    return RunTable(**fields | changes)


def isoflop_table(budgets=(1e18, 1e19, 1e20, 1e21), sizes=7, noise=0.001) -> RunTable:
    a, g = 0.36 / 0.71, (0.35 * 480 / (0.36 * 2100)) ** (1 / 0.71)
    n = np.concatenate([g * (c / 6) ** a * np.geomspace(0.25, 4, sizes) for c in budgets])
    c = np.repeat(budgets, sizes)
    return table(n, c / (6 * n), noise)


QUICK = FitOptions(resamples=200)


@functools.cache
def clean() -> Fit:
    """The fit of the clean table."""
    return fit_table(table(), QUICK)


def codes(fit: Fit) -> set[str]:
    return {note.code for note in fit.notes}


def test_a_clean_table_gives_the_law_back_with_healthy_marks():
    fit = fit_table(table(seed=1), QUICK)
    assert fit.status == "converged"
    assert fit.kappa < 250
    for name, value in zip(("E", "alpha", "beta"), (1.8, 0.35, 0.36), strict=True):
        low, high = fit.interval.bounds[name]
        assert low < value < high
    assert fit.draws.shape == (200, 5)
    assert fit.holdout is not None and fit.holdout.max_relative_error < 0.02
    assert not [n for n in fit.notes if n.severity == "serious"]


def test_the_document_survives_the_way_through_json():
    fit = clean()
    again = Fit.from_json(fit.to_json())
    assert again.to_json() == fit.to_json()
    assert again.theta == fit.theta
    assert "draws" not in fit.document(draws=False)
    assert fit.document()["interval"]["E"] == list(fit.interval.bounds["E"])


def test_same_table_same_fit():
    assert fit_table(table(), QUICK).to_json() == clean().to_json()


def test_approaches_one_two_and_three_agree_on_isoflop_runs():
    fit = fit_table(isoflop_table(), QUICK)
    two = next(c for c in fit.cross_checks if c.name == "isoflop")
    assert two.a == pytest.approx(fit.exponents["a"], abs=0.03)
    assert two.params == pytest.approx([fit_star(c) for c in (1e18, 1e19, 1e20, 1e21)], rel=0.15)
    assert not two.disagrees


def fit_star(flops: float) -> float:
    a, g = 0.36 / 0.71, (0.35 * 480 / (0.36 * 2100)) ** (1 / 0.71)
    return g * (flops / 6) ** a


@pytest.mark.parametrize("option", ["chinchilla", "tied", "no-e"])
def test_every_law_can_be_fitted(option):
    fit = fit_table(table(), dataclasses.replace(QUICK, law=option))
    assert tuple(fit.theta) == law(option).parameters
    assert fit.covariance.shape == (len(fit.theta),) * 2


def test_pairs_intervals_come_from_the_draws():
    fit = fit_table(table(), FitOptions(interval="pairs", resamples=400))
    low, high = fit.interval.bounds["alpha"]
    inside = ((fit.draws[:, 3] >= low) & (fit.draws[:, 3] <= high)).mean()
    assert inside == pytest.approx(0.9, abs=0.01)


def test_runs_without_a_loss_are_dropped_and_named():
    one = table()
    loss = one.loss.copy()
    loss[3] = np.nan
    fit = fit_table(dataclasses.replace(one, loss=loss), QUICK)
    assert fit.runs_used == 29
    assert fit.runs_dropped == (("r3", "no finite loss"),)


@pytest.mark.parametrize(
    ("n", "d", "words"),
    [
        (np.full(9, 1e8), np.geomspace(1e9, 1e11, 9), "one value of sizes"),
        (np.geomspace(1e7, 1e9, 9), np.full(9, 1e9), "one value of lengths"),
        (np.array([1e7, 1e8, 1e9, 1e7, 1e8]), np.array([1e9, 1e9, 1e9, 1e10, 1e10]), "needs 6"),
    ],
)
def test_runs_that_cannot_carry_a_law_are_refused_in_one_line(n, d, words):
    with pytest.raises(FitError, match=words):
        fit_table(table(n, d), QUICK)


def test_a_constant_ratio_and_two_sizes_are_called_serious():
    n = np.geomspace(1e7, 1e10, 12)
    ratio = fit_table(table(n, 20 * n), QUICK)
    assert "constant_ratio" in codes(ratio)
    assert ratio.status == "ill_conditioned"
    single = fit_table(table(n, 1e21 / (6 * n)), QUICK)
    assert "one_budget" in codes(single)
    assert single.status == "ill_conditioned"
    two, d = (g.ravel() for g in np.meshgrid([1e8, 1e9], np.geomspace(1e9, 1e11, 6)))
    assert "few_params" in codes(fit_table(table(two, d), QUICK))


@pytest.mark.parametrize(("reach", "hint"), [(3.0, True), (1.5, False)])
def test_a_known_entropy_is_offered_where_it_would_make_the_law_identified(reach, hint):
    grid = np.geomspace(1, reach, 4)
    n, d = (g.ravel() for g in np.meshgrid(1e8 * grid, 1e10 * grid))
    plain = FitOptions(resamples=0, discrepancy="none")
    stated = DataInfo(name="stories", hash="h", entropy=1.7)
    for data, options, told in (
        (stated, plain, hint),
        (None, plain, False),
        (stated, dataclasses.replace(plain, hold=(("E", 1.7),)), False),
    ):
        fit = fit_table(dataclasses.replace(table(n, d), data=data), options)
        assert any("--hold E=1.7" in note.message for note in fit.notes) is told


def test_an_outlier_is_named_and_does_not_move_the_fit():
    one = table()
    loss = one.loss.copy()
    loss[7] *= np.exp(0.3)
    fit = fit_table(dataclasses.replace(one, loss=loss), QUICK)
    (note,) = [n for n in fit.notes if n.code == "outlier"]
    assert "r7" in note.message
    assert fit.theta["E"] == pytest.approx(clean().theta["E"], abs=0.02)


def test_a_bend_that_the_law_does_not_have_is_said():
    one = table(noise=0.0005)
    bent = one.loss * np.exp(0.03 * np.sin(1.5 * np.log(one.params / 2e8)))
    assert "trend" in codes(fit_table(dataclasses.replace(one, loss=bent), QUICK))


def test_larger_models_that_gain_more_from_data_are_said():
    one = table(noise=0.0005)
    joint = np.log(one.params / 2e8) * np.log(one.tokens / 2e10)
    fit = fit_table(dataclasses.replace(one, loss=one.loss * np.exp(-0.002 * joint)), QUICK)
    (note,) = [n for n in fit.notes if n.code == "interaction"]
    assert "gain more" in note.message
    assert "interaction" not in codes(clean())


def test_runs_of_few_trunks_are_said_and_records_are_counted_in_every_convention():
    records = [record(w, t) for w in (16, 24, 32, 48, 64) for t in (250_000, 5e5, 1e6, 2e6)]
    fit = fit_table(RunTable.from_records(records), QUICK)
    assert "few_clusters" in codes(fit)
    assert fit.interval.dof == 4
    assert {(r["params"], r["flops"]) for r in fit.conventions} >= {
        ("matmul", "exact"),
        ("body", "6nd"),
    }
    assert fit.data["entropy"] == 1.7
    assert fit.theta["E"] == pytest.approx(1.7, abs=1e-4)


def test_mixed_data_is_called_serious():
    from fit.data.records import DataInfo

    records = [record(w, t) for w in (16, 24, 32, 48) for t in (250_000, 5e5, 1e6)]
    other = DataInfo(name="other", hash="sha256:1")
    mixed = [*records, *(record(w, 2e6, data=other) for w in (16, 24, 32))]
    assert "mixed_data" in codes(fit_table(RunTable.from_records(mixed), QUICK))


@pytest.mark.parametrize(
    "options",
    [
        {"law": "x"},
        {"loss": "x"},
        {"interval": "x"},
        {"level": 1.5},
        {"resamples": -1},
        {"seed": -1},
        {"delta": 1e-3},
        {"interval": "pairs", "resamples": 10},
    ],
)
def test_unknown_options_name_the_known(options):
    with pytest.raises(FitError):
        FitOptions(**options)


def test_the_largest_budget_is_held_out_of_an_isoflop_table():
    fit = fit_table(isoflop_table(), QUICK)
    assert fit.holdout is not None
    assert len(fit.holdout.runs) == 7
    assert abs(fit.holdout.mean_relative_error) < 0.01
    assert fit.holdout.covered is not None


def test_counts_in_millions_and_flops_in_another_unit_are_called_serious():
    one = table()
    millions = dataclasses.replace(one, params=one.params / 1e6, flops=one.flops / 1e6)
    assert "units" in codes(fit_table(millions, QUICK))
    assert "units" in codes(fit_table(dataclasses.replace(one, flops=one.params), QUICK))
    assert "units" not in codes(fit_table(one, QUICK))
