"""Every figure of a report by name: drawn once, kept as PDF, as SVG and as the data drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fit import axes, checkplots, modelplots, moneyplots, plots, prices, shapeplots
from fit.bands import Frontier, fit_of, frontier_of, further_budget, splits_budgets
from fit.drawn import drawn_table
from fit.result import Fit
from fit.shapesheet import shaped
from fit.skills import Shaped
from fit.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure in every form that is kept."""

    pdf: bytes
    svg: bytes
    csv: str
    """The data drawn; see `drawn.COLUMNS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What figures are drawn from."""

    source: Source
    best: Frontier | None
    """None where the runs tell no frontier."""
    asked: prices.Asked
    shapes: tuple[Shaped, ...]
    """Losses by skill and shape; empty where there are none."""


def scene_of(source: Source, asked: prices.Asked) -> Scene:
    """What the figures of a fit are drawn from."""
    return Scene(
        source=source, best=frontier_of(source), asked=asked, shapes=_shapes(fit_of(source))
    )


def draw_shapes(shapes: tuple[Shaped, ...]) -> dict[str, Drawn]:
    """The figure of a report on shapes alone."""
    import matplotlib

    style: Any = {**STYLE, "svg.hashsalt": "skills"}
    with matplotlib.rc_context(style):
        return {"skills": _drawn(shape_figure(shapes), ())}


def draw_figures(source: Source, asked: prices.Asked | None = None) -> dict[str, Drawn]:
    """Draw every figure that a fit has something to show in, by name.

    Args:
        source: A fit as a source.
        asked: What is asked for beside the fit.

    Raises:
        QueryError: What is asked for cannot be meant.
    """
    import matplotlib

    scene = scene_of(source, asked or prices.Asked())
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


def _drawn(figure: Figure, names: tuple[str, ...]) -> Drawn:
    """A figure in every form, without dates."""
    pdf, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    figure.set_layout_engine("none")  # it is laid out; doing it again would cost as much as drawing
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return Drawn(pdf=pdf.getvalue(), svg=svg.getvalue(), csv=drawn_table(figure, names))


def _figure(height: float, width: float = WIDE) -> Figure:
    """An empty figure of a size in inches; independent of pyplot and of any screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _loss_compute(scene: Scene) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(2.25)
    plots.loss_against_compute(figure.subplots(), scene.source, scene.best)
    return figure


def _optimum(scene: Scene) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.2)
    left, right = figure.subplots(1, 2)
    plots.optimum_against_compute(left, scene.source, scene.best, "params")
    plots.optimum_against_compute(right, scene.source, scene.best, "tokens")
    for ax, quantity in ((left, "params"), (right, "tokens")):
        modelplots.overlay(ax, scene.best, quantity)
        axes.legend(ax, plots.legend_order(scene.source, *BESIDE))
    return figure


def _models(scene: Scene) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.4)
    modelplots.ratio_against_params(figure.subplots(), scene.source, scene.best)
    return figure


def _price(scene: Scene) -> Figure | None:
    if scene.best is None:
        return None
    price = prices.next_price(scene.source, scene.best.flops)
    if not (price.value <= moneyplots.MOST_TIMES * scene.best.flops).any():
        return None
    figure = _figure(2.7, 5.2)
    moneyplots.next_price(figure.subplots(), scene.source, scene.best, price)
    return figure


def _serving(scene: Scene) -> Figure | None:
    if scene.best is None or scene.asked.serve_tokens is None:
        return None
    found = prices.lifetimes(scene.source, further_budget(scene.source), scene.asked.serve_tokens)
    if found is None:
        return None
    figure = _figure(2.8, 5.2)
    moneyplots.lifetime_cost(figure.subplots(), found)
    return figure


def _repeats(scene: Scene) -> Figure | None:
    unique = scene.asked.unique_tokens
    scarce = None if unique is None else prices.repeated(scene.source, unique)
    if scene.best is None or scarce is None or unique is None:
        return None
    figure = _figure(2.8)
    left, right = figure.subplots(1, 2)
    moneyplots.repeats_loss(left, scene.best, scene.source, scarce)
    moneyplots.repeats_epochs(right, scene.best, scarce, unique)
    return figure


def _skills(scene: Scene) -> Figure | None:
    return None if len(scene.shapes) < 2 else shape_figure(scene.shapes)


def shape_figure(shapes: tuple[Shaped, ...]) -> Figure:
    """A panel per skill over the grid of shapes."""
    rows = shapeplots.shapes_shown(shapes)
    shown = shapeplots.skills_shown(rows)[:MOST_SKILLS]
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = _figure(0.3 + down * (0.72 + 0.29 * len({r.depth for r in rows})))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for ax, skill in zip(panels, shown, strict=False):
        shapeplots.skill_by_shape(ax, rows, skill)
    for ax in panels[len(shown) :]:
        ax.remove()
    return figure


def _shapes(fit: Fit) -> tuple[Shaped, ...]:
    """Losses by skill and shape of the fitted runs, where they have several."""
    known, p = fit.data.get("entropy_by_skill"), fit.points
    rows = shaped(known or {}, p.columns, p.loss, p.tokens, p.params)
    return rows if len({r.depth for r in rows}) > 1 else ()


def _isoflop(scene: Scene) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(3.7)
    plots.isoflop_curves(figure.subplots(), scene.source, scene.best)
    return figure


def _surface(scene: Scene) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.9)
    plots.loss_surface(figure.subplots(), scene.source, scene.best)
    return figure


def _tokens(scene: Scene) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(3.3)
    plots.loss_against_params(figure.subplots(), scene.source)
    return figure


def _fit(scene: Scene) -> Figure:
    figure = _figure(4.6, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(2.6, 1))
    checkplots.fit_against_measurement(upper, lower, scene.source)
    return figure


def _residuals(scene: Scene) -> Figure:
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
        checkplots.residuals_against_count(ax, fit, values, x=label)
    for place, ax in enumerate(panels):
        if place % across:
            ax.set_ylabel("")
        if place >= len(against):
            ax.remove()
    return figure


def _approaches(scene: Scene) -> Figure | None:
    fit = fit_of(scene.source)
    if scene.best is None or not fit.exponents:
        return None
    figure = _figure(2.9)
    left, right = figure.subplots(1, 2)
    checkplots.exponents(left, fit)
    checkplots.approaches(right, scene.source, scene.best)
    return figure


def _holdout(scene: Scene) -> Figure | None:
    fit = fit_of(scene.source)
    if fit.holdout is None and not fit.rolling:
        return None
    if not fit.rolling:
        figure = _figure(2.6, 4.2)
        checkplots.holdout_errors(figure.subplots(), fit)
        return figure
    figure = _figure(2.6)
    left, right = figure.subplots(1, 2)
    checkplots.holdout_errors(left, fit)
    checkplots.holdout_coverage(right, fit)
    return figure


def _influence(scene: Scene) -> Figure | None:
    fit = fit_of(scene.source)
    if scene.best is None or not fit.influence:
        return None
    figure = _figure(2.5)
    checkplots.influence(figure.subplots(), fit)
    return figure


FIGURES: Mapping[str, Callable[[Scene], Figure | None]] = {
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
