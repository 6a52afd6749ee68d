"""A grid thinned to a spend, and the plan that launches what is left of it."""

from __future__ import annotations

import functools
import shlex

import numpy as np
import pytest

from fit.design.prior import condition_number
from fit.errors import PlanError
from sweep.planning.bill import PlanOptions, planned_runs
from sweep.planning.grid import chosen_launcher, grid
from sweep.planning.thinning import (
    design_value,
    points_of,
    prior_of,
    thin_grid,
    trim_lines,
    write_cells,
)
from sweep.planning.trajectory import keep_lengths
from tests.sweep.test_app import ROOT, results, run

DEMO = ["+experiment=demo", "seed=0,1", "train.lr=0.007"]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


@functools.cache
def rows_of(*overrides):
    return planned_runs(grid(overrides, multirun=True), PlanOptions(measure=False))


def spent(rows):
    return sum(row.run.flops_spent for row in rows)


def test_a_thinned_grid_keeps_to_the_spend_and_stays_healthy():
    rows = rows_of(*DEMO)
    terms = PlanOptions(flops=spent(rows) / 3)
    stay = thin_grid(rows, [], "flops", terms.flops, terms)
    assert 0.75 * terms.flops < spent(stay) <= terms.flops
    prior = prior_of(rows, [], terms)
    whole, part = design_value(rows, prior), design_value(stay, prior)
    assert part.kappa <= max(160, whole.kappa)
    cheapest = sorted(rows, key=lambda row: row.run.flops)
    while spent(cheapest) > spent(stay):
        cheapest.pop()
    assert part.params_factor < design_value(cheapest, prior).params_factor
    assert condition_number(prior, *points_of(stay)) == part.kappa


def test_the_prior_of_a_spend_may_be_a_fit_with_a_forecast():
    rows = rows_of(*DEMO)
    terms = PlanOptions(flops=spent(rows) / 3, prior="reports/reference")
    stay = thin_grid(rows, [], "flops", terms.flops, terms)
    assert spent(stay) <= terms.flops
    part = design_value(stay, prior_of(rows, [], terms))
    assert 1 < part.params_factor < 3 and part.kappa <= 160


def test_a_spend_that_no_healthy_part_meets_is_refused_in_its_own_unit():
    rows = rows_of(*DEMO)
    with pytest.raises(PlanError, match=r"costs \$0.00 or less .* Spend more"):
        thin_grid(rows, [], "dollars", 1e-6, PlanOptions(dollars=1e-6, price=1.0))


def test_the_rest_of_a_trunk_pays_for_all_of_it():
    (cell,) = grid(["train.tokens=[1e6,2e6,4e6]", "model=w16"], multirun=True)
    (t,) = cell.trajectories
    last = keep_lengths(t, [t.runs[2].tokens])
    assert last.runs[0].flops_spent == t.runs[2].flops
    assert keep_lengths(t, [r.tokens for r in t.runs]) == t


@pytest.mark.parametrize(
    "overrides",
    [
        DEMO,
        ["sweep.flops=3e10,1e11", "model=w16,w24,w32", "hydra/launcher=joblib"],
        ["+experiment=reuse", "data.size=small"],
        ["+experiment=experts"],
    ],
)
def test_runs_of_a_written_plan_keep_their_names(overrides, tmp_path):
    overrides = [*overrides, f"runs_dir={tmp_path / 'my runs'}"]
    rows = rows_of(*overrides)
    stay = rows[1::4]  # the shortest of every trunk of the demo is gone
    launch = shlex.split(write_cells(stay, chosen_launcher(overrides)))
    again = planned_runs(grid(launch, multirun=True), PlanOptions(measure=False))
    assert sorted(row.run.run for row in again) == sorted(row.run.run for row in stay)
    assert chosen_launcher(launch).settings == chosen_launcher(overrides).settings
    assert {row.trajectory.sweep for row in again} == {rows[0].trajectory.sweep}


def test_the_lines_say_what_is_dropped_and_what_it_costs(tmp_path):
    overrides = [*DEMO, f"runs_dir={tmp_path}"]
    rows, terms = rows_of(*overrides), PlanOptions(hours=0.04, price=3.0)
    lines = trim_lines(rows, terms, chosen_launcher(overrides))
    text = "\n".join(lines)
    assert max(map(len, lines[:-1])) <= 80
    for word in ("kappa", "N*", "loss", "dropped   w64-d2-t", "$0.1", "python -m sweep -m"):
        assert word in text
    assert trim_lines(rows, PlanOptions(hours=9.0), chosen_launcher(overrides))[-1].endswith(
        "dropped"
    )


def test_known_runs_count_and_cost_nothing():
    rows = rows_of(*DEMO)
    terms = PlanOptions(flops=spent(rows) / 4)
    known = [row for row in rows if row.trajectory.seed == 0]
    left = [row for row in rows if row.trajectory.seed == 1]
    stay = thin_grid(left, known, "flops", terms.flops, terms)
    assert spent(stay) <= terms.flops
    assert len(stay) > len(thin_grid(rows, [], "flops", terms.flops, terms)) / 2
    assert np.isin([row.trajectory.seed for row in stay], 1).all()


@pytest.mark.slow
def test_a_thinned_sweep_is_launched_and_completed_by_the_whole_one(tmp_path):
    whole = ["model.width=8,16,24", "train.tokens=[4e3,8e3,16e3]", "tracking=none"]
    plan = run(tmp_path, *whole, "measure=off", "spend.flops=3e9", module="sweep.plan")
    assert plan.returncode == 0, plan.stderr
    command = plan.stdout.splitlines()[-1].removeprefix("python -m sweep -m ")
    first = run(tmp_path, "-m", *shlex.split(command))
    assert first.returncode == 0, first.stderr
    part = results(tmp_path)
    assert 0 < len(part) < 9
    assert run(tmp_path, "-m", *whole).returncode == 0
    every = results(tmp_path)
    assert len(every) == 9
    assert {k: v["loss"] for k, v in part.items()}.items() <= {
        k: v["loss"] for k, v in every.items()
    }.items()
