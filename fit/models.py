"""Language models whose size and training tokens were published, to stand beside a law.

Counts are their authors': parameters in all, of experts those that are active per token. Nothing
here is an estimate; tokens that follow from published steps and batches are marked `derived`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One published model."""

    name: str
    year: int
    params: float
    """Active per token [parameters]."""
    tokens: float
    """Trained on, repeats counted [tokens]."""
    source: str
    note: str = ""
    """`derived`: tokens from published steps and batch; `encoder`: not a decoder; ..."""
    experts: bool = False
    named: bool = False
    """Its name stands in figures; of the others only the mark."""

    @property
    def flops(self) -> float:
        """6 N D [FLOP]."""
        return 6 * self.params * self.tokens


def _model(name: str, year: int, params: float, tokens: float, source: str, *more: str) -> Model:
    """A row of the table; `more` holds `named`, `experts` and one note at most."""
    notes = [m for m in more if m not in ("named", "experts")]
    flags = {"named": "named" in more, "experts": "experts" in more}
    return Model(
        name=name,
        year=year,
        params=params,
        tokens=tokens,
        source=source,
        note="; ".join(notes),
        **flags,
    )


MODELS: tuple[Model, ...] = (
    _model(
        "BERT-Large", 2018, 340e6, 128e9, "arXiv:1810.04805, A.2", "named",
        "encoder; derived: 1M steps of 128,000 tokens as stated (90% of them were shorter)",
    ),
    _model(
        "RoBERTa-Large", 2019, 355e6, 2.05e12, "arXiv:1907.11692",
        "encoder; derived: 500k x 8k x 512",
    ),
    _model("T5-11B", 2019, 11e9, 1e12, "arXiv:1910.10683, sec. 3.7", "named", "encoder-decoder"),
    _model("GPT-3", 2020, 175e9, 300e9, "arXiv:2005.14165, table D.1", "named"),
    _model("Gopher", 2021, 280e9, 300e9, "arXiv:2112.11446"),
    _model("MT-NLG", 2022, 530e9, 270e9, "arXiv:2201.11990", "named"),
    _model("Chinchilla", 2022, 70e9, 1.4e12, "arXiv:2203.15556", "named"),
    _model("PaLM", 2022, 540e9, 780e9, "arXiv:2204.02311", "named"),
    _model("GPT-NeoX-20B", 2022, 20.6e9, 472e9, "arXiv:2204.06745", "derived: 150k x 3.15M"),
    _model("BLOOM", 2022, 176e9, 366e9, "arXiv:2211.05100"),
    _model("GLM-130B", 2022, 130e9, 400e9, "arXiv:2210.02414"),
    _model("Galactica", 2022, 120e9, 450e9, "arXiv:2211.09085", "repeats: 4.25 epochs"),
    _model("LLaMA-7B", 2023, 6.7e9, 1e12, "arXiv:2302.13971, table 2"),
    _model("LLaMA-65B", 2023, 65.2e9, 1.4e12, "arXiv:2302.13971, table 2"),
    _model("Pythia-12B", 2023, 12e9, 300e9, "arXiv:2304.01373"),
    _model("Cerebras-GPT-13B", 2023, 13e9, 257e9, "arXiv:2304.03208"),
    _model("Llama-2-7B", 2023, 7e9, 2e12, "arXiv:2307.09288, table 1"),
    _model("Llama-2-70B", 2023, 70e9, 2e12, "arXiv:2307.09288, table 1"),
    _model("Qwen-14B", 2023, 14e9, 3e12, "arXiv:2309.16609"),
    _model("Falcon-7B", 2023, 7e9, 1.5e12, "arXiv:2311.16867"),
    _model("Falcon-40B", 2023, 40e9, 1e12, "arXiv:2311.16867"),
    _model("Falcon-180B", 2023, 180e9, 3.5e12, "arXiv:2311.16867"),
    _model("TinyLlama", 2024, 1.1e9, 3e12, "arXiv:2401.02385", "named", "repeats: 3 epochs"),
    _model("DeepSeek-67B", 2024, 67e9, 2e12, "arXiv:2401.02954"),
    _model("OLMo-7B", 2024, 7e9, 2.46e12, "arXiv:2402.00838"),
    _model("Gemma-7B", 2024, 7e9, 6e12, "arXiv:2403.08295"),
    _model("Yi-34B", 2024, 34e9, 3.1e12, "arXiv:2403.04652"),
    _model("Phi-3-mini", 2024, 3.8e9, 3.3e12, "arXiv:2404.14219"),
    _model("Nemotron-4-340B", 2024, 340e9, 9e12, "arXiv:2406.11704"),
    _model("Qwen2-72B", 2024, 72e9, 7e12, "arXiv:2407.10671"),
    _model("Llama-3.1-405B", 2024, 405e9, 15.6e12, "arXiv:2407.21783", "named"),
    _model("Gemma-2-27B", 2024, 27e9, 13e12, "arXiv:2408.00118"),
    _model("Qwen2.5-72B", 2024, 72e9, 18e12, "arXiv:2412.15115", "named"),
    _model(
        "DeepSeek-V3", 2024, 37e9, 14.8e12, "arXiv:2412.19437", "named", "experts", "671B in all",
    ),
    _model("OLMo-2-13B", 2025, 13e9, 5e12, "arXiv:2501.00656"),
    _model("SmolLM2-1.7B", 2025, 1.7e9, 11e12, "arXiv:2502.02737", "named"),
    _model("Gemma-3-27B", 2025, 27e9, 14e12, "arXiv:2503.19786"),
    _model("Qwen3-32B", 2025, 32e9, 36e12, "arXiv:2505.09388"),
    _model("Kimi-K2", 2025, 32e9, 15.5e12, "arXiv:2507.20534", "experts", "1T in all"),
)  # fmt: skip
"""From BERT to today, by year; OPT, LaMDA and others whose accounts differ are left out."""
