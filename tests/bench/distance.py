"""Sealed forecasts at a distance: small sweeps of new languages, scored at 100 times the compute.

`python -m tests.bench.distance FOLDER [--seeds 201,202,...] [--reach 100]` works as users would, by
commands: for each seed of language and training a sweep of runs of at most 1e11 FLOP, its fit told
the entropy that the language states (`--entropy known`), the answer to that times the reach,
sealed, its run, its score. It prints a table in Markdown: forecast and interval, measured loss,
error in percent of the loss and of the reducible loss (what lies above the entropy); and the same
for a fit that is not told, of the same run. Finished runs are not trained again. A run of 1e13 FLOP
takes four minutes of one core.

Runs are long for their size, of at least 0.35 M tokens: within fewer the loss falls faster than
later on, and such runs decide a forecast that does not hold (docs/log.md, "Forecasts at a
distance").
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import isoflop
from fit.data.records import read_runs

LARGEST = 1e11
LENGTHS = {
    4: "5e5,1e6,2e6,4e6",
    8: "5e5,1e6,1.5e6,2.8e6",
    12: "5e5,1e6,1.8e6",
    16: "3.5e5,5e5,7.5e5,1.25e6",
    24: "3.5e5,5e5,7.5e5",
    32: "3.5e5,5e5",
}
"""Tokens by width, up to the largest compute."""
SHAPE = ("model.depth=1", "model.head_dim=4", "train.schedule=wsd")


def command(folder: Path, *words: str) -> str:
    """Standard output of a command of this environment, in a folder."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


def distance(folder: Path, seed: int, reach: float) -> dict[str, float]:
    """Sweep, fit, seal, train and score one seed."""
    name, further = f"long{seed}", f"long{seed}-x{reach:g}"
    own = (f"seed={seed}", f"data.seed={seed}", "tracking=none", f"name={name}")
    for width, tokens in LENGTHS.items():
        one = (*own, *SHAPE, f"model.width={width}", f"train.tokens=[{tokens}]")
        command(folder, "-m", "sweep", *one)
    fitter, report = ("-m", "fit"), f"reports/{name}"
    fitted = (*fitter, "fit", f"runs/{name}", "--out", report, "--no-report")
    command(folder, *fitted, "--entropy", "known")
    asked = (*fitter, "query", f"{reach * LARGEST:g}", "--fit", report, "--force")
    if not (folder / f"reports/ledger/{further}.json").exists():
        command(folder, *asked, "--seal", further)
    sealed = json.loads((folder / f"reports/ledger/{further}.json").read_text())
    launch = shlex.split(command(folder, *asked, "--config"))
    command(folder, "-m", "sweep", *launch, f"name={further}", "tracking=none")
    score = json.loads(command(folder, *fitter, "score", further, "--json"))
    fit = json.loads((folder / report / "fit.json").read_text())
    blind = blind_forecast(folder, f"runs/{name}", f"runs/{further}")
    return {"seed": seed, "entropy": fit["data"]["entropy"], **row_of(score, sealed), **blind}


def blind_forecast(folder: Path, runs: str, further: str) -> dict[str, float]:
    """What a fit that is not told the entropy expects of the run that was trained."""
    (run,) = read_runs(folder / further).records
    fit = isoflop.fit(folder / runs, resamples=0)
    found = isoflop.predict(fit, run.params_matmul, run.tokens, force=True).loss_next_run
    return {"blind": found.value, "blind_low": found.low, "blind_high": found.high}


def row_of(score: dict[str, object], sealed: dict[str, object]) -> dict[str, float]:
    """Forecast, interval and measured loss of a score."""
    rows = score["forecasts"] if "forecasts" in score else [score]
    (row,) = (r for r in rows if r["name"] == sealed["name"])  # type: ignore[attr-defined]
    expected = sealed["expected"]
    return {
        "forecast": expected["loss"],  # type: ignore[index]
        "low": expected["low"],  # type: ignore[index]
        "high": expected["high"],  # type: ignore[index]
        "measured": row["outcome"]["measured"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default=",".join(str(s) for s in range(201, 211)))
    parser.add_argument("--reach", type=float, default=100.0)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    seeds = [int(s) for s in options.seeds.split(",")]
    print("| seed | measured | told the entropy: [90%], error, of the reducible | blind |")
    print("| --- | --- | --- | --- |")
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda s: distance(options.folder, s, options.reach), seeds))
    for r in rows:
        cells = [cell(r, *names) for names in NAMES]
        print(f"| {r['seed']:.0f} | {r['measured']:.4f} | {' | '.join(cells)} |")
    for title, (value, low, high) in zip(("told", "blind"), NAMES, strict=True):
        errors = [abs(r["measured"] / r[value] - 1) for r in rows]
        shares = [abs(reducible_error(r, value)) for r in rows]
        half = np.mean([np.log(r[high] / r[low]) / 2 for r in rows])
        held = sum(r[low] <= r["measured"] <= r[high] for r in rows)
        print(
            f"\n{title}: {held} of {len(rows)} inside, median error {np.median(errors):.2%} of the "
            f"loss and {np.median(shares):.0%} of the reducible, mean half-width {half:.2%}"
        )


NAMES = (("forecast", "low", "high"), ("blind", "blind_low", "blind_high"))
"""Names of a forecast and its ends: told the entropy, and blind."""


def reducible_error(row: dict[str, float], value: str) -> float:
    """Error as a share of the loss above the entropy."""
    return (row["measured"] - row[value]) / (row["measured"] - row["entropy"])


def cell(row: dict[str, float], value: str, low: str, high: str) -> str:
    """A forecast in one cell."""
    inside = "inside" if row[low] <= row["measured"] <= row[high] else "outside"
    error = row["measured"] / row[value] - 1
    return (
        f"{row[value]:.4f} [{row[low]:.4f}, {row[high]:.4f}] {error:+.2%}, "
        f"{reducible_error(row, value):+.0%}, {inside}"
    )


if __name__ == "__main__":
    main()
