"""Plots that check a fit: residuals, curves, and held-out budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation.scaling_law import ScalingLaw, fit_of
from fit.data.records import Floats, window_means
from fit.diagnostics.curves import FIRST, FIRST_DRAWN
from fit.quantities import percent, short
from fit.report import plots
from fit.report.figure_data import final_training_loss
from fit.report.legends import legend
from fit.report.plots import (
    ACCENT,
    BAND,
    BLUE,
    C_LABEL,
    FAINT,
    LAW,
)
from fit.report.tables import target_name
from fit.results import NATS_PER_TOKEN, Fit, loss_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    plots.count_axis(ax.xaxis, most=4)
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
    _size_keys(ax, sizes)
    return ax


ONE_EPOCH, REPEATED = "one epoch", "repeated data"
WINDOWS = 60
"""Of a training curve that is drawn over tokens, of equal length in ln D."""


def training_curves(ax: Axes, right: Axes, fit: Fit, curves: Mapping[int, Floats]) -> Axes:
    """Loss against tokens by size, and held-out less training loss at the end of each run.

    Args:
        ax: First axes: the longest training of each size as a line, held-out losses as points.
        right: Second axes: the differences, with the standard error of the training loss.
        fit: A fit for which `training_gaps` has rows.
        curves: Training curves by the run's place in its points.

    Returns:
        The first axes.
    """
    p = fit.points
    sizes = np.unique(p.params)
    for n in sizes:
        colour, chosen = plots.colour_of(n, sizes), p.params == n
        if mine := [i for i in curves if chosen[i]]:
            curve = curves[max(mine, key=lambda i: p.tokens[i])]
            edges = np.geomspace(curve[min(4, len(curve) - 1), 0], curve[-1, 0], WINDOWS + 1)
            x, y = np.sqrt(edges[1:] * edges[:-1]), window_means(curve, edges)
            ax.plot(x, y, color=colour, lw=0.9, label="training loss", gid=short(n))
        ax.plot(
            p.tokens[chosen], p.loss[chosen], "o", ms=2.6, color=colour, label="held-out loss"
        )  # fmt: skip
    if (entropy := fit.data.get("entropy")) is not None:
        ax.axhline(entropy, color=ACCENT, lw=0.9, ls="-.", label="known entropy")
    low, high = min(p.loss.min(), entropy or np.inf), p.loss.max()
    ax.set_ylim(low - 0.1 * (high - low), high + 0.6 * (high - low))
    ax.set_xlim(p.tokens.min() / 3, p.tokens.max() * 1.3)
    plots.count_axis(ax.xaxis, most=5)
    plots.style_axes(ax, x=plots.D_LABEL, y=f"Loss [{NATS_PER_TOKEN}]")
    _size_keys(ax, sizes)
    _draw_gaps(right, training_gaps(fit, curves), fit.data.get("unique_tokens") or np.inf)
    return ax


def training_gaps(fit: Fit, curves: Mapping[int, Floats]) -> Floats:
    """Held-out less training loss at the end of each run, (runs, 3): tokens, gap, its error.

    Empty where no run has a curve, or the fit is not of losses in nats per token.
    """
    if target_name(fit.law) != "loss" or loss_unit(fit.convention) != NATS_PER_TOKEN:
        return np.zeros((0, 3))
    ends = [(i, *final_training_loss(curve)) for i, curve in curves.items()]
    rows = [(fit.points.tokens[i], fit.points.loss[i] - end, error) for i, end, error in ends]
    return np.array([row for row in rows if np.isfinite(row).all()]).reshape(-1, 3)


def _draw_gaps(ax: Axes, gaps: Floats, unique: float) -> None:
    """Draw the rows of `training_gaps`, runs beyond the unique tokens apart."""
    ax.axhline(0, color=LAW, lw=0.9)
    kinds = ((gaps[:, 0] <= unique, ONE_EPOCH, BLUE), (gaps[:, 0] > unique, REPEATED, ACCENT))
    for mask, label, colour in kinds:
        for length in np.unique(gaps[mask, 0]):
            _, gap, error = gaps[mask & (gaps[:, 0] == length)].T
            x = length * np.exp(np.linspace(-0.2, 0.2, len(gap)))  # runs of one length side by side
            ax.vlines(x, 1e3 * (gap - error), 1e3 * (gap + error), color=FAINT, lw=0.7)
            ax.plot(x, 1e3 * gap, "o", ms=2.6, color=colour, label=label)
    top = 1.3e3 * float((np.abs(gaps[:, 1]) + gaps[:, 2]).max())
    ax.set_ylim(-top, top)
    ax.set_xlim(gaps[:, 0].min() / 1.5, gaps[:, 0].max() * 1.5)
    plots.count_axis(ax.xaxis, most=5)
    plots.style_axes(ax, x=plots.D_LABEL, y="Held-out less training loss\n[1e-3 nats/token]")
    if (gaps[:, 0] > unique).any():
        legend(ax, (ONE_EPOCH, REPEATED))


def _size_keys(ax: Axes, sizes: Floats) -> None:
    """Draw a legend of at most five sizes by their colours, above the axes."""
    from matplotlib.lines import Line2D

    shown = sizes if len(sizes) <= 5 else sizes[[0, len(sizes) // 2, -1]]
    keys = [Line2D([], [], color=plots.colour_of(n, sizes), lw=1.2) for n in shown]
    names = [f"N = {short(n)}" for n in shown]
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
    ax.legend(keys, names, frameon=False, columnspacing=1.2, **above)


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
