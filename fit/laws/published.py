"""Published scaling laws, and language models whose size and training tokens were published.

Each law has its source, its counting convention and the range of its authors' runs. Counts of the
models are their authors': all parameters, or those that are active per token where there are
experts. Every row was looked up in November 2026 at the place that its source names; nothing here
is an estimate, and tokens that follow from published steps and batches are marked `derived`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fit.errors import QueryError
from fit.results import Span

_TOTAL_6ND = MappingProxyType({"params": "total", "flops": "6nd"})


NO_RUNS = "its runs are not public, and no covariance of its parameters was published"
"""Why a published law has no intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How sure a published law's parameters are, by a fit of its public runs."""

    covariance: tuple[tuple[float, ...], ...]
    """(p, p), logs of scales, exponents as they are."""
    quantile: float
    """Student's t at the level."""
    level: float
    noise: float
    """Standard deviation of ln loss of one run."""
    source: str


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
    spread: Spread | None = None
    """Of its parameters, where its runs are public."""
    unsure: str = NO_RUNS
    """Why there is no spread."""


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
                spread=Spread(
                    covariance=(
                        (
                            1.788170793e-03,
                            -1.506328266e-03,
                            7.303063547e-02,
                            -7.276974786e-05,
                            3.482144808e-03,
                        ),
                        (
                            -1.506328266e-03,
                            1.843527201e-01,
                            -4.028421008e-01,
                            1.114227016e-02,
                            -1.944938181e-02,
                        ),
                        (
                            7.303063547e-02,
                            -4.028421008e-01,
                            3.631258575e00,
                            -2.365721305e-02,
                            1.735608485e-01,
                        ),
                        (
                            -7.276974786e-05,
                            1.114227016e-02,
                            -2.365721305e-02,
                            6.739651707e-04,
                            -1.142825288e-03,
                        ),
                        (
                            3.482144808e-03,
                            -1.944938181e-02,
                            1.735608485e-01,
                            -1.142825288e-03,
                            8.296202845e-03,
                        ),
                    ),
                    quantile=1.65136,
                    level=0.9,
                    noise=0.00495,
                    source="the 240 runs that its authors rebuilt and published, fitted with "
                    "--loss huber --delta 1e-3 --discrepancy none (2.8 times wider than sampling, "
                    "since the shortest runs lie off the law)",
                ),
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
                unsure="its base law was held when R_D* and R_N* were fitted, and they lie on a "
                "flat ridge",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """One published model."""

    name: str
    year: int
    params: float
    """Active per token [parameters]."""
    tokens: float
    """Trained on, repeats counted [tokens]."""
    source: str
    """Where N and D stand: a paper with its table or section, or a model card."""
    note: str = ""
    """`derived`: tokens from published steps and batch; `encoder`: not a decoder; ..."""
    experts: bool = False
    named: bool = False
    """Its name stands in figures; of the others only the mark."""

    @property
    def flops(self) -> float:
        """6 N D [FLOP]."""
        return 6 * self.params * self.tokens


def _model(
    name: str, year: int, params: float, tokens: float, source: str, *more: str
) -> PublishedModel:
    """A row of the table; `more` holds `named`, `experts` and one note at most."""
    notes = [m for m in more if m not in ("named", "experts")]
    flags = {"named": "named" in more, "experts": "experts" in more}
    return PublishedModel(
        name=name,
        year=year,
        params=params,
        tokens=tokens,
        source=source,
        note="; ".join(notes),
        **flags,
    )


_CARD = "model card huggingface.co/"
PUBLISHED_MODELS: tuple[PublishedModel, ...] = (
    _model(
        "BERT-Large",
        2018,
        340e6,
        128e9,
        "arXiv:1810.04805, sec. 3 and app. A.2",
        "named",
        "encoder; derived: 1M steps of 128,000 tokens as stated (90% of them were shorter)",
    ),
    _model(
        "T5-11B",
        2019,
        11e9,
        1e12,
        "arXiv:1910.10683, sec. 3.7",
        "named",
        "encoder-decoder; about 1T, 1M steps of 2048 x 512",
    ),
    _model("GPT-3", 2020, 175e9, 300e9, "arXiv:2005.14165, table 2.1", "named"),
    _model("Gopher", 2021, 280e9, 300e9, "arXiv:2203.15556, table 1"),
    _model("MT-NLG", 2022, 530e9, 270e9, "arXiv:2203.15556, table 1", "named"),
    _model("Chinchilla", 2022, 70e9, 1.4e12, "arXiv:2203.15556, table 1", "named"),
    _model("PaLM", 2022, 540e9, 780e9, "arXiv:2204.02311, sec. 1", "named"),
    _model(
        "GPT-NeoX-20B",
        2022,
        20.6e9,
        472e9,
        f"{_CARD}EleutherAI/gpt-neox-20b",
        "derived: 150,000 steps of 1538 x 2048",
    ),
    _model(
        "BLOOM",
        2022,
        176e9,
        366e9,
        "huggingface.co/docs/transformers, section of decoder models",
    ),
    _model("GLM-130B", 2022, 130e9, 400e9, "README of github.com/THUDM/GLM-130B", "over 400B"),
    _model(
        "Galactica",
        2022,
        120e9,
        450e9,
        "arXiv:2211.09085, sec. 5.1; model_card of github.com/paperswithcode/galai",
        "repeats: 4.25 epochs",
    ),
    _model("LLaMA-7B", 2023, 6.7e9, 1e12, "arXiv:2302.13971, table 2"),
    _model("LLaMA-65B", 2023, 65.2e9, 1.4e12, "arXiv:2302.13971, table 2"),
    _model(
        "Pythia-12B",
        2023,
        11.8e9,
        300e9,
        f"README of github.com/EleutherAI/pythia; {_CARD}EleutherAI/pythia-12b",
        "143,000 steps of 2,097,152",
    ),
    _model("Cerebras-GPT-13B", 2023, 13e9, 257e9, f"{_CARD}cerebras/Cerebras-GPT-13B"),
    _model(
        "Llama-2-7B", 2023, 7e9, 2e12, "MODEL_CARD of github.com/meta-llama/llama-models, llama2"
    ),
    _model(
        "Llama-2-70B", 2023, 70e9, 2e12, "MODEL_CARD of github.com/meta-llama/llama-models, llama2"
    ),
    _model("Qwen-14B", 2023, 14e9, 3e12, "README of github.com/QwenLM/Qwen"),
    _model("Falcon-7B", 2023, 7e9, 1.5e12, f"{_CARD}tiiuae/falcon-7b"),
    _model("Falcon-40B", 2023, 40e9, 1e12, f"{_CARD}tiiuae/falcon-40b; arXiv:2311.16867, table 1"),
    _model("Falcon-180B", 2023, 180e9, 3.5e12, f"{_CARD}tiiuae/falcon-180B"),
    _model(
        "TinyLlama",
        2024,
        1.1e9,
        3e12,
        "README of github.com/jzhang38/TinyLlama",
        "named",
        "repeats: 3 epochs",
    ),
    _model("DeepSeek-67B", 2024, 67e9, 2e12, "README of github.com/deepseek-ai/DeepSeek-LLM"),
    _model(
        "OLMo-7B",
        2024,
        7e9,
        2.464e12,
        f"{_CARD}allenai/OLMo-7B, revisions.txt",
        "last revision: step 557,000",
    ),
    _model(
        "Gemma-7B",
        2024,
        8.54e9,
        6e12,
        "arXiv:2403.08295, table 2; huggingface.co/docs/transformers, page gemma",
        "embedding counted: 7.75B without",
    ),
    _model(
        "Yi-34B", 2024, 34e9, 3.1e12, "arXiv:2403.04652, abstract; README of github.com/01-ai/Yi"
    ),
    _model(
        "Phi-3-mini",
        2024,
        3.8e9,
        3.3e12,
        "arXiv:2404.14219, abstract",
        "the version of April 2024; that of June had 4.9T",
    ),
    _model("Nemotron-4-340B", 2024, 340e9, 9e12, f"{_CARD}nvidia/Nemotron-4-340B-Base"),
    _model("Qwen2-72B", 2024, 72e9, 7e12, "arXiv:2407.10671, sec. 3.1", "over 7T"),
    _model("Llama-3.1-405B", 2024, 405e9, 15.6e12, "arXiv:2407.21783, sec. 1", "named"),
    _model(
        "Gemma-2-27B",
        2024,
        27.2e9,
        13e12,
        f"arXiv:2408.00118, table 2; {_CARD}google/gemma-2-27b",
        "embedding counted: 26.0B without",
    ),
    _model(
        "Qwen2.5-72B",
        2024,
        72e9,
        18e12,
        "qwenlm.github.io/blog/qwen3, section pre-training",
        "named",
    ),
    _model(
        "DeepSeek-V3",
        2024,
        37e9,
        14.8e12,
        "README of github.com/deepseek-ai/DeepSeek-V3",
        "named",
        "experts",
        "671B in all",
    ),
    _model(
        "OLMo-2-13B",
        2025,
        13e9,
        5e12,
        "README of github.com/allenai/OLMo, stage 1",
        "repeats: 1.2 epochs; stage 2 of 100B to 300B not counted",
    ),
    _model("SmolLM2-1.7B", 2025, 1.7e9, 11e12, f"{_CARD}HuggingFaceTB/SmolLM2-1.7B", "named"),
    _model(
        "Gemma-3-27B",
        2025,
        27e9,
        14e12,
        f"arXiv:2503.19786, table 1; {_CARD}google/gemma-3-27b-pt",
        "language model alone",
    ),
    _model("Qwen3-32B", 2025, 32.8e9, 36e12, f"arXiv:2505.09388, sec. 1; {_CARD}Qwen/Qwen3-32B"),
    _model(
        "Kimi-K2",
        2025,
        32e9,
        15.5e12,
        "README of github.com/MoonshotAI/Kimi-K2",
        "experts",
        "1T in all",
    ),
)
"""From BERT to today, by year; those whose accounts differ, or were not found, are left out."""
