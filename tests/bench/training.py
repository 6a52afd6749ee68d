"""Training speed on CPU against the plain loop, share of the matmul peak, Lightning's overhead.

Each measurement is a process of its own with one thread; ours and the yardstick take turns.
Tokens/s are by processor time, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

VOCAB, LENGTH, ROWS = 500, 128, 4
SHAPES = [(16, 2, 16), (24, 2, 24), (32, 2, 16), (48, 2, 16), (64, 2, 16), (128, 4, 32)]
"""(width, depth, head size): the demo's shapes and one larger."""


def main(seconds: float = 3.0, rounds: int = 3) -> None:
    """Print the tables."""
    print("training, one thread, batch 4x128, vocabulary 500: tokens/s, medians of", rounds)
    print("     shape    plain    eager  ratio  compiled  ratio   peak")
    for shape in SHAPES:
        measured = interleaved(shape, seconds, rounds)
        plain, eager, compiled = (measured[k] for k in ("plain", "off", "on"))
        print(
            f"{f'w{shape[0]} d{shape[1]}':>10} {plain[0]:8.0f} "
            f"{eager[0]:8.0f} {eager[0] / plain[0]:6.2f} "
            f"{compiled[0]:9.0f} {compiled[0] / plain[0]:6.2f} {compiled[1]:6.1%}"
        )
    overhead()
    minute()


def interleaved(shape, seconds, rounds) -> dict[str, tuple[float, ...]]:
    """Medians of each way of training one shape, taken in turns."""
    found: dict[str, list[list[float]]] = {"plain": [], "off": [], "on": []}
    for _ in range(rounds):
        found["plain"].append(process("plain", shape, ROWS, LENGTH, VOCAB, seconds))
        for mode in ("off", "on"):
            found[mode].append(process("ours", shape, mode, seconds))
    return {k: tuple(map(statistics.median, zip(*v, strict=True))) for k, v in found.items()}


def process(module: str, shape, *arguments, **environment) -> list[float]:
    """Run one measurement in a fresh process; the numbers it prints."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, (*shape, *arguments))]
    out = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return [float(v) for v in out.stdout.split()]


def overhead(seconds: float = 20.0) -> None:
    """Our loop against the bare loop over the same module, in turns of 16 steps."""
    for shape in (SHAPES[0], SHAPES[2], SHAPES[4]):
        loop, bare, ratio = process("ours", shape, "loop", seconds)
        print(
            f"w{shape[0]}: our loop {loop * 1e3:.2f} ms a step, "
            f"bare loop {bare * 1e3:.2f} ms: {ratio - 1:+.1%} (median of ratios)"
        )


def minute() -> None:
    """What the plain loop does in a minute: our wall time, compilation counted, start-up not.

    A worker starts once for many runs; compilation is cold once a shape and machine, then warm.
    """
    for shape in (SHAPES[0], SHAPES[2], SHAPES[4]):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                (plain,) = process("plain", shape, ROWS, LENGTH, VOCAB, 10.0)
                tokens = int(60 * plain)
                (took,) = process("ours", shape, "tokens", tokens, TORCHINDUCTOR_CACHE_DIR=cache)
                name = f"w{shape[0]} d{shape[1]}"
                print(f"{name}: plain 60 s, ours {state} {took:.0f} s: {60 / took:.2f}x")


if __name__ == "__main__":
    main()
