"""Whole optimiser steps captured as CUDA graphs: one launch instead of hundreds.

A tiny model's step is hundreds of kernels of microseconds each, and the GPU waits for the host. The
first steps of every batch size run as usual; then forward, backward, clipping and AdamW are
captured once, without running, and every later step copies its rows and rates in and replays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.steps import Made, Solo

WARM_STEPS = 3
"""Steps of a batch size before it is captured: compilation, workspaces and the optimiser's state
must be there; they are real steps of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A step of one batch size."""

    graph: torch.cuda.CUDAGraph
    rows: Tensor
    """Where the batch is copied to."""
    losses: list[tuple[Tensor, int]]
    norm: Tensor


class Graphed(Solo):
    """One GPU. Rates are tensors, which a replay reads; restoring a state drops the captures."""

    def reset(self) -> None:
        """Forget the captures: the optimiser's tensors are other ones now."""
        self._captured: dict[tuple[int, int], Captured] = {}
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

    def _capture(self, rows: Tensor, most: int, z_loss: float) -> Captured:
        """Record a step without running it."""
        graph, held = torch.cuda.CUDAGraph(), rows.clone()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            losses = self.made(held, most, z_loss)
            norm = self.clip_and_step()
        self.optimizer.zero_grad(set_to_none=True)  # the capture keeps its own gradients
        return Captured(graph=graph, rows=held, losses=losses, norm=norm)
