"""What it costs: the price of the next step, serving, repeats, and models beside the law."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from fit.allocation.costs import (
    ReportRequest,
    next_price,
    serving_costs,
    with_unique_tokens,
)
from fit.allocation.scaling_law import Frontier, ScalingLaw, fit_of, frontier_band, further_budget
from fit.errors import QueryError
from fit.laws.families import ENDLESS
from fit.laws.published import PUBLISHED_MODELS
from fit.query.constraints import ConstrainedProblem, least_cost
from fit.report import context_plots
from fit.report.captions import figure_caption
from fit.report.figure_data import LADDER_NAME, LADDER_SCHEMA, LadderStep, figure_table
from fit.report.figures import FIGURES, draw_figures, figure_inputs
from fit.report.summary_page import report_content
from tests.fit.builders import THETA, make_fit, plain_points

SOURCE = ScalingLaw.from_fit(make_fit())
PLAIN = ScalingLaw.from_fit(
    make_fit(points=plain_points(), convention={"params": "as given", "flops": "6nd"})
)
BEST = frontier_band(SOURCE)


def price_table(source, request):
    """The table of prices in the content of a report."""
    sections = report_content(source, request=request)["brief"]
    blocks = [b for s in sections for b in s["blocks"] if b["kind"] == "table"]
    return next(b for b in blocks if "next 0.01 nats" in b["caption"])


def axis():
    return Figure().subplots()


def line(ax, label):
    return next(li for li in ax.get_lines() if li.get_label() == label)


def large():
    """The law of a known study at its own scale: N and D a million times those of the tests."""
    p = plain_points()
    points = dataclasses.replace(
        p, params=p.params * 1e4, tokens=p.tokens * 1e5, flops=p.flops * 1e9
    )
    scaled = {**THETA, "A": THETA["A"] * 1e4**0.36, "B": THETA["B"] * 1e5**0.33}
    return ScalingLaw.from_fit(make_fit(points=points, theta=scaled))


def test_the_next_hundredth_costs_what_the_frontier_says():
    flops = np.array([1e12, 1e13])
    price = next_price(SOURCE, flops)
    whole = Frontier.of(SOURCE)
    exact = whole.flops(whole.loss(flops) - 0.01) - flops
    assert price.value == pytest.approx(exact, rel=2e-3)
    assert np.all(price.low < price.value)
    assert np.all(price.value < price.high)


def test_a_step_below_e_is_never_reached():
    fit = make_fit(theta={**THETA, "A": 1e-3, "B": 1e-3})
    price = next_price(ScalingLaw.from_fit(fit), np.array([1e12]))
    assert np.isinf(price.value).all()
    assert price_table(ScalingLaw.from_fit(fit), ReportRequest())["rows"][0][1] == "never"


def test_money_is_device_hours_at_a_price():
    request = ReportRequest(price=2.0, device="h100", mfu=0.5)
    assert request.dollars(989e12 * 3600 * 0.5) == pytest.approx(2.0)
    assert ReportRequest(price=2.0).dollars(1e20) is None
    with pytest.raises(QueryError, match="device"):
        ReportRequest(price=2.0, device="abacus").dollars(1e20)
    assumed = price_table(SOURCE, ReportRequest(price=2.0, device="h100"))
    assert "(assumed)" in assumed["caption"]
    assert assumed["columns"][-1]["head"] == "dollars"


def test_the_price_is_drawn_where_it_can_be_paid():
    price = next_price(SOURCE, BEST.flops)
    ax = context_plots.next_price(axis(), SOURCE, BEST, price)
    solid = line(ax, "law")
    assert solid.get_ydata() == pytest.approx(price.value[BEST.inside])
    drawn = np.concatenate([solid.get_ydata(), line(ax, "extrapolation").get_ydata()])
    assert np.nanmax(drawn) <= context_plots.MOST_TIMES * BEST.flops[-1]


@pytest.mark.parametrize("served", [1e6, 1e9])
def test_the_cheapest_life_is_that_of_the_closed_form(served):
    costs = serving_costs(PLAIN, 1e13, served)
    problem = ConstrainedProblem(law=PLAIN.law, cost=PLAIN.cost, served=served)
    exact = least_cost(problem, PLAIN.theta[None], np.log([costs.loss]))
    assert costs.params[costs.cheapest] == pytest.approx(np.exp(exact.log_params[0]), rel=0.03)
    assert costs.total[costs.cheapest] == pytest.approx(np.exp(exact.log_flops[0]), rel=1e-3)
    ax = context_plots.lifetime_cost(axis(), costs)
    assert line(ax, "both").get_ydata() == pytest.approx(costs.total)
    inputs = figure_inputs(PLAIN, ReportRequest(serve_tokens=served))
    assert "The lowest sum, the dot" in figure_caption("serving", inputs, ())


def test_repeats_cost_nothing_while_tokens_last():
    plenty, few = with_unique_tokens(SOURCE, 1e12), with_unique_tokens(SOURCE, 1e6)
    flops = np.array([1e12, 1e13])
    fresh = with_unique_tokens(SOURCE, ENDLESS).best(flops).log_loss
    assert plenty.best(flops).log_loss == pytest.approx(fresh, abs=1e-12)
    assert fresh == pytest.approx(SOURCE.best(flops).log_loss, abs=3e-4)
    assert np.all(few.best(flops).log_loss > fresh)
    ax = context_plots.repeats_epochs(axis(), BEST, few, 1e6)
    assert line(ax, "nearly as good as fresh").get_ydata()[0] == 4
    inputs = figure_inputs(SOURCE, ReportRequest(unique_tokens=1e6))
    words = figure_caption("repeats", inputs, ())
    assert "epochs" in words
    assert "borrowed" in words


def test_every_published_model_has_a_source_and_counts_that_can_be():
    assert 20 <= len(PUBLISHED_MODELS) <= 45
    assert len({m.name for m in PUBLISHED_MODELS}) == len(PUBLISHED_MODELS)
    for m in PUBLISHED_MODELS:
        # a paper with the place in it, or a page that is one model's
        assert re.search(
            r"arXiv:\d{4}\.\d{5}, (table|sec\.|abstract)|model card huggingface\.co/[\w-]+/\w+"
            r"|(README|MODEL_CARD) of github\.com/[\w-]+/\w+|[\w.]+/\w+/[\w-]+, (section|page)",
            m.source,
        ), m
        assert 2018 <= m.year <= 2026
        assert 1e8 < m.params < 1e12
        assert 1e9 < m.tokens < 1e14
    assert [m.year for m in PUBLISHED_MODELS] == sorted(m.year for m in PUBLISHED_MODELS)
    rows = list(csv.DictReader(io.StringIO(context_plots.models_table())))
    assert [r["name"] for r in rows] == [m.name for m in PUBLISHED_MODELS]
    assert [r["source"] for r in rows] == [m.source for m in PUBLISHED_MODELS]
    chinchilla = next(m for m in PUBLISHED_MODELS if m.name == "Chinchilla")
    assert chinchilla.flops == pytest.approx(5.88e23)


def test_models_stand_beside_the_law_by_compute_only_at_its_scale():
    small, big = frontier_band(SOURCE), frontier_band(large())
    assert context_plots.within(small) == ()
    assert context_plots.within(big)
    ax = axis()
    context_plots.draw_models(ax, big, "params")
    shown = {li.get_gid(): li.get_xdata()[0] for li in ax.get_lines()}
    assert shown == {m.name: m.flops for m in context_plots.within(big)}


@pytest.mark.parametrize(("source", "reference"), [(SOURCE, True), (large(), False)])
def test_tokens_per_parameter_show_every_model_and_a_reference_law_far_from_home(source, reference):
    ax = context_plots.ratio_against_params(axis(), source, frontier_band(source))
    marks = {li.get_gid(): li for li in ax.get_lines() if li.get_gid()}
    assert marks.keys() == {m.name for m in PUBLISHED_MODELS}
    for m in PUBLISHED_MODELS:
        assert marks[m.name].get_ydata()[0] == pytest.approx(m.tokens / m.params)
    labels = {li.get_label() for li in ax.get_lines()}
    assert ("besiroglu2024, a published law" in labels) == reference
    table = figure_table(ax.figure, fit_of(source).points.run)
    assert "Chinchilla" in table


def test_the_second_budget_is_ten_times_the_largest():
    assert further_budget(SOURCE) == pytest.approx(10 * SOURCE.range["flops"].high)


STEPS = [
    {"name": "uniform", "kind": "n-gram", "loss": math.log(500)},
    {"name": "bigram", "kind": "n-gram", "loss": 1.6},
    {"name": "11k on 2M", "kind": "model", "loss": 1.2},
    {"name": "truth", "kind": "limit", "loss": 1.0},
]


def test_a_ladder_shows_the_perplexity_of_every_step():
    ax = context_plots.perplexity_ladder(axis(), [LadderStep(**step) for step in STEPS])
    rows = list(csv.DictReader(io.StringIO(figure_table(ax.figure))))
    points = {int(float(r["y"])): float(r["x"]) for r in rows if r["kind"] == "point"}
    assert points == pytest.approx({i: math.exp(s["loss"]) for i, s in enumerate(STEPS)})
    assert [t.get_text() for t in ax.get_yticklabels()] == [s["name"] for s in STEPS]
    assert [r["name"] for r in rows if r["kind"] == "label"] == ["500", "4.95", "3.32", "2.72"]
    assert ax.get_xscale() == "log" and ax.yaxis_inverted()


def test_the_report_draws_the_ladder_that_lies_beside_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("fit.report.figures.FIGURES", {"ladder": FIGURES["ladder"]})
    fit = make_fit(source={"path": str(tmp_path), "hash": "sha256:0"})
    source = ScalingLaw.from_fit(fit)
    assert "ladder" not in draw_figures(figure_inputs(source))
    path = tmp_path / LADDER_NAME
    path.write_text(json.dumps({"schema": LADDER_SCHEMA, "steps": STEPS}))
    inputs = figure_inputs(source)
    drawn = draw_figures(inputs)["ladder"]
    assert drawn.shown >= {"n-gram", "model", "limit"}
    caption = figure_caption("ladder", inputs, drawn.shown)
    assert "Kneser-Ney" in caption and "no model can pass" in caption
    assert "Kneser-Ney" not in figure_caption("ladder", inputs, {"model"})
    path.write_text("{")
    assert FIGURES["ladder"].draw(figure_inputs(source)) is None
