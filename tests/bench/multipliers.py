"""How often intervals of compute multipliers hold on public sweeps, two of a family at a time.

`python -m tests.bench.multipliers SERIES.csv` prints a table in Markdown. Two series of a family
are each fitted up to 1/3, 1/10 and 1/30 of their largest compute, as in the league
(`tests.bench.league`), and compared at the largest budget that both have run. The multiplier that
is held against that is the one of the fits of all their runs, by their forecasts, which lie between
runs there. Pairs further than a factor of 30 apart are left out. By the forecasts, and by the laws
that describe the runs alone.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import isoflop
from fit.allocation.scaling_law import Frontier, ScalingLaw
from fit.comparison.compare import compare
from fit.errors import ScalingError
from fit.results import Fit
from tests.bench.league import CUTS, Series, read_series, splits
from tests.bench.related import table_of

FURTHEST = 30.0


def measured(a: Fit, b: Fit) -> tuple[Fit, Fit, float, float] | None:
    """Both fits, the one that needs less compute first, a budget of the other and the multiplier.

    None where the losses that both reached do not meet, or are too far apart.
    """
    flops = min(fit.range["flops"].high for fit in (a, b))
    for one, other in ((a, b), (b, a)):
        loss = Frontier.of(ScalingLaw.of(other)).loss(np.array([flops]))
        needed = float(Frontier.of(ScalingLaw.of(one)).flops(loss)[0])
        if needed <= one.range["flops"].high * 1.05:
            close = needed > 0 and abs(math.log(needed / flops)) <= math.log(FURTHEST)
            return (one, other, flops, needed / flops) if close else None
    return None


def figures(a: Fit, b: Fit, flops: float, truth: float) -> tuple[float, ...]:
    """Error of ln multiplier, whether its interval holds it, and its half-width."""
    row = compare(ScalingLaw.of(a), ScalingLaw.of(b), flops=(flops,), force=True).rows[0]
    found = row.multiplier
    low, high = (math.log(v) if v else -math.inf for v in (found.low, found.high))
    error = abs(math.log(found.value / truth)) if found.value > 0 else math.inf
    return error, float(low <= math.log(truth) <= high), (high - low) / 2


def rows(every: list[Series]) -> Iterator[tuple[str, int, str, tuple[float, ...]]]:
    """Family, cut, kind and figures of every pair."""
    whole = {s.name: isoflop.fit(table_of(s, s.loss > 0), resamples=0) for s in every}
    cheap = {}
    for series in every:
        for cut, keep in splits(series):
            cheap[series.name, cut] = isoflop.fit(table_of(series, keep), resamples=0)
    for first, second in itertools.combinations(every, 2):
        there = [c for c in CUTS if {(first.name, c), (second.name, c)} <= cheap.keys()]
        found = None
        if first.family == second.family and there:
            found = measured(whole[first.name], whole[second.name])
        if found is None:
            continue
        names = [next(n for n, fit in whole.items() if fit is side) for side in found[:2]]
        for cut in there:
            a, b = (cheap[name, cut] for name in names)
            if a.forecast is None or b.forecast is None:
                continue
            for kind, pair in (
                ("forecast", (a, b)),
                ("law", tuple(replace(f, forecast=None) for f in (a, b))),
            ):
                try:
                    yield first.family, cut, kind, figures(*pair, *found[2:])
                except ScalingError as error:
                    print(first.name, second.name, cut, kind, error, file=sys.stderr)


def main() -> None:
    """Print the table, families alike."""
    groups: dict[tuple[int, str], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for family, cut, kind, row in rows(read_series(Path(sys.argv[1]))):
        groups[cut, kind][family].append(row)
    print("| runs up to | by | pairs | held | mean error of ln multiplier | median half-width |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for (cut, kind), families in sorted(groups.items()):
        pairs = sum(map(len, families.values()))
        tables = [np.array(f) for f in families.values()]
        error = np.mean([np.median(t[:, 0]) for t in tables])
        held = np.mean([t[:, 1].mean() for t in tables])
        half = np.median([np.median(t[:, 2]) for t in tables])
        print(f"| 1/{cut} | {kind} | {pairs} | {held:.0%} | {error:.2f} | {half:.2f} |")


if __name__ == "__main__":
    main()
