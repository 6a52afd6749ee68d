"""Loss by skill and shape: what width buys and what depth buys, with intervals over seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit.errors import FitError
from fit.quantity import short
from fit.record import Floats, RunTable, finite_or_null
from fit.store import load
from fit.text import table_text

LEVEL = 0.9
PREFIX = "loss_"
SHOWN = 3
"""Skills that fit on a terminal beside the shape; the document has all."""
NOT_SKILLS = ("loss_se", "loss_bpb", "loss_plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What a skill costs above a perfect predictor, over the seeds of one shape and length."""

    mean: float
    """Over seeds [nats/token]: the skill's share of the loss, less its share of the entropy."""
    error: float
    """Half of the 90% interval of the mean, Student's t; infinite with one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """One shape trained for one length."""

    width: int
    depth: int
    params: float
    tokens: float
    seeds: int
    excess: Mapping[str, Excess]


def skills_by_shape(table: RunTable) -> tuple[Shaped, ...]:
    """Average the excess loss of every skill over the seeds of each shape.

    Args:
        table: Runs with losses by skill on data whose entropy by skill is known.

    Returns:
        One row per shape and length, by ascending tokens, then depth, then width. Skills that cost
        nothing in any run are left out.

    Raises:
        FitError: The runs have no losses by skill, differ in their data, or have no shapes.
    """
    known = None if table.data is None else table.data.entropy_by_skill
    rows = () if known is None else by_shape(table.columns, table.tokens, table.params, known)
    if not rows:
        raise FitError(
            f"{table.source or 'the table'} has no losses by skill over shapes on one data set; "
            "records of stories have them: python -m sweep -m +experiment=skills"
        )
    return rows


def by_shape(
    columns: Mapping[str, Any], tokens: Floats, params: Floats, known: Mapping[str, float]
) -> tuple[Shaped, ...]:
    """The same from columns; empty where there are no losses by skill or no shapes.

    Args:
        columns: width, depth and `loss_<skill>`, each (runs,).
        tokens: (runs,).
        params: (runs,).
        known: Entropy by skill [nats/token].
    """
    names = [c for c in columns if c.startswith(PREFIX) and c not in NOT_SKILLS]
    if not names or not {"width", "depth"} <= set(columns):
        return ()
    bare = {n: n.removeprefix(PREFIX) for n in names}
    values = {bare[n]: np.asarray(columns[n], float) - known.get(bare[n], 0.0) for n in names}
    kept = {name: v for name, v in values.items() if (np.abs(v) > 1e-12).any()}
    keys = np.stack([tokens, columns["depth"], columns["width"], params], 1).astype(float)
    shapes, group = np.unique(keys, axis=0, return_inverse=True)
    rows = []
    for number, (length, depth, width, size) in enumerate(shapes):
        chosen = group.ravel() == number
        rows.append(
            Shaped(
                width=int(width),
                depth=int(depth),
                params=float(size),
                tokens=float(length),
                seeds=int(chosen.sum()),
                excess={name: _excess(v[chosen]) for name, v in kept.items()},
            )
        )
    return tuple(rows)


def _excess(values: Any) -> Excess:
    """Mean and half of its interval."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return Excess(mean=float(values.mean()), error=math.inf)
    reach = float(stdtrit(count - 1, 0.5 + LEVEL / 2))
    return Excess(
        mean=float(values.mean()), error=float(reach * values.std(ddof=1) / math.sqrt(count))
    )


def skills_document(runs: Path, *, where: str | None = None) -> dict[str, Any]:
    """The `isoflop.skills/1` document.

    Args:
        runs: Folder of run records.
        where: Condition on the columns that a run must meet.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They have no losses by skill.
    """
    rows = [dataclasses.asdict(s) for s in skills_by_shape(load(runs, where=where))]
    return dict(finite_or_null({"schema": "isoflop.skills/1", "level": LEVEL, "shapes": rows}))


def skills_listing(document: Mapping[str, Any]) -> str:
    """The table that people see: the costliest skills, in thousandths of a nat."""
    rows = document["shapes"]
    cost = {s: max(row["excess"][s]["mean"] for row in rows) for s in rows[0]["excess"]}
    skills = sorted(cost, key=lambda s: -cost[s])[:SHOWN]
    headings = ("width", "depth", "params", "tokens", "seeds", *skills)
    cells = [
        [
            str(row["width"]),
            str(row["depth"]),
            short(row["params"]),
            short(row["tokens"]),
            str(row["seeds"]),
            *(_cell(row["excess"][s]) for s in skills),
        ]
        for row in rows
    ]
    note = "excess loss by skill [nats/1000 per token], mean over seeds and its 90% interval"
    return f"{table_text(headings, cells)}\n\n{note}"


def _cell(excess: Mapping[str, float | None]) -> str:
    """Mean ± half of the interval."""
    mean, error = excess["mean"], excess["error"]
    assert mean is not None
    return f"{1e3 * mean:.2f}" + ("" if error is None else f" ±{1e3 * error:.2f}")
