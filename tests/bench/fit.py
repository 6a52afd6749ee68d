"""The fit: point, bootstrap, growth with runs and resamples, against a plain implementation.

The yardstick is what one writes in an afternoon: scipy's L-BFGS-B on the log-Huber objective in
log-sum-exp form with its analytic gradient, from the papers' grid of 4500 starts for the point and
from the best 4 of 500 starts for each resample (the best of many starts, polished). Both solve the
same resamples, in turns; the yardstick's time on a few is scaled up to all.

`python -m tests.bench.fit` takes the 240 published runs of figure 4 where `ISOFLOP_PUBLISHED_DATA`
or `../shared/data` has them, else 240 synthetic ones.
"""

from __future__ import annotations

import csv
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from fit.estimation.objective import FitProblem
from fit.estimation.solver import Estimate, estimate, solve
from fit.inference.misspecification import detect_misfit
from fit.inference.profile import DevianceSurface, profile
from fit.inference.resampling import (
    _candidates,
    _cloud,
    _refit_resamples,
    bootstrap,
    sandwich,
    wild_bootstrap,
)

DELTA = 1e-3
GRID = list(
    itertools.product(
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 30, 5),
        np.arange(0, 30, 5),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    )
)
"""The papers' starts: e, a, b, alpha, beta; 4500 of them."""


def published() -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Params, tokens and loss of the 240 published runs."""
    folder = Path(os.environ.get("ISOFLOP_PUBLISHED_DATA", "../shared/data"))
    path = folder / "chinchilla-figure4.csv"
    if not path.exists():
        return None
    rows = [r for r in csv.DictReader(path.open()) if r["outlier_epoch"] != "1"]
    n, d, loss = (np.array([float(r[k]) for r in rows]) for k in ("params", "tokens", "loss"))
    return n, d, loss


def synthetic(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs spread over sizes and lengths, 1% noise, 2% of them bad."""
    random = np.random.default_rng(seed)
    n = np.exp(random.uniform(np.log(5e7), np.log(1.5e10), count))
    d = np.exp(random.uniform(np.log(5e9), np.log(3e11), count))
    noise = 0.01 * random.normal(size=count) + 0.1 * (random.uniform(size=count) < 0.02)
    return n, d, (1.8172 + 482.01 / n**0.3478 + 2085.43 / d**0.3658) * np.exp(noise)


def plain_objective(theta, x, z, y, weights):
    """Log-Huber and its gradient, for one theta on raw logarithms."""
    terms = np.stack([np.full_like(x, theta[0]), theta[1] - theta[3] * x, theta[2] - theta[4] * z])
    m = logsumexp(terms, axis=0)
    e, a, b = np.exp(terms - m)
    r = y - m
    near = np.abs(r) <= DELTA
    loss = np.where(near, 0.5 * r**2, DELTA * (np.abs(r) - 0.5 * DELTA))
    c = -weights * np.clip(r, -DELTA, DELTA)
    return weights @ loss, np.array([c @ e, c @ a, c @ b, -c @ (a * x), -c @ (b * z)])


def plain_solve(starts, data, weights):
    """The best of L-BFGS-B from several starts."""
    found = (
        minimize(
            plain_objective,
            start,
            args=(*data, weights),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-10},
        )
        for start in starts
    )
    return min(found, key=lambda r: r.fun)


def best_starts(starts, data, weights, count):
    """Those of the lowest objective."""
    costs = [plain_objective(np.array(s), *data, weights)[0] for s in starts]
    return [starts[i] for i in np.argsort(costs)[:count]]


def resampled(found: Estimate, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of resamples, and their objective by our batched solver."""
    runs = len(found.residual)
    random = np.random.default_rng(0)
    cloud = _cloud(found, random)
    weights = random.multinomial(runs, np.full(runs, 1 / runs), size=count).astype(float)
    return weights, _refit_resamples(found, weights, cloud, _candidates(found, cloud)).value


def against_plain(data, resamples: int = 4000, tried: int = 12, rounds: int = 5) -> None:
    """Point fit and bootstrap in turns with the yardstick."""
    problem = FitProblem.of(*data)
    raw = tuple(np.log(v) for v in data)
    ones = np.ones(len(raw[0]))
    random = np.random.default_rng(1)
    some = [GRID[i] for i in random.choice(len(GRID), 45, replace=False)]
    few = [GRID[i] for i in random.choice(len(GRID), 500, replace=False)]
    found = estimate(problem, loss="huber", delta=DELTA)
    weights, ours_at = resampled(found, resamples)
    times: dict[str, list[float]] = {"point": [], "bootstrap": [], "grid": []}
    times |= {"resample": [], "one start": []}
    worse, gaps = 0, []
    for k in range(rounds):
        times["point"].append(timed(lambda: estimate(problem, loss="huber", delta=DELTA)))
        times["grid"].append(timed(lambda k=k: plain_solve(some[k::rounds], raw, ones)))
        times["bootstrap"].append(
            timed(lambda: bootstrap(found, np.arange(len(ones)), resamples, 0))
        )
        for i in range(k, tried, rounds):
            started = time.perf_counter()
            other = plain_solve(best_starts(few, raw, weights[i], 4), raw, weights[i])
            times["resample"].append(time.perf_counter() - started)
            start = [np.log(found.raw[:3]).tolist() + found.raw[3:].tolist()]
            times["one start"].append(timed(lambda s=start, i=i: plain_solve(s, raw, weights[i])))
            gaps.append(ours_at[i] / other.fun - 1)
            worse += ours_at[i] > other.fun * (1 + 1e-9)
    point, boot = (statistics.median(times[k]) for k in ("point", "bootstrap"))
    grid = sum(times["grid"]) / len(some) * len(GRID)
    print(f"{len(ones)} runs, log-Huber delta {DELTA:g}, medians of {rounds} in turns")
    print(f"point fit {point * 1e3:6.1f} ms; plain, 4500 starts {grid:.1f} s: {grid / point:.0f}x")
    for name in ("resample", "one start"):
        plain = statistics.mean(times[name]) * resamples
        shown = "4 of 500 starts" if name == "resample" else "1 start, at the point fit"
        print(f"bootstrap {boot:6.2f} s;  plain, {shown} {plain:.0f} s: {plain / boot:.0f}x")
    print(
        f"objective: {worse} of {tried} resamples worse than plain; ours/plain - 1 from "
        f"{min(gaps):.1e} to {max(gaps):.1e}"
    )


def cross_examined(data, resamples: int = 4000, checked: int = 150, starts: int = 330) -> None:
    """Resamples solved again from hundreds of starts: how many had missed the minimum?"""
    found = estimate(FitProblem.of(*data), loss="huber", delta=DELTA)
    weights, ours = resampled(found, resamples)
    random = np.random.default_rng(2)
    thetas = np.column_stack(
        [
            random.uniform(-1.0, 1.0, starts),
            random.uniform(-4.0, 1.0, (starts, 2)),
            random.uniform(0.05, 2.0, (starts, 2)),
        ]
    )
    missed = 0
    for i in random.choice(resamples, checked, replace=False):
        again = solve(
            found.problem,
            thetas,
            np.repeat(weights[i : i + 1], starts, axis=0),
            found.loss,
            found.family,
        )
        missed += ours[i] > again.value.min() * (1 + 1e-9)
    print(
        f"{checked} resamples solved again from {starts} starts each: {missed} had a lower minimum"
    )


def growth() -> None:
    """Cost as runs and resamples grow; each row a process of its own, for its peak of memory."""
    print(
        "\nprocessor seconds; covariance: with the misfit's test; profile: both ends of 4 numbers\n"
        "    runs resamples  point  covariance  profile   pairs    wild  peak [MB]"
    )
    for runs, resamples in (
        (0, 0),
        (30, 1000),
        (300, 1000),
        (3000, 1000),
        (30_000, 1000),
        (240, 100),
        (240, 1000),
        (240, 4000),
        (240, 10_000),
        (240, 100_000),
    ):
        subprocess.run(
            [sys.executable, "-m", "tests.bench.fit", str(runs), str(resamples)], check=True
        )


def one(runs: int, resamples: int) -> None:
    """One row of the growth table; without runs, an empty process."""
    spent = [0.0] * 5
    if runs:
        data = synthetic(runs)
        problem, rows = FitProblem.of(*data), np.arange(runs)
        estimate(problem)
        found = estimate(problem)
        made = sandwich(found, rows, 0.9)
        surface = DevianceSurface(
            problem=problem,
            weights=found.weights,
            loss=found.loss,
            theta=found.theta,
            basis=np.eye(5),
            covariance=_internal(found, made.covariance),
            places=(0, 1, 2, 3, 4),
        )
        work = (
            lambda: estimate(problem),
            lambda: (sandwich(found, rows, 0.9), detect_misfit(found, rows)),
            lambda: profile(surface, lambda t: np.log(t[:, [0, 3, 4, 1]]), made.quantile),
            lambda: bootstrap(found, rows, resamples, 0),
            lambda: wild_bootstrap(found, rows, resamples, 0),
        )
        spent = [timed(w, time.process_time) for w in work]
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's, too
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    point, covariance, profiled, pairs, wild = spent
    print(
        f"{runs:8d} {resamples:9d} {point:6.3f} {covariance:11.3f} {profiled:8.3f} {pairs:7.2f} "
        f"{wild:7.2f} {peak:10.0f}",
        flush=True,
    )


def _internal(found: Estimate, covariance: np.ndarray) -> np.ndarray:
    """A covariance of ln E and the rest on raw counts, of E and the solver's others."""
    inverse = np.linalg.inv(found.problem.log_raw_jacobian())
    unit = np.array([found.raw[0], 1, 1, 1, 1])
    return unit[:, None] * (inverse @ covariance @ inverse.T) * unit


def timed(call, clock=time.perf_counter) -> float:
    """Seconds of a call, by the wall or another clock."""
    started = clock()
    call()
    return clock() - started


def main() -> None:
    """Print the tables."""
    data = published() or synthetic(240)
    against_plain(data)
    cross_examined(data)
    growth()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
