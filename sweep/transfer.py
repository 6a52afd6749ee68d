"""How one recipe is carried to every width and depth, so that a law is about size, not tuning.

Width: the rate of hidden matrices goes as 1/width (Yang et al. 2022, arXiv:2203.03466), that of the
embedding by a measured power. Depth: `none`, or CompleteP (Dey et al. 2025, arXiv:2505.01618, table
1 with alpha = 1): residual branches times base_depth / depth and no change of rates, with the
paper's rules for weight decay and Adam's epsilon, which hold across widths too.
"""

from __future__ import annotations

from dataclasses import dataclass

from fit.accounting import Shape
from sweep.config import DepthRule, TrainConfig

EPSILON = 1e-10
"""Of Adam, at the base shape: far below the gradients' own size at any shape tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The recipe at one shape."""

    lr: float
    """Peak rate of the hidden matrices."""
    embedding_lr: float
    weight_decay: float
    """Of the hidden matrices."""
    hidden_epsilon: float
    """Adam's, for what lies in the blocks."""
    epsilon: float
    """Adam's elsewhere."""
    residual: float
    """Factor of every residual branch."""


def scaled(train: TrainConfig, shape: Shape) -> Scaled:
    """The recipe's rates, decay, epsilons and residual factor at a shape."""
    narrower = train.base_width / shape.width
    lr, embedding_lr = train.lr * narrower, train.embedding_lr * narrower**train.embedding_lr_power
    if train.depth_rule is DepthRule.none:
        return Scaled(
            lr=lr,
            embedding_lr=embedding_lr,
            weight_decay=train.weight_decay,
            hidden_epsilon=EPSILON,
            epsilon=EPSILON,
            residual=1.0,
        )
    shallower = train.base_depth / shape.depth
    return Scaled(
        lr=lr,
        embedding_lr=embedding_lr,
        weight_decay=train.weight_decay / narrower,
        hidden_epsilon=EPSILON * narrower * shallower,
        epsilon=EPSILON * narrower,
        residual=shallower,
    )
