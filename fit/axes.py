"""How every figure is dressed: plain ticks on log axes, one colour sequence by budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.quantity import UNITS
from fit.record import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm

LAW = "#1a1a1a"
BAND = "#7a7a7a"
FAINT = "#b8b8b8"
ACCENT = "#b5402a"
"""For what is neither run nor law: known entropy, cross-checks."""
SHOWN_OF_MAP = (0.0, 0.86)
"""The end of viridis that is too pale on paper is left out."""
RUN_SIZE = 14.0


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


def runs(
    ax: Axes, x: Floats, y: Floats, flops: Floats, *, among: Floats | None = None, **style: Any
) -> Any:
    """Runs as points, coloured by budget.

    Args:
        ax: Axes to draw on.
        x: (k,).
        y: (k,).
        flops: Compute of all runs of the fit, which sets the scale of the colours.
        among: Compute of these runs, (k,), where they are not all.
        **style: Further settings of the points.
    """
    shades, scale = budget_colours(flops)
    own = flops if among is None else among
    kept: dict[str, Any] = {"s": RUN_SIZE, "linewidths": 0.4, "edgecolors": "white", "zorder": 4}
    return ax.scatter(x, y, c=own, cmap=shades, norm=scale, label="runs", **(kept | style))


def budget_bar(ax: Axes, mappable: Any) -> None:
    """The colour scale beside a figure."""
    figure = ax.figure
    bar = figure.colorbar(mappable, ax=ax, pad=0.015, aspect=28)
    bar.outline.set_visible(False)
    bar.set_label("Compute C [FLOP]")
    low, high = mappable.norm.vmin, mappable.norm.vmax
    ticks = _decades(low, high, 6)
    bar.ax.yaxis.set_major_locator(_fixed(ticks if len(ticks) > 1 else [low, high]))
    bar.ax.yaxis.set_major_formatter(_formatter(_power_tick))
    bar.ax.yaxis.set_minor_locator(_fixed([]))


def dress(ax: Axes, *, x: str, y: str) -> Axes:
    """Labels, a light grid, and no frame on the right and top."""
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
    """A log axis of parameters or tokens with so many ticks at most: 100k, 1M, 10M."""
    low, high = _log_limits(axis)
    _set_ticks(axis, _decades(low, high, most), _count_tick)


def flops_axis(axis: Any) -> None:
    """A log axis of compute in powers of ten."""
    _log_axis(axis, _power_tick)


def loss_axis(axis: Any) -> None:
    """A log axis of losses with plain numbers at round places."""
    from matplotlib.ticker import MaxNLocator

    low, high = _log_limits(axis)
    if high > 8 * low:
        ticks = _decades(low, high, 7)
    else:
        places = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [t for t in places if low <= t <= high]
    _set_ticks(axis, ticks, lambda v: f"{v:g}")


def legend(ax: Axes, order: Sequence[str] = (), **where: Any) -> None:
    """One entry per label, in the order given, with a white ground."""
    handles, labels = ax.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    wanted = [label for label in order if label in named] or list(named)
    kept: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "loc": "best"}
    box = ax.legend([named[w] for w in wanted], wanted, **(kept | where))
    box.set_zorder(6)


def _log_axis(axis: Any, form: Callable[[float], str]) -> None:
    """Log scale with ticks at round numbers."""
    low, high = _log_limits(axis)
    _set_ticks(axis, _decades(low, high, 7), form)


def _log_limits(axis: Any) -> tuple[float, float]:
    """Make an axis logarithmic and return its limits, ascending; from here on they stay."""
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
    """Major ticks with labels and no minor ones."""
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
    """A power of ten in mathematics."""
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
