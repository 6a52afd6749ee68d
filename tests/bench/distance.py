"""Sealed forecasts at a distance: small sweeps of new languages, scored at 100 times the compute.

`python -m tests.bench.distance FOLDER [--seeds 201,202,...] [--reach 100]` works as users would, by
commands: for each seed of language and training a sweep of runs of at most 1e11 FLOP, its fit, the
answer to that times the reach, sealed, its run, its score. It prints a table in Markdown: forecast
and interval, measured loss, error in percent of the loss and of the reducible loss (what lies above
the known entropy of the language). Finished runs are not trained again. A run of 1e13 FLOP takes
four minutes of one core.
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

LARGEST = 1e11
GRID = (
    "+experiment=isoflop",
    "sweep.flops=1e11,5e10,2.5e10,1.25e10",
    "model.width=8,16,24,32,48",
    "model.depth=1",
    "model.head_dim=8",
    "train.schedule=wsd",
)


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
    name, further = f"seed{seed}", f"seed{seed}-x{reach:g}"
    own = (f"seed={seed}", f"data.seed={seed}", "tracking=none")
    command(folder, "-m", "sweep", "-m", f"name={name}", *GRID, *own)
    isoflop = ("-m", "fit")
    report = f"reports/{name}"
    command(folder, *isoflop, "fit", f"runs/{name}", "--out", report, "--no-report")
    asked = (*isoflop, "query", f"{reach * LARGEST:g}", "--fit", report)
    if not (folder / f"reports/ledger/{further}.json").exists():
        command(folder, *asked, "--seal", further)
    sealed = json.loads((folder / f"reports/ledger/{further}.json").read_text())
    launch = shlex.split(command(folder, *asked, "--config"))
    command(folder, "-m", "sweep", *launch, f"name={further}", "tracking=none")
    score = json.loads(command(folder, *isoflop, "score", further, "--json"))
    fit = json.loads((folder / report / "fit.json").read_text())
    return {"seed": seed, "entropy": fit["data"]["entropy"], **row_of(score, sealed)}


def row_of(score: dict[str, object], sealed: dict[str, object]) -> dict[str, float]:
    """Forecast, interval and measured loss of a score."""
    (row,) = score["forecasts"] if "forecasts" in score else (score,)  # type: ignore[misc]
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
    print("| seed | forecast | 90% interval | measured | error | of the reducible | inside |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda s: distance(options.folder, s, options.reach), seeds))
    for r in rows:
        error = r["measured"] / r["forecast"] - 1
        reducible = (r["measured"] - r["forecast"]) / (r["measured"] - r["entropy"])
        ends = f"[{r['low']:.4f}, {r['high']:.4f}]"
        inside = "yes" if r["low"] <= r["measured"] <= r["high"] else "no"
        print(
            f"| {r['seed']:.0f} | {r['forecast']:.4f} | {ends} | {r['measured']:.4f} | "
            f"{error:+.2%} | {reducible:+.1%} | {inside} |"
        )
    errors = [abs(r["measured"] / r["forecast"] - 1) for r in rows]
    halves = [np.log(r["high"] / r["low"]) / 2 for r in rows]
    held = sum(r["low"] <= r["measured"] <= r["high"] for r in rows)
    print(
        f"\n{held} of {len(rows)} inside, median error {np.median(errors):.2%} of the loss, "
        f"mean half-width {np.mean(halves):.2%}"
    )


if __name__ == "__main__":
    main()
