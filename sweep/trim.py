"""A grid thinned to a spend: what stays, what that costs the answer, and how to launch it.

The statistician's design (`fit.design.trim`) drops the run that tells least for its price, as long
as the law's parameters stay told apart. What stays is written as configs that Hydra is pointed to
(`sweep.cells`); a run keeps its name, so that the whole grid can be made later.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Sequence

from fit.design import trim
from fit.quantity import counted, power
from sweep.bill import LABEL, Planned, bill_lines, bill_of, device_hours
from sweep.cells import write_cells
from sweep.grid import Launcher
from sweep.pace import estimate
from sweep.plan import part_of
from sweep.terms import Terms
from sweep.worth import candidates_of, compared, prior_of, trunk_of


def trim_lines(rows: Sequence[Planned], terms: Terms, launcher: Launcher) -> list[str]:
    """Thin a grid to the terms, write the plan that launches what stays, and say what was done.

    Raises:
        PlanError: No healthy part of the grid costs so little.
        RecordError: The plan cannot be written.
    """
    done, left = ([r for r in rows if (r.record is None) is new] for new in (False, True))
    stay = left
    for unit in ("flops", "hours", "dollars"):
        limit = getattr(terms, unit)
        if limit is not None:
            stay = thinned(stay, done, unit, limit, terms)
    if len(stay) == len(left):
        return ["", "the grid is within the spend: nothing is dropped"]
    kept = {row.run.run for row in stay}
    gone = [row for row in left if row.run.run not in kept]
    return [
        "",
        f"thinned to the spend: {counted(len(stay), 'run')} of {len(left)}",
        *bill_lines(bill_of(stay, terms, launcher), terms, stay)[1:],
        *compared([*done, *left], [*done, *stay], terms),
        *_dropped(gone),
        "",
        f"python -m sweep -m {write_cells(stay, launcher)}",
    ]


def thinned(
    rows: Sequence[Planned], done: Sequence[Planned], unit: str, limit: float, terms: Terms
) -> list[Planned]:
    """The runs that stay.

    Args:
        rows: Runs to be made.
        done: Runs with a record: they are known, and cost nothing more.
        unit: `flops`, `hours` (of devices) or `dollars`.
        limit: To spend at most.
        terms: Price, prior and target.

    Raises:
        PlanError: No healthy part costs so little.
    """
    prior = prior_of(rows, done, terms)

    def cost(row: Planned) -> float:
        if unit == "flops":
            return row.run.flops_spent
        return device_hours(row) * (1.0 if unit == "hours" else terms.price or 0.0)

    candidates = candidates_of(rows, cost)
    allowed = limit
    while True:
        keep = trim(candidates, allowed, prior, said=lambda c: said(c, unit))
        stay = _shortened([rows[i] for i in keep])
        bill = sum(map(cost, stay))
        if bill <= limit:
            return stay
        allowed *= min(0.99, limit / bill)  # what a run costs beside its tokens


def _dropped(rows: Sequence[Planned]) -> list[str]:
    """The names of runs without their seeds and hashes, and how many there are of each."""
    counts = Counter(row.run.run.rsplit("-", 2)[0] for row in rows)
    names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts.items())
    indent = " " * LABEL
    return textwrap.wrap(
        f"{'dropped':{LABEL}}{names}", 80, subsequent_indent=indent, break_on_hyphens=False
    )


def said(cost: float, unit: str) -> str:
    """A cost in words."""
    if unit == "flops":
        return f"{power(cost)} FLOP"
    return f"{cost:.3g} device-hours" if unit == "hours" else f"${cost:,.2f}"


def _shortened(rows: Sequence[Planned]) -> list[Planned]:
    """The rows, each with what it costs now that other branches of its trunk are gone."""
    kept: dict[tuple[int, str], list[Planned]] = {}
    for row in rows:
        kept.setdefault(trunk_of(row), []).append(row)
    found = []
    for group in kept.values():
        t = group[0].trajectory
        again = part_of(t, [row.run.tokens for row in group])
        for row, run in zip(sorted(group, key=lambda r: r.run.tokens), again.runs, strict=True):
            guess = estimate(again, run, row.pace)
            found.append(dataclasses.replace(row, run=run, trajectory=again, estimate=guess))
    return found
