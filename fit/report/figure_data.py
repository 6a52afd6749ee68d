"""Data of figures: what a drawn figure shows as CSV, and losses by skill averaged over seeds.

The table is made from the drawn figure, so it holds whatever the figure shows and nothing else.
Losses by skill are averaged over the seeds of each shape, with Student's intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.data.records import Floats, fields_of, parse_document, read_curve
from fit.data.table import RunTable, score_columns
from fit.errors import FitError, RecordError
from fit.files import csv_text
from fit.inference.resampling import t_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "panel", "x_label", "y_label", "kind", "series", "x", "y", "low", "high", "flops", "name",
)  # fmt: skip
"""One row per point of an artist: `kind` is point, line, band, interval, contour or label."""

EQUAL_LOSS = "law: equal loss"
"""Label of the contours of the loss surface."""
Row = dict[str, Any]
SKILL_LEVEL = 0.9
PREFIX = "loss_"
SHOWN = 3
"""Skills that fit on a terminal beside the shape; the document has all."""
NOT_SKILLS = ("loss_se", "loss_bpb", "loss_plain")


FINAL_SHARE = 0.1
"""Share of a run whose training losses are compared with the held-out loss at its end."""
LADDER_NAME = "ladder.json"
"""In a folder of runs: what `isoflop sweep ladder` measured."""
LADDER_SCHEMA = "isoflop.ladder/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderStep:
    """A predictor of a data source, and its loss on the held-out sample."""

    name: str
    kind: str
    """n-gram, model or limit."""
    loss: float
    """[nats/token]."""

    @property
    def perplexity(self) -> float:
        """As many equally likely tokens would be as hard to predict."""
        return math.exp(self.loss)


def read_ladder(folder: Path) -> tuple[LadderStep, ...]:
    """The ladder beside some runs; empty where there is none that can be read."""
    try:
        document = parse_document((folder / LADDER_NAME).read_text(), LADDER_SCHEMA)
        return tuple(LadderStep(**fields_of(LadderStep, step)) for step in document["steps"])
    except (OSError, RecordError, KeyError, TypeError, ValueError, AttributeError):
        return ()  # a figure less: the report is of the fit


def read_curves(folder: Path, runs: Sequence[str]) -> Mapping[int, Floats]:
    """Training curves, (rows, 4), by the place of the run; without runs that have none there."""
    curves = {i: read_curve(str(folder / run)) for i, run in enumerate(runs)}
    return {i: curve for i, curve in curves.items() if curve is not None}


def final_training_loss(curve: Floats) -> tuple[float, float]:
    """Training loss at the end of a curve and its standard error, by a line through its last tenth.

    Args:
        curve: (rows, 4), see `read_curve`.

    Returns:
        Both [nats/token]; NaN with fewer than four rows there.
    """
    last = curve[curve[:, 0] > (1 - FINAL_SHARE) * curve[-1, 0]]
    if len(last) < 4:
        return math.nan, math.nan
    design = np.column_stack([np.ones(len(last)), last[:, 0] / curve[-1, 0] - 1])
    solution, *_ = np.linalg.lstsq(design, last[:, 1], rcond=None)
    variance = float(np.square(last[:, 1] - design @ solution).sum()) / (len(last) - 2)
    return float(solution[0]), math.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])


def figure_table(figure: Figure, runs: Sequence[str] = ()) -> str:
    """The data of a figure as CSV with the columns `COLUMNS`.

    Args:
        figure: A figure; axes without an x label of their own, such as colour bars, are left out.
        runs: Names of the runs, in the order in which points labelled `runs` are drawn.

    Returns:
        The table. A band's row has `low` and `high` in place of `y`, an interval's likewise.
    """
    table = []
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    for number, ax in enumerate(panels, start=1):
        head = {"panel": number, "x_label": ax.get_xlabel(), "y_label": ax.get_ylabel()}
        for row in _rows(ax, runs):
            if all(math.isfinite(v) for v in row.values() if not isinstance(v, str)):
                table.append({**head, **row})
    return csv_text(table, COLUMNS, number_format=".9g")


def shown_series(figure: Figure) -> frozenset[str]:
    """Labels of the artists of a figure that are seen: with a point inside the axes' limits."""
    seen = set()
    for ax in (a for a in figure.axes if a.get_label() != "<colorbar>"):
        seen |= {_series(patch) for patch in ax.patches}
        for row in _rows(ax, ()):
            if row["kind"] != "label" and _is_inside(ax, row):
                seen.add(EQUAL_LOSS if row["kind"] == "contour" else row["series"])
    return frozenset(seen - {""})


def _is_inside(ax: Axes, row: Row) -> bool:
    """Whether a row of the table lies inside the limits of its axes."""
    for name, limits in (("x", ax.get_xlim()), ("y", ax.get_ylim())):
        if name in row and not min(limits) <= row[name] <= max(limits):
            return False
    if "low" not in row:
        return all(math.isfinite(row[k]) for k in ("x", "y") if k in row)
    bottom, top = sorted(ax.get_xlim() if "y" in row else ax.get_ylim())
    return bool(row["low"] <= top and row["high"] >= bottom)  # False where an end is NaN


def _rows(ax: Axes, runs: Sequence[str]) -> Iterator[Row]:
    """Rows of one panel: lines, then points, bands, intervals and contours."""
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection
    from matplotlib.contour import ContourSet

    for line in ax.get_lines():
        yield from _line(ax, line)
    for artist in ax.collections:
        series = _series(artist)
        if isinstance(artist, ContourSet):
            yield from _contours(artist)
        elif isinstance(artist, PolyCollection):
            yield from ({"kind": "band", "series": series, **r} for r in _band(artist))
        elif isinstance(artist, LineCollection):
            yield from ({"kind": "interval", "series": series, **r} for r in _intervals(artist))
        elif isinstance(artist, PathCollection):
            yield from ({"kind": "point", "series": series, **r} for r in _points(artist, runs))
    for text in ax.texts:
        x, y = (float(v) for v in text.xy) if hasattr(text, "xy") else text.get_position()
        words = " ".join(text.get_text().split())
        yield {"kind": "label", "series": text.get_gid() or "", "x": x, "y": y, "name": words}


def _line(ax: Axes, line: Any) -> Iterator[Row]:
    """A line or unconnected marks; a line right across the panel has one coordinate only."""
    marks = line.get_linestyle() in ("None", "none", "", " ")
    along, across = line.get_transform().contains_branch_seperately(ax.transData)
    base = {"kind": "point" if marks else "line", "series": _series(line)}
    base |= {"name": line.get_gid()} if line.get_gid() else {}
    x, y = (np.asarray(v, dtype=float) for v in line.get_data())
    if along and across:
        yield from ({**base, "x": a, "y": b} for a, b in zip(x, y, strict=True))
    elif across and len(y):
        yield {**base, "y": y[0]}
    elif along and len(x):
        yield {**base, "x": x[0]}


def _points(artist: Any, runs: Sequence[str]) -> Iterator[Row]:
    """Scattered points; those of the runs have a name and their compute."""
    places, shades = np.asarray(artist.get_offsets(), dtype=float), artist.get_array()
    are_runs = artist.get_label() == "runs" and len(places) == len(runs)
    for i, (x, y) in enumerate(places):
        row: Row = {"x": x, "y": y}
        if shades is not None:
            row["flops"] = float(shades[i])
        yield {**row, "name": runs[i]} if are_runs else row


def _band(artist: Any) -> Iterator[Row]:
    """A band from its outline: out along one edge, back along the other."""
    for path in artist.get_paths():
        corners = path.vertices
        # fill_between closes its outline with 3 extra corners: the start, the turn and the end.
        count = (len(corners) - 3) // 2
        one, other = corners[1 : count + 1], corners[count + 2 : 2 * count + 2][::-1]
        for (x, a), (_, b) in zip(one, other, strict=True):
            yield {"x": x, "low": min(a, b), "high": max(a, b)}


def _intervals(artist: Any) -> Iterator[Row]:
    """Vertical and horizontal intervals."""
    for (x, y), (to_x, to_y) in (s for s in artist.get_segments() if len(s) == 2):
        if x == to_x:
            yield {"x": x, "low": min(y, to_y), "high": max(y, to_y)}
        else:
            yield {"y": y, "low": min(x, to_x), "high": max(x, to_x)}


def _contours(artist: Any) -> Iterator[Row]:
    """Contour lines, each point with its level as the series."""
    for level, lines in zip(artist.levels, artist.allsegs, strict=True):
        for place in (p for line in lines for p in line):
            yield {"kind": "contour", "series": f"{level:g}", "x": place[0], "y": place[1]}


def _series(artist: Any) -> str:
    """Label of an artist; empty where it is one that matplotlib assigned."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillExcess:
    """What a skill costs above a perfect predictor, over the seeds of one shape and length."""

    mean: float
    """Over seeds [nats/token]: the skill's share of the loss, less its share of the entropy."""
    error: float
    """Half of the 90% interval of the mean, Student's t; infinite with one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSkills:
    """One shape trained for one length."""

    width: int
    depth: int
    params: float
    tokens: float
    seeds: int
    excess: Mapping[str, SkillExcess]
    scores: Mapping[str, SkillExcess] = field(default_factory=dict)
    """Mean of each score of 0 to 1 over the seeds, where the runs have scores."""


def skills_by_shape(table: RunTable) -> tuple[ShapeSkills, ...]:
    """Average the excess loss of every skill over the seeds of each shape.

    Args:
        table: Runs with losses by skill on data whose entropy by skill is known.

    Returns:
        One row per shape and length, by ascending tokens, then depth, then width. Skills that cost
        nothing in any run are left out.

    Raises:
        FitError: The runs have no losses by skill, differ in their data, or have no shapes.
    """
    entropy = None if table.data is None else table.data.entropy_by_skill
    rows = () if entropy is None else by_shape(table.columns, table.tokens, table.params, entropy)
    if not rows:
        raise FitError(
            f"{table.source or 'the table'} has no losses by skill over shapes on one data set; "
            "records of stories have them: python -m sweep -m +experiment=skills"
        )
    return rows


def by_shape(
    columns: Mapping[str, Any], tokens: Floats, params: Floats, entropy: Mapping[str, float]
) -> tuple[ShapeSkills, ...]:
    """The same from columns; empty where there are no losses by skill or no shapes.

    Args:
        columns: width, depth and `loss_<skill>`, each (runs,).
        tokens: (runs,).
        params: (runs,).
        entropy: By skill [nats/token].
    """
    names = [c for c in columns if c.startswith(PREFIX) and c not in NOT_SKILLS]
    if not names or not {"width", "depth"} <= set(columns):
        return ()
    bare = {n: n.removeprefix(PREFIX) for n in names}
    values = {bare[n]: np.asarray(columns[n], float) - entropy.get(bare[n], 0.0) for n in names}
    scores = {name: np.asarray(columns[c], float) for name, c in score_columns(columns).items()}
    kept = {name: v for name, v in values.items() if (np.abs(v) > 1e-12).any()}
    keys = np.stack([tokens, columns["depth"], columns["width"], params], 1).astype(float)
    shapes, group = np.unique(keys, axis=0, return_inverse=True)
    rows = []
    for number, (length, depth, width, size) in enumerate(shapes):
        chosen = group.ravel() == number
        rows.append(
            ShapeSkills(
                width=int(width),
                depth=int(depth),
                params=float(size),
                tokens=float(length),
                seeds=int(chosen.sum()),
                excess={name: _excess(v[chosen]) for name, v in kept.items()},
                scores={name: _excess(v[chosen]) for name, v in scores.items()},
            )
        )
    return tuple(rows)


def _excess(values: Any) -> SkillExcess:
    """Mean and half of its interval."""
    count = len(values)
    if count < 2:
        return SkillExcess(mean=float(values.mean()), error=math.inf)
    reach = t_quantile(count - 1, 0.5 + SKILL_LEVEL / 2)
    return SkillExcess(
        mean=float(values.mean()), error=float(reach * values.std(ddof=1) / math.sqrt(count))
    )
