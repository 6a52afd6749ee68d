"""Shapes of models: from a width and a depth, or from a number of parameters.

`build_shape` derives a shape from its settings. `choose_shape` turns `model.params=10M` into the
settings of the nearest shape of the ladder: the widths of `conf/model` and those between and beyond
them, at 32 units of width per block. Sizes are counted as N is by default, in matmul parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from fit.data.accounting import MLPS, Shape, count_params
from fit.errors import PlanError
from fit.quantities import short
from sweep.config import Config, ModelConfig

DEFAULT_SHAPE = (64, 2, None, 16)
"""Width, depth, heads and head size of the root configuration, `model=w64`."""
SHAPE_KEYS = ("model", "model.width", "model.depth", "model.heads", "model.head_dim", "aspect")
"""Overrides that set a shape."""
WIDTH_PER_BLOCK = 32
LARGEST_WIDTH = 1 << 16
FARTHEST = 0.35
"""Largest difference in ln N between what was asked for and the nearest shape."""


def build_shape(model: ModelConfig, vocab: int) -> Shape:
    """Derive the model's shape from its settings.

    Raises:
        PlanError: The width is not a whole number of heads, the head size is odd, heads of keys and
            values cannot be shared equally, or a plain MLP is to be gated.
    """
    heads = model.heads
    if model.head_dim % 2:
        raise PlanError(f"model.head_dim={model.head_dim}; rotary positions need an even number.")
    if heads is None:
        heads, rest = divmod(model.width, model.head_dim)
        if rest or not heads:
            raise PlanError(
                f"model.width={model.width} is not a multiple of model.head_dim={model.head_dim}; "
                "choose a width that is, or set model.heads."
            )
    gated, activation = MLPS[model.mlp or ("swiglu" if model.gated else "relu2")]
    if model.gated and not gated:
        raise PlanError(f"model.mlp={model.mlp} is not gated, and model.gated=true; leave one out.")
    return Shape(
        width=model.width,
        depth=model.depth,
        heads=heads,
        head_dim=model.head_dim,
        d_ff=max(1, round(model.mlp_ratio * model.width)),
        vocab=vocab,
        seq_len=model.seq_len,
        gated=gated,
        tied=model.tied,
        conv=model.conv,
        experts=model.experts,
        top_k=model.top_k if model.experts else 0,
        kv_heads=model.kv_heads,
        activation=activation,
        pad_vocab_to=model.pad_vocab_to if model.pad_vocab_to and vocab % model.pad_vocab_to else 0,
        rope_base=model.rope_base,
    )


def choose_shape(config: Config, vocab: int) -> Config:
    """The configuration with the shape that `model.params` asks for; as it is without it.

    Args:
        config: A checked configuration.
        vocab: Vocabulary of the data, which the head's parameters depend on.

    Raises:
        PlanError: A shape is set as well, or the ladder has none near the size.
    """
    model, params = config.model, config.model.params
    if params is None:
        return config
    if (model.width, model.depth, model.heads, model.head_dim) != DEFAULT_SHAPE:
        raise shape_conflict(params, "the model's width, depth, heads or head size")
    ladder = _ladder(model, params, vocab)
    _, best = min(ladder, key=lambda rung: rung[0], default=(0.0, None))
    if best is None:
        raise PlanError(
            f"no shape of the ladder has heads that model.kv_heads={model.kv_heads} divides; take "
            "a smaller one."
        )
    n = count_params(build_shape(best, vocab)).matmul
    if abs(math.log(n / params)) > FARTHEST:
        raise PlanError(
            f"model.params={params} is beyond the ladder of shapes: the nearest, width "
            f"{best.width} and depth {best.depth}, has {short(n)} matmul parameters with "
            f"{vocab} tokens of vocabulary. Set model.width and model.depth."
        )
    return dataclasses.replace(config, model=best)


def check_shape_overrides(overrides: Sequence[str]) -> None:
    """Refuse a size in parameters beside an override that sets a shape.

    Raises:
        PlanError: Both are there.
    """
    values = dict(o.lstrip("+").partition("=")[::2] for o in overrides)
    params = values.get("model.params", "null")
    shaping = [f"{key}={values[key]}" for key in SHAPE_KEYS if key in values]
    if params != "null" and shaping:
        raise shape_conflict(params, " and ".join(shaping))


def shape_conflict(params: object, shaping: str) -> PlanError:
    """The refusal of a size in parameters and a shape together."""
    return PlanError(
        f"model.params={params} chooses the shape, and {shaping} is set as well; leave one out."
    )


def _ladder(model: ModelConfig, params: int, vocab: int) -> Iterator[tuple[float, ModelConfig]]:
    """Shapes around a size, with their distance from it.

    A difference in ln N counts ten times more than one in ln depth, as for the shape of an answer.
    """
    for width in _widths():
        ideal = max(2, round(width / WIDTH_PER_BLOCK))
        for depth in range(max(2, math.ceil(0.75 * ideal)), math.floor(1.34 * ideal) + 1):
            head_dim = _head_dim(width)
            if model.kv_heads and (width // head_dim) % model.kv_heads:
                break  # its queries could not share the keys equally
            rung = dataclasses.replace(
                model, params=None, width=width, depth=depth, head_dim=head_dim
            )
            ratio = count_params(build_shape(rung, vocab)).matmul / params
            yield abs(math.log(ratio)) + 0.1 * abs(math.log(depth / ideal)), rung
            if ratio > 2:  # deeper ones are further away
                break


def _widths() -> Iterator[int]:
    """Widths of the ladder, ascending."""
    yield from (16, 24, *range(32, 96, 16), *range(96, 256, 32))
    yield from range(256, LARGEST_WIDTH + 1, 64)


def _head_dim(width: int) -> int:
    """Head size at a width."""
    if width < 96:
        return 24 if width == 24 else 16
    return 32 if width < 256 else 64
