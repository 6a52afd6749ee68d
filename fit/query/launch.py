"""From N* and a budget to a run that `python -m sweep` can launch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.allocation.ladder import Ladder
from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import Shape, count_params
from fit.query.constrained import Task, tokens_of
from fit.results import Fit

STEADY = 0.01
"""Columns that vary by less than this in ln are one value."""
_PLAIN = re.compile(r"[\w./:+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """A trainable shape near N*, and how the fitted runs' recipe trains it."""

    shape: Shape
    params: float
    tokens: float
    """What the budget buys at this shape, counted exactly."""
    lr: float | None
    batch_tokens: int | None
    config: tuple[str, ...]


def launch_config_near(
    ladder: Ladder | None, fit: Fit | None, params: float, flops: float
) -> LaunchConfig | None:
    """The rung nearest to N*; None where the fitted runs' shapes are not known."""
    if ladder is None or fit is None:
        return None
    shape = ladder.launchable(params)
    return _rung(ladder, fit, shape, flops / ladder.count(shape)[1])


def launch_config_within(source: ScalingLaw, task: Task) -> LaunchConfig | None:
    """The rung nearest to the answer's N that the limits allow; None where there is none."""
    ladder, fit = source.ladder, source.fit
    if ladder is None or fit is None:
        return None

    def tokens(shape: Shape) -> float | None:
        return tokens_of(task, *ladder.count(shape), stored=count_params(shape).total)

    shape = ladder.nearest(task.place.params, lambda shape: tokens(shape) is not None)
    found = None if shape is None else tokens(shape)
    if shape is None or found is None:
        return None
    return _rung(ladder, fit, shape, found, source.law.held.get("unique_tokens"))


def _rung(
    ladder: Ladder, fit: Fit, shape: Shape, tokens: float, unique: float | None = None
) -> LaunchConfig:
    """A shape on tokens, with the recipe's rules."""
    n, _ = ladder.count(shape)
    return LaunchConfig(
        shape=shape,
        params=float(n),
        tokens=tokens,
        lr=learning_rate(fit, shape.width),
        batch_tokens=batch_tokens(fit, tokens),
        config=overrides(fit, shape, tokens, unique),
    )


def learning_rate(fit: Fit, width: int) -> float | None:
    """Peak rate of the hidden matrices, proportional to 1/width in the recipe.

    Runs without a recipe decide by their columns: one rate, or one rate times width.
    """
    base, at = fit.recipe.get("train.lr"), fit.recipe.get("train.base_width")
    if base is not None and at is not None:
        return float(base) * float(at) / width
    lr, widths = fit.points.columns.get("lr"), fit.points.columns.get("width")
    if lr is None or not np.all(lr > 0):
        return None
    if np.ptp(np.log(lr)) < STEADY:
        return float(np.median(lr))
    if widths is not None and np.ptp(np.log(lr * widths)) < STEADY:
        return float(np.median(lr * widths)) / width
    return None


def batch_tokens(fit: Fit, tokens: float) -> int | None:
    """Tokens per step at the end of a run: the recipe's rule, else the fitted run nearest in D."""
    first = fit.recipe.get("train.batch_tokens")
    if first is not None:
        doublings = fit.recipe.get("train.batch_doublings") or ()
        return int(first) << sum(tokens > float(d) for d in doublings)
    column = fit.points.columns.get("batch_tokens")
    if column is None or np.isnan(column).any():
        return None
    return int(column[np.argmin(np.abs(np.log(fit.points.tokens / tokens)))])


def overrides(
    fit: Fit, shape: Shape, tokens: float, unique: float | None = None
) -> tuple[str, ...]:
    """Overrides of `python -m sweep`: shape and length first, then the settings all runs shared.

    Unique tokens, where the question says how many there are, take the place of the runs' own.
    """
    chosen: dict[str, Any] = {
        "model.width": shape.width,
        "model.depth": shape.depth,
        "model.heads": shape.heads,
        "model.head_dim": shape.head_dim,
        "train.tokens": round(tokens),
    }
    if unique is not None:
        chosen["data.unique_tokens"] = round(unique)
    kept = {k: v for k, v in fit.recipe.items() if k not in (*chosen, "sweep.flops")}
    groups = [k for k in kept if "." not in k]
    ordered = {**{k: kept.pop(k) for k in groups}, **chosen, **kept}
    return tuple(f"{k}={hydra_value(v)}" for k, v in ordered.items())


def hydra_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value!r}"
        case str() if _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false"):
            return value
        case str():
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{escaped}'"
        case Sequence():
            return f"[{','.join(hydra_value(v) for v in value)}]"
    return str(value)
