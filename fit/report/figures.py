"""Every figure of a report by name: drawn once, kept as PDF, as SVG and as the data drawn.

The data behind a figure, read back from what was drawn, as a table.

Whatever a figure shows stands in its table, since the table is made from the figure.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation import costs
from fit.allocation.scaling_law import (
    FrontierBand,
    ScalingLaw,
    fit_of,
    further_budget,
    identified_frontier,
    splits_budgets,
)
from fit.diagnostics.scans import ShapeSkills
from fit.files import csv_text
from fit.report import check_plots, context_plots, plots
from fit.report.shapes import losses_by_skill, shapes_shown, skill_by_shape, skills_shown
from fit.results import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "panel", "x_label", "y_label", "kind", "series", "x", "y", "low", "high", "flops", "name",
)  # fmt: skip
"""One row per point of an artist: `kind` is point, line, band, interval, contour or label."""
STYLE: Mapping[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.8,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "axes.unicode_minus": True,
    "text.usetex": False,
}
"""Type of the figures; Times-like, as the text around them. Fonts are embedded as outlines."""
WIDE = 6.6
"""Width of the text on paper [inches]; figures are drawn at that size."""
MOST_SKILLS = 9
BESIDE = ("approach 2, isoFLOP", "published models")
"""What stands beside the law where there is any."""


Row = dict[str, Any]


def figure_table(figure: Figure, runs: Sequence[str] = ()) -> str:
    """What a figure shows, as CSV with the columns `COLUMNS`.

    Args:
        figure: A figure; axes without an x label of their own, such as colour bars, are left out.
        runs: Names of the runs, in the order in which points labelled `runs` are drawn.

    Returns:
        The table. A band's row has `low` and `high` in place of `y`, an interval's likewise.
    """
    table = []
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    for number, ax in enumerate(panels, start=1):
        head = {"panel": number, "x_label": ax.get_xlabel(), "y_label": ax.get_ylabel()}
        for row in _rows(ax, runs):
            if all(math.isfinite(v) for v in row.values() if not isinstance(v, str)):
                table.append({**head, **row})
    return csv_text(table, COLUMNS, number_format=".9g")


def _rows(ax: Axes, runs: Sequence[str]) -> Iterator[Row]:
    """Rows of one panel: lines, then points, bands, intervals and contours."""
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection
    from matplotlib.contour import ContourSet

    for line in ax.get_lines():
        yield from _line(ax, line)
    for artist in ax.collections:
        series = _named(artist)
        if isinstance(artist, ContourSet):
            yield from _contours(artist)
        elif isinstance(artist, PolyCollection):
            yield from ({"kind": "band", "series": series, **r} for r in _band(artist))
        elif isinstance(artist, LineCollection):
            yield from ({"kind": "interval", "series": series, **r} for r in _ends(artist))
        elif isinstance(artist, PathCollection):
            yield from ({"kind": "point", "series": series, **r} for r in _points(artist, runs))
    for text in ax.texts:
        x, y = (float(v) for v in text.xy) if hasattr(text, "xy") else text.get_position()
        words = " ".join(text.get_text().split())
        yield {"kind": "label", "series": text.get_gid() or "", "x": x, "y": y, "name": words}


def _line(ax: Axes, line: Any) -> Iterator[Row]:
    """A line, or marks that are joined by none; one right across the panel has one coordinate."""
    marks = line.get_linestyle() in ("None", "none", "", " ")
    along, across = line.get_transform().contains_branch_seperately(ax.transData)
    base = {"kind": "point" if marks else "line", "series": _named(line)}
    base |= {"name": line.get_gid()} if line.get_gid() else {}
    x, y = (np.asarray(v, dtype=float) for v in line.get_data())
    if along and across:
        yield from ({**base, "x": a, "y": b} for a, b in zip(x, y, strict=True))
    elif across and len(y):
        yield {**base, "y": y[0]}
    elif along and len(x):
        yield {**base, "x": x[0]}


def _points(artist: Any, runs: Sequence[str]) -> Iterator[Row]:
    """Points; those of the runs with their names and compute."""
    places, shades = np.asarray(artist.get_offsets(), dtype=float), artist.get_array()
    own = artist.get_label() == "runs" and len(places) == len(runs)
    for i, (x, y) in enumerate(places):
        row: Row = {"x": x, "y": y}
        if shades is not None:
            row["flops"] = float(shades[i])
        yield {**row, "name": runs[i]} if own else row


def _band(artist: Any) -> Iterator[Row]:
    """A band from its outline: out along one edge, back along the other."""
    for path in artist.get_paths():
        corners = path.vertices
        count = (len(corners) - 3) // 2
        one, other = corners[1 : count + 1], corners[count + 2 : 2 * count + 2][::-1]
        for (x, a), (_, b) in zip(one, other, strict=True):
            yield {"x": x, "low": min(a, b), "high": max(a, b)}


def _ends(artist: Any) -> Iterator[Row]:
    """Intervals that stand upright or lie flat."""
    for (x, y), (to_x, to_y) in (s for s in artist.get_segments() if len(s) == 2):
        if x == to_x:
            yield {"x": x, "low": min(y, to_y), "high": max(y, to_y)}
        else:
            yield {"y": y, "low": min(x, to_x), "high": max(x, to_x)}


def _contours(artist: Any) -> Iterator[Row]:
    """Contour lines, each point with its level as the series."""
    for level, lines in zip(artist.levels, artist.allsegs, strict=True):
        for place in (p for line in lines for p in line):
            yield {"kind": "contour", "series": f"{level:g}", "x": place[0], "y": place[1]}


def _named(artist: Any) -> str:
    """The artist's label; none where the library made one up."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFigure:
    """A figure in every form that is kept."""

    pdf: bytes
    svg: bytes
    csv: str
    """The data drawn; see `drawn.COLUMNS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureInputs:
    """What figures are drawn from."""

    source: ScalingLaw
    best: FrontierBand | None
    """None where the runs tell no frontier."""
    asked: costs.ReportRequest
    shapes: tuple[ShapeSkills, ...]
    """Losses by skill and shape; empty where there are none."""


def figure_inputs(source: ScalingLaw, asked: costs.ReportRequest) -> FigureInputs:
    """What the figures of a fit are drawn from."""
    return FigureInputs(
        source=source, best=identified_frontier(source), asked=asked, shapes=_shapes(fit_of(source))
    )


def draw_shapes(shapes: tuple[ShapeSkills, ...]) -> dict[str, RenderedFigure]:
    """The figure of a report on shapes alone."""
    import matplotlib

    style: Any = {**STYLE, "svg.hashsalt": "skills"}
    with matplotlib.rc_context(style):
        return {"skills": _drawn(shape_figure(shapes), ())}


def draw_figures(
    source: ScalingLaw, asked: costs.ReportRequest | None = None
) -> dict[str, RenderedFigure]:
    """Draw every figure that a fit has something to show in, by name.

    Args:
        source: A fit as a source.
        asked: What is asked for beside the fit.

    Raises:
        QueryError: What is asked for cannot be meant.
    """
    import matplotlib

    scene = figure_inputs(source, asked or costs.ReportRequest())
    names = fit_of(source).points.run
    made = {}
    style: Any = dict(STYLE)
    for name, draw in FIGURES.items():
        # The salt makes the ids inside an SVG those of this figure, and the same each time.
        with matplotlib.rc_context({**style, "svg.hashsalt": name}):
            figure = draw(scene)
            if figure is not None:
                made[name] = _drawn(figure, names)
    return made


def _drawn(figure: Figure, names: tuple[str, ...]) -> RenderedFigure:
    """A figure in every form, without dates."""
    pdf, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    figure.set_layout_engine("none")  # it is laid out; doing it again would cost as much as drawing
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return RenderedFigure(pdf=pdf.getvalue(), svg=svg.getvalue(), csv=figure_table(figure, names))


def _figure(height: float, width: float = WIDE) -> Figure:
    """An empty figure of a size in inches; independent of pyplot and of any screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _loss_compute(scene: FigureInputs) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(2.25)
    plots.loss_against_compute(figure.subplots(), scene.source, scene.best)
    return figure


def _optimum(scene: FigureInputs) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.2)
    left, right = figure.subplots(1, 2)
    plots.optimum_against_compute(left, scene.source, scene.best, "params")
    plots.optimum_against_compute(right, scene.source, scene.best, "tokens")
    for ax, quantity in ((left, "params"), (right, "tokens")):
        context_plots.overlay(ax, scene.best, quantity)
        plots.legend(ax, plots.legend_order(scene.source, *BESIDE))
    return figure


def _models(scene: FigureInputs) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.4)
    context_plots.ratio_against_params(figure.subplots(), scene.source, scene.best)
    return figure


def _price(scene: FigureInputs) -> Figure | None:
    if scene.best is None:
        return None
    price = costs.next_price(scene.source, scene.best.flops)
    if not (price.value <= context_plots.MOST_TIMES * scene.best.flops).any():
        return None
    figure = _figure(2.7, 5.2)
    context_plots.next_price(figure.subplots(), scene.source, scene.best, price)
    return figure


def _serving(scene: FigureInputs) -> Figure | None:
    if scene.best is None or scene.asked.serve_tokens is None:
        return None
    found = costs.serving_costs(
        scene.source, further_budget(scene.source), scene.asked.serve_tokens
    )
    if found is None:
        return None
    figure = _figure(2.8, 5.2)
    context_plots.lifetime_cost(figure.subplots(), found)
    return figure


def _repeats(scene: FigureInputs) -> Figure | None:
    unique = scene.asked.unique_tokens
    scarce = None if unique is None else costs.with_unique_tokens(scene.source, unique)
    if scene.best is None or scarce is None or unique is None:
        return None
    figure = _figure(2.8)
    left, right = figure.subplots(1, 2)
    context_plots.repeats_loss(left, scene.best, scene.source, scarce)
    context_plots.repeats_epochs(right, scene.best, scarce, unique)
    return figure


def _skills(scene: FigureInputs) -> Figure | None:
    return None if len(scene.shapes) < 2 else shape_figure(scene.shapes)


def shape_figure(shapes: tuple[ShapeSkills, ...]) -> Figure:
    """A panel per skill over the grid of shapes."""
    rows = shapes_shown(shapes)
    shown = skills_shown(rows)[:MOST_SKILLS]
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = _figure(0.3 + down * (0.72 + 0.29 * len({r.depth for r in rows})))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for ax, skill in zip(panels, shown, strict=False):
        skill_by_shape(ax, rows, skill)
    for ax in panels[len(shown) :]:
        ax.remove()
    return figure


def _shapes(fit: Fit) -> tuple[ShapeSkills, ...]:
    """Losses by skill and shape of the fitted runs, where they have several."""
    known, p = fit.data.get("entropy_by_skill"), fit.points
    rows = losses_by_skill(known or {}, p.columns, p.loss, p.tokens, p.params)
    return rows if len({r.depth for r in rows}) > 1 else ()


def _isoflop(scene: FigureInputs) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(3.7)
    plots.isoflop_curves(figure.subplots(), scene.source, scene.best)
    return figure


def _surface(scene: FigureInputs) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.9)
    plots.loss_surface(figure.subplots(), scene.source, scene.best)
    return figure


def _tokens(scene: FigureInputs) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(3.3)
    plots.loss_against_params(figure.subplots(), scene.source)
    return figure


def _fit(scene: FigureInputs) -> Figure:
    figure = _figure(4.6, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(2.6, 1))
    check_plots.fit_against_measurement(upper, lower, scene.source)
    return figure


def _residuals(scene: FigureInputs) -> Figure:
    fit = fit_of(scene.source)
    p = fit.points
    against = {plots.N_LABEL: p.params, plots.D_LABEL: p.tokens}
    for column in scene.source.law.columns:
        if column in p.columns:
            against[column.replace("_", " ").capitalize()] = p.columns[column]
    if {"width", "depth"} <= p.columns.keys() and len(np.unique(p.columns["depth"])) > 1:
        against["Width over depth"] = p.columns["width"] / p.columns["depth"]
    against["Tokens per parameter D/N"] = p.tokens / p.params
    across = len(against) if len(against) < 5 else 3
    down = -(-len(against) // across)
    figure = _figure(2.2 * down)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for ax, (label, values) in zip(panels, against.items(), strict=False):
        check_plots.residuals_against_count(ax, fit, values, x=label)
    for place, ax in enumerate(panels):
        if place % across:
            ax.set_ylabel("")
        if place >= len(against):
            ax.remove()
    return figure


def _approaches(scene: FigureInputs) -> Figure | None:
    fit = fit_of(scene.source)
    if scene.best is None or not fit.exponents:
        return None
    figure = _figure(2.9)
    left, right = figure.subplots(1, 2)
    check_plots.exponents(left, fit)
    check_plots.approaches(right, scene.source, scene.best)
    return figure


def _holdout(scene: FigureInputs) -> Figure | None:
    fit = fit_of(scene.source)
    if fit.holdout is None and not fit.rolling:
        return None
    if not fit.rolling:
        figure = _figure(2.6, 4.2)
        check_plots.holdout_errors(figure.subplots(), fit)
        return figure
    figure = _figure(2.6)
    left, right = figure.subplots(1, 2)
    check_plots.holdout_errors(left, fit)
    check_plots.holdout_coverage(right, fit)
    return figure


def _influence(scene: FigureInputs) -> Figure | None:
    fit = fit_of(scene.source)
    if scene.best is None or not fit.influence:
        return None
    figure = _figure(2.5)
    check_plots.influence(figure.subplots(), fit)
    return figure


FIGURES: Mapping[str, Callable[[FigureInputs], Figure | None]] = {
    "loss-compute": _loss_compute,
    "optimum": _optimum,
    "isoflop": _isoflop,
    "surface": _surface,
    "tokens": _tokens,
    "models": _models,
    "price": _price,
    "serving": _serving,
    "repeats": _repeats,
    "skills": _skills,
    "fit": _fit,
    "residuals": _residuals,
    "approaches": _approaches,
    "holdout": _holdout,
    "influence": _influence,
}
