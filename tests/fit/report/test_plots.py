"""Figures: their artists and data, not their pixels."""

import csv
import dataclasses
import io

import matplotlib
import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

from fit.allocation.scaling_law import ScalingLaw, frontier_band, identified_frontier
from fit.diagnostics import approaches
from fit.report import check_plots, plots
from fit.report.figure_data import figure_table
from fit.report.figures import FIGURES, STYLE, WIDE, figure_inputs
from fit.results import Rolled
from tests.fit.builders import make_fit, make_points, plain_points

SOURCE = ScalingLaw.from_fit(make_fit())
BEST = frontier_band(SOURCE)


def axis():
    return Figure().subplots()


def line(ax, label):
    return next(li for li in ax.get_lines() if li.get_label() == label)


def legend_of(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def draw_all(source):
    best = frontier_band(source)
    panels = Figure().subplots(3, 3).ravel()
    plots.loss_against_compute(panels[0], source, best)
    plots.isoflop_curves(panels[1], source, best)
    plots.loss_against_params(panels[2], source)
    plots.optimum_against_compute(panels[3], source, best, "params")
    plots.optimum_against_compute(panels[4], source, best, "tokens")
    check_plots.fit_against_measurement(panels[5], panels[6], source)
    check_plots.residuals_against_count(panels[7], source.fit, source.fit.points.params, x="N")
    plots.loss_surface(panels[8], source, best)
    return panels


def test_every_figure_returns_the_axes_it_was_given():
    best, ax = BEST, axis()
    assert plots.loss_against_compute(ax, SOURCE, best) is ax
    assert plots.isoflop_curves(axis(), SOURCE, best).figure is not ax.figure
    for quantity in ("params", "tokens"):
        ax = axis()
        assert plots.optimum_against_compute(ax, SOURCE, best, quantity) is ax


def test_figures_leave_the_global_settings_alone():
    before = dict(matplotlib.rcParams)
    draw_all(SOURCE)
    assert dict(matplotlib.rcParams) == before


def test_points_are_the_runs_on_one_colour_scale():
    p = SOURCE.fit.points
    scales = set()
    for ax in draw_all(SOURCE):
        points = next(c for c in ax.collections if c.get_label() == "runs")
        assert len(points.get_offsets()) == len(p.run)
        assert np.array_equal(points.get_array(), p.flops)
        scales.add((points.norm.vmin, points.norm.vmax))
    assert scales == {(p.flops.min(), p.flops.max())}


def test_the_frontier_is_solid_inside_the_runs_and_dashed_beyond():
    ax = plots.loss_against_compute(axis(), SOURCE, BEST)
    top = SOURCE.range["flops"].high
    solid, dashed = line(ax, "law"), line(ax, "extrapolation")
    assert max(solid.get_xdata()) == pytest.approx(top)
    assert min(dashed.get_xdata()) == pytest.approx(top)
    assert solid.get_linestyle() == "-"
    assert dashed.is_dashed()


def test_the_frontier_is_the_best_split_with_its_interval():
    assert np.all(np.diff(BEST.loss.value) < 0)
    for curve in (BEST.params, BEST.tokens, BEST.loss):
        assert np.all(curve.low < curve.value)
        assert np.all(curve.value < curve.high)
    best = SOURCE.best(BEST.flops)
    assert np.exp(best.log_params) == pytest.approx(BEST.params.value)


def test_the_legend_tells_points_lines_bands_and_dashes_apart():
    ax = plots.loss_against_compute(axis(), SOURCE, BEST)
    assert legend_of(ax)[:4] == ["runs", "law", "extrapolation", "90% confidence"]
    assert {"fitted E", "known entropy"} <= set(legend_of(ax))


def test_labels_carry_units_and_ticks_are_plain():
    ax = plots.isoflop_curves(axis(), SOURCE, BEST)
    assert ax.get_xlabel() == "Parameters N"
    assert ax.get_ylabel() == "Loss [nats/token]"
    ax.figure.canvas.draw()
    ticks = [t.get_text() for t in ax.get_xticklabels()]
    assert "100k" in ticks
    assert all("e" not in t for t in ticks)


def test_isoflop_curves_end_where_their_law_is():
    ax = plots.isoflop_curves(axis(), SOURCE, BEST)
    bottoms, beyond = line(ax, "optimum N*"), ax.get_lines()[-1]
    joined = np.concatenate([bottoms.get_xdata(), beyond.get_xdata()[1:]])
    assert np.array_equal(joined, BEST.params.value)
    assert beyond.is_dashed()


def test_the_answer_is_marked_with_its_interval():
    ax = axis()
    plots.mark_answer(ax, 1e14, 1.5, (1.4, 1.6))
    star = line(ax, plots.ANSWER)
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1e14, 1.5)
    assert ax.collections[0].get_segments()[0][:, 1].tolist() == [1.4, 1.6]
    bare = axis()
    plots.mark_answer(bare, 1e14, 1.5, (None, None))
    assert not bare.collections


def test_residuals_stand_in_percent_under_the_fit():
    upper, lower = Figure().subplots(2, 1)
    check_plots.fit_against_measurement(upper, lower, SOURCE)
    points = next(c for c in lower.collections if c.get_label() == "runs")
    expected = 100 * np.expm1(SOURCE.fit.points.residual)
    assert np.asarray(points.get_offsets())[:, 1] == pytest.approx(expected)
    assert lower.get_ylabel() == "Residual [%]"
    assert lower.get_xlim() == upper.get_xlim()


def test_shared_budgets_are_found_and_others_made():
    shared = np.repeat([1e13, 3e13, 1e14], 5) * np.tile([0.99, 1.0, 1.01, 1.005, 0.995], 3)
    assert approaches.budgets_of(shared) == pytest.approx([1e13, 3e13, 1e14], rel=1e-2)
    spread = np.geomspace(1e12, 1e15, 30)
    made = approaches.budgets_of(spread)
    assert len(made) == 6
    assert spread.min() < made.min() < made.max() < spread.max()


@pytest.mark.parametrize(
    "changes",
    [
        {"points": plain_points(), "convention": {"params": "as given", "flops": "6nd"}},
        {"points": make_points(tokens=np.full(25, 1e6))},
        {"points": make_points(flops=np.full(25, 1e12))},
        {"cross_checks": (), "data": {}, "noise": 0.0},
        {"theta": {**make_fit().theta, "E": 0.0}},
        {"draws": np.empty((0, 5))},
        {"interval": dataclasses.replace(make_fit().interval, quantile=None)},
    ],
)
def test_unusual_fits_are_drawn_without_a_warning(changes):
    for ax in draw_all(ScalingLaw.from_fit(make_fit(**changes))):
        ax.figure.canvas.draw()
        assert ax.has_data()


def test_bands_from_draws_may_be_unbounded():
    fit = make_fit()
    draws = np.array(fit.draws)
    draws[::4, 3:] = -0.5
    pairs = dataclasses.replace(fit.interval, method="pairs")
    source = ScalingLaw.from_fit(dataclasses.replace(fit, draws=draws, interval=pairs))
    for ax in draw_all(source):
        ax.figure.canvas.draw()
        assert ax.has_data()


REFUSED = ScalingLaw.from_fit(make_fit(kappa=2000.0))


def test_a_refused_fit_has_no_frontier_and_none_is_drawn():
    assert identified_frontier(REFUSED) is None
    for draw in (plots.loss_against_compute, plots.isoflop_curves):
        ax = draw(axis(), REFUSED, None)
        assert not any(
            li.is_dashed() and li.get_label() == "extrapolation" for li in ax.get_lines()
        )
        assert not {"optimum N*", "efficient frontier", "extrapolation"} & set(legend_of(ax))
        assert "runs" in legend_of(ax)


def test_the_surface_is_the_law_and_its_valley_the_frontier():
    ax = plots.loss_surface(axis(), SOURCE, BEST)
    surface = next(c for c in ax.collections if isinstance(c, ContourSet))
    for level, lines in zip(surface.levels, surface.allsegs, strict=True):
        for n, d in (p for segment in lines for p in segment[::7]):
            loss = float(np.exp(SOURCE.log_losses(np.array([n]), np.array([d]))(SOURCE.theta))[0])
            assert loss == pytest.approx(level, rel=1e-3)
    solid = line(ax, "efficient frontier")
    assert np.array_equal(solid.get_ydata(), BEST.tokens.value[BEST.inside])


def test_coverage_stands_against_what_chance_allows():
    rolled = Rolled(
        budget=1e12,
        runs=20,
        below=30,
        mean_relative_error=0.01,
        max_relative_error=0.02,
        covered=0.8,
    )
    ax = check_plots.holdout_coverage(axis(), make_fit(rolling=(rolled,)))
    segment = ax.collections[0].get_segments()[0]
    expected = 100 * np.array(stats.binom.interval(0.9, 20, 0.9)) / 20
    assert segment[:, 1] == pytest.approx(expected)
    assert line(ax, "runs inside").get_ydata()[0] == pytest.approx(80)


def test_legends_hide_no_data_and_letters_can_be_read_and_cover_no_others():
    for name, figure in FIGURES.items():
        with matplotlib.rc_context(dict(STYLE)):
            drawn = figure.draw(figure_inputs(SOURCE))
            if drawn is None:
                continue
            drawn.draw_without_rendering()
        boxes = [ax.get_window_extent() for ax in drawn.axes]
        legends = [*drawn.legends, *filter(None, (ax.get_legend() for ax in drawn.axes))]
        assert legends or name == "residuals", name
        for legend in legends:
            box = legend.get_window_extent()
            assert not any(box.y0 < b.y1 - 1 and box.overlaps(b) for b in boxes), name
            assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1, name
        scale = figure.width / 100 * WIDE / drawn.get_figwidth()
        out = {id(label) for ax in drawn.axes for label in labels_out_of_sight(ax)}
        texts = [t for t in drawn.findobj(Text) if t.get_text() and t.get_visible()]
        texts = [t for t in texts if id(t) not in out]
        assert min(t.get_fontsize() for t in texts) * scale >= 7, name
        boxes = [t.get_window_extent().padded(-1) for t in texts]
        for place, (text, box) in enumerate(zip(texts, boxes, strict=True)):
            assert not box.count_overlaps(boxes[:place]), (name, text.get_text())
            assert drawn.bbox.count_contains(box.corners()) == 4, (name, text.get_text())


def labels_out_of_sight(ax):
    """Labels of ticks beyond the limits, which are not drawn."""
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def test_the_table_beside_a_figure_has_what_is_drawn():
    figure = Figure()
    plots.loss_against_compute(figure.subplots(), SOURCE, BEST)
    rows = list(csv.DictReader(io.StringIO(figure_table(figure, SOURCE.fit.points.run))))
    runs = [r for r in rows if r["series"] == "runs"]
    assert [r["name"] for r in runs] == list(SOURCE.fit.points.run)
    assert [float(r["y"]) for r in runs] == pytest.approx(SOURCE.fit.points.loss, rel=1e-8)
    band = [r for r in rows if r["kind"] == "band"]
    assert [float(r["x"]) for r in band] == pytest.approx(BEST.flops, rel=1e-8)
    assert [float(r["low"]) for r in band] == pytest.approx(BEST.loss.low, rel=1e-8)
    assert [float(r["high"]) for r in band] == pytest.approx(BEST.loss.high, rel=1e-8)
    assert {r["series"] for r in rows} >= {"law", "extrapolation", "law at one size", "fitted E"}


def test_a_spreadsheet_runs_no_name_of_a_table():
    figure = Figure()
    check_plots.holdout_errors(figure.subplots(), SOURCE.fit)
    figure.axes[0].set_xlabel("=cmd()")
    assert "'=cmd()" in figure_table(figure)
