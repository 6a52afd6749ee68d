"""Several transformers of one shape as one: every weight has a leading axis of members.

The same arithmetic as `sweep.model`, member by member: products become batched products, and
nothing crosses from one member to another, so that one that diverges spoils none. A member's own
`Transformer` shares its storage: its parameters are slices of those here.

Shape letters as in `sweep.model`, and m members.

Several trajectories walked together in one process, those in step sharing their gradients' work.

Every member is a walk of its own, with its own data order, clipping, optimiser, curve, checkpoint
and record: what a run leaves is what it leaves alone. Only the forward and backward pass of members
that stand at the same place of their paths is done at once (`sweep.training.ensemble`). One that
diverges,
fails or is ahead goes its own way; one that was interrupted starts behind and catches up.
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
from sweep.training.devices import free_cache, out_of_memory
from sweep.training.session import Session, Way


class Ensemble:
    """Members trained together; holds no state but stacked weights."""

    def __init__(self, members: Sequence[Transformer]) -> None:
        """Take over the members' weights.

        Args:
            members: Of one shape without experts, on one device; from now on slices of one tensor.
        """
        self.first, self.members = members[0], len(members)
        self.weights: dict[str, Tensor] = {}
        self._slices: list[list[nn.Parameter]] = []
        named = [dict(member.named_parameters()) for member in members]
        for name in named[0]:
            own = [parameters[name] for parameters in named]
            stacked = torch.stack([p.detach() for p in own]).requires_grad_()
            for parameter, piece in zip(own, stacked.detach().unbind(0), strict=True):
                parameter.data = piece
            self.weights[name] = stacked
            self._slices.append(own)

    def hand_out_gradients(self) -> None:
        """Give every member its slices of the gradients, and forget them here."""
        for stacked, own in zip(self.weights.values(), self._slices, strict=True):
            assert stacked.grad is not None
            for parameter, gradient in zip(own, stacked.grad.unbind(0), strict=True):
                parameter.grad = gradient
            stacked.grad = None

    def forget_gradients(self) -> None:
        """Drop what a pass that was broken off has left."""
        for stacked in self.weights.values():
            stacked.grad = None

    def losses(self, tokens_mbt: Tensor, target_mbt: Tensor, z_loss: float) -> Tensor:
        """Mean cross-entropy of each member, (m,), whose gradient has that of the z-loss."""
        x_mbtd = self._embedded(tokens_mbt)
        length = tokens_mbt.shape[-1]
        cos_tk, sin_tk = self.first.cos_tk[:length], self.first.sin_tk[:length]
        for number in range(self.first.shape.depth):
            block = {n: self.weights[f"blocks.{number}.{n}"] for n in ("qkv", "out", "up", "down")}
            gain_mk = self.weights[f"blocks.{number}.q_gain"]
            x_mbtd = self._block(x_mbtd, block, gain_mk, cos_tk, sin_tk)
        x_mnd = rms_norm(x_mbtd).flatten(1, 2)
        head_mvd = self.weights.get("head", self.weights["embedding"])
        return cross_entropies(x_mnd, head_mvd, target_mbt.flatten(1), z_loss)

    def _embedded(self, tokens_mbt: Tensor) -> Tensor:
        """Normed embeddings of tokens, after the convolution."""
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
        """Attention and MLP, each on a normed copy of the residual stream."""
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
        turned_m2k = gains_m2k.roll(size // 2, -1)
        cos = (cos_tk[:, None] * gains_m2k[:, None])[:, None, :, :, None]
        sin = (sin_tk[:, None] * turned_m2k[:, None])[:, None, :, :, None]
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
    """Each member's rows (m, ..., in) by its own matrix (m, out, in)."""
    y = torch.bmm(x.flatten(1, -2), weight.transpose(1, 2))
    return y.view(*x.shape[:-1], weight.shape[1])


class CausalConvs(torch.autograd.Function):
    """`sweep.model.CausalConv` with taps (m, l, d) of every member."""

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
        """The same taps, backwards."""
        x_mbtd, taps_mld = ctx.saved_tensors
        grad_x = grad.clone()
        grad_taps = []
        for lag, tap_md in enumerate(taps_mld.unbind(1), start=1):
            grad_x[:, :, :-lag].addcmul_(grad[:, :, lag:], tap_md[:, None, None])
            grad_taps.append((grad[:, :, lag:] * x_mbtd[:, :, :-lag]).sum((1, 2)))
        return grad_x, torch.stack(grad_taps, 1)


class HeadLosses(torch.autograd.Function):
    """`sweep.model.HeadLoss` of every member."""

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
        """Scale the gradients made in `forward`."""
        grad_x, grad_head = ctx.saved_tensors
        return grad_x * grad_m[:, None, None], grad_head * grad_m[:, None, None], None, None


class Member(Protocol):
    """A walk along a trajectory."""

    @property
    def place(self) -> tuple[int, int]:
        """The run that it is on its way to, and its position [tokens]."""

    def way(self) -> Way:
        """Yields the rows of each step, whose gradients are wanted before it goes on."""

    def at(self) -> Session:
        """Its session, once it has begun."""


class Pack:
    """Members on their way."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._ways = {number: member.way() for number, member in enumerate(members)}
        self._members = dict(enumerate(members))
        self._wanted: dict[int, Tensor] = {}
        self._ensemble: tuple[tuple[int, ...], Ensemble] | None = None

    def walk(self) -> None:
        """Walk all members to their ends; what stops one of them stops them all, but for its own.

        Raises:
            BaseException: An interruption; every member has then noted it.
        """
        try:
            self.begin()
            while self._wanted:
                self.round()
        except BaseException as error:
            for number in list(self._ways):
                self._throw(number, error)
            raise

    def begin(self) -> None:
        """Bring every member to its first step."""
        self._resume(list(self._ways))

    def round(self) -> None:
        """One step of the members that are least far."""
        together = self._next()
        self._gradients(together)
        self._resume([n for n in together if n in self._ways])

    def _next(self) -> list[int]:
        """Members that are least far and ask for the same number of rows."""
        if len(self._wanted) == 1:
            return list(self._wanted)
        first = min(self._wanted, key=lambda n: self._members[n].place)
        place, rows = self._members[first].place, self._wanted[first].shape
        return [
            n
            for n, wanted in self._wanted.items()
            if self._members[n].place == place and wanted.shape == rows
        ]

    def _resume(self, numbers: Sequence[int]) -> None:
        """Let members take their step and ask for the next; those that are at their end leave."""
        for number in numbers:
            self._wanted.pop(number, None)
            try:
                self._wanted[number] = next(self._ways[number])
            except StopIteration:
                del self._ways[number]

    def _throw(self, number: int, error: BaseException) -> None:
        """Tell a member what has stopped it."""
        way = self._ways.pop(number)
        self._wanted.pop(number, None)
        with suppress(StopIteration, type(error)):
            way.throw(error)

    def _gradients(self, numbers: Sequence[int]) -> None:
        """Make the gradients of members at one place; an error of the kernels is theirs alone."""
        try:
            if len(numbers) == 1:
                (number,) = numbers
                self._members[number].at().backward(self._wanted[number])
            else:
                self._together(tuple(numbers))
        except Exception as error:
            for number in list(numbers):
                self._throw(number, error)

    def _together(self, numbers: tuple[int, ...]) -> None:
        """Gradients of several members by one ensemble, in smaller pieces if memory runs out."""
        sessions = [self._members[n].at() for n in numbers]
        if self._ensemble is None or self._ensemble[0] != numbers:
            self._ensemble = numbers, Ensemble([s.module for s in sessions])
        rows = torch.stack([self._wanted[n] for n in numbers])
        started = time.perf_counter()
        while not gradients(self._ensemble[1], sessions, rows):
            pass
        spent = time.perf_counter() - started
        for session in sessions:
            session.seconds += spent / len(sessions)


def gradients(ensemble: Ensemble, sessions: Sequence[Session], rows_mbt: Tensor) -> bool:
    """Gradients of every member's batch; False where memory ran out, the pieces now halved.

    Raises:
        torch.OutOfMemoryError: One row of each does not fit either.
    """
    first, count = sessions[0], rows_mbt.shape[1]
    most, z_loss = first.micro(count), first.trajectory.config.train.z_loss
    try:
        for piece in rows_mbt.split(most, dim=1):
            with first.stepper.context():
                losses_m = ensemble.losses(piece[..., :-1], piece[..., 1:], z_loss)
            share = piece.shape[1] / count
            (losses_m.sum() * share).backward()
            for session, loss in zip(sessions, losses_m.detach().unbind(0), strict=True):
                session.made.append((loss, piece.shape[1]))
        ensemble.hand_out_gradients()
    except RuntimeError as error:
        if not out_of_memory(error) or most == 1:
            raise
    else:
        return True
    ensemble.forget_gradients()
    for session in sessions:
        session.made.clear()
        session.micro_rows = most // 2
    free_cache(first.fabric.device)
    return False
