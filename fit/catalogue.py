"""The catalogue of published laws, each with its source, convention and range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fit.errors import QueryError
from fit.result import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published law with what its numbers mean."""

    name: str
    law: str
    theta: Mapping[str, float]
    source: str
    convention: Mapping[str, str]
    """How its authors counted params and flops."""
    data: str
    range: Mapping[str, Span] | None = None
    """Of the authors' runs: params, tokens, flops."""
    note: str | None = None


_TOTAL_6ND = MappingProxyType({"params": "total", "flops": "6nd"})


def _theta(e: float, a: float, b: float, alpha: float, beta: float) -> Mapping[str, float]:
    return MappingProxyType({"E": e, "A": a, "B": b, "alpha": alpha, "beta": beta})


def _krajewski(c: float, a: float, b: float, alpha: float, beta: float) -> Mapping[str, float]:
    """At granularity 1: L = c + (g/1^gamma + a)/N^alpha + b/D^beta, with g = 2.1."""
    return _theta(c, a + 2.1, b, alpha, beta)


def _gadre(e: float, a: float, b: float, eta: float) -> Mapping[str, float]:
    """L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6ND: A = a 6^-eta, B = b 6^-eta, 2 eta."""
    return _theta(e, a * 6**-eta, b * 6**-eta, 2 * eta, 2 * eta)


def _spans(params: tuple[float, float], tokens: tuple[float, float]) -> Mapping[str, Span]:
    """Ranges of a study's runs; compute lies between the products of the ends."""
    return MappingProxyType(
        {
            "params": Span(low=params[0], high=params[1]),
            "tokens": Span(low=tokens[0], high=tokens[1]),
        }
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Preset(
                name="hoffmann2022",
                law="chinchilla",
                theta=_theta(
                    math.exp(0.5267228),
                    math.exp(6.0073404),
                    math.exp(6.0179186),
                    0.33917084,
                    0.2849083,
                ),
                source="Hoffmann et al. 2022, arXiv:2203.15556, unrounded from the paper's source",
                convention=_TOTAL_6ND,
                data="MassiveText",
                range={
                    **_spans((44e6, 16e9), (5e9, 500e9)),
                    "flops": Span(low=6e18, high=3e21),
                },
            ),
            Preset(
                name="besiroglu2024",
                law="chinchilla",
                theta=_theta(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
                source="Besiroglu et al. 2024, arXiv:2404.10102",
                convention=_TOTAL_6ND,
                data="MassiveText, rebuilt from Hoffmann et al. 2022, Fig. 4",
                range={
                    **_spans((44e6, 16e9), (5e9, 500e9)),
                    "flops": Span(low=6e18, high=3e21),
                },
            ),
            Preset(
                name="muennighoff2023",
                law="tied",
                theta=MappingProxyType(
                    {
                        "E": math.exp(0.6254804),
                        "A": math.exp(6.255414),
                        "B": math.exp(7.3049974),
                        "alpha": 0.3526596,
                    }
                ),
                source="Muennighoff et al. 2023, arXiv:2305.16264; base law, fresh data",
                convention=_TOTAL_6ND,
                data="C4",
                range=_spans((7e6, 8.7e9), (1e8, 9e11)),
            ),
            Preset(
                name="muennighoff2023-repeated",
                law="data-constrained",
                theta=MappingProxyType(
                    {
                        **_theta(
                            math.exp(0.6254804),
                            math.exp(6.255414),
                            math.exp(7.3049974),
                            0.3526596,
                            0.3526596,
                        ),
                        "R_D*": 15.387756,
                        "R_N*": 5.309743,
                    }
                ),
                source="Muennighoff et al. 2023, arXiv:2305.16264; repeated data",
                convention=_TOTAL_6ND,
                data="C4",
                range=_spans((7e6, 8.7e9), (1e8, 9e11)),
                note="needs --unique-tokens",
            ),
            Preset(
                name="kaplan2020",
                law="kaplan",
                theta=MappingProxyType(
                    {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
                ),
                source="Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5 and table 2",
                convention=MappingProxyType({"params": "body", "flops": "6nd"}),
                data="WebText2",
                range=_spans((768, 1.5e9), (22e6, 23e9)),
                note="fitted to models trained until they stopped gaining, so that it is about "
                "overfitting and not about compute: its split of a budget is no recommendation",
            ),
            Preset(
                name="krajewski2024-dense",
                law="chinchilla",
                theta=_theta(0.47, 16.3, 26.7, 0.126, 0.127),
                source="Krajewski et al. 2024, arXiv:2402.07871; dense",
                convention=MappingProxyType({"params": "body", "flops": "6nd"}),
                data="C4",
                range=_spans((129e6, 3.7e9), (16e9, 130e9)),
            ),
            Preset(
                name="krajewski2024-moe",
                law="chinchilla",
                theta=_krajewski(0.47, 18.1, 30.8, 0.115, 0.147),
                source="Krajewski et al. 2024, arXiv:2402.07871; 64 experts, granularity 1",
                convention=MappingProxyType({"params": "active body", "flops": "6nd"}),
                data="C4",
                range=_spans((129e6, 3.7e9), (16e9, 130e9)),
                note="params are active ones",
            ),
            Preset(
                name="gadre2024",
                law="chinchilla",
                theta=_gadre(1.51, 141.0, 190.0, 0.121),
                source="Gadre et al. 2024, arXiv:2403.08540",
                convention=_TOTAL_6ND,
                data="C4",
                range=_spans((11e6, 6.9e9), (0.2e9, 900e9)),
            ),
        )
    }
)


def preset(name: str) -> Preset:
    """A published law by name.

    Raises:
        QueryError: No such law in the catalogue.
    """
    if name not in PRESETS:
        raise QueryError(
            f"unknown law '{name}'; published ones are {', '.join(PRESETS)}. See: isoflop laws"
        )
    return PRESETS[name]
