"""Several trajectories walked together in one process, those in step sharing their gradients' work.

Every member is a walk of its own, with its own data order, clipping, optimiser, curve, checkpoint
and record: what a run leaves is what it leaves alone. Only the forward and backward pass of members
that stand at the same place of their paths is done at once (`sweep.ensemble`). One that diverges,
fails or is ahead goes its own way; one that was interrupted starts behind and catches up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from sweep.device import free_cache, out_of_memory
from sweep.ensemble import Ensemble
from sweep.session import Session, Way


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
