"""Reading and fitting long tables: seconds, and the process's peak memory so far."""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from fit.data.readers import load
from fit.fitting import FitOptions, fit_table


def write(path: Path, rows: int) -> None:
    """Runs of a law, scattered evenly over sizes and lengths."""
    random = np.random.default_rng(0)
    n = np.exp(random.uniform(np.log(1e7), np.log(1e10), rows))
    d = np.exp(random.uniform(np.log(1e9), np.log(1e12), rows))
    loss = (1.8 + 480 / n**0.35 + 2100 / d**0.36) * np.exp(0.003 * random.standard_normal(rows))
    pd.DataFrame({"params": n, "tokens": d, "loss": loss}).to_csv(path, index=False)


with tempfile.TemporaryDirectory() as folder:
    for rows in (1000, 30_000, 1_000_000):
        file = Path(folder) / f"{rows}.csv"
        write(file, rows)
        begun = time.perf_counter()
        table = load(file)
        read = time.perf_counter()
        fit = fit_table(table, FitOptions())
        done = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{rows:>9,} rows: read {read - begun:.2f} s, fitted {done - read:.2f} s "
            f"({fit.runs_used} used), peak {peak:.2f} GB",
            flush=True,
        )
