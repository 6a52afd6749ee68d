"""What else fits as well: other parameters along a flat ridge, and simpler laws inside this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from fit.declared import Declared
from fit.estimate import Estimate
from fit.forms import Law
from fit.record import Floats
from fit.result import Note

APART = 0.3
"""Natural logarithm (of a scale) or share of itself (of an exponent) that makes minima differ."""


def rival_notes(found: Estimate, bounds: Mapping[str, tuple[float, float]]) -> Iterator[Note]:
    """Notes on a declared law; none on the fast ones, whose minima `judge` counts.

    Args:
        found: The point fit, with the minima that its search ended in.
        bounds: Intervals of the parameters.
    """
    if not isinstance(found.problem, Declared):
        return
    yield from _ridge(found, found.problem)
    yield from _simpler(found, found.problem.law, bounds)


def near_minima(found: Estimate) -> tuple[Floats, float]:
    """Minima that the runs cannot rule out, (k, p) on raw counts, and how far they lie above.

    A rise of the objective by 1/dof of itself is one standard error of a parameter, for any loss
    whose sum goes as the noise: exact for least squares, near enough for the robust ones.
    """
    assert found.minima is not None
    dof = max(1, len(found.residual) - found.family.free)
    rise = found.minima.value / max(found.value, 1e-300) - 1
    near = rise <= 1 / dof
    return found.problem.raw(found.minima.theta[near]), float(rise[near].max())


def _ridge(found: Estimate, problem: Declared) -> Iterator[Note]:
    """Do quite different parameters fit as well?"""
    if found.minima is None:
        return
    raw, rise = near_minima(found)
    spans = []
    for i in problem.telling:
        low, high = float(raw[:, i].min()), float(raw[:, i].max())
        scale = problem.law.declared[i].scale
        apart = np.log(high / low) if scale else (high - low) / max(abs(found.raw[i]), 1e-300)
        if apart > APART:
            spans.append(f"{problem.names[i]} from {low:.3g} to {high:.3g}")
    if spans:
        yield Note(
            code="flat_ridge",
            severity="warning",
            message=f"the objective is a flat ridge: {' with '.join(spans)} fit within {rise:.2g} "
            f"of the best ({len(raw)} minima, shares of the objective), less than the runs can "
            "tell. Believe predictions near the runs, not these parameters.",
        )


def _simpler(
    found: Estimate, law: Law, bounds: Mapping[str, tuple[float, float]]
) -> Iterator[Note]:
    """Is the simpler law inside this one excluded?"""
    for name, (null, meaning) in law.null.items():
        low, high = bounds[name]
        value = float(found.raw[law.parameters.index(name)])
        own = f"parameter {name} is {value:.3g} [{low:.3g}, {high:.3g}]"
        if low <= null <= high:
            text = f"{own} and may be {null:g}: these runs do not tell the law from {meaning}."
            yield Note(code="simpler_law", severity="info", message=text)
        else:
            text = (
                f"{own}, and {null:g} is outside: {meaning} (where it is {null:g}) is not what "
                "these runs follow, however well it fits."
            )
            yield Note(code="simpler_law_excluded", severity="warning", message=text)
