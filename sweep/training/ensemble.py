"""Training of several models of one shape at once on one device.

`Ensemble` stacks the weights of its members along a leading axis and does the arithmetic of
`sweep.model` for all of them: products become batched products, and nothing crosses from one member
to another, so that a member that diverges affects no other. The parameters of a member's own
`Transformer` are slices of the stacked weights and share their storage.

`Pack` trains several trajectories in one process. Each keeps its own data order, clipping,
optimiser, curve, checkpoint and record, so that a run leaves the files that it leaves alone. Only
the forward and backward passes of members at the same position are computed at once. A member that
diverges or fails leaves the others; one that was interrupted starts behind and catches up.

Shape letters as in `sweep.model`, and m members.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.model import SMALLEST, Block, SquaredReLU, Transformer, rms_norm, rotate
from sweep.training.devices import free_cache, is_out_of_memory
from sweep.training.session import BatchSteps, Session
from sweep.training.step import split_rows


class Ensemble:
    """Stacked weights of several transformers, with their losses and gradients."""

    def __init__(self, members: Sequence[Transformer]) -> None:
        """Stack the weights of the members.

        Args:
            members: Models of one shape without experts, on one device. Their parameters become
                slices of the stacked tensors.
        """
        self.first, self.members = members[0], len(members)
        self.weights: dict[str, Tensor] = {}
        self._slices: list[list[nn.Parameter]] = []
        named = [dict(member.named_parameters()) for member in members]
        for name in named[0]:
            parameters = [parameters_of[name] for parameters_of in named]
            stacked = torch.stack([p.detach() for p in parameters]).requires_grad_()
            for parameter, piece in zip(parameters, stacked.detach().unbind(0), strict=True):
                parameter.data = piece
            self.weights[name] = stacked
            self._slices.append(parameters)

    def assign_gradients(self) -> None:
        """Assign every member its slices of the gradients, and clear the stacked ones."""
        for stacked, parameters in zip(self.weights.values(), self._slices, strict=True):
            assert stacked.grad is not None
            for parameter, gradient in zip(parameters, stacked.grad.unbind(0), strict=True):
                parameter.grad = gradient
            stacked.grad = None

    def clear_gradients(self) -> None:
        """Clear the gradients of a pass that was not completed."""
        for stacked in self.weights.values():
            stacked.grad = None

    def losses(self, tokens_mbt: Tensor, target_mbt: Tensor, z_loss: float) -> Tensor:
        """Mean cross-entropy of each member, (m,), whose gradient includes that of the z-loss."""
        x_mbtd = self._embed(tokens_mbt)
        length = tokens_mbt.shape[-1]
        cos_tk, sin_tk = self.first.cos_tk[:length], self.first.sin_tk[:length]
        for number in range(self.first.shape.depth):
            block = {n: self.weights[f"blocks.{number}.{n}"] for n in ("qkv", "out", "up", "down")}
            gain_mk = self.weights[f"blocks.{number}.q_gain"]
            x_mbtd = self._block(x_mbtd, block, gain_mk, cos_tk, sin_tk)
        x_mnd = rms_norm(x_mbtd).flatten(1, 2)
        head_mvd = self.weights.get("head", self.weights["embedding"])
        return cross_entropies(x_mnd, head_mvd, target_mbt.flatten(1), z_loss)

    def _embed(self, tokens_mbt: Tensor) -> Tensor:
        """Normalised embeddings of tokens, after the convolution."""
        embedding_mvd = self.weights["embedding"]
        m, v, d = embedding_mvd.shape
        offset_m11 = torch.arange(0, m * v, v, device=tokens_mbt.device).view(m, 1, 1)
        x_mbtd = F.embedding(tokens_mbt + offset_m11, embedding_mvd.view(m * v, d))
        if "conv" in self.weights:
            x_mbtd = CausalConvs.apply(x_mbtd, self.weights["conv"])
        return rms_norm(x_mbtd)

    def _block(
        self, x_mbtd: Tensor, w: dict[str, Tensor], gain_mk: Tensor, cos_tk: Tensor, sin_tk: Tensor
    ) -> Tensor:
        """Attention and MLP, each on a normalised copy of the residual stream."""
        first = self.first.blocks[0]
        assert isinstance(first, Block)
        branch = self._attention(rms_norm(x_mbtd), w, gain_mk, cos_tk, sin_tk)
        x_mbtd = torch.add(x_mbtd, branch, alpha=first.residual)
        h = linear(rms_norm(x_mbtd), w["up"])
        if first.gated:
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        else:
            h = SquaredReLU.apply(h)
        return torch.add(x_mbtd, linear(h, w["down"]), alpha=first.residual)

    def _attention(
        self, x_mbtd: Tensor, w: dict[str, Tensor], gain_mk: Tensor, cos_tk: Tensor, sin_tk: Tensor
    ) -> Tensor:
        """Causal self-attention with QK-norm and rotary positions; see `sweep.model`."""
        m, b, t, _ = x_mbtd.shape
        heads, size = self.first.shape.heads, self.first.shape.head_dim
        qkv = linear(x_mbtd, w["qkv"]).view(m, b, t, 3, heads, size)
        gains_m2k = torch.stack([gain_mk, torch.ones_like(gain_mk)], 1)
        rotated_gains_m2k = gains_m2k.roll(size // 2, -1)
        cos = (cos_tk[:, None] * gains_m2k[:, None])[:, None, :, :, None]
        sin = (sin_tk[:, None] * rotated_gains_m2k[:, None])[:, None, :, :, None]
        qk = rotate(rms_norm(qkv[:, :, :, :2]), cos, sin).flatten(0, 1)
        q_nhtk, k_nhtk = qk.permute(2, 0, 3, 1, 4).unbind(0)
        v_nhtk = qkv[:, :, :, 2].flatten(0, 1).transpose(1, 2)
        y_nhtk = F.scaled_dot_product_attention(q_nhtk, k_nhtk, v_nhtk, is_causal=True)
        return linear(y_nhtk.transpose(1, 2).reshape(m, b, t, -1), w["out"])


def cross_entropies(x_mnd: Tensor, head_mvd: Tensor, target_mn: Tensor, z_loss: float) -> Tensor:
    """Mean loss of each member over n positions, (m,), with the gradient of its z-loss."""
    if x_mnd.device.type == "cpu":
        return HeadLosses.apply(x_mnd, head_mvd, target_mn, z_loss)
    logits_mnv = linear(x_mnd, head_mvd).float()
    penalty_m = z_loss * logits_mnv.logsumexp(-1).square().mean(1)
    losses = F.cross_entropy(logits_mnv.flatten(0, 1), target_mn.flatten(), reduction="none")
    return losses.view_as(target_mn).mean(1) + penalty_m - penalty_m.detach()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply the rows of each member (m, ..., in) by its own matrix (m, out, in)."""
    y = torch.bmm(x.flatten(1, -2), weight.transpose(1, 2))
    return y.view(*x.shape[:-1], weight.shape[1])


class CausalConvs(torch.autograd.Function):
    """`sweep.model.CausalConv` for every member: taps (m, l, d)."""

    @staticmethod
    def forward(ctx, x_mbtd: Tensor, taps_mld: Tensor) -> Tensor:  # type: ignore
        """x_t + sum_l taps_l x_(t-l)."""
        ctx.save_for_backward(x_mbtd, taps_mld)
        y_mbtd = x_mbtd.clone()
        for lag, tap_md in enumerate(taps_mld.unbind(1), start=1):
            y_mbtd[:, :, lag:].addcmul_(x_mbtd[:, :, :-lag], tap_md[:, None, None])
        return y_mbtd

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore
        """The same taps applied backwards in time."""
        x_mbtd, taps_mld = ctx.saved_tensors
        grad_x = grad.clone()
        grad_taps = []
        for lag, tap_md in enumerate(taps_mld.unbind(1), start=1):
            grad_x[:, :, :-lag].addcmul_(grad[:, :, lag:], tap_md[:, None, None])
            grad_taps.append((grad[:, :, lag:] * x_mbtd[:, :, :-lag]).sum((1, 2)))
        return grad_x, torch.stack(grad_taps, 1)


class HeadLosses(torch.autograd.Function):
    """`sweep.model.HeadLoss` for every member."""

    @staticmethod
    def forward(ctx, x_mnd: Tensor, head_mvd: Tensor, target_mn: Tensor, z_loss: float):  # type: ignore
        """Mean losses over n positions, (m,)."""
        n, column = x_mnd.shape[1], target_mn[:, :, None]
        logits_mnv = torch.bmm(x_mnd, head_mvd.transpose(1, 2))
        grad_mnv = logits_mnv.softmax(-1)
        losses = -grad_mnv.gather(2, column).clamp_min(SMALLEST).log()
        lse = losses + logits_mnv.gather(2, column)
        grad_mnv.mul_((1 + 2 * z_loss * lse) / n)
        grad_mnv.scatter_add_(2, column, grad_mnv.new_full((1, 1, 1), -1 / n).expand_as(column))
        ctx.save_for_backward(
            torch.bmm(grad_mnv, head_mvd), torch.bmm(grad_mnv.transpose(1, 2), x_mnd)
        )
        return losses.mean((1, 2))

    @staticmethod
    def backward(ctx, grad_m: Tensor):  # type: ignore
        """Scale the gradients computed in `forward`."""
        grad_x, grad_head = ctx.saved_tensors
        return grad_x * grad_m[:, None, None], grad_head * grad_m[:, None, None], None, None


class Member(Protocol):
    """What a pack trains: a `sweep.training.loop.TrajectoryTrainer`."""

    @property
    def path_position(self) -> tuple[int, int]:
        """Index of the run in training and the position on its path [tokens]."""

    def train_steps(self) -> BatchSteps:
        """Yield the rows of each step, whose gradients are computed before it continues."""

    @property
    def active_session(self) -> Session:
        """The open session."""


class Pack:
    """Trains several members, those at the same position at once."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._steps = {number: member.train_steps() for number, member in enumerate(members)}
        self._members = dict(enumerate(members))
        self._batches: dict[int, Tensor] = {}
        self._ensemble: tuple[tuple[int, ...], Ensemble] | None = None

    def train(self) -> None:
        """Train all members to their ends.

        Raises:
            BaseException: An interruption; every member has then recorded it.
        """
        try:
            self.start()
            while self._batches:
                self.train_step()
        except BaseException as error:
            for number in list(self._steps):
                self._throw(number, error)
            raise

    def start(self) -> None:
        """Bring every member to its first batch."""
        self._resume(list(self._steps))

    def train_step(self) -> None:
        """Train one step of the members that are furthest behind."""
        together = self._next()
        self._gradients(together)
        self._resume([n for n in together if n in self._steps])

    def _next(self) -> list[int]:
        """The members that are furthest behind and have the same number of rows in their batch."""
        if len(self._batches) == 1:
            return list(self._batches)
        first = min(self._batches, key=lambda n: self._members[n].path_position)
        position, rows = self._members[first].path_position, self._batches[first].shape
        return [
            n
            for n, batch in self._batches.items()
            if self._members[n].path_position == position and batch.shape == rows
        ]

    def _resume(self, numbers: Sequence[int]) -> None:
        """Let members apply their gradients and go to the next batch; those at their end leave."""
        for number in numbers:
            self._batches.pop(number, None)
            try:
                self._batches[number] = next(self._steps[number])
            except StopIteration:
                del self._steps[number]

    def _throw(self, number: int, error: BaseException) -> None:
        """Raise an error inside a member and remove it."""
        steps = self._steps.pop(number)
        self._batches.pop(number, None)
        with suppress(StopIteration, type(error)):
            steps.throw(error)

    def _gradients(self, numbers: Sequence[int]) -> None:
        """Compute the gradients of members at one position; an error stops these members alone."""
        try:
            if len(numbers) == 1:
                (number,) = numbers
                self._members[number].active_session.backward(self._batches[number])
            else:
                self._ensemble_gradients(tuple(numbers))
        except Exception as error:
            for number in list(numbers):
                self._throw(number, error)

    def _ensemble_gradients(self, numbers: tuple[int, ...]) -> None:
        """Compute the gradients of several members at once, halving pieces if memory runs out."""
        sessions = [self._members[n].active_session for n in numbers]
        if self._ensemble is None or self._ensemble[0] != numbers:
            self._ensemble = numbers, Ensemble([s.module for s in sessions])
        rows = torch.stack([self._batches[n] for n in numbers])
        started = time.perf_counter()
        while not try_gradients(self._ensemble[1], sessions, rows):
            pass
        spent = time.perf_counter() - started
        for session in sessions:
            session.seconds += spent / len(sessions)


def try_gradients(ensemble: Ensemble, sessions: Sequence[Session], rows_mbt: Tensor) -> bool:
    """Compute the gradients of all batches; False if memory ran out, after halving the pieces.

    Raises:
        torch.OutOfMemoryError: One row of each member does not fit either.
    """
    first, count = sessions[0], rows_mbt.shape[1]
    most, z_loss = first.rows_per_pass(count), first.trajectory.config.train.z_loss
    try:
        for piece in split_rows(rows_mbt, most, dim=1):
            with first.stepper.context():
                losses_m = ensemble.losses(piece[..., :-1], piece[..., 1:], z_loss)
            share = piece.shape[1] / count
            (losses_m.sum() * share).backward()
            for session, loss in zip(sessions, losses_m.detach().unbind(0), strict=True):
                session.pending.append((loss, piece.shape[1]))
        ensemble.assign_gradients()
    except RuntimeError as error:
        if not is_out_of_memory(error) or most == 1:
            raise
    else:
        return True
    ensemble.clear_gradients()
    for session in sessions:
        session.pending.clear()
        session.micro_rows = most // 2
    free_cache(first.fabric.device)
    return False
