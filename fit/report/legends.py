"""Legends above the axes, and names beside points, where they hide no data.

`legend` is for one panel, `shared_legend` for a figure whose panels show the same marks; `lay_out`
places the panels themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.data.records import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_HANDLE, LEGEND_LETTERS = 0.55, 17.0
"""Inches of a legend's handle with its gaps, and letters of its text to the inch, at the least."""

NAME_PLACES = tuple(
    (side * x, y, {1: "left", 0: "center", -1: "right"}[side])
    for side, x, y in (
        (1, 5, 0), (1, 4, 6), (1, 4, -6), (0, 0, 9), (0, 0, -9), (-1, 5, 0), (-1, 4, 6),
        (-1, 4, -6), (0, 0, 16), (0, 0, -16), (1, 7, 13), (1, 7, -13), (-1, 7, 13), (-1, 7, -13),
    )
)  # fmt: skip
"""Places of a name beside its point, the best first: (x, y) in points, and how it is aligned."""


def legend(ax: Axes, order: Sequence[str] = ()) -> None:
    """Draw a legend above the axes with one entry per label, in a given order."""
    _draw_legend(ax, _named(ax), order, _width(ax))


def shared_legend(figure: Figure, order: Sequence[str] = ()) -> None:
    """Draw one legend above all panels of a figure, with one entry per label in a given order."""
    named: dict[str, Any] = {}
    for ax in figure.axes:
        named = _named(ax) | named
    for ax in figure.axes:
        if (own := ax.get_legend()) is not None:
            own.remove()
    _draw_legend(figure, named, order, figure.get_figwidth())


def _named(ax: Axes) -> dict[str, Any]:
    """The first mark with each label."""
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(reversed(labels), reversed(handles), strict=True))


def _draw_legend(
    owner: Axes | Figure, named: Mapping[str, Any], order: Sequence[str], width: float
) -> None:
    """Draw a legend in as many columns as fit into a width in inches."""
    labels = [label for label in order if label in named] or list(named)
    if not labels:
        return
    rows = next(r for r in range(1, len(labels) + 1) if _fits(labels, r, width))
    style: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    if not hasattr(owner, "get_xlim"):
        style = {"loc": "outside upper center"}
    style |= {"frameon": False, "ncols": -(-len(labels) // rows), "columnspacing": 1.4}
    owner.legend([named[label] for label in labels], labels, borderpad=0.1, **style)


def _fits(labels: Sequence[str], rows: int, width: float) -> bool:
    """Whether a legend of so many rows, filled by columns, is no wider; one column always does."""
    columns = np.array_split(list(labels), -(-len(labels) // rows))
    longest = [max(map(len, column)) for column in columns]
    return len(columns) == 1 or sum(LEGEND_HANDLE + n / LEGEND_LETTERS for n in longest) <= width


def write_names(ax: Axes, names: Mapping[str, tuple[float, float]], **style: Any) -> None:
    """Write names beside points where there is room: on no point, line, other name or border.

    The layout must be done, or the axes have their place: room is measured on the page.

    Args:
        ax: Axes with everything else drawn.
        names: Places by name, the most important first; one without room is left out.
        **style: Settings of the text.
    """
    marks, frame = _marks(ax), ax.get_window_extent()
    figure = ax.get_figure(root=True)
    assert figure is not None
    point = figure.dpi / 72
    taken: list[Any] = []
    for name, place in names.items():
        for x, y, side in NAME_PLACES:
            text = ax.annotate(
                name, place, (x, y), textcoords="offset points", ha=side, va="center",
                in_layout=False, **style,
            )  # fmt: skip
            box = text.get_window_extent()
            inside = frame.count_contains(box.corners()) == 4
            near = box.padded(2.0 * point)
            if inside and not (near.count_contains(marks) or near.count_overlaps(taken)):
                taken.append(box)
                break
            text.remove()


def contour_places(ax: Axes, lines: Sequence[Sequence[Floats]]) -> list[tuple[float, float]]:
    """Places of the labels of contours: farthest from marks, other labels and the frame.

    Args:
        ax: Axes with everything else drawn, and their limits set.
        lines: Of each contour its parts, (vertices, 2).

    Returns:
        (x, y) of one label per contour; a contour that only touches a corner has none.
    """
    frame, taken, places = ax.get_window_extent(), _marks(ax), []
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = 0.06 * frame.width * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for parts in filter(None, lines):
        line = max(parts, key=len)
        at = ax.transData.transform(line)
        room = np.minimum(at - frame.min, frame.max - at).min(axis=1)
        across, up = (at[:, i, None] - taken[:, i] for i in (0, 1))
        gap = np.sqrt((across**2 + up**2).min(axis=1))
        best = int(np.argmax(np.minimum(room, gap)))
        if room[best] > 0.02 * frame.width:
            places.append((float(line[best, 0]), float(line[best, 1])))
            taken = np.concatenate([taken, at[best] + ring])
    return places


def _marks(ax: Axes) -> Floats:
    """Points of all lines, closely spaced, and of all scatters of some axes [pixels], (k, 2)."""
    drawn = [np.asarray(li.get_path().interpolated(20).vertices) for li in ax.get_lines()]
    drawn += [np.asarray(c.get_offsets()) for c in ax.collections if c.get_label() == "runs"]
    at = ax.transData.transform(np.concatenate([v for v in drawn if len(v)]))
    return np.asarray(at[np.isfinite(at).all(axis=1)])


def _width(ax: Axes) -> float:
    """Width of the place that axes have in their figure [inches]."""
    place = ax.get_subplotspec()
    across = 1 if place is None else place.get_gridspec().ncols
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(figure.get_figwidth()) / across


def lay_out(figure: Figure) -> None:
    """Place the panels as for PDF, once for every format.

    A figure with a layout engine, even one that is done, is drawn once more for each format, only
    to be laid out; and that drawing takes as long as the one that is saved.
    """
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    if (engine := figure.get_layout_engine()) is not None:
        FigureCanvasPdf(figure)  # text is measured by the canvas
        dpi, figure.dpi = figure.dpi, 72
        engine.execute(figure)
        figure.set_layout_engine(None)
        figure.dpi = dpi
