"""Units of table columns: `params=M`, `loss=bits`, `tokens=1e6`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from fit.errors import QueryError
from fit.quantity import UNITS

SCALED = ("params", "tokens", "flops", "loss")
"""Columns whose unit matters."""
LOSS_UNITS: Mapping[str, float] = {"nats": 1.0, "bits": math.log(2)}
"""Of a loss per token, in nats."""


def parse_units(texts: Iterable[str]) -> dict[str, float]:
    """Factors that bring columns to raw counts, FLOP and nats per token.

    Args:
        texts: `column=unit` each; a unit is k, M, B, T or a number, for a loss nats or bits.

    Raises:
        QueryError: Another column, an unknown unit, or one column twice.
    """
    factors: dict[str, float] = {}
    for text in texts:
        column, _, unit = (part.strip() for part in text.partition("="))
        if column not in SCALED:
            raise QueryError(
                f"--unit is '{text}'; a unit is known of {', '.join(SCALED)}. Name one of them."
            )
        if column in factors:
            raise QueryError(f"--unit names {column} twice; one unit is needed. Leave one out.")
        factors[column] = _factor(column, unit, text)
    return factors


def _factor(column: str, unit: str, text: str) -> float:
    """What one unit is worth."""
    named = LOSS_UNITS if column == "loss" else UNITS
    if unit in named and unit:
        return named[unit]
    try:
        factor = float(unit)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        known = ", ".join(u for u in named if u)
        raise QueryError(f"--unit is '{text}'; {known} or a positive number is needed, as 1e6.")
    return factor
