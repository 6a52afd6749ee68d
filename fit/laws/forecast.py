"""The law that forecasts: the two-term law inside a wider one, with what may be wrong beyond.

    ln L = ln(E + (A e^(-alpha x - g_N q(x)) + B e^(-beta y - g_D q(y)))^k) + level gain(x, y)

with x = ln N and y = ln D from the centre of the runs. The two-term law has k = 1 and no bends g_N,
g_D; q is a square within the runs and straight beyond them, so that exponents bend no further. Two
parameters are zero at the estimate and have a spread of their own, which no run can lower: `level`,
the share by which the gain in ln L from near the costliest runs to a point is missed, and `valley`,
by how far ln N* is. With them every quantity that follows from the law, N* as well as a loss, a
price or a regret, has the discrepancy in its interval, by the same derivatives as all else.

Numpy only: every query imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.laws.law import Law, Parameter

FORECAST = ("E", "A", "B", "alpha", "beta", "k", "g_N", "g_D", "level", "valley")
"""Parameters: E [nats], A and B [nats^(1/k)] at the centre of the runs, the others pure numbers."""
NEAR = 1.0
"""The discrepancy begins at the costliest run's compute divided by e to this power."""
LEAST_EXPONENT = 0.375
"""Twice this is the share of an exponent that a bend may take away."""
HIGHEST = 60.0
"""The ln of a term beyond which it is cut off: nobody's models are there."""

Named = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where the runs are that a forecast starts from."""

    log_params: float
    """ln N of their centre."""
    log_tokens: float
    """ln D of their centre."""
    reach_params: float
    """How far runs lie from the centre in ln N, at most."""
    reach_tokens: float
    """The same in ln D."""
    log_product: float
    """ln(N D) of the costliest run."""

    def place(self, log_params: Any, log_tokens: Any) -> tuple[Any, Any, Any]:
        """x, y and u, how far beyond the runs' near edge a point is in ln(N D), from 0."""
        beyond = log_params + log_tokens - self.log_product + NEAR
        x, y = log_params - self.log_params, log_tokens - self.log_tokens
        return x, y, np.maximum(beyond, 0.0)

    def reaches(self, t: Named) -> Named:
        """The parameters with how far q(x) and q(y) bend, an exponent keeping a quarter of it.

        And with whether some of the gain is missed, so that the discrepancy has to be computed.
        """
        with np.errstate(divide="ignore"):
            size = LEAST_EXPONENT * t["alpha"] / np.abs(t["g_N"])
            length = LEAST_EXPONENT * t["beta"] / np.abs(t["g_D"])
        reaches = np.minimum(self.reach_params, size), np.minimum(self.reach_tokens, length)
        return {**t, "reaches": reaches, "missed": bool(np.any(t.get("level", 0.0)))}

    def log_sides(self, t: Named, x: Any, y: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """The ln of the terms in N and in D, and q(x) and q(y), from parameters with `reaches`."""
        of_size, of_length = bend(x, t["reaches"][0]), bend(y, t["reaches"][1])
        a = t["A"] - t["alpha"] * x - t["g_N"] * of_size
        b = t["B"] - t["beta"] * y - t["g_D"] * of_length
        a, b = (np.minimum(np.maximum(v, -HIGHEST), HIGHEST) for v in (a, b))
        return (a, b), (of_size, of_length)

    def log_terms(self, t: Named, x: Any, y: Any) -> Any:
        """The ln L without the discrepancy at x and y, from parameters with `reaches`."""
        sides, _ = self.log_sides(t, x, y)
        return np.logaddexp(t["E"], t["k"] * np.logaddexp(*sides))

    def log_law(self, t: Named, c: Named) -> Any:
        """The ln L from parameters with `reaches` (scales as their ln) and ln params and tokens."""
        x, y, beyond = self.place(c["params"], c["tokens"])
        shift = t["valley"] * np.sqrt(beyond)
        x, y = x - shift, y + shift
        if not t["missed"]:
            return self.log_terms(t, x, y)
        half = beyond / 2
        value, nearer = self.log_terms(t, np.array([x, x - half]), np.array([y, y - half]))
        return value + t["level"] * np.maximum(nearer - value, 0.0)


def bend(x: Any, reach: Any) -> Any:
    """Square of a distance up to `reach`, and its tangent beyond."""
    size = np.abs(x)
    least = np.minimum(size, reach)
    return least * (2 * size - least)


def forecast_law(frame: Frame, described: Law) -> Law:
    """The law that forecasts from runs in a frame, under the name of the one it widens.

    Args:
        frame: Where the runs are.
        described: The law that describes them.
    """
    return Law(
        name=described.name,
        formula=described.formula,
        declared=tuple(Parameter(name=p, start=(0.0, 0.0)) for p in FORECAST),
        log_law=frame.log_law,
        prepare=frame.reaches,
    )
