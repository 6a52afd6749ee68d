"""What is to be learnt by the next runs, and what they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.candidates import Limits
from fit.errors import QueryError
from fit.quantity import parse_count
from fit.result import Span
from fit.source import Source

LARGEST_SHARE = 0.25
"""Of the spend in one run, unless asked otherwise: four runs are no sweep, and a cap of 1/9 in its
place changes the interval by 3% (docs/log.md)."""
SMALLEST_SHARE = 1e-4
"""Of the spend in one run under a published law: cheap runs are the lever, and bend laws most."""
RATIO_ROOM = 16.0
"""Under a published law D/N stays within this factor of the best at the target: an isoFLOP grid
of 1/4 to 4 times N* has the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be learnt, and what the runs may be; None takes what the source suggests."""

    source: Source
    flops: float
    """Budget at which N* and the loss are wanted [FLOP]."""
    spend: float
    """For all runs together [FLOP]."""
    most_runs: int = 24
    replicates: int = 3
    most_flops: float | None = None
    """Of one run."""
    least_flops: float | None = None
    ratio: Span | None = None
    params: Span | None = None
    tokens: Span | None = None
    widths: tuple[int, ...] = ()
    noise: float | None = None
    """Standard deviation of ln loss of one run."""


def requested(
    source: Source,
    *,
    flops: str,
    spend: str,
    max_run: str | None = None,
    min_run: str | None = None,
    ratio: str | None = None,
    params: str | None = None,
    tokens: str | None = None,
    widths: str | None = None,
    **options: Any,
) -> Request:
    """A request as people type it: counts such as 1e21 and 7B, ranges as LOW:HIGH.

    Raises:
        QueryError: A count that is not positive and finite, or a range that is none.
    """
    return Request(
        source=source,
        flops=parse_count(flops, "--flops"),
        spend=parse_count(spend, "--spend"),
        most_flops=None if max_run is None else parse_count(max_run, "--max-run"),
        least_flops=None if min_run is None else parse_count(min_run, "--min-run"),
        ratio=parse_range(ratio, "--ratio"),
        params=parse_range(params, "--params"),
        tokens=parse_range(tokens, "--tokens"),
        widths=tuple(sorted({parse_whole(w, "--widths") for w in (widths or "").split(",") if w})),
        **options,
    )


def parse_range(text: str | None, what: str) -> Span | None:
    """Read a range such as `1:400` or `10k:`; an end left out is open.

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

    Raises:
        QueryError: It is not.
    """
    value = parse_count(text, what)
    if value != round(value):
        raise QueryError(f"{what} has '{text.strip()}'; whole numbers are needed, as 16,32,64.")
    return int(value)


def limits_of(request: Request) -> Limits:
    """Limits of a run: small ones as the fitted runs, since laws bend below; large ones by cost."""
    source, anything = request.source, Span(low=1.0, high=math.inf)
    fitted = source.range if source.fit is not None else {}
    low = {name: fitted[name].low for name in ("params", "tokens", "flops") if name in fitted}
    most = request.most_flops
    if most is None:  # a small spend goes into runs as small as there are
        most = min(request.spend, max(LARGEST_SHARE * request.spend, 4 * low.get("flops", 0.0)))
    least = request.least_flops
    if least is None:
        least = min(low.get("flops", SMALLEST_SHARE * request.spend), most)
    ratio = request.ratio or fitted.get("tokens_per_param")
    if ratio is None:
        best = source.best(np.array([request.flops]))
        middle = float(np.exp(best.log_tokens[0] - best.log_params[0]))
        ratio = Span(low=middle / RATIO_ROOM, high=middle * RATIO_ROOM)
    return Limits(
        params=request.params or Span(low=low.get("params", 1.0), high=anything.high),
        tokens=request.tokens or Span(low=low.get("tokens", 1.0), high=anything.high),
        flops=Span(low=least, high=most),
        ratio=ratio,
        widths=request.widths,
    )
