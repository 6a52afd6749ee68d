"""The request for next runs, its limits, and the candidate runs within them with their costs.

A `SuggestRequest` says what is to be learnt; `limits_of` completes its limits from the fit;
`candidates_on_ladder` (shapes that can be trained) or `candidates_of_sizes` (plain numbers, for a
law without shapes) list the runs to choose among.

A run costs its FLOP per token times its tokens. Where runs of one shape are branches of one trunk,
the trunk is paid once: a branch of D tokens costs its cooldown and whatever the trunk grows by.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.allocation.ladder import LARGEST_WIDTH, Ladder, TokenCost
from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import Shape
from fit.data.records import Floats
from fit.errors import PlanError, QueryError
from fit.quantities import parse_count, power, short
from fit.query.budget import budget_flops
from fit.results import Span
from fit.verdict import Note

SIZES = 40
"""Largest number of sizes, evenly spaced in ln N: with 24 the interval of ln N* is 4% wider."""
LENGTHS_A_DECADE = 8
"""Lengths between the ends of a size lie on one geometric grid; 12 a decade gain under 1%."""
WIDTHS_AN_OCTAVE = 8
"""Widths per doubling from 8 heads on; below that every width that the head size allows."""
ROOM = 1e-9
"""Relative tolerance of a limit, against rounding."""
LARGEST_SHARE = 0.25
"""Default share of the spend in one run at most: fewer than four runs are no sweep, and a limit of
1/9 in its place changes the interval by 3% (docs/log.md)."""
SMALLEST_SHARE = 1e-4
"""Default share of the spend in one run at least, under a published law: small runs determine the
exponents cheaply, but deviate from the law most."""
RATIO_ROOM = 16.0
"""Under a published law D/N stays within this factor of the best at the target, as in an isoFLOP
grid of 1/4 to 4 times N*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Limits of one run; every range includes its ends."""

    params: Span
    """N, in the source's convention [parameters]."""
    tokens: Span
    """D [tokens]."""
    flops: Span
    """Cost of one run, as if it had no trunk to share [FLOP]."""
    ratio: Span
    """D/N [tokens per parameter]."""
    widths: tuple[int, ...] = ()
    """Widths allowed; empty for all that the ladder of shapes has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Runs to choose among; every array of shape (k,)."""

    params: Floats
    """N [parameters]."""
    tokens: Floats
    """D [tokens]."""
    flops_per_token: Floats
    """Training FLOP per token."""
    size: NDArray[np.int64]
    """Code of the size; runs of one size and one seed can share a trunk."""
    shapes: tuple[Shape, ...] = ()
    """Shape of each size; empty where sizes are plain numbers."""
    cooldown: float = 1.0
    """Share of a run's tokens in its cooldown, which no other run shares; 1 without trunks."""

    @property
    def flops(self) -> Floats:
        """Cost of each run on its own [FLOP]."""
        return np.asarray(self.flops_per_token * self.tokens)

    @property
    def shares_trunks(self) -> bool:
        """Whether runs of one size and seed are branches of one trunk."""
        return self.cooldown < 1

    def take(self, keep: NDArray[np.bool_]) -> Candidates:
        """Some of them."""
        names = ("params", "tokens", "flops_per_token", "size")
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in names})

    def __len__(self) -> int:
        return len(self.params)


def candidates_on_ladder(ladder: Ladder, limits: RunLimits, *, cooldown: float) -> Candidates:
    """Trainable shapes of a ladder at lengths within limits.

    Args:
        ladder: Shapes of the fitted runs, and those that continue them.
        limits: Limits of one run.
        cooldown: Share of a run's tokens in its cooldown; 1 where no trunk is shared.

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


def candidates_of_sizes(cost: TokenCost, limits: RunLimits) -> Candidates:
    """Sizes as plain numbers at lengths within limits, no run sharing a trunk.

    Args:
        cost: FLOP per token as a function of N.
        limits: Limits of one run.

    Raises:
        PlanError: No size and length lies within the limits.
    """
    # C = k N^2 (D/N), where k is near 6: 8 below and 4 above leave room for other values
    low = max(limits.params.low, math.sqrt(limits.flops.low / (8 * limits.ratio.high)))
    high = min(limits.params.high, math.sqrt(limits.flops.high / (4 * limits.ratio.low)))
    params = np.geomspace(low, max(low, high), SIZES)
    per_token = np.exp(cost.log_flops_per_token(np.log(params)))
    size, tokens = _lengths(params, per_token, limits)
    return Candidates(
        params=params[size], tokens=tokens, flops_per_token=per_token[size], size=size
    )


def incremental_flops(
    candidates: Candidates, chosen: NDArray[np.int64], trunk: NDArray[np.int64]
) -> Floats:
    """What each chosen run adds to the total cost, trunks paid once [FLOP].

    Args:
        candidates: Runs to choose among.
        chosen: Index of each chosen run, (m,).
        trunk: Code of each chosen run's trunk, (m,).

    Returns:
        (m,), as `flops_spent` of the run's record: its cooldown and its own stretch of the trunk.
    """
    tokens, cooldown = candidates.tokens[chosen], candidates.cooldown
    paid_tokens = np.zeros(len(chosen))
    longest: dict[int, float] = {}
    for i in np.argsort(tokens, kind="stable"):
        below = longest.get(int(trunk[i]), 0.0)
        paid_tokens[i] = cooldown * tokens[i] + (1 - cooldown) * (tokens[i] - below)
        if candidates.shares_trunks:
            longest[int(trunk[i])] = float(tokens[i])
    return np.asarray(paid_tokens * candidates.flops_per_token[chosen])


def _rungs(ladder: Ladder, limits: RunLimits) -> list[Shape]:
    """Shapes of the ladder within the limits of N, at most `SIZES` of them."""
    lowest = limits.params.low * (1 - ROOM)
    highest = min(limits.params.high, math.sqrt(limits.flops.high / (4 * limits.ratio.low)))
    step = ladder.width_step
    shapes, width = [], step
    while not limits.widths:
        shape = _rung(ladder, width)
        n, _ = ladder.count(shape)
        if n > highest * (1 + ROOM) or width > LARGEST_WIDTH:
            break
        shapes.append(shape)
        width += step * max(1, width // (step * WIDTHS_AN_OCTAVE))
    shapes += [_rung(ladder, w) for w in limits.widths]
    inside = [s for s in shapes if lowest <= ladder.count(s)[0] <= highest * (1 + ROOM)]
    keep = np.unique(np.linspace(0, len(inside) - 1, min(SIZES, len(inside))).round().astype(int))
    return [inside[i] for i in keep]


def _rung(ladder: Ladder, width: int) -> Shape:
    """The ladder's shape at a width."""
    return ladder.shape(width, max(1, round(ladder.depth(width))))


def _lengths(
    params: Floats, per_token: Floats, limits: RunLimits
) -> tuple[NDArray[np.int64], Floats]:
    """Every size with every length that the limits allow: codes and tokens, (k,) each."""
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
    """Lengths of the common grid between two ends, to two digits, and the ends themselves."""
    if not low <= high * (1 + ROOM):
        return []
    first, last = (math.floor(LENGTHS_A_DECADE * math.log10(end)) for end in (low, high))
    grid = (10 ** (i / LENGTHS_A_DECADE) for i in range(first + 1, last + 1))
    rounded = (float(f"{d:.1e}") for d in grid)
    apart = 10 ** (0.5 / LENGTHS_A_DECADE)
    return sorted({low, *(d for d in rounded if low * apart < d < high / apart), high})


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestRequest:
    """Target, spend and limits of the next runs; None takes the limit that the source suggests."""

    source: ScalingLaw
    flops: float
    """Budget at which N* and the loss are wanted [FLOP]."""
    spend: float
    """For all runs together [FLOP]."""
    most_runs: int = 24
    replicates: int = 3
    """Largest number of copies of a run, or of trunks of a size."""
    most_flops: float | None = None
    """Largest cost of one run [FLOP]."""
    least_flops: float | None = None
    """Smallest cost of one run [FLOP]."""
    ratio: Span | None = None
    """Limits of D/N [tokens per parameter]."""
    params: Span | None = None
    tokens: Span | None = None
    widths: tuple[int, ...] = ()
    noise: float | None = None
    """Standard deviation of ln loss of one run; None for the fit's own."""
    assumed: tuple[Note, ...] = ()
    """What was assumed to turn budgets of money or time into FLOP."""


def parse_request(
    source: ScalingLaw,
    *,
    flops: str,
    spend: str,
    max_run: str | None = None,
    min_run: str | None = None,
    ratio: str | None = None,
    params: str | None = None,
    tokens: str | None = None,
    widths: str | None = None,
    device: str | None = None,
    mfu: float | None = None,
    price: float | None = None,
    **options: Any,
) -> SuggestRequest:
    """Read a request as it is typed: budgets such as 1e21 or $500, ranges as LOW:HIGH.

    Args:
        source: The law that the runs extend.
        flops: Target budget [FLOP].
        spend: For all runs together [FLOP].
        max_run: Largest cost of one run [FLOP].
        min_run: Smallest cost of one run [FLOP].
        ratio: Range of tokens per parameter.
        params: Range of N.
        tokens: Range of D.
        widths: Widths separated by commas.
        device: The device of budgets in money or hours that name none.
        mfu: Share of its peak.
        price: Dollars of an hour of it.
        **options: The other fields of `SuggestRequest`.

    Raises:
        QueryError: A count that is not positive and finite, or a malformed range.
    """
    asked = {"--flops": flops, "--spend": spend, "--max-run": max_run, "--min-run": min_run}
    budgets: dict[str, float] = {}
    assumed: list[Note] = []
    for name, text in asked.items():
        if text is not None:
            budgets[name], notes = budget_flops(
                text, name, fit=source.fit, device=device, mfu=mfu, price=price
            )
            assumed += notes
    return SuggestRequest(
        source=source,
        flops=budgets["--flops"],
        spend=budgets["--spend"],
        most_flops=budgets.get("--max-run"),
        least_flops=budgets.get("--min-run"),
        assumed=tuple(dict.fromkeys(assumed)),
        ratio=parse_range(ratio, "--ratio"),
        params=parse_range(params, "--params"),
        tokens=parse_range(tokens, "--tokens"),
        widths=tuple(sorted({parse_whole(w, "--widths") for w in (widths or "").split(",") if w})),
        **options,
    )


def parse_range(text: str | None, what: str) -> Span | None:
    """Read a range such as `1:400` or `10k:`; an end left out is open.

    Args:
        text: The range, or None.
        what: Name of the option, for the message.

    Raises:
        QueryError: Not two counts with a colon between them, the lower first.
    """
    if text is None:
        return None
    low, colon, high = text.partition(":")
    span = Span(
        low=parse_count(low, what) if low.strip() else 1e-9,
        high=parse_count(high, what) if high.strip() else math.inf,
    )
    if not colon or span.low > span.high:
        raise QueryError(f"{what} is '{text}'; a range is needed, the lower end first, as 1:400.")
    return span


def parse_whole(text: str, what: str) -> int:
    """Read a positive whole number.

    Args:
        text: The number.
        what: Name of the option, for the message.

    Raises:
        QueryError: It is not a positive whole number.
    """
    value = parse_count(text, what)
    if value != round(value):
        raise QueryError(f"{what} has '{text.strip()}'; whole numbers are needed, as 16,32,64.")
    return int(value)


def limits_of(request: SuggestRequest) -> RunLimits:
    """Complete the limits of a request from its source.

    Runs are not smaller than the fitted ones, since laws deviate there, nor do they cost more than
    `LARGEST_SHARE` of the spend.
    """
    source = request.source
    fitted = source.range if source.fit is not None else {}
    low = {name: fitted[name].low for name in ("params", "tokens", "flops") if name in fitted}
    most = request.most_flops
    if most is None:  # a small spend is divided among runs as small as the fitted ones
        most = min(request.spend, max(LARGEST_SHARE * request.spend, 4 * low.get("flops", 0.0)))
    least = request.least_flops
    if least is None:
        least = min(low.get("flops", SMALLEST_SHARE * request.spend), most)
    ratio = request.ratio or fitted.get("tokens_per_param")
    if ratio is None:
        best = source.best(np.array([request.flops]))
        middle = float(np.exp(best.log_tokens[0] - best.log_params[0]))
        ratio = Span(low=middle / RATIO_ROOM, high=middle * RATIO_ROOM)
    return RunLimits(
        params=request.params or Span(low=low.get("params", 1.0), high=math.inf),
        tokens=request.tokens or Span(low=low.get("tokens", 1.0), high=math.inf),
        flops=Span(low=least, high=most),
        ratio=ratio,
        widths=request.widths,
    )
