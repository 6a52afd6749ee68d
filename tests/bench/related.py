"""What a user's own earlier fits are worth as the prior of a forecast, on public sweeps.

`python -m tests.bench.related SERIES.csv` prints a table in Markdown. For each split of the league
(`tests.bench.league`) of a family with more than one series, the cheap runs are forecast from with
the population as the prior, with the fit of one other series of the family, and of all others that
have none of its runs.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

import isoflop
from fit.data.table import RunTable
from fit.inference.forecast import forecast
from fit.inference.forecast_prior import prior_beside
from fit.results import Fit
from tests.bench.league import Series, interval_score, read_series, splits

TUNING = "porian"
"""Families of this name are ablations of tuning: their series have different recipes."""


def table_of(series: Series, keep: np.ndarray) -> RunTable:
    """Some runs of a series."""
    columns = {c: getattr(series, c)[keep] for c in ("params", "tokens", "flops", "loss")}
    cluster = np.unique(series.cluster[keep], return_inverse=True)[1]
    return RunTable(run=tuple(map(str, range(keep.sum()))), cluster=cluster, **columns)


def figures(fit: Fit, series: Series, far: np.ndarray) -> tuple[float, ...]:
    """Share held, score, median error and median half-width of the runs beyond a cut."""
    points = zip(series.params[far], series.tokens[far], strict=True)
    found = [isoflop.predict(fit, n, d, force=True).loss_next_run for n, d in points]
    value, low, high = (np.array([getattr(x, k) for x in found]) for k in ("value", "low", "high"))
    y = series.loss[far]
    held, score = (low <= y) & (y <= high), interval_score(y, low, high)
    half = np.median(np.log(high / low) / 2)
    return held.mean(), score.mean(), float(np.median(np.abs(value / y - 1))), half


def main() -> None:
    """Print the table."""
    every = read_series(Path(sys.argv[1]))
    fits = {s.name: isoflop.fit(table_of(s, s.loss > 0), resamples=0) for s in every}
    rows = defaultdict(list)
    for series in every:
        related = [fits[s.name] for s in every if s.family == series.family and s is not series]
        related = [f for f in related if f.forecast is not None]
        for _, cheap in splits(series) if related else ():
            kept = table_of(series, cheap)
            alone = isoflop.fit(kept, resamples=0)
            others = [f for f in related if not np.isin(f.points.loss, kept.loss).any()]
            if alone.forecast is None or not others:
                continue
            for name, earlier in (("none", []), ("one", others[:1]), ("all", others)):
                ahead = forecast(kept, 0.9, prior_beside(earlier, kept))
                row = figures(replace(alone, forecast=ahead), series, ~cheap)
                kind = "other recipes" if TUNING in series.family else "one recipe"
                for group in (kind, series.family):
                    rows[group, name].append(row)
    print("| series | earlier fits | splits | held | score | median error | half-width |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (group, name), values in rows.items():
        held, score, error, half = 100 * np.mean(values, axis=0)
        print(
            f"| {group} | {name} | {len(values)} | {held:.0f}% | {score:.1f} | {error:.2f}% | "
            f"{half:.1f}% |"
        )


if __name__ == "__main__":
    main()
