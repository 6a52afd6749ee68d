"""Loss by shape: what width buys and what depth buys, a panel per skill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit import axes
from fit.axes import FAINT
from fit.skills import Shaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOTAL = "all"
MOST_WORTH = 1e-3
"""A skill is shown if it costs some shape that share of the dearest one's cost, and is named."""


def shapes_shown(rows: Sequence[Shaped]) -> tuple[Shaped, ...]:
    """Those of one length: that of the most shapes, and the longest where several have as many."""
    lengths = {row.tokens for row in rows}
    best = max(lengths, key=lambda d: (sum(row.tokens == d for row in rows), d), default=0.0)
    return tuple(row for row in rows if row.tokens == best)


def skills_shown(rows: Sequence[Shaped]) -> tuple[str, ...]:
    """The total, then every skill by what it costs the dearest shape."""
    costs = {name: max(row.excess[name].mean for row in rows) for name in rows[0].excess}
    top = max(costs.values())
    kept = [n for n, c in sorted(costs.items(), key=lambda i: -i[1]) if c > MOST_WORTH * top]
    return tuple(sorted(kept, key=lambda n: n != TOTAL))


def skill_by_shape(ax: Axes, rows: Sequence[Shaped], skill: str) -> Axes:
    """One skill over the grid of shapes: widths across, depths upwards, a number in each cell.

    Args:
        ax: Axes to draw on.
        rows: Shapes of one length.
        skill: A key of their `excess`.

    Returns:
        The same axes.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    widths = sorted({row.width for row in rows})
    depths = sorted({row.depth for row in rows})
    cost = np.array([1e3 * row.excess[skill].mean for row in rows])
    low, high = float(cost.min()), float(cost.max())
    for row, value in zip(rows, cost, strict=True):
        x, y = widths.index(row.width), depths.index(row.depth)
        share = (value - low) / (high - low) if high > low else 1.0
        colour = colormaps["Blues"](0.62 - 0.55 * share)
        box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=1.0)
        ax.add_patch(box)
        error = 1e3 * row.excess[skill].error
        text = f"{value:.2f}" + (f"\n±{error:.2f}" if np.isfinite(error) else "")
        ink: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.0, "linespacing": 1.1}
        ax.text(x, y, text, gid=f"w{row.width} d{row.depth}", **ink)
    ax.set_xticks(range(len(widths)), [str(w) for w in widths])
    ax.set_yticks(range(len(depths)), [str(d) for d in depths])
    ax.set_xlim(-0.5, len(widths) - 0.5)
    ax.set_ylim(-0.5, len(depths) - 0.5)
    axes.dress(ax, x="Width", y="Depth")
    ax.grid(False)
    ax.tick_params(length=0, colors="#1a1a1a")
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.set_title("all skills" if skill == TOTAL else skill, fontsize="medium")
    return ax
