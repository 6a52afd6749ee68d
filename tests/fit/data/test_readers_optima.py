"""Laws of the best learning rate and batch, from optima or from a whole scan, by the command."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.data.readers import load
from fit.laws.families import law

pytestmark = pytest.mark.usefixtures("few_checks")

TRUTH = (1.79, -0.713, 0.307)
SIZES, LENGTHS = (
    g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 6e10, 4))
)


def run(*args):
    return CliRunner().invoke(main, [*map(str, args)])


def optima() -> pd.DataFrame:
    lr = law("lr").loss(TRUTH, SIZES, LENGTHS)
    lr = lr * np.exp(0.05 * np.random.default_rng(0).standard_normal(len(lr)))
    return pd.DataFrame({"params": SIZES, "tokens": LENGTHS, "lr": lr})


def scan() -> pd.DataFrame:
    rows = []
    for row in optima().itertuples():
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            loss = 2 + 100 / row.params**0.3 + 0.02 * np.log(factor) ** 2
            rows.append((row.params, row.tokens, row.lr * factor, loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "loss"])


@pytest.mark.parametrize(
    "table",
    [optima(), pytest.param(scan(), marks=pytest.mark.slow)],
    ids=["optima", "scan"],
)
def test_learning_rates_are_fitted_and_predicted(tmp_path, table):
    table.to_csv(tmp_path / "lr.csv", index=False)
    made = run(
        "fit", tmp_path / "lr.csv", "--law", "lr", "--out", tmp_path / "r", "--resamples", 50
    )
    assert made.exit_code == 0, made.output
    assert "report.pdf" in made.output
    assert (tmp_path / "r" / "report.pdf").read_bytes().startswith(b"%PDF")
    fit = json.loads((tmp_path / "r" / "fit.json").read_text())
    assert fit["law"] == "lr"
    assert fit["theta"]["p"] == pytest.approx(-0.713, abs=0.03)
    assert fit["theta"]["q"] == pytest.approx(0.307, abs=0.03)
    assert fit["interval"]["q"][0] < fit["theta"]["q"] < fit["interval"]["q"][1]
    ask = ("predict", "--params", "1e8", "--tokens", "1e10", "--fit", tmp_path / "r")
    found = json.loads(run(*ask, "--json").output)
    assert found["quantity"] == "lr"
    assert found["lr"]["value"] == pytest.approx(law("lr").loss(TRUTH, 1e8, 1e10), rel=0.1)
    assert found["lr"]["low"] < found["lr"]["value"] < found["lr_next_run"]["high"]
    assert "lr  " in run(*ask).output
    refused = run("query", "1e20", "--fit", tmp_path / "r")
    assert refused.exit_code == 1
    assert "predicts lr, not a loss" in refused.output


@pytest.mark.slow
def test_columns_may_be_named_otherwise(tmp_path):
    optima().rename(columns={"lr": "best"}).to_csv(tmp_path / "t.csv", index=False)
    args = ("fit", tmp_path / "t.csv", "--law", "lr", "--column", "lr=best", "--resamples", 0)
    assert run(*args, "--out", tmp_path / "r").exit_code == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["params", "tokens"], "no column batch_tokens"),
        (["params", "tokens", "lr", "loss"], "needs a column batch_tokens"),
    ],
)
def test_a_missing_target_is_named(tmp_path, columns, words):
    scan()[columns].to_csv(tmp_path / "t.csv", index=False)
    found = run("fit", tmp_path / "t.csv", "--law", "batch", "--out", tmp_path / "r")
    assert found.exit_code == 1
    assert words in found.output
    assert "--column batch_tokens=YOURS" in found.output
    assert found.output.count("\n") == 1


def test_a_scan_is_filtered_before_its_best_runs_are_taken(tmp_path):
    scan().to_csv(tmp_path / "t.csv", index=False)
    table = load(tmp_path / "t.csv", target="lr")
    assert len(table) == len(SIZES)
    assert table.loss == pytest.approx(optima().lr.to_numpy())
    low = load(tmp_path / "t.csv", target="lr", where=f"lr < {float(optima().lr.min())}")
    assert (low.loss < optima().lr.min()).all()
