"""Runs that could be made: sizes and lengths within limits, and what each costs.

A run costs its size times its length. Where runs of one shape are branches of one trunk, the trunk
is paid once: a branch of D tokens costs its cooldown and whatever the trunk must grow by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.accounting import Shape
from fit.errors import PlanError
from fit.ladder import LARGEST_WIDTH, Cost, Ladder
from fit.quantity import power, short
from fit.record import Floats
from fit.result import Span

SIZES = 40
"""Sizes at most, evenly spaced in ln N: with 24 the interval of ln N* is 4% wider."""
LENGTHS_A_DECADE = 8
"""Lengths between the ends of a size stand on one geometric grid; 12 a decade gain under 1%."""
WIDTHS_AN_OCTAVE = 8
"""Widths from 8 heads on: every one that the head size allows below that."""
ROOM = 1e-9
"""Relative slack of a limit, against rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may be; every range holds its ends."""

    params: Span
    tokens: Span
    flops: Span
    """Of one run, as if it had no trunk to share [FLOP]."""
    ratio: Span
    """Tokens per parameter."""
    widths: tuple[int, ...] = ()
    """Widths allowed; empty for all that the ladder of shapes has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Runs to choose among; every array of shape (k,)."""

    params: Floats
    tokens: Floats
    flops_per_token: Floats
    size: NDArray[np.int64]
    """Code of the size: runs of one size and one seed can share a trunk."""
    shapes: tuple[Shape, ...] = ()
    """Shape of each size; empty where sizes are plain numbers."""
    cooldown: float = 1.0
    """Share of a run that is its own; 1 where no trunk is shared."""

    @property
    def flops(self) -> Floats:
        """Cost of each run on its own [FLOP]."""
        return np.asarray(self.flops_per_token * self.tokens)

    @property
    def shares_trunks(self) -> bool:
        """Whether runs of one size and seed are branches of one trunk."""
        return self.cooldown < 1

    def __len__(self) -> int:
        return len(self.params)


def on_ladder(ladder: Ladder, limits: Limits, *, cooldown: float) -> Candidates:
    """Trainable shapes of a ladder at lengths within limits.

    Args:
        ladder: Shapes of the fitted runs, and those that continue them.
        limits: What a run may be.
        cooldown: Share of a run that is its own; 1 where no trunk is shared.

    Raises:
        PlanError: No shape and length lies within the limits.
    """
    shapes = list(dict.fromkeys(_rungs(ladder, limits)))
    counts = np.array([ladder.count(s) for s in shapes], dtype=np.float64).reshape(-1, 2)
    size, tokens = _lengths(counts[:, 0], counts[:, 1], limits)
    return Candidates(
        params=counts[size, 0],
        tokens=tokens,
        flops_per_token=counts[size, 1],
        size=size,
        shapes=tuple(shapes),
        cooldown=cooldown,
    )


def plain(cost: Cost, limits: Limits) -> Candidates:
    """Sizes as plain numbers at lengths within limits, every run on its own.

    Raises:
        PlanError: No size and length lies within the limits.
    """
    low = max(limits.params.low, math.sqrt(limits.flops.low / (8 * limits.ratio.high)))
    high = min(limits.params.high, math.sqrt(limits.flops.high / (4 * limits.ratio.low)))
    params = np.geomspace(low, max(low, high), SIZES)
    per_token = np.exp(cost.log_flops_per_token(np.log(params)))
    size, tokens = _lengths(params, per_token, limits)
    return Candidates(
        params=params[size], tokens=tokens, flops_per_token=per_token[size], size=size
    )


def spent(candidates: Candidates, chosen: NDArray[np.int64], trunk: NDArray[np.int64]) -> Floats:
    """What each chosen run adds to the bill, trunks paid once [FLOP].

    Args:
        candidates: Runs to choose among.
        chosen: Index of each chosen run, (m,).
        trunk: Code of each chosen run's trunk, (m,).

    Returns:
        (m,), as `flops_spent` of the run's record: its cooldown and its own stretch of the trunk.
    """
    tokens, f = candidates.tokens[chosen], candidates.cooldown
    own = np.zeros(len(chosen))
    top: dict[int, float] = {}
    for i in np.argsort(tokens, kind="stable"):
        below = top.get(int(trunk[i]), 0.0)
        own[i] = f * tokens[i] + (1 - f) * (tokens[i] - below)
        if candidates.shares_trunks:
            top[int(trunk[i])] = float(tokens[i])
    return np.asarray(own * candidates.flops_per_token[chosen])


def _rungs(ladder: Ladder, limits: Limits) -> list[Shape]:
    """Shapes of the ladder whose N is allowed, thinned to a number that can be searched."""
    lowest = limits.params.low * (1 - ROOM)
    highest = min(limits.params.high, math.sqrt(limits.flops.high / (4 * limits.ratio.low)))
    head_dim = ladder.template.head_dim
    found, width = [], head_dim
    while not limits.widths:
        shape = _rung(ladder, width)
        n, _ = ladder.count(shape)
        if n > highest * (1 + ROOM) or width > LARGEST_WIDTH:
            break
        found.append(shape)
        width += head_dim * max(1, width // (head_dim * WIDTHS_AN_OCTAVE))
    found += [_rung(ladder, w) for w in limits.widths]
    inside = [s for s in found if lowest <= ladder.count(s)[0] <= highest * (1 + ROOM)]
    keep = np.unique(np.linspace(0, len(inside) - 1, min(SIZES, len(inside))).round().astype(int))
    return [inside[i] for i in keep]


def _rung(ladder: Ladder, width: int) -> Shape:
    """The ladder's shape at a width."""
    return ladder.shape(width, max(1, round(ladder.depth(width))))


def _lengths(params: Floats, per_token: Floats, limits: Limits) -> tuple[NDArray[np.int64], Floats]:
    """Every size with every length of the grid that the limits allow: codes and tokens."""
    lows = np.maximum(limits.tokens.low, np.maximum(limits.ratio.low * params, 1.0))
    lows = np.maximum(lows, limits.flops.low / per_token)
    highs = np.minimum(limits.tokens.high, limits.ratio.high * params)
    highs = np.minimum(highs, limits.flops.high / per_token)
    sizes, tokens = [], []
    for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
        for d in _grid(low, high):
            sizes.append(i)
            tokens.append(d)
    if not tokens:
        raise PlanError(
            f"no run of at least {short(limits.params.low)} parameters and "
            f"{short(limits.tokens.low)} tokens costs {power(limits.flops.low)} to "
            f"{power(limits.flops.high)} FLOP at {limits.ratio.low:.3g} to "
            f"{limits.ratio.high:.3g} tokens per parameter. Spend more, or widen the limits "
            "(--max-run, --ratio, --params, --widths)."
        )
    return np.array(sizes, dtype=np.int64), np.array(tokens)


def _grid(low: float, high: float) -> list[float]:
    """Lengths of the common grid between two ends, in two digits, and the ends themselves."""
    if not low <= high * (1 + ROOM):
        return []
    first, last = (math.floor(LENGTHS_A_DECADE * math.log10(end)) for end in (low, high))
    grid = (10 ** (i / LENGTHS_A_DECADE) for i in range(first + 1, last + 1))
    rounded = (float(f"{d:.1e}") for d in grid)
    apart = 10 ** (0.5 / LENGTHS_A_DECADE)
    return sorted({low, *(d for d in rounded if low * apart < d < high / apart), high})
