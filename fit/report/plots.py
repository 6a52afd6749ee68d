"""Plots of the law with its runs, and the style that all plots share.

A plot function draws on given axes, changes no global settings and writes no files. In every plot
points are runs, lines are the law, bands are intervals of the law, dashes are extrapolation, and
colour is the budget on one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation.allocate import along_budget
from fit.allocation.scaling_law import FrontierBand, IntervalCurve, ScalingLaw, fit_of
from fit.data.records import Floats
from fit.diagnostics.approaches import budgets_of, levels_of, some_of
from fit.quantities import UNITS, percent, power, short
from fit.report.figure_data import EQUAL_LOSS
from fit.report.legends import contour_places, legend
from fit.results import Fit, loss_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm

LAW = "#1a1a1a"
BAND = "#7a7a7a"
FAINT = "#b8b8b8"
CONTOUR = "#6a6a6a"
ACCENT = "#b5402a"
"""Colour of what is neither run nor law: known entropy, cross-checks."""
BLUE = "#3b6fa5"
"""Colour of published models, serving, and the second cross-check."""
SHOWN_OF_MAP = (0.0, 0.86)
"""Part of viridis that is used: its end is too pale on paper."""
RUN_SIZE = 14.0
SURFACE = 90
"""Points along each side of the loss surface."""
DASHED = (0, (4, 2.2))
"""Dash pattern of extrapolation, beyond the runs."""
UNBOUNDED = 1e3
"""An unbounded band is drawn to this factor above and below the law."""
NEAR_RUNS = 0.3
"""A fitted E below this share of the lowest loss is not drawn."""
ANSWER = "the answer"
"""Label of the answer that page 1 gives."""
C_LABEL, N_LABEL, D_LABEL = "Compute C [FLOP]", "Parameters N", "Training tokens D"


def budget_colours(flops: Floats) -> tuple[Colormap, LogNorm]:
    """Colour map and scale by budget, the same in every figure of a fit."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    shades = colormaps["viridis"](np.linspace(*SHOWN_OF_MAP, 256))
    low, high = float(np.min(flops)), float(np.max(flops))
    if high <= low * 1.01:
        low, high = low / 2, high * 2
    return LinearSegmentedColormap.from_list("budget", shades), LogNorm(low, high)


def colour_of(flops: float, all_flops: Floats) -> tuple[float, float, float, float]:
    """The colour of one budget."""
    shades, scale = budget_colours(all_flops)
    r, g, b, a = shades(float(scale(flops)))
    return (r, g, b, a)


def draw_runs(
    ax: Axes, x: Floats, y: Floats, flops: Floats, *, among: Floats | None = None, **style: Any
) -> Any:
    """Draw runs as points, coloured by budget.

    Args:
        ax: Axes to draw on.
        x: (k,).
        y: (k,).
        flops: Compute of all runs of the fit, which sets the scale of the colours.
        among: Compute of these runs, (k,), where they are not all.
        **style: Further settings of the points.
    """
    shades, scale = budget_colours(flops)
    budgets = flops if among is None else among
    kept: dict[str, Any] = {"s": RUN_SIZE, "linewidths": 0.4, "edgecolors": "white", "zorder": 4}
    return ax.scatter(x, y, c=budgets, cmap=shades, norm=scale, label="runs", **(kept | style))


def budget_bar(ax: Axes, mappable: Any) -> None:
    """Draw the colour scale of budgets beside the axes."""
    figure = ax.figure
    bar = figure.colorbar(mappable, ax=ax, pad=0.015, aspect=28)
    bar.outline.set_visible(False)
    bar.set_label("Compute C [FLOP]")
    low, high = mappable.norm.vmin, mappable.norm.vmax
    ticks = _decades(low, high, 6)
    bar.ax.yaxis.set_major_locator(_fixed(ticks if len(ticks) > 1 else [low, high]))
    bar.ax.yaxis.set_major_formatter(_formatter(_power_tick))
    bar.ax.yaxis.set_minor_locator(_fixed([]))


def style_axes(ax: Axes, *, x: str, y: str) -> Axes:
    """Set labels and a light grid, and remove the frame on the right and top."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_linewidth(0.6)
    ax.grid(True, which="major", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", width=0.6, length=3)
    return ax


def count_axis(axis: Any, most: int = 7) -> None:
    """Make a log axis of counts with ticks such as 100k, 1M, 10M, and at most so many."""
    low, high = _log_limits(axis)
    _set_ticks(axis, _decades(low, high, most), _count_tick)


def flops_axis(axis: Any) -> None:
    """Make a log axis of compute with ticks at powers of ten."""
    low, high = _log_limits(axis)
    _set_ticks(axis, _decades(low, high, 7), _power_tick)


def loss_axis(axis: Any) -> None:
    """Make a log axis of losses with plain, round numbers as ticks."""
    from matplotlib.ticker import MaxNLocator

    low, high = _log_limits(axis)
    if high > 8 * low:
        ticks = _decades(low, high, 7)
    else:
        places = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [t for t in places if low <= t <= high]
    _set_ticks(axis, ticks, lambda v: f"{v:g}")


def mark_answer(ax: Axes, x: float, y: float, ends: tuple[float | None, float | None]) -> None:
    """Mark the answer of page 1 by a star, with its interval as a bar if it has one.

    Args:
        ax: Axes to draw on.
        x: Budget, or whatever the axis shows.
        y: The quantity of the answer.
        ends: Its interval.
    """
    low, high = ends
    style: dict[str, Any] = {"mec": "white", "mew": 0.6, "zorder": 7, "clip_on": False}
    ax.plot([x], [y], "*", color=ACCENT, ms=12, label=ANSWER, **style)
    if low is not None and high is not None and np.isfinite([low, high]).all():
        ax.vlines([x], low, high, color=ACCENT, lw=1.6, zorder=6, label=ANSWER)


def _log_limits(axis: Any) -> tuple[float, float]:
    """Make an axis logarithmic, fix its limits, and return them in ascending order."""
    if axis.axis_name == "x":
        axis.axes.set_xscale("log")
        low, high = sorted(axis.axes.get_xlim())
        axis.axes.set_xlim(low, high)
    else:
        axis.axes.set_yscale("log")
        low, high = sorted(axis.axes.get_ylim())
        axis.axes.set_ylim(low, high)
    return float(low), float(high)


def _set_ticks(axis: Any, ticks: Sequence[float], form: Callable[[float], str]) -> None:
    """Set labelled major ticks and no minor ones."""
    axis.set_major_locator(_fixed(ticks))
    axis.set_major_formatter(_formatter(form))
    axis.set_minor_locator(_fixed([]))


def _decades(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two limits: 1-2-5 per decade, decades, or every so many decades."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    places = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    for chosen in (places, [p for p in places if f"{p:e}"[0] == "1"]):
        inside = [p for p in chosen if low * 0.999 <= p <= high * 1.001]
        if len(inside) <= most:
            return inside
    step = -(-(last - first) // most)
    return [10.0**e for e in range(first, last + 1) if e % step == 0 and low <= 10.0**e <= high]


def _count_tick(value: float) -> str:
    """A count on an axis."""
    for unit in ("T", "B", "M", "k"):
        if UNITS[unit] <= value * 1.0001 < 1e15:
            return f"{value / UNITS[unit]:.4g}{unit}"
    return f"{value:.4g}" if value < 1e3 else _power_tick(value)


def _power_tick(value: float) -> str:
    """A power of ten in mathtext."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = value / 10.0**exponent
    if abs(mantissa - 1) < 1e-6:
        return f"$10^{{{exponent}}}$"
    return f"${mantissa:.3g}\\times10^{{{exponent}}}$"


def _fixed(ticks: Sequence[float]) -> Any:
    """A locator at given places."""
    from matplotlib.ticker import FixedLocator

    return FixedLocator(list(ticks))


def _formatter(form: Callable[[float], str]) -> Any:
    """A formatter from a function of the value."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: form(value))


def loss_label(source: ScalingLaw) -> str:
    """The label of an axis of losses, with their unit."""
    return f"Loss [{loss_unit(source.convention)}]"


def loss_against_compute(ax: Axes, source: ScalingLaw, best: FrontierBand | None) -> Axes:
    """Loss against compute, log-log: runs, the law at fixed sizes, and the efficient frontier.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier; None where the runs do not determine one.

    Returns:
        The same axes.
    """
    fit = fit_of(source)
    p = fit.points
    draw_runs(ax, p.flops, p.loss, p.flops)
    lowest, last = [float(p.loss.min())], 1.6 * float(p.flops.max())
    if best is not None:
        _draw_sizes(ax, source)
        draw_curve(ax, best, best.loss)
        lowest += [best.loss.value[-1], *_draw_floors(ax, fit)]
        last = best.flops[-1]
    ax.set_xlim(p.flops.min() / 1.6, last)
    ax.set_ylim(0.97 * min(lowest), 1.04 * p.loss.max())
    flops_axis(ax.xaxis)
    loss_axis(ax.yaxis)
    style_axes(ax, x=C_LABEL, y=loss_label(source))
    legend(ax, legend_order(source, "law at one size", "fitted E", "known entropy"))
    return ax


def isoflop_curves(ax: Axes, source: ScalingLaw, best: FrontierBand | None) -> Axes:
    """Loss against N at equal budgets: curves whose minima are N*.

    Without a frontier the runs alone are drawn: a curve would show a minimum that they do not
    determine.
    """
    fit = fit_of(source)
    p = fit.points
    for flops in budgets_of(p.flops) if best is not None else ():
        low, high = np.log([p.params.min() / 2, p.params.max() * 2])
        sizes = np.linspace(low, high, 160)
        loss = along_budget(source.law, source.theta, sizes, flops, source.cost)
        colour = colour_of(flops, p.flops)
        outside = (sizes < np.log(p.params.min())) | (sizes > np.log(p.params.max()))
        dashed = np.where(outside, loss, np.nan)
        style: dict[str, Any] = {"lw": 0.9, "ls": (0, (3, 2)), "zorder": 2}
        style["label"] = "extrapolation"
        ax.plot(np.exp(sizes), dashed, color=colour, gid=f"C={power(flops)}", **style)
        solid = np.where(outside, np.nan, loss)
        style = {"lw": 1.2, "zorder": 3, "label": "law at one budget"}
        ax.plot(np.exp(sizes), solid, color=colour, gid=f"C={power(flops)}", **style)
    if best is not None:
        _draw_split(ax, best, best.params.value, best.loss.value, "optimum N*", 1.2, 1.0)
    shown = draw_runs(ax, p.params, p.loss, p.flops)
    ax.set_xlim(p.params.min() / 2, p.params.max() * 2)
    ax.set_ylim(0.97 * p.loss.min(), 1.04 * p.loss.max())
    count_axis(ax.xaxis)
    loss_axis(ax.yaxis)
    budget_bar(ax, shown)
    style_axes(ax, x=N_LABEL, y=loss_label(source))
    named = ("runs", "law at one budget", "optimum N*", "extrapolation")
    legend(ax, named)
    return ax


def loss_against_params(ax: Axes, source: ScalingLaw) -> Axes:
    """Loss against N at equal numbers of tokens, each line labelled with its D at the right."""
    p = fit_of(source).points
    sizes = np.geomspace(p.params.min() / 1.2, p.params.max() * 1.2, 80)
    levels = some_of(levels_of(p.tokens), 7)
    ends: list[tuple[str, float, float]] = []
    for tokens in levels:
        loss = np.exp(source.log_losses(sizes, np.full(80, tokens))(source.theta))
        style: dict[str, Any] = {
            "lw": 0.8,
            "zorder": 2,
            "label": "law at one D",
            "gid": f"D={short(tokens)}",
        }
        ax.plot(sizes, loss, color=LAW, **style)
        ends.append((short(tokens), sizes[-1], loss[-1]))
    draw_runs(ax, p.params, p.loss, p.flops)
    ax.set_xlim(p.params.min() / 1.4, p.params.max() * 1.9)
    ax.set_ylim(0.97 * p.loss.min(), 1.04 * p.loss.max())
    count_axis(ax.xaxis)
    loss_axis(ax.yaxis)
    style_axes(ax, x=N_LABEL, y=loss_label(source))
    _label_ends(ax, ends)
    legend(ax, ("runs", "law at one D"))
    return ax


def _label_ends(ax: Axes, ends: list[tuple[str, float, float]]) -> None:
    """Write a label (words, x, y) beside each line's end, from the top, where one has room."""
    size, last = 8.0, np.inf
    for words, x, y in sorted(ends, key=lambda end: -end[2]):
        height = float(ax.transData.transform((x, y))[1]) * 72 / ax.figure.dpi
        if last - height < size:
            continue
        last = height
        place: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(words, (x, y), fontsize=size, **place)


def loss_surface(ax: Axes, source: ScalingLaw, best: FrontierBand) -> Axes:
    """Contours of equal loss over N and D, with runs, lines of equal compute and the frontier."""
    p = fit_of(source).points
    ends = [(float(v.min()) / 1.6, float(v.max()) * 1.6) for v in (p.params, p.tokens)]
    near = best.flops <= 10.5 * p.flops.max()
    tops = (best.params.value[near][-1], best.tokens.value[near][-1])
    ends = [(low, max(high, 1.3 * top)) for (low, high), top in zip(ends, tops, strict=True)]
    n, d = (np.geomspace(*e, SURFACE) for e in ends)
    grid = np.meshgrid(n, d)
    loss = np.exp(source.log_losses(grid[0].ravel(), grid[1].ravel())(source.theta))
    loss = loss.reshape(SURFACE, SURFACE)
    for flops in _decades_of(p.flops):
        tokens = flops / np.exp(source.cost.log_flops_per_token(np.log(n)))
        ax.plot(n, tokens, color=BLUE, lw=0.9, ls=":", zorder=1, label="equal compute")
    _draw_split(ax, best, best.params.value, best.tokens.value, "efficient frontier", 1.8, 1.8)
    budget_bar(ax, draw_runs(ax, p.params, p.tokens, p.flops))
    ax.set_xlim(*ends[0])
    ax.set_ylim(*ends[1])
    count_axis(ax.xaxis)
    count_axis(ax.yaxis)
    _draw_contours(ax, grid, loss)
    style_axes(ax, x=N_LABEL, y=D_LABEL)
    named = ("runs", EQUAL_LOSS, "efficient frontier", "extrapolation")
    legend(ax, (*named, "equal compute"))
    return ax


def optimum_against_compute(
    ax: Axes, source: ScalingLaw, best: FrontierBand, quantity: str
) -> Axes:
    """N* or D* against the budget with its interval, and the runs.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier.
        quantity: `params` or `tokens`.

    Returns:
        The same axes.
    """
    p = fit_of(source).points
    curve: IntervalCurve = getattr(best, quantity)
    draw_curve(ax, best, curve)
    draw_runs(ax, p.flops, getattr(p, quantity), p.flops)
    ax.set_xlim(p.flops.min() / 1.6, best.flops[-1])
    flops_axis(ax.xaxis)
    count_axis(ax.yaxis)
    names = {"params": "Optimal parameters N*", "tokens": "Optimal tokens D*"}
    style_axes(ax, x=C_LABEL, y=names[quantity])
    legend(ax, legend_order(source, ANSWER, "published models"))
    return ax


def draw_curve(ax: Axes, best: FrontierBand, curve: IntervalCurve, x: Floats | None = None) -> None:
    """Draw a quantity along the frontier with its band: solid inside the runs, dashed beyond.

    Args:
        ax: Axes to draw on.
        best: The frontier.
        curve: The quantity, (k,).
        x: What it is drawn against, (k,), growing with the budget; the budget if None.
    """
    x = best.flops if x is None else x
    low = np.maximum(curve.low, curve.value / UNBOUNDED)
    high = np.minimum(curve.high, curve.value * UNBOUNDED)
    label = f"{percent(best.level)} confidence"
    ax.fill_between(x, low, high, color=BAND, alpha=0.28, lw=0, zorder=1, label=label)
    _draw_split(ax, best, x, curve.value, "law", 1.4, 1.4, zorder=2)


def _draw_split(
    ax: Axes,
    best: FrontierBand,
    x: Floats,
    y: Floats,
    label: str,
    width: float,
    width_beyond: float,
    zorder: float = 3,
) -> None:
    """Draw a line along the frontier: solid inside the runs, dashed beyond."""
    beyond = ~best.inside
    beyond[np.flatnonzero(best.inside)[-1]] = True  # the dashes begin where the solid line ends
    style: dict[str, Any] = {"color": LAW, "zorder": zorder}
    ax.plot(x[best.inside], y[best.inside], lw=width, label=label, **style)
    ax.plot(x[beyond], y[beyond], lw=width_beyond, ls=DASHED, label="extrapolation", **style)


def _draw_contours(ax: Axes, grid: Sequence[Floats], loss: Floats) -> None:
    """Draw labelled contours of equal loss at round values."""
    from matplotlib.ticker import MaxNLocator

    low, high = (float(v) for v in np.percentile(loss, [0, 92]))
    levels = MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    levels = [v for v in levels if loss.min() < v < loss.max()]
    if not levels:
        return
    lines = ax.contour(*grid, loss, levels=levels, colors=CONTOUR, linewidths=0.8, zorder=2)
    places = contour_places(ax, lines.allsegs)
    for text in ax.clabel(lines, fmt="%g", fontsize=8, inline_spacing=3, manual=places):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
        text.set_zorder(3)
    ax.plot([], [], color=CONTOUR, lw=0.8, label=EQUAL_LOSS)


def _decades_of(flops: Floats) -> Floats:
    """Powers of ten from below the smallest budget to above the largest, at most seven."""
    first, last = np.floor(np.log10(flops.min())), np.ceil(np.log10(flops.max())) + 1
    step = max(1, int(np.ceil((last - first) / 7)))
    return np.asarray(10.0 ** np.arange(first, last + 1, step))


def _draw_sizes(ax: Axes, source: ScalingLaw) -> None:
    """Draw the law at some of the sizes that were trained."""
    p = fit_of(source).points
    for size in some_of(np.unique(p.params), 7):
        tokens = np.geomspace(p.tokens.min() / 1.5, p.tokens.max() * 1.5, 60)
        per_token = np.exp(source.cost.log_flops_per_token(np.log([size])))
        loss = np.exp(source.log_losses(np.full(60, size), tokens)(source.theta))
        style: dict[str, Any] = {
            "lw": 0.7,
            "zorder": 2,
            "label": "law at one size",
            "gid": f"N={short(size)}",
        }
        ax.plot(per_token * tokens, loss, color=FAINT, **style)


def _draw_floors(ax: Axes, fit: Fit) -> list[float]:
    """Draw the fitted E and the known entropy of the data, and return their values.

    An E far below the runs, as at its bound, is left out: it would press them into one line.
    """
    floor, entropy = fit.theta.get("E"), fit.data.get("entropy")
    floor = floor if floor and floor > NEAR_RUNS * fit.points.loss.min() else None
    if floor:
        ax.axhline(floor, color=BAND, lw=0.9, ls=(0, (1, 1.6)), label="fitted E")
    if entropy:
        ax.axhline(entropy, color=ACCENT, lw=0.9, ls=(0, (6, 1.5, 1, 1.5)), label="known entropy")
    return [v for v in (floor, entropy) if v]


def legend_order(source: ScalingLaw, *more: str) -> tuple[str, ...]:
    """Labels in the order of the legend, the same in every figure."""
    level = percent(fit_of(source).interval.level)
    return ("runs", "law", "extrapolation", f"{level} confidence", *more)
