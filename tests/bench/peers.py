"""The public packages for scaling laws on the same tables: time, and how low an objective.

`python -m tests.bench.peers PYTHON` takes the interpreter of an environment that has them
(`make bench-peers` makes it). Each package fits as its authors mean it to: `chinchilla` its BFGS
from the papers' 4500 starts, in all cores; `simple-scaling-laws` weighted least squares on the loss
and a wild bootstrap. Both laws are then judged by one formula, beside ours under the same loss.
The tables: 240 synthetic runs, and the published ones of figure 4 where they are.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fit.estimation.objective import FitProblem
from fit.estimation.solver import Estimate, estimate
from fit.inference.resampling import bootstrap, wild_bootstrap
from tests.bench.fit import DELTA, published, synthetic

PEER = Path(__file__).with_name("peer.py")
PACKAGES = {"chinchilla": "chinchilla", "simple_scaling_laws": "simple-scaling-laws"}
DRAWS = 4000


def log_huber(theta, n, d, loss) -> float:
    """The papers' objective, of E, A, B, alpha, beta on raw counts."""
    r = np.abs(np.log(loss) - np.log(law(theta, n, d)))
    return float(np.where(r < DELTA, 0.5 * r**2, DELTA * (r - 0.5 * DELTA)).sum())


def squares(theta, n, d, loss) -> float:
    """Half the sum of squares on the loss itself."""
    return float(0.5 * ((loss - law(theta, n, d)) ** 2).sum())


def law(theta, n, d):
    """The law."""
    e, a, b, alpha, beta = theta
    return e + a / n**alpha + b / d**beta


def peer(python: str, package: str, table: Path) -> dict | str:
    """What a package says of a table, or why it says nothing."""
    there = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
    if there.returncode:
        return "not installed (it may need a newer Python)"
    run = subprocess.run(
        [python, str(PEER), package, str(table)], capture_output=True, text=True, check=False
    )
    return json.loads(run.stdout) if run.returncode == 0 else run.stderr.strip().splitlines()[-1]


def ours(data, loss: str) -> tuple[dict, Estimate]:
    """Our point fit, best of five, and both bootstraps, in processor seconds."""
    problem = FitProblem.of(*data)
    delta = DELTA if loss == "huber" else None
    point = min(seconds(lambda: estimate(problem, loss=loss, delta=delta)) for _ in range(5))
    found, rows = estimate(problem, loss=loss, delta=delta), np.arange(len(data[0]))
    pairs = seconds(lambda: bootstrap(found, rows, DRAWS, 0))
    wild = seconds(lambda: wild_bootstrap(found, rows, DRAWS, 0))
    return {"point": point, "pairs": pairs, "wild": wild}, found


def seconds(call) -> float:
    """Processor seconds of a call: others on the machine do not count."""
    started = time.process_time()
    call()
    return time.process_time() - started


def compare(name: str, data, python: str) -> None:
    """Print a table's comparison."""
    print(f"\n{name}: {len(data[0])} runs; processor seconds")
    judged = {"huber": log_huber, "l2-levels": squares}
    mine = {k: ours(data, k) for k in judged}
    for loss, (spent, found) in mine.items():
        value = judged[loss](found.raw, *data)
        print(
            f"  isoflop --loss {loss:10} point {spent['point']:.3f} s, {DRAWS} draws: pairs "
            f"{spent['pairs']:.2f} s, wild {spent['wild']:.2f} s; objective {value:.9f}"
        )
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "runs.csv"
        with table.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["params", "tokens", "loss"])
            writer.writerows(zip(*data, strict=True))
        for package, title in PACKAGES.items():
            report(title, peer(python, package, table), mine, data)


def report(title: str, found: dict | str, mine, data) -> None:
    """Print one package's line."""
    if isinstance(found, str):
        print(f"  {title:24} {found}")
        return
    loss, judge = ("huber", log_huber) if title == "chinchilla" else ("l2-levels", squares)
    spent, best = mine[loss]
    point = found["point"]
    text = (
        f"point {point['processor']:.2f} s ({point['wall']:.1f} s wall), "
        f"{point['processor'] / spent['point']:.0f}x ours"
    )
    if "draws" in found:
        times = found["draws"]["processor"]
        text += f"; with {DRAWS} draws {times:.1f} s, {times / spent['wild']:.0f}x our wild"
    excess = judge(found["theta"], *data) / judge(best.raw, *data) - 1
    print(f"  {title:24} {text}")
    print(f"  {'':24} objective ({loss}) / ours - 1 = {excess:+.2e}; E {found['theta'][0]:.4f}")


def main() -> None:
    """Compare on every table there is."""
    python = sys.argv[1]
    compare("synthetic", synthetic(240), python)
    data = published()
    if data is None:
        print("\nno published table here (../shared/data)")
    else:
        compare("published, figure 4", data, python)


if __name__ == "__main__":
    main()
