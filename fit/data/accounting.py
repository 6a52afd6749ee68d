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

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Tokens in the vocabulary."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamCounts:
    """Parameters per group."""

    body: int
    """Matrices in the blocks that a token uses; of a mixture, the router and top_k experts."""
    head: int
    """The output head, vocab x width, counted once whether tied or not."""
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
    per_block = 4 * d * inner + chosen * mlp + shape.experts * d
    return ParamCounts(
        body=shape.depth * per_block,
        head=shape.vocab * d,
        embedding=0 if shape.tied else shape.vocab * d,
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


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Device(
                name="a100",
                flops_per_second=312e12,
                memory_bytes=80e9,
                source="NVIDIA A100 80GB data sheet",
            ),
            Device(
                name="h100",
                flops_per_second=989e12,
                memory_bytes=80e9,
                source="NVIDIA H100 SXM data sheet",
            ),
            Device(
                name="h200",
                flops_per_second=989e12,
                memory_bytes=141e9,
                source="NVIDIA H200 SXM data sheet",
            ),
            Device(
                name="b200",
                flops_per_second=2.25e15,
                memory_bytes=180e9,
                source="NVIDIA HGX B200 data sheet",
            ),
            Device(
                name="mi300x",
                flops_per_second=1.3e15,
                memory_bytes=192e9,
                source="AMD Instinct MI300X data sheet",
            ),
            Device(
                name="tpu-v5p",
                flops_per_second=459e12,
                memory_bytes=95e9,
                source="Google Cloud TPU v5p documentation",
            ),
        )
    }
)
"""Accelerators by name."""


def device_peak(text: str | None) -> float | None:
    """Peak of the device that a record names, such as "NVIDIA H100 80GB HBM3"; None if unknown."""
    name = (text or "").lower()
    return next((d.flops_per_second for key, d in DEVICES.items() if key in name), None)
