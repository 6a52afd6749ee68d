"""One model in training: device, data, optimiser, and where it is on its path."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sweep.data.registry import open_source
from sweep.data.rows import TokenSource
from sweep.model import Transformer
from sweep.planning.timing import rows_that_fit, wants_compile, wants_graphs
from sweep.planning.trajectory import LearningRate, Trajectory
from sweep.training.checkpoint import TrainState
from sweep.training.devices import (
    free_cache,
    free_memory,
    gather_state,
    load_model,
    load_optimizer,
    mean,
    open_fabric,
    out_of_memory,
    prepare_process,
)
from sweep.training.step import BatchFeed, GraphStepper, MultiDeviceStepper, SingleDeviceStepper

WHOLE_DEPTH = 2
"""Blocks up to which a model is compiled whole on CPU: 15% faster steps at width 32."""


Way = Generator[Tensor, None, None]
"""Rows of step after step: their gradients are made before it goes on."""


class Diverged(Exception):
    """The loss is not finite, or worse than the unigram loss after warm-up."""


@dataclass(slots=True, kw_only=True)
class Session:
    """A trajectory in progress. Opened once, walked by `sweep.training.loop`."""

    trajectory: Trajectory
    fabric: Any
    source: TokenSource
    module: Transformer
    model: Any
    """The module as Fabric (and torch.compile) wrapped it."""
    optimizer: Any
    stepper: SingleDeviceStepper | MultiDeviceStepper
    compiled: bool
    position: int = 0
    """Tokens seen on the present path."""
    branch: int | None = None
    """Index of the run that is cooling down; None on the trunk."""
    curve: list[tuple[float, ...]] = field(default_factory=list)
    """(tokens, train loss, lr, gradient norm) per row."""
    seconds: float = 0.0
    """Training time on the present path."""
    trunk: TrainState | None = None
    """Where the branch left the trunk, if it is needed again."""
    feed: BatchFeed | None = None
    made: list[tuple[Tensor, int]] = field(default_factory=list)
    """Losses of the step whose gradients are made and not yet used."""
    losses: list[tuple[Tensor, int]] = field(default_factory=list)
    """Losses since the last row, on the device, with their rows."""
    fitting: int | None = None
    """Rows of one pass that a GPU's free memory takes; None where it is not asked."""
    micro_rows: int | None = None
    """Most rows in one forward pass, once memory has run out with more."""
    between: Callable[[], None] = lambda: None
    """Called after every step: here alone the state can be saved."""

    @classmethod
    def open(cls, trajectory: Trajectory, *, source: TokenSource | None = None) -> Session:
        """Build model, optimiser and data source at step 0; a given source stands in for data."""
        config, train = trajectory.config, trajectory.config.train
        fabric = open_fabric(train)
        prepare_process(train.threads)
        fitting = None
        if (free := free_memory(fabric.device)) is not None:
            fitting = rows_that_fit(trajectory.shape, trajectory.params, free)
        source = source or open_source(
            config.data, seq_len=trajectory.shape.seq_len, seed=config.seed
        )
        module = Transformer(
            trajectory.shape, residual=trajectory.scaled.residual, balance=train.balance_loss
        )
        module.init_weights(torch.Generator().manual_seed(config.seed))
        compiled = wants_compile(train, trajectory, fabric.device.type)
        wrapped = compile_module(module, fabric.device) if compiled else module
        model = fabric.setup_module(wrapped)  # first: sharding puts other parameters in place
        inner = build_optimizer(module, trajectory, fabric.device)
        optimizer = fabric.setup_optimizers(inner)
        stepper: SingleDeviceStepper | MultiDeviceStepper = MultiDeviceStepper(
            model, optimizer, fabric, train.clip
        )
        if fabric.world_size == 1:
            graphs = wants_graphs(train, trajectory, fabric.device.type)
            stepper = (GraphStepper if graphs else SingleDeviceStepper)(
                wrapped, inner, fabric, train.clip
            )
        return cls(
            trajectory=trajectory,
            fabric=fabric,
            source=source,
            module=module,
            model=model,
            optimizer=optimizer,
            stepper=stepper,
            fitting=fitting,
            compiled=compiled,
        )

    def advance(self, rate: LearningRate, until: int, tick: Callable[[], None]) -> None:
        """Train from the present position to another; see `path`."""
        for rows in self.path(rate, until, tick):
            self.backward(rows)

    def path(self, rate: LearningRate, until: int, tick: Callable[[], None]) -> Way:
        """Walk from the present position to another, step by step.

        Args:
            rate: Learning rate by position.
            until: A position of the batch rule's sequence [tokens].
            tick: Called after every row of the curve.

        Yields:
            The rows of the next step, whose gradients the caller makes (`backward`) before it goes
            on: with others at once, as in `sweep.training.ensemble`, or alone.

        Raises:
            Diverged: The loss is not finite, or worse than the unigram loss after warm-up.
        """
        started = time.perf_counter()
        for position, batch in self.trajectory.rule.steps(self.position, until):
            factor = rate.factor(position, batch)
            self.stepper.set_rate(factor)
            rows = self._rows(position, batch)
            self.seconds += time.perf_counter() - started
            yield rows
            started = time.perf_counter()
            norm = self.finish()
            self.position = position + batch
            if self.position >= self._next_row() or self.position == until:
                row = self._add_row(factor, norm)
                self._check(row, rate.warmup)
                tick()
            self.between()
        self.seconds += time.perf_counter() - started

    def step(self, position: int, batch: int, factor: float) -> Tensor:
        """One optimiser step on the rows at a position; returns the gradient's norm."""
        self.stepper.set_rate(factor)
        self.backward(self._rows(position, batch))
        return self.finish()

    def backward(self, rows: Tensor) -> None:
        """Make the gradients of a batch, piece by piece, in smaller pieces if memory runs out."""
        started = time.perf_counter()
        while not self._gradients(rows):
            self.optimizer.zero_grad(set_to_none=True)
        self.seconds += time.perf_counter() - started

    def finish(self) -> Tensor:
        """Take the step whose gradients are made; returns their norm."""
        self.losses += self.made
        self.made = []
        return self.stepper.update()

    def _gradients(self, rows: Tensor) -> bool:
        """Gradients of a batch, piece by piece; False where memory ran out, the pieces now halved.

        Raises:
            torch.OutOfMemoryError: One row does not fit either.
        """
        most, z_loss = self.micro(len(rows)), self.trajectory.config.train.z_loss
        try:
            replayed = self.stepper.replay(rows, most, z_loss)
            self.made = self.stepper.made(rows, most, z_loss) if replayed is None else replayed
        except RuntimeError as error:  # ranks of one run would wait for each other's pieces
            if not out_of_memory(error) or most == 1 or self.fabric.world_size > 1:
                raise
        else:
            return True
        self.micro_rows = most // 2
        free_cache(self.fabric.device)
        return False

    def _rows(self, position: int, batch: int) -> Tensor:
        """This process's rows of a batch, on the device."""
        length = self.trajectory.shape.seq_len
        if self.feed is None:
            self.feed = BatchFeed(source=self.source, device=self.fabric.device)
        rows = self.feed.rows(position // length, batch // length)
        return rows[self.fabric.global_rank :: self.fabric.world_size]

    def micro(self, rows: int) -> int:
        """Rows per forward pass: the base batch on CPU (one graph, and it stays in cache)."""
        train = self.trajectory.config.train
        given = train.micro_batch_tokens
        if given is None and self.fabric.device.type == "cpu":
            given = train.batch_tokens
        per_pass = self.fitting or rows
        if given is not None:
            per_pass = given // self.trajectory.shape.seq_len // self.fabric.world_size
        return int(max(1, min(rows, per_pass, self.micro_rows or rows)))

    def _next_row(self) -> int:
        """Position of the curve's next row: dense at first, then every 1% of the way."""
        last = int(self.curve[-1][0]) if self.curve else 0
        return last + max(16 * self.trajectory.rule.batch_tokens, last // 100)

    def _add_row(self, factor: float, norm: Tensor) -> tuple[float, ...]:
        """Append (tokens, loss, lr, gradient norm); here alone the device is waited for."""
        weights = sum(count for _, count in self.losses)
        own = torch.stack([x * n for x, n in self.losses]).sum() / weights
        loss = float(mean(self.fabric, own))  # so that every rank sees the same and decides alike
        self.losses = []
        row = (
            float(self.position),
            loss,
            self.trajectory.scaled.lr * factor,
            float(gather_state(norm)),
        )
        self.curve.append(row)
        return row

    def _check(self, row: tuple[float, ...], warmup: int) -> None:
        """See whether the run still makes sense.

        The mean of a row's steps is compared with the unigram loss once 2 warm-ups and 100 steps
        are over, by which every healthy run measured so far was far below it.
        """
        tokens, loss, _, norm = row
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"loss {loss:g}, gradient norm {norm:g} at {tokens:.0f} tokens")
        settled = max(2 * warmup, 100 * self.trajectory.rule.batch_tokens)
        limit = self.source.unigram_loss
        if tokens > settled and loss > limit:
            raise Diverged(
                f"training loss {loss:.3f} at {tokens:.0f} tokens is worse than the unigram loss "
                f"{limit:.3f}"
            )

    def state(self) -> TrainState:
        """The present state; its tensors are those in use, sharded where the model is."""
        return TrainState(
            position=self.position,
            branch=self.branch,
            model=self.module.state_dict(),
            optimizer=self.optimizer.state_dict(),
            curve=self.curve,
            seconds=self.seconds,
            losses=list(self.losses),
            trunk=self.trunk,
        )

    def restore(self, state: TrainState) -> None:
        """Go to a state, which is copied."""
        load_model(self.module, state.model)
        load_optimizer(self.optimizer, copy.deepcopy(state.optimizer))
        self.stepper.reset()
        self.position, self.branch = state.position, state.branch
        self.curve, self.seconds = list(state.curve), state.seconds
        self.trunk = state.trunk
        self.losses = [(loss.to(self.fabric.device), n) for loss, n in state.losses]

    def leave_trunk(self, branch: int, *, come_back: bool) -> None:
        """Begin a branch; remember the trunk if there are more to come."""
        self.trunk = copy.deepcopy(self.state()) if come_back else None
        self.branch = branch

    def return_to_trunk(self) -> None:
        """Go back to where the branch left, or to the start if that was not kept."""
        if self.trunk is None:
            self.rewind()
        else:
            self.restore(self.trunk)

    def rewind(self) -> None:
        """Go back to step 0."""
        fresh = Transformer(self.trajectory.shape)
        fresh.init_weights(torch.Generator().manual_seed(self.trajectory.seed))
        load_model(self.module, fresh.state_dict())
        empty = {"state": {}, "param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(empty)
        self.stepper.reset()
        self.position, self.branch, self.trunk = 0, None, None
        self.curve, self.seconds, self.losses = [], 0.0, []


def build_optimizer(
    module: Transformer, trajectory: Trajectory, device: torch.device
) -> torch.optim.AdamW:
    """AdamW with one group per rule: hidden matrices, embedding and head, gains and taps.

    Hidden matrices alone decay; rates and epsilons are those of `sweep.planning.trajectory`.
    """
    train, scaled = trajectory.config.train, trajectory.scaled
    groups: dict[str, list[Tensor]] = {"hidden": [], "embedding": [], "gains": [], "taps": []}
    for name, parameter in module.named_parameters():
        inside = "gains" if parameter.ndim < 2 else "hidden"
        known = {"embedding": "embedding", "head": "embedding", "conv": "taps"}
        groups[known.get(name, inside)].append(parameter)
    rules = {
        "hidden": (scaled.lr, scaled.weight_decay, scaled.hidden_epsilon),
        "embedding": (scaled.embedding_lr, 0.0, scaled.epsilon),
        "gains": (train.lr, 0.0, scaled.hidden_epsilon),
        "taps": (train.lr, 0.0, scaled.epsilon),
    }
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rules[name][0],
                "peak": rules[name][0],
                "weight_decay": rules[name][1],
                "eps": rules[name][2],
            }
            for name, parameters in groups.items()
            if parameters
        ],
        betas=(train.beta1, train.beta2),
        fused=device.type in ("cpu", "cuda"),
        capturable=device.type == "cuda",
    )


def compile_module(module: Transformer, device: torch.device) -> Any:
    """The module compiled, with static shapes.

    On CPU a deep model is compiled block by block: every block reuses the first one's code. At
    width 128 and depth 4 that takes 18 s of 33 and trains as fast (docs/log.md). Dynamo keeps 8
    graphs of a function and runs the ninth shape of a process uncompiled unless it is reset.
    """
    torch._dynamo.reset()
    if device.type != "cpu" or module.shape.depth <= WHOLE_DEPTH:
        return torch.compile(module, dynamic=False)
    for block in module.blocks:
        block.compile(dynamic=False)
    return module
