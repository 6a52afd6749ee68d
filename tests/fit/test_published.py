"""Published run tables: the stated objectives reached, the stated exponents found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fit.estimate import estimate
from fit.isoflop import isoflop
from fit.objective import Problem
from fit.store import load
from fit.uncertainty import bootstrap

HERE = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("ISOFLOP_PUBLISHED_DATA", HERE.parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="published tables absent; set ISOFLOP_PUBLISHED_DATA to their folder",
)


def figure4(outliers: bool) -> Problem:
    table = pd.read_csv(FOLDER / "chinchilla-figure4.csv")
    if not outliers:
        table = table[table.outlier_epoch == 0]
    return Problem.of(*(table[c].to_numpy(float) for c in ("params", "tokens", "loss")))


@pytest.mark.parametrize(
    ("outliers", "delta", "objective", "expected"),
    [
        (False, 1e-3, 0.001018274, (1.81722, 0.34731, 0.36717)),
        (True, 1e-3, 0.001826011, (1.89134, 0.34931, 0.45305)),
        (False, 1e-6, None, (1.81686, 0.34781, 0.36585)),
    ],
)
def test_hoffmanns_runs_as_rebuilt_by_besiroglu(outliers, delta, objective, expected):
    found = estimate(figure4(outliers), loss="huber", delta=delta)
    e, _, _, alpha, beta = found.raw
    if objective is not None:
        assert found.value <= objective * (1 + 1e-6)
    assert (e, alpha, beta) == pytest.approx(expected, abs=1e-3)
    a, published = beta / (alpha + beta), expected[2] / (expected[1] + expected[2])
    assert a == pytest.approx(published, abs=0.005)


def test_bootstrap_errors_equal_the_published_ones():
    problem = figure4(outliers=False)
    found = estimate(problem, loss="huber", delta=1e-3)
    draws = bootstrap(found, np.arange(len(problem.y)), 2000, seed=0)
    e, _, _, alpha, beta = draws.std(axis=0)
    a = (draws[:, 4] / (draws[:, 3] + draws[:, 4])).std()
    assert (e, alpha, beta, a) == pytest.approx((0.0257, 0.0154, 0.0206, 0.020), rel=0.08)


@pytest.mark.parametrize(
    ("column", "objective", "expected"),
    [
        ("params", 0.0065925342, (0.2592, 0.5973)),
        ("params_nonembedding", 0.0053939491, (0.2424, 0.6062)),
    ],
)
def test_gemstones_under_both_counts(column, objective, expected):
    table = pd.read_csv(FOLDER / "gemstones-hot-100b.csv")
    problem = Problem.of(*(table[c].to_numpy(float) for c in (column, "tokens", "loss")))
    found = estimate(problem, loss="huber", delta=1e-3)
    assert found.value <= objective * (1 + 1e-6)
    assert tuple(found.raw[3:]) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("configuration", "published", "low", "high"),
    [
        (("base", "long", "kaplan", "kaplan", "train"), 0.8353, 0.8235, 0.8460),
        (("base", "long", "kaplan", "standard", "val"), 0.7065, 0.6915, 0.7169),
        (("base", "short", "kaplan", "standard", "val"), 0.6020, 0.5914, 0.6173),
        (("base", "short", "chinchilla", "standard", "val"), 0.5715, 0.5598, 0.5885),
        (("tuned", "short", "const", "standard", "val"), 0.4969, 0.4907, 0.5045),
    ],
)
def test_porians_exponents_by_approach_two(configuration, published, low, high):
    names = ("hparams", "warmup", "decay", "param_count", "loss_split")
    where = " and ".join(f"{n} == '{v}'" for n, v in zip(names, configuration, strict=True))
    found = isoflop(load(FOLDER / "porian-refinedweb.csv", where=where), 0.95)
    assert found.a is not None and found.a_interval is not None
    assert low <= found.a <= high
    assert found.a_interval[0] < published < found.a_interval[1]
