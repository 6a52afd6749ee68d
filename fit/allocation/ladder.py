"""The ladder of shapes behind a fit, and the FLOP of a token as a function of N.

A law is a function of N and D, a budget is in FLOP. The shape connects the two: with exact counting
a token costs more than 6 N FLOP, because of attention, and by how much depends on width, depth and
context. The ladder continues the fitted shapes: depth as in the runs inside their range of widths,
width / depth of the largest run beyond it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fit.data.accounting import (
    CACHED_SHAPES,
    FLOPS_PER_PARAM_TOKEN,
    MLPS,
    ROPE_BASE,
    Shape,
    count_flops,
    count_params,
    flops_per_token_in,
    params_in,
)
from fit.data.records import Floats
from fit.errors import PlanError
from fit.results import Fit, Points

GRID_STEP = 0.1
"""Spacing of the cost table in ln N."""
SMOOTHING = 0.25
"""Width in ln N of the kernel over the cost table. The ladder has a kink where the runs end, at
which N* would stay over a range of budgets; the smoothing moves the cost by less than 0.3% and
makes its slope continuous."""
MARGIN = 2.0
"""How far in ln N the trend of the cost continues beyond a table, before it stays constant."""
LARGEST_WIDTH = 1 << 20
CACHED_LADDERS = 64
STRAIGHT = 0.02
"""Tables whose C / (N D) varies by less than this in ln are taken as C = k N D."""


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """FLOP per trained token as a smooth function of N."""

    start: float
    """ln N of the first knot."""
    step: float
    log_ratio: Floats
    """ln(FLOP per token / N) at equally spaced ln N; constant beyond either end."""

    @property
    def constant(self) -> float | None:
        """The k of C = k N D where that holds throughout, else None."""
        return float(np.exp(self.log_ratio[0])) if len(self.log_ratio) == 1 else None

    @cached_property
    def _cells(self) -> Floats:
        """Of each cell the ratio at its left end, its rise and the slopes at both ends less that.

        Slopes are per step, and none at the ends of the table.
        """
        slope, rise = np.gradient(self.log_ratio), np.diff(self.log_ratio)
        slope[[0, -1]] = 0.0
        return np.stack([self.log_ratio[:-1], rise, slope[:-1] - rise, slope[1:] - rise])

    def log_flops_per_token(self, log_params: Floats) -> Floats:
        """Natural logarithm of the FLOP per token at ln N, by cubic Hermite interpolation."""
        if len(self.log_ratio) == 1:
            return np.asarray(log_params + self.log_ratio[0])
        last = len(self.log_ratio) - 1
        u = np.minimum(np.maximum((log_params - self.start) / self.step, 0), last)
        i = np.minimum(u.astype(np.int64), last - 1)
        t = u - i
        rest = 1 - t
        left, rise, one, two = self._cells[:, i]
        return np.asarray(log_params + left + t * rise + t * rest * (rest * one - t * two))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ladder:
    """One shape for every width, by the rules of the fitted runs."""

    template: Shape
    """The largest run's shape; every shape has its other fields."""
    mlp_ratio: float
    widths: Floats
    """Widths of the runs, ascending."""
    depths: Floats
    """Depth at each."""
    convention: Mapping[str, str]
    queries_per_key: int = 0
    """Queries that share a head of keys and values at every size; 0: as many such heads at every
    size as the template has."""
    trained: tuple[Shape, ...] = ()
    """Shapes of the runs, which may divide their width into heads of another size."""

    @property
    def width_step(self) -> int:
        """Widths are multiples of it: whole heads, which share keys and values equally."""
        return self.template.head_dim * self._heads_step

    @property
    def _heads_step(self) -> int:
        """Heads are a multiple of it."""
        return self.queries_per_key or self.template.kv_heads or 1

    def depth(self, width: float) -> float:
        """Depth on the ladder, a real number."""
        if width >= self.widths[-1]:
            return float(width * self.depths[-1] / self.widths[-1])
        return float(np.exp(np.interp(np.log(width), np.log(self.widths), np.log(self.depths))))

    def shape(self, width: int, depth: int) -> Shape:
        """The shape of a width and a depth."""
        old = self.template
        inner = width * old.heads * old.head_dim / old.width
        step = self._heads_step
        heads = max(1, round(inner / old.head_dim / step)) * step
        return Shape(
            width=width,
            depth=depth,
            heads=heads,
            head_dim=old.head_dim,
            d_ff=max(1, round(self.mlp_ratio * width)),
            vocab=old.vocab,
            seq_len=old.seq_len,
            gated=old.gated,
            tied=old.tied,
            conv=old.conv,
            experts=old.experts,
            top_k=old.top_k,
            kv_heads=heads // self.queries_per_key if self.queries_per_key else old.kv_heads,
            activation=old.activation,
            pad_vocab_to=old.pad_vocab_to,
            rope_base=old.rope_base,
        )

    def count(self, shape: Shape) -> tuple[int, int]:
        """N and FLOP per token of a shape in the fit's conventions."""
        n = params_in(self.convention["params"], count_params(shape))
        return n, flops_per_token_in(self.convention["flops"], flops=count_flops(shape), params=n)

    def cost(self, convention: Mapping[str, str] | None = None) -> TokenCost:
        """FLOP per token along the ladder as a function of N in the fit's own convention.

        Args:
            convention: How the FLOP are counted, for `6nd` of which `params`; as the fit does
                where None.
        """
        count = self.count
        if convention is not None:
            other = dataclasses.replace(self, convention=convention)

            def count(shape: Shape) -> tuple[int, int]:
                return self.count(shape)[0], other.count(shape)[1]

        log_params, log_flops = np.log(self.along(count)).T
        return smooth_cost(log_params, log_flops - log_params)

    def along(self, counted: Callable[[Shape], tuple[int, int]]) -> Floats:
        """Two counts of its shapes, ascending, (shapes, 2); counts are linear in a real depth."""
        step = self.width_step
        widths = np.unique(np.geomspace(1, LARGEST_WIDTH // step, 150).astype(int)) * step
        counts = np.empty((len(widths), 2))
        for row, width in enumerate(widths):
            one, two = (np.array(counted(self.shape(int(width), d)), float) for d in (1, 2))
            counts[row] = one + (self.depth(width) - 1) * (two - one)
        return counts

    def nearest(
        self, params: float, allowed: Callable[[Shape], bool] = lambda shape: True
    ) -> Shape | None:
        """The trainable shape on the ladder whose N is nearest; None where none near N is allowed.

        Its width is a multiple of a head's, or it is the shape of a run.

        Of the two depths around that of the ladder, a difference in ln N counts ten times more than
        one in ln depth.
        """
        best, least = None, np.inf
        for width in self._near_widths(params):
            ideal = self.depth(width)
            for depth in {max(1, int(ideal)), max(1, int(ideal) + 1)}:
                shape, n = _rung(self, width, depth)
                distance = abs(math.log(n / params)) + 0.1 * abs(math.log(depth / ideal))
                if distance < least and allowed(shape):
                    best, least = shape, distance
        for shape, n in _trained(self):
            distance = abs(math.log(n / params))
            if distance < least and allowed(shape):
                best, least = shape, distance
        return best

    def _near_widths(self, params: float) -> range:
        """Widths whose N lies around a size."""
        step = self.width_step
        low, high = 1, LARGEST_WIDTH // step
        while high - low > 1:
            middle = (low + high) // 2
            below = _ladder_params(self, middle * step) < params
            low, high = (middle, high) if below else (low, middle)
        return range(max(1, low - 3) * step, (high + 4) * step, step)


@lru_cache(CACHED_SHAPES)
def _rung(ladder: Ladder, width: int, depth: int) -> tuple[Shape, int]:
    """A shape of a ladder and its N."""
    shape = ladder.shape(width, depth)
    return shape, ladder.count(shape)[0]


@lru_cache(CACHED_SHAPES)
def _ladder_params(ladder: Ladder, width: int) -> int:
    """N of a ladder's shape of a width."""
    return _rung(ladder, width, max(1, round(ladder.depth(width))))[1]


@lru_cache(CACHED_LADDERS)
def _trained(ladder: Ladder) -> list[tuple[Shape, int]]:
    """Shapes of the runs of a ladder, and the N of each."""
    return [(shape, ladder.count(shape)[0]) for shape in ladder.trained]


def smooth_cost(log_params: Floats, log_ratio: Floats) -> TokenCost:
    """A cost table from ln(FLOP per token / N) at ascending ln N."""
    grid = np.arange(log_params[0], log_params[-1] + GRID_STEP, GRID_STEP)
    values = np.interp(grid, log_params, log_ratio)
    reach = int(4 * SMOOTHING / GRID_STEP)
    margin = int(MARGIN / GRID_STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * GRID_STEP / SMOOTHING) ** 2)
    padded = np.pad(values, reach + margin, mode="reflect", reflect_type="odd")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return TokenCost(start=float(grid[0]) - margin * GRID_STEP, step=GRID_STEP, log_ratio=smooth)


def constant_cost(flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> TokenCost:
    """C = k N D."""
    return TokenCost(start=0.0, step=1.0, log_ratio=np.log([flops_per_param_token]))


def token_cost(fit: Fit, ladder: Ladder | None) -> TokenCost:
    """FLOP per token in the convention of a fit, as a function of N.

    With a ladder it is counted from the shapes. Without one, as for a plain table of runs, it is
    N times C / (N D) of the runs: constant, or linear in ln N inside their range and constant
    beyond.
    """
    if fit.convention.get("flops") == "6nd":
        return constant_cost()
    if ladder is not None:
        return ladder.cost()
    p = fit.points
    log_params, ratio = np.log(p.params), np.log(p.flops / (p.params * p.tokens))
    if np.ptp(ratio) < STRAIGHT or np.ptp(log_params) == 0:
        return constant_cost(float(np.exp(np.median(ratio))))
    slope, level = np.polyfit(log_params, ratio, 1)
    ends = np.array([log_params.min(), log_params.max()])
    return smooth_cost(ends, slope * ends + level)


def ladder_of(fit: Fit) -> Ladder | None:
    """The ladder of the fitted runs; None where their shapes are not recorded in full.

    It is used only if it reproduces the N of every run to 0.5%.
    """
    p = fit.points
    needed = ("width", "depth", "heads", "head_dim", "vocab", "seq_len")
    ratio = fit.recipe.get("model.mlp_ratio")
    if "model._target_" in fit.recipe:
        return None  # shapes of a model of the user's own are not counted here
    if ratio is None or any(c not in p.columns or np.isnan(p.columns[c]).any() for c in needed):
        return None
    queries_per_key = _queries_per_key(p)
    if queries_per_key is None:
        return None
    largest = int(np.argmax(p.params))
    widths = np.unique(p.columns["width"])
    depths = [np.median(p.columns["depth"][p.columns["width"] == w]) for w in widths]
    ladder = Ladder(
        template=_template(p, largest, ratio, fit.recipe),
        mlp_ratio=float(ratio),
        widths=widths,
        depths=np.array(depths, dtype=np.float64),
        convention=fit.convention,
        queries_per_key=queries_per_key,
        trained=tuple(
            dict.fromkeys(
                _template(p, row, ratio, fit.recipe)
                for row in range(len(p.params))
                if p.columns["depth"][row] == np.interp(p.columns["width"][row], widths, depths)
            )
        ),
    )
    return ladder if _agrees(ladder, p) else None


def _key_heads(points: Points) -> Floats:
    """Heads of keys and values of every run, (runs,)."""
    heads = points.columns["heads"]
    shared = points.columns.get("kv_heads", heads)
    return np.where(np.isnan(shared), heads, shared)


def _queries_per_key(points: Points) -> int | None:
    """Queries that share a head of keys, where it is that ratio that the runs have in common.

    Returns:
        0 where the runs have as many heads of keys, or every query its own; None without a rule.
    """
    if "kv_heads" not in points.columns:
        return 0
    keys = _key_heads(points)
    ratios = points.columns["heads"] / keys
    if np.ptp(keys) == 0:
        return 0
    return int(ratios[0]) if np.ptp(ratios) == 0 else None


def _template(points: Points, row: int, ratio: float, recipe: Mapping[str, Any]) -> Shape:
    """The shape of one run."""
    names = ("width", "depth", "heads", "head_dim", "vocab", "seq_len")
    sizes: dict[str, int] = {name: int(points.columns[name][row]) for name in names}
    plain = "swiglu" if recipe.get("model.gated", False) else "relu2"
    gated, activation = MLPS[recipe.get("model.mlp", plain)]
    return Shape(
        width=sizes["width"],
        depth=sizes["depth"],
        heads=sizes["heads"],
        head_dim=sizes["head_dim"],
        vocab=sizes["vocab"],
        seq_len=sizes["seq_len"],
        d_ff=max(1, round(ratio * sizes["width"])),
        gated=gated,
        tied=bool(recipe.get("model.tied", True)),
        conv=int(recipe.get("model.conv", 0)),
        experts=int(recipe.get("model.experts", 0)),
        top_k=int(recipe.get("model.top_k", 0)),
        kv_heads=int(_key_heads(points)[row]),
        activation=activation,
        pad_vocab_to=int(recipe.get("model.pad_vocab_to", 0)),
        rope_base=float(recipe.get("model.rope_base", ROPE_BASE)),
    )


def _agrees(ladder: Ladder, points: Points) -> bool:
    """Whether counting the shape of each run by the rules of the ladder gives the N of the run.

    Head sizes may differ among the runs, as long as heads fill the same share of the width.
    """
    columns = [points.columns[c].astype(int) for c in ("width", "depth", "heads", "head_dim")]
    columns.append(_key_heads(points).astype(int))
    share = ladder.template.heads * ladder.template.head_dim / ladder.template.width
    try:
        for width, depth, heads, head_dim, keys, n in zip(*columns, points.params, strict=True):
            of_run = dataclasses.replace(
                ladder.shape(int(width), int(depth)),
                heads=int(heads),
                head_dim=int(head_dim),
                kv_heads=int(keys),
            )
            if (
                abs(np.log(ladder.count(of_run)[0] / n)) > 0.005
                or heads * head_dim != share * width
            ):
                return False
    except PlanError:
        return False
    return True
