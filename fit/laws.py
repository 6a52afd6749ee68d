"""The families of laws, each one declaration. Numpy only: every query imports this.

To add one, declare it here: its parameters, the columns it needs and the ln of the law. Fits,
intervals, bootstrap, notes and predictions follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fit.catalogue import PRESETS, Preset, preset
from fit.errors import FitError
from fit.forms import (
    COUNTS,
    Law,
    Named,
    Parameter,
    coefficient,
    exponent,
    floor,
)
from fit.record import Floats
from fit.repeats import worth
from fit.tangent import log_sum

__all__ = ["LAWS", "PRESETS", "Law", "Preset", "law", "preset"]

TERM_N, TERM_D = coefficient("A", params="alpha"), coefficient("B", tokens="beta")
ALPHA, BETA = exponent("alpha"), exponent("beta")


def _size(t: Named, c: Named) -> Any:
    """The ln of A / N^alpha."""
    return t["A"] - t["alpha"] * c["params"]


def _length(t: Named, c: Named) -> Any:
    """The ln of B / D^beta."""
    return t["B"] - t["beta"] * c["tokens"]


def _chinchilla(t: Named, c: Named) -> Any:
    return log_sum(t["E"], _size(t, c), _length(t, c))


def _tied(t: Named, c: Named) -> Any:
    return log_sum(t["E"], _size(t, c), t["B"] - t["alpha"] * c["tokens"])


def _without_e(t: Named, c: Named) -> Any:
    return log_sum(_size(t, c), _length(t, c))


def _kaplan(t: Named, c: Named) -> Any:
    ratio = t["alpha_N"] / t["alpha_D"]
    return t["alpha_D"] * log_sum(ratio * (t["N_c"] - c["params"]), t["D_c"] - c["tokens"])


def _outer(t: Named, c: Named) -> Any:
    return log_sum(t["E"], t["k"] * log_sum(_size(t, c), _length(t, c)))


def _shape(t: Named, c: Named) -> list[Any]:
    return [
        t["E"],
        t["A"] - t["alpha"] * c["width"],
        t["B"] - t["beta"] * c["depth"],
        t["C"] - t["gamma"] * c["tokens"],
    ]


def _width_depth(t: Named, c: Named) -> Any:
    return log_sum(*_shape(t, c))


def _width_depth_params(t: Named, c: Named) -> Any:
    return log_sum(*_shape(t, c), t["P"] - t["delta"] * c["params"])


def _repeated(t: Named, c: Named) -> Any:
    return _chinchilla(t, worth(t, c))


def _experts(t: Named, c: Named) -> Any:
    sparsity = c["params_total"] - c["params"]
    return log_sum(t["E"], _size(t, c) - t["gamma"] * sparsity, _length(t, c))


def _product(t: Named, c: Named) -> Any:
    return t["K"] + t["p"] * c["params"] + t["q"] * c["tokens"]


def _as_they_are(theta: Floats) -> tuple[Floats, ...]:
    return tuple(theta[..., i] for i in range(5))


def _tied_parts(theta: Floats) -> tuple[Floats, ...]:
    return tuple(theta[..., i] for i in (0, 1, 2, 3, 3))


def _parts_without_e(theta: Floats) -> tuple[Floats, ...]:
    return (np.zeros_like(theta[..., 0]), *(theta[..., i] for i in range(4)))


def _decay(name: str) -> Parameter:
    """Repeats, or excess parameters in multiples, after which their worth has decayed to 1/e."""
    return Parameter(name=name, start=(-1.0, 5.0), low=np.log(1e-3), high=np.log(1e6))


def _rule(target: str, symbol: str) -> Law:
    """A power law of the best learning rate or batch."""
    power = {"start": (-1.2, 1.2), "low": -5.0, "high": 5.0}
    return Law(
        name=target.split("_")[0],
        formula=f"{symbol} = K N^p D^q",
        about=f"{symbol} is the best {target}",
        declared=(
            Parameter(name="K", start=(-1.0, 1.0), nats=True, per={"params": "-p", "tokens": "-q"}),
            Parameter(name="p", **power),  # type: ignore[arg-type]
            Parameter(name="q", **power),  # type: ignore[arg-type]
        ),
        log_law=_product,
        target=target,
    )


_SHAPE_TERMS = (
    floor(),
    coefficient("A", width="alpha"),
    coefficient("B", depth="beta"),
    coefficient("C", tokens="gamma"),
)
_SHAPE_COLUMNS = MappingProxyType({"width": "width", "depth": "depth", "tokens": "tokens"})

LAWS: Mapping[str, Law] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Law(
                name="chinchilla",
                formula="L = E + A/N^alpha + B/D^beta",
                declared=(floor(), TERM_N, TERM_D, ALPHA, BETA),
                log_law=_chinchilla,
                expand=_as_they_are,
            ),
            Law(
                name="tied",
                formula="L = E + A/N^alpha + B/D^alpha",
                declared=(floor(), TERM_N, coefficient("B", tokens="alpha"), ALPHA),
                log_law=_tied,
                expand=_tied_parts,
            ),
            Law(
                name="no-e",
                formula="L = A/N^alpha + B/D^beta",
                declared=(TERM_N, TERM_D, ALPHA, BETA),
                log_law=_without_e,
                expand=_parts_without_e,
            ),
            Law(
                name="kaplan",
                formula="L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^(alpha_D)",
                about="joint form of Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5",
                declared=(
                    Parameter(name="N_c", start=(0.0, 25.0), per={"params": 1.0}),
                    Parameter(name="D_c", start=(0.0, 25.0), per={"tokens": 1.0}),
                    exponent("alpha_N"),
                    exponent("alpha_D"),
                ),
                log_law=_kaplan,
            ),
            Law(
                name="outer",
                formula="L = E + (A/N^alpha + B/D^beta)^k",
                about="a test of the two-term law, where k is 1",
                declared=(
                    floor(),
                    TERM_N,
                    TERM_D,
                    ALPHA,
                    BETA,
                    Parameter(name="k", start=(0.4, 2.5), low=0.02, high=50.0),
                ),
                log_law=_outer,
                null=MappingProxyType({"k": (1.0, "the two-term law")}),
            ),
            Law(
                name="width-depth-tokens",
                formula="L = E + A/w^alpha + B/d^beta + C/D^gamma",
                about="width w, depth d (McLeish et al. 2025, arXiv:2502.06857)",
                declared=(*_SHAPE_TERMS, ALPHA, BETA, exponent("gamma")),
                log_law=_width_depth,
                columns=_SHAPE_COLUMNS,
            ),
            Law(
                name="width-depth-params-tokens",
                formula="L = E + A/w^alpha + B/d^beta + C/D^gamma + P/N^delta",
                about="width w, depth d (McLeish et al. 2025, arXiv:2502.06857)",
                declared=(
                    *_SHAPE_TERMS,
                    coefficient("P", params="delta"),
                    ALPHA,
                    BETA,
                    exponent("gamma"),
                    exponent("delta"),
                ),
                log_law=_width_depth_params,
                columns=MappingProxyType({**COUNTS, **_SHAPE_COLUMNS}),
            ),
            Law(
                name="data-constrained",
                formula="L = E + A/N'^alpha + B/D'^beta",
                about="repeats beyond R_D* and parameters beyond R_N* times what the unique "
                "tokens can feed are worth nothing (Muennighoff et al. 2023, arXiv:2305.16264)",
                declared=(floor(), TERM_N, TERM_D, ALPHA, BETA, _decay("R_D*"), _decay("R_N*")),
                log_law=_repeated,
                columns=MappingProxyType({**COUNTS, "unique_tokens": "tokens"}),
            ),
            Law(
                name="moe",
                formula="L = E + A/(N^alpha (N_t/N)^gamma) + B/D^beta",
                about="mixture of experts: N active parameters of N_t",
                declared=(
                    floor(),
                    TERM_N,
                    TERM_D,
                    ALPHA,
                    BETA,
                    Parameter(name="gamma", start=(-0.1, 0.6), low=-2.0, high=5.0),
                ),
                log_law=_experts,
                columns=MappingProxyType({**COUNTS, "params_total": "params"}),
                null=MappingProxyType({"gamma": (0.0, "a law of active params alone")}),
            ),
            _rule("lr", "eta"),
            _rule("batch_tokens", "B"),
        )
    }
)


def law(name: str) -> Law:
    """A family by name.

    Raises:
        FitError: No such family.
    """
    if name not in LAWS:
        raise FitError(f"unknown law '{name}'; known are {', '.join(LAWS)}. Choose one of them.")
    return LAWS[name]
