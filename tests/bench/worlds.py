"""Forecasts in simulated worlds: ten surfaces that are not the law, and the law.

`python -m tests.bench.worlds [SWEEPS]` prints a table in Markdown, as it stands in
docs/calibration.md: how often 90% intervals of N* and of the best loss at 10 and 100 times the
largest budget hold the truth, and their half-widths in percent, by the forecast and by the law as
it is (`--discrepancy none`). Sweeps of 0.3% noise on three designs.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from fit.data.table import RunTable
from fit.inference.forecast import forecast
from fit.inference.intervals import offset
from fit.inference.profile import axes_of, slopes_along
from fit.laws.families import law as family
from fit.laws.forecast import FORECAST, Frame, forecast_law
from tests.bench.calibrate import (
    LEVEL,
    REACH,
    TRUTH,
    Design,
    Surface,
    drift_d,
    drift_n,
    isoflop_grid,
    law,
    losses,
    optimum,
    pull,
    size_grid,
    transient,
    truths,
)

NOISE = 0.003
E, A, B, ALPHA, BETA = TRUTH


def outer(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """An outer exponent of 0.6, as in public sweeps."""
    sides = (A / n**ALPHA) ** (1 / 0.6) + (B / d**BETA) ** (1 / 0.6)
    return E + sides**0.6


def blunt(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """An outer exponent of 1.3."""
    return E + ((A / n**ALPHA) ** (1 / 1.3) + (B / d**BETA) ** (1 / 1.3)) ** 1.3


def coupled(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The exponent of D falls slowly with N, as in Farseer's law."""
    return E + A / n**ALPHA + B * 1e9**-BETA * (d / 1e9) ** -(BETA - 0.015 * np.log(n / 1e7))


def joint(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Kaplan's form, without an irreducible loss."""
    return ((8e13 / n) ** (0.076 / 0.103) + 2e13 / d) ** 0.103


def broken(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The exponent of N falls from 0.40 to 0.28 about 3e7 parameters."""
    at = 3e7
    return E + A * at**-ALPHA * (n / at) ** -0.40 * ((1 + n / at) / 2) ** 0.12 + B / d**BETA


def untuned(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Larger models are trained worse: 1% of the loss per e-fold beyond 3e7, squared."""
    return law(n, d) * (1 + 0.01 * np.maximum(np.log(n / 3e7), 0) ** 2)


def starved(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Models with few tokens per parameter pay for it."""
    return law(n, d) + 0.05 * np.sqrt(n / d)


WORLDS: tuple[Surface, ...] = (
    *(law, outer, blunt, coupled, joint, broken, untuned, starved),
    *(transient, drift_n, drift_d),
)


def scattered() -> Design:
    """Forty runs scattered over two decades of compute."""
    random = np.random.default_rng(3)
    budgets = np.exp(random.uniform(np.log(1e18), np.log(1e20), 40))
    best, _ = optimum(law, budgets)
    n = best * np.exp(random.uniform(np.log(0.15), np.log(6), 40))
    return Design(params=n, tokens=budgets / (6 * n), trunk=np.arange(40))


DESIGNS = {"isoFLOP 5x6": isoflop_grid, "sizes 6x5": size_grid, "scattered 40": scattered}


def ahead(loss: np.ndarray, design: Design, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(forecast - truth) and half-width of ln N* and ln L at the budgets of `REACH`, (4,) each."""
    n, d = design.params, design.tokens
    runs = tuple(str(i) for i in range(len(n)))
    table = RunTable(
        run=runs, params=n, tokens=d, flops=6 * n * d, loss=loss, cluster=np.arange(len(n))
    )
    found = forecast(table, LEVEL)
    assert found is not None
    wide = forecast_law(Frame(**found.frame), family("chinchilla"))
    theta = np.array(list(found.theta.values()))
    products = np.log(np.array(REACH) * table.flops.max() / 6)

    def wanted(thetas: np.ndarray) -> np.ndarray:
        sizes = np.stack([wide._log_optimum(thetas, p) for p in products], axis=-1)
        logs = np.log(wide.loss(thetas[:, None], np.exp(sizes), np.exp(products - sizes)))
        return np.concatenate([sizes, logs], axis=-1)

    slopes = slopes_along(
        lambda steps: wanted(offset(FORECAST, theta, steps)), axes_of(found.covariance)
    )
    half = found.quantile * np.sqrt((slopes**2).sum(axis=0))
    return wanted(theta[None])[0] - truth, half


def cell(surface: Surface, design: Design, sweeps: int) -> np.ndarray:
    """Coverage and median half-width of the four quantities, by the forecast and by the law."""
    exact, truth = surface(design.params, design.tokens), truths(surface, design)
    drawn = losses(design, exact, [5], noise=NOISE, bad=0.0, trunk=0.0)
    out = []
    for _ in range(sweeps):
        loss = next(drawn)
        plain = pull(loss, design, truth, np.arange(len(exact)), widen=True)
        out.append((ahead(loss, design, truth[4:]), tuple(v[4:] for v in plain)))
    error, half = np.moveaxis(np.array(out), 2, 0)  # (sweeps, 2, 4) each
    return np.stack([(np.abs(error) <= half).mean(axis=0), np.median(half, axis=0)])


def main() -> None:
    """Print the table, a row per surface and a mean over the wrong ones."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    started = time.perf_counter()
    names = ("N* 10x", "N* 100x", "L 10x", "L 100x")
    print("| surface | " + " | ".join(f"{n}: forecast, law" for n in names) + " |")
    print("| --- |" + " --- |" * len(names))
    wrong = []
    for surface in WORLDS:
        cells = np.mean([cell(surface, d(), sweeps) for d in DESIGNS.values()], axis=0)
        if surface is not law:
            wrong.append(cells)
        show(surface.__name__, cells)
    show("ten wrong ones", np.mean(wrong, axis=0))
    print(f"\n{sweeps} sweeps of three designs each, {time.perf_counter() - started:.0f} s")


def show(name: str, cells: np.ndarray) -> None:
    """One row: coverage and half-width by the forecast, then by the law."""
    parts = []
    for i in range(cells.shape[-1]):
        both = (f"{cells[0, k, i]:.0%} ±{100 * cells[1, k, i]:.2g}%" for k in (0, 1))
        parts.append(", ".join(both))
    print(f"| {name} | {' | '.join(parts)} |", flush=True)


if __name__ == "__main__":
    main()
