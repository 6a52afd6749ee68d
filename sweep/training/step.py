"""The parts of an optimiser step: on one device in plain torch, on several through Fabric.

Fabric's wrappers around a module's call, `backward`, clipping and `Optimizer.step` cost 1-4% of a
small model's step; on one device they do nothing else, and are left out.

Whole optimiser steps captured as CUDA graphs: one launch instead of hundreds.

A tiny model's step is hundreds of kernels of microseconds each, and the GPU waits for the host. The
first steps of every batch size run as usual; then forward, backward, clipping and AdamW are
captured once, without running, and every later step copies its rows and rates in and replays.

Rows of a source, fetched in blocks and kept on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweep.data.rows import TokenSource

FEED_ROWS = 2048
"""Rows fetched at once: one call to the source per hundreds of steps."""
FULL_PRECISIONS = ("32-true", "64-true")
WARM_STEPS = 3
"""Steps of a batch size before it is captured: compilation, workspaces and the optimiser's state
must be there; they are real steps of the run."""


@dataclass(slots=True, kw_only=True)
class BatchFeed:
    """Rows of a source in order, fetched in blocks and kept on the device."""

    source: TokenSource
    device: torch.device
    block: Tensor | None = None
    start: int = 0
    ahead: tuple[int, int, Future[Tensor]] | None = None
    """On a GPU: first row, count and tensor of the next block, fetched while this one trains."""
    worker: ThreadPoolExecutor | None = None

    def rows(self, start: int, count: int) -> Tensor:
        """Rows [start, start + count) of the training order, (count, seq_len + 1) int64."""
        begin = start - self.start
        if self.block is None or begin < 0 or begin + count > len(self.block):
            self.block = self._fetched(start, max(count, FEED_ROWS))
            self.start, begin = start, 0
        return self.block[begin : begin + count]

    def _fetched(self, start: int, count: int) -> Tensor:
        """A block on the device; on a GPU the one after it is asked for at once."""
        if self.device.type != "cuda":
            return self._read(start, count).long().to(self.device)
        if self.ahead is not None and self.ahead[:2] == (start, count):
            block = self.ahead[2].result()
        else:
            block = self._read(start, count)
        self.worker = self.worker or ThreadPoolExecutor(1, "feed")
        after = start + count
        self.ahead = (after, count, self.worker.submit(self._read, after, count))
        return block.to(self.device, non_blocking=True).long()

    def _read(self, start: int, count: int) -> Tensor:
        """A block on the host, int32; in pinned memory where a GPU will fetch it."""
        rows = torch.from_numpy(self.source.train(start, count))
        return rows.pin_memory() if self.device.type == "cuda" else rows


Made = list[tuple[Tensor, int]]
"""Mean losses of pieces, on the device, with their rows."""


class Stepper:
    """What steps have in common, on however many devices."""

    optimizer: Any

    def reset(self) -> None:
        """The optimiser's state has been replaced."""

    def set_rate(self, factor: float) -> None:
        """Set the learning rates to a share of their peaks."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def replay(self, rows: Tensor, most: int, z_loss: float) -> Made | None:
        """A whole step at once, where there is such a thing."""
        return None


class SingleDeviceStepper(Stepper):
    """One device."""

    def __init__(
        self,
        forward: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        fabric: Any,
        clip: float,
    ) -> None:
        """Take what makes a step.

        Args:
            forward: The module, compiled or not, on its device.
            optimizer: Of its parameters.
            fabric: For the precision's context.
            clip: Largest norm of the gradient.
        """
        self.forward, self.optimizer, self.clip = forward, optimizer, clip
        full = fabric._precision.precision in FULL_PRECISIONS
        self.context = nullcontext if full else fabric.autocast
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.reset()

    def made(self, rows: Tensor, most: int, z_loss: float) -> Made:
        """Make the gradients of a batch, `most` rows at a time; losses with their rows."""
        made, pieces = [], rows.split(most)
        for piece in pieces:
            with self.context():
                loss = self.forward(piece[:, :-1], piece[:, 1:], z_loss)
            share = len(piece) / len(rows)
            (loss if share == 1 else loss * share).backward()
            made.append((loss.detach().float(), len(piece)))
        return made

    def update(self) -> Tensor:
        """Clip and step; returns the gradient's norm."""
        return self.clip_and_step()

    def clip_and_step(self) -> Tensor:
        """The gradient's norm before it is clipped; it is used up."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class MultiDeviceStepper(Stepper):
    """Several devices, one of which this process has."""

    context = nullcontext

    def __init__(self, model: Any, optimizer: Any, fabric: Any, clip: float) -> None:
        self.model, self.optimizer, self.fabric, self.clip = model, optimizer, fabric, clip

    def made(self, rows: Tensor, most: int, z_loss: float) -> Made:
        """Make the gradients of a batch; they are exchanged with its last piece."""
        made, pieces = [], rows.split(most)
        for number, piece in enumerate(pieces, start=1):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(pieces)):
                loss = self.model(piece[:, :-1], piece[:, 1:], z_loss)
                self.fabric.backward(loss * (len(piece) / len(rows)))
            made.append((loss.detach(), len(piece)))
        return made

    def update(self) -> Tensor:
        """Clip and step; returns the gradient's norm over all ranks."""
        norm: Tensor = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedStep:
    """A step of one batch size."""

    graph: torch.cuda.CUDAGraph
    rows: Tensor
    """Where the batch is copied to."""
    losses: list[tuple[Tensor, int]]
    norm: Tensor


class GraphStepper(SingleDeviceStepper):
    """One GPU. Rates are tensors, which a replay reads; restoring a state drops the captures."""

    def reset(self) -> None:
        """Forget the captures: the optimiser's tensors are other ones now."""
        self._captured: dict[tuple[int, int], CapturedStep] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self._norm: Tensor | None = None
        for group in self.optimizer.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self.parameters[0].device)

    def set_rate(self, factor: float) -> None:
        """Set the rates to a share of their peaks, in place."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(group["peak"] * factor)

    def replay(self, rows: Tensor, most: int, z_loss: float) -> Made | None:
        """Take a whole step by its capture; None where the batch size is not captured yet."""
        key = (len(rows), most)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= WARM_STEPS:
            return None
        if key not in self._captured:
            self._captured[key] = self._capture(rows, most, z_loss)
        found = self._captured[key]
        found.rows.copy_(rows)
        found.graph.replay()
        self._norm = found.norm
        return [(loss.clone(), count) for loss, count in found.losses]

    def update(self) -> Tensor:
        """The norm of the step that was replayed, else as on any device."""
        norm, self._norm = self._norm, None
        return super().update() if norm is None else norm

    def _capture(self, rows: Tensor, most: int, z_loss: float) -> CapturedStep:
        """Record a step without running it."""
        graph, held = torch.cuda.CUDAGraph(), rows.clone()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            losses = self.made(held, most, z_loss)
            norm = self.clip_and_step()
        self.optimizer.zero_grad(set_to_none=True)  # the capture keeps its own gradients
        return CapturedStep(graph=graph, rows=held, losses=losses, norm=norm)
