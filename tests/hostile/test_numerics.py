"""Degenerate tables of runs, by law, interval and loss: refused in words, or declared as they are.

A fit that is taken states finite parameters, intervals that hold their estimates and have a width
wherever the runs scatter, and names what it does not determine. Tables are made here, in memory.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fit.data.table import RunTable
from fit.fitting import FitOptions, fit_table
from fit.inference.intervals import METHODS
from fit.laws.families import LAWS
from fit.results import Fit
from tests.hostile.outcomes import Case, Reply, check_outcome

pytestmark = pytest.mark.slow
SECONDS = 20.0
"""Of one core, for 25 runs; the longest took 8."""
SIZES, LENGTHS = np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e10, 5)
Columns = dict[str, np.ndarray]


def make_runs(seed: int = 0, *, noise: float = 0.003, floor: float = 1.8) -> Columns:
    """A grid of 25 runs on the two-term law."""
    params, tokens = np.repeat(SIZES, 5), np.tile(LENGTHS, 5)
    law = floor + 400 / params**0.34 + 1200 / tokens**0.36
    loss = law * np.exp(noise * np.random.default_rng(seed).standard_normal(25))
    return {"params": params, "tokens": tokens, "loss": loss}


def make_table(runs: Columns) -> RunTable:
    """The table of runs, with a shape and unique tokens, each a cluster unless said."""
    n = len(runs["loss"])
    core = {"params", "tokens", "loss", "flops", "cluster"}
    columns = {
        "width": np.maximum(np.sqrt(np.abs(np.nan_to_num(runs["params"], posinf=1e9))) // 5, 1.0),
        "depth": 2.0 + np.arange(n) % 3,
        "unique_tokens": np.full(n, 1e9),
        "params_total": runs["params"] * (1.0 + np.arange(n) % 4),
    }
    return RunTable(
        run=tuple(f"r{i}" for i in range(n)),
        params=runs["params"],
        tokens=runs["tokens"],
        flops=runs.get("flops", 6 * runs["params"] * runs["tokens"]),
        loss=runs["loss"],
        cluster=runs.get("cluster", np.arange(n)),
        columns={**columns, **{k: v for k, v in runs.items() if k not in core}},
    )


def changed(**given: Callable[[Columns], np.ndarray]) -> Columns:
    """The grid with columns replaced by functions of it."""
    runs = make_runs()
    return {**runs, **{name: np.asarray(f(runs), dtype=float) for name, f in given.items()}}


def with_value(name: str, value: float) -> Columns:
    """The grid with one cell of a column set."""
    return changed(**{name: lambda r: np.where(np.arange(25) == 3, value, r.get(name, 1.0))})


def repeated(times: int, jitter: float, digits: int | None = None) -> Columns:
    """Each run several times, its loss off by a relative error or rounded."""
    runs, place = make_runs(), np.tile(np.arange(25), times)
    out = {k: v[place] for k, v in runs.items()}
    error = jitter * np.random.default_rng(1).standard_normal(len(place))
    loss = out["loss"] * (1 + error * (np.arange(len(place)) >= 25))
    if digits is not None:
        loss = np.where(np.arange(len(place)) >= 25, loss.round(digits), loss)
    return {**out, "loss": loss}


def noisy(f: Callable[[Columns], np.ndarray], noise: float = 0.003) -> Columns:
    """The grid with other losses, and noise on them."""
    random = np.random.default_rng(2).standard_normal(25)
    return changed(loss=lambda r: f(r) * np.exp(noise * random))


TAKEN: dict[str, tuple[Columns, tuple[str, ...]]] = {
    # what the table is, and codes of notes one of which must be said; none: nothing is wrong
    "plain": (make_runs(), ()),
    "no_noise": (make_runs(noise=0.0), ()),
    "no_e": (make_runs(floor=0.0), ("e_not_needed", "e_at_zero")),
    "no_e_no_noise": (make_runs(floor=0.0, noise=0.0), ("e_at_zero",)),
    "hardly_e": (make_runs(floor=1e-4, noise=0.01), ("e_not_needed", "e_at_zero")),
    "narrow": (
        noisy(lambda r: 1.8 + 400 / (1e6 * (r["params"] / 1e6) ** 0.2) ** 0.34 + 0 * r["tokens"]),
        ("not_determined",),
    ),
    "only_noise": (noisy(lambda r: 3 + 0 * r["loss"], 0.01), ("not_determined",)),
    "no_params": (noisy(lambda r: 1.8 + 1200 / r["tokens"] ** 0.36), ("not_determined",)),
    "no_tokens": (noisy(lambda r: 1.8 + 400 / r["params"] ** 0.34), ("not_determined",)),
    "rising_params": (noisy(lambda r: 1.8 + 0.01 * r["params"] ** 0.2), ("rising_loss",)),
    "rising_tokens": (noisy(lambda r: 1.8 + 0.01 * r["tokens"] ** 0.2), ("rising_loss",)),
    "rising_both": (changed(loss=lambda r: 9 / r["loss"]), ("rising_loss",)),
    "outlier": (
        changed(loss=lambda r: r["loss"] * np.where(np.arange(25) == 7, 1e3, 1)),
        ("outlier",),
    ),
    "outlier_below": (
        changed(loss=lambda r: r["loss"] / np.where(np.arange(25) == 7, 1e3, 1)),
        ("outlier",),
    ),
    "huge_unit": (changed(loss=lambda r: r["loss"] * 1e12), ("loss_units",)),
    "tiny_unit": (changed(loss=lambda r: r["loss"] * 1e-12), ()),
    "all_sizes": (
        changed(params=lambda r: r["params"] ** 7.5 / 1e45, tokens=lambda r: r["tokens"] ** 5),
        ("units",),
    ),
    "one_cluster": (changed(cluster=lambda r: 0 * r["loss"]), ("one_cluster",)),
    "two_clusters": (changed(cluster=lambda r: np.arange(25) // 13), ("few_clusters",)),
    "clusters_of_sizes": (changed(cluster=lambda r: np.arange(25) // 5), ("few_clusters",)),
    "constant_ratio": (
        noisy(lambda r: r["loss"])
        | {"tokens": np.geomspace(2e7, 2e9, 25)}
        | {"params": np.geomspace(1e6, 1e8, 25)},
        ("constant_ratio",),
    ),
    "two_sizes": ({k: v[:10] for k, v in make_runs().items()}, ("few_params",)),
    "two_lengths": (
        {k: v[np.arange(25) % 5 < 2] for k, v in make_runs().items()},
        ("few_tokens",),
    ),
    "copies": (repeated(8, 1e-9), ("dropped",)),
    "many_copies": (repeated(400, 1e-9), ("dropped",)),
    "jittered": (repeated(3, 1e-5), ("copies",)),
    "rounded": (repeated(2, 0.0, 4), ("copies",)),
    "coarse": (changed(loss=lambda r: r["loss"].round(1)), ()),
    "light_weights": (changed(weight=lambda r: np.full(25, 1e-300)), ()),
    "heavy_weights": (changed(weight=lambda r: np.full(25, 1e300)), ()),
    "weight_of_nothing": (with_value("weight", 1e-300), ()),
    "infinite_loss": (with_value("loss", math.inf), ("dropped",)),
    "absent_loss": (with_value("loss", math.nan), ("dropped",)),
}
REFUSED: dict[str, tuple[Columns, tuple[str, ...]]] = {
    "constant": (changed(loss=lambda r: 3 + 0 * r["loss"]), ("one value, 3",)),
    "nearly_constant": (
        changed(loss=lambda r: 3 + 1e-9 * r["loss"]),
        ("one value", "look at the column"),
    ),
    "two_losses": (
        changed(loss=lambda r: np.where(r["params"] > 1e7, 2.5, 3.0)),
        ("2 different values",),
    ),
    "one_size": (
        {**changed(params=lambda r: 1e7 + 0 * r["loss"]), "tokens": np.geomspace(1e8, 1e10, 25)},
        ("one value of sizes",),
    ),
    "one_length": (
        {**changed(tokens=lambda r: 1e9 + 0 * r["loss"]), "params": np.geomspace(1e6, 1e8, 25)},
        ("one value of lengths",),
    ),
    "five_points": ({k: v[::6] for k, v in make_runs().items()}, ("needs 6 distinct",)),
    "copies_of_five": (
        {k: np.tile(v[::6], 9) for k, v in make_runs().items()},
        ("needs 6 distinct",),
    ),
    "one_heavy": (with_value("weight", 1e6), ("1.0 effective runs of 25", "--weight none")),
    "three_heavy": (
        changed(weight=lambda r: np.where(np.arange(25) < 3, 1e6, 1.0)),
        ("3.0 effective runs",),
    ),
    "wild_weights": (
        changed(weight=lambda r: 10 ** np.random.default_rng(3).uniform(-9, 9, 25)),
        ("effective runs",),
    ),
    "negative_weight": (with_value("weight", -1.0), ("weight of run r3 is -1",)),
    "absent_weight": (with_value("weight", math.nan), ("finite weights",)),
    "no_weights": (changed(weight=lambda r: 0 * r["loss"]), ("every weight is 0",)),
    "zero_loss": (with_value("loss", 0.0), ("loss of run r3 is 0", "--where 'loss > 0'")),
    "negative_loss": (with_value("loss", -2.0), ("loss of run r3 is -2",)),
    "absent_params": (with_value("params", math.nan), ("params of run r3 is nan",)),
    "infinite_tokens": (with_value("tokens", math.inf), ("tokens of run r3 is inf",)),
    "zero_tokens": (with_value("tokens", 0.0), ("tokens of run r3 is 0",)),
    "negative_params": (with_value("params", -1e6), ("params of run r3",)),
    "zero_flops": (
        changed(flops=lambda r: 6 * r["params"] * r["tokens"] * (np.arange(25) != 3)),
        ("flops of run r3 is 0",),
    ),
}


def fitted(runs: Columns, **options: str) -> Callable[[Path], object]:
    """Fit a table, every warning of numpy an error, within the time allowed."""

    def run(_: Path) -> Fit:
        draws = METHODS[options.get("interval", "hc3")].needs_draws
        begun = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit = fit_table(make_table(runs), FitOptions(resamples=200 if draws else 0, **options))
        assert time.process_time() - begun < SECONDS
        return Fit.from_json(fit.to_json())

    return run


def sound(*codes: str, exact: bool = False) -> Callable[[Reply], None]:
    """A check that a fit says what it knows: `codes` of notes, one of which it must have."""

    def check(reply: Reply) -> None:
        fit = reply.value
        assert isinstance(fit, Fit)
        said = {note.code for note in fit.notes}
        assert not codes or said & set(codes), (codes, said)
        open_ = set()
        for name, value in {**fit.theta, **fit.exponents}.items():
            low, high = fit.interval.bounds[name]
            assert not math.isnan(low + high) or (low, high) == (-math.inf, math.inf)
            tied = fit.law == "tied" and name in "ab"
            if (low, high) == (-math.inf, math.inf):
                open_.add(name)
            elif not (exact or tied):
                assert high - low > 1e-9 * abs(value), (name, low, value, high)
            if fit.interval.method in ("hc3", "profile"):
                assert low <= value * (1 + 1e-6) + 1e-9 and value * (1 - 1e-6) <= high + 1e-9
        assert bool(open_) == ("not_determined" in said), (open_, said)
        if fit.status == "at_bound":  # what lies on a bound is never known from both sides
            at = [n for n in fit.notes if n.code in ("at_bound", "e_at_zero")]
            assert at, said

    return check


def _cases() -> list[Case]:
    """Every table under the default; then laws, intervals and losses over some of them."""
    cases = [
        Case(name=name, run=fitted(runs), taken=sound(*codes, exact=name.endswith("no_noise")))
        for name, (runs, codes) in TAKEN.items()
    ]
    cases += [
        Case(name=name, run=fitted(runs), refused=words) for name, (runs, words) in REFUSED.items()
    ]
    for method in METHODS:
        for name in ("no_e", "no_params", "rising_both", "two_sizes", "outlier", "jittered"):
            runs, codes = TAKEN[name]
            run = fitted(runs, interval=method)
            cases.append(Case(name=f"{name}-{method}", run=run, taken=sound(*codes)))
        if METHODS[method].needs_draws:
            run = fitted(TAKEN["one_cluster"][0], interval=method)
            cases.append(Case(name=f"one_cluster-{method}", run=run, refused=("clusters",)))
    for law in ("tied", "no-e", "kaplan", "outer", "moe", "width-depth-tokens"):
        for name in ("plain", "two_clusters") if law[0] != "w" else ():  # 12 s each of that law
            run = fitted(TAKEN[name][0], law=law)
            cases.append(Case(name=f"{name}-{law}", run=run, taken=sound()))
        for name in ("constant", "one_heavy", "zero_loss"):
            runs, words = REFUSED[name]
            words = ("effective runs",) if name == "one_heavy" else words
            cases.append(Case(name=f"{name}-{law}", run=fitted(runs, law=law), refused=words))
    for loss in ("huber", "l2", "l2-levels", "student", "asymmetric"):
        for name in ("no_e_no_noise", "no_params", "rising_params"):
            run = fitted(TAKEN[name][0], loss=loss)
            check = sound(exact=name.endswith("no_noise"))
            cases.append(Case(name=f"{name}-{loss}", run=run, taken=check))
    assert {c.name.rpartition("-")[2] for c in cases} >= set(METHODS) and LAWS
    return cases


CASES = _cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_degenerate_table_is_refused_or_declared(case, tmp_path):
    check_outcome(case, tmp_path)
