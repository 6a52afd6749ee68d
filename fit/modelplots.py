"""Published models beside a law: by compute where the law reaches them, else by D/N alone."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from fit import axes
from fit.axes import BAND
from fit.bands import Frontier, fit_of
from fit.catalogue import PRESETS
from fit.models import MODELS, Model
from fit.plots import N_LABEL, draw_curve_over, legend_order
from fit.source import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR = "#3b6fa5"
RIVAL = "besiroglu2024"
"""The published law that is drawn beside a fit of another scale."""
FARTHEST = 3.0
"""Models up to this many times beyond the frontier's end are still shown against compute."""


def within(best: Frontier) -> tuple[Model, ...]:
    """The models whose compute lies in the range of a frontier."""
    low, high = best.flops[0], FARTHEST * best.flops[-1]
    return tuple(m for m in MODELS if low <= m.flops <= high)


def ratio_against_params(ax: Axes, source: Source, best: Frontier) -> Axes:
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
    axes.runs(ax, p.params, p.tokens / p.params, p.flops)
    if best.flops[-1] < min(m.flops for m in MODELS):
        _rival(ax)
    for m in MODELS:
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
    sizes = np.concatenate([p.params, best.params.value, [m.params for m in MODELS]])
    ratios = np.concatenate([p.tokens / p.params, [m.tokens / m.params for m in MODELS]])
    ax.set_xlim(sizes.min() / 2, sizes.max() * 4)
    ax.set_ylim(min(ratios.min(), best.ratio.value.min()) / 1.6, 2 * ratios.max())
    axes.count_axis(ax.xaxis)
    axes.count_axis(ax.yaxis)
    axes.dress(ax, x=N_LABEL, y="Tokens per parameter D/N")
    named = legend_order(source, "published models", "of experts", f"{RIVAL}, a published law")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 4, "columnspacing": 1.2}
    axes.legend(ax, named, **above)
    return ax


def overlay(ax: Axes, best: Frontier, quantity: str) -> None:
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
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("name", "year", "params", "tokens", "experts", "source", "note"))
    for m in MODELS:
        counts = (f"{m.params:.6g}", f"{m.tokens:.6g}", str(m.experts).lower())
        writer.writerow((m.name, m.year, *counts, m.source, m.note))
    return stream.getvalue()


def _rival(ax: Axes) -> None:
    """A published law at its own scale."""
    rival = Source.from_preset(PRESETS[RIVAL])
    best = rival.best(np.geomspace(1e19, 1e26, 30))
    n, ratio = np.exp(best.log_params), np.exp(best.log_tokens - best.log_params)
    ax.plot(n, ratio, color=BAND, lw=1.0, zorder=2, label=f"{RIVAL}, a published law")


def _name(ax: Axes) -> None:
    """Names beside the marks of the best known."""
    for m in (m for m in MODELS if m.named):
        ax.annotate(
            m.name,
            (m.params, m.tokens / m.params),
            xytext=(3, 2.5),
            textcoords="offset points",
            fontsize=6,
            color="#2c4d70",
        )
