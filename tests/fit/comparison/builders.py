"""Two sweeps whose compute multiplier is known: one law, its reducible loss scaled."""

from __future__ import annotations

from typing import Any

import numpy as np

from fit.data.records import DataInfo
from fit.data.table import RunTable
from fit.diagnostics.notes import fit_status
from fit.estimation.objective import FitProblem
from fit.estimation.solver import estimate
from fit.inference.resampling import kappa, sandwich
from fit.results import Fit, Intervals, Objective, Points
from tests.fit.builders import make_fit, span

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
GAMMA = ALPHA * BETA / (ALPHA + BETA)
"""The reducible loss goes as C^-gamma: scaled by f^gamma, f times the compute is needed."""
CELLS = 36


def sweep_table(
    *, factor: float = 1.0, seed: int, shared: int | None = None, sizes: float = 1.0
) -> RunTable:
    """A sweep of 6 sizes by 6 lengths that needs `factor` times the compute of the plain law.

    Noise is 0.1% of the loss, and with `shared` another 0.3% that all of that number share.
    """
    axes = np.geomspace(1e7, 1e9, 6) * sizes, np.geomspace(2e8, 4e10, 6)
    n, d = (g.ravel() for g in np.meshgrid(*axes, indexing="ij"))
    noise = 0.001 * np.random.default_rng([seed, 1]).standard_normal(CELLS)
    if shared is not None:
        noise = noise + 0.003 * np.random.default_rng([shared, 2]).standard_normal(CELLS)
    loss = E + factor**GAMMA * (A / n**ALPHA + B / d**BETA)
    return RunTable(
        run=tuple(f"r{i}" for i in range(CELLS)),
        params=n,
        tokens=d,
        flops=6 * n * d,
        loss=loss * np.exp(noise),
        cluster=np.arange(CELLS),
        params_convention="matmul",
        flops_convention="6nd",
        data=DataInfo(name="books", hash="sha256:1", bytes_per_token=4.0),
    )


def fitted(table: RunTable, **given: Any) -> Fit:
    """The fit of a table without cross-checks, holdout and misfit: milliseconds."""
    found = estimate(FitProblem.of(table.params, table.tokens, table.loss))
    spread = sandwich(found, table.cluster, 0.9)
    points = Points(
        run=table.run,
        params=table.params,
        tokens=table.tokens,
        flops=table.flops,
        loss=table.loss,
        residual=found.residual,
        cluster=table.cluster.astype(np.float64),
        columns={k: np.asarray(v, dtype=np.float64) for k, v in table.columns.items()},
    )
    interval = Intervals(
        level=0.9, method="hc3", quantile=spread.quantile, dof=spread.dof, bounds={}
    )
    names = ("E", "A", "B", "alpha", "beta")
    made = {
        "theta": dict(zip(names, found.raw.tolist(), strict=True)),
        "status": fit_status(found, table),
        "kappa": kappa(found),
        "objective": Objective(name="log-huber", delta=found.loss.scale, value=found.value),
        "interval": interval,
        "covariance": spread.covariance,
        "draws": np.empty((0, 5)),
        "noise": found.noise,
        "convention": {"params": table.params_convention, "flops": table.flops_convention},
        "range": span(points),
        "points": points,
        "notes": (),
        "data": {"name": "books", "hash": "sha256:1", "bytes_per_token": 4.0},
        "recipe": {},
    }
    return make_fit(**{**made, **given})
