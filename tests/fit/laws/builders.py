"""Runs that follow a declared law, for tests."""

from __future__ import annotations

import numpy as np

from fit.data.table import RunTable
from fit.laws.law import Law

TRUTH: dict[str, tuple[float, ...]] = {
    "chinchilla": (1.8, 480, 2085, 0.35, 0.366),
    "tied": (1.8, 480, 1000, 0.35),
    "no-e": (20, 60, 0.1, 0.12),
    "kaplan": (6.4e13, 1.8e13, 0.076, 0.103),
    "outer": (1.8, 300, 900, 0.3, 0.32, 1.4),
    "width-depth-tokens": (1.5, 30, 2, 400, 0.6, 0.8, 0.3),
    "width-depth-params-tokens": (1.5, 30, 2, 400, 300, 0.6, 0.8, 0.3, 0.35),
    "data-constrained": (1.87, 521, 1488, 0.353, 0.36, 15.4, 5.3),
    "moe": (1.5, 300, 500, 0.3, 0.32, 0.12),
    "vocabulary": (0.8, 300, 8, 500, 0.3, 0.2, 0.32),
    "overfit": (1.8, 480, 2085, 0.02, 0.35, 0.366, 0.5),
    "farseer": (0.9, 0.005, 1.5, 0.02, 88, 0.12, 0.17, 0.1, 0.12),
    "compute": (1.7, 2e3, 0.17),
    "experts": (22, -0.08, -0.12, 0.004, 1.85, 314),
    "lr": (1.79, -0.713, 0.307),
    "batch": (0.58, -0.05, 0.571),
    "lr-batch": (0.5, -0.5, 0.1, 0.3),
}


def lawful(law: Law, theta: tuple[float, ...], noise: float = 0.0, seed: int = 0) -> RunTable:
    """64 runs, width x depth x tokens, whose losses are the law's but for noise in their ln."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid([256, 512, 1024, 2048], [4, 8, 16, 32], [1e9, 4e9, 1.6e10, 6.4e10])
    width, depth, tokens = (g.ravel().astype(float) for g in grid)
    params = 12 * width**2 * depth + 32000 * width
    place = np.arange(len(width))
    scarce = np.minimum(tokens, np.array([2e8, 5e8, 1e9, 2e9])[place % 4])
    columns = {
        "width": width,
        "depth": depth,
        "unique_tokens": np.where(place % 3 == 0, tokens, scarce),
        "experts": np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512])[(place * 3) % 10],
        "params_embedding": width * np.array([8e3, 3.2e4, 1.28e5])[(place * 5) // 2 % 3],
        "batch_tokens": np.array([6e4, 2.5e5, 1e6])[(place * 4) // 3 % 3],
        "params_total": params * np.array([1.0, 2.0, 8.0, 32.0])[(place * 7) // 3 % 4],
    }
    flops = 6 * params * tokens
    given = {"params": params, "tokens": tokens, "flops": flops, **columns}
    named = law.named(np.array(theta, dtype=float))
    y = law.log_law(named, {c: np.log(given[c]) for c in law.columns})
    return RunTable(
        run=tuple(f"run {i}" for i in place),
        params=params,
        tokens=tokens,
        flops=flops,
        loss=np.exp(y + noise * random.standard_normal(len(place))),
        cluster=place,
        columns=columns,
    )
