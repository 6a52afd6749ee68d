"""Our training as a process of its own, on random rows; see `training`.

`python -m tests.bench.ours WIDTH DEPTH HEAD_DIM (on|off) SECONDS` prints tokens/s, share of peak;
`... loop SECONDS` prints processor seconds per step of our loop and of the bare one, in turns,
    and the median of their ratios;
`... tokens COUNT` trains that many tokens and prints the seconds, compilation counted.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from fit.data.records import DataInfo
from sweep.config import Compile
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import Trajectory, trajectories
from sweep.training.devices import peak_flops_per_second
from sweep.training.session import Session
from sweep.training.timing import RandomTokens

VOCAB = 500
BATCH = 512
"""Tokens a step, as the plain loop takes: the recipe's own first batch is smaller."""
INFO = DataInfo(name="random", hash="random")


def open_session(width: int, depth: int, head_dim: int, compile: Compile, tokens: float) -> Session:
    """A session of the default recipe on random rows, batches of one size."""
    config = compose_config(
        [
            f"model.width={width}",
            f"model.depth={depth}",
            f"model.head_dim={head_dim}",
            f"train.tokens={tokens}",
            f"train.batch_tokens={BATCH}",
            "train.batch_doublings=[]",
        ]
    )
    config.train.compile = compile
    (trajectory,) = trajectories(config, vocab=VOCAB, info=INFO)
    return Session.open(trajectory, source=RandomTokens(trajectory))


def rate(trajectory: Trajectory):
    """The learning rate of the only run."""
    return trajectory.runs[0].rate


def speed(shape, mode: str, seconds: float) -> None:
    """Print tokens/s and the share of the measured matmul peak."""
    session = open_session(*shape, Compile(mode), 1e9)
    session.advance(rate(session.trajectory), 20 * BATCH, lambda: None)
    started, begin = time.process_time(), session.position
    while time.process_time() - started < seconds:
        session.advance(rate(session.trajectory), session.position + 64 * BATCH, lambda: None)
    per_second = (session.position - begin) / (time.process_time() - started)
    peak = peak_flops_per_second(torch.device("cpu"))
    print(per_second, per_second * session.trajectory.flops_per_token.exact / peak)


def loop(shape, seconds: float) -> None:
    """Print seconds per step of our loop and of the bare loop over the same module."""
    session = open_session(*shape, Compile.off, 1e9)
    module, optimizer = session.module, session.optimizer.optimizer
    rows = torch.from_numpy(session.source.train(0, 4096)).long()

    def bare(steps: int) -> None:
        for i in range(steps):
            batch = rows[(4 * i) % 4096 : (4 * i) % 4096 + 4]
            module(batch[:, :-1], batch[:, 1:], 1e-4).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    clock = time.process_time  # one thread: what else runs on the machine does not count
    times: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        started = clock()
        session.advance(rate(session.trajectory), session.position + 16 * BATCH, lambda: None)
        middle = clock()
        bare(16)
        times.append(((middle - started) / 16, (clock() - middle) / 16))
    print(*map(statistics.median, zip(*times, strict=True)))
    print(statistics.median(ours / bare for ours, bare in times))


if __name__ == "__main__":
    shape, (mode, amount) = tuple(map(int, sys.argv[1:4])), sys.argv[4:6]
    if mode == "loop":
        loop(shape, float(amount))
    elif mode == "tokens":
        whole = open_session(*shape, Compile.auto, float(amount))
        started = time.perf_counter()
        whole.advance(rate(whole.trajectory), whole.trajectory.runs[0].tokens, lambda: None)
        print(time.perf_counter() - started)
    else:
        speed(shape, mode, float(amount))
