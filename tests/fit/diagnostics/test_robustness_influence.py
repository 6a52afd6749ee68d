"""Which run decides the answer: refits against fits made from scratch, and the note."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.data.table import RunTable
from fit.diagnostics import notes
from fit.diagnostics import robustness as module
from fit.diagnostics.robustness import FURTHER, influence, log_optimum
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, fit_table
from tests.fit.test_fitting import table

QUICK = FitOptions(resamples=0, loss="huber", delta=5e-3)


def fitted(runs: RunTable):
    return estimate(FitProblem.of(runs.params, runs.tokens, runs.loss), loss="huber", delta=5e-3)


def lonely() -> RunTable:
    """Many small runs, and one large one that alone shows where the law goes."""
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 8e9, 5)))
    return table(np.append(n, 6e9), np.append(d, 8e11), noise=0.004, seed=0)


def test_every_shift_is_that_of_a_fit_without_the_run():
    runs = table(seed=4)
    found = fitted(runs)
    whole = float(log_optimum(runs, found.raw))
    for moved in (i for i in influence(runs, found) if i.kind == "run"):
        rest = runs.take(np.array([r != moved.run for r in runs.run]))
        alone = float(log_optimum(runs, fitted(rest).raw))
        assert moved.shift == pytest.approx(alone - whole, abs=1e-6)
        assert moved.flops == runs.flops[runs.run.index(moved.run)]


def test_the_optimum_is_the_law_s_at_ten_times_the_largest_budget():
    runs = table()
    e, a, b, alpha, beta = 1.8, 480.0, 2100.0, 0.35, 0.36
    budget = FURTHER * runs.flops.max()
    n = np.geomspace(1e8, 1e12, 400_001)
    best = n[np.argmin(e + a * n**-alpha + b * (budget / 6 / n) ** -beta)]
    found = np.exp(log_optimum(runs, np.array([e, a, b, alpha, beta])))
    assert found == pytest.approx(best, rel=1e-4)


def test_clusters_are_left_out_whole():
    runs = dataclasses.replace(table(), cluster=np.repeat(np.arange(6), 5))
    found = fitted(runs)
    top = next(i for i in influence(runs, found) if i.kind == "cluster")
    assert top.runs == 5
    code = runs.cluster[runs.run.index(top.run)]
    alone = fitted(runs.take(runs.cluster != code))
    shift = float(log_optimum(runs, alone.raw) - log_optimum(runs, found.raw))
    assert top.shift == pytest.approx(shift, abs=1e-6)
    assert top.flops == pytest.approx(runs.flops[runs.cluster == code].sum())


def test_of_too_many_runs_the_first_order_step_finds_those_that_matter(monkeypatch):
    runs = table(seed=7)
    found = fitted(runs)
    exact = influence(runs, found)
    monkeypatch.setattr(module, "WORK", 8 * len(runs))
    few = influence(runs, found)
    assert [i.run for i in few[:3]] == [i.run for i in exact[:3]]
    assert few[0].shift == exact[0].shift
    assert few[0].share == pytest.approx(exact[0].share, rel=0.1)


def test_a_run_that_decides_the_answer_is_named_with_its_price():
    fit = fit_table(lonely(), QUICK)
    (note,) = [n for n in fit.notes if n.code == "influence"]
    assert "run r25 decides the answer" in note.message
    assert "of these runs' compute" in note.message
    assert fit.influence[0].share > 0.6


def test_a_refit_without_an_optimum_moves_it_by_a_factor_that_can_be_said(monkeypatch):
    def absurd(runs, raw):
        return np.linspace(2000, 0, len(raw)) if np.ndim(raw) > 1 else np.array(1.0)

    monkeypatch.setattr(module, "log_optimum", absurd)
    monkeypatch.setattr(notes, "DECIDES", 0.01)
    runs = table()
    found = influence(runs, fitted(runs))
    assert found[0].shift == pytest.approx(np.log(1e6))
    (note, *_) = notes._influence(runs, found)
    assert "is 1.00M times as large" in note.message


def test_clean_sweeps_are_seldom_said_to_hang_on_one_run():
    named = 0
    for seed in range(20):
        runs = table(seed=seed)
        top = influence(runs, fitted(runs))[0]
        named += top.share > 0.6 and abs(np.expm1(top.shift)) > 0.1
    assert named <= 1


def test_fits_that_tell_nothing_have_no_influence_and_documents_keep_it():
    n = np.geomspace(1e7, 1e10, 12)
    assert fit_table(table(n, 20 * n), QUICK).influence == ()
    fit = fit_table(table(), QUICK)
    assert type(fit).from_json(fit.to_json()).influence == fit.influence
    assert len(fit.influence) == 5
