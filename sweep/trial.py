"""A few steps of every shape, timed in one process of its own, for the plan's estimates.

In a process of its own, so that the planner itself stays without torch, the peak of memory is that
of a worker, and a shape that is too large for the machine takes nothing with it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from sweep.pace import Pace, end_batches, keep_pace
from sweep.plan import Trajectory

if TYPE_CHECKING:
    from sweep.session import Session

SECONDS = 1.5
"""Of steps timed per batch, after two that are not."""
HELDOUT_ROWS = 64


def measure_paces(
    trajectories: Sequence[Trajectory], say: Callable[[str], None]
) -> list[Trajectory]:
    """Time a few steps of trajectories and remember what came out.

    Args:
        trajectories: One per shape, by ascending size.
        say: Told what is going on.

    Returns:
        Those that could not be measured.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_all, args=(tuple(trajectories), sender), daemon=True)
    process.start()
    sender.close()
    failed: list[Trajectory] = []
    for number, trajectory in enumerate(trajectories, start=1):
        shape = trajectory.shape
        say(f"timing {number} of {len(trajectories)}: width {shape.width}, depth {shape.depth}")
        try:
            found = receiver.recv()
        except EOFError:  # the process died, as for want of memory
            failed += trajectories[number - 1 :]
            break
        if isinstance(found, Pace):
            keep_pace(trajectory, found)
        else:
            failed.append(trajectory)
    process.join()
    return failed


def _measure_all(trajectories: Sequence[Trajectory], sender: Connection) -> None:
    """Main function of the measuring process: one answer per trajectory, None where it failed."""
    for trajectory in trajectories:
        try:
            sender.send(measure_pace(trajectory))
        except Exception:  # too large, or a kernel that does not exist: the formula's turn
            sender.send(None)


def measure_pace(trajectory: Trajectory) -> Pace:
    """Time the first steps of a trajectory in this process, on random tokens."""
    from sweep.device import device_name, peak_memory, reset_peak_memory
    from sweep.heldout import token_losses
    from sweep.session import Session

    source = RandomTokens(trajectory)
    session = Session.open(trajectory, source=source)
    reset_peak_memory(session.fabric.device)
    first, last = end_batches(trajectory)
    small = _step_seconds(session, first)
    large = small if last == first else _step_seconds(session, last)
    slope = small / first if last == first else max(0.0, (large - small) / (last - first))
    rows = source.train(0, HELDOUT_ROWS)
    began = time.perf_counter()
    token_losses(session.module, rows, session.fabric)
    heldout = (time.perf_counter() - began) / rows[:, 1:].size
    return Pace(
        device=device_name(session.fabric.device),
        step_seconds=max(0.0, small - slope * first),
        token_seconds=slope,
        start_seconds=_start_seconds(trajectory, source),
        heldout_seconds=heldout,
        memory_bytes=float(peak_memory(session.fabric.device)),
    )


def _start_seconds(trajectory: Trajectory, source: RandomTokens) -> float:
    """Time from nothing to the end of the first step, what was compiled before being in the cache.

    The compilation that a trial does is not paid again by the runs.
    """
    from sweep.session import Session

    started = time.perf_counter()
    _steps(Session.open(trajectory, source=source), end_batches(trajectory)[0], 1)
    return time.perf_counter() - started


def _step_seconds(session: Session, batch: int) -> float:
    """Mean time of a step of a batch [s]: a median would leave out the waits of a busy machine."""
    _steps(session, batch, 2)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        _steps(session, batch, 4)
        steps += 4
    return (time.perf_counter() - started) / steps


def _steps(session: Session, batch: int, count: int) -> None:
    """Some steps of a batch, and wait for them."""
    for _ in range(count):
        norm = session.step(0, batch, 0.1)
    float(norm)
    session.losses.clear()


class RandomTokens:
    """A source of random rows: timing needs no data."""

    unigram_loss = float("inf")
    ROWS = 4096

    def __init__(self, trajectory: Trajectory) -> None:
        import numpy as np

        self.info = trajectory.data
        self.vocab, self.seq_len = trajectory.shape.vocab, trajectory.shape.seq_len
        shape = (self.ROWS, self.seq_len + 1)
        self._block = np.random.default_rng(0).integers(self.vocab, size=shape, dtype=np.int32)

    def train(self, start: int, count: int) -> Any:
        """Rows [start, start + count), the block over and over."""
        import numpy as np

        return self._block[np.arange(start, start + count) % self.ROWS]

    def heldout(self) -> Any:
        """None: a trial is never measured by its loss."""
        raise AssertionError("a trial has no held-out sample")
