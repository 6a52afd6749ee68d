"""Estimates from what a few timed steps said of a shape, and their bill."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from sweep.planning import timing as pace_module
from sweep.planning.bill import PlanOptions, cost_lines, makespan, plan_cost, planned_runs
from sweep.planning.grid import chosen_launcher, grid
from sweep.planning.timing import (
    ShapeTiming,
    added_part,
    estimate,
    keep_timing,
    known_timing,
    unmeasured,
)
from sweep.planning.trajectory import BatchRule
from sweep.training import timing as training_timing
from tests.sweep.test_app import TINY, run

TIMING = ShapeTiming(
    device="cpu",
    step_seconds=0.5,
    token_seconds=0.001,
    start_seconds=10.0,
    heldout_seconds=0.002,
    memory_bytes=2.0**30,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cells(*overrides: str, runs_dir="nowhere"):
    return grid([*TINY, f"runs_dir={runs_dir}", *overrides], multirun=True)


def trajectory(*overrides: str):
    return cells("model.width=8", *overrides)[0].trajectories[0]


@pytest.mark.parametrize("doublings", [(), (700,), (10_000, 50_000), (64, 65, 300)])
def test_steps_are_counted_as_they_are_walked(doublings):
    rule = BatchRule(batch_tokens=128, row=128, doublings=doublings)
    ends = [0, *(p + b for p, b in rule.steps(0, 70_000))]
    for start in ends[::7]:
        for end in ends[::11]:
            assert rule.count(start, end) == len(list(rule.steps(start, end)))


def test_the_runs_of_a_trunk_add_up_to_its_steps_and_tokens():
    t = trajectory("train.tokens=[4e3,8e3,16e3]")
    parts = [added_part(t, run) for run in t.runs]
    last = t.runs[-1]
    assert sum(tokens for _, tokens in parts) == last.cooldown_start + sum(
        r.tokens - r.cooldown_start for r in t.runs
    )
    assert sum(steps for steps, _ in parts) == t.rule.count(0, last.cooldown_start) + sum(
        t.rule.count(r.cooldown_start, r.tokens) for r in t.runs
    )


def test_an_estimate_is_steps_and_tokens_at_their_measured_prices():
    t = trajectory("train.tokens=[4e3,8e3]")
    first, second = (estimate(t, r, TIMING) for r in t.runs)
    steps, tokens = added_part(t, t.runs[1])
    assert second.training == pytest.approx(0.5 * steps + 0.001 * tokens)
    assert second.beside == pytest.approx(0.002 * 2048)
    assert first.beside == pytest.approx(0.002 * 2048 + 10)
    assert first.training < first.alone * 1.001 and second.training < second.alone
    assert estimate(t, t.runs[0], None).measured is None


def test_a_pace_is_kept_by_all_that_it_depends_on(monkeypatch):
    t = trajectory("train.tokens=8e3")
    keep_timing(t, TIMING)
    assert known_timing(t) == TIMING
    assert known_timing(trajectory("train.tokens=8e3", "seed=3", "train.lr=0.1")) == TIMING
    for other in ("train.precision=bf16-mixed", "train.threads=2", "model.depth=2"):
        assert known_timing(trajectory("train.tokens=8e3", other)) is None
    assert unmeasured([t]) == []
    monkeypatch.setattr(pace_module, "_torch_version", lambda: "9.9")
    assert known_timing(t) is None
    assert unmeasured([t, t]) == [t]


def test_a_bill_counts_what_is_left_and_fits_eighty_columns():
    found = cells("model.width=8,16", "train.tokens=[4e3,8e3]")
    for cell in found:
        keep_timing(cell.trajectories[0], TIMING)
    rows = planned_runs(found, PlanOptions())
    terms = PlanOptions(price=3.6, workers=2)
    bill = plan_cost(rows, terms, chosen_launcher(TINY))
    total = sum(row.estimate.seconds for row in rows)
    assert bill.hours == pytest.approx(total / 3600)
    assert bill.dollars == pytest.approx(total * 0.001)
    assert bill.wall == pytest.approx(total / 2)  # two equal cells
    assert bill.memory_bytes == 2**30
    assert bill.saved > 0
    lines = cost_lines(bill, terms, rows)
    assert max(map(len, lines)) <= 80
    assert any("at $3.6 an hour" in line for line in lines)
    done = [dataclasses.replace(row, record=object()) for row in rows]
    assert plan_cost(done[:1] + rows[1:], terms, chosen_launcher(TINY)).runs == 3
    assert cost_lines(plan_cost(done, terms, chosen_launcher(TINY)), terms, done) == []


def test_the_wall_waits_for_the_longest_job():
    assert makespan([5, 1, 1, 1], 2) == 5
    assert makespan([3, 3, 2, 2, 2], 2) == 7  # the longest first is near the best, 6
    assert makespan([], 4) == 0


@pytest.mark.parametrize("seconds", [(3e-3, 5e-3), (5e-3, 3e-3)])
def test_a_token_takes_time_even_where_a_busy_machine_made_the_small_batch_slow(
    monkeypatch, seconds
):
    measured = iter(seconds)
    monkeypatch.setattr(training_timing, "_measure_step_seconds", lambda *_: next(measured))
    timing = training_timing.measure_timing(
        trajectory("train.tokens=8e3", "train.batch_doublings=[2e3]")
    )
    assert timing.token_seconds > 0
    assert timing.step_seconds < max(seconds)


def test_a_trial_times_a_step_and_a_token(monkeypatch):
    monkeypatch.setattr(training_timing, "SECONDS", 0.05)
    cell = trajectory("train.tokens=8e3", "train.batch_doublings=[2e3]")
    timing = training_timing.measure_timing(cell)
    assert 0 < timing.token_seconds < 0.1 and 0 <= timing.step_seconds < 1
    assert 0 < timing.heldout_seconds < 0.1 and timing.start_seconds > 0
    assert 5e7 < timing.memory_bytes < 1e11


@pytest.mark.slow
def test_trials_run_in_a_process_of_their_own_and_are_remembered(tmp_path):
    plan = ("model.width=8,16", "train.tokens=[4e3,8e3]", "train.batch_doublings=[2e3]")
    first = run(tmp_path, *plan, "price=2", module="sweep.plan")
    assert first.returncode == 0, first.stderr
    assert "timing 2 of 2: width 16" in first.stderr
    assert "timed on cpu" in first.stdout and "formula" not in first.stdout
    assert max(map(len, first.stdout.splitlines())) <= 80
    again = run(tmp_path, *plan, "price=2", module="sweep.plan")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert known_timing(trajectory(*plan[1:])) is not None


def test_a_shape_that_kills_its_trial_stands_by_the_formula(monkeypatch):
    monkeypatch.setattr(training_timing, "_measure_all", die)
    t = trajectory("train.tokens=8e3")
    assert training_timing.measure_timings([t, t], lambda _: None) == [t, t]


def die(_trajectories, _sender):
    sys.exit(1)


def test_planning_by_the_formula_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['plan', 'measure=off', 'price=1', 'spend.flops=5e12']\n"
        "from sweep.plan import main\n"
        f"sys.argv += ['+experiment=demo', 'runs_dir={tmp_path}']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stderr == "False\n"
