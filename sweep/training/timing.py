"""Step times and memory of every shape, measured on a few steps for the plan's estimates.

`measure_timings` starts one process and collects what it measures; `measure_timing` does the work
in that process. A separate process keeps the planner itself without torch (this module imports it
inside functions), makes the peak of memory that of a training worker, and lets a shape that is too
large for the machine fail without ending the plan.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.planning.timing import ShapeTiming, end_batches, keep_timing
from sweep.planning.trajectory import Trajectory

if TYPE_CHECKING:
    from sweep.training.session import Session

SECONDS = 1.5
"""Time spent on the timed steps of each batch size, after two steps that are not timed."""
HELDOUT_ROWS = 64


def measure_timings(
    trajectories: Sequence[Trajectory], say: Callable[[str], None]
) -> list[Trajectory]:
    """Time a few steps of each trajectory in a separate process and cache the timings.

    Args:
        trajectories: One per shape, by ascending size.
        say: Called with a line of progress before each measurement.

    Returns:
        The trajectories that could not be measured.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_all, args=(tuple(trajectories), sender), daemon=True)
    process.start()
    sender.close()
    failed: list[Trajectory] = []
    for number, trajectory in enumerate(trajectories, start=1):
        shape, batches = trajectory.shape, end_batches(trajectory)
        what = f"width {shape.width}, depth {shape.depth}, steps of {batches[0]} to {batches[1]}"
        say(f"timing {number} of {len(trajectories)}: {what} tokens")
        try:
            timing = receiver.recv()
        except EOFError:  # the process died, for example for lack of memory
            failed += trajectories[number - 1 :]
            break
        if isinstance(timing, ShapeTiming):
            keep_timing(trajectory, timing)
        else:
            failed.append(trajectory)
    process.join()
    return failed


def _measure_all(trajectories: Sequence[Trajectory], sender: Connection) -> None:
    """Main function of the measuring process: send one timing per trajectory, None on failure."""
    for trajectory in trajectories:
        try:
            sender.send(measure_timing(trajectory))
        except Exception:  # too large or no such kernel: the plan falls back to its formula
            sender.send(None)


def measure_timing(trajectory: Trajectory) -> ShapeTiming:
    """Time the first steps of a trajectory in this process, on random tokens."""
    from sweep.training.devices import device_name, peak_memory, reset_peak_memory
    from sweep.training.outcome import token_losses
    from sweep.training.session import Session

    source = RandomTokens(trajectory)
    session = Session.open(trajectory, source=source)
    reset_peak_memory(session.fabric.device)
    first, last = end_batches(trajectory)
    small = _measure_step_seconds(session, first)
    large = small if last == first else _measure_step_seconds(session, last)
    # On a busy machine the small batch may have waited longer: then all counts as time of tokens.
    slope = (large - small) / (last - first) if large > small else large / last
    rows = source.train(0, HELDOUT_ROWS)
    began = time.perf_counter()
    token_losses(session.module, rows, session.fabric)
    heldout = (time.perf_counter() - began) / rows[:, 1:].size
    return ShapeTiming(
        device=device_name(session.fabric.device),
        step_seconds=max(0.0, small - slope * first),
        token_seconds=slope,
        start_seconds=_measure_start_seconds(trajectory, source),
        heldout_seconds=heldout,
        memory_bytes=float(peak_memory(session.fabric.device)),
    )


def _measure_start_seconds(trajectory: Trajectory, source: RandomTokens) -> float:
    """Measure the time from an empty session to the end of the first step [s].

    The compiled code is already in the cache, as it will be for the runs: the compilation that this
    measurement paid for is not paid again.
    """
    from sweep.training.session import Session

    started = time.perf_counter()
    _run_steps(Session.open(trajectory, source=source), end_batches(trajectory)[0], 1)
    return time.perf_counter() - started


def _measure_step_seconds(session: Session, batch: int) -> float:
    """Measure the mean time of a step [s]; a median would ignore the waits of a busy machine."""
    _run_steps(session, batch, 2)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        _run_steps(session, batch, 4)
        steps += 4
    return (time.perf_counter() - started) / steps


def _run_steps(session: Session, batch: int, count: int) -> None:
    """Train some steps of a batch size and wait for the device."""
    for _ in range(count):
        norm = session.step(0, batch, 0.1)
    float(norm)  # reading the value waits for a GPU
    session.losses.clear()


class RandomTokens:
    """A data source of random rows: timing needs no real data."""

    unigram_loss = float("inf")
    available_tokens = None
    facts: tuple[tuple[str, str], ...] = ()
    ROWS = 4096

    def __init__(self, trajectory: Trajectory) -> None:
        self.info = trajectory.data
        self.vocab, self.seq_len = trajectory.shape.vocab, trajectory.shape.seq_len
        shape = (self.ROWS, self.seq_len + 1)
        self._block = np.random.default_rng(0).integers(self.vocab, size=shape, dtype=np.int32)

    def train(self, start: int, count: int, every: int = 1) -> Any:
        """Rows start, start + every, ... of one block that repeats."""
        return self._block[np.arange(start, start + every * count, every) % self.ROWS]

    def heldout(self) -> Any:
        """Not available: a timing has no held-out loss."""
        raise AssertionError("random tokens have no held-out sample")

    def verify(self) -> None:
        """Nothing can change."""
