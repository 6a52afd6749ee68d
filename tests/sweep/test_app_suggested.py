"""A proposal's files, composed and planned by the sweep as they are."""

from __future__ import annotations

import shlex

import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.design.candidates import SuggestRequest
from fit.design.plan_files import write_plan
from fit.design.suggest import propose
from fit.results import read_fit
from sweep.planning.grid import grid
from tests.sweep.test_app import ROOT, results, run


@pytest.fixture(scope="module")
def fit():
    return read_fit(ROOT / "reports" / "reference")


def test_a_proposal_is_planned_by_the_sweep_with_the_bill_it_named(fit, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = ScalingLaw.from_fit(fit)
    found = propose(SuggestRequest(source=source, flops=3e13, spend=4e12, most_runs=10))
    launch = write_plan(tmp_path / "a plan", found, fit)
    cells = grid(shlex.split(launch), multirun=True)
    runs = [(t, r) for cell in cells for t, r in cell.runs()]
    assert all(cell.refusal is None for cell in cells)
    assert len(runs) == len(found.runs)
    # lengths are rounded to whole steps, and a cooldown begins at one
    assert sum(r.flops_spent for _, r in runs) == pytest.approx(found.flops_spent, rel=0.01)
    assert {t.sweep for t, _ in runs} == {"reference"}
    assert {t.config.runs_dir for t, _ in runs} == {"runs"}
    assert all(cell.record(t, r) is None for cell in cells for t, r in cell.runs())
    reference = {tuple(sorted(r.trunk for r in c.trajectories)) for c in cells}
    assert len(reference) == len(cells)
    for trajectory, _ in runs:
        config = trajectory.config
        assert config.train.batch_at_1m == fit.recipe["train.batch_at_1m"]
        assert config.train.lr == fit.recipe["train.lr"]
        assert config.data.size == fit.recipe["data.size"]


@pytest.mark.slow
def test_a_sweep_is_fitted_extended_and_fitted_again(tmp_path, monkeypatch):
    """From runs to a fit, to the next runs, to one fit of both."""
    from fit.fitting import fit_runs

    lengths = "train.tokens=[8e3,16e3,32e3]"
    first = run(tmp_path, "-m", "model.width=8,16,24", lengths, "seed=0,1", "tracking=none")
    assert first.returncode == 0, first.stderr
    before = results(tmp_path)
    fitted = fit_runs(tmp_path / "pilot", name="pilot", resamples=200)
    source = ScalingLaw.from_fit(fitted)
    found = propose(SuggestRequest(source=source, flops=1e11, spend=2e10, most_runs=6))
    launch = write_plan(tmp_path / "plan", found, fitted)
    again = run(tmp_path, "-m", *shlex.split(launch), "tracking=none")
    assert again.returncode == 0, again.stderr
    after = results(tmp_path)
    assert len(after) == len(before) + len(found.runs)
    assert before.items() <= after.items()
    both = fit_runs(tmp_path / "pilot", name="pilot", resamples=200)
    assert both.runs_used == len(after)
    assert set(both.recipe) >= set(fitted.recipe) - {"train.warmup_tokens"}
