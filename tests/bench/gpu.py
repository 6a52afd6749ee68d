"""One GPU: share of the measured matmul ceiling by size, and tiny runs.

`python -m tests.bench.gpu [--small] [--out FILE]`: our training in bf16 against a plain compiled
PyTorch loop over a plain GPT (`tests.bench.plain`) of the same shape and batch, both as a share of
the best of a few matrix products; then a tiny run, eager, compiled and with CUDA graphs.
`--small` is the same on a CPU, at sizes that a CPU can do: it shows that the script runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from sweep.planning.grid import compose_config
from sweep.planning.trajectory import Trajectory, trajectories
from sweep.training.devices import device_name
from sweep.training.session import Session
from sweep.training.timing import RandomTokens
from tests.bench.ours import INFO
from tests.bench.plain import GPT

VOCAB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured."""

    shapes: tuple[tuple[int, int, int], ...]
    """(width, depth, head size)."""
    rows: int
    length: int
    precision: str
    matmul: int
    """Side of the ceiling's matrices."""
    seconds: float
    tiny: tuple[int, int, int]
    members: int


GPU = Setting(
    shapes=((128, 4, 32), (320, 8, 64), (512, 9, 64), (768, 14, 64)),  # 1M, 10M, 29M, 100M
    rows=128,
    length=512,
    precision="bf16-mixed",
    matmul=8192,
    seconds=8.0,
    tiny=(64, 2, 16),
    members=16,
)
SMALL = Setting(
    shapes=((16, 2, 16), (64, 2, 16)),
    rows=4,
    length=128,
    precision="32-true",
    matmul=512,
    seconds=2.0,
    tiny=(16, 2, 16),
    members=4,
)


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not arguments.small and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --small runs the same on a CPU")
    setting = SMALL if arguments.small else GPU
    device = torch.device("cpu" if arguments.small else "cuda")
    torch.set_num_threads(1)
    lines = [*mfu_table(setting, device), "", *tiny_table(setting, device)]
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


def mfu_table(setting: Setting, device: torch.device) -> list[str]:
    """Tokens/s and share of the ceiling by size."""
    ceiling = matmul_ceiling(setting, device)
    lines = [
        print_line(
            f"{device_name(device)}; {setting.precision}, batch {setting.rows}x{setting.length}"
        ),
        print_line(
            f"best of matrix products of side {setting.matmul}: {ceiling / 1e12:.3g} TFLOP/s"
        ),
        print_line(
            f"{'N':>8} {'ours tok/s':>12} {'MFU':>6} {'plain tok/s':>12} {'MFU':>6} {'ratio':>6}"
        ),
    ]
    for shape in setting.shapes:
        t = planned(shape, setting, device)
        rounds = [(ours(t, setting), plain(shape, setting, device)) for _ in range(2)]
        mine, theirs = (max(column) for column in zip(*rounds, strict=True))
        per_token = t.flops_per_token.exact  # the plain GPT is counted by the same shape
        shares = (mine * per_token / ceiling, theirs * per_token / ceiling)
        lines.append(
            print_line(
                f"{t.params.matmul / 1e6:7.2f}M {mine:12.0f} {shares[0]:6.1%} "
                f"{theirs:12.0f} {shares[1]:6.1%} {mine / theirs:6.2f}"
            )
        )
    return lines


COMPILED = {"eager": "off", "compiled": "on", "CUDA graphs": "reduce_overhead"}


def tiny_rate(setting: Setting, device: torch.device, how: str) -> float:
    """Tokens/s of a tiny run of four rows of 128 tokens a step, compiled in one way."""
    cell = dataclasses.replace(setting, rows=4, length=128)
    return ours(planned(setting.tiny, cell, device, f"train.compile={how}"), cell)


def tiny_table(setting: Setting, device: torch.device) -> list[str]:
    """Tokens/s of a tiny run, by how it is compiled."""
    rates = {name: tiny_rate(setting, device, how) for name, how in COMPILED.items()}
    first = next(iter(rates.values()))
    width, depth, _ = setting.tiny
    head = print_line(f"a run of width {width}, depth {depth}, batch 4x128")
    return [head] + [
        print_line(f"{name:12} {value:10.0f} tokens/s {value / first:6.2f}x")
        for name, value in rates.items()
    ]


def ours(trajectory: Trajectory, setting: Setting) -> float:
    """Tokens/s of our training at its defaults."""
    session = Session.open(trajectory, source=RandomTokens(trajectory))
    batch = setting.rows * setting.length
    return rate(lambda: session.step(0, batch, 0.1), batch, setting.seconds, session.fabric.device)


def plain(shape: tuple[int, int, int], setting: Setting, device: torch.device) -> float:
    """Tokens/s of a plain compiled loop with autocast and fused AdamW."""
    width, depth, head_dim = shape
    torch._dynamo.reset()
    model = GPT(width, depth, width // head_dim, VOCAB, setting.length).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    data = torch.randint(VOCAB, (64, setting.rows, setting.length + 1), device=device)
    mixed = setting.precision == "bf16-mixed"

    @torch.compile(dynamic=False)
    def loss_of(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            logits = model(batch[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    def step() -> None:
        loss_of(data[int(torch.randint(64, ()))]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return rate(step, setting.rows * setting.length, setting.seconds, device)


def planned(
    shape: tuple[int, int, int], setting: Setting, device: torch.device, *more: str
) -> Trajectory:
    """A run of a shape that is long enough to be compiled."""
    width, depth, head_dim = shape
    config = compose_config(
        [
            f"model.width={width}",
            f"model.depth={depth}",
            f"model.head_dim={head_dim}",
            f"model.seq_len={setting.length}",
            f"train.batch_tokens={setting.rows * setting.length}",
            "train.batch_doublings=[]",
            "train.tokens=1e12",
            f"train.precision={setting.precision}",
            f"train.accelerator={device.type}",
            *more,
        ]
    )
    (trajectory,) = trajectories(config, vocab=VOCAB, info=INFO)
    return trajectory


def rate(step: Callable[[], object], tokens: int, seconds: float, device: torch.device) -> float:
    """Tokens/s of a step, after ten that are not timed."""
    for _ in range(10):
        step()
    synchronize(device)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(10):
            step()
        synchronize(device)
        steps += 10
    return steps * tokens / (time.perf_counter() - started)


def matmul_ceiling(setting: Setting, device: torch.device) -> float:
    """Best of ten products of square matrices in the arithmetic of training [FLOP/s]."""
    kind = torch.float32 if setting.precision == "32-true" else torch.bfloat16
    a = torch.randn(setting.matmul, setting.matmul, device=device, dtype=kind)
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(5):
            a @ a
        synchronize(device)
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * setting.matmul**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def print_line(line: str) -> str:
    """Print a line as soon as it is there."""
    print(line, flush=True)
    return line


if __name__ == "__main__":
    main()
