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

Made = list[tuple[Tensor, int]]
"""Mean losses of pieces, on the device, with their rows."""

FULL_PRECISIONS = ("32-true", "64-true")


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


class Solo(Stepper):
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


class Ranks(Stepper):
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
