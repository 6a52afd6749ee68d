"""Every figure of a report by name: drawn once, kept as PDF, as SVG and as the data drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fit import checkplots, plots
from fit.bands import Frontier, fit_of, frontier_of, splits_budgets
from fit.drawn import drawn_table
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
UNUSED = re.compile(rb' id="(?!m|p|image|D|S|C)[a-z0-9_]+"')


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


def draw_figures(source: Source) -> dict[str, Drawn]:
    """Draw every figure that a fit has something to show in, by name."""
    import matplotlib

    scene = Scene(source=source, best=frontier_of(source))
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
    figure = _figure(2.4)
    plots.loss_against_compute(figure.subplots(), scene.source, scene.best)
    return figure


def _optimum(scene: Scene) -> Figure | None:
    if scene.best is None:
        return None
    figure = _figure(3.2)
    left, right = figure.subplots(1, 2)
    plots.optimum_against_compute(left, scene.source, scene.best, "params")
    plots.optimum_against_compute(right, scene.source, scene.best, "tokens")
    return figure


def _isoflop(scene: Scene) -> Figure | None:
    if not splits_budgets(scene.source):
        return None
    figure = _figure(3.7)
    plots.isoflop_curves(figure.subplots(), scene.source, scene.best)
    return figure


def _surface(scene: Scene) -> Figure | None:
    if not splits_budgets(scene.source):
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
    figure = _figure(2.2)
    against = {plots.N_LABEL: p.params, plots.D_LABEL: p.tokens}
    for column in scene.source.law.columns:
        if column in p.columns:
            against[column.replace("_", " ").capitalize()] = p.columns[column]
    if {"width", "depth"} <= p.columns.keys() and len(np.unique(p.columns["depth"])) > 1:
        against["Width over depth"] = p.columns["width"] / p.columns["depth"]
    against["Tokens per parameter D/N"] = p.tokens / p.params
    panels = figure.subplots(1, len(against), sharey=True)
    for ax, (label, values) in zip(panels, against.items(), strict=True):
        checkplots.residuals_against_count(ax, fit, values, x=label)
    for ax in panels[1:]:
        ax.set_ylabel("")
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
    "fit": _fit,
    "residuals": _residuals,
    "approaches": _approaches,
    "holdout": _holdout,
    "influence": _influence,
}
