"""The families of laws, each one declaration, and the law of repeated tokens.

To add a law, add an entry to `LAWS`: its parameters, the columns that it needs and the ln of what
it predicts. Fits, intervals, bootstrap, notes and predictions follow. A variant of the two-term law
also says in `two_terms` which of its parameters stands for each of E, A, B, alpha and beta, and is
then solved by the fast kernel.

A run over more tokens than there are unique ones repeats them. D' counts the fresh tokens that have
the same effect: up to U tokens D' = D, beyond it U + U R_D* (1 - e^(-R / R_D*)) for R repeats.
Parameters beyond what U tokens can feed are discounted likewise (Muennighoff et al. 2023,
arXiv:2305.16264, eqs. 5-11). Numpy only: every query imports this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fit.errors import FitError, QueryError
from fit.laws.law import (
    COUNTS,
    RAW,
    TWO_TERMS,
    Law,
    Named,
    Parameter,
    coefficient,
    exponent,
    floor,
    lesser,
    log_sum,
)
from fit.laws.published import PRESETS

TERM_N, TERM_D = coefficient("A", params="alpha"), coefficient("B", tokens="beta")
ALPHA, BETA = exponent("alpha"), exponent("beta")
_SHAPE_TERMS = (
    floor(),
    coefficient("A", width="alpha"),
    coefficient("B", depth="beta"),
    coefficient("C", tokens="gamma"),
)
_SHAPE_COLUMNS = MappingProxyType({"width": "width", "depth": "depth", "tokens": "tokens"})
DECAY_TOKENS, DECAY_PARAMS = 15.387756, 5.309743
"""R_D* and R_N* on C4, unrounded from the paper's source: borrowed where a fit has none."""
ENDLESS = 1e300
"""Unique tokens that nobody runs out of."""
LEAST_REPEATS = 1e-12
"""Repeats taken for none, whose ln has no value."""


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
    return _chinchilla(t, log_effective_counts(t, c))


def _experts(t: Named, c: Named) -> Any:
    sparsity = c["params_total"] - c["params"]
    return log_sum(t["E"], _size(t, c) - t["gamma"] * sparsity, _length(t, c))


def _product(t: Named, c: Named) -> Any:
    return t["K"] + t["p"] * c["params"] + t["q"] * c["tokens"]


def _product_batch(t: Named, c: Named) -> Any:
    return _product(t, c) + t["r"] * c["batch_tokens"]


def _compute(t: Named, c: Named) -> Any:
    return log_sum(t["E"], t["K"] - t["gamma"] * c["flops"])


def _vocabulary(t: Named, c: Named) -> Any:
    embedding = t["V"] - t["gamma"] * c["params_embedding"]
    return log_sum(t["E"], _size(t, c), embedding, _length(t, c))


def _overfit(t: Named, c: Named) -> Any:
    repeats = np.maximum(np.expm1(c["tokens"] - c["unique_tokens"]), LEAST_REPEATS)
    excess = np.log(repeats) + c["params"] - c["unique_tokens"]
    return log_sum(t["E"], _size(t, c), _length(t, c), t["P"] + t["kappa"] * excess)


def _routed(t: Named, c: Named) -> Any:
    most = np.exp(-t["M_max"])
    fewest = np.exp(c["experts"]) - 1 + 1 / (np.exp(-t["M_start"]) - most)
    effective = -np.log(1 / fewest + most)
    return t["K"] + t["a"] * c["params"] + (t["b"] + t["c"] * c["params"]) * effective


def _farseer(t: Named, c: Named) -> Any:
    floor_n = t["E_0"] - np.exp(t["K_E"] + t["gamma"] * c["params"])
    factor = t["B_0"] + np.exp(t["K_B"] - t["beta"] * c["params"])
    power = np.exp(t["A_0"] - np.exp(t["K_A"] + t["alpha"] * c["params"]))
    return log_sum(floor_n, factor - power * c["tokens"])


def _decay(name: str) -> Parameter:
    """Repeats, or excess parameters in multiples, after which their worth has decayed to 1/e."""
    return Parameter(name=name, start=(-1.0, 5.0), low=np.log(1e-3), high=np.log(1e6))


def _power(name: str, **per: str | float) -> Parameter:
    """A power of either sign."""
    return Parameter(name=name, start=(-1.2, 1.2), low=-5.0, high=5.0, per=per)


def _rule(target: str, symbol: str, *, batch: bool = False) -> Law:
    """A power law of the best learning rate or batch; with `batch`, for a batch that is given."""
    per: dict[str, str | float] = {"params": "-p", "tokens": "-q"}
    per |= {"batch_tokens": "-r"} if batch else {}
    scale = Parameter(name="K", start=(-1.0, 1.0), nats=True, per=per)
    given = " with batches of B tokens" if batch else ""
    return Law(
        name=target.split("_")[0] + ("-batch" if batch else ""),
        formula=f"{symbol} = K N^p D^q" + (" B^r" if batch else ""),
        about=f"{symbol} is the best {target}{given}",
        declared=(scale, _power("p"), _power("q"), *((_power("r"),) if batch else ())),
        log_law=_product_batch if batch else _product,
        columns={**COUNTS, "batch_tokens": "batch_tokens"} if batch else COUNTS,
        target=target,
    )


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Law(
                name="chinchilla",
                formula="L = E + A/N^alpha + B/D^beta",
                declared=(floor(), TERM_N, TERM_D, ALPHA, BETA),
                log_law=_chinchilla,
                two_terms=TWO_TERMS,
                without_e="no-e",
            ),
            Law(
                name="tied",
                formula="L = E + A/N^alpha + B/D^alpha",
                declared=(floor(), TERM_N, coefficient("B", tokens="alpha"), ALPHA),
                log_law=_tied,
                two_terms=("E", "A", "B", "alpha", "alpha"),
            ),
            Law(
                name="no-e",
                formula="L = A/N^alpha + B/D^beta",
                declared=(TERM_N, TERM_D, ALPHA, BETA),
                log_law=_without_e,
                two_terms=(None, "A", "B", "alpha", "beta"),
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
                powers=("alpha", "beta"),
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
            Law(
                name="vocabulary",
                formula="L = E + A/N^alpha + V/N_v^gamma + B/D^beta",
                about="N_v parameters of the vocabulary, N the others; a loss that vocabularies "
                "share, such as bits per byte (Tao et al. 2024, arXiv:2407.13623, approach 3)",
                declared=(
                    floor(),
                    TERM_N,
                    coefficient("V", params="gamma"),
                    TERM_D,
                    ALPHA,
                    exponent("gamma"),
                    BETA,
                ),
                log_law=_vocabulary,
                columns=MappingProxyType({**COUNTS, "params_embedding": "params"}),
            ),
            Law(
                name="overfit",
                formula="L = E + A/N^alpha + B/D^beta + P ((D/U - 1) N/U)^kappa",
                about="U unique tokens: repeats of them may raise the loss, the more so of a "
                "larger model (an additive penalty, after Lovelace et al. 2026, arXiv:2605.01640)",
                declared=(
                    floor(),
                    TERM_N,
                    TERM_D,
                    Parameter(
                        name="P",
                        start=(-6.0, -0.5),
                        nats=True,
                        per={"params": "-kappa", "tokens": "kappa"},
                    ),
                    ALPHA,
                    BETA,
                    exponent("kappa"),
                ),
                log_law=_overfit,
                columns=MappingProxyType({**COUNTS, "unique_tokens": "tokens"}),
            ),
            Law(
                name="farseer",
                formula="L = E_0 e^(-K_E N^gamma) + B_0 e^(K_B/N^beta) D^(-A_0 e^(-K_A N^alpha))",
                about="every part bends with N (Li et al. 2025, arXiv:2506.10972)",
                declared=(
                    Parameter(name="E_0", start=(-1.0, 1.5)),
                    Parameter(name="B_0", start=(-8.0, 6.0)),
                    Parameter(name="A_0", start=(-1.5, 1.0), low=-5.0, high=3.0),
                    Parameter(name="K_E", start=(-3.0, 0.5), per={"params": "-gamma"}),
                    Parameter(name="K_B", start=(-1.0, 3.0), per={"params": "beta"}),
                    Parameter(name="K_A", start=(-3.0, 0.7), per={"params": "-alpha"}),
                    exponent("gamma"),
                    BETA,
                    ALPHA,
                ),
                log_law=_farseer,
                # D^(-A(N)) has no unit of its own: tokens are counted as they are.
                columns=MappingProxyType({"params": "params", "tokens": RAW}),
                unsplit="its loss goes to zero as N grows, whatever D is",
            ),
            Law(
                name="compute",
                formula="L = E + K/C^gamma",
                about="C FLOP, at one ratio of tokens to parameters (Kaplan et al. 2020, "
                "arXiv:2001.08361, with the E of Henighan et al. 2020, arXiv:2010.14701)",
                declared=(floor(), coefficient("K", flops="gamma"), exponent("gamma")),
                log_law=_compute,
                columns=MappingProxyType({"flops": "flops"}),
            ),
            Law(
                name="experts",
                formula="L = K N^a M'^(b + c ln N)",
                about="M experts, all runs of one D; 1/M' = 1/(M - 1 + 1/(1/M_start - 1/M_max)) "
                "+ 1/M_max (Clark et al. 2022, arXiv:2202.01169)",
                declared=(
                    Parameter(name="K", start=(-1.0, 1.0), nats=True, per={"params": "-a"}),
                    Parameter(name="a", start=(-0.4, 0.0), low=-5.0, high=5.0),
                    Parameter(
                        name="b", start=(-0.4, 0.1), low=-5.0, high=5.0, per={"params": "-c"}
                    ),
                    Parameter(name="c", start=(-0.05, 0.05), low=-1.0, high=1.0),
                    Parameter(name="M_start", start=(0.1, 2.0), low=0.0, high=np.log(10)),
                    Parameter(name="M_max", start=(3.5, 8.0), low=np.log(12), high=np.log(1e6)),
                ),
                log_law=_routed,
                columns=MappingProxyType({"params": "params", "experts": RAW}),
            ),
            _rule("lr", "eta"),
            _rule("batch_tokens", "B"),
            _rule("lr", "eta", batch=True),
        )
    }
)


def two_term_laws() -> tuple[str, ...]:
    """Names of the laws within E + A / N^alpha + B / D^beta."""
    return tuple(name for name, entry in LAWS.items() if entry.two_terms is not None)


def law(name: str) -> Law:
    """A family by name.

    Raises:
        FitError: No such family.
    """
    if name not in LAWS:
        raise FitError(f"unknown law '{name}'; known are {', '.join(LAWS)}. Choose one of them.")
    return LAWS[name]


def laws_document() -> dict[str, Any]:
    """The `isoflop.laws/1` document: every published law, and every family that can be fitted."""
    rows = [
        {
            "name": p.name,
            "law": p.law,
            "formula": law(p.law).formula,
            "theta": dict(p.theta),
            "convention": dict(p.convention),
            "data": p.data,
            "range": {k: [v.low, v.high] for k, v in (p.range or {}).items()},
            "source": p.source,
            "note": p.note,
            "intervals": p.unsure if p.spread is None else p.spread.source,
        }
        for p in PRESETS.values()
    ]
    families = [
        {
            "name": f.name,
            "formula": f.formula,
            "about": f.about,
            "parameters": list(f.parameters),
            "columns": list(f.columns),
            "target": f.target,
        }
        for f in LAWS.values()
    ]
    return {"schema": "isoflop.laws/1", "laws": rows, "families": families}


def log_effective_counts(t: Named, c: Named) -> dict[str, Any]:
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


def with_repeats(law: Law, base: Named | None = None) -> Law:
    """The law with a column of unique tokens: its own, or with the constants of C4.

    Args:
        law: The law.
        base: A, B, alpha and beta that say how many parameters the unique tokens can feed (scales
            as their ln), for a law whose own do not; None for the law's own.

    Raises:
        QueryError: It has columns other than params and tokens, or no terms that could say how
            many parameters the unique tokens can feed.
    """
    if "unique_tokens" in law.columns:
        return law
    if law.powers is None and base is None:
        raise QueryError(
            f"law '{law.name}' does not depend on unique_tokens, and what repeats are worth can be "
            "borrowed only for a law with A/N^alpha and B/D^beta. Leave --unique-tokens out."
        )
    return dataclasses.replace(
        law,
        log_law=_borrowing(law.log_law, base),
        columns=MappingProxyType({**COUNTS, "unique_tokens": "tokens"}),
        two_terms=None,
        powers=None,
    )


def borrows_repeat_constants(law: Law) -> bool:
    """Whether what repeats are worth is borrowed."""
    return "unique_tokens" in law.columns and "R_D*" not in law.parameters


def _borrowing(
    log_law: Callable[[Named, Named], Any], base: Named | None
) -> Callable[[Named, Named], Any]:
    """A law of N' and D' from one of N and D."""

    def discounted(t: Named, c: Named) -> Any:
        terms = t if base is None else base
        beta = terms.get("beta", terms["alpha"])
        decays = {"R_D*": np.log(DECAY_TOKENS), "R_N*": np.log(DECAY_PARAMS), "beta": beta}
        return log_law(t, log_effective_counts({**terms, **decays}, c))

    return discounted
