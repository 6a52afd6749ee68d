"""Questions with limits, a target loss, served tokens and money: what the answer says of them."""

import dataclasses
import json

import numpy as np
import pytest

from fit.allocation.costs import DEFAULT_MFU
from fit.allocation.scaling_law import ScalingLaw
from fit.errors import QueryError
from fit.inference.intervals import derived_interval
from fit.laws.published import preset
from fit.query.answer import answer
from fit.query.question import question
from fit.report.text import answer_text, limit_rows
from tests.fit.builders import RECIPE, make_fit, make_points, plain_points

FITTED = ScalingLaw.from_fit(make_fit())
PLAIN = ScalingLaw.from_fit(
    make_fit(points=plain_points(), convention={"params": "as given", "flops": "6nd"})
)
PUBLISHED = ScalingLaw.from_preset(preset("besiroglu2024"))
CASES = (
    {"flops": 1e14, "max_params": "200k"},
    {"flops": 1e14, "params": "1M"},
    {"flops": 1e14, "min_ratio": 200, "max_tokens": "1B"},
    {"flops": 1e14, "unique_tokens": "2M"},
    {"flops": 1e14, "unique_tokens": "2M", "serve_tokens": "50M", "memory": "200kB"},
    {"loss": 1.5},
    {"loss": 1.5, "max_params": "200k", "serve_tokens": "50M"},
    {"dollars": 5, "price": 2, "device": "1e12", "mfu": "10%", "devices": 4, "tokens": "10M"},
    {"flops": 1e14, "regret": True},
)


def ask(source=FITTED, **fields):
    return answer(question(source, fields))


def row(found, name):
    return {c.name: c for c in found.constraints}[name]


def codes(found):
    return {n.code for n in found.warnings}


def test_a_plain_budget_has_none_of_the_further_parts():
    document = ask(flops=1e14).document()
    assert document["constraints"] == document["regret"] == []
    assert document["cost"] is document["epochs"] is None


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_documents_are_json_and_the_terminal_has_eighty_columns(fields):
    for source in (FITTED, PLAIN, PUBLISHED):
        near = {"flops": 1e22, "loss": 2.2, "max_params": "3B", "params": "3B"}
        near |= {"unique_tokens": "30B", "memory": "3GB", "serve_tokens": "1T", "tokens": "9B"}
        near |= {"max_tokens": "1T", "dollars": "20M"}
        asked = fields
        if source is PUBLISHED:
            asked = {k: near.get(k, v) for k, v in fields.items()}
        found = ask(source, **asked)
        document = found.document()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert document["cost"]["training_flops"]["value"] > 0
        assert [r["size"] for r in document["regret"]] in ([], [0.5, 0.7, 1.0, 1.5, 2.0])
        text = answer_text(found, "isoflop query 1 > launch.txt", limit_rows(found))
        assert max(map(len, text.splitlines())) <= 80
        assert "nan" not in text
        assert "inf " not in text


@pytest.mark.parametrize("method", ["hc3", "pairs"])
def test_a_limit_that_does_not_bind_changes_no_number(method):
    fit = make_fit()
    fit = dataclasses.replace(fit, interval=dataclasses.replace(fit.interval, method=method))
    source = ScalingLaw.from_fit(fit)
    free, held = ask(source, flops=1e14), ask(source, flops=1e14, max_params=1e9, max_ratio=1e5)
    for name in ("params", "tokens", "loss", "loss_next_run"):
        for end in ("value", "low", "high"):
            expected = getattr(getattr(free, name), end)
            assert getattr(getattr(held, name), end) == pytest.approx(expected, rel=1e-6)
    assert held.regret_band.low == pytest.approx(free.regret_band.low, rel=1e-6)
    assert held.regret_band.high == pytest.approx(free.regret_band.high, rel=1e-6)
    assert held.shape == free.shape
    assert held.config == free.config
    assert not row(held, "max_params").binds
    assert row(held, "max_params").worth is None


@pytest.mark.parametrize("source", [FITTED, PLAIN], ids=["ladder", "kND"])
def test_a_cap_is_worth_what_the_free_answer_gains(source):
    capped, free = ask(source, flops=1e14, max_params="200k"), ask(source, flops=1e14)
    found = row(capped, "max_params")
    assert found.binds
    assert capped.params.value == capped.params.low == capped.params.high == 2e5
    gain = found.worth.lifted
    assert gain.loss.value == pytest.approx(capped.loss.value - free.loss.value, rel=1e-6)
    assert gain.loss.low < gain.loss.value < gain.loss.high
    cheaper = ask(source, loss=capped.loss.value)
    assert gain.multiplier.value == pytest.approx(1e14 / cheaper.flops.value, rel=1e-7)
    wider = ask(source, flops=1e14, max_params="400k")
    twice = found.worth.doubled
    assert twice.loss.value == pytest.approx(capped.loss.value - wider.loss.value, rel=1e-6)
    more = ask(source, flops=2e14, max_params="200k")
    of_budget = row(capped, "budget").worth
    assert of_budget.lifted is None
    assert of_budget.doubled.loss.value == pytest.approx(
        capped.loss.value - more.loss.value, rel=1e-6
    )


def test_the_worth_of_a_cap_has_the_interval_of_its_own_function():
    # under C = k N D everything is closed form, so that the delta method can be done by hand
    capped = row(ask(PLAIN, flops=1e14, max_params="200k"), "max_params").worth.lifted.loss

    def log_gain(theta):
        e, a, b, alpha, beta = theta.T
        ratio = alpha * a / (beta * b)
        n = (ratio * (1e14 / 6) ** beta) ** (1 / (alpha + beta))
        free = a * n**-alpha + b * (1e14 / 6 / n) ** -beta
        return np.log(a * 2e5**-alpha + b * (1e14 / 6 / 2e5) ** -beta - free)[:, None]

    low, high = derived_interval(PLAIN.fit, log_gain)
    assert capped.low == pytest.approx(low[0], rel=1e-4)
    assert capped.high == pytest.approx(high[0], rel=1e-4)


def test_a_limit_beside_another_is_worth_nothing_alone():
    found = ask(PLAIN, flops=1e14, max_params="200k", memory="400kB")
    for name in ("max_params", "memory"):
        assert row(found, name).binds
        assert row(found, name).worth.lifted.loss.value == 0
        assert row(found, name).worth.lifted.multiplier.value == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("source", [FITTED, PLAIN, PUBLISHED], ids=["ladder", "kND", "preset"])
def test_a_target_loss_and_its_budget_ask_the_same(source):
    target = 2.2 if source is PUBLISHED else 1.5
    found = ask(source, loss=target)
    assert found.loss.value == pytest.approx(target, rel=1e-9)
    same = ask(source, flops=found.flops.value)
    assert same.params.value == pytest.approx(found.params.value, rel=1e-6)
    assert same.loss.low == pytest.approx(found.loss.low, rel=1e-6)
    assert found.flops.low < found.flops.value < found.flops.high
    # dearer by the interval's end, and the loss of the law there is the target's other end
    assert ask(source, flops=found.flops.high).loss.value < target


def test_serving_makes_the_model_smaller_and_is_paid_from_the_budget():
    free, served = ask(flops=1e14), ask(flops=1e14, serve_tokens="50M")
    assert served.params.value < free.params.value
    cost = served.cost
    assert cost.training_flops.value + cost.serving_flops.value == pytest.approx(1e14)
    assert cost.training_flops.low < cost.training_flops.value < cost.training_flops.high
    per_token = served.regret[2].serving_flops_per_token
    assert cost.serving_flops.value == pytest.approx(5e7 * per_token)
    assert "serving" in codes(served)


def test_the_regret_of_other_sizes_is_that_of_de_vries():
    # k_D = (1 - (k_N^-alpha - 1) beta/alpha)^(-1/beta); de Vries 2023, "Go smol or go home"
    found = ask(PUBLISHED, flops=1e22, regret=True)
    law, theta = PUBLISHED.law, PUBLISHED.theta
    alpha, beta = theta[3:]

    def tokens_factor(size):
        return (1 - (size**-alpha - 1) * beta / alpha) ** (-1 / beta)

    for r in found.regret:
        assert r.compute_up.value == pytest.approx(r.size * tokens_factor(r.size) - 1, abs=1e-9)
        n, d = r.size * found.params.value, 1e22 / (6 * r.size * found.params.value)
        up = float(law.loss(theta, n, d)) - found.loss.value
        assert r.loss_up.value == pytest.approx(up, abs=1e-9)
        assert r.serving_flops_per_token == pytest.approx(2 * n)
    half = found.regret[0]
    assert half.compute_up.value == pytest.approx(0.259, rel=0.015)  # as published
    tokens = half.break_even_tokens.value
    trained = half.params * found.tokens.value * tokens_factor(0.5)
    both = [6 * trained + 2 * half.params * tokens, 1e22 + 2 * found.params.value * tokens]
    assert both[0] == pytest.approx(both[1], rel=1e-9)
    assert half.serving_saved == pytest.approx(0.5)
    assert found.regret[4].break_even_tokens is None


def test_money_hours_and_deadlines_buy_the_same_flops():
    machine = {"device": "h100", "mfu": 0.5, "price": 2.5, "devices": 8}
    hour = 3600 * 989e12 * 0.5
    by = [{"dollars": 2500}, {"hours": 1000}, {"deadline": 125}, {"flops": 1000 * hour}]
    for fields in by:
        found = ask(PUBLISHED, **fields, **machine)
        assert found.flops.value == pytest.approx(1000 * hour, rel=1e-12)
        assert found.cost.device_hours.value == pytest.approx(1000)
        assert found.cost.hours.value == pytest.approx(125)
        assert found.cost.dollars.value == pytest.approx(2500)
        assert (found.cost.device, found.cost.devices, found.cost.mfu) == ("h100", 8, 0.5)


def test_the_utilisation_is_the_largest_fitted_runs_or_assumed_and_said():
    points = make_points()
    mfu = np.where(points.params == points.params.max(), 0.31, 0.05)
    mfu[-1] = np.nan
    columns = {**points.columns, "mfu": mfu}
    on_cpu = dataclasses.replace(points, columns=columns)
    columns = {**columns, "device_flops_per_second": np.full(len(mfu), 989e12)}
    on_h100 = ScalingLaw.from_fit(make_fit(points=dataclasses.replace(points, columns=columns)))
    own = ask(on_h100, hours=1, device="h100", force=True)
    assert own.cost.mfu == pytest.approx(0.31)
    assert "mfu_fitted" in codes(own)
    for source, device in (
        (on_h100, "a100"),
        (ScalingLaw.from_fit(make_fit(points=on_cpu)), "h100"),
    ):
        other = ask(source, hours=1, device=device, force=True)
        assert other.cost.mfu == DEFAULT_MFU
        assert "mfu_assumed" in codes(other)
    assumed = ask(FITTED, hours=1, device="1e9")
    assert assumed.cost.mfu == DEFAULT_MFU
    assert "mfu_assumed" in codes(assumed)
    assert not {"mfu_fitted", "mfu_assumed"} & codes(ask(hours=1, device="1e9", mfu=0.2))


def test_an_unknown_device_is_named():
    with pytest.raises(QueryError, match="unknown device 'abacus'; known are a100"):
        ask(hours=1, device="abacus")


def test_borrowed_repeats_are_the_published_law_of_repeats():
    base = ScalingLaw.from_preset(preset("muennighoff2023"))
    borrowed = ask(base, flops=1e22, unique_tokens="25B")
    own = ask(
        ScalingLaw.from_preset(preset("muennighoff2023-repeated")), flops=1e22, unique_tokens=25e9
    )
    for found in (borrowed, own):
        assert found.tokens.value == pytest.approx(2.372e11, rel=5e-4)
        assert found.params.value == pytest.approx(7.026e9, rel=5e-4)
        assert found.loss.value == pytest.approx(2.222129, abs=5e-7)
        assert found.epochs == pytest.approx(9.49, abs=0.005)
        gain = row(found, "unique_tokens").worth.lifted
        endless = ask(base, flops=1e22)
        assert gain.loss.value == pytest.approx(found.loss.value - endless.loss.value, rel=1e-6)
    assert borrowed.loss.value == pytest.approx(own.loss.value, rel=1e-12)
    texts = [" ".join(n.message for n in found.warnings) for found in (borrowed, own)]
    assert "R_D* 15.39" in texts[0]
    assert "R_D*" not in texts[1]
    plenty = row(ask(base, flops=1e22, unique_tokens="100T"), "unique_tokens")
    assert not plenty.binds


def test_memory_counts_every_parameter_of_the_shape():
    fit = make_fit(convention={"params": "body", "flops": "exact"})
    points = make_points()
    body = points.params - 500 * points.columns["width"]
    fit = dataclasses.replace(fit, points=dataclasses.replace(points, params=body))
    source = ScalingLaw.from_fit(fit)
    assert source.ladder is not None
    found = ask(source, flops=1e14, memory="200kB")
    assert found.params.value < 1e5
    width = found.shape.width
    stored = found.shape_params + 500 * width + found.shape.depth * 16 + 3 * width
    assert 2 * stored <= 2e5
    assert "memory" in codes(found)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_params": "200k"},
        {"min_params": "3M"},
        {"tokens": "20M"},
        {"max_ratio": 20},
        {"memory": "300kB"},
        {"max_params": "300k", "max_tokens": "10M"},
    ],
    ids=str,
)
def test_the_shape_that_is_launched_keeps_the_limits(fields):
    found = ask(flops=1e14, **fields)
    asked = question(FITTED, {"flops": 1e14, **fields})
    n, d = found.shape_params, found.shape_tokens
    assert n == FITTED.ladder.count(found.shape)[0]
    assert d * FITTED.ladder.count(found.shape)[1] <= 1e14 * (1 + 1e-9)
    near = 1 + 1e-9
    assert n <= (asked.max_params or np.inf) * near
    assert n >= (asked.min_params or 0) / near
    assert d <= (asked.max_tokens or np.inf) * near
    assert d / n <= (asked.max_ratio or np.inf) * near
    assert asked.tokens is None or d == pytest.approx(asked.tokens)
    assert abs(np.log(n / found.params.value)) < 0.5
    config = dict(c.split("=", 1) for c in found.config)
    assert int(config["train.tokens"]) == round(d)
    assert config["data"] == RECIPE["data"]


def test_limits_that_no_shape_of_the_ladder_meets_launch_nothing():
    found = ask(flops=1e14, min_params="200k", max_params="201k")
    assert found.shape is None
    assert found.config == ()
    assert "no_shape" in codes(found)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"flops": 1e22, "min_params": "7B", "max_params": "1B"}, "--min-params 7.00B and --max-p"),
        ({"flops": 1e22, "min_params": "7B", "memory": "8GB"}, "--memory 8.00GB conflict"),
        ({"flops": 1e22, "min_ratio": 40, "max_ratio": 20}, "40.0 tokens per parameter at least"),
        (
            {"flops": 1e22, "min_params": "7B", "max_tokens": "10B", "min_ratio": 20},
            "needs 140B tokens, and --max-tokens 10.0B allows no more than that",
        ),
        (
            {"flops": 1e22, "max_params": "1B", "tokens": "1T", "max_ratio": 20},
            "needs 50.0B parameters, and --max-params 1.00B allows no more than that",
        ),
        ({"flops": 1e20, "min_params": "7B", "min_ratio": 20}, "take 5.88e21 FLOP"),
        ({"flops": 1e20, "params": "1B", "serve_tokens": "1T"}, "1.00T tokens served take 2e21"),
        ({"flops": 3}, "less than one parameter or token"),
        ({"flops": 3, "max_params": 5}, "do not pay for the smallest model allowed"),
        ({"loss": 1.8}, "the law goes down to 1.8172 and no further"),
        ({"loss": 2, "max_params": "1B"}, "--max-params 1.00B: the best model allowed goes down"),
        ({"loss": 3000}, "reached by one parameter on one token"),
        ({"loss": 1.8172001}, "at most 1e+40 is believed"),
    ],
    ids=str,
)
def test_demands_that_conflict_are_one_line_naming_them(fields, words):
    with pytest.raises(QueryError) as caught:
        ask(PUBLISHED, **fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_budget_named_as_feasible_is_feasible():
    fields = {"params": "1B", "min_ratio": 20, "serve_tokens": "1T"}
    with pytest.raises(QueryError, match=r"take 2\.12e21 FLOP"):
        ask(PUBLISHED, flops=2e21, **fields)
    assert ask(PUBLISHED, flops=2.121e21, **fields).params.value == 1e9


def test_the_profile_and_the_sandwich_tell_a_similar_story():
    fit = PLAIN.fit
    profile = dataclasses.replace(fit, interval=dataclasses.replace(fit.interval, method="profile"))
    found = [ask(ScalingLaw.from_fit(f), flops=1e14, max_ratio=20) for f in (fit, profile)]
    for name in ("params", "loss"):
        sandwich, other = (getattr(f, name) for f in found)
        assert other.value == sandwich.value
    gains = [row(f, "max_ratio").worth.lifted.multiplier for f in found]
    assert gains[1].value == gains[0].value
    assert np.log(gains[1].high / gains[1].low) == pytest.approx(
        np.log(gains[0].high / gains[0].low), rel=0.3
    )
