"""Kinds of tables that people have, each with the options that read it and what must come out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

N = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 4)
D = np.tile([1e9, 3e9, 1e10, 3e10], 5)
LOSS = 1.6 + 300 / N**0.34 + 900 / D**0.36
WOBBLE = 1 + 0.001 * np.sin(7.0 * np.arange(20) ** 2)
"""Noise of 0.1% without a generator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A table, how it is read, and the parameters of the law that it follows."""

    file: str
    data: bytes
    options: tuple[str, ...]
    runs: int
    theta: Mapping[str, float]
    untold: str
    """Words of the refusal without the options; empty where there is none."""


def _csv(*columns: tuple[str, object]) -> bytes:
    """A table of columns by name."""
    cells = zip(*(np.broadcast_to(np.asarray(c), 20).tolist() for _, c in columns), strict=True)
    lines = [",".join(n for n, _ in columns), *(",".join(map(str, row)) for row in cells)]
    return ("\n".join(lines) + "\n").encode()


def _two_conditions() -> bytes:
    """Runs of two routers and two factors, of which one of each follows the law."""
    parts = []
    for router, shift in (("dense", 0.0), ("hash", -0.2)):
        for factor in (1, 4):
            loss = LOSS * WOBBLE + shift - 0.05 * (factor > 1)
            parts.append(_csv(("router", router), ("factor", factor), ("params", N), ("tokens", D),
                              ("loss", loss)))  # fmt: skip
    return parts[0] + b"".join(p.split(b"\n", 1)[1] for p in parts[1:])


def _step_zero() -> bytes:
    """A log with a row at step 0 of each size."""
    rows = _csv(("params", N), ("step", D / 500_000), ("loss", LOSS * WOBBLE))
    return rows + b"".join(f"{n},0,10.8\n".encode() for n in np.unique(N))


def _nested() -> bytes:
    """Nested keys, bits, and FLOPs in place of tokens."""
    rows = [
        {"train": {"lr": 0.01}, "bpc": y / np.log(2), "flops": 6 * n * d, "weights": n}
        for n, d, y in zip(N, D, LOSS * WOBBLE, strict=True)
    ]
    rows.append({**rows[0], "train": {"lr": 5.0}, "bpc": 9.0})
    return "\n".join(map(json.dumps, rows)).encode()


def _wide() -> bytes:
    """A column for each size."""
    sizes = ("10M", "30M", "100M", "300M", "1B")
    table = (LOSS * WOBBLE).reshape(5, 4).T
    rows = [f"{d:.0f}," + ",".join(map(str, y)) for d, y in zip(D[:4], table, strict=True)]
    return "\n".join([",".join(["tokens", *sizes]), *rows]).encode()


TRUE = {"E": 1.6, "alpha": 0.34, "beta": 0.36}
LOG = ("--column", "tokens=step", "--unit", "tokens=500000")
PPL = ("--column", "loss=eval/ppl", "--column", "params=n_params", "--column", "tokens=seen")
KINDS: Mapping[str, Kind] = {
    "two_conditions": Kind(
        file="runs.csv", data=_two_conditions(), runs=20, theta=TRUE, untold="",
        options=("--where", "router == 'dense'", "--where", "factor == 1"),
    ),
    "step_zero": Kind(
        file="log.csv", data=_step_zero(), options=(*LOG, "--where", "tokens > 0"), runs=20,
        theta=TRUE, untold="no column tokens",
    ),
    "step_zero_by_its_name": Kind(
        file="log.csv", data=_step_zero(), options=(*LOG, "--where", "step > 0"), runs=20,
        theta=TRUE, untold="no column tokens",
    ),
    "compressed": Kind(
        file="runs.csv.gz", runs=20, theta=TRUE, options=(), untold="",
        data=gzip.compress(_csv(("params", N), ("tokens", D), ("loss", LOSS * WOBBLE))),
    ),
    "perplexity": Kind(
        file="export.csv", runs=20, theta={"E": 0.9, "alpha": 0.34, "beta": 0.36},
        data=_csv(("Name", "m"), ("State", "finished"), ("n_params", N), ("seen", D),
                  ("eval/ppl", np.exp(LOSS * WOBBLE - 0.7))),
        options=(*PPL, "--unit", "loss=ppl"), untold="--unit loss=ppl",
    ),
    "wide": Kind(
        file="wide.csv", data=_wide(), options=("--wide", "params"), runs=20, theta=TRUE,
        untold="--wide params",
    ),
    "nested": Kind(
        file="nested.jsonl", data=_nested(), runs=20, theta=TRUE, untold="no column params",
        options=("--column", "params=weights", "--column", "loss=bpc", "--unit", "loss=bits",
                 "--where", "train.lr < 1"),
    ),
    "text_width": Kind(
        file="runs.csv", runs=20, theta=TRUE, untold="no column params",
        data=_csv(("budget", 6 * N * D), ("width", "d512"), ("tokens", D),
                  ("paloma macro", LOSS * WOBBLE)),
        options=("--column", "flops=budget", "--column", "loss=paloma macro"),
    ),
}  # fmt: skip
