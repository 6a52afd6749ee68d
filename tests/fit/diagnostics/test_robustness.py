"""Each larger budget predicted by the smaller ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.diagnostics.robustness import MOST_ROLLED, holdout, rolling
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, fit_table
from fit.laws.families import law
from fit.report.text import fit_text
from fit.results import Fit
from tests.fit.test_fitting import isoflop_table, table

HOW = {"law": "chinchilla", "loss": "adaptive", "delta": None, "level": 0.9}


def test_every_budget_is_predicted_by_a_fit_of_all_below_it():
    runs = isoflop_table(budgets=tuple(np.geomspace(1e18, 1e21, 5)))
    rolled = rolling(runs, **HOW)
    assert [r.budget for r in rolled] == pytest.approx(np.geomspace(1e18, 1e21, 5)[2:], rel=1e-6)
    assert [r.below for r in rolled] == [14, 21, 28]
    below = runs.take(runs.flops < rolled[0].budget * 0.99)
    left = runs.take(np.abs(runs.flops / rolled[0].budget - 1) < 0.01)
    raw = estimate(FitProblem.of(below.params, below.tokens, below.loss)).raw
    ratio = law("chinchilla").loss(raw, left.params, left.tokens) / left.loss - 1
    assert rolled[0].mean_relative_error == pytest.approx(ratio.mean(), abs=1e-9)
    assert rolled[0].max_relative_error == pytest.approx(np.abs(ratio).max(), abs=1e-9)


def test_the_last_rolled_budget_is_the_held_out_one():
    for runs in (isoflop_table(), table()):
        held = holdout(runs, **HOW)
        last, *before = rolling(runs, **HOW)[::-1]
        assert (last.runs, last.covered) == (len(held.runs), held.covered)
        assert last.mean_relative_error == pytest.approx(held.mean_relative_error, abs=1e-9)
        known, *others = rolling(runs, **HOW, top=held)[::-1]
        assert known.mean_relative_error == held.mean_relative_error
        assert [r.budget for r in others] == [r.budget for r in before]


@pytest.mark.slow
def test_the_intervals_of_predictions_cover_what_they_say():
    inside, runs = 0.0, 0
    for seed in range(12):
        for r in rolling(table(seed=seed), **HOW):
            inside, runs = inside + r.covered * r.runs, runs + r.runs
    # errors of one sweep go together, so 12 sweeps are worth some 36 runs: 90% +- 5%
    assert inside / runs == pytest.approx(0.9, abs=0.1)


def test_a_sweep_without_budgets_is_rolled_by_factors_of_two():
    rolled = rolling(table(), **HOW)
    assert 2 <= len(rolled) <= MOST_ROLLED
    top = table().flops.max()
    assert all(r.budget > top / 2 ** (len(rolled) - i) for i, r in enumerate(rolled))


def one_sided(noise: float) -> Fit:
    """A law whose small models gain less than they should: every extrapolation is too high."""
    runs = isoflop_table(budgets=tuple(np.geomspace(1e18, 1e22, 7)), noise=noise)
    bend = 0.004 * np.log(runs.flops / 1e18) ** 2 / np.log(1e4)
    return fit_table(
        dataclasses.replace(runs, loss=runs.loss * np.exp(-bend)), FitOptions(resamples=0)
    )


def test_errors_of_one_sign_are_said_to_be_a_bias():
    fit = one_sided(noise=0.0003)
    (note,) = [n for n in fit.notes if n.code == "one_sided"]
    assert "comes out lower than predicted" in note.message
    assert all(r.mean_relative_error > 0 for r in fit.rolling)
    clean = fit_table(isoflop_table(), FitOptions(resamples=0))
    assert "one_sided" not in {n.code for n in clean.notes}


def test_rolling_errors_stand_in_the_document_and_on_the_terminal():
    fit = one_sided(noise=0.0003)
    assert Fit.from_json(fit.to_json()).rolling == fit.rolling
    text = fit_text(fit)
    assert f"each of {len(fit.rolling)} budgets by the smaller ones" in text
    assert max(map(len, text.splitlines())) <= 80
