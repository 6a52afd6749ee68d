"""Coverage of the intervals: how often a nominal 90% interval holds the truth, by simulation.

`python -m tests.bench.calibrate [SWEEPS] [law|trunk|methods|surface|bad] ...` prints tables in
Markdown, as they stand in docs/calibration.md. Each cell draws SWEEPS (400) seeded sweeps, fits
them as `fit.fitting` does, and counts. What extrapolates is at 10 and 100 times the largest budget.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fit.data.table import RunTable
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.fitting import FitOptions, interval_inputs
from fit.inference.intervals import METHODS, confidence_interval
from fit.inference.misspecification import detect_misfit, widen_by_misfit
from fit.inference.resampling import estimate_uncertainty, sandwich
from fit.results import Points

LEVEL = 0.9
TRUTH = np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658])
"""The law of Besiroglu et al. 2024."""
QUANTITIES = ("E", "alpha", "beta", "a", "N* 10x", "N* 100x", "L 10x", "L 100x")
REACH = (10.0, 100.0)
RESAMPLES = 1000
Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Where the runs are."""

    params: np.ndarray
    tokens: np.ndarray
    trunk: np.ndarray
    """Shape of each run, as a code."""


def isoflop_grid() -> Design:
    """5 budgets of 6 sizes, 1/4 to 4 times the optimum of each."""
    budgets = np.repeat(np.geomspace(1e18, 1e20, 5), 6)
    best, _ = optimum(law, budgets)
    n = best * np.tile(np.geomspace(0.25, 4, 6), 5)
    return Design(params=n, tokens=budgets / (6 * n), trunk=np.arange(30))


def shape_grid() -> Design:
    """5 widths, 2 depths, 3 lengths: 10 trunks of 3 branches."""
    shapes = [12 * w**2 * k + 8192 * w for w in (128, 192, 256, 384, 512) for k in (4, 8)]
    n, d = (g.ravel() for g in np.meshgrid(shapes, [2e8, 1.2e9, 7.2e9], indexing="ij"))
    return Design(params=n.astype(float), tokens=d, trunk=np.repeat(np.arange(10), 3))


def size_grid() -> Design:
    """6 sizes, 5 lengths."""
    n, d = np.meshgrid(np.geomspace(2e6, 6e7, 6), np.geomspace(2e8, 2e10, 5), indexing="ij")
    return Design(params=n.ravel(), tokens=d.ravel(), trunk=np.repeat(np.arange(6), 5))


def chinchilla_table() -> Design:
    """60 runs scattered over 9 budgets and sizes as in Hoffmann et al. 2022, Fig. 4."""
    random = np.random.default_rng(7)
    budgets = np.repeat(np.geomspace(6e18, 3e21, 9), 7)[:60]
    best, _ = optimum(law, budgets)
    n = best * np.exp(random.uniform(np.log(0.1), np.log(6), 60))
    return Design(params=n, tokens=budgets / (6 * n), trunk=np.arange(60))


def law(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The law itself."""
    e, a, b, alpha, beta = TRUTH
    return e + a / n**alpha + b / d**beta


def transient(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """A start that decays: 0.04 to 0.11 nats at the shortest runs, of a reducible 2 to 3."""
    return law(n, d) + 0.3 * np.exp(-d / 2e8)


def drift_n(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Alpha grows with N, by 0.02 per e-fold."""
    e, a, b, alpha, beta = TRUTH
    u = np.log(n / 1e7)
    return e + a * 1e7**-alpha * np.exp(-alpha * u - 0.01 * u**2) + b / d**beta


def drift_d(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Beta grows with D, by 0.02 per e-fold."""
    e, a, b, alpha, beta = TRUTH
    v = np.log(d / 1e9)
    return e + a / n**alpha + b * 1e9**-beta * np.exp(-beta * v - 0.01 * v**2)


def optimum(surface: Surface, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N* and loss at budgets, by search."""
    grid = np.geomspace(1e5, 1e13, 20_001)
    losses = surface(grid[None], np.asarray(budgets)[:, None] / (6 * grid[None]))
    best = losses.argmin(axis=1)
    return grid[best], losses.min(axis=1)


def quantities(raw: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """ln E, alpha, beta, a, ln N* and ln loss at budgets; raw is (m, 5), scales as logarithms."""
    e, a, b, alpha, beta = raw.T[:, :, None]
    g = (np.log(alpha / beta) + a - b) / (alpha + beta)
    n = g + beta / (alpha + beta) * np.log(budgets / 6)
    loss = np.exp(e) + np.exp(a - alpha * n) + np.exp(b - beta * (np.log(budgets / 6) - n))
    return np.concatenate([e, alpha, beta, beta / (alpha + beta), n, np.log(loss)], axis=1)


def pull(loss, design: Design, truth, cluster, *, widen: bool) -> tuple[np.ndarray, np.ndarray]:
    """(estimate - truth) and the interval's half width, per quantity."""
    problem = FitProblem.of(design.params, design.tokens, loss)
    found = estimate(problem)
    spread = sandwich(found, cluster, LEVEL)
    if widen:
        spread = widen_by_misfit(spread, detect_misfit(found, cluster))
    budgets = np.array(REACH) * (6 * design.params * design.tokens).max()
    raw = np.concatenate([np.log(np.maximum(found.raw[:3], 1e-300)), found.raw[3:]])
    steps = 1e-5 * np.eye(5)
    ends = quantities(np.concatenate([raw + steps, raw - steps]), budgets)
    slope = (ends[:5] - ends[5:]) / 2e-5
    variance = np.einsum("iq,ij,jq->q", slope, spread.covariance, slope)
    error = quantities(raw[None], budgets)[0] - truth
    return error, spread.quantile * np.sqrt(np.maximum(variance, 0.0))


def held(loss, design: Design, truth, cluster) -> np.ndarray:
    """Whether the interval of each quantity by each method holds the truth, (methods, q)."""
    n, d = design.params, design.tokens
    runs = tuple(str(i) for i in range(len(n)))
    table = RunTable(run=runs, params=n, tokens=d, flops=6 * n * d, loss=loss, cluster=cluster)
    found = estimate(FitProblem.of(n, d, loss))
    misfit = detect_misfit(found, cluster)
    budgets = np.array(REACH) * table.flops.max()

    def wanted(theta):
        logs = np.log(np.maximum(theta[:, :3], 1e-300))
        return quantities(np.concatenate([logs, theta[:, 3:]], axis=1), budgets)

    out = []
    points = Points(
        run=runs, params=n, tokens=d, flops=table.flops, loss=loss, residual=found.residual,
        cluster=cluster,
    )  # fmt: skip
    spreads = {}
    for method in ("bca", "wild"):
        spread = estimate_uncertainty(
            found, cluster, interval=method, level=LEVEL, resamples=RESAMPLES, seed=0
        )
        spreads[method] = widen_by_misfit(spread, misfit)
    for method in METHODS:
        options = FitOptions(interval=method, level=LEVEL, resamples=RESAMPLES)
        inputs = interval_inputs(
            found, spreads["wild" if method == "wild" else "bca"], points, options
        )
        low, high = confidence_interval(inputs, wanted)
        out.append((low <= truth) & (truth <= high))
    return np.array(out)


def truths(surface: Surface, design: Design) -> np.ndarray:
    """What the intervals should hold; exponents are those of the law."""
    budgets = np.array(REACH) * (6 * design.params * design.tokens).max()
    exact = quantities(np.concatenate([np.log(TRUTH[:3]), TRUTH[3:]])[None], budgets)[0]
    if surface is law:
        return exact
    n, loss = optimum(surface, budgets)
    return np.concatenate([exact[:1], np.full(3, np.nan), np.log(n), np.log(loss)])


def losses(design: Design, exact, seed: list[int], *, noise: float, bad: float, trunk: float):
    """Seeded sweeps without end: noise of each run, of each trunk, and bad runs."""
    random = np.random.default_rng(seed)
    while True:
        off = noise * random.normal(size=len(exact))
        off += trunk * random.normal(size=design.trunk.max() + 1)[design.trunk]
        off += 0.3 * (random.uniform(size=len(exact)) < bad)
        yield exact * np.exp(off)


def cell_by_method(
    design: Design, *, noise: float, sweeps: int, bad: float = 0.0, trunk: float = 0.0
) -> np.ndarray:
    """Coverage of every quantity by every method, (methods, q); by trunk where it has errors."""
    exact, truth = law(design.params, design.tokens), truths(law, design)
    cluster = design.trunk if trunk else np.arange(len(exact))
    seed = [0, int(1e4 * noise), int(100 * bad), int(1e4 * trunk)]
    drawn = losses(design, exact, seed, noise=noise, bad=bad, trunk=trunk)
    hits = [held(next(drawn), design, truth, cluster) for _ in range(sweeps)]
    return np.mean(hits, axis=0)


def cell(
    design: Design,
    *,
    noise: float,
    sweeps: int,
    bad: float = 0.0,
    trunk: float = 0.0,
    surface: Surface = law,
    widen: bool = True,
    by_trunk: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, median half width and median error of every quantity."""
    exact, truth = surface(design.params, design.tokens), truths(surface, design)
    cluster = design.trunk if by_trunk else np.arange(len(exact))
    start = [seed, int(1e4 * noise), int(100 * bad), int(1e4 * trunk)]
    drawn = losses(design, exact, start, noise=noise, bad=bad, trunk=trunk)
    errors, halves = [], []
    for _ in range(sweeps):
        error, half = pull(next(drawn), design, truth, cluster, widen=widen)
        errors.append(error)
        halves.append(half)
    error, half = np.array(errors), np.array(halves)
    return (np.abs(error) <= half).mean(axis=0), np.median(half, axis=0), np.median(error, axis=0)


DESIGNS = {"isoFLOP 5x6": isoflop_grid, "shapes 5x2x3": shape_grid, "Chinchilla": chinchilla_table}
NOISES, BAD = (0.003, 0.01), (0.0, 0.04)


def heading(first: str) -> None:
    """Head of a Markdown table."""
    print(f"\n| {first} | {' | '.join(QUANTITIES)} | mean |")
    print("| --- |" + " ---: |" * (len(QUANTITIES) + 1))


def row(name: str, coverage: np.ndarray) -> None:
    """One row, in percent."""
    shown = coverage[: len(QUANTITIES)]
    cells = " | ".join("" if np.isnan(c) else f"{100 * c:.0f}" for c in shown)
    print(f"| {name} | {cells} | {100 * np.nanmean(shown):.1f} |", flush=True)


def tables_law(sweeps: int) -> None:
    """The law is right: three designs, two noises, clean and with bad runs."""
    heading("coverage of 90% intervals, %")
    seen = []
    for name, design in DESIGNS.items():
        for noise in NOISES:
            for bad in BAD:
                coverage, *_ = cell(design(), noise=noise, bad=bad, sweeps=sweeps)
                seen.append(coverage)
                row(f"{name}, {noise:.1%}{', 4% bad' if bad else ''}", coverage)
    row("all", np.mean(seen, axis=0))


def tables_trunk(sweeps: int) -> None:
    """Errors shared by trunk, intervals by trunk and, wrongly, by run."""
    heading("coverage, errors shared by trunk")
    for noise in NOISES:
        for bad in BAD:
            for by_trunk in (True, False):
                coverage, *_ = cell(
                    shape_grid(),
                    noise=noise,
                    trunk=noise,
                    bad=bad,
                    sweeps=sweeps,
                    by_trunk=by_trunk,
                )
                tail = "by trunk" if by_trunk else "by run (wrong)"
                row(f"{noise:.1%} and {noise:.1%}{', 4% bad' if bad else ''}, {tail}", coverage)


def tables_methods(sweeps: int) -> None:
    """Every method on the same sweeps: mean and extremes over quantities, then by quantity."""
    print(f"\n| mean coverage [least, most] | {' | '.join(METHODS)} |")
    print("| --- |" + " ---: |" * len(METHODS))
    seen = []
    cells = [(n, d, noise, bad, 0.0) for n, d in DESIGNS.items() for noise in NOISES for bad in BAD]
    cells += [("shapes 5x2x3", shape_grid, noise, bad, noise) for noise in NOISES for bad in BAD]
    for name, design, noise, bad, trunk in cells:
        found = cell_by_method(design(), noise=noise, bad=bad, trunk=trunk, sweeps=sweeps)
        seen.append(found)
        tail = f"{', 4% bad' if bad else ''}{', by trunk' if trunk else ''}"
        shown = (f"{100 * c.mean():.1f} [{100 * c.min():.0f}, {100 * c.max():.0f}]" for c in found)
        print(f"| {name}, {noise:.1%}{tail} | {' | '.join(shown)} |", flush=True)
    heading("all cells, by method")
    for method, coverage in zip(METHODS, np.mean(seen, axis=0), strict=True):
        row(method, coverage)


def tables_surface(sweeps: int) -> None:
    """The surface is not the law."""
    heading("coverage, surface is not the law")
    for surface in (law, transient, drift_n, drift_d):
        for name, design in (("isoFLOP 5x6", isoflop_grid), ("sizes 6x5", size_grid)):
            for noise in (0.001, 0.003):
                for wide in (False, True):
                    coverage, half, error = cell(
                        design(), noise=noise, sweeps=sweeps, surface=surface, widen=wide
                    )
                    known = np.where(np.isnan(truths(surface, design())), np.nan, coverage)
                    tail = "widened" if wide else "plain"
                    row(f"{surface.__name__}, {name}, {noise:.1%}, {tail}", known)


def tables_bad(sweeps: int) -> None:
    """One bad run in 40, its N* at 100 times the budget."""
    design = Design(
        params=np.repeat(np.geomspace(1e7, 1e9, 8), 5),
        tokens=np.tile(np.geomspace(1e9, 5e10, 5), 8),
        trunk=np.arange(40),
    )
    random = np.random.default_rng(0)
    truth = truths(law, design)
    for loss in ("adaptive", "huber", "l2"):
        errors = []
        for _ in range(sweeps):
            off = 0.003 * random.normal(size=40) + 0.3 * (np.arange(40) == random.integers(40))
            problem = FitProblem.of(
                design.params, design.tokens, law(design.params, design.tokens) * np.exp(off)
            )
            raw = estimate(problem, loss=loss).raw
            budgets = np.array(REACH) * (6 * design.params * design.tokens).max()
            logs = np.concatenate([np.log(np.maximum(raw[:3], 1e-300)), raw[3:]])
            errors.append(np.exp(quantities(logs[None], budgets)[0] - truth)[5] - 1)
        low, mid, high = np.percentile(errors, [5, 50, 95])
        print(f"one bad run in 40, {loss}: N* at 100x off by {mid:+.1%} [{low:+.0%}, {high:+.0%}]")


TABLES = {
    "law": tables_law,
    "trunk": tables_trunk,
    "methods": tables_methods,
    "surface": tables_surface,
    "bad": tables_bad,
}


def main() -> None:
    """Print the tables asked for, or all."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    started = time.perf_counter()
    for name in sys.argv[2:] or TABLES:
        TABLES[name](sweeps)
    print(f"\n{sweeps} sweeps a cell, level {LEVEL:.0%}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
