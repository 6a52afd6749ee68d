"""Words of the plan beside Hydra's."""

import pytest

from fit.allocation.costs import machine
from fit.data.accounting import DEVICES
from fit.errors import PlanError
from sweep.plan import main as plan_command
from sweep.planning.bill import (
    PlanOptions,
    cost_lines,
    plan_cost,
    planned_runs,
    require_prices,
    split_plan_options,
)
from sweep.planning.grid import LauncherChoice, grid


def test_the_plan_takes_its_own_words_and_leaves_hydras():
    terms, rest = split_plan_options(
        ["model=w16,w24", "price=2.5", "spend.dollars=5", "measure=off", "sweep.flops=1e11"]
    )
    assert rest == ["model=w16,w24", "sweep.flops=1e11"]
    assert (terms.price, terms.dollars, terms.measure) == (2.5, 5.0, False)
    assert terms.limited and not split_plan_options(["price=1"])[0].limited


GPU = ["model=w768", "train.tokens=3.4B", "train.accelerator=cuda", "train.devices=8",
       "train.batch_tokens=65536", "train.batch_doublings=[]"]  # fmt: skip


def test_a_named_device_prices_a_plan_as_a_query_does():
    options = PlanOptions(device="h100", mfu=0.4, price=2.5)
    rows = planned_runs(grid(GPU, multirun=True), options)
    cost = plan_cost(rows, options, LauncherChoice(name="basic", settings={}))
    h100 = machine("h100", mfu=0.4, price=2.5)
    assert cost.hours == pytest.approx(h100.hours(cost.flops))
    assert cost.dollars == pytest.approx(h100.dollars(cost.flops))
    assert cost.wall == pytest.approx(3600 * cost.hours / 8)


def test_a_gpu_that_is_not_here_has_no_price_and_no_time():
    rows = planned_runs(grid(GPU, multirun=True), PlanOptions())
    lines = cost_lines(
        plan_cost(rows, PlanOptions(), LauncherChoice(name="basic", settings={})),
        PlanOptions(),
        rows,
    )
    assert "device=h100 mfu=0.4" in " ".join(lines)
    assert not any("hours" in line for line in lines)
    with pytest.raises(PlanError, match="price= cannot be applied"):
        require_prices(rows, PlanOptions(price=2.5))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["price=cheap"], "price is 'cheap'"),
        (["measure=perhaps"], "on or off"),
        (["workers=1.5"], "whole number"),
        (["spend.dollars=5"], "price"),
        (["spend.minutes=5"], "known are spend.hours"),
        (["mfu=0.4"], "device=h100"),
        (["device=h100", "mfu=40"], "share up to 1"),
        (["device=gpu"], "unknown device 'gpu'; known are a100"),
        (["spend.flops=7B"], "FLOP"),
        (["spend.target=1e15"], "spend.hours"),
        (["spend.hours=1", "spend.prior="], "empty"),
    ],
)
def test_a_wrong_word_is_one_line_that_says_what_is_needed(words, said):
    with pytest.raises(PlanError, match=said) as error:
        split_plan_options(words)
    assert "\n" not in str(error.value)


def test_a_spend_in_dollars_takes_the_stored_price_of_its_device_and_says_so(capsys):
    options, _ = split_plan_options(["spend.dollars=5k$", "device=4090"])
    assert options.price == DEVICES["rtx-4090"].rental[0]
    assert "OpenRelay" in options.price_note and options.price_note.endswith("Give yours: price=.")
    words = ["model=w16", "train.tokens=1e6", "measure=off", "spend.dollars=5k$", "device=4090"]
    with pytest.raises(SystemExit):
        plan_command(words)
    assert "price     an hour of one rtx-4090 is taken at" in capsys.readouterr().out
    with pytest.raises(PlanError, match="price=2.5, say, or device=h100"):
        split_plan_options(["spend.dollars=5k$"])


def test_a_spend_in_flops_is_any_budget():
    options, _ = split_plan_options(["spend.flops=8 h100 for 3 days"])
    assert options.flops == pytest.approx(8 * 72 * 3600 * 0.4 * 989e12, rel=0.01)
    with pytest.raises(PlanError, match="'5k\\$', without a device"):
        split_plan_options(["spend.flops=5k$"])


def test_limits_and_budgets_are_read_as_people_write_them():
    words = ["spend.hours=3d", "spend.dollars=$5k", "price=$2.50/h", "device=RTX 4090"]
    options, rest = split_plan_options([*words, "spend.target=1 EFLOP", "spend.flops=2 PFLOP-days"])
    assert rest == []
    assert (options.hours, options.dollars, options.price) == (72, 5000, 2.5)
    assert (options.target, options.flops) == (1e18, 2e15 * 86400)
    assert options.machine is not None and options.machine.name == "rtx-4090"
    names = {
        run.run
        for text in ("1e11", "100 GFLOP", "100 gigaflops")
        for cell in grid(["model=w16", f"sweep.flops={text}"], multirun=False)
        for _, run in cell.runs()
    }
    assert len(names) == 1
