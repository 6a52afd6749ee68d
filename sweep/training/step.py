"""The parts of an optimiser step: rows on the device, gradients, clipping and update.

`BatchFeed` fetches rows of a source in blocks. The steppers compute gradients and apply them:

    SingleDeviceStepper   one device, plain torch. Fabric's wrappers around the call of a module,
                          `backward`, clipping and `Optimizer.step` cost 1-4% of a small step
                          and do nothing else on one device, so they are left out.
    MultiDeviceStepper    one rank of several devices, through Fabric.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweep.data.rows import TokenSource

FEED_ROWS = 2048
"""Rows of a block: one call to the source per hundreds of steps."""
FULL_PRECISIONS = ("32-true", "64-true")


@dataclass(slots=True, kw_only=True)
class BatchFeed:
    """Rows of a source in order, fetched in blocks and kept on the device.

    Each block begins where the one before it ends, whatever the batches, so that the next one can
    be read ahead; a batch that spans two blocks is put together.
    """

    source: TokenSource
    device: torch.device
    rank: int = 0
    """Of the rows of a batch, those whose number is `rank` modulo `ranks` are fetched."""
    ranks: int = 1
    reads_ahead: bool | None = None
    """Whether to read the next block while this one trains; None: on a GPU, whose host is idle."""
    block: Tensor | None = None
    start: int = 0
    ahead: tuple[int, int, Future[Tensor]] | None = None
    """First row, count and tensor of the next block."""
    worker: ThreadPoolExecutor | None = None

    def rows(self, start: int, count: int) -> Tensor:
        """This rank's rows of [start, start + count) of the training order, int64.

        Start and count are multiples of the number of ranks; (count / ranks, seq_len + 1).
        """
        start, count = start // self.ranks, count // self.ranks
        begin = start - self.start
        if self.block is None or not 0 <= begin <= len(self.block):  # another path, or the first
            self.block, self.start, begin = self._fetch(start, count), start, 0
        parts = [self.block[begin : begin + count]]
        missing = count - len(parts[0])
        if missing:
            self.start += len(self.block)
            self.block = self._fetch(self.start, missing)
            parts.append(self.block[:missing])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def close(self) -> None:
        """Stop reading ahead."""
        if self.worker is not None:
            self.worker.shutdown(wait=False, cancel_futures=True)
        self.worker = self.ahead = self.block = None

    def _fetch(self, start: int, least: int) -> Tensor:
        """Fetch a block of at least so many rows to the device; perhaps begin to read the next."""
        if self.reads_ahead is None:
            self.reads_ahead = self.device.type == "cuda"
        count, ahead = max(least, FEED_ROWS), self.ahead
        if ahead is not None and ahead[0] == start and ahead[1] >= least:
            count, block = ahead[1], ahead[2].result()
        else:
            block = self._read(start, count)
        if self.reads_ahead:
            self.worker = self.worker or ThreadPoolExecutor(1, "feed")
            after = start + count
            self.ahead = (after, count, self.worker.submit(self._read, after, count))
        return block.to(self.device, non_blocking=True).long()

    def _read(self, start: int, count: int) -> Tensor:
        """Read a block on the host, int32, in pinned memory if it goes to a GPU."""
        first = start * self.ranks + self.rank
        every = (self.ranks,) if self.ranks > 1 else ()  # other people's sources may not take it
        rows = torch.from_numpy(self.source.train(first, count, *every))
        return rows.pin_memory() if self.device.type == "cuda" else rows


PieceLosses = list[tuple[Tensor, int]]
"""Mean losses of pieces of a batch, on the device, each with its number of rows."""


def split_rows(rows: Tensor, most: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Split rows into the fewest pieces of at most `most`, as equal as possible."""
    return rows.tensor_split(-(-rows.shape[dim] // most), dim)


def any_rows(*tensors: Tensor) -> AbstractContextManager[Any]:
    """Let one compiled graph serve every number of rows.

    A single row would need a graph of its own, for the few steps with which a run begins: it is
    computed uncompiled instead.
    """
    if len(tensors[0]) == 1:
        return torch.compiler.set_stance("force_eager")
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return nullcontext()


class Stepper:
    """Base of the steppers."""

    optimizer: Any

    def set_rate(self, factor: float, decay: float = 1.0) -> None:
        """Set the learning rates to `factor` times their peaks.

        Args:
            factor: Of all groups.
            decay: Further factor of the groups whose rate falls along the trunk.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor * (decay if group["decays"] else 1.0)

    def clear_gradients(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


class SingleDeviceStepper(Stepper):
    """Steps on one device, in plain torch."""

    def __init__(
        self,
        forward: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        fabric: Any,
        clip: float,
        *,
        any_rows: bool = False,
        graphs: bool = False,
    ) -> None:
        """Keep what a step needs.

        Args:
            forward: The module, compiled or not, on its device.
            optimizer: Optimiser of the module's parameters.
            fabric: Gives the context of mixed precision.
            clip: Largest norm of the gradient.
            any_rows: Compile one graph for every number of rows; no effect on an eager module.
            graphs: The module was compiled with `mode="reduce-overhead"`, whose CUDA graphs
                overwrite what they returned before: losses are copied, and gradients are added to
                buffers of their own.
        """
        self.forward, self.optimizer, self.clip = forward, optimizer, clip
        self.any_rows, self.graphs = any_rows, graphs
        full = fabric._precision.precision in FULL_PRECISIONS
        self.context = nullcontext if full else fabric.autocast
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if graphs:
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)

    def accumulate_gradients(self, rows: Tensor, most: int, z_loss: float) -> PieceLosses:
        """Compute the gradients of a batch, `most` rows at a time; returns the losses."""
        losses = []
        for piece in split_rows(rows, most):
            if self.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            tokens, targets = piece[:, :-1], piece[:, 1:]
            with self.context(), any_rows(tokens, targets) if self.any_rows else nullcontext():
                loss = self.forward(tokens, targets, z_loss)
            share = len(piece) / len(rows)
            (loss if share == 1 else loss * share).backward()
            value = loss.detach().float()
            losses.append((value.clone() if self.graphs else value, len(piece)))
        return losses

    def update(self) -> Tensor:
        """Clip the gradient, step and clear it; returns its norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.clear_gradients()
        return norm

    def clear_gradients(self) -> None:
        """Clear the gradients; buffers that graphs add to are kept."""
        self.optimizer.zero_grad(set_to_none=not self.graphs)


class MultiDeviceStepper(Stepper):
    """Steps of one rank of several devices, through Fabric."""

    context = nullcontext

    def __init__(self, model: Any, optimizer: Any, fabric: Any, clip: float) -> None:
        self.model, self.optimizer, self.fabric, self.clip = model, optimizer, fabric, clip

    def accumulate_gradients(self, rows: Tensor, most: int, z_loss: float) -> PieceLosses:
        """Compute the gradients of a batch, exchanged between ranks with its last piece."""
        losses, pieces = [], split_rows(rows, most)
        for number, piece in enumerate(pieces, start=1):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(pieces)):
                loss = self.model(piece[:, :-1], piece[:, 1:], z_loss)
                self.fabric.backward(loss * (len(piece) / len(rows)))
            losses.append((loss.detach(), len(piece)))
        return losses

    def update(self) -> Tensor:
        """Clip, step and clear the gradient; returns its norm over all ranks."""
        norm: Tensor = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.clear_gradients()
        return norm
