"""A report on runs of several shapes that no law is fitted to: what width and what depth buy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fit import tables
from fit.blocks import Picture, Section, Table, left, right
from fit.captions import caption
from fit.errors import FitError
from fit.quantity import counted, percent, short
from fit.record import Floats, RunTable
from fit.shapeplots import TOTAL, shapes_shown, skills_shown
from fit.skills import LEVEL, PREFIX, Excess, Shaped, by_shape

TIMES = "\N{MULTIPLICATION SIGN}"
WORDS = {TOTAL: "The whole loss"}


def shapes_of(table: RunTable) -> tuple[Shaped, ...]:
    """Losses by skill and shape, their sum among them.

    Raises:
        FitError: The runs have no losses by skill on one data set, or one shape alone.
    """
    known = None if table.data is None else table.data.entropy_by_skill
    rows = shaped(known or {}, table.columns, table.loss, table.tokens, table.params)
    if len({(r.width, r.depth) for r in rows}) > 1:
        return rows
    raise FitError(
        f"{table.source or 'the runs'} have no losses by skill over several shapes on one data "
        "set, which a report without a fit is about. Fit them first: isoflop fit RUNS"
    )


def shaped(
    known: Mapping[str, float],
    columns: Mapping[str, Any],
    loss: Floats,
    tokens: Floats,
    params: Floats,
) -> tuple[Shaped, ...]:
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


def shape_sheet(name: str, table: RunTable, shapes: Sequence[Shaped]) -> dict[str, Any]:
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
                Picture(name="skills", caption=caption("skills", {"length": length})),
                _table(shapes, shown),
            ),
        ),
    )
    about = f"{counted(len(table), 'run')} of {counted(len(rows), 'shape')} at {length} tokens"
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
        "level": percent(LEVEL),
        "sure": [_skill(rows, s) for s in shown],
        "wrong": _wrong(rows),
        "launch": None,
        "sections": [dataclasses.asdict(s) for s in sections],
    }


def _skill(rows: Sequence[Shaped], skill: str) -> list[str]:
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


def _wrong(rows: Sequence[Shaped]) -> list[list[str]]:
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


def _table(shapes: Sequence[Shaped], shown: Sequence[str]) -> Table:
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
        f"seeds and half of its {percent(LEVEL)} interval.",
        dense=True,
    )


def _shape(row: Shaped) -> str:
    """Width by depth."""
    return f"{row.width}{TIMES}{row.depth}"


def _cost(excess: Excess) -> str:
    """Mean and half of the interval, in thousandths of a nat."""
    error = f" ±{1e3 * excess.error:.2f}" if math.isfinite(excess.error) else ""
    return f"{1e3 * excess.mean:.2f}{error}"
