"""What it costs: the next hundredth of a nat, serving, and too few unique tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fit import axes
from fit.axes import ACCENT, LAW
from fit.bands import Curve, Frontier, fit_of
from fit.doubts import FRESH_EPOCHS, STALE_EPOCHS
from fit.plots import C_LABEL, DASHED, L_LABEL, N_LABEL, draw_curve, legend_order
from fit.prices import Lifetimes
from fit.source import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TIMES = 300.0
"""Prices over the budget beyond which nobody pays them, and E is all but reached."""
SERVED = "#3b6fa5"


def next_price(ax: Axes, source: Source, best: Frontier, price: Curve) -> Axes:
    """The FLOP that the next 0.01 nats take beyond each budget, with their interval."""
    near = price.value <= MOST_TIMES * best.flops
    price = Curve(
        **{k: np.where(near, getattr(price, k), np.nan) for k in ("value", "low", "high")}
    )
    draw_curve(ax, best, price)
    ax.plot(best.flops, best.flops, color=LAW, lw=0.7, ls=":", label="the budget again")
    shown = price.value[near]
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(0.5 * min(shown.min(), best.flops[0]), 3 * shown.max())
    axes.flops_axis(ax.xaxis)
    axes.flops_axis(ax.yaxis)
    axes.dress(ax, x=C_LABEL, y="Price of the next 0.01 nats/token [FLOP]")
    axes.legend(ax, legend_order(source, "the budget again")[1:], loc="upper left")
    return ax


def lifetime_cost(ax: Axes, found: Lifetimes) -> Axes:
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
    axes.count_axis(ax.xaxis)
    axes.flops_axis(ax.yaxis)
    axes.dress(ax, x=N_LABEL, y="Compute at the same loss [FLOP]")
    named = ("training", "serving", "both", "cheapest in all", "optimum N*")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 5, "columnspacing": 1.0}
    axes.legend(ax, named, **above)
    return ax


def repeats_loss(ax: Axes, best: Frontier, source: Source, scarce: Source) -> Axes:
    """The least loss of a budget with fresh tokens, and where they run out."""
    draw_curve(ax, best, best.loss)
    loss = np.exp(scarce.best(best.flops).log_loss)
    for part, dashes in ((best.inside, "-"), (~best.inside, DASHED)):
        style: dict[str, Any] = {"color": ACCENT, "lw": 1.4, "label": "unique tokens limited"}
        ax.plot(best.flops[part], loss[part], ls=dashes, **style)
    p = fit_of(source).points
    axes.runs(ax, p.flops, p.loss, p.flops)
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(0.98 * best.loss.value[-1], 1.02 * max(float(loss[0]), best.loss.value[0]))
    axes.flops_axis(ax.xaxis)
    axes.loss_axis(ax.yaxis)
    axes.dress(ax, x=C_LABEL, y=L_LABEL)
    axes.legend(ax, legend_order(source, "unique tokens limited"))
    return ax


def repeats_epochs(ax: Axes, best: Frontier, scarce: Source, unique_tokens: float) -> Axes:
    """How often the best split of each budget sees the data."""
    epochs = np.exp(scarce.best(best.flops).log_tokens) / unique_tokens
    for part, dashes in ((best.inside, "-"), (~best.inside, DASHED)):
        ax.plot(best.flops[part], epochs[part], color=ACCENT, lw=1.4, ls=dashes, label="best split")
    ax.axhline(FRESH_EPOCHS, color=LAW, lw=0.8, label="nearly as good as fresh")
    ax.axhline(STALE_EPOCHS, color=LAW, lw=0.8, ls=":", label="worth little beyond")
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(min(0.5, float(epochs.min())), max(2.0 * STALE_EPOCHS, 1.5 * float(epochs.max())))
    axes.flops_axis(ax.xaxis)
    axes.count_axis(ax.yaxis)
    axes.dress(ax, x=C_LABEL, y="Epochs, D over unique tokens")
    named = ("best split", "nearly as good as fresh", "worth little beyond")
    axes.legend(ax, named, loc="upper left")
    return ax
