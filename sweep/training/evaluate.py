"""A few steps of every shape, timed in one process of its own, for the plan's estimates.

In a process of its own, so that the planner itself stays without torch, the peak of memory is that
of a worker, and a shape that is too large for the machine takes nothing with it.

The final held-out loss, its standard error, its split over skills, and bits per byte.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fit.data.records import DataInfo
from sweep.data.rows import Heldout
from sweep.model import Transformer
from sweep.planning.timing import ShapeTiming, end_batches, keep_timing
from sweep.planning.trajectory import Trajectory
from sweep.training.devices import gather_rows

if TYPE_CHECKING:
    from sweep.training.session import Session

CHUNK_TOKENS = 4096
"""Tokens per forward pass: the logits of a vocabulary of 500 stay inside a 8 MB cache."""
SECONDS = 1.5
"""Of steps timed per batch, after two that are not."""
HELDOUT_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Held-out loss of a model [nats/token]."""

    loss: float
    """Known entropy plus mean excess where the data know it, else the plain mean."""
    loss_se: float
    """Standard error over held-out rows; with known entropy only of the paired excess."""
    loss_plain: float
    loss_bpb: float | None
    loss_by_skill: Mapping[str, float] | None


def measure(model: Transformer, heldout: Heldout, info: DataInfo, fabric: Any) -> Measurement:
    """Measure a model on the whole held-out sample.

    Where the ideal loss of every token is known, the sample's own entropy noise cancels in the
    paired difference to it, and the exact expectation is added back.
    """
    losses = token_losses(model, heldout.rows, fabric)
    plain = float(losses.mean())
    excess = losses if heldout.ideal is None else losses - heldout.ideal
    base = 0.0 if heldout.ideal is None else _known(info.entropy)
    rows = excess.mean(axis=1)
    loss = base + float(rows.mean())
    per_byte = info.bytes_per_token
    return Measurement(
        loss=loss,
        loss_se=float(rows.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else math.nan,
        loss_plain=plain,
        loss_bpb=None if per_byte is None else loss / math.log(2) / per_byte,
        loss_by_skill=_by_skill(excess, heldout, info),
    )


def token_losses(model: Transformer, rows: NDArray[np.int32], fabric: Any) -> NDArray[np.float64]:
    """Negative log-likelihood of every target token, (rows, seq_len) [nats], shared by the ranks.

    A sharded model is run by all ranks together, so each takes as many chunks as the others.
    """
    ranks, length = fabric.world_size, rows.shape[1] - 1
    step = max(1, CHUNK_TOKENS // length)
    most = -(-len(rows) // ranks)
    own = np.resize(rows[fabric.global_rank :: ranks], (most, length + 1))
    out = torch.empty(most, length, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, most, step):
            chunk = torch.from_numpy(own[start : start + step].astype(np.int64)).to(fabric.device)
            out[start : start + step] = model.token_losses(chunk[:, :-1], chunk[:, 1:]).cpu()
    return gather_rows(fabric, out, len(rows)).numpy()


def _by_skill(
    excess: NDArray[np.float64], heldout: Heldout, info: DataInfo
) -> dict[str, float] | None:
    """Each skill's share of the loss; the shares sum to it."""
    if heldout.skill is None:
        return None
    sums = np.bincount(heldout.skill.ravel(), excess.ravel(), minlength=len(heldout.skills))
    known = info.entropy_by_skill or {}
    return {
        name: known.get(name, 0.0) + float(total) / excess.size
        for name, total in zip(heldout.skills, sums, strict=True)
    }


def _known(entropy: float | None) -> float:
    """The entropy of data whose ideal losses are known."""
    assert entropy is not None, "a source with ideal losses knows its entropy"
    return entropy


def measure_timings(
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
        if isinstance(found, ShapeTiming):
            keep_timing(trajectory, found)
        else:
            failed.append(trajectory)
    process.join()
    return failed


def _measure_all(trajectories: Sequence[Trajectory], sender: Connection) -> None:
    """Main function of the measuring process: one answer per trajectory, None where it failed."""
    for trajectory in trajectories:
        try:
            sender.send(measure_timing(trajectory))
        except Exception:  # too large, or a kernel that does not exist: the formula's turn
            sender.send(None)


def measure_timing(trajectory: Trajectory) -> ShapeTiming:
    """Time the first steps of a trajectory in this process, on random tokens."""
    from sweep.training.devices import device_name, peak_memory, reset_peak_memory
    from sweep.training.session import Session

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
    return ShapeTiming(
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
    from sweep.training.session import Session

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
