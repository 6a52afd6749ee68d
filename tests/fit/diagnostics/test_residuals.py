"""What the residuals still say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.fitting import FitOptions, fit_table
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")

QUICK = FitOptions(resamples=0)


def notes(runs):
    return {n.code: n for n in fit_table(runs, QUICK).notes}


def columns(runs, **given):
    return dataclasses.replace(runs, columns={k: np.asarray(v) for k, v in given.items()})


def test_a_learning_rate_that_costs_loss_is_named():
    runs = table(noise=0.001)
    rate = np.random.default_rng(0).choice(np.geomspace(1e-3, 3e-2, 6), len(runs))
    worse = runs.loss * np.exp(0.004 * np.log(rate / 1e-2) ** 2)
    found = notes(columns(dataclasses.replace(runs, loss=worse), lr=rate))
    assert "the learning rate" in found["trend_tuning"].message
    assert "trend_tuning" not in notes(columns(runs, lr=rate))


def test_a_rate_that_is_another_word_for_size_is_not_blamed():
    runs = table(noise=0.0005)
    bent = runs.loss * np.exp(0.03 * np.sin(1.5 * np.log(runs.params / 2e8)))
    found = notes(columns(dataclasses.replace(runs, loss=bent), lr=3e4 / runs.params))
    assert "trend" in found
    assert "trend_tuning" not in found


def test_batch_and_aspect_ratio_are_looked_at():
    runs = table(noise=0.001)
    batch = np.random.default_rng(1).choice(2.0 ** np.arange(10, 17), len(runs))
    worse = runs.loss * np.exp(0.005 * np.log(batch / 2**14))
    assert (
        "the batch"
        in notes(columns(dataclasses.replace(runs, loss=worse), batch_tokens=batch))[
            "trend_tuning"
        ].message
    )
    aspect = np.random.default_rng(2).choice([8, 16, 32, 64, 128], len(runs))
    worse = runs.loss * np.exp(0.004 * np.log(aspect / 32))
    assert "trend_shape" in notes(
        columns(dataclasses.replace(runs, loss=worse), width=aspect * 4, depth=np.full(30, 4))
    )


def test_clean_residuals_have_no_trend():
    fired = 0
    for seed in range(8):
        runs = table(seed=seed)
        rate = np.random.default_rng(seed).choice(np.geomspace(1e-3, 3e-2, 6), len(runs))
        found = notes(columns(runs, lr=rate))
        fired += bool({"trend", "trend_tuning", "trajectory", "noise", "interaction"} & set(found))
    assert fired <= 1


def test_noise_beyond_what_training_has_is_said():
    assert "noise" in notes(table(noise=0.08))
    assert "noise" not in notes(table(noise=0.02))


def trajectories(share: float, seed: int = 0):
    """Sizes of ten checkpoints each, whose errors are partly shared along each."""
    n, d = np.geomspace(1e7, 3e9, 6), np.linspace(1e10, 1e11, 10)
    n, d = (g.ravel() for g in np.meshgrid(n, d, indexing="ij"))
    runs = table(n, d, noise=0.0)
    random, rows = np.random.default_rng(seed), []
    for _ in range(6):
        walk = [random.standard_normal()]
        for _ in range(9):
            walk.append(share * walk[-1] + (1 - share**2) ** 0.5 * random.standard_normal())
        rows += walk
    return dataclasses.replace(runs, loss=runs.loss * np.exp(0.003 * np.array(rows)))


def test_checkpoints_given_as_independent_runs_are_noticed():
    note = notes(trajectories(0.95))["trajectory"]
    assert "--cluster params" in note.message
    assert "trajectory" not in notes(trajectories(0.0))
    runs = trajectories(0.95)
    clustered = dataclasses.replace(runs, cluster=np.repeat(np.arange(6), 10))
    assert "trajectory" not in notes(clustered)


@pytest.mark.parametrize("share", [0.0, 0.95])
def test_names_that_repeat_are_checkpoints_of_one_run(share):
    runs = dataclasses.replace(trajectories(share), run=tuple(f"m{i // 10}" for i in range(60)))
    note = notes(runs)["trajectory"]
    assert note.severity == "serious"
    assert "60 rows carry 6 names" in note.message
