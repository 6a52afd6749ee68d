"""Checkpoints of an unfinished trajectory, and signals deferred until one is saved.

A state holds the model, the optimiser, the position and the curve; inside a branch it also holds
the trunk's state at the branching point. Nothing else is needed: data are addressed by position and
training itself draws no random numbers.

`StateWriter` writes in the background: training waits while the tensors are copied on the host, not
for the disk.

Slurm sends USR2 (as submitit configures it) before a time limit or a preemption, and TERM before it
kills. A state cannot be saved in the middle of an optimiser step, so `DeferredSignals` keeps a
signal until the step is over; the loop then saves the state and delivers the signal, which under
submitit requeues the job and leaves the process.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from fit.errors import RecordError

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


@dataclass(slots=True, kw_only=True)
class TrainState:
    """State of a trajectory in training."""

    position: int = 0
    """Tokens trained on along the current path."""
    branch: int | None = None
    """Index of the branch that is cooling down; None on the trunk."""
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[float, ...]] = field(default_factory=list)
    seconds: float = 0.0
    """Training time up to this state."""
    losses: list[tuple[Any, int]] = field(default_factory=list)
    """Losses since the last row of the curve, as tensors, each with its number of rows."""
    trunk: TrainState | None = None
    """State of the trunk at the position where the branch left it."""


def save(path: Path, state: TrainState) -> None:
    """Write a state atomically: to a temporary file, flushed, then renamed.

    Raises:
        RecordError: The folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save(state_to_dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write the checkpoint {path}: {error}. The folder must be writable and have "
            "space: free some space, or set another runs_dir."
        ) from error


def load(path: Path) -> TrainState | None:
    """Read a state; None if it is missing or unreadable (the run then starts from step 0)."""
    try:
        return state_from_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        return None
    except Exception:  # a damaged archive raises many unrelated types of error
        return None


class StateWriter:
    """Writes states in a thread of its own, one at a time, while training goes on."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write, once the write before is over.

        Raises:
            RecordError: The write before failed.
        """
        self.wait()
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of a write that has failed; does not wait.

        Raises:
            RecordError: It could not write.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            RecordError: It could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def host_copy(state: TrainState) -> TrainState:
    """A copy of a state on the host, which stays as it is while training goes on.

    On CUDA it is made in pinned memory and complete on return: no thread but the caller's ever
    calls CUDA. The trunk's state is itself a copy, of which only what is on a device is copied.
    """
    kept = dataclasses.replace(
        state,
        model=copied_to_host(state.model),
        optimizer=copied_to_host(state.optimizer),
        losses=copied_to_host(state.losses),
        curve=list(state.curve),
        trunk=None if state.trunk is None else _trunk_on_host(state.trunk),
    )
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().synchronize()
    return kept


def copied_to_host(value: Any) -> Any:
    """A nested state with every tensor copied to the host; other values are shared."""
    if isinstance(value, Tensor):
        if type(value) is not Tensor or value.device.type != "cuda":  # a sharded tensor, or a host
            return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
        pinned = torch.empty_like(value, device="cpu", pin_memory=True)
        return pinned.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        return {k: copied_to_host(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied_to_host(v) for v in value)
    return value


def _trunk_on_host(trunk: TrainState) -> TrainState:
    """A trunk's state on the host; as it is where it lies there, since nothing changes it."""
    weights = list(trunk.model.values())
    return trunk if all(w.device.type == "cpu" for w in weights) else host_copy(trunk)


def state_to_dict(state: TrainState) -> dict[str, Any]:
    """Plain containers that `torch.load(weights_only=True)` accepts."""
    document = {name: getattr(state, name) for name in TrainState.__slots__}
    document["trunk"] = None if state.trunk is None else state_to_dict(state.trunk)
    return document


def state_from_dict(document: dict[str, Any]) -> TrainState:
    """Inverse of `state_to_dict`."""
    trunk = document.pop("trunk")
    return TrainState(**document, trunk=None if trunk is None else state_from_dict(trunk))


class DeferredSignals:
    """A context that defers signals; `pending` is the one to deliver, if any came."""

    def __init__(self) -> None:
        self.pending: signal.Signals | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> DeferredSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                earlier = signal.getsignal(number)
                if callable(earlier) or (earlier is signal.SIG_DFL and number == signal.SIGTERM):
                    self._earlier[number] = earlier
                    signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def deliver(self) -> None:
        """Hand the pending signal, if any, to its earlier handler, which may end the process."""
        number, self.pending = self.pending, None
        if number is None:
            return
        earlier: Callable[[int, FrameType | None], Any] | signal.Handlers = self._earlier[number]
        if callable(earlier):
            earlier(number, None)
            return
        self._restore()
        os.kill(os.getpid(), number)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; USR2 outranks TERM, which Slurm sends together with it."""
        received = signal.Signals(number)
        if self.pending is None or received == signal.SIGUSR2:
            self.pending = received

    def _restore(self) -> None:
        """Restore the earlier handlers."""
        for number, earlier in self._earlier.items():
            signal.signal(number, earlier)
        self._earlier = {}
