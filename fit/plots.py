"""Figures of a fit on given axes: no disk, no global settings.

In every figure points are runs, lines are the law, bands are intervals of the law, dashes are
extrapolation, and colour is the budget on one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit import axes
from fit.allocate import along_budget
from fit.axes import ACCENT, BAND, FAINT, LAW
from fit.bands import Curve, Frontier, fit_of
from fit.quantity import percent, power, short
from fit.record import Floats
from fit.result import Fit
from fit.source import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SURFACE = 90
"""Points along each side of the loss surface."""
SAME_BUDGET = 0.05
"""Runs whose ln C differ by less are of one budget."""
DASHED = (0, (4, 2.2))
"""Beyond the runs."""
UNBOUNDED = 1e3
"""How far from the law a band is drawn that has no end."""
C_LABEL, N_LABEL, D_LABEL = "Compute C [FLOP]", "Parameters N", "Training tokens D"
L_LABEL = "Loss [nats/token]"


def loss_against_compute(ax: Axes, source: Source, best: Frontier | None) -> Axes:
    """Runs, the law at each fitted size, and the frontier with its interval, log-log.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier; None where the runs do not tell one, and none is drawn.

    Returns:
        The same axes.
    """
    fit = fit_of(source)
    p = fit.points
    axes.runs(ax, p.flops, p.loss, p.flops)
    lowest, last = [float(p.loss.min())], 1.6 * float(p.flops.max())
    if best is not None:
        _single_sizes(ax, source)
        draw_curve(ax, best, best.loss)
        lowest += [best.loss.value[-1], *_floor_lines(ax, fit)]
        last = best.flops[-1]
    ax.set_xlim(p.flops.min() / 1.6, last)
    ax.set_ylim(0.97 * min(lowest), 1.04 * p.loss.max())
    axes.flops_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.dress(ax, x=C_LABEL, y=L_LABEL)
    named = legend_order(source, "law at one size", "fitted E", "known entropy")
    axes.legend(ax, named, ncols=2, columnspacing=1.2)
    return ax


def isoflop_curves(ax: Axes, source: Source, best: Frontier | None) -> Axes:
    """Loss against N at equal budgets: valleys whose bottoms are N*.

    Without a frontier the law is drawn among the sizes that were trained and no further, and no
    line through its lowest points.
    """
    fit = fit_of(source)
    p = fit.points
    for flops in budgets_of(p.flops):
        low, high = np.log([p.params.min() / 2, p.params.max() * 2])
        sizes = np.linspace(low, high, 160)
        loss = along_budget(source.law, source.theta, sizes, flops, source.cost)
        colour = axes.colour_of(flops, p.flops)
        outside = (sizes < np.log(p.params.min())) | (sizes > np.log(p.params.max()))
        if best is not None:
            dashed = np.where(outside, loss, np.nan)
            style: dict[str, Any] = {
                "lw": 0.9,
                "ls": (0, (3, 2)),
                "zorder": 2,
                "label": "extrapolation",
            }
            ax.plot(np.exp(sizes), dashed, color=colour, gid=f"C={power(flops)}", **style)
        solid = np.where(outside, np.nan, loss)
        style = {"lw": 1.2, "zorder": 3, "label": "law at one budget"}
        ax.plot(np.exp(sizes), solid, color=colour, gid=f"C={power(flops)}", **style)
    if best is not None:
        _bottoms(ax, best)
    shown = axes.runs(ax, p.params, p.loss, p.flops)
    ax.set_xlim(p.params.min() / 2, p.params.max() * 2)
    ax.set_ylim(0.97 * p.loss.min(), 1.04 * p.loss.max())
    axes.count_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.budget_bar(ax, shown)
    axes.dress(ax, x=N_LABEL, y=L_LABEL)
    named = ("runs", "law at one budget", "optimum N*", "extrapolation")
    axes.legend(ax, named, loc="lower left")
    return ax


def loss_against_params(ax: Axes, source: Source) -> Axes:
    """Loss against N at equal token counts, each line named by its D at the right."""
    p = fit_of(source).points
    sizes = np.geomspace(p.params.min() / 1.2, p.params.max() * 1.2, 80)
    levels = some_of(levels_of(p.tokens), 7)
    for tokens in levels:
        loss = np.exp(source.log_losses(sizes, np.full(80, tokens))(source.theta))
        style: dict[str, Any] = {
            "lw": 0.8,
            "zorder": 2,
            "label": "law at one D",
            "gid": f"D={short(tokens)}",
        }
        ax.plot(sizes, loss, color=LAW, **style)
        ax.annotate(
            short(tokens),
            (sizes[-1], loss[-1]),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.runs(ax, p.params, p.loss, p.flops)
    ax.set_xlim(p.params.min() / 1.4, p.params.max() * 1.9)
    ax.set_ylim(0.97 * p.loss.min(), 1.04 * p.loss.max())
    axes.count_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.dress(ax, x=N_LABEL, y=L_LABEL)
    axes.legend(ax, ("runs", "law at one D"), loc="upper right")
    return ax


def loss_surface(ax: Axes, source: Source, best: Frontier) -> Axes:
    """Contours of the law over N and D, the runs, lines of equal compute, and the frontier."""
    p = fit_of(source).points
    ends = [(float(v.min()) / 1.6, float(v.max()) * 1.6) for v in (p.params, p.tokens)]
    near = best.flops <= 10.5 * p.flops.max()
    tops = (best.params.value[near][-1], best.tokens.value[near][-1])
    ends = [(low, max(high, 1.3 * top)) for (low, high), top in zip(ends, tops, strict=True)]
    n, d = (np.geomspace(*e, SURFACE) for e in ends)
    grid = np.meshgrid(n, d)
    loss = np.exp(source.log_losses(grid[0].ravel(), grid[1].ravel())(source.theta))
    loss = loss.reshape(SURFACE, SURFACE)
    _contours(ax, grid, loss)
    for flops in _decades_of(p.flops):
        tokens = flops / np.exp(source.cost.log_flops_per_token(np.log(n)))
        ax.plot(n, tokens, color=FAINT, lw=0.7, ls=":", zorder=2, label="equal compute, decades")
    _valley(ax, best)
    axes.budget_bar(ax, axes.runs(ax, p.params, p.tokens, p.flops))
    ax.set_xlim(*ends[0])
    ax.set_ylim(*ends[1])
    axes.count_axis(ax.xaxis)
    axes.count_axis(ax.yaxis)
    axes.dress(ax, x=N_LABEL, y=D_LABEL)
    named = ("runs", "law: equal loss", "efficient frontier", "extrapolation")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 5, "columnspacing": 1.2}
    axes.legend(ax, (*named, "equal compute, decades"), **above)
    return ax


def optimum_against_compute(ax: Axes, source: Source, best: Frontier, quantity: str) -> Axes:
    """N* or D* against the budget, with its interval; the runs stand behind it.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier.
        quantity: `params` or `tokens`.

    Returns:
        The same axes.
    """
    fit = fit_of(source)
    p = fit.points
    curve: Curve = getattr(best, quantity)
    draw_curve(ax, best, curve)
    axes.runs(ax, p.flops, getattr(p, quantity), p.flops)
    if quantity == "params":
        for check in fit.cross_checks:
            if check.name == "isoflop" and check.params:
                ax.plot(
                    check.budgets,
                    check.params,
                    "D",
                    mfc="none",
                    color=ACCENT,
                    ms=4.5,
                    zorder=5,
                    label="approach 2, isoFLOP",
                )
    ax.set_xlim(p.flops.min() / 1.6, best.flops[-1])
    axes.flops_axis(ax.xaxis)
    axes.count_axis(ax.yaxis)
    names = {"params": "Optimal parameters N*", "tokens": "Optimal training tokens D*"}
    axes.dress(ax, x=C_LABEL, y=names[quantity])
    axes.legend(ax, legend_order(source, "approach 2, isoFLOP", "published models"))
    return ax


def budgets_of(flops: Floats) -> Floats:
    """The budgets of an isoFLOP sweep, or six across the range where runs share none.

    Runs share budgets where groups of three or more within 5% hold most of them.
    """
    levels = levels_of(flops)
    members = [np.abs(np.log(flops / level)) < SAME_BUDGET for level in levels]
    shared = [float(v) for v, m in zip(levels, members, strict=True) if m.sum() >= 3]
    if sum(int(m.sum()) for m in members if m.sum() >= 3) >= 0.8 * len(flops):
        return np.array(some_of(np.array(shared), 9))
    low, high = flops.min() * 1.3, flops.max() / 1.05
    return np.geomspace(low, high, 6) if high > low else np.array([flops.max()])


def draw_curve(ax: Axes, best: Frontier, curve: Curve) -> None:
    """A quantity along budgets: solid inside the runs, dashed beyond, with its band."""
    draw_curve_over(ax, best, best.flops, curve)


def draw_curve_over(ax: Axes, best: Frontier, x: Floats, curve: Curve) -> None:
    """The same over any quantity that grows with the budget, (k,)."""
    beyond = ~best.inside
    beyond[np.flatnonzero(best.inside)[-1]] = True
    low = np.maximum(curve.low, curve.value / UNBOUNDED)
    high = np.minimum(curve.high, curve.value * UNBOUNDED)
    label = f"{percent(best.level)} confidence"
    ax.fill_between(x, low, high, color=BAND, alpha=0.28, lw=0, zorder=1, label=label)
    style: dict[str, Any] = {"color": LAW, "lw": 1.4}
    ax.plot(x[best.inside], curve.value[best.inside], label="law", **style)
    ax.plot(x[beyond], curve.value[beyond], ls=DASHED, label="extrapolation", **style)


def _contours(ax: Axes, grid: Sequence[Floats], loss: Floats) -> None:
    """Lines of equal loss at round values, each named."""
    from matplotlib.ticker import MaxNLocator

    low, high = (float(v) for v in np.percentile(loss, [0, 92]))
    levels = MaxNLocator(nbins=11, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    levels = [v for v in levels if loss.min() < v < loss.max()]
    if not levels:
        return
    lines = ax.contour(*grid, loss, levels=levels, colors=LAW, linewidths=0.6, zorder=2)
    ax.clabel(lines, fmt="%g", fontsize="x-small")
    ax.plot([], [], color=LAW, lw=0.6, label="law: equal loss")


def _valley(ax: Axes, best: Frontier) -> None:
    """N* and D* of every budget."""
    beyond = ~best.inside
    beyond[np.flatnonzero(best.inside)[-1]] = True
    n, d = best.params.value, best.tokens.value
    style: dict[str, Any] = {"color": LAW, "lw": 1.8, "zorder": 3}
    ax.plot(n[best.inside], d[best.inside], label="efficient frontier", **style)
    ax.plot(n[beyond], d[beyond], ls=DASHED, label="extrapolation", **style)


def _decades_of(flops: Floats) -> Floats:
    """Powers of ten from below the smallest budget to above the largest, at most seven."""
    first, last = np.floor(np.log10(flops.min())), np.ceil(np.log10(flops.max())) + 1
    step = max(1, int(np.ceil((last - first) / 7)))
    return np.asarray(10.0 ** np.arange(first, last + 1, step))


def _single_sizes(ax: Axes, source: Source) -> None:
    """The law at some of the sizes that were trained."""
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


def _bottoms(ax: Axes, best: Frontier) -> None:
    """The line through the lowest points, dashed beyond the largest budget fitted."""
    beyond = ~best.inside
    beyond[np.flatnonzero(best.inside)[-1]] = True
    n, loss = best.params.value, best.loss.value
    style: dict[str, Any] = {"color": LAW, "zorder": 3}
    ax.plot(n[best.inside], loss[best.inside], lw=1.2, label="optimum N*", **style)
    ax.plot(n[beyond], loss[beyond], lw=1.0, ls=DASHED, label="extrapolation", **style)


def _floor_lines(ax: Axes, fit: Fit) -> list[float]:
    """The fitted E, and the known entropy of the data; their heights."""
    floor, known = fit.theta.get("E"), fit.data.get("entropy")
    if floor:
        ax.axhline(floor, color=BAND, lw=0.9, ls=(0, (1, 1.6)), label="fitted E")
    if known:
        ax.axhline(known, color=ACCENT, lw=0.9, ls=(0, (6, 1.5, 1, 1.5)), label="known entropy")
    return [v for v in (floor, known) if v]


def legend_order(source: Source, *more: str) -> tuple[str, ...]:
    """Order of the legend, the same in every figure."""
    level = percent(fit_of(source).interval.level)
    return ("runs", "law", "extrapolation", f"{level} confidence", *more)


def levels_of(values: Floats) -> Floats:
    """Distinct values of a column, those within 5% of each other as their geometric mean."""
    ordered = np.sort(np.log(values))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > SAME_BUDGET) + 1)
    return np.exp([float(g.mean()) for g in groups])


def some_of(values: Floats, most: int) -> list[float]:
    """At most so many of the ascending values, evenly in ln, both ends among them."""
    if len(values) <= most:
        return [float(v) for v in values]
    wanted = np.linspace(np.log(values[0]), np.log(values[-1]), most)
    rows = np.unique(np.argmin(np.abs(np.log(values)[:, None] - wanted), axis=0))
    return [float(values[i]) for i in rows]
