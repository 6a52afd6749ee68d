"""Registry of the figures in a report, and their rendering as PDF, SVG and CSV.

A figure is one entry in `FIGURES`: how it is drawn, in which section it stands and its width. To
add one, write a function that draws on axes (`plots.py`: the law and the runs, `check_plots.py`:
checks of the fit, `context_plots.py`: costs, published models, skills), arrange its panels in a
function here, add the entry, and its caption in `captions.py`.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation import costs
from fit.allocation.scaling_law import (
    FrontierBand,
    ScalingLaw,
    fit_of,
    frontier_band,
    further_budget,
    splits_budgets,
)
from fit.data.progress import report_stage
from fit.data.records import Floats
from fit.data.table import score_columns
from fit.errors import RefusedError
from fit.query.answer import answer
from fit.query.documents import Answer
from fit.query.question import Question
from fit.report import check_plots, context_plots, plots, scores
from fit.report.figure_data import (
    LadderStep,
    ShapeSkills,
    figure_table,
    read_curves,
    read_ladder,
    shown_series,
)
from fit.report.legends import lay_out, legend, shared_legend
from fit.scores.law import ScoreLaw, score_laws, score_path
from fit.verdict import Verdict, worst

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
"""Width of the text on paper [inches]; figures are drawn at that size. With its heading and caption
none but those of several rows is higher than a third of a page, so that no more is left empty."""
MOST_SKILLS = 9
REACH, REACH_OVER_ANSWER = 100.0, 2.0
"""Curves end at this many times the largest budget, or this many times that of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFigure:
    """A figure in every form that is written."""

    pdf: bytes
    svg: bytes
    csv: str
    """The data drawn; columns as in `figure_data.COLUMNS`."""
    shown: frozenset[str]
    """Labels of the marks that are seen in it, which its caption explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureInputs:
    """Data from which the figures of a fit and their captions are made."""

    source: ScalingLaw
    best: FrontierBand | None
    """Efficient frontier; None where the law has none, or the fit or its answers are refused."""
    answers: tuple[Answer, ...]
    """That at the largest budget fitted, and that to the question; empty without a frontier."""
    asked: Question | None
    """The question of page 1; None where the user put none, and page 1 has the default."""
    verdict: Verdict
    """The worst of the answers' and the fit's verdicts; of equal ones that of page 1's answer."""
    request: costs.ReportRequest
    shapes: tuple[ShapeSkills, ...]
    """Losses by skill and shape; empty where there are none."""
    ladder: tuple[LadderStep, ...] = ()
    """N-grams, models and the truth, where they were measured beside the runs."""
    scores: tuple[ScoreLaw, ...] = ()
    """Laws of the runs' scores, in the order in which they are reached."""
    curves: Mapping[int, Floats] = field(default_factory=dict)
    """Training curves by the place of the run, where they lie beside the runs."""

    @property
    def budget(self) -> float:
        """The budget of page 1's answer [FLOP]: the one asked for, or ten times the largest."""
        return self.answers[-1].flops.value if self.answers else further_budget(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigure:
    """An entry of the registry."""

    section: str
    draw: Callable[[FigureInputs], Figure | None]
    """Draws the figure; None where the fit has nothing to show in it."""
    width: int = 100
    """Percent of the text's width on paper."""


def figure_inputs(
    source: ScalingLaw,
    request: costs.ReportRequest | None = None,
    asked: Question | None = None,
) -> FigureInputs:
    """Gather the data from which the figures of a fit are drawn.

    Args:
        source: A fit as a source.
        request: Plots and prices that are requested beside the fit.
        asked: The question that page 1 answers; None is the default, ten times the largest budget.

    Raises:
        QueryError: The question has no answer as posed, such as limits that conflict.
    """
    fit = fit_of(source)
    request = request or costs.ReportRequest()
    entropy, p = fit.data.get("entropy_by_skill"), fit.points
    shapes = context_plots.losses_by_skill(entropy or {}, p.columns, p.loss, p.tokens, p.params)
    best, verdict = None, fit.verdict
    answers: tuple[Answer, ...] = ()
    if asked is not None:
        source.law.check_split()
    if splits_budgets(source) and not verdict.refused:
        machine: dict[str, Any] = {}
        if request.price is not None and request.device is not None:
            machine = {k: getattr(request, k) for k in ("price", "device", "mfu")}
        first = Question(source=source, flops=fit.range["flops"].high, **machine)
        default = Question(source=source, flops=further_budget(source), **machine)
        try:
            answers = tuple(map(answer, (first, asked or default)))
            reach = max(REACH, REACH_OVER_ANSWER * (answers[-1].reach or 1.0))
            best = frontier_band(source, beyond=reach)
            verdict = worst(*(a.verdict for a in reversed(answers)), verdict)
        except RefusedError as error:
            verdict = Verdict(verdict="refuse", reason=error.reason, message=str(error))
    folder = Path(str(fit.source.get("path") or ""))
    laws = score_laws(source)[0] if best is not None and score_columns(p.columns) else ()
    return FigureInputs(
        source=source,
        scores=scores.ordered(laws, score_path(source))[: scores.MOST_SCORES] if laws else (),
        best=best,
        answers=answers,
        verdict=verdict,
        asked=asked,
        request=request,
        shapes=shapes if len({r.depth for r in shapes}) > 1 else (),
        ladder=read_ladder(folder),
        curves=read_curves(folder, p.run),
    )


def draw_figures(inputs: FigureInputs) -> dict[str, RenderedFigure]:
    """Draw every figure that a fit has something to show in, by name.

    Raises:
        QueryError: The request cannot be met, such as a negative number of tokens.
    """
    runs = fit_of(inputs.source).points.run
    rendered = {}
    # Figures are full of reference cycles; looking for them all along takes a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for place, (name, figure) in enumerate(FIGURES.items(), 1):
            report_stage(f"report: figure {place} of {len(FIGURES)}")
            rendered[name] = _render(name, figure.draw, inputs, runs)
    finally:
        if collecting:
            gc.enable()
    return {name: image for name, image in rendered.items() if image is not None}


def draw_shapes(shapes: tuple[ShapeSkills, ...]) -> dict[str, RenderedFigure]:
    """Draw the figures of a report on shapes, which needs no fit."""
    order = _render("order", lambda s: scores.draw_order(_figure(4.0), s), shapes, ())
    drawn = {"order": order, "skills": _render("skills", _shape_figure, shapes, ())}
    return {name: image for name, image in drawn.items() if image is not None}


def _render(
    name: str, draw: Callable[[Any], Figure | None], inputs: Any, runs: tuple[str, ...]
) -> RenderedFigure | None:
    """Draw a figure and save it as PDF, SVG and CSV, without dates."""
    import matplotlib

    # The salt makes the ids inside an SVG differ between figures and repeat from run to run.
    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = draw(inputs)
        if figure is None:
            return None
        lay_out(figure)
        pdf, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
        figure.savefig(svg, format="svg", metadata={"Date": None})
        table = figure_table(figure, runs)
        shown = shown_series(figure)
        return RenderedFigure(pdf=pdf.getvalue(), svg=svg.getvalue(), csv=table, shown=shown)


def _figure(height: float, width: float = WIDE) -> Figure:
    """An empty figure of a size in inches; independent of pyplot and of any screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(count: int, across: int, height: float, **shared: Any) -> tuple[Figure, Any]:
    """A figure of so many panels in rows, each row of a height in inches; and its panels."""
    down = -(-count // across)
    figure = _figure(height * down)
    panels = figure.subplots(down, across, squeeze=False, **shared).ravel()
    for ax in panels[count:]:
        ax.remove()
    return figure, panels[:count]


def _loss_compute(inputs: FigureInputs) -> Figure | None:
    if not splits_budgets(inputs.source):
        return None
    figure = _figure(2.9)
    ax = figure.subplots()
    plots.loss_against_compute(ax, inputs.source, inputs.best)
    if inputs.answers:
        reply = inputs.answers[-1]
        run = reply.loss_next_run
        plots.mark_answer(ax, reply.flops.value, reply.loss.value, (run.low, run.high))
        labels = ("law at one size", "fitted E", "known entropy", plots.ANSWER)
        legend(ax, plots.legend_order(inputs.source, *labels))
    return figure


def _optimum(inputs: FigureInputs) -> Figure | None:
    if inputs.best is None:
        return None
    figure = _figure(2.3)
    for ax, quantity in zip(figure.subplots(1, 2), ("params", "tokens"), strict=True):
        plots.optimum_against_compute(ax, inputs.source, inputs.best, quantity)
        context_plots.draw_models(ax, inputs.best, quantity)
        if inputs.answers:
            reply = inputs.answers[-1]
            number = getattr(reply, quantity)
            plots.mark_answer(ax, reply.flops.value, number.value, (number.low, number.high))
    order = plots.legend_order(inputs.source, plots.ANSWER, "published models")
    shared_legend(figure, order)
    return figure


def _models(inputs: FigureInputs) -> Figure | None:
    if inputs.best is None:
        return None
    figure = _figure(2.6)
    context_plots.ratio_against_params(figure.subplots(), inputs.source, inputs.best)
    return figure


def _price(inputs: FigureInputs) -> Figure | None:
    if inputs.best is None:
        return None
    price = costs.next_price(inputs.source, inputs.best.flops)
    if not (price.value <= context_plots.MOST_TIMES * inputs.best.flops).any():
        return None
    figure = _figure(1.6)
    context_plots.next_price(figure.subplots(), inputs.source, inputs.best, price)
    return figure


def serving_costs_of(inputs: FigureInputs) -> costs.ServingCosts | None:
    """Costs of training and serving by model size, where serving was requested."""
    if inputs.best is None or inputs.request.serve_tokens is None:
        return None
    return costs.serving_costs(inputs.source, inputs.budget, inputs.request.serve_tokens)


def _serving(inputs: FigureInputs) -> Figure | None:
    if (costs_by_size := serving_costs_of(inputs)) is None:
        return None
    figure = _figure(2.3, 5.2)
    context_plots.lifetime_cost(figure.subplots(), costs_by_size)
    return figure


def limited_law(inputs: FigureInputs) -> tuple[FrontierBand, ScalingLaw, float] | None:
    """Frontier, law and number of unique tokens, where their limit was requested."""
    unique = inputs.request.unique_tokens
    limited = None if unique is None else costs.with_unique_tokens(inputs.source, unique)
    if inputs.best is None or limited is None or unique is None:
        return None
    return inputs.best, limited, unique


def _repeats(inputs: FigureInputs) -> Figure | None:
    if (limit := limited_law(inputs)) is None:
        return None
    best, limited, unique = limit
    figure = _figure(2.3)
    left, right = figure.subplots(1, 2)
    context_plots.repeats_loss(left, best, inputs.source, limited)
    context_plots.repeats_epochs(right, best, limited, unique)
    return figure


def _skills(inputs: FigureInputs) -> Figure | None:
    return None if len(inputs.shapes) < 2 else _shape_figure(inputs.shapes)


def _shape_figure(shapes: tuple[ShapeSkills, ...]) -> Figure:
    """A panel per skill over the grid of shapes."""
    rows = context_plots.shapes_shown(shapes)
    shown = context_plots.skills_shown(rows)[:MOST_SKILLS]
    cell = 0.36 if any(r.scores for r in rows) else 0.25  # of three lines, or of two
    height = 0.55 + cell * len({r.depth for r in rows})
    figure, panels = _panels(len(shown), min(3, len(shown)), height)
    for ax, skill in zip(panels, shown, strict=True):
        context_plots.skill_by_shape(ax, rows, skill)
    return figure


def _scores(inputs: FigureInputs) -> Figure | None:
    """A panel per score against compute."""
    if not (laws := inputs.scores):
        return None
    figure, panels = _panels(len(laws), 2 if len(laws) == 4 else min(3, len(laws)), 2.2)
    for ax, law in zip(panels, laws, strict=True):
        scores.draw_score(ax, law, inputs.source)
    return figure


def _scores_by_loss(inputs: FigureInputs) -> Figure | None:
    if not inputs.scores:
        return None
    figure = _figure(2.8, 4.8)
    scores.draw_score_by_loss(figure.subplots(), inputs.scores)
    return figure


def _training(inputs: FigureInputs) -> Figure | None:
    fit = fit_of(inputs.source)
    if not len(check_plots.training_gaps(fit, inputs.curves)):
        return None
    figure = _figure(2.6)
    left, right = figure.subplots(1, 2)
    check_plots.training_curves(left, right, fit, inputs.curves)
    return figure


def _isoflop(inputs: FigureInputs) -> Figure | None:
    if not splits_budgets(inputs.source):
        return None
    figure = _figure(2.5)
    plots.isoflop_curves(figure.subplots(), inputs.source, inputs.best)
    return figure


def _surface(inputs: FigureInputs) -> Figure | None:
    if inputs.best is None:
        return None
    figure = _figure(2.75)
    plots.loss_surface(figure.subplots(), inputs.source, inputs.best)
    return figure


def _tokens(inputs: FigureInputs) -> Figure | None:
    if inputs.best is None:  # lines at one D would show a law that the runs do not determine
        return None
    figure = _figure(2.4)
    plots.loss_against_params(figure.subplots(), inputs.source)
    return figure


def _fit(inputs: FigureInputs) -> Figure:
    figure = _figure(2.0)
    left, right = figure.subplots(1, 2)
    check_plots.fit_against_measurement(left, right, inputs.source)
    return figure


def _residuals(inputs: FigureInputs) -> Figure:
    fit = fit_of(inputs.source)
    p = fit.points
    against = {plots.N_LABEL: p.params, plots.D_LABEL: p.tokens}
    for column in inputs.source.law.columns:
        if column in p.columns:
            against[column.replace("_", " ").capitalize()] = p.columns[column]
    if {"width", "depth"} <= p.columns.keys() and len(np.unique(p.columns["depth"])) > 1:
        against["Width over depth"] = p.columns["width"] / p.columns["depth"]
    against["Tokens per parameter D/N"] = p.tokens / p.params
    against = {label: v for label, v in against.items() if v.max() > 1.05 * v.min()}
    across = len(against) if len(against) < 5 else 3
    height = 1.75 if len(against) <= across else 1.45
    figure, panels = _panels(len(against), across, height, sharey=True)
    for place, (ax, (label, values)) in enumerate(zip(panels, against.items(), strict=True)):
        check_plots.residuals_against_count(ax, fit, values, x=label)
        if place % across:
            ax.set_ylabel("")
    return figure


def _holdout(inputs: FigureInputs) -> Figure | None:
    fit = fit_of(inputs.source)
    if fit.holdout is None and not fit.rolling:
        return None
    figure = _figure(2.2, WIDE if fit.rolling else 4.2)
    panels = figure.subplots(1, 2 if fit.rolling else 1, squeeze=False).ravel()
    check_plots.holdout_errors(panels[0], fit)
    if fit.rolling:
        check_plots.holdout_coverage(panels[1], fit)
    return figure


def _curves(inputs: FigureInputs) -> Figure | None:
    if not (curves := fit_of(inputs.source).curves).get("lines"):
        return None
    figure = _figure(2.3)
    left, right = figure.subplots(1, 2)
    check_plots.normalised_curves(left, curves)
    check_plots.curve_deviations(right, curves)
    return figure


def _ladder(inputs: FigureInputs) -> Figure | None:
    if not inputs.ladder:
        return None
    figure = _figure(0.7 + 0.19 * len(inputs.ladder), 5.2)
    context_plots.perplexity_ladder(figure.subplots(), inputs.ladder)
    return figure


def _phase(inputs: FigureInputs) -> Figure | None:
    if not (fit := fit_of(inputs.source)).curves.get("phase"):
        return None
    figure = _figure(2.2, 4.6)
    check_plots.residuals_by_event(figure.subplots(), fit)
    return figure


PRICES = "What it costs"
"""A section of page 2."""
SIZES, SCORES, COSTS, SHAPES, FIT, CHECKS = (
    "Sizes and tokens", "Scores", "Costs", "Width and depth", "Fit and measurement", "Checks",
)  # fmt: skip
"""Titles of sections; they stand in the report in the order in which the registry names them."""
FIGURES: Mapping[str, ReportFigure] = {
    "loss-compute": ReportFigure(section="", draw=_loss_compute),
    "optimum": ReportFigure(section=SIZES, draw=_optimum),
    "isoflop": ReportFigure(section=SIZES, draw=_isoflop),
    "surface": ReportFigure(section=SIZES, draw=_surface),
    "models": ReportFigure(section=SIZES, draw=_models),
    "tokens": ReportFigure(section=SIZES, draw=_tokens),
    "training": ReportFigure(section=SIZES, draw=_training),
    "ladder": ReportFigure(section=SIZES, draw=_ladder, width=78),
    "scores": ReportFigure(section=SCORES, draw=_scores),
    "scores-loss": ReportFigure(section=SCORES, draw=_scores_by_loss, width=72),
    "price": ReportFigure(section=PRICES, draw=_price),
    "serving": ReportFigure(section=COSTS, draw=_serving, width=78),
    "repeats": ReportFigure(section=COSTS, draw=_repeats),
    "skills": ReportFigure(section=SHAPES, draw=_skills),
    "fit": ReportFigure(section=FIT, draw=_fit),
    "residuals": ReportFigure(section=FIT, draw=_residuals),
    "phase": ReportFigure(section=CHECKS, draw=_phase, width=70),
    "curves": ReportFigure(section=CHECKS, draw=_curves),
    "holdout": ReportFigure(section=CHECKS, draw=_holdout),
}
"""All figures, in the order in which they stand in the report."""
