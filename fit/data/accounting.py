"""Parameter counts and training FLOPs of a decoder-only transformer, from its shape alone.

`count_params` and `count_flops` return every group and term separately, because the convention
alone changes the compute-optimal exponent by 0.1-0.3 at small scale (Porian et al. 2024,
arXiv:2406.19146). Which groups make up N and which terms make up C is decided when a law is fitted:
`params_in` and `flops_per_token_in`.

Training costs 3 forward passes (one forward, two backward), 2 FLOP per multiply-add. The embedding
look-up, norms, rotary positions, the short convolution, softmax and residual additions are left
out, and recomputation never counts (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from fit.errors import PlanError

CACHED_SHAPES = 4096
"""Shapes whose counts are cached: a query asks for the same few shapes again and again."""
PARAMS_CONVENTIONS = ("matmul", "total", "body", "chinchilla")
"""Ways to count N: body and head; all; body alone (Kaplan 2020); all (Hoffmann 2022)."""
FLOPS_CONVENTIONS = ("exact", "chinchilla", "6nd")
"""Ways to count C: by term with causal attention; as Hoffmann 2022; as 6 params tokens."""
FLOPS_PER_PARAM_TOKEN = 6
"""FLOP of training per matmul parameter and token: 2 forward and 4 backward."""
ROPE_BASE = 10_000.0
"""Base of the rotary angles where no other is set."""
MLPS: Mapping[str, tuple[bool, str | None]] = MappingProxyType(
    {
        "relu2": (False, None),
        "gelu": (False, "gelu"),
        "swiglu": (True, None),
        "geglu": (True, "gelu"),
    }
)
"""Kinds of MLP by name: whether it is gated, and the `Shape.activation` of its hidden units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of a decoder-only transformer, on which all of its counts depend."""

    width: int
    """Residual stream d_model."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads per block."""
    head_dim: int
    """Size of one head; heads * head_dim need not equal width."""
    d_ff: int
    """Hidden units of the MLP."""
    vocab: int
    """Tokens in the vocabulary; see `vocab_rows`."""
    seq_len: int
    """Context length in tokens."""
    gated: bool = False
    """Gated MLP (three matrices) instead of a plain one (two)."""
    tied: bool = True
    """Output head shares the embedding's matrix."""
    conv: int = 0
    """Taps of the causal depthwise convolution on the embeddings; 0 is none."""
    experts: int = 0
    """MLPs per block among which a router chooses; 0 is one MLP without a router."""
    top_k: int = 0
    """Experts used per token."""
    kv_heads: int | None = None
    """Heads of keys and values, each shared by heads / kv_heads queries; None is one per head."""
    activation: str | None = None
    """gelu; None is squared ReLU, or SiLU where the MLP is gated."""
    pad_vocab_to: int = 0
    """Embedding and head have a multiple of so many rows; 0 is one per token."""
    rope_base: float = ROPE_BASE
    """Base of the rotary angles; no count depends on it."""

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and of the head; those beyond the vocabulary are never used."""
        multiple = self.pad_vocab_to or 1
        return -(-self.vocab // multiple) * multiple

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "head_dim", "d_ff", "vocab", "seq_len"):
            value = getattr(self, name)
            if value < 1:
                raise PlanError(f"{name} is {value}; a shape needs at least 1. Change {name}.")
        if self.experts and not 1 <= self.top_k <= self.experts:
            raise PlanError(
                f"top_k is {self.top_k} of {self.experts} experts; 1 to {self.experts} is needed. "
                "Change top_k."
            )
        if self.kv_heads == self.heads:
            object.__setattr__(self, "kv_heads", None)
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            divisors = [str(k) for k in range(1, self.heads + 1) if self.heads % k == 0]
            raise PlanError(
                f"kv_heads is {self.kv_heads} of {self.heads} heads, which have to share them "
                f"equally. Change kv_heads: {', '.join(divisors)}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamCounts:
    """Parameters per group."""

    body: int
    """Matrices in the blocks that a token uses; of a mixture, the router and top_k experts."""
    head: int
    """The output head, vocab_rows x width, counted once whether tied or not."""
    embedding: int
    """The embedding if it is a matrix of its own; 0 if tied."""
    other: int
    """Gains of the queries and taps of the convolution."""
    idle: int = 0
    """Experts that a token does not use."""

    @property
    def total(self) -> int:
        """All trainable parameters, each once."""
        return self.body + self.head + self.embedding + self.other + self.idle

    @property
    def matmul(self) -> int:
        """Body and head, the parameters in matrix products with every token; the default N."""
        return self.body + self.head


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopsPerToken:
    """Training FLOP per token, by term."""

    body: int
    head: int
    attention: int
    """Scores and values over the causal half of the seq_len x seq_len square."""

    @property
    def exact(self) -> int:
        """Sum of the terms, the `exact` convention."""
        return self.body + self.head + self.attention


@lru_cache(CACHED_SHAPES)
def count_params(shape: Shape) -> ParamCounts:
    """Count the parameters of a shape per group.

    Args:
        shape: Shape of the transformer.

    Returns:
        Parameters per group; their total equals that of the built torch model.
    """
    d, inner = shape.width, shape.heads * shape.head_dim
    mlp, chosen = _mlp_matrices(shape) * d * shape.d_ff, shape.top_k if shape.experts else 1
    attention = 2 * d * (inner + shape.key_heads * shape.head_dim)
    per_block = attention + chosen * mlp + shape.experts * d
    return ParamCounts(
        body=shape.depth * per_block,
        head=shape.vocab_rows * d,
        embedding=0 if shape.tied else shape.vocab_rows * d,
        other=shape.depth * shape.head_dim + shape.conv * d,
        idle=shape.depth * (shape.experts - chosen) * mlp if shape.experts else 0,
    )


@lru_cache(CACHED_SHAPES)
def count_flops(shape: Shape) -> FlopsPerToken:
    """Count the training FLOP per token of a shape by term.

    Args:
        shape: Shape of the transformer.

    Returns:
        FLOP per trained token.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, appendix F, with causal attention counted once.
    """
    params = count_params(shape)
    inner = shape.heads * shape.head_dim
    return FlopsPerToken(
        body=FLOPS_PER_PARAM_TOKEN * params.body,
        head=FLOPS_PER_PARAM_TOKEN * params.head,
        attention=6 * shape.depth * inner * shape.seq_len,
    )


def params_in(convention: str, params: ParamCounts) -> int:
    """N under a counting convention [parameters].

    Args:
        convention: One of `PARAMS_CONVENTIONS`.
        params: Parameters per group.

    Raises:
        PlanError: The convention is unknown.
    """
    match convention:
        case "matmul":
            return params.matmul
        case "body":
            return params.body
        case "total" | "chinchilla":
            return params.total
    raise PlanError(_unknown("params", convention, PARAMS_CONVENTIONS))


def flops_per_token_in(convention: str, *, flops: FlopsPerToken, params: int) -> int:
    """Training FLOP per token under a counting convention.

    Args:
        convention: One of `FLOPS_CONVENTIONS`.
        flops: FLOP per token by term.
        params: N under the convention chosen for parameters, used by `6nd`.

    Raises:
        PlanError: The convention is unknown.
    """
    match convention:
        case "exact":
            return flops.exact
        case "chinchilla":
            # Hoffmann 2022, appendix F: the embedding costs as much as the head, and attention is
            # counted over the whole square
            return flops.body + 2 * flops.head + 2 * flops.attention
        case "6nd":
            return FLOPS_PER_PARAM_TOKEN * params
    raise PlanError(_unknown("flops", convention, FLOPS_CONVENTIONS))


def _mlp_matrices(shape: Shape) -> int:
    """Matrices in one MLP."""
    return 3 if shape.gated else 2


def _unknown(what: str, convention: str, known: tuple[str, ...]) -> str:
    """Message for an unknown convention."""
    return (
        f"unknown {what} convention '{convention}'; known are {', '.join(known)}. "
        "Choose one of them."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An accelerator."""

    name: str
    flops_per_second: float
    """Peak of dense bf16 matrix products; vendors print twice that for sparse ones."""
    memory_bytes: float
    source: str

    words: frozenset[str]
    """Words that all stand in the name that such a device reports, in lower case."""

    @property
    def rental(self) -> tuple[float, str] | None:
        """Price of an hour of one [$] and whose on which day; None where none was looked up."""
        return RENTALS.get(self.name)

    @property
    def bf16(self) -> bool:
        """Whether it has bf16 arithmetic; the peak of one that has none is in fp16."""
        return self.name not in WITHOUT_BF16


def _devices(*rows: tuple[str, float, float, str, str]) -> Mapping[str, Device]:
    """Accelerators by name, from name, peak [TFLOP/s], memory [GB], source and words."""
    return MappingProxyType(
        {
            name: Device(
                name=name,
                flops_per_second=1e12 * peak,
                memory_bytes=1e9 * memory,
                source=source,
                words=frozenset((words or name).split()),
            )
            for name, peak, memory, source, words in rows
        }
    )


DEVICES = _devices(
    ("a100", 312, 80, "NVIDIA A100 80GB data sheet", ""),
    ("h100", 989, 80, "NVIDIA H100 SXM data sheet", ""),
    ("h200", 989, 141, "NVIDIA H200 SXM data sheet", ""),
    ("b200", 2250, 180, "NVIDIA HGX B200 data sheet", ""),
    ("b300", 2250, 288, "NVIDIA HGX B300 data sheet", ""),
    ("h100-pcie", 756, 80, "NVIDIA H100 PCIe data sheet", "h100 pcie"),
    ("h100-nvl", 835, 94, "NVIDIA H100 NVL data sheet", "h100 nvl"),
    ("gh200", 989, 96, "NVIDIA GH200 data sheet", ""),
    ("h20", 148, 96, "NVIDIA H20 data sheet", ""),
    ("l40s", 362, 48, "NVIDIA L40S data sheet", ""),
    ("l40", 181, 48, "NVIDIA L40 data sheet", ""),
    ("l4", 121, 24, "NVIDIA L4 data sheet", ""),
    ("a10", 125, 24, "NVIDIA A10 data sheet", ""),
    ("a10g", 70, 24, "NVIDIA A10G data sheet", ""),
    ("a40", 149.7, 48, "NVIDIA A40 data sheet", ""),
    ("rtx-a6000", 154.8, 48, "NVIDIA GA102 white paper", "rtx a6000"),
    ("rtx-6000-ada", 364.2, 48, "NVIDIA RTX 6000 Ada data sheet", "rtx 6000 ada"),
    # NVIDIA prints no such number for GA106: 112 tensor cores x 128 FLOP x 1.777 GHz, as in GA102.
    ("rtx-3060", 25.5, 12, "NVIDIA RTX 3060 cores and boost clock, GA102 white paper", "rtx 3060"),
    ("rtx-3090", 71, 24, "NVIDIA GA102 white paper", "rtx 3090"),
    ("rtx-4090", 165.2, 24, "NVIDIA Ada white paper", "rtx 4090"),
    ("rtx-5090", 209.5, 32, "NVIDIA RTX Blackwell white paper", "rtx 5090"),
    ("v100", 125, 32, "NVIDIA V100 SXM data sheet, fp16: it has no bf16", ""),
    ("t4", 65, 16, "NVIDIA T4 data sheet, fp16: it has no bf16", ""),
    ("mi250x", 383, 128, "AMD Instinct MI250X data sheet", ""),
    ("mi300x", 1300, 192, "AMD Instinct MI300X data sheet", ""),
    ("mi325x", 1300, 256, "AMD Instinct MI325X data sheet", ""),
    ("tpu-v5e", 197, 16, "Google Cloud TPU v5e documentation", "tpu v5e"),
    ("tpu-v5p", 459, 95, "Google Cloud TPU v5p documentation", "tpu v5p"),
    ("tpu-v6e", 918, 32, "Google Cloud TPU v6e documentation", "tpu v6e"),
)
"""Accelerators by name; peaks of consumer cards are with accumulation in fp32. Apple's chips are
missing, since Apple publishes no such number."""
WITHOUT_BF16 = ("v100", "t4")
_RUNPOD = "RunPod, read 2026-10-07"
RENTALS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "a100": (1.59, _RUNPOD),
        "h100": (3.49, _RUNPOD),
        "h200": (4.59, _RUNPOD),
        "b200": (6.79, _RUNPOD),
        "b300": (7.89, _RUNPOD),
        "h100-pcie": (2.89, "RunPod, read 2026-08-19"),
        "h100-nvl": (3.19, "RunPod, read 2026-08-19"),
        "a40": (0.44, "RunPod, read 2026-08-19"),
        "rtx-a6000": (0.82, "Verda, read 2026-10-29"),
        "rtx-3090": (0.18, "OpenRelay, read 2026-09-20"),
        "rtx-4090": (0.29, "OpenRelay, read 2026-09-20"),
    }
)
"""Dollars of one device for an hour, on demand, by name, and whose price it was. Prices of others
differ by factors: they stand in where a budget is in dollars and no price is given."""
MIG_SLICES = 7
"""Of a whole GPU; a part of it, `MIG 1g.10gb`, says how many it has."""
MIG = re.compile(r"\bmig ([1-7])g\.(\d+)gb\b")
"""The part of a GPU in a name, in lower case: its slices and its memory [GB]."""


def find_device(text: str) -> Device | None:
    """A device by its name as people write it: H100, RTX 4090, rtx4090, 4090, nvidia h100 sxm.

    Args:
        text: The name, as torch gives it or in any case; vendor, memory and a plural s say nothing.
            A part of a GPU is named as records name it, `h100 mig 1g.10gb`: it has its share of the
            peak.

    Returns:
        The device; None if it is not known.
    """
    part = MIG.search(text.lower())
    name = re.sub(rf"\b({_NO_NAME})\b", "", MIG.sub("", text.lower()))
    bare = re.sub(r"[^a-z0-9]", "", name).replace("a100pcie", "a100")  # both have one peak
    for known in (bare, bare.removesuffix("s")):  # l40s is no plural
        for prefix in ("", "rtx"):
            if device := _BARE_NAMES.get(prefix + known):
                return (
                    device
                    if part is None
                    else replace(
                        device,
                        name=f"{device.name} {part[0]}",
                        flops_per_second=device.flops_per_second * int(part[1]) / MIG_SLICES,
                        memory_bytes=1e9 * int(part[2]),
                    )
                )
    return None


_NO_NAME = r"nvidia|amd|google|tesla|geforce|instinct|generation|sxm\d?|hbm\d\w?|\d+\s?gb?"
"""Words of a device's name that do not tell which it is."""
_BARE_NAMES = {name.replace("-", ""): device for name, device in DEVICES.items()}


def device_peak(text: str | None) -> float | None:
    """Peak of the device that a record names, such as "NVIDIA H100 80GB HBM3"; None if unknown.

    A part of a GPU (MIG) has its share of the slices.
    """
    name = (text or "").lower()
    words = set(re.split(r"[^a-z0-9]+", name))
    fitting = [d for d in DEVICES.values() if d.words <= words]
    if not fitting:
        return None
    peak = max(fitting, key=lambda d: len(d.words)).flops_per_second
    part = MIG.search(name)
    return peak * int(part[1]) / MIG_SLICES if part else peak
