"""Whether an answer may be launched, and the overrides of `python -m sweep` that launch it.

`launch_refusal` is the one rule, whoever asks: terminal, HTTP, page, Python or an export.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.allocation.allocate import MOST_LOG, tokens_needed
from fit.allocation.costs import TRAINING_OVER_SERVING
from fit.allocation.ladder import Ladder
from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import Shape, count_params
from fit.data.schedule import BatchRule, whole_recipe
from fit.query.constraints import TOUCH, ConstrainedProblem
from fit.query.question import BYTES_PER_PARAM, Question
from fit.results import Fit
from fit.verdict import Note

STEADY = 0.01
"""Columns of the runs that vary by less than this in ln are taken as one value."""
CONFIG_FILE = "launch.txt"
"""File in the working folder that `launch_line` writes."""
_PLAIN = re.compile(r"[\w./:+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """A trainable shape near N*, and how the fitted runs' recipe trains it."""

    shape: Shape
    params: float
    tokens: float
    """Tokens that the budget pays for at this shape, counted exactly."""
    lr: float | None
    batch_tokens: int | None
    config: tuple[str, ...]


def launch_config(
    question: Question,
    source: ScalingLaw,
    problem: ConstrainedProblem,
    params: float,
    flops: float,
) -> LaunchConfig | None:
    """The shape of the ladder nearest to N* that the limits allow, trained by the runs' recipe.

    Args:
        question: The question.
        source: Its law, with the unique tokens fixed where it has them.
        problem: Its limits.
        params: N of the answer.
        flops: Its budget [FLOP], for training and serving.

    Returns:
        None where the shapes of the fitted runs are not recorded, or no shape is allowed.
    """
    ladder, fit = source.ladder, source.fit
    if ladder is None or fit is None:
        return None

    def tokens(shape: Shape) -> float | None:
        return shape_tokens(question, source, problem, ladder, shape, flops)

    shape = ladder.nearest(params, lambda shape: tokens(shape) is not None)
    length = None if shape is None else tokens(shape)
    if shape is None or length is None:
        return None
    return LaunchConfig(
        shape=shape,
        params=float(ladder.count(shape)[0]),
        tokens=length,
        lr=learning_rate(fit, shape.width),
        batch_tokens=batch_tokens(fit, length),
        config=overrides(fit, shape, length, source.law.held.get("unique_tokens")),
    )


def shape_tokens(
    question: Question,
    source: ScalingLaw,
    problem: ConstrainedProblem,
    ladder: Ladder,
    shape: Shape,
    flops: float,
) -> float | None:
    """Training tokens of a shape by its exact counts; None where it is outside the limits.

    As many as budget and limits allow, or as few as reach the loss. The shape need not have exactly
    the parameters that a question fixes: the nearest on the ladder is meant.
    """
    params, flops_per_token = ladder.count(shape)
    memory = question.memory
    stored = count_params(shape).total
    if memory is not None and stored > memory / (question.bytes_per_param or BYTES_PER_PARAM):
        return None
    limits = tuple(v for v in problem.limits if v.name not in ("params", "memory"))
    rest, x = dataclasses.replace(problem, limits=limits), np.array([math.log(params)])
    low, high = rest.sizes()
    if not low - TOUCH <= x[0] <= high + TOUCH:
        return None
    floor, ceiling = float(rest.floor(x)[0]), float(rest.ceiling(x)[0])
    if question.loss is None:
        affordable = flops / flops_per_token - rest.served / TRAINING_OVER_SERVING
        tokens = min(max(affordable, 1e-300), math.exp(min(ceiling, MOST_LOG)))
    else:
        target = np.array([math.log(question.loss)])
        needed = float(tokens_needed(rest.law, source.theta[None], x, target)[0])
        tokens = math.exp(min(max(needed, floor), MOST_LOG))
    inside = floor - TOUCH <= math.log(tokens) <= ceiling + TOUCH
    return tokens if inside and math.log(tokens) < MOST_LOG else None


def launch_refusal(config: LaunchConfig | None, warnings: Sequence[Note]) -> str | None:
    """Why an answer cannot be launched or exported; None where it can.

    An answer whose verdict is `refuse` exists only where the question insists, so that it may be
    launched.

    Args:
        config: The run that would be launched; None without a shape.
        warnings: Warnings of the answer.
    """
    if config is not None:
        return None
    no_shape = [note.message for note in warnings if note.code == "no_shape"]
    if no_shape:
        return f"not launched: {no_shape[0]}"
    return "this law has no shapes to launch; overrides need a fit of isoflop's own run records."


def launch_line(query: str) -> str:
    """A shell line that launches the answer of an `isoflop query` command.

    The overrides go through a file: a refusal ends the line with its own message and exit status,
    where a pipe would end in the status of its last command, and `$(...)` would launch the default
    run. It works alike in sh, bash and zsh.
    """
    return f"{query} --config > {CONFIG_FILE} && xargs python -m sweep < {CONFIG_FILE}"


def learning_rate(fit: Fit, width: int) -> float | None:
    """Peak learning rate of the hidden matrices, proportional to 1/width in the recipe.

    Without a recipe the columns of the runs decide: one rate for all, or one rate times width.
    """
    if fit.recipe.get("train.optimizer") == "muon":
        return float(fit.recipe["train.muon_lr"])
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
    rule = BatchRule.from_recipe(fit.recipe)
    if rule is not None:
        return rule.batch(max(0, round(tokens) - 1))
    column = fit.points.columns.get("batch_tokens")
    if column is None or np.isnan(column).any():
        return None
    return int(column[np.argmin(np.abs(np.log(fit.points.tokens / tokens)))])


def overrides(
    fit: Fit, shape: Shape, tokens: float, unique: float | None = None
) -> tuple[str, ...]:
    """Overrides of `python -m sweep`: shape and length first, then the settings all runs shared.

    Unique tokens of the question replace those of the runs.
    """
    chosen: dict[str, Any] = {
        "model.width": shape.width,
        "model.depth": shape.depth,
        "model.heads": shape.heads,
        "model.head_dim": shape.head_dim,
        "train.tokens": round(tokens),
    }
    if shape.kv_heads is not None:
        chosen["model.kv_heads"] = shape.kv_heads
    if unique is not None:
        chosen["data.unique_tokens"] = round(unique)
    recipe = whole_recipe(fit.recipe)
    shared = {k: v for k, v in recipe.items() if k not in (*chosen, "sweep.flops")}
    groups = [k for k in shared if "." not in k]
    ordered = {**{k: shared.pop(k) for k in groups}, **chosen, **shared}
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
        case Mapping():
            return f"{{{','.join(f'{k}:{hydra_value(v)}' for k, v in value.items())}}}"
    return str(value)
