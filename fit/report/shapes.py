"""A report on runs of several shapes that no law is fitted to: what width and what depth buy.

Loss by shape: what width buys and what depth buys, a panel per skill.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.diagnostics.scans import PREFIX, SKILL_LEVEL, ShapeSkills, SkillExcess, by_shape
from fit.errors import FitError
from fit.quantities import count_noun, percent, short
from fit.report import plots, tables
from fit.report.plots import FAINT
from fit.report.sections import caption
from fit.report.tables import FigureBlock, Section, Table, left, right

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOTAL = "all"
MOST_WORTH = 1e-3
"""A skill is shown if it costs some shape that share of the dearest one's cost, and is named."""
TIMES = "\N{MULTIPLICATION SIGN}"
WORDS = {TOTAL: "The whole loss"}


def shapes_shown(rows: Sequence[ShapeSkills]) -> tuple[ShapeSkills, ...]:
    """Those of one length: that of the most shapes, and the longest where several have as many."""
    lengths = {row.tokens for row in rows}
    best = max(lengths, key=lambda d: (sum(row.tokens == d for row in rows), d), default=0.0)
    return tuple(row for row in rows if row.tokens == best)


def skills_shown(rows: Sequence[ShapeSkills]) -> tuple[str, ...]:
    """The total, then every skill by what it costs the dearest shape."""
    costs = {name: max(row.excess[name].mean for row in rows) for name in rows[0].excess}
    top = max(costs.values())
    kept = [n for n, c in sorted(costs.items(), key=lambda i: -i[1]) if c > MOST_WORTH * top]
    return tuple(sorted(kept, key=lambda n: n != TOTAL))


def skill_by_shape(ax: Axes, rows: Sequence[ShapeSkills], skill: str) -> Axes:
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
    plots.dress(ax, x="Width", y="Depth")
    ax.grid(False)
    ax.tick_params(length=0, colors="#1a1a1a")
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.set_title("all skills" if skill == TOTAL else skill, fontsize="medium")
    return ax


def shapes_of(table: RunTable) -> tuple[ShapeSkills, ...]:
    """Losses by skill and shape, their sum among them.

    Raises:
        FitError: The runs have no losses by skill on one data set, or one shape alone.
    """
    known = None if table.data is None else table.data.entropy_by_skill
    rows = losses_by_skill(known or {}, table.columns, table.loss, table.tokens, table.params)
    if len({(r.width, r.depth) for r in rows}) > 1:
        return rows
    raise FitError(
        f"{table.source or 'the runs'} have no losses by skill over several shapes on one data "
        "set, which a report without a fit is about. Fit them first: isoflop fit RUNS"
    )


def losses_by_skill(
    known: Mapping[str, float],
    columns: Mapping[str, Any],
    loss: Floats,
    tokens: Floats,
    params: Floats,
) -> tuple[ShapeSkills, ...]:
    """Losses by skill and shape, and of all skills together; empty where nothing is known.

    Args:
        known: Entropy by skill [nats/token].
        columns: width, depth, `loss_<skill>`.
        loss: Whole loss [nats/token].
        tokens: (runs,).
        params: (runs,).
    """
    if not known:
        return ()
    skills = any(c.startswith(PREFIX) and c.removeprefix(PREFIX) in known for c in columns)
    whole = {**known, TOTAL: sum(known.values())}
    given = {**columns, f"{PREFIX}{TOTAL}": loss}
    return by_shape(given, tokens, params, whole) if skills else ()


def shape_report_content(
    name: str, table: RunTable, shapes: Sequence[ShapeSkills]
) -> dict[str, Any]:
    """What a report on shapes says, as `sheet` does of a fit.

    Args:
        name: Of the report.
        table: The runs.
        shapes: Their losses by skill and shape.
    """
    rows = shapes_shown(shapes)
    shown = skills_shown(rows)
    best = min(rows, key=lambda r: r.excess[TOTAL].mean)
    length = short(rows[0].tokens)
    sections = (
        Section(
            title="Width and depth",
            blocks=(
                FigureBlock(name="skills", caption=caption("skills", {"length": length})),
                _table(shapes, shown),
            ),
        ),
    )
    about = (
        f"{count_noun(len(table), 'run')} of {count_noun(len(rows), 'shape')} at {length} tokens"
    )
    return {
        "name": tables.clean(name),
        "refused": False,
        "about": f"{about}. Costs are above a perfect predictor, whose loss is known.",
        "verdict": [
            ["", "Of these shapes "],
            ["strong", f"width {best.width}, depth {best.depth}"],
            ["", f" has the least loss, {_cost(best.excess[TOTAL])} thousandths of a nat per "],
            ["", "token above a perfect predictor."],
        ],
        "answers": None,
        "level": percent(SKILL_LEVEL),
        "sure": [_skill(rows, s) for s in shown],
        "wrong": _wrong(rows),
        "launch": None,
        "sections": [dataclasses.asdict(s) for s in sections],
    }


def _skill(rows: Sequence[ShapeSkills], skill: str) -> list[str]:
    """Which shape a skill wants, and whether the seeds tell it from the worst."""
    first, *_, last = sorted(rows, key=lambda r: r.excess[skill].mean)
    a, b = first.excess[skill], last.excess[skill]
    apart = b.mean - a.mean > math.hypot(a.error, b.error)
    told = "told apart by their seeds" if apart else "not told apart by their seeds"
    text = (
        f"{WORDS.get(skill, skill.capitalize())}: least at {_shape(first)}, {_cost(a)}; most at "
        f"{_shape(last)}, {_cost(b)}; {told}."
    )
    return ["good" if apart else "fair", text]


def _wrong(rows: Sequence[ShapeSkills]) -> list[list[str]]:
    """What the comparison leaves open."""
    sizes = [r.params for r in rows]
    seeds = [r.seeds for r in rows]
    found = []
    if max(sizes) > 1.1 * min(sizes):
        text = (
            f"The shapes differ in size, {short(min(sizes))} to {short(max(sizes))} parameters: "
            "what is put down to width or depth may be owed to size."
        )
        found.append(["warning", text])
    else:
        text = f"The shapes have one size, about {short(sum(sizes) / len(sizes))} parameters."
        found.append(["info", text])
    if min(seeds) < 3:
        text = "A shape was run with fewer than three seeds: its interval says little or nothing."
        found.append(["warning", text])
    text = (
        "One recipe for all shapes: a rate that suits one depth and not another would show as what "
        "depth buys. One data set, one length and this size only."
    )
    return [*found, ["info", text]]


def _table(shapes: Sequence[ShapeSkills], shown: Sequence[str]) -> Table:
    """Every shape and length with what each skill costs."""
    rows = tuple(
        (
            f"{r.width}{TIMES}{r.depth}",
            short(r.params),
            short(r.tokens),
            str(r.seeds),
            *(_cost(r.excess[s]) for s in shown),
        )
        for r in shapes
    )
    names = ("all skills" if s == TOTAL else s for s in shown)
    return Table(
        columns=(
            left(f"width{TIMES}depth"),
            *(right(h) for h in ("$N$", "$D$", "seeds")),
            *(right(n) for n in names),
        ),
        rows=rows,
        caption="What each skill costs above a perfect predictor [nats/1000 per token], mean over "
        f"seeds and half of its {percent(SKILL_LEVEL)} interval.",
        dense=True,
    )


def _shape(row: ShapeSkills) -> str:
    """Width by depth."""
    return f"{row.width}{TIMES}{row.depth}"


def _cost(excess: SkillExcess) -> str:
    """Mean and half of the interval, in thousandths of a nat."""
    error = f" ±{1e3 * excess.error:.2f}" if math.isfinite(excess.error) else ""
    return f"{1e3 * excess.mean:.2f}{error}"
