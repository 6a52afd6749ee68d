"""Published run tables: the stated objectives reached, the stated exponents found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fit.estimate import estimate
from fit.objective import Problem
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
