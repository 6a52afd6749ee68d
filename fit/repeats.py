"""What repeated tokens are worth, for the law of repeats and, borrowed, for any other.

A run over more tokens than there are unique ones repeats them. D' counts what they are worth: up
to U as many as they are, beyond it U R_D* (1 - e^(-R / R_D*)) for R repeats. Parameters beyond what
U tokens can feed are discounted likewise (Muennighoff et al. 2023, arXiv:2305.16264, eqs. 5-11).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from fit.errors import QueryError
from fit.forms import COUNTS, Law, Named
from fit.tangent import lesser

DECAY_TOKENS, DECAY_PARAMS = 15.387756, 5.309743
"""R_D* and R_N* on C4, unrounded from the paper's source: borrowed where a fit has none."""
ENDLESS = 1e300
"""Unique tokens that nobody runs out of."""


def worth(t: Named, c: Named) -> dict[str, Any]:
    """The ln of N' and D', what parameters and tokens are worth given the unique tokens.

    Args:
        t: Parameters of a law with A, B, alpha, beta, R_D* and R_N*; scales as their ln.
        c: The ln of params, tokens and unique_tokens.
    """
    fresh = np.minimum(c["tokens"], c["unique_tokens"])
    repeats, decay = np.expm1(c["tokens"] - fresh), np.exp(t["R_D*"])
    tokens = fresh + np.log1p(-decay * np.expm1(-repeats / decay))
    # The base law's N for U tokens: alpha A / N^alpha = beta B / U^beta.
    fed = np.log(t["alpha"] / t["beta"]) + t["A"] - t["B"] + t["beta"] * fresh
    fed = lesser(c["params"], fed / t["alpha"])
    # Beyond e^30 times too many parameters nothing changes; infinities would have no derivative.
    excess, use = np.expm1(lesser(c["params"] - fed, 30.0)), np.exp(t["R_N*"])
    params = fed + np.log1p(-use * np.expm1(-excess / use))
    return {"params": params, "tokens": tokens}


def over_repeats(law: Law) -> Law:
    """The law with a column of unique tokens: its own, or with the constants of C4.

    Raises:
        QueryError: It has columns other than params and tokens, or no terms that could say how
            many parameters the unique tokens can feed.
    """
    if "unique_tokens" in law.columns:
        return law
    if law.exponents is None:
        raise QueryError(
            f"law '{law.name}' does not depend on unique_tokens, and what repeats are worth can be "
            "borrowed only for a law with A/N^alpha and B/D^beta. Leave --unique-tokens out."
        )
    return dataclasses.replace(
        law,
        log_law=_borrowing(law.log_law),
        columns=MappingProxyType({**COUNTS, "unique_tokens": "tokens"}),
        expand=None,
    )


def borrows(law: Law) -> bool:
    """Whether what repeats are worth is borrowed."""
    return "unique_tokens" in law.columns and "R_D*" not in law.parameters


def _borrowing(log_law: Callable[[Named, Named], Any]) -> Callable[[Named, Named], Any]:
    """A law of N' and D' from one of N and D."""

    def discounted(t: Named, c: Named) -> Any:
        beta = t.get("beta", t["alpha"])
        decays = {"R_D*": np.log(DECAY_TOKENS), "R_N*": np.log(DECAY_PARAMS), "beta": beta}
        return log_law(t, worth({**t, **decays}, c))

    return discounted
