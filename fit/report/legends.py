"""Legends above the axes, where they hide no data.

`legend` is for one panel, `shared_legend` for a figure whose panels show the same marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_HANDLE, LEGEND_LETTERS = 0.55, 17.0
"""Inches of a legend's handle with its gaps, and letters of its text to the inch."""


def legend(ax: Axes, order: Sequence[str] = ()) -> None:
    """Draw a legend above the axes with one entry per label, in a given order."""
    handles, labels = ax.get_legend_handles_labels()
    _draw_legend(ax, dict(zip(labels, handles, strict=True)), order, _width(ax))


def shared_legend(figure: Figure, order: Sequence[str] = ()) -> None:
    """Draw one legend above all panels of a figure, with one entry per label in a given order."""
    named: dict[str, Any] = {}
    for ax in figure.axes:
        named |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) | named
    for ax in figure.axes:
        if (own := ax.get_legend()) is not None:
            own.remove()
    _draw_legend(figure, named, order, figure.get_figwidth())


def _draw_legend(
    owner: Axes | Figure, named: Mapping[str, Any], order: Sequence[str], width: float
) -> None:
    """Draw a legend in as many columns as fit into a width in inches."""
    labels = [label for label in order if label in named] or list(named)
    if not labels:
        return
    column = LEGEND_HANDLE + max(map(len, labels)) / LEGEND_LETTERS
    # As few columns as the rows allow: five entries stand better in 3 + 2 than in 4 + 1.
    rows = -(-len(labels) // max(1, int(width / column)))
    style: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    if not hasattr(owner, "get_xlim"):
        style = {"loc": "outside upper center"}
    style |= {"frameon": False, "ncols": -(-len(labels) // rows), "columnspacing": 1.4}
    owner.legend([named[label] for label in labels], labels, borderpad=0.1, **style)


def _width(ax: Axes) -> float:
    """Width of the place that axes have in their figure [inches]."""
    place = ax.get_subplotspec()
    across = 1 if place is None else place.get_gridspec().ncols
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(figure.get_figwidth()) / across
