"""Tables too long to refit thousands of times."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fit.data.table import RunTable, subsample
from fit.fitting import FitOptions, fit_table
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")


def many(count: int, seed: int = 0) -> RunTable:
    random = np.random.default_rng(seed)
    n = np.exp(random.uniform(np.log(1e7), np.log(3e9), count))
    d = np.exp(random.uniform(np.log(1e9), np.log(3e11), count))
    return table(n, d)


def test_a_table_that_is_short_enough_stays_whole():
    runs = many(300)
    assert subsample(runs, most=300) is runs


def test_rare_budgets_are_kept_and_common_ones_drawn():
    runs = many(5000)
    flops = np.where(np.arange(5000) < 7, 1e24, runs.flops.clip(max=1e21))
    runs = dataclasses.replace(runs, flops=flops)
    kept = subsample(runs, most=500)
    assert len(kept) == 500
    assert (kept.flops == 1e24).sum() == 7
    assert list(kept.run) == sorted(kept.run, key=lambda r: int(r[1:]))
    counts = np.unique(np.floor(np.log2(kept.flops / kept.flops.min())), return_counts=True)[1]
    assert np.median(counts) == counts.max() or counts.max() - np.median(counts) <= 1


def test_the_choice_is_seeded_and_blind_to_the_loss():
    runs = many(2000)
    other = dataclasses.replace(runs, loss=runs.loss[::-1])
    assert subsample(runs, most=200).run == subsample(other, most=200).run
    assert subsample(runs, most=200).run != subsample(runs, most=200, seed=1).run


def test_a_fit_of_a_long_table_says_what_it_rests_on(monkeypatch):
    monkeypatch.setattr("fit.fitting.MOST_RUNS", 400)
    fit = fit_table(many(4000), FitOptions(resamples=0))
    (note,) = [n for n in fit.notes if n.code == "thinned"]
    assert "400 of 4,000 rows" in note.message
    assert fit.runs_used == 400
    assert fit.theta["alpha"] == pytest.approx(0.35, abs=0.01)
    assert "thinned" not in {n.code for n in fit_table(table(), FitOptions(resamples=0)).notes}


CHILD = """
import resource
from fit.cli.main import main
main(["fit", "long.csv", "--no-report", "--json"], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_million_rows_are_fitted_in_less_than_two_gigabytes(tmp_path):
    runs = many(1_000_000)
    columns = {c: runs.column(c) for c in ("params", "tokens", "loss")}
    pd.DataFrame(columns).to_csv(tmp_path / "long.csv", index=False)
    out = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert '"thinned"' in out.stdout
    assert int(out.stdout.splitlines()[-1]) < 2_000_000  # kB; .66 GB were measured
