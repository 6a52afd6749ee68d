"""Figures of a fit on given axes: no disk, no global settings.

In every figure points are runs, lines are the law, bands are intervals of the law, dashes are
extrapolation, and colour is the budget on one scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fit import axes
from fit.allocate import along_budget
from fit.axes import ACCENT, BAND, FAINT, LAW
from fit.derived import derived_interval
from fit.quantity import percent, short
from fit.record import Floats
from fit.result import Fit
from fit.source import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUDGETS = 48
"""Points along the frontier."""
SAME_BUDGET = 0.05
"""Runs whose ln C differ by less are of one budget."""
UNBOUNDED = 1e3
"""How far from the law a band is drawn that has no end."""
C_LABEL, N_LABEL, D_LABEL = "Compute C [FLOP]", "Parameters N", "Training tokens D"
L_LABEL = "Loss [nats/token]"
ORDER = ("runs", "law", "extrapolation", "90% interval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A quantity along budgets with its interval; all (k,)."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The best split over a range of budgets."""

    flops: Floats
    """(k,), ascending [FLOP]."""
    inside: NDArray[np.bool_]
    """Budgets up to the largest fitted; the others extrapolate."""
    params: Curve
    tokens: Curve
    loss: Curve
    level: float


def frontier(source: Source, *, beyond: float = 100.0) -> Frontier:
    """Split a range of budgets, from the smallest fitted to some way beyond the largest.

    Args:
        source: A fit as a source.
        beyond: Last budget over the largest one fitted.
    """
    fit = _fit(source)
    low, high = float(fit.points.flops.min()), float(fit.points.flops.max())
    inner = np.geomspace(low, high, BUDGETS // 2)
    flops = np.concatenate([inner, np.geomspace(high, high * beyond, BUDGETS // 2)[1:]])
    at = source.splits(flops)

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        return np.stack([s.log_params, s.log_tokens, s.log_loss], axis=-1)

    value = np.exp(logs(fit.vector()[None, :])[0])
    bounds = derived_interval(fit, logs)
    curves = [Curve(value=value[:, i], low=bounds[0][:, i], high=bounds[1][:, i]) for i in range(3)]
    return Frontier(
        flops=flops,
        inside=flops <= high * (1 + 1e-12),
        params=curves[0],
        tokens=curves[1],
        loss=curves[2],
        level=fit.interval.level,
    )


def loss_against_compute(ax: Axes, source: Source, best: Frontier) -> Axes:
    """Runs, the law at each fitted size, and the frontier with its interval, log-log.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier.

    Returns:
        The same axes.
    """
    fit = _fit(source)
    p = fit.points
    for size in _some(np.unique(p.params), 7):
        tokens = np.geomspace(p.tokens.min() / 1.5, p.tokens.max() * 1.5, 60)
        per_token = np.exp(source.cost.log_flops_per_token(np.log([size])))
        loss = np.exp(source.log_losses(np.full(60, size), tokens)(source.theta))
        ax.plot(per_token * tokens, loss, color=FAINT, lw=0.7, zorder=2, label="law at one size")
    _curve(ax, best, best.loss)
    axes.runs(ax, p.flops, p.loss, p.flops)
    _floor_lines(ax, fit)
    floor = [v for v in (fit.theta.get("E"), fit.data.get("entropy")) if v]
    ax.set_xlim(p.flops.min() / 1.6, best.flops[-1])
    ax.set_ylim(0.97 * min([*floor, best.loss.value[-1]]), 1.04 * p.loss.max())
    axes.flops_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.dress(ax, x=C_LABEL, y=L_LABEL)
    axes.legend(ax, _order(best, "law at one size", "fitted E", "known entropy"))
    return ax


def isoflop_curves(ax: Axes, source: Source, best: Frontier) -> Axes:
    """Loss against N at equal budgets: valleys whose bottoms are N*."""
    fit = _fit(source)
    p = fit.points
    for flops in budgets_of(p.flops):
        low, high = np.log([p.params.min() / 2, p.params.max() * 2])
        sizes = np.linspace(low, high, 160)
        loss = along_budget(source.law, source.theta, sizes, flops, source.cost)
        colour = axes.colour_of(flops, p.flops)
        outside = (sizes < np.log(p.params.min())) | (sizes > np.log(p.params.max()))
        ax.plot(np.exp(sizes), loss, color=colour, lw=0.9, ls=(0, (3, 2)), zorder=2)
        solid = np.where(outside, np.nan, loss)
        ax.plot(np.exp(sizes), solid, color=colour, lw=1.2, zorder=3, label="law at one budget")
    ax.plot(best.params.value, best.loss.value, color=LAW, lw=1.0, zorder=3, label="optimum N*")
    shown = axes.runs(ax, p.params, p.loss, p.flops)
    ax.set_xlim(p.params.min() / 2, p.params.max() * 2)
    ax.set_ylim(0.97 * p.loss.min(), 1.04 * p.loss.max())
    axes.count_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.budget_bar(ax, shown)
    axes.dress(ax, x=N_LABEL, y=L_LABEL)
    axes.legend(ax, ("runs", "law at one budget", "optimum N*"), loc="lower left")
    return ax


def loss_against_params(ax: Axes, source: Source) -> Axes:
    """Loss against N at equal token counts, each line named by its D at the right."""
    p = _fit(source).points
    sizes = np.geomspace(p.params.min() / 1.2, p.params.max() * 1.2, 80)
    levels = _some(_levels(p.tokens), 7)
    for tokens in levels:
        loss = np.exp(source.log_losses(sizes, np.full(80, tokens))(source.theta))
        ax.plot(sizes, loss, color=LAW, lw=0.8, zorder=2, label="law at one D")
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
    fit = _fit(source)
    p = fit.points
    curve: Curve = getattr(best, quantity)
    _curve(ax, best, curve)
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
                    label="approach 2 (isoFLOP)",
                )
    ax.set_xlim(p.flops.min() / 1.6, best.flops[-1])
    axes.flops_axis(ax.xaxis)
    axes.count_axis(ax.yaxis)
    names = {"params": "Optimal parameters N*", "tokens": "Optimal training tokens D*"}
    axes.dress(ax, x=C_LABEL, y=names[quantity])
    axes.legend(ax, _order(best, "approach 2 (isoFLOP)"))
    return ax


def fit_against_measurement(ax: Axes, below: Axes, source: Source) -> Axes:
    """Measured against fitted loss, and beneath it the residuals in percent.

    Args:
        ax: Upper axes.
        below: Lower axes, sharing x.
        source: A fit as a source.

    Returns:
        The upper axes.
    """
    fit = _fit(source)
    p = fit.points
    law = p.loss / np.exp(p.residual)
    ends = np.array([0.98 * min(law.min(), p.loss.min()), 1.02 * max(law.max(), p.loss.max())])
    ax.plot(ends, ends, color=LAW, lw=0.9, zorder=2, label="law")
    axes.runs(ax, law, p.loss, p.flops)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    axes.loss_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.dress(ax, x="", y="Measured loss [nats/token]")
    ax.tick_params(labelbottom=False)
    axes.legend(ax, ("runs", "law"), loc="upper left")
    residuals(below, fit, law, x="Fitted loss [nats/token]")
    below.set_xlim(*ends)
    axes.loss_axis(below.xaxis)
    axes.legend(below, ("one run's noise",), loc="upper right")
    return ax


def residuals(ax: Axes, fit: Fit, against: Floats, *, x: str) -> Axes:
    """Residuals in percent of the loss against any column, one run's noise as a band."""
    noise = 100 * fit.noise
    values = 100 * np.expm1(fit.points.residual)
    ax.axhspan(-noise, noise, color=BAND, alpha=0.18, lw=0, label="one run's noise")
    ax.axhline(0, color=LAW, lw=0.9)
    axes.runs(ax, against, values, fit.points.flops)
    top = 1.25 * max(float(np.abs(values).max()), 1.5 * noise, 1e-6)
    ax.set_ylim(-top, top)
    return axes.dress(ax, x=x, y="Residual [%]")


def residuals_against_count(ax: Axes, fit: Fit, against: Floats, *, x: str) -> Axes:
    """Residuals in percent against a count on a log axis."""
    residuals(ax, fit, against, x=x)
    ax.set_xlim(against.min() / 1.5, against.max() * 1.5)
    axes.count_axis(ax.xaxis)
    return ax


def budgets_of(flops: Floats) -> Floats:
    """The budgets of an isoFLOP sweep, or six across the range where runs share none.

    Runs share budgets where groups of three or more within 5% hold most of them.
    """
    levels = _levels(flops)
    members = [np.abs(np.log(flops / level)) < SAME_BUDGET for level in levels]
    shared = [float(v) for v, m in zip(levels, members, strict=True) if m.sum() >= 3]
    if sum(int(m.sum()) for m in members if m.sum() >= 3) >= 0.8 * len(flops):
        return np.array(_some(np.array(shared), 9))
    low, high = flops.min() * 1.3, flops.max() / 1.05
    return np.geomspace(low, high, 6) if high > low else np.array([flops.max()])


def _fit(source: Source) -> Fit:
    """The fit behind a source; figures need one."""
    assert source.fit is not None
    return source.fit


def _curve(ax: Axes, best: Frontier, curve: Curve) -> None:
    """The law along the frontier: solid inside the runs, dashed beyond, with its band."""
    beyond = ~best.inside
    beyond[np.flatnonzero(best.inside)[-1]] = True
    ax.fill_between(
        best.flops,
        np.maximum(curve.low, curve.value / UNBOUNDED),
        np.minimum(curve.high, curve.value * UNBOUNDED),
        color=BAND,
        alpha=0.28,
        lw=0,
        zorder=1,
        label=f"{percent(best.level)} confidence",
    )
    ax.plot(best.flops[best.inside], curve.value[best.inside], color=LAW, lw=1.4, label="law")
    ax.plot(
        best.flops[beyond],
        curve.value[beyond],
        color=LAW,
        lw=1.4,
        ls=(0, (4, 2.2)),
        label="extrapolation",
    )


def _floor_lines(ax: Axes, fit: Fit) -> None:
    """The fitted E, and the known entropy of the data."""
    floor, known = fit.theta.get("E"), fit.data.get("entropy")
    if floor:
        ax.axhline(floor, color=BAND, lw=0.9, ls=(0, (1, 1.6)), label="fitted E")
    if known:
        ax.axhline(known, color=ACCENT, lw=0.9, ls=(0, (6, 1.5, 1, 1.5)), label="known entropy")


def _order(best: Frontier, *more: str) -> tuple[str, ...]:
    """Order of the legend."""
    return ("runs", "law", "extrapolation", f"{percent(best.level)} confidence", *more)


def _levels(values: Floats) -> Floats:
    """Distinct values of a column, those within 5% of each other as their geometric mean."""
    ordered = np.sort(np.log(values))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > SAME_BUDGET) + 1)
    return np.exp([float(g.mean()) for g in groups])


def _some(values: Floats, most: int) -> list[float]:
    """At most so many of the ascending values, evenly in ln, both ends among them."""
    if len(values) <= most:
        return [float(v) for v in values]
    wanted = np.linspace(np.log(values[0]), np.log(values[-1]), most)
    rows = np.unique(np.argmin(np.abs(np.log(values)[:, None] - wanted), axis=0))
    return [float(values[i]) for i in rows]
