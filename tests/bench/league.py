"""The league of forecasters: real sweeps, fitted to the cheap runs, held against the dear ones.

    python -m tests.bench.league SERIES.csv [--only NAME,...] [--peers PYTHON] [--small]
    make league LEAGUE=path/to/series.csv

SERIES.csv is no part of the repository. One line is one run:

- `series`, `family`: the table that it is from, and the group of tables of one author or data set
- `params`, `tokens` [counts], `flops` [FLOP], `loss` [nats/token]
- `cluster`: the trajectory, where runs share one, else empty

Each series is cut at 1/3, 1/10 and 1/30 of its largest compute. A split needs 8 runs, 3 sizes and 3
lengths up to the cut, and 2 runs beyond it. Every competitor is fitted to the runs up to the cut
(with `--small` to two budgets of up to six sizes of them) and predicts those beyond. Figures are
averaged within a split, over the splits of a family, and over families, so that a family with many
tables weighs as much as one with a single table.

The score is the interval score of Gneiting and Raftery 2007 (doi:10.1198/016214506000001437,
eq. 43) on ln L at level 0.9: width, and 20 times the miss beyond. It is capped at 10 a run.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.bench.forecasters import COMPETITORS, Competitor, NotRun, peers

LEVEL = 0.9
CUTS = (3, 10, 30)
LEAST_RUNS, LEAST_LEVELS, LEAST_HELD = 8, 3, 2
CAP = 10.0
"""Of a run's score: one absurd forecast is not to hide all others."""
VALLEY_SIZES, VALLEY_FACTOR = 5, 5.0
SAME_BUDGET = 1.1
"""Runs whose compute is within this factor share a budget."""
SMALL_SIZES, SMALL_LEAST = 6, 4
"""Sizes of a budget of a small table, at most and at least."""
COLUMNS = ("series", "family", "params", "tokens", "flops", "loss", "cluster")
FIGURES = ("held", "half", "score", "error", "signed", "ratio", "covered", "half_n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The runs of one table, as columns of shape (runs,)."""

    name: str
    family: str
    params: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    loss: np.ndarray
    cluster: np.ndarray


@dataclass(slots=True)
class Standing:
    """What one competitor did: figures by cut and family, seconds, failures."""

    rows: dict[tuple[int, str], list[dict[str, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def read_series(path: Path) -> list[Series]:
    """Read the table of all series.

    Raises:
        SystemExit: The file is missing, or a column is.
    """
    if not path.is_file():
        raise SystemExit(
            f"{path}: no such file; a table of public sweeps with the columns "
            f"{', '.join(COLUMNS)} is needed. Name it: make league LEAGUE=path/to/series.csv"
        )
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
            raise SystemExit(f"{path} has no column {', '.join(missing)}. Add it.")
        for row in reader:
            groups[row["family"], row["series"]].append(row)
    found = []
    for (family, name), rows in groups.items():
        numbers = {c: np.array([float(r[c]) for r in rows]) for c in COLUMNS[2:6]}
        cluster = np.array([r["cluster"] or f"run{i}" for i, r in enumerate(rows)])
        found.append(Series(name=name, family=family, cluster=cluster, **numbers))
    return found


def splits(series: Series) -> Iterator[tuple[int, np.ndarray]]:
    """The cuts of a series that leave enough runs, each with the mask of the cheap ones."""
    for cut in CUTS:
        cheap = series.flops <= series.flops.max() / cut * (1 + 1e-6)
        levels = min(len(set(series.params[cheap])), len(set(series.tokens[cheap])))
        if cheap.sum() >= LEAST_RUNS and levels >= LEAST_LEVELS and (~cheap).sum() >= LEAST_HELD:
            yield cut, cheap


def two_budgets(series: Series, cheap: np.ndarray) -> np.ndarray | None:
    """The mask of a small table among the cheap runs, of the last budget and the last but two.

    Of each up to six sizes about the best run; None where no two budgets have four sizes.
    """
    budgets, order = [], np.flatnonzero(cheap)[np.argsort(series.flops[cheap])]
    while len(order):
        same = series.flops[order] <= series.flops[order[0]] * SAME_BUDGET
        group, order = order[same], order[~same]
        group = group[np.unique(series.params[group], return_index=True)[1]]
        if len(group) >= SMALL_LEAST:
            first = min(max(0, np.argmin(series.loss[group]) - 3), max(0, len(group) - SMALL_SIZES))
            budgets.append(group[first : first + SMALL_SIZES])
    if len(budgets) < 2:
        return None
    chosen = np.zeros(len(cheap), dtype=bool)
    chosen[np.concatenate([budgets[-1], budgets[max(0, len(budgets) - 3)]])] = True
    return chosen


def interval_score(measured, low, high) -> np.ndarray:
    """Interval score on the ln of what was measured, shape (runs,), capped at `CAP`."""
    y, lo, hi = (np.log(v) for v in (measured, low, high))
    beyond = np.maximum(np.maximum(lo - y, y - hi), 0.0)
    return np.minimum(hi - lo + 2 / (1 - LEVEL) * beyond, CAP)


def loss_figures(measured, median, low, high) -> dict[str, float]:
    """Figures of the forecasts of one split; those of intervals are nan where there are none."""
    error = median / measured - 1
    row = {"error": float(np.median(np.abs(error))), "signed": float(np.median(error))}
    if np.isfinite(low).any():
        there = np.isfinite(low) & np.isfinite(high) & (low > 0)
        held = there & (low <= measured) & (measured <= high)
        score = np.full(len(measured), CAP)
        score[there] = interval_score(measured[there], low[there], high[there])
        row |= {"held": float(held.mean()), "score": float(score.mean())}
        row["half"] = float(np.median(np.log(high[there] / low[there]) / 2))
    return row


def valleys(params, flops, loss) -> Iterator[tuple[float, float]]:
    """The measured optimum of each budget with enough sizes: (budget [FLOP], N* [parameters]).

    N* is the least of a cubic of ln L in ln N, fitted to the runs within a factor of 5 of the best
    run; a budget whose least lies on an edge has none.
    """
    order = np.argsort(flops)
    while len(order):
        same = flops[order] <= flops[order[0]] * SAME_BUDGET
        group, order = order[same], order[~same]
        best = params[group[np.argmin(loss[group])]]
        near = group[np.abs(np.log(params[group] / best)) <= np.log(VALLEY_FACTOR) + 1e-9]
        if len(set(params[near])) < VALLEY_SIZES:
            continue
        x = np.log(params[near] / best)
        cubic = np.polynomial.Polynomial.fit(x, np.log(loss[near]), 3)
        places = cubic.deriv().roots()
        places = places[np.isreal(places)].real
        places = places[(places > x.min()) & (places < x.max()) & (cubic.deriv(2)(places) > 0)]
        if len(places):
            place = places[np.argmin(cubic(places))]
            yield float(np.exp(np.log(flops[group]).mean())), float(best * np.exp(place))


def optimum_figures(measured: Sequence[float], found: Sequence[tuple]) -> dict[str, float]:
    """Figures of N* of one split; nan intervals cover nothing and have no width."""
    if not found:
        return {}
    n, low, high = (np.array(v, dtype=float) for v in zip(*found, strict=True))
    row = {"ratio": float(np.abs(np.log(n / np.array(measured))).mean())}
    if np.isfinite(low).any():
        row["covered"] = float(((low <= measured) & (measured <= high)).mean())
        row["half_n"] = float(np.nanmedian(np.log(high / low) / 2))
    return row


def play(competitor: Competitor, all_series: list[Series], *, small: bool = False) -> Standing:
    """Fit one competitor to every split, or to a small table of each, and score it."""
    standing = Standing()
    for series in all_series:
        for cut, cheap in splits(series):
            fitted = two_budgets(series, cheap) if small else cheap
            if fitted is None:
                continue
            columns = (series.params, series.tokens, series.loss, series.flops, series.cluster)
            started = time.process_time()
            try:
                forecaster = competitor(*(c[fitted] for c in columns))
                spent = forecaster.seconds or time.process_time() - started
                far = ~cheap
                median, low, high = forecaster.predict(series.params[far], series.tokens[far])
                if not np.isfinite(median).all():
                    raise ValueError("a forecast is not finite")
                row = loss_figures(series.loss[far], median, low, high)
                places = list(valleys(series.params[far], series.flops[far], series.loss[far]))
                found = [(n, forecaster.optimum(c)) for c, n in places]
                known = [(n, f) for n, f in found if f is not None]
                row |= optimum_figures([n for n, _ in known], [f for _, f in known])
            except NotRun as error:
                standing.failed.append(str(error))
                return standing
            except Exception as error:  # a rival's failure is a result of the league
                standing.failed.append(f"{series.name} 1/{cut}: {str(error).splitlines()[0][:90]}")
                continue
            standing.seconds.append(spent)
            standing.rows[cut, series.family].append(row)
    return standing


def average(rows: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Each figure over the splits of a family, then over families that have it."""
    means = {}
    for name in FIGURES:
        families = [
            np.mean(v) for r in rows.values() if (v := [row[name] for row in r if name in row])
        ]
        means[name] = float(np.mean(families)) if families else float("nan")
    return means


def select(standing: Standing, cut: int | None, family: str | None = None):
    """Rows of one cut or all, of one family or all, by family."""
    chosen: dict[str, list[dict[str, float]]] = defaultdict(list)
    for (c, f), rows in standing.rows.items():
        if cut in (None, c) and family in (None, f):
            chosen[f] += rows
    return chosen


HEAD = (
    "competitor | splits | held | half-width | score | median error | signed error | "
    "N*: abs ln ratio | N* held | N* half-width | s a fit | failed"
)


def cells(name: str, rows, standing: Standing) -> str:
    """One line of a table; shares and figures of ln L in percent."""

    def shown(value: float, form: str) -> str:
        return format(value, form) if np.isfinite(value) else "–"

    m, count = average(rows), sum(map(len, rows.values()))
    seconds = np.mean(standing.seconds) if standing.seconds else float("nan")
    texts = [name, str(count), shown(m["held"], ".0%"), shown(m["half"], ".1%")]
    texts += [shown(100 * m["score"], ".1f"), shown(m["error"], ".2%"), shown(m["signed"], "+.2%")]
    texts += [shown(m["ratio"], ".2f"), shown(m["covered"], ".0%"), shown(m["half_n"], ".2f")]
    return "| " + " | ".join([*texts, shown(seconds, ".2f"), str(len(standing.failed))]) + " |"


def tables(standings: dict[str, Standing]) -> str:
    """All tables in Markdown: overall, by cut, by family, and what failed."""
    rule = "|---" * (HEAD.count("|") + 1) + "|"
    parts = []
    titles = [("All splits", None, None)] + [(f"At 1/{c}", c, None) for c in CUTS]
    families = sorted({f for s in standings.values() for _, f in s.rows})
    titles += [(f"Family {f}", None, f) for f in families]
    for title, cut, family in titles:
        lines = [f"### {title}", "", f"| {HEAD} |", rule]
        lines += [cells(n, select(s, cut, family), s) for n, s in standings.items()]
        parts.append("\n".join(lines))
    failures = [f"- {n}: {text}" for n, s in standings.items() for text in s.failed]
    parts.append("### What failed\n\n" + ("\n".join(failures) or "Nothing."))
    return "\n\n".join(parts)


def main() -> None:
    """Play the league and print its tables."""
    parser = argparse.ArgumentParser(description="The league of forecasters on real sweeps.")
    parser.add_argument("series", type=Path)
    parser.add_argument("--only", help="names of competitors, with commas")
    parser.add_argument("--small", action="store_true", help="fit two budgets of each split only")
    parser.add_argument("--peers", help="interpreter of the environment of the public packages")
    arguments = parser.parse_args()
    all_series = read_series(arguments.series)
    known = COMPETITORS | peers(arguments.peers)
    names = arguments.only.split(",") if arguments.only else list(known)
    if unknown := [n for n in names if n not in known]:
        sys.exit(f"unknown competitor {unknown[0]}; known are {', '.join(known)}. Choose of them.")
    warnings.filterwarnings("ignore")
    standings = {}
    for name in names:
        standings[name] = play(known[name], all_series, small=arguments.small)
        line = cells(name, select(standings[name], None), standings[name])
        print(line, file=sys.stderr, flush=True)
    print(tables(standings))


if __name__ == "__main__":
    main()
