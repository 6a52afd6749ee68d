"""How often forecasts of real sweeps held, by how far they reached and by the class of verdict.

    python -m tests.bench.reach SERIES.csv

The series and cuts are those of the league. A forecast is of the best run in a range of compute
beyond a cut, by the default fit of the runs up to it; it held if the loss lies in its 90%
prediction interval. The first table is `TRACK_RECORD` of `fit/verdict.py`, which verdicts quote;
the second says whether `trust` may be trusted.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import isoflop
from fit.query.predictions import predict_many
from fit.verdict import TRACK_RECORD
from tests.bench.league import Series, read_series, splits

RANGES = (1.0, *(farthest for farthest, _, _ in TRACK_RECORD))
"""Edges of the ranges of compute, over the largest one fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One forecast, and what became of it."""

    family: str
    farthest: float
    """Of its range."""
    verdict: str
    loss: float
    """Measured [nats/token]."""
    held: bool
    half: float
    """Half-width of the prediction interval of ln loss."""
    error: float
    """Of the loss, relative."""


def forecasts(series: Series) -> Iterator[Forecast]:
    """The forecasts of the best runs of a series, beyond each of its cuts."""
    columns = {n: getattr(series, n) for n in ("params", "tokens", "flops", "loss", "cluster")}
    table = pd.DataFrame(columns)
    for _, cheap in splits(series):
        fit = isoflop.fit(isoflop.load(table[cheap], cluster="cluster"), resamples=0)
        reach = series.flops / series.flops[cheap].max()
        for near, far in zip(RANGES, RANGES[1:], strict=False):
            inside = np.flatnonzero((reach > near * (1 + 1e-6)) & (reach <= far * (1 + 1e-6)))
            if not len(inside):
                continue
            best = inside[np.argmin(series.loss[inside])]
            measured = series.loss[best]
            found = predict_many(fit, series.params[best], series.tokens[best], force=True)
            low, high = found.run_low.item(), found.run_high.item()
            yield Forecast(
                family=series.family,
                farthest=far,
                verdict=found.verdict.item(),
                loss=float(measured),
                held=low <= measured <= high,
                half=np.log(high / low) / 2,
                error=abs(found.loss.item() / measured - 1),
            )


def row(title: str, found: Sequence[Forecast]) -> str:
    """A line of a table: counts, the share that held with families alike, medians."""
    families: dict[str, list[bool]] = defaultdict(list)
    for one in found:
        families[one.family].append(one.held)
    alike = np.mean([np.mean(held) for held in families.values()])
    held, half = sum(one.held for one in found), np.median([one.half for one in found])
    error = np.median([one.error for one in found])
    return f"| {title} | {len(found)} | {held} | {alike:.0%} | {half:.1%} | {error:.1%} |"


def main() -> None:
    """Print both tables."""
    warnings.filterwarnings("ignore")
    found = [one for series in read_series(Path(sys.argv[1])) for one in forecasts(series)]
    for title, name in (("reach, up to", "farthest"), ("verdict", "verdict")):
        print(f"| {title} | forecasts | held | of each family alike | half-width | error |")
        print("| --- " * 6 + "|")
        for value in sorted({getattr(one, name) for one in found}):
            print(row(f"{value}", [one for one in found if getattr(one, name) == value]))
        print()


if __name__ == "__main__":
    main()
