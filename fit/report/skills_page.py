"""The content of a report on runs of several shapes to which no law is fitted.

Where the runs have scores, page 1 shows what Eldan & Li 2023 (TinyStories, arXiv:2305.07759) show:
in which order skills come with scale, what width and depth are for, and what models of several
sizes write. Else it compares the losses of the shapes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fit.data.records import STORIES_NAME
from fit.data.table import RunTable
from fit.quantities import count_noun, percent, short
from fit.report import tables
from fit.report.context_plots import TOTAL, shapes_shown, skills_caption, skills_shown
from fit.report.figure_data import SKILL_LEVEL, ShapeSkills, SkillExcess
from fit.report.figures import SHAPES
from fit.report.scores import shown_scores
from fit.report.tables import Block, FigureBlock, Section, Table, TableColumn, left, right
from fit.report.text import TIMES

SHAPE_QUESTION = "Which shape has the lowest loss, in all and in each skill?"
ORDER_QUESTION = "What can models of these sizes do, and in which order does it come with scale?"
REACHED = 0.9
"""Score from which a size is said to have a skill."""
SAMPLES_CAPTION = "The first story that models of several sizes write, not chosen."
SAMPLES, SAMPLE_LETTERS = 4, 330
"""Sizes of which a text is shown, and how much of it."""


def shape_report_content(
    name: str, table: RunTable, shapes: Sequence[ShapeSkills], author: str = ""
) -> dict[str, Any]:
    """The content of a report on runs of several shapes to which no law is fitted.

    Args:
        name: Name of the report.
        table: The runs.
        shapes: Their losses by skill and shape.
        author: Name under the title.
    """
    rows = shapes_shown(shapes)
    shown = skills_shown(rows)
    length = short(rows[0].tokens)
    graded, grid = shown_scores(rows), FigureBlock(name="skills", caption=skills_caption(shapes))
    first: Block = grid
    besides: list[Block] = []
    blocks: list[Block] = [_skill_table(shapes, shown)]
    if graded:
        first = FigureBlock(name="order", caption=_order_caption(rows, graded))
        besides, blocks = _samples(table), [grid, *blocks]
    section = Section(title=SHAPES, blocks=tuple(blocks))
    about = (
        f"{count_noun(len(table), 'run')} of {count_noun(len(rows), 'shape')} at {length} tokens"
    )
    return {
        "name": tables.clean(name),
        "refused": False,
        "verdict": None,
        "front": [
            *([["Author", tables.clean(author, 80)]] if author else []),
            ["Data set", tables.clean(table.data.name if table.data else "not named", 60)],
            ["Runs", f"{len(table)}, without a fit"],
        ],
        "about": f"{about}. Losses are given as the excess over a perfect predictor, whose "
        "loss is known.",
        "question": [["", ORDER_QUESTION if graded else SHAPE_QUESTION]],
        "summary": _order_summary(rows, graded) if graded else _shape_summary(rows),
        "answers": None,
        "level": percent(SKILL_LEVEL),
        "checks": [_skill_check(rows, s) for s in shown],
        "limitations": _shape_limitations(rows),
        "first": dataclasses.asdict(first),
        "besides": [dataclasses.asdict(block) for block in besides],
        "brief": [],
        "sections": [dataclasses.asdict(section)],
    }


def _lowest(rows: Sequence[ShapeSkills], skill: str) -> tuple[ShapeSkills, list[ShapeSkills]]:
    """The shape of the lowest mean loss in a skill, and those the seeds cannot tell from it."""
    first, *others = sorted(rows, key=lambda r: r.excess[skill].mean)
    a = first.excess[skill]
    equal = [
        r
        for r in others
        if not r.excess[skill].mean - a.mean > math.hypot(a.error, r.excess[skill].error)
    ]
    return first, equal


def _shape_summary(rows: Sequence[ShapeSkills]) -> list[list[str]]:
    """The sentences on top of a report on shapes: a best shape only where the seeds show one."""
    best, equal = _lowest(rows, TOTAL)
    loss = f"{_excess_text(best.excess[TOTAL])} thousandths of a nat per token above a perfect "
    if equal:
        names = ", ".join(_shape_text(r) for r in equal)
        return [
            ["loud", "The seeds do not distinguish a best shape."],
            ["", f" The lowest mean is that of {_shape_text(best)}, {loss}predictor; "],
            [
                "",
                f"{'this is' if len(equal) == 1 else 'these are'} within the noise of it: {names}.",
            ],
        ]
    return [
        ["", "Of these shapes "],
        ["strong", f"width {best.width}, depth {best.depth}"],
        ["", f" has the lowest loss, {loss}predictor; the seeds distinguish it from every other."],
    ]


def _skill_check(rows: Sequence[ShapeSkills], skill: str) -> list[str]:
    """The lowest shape for a skill, and which others the seeds cannot tell from it."""
    best, equal = _lowest(rows, skill)
    name = "All skills" if skill == TOTAL else skill.capitalize()
    lowest = f"{_shape_text(best)} ({_excess_text(best.excess[skill])})"
    if not equal:
        return ["good", f"{name}: {lowest} is lowest; the seeds distinguish it from all others."]
    if len(equal) == len(rows) - 1:
        return ["fair", f"{name}: the seeds distinguish no shape from that of the lowest mean."]
    others = ", ".join(f"{_shape_text(r)} ({_excess_text(r.excess[skill])})" for r in equal)
    return ["fair", f"{name}: the seeds do not distinguish {lowest} from {others}."]


def _shape_limitations(rows: Sequence[ShapeSkills]) -> list[list[str]]:
    """What the comparison of shapes does not control: [severity, text]."""
    sizes = [r.params for r in rows]
    if max(sizes) > 1.1 * min(sizes):
        text = (
            f"The shapes differ in size, {short(min(sizes))} to {short(max(sizes))} parameters: "
            "an apparent effect of width or depth may be one of size."
        )
        limitations = [["warning", text]]
    else:
        text = f"The shapes have one size, about {short(sum(sizes) / len(sizes))} parameters."
        limitations = [["info", text]]
    if min(r.seeds for r in rows) < 3:
        text = "A shape was run with fewer than three seeds: its interval is not informative."
        limitations.append(["warning", text])
    text = (
        "All shapes share one training recipe: a learning rate that suits one depth better than "
        "another would appear as an effect of depth. The result holds for one data set, one length "
        "and this size only."
    )
    return [*limitations, ["info", text]]


def _skill_table(shapes: Sequence[ShapeSkills], shown: Sequence[str]) -> Table:
    """The excess loss of each skill for every shape and length."""
    rows = tuple(
        (
            _shape_text(r),
            short(r.params),
            short(r.tokens),
            str(r.seeds),
            *(_excess_text(r.excess[s]) for s in shown),
        )
        for r in shapes
    )
    heads = ("$N$", "$D$", "seeds", *("all skills" if s == TOTAL else s for s in shown))
    return Table(
        columns=(left(f"width{TIMES}depth"), *map(right, heads)),
        rows=rows,
        caption="Excess loss of each skill over a perfect predictor [nats/1000 per token], mean "
        f"over seeds and half of its {percent(SKILL_LEVEL)} interval.",
        dense=True,
    )


def _shape_text(row: ShapeSkills) -> str:
    """Width by depth."""
    return f"{row.width}{TIMES}{row.depth}"


def _excess_text(excess: SkillExcess) -> str:
    """Mean and half of the interval, in thousandths of a nat."""
    half = 1e3 * excess.error
    error = f" ±{half:.2f}" if half >= 0.005 else " ±<0.01"
    return f"{1e3 * excess.mean:.2f}{error if math.isfinite(half) else ''}"


def _reached(rows: Sequence[ShapeSkills], name: str) -> float | None:
    """The smallest size of which a shape has a score of `REACHED`; None where none has it."""
    sizes = [r.params for r in rows if r.scores[name].mean >= REACHED]
    return min(sizes, default=None)


def _order_summary(rows: Sequence[ShapeSkills], graded: Mapping[str, str]) -> list[list[str]]:
    """In which order the scores are reached, and how far those come that are not."""
    reached = {label: _reached(rows, name) for name, label in graded.items()}
    best = {label: max(r.scores[name].mean for r in rows) for name, label in graded.items()}
    have = sorted((size, label) for label, size in reached.items() if size is not None)
    lack = sorted((s for s, size in reached.items() if size is None), key=lambda s: -best[s])
    parts = [["", f"At {short(rows[0].tokens)} tokens " + ("models have " if have else "")]]
    for place, (size, label) in enumerate(have):
        parts += [["", ", then " if place else ""], ["strong", label]]
        parts.append(["", f" from {short(size)} parameters on"])
    if have:
        parts.append(["", f" ({percent(REACHED)} of the words right). "])
    if lack:
        named = ", ".join(f"{label} ({100 * best[label]:.0f}% at best)" for label in lack)
        parts.append(["", f"{'Not reached' if have else 'no skill is reached'}: {named}."])
    return parts


def _order_caption(rows: Sequence[ShapeSkills], graded: Mapping[str, str]) -> str:
    """The caption of the figure of scores by size and by shape."""
    written = any(name.startswith("stories.") for name in graded)
    what = (
        "stories that the models write, judged word by word"
        if written
        else "the likeliest next words"
    )
    several = any(math.isfinite(r.scores[name].error) for r in rows for name in graded)
    beneath = f", bars are {percent(SKILL_LEVEL)} intervals over seeds" if several else ""
    return (
        f"Skills at {short(rows[0].tokens)} tokens, in {what}. Top: share of right words against "
        f"model size; lines join the best shapes of each size{beneath}. Bottom: the same by width "
        "and depth [%]; a darker cell is a better one."
    )


def _samples(table: RunTable) -> list[Block]:
    """A text of models of several sizes, where runs have kept some."""
    texts: dict[float, tuple[int, str]] = {}
    for row in np.argsort(table.tokens, kind="stable"):  # of a size the longest training
        path = Path(table.folders[row] or ".") / STORIES_NAME if table.folders else None
        if path is not None and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                texts[float(table.params[row])] = int(row), lines[0]
    if not texts:
        return []
    sizes = sorted(texts)
    places = np.linspace(0, len(sizes) - 1, min(len(sizes), SAMPLES)).round().astype(int)
    rows = []
    for size in (sizes[i] for i in places):
        row, text = texts[size]
        shape = ""
        if {"width", "depth"} <= table.columns.keys():
            shape = f"{table.columns['width'][row]:.0f}{TIMES}{table.columns['depth'][row]:.0f}"
        kept = (
            text if len(text) <= SAMPLE_LETTERS else f"{text[:SAMPLE_LETTERS].rsplit(' ', 1)[0]} …"
        )
        rows.append((short(size), shape, tables.clean(kept, SAMPLE_LETTERS + 2)))
    columns = (
        TableColumn(head="$N$", form="small"),
        TableColumn(head=f"width{TIMES}depth", form="small"),
        TableColumn(head="first story", form="small", wide=True),
    )
    return [Table(columns=columns, rows=tuple(rows), caption=SAMPLES_CAPTION)]
