"""The parts of an optimiser step: on one device in plain torch, on several through Fabric.

Fabric's wrappers around a module's call, `backward`, clipping and `Optimizer.step` cost 1-4% of a
small model's step; on one device they do nothing else, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

FULL_PRECISIONS = ("32-true", "64-true")


class Solo:
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

    def add(self, piece: Tensor, z_loss: float, share: float, *, more: bool) -> Tensor:
        """Add a piece's share of a batch to the gradients; returns its mean loss."""
        with self.context():
            loss = self.forward(piece[:, :-1], piece[:, 1:], z_loss)
        (loss if share == 1 else loss * share).backward()
        return loss.detach().float()

    def update(self) -> Tensor:
        """Clip and step; returns the gradient's norm."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class Ranks:
    """Several devices, one of which this process has."""

    context = nullcontext

    def __init__(self, model: Any, optimizer: Any, fabric: Any, clip: float) -> None:
        self.model, self.optimizer, self.fabric, self.clip = model, optimizer, fabric, clip

    def add(self, piece: Tensor, z_loss: float, share: float, *, more: bool) -> Tensor:
        """Add a piece's share of a batch; gradients are exchanged unless `more` is to come."""
        with self.fabric.no_backward_sync(self.model, enabled=more):
            loss = self.model(piece[:, :-1], piece[:, 1:], z_loss)
            self.fabric.backward(loss * share)
        return loss.detach()

    def update(self) -> Tensor:
        """Clip and step; returns the gradient's norm over all ranks."""
        norm: Tensor = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm
