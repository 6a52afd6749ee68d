"""Simulated sweeps with training curves whose behaviour is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fit.data.records import Floats
from fit.data.table import RunTable

E, A, B, ALPHA, BETA = 0.975, 124.0, 36.0, 0.85, 0.47
SIZES = (14096, 25752, 40480, 79152, 130112)
LENGTHS = (500_000, 1_000_000, 2_000_000, 4_000_000)
RECIPE = {
    "train.schedule": "wsd",
    "train.cooldown": 0.2,
    "train.batch_tokens": 512,
    "train.batch_doublings": [],
    "model.seq_len": 128,
}
SHARE, COST = 0.2, 0.03
"""Of the cooldown, and what a constant rate costs [nats/token]."""


def rows_of(tokens: float) -> Floats:
    """Positions of a curve's rows, as the trainer sets them."""
    rows = [8192.0]
    while rows[-1] < tokens:
        rows.append(min(tokens, rows[-1] + max(8192.0, rows[-1] // 100)))
    return np.array(rows)


def follow(rate: Floats, lag: float) -> Floats:
    """What follows a rate, sampled evenly over a cooldown, with a lag in shares of it."""
    state, out = 1.0, []
    for value in rate:
        state = value + (state - value) * np.exp(-1 / (len(rate) * lag)) if lag else value
        out.append(state)
    return np.array(out)


def sweep(
    seed: int = 0,
    *,
    sizes: tuple[int, ...] = SIZES,
    lengths: tuple[int, ...] = LENGTHS,
    seeds: int = 2,
    noise: float = 1e-3,
    batch_noise: float = 0.5,
    lag: float = 0.05,
    warmup: float = 10_000,
    off: Callable[[int, Floats], Floats] | None = None,
) -> tuple[RunTable, dict[int, Floats]]:
    """A sweep and its curves: trunks with branches, sizes that fall alike.

    Args:
        seed: Of the simulation.
        sizes: N, one trunk per size and seed.
        lengths: D of the branches.
        seeds: Seeds of each size.
        noise: Standard deviation of the final loss and of a slow wander of the curve [nats].
        batch_noise: Standard deviation of one token's loss, the same in all runs of a seed.
        lag: Of the loss behind the rate, over 100k tokens, in units of those.
        warmup: Tokens of warm-up.
        off: Further loss of a size as a function of t/T: what makes a recipe act unlike there.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, float]] = []
    curves: dict[int, Floats] = {}
    step = 1024
    grid = np.arange(step / 2, max(lengths) + step, step)
    done = (np.arange(400) + 0.5) / 400
    for s in range(seeds):
        batch = batch_noise / np.sqrt(step) * rng.normal(size=len(grid))
        for size in sizes:
            wander = np.interp(np.log(grid), np.linspace(9, 17, 12), noise * rng.normal(size=12))
            floor = E + A * size**-ALPHA

            trunk = floor + B * grid**-BETA
            for length in lengths:
                start = (1 - SHARE) * length
                h = follow(1 - np.sqrt(done), lag * 1e5 / (SHARE * length))
                cool = np.interp((grid - start) / (SHARE * length), done, h, left=1.0)
                # what a constant rate costs goes with the final loss: larger models lose less
                cost = COST * (floor + B * length**-BETA - 0.9) / 0.14
                curve = trunk - cost * (1 - cool) + wander
                final = float(np.interp(length, grid, curve)) + noise * rng.normal()
                if off is not None:
                    curve = curve + off(size, grid / length)
                ends = rows_of(length)
                whole = np.r_[0.0, np.cumsum((curve + batch) * step)]
                total = np.interp(ends, np.r_[0.0, grid + step / 2], whole)
                mean = np.diff(np.r_[0.0, total]) / np.diff(np.r_[0.0, ends])
                share = np.clip((ends - start) / (SHARE * length), 0, 1)
                lr = np.minimum(1, ends / max(warmup, 1)) * (1 - np.sqrt(share))
                curves[len(rows)] = np.column_stack([ends, mean, lr, np.ones_like(ends)])
                rows.append((size, length, s, final))
    n, d, seed_of, loss = (np.array(c, dtype=np.float64) for c in zip(*rows, strict=True))
    table = RunTable(
        run=tuple(f"n{int(a)}-d{int(b)}-s{int(c)}" for a, b, c in zip(n, d, seed_of, strict=True)),
        params=n,
        tokens=d,
        flops=6 * n * d,
        loss=loss,
        cluster=np.unique(n + 1j * seed_of, return_inverse=True)[1],
        columns={"seed": seed_of},
        recipes=(RECIPE,) * len(n),
    )
    return table, curves
