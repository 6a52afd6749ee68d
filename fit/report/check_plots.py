"""Plots that check a fit: residuals, other approaches, curves, and held-out budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation.scaling_law import FrontierBand, ScalingLaw, fit_of
from fit.data.records import Floats
from fit.diagnostics.curves import FIRST, FIRST_DRAWN
from fit.quantities import percent, short
from fit.report import plots
from fit.report.legends import legend
from fit.report.plots import (
    ACCENT,
    BAND,
    BLUE,
    C_LABEL,
    DASHED,
    FAINT,
    LAW,
    draw_curve,
    legend_order,
)
from fit.report.tables import target_name
from fit.report.text import APPROACHES, approach_name
from fit.results import Fit, loss_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"isoflop": ("D", ACCENT), "envelope": ("s", BLUE)}
"""Mark and colour of the other approaches."""


def fit_against_measurement(ax: Axes, below: Axes, source: ScalingLaw) -> Axes:
    """Measured against fitted values, and the residuals in percent against the same.

    Args:
        ax: First axes.
        below: Second axes, with the same limits of x.
        source: A fit as a source.

    Returns:
        The first axes.
    """
    fit = fit_of(source)
    p = fit.points
    law = p.loss / np.exp(p.residual)
    ends = np.array([0.98 * min(law.min(), p.loss.min()), 1.02 * max(law.max(), p.loss.max())])
    ax.plot(ends, ends, color=LAW, lw=0.9, zorder=2, label="law")
    plots.draw_runs(ax, law, p.loss, p.flops)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    plots.loss_axis(ax.xaxis)
    plots.loss_axis(ax.yaxis)
    what = target_label(source)
    plots.style_axes(ax, x=f"Fitted {what}", y=f"Measured {what}")
    legend(ax, ("runs", "law"))
    residuals(below, fit, law, x=f"Fitted {what}")
    below.set_xlim(*ends)
    plots.loss_axis(below.xaxis)
    legend(below, ("one run's noise",))
    return ax


def target_label(source: ScalingLaw) -> str:
    """The quantity that the law predicts, with its unit."""
    return {"loss": f"loss [{loss_unit(source.convention)}]", "batch": "batch [tokens]"}.get(
        target_name(source.law.name), "learning rate"
    )


def residuals(ax: Axes, fit: Fit, against: Floats, *, x: str) -> Axes:
    """Residuals in percent against any column, with the noise of one run as a band."""
    noise = 100 * fit.noise
    values = 100 * np.expm1(fit.points.residual)
    ax.axhspan(-noise, noise, color=BAND, alpha=0.18, lw=0, label="one run's noise")
    ax.axhline(0, color=LAW, lw=0.9)
    plots.draw_runs(ax, against, values, fit.points.flops)
    top = 1.5 * max(float(np.abs(values).max()), 1.2 * noise, 1e-6)
    ax.set_ylim(-top, top)
    return plots.style_axes(ax, x=x, y="Residual [%]")


def residuals_against_count(ax: Axes, fit: Fit, against: Floats, *, x: str) -> Axes:
    """Residuals in percent against a count on a log axis."""
    residuals(ax, fit, against, x=x)
    ax.set_xlim(against.min() / 1.5, against.max() * 1.5)
    plots.count_axis(ax.xaxis, most=5)
    return ax


def approaches(ax: Axes, source: ScalingLaw, best: FrontierBand) -> Axes:
    """N* against compute: the law's curve, and points with lines of approaches 1 and 2.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier.

    Returns:
        The same axes.
    """
    fit = fit_of(source)
    draw_curve(ax, best, best.params)
    for check in fit.cross_checks:
        if check.a is None or check.coefficient is None:
            continue
        mark, colour = MARKS.get(check.name, ("D", ACCENT))
        label = approach_name(check.name)
        inside = np.array([min(check.budgets), max(check.budgets)])
        beyond = np.array([inside[1], best.flops[-1]])
        for budgets, dashes in ((inside, "-"), (beyond, DASHED)):
            line = np.exp(check.coefficient + check.a * np.log(budgets))
            ax.plot(budgets, line, color=colour, lw=1.0, ls=dashes, zorder=3)
        ax.plot(check.budgets, check.params, mark, mfc="none", color=colour, ms=5, label=label)
    ax.set_xlim(fit.points.flops.min() / 1.6, best.flops[-1])
    plots.flops_axis(ax.xaxis)
    plots.count_axis(ax.yaxis)
    plots.style_axes(ax, x=C_LABEL, y="Optimal parameters N*")
    legend(ax, legend_order(source, *map(approach_name, APPROACHES)))
    return ax


SEEDS_BAND = "noise between seeds"
TRUNK_END = "end of the trunk"
A_SIZE = "a size"
MET, NOT_MET = "runs that meet the event", "other runs"


def normalised_curves(ax: Axes, curves: Mapping[str, Any]) -> Axes:
    """Normalised training curves of the longest common length, a line per size.

    Args:
        ax: Axes to draw on.
        curves: What the fit has measured of its curves, with a `collapse` and `lines`.
    """
    from matplotlib.lines import Line2D

    sizes = np.array(curves["collapse"]["sizes"])
    longest = max(line["tokens"] for line in curves["lines"])
    common = bool(curves["collapse"]["lengths"])
    for line in curves["lines"]:
        if line["tokens"] == longest or not common:
            colour = plots.colour_of(line["params"], sizes)
            fall = 1000 * np.array(line["fall"])
            name = short(line["params"])
            ax.plot(line["share"], fall, color=colour, lw=1.0, label=A_SIZE, gid=name)
    _end_of_trunk(ax, curves)
    ax.set_xlim(FIRST_DRAWN, 1)
    plots.style_axes(ax, x="Share of the run t/T", y="Fall of the loss [$10^{-3}$ nats]")
    shown = sizes if len(sizes) <= 5 else sizes[[0, len(sizes) // 2, -1]]
    keys = [Line2D([], [], color=plots.colour_of(n, sizes), lw=1.2) for n in shown]
    names = [f"N = {short(n)}" for n in shown]
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
    ax.legend(keys, names, frameon=False, columnspacing=1.2, **above)
    return ax


def curve_deviations(ax: Axes, curves: Mapping[str, Any]) -> Axes:
    """Deviation of each size's normalised curve from the mean of all, the mean over lengths."""
    sizes = np.array(curves["collapse"]["sizes"])
    noise = curves["collapse"]["noise"]
    if noise is not None:
        band = 1000 * noise
        ax.axhspan(-band, band, color=BAND, alpha=0.18, lw=0, label=SEEDS_BAND)
    ax.axhline(0, color=LAW, lw=0.9)
    groups: dict[float, list[Floats]] = {float(n): [] for n in sizes}
    common = bool(curves["collapse"]["lengths"])
    for length in sorted({line["tokens"] if common else 0.0 for line in curves["lines"]}):
        lines = [x for x in curves["lines"] if not common or x["tokens"] == length]
        mean = np.mean([x["fall"] for x in lines], axis=0)
        for line in lines:
            groups[line["params"]].append(np.array(line["fall"]) - mean)
    share = np.array(curves["lines"][0]["share"])
    late = share >= FIRST
    for n, values in groups.items():
        if values:
            colour = plots.colour_of(n, sizes)
            off = 1000 * np.mean(values, axis=0)[late]
            ax.plot(share[late], off, color=colour, lw=1.2, label=A_SIZE, gid=short(n))
    _end_of_trunk(ax, curves)
    ax.set_xlim(FIRST, 1)
    plots.style_axes(ax, x="Share of the run t/T", y="Off the mean [$10^{-3}$ nats]")
    legend(ax, (SEEDS_BAND, TRUNK_END))
    return ax


def _end_of_trunk(ax: Axes, curves: Mapping[str, Any]) -> None:
    """Mark where the cooldown begins, if there is one."""
    if curves["collapse"]["cooldown"]:
        end = 1 - curves["collapse"]["cooldown"]
        ax.axvline(end, color=FAINT, lw=0.9, ls=":", label=TRUNK_END)


def residuals_by_event(ax: Axes, fit: Fit) -> Axes:
    """Residuals against tokens, runs that meet the schedule's event apart from the others."""
    met = np.array(fit.curves["phase"]["met"], dtype=bool)
    values = 100 * np.expm1(fit.points.residual)
    for mask, label, colour, side in ((met, MET, ACCENT, 1.03), (~met, NOT_MET, BLUE, 1 / 1.03)):
        tokens = fit.points.tokens[mask]
        ax.plot(side * tokens, values[mask], "o", ms=3, mfc="none", color=colour, label=label)
        lengths = np.unique(tokens)
        means = [values[mask][tokens == d].mean() for d in lengths]
        if len(lengths) <= 12:
            ax.hlines(means, lengths / 1.15, lengths * 1.15, color=colour, lw=2.0)
    ax.axhline(0, color=LAW, lw=0.9)
    top = 1.5 * max(float(np.abs(values).max()), 1e-6)
    ax.set_ylim(-top, top)
    ax.set_xlim(fit.points.tokens.min() / 1.5, fit.points.tokens.max() * 1.5)
    plots.count_axis(ax.xaxis, most=5)
    plots.style_axes(ax, x=plots.D_LABEL, y="Residual [%]")
    legend(ax, (MET, NOT_MET))
    return ax


def holdout_errors(ax: Axes, fit: Fit) -> Axes:
    """Mean and largest error in percent of each budget, predicted from the smaller ones."""
    noise = 100 * fit.noise
    ax.axhspan(-noise, noise, color=BAND, alpha=0.18, lw=0, label="one run's noise")
    ax.axhline(0, color=LAW, lw=0.9)
    errors = _holdout_points(fit)
    if len(errors):
        plots.draw_runs(ax, errors[:, 0], errors[:, 1], fit.points.flops, among=errors[:, 0])
    budgets = np.array([r.budget for r in fit.rolling])
    mean = np.array([100 * r.mean_relative_error for r in fit.rolling])
    most = np.array([100 * r.max_relative_error for r in fit.rolling])
    if len(budgets):
        ax.vlines(budgets, -most, most, color=FAINT, lw=1.0, label="largest error")
        ax.plot(budgets, mean, "D", mfc="none", color=ACCENT, ms=5, label="mean of a budget")
    spread = np.concatenate([most, np.abs(errors[:, 1]), [1.2 * noise]])
    top = 1.5 * float(spread.max())
    ax.set_ylim(-top, top)
    x = np.concatenate([budgets, errors[:, 0]])
    ax.set_xlim(x.min() / 1.6, x.max() * 1.6)
    plots.flops_axis(ax.xaxis)
    plots.style_axes(ax, x=C_LABEL, y=f"Error of the predicted {target_name(fit.law)} [%]")
    legend(ax, ("runs", "mean of a budget", "largest error", "one run's noise"))
    return ax


def holdout_coverage(ax: Axes, fit: Fit) -> Axes:
    """Share of runs inside their prediction intervals by budget, and the range chance allows."""
    from scipy.special import bdtr

    level = fit.interval.level
    tails = ((1 - level) / 2, (1 + level) / 2)
    budgets = np.array([r.budget for r in fit.rolling])
    counts = np.array([r.runs for r in fit.rolling])
    low, high = (np.array([_binomial(n, level, p, bdtr) for n in counts]) for p in tails)
    label = f"what {percent(level)} intervals allow"
    ax.vlines(budgets, 100 * low / counts, 100 * high / counts, color=FAINT, lw=4, label=label)
    covered = [100 * r.covered for r in fit.rolling]
    ax.plot(budgets, covered, "D", mfc="none", color=ACCENT, ms=5, label="runs inside")
    ax.axhline(100 * level, color=LAW, lw=0.9)
    ax.set_xlim(budgets.min() / 1.6, budgets.max() * 1.6)
    ax.set_ylim(0, 108)
    plots.flops_axis(ax.xaxis)
    plots.style_axes(ax, x=C_LABEL, y="In the prediction interval [%]")
    legend(ax, ("runs inside", label))
    return ax


def _binomial(count: int, share: float, below: float, cdf: Callable[..., Floats]) -> int:
    """Quantile at `below` of the number of successes in `count` trials."""
    return int(np.searchsorted(cdf(np.arange(count + 1), count, share), below))


def _holdout_points(fit: Fit) -> Floats:
    """Compute and error in percent of every run of the holdout, (runs, 2)."""
    h = fit.holdout
    place = {run: i for i, run in enumerate(fit.points.run)}
    rows = [] if h is None else zip(h.runs, h.predicted, h.measured, strict=True)
    points = [
        (fit.points.flops[place[run]], 100 * (p / m - 1)) for run, p, m in rows if run in place
    ]
    return np.array(points, dtype=float).reshape(-1, 2)
