"""Competitors of the league: each is fitted to runs and forecasts losses and N*.

A competitor is a function (params, tokens, loss, flops, cluster) -> `Forecaster`, all arguments of
shape (runs,). To enter another, add it to `COMPETITORS`; a public package goes to `league_peer`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit, minimize
from scipy.special import logsumexp

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.inference.intervals import derived_interval

PLAIN = {"discrepancy": "none"}
"""Options of the additive law with its plain intervals."""
DELTA = 1e-3
STARTS = [
    (e, a, b, s, t)
    for e in (-1.0, 0.0, 0.5)
    for a in (0.0, 5.0, 10.0, 20.0)
    for b in (0.0, 5.0, 10.0, 20.0)
    for s in (0.2, 0.5, 1.0)
    for t in (0.2, 0.5, 1.0)
]
"""A coarser grid than the papers' 4500 starts; the best 6 by objective are minimised."""
POLISHED = 6
LEAST_SIZES = 4
SAME_BUDGET = 1.1
PEER = Path(__file__).with_name("league_peer.py")
PACKAGES = ("chinchilla-package", "simple-scaling-laws", "vpnls")


class NotRun(Exception):
    """A competitor cannot run here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecaster:
    """A fitted competitor."""

    predict: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
    """(params, tokens) to median, low and high [nats/token]; nan where there is no interval."""
    optimum: Callable[[float], tuple[float, float, float] | None]
    """A budget [FLOP] to N* and its interval [parameters]."""
    seconds: float | None = None
    """Of the fit, where the caller cannot measure it."""


Competitor = Callable[..., Forecaster]


def _isoflop(options: dict[str, Any], params, tokens, loss, flops, cluster) -> Forecaster:
    """A fit through the public interface, without draws: no figure of the league rests on them.

    Losses are predicted as by `isoflop.predict`, all at once.
    """
    columns = {"params": params, "tokens": tokens, "loss": loss, "flops": flops}
    table = pd.DataFrame({**columns, "cluster": cluster})
    fit = isoflop.fit(isoflop.load(table, cluster="cluster"), resamples=0, **options)
    source = ScalingLaw.of(fit)

    def predict(n, d):
        losses = source.log_losses(n, d)
        middle = np.exp(losses(source.theta[None])[0])
        return middle, *derived_interval(fit, losses, next_run=True)

    def optimum(budget):
        number = isoflop.query(fit, budget, force=True).params
        low, high = (np.nan if v is None else v for v in (number.low, number.high))
        return number.value, low, high

    return Forecaster(predict=predict, optimum=optimum)


def default_fit(params, tokens, loss, flops, cluster) -> Forecaster:
    """The default fit."""
    return _isoflop({}, params, tokens, loss, flops, cluster)


def additive_law(params, tokens, loss, flops, cluster) -> Forecaster:
    """The additive law with its plain intervals."""
    return _isoflop(PLAIN, params, tokens, loss, flops, cluster)


def additive_forecaster(theta, params, tokens, flops, seconds=None) -> Forecaster:
    """The forecasts of E, A, B, alpha, beta on raw counts, without intervals."""
    e, a, b, alpha, beta = theta
    per = float(np.median(flops / (params * tokens)))

    def predict(n, d):
        median = e + a * n**-alpha + b * d**-beta
        return median, np.full(len(n), np.nan), np.full(len(n), np.nan)

    def optimum(budget):
        if min(a, b, alpha, beta) <= 0:
            return None
        log = np.log(alpha * a / (beta * b)) + beta * np.log(budget / per)
        return float(np.exp(log / (alpha + beta))), np.nan, np.nan

    return Forecaster(predict=predict, optimum=optimum, seconds=seconds)


def huber(params, tokens, loss, flops, cluster) -> Forecaster:
    """Approach 3 as it is in papers: L-BFGS on the log-Huber objective from a grid of starts.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3.
    """
    x, y, z = np.log(params), np.log(tokens), np.log(loss)

    def objective(p):
        terms = np.stack([p[1] - p[3] * x, p[2] - p[4] * y, np.full(len(x), p[0])])
        total = logsumexp(terms, axis=0)
        r, share = total - z, np.exp(terms - total)
        pull = np.clip(r, -DELTA, DELTA)
        value = np.where(np.abs(r) < DELTA, r**2 / 2, DELTA * (np.abs(r) - DELTA / 2)).sum()
        slopes = [share[2], share[0], share[1], -share[0] * x, -share[1] * y]
        return value / DELTA, np.array([(pull * s).sum() for s in slopes]) / DELTA

    best = sorted(STARTS, key=lambda s: objective(np.array(s))[0])[:POLISHED]
    runs = [minimize(objective, s, jac=True, method="L-BFGS-B") for s in best]
    e, a, b, alpha, beta = min(runs, key=lambda r: r.fun).x
    theta = (np.exp(e), np.exp(a), np.exp(b), alpha, beta)
    return additive_forecaster(theta, params, tokens, flops)


def approach2(params, tokens, loss, flops, cluster) -> Forecaster:
    """IsoFLOP parabolas: N* by a power law of compute, its loss by E + K C^-g, extrapolated.

    Off the valley the loss rises by the median curvature of the parabolas. No intervals.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.2.
    """
    found, order = [], np.argsort(flops)
    while len(order):
        same = flops[order] <= flops[order[0]] * SAME_BUDGET
        group, order = order[same], order[~same]
        if len(set(params[group])) < LEAST_SIZES:
            continue
        x = np.log(params[group])
        c2, c1, c0 = np.polyfit(x - x.mean(), loss[group], 2)
        place = -c1 / (2 * c2) if c2 > 0 else np.inf
        if x.min() <= place + x.mean() <= x.max():
            low = c0 - c1**2 / (4 * c2)
            found.append((np.log(flops[group]).mean(), place + x.mean(), low, c2))
    if len(found) < 2:
        raise ValueError(f"{len(found)} budgets of 4 sizes have a valley; 2 are needed")
    c, best, least, curvature = np.array(found).T
    slope, start = np.polyfit(c, best, 1)
    middle = c.mean()
    if len(c) >= 4:
        guess = (0.7 * least.min(), least.mean() - 0.7 * least.min(), 0.1)
        bounds = ([0, 0, 0.01], [least.min(), np.inf, 1.0])

        def law(v, e, k, g):
            return e + k * np.exp(-g * (v - middle))

        e, k, g = curve_fit(law, c, least, guess, bounds=bounds, max_nfev=20000)[0]
    else:
        rate, level = np.polyfit(c - middle, np.log(least), 1)
        e, k, g = 0.0, np.exp(level), -rate
    per, bend = float(np.median(flops / (params * tokens))), float(np.median(curvature))

    def predict(n, d):
        budget = np.log(per * n * d)
        off = np.log(n) - (start + slope * budget)
        median = e + k * np.exp(-g * (budget - middle)) + bend * off**2
        return median, np.full(len(n), np.nan), np.full(len(n), np.nan)

    def optimum(budget):
        return float(np.exp(start + slope * np.log(budget))), np.nan, np.nan

    return Forecaster(predict=predict, optimum=optimum)


COMPETITORS: dict[str, Competitor] = {
    "isoflop": default_fit,
    "chinchilla": additive_law,
    "huber": huber,
    "approach2": approach2,
}


def ask(peer: subprocess.Popen[str], request: dict[str, Any]) -> dict[str, Any]:
    """One line of JSON to a process of `league_peer`, and its answer.

    Raises:
        NotRun: The process ended, or its package is not installed.
        ValueError: The package failed.
    """
    assert peer.stdin and peer.stdout
    try:
        peer.stdin.write(json.dumps(request) + "\n")
        peer.stdin.flush()
        answer = json.loads(peer.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError) as error:
        raise NotRun("the process of the package ended") from error
    if "missing" in answer:
        peer.communicate()  # closes its pipes, on which it ends
        raise NotRun(answer["missing"])
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


def peers(python: str | None) -> dict[str, Competitor]:
    """The public packages, each a process of its own that reads and writes lines of JSON."""
    processes: dict[str, subprocess.Popen[str]] = {}

    def play(package, params, tokens, loss, flops, cluster) -> Forecaster:
        if python is None:
            raise NotRun("no environment of public packages was named (--peers)")
        if package not in processes:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            pipes["stderr"] = subprocess.DEVNULL
            command = [python, str(PEER), package]
            processes[package] = subprocess.Popen(command, text=True, **pipes)
        peer = processes[package]
        table = {"params": params, "tokens": tokens, "loss": loss}
        request = {k: v.tolist() for k, v in table.items()}
        answer = ask(peer, {**request, "per": float(np.median(flops / (params * tokens)))})
        seconds = answer["seconds"]
        if not answer["intervals"]:
            return additive_forecaster(answer["theta"], params, tokens, flops, seconds)

        def predict(n, d):
            return np.array(ask(peer, {"predict": [n.tolist(), d.tolist()]})["numbers"])

        def optimum(budget):
            return tuple(ask(peer, {"optimum": budget})["numbers"])

        return Forecaster(predict=predict, optimum=optimum, seconds=seconds)

    def entry(package: str) -> Competitor:
        return lambda *columns: play(package, *columns)

    return {package: entry(package) for package in PACKAGES}
