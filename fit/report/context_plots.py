"""What it costs: the next hundredth of a nat, serving, and too few unique tokens.

Published models beside a law: by compute where the law reaches them, else by D/N alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation.costs import ServingCosts
from fit.allocation.scaling_law import FrontierBand, IntervalCurve, ScalingLaw, fit_of
from fit.files import csv_text
from fit.laws.published import PRESETS, PUBLISHED_MODELS, PublishedModel
from fit.query.warnings import FRESH_EPOCHS, STALE_EPOCHS
from fit.report import plots
from fit.report.plots import (
    ACCENT,
    BAND,
    C_LABEL,
    DASHED,
    L_LABEL,
    LAW,
    N_LABEL,
    draw_curve,
    draw_curve_over,
    legend_order,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR = "#3b6fa5"
RIVAL = "besiroglu2024"
"""The published law that is drawn beside a fit of another scale."""
FARTHEST = 3.0
"""Models up to this many times beyond the frontier's end are still shown against compute."""
MOST_TIMES = 300.0
"""Prices over the budget beyond which nobody pays them, and E is all but reached."""
SERVED = "#3b6fa5"


def within(best: FrontierBand) -> tuple[PublishedModel, ...]:
    """The models whose compute lies in the range of a frontier."""
    low, high = best.flops[0], FARTHEST * best.flops[-1]
    return tuple(m for m in PUBLISHED_MODELS if low <= m.flops <= high)


def ratio_against_params(ax: Axes, source: ScalingLaw, best: FrontierBand) -> Axes:
    """D/N against N: runs, the law's best split with its band, models, and a published law.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier.

    Returns:
        The same axes.
    """
    p = fit_of(source).points
    draw_curve_over(ax, best, best.params.value, best.ratio)
    plots.runs(ax, p.params, p.tokens / p.params, p.flops)
    if best.flops[-1] < min(m.flops for m in PUBLISHED_MODELS):
        _rival(ax)
    for m in PUBLISHED_MODELS:
        label = "of experts" if m.experts else "published models"
        face = "none" if m.experts else COLOUR
        style: dict[str, Any] = {
            "mfc": face,
            "mew": 0.8,
            "alpha": 0.9,
            "label": label,
            "gid": m.name,
        }
        ax.plot([m.params], [m.tokens / m.params], "^", color=COLOUR, ms=4.5, zorder=3, **style)
    _name(ax)
    sizes = np.concatenate([p.params, best.params.value, [m.params for m in PUBLISHED_MODELS]])
    ratios = np.concatenate([p.tokens / p.params, [m.tokens / m.params for m in PUBLISHED_MODELS]])
    ax.set_xlim(sizes.min() / 2, sizes.max() * 4)
    ax.set_ylim(min(ratios.min(), best.ratio.value.min()) / 1.6, 2 * ratios.max())
    plots.count_axis(ax.xaxis)
    plots.count_axis(ax.yaxis)
    plots.dress(ax, x=N_LABEL, y="Tokens per parameter D/N")
    named = legend_order(source, "published models", "of experts", f"{RIVAL}, a published law")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 4, "columnspacing": 1.2}
    plots.legend(ax, named, **above)
    return ax


def overlay(ax: Axes, best: FrontierBand, quantity: str) -> None:
    """Models in the frontier's range, at the 6 N D that they took; no mark where there are none."""
    for m in within(best):
        face = "none" if m.experts else COLOUR
        style: dict[str, Any] = {
            "mfc": face,
            "mew": 0.8,
            "label": "published models",
            "gid": m.name,
        }
        value = getattr(m, quantity)
        ax.plot([m.flops], [value], "^", color=COLOUR, ms=3.6, zorder=3, alpha=0.85, **style)


def models_table() -> str:
    """The whole table of models with their sources, as CSV."""
    return csv_text(
        {
            "name": m.name,
            "year": m.year,
            "params": f"{m.params:.6g}",
            "tokens": f"{m.tokens:.6g}",
            "experts": str(m.experts).lower(),
            "source": m.source,
            "note": m.note,
        }
        for m in PUBLISHED_MODELS
    )


def _rival(ax: Axes) -> None:
    """A published law at its own scale."""
    rival = ScalingLaw.from_preset(PRESETS[RIVAL])
    best = rival.best(np.geomspace(1e19, 1e26, 30))
    n, ratio = np.exp(best.log_params), np.exp(best.log_tokens - best.log_params)
    ax.plot(n, ratio, color=BAND, lw=1.0, zorder=2, label=f"{RIVAL}, a published law")


def _name(ax: Axes) -> None:
    """Names beside the marks of the best known."""
    for m in (m for m in PUBLISHED_MODELS if m.named):
        ax.annotate(
            m.name,
            (m.params, m.tokens / m.params),
            xytext=(3, 2.5),
            textcoords="offset points",
            fontsize=6,
            color="#2c4d70",
        )


def next_price(ax: Axes, source: ScalingLaw, best: FrontierBand, price: IntervalCurve) -> Axes:
    """The FLOP that the next 0.01 nats take beyond each budget, with their interval."""
    near = price.value <= MOST_TIMES * best.flops
    price = IntervalCurve(
        **{k: np.where(near, getattr(price, k), np.nan) for k in ("value", "low", "high")}
    )
    draw_curve(ax, best, price)
    ax.plot(best.flops, best.flops, color=LAW, lw=0.7, ls=":", label="the budget again")
    shown = price.value[near]
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(0.5 * min(shown.min(), best.flops[0]), 3 * shown.max())
    plots.flops_axis(ax.xaxis)
    plots.flops_axis(ax.yaxis)
    plots.dress(ax, x=C_LABEL, y="Price of the next 0.01 nats/token [FLOP]")
    plots.legend(ax, legend_order(source, "the budget again")[1:], loc="upper left")
    return ax


def lifetime_cost(ax: Axes, found: ServingCosts) -> Axes:
    """Training, serving and both together against size, at one loss."""
    ax.plot(found.params, found.training, color=LAW, lw=1.2, label="training")
    ax.plot(found.params, found.serving, color=SERVED, lw=1.2, label="serving")
    ax.plot(found.params, found.total, color=ACCENT, lw=1.8, label="both")
    place = found.cheapest
    at = [found.params[place]], [found.total[place]]
    ax.plot(*at, "o", color=ACCENT, ms=5, label="cheapest in all")
    ax.axvline(found.optimum, color=LAW, lw=0.8, ls=":", label="optimum N*")
    low = min(found.training.min(), found.serving.max())
    ax.set_xlim(found.params[0], found.params[-1])
    ax.set_ylim(0.3 * low, 6 * max(float(found.total[place]), low))
    plots.count_axis(ax.xaxis)
    plots.flops_axis(ax.yaxis)
    plots.dress(ax, x=N_LABEL, y="Compute at the same loss [FLOP]")
    named = ("training", "serving", "both", "cheapest in all", "optimum N*")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 5, "columnspacing": 1.0}
    plots.legend(ax, named, **above)
    return ax


def repeats_loss(ax: Axes, best: FrontierBand, source: ScalingLaw, scarce: ScalingLaw) -> Axes:
    """The least loss of a budget with fresh tokens, and where they run out."""
    draw_curve(ax, best, best.loss)
    loss = np.exp(scarce.best(best.flops).log_loss)
    for part, dashes in ((best.inside, "-"), (~best.inside, DASHED)):
        style: dict[str, Any] = {"color": ACCENT, "lw": 1.4, "label": "unique tokens limited"}
        ax.plot(best.flops[part], loss[part], ls=dashes, **style)
    p = fit_of(source).points
    plots.runs(ax, p.flops, p.loss, p.flops)
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(0.98 * best.loss.value[-1], 1.02 * max(float(loss[0]), best.loss.value[0]))
    plots.flops_axis(ax.xaxis)
    plots.loss_axis(ax.yaxis)
    plots.dress(ax, x=C_LABEL, y=L_LABEL)
    plots.legend(ax, legend_order(source, "unique tokens limited"))
    return ax


def repeats_epochs(ax: Axes, best: FrontierBand, scarce: ScalingLaw, unique_tokens: float) -> Axes:
    """How often the best split of each budget sees the data."""
    epochs = np.exp(scarce.best(best.flops).log_tokens) / unique_tokens
    for part, dashes in ((best.inside, "-"), (~best.inside, DASHED)):
        ax.plot(best.flops[part], epochs[part], color=ACCENT, lw=1.4, ls=dashes, label="best split")
    ax.axhline(FRESH_EPOCHS, color=LAW, lw=0.8, label="nearly as good as fresh")
    ax.axhline(STALE_EPOCHS, color=LAW, lw=0.8, ls=":", label="worth little beyond")
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(min(0.5, float(epochs.min())), max(2.0 * STALE_EPOCHS, 1.5 * float(epochs.max())))
    plots.flops_axis(ax.xaxis)
    plots.count_axis(ax.yaxis)
    plots.dress(ax, x=C_LABEL, y="Epochs, D over unique tokens")
    named = ("best split", "nearly as good as fresh", "worth little beyond")
    plots.legend(ax, named, loc="upper left")
    return ax
