"""What a suggested design gains over an isoFLOP grid, by refitting simulated runs.

`python -m tests.bench.design [SWEEPS]` prints tables in Markdown. The grid has 5 budgets of 6
sizes (1e18-1e20 FLOP, 1/4 to 4 times the optimum). The designs have its FLOPs, number of runs and
range of D/N, no run above its largest, and are made under the law of Besiroglu et al. 2024 whatever
is true. Widths are those of the central 90% of 400 refits; errors against the truth's own optimum.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fit.allocation.allocate import split
from fit.allocation.ladder import constant_cost
from fit.allocation.scaling_law import ScalingLaw
from fit.design.candidates import RunLimits, candidates_of_sizes
from fit.design.prior import DesignPrior, KnownRuns, prior_of_preset
from fit.design.suggest import choose_runs, deviations
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.laws.families import law
from fit.laws.published import preset
from fit.results import Span

NOISE = 0.003
TARGET = 1e22
"""100 times the grid's largest budget."""
LAW, COST = law("chinchilla"), constant_cost()
PRIOR = ScalingLaw.from_preset(preset("besiroglu2024"))
HALF = np.array([0.98, 0.45 * 1e8**0.5, 0.5 * 2e9**0.5, 0.5, 0.5])
"""Exponents as those of tiny models, and the terms of the same size as theirs, 0.5 nats."""
TRUTHS = {
    "besiroglu2024": PRIOR.theta,
    "hoffmann2022": ScalingLaw.from_preset(preset("hoffmann2022")).theta,
    "exponents 0.5": HALF,
}
Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How ln N* and ln L* at the target scatter over refits, (2,) each."""

    width: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    """Root mean square, against the truth."""


def isoflop_grid(theta=PRIOR.theta, low=1e18, high=1e20) -> tuple[np.ndarray, np.ndarray]:
    """N and D of 5 budgets of 6 sizes, 1/4 to 4 times the optimum of each."""
    budgets = np.geomspace(low, high, 5)
    best = np.exp(split(LAW, theta, budgets, COST).log_params)
    n = np.repeat(best, 6) * np.tile(np.geomspace(0.25, 4, 6), 5)
    return n, np.repeat(budgets, 6) / (6 * n)


def suggested(*, least: float = 1.0, most: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """N and D of a design of the grid's cost.

    Args:
        least: Smallest run allowed, in terms of the grid's smallest.
        most: Largest run allowed, in terms of the grid's largest.
    """
    n, d = isoflop_grid()
    flops = 6 * n * d
    limits = RunLimits(
        params=Span(low=1.0, high=1e15),
        tokens=Span(low=1.0, high=1e18),
        flops=Span(low=least * flops.min(), high=most * flops.max()),
        ratio=Span(low=(d / n).min(), high=(d / n).max()),
    )
    candidates = candidates_of_sizes(COST, limits)
    centre = (np.exp(np.log(candidates.params).mean()), np.exp(np.log(candidates.tokens).mean()))
    prior = prior_of_preset(PRIOR, TARGET, centre=centre, noise=NOISE)
    design = choose_runs(prior, candidates, float(flops.sum()), most_runs=len(n))
    return design.params, design.tokens


def refits(n, d, theta, *, sweeps: int, surface: Surface | None = None, seed: int = 0) -> Spread:
    """Simulate runs with noise and refit them, as `isoflop fit` does.

    Args:
        n: N of the runs.
        d: D of the runs.
        theta: The law that is true.
        sweeps: How often.
        surface: What is true in place of the law.
        seed: Of the noise.
    """
    random = np.random.default_rng(seed)
    surface = surface or (lambda n, d: LAW.loss(theta, n, d))
    exact, found = surface(n, d), np.empty((sweeps, 2))
    for row in found:
        loss = exact * np.exp(NOISE * random.standard_normal(len(n)))
        raw = np.maximum(estimate(FitProblem.of(n, d, loss)).raw, 1e-12)
        best = split(LAW, raw, np.array([TARGET]), COST)
        row[:] = best.log_params[0], best.log_loss[0]
    off = found - optimum(surface)
    width = np.subtract(*np.percentile(found, [95, 5], axis=0))
    return Spread(width=width, bias=off.mean(axis=0), error=np.sqrt((off**2).mean(axis=0)))


def optimum(surface: Surface) -> np.ndarray:
    """The true ln N* and ln L* at the target, by search."""
    n = np.geomspace(1e7, 1e13, 100_001)
    loss = surface(n, TARGET / (6 * n))
    return np.log([n[loss.argmin()], loss.min()])


def first_order(n, d, theta) -> np.ndarray:
    """Standard errors of ln N* and ln L* by the linearisation."""
    source = ScalingLaw(name="", law=LAW, theta=theta, convention={}, range={})
    known = KnownRuns(params=n, tokens=d, trunk=np.arange(len(n)))
    prior = DesignPrior(
        source=source, flops=TARGET, thetas=theta[None], noise=NOISE, shared=0.0, known=known
    )
    return deviations(prior, None)


def bent(theta, kind: str) -> Surface:
    """The law, slightly wrong."""
    e, a, b, alpha, beta = theta

    def surface(n, d):
        u, v = np.log(n / 1e8), np.log(d / 2e9)
        small, few = a * n**-alpha, b * d**-beta
        if kind == "alpha drifts":  # by 0.01 per e-fold of N
            small = small * np.exp(-0.005 * u**2)
        if kind == "beta drifts":
            few = few * np.exp(-0.005 * v**2)
        wave = 0.002 * (np.sin(np.pi * u / 2) + np.sin(np.pi * v / 2 + 1))
        return (e + small + few) * np.exp(wave if kind == "a wave of 0.2%" else 0.0)

    return surface


def designs() -> dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """Designs by name, the grid first; a grid is laid about the true optimum."""
    inside, tenth, hundredth = (suggested(least=x) for x in (1.0, 0.1, 0.01))
    larger = suggested(least=0.1, most=2.0)
    return {
        "isoFLOP 5x6": isoflop_grid,
        "isoFLOP 5x6 from 1/10": lambda t: isoflop_grid(t, 1e17, 1.13e20),
        "suggested, runs as the grid's": lambda _: inside,
        "suggested, runs from 1/10": lambda _: tenth,
        "suggested, runs from 1/100": lambda _: hundredth,
        "suggested, runs from 1/10 to 2": lambda _: larger,
    }


def table(title: str, surfaces: dict[str, tuple[np.ndarray, Surface | None]], sweeps: int) -> None:
    """One row per truth and design."""
    made = designs()
    print(
        f"\n| {title} | FLOPs | points | N* width | by first order | L* width | N* error | ", end=""
    )
    print("L* error | N* bias |\n| --- " + "| ---: " * 8 + "|")
    for name, (theta, surface) in surfaces.items():
        base = None
        for design, make in made.items():
            n, d = make(theta)
            spread, linear = (
                refits(n, d, theta, sweeps=sweeps, surface=surface),
                first_order(n, d, theta),
            )
            base = base or (spread, linear, (6 * n * d).sum())
            width, error = spread.width / base[0].width, spread.error / base[0].error
            points = len({(x, y) for x, y in zip(n, d, strict=True)})
            print(
                f"| {name}, {design} | {(6 * n * d).sum() / base[2]:.2f} | {points} | "
                f"{width[0]:.2f} | {linear[0] / base[1][0]:.2f} | {width[1]:.2f} | {error[0]:.2f} "
                f"| {error[1]:.2f} | {spread.bias[0]:+.1%} |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    started = time.perf_counter()
    table("the law is right", {k: (t, None) for k, t in TRUTHS.items()}, sweeps)
    kinds = ("alpha drifts", "beta drifts", "a wave of 0.2%")
    wrong = {k: (PRIOR.theta, bent(PRIOR.theta, k)) for k in kinds}
    table("the law is slightly wrong", wrong, max(2, sweeps // 2))
    print(f"\n{sweeps} refits a row, noise {NOISE:.1%}, target {TARGET:.0e} FLOP; ", end="")
    print(f"ratios to the isoFLOP grid; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
