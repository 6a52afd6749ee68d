"""One model in training: its device, data, optimiser, learning curve and position.

`Session.open` builds it at step 0, and `advance` trains to a position. `leave_trunk` and
`return_to_trunk` move between the trunk of a trajectory and its branches.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from fit.data.schedule import LearningRate
from fit.errors import PlanError
from sweep.cache import cache_folder
from sweep.config import Compile
from sweep.data.registry import open_source
from sweep.data.rows import TokenSource, moved_data
from sweep.model import Transformer, head_loss
from sweep.planning.devices import device_kind
from sweep.planning.timing import (
    compile_pays,
    missing_for_compile,
    rows_that_fit,
    wants_compile,
)
from sweep.planning.trajectory import Trajectory
from sweep.plugins import checked_groups
from sweep.training.checkpoint import TrainState
from sweep.training.devices import (
    free_cache,
    free_memory,
    gather_state,
    is_out_of_memory,
    load_model,
    load_optimizer,
    mean_over_ranks,
    open_fabric,
    prepare_process,
)
from sweep.training.optimizers import MuonAdamW
from sweep.training.step import BatchFeed, MultiDeviceStepper, SingleDeviceStepper
from sweep.training.tracking import say

CPU_PASS_TOKENS = 1536
"""Most tokens of one forward pass on a CPU: 12 rows of 128 train 1.3 to 1.6 times as many tokens a
second as 4, and more gain nothing (docs/log.md)."""
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"
"""Variable with the folder in which torch keeps compiled code."""
WHOLE_DEPTH = 2
"""Most blocks of a model that is compiled as a whole on CPU: 15% faster steps at width 32."""


class Diverged(Exception):
    """The loss is not finite, or above the unigram loss after warm-up."""


@dataclass(slots=True, kw_only=True)
class Session:
    """A trajectory in training, opened and driven by `sweep.training.loop`."""

    trajectory: Trajectory
    fabric: Any
    source: TokenSource
    module: Any
    """The `Transformer`, or a model of the user's own (`sweep.plugins.OwnModel`)."""
    model: Any
    """The module, wrapped by Fabric."""
    optimizer: Any
    stepper: SingleDeviceStepper | MultiDeviceStepper
    compiled: bool
    position: int = 0
    """Tokens trained on along the present path."""
    branch: int | None = None
    """Index of the run that is cooling down; None on the trunk."""
    curve: list[tuple[float, ...]] = field(default_factory=list)
    """Rows of (tokens, training loss, learning rate, gradient norm)."""
    seconds: float = 0.0
    """Training time on the present path."""
    trunk: TrainState | None = None
    """State of the trunk at the branching point, if more runs need it."""
    feed: BatchFeed | None = None
    pending: list[tuple[Tensor, int]] = field(default_factory=list)
    """Losses of the step whose gradients are computed but not yet applied."""
    losses: list[tuple[Tensor, int]] = field(default_factory=list)
    """Losses since the last row of the curve, on the device, each with its number of rows."""
    memory_rows: int | None = None
    """Rows of one forward pass that fit a GPU's free memory; None on other devices."""
    micro_rows: int | None = None
    """Most rows of one forward pass, set after memory ran out with more."""
    damaged: set[Path] = field(default_factory=set)
    """Files of compiled code that could not be used and were deleted."""
    after_step: Callable[[], None] = lambda: None
    """Called after every step, the only place where the state can be saved."""

    @classmethod
    def open(cls, trajectory: Trajectory, *, source: TokenSource | None = None) -> Session:
        """Build model, optimiser and data source at step 0; `source` replaces that of the data."""
        config, train = trajectory.config, trajectory.config.train
        fabric = open_fabric(train, device_kind(config))
        prepare_process(train.threads)
        memory_rows = None
        if (free := free_memory(fabric.device)) is not None:
            memory_rows = rows_that_fit(trajectory.shape, trajectory.params, free)
        if source is None:
            source = open_source(config.data, seq_len=trajectory.shape.seq_len, seed=config.seed)
            if source.info.hash != trajectory.data.hash:  # a record holds the planned one
                raise moved_data(config.data, source.info.hash, trajectory.data.hash)
        module = build_model(trajectory)
        module.init_weights(torch.Generator().manual_seed(config.seed))
        compiled = wants_compile(train, trajectory, fabric.device.type)
        graphs = fabric.device.type == "cuda" and train.compile is Compile.reduce_overhead
        if compiled:
            compile_module(module, fabric.device, graphs=graphs)
        elif train.compile is Compile.auto and compile_pays(trajectory, fabric.device.type):
            missing = missing_for_compile(fabric.device.type)
            say_uncompiled(f"torch.compile needs {missing}; install it, or say train.compile=off")
        model = fabric.setup_module(module)  # first: sharding replaces the parameters
        inner = build_optimizer(module, trajectory, fabric.device)
        optimizer = fabric.setup_optimizers(inner)
        stepper: SingleDeviceStepper | MultiDeviceStepper = MultiDeviceStepper(
            model, optimizer, fabric, train.clip
        )
        if fabric.world_size == 1:
            stepper = SingleDeviceStepper(
                module, inner, fabric, train.clip, any_rows=compiled, graphs=graphs and compiled
            )
        return cls(
            trajectory=trajectory,
            fabric=fabric,
            source=source,
            module=module,
            model=model,
            optimizer=optimizer,
            stepper=stepper,
            memory_rows=memory_rows,
            compiled=compiled,
        )

    def advance(self, rate: LearningRate, until: int, on_row: Callable[[], None]) -> None:
        """Train from the present position to another, step by step.

        Args:
            rate: Learning rate by position.
            until: A position of the batch rule's sequence [tokens].
            on_row: Called after every row of the curve.

        Raises:
            Diverged: The loss is not finite, or above the unigram loss after warm-up.
        """
        for position, batch in self.trajectory.rule.steps(self.position, until):
            started = time.perf_counter()
            factor = rate.factor(position, batch)
            decay = rate.decay(position, batch)
            self.stepper.set_rate(factor, decay)
            self.backward(self._rows(position, batch))
            norm = self.update()
            self.position = position + batch
            if self.position >= self._next_row() or self.position == until:
                row = self._add_row(factor * decay, norm)
                self._check(row, rate.warmup)
                on_row()
            self.after_step()
            self.seconds += time.perf_counter() - started

    def step(self, position: int, batch: int, factor: float) -> Tensor:
        """Take one optimiser step on the rows at a position; returns the norm of the gradient."""
        self.stepper.set_rate(factor)
        self.backward(self._rows(position, batch))
        return self.update()

    def backward(self, rows: Tensor) -> None:
        """Compute the gradients of a batch in pieces, in smaller ones if memory runs out."""
        while not self._try_gradients(rows):
            self.stepper.clear_gradients()

    def update(self) -> Tensor:
        """Apply the computed gradients; returns their norm."""
        self.losses += self.pending
        self.pending = []
        return self.stepper.update()

    def _try_gradients(self, rows: Tensor) -> bool:
        """Compute the gradients of a batch; False if memory ran out, after halving the pieces.

        Raises:
            torch.OutOfMemoryError: One row does not fit either.
            PlanError: torch cannot compile the model, as `_after_failed_compile` says.
        """
        most, z_loss = self.rows_per_pass(len(rows)), self.trajectory.config.train.z_loss
        try:
            self.pending = self.stepper.accumulate_gradients(rows, most, z_loss)
        except (RuntimeError, ImportError, OSError) as error:
            if self.compiled and is_of_compiling(error):
                self._after_failed_compile(error)
                return False
            # Ranks with pieces of unequal size would deadlock.
            if not is_out_of_memory(error) or most == 1 or self.fabric.world_size > 1:
                raise
        else:
            return True
        self.micro_rows = most // 2
        free_cache(self.fabric.device)
        return False

    def _after_failed_compile(self, error: Exception) -> None:
        """Compile again without damaged files, or, where nobody asked to compile, do without.

        A compiler that is killed leaves the beginning of a file, which torch takes for the whole
        one as long as it stands there.

        Raises:
            PlanError: The model was to be compiled, or other ranks are in the same step.
        """
        train, alone = self.trajectory.config.train, self.fabric.world_size == 1
        torch._dynamo.reset()
        damaged = compiled_files(str(error)) - self.damaged
        if alone and damaged:
            self.damaged |= damaged
            for file in damaged:
                file.unlink(missing_ok=True)
            return
        failure = compile_failure(self.trajectory, error)
        if not alone or train.compile is not Compile.auto:
            correct = "Correct it, or train it uncompiled: train.compile=off."
            raise PlanError(f"{failure}. {correct}") from error
        self.compiled = False
        torch.compiler.set_stance("force_eager")  # until the next model is compiled
        say_uncompiled(failure)

    def _rows(self, position: int, batch: int) -> Tensor:
        """The rows of a batch that this rank trains on, on its device."""
        length = self.trajectory.shape.seq_len
        if self.feed is None:
            self.feed = BatchFeed(
                source=self.source,
                device=self.fabric.device,
                rank=self.fabric.global_rank,
                ranks=self.fabric.world_size,
            )
        return self.feed.rows(position // length, batch // length)

    def rows_per_pass(self, rows: int) -> int:
        """Rows per forward pass: the configured number, else what fits.

        On CPU it is a number of tokens whose activations stay in cache.
        """
        train = self.trajectory.config.train
        requested = train.micro_batch_tokens
        if requested is None and self.fabric.device.type == "cpu":
            requested = CPU_PASS_TOKENS
        per_pass = self.memory_rows or rows
        if requested is not None:
            per_pass = requested // self.trajectory.shape.seq_len // self.fabric.world_size
        return int(max(1, min(rows, per_pass, self.micro_rows or rows)))

    def _next_row(self) -> int:
        """Position of the next row of the curve: dense at first, then every 2% of the tokens."""
        last = int(self.curve[-1][0]) if self.curve else 0
        return last + max(32 * self.trajectory.rule.batch_tokens, last // 50)

    def _add_row(self, factor: float, norm: Tensor) -> tuple[float, ...]:
        """Append a row to the curve; reading the loss here is the only wait for the device."""
        weights = sum(count for _, count in self.losses)
        local = torch.stack([x * n for x, n in self.losses]).sum() / weights
        # The mean over ranks: all must decide alike whether the run has diverged.
        loss = float(mean_over_ranks(self.fabric, local))
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
        """Raise `Diverged` if the last row of the curve says so.

        The mean of a row's steps is compared with the unigram loss once 2 warm-ups and 400 steps
        are over, by which every healthy run measured so far was far below it.
        """
        tokens, loss, _, norm = row
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"loss {loss:g}, gradient norm {norm:g} at {tokens:.0f} tokens")
        settled = max(2 * warmup, 400 * self.trajectory.rule.batch_tokens)
        limit = self.source.unigram_loss
        if tokens > settled and loss > limit:
            raise Diverged(
                f"training loss {loss:.3f} at {tokens:.0f} tokens is worse than the unigram loss "
                f"{limit:.3f}"
            )

    def state(self) -> TrainState:
        """The present state, whose tensors are those in use (sharded where the model is)."""
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
        """Go to a copy of a state."""
        load_model(self.module, state.model)
        load_optimizer(self.optimizer, copy.deepcopy(state.optimizer))
        self.position, self.branch = state.position, state.branch
        self.curve, self.seconds = list(state.curve), state.seconds
        self.trunk = state.trunk
        self.losses = [(loss.to(self.fabric.device), n) for loss, n in state.losses]

    def leave_trunk(self, branch: int, *, come_back: bool) -> None:
        """Begin a branch; keep the state of the trunk if more runs need it."""
        self.trunk = copy.deepcopy(self.state()) if come_back else None
        self.branch = branch

    def return_to_trunk(self) -> None:
        """Go back to the branching point, or to step 0 if its state was not kept."""
        if self.trunk is None:
            self.rewind()
        else:
            self.restore(self.trunk)

    def close(self) -> None:
        """Stop the feed, and break the reference cycles through the model: its memory is then free.

        A compiled module holds its own bound method, and dynamo what it has traced.
        """
        if self.feed is not None:
            self.feed.close()
        if self.compiled:
            for module in self.module.modules():
                module._compiled_call_impl = None
            torch._dynamo.reset()

    def rewind(self) -> None:
        """Go back to step 0."""
        initial = build_model(self.trajectory)
        initial.init_weights(torch.Generator().manual_seed(self.trajectory.seed))
        load_model(self.module, initial.state_dict())
        empty = {"state": {}, "param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(empty)
        self.position, self.branch, self.trunk = 0, None, None
        self.curve, self.seconds, self.losses = [], 0.0, []


def build_model(trajectory: Trajectory) -> Any:
    """Build the transformer, or the model of the user's own, with weights that are not yet set."""
    plug_in = trajectory.plug_ins.get("model._target_")
    if plug_in is not None:
        return plug_in.call(trajectory.shape)
    return Transformer(
        trajectory.shape,
        residual=trajectory.scaled.residual,
        balance=trajectory.config.train.balance_loss,
        separator=trajectory.separator,
    )


def parameter_groups(module: Any) -> Mapping[str, Sequence[Tensor]]:
    """Parameters by their rule: hidden matrices, embedding and head, gains, taps."""
    if not isinstance(module, Transformer):
        return checked_groups(module)
    groups: dict[str, list[Tensor]] = {"hidden": [], "embedding": [], "gains": [], "taps": []}
    for name, parameter in module.named_parameters():
        inside = "gains" if parameter.ndim < 2 else "hidden"
        group_of = {"embedding": "embedding", "head": "embedding", "conv": "taps"}
        groups[group_of.get(name, inside)].append(parameter)
    return groups


def build_optimizer(
    module: Any, trajectory: Trajectory, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimiser with one group per rule, see `parameter_groups`.

    Only hidden matrices decay; rates and epsilons are those of `sweep.planning.trajectory`.
    """
    train, scaled = trajectory.config.train, trajectory.scaled
    rules = {
        "hidden": (scaled.lr, scaled.weight_decay, scaled.hidden_epsilon),
        "embedding": (scaled.embedding_lr, 0.0, scaled.epsilon),
        "gains": (train.lr, 0.0, scaled.hidden_epsilon),
        "taps": (train.lr, 0.0, scaled.epsilon),
    }
    groups = [
        {
            "params": list(parameters),
            "lr": rules[name][0],
            "peak": rules[name][0],
            "decays": name == "hidden",
            "weight_decay": rules[name][1],
            "eps": rules[name][2],
        }
        for name, parameters in parameter_groups(module).items()
        if parameters
    ]
    adam = {
        "betas": (train.beta1, train.beta2),
        "fused": device.type in ("cpu", "cuda"),
    }
    if "train.optimizer" in trajectory.plug_ins:
        own: torch.optim.Optimizer = trajectory.plug_ins["train.optimizer"].call(groups)
        return own
    if train.optimizer == "muon":
        return MuonAdamW(groups, momentum=train.muon_momentum, **adam)
    return torch.optim.AdamW(groups, **adam)  # type: ignore[arg-type]


def compile_module(module: Any, device: torch.device, *, graphs: bool = False) -> None:
    """Compile a module in place; the number of rows alone is dynamic: one graph for any batch.

    Args:
        module: The model.
        device: Its device.
        graphs: Let torch replay the compiled code as CUDA graphs.

    It is compiled block by block: every block reuses the first one's code. On CPU at width 128 and
    depth 4 that takes 18 s of 33 and trains as fast (docs/log.md); a shallow model is compiled as a
    whole there. The head is code of its own on a GPU, and one call of ours on a CPU. Dynamo keeps 8
    graphs of a function and runs the ninth shape of a process uncompiled unless it is reset.
    """
    keep_compiled_code()
    torch._dynamo.reset()
    torch.compiler.set_stance("default")
    shallow = isinstance(module, Transformer) and module.shape.depth <= WHOLE_DEPTH
    mode = "reduce-overhead" if graphs else None
    if not isinstance(module, Transformer) or (device.type == "cpu" and shallow):
        module.compile(mode=mode)
        return
    module.any_rows = True
    for block in module.blocks:
        block.compile(mode=mode)
    if device.type != "cpu":
        module.head_loss = torch.compile(head_loss, mode=mode)


def keep_compiled_code() -> None:
    """Let torch keep compiled code in our cache folder, unless the user names another.

    torch's own place is a node's temporary folder, so that every node compiles again. Parts of
    torch set the variable to it as they are imported.
    """
    if os.environ.get(COMPILED_CODE) not in (None, os.path.abspath(default_cache_dir())):
        return
    folder = cache_folder(None) / "compiled"
    with suppress(OSError):  # a home that cannot be written: torch's own place
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[COMPILED_CODE] = str(folder)


def compiled_files(message: str) -> set[Path]:
    """Libraries and precompiled headers of torch's cache that a message names and that exist."""
    folder = re.escape(os.environ.get(COMPILED_CODE) or default_cache_dir())
    found = re.findall(rf"{folder}/[\w./+-]*\.(?:so|o|gch)\b", message)
    return {file for file in map(Path, found) if file.is_file()}


def is_of_compiling(error: Exception) -> bool:
    """Whether an error of a step is torch's of compiling, or of loading what it had compiled."""
    failed = isinstance(error, torch._dynamo.exc.TorchDynamoException)
    return failed or bool(compiled_files(str(error)))


def compile_failure(trajectory: Trajectory, error: Exception) -> str:
    """What is said, in one line, of a model that torch could not compile."""
    plug_in = trajectory.plug_ins.get("model._target_")
    name = "the model" if plug_in is None else f"model._target_={plug_in.target}"
    reason = " ".join(str(error).partition("\n\n")[0].split())[:300]
    return f"{name} cannot be compiled ({type(error).__name__}: {reason})"


@functools.cache
def say_uncompiled(why: str) -> None:
    """Say once in a process that models are trained uncompiled, and why."""
    say(f"training uncompiled, which is slower: {why}")
