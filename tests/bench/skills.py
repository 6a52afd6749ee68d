"""Forecasts of scores at ten and more times the compute: in simulated worlds, and of trained runs.

`python -m tests.bench.skills worlds [SWEEPS]` prints, for worlds of which the truth is known, how
often 90% intervals of a run's score and of the budget at which the score passes 50% and 90% hold
the truth at 10 and 30 times the largest budget, the intervals' width in points, and their interval
score (the width, and 20 times the miss of a run outside; Gneiting & Raftery 2007).

`python -m tests.bench.skills FOLDER [FLOPS]` fits the runs of a folder up to a budget [FLOP], and
compares its forecasts with the scores of those of ten and more times that. The runs of docs/log.md:

    for lengths in '8 [31e3,62e3,125e3,250e3,500e3,1e6]' '16 [31e3,62e3,125e3,250e3,450e3]' \\
        '24 [31e3,62e3,125e3,250e3]' '32 [31e3,62e3,125e3,165e3]' '48 [31e3,62e3,90e3]' \\
        '8 [4e3,12e3]' '16 [4e3,12e3]' '48 [1.1e6,2e6]' '32 [1e6,2e6]'; do
      set -- $lengths
      python -m sweep -m name=skill-law data.size=full train.scores=accuracy \\
        seed=0,1,2 model.head_dim=8 model.width=$1 train.tokens=$2
    done
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.special import expit

from fit.allocation.scaling_law import ScalingLaw
from fit.data.readers import load
from fit.data.table import SCORE, RunTable
from fit.fitting import FitOptions, fit_table
from fit.scores.law import THRESHOLDS, ScoreLaw, places_of, score_laws, score_path

E, A, B, ALPHA, BETA = 1.0, 60.0, 300.0, 0.5, 0.45
SIZES, LENGTHS = (5e3, 1.2e4, 3e4, 7e4), (5e4, 1e5, 2e5, 4e5)
SEEDS, ITEMS, NOISE, SPREAD = 2, 800, 0.003, 0.12
REACH = (10.0, 30.0)
ROOM = 1.001

World = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A true score of sizes and lengths."""


def loss(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The true loss [nats/token]."""
    return E + A / n**ALPHA + B / d**BETA


def of_compute(middle: float, slope: float, chance: float) -> World:
    """A sigmoid of ln C."""
    return lambda n, d: chance + (1 - chance) * expit(slope * (np.log(6 * n * d) - np.log(middle)))


def of_excess(middle: float, slope: float, chance: float) -> World:
    """A sigmoid of the ln of the excess loss."""
    return lambda n, d: (
        chance + (1 - chance) * expit(-slope * (np.log(loss(n, d) - E) - np.log(middle)))
    )


def of_length(middle: float, slope: float, chance: float) -> World:
    """Learned by tokens alone: the size does not matter, which no rival with compute alone has."""
    return lambda n, d: chance + (1 - chance) * expit(slope * (np.log(d) - np.log(middle)))


def in_parts(start: float, *parts: tuple[float, float, float]) -> World:
    """A level and sigmoids of ln C above it, each by its middle, slope and height."""

    def world(n: np.ndarray, d: np.ndarray) -> np.ndarray:
        log_flops = np.log(6 * n * d)
        rises = (h * expit(slope * (log_flops - np.log(middle))) for middle, slope, h in parts)
        return np.asarray(start + sum(rises) + 0 * log_flops)

    return world


WORLDS: dict[str, World] = {
    "compute, half way": of_compute(1e11, 0.8, 0.1),
    "compute, late": of_compute(1.5e12, 0.8, 0.1),
    "compute, slow": of_compute(1e12, 0.35, 0.0),
    "excess, half way": of_excess(1.3, 2.5, 0.1),
    "excess, late": of_excess(0.7, 3.0, 0.2),
    "length alone": of_length(4e5, 1.2, 0.05),
    "two steps": in_parts(0.0, (1e10, 1.2, 0.5), (2e12, 1.2, 0.5)),
}


STEPS: dict[str, World] = {
    "step, near": in_parts(0.12, (1e12, 2.5, 0.88)),
    "step, far": in_parts(0.12, (4e12, 2.5, 0.88)),
    "step after a rest": in_parts(0.25, (3e10, 1.2, 0.2), (1e12, 2.5, 0.55)),
    "rest that lasts": in_parts(0.05, (1e10, 1.2, 0.7)),
    "chance that lasts": in_parts(0.125),
}
"""Worlds with a rise of which the runs show nothing, and those of which they show as much without
one. The third is like consistency of tales, the fourth and fifth like consistency and reasoning of
`full` (docs/log.md)."""


def simulated(worlds: dict[str, World], seed: int) -> RunTable:
    """A sweep of `SIZES` by `LENGTHS` by `SEEDS`, with a score of each world."""
    random = np.random.default_rng(seed)
    n, d, _ = (v.ravel() for v in np.meshgrid(SIZES, LENGTHS, range(SEEDS), indexing="ij"))
    columns: dict[str, np.ndarray] = {}
    for name, world in worlds.items():
        columns[f"{SCORE}{name}"] = value = observed(world(n, d), random)
        columns[f"{SCORE}{name}_se"] = np.sqrt(np.maximum(value * (1 - value), 1e-4) / ITEMS)
    return RunTable(
        run=tuple(str(i) for i in range(len(n))),
        params=n,
        tokens=d,
        flops=6 * n * d,
        loss=loss(n, d) * np.exp(NOISE * random.standard_normal(len(n))),
        cluster=np.arange(len(n)),
        columns=columns,
    )


def observed(score: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A score as it is measured: it differs from run to run, and its sample is finite."""
    share = np.clip(score, 1e-9, 1 - 1e-9)
    eta = np.log(share / (1 - share)) + SPREAD * random.standard_normal(share.shape)
    return random.binomial(ITEMS, expit(eta)) / ITEMS


def interval_score(
    measured: np.ndarray, low: np.ndarray | float, high: np.ndarray | float
) -> np.ndarray:
    """The interval score at 90%: the width, and 20 times the distance of what lies outside."""
    miss = np.maximum(low - measured, 0) + np.maximum(measured - high, 0)
    return np.asarray(high - low + 20 * miss)


def laws_of(table: RunTable) -> tuple[ScalingLaw, tuple[ScoreLaw, ...]]:
    """The fit of a table, and the laws of its scores."""
    source = ScalingLaw.from_fit(fit_table(table, FitOptions(resamples=0)))
    return source, score_laws(source)[0]


def true_budget(world: World, threshold: float, source: ScalingLaw) -> float:
    """The budget at which a world passes a threshold along the fitted law's best splits [FLOP]."""
    path = score_path(source)
    reached = world(np.exp(path.log_params), np.exp(path.log_tokens)) >= threshold
    if not reached.any() or reached[0]:
        return np.inf if not reached.any() else 0.0
    return float(np.exp(path.log_flops[reached.argmax()]))


def simulated_coverage(sweeps: int) -> dict[str, dict[str, float]]:
    """By world: coverage and mean width in points at `REACH`, and coverage of the budgets."""
    worlds = WORLDS | STEPS
    marks: dict[str, dict[str, list[float]]] = {name: {} for name in worlds}
    for seed in range(sweeps):
        source, laws = laws_of(simulated(worlds, seed))
        random, path = np.random.default_rng(10_000 + seed), score_path(source)
        for law in laws:
            world, mark = worlds[law.name], marks[law.name]
            for reach in REACH:
                best = source.best(np.array([reach * np.exp(law.span[1])]))
                n, d = np.exp(best.log_params), np.exp(best.log_tokens)
                drawn = observed(np.repeat(world(n, d), 20), random)
                (_,), (low,), (high,) = law.intervals(places_of(source, n, d), next_run=True)
                hits = (low <= drawn) & (drawn <= high)
                mark.setdefault(f"{reach:.0f}x", []).append(float(hits.mean()))
                mark.setdefault(f"width {reach:.0f}x", []).append(100 * float(high - low))
                cost = 100 * interval_score(drawn, low, high)
                mark.setdefault(f"score {reach:.0f}x", []).append(float(cost.mean()))
            for threshold in THRESHOLDS:
                truth, found = true_budget(world, threshold, source), law.passes(threshold, path)
                hit = found.low <= ROOM * truth and truth <= ROOM * found.high
                mark.setdefault(f"passes {threshold:.0%}", []).append(float(hit))
            mark.setdefault(law.rival, []).append(1.0)
    shown = (f"{kind}{reach:.0f}x" for reach in REACH for kind in ("", "width ", "score "))
    means = (*shown, *(f"passes {threshold:.0%}" for threshold in THRESHOLDS))
    return {
        name: {k: float(np.mean(mark[k])) for k in means}
        | {k: len(v) / sweeps for k, v in mark.items() if k not in means}
        for name, mark in marks.items()
    }


def trained(folder: str, flops: float | None) -> None:
    """Print forecasts of the runs of ten and more times a budget, and the order of skills."""
    table = load(folder)
    most = flops or float(table.flops.max()) / 20
    cheap = table.take(table.flops <= ROOM * most)
    ahead = table.take(table.flops >= 10 * cheap.flops.max() / ROOM)
    source, laws = laws_of(cheap)
    reach = ahead.flops / cheap.flops.max()
    print(
        f"{len(cheap)} runs from {cheap.flops.min():.2g} to {cheap.flops.max():.2g} FLOP forecast "
        f"{len(ahead)} of {reach.min():.0f} to {reach.max():.0f} times that"
    )
    print("\n| score | rival | forecast | measured | error, points | inside 90% | interval score |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    every = []
    for law in laws:
        measured = ahead.column(f"{SCORE}{law.name}")
        value, low, high = law.intervals(
            places_of(source, ahead.params, ahead.tokens), next_run=True
        )
        hits = (low <= measured) & (measured <= high)
        error = 100 * (measured - value)
        cost = 100 * interval_score(measured, low, high).mean()
        every.append((np.sqrt(np.square(error).mean()), hits.mean(), cost))
        print(
            f"| {law.name} | {law.rival} | {_span(value)} [{_span(low)}, "
            f"{_span(high)}] | {_span(measured)} | {error.mean():+.1f}, rms {every[-1][0]:.1f} | "
            f"{hits.sum()} of {len(hits)} | {cost:.0f} |"
        )
    error, inside, cost = np.mean(every, axis=0)
    print(f"\nall: rms {error:.1f} points, {inside:.0%} inside, interval score {cost:.0f}")
    source, laws = laws_of(table)
    print("\n| score | passes 50% [FLOP] | passes 90% [FLOP] |\n| --- | --- | --- |")
    for law in laws:
        found = (law.passes(t, score_path(source)) for t in THRESHOLDS)
        print(f"| {law.name} | " + " | ".join(_budget(f) for f in found) + " |")


def _span(values: np.ndarray) -> str:
    """The least and the largest of some scores, in percent."""
    return f"{100 * values.min():.0f}-{100 * values.max():.0f}"


def _budget(found: object) -> str:
    """A budget and its interval."""
    return f"{found.value:.2g} [{found.low:.2g}, {found.high:.2g}]"  # type: ignore[attr-defined]


def main() -> None:
    """Print what the command asks for."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] != "worlds":
        trained(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else None)
        return
    found = simulated_coverage(int(sys.argv[2]) if len(sys.argv) > 2 else 20)
    for name, marks in found.items():
        print(f"{name:18}", *(f"{k} {v:.2f}" for k, v in marks.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
