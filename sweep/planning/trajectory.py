"""From a configuration to what will be trained: trajectories of runs, everything derived.

A configuration is one job. Under WSD it is one trunk with a branch, and a record, per token count;
short runs, whose warm-up is shorter, have a trunk of their own. Under cosine every token count is a
trajectory of its own. A run's name ends in a hash of everything that changes its result, so that
the same command again trains only what has no valid record.

Batch size, step positions and learning rate are pure functions of the tokens seen
(`fit.data.schedule`), the same at every model size, so that a fitted law is about size and not
about tuning.

One recipe is scaled to every width and depth. Width: the learning rate of hidden matrices goes as
1/width (Yang et al. 2022, arXiv:2203.03466), that of the embedding by a measured power. Depth:
`none`, or CompleteP (Dey et al. 2025, arXiv:2505.01618, table 1 with alpha = 1): residual branches
times base_depth / depth and no change of learning rates, with the paper's rules for weight decay
and Adam's epsilon, which hold across widths too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from fit.data.accounting import FlopsPerToken, ParamCounts, Shape, count_flops, count_params
from fit.data.records import RECORD_NAME, DataInfo, RunRecord, read_record
from fit.data.schedule import (
    LATE,
    BatchRule,
    LearningRate,
    cooldown_start,
    growth_unit,
    warmup_tokens,
)
from fit.errors import PlanError, RecordError
from sweep.config import SCORES, SHARDED, Config, DataConfig, DepthRule, Schedule, TrainConfig
from sweep.data.registry import describe, separator_of
from sweep.data.rows import moved_data
from sweep.planning.devices import resolve_device
from sweep.planning.identity import (
    compact_count,
    digest,
    plugins_hash,
    run_name,
    schedule_name,
    shared_identity,
)
from sweep.planning.sizes import build_shape, choose_shape
from sweep.planning.trunks import find_trunk
from sweep.plugins import PlugIn, count_model, plug_ins, source_file

Describe = Callable[[DataConfig, int], tuple[int, int | None, DataInfo]]
"""What `describe` is: vocabulary, distinct tokens and facts of the data."""
MUON_TORCH = (2, 9)
"""The version of torch that brought `torch.optim.Muon`."""
EPSILON = 1e-10
"""Adam's epsilon at the base shape: far below the size of the gradients at any shape tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledRecipe:
    """Learning rates and other optimiser settings of the recipe, scaled to one shape."""

    lr: float
    """Peak learning rate of the hidden matrices."""
    embedding_lr: float
    """Peak learning rate of the embedding and the head."""
    weight_decay: float
    """Weight decay of the hidden matrices."""
    hidden_epsilon: float
    """Adam's epsilon for parameters inside the blocks."""
    epsilon: float
    """Adam's epsilon for all other parameters."""
    residual: float
    """Factor of every residual branch."""


def scale_recipe(train: TrainConfig, shape: Shape) -> ScaledRecipe:
    """Scale learning rates, weight decay, epsilons and residual factor to a shape."""
    narrower = train.base_width / shape.width
    lr, embedding_lr = train.lr * narrower, train.embedding_lr * narrower**train.embedding_lr_power
    if train.optimizer == "muon":
        # An orthogonalised update has the spectral norm 1 at every width, and torch's factor
        # sqrt(max(1, rows/columns)) keeps that of rectangular matrices right: one rate serves all.
        lr = train.muon_lr
    if train.depth_rule is DepthRule.none:
        return ScaledRecipe(
            lr=lr,
            embedding_lr=embedding_lr,
            weight_decay=train.weight_decay,
            hidden_epsilon=EPSILON,
            epsilon=EPSILON,
            residual=1.0,
        )
    shallower = train.base_depth / shape.depth
    return ScaledRecipe(
        lr=lr,
        embedding_lr=embedding_lr,
        weight_decay=train.weight_decay / narrower,
        hidden_epsilon=EPSILON * narrower * shallower,
        epsilon=EPSILON * narrower,
        residual=shallower,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run: a branch of a trunk, and one record."""

    run: str
    """Name and identity: a slug that ends in a hash."""
    tokens: int
    """Planned D, a whole number of steps."""
    cooldown_start: int
    """Position at which the run leaves its trunk; 0 has no trunk."""
    rate: LearningRate
    flops: float
    """C of the whole run, its part of the trunk included [FLOP]."""
    flops_spent: float
    """Compute that the run adds: its cooldown, and the trunk since the last branch [FLOP]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What is trained in one go: a trunk and the runs that branch off it, by ascending tokens."""

    trunk: str
    """Hash of everything that the runs share."""
    sweep: str
    seed: int
    shape: Shape
    params: ParamCounts
    flops_per_token: FlopsPerToken
    data: DataInfo
    rule: BatchRule
    scaled: ScaledRecipe
    """The recipe scaled to this shape."""
    runs: tuple[RunSpec, ...]
    plug_ins: Mapping[str, PlugIn] = field(default_factory=dict)
    """Parts of the user's own, by the setting that names them."""
    config: Config
    """Recipe, data and device settings as they were configured, device and precision resolved."""
    separator: int | None = None
    """Token across which the model does not look; None where rows are one text to it."""
    kept: int = 0
    """Position of the kept trunk that training may start from, `planning.trunks` [tokens]."""


def plan(config: Config, described: Describe = describe) -> tuple[Trajectory, ...]:
    """Derive the trajectories that a job will train.

    A job is planned twice: at launch, to refuse, price and order it, and again in its worker, to
    which a launcher hands nothing but the settings. Both give the same names of runs.

    Args:
        config: A checked configuration.
        described: What `describe` returns, such as one that keeps what it has looked up.

    Returns:
        One trajectory under WSD, one per token count under cosine.

    Raises:
        PlanError: The cell cannot be trained: its head size, a length below one batch, data that
            would be repeated more often than `data.max_epochs` allows, or that have changed since
            the launch.
    """
    vocab, available, info = described(config.data, config.model.seq_len)
    if config.data_hash not in (None, info.hash):
        raise moved_data(config.data, info.hash, str(config.data_hash))
    planned = trajectories(config, vocab=vocab, info=info)
    unique = info.unique_tokens or available
    most, longest = config.data.max_epochs, max(run.tokens for t in planned for run in t.runs)
    if most is not None and unique is not None and longest > most * unique:
        raise PlanError(
            f"{longest} tokens are {longest / unique:.3g} epochs of the {unique} there are, and "
            f"data.max_epochs={most:g}. Ask for fewer tokens, or allow more epochs."
        )
    return planned


def trajectories(config: Config, *, vocab: int, info: DataInfo) -> tuple[Trajectory, ...]:
    """The trajectories of a job on data that are already described."""
    check_combinations(config)
    config = resolve_device(choose_shape(config, vocab))
    shape = build_shape(config.model, vocab)
    own = plug_ins(config)
    if config.plugins_hash not in (None, plugins_hash(own)):
        raise PlanError(
            f"the source of {', '.join(p.target for p in own.values())} changed after the runs "
            "were planned. Give the same command again to train what is there now."
        )
    params, per_token = count_model_of(shape, own)
    rule = batch_rule(config.train, shape.seq_len)
    budget = config.sweep.flops
    if budget is None:
        targets = config.targets(params.matmul)
    else:
        targets = (budget / per_token.exact,)
    lengths = sorted({rule.nearest(t) for t in targets})
    warmups = {
        n: warmup_tokens(params.matmul, rule.batch_tokens, n, config.train.warmup_tokens)
        for n in lengths
    }
    groups: dict[Hashable, list[int]] = {}
    for n in lengths:
        trunk = (warmups[n], None if config.train.schedule is Schedule.wsd else n)
        groups.setdefault(trunk, []).append(n)
    return tuple(
        _plan_trajectory(config, shape, own, info, rule, group, warmups[group[0]])
        for group in groups.values()
    )


def batch_rule(train: TrainConfig, seq_len: int) -> BatchRule:
    """Derive the batch rule from the training settings.

    Raises:
        PlanError: The batch, or what it grows by, is not a whole number of rows, equally many on
            every device.
    """
    if train.batch_tokens % seq_len:
        raise PlanError(
            f"train.batch_tokens={train.batch_tokens} is not a multiple of "
            f"model.seq_len={seq_len}; take {max(1, train.batch_tokens // seq_len) * seq_len}."
        )
    rows, grows = train.batch_tokens // seq_len, train.batch_at_1m > 0
    if (growth_unit(rows) if grows else rows) % train.devices:
        step = seq_len * train.devices * (4 if grows else 1)
        raise PlanError(
            f"train.batch_tokens={train.batch_tokens} cannot be shared by train.devices="
            f"{train.devices} in rows of {seq_len}{', also as it grows' if grows else ''}; a "
            f"multiple of {step} is needed."
        )
    return BatchRule(
        batch_tokens=train.batch_tokens,
        row=seq_len,
        at_1m=train.batch_at_1m,
        power=train.batch_power,
        doublings=tuple(sorted(round(d) for d in train.batch_doublings)),
    )


def check_batches(trajectory: Trajectory) -> None:
    """Refuse a batch that doubles inside the last part of a run.

    Raises:
        PlanError: It does.
    """
    for run in trajectory.runs:
        doubling = trajectory.rule.late_doubling(run.tokens)
        if doubling is not None:
            raise PlanError(
                f"the batch would double at {compact_count(doubling)} tokens, inside the last "
                f"{LATE:.0%} of the run of {compact_count(run.tokens)}: its loss would lie on "
                "another law than those of other lengths. Leave it out of train.batch_doublings "
                "and let the batch grow smoothly (train.batch_at_1m), or choose other lengths."
            )


def _plan_trajectory(
    config: Config,
    shape: Shape,
    own: Mapping[str, PlugIn],
    info: DataInfo,
    rule: BatchRule,
    lengths: list[int],
    warmup: int,
) -> Trajectory:
    """Plan a trunk with a branch at each of the lengths, ascending."""
    train, (params, per_token) = config.train, count_model_of(shape, own)
    _check_warmup(train, rule, lengths[0], warmup)
    separator = separator_of(config.data, shape.vocab) if config.model.document_mask else None
    shared = shared_identity(config, shape, own, info, warmup)
    if separator is not None:
        shared["separator"] = separator
    trunk = digest(shared)
    kept = find_trunk(Path(config.runs_dir) / config.name, trunk)
    runs, known = [], [kept.tokens if kept else 0]
    for tokens in lengths:
        wsd = train.schedule is Schedule.wsd
        start = cooldown_start(rule, tokens, train.cooldown) if wsd else 0
        rate = LearningRate(
            kind=schedule_name(train),
            warmup=warmup,
            tokens=tokens,
            cooldown_start=start,
            shape=train.cooldown_shape,
            decay_from=train.lr_decay_from,
            decay_power=train.lr_decay_power,
            function=own["train.schedule"].function() if "train.schedule" in own else None,
        )
        if rate.function is not None:  # refused here rather than in training
            last = rule.batch(tokens - 1)
            for position, batch in ((0, rule.batch(0)), (tokens // 2, 0), (tokens - last, last)):
                rate.factor(position, batch)
        identity = {
            **shared,
            "tokens": tokens,
            "cooldown_start": start,
            "cooldown_shape": train.cooldown_shape,
        }
        runs.append(
            RunSpec(
                run=run_name(config, shape, tokens, digest(identity)),
                tokens=tokens,
                cooldown_start=start,
                rate=rate,
                flops=float(per_token.exact * tokens),
                flops_spent=_spent(per_token, tokens, start, known),
            )
        )
        known.append(start)
    return Trajectory(
        trunk=trunk if train.schedule is Schedule.wsd else digest(runs[0].run),
        sweep=config.name,
        seed=config.seed,
        shape=shape,
        params=params,
        flops_per_token=per_token,
        data=info,
        rule=rule,
        scaled=scale_recipe(train, shape),
        runs=tuple(runs),
        plug_ins=own,
        config=config,
        separator=separator,
        kept=known[0],
    )


def check_combinations(config: Config) -> None:
    """Refuse an optimiser or a model of the user's own beside settings that it cannot serve.

    Raises:
        PlanError: There is one.
    """
    model, train = config.model, config.train
    muon, own = train.optimizer == "muon", model._target_ is not None
    if own and model.params is not None:
        raise PlanError(
            f"model.params={model.params} chooses among shapes of the built-in model; with "
            f"model._target_={model._target_} set model.width and model.depth."
        )
    for name, value in (
        ("model.document_mask", model.document_mask),
        ("data.tasks", config.data.tasks),
        ("train.scores", ",".join(s for s in train.scores if s in SCORES)),
    ):
        if own and value:
            raise PlanError(
                f"{name}={value} is served by the built-in model alone, and "
                f"model._target_={model._target_} replaces it. Leave one of the two out."
            )
    if "stories" in train.scores and config.data.name != "stories":
        raise PlanError(
            f"train.scores=stories judges stories by the grammar of data=stories, and "
            f"data={config.data.name} has none. Leave it out"
            + (", or grade prompts: data.tasks." if config.data.name != "tokens" else ".")
        )
    for function in (name for name in train.scores if name not in SCORES):
        source_file("train.scores", function)  # refused here where there is no such module
    sharded = train.devices > 1 and train.strategy in SHARDED
    if sharded and (whole := [name for name in train.scores if name != "accuracy"]):
        raise PlanError(
            f"train.scores={','.join(whole)} with train.strategy={train.strategy}; no device has "
            "the whole model that is graded. Leave one of the two out, or keep the weights and "
            "grade those: train.keep=weights, isoflop sweep grade RUN."
        )
    if "weights" in train.keep and find_spec("safetensors") is None:
        raise PlanError(
            "train.keep=weights needs the package 'safetensors', not installed here: pip install "
            "'isoflop[train]'; or leave it out."
        )
    if "trunk" in train.keep and train.schedule is not Schedule.wsd:
        raise PlanError(
            f"train.keep=trunk with train.schedule={schedule_name(train)}, whose runs share no "
            "trunk. Take train.schedule=wsd, or leave it out."
        )
    if muon and torch_version() < MUON_TORCH:
        needed = ".".join(map(str, MUON_TORCH))
        raise PlanError(
            f"train.optimizer=muon needs torch {needed} or newer, which brings torch.optim.Muon; "
            f"this is {importlib.metadata.version('torch')}. pip install 'torch>={needed}', or "
            "train.optimizer=adamw."
        )
    if muon and (model.experts or train.depth_rule is not DepthRule.none):
        cause = f"model.experts={model.experts}, whose matrices are stacked"
        if not model.experts:
            cause = f"train.depth_rule={train.depth_rule.value}, which is a rule for AdamW"
        raise PlanError(f"train.optimizer=muon does not serve {cause}; set one of the two back.")
    if (own or train.optimizer != "adamw") and sharded:
        named = f"model._target_={model._target_}" if own else f"train.optimizer={train.optimizer}"
        raise PlanError(
            f"{named} is not trained by train.strategy={train.strategy}, which shards the matrices "
            "of the built-in model for AdamW; train.strategy=ddp copies them to each device."
        )


@functools.cache
def torch_version() -> tuple[int, ...]:
    """Major and minor version of torch, without the seconds of importing it."""
    return tuple(int(part) for part in importlib.metadata.version("torch").split(".")[:2])


def count_model_of(shape: Shape, own: Mapping[str, PlugIn]) -> tuple[ParamCounts, FlopsPerToken]:
    """Parameters and FLOP per token of the transformer, or of a model of the user's own."""
    plug_in = own.get("model._target_")
    if plug_in is None:
        return count_params(shape), count_flops(shape)
    return count_model(plug_in, shape)


def keep_lengths(trajectory: Trajectory, lengths: Collection[int]) -> Trajectory:
    """The trajectory with only the runs of some lengths.

    Their names stay; the compute of the trunk is shared out among the runs that remain.
    """
    runs, known = [], [trajectory.kept]
    for run in trajectory.runs:
        if run.tokens in lengths:
            start = run.cooldown_start
            spent = _spent(trajectory.flops_per_token, run.tokens, start, known)
            runs.append(dataclasses.replace(run, flops_spent=spent))
            known.append(start)
    return dataclasses.replace(trajectory, runs=tuple(runs))


def _spent(per_token: FlopsPerToken, tokens: int, start: int, known: Sequence[int]) -> float:
    """FLOP of a cooldown, and of the trunk from the last position whose state is known by then."""
    return float(per_token.exact * (tokens - max((p for p in known if p <= start), default=0)))


def _check_warmup(train: TrainConfig, rule: BatchRule, shortest: int, warmup: int) -> None:
    """Refuse a warm-up that lasts beyond the point where the shortest run cools down or ends.

    Raises:
        PlanError: It does, or it is negative.
    """
    wsd = train.schedule is Schedule.wsd
    end = (cooldown_start(rule, shortest, train.cooldown) or shortest) if wsd else shortest
    if not 0 <= warmup < end:
        raise PlanError(
            f"train.warmup_tokens={warmup}; 0 to {end - 1} is needed for {shortest} tokens."
        )


def work_folder(trajectory: Trajectory) -> str:
    """Name of the working folder: one per set of runs, so that two jobs never share one."""
    return f".work-{digest([r.run for r in trajectory.runs])}"


def finished_record(folder: Path) -> RunRecord | None:
    """The record of a run that ended, diverged ones included; None if missing, broken or failed."""
    try:
        record = read_record(folder / RECORD_NAME)
    except RecordError:
        return None
    return None if record.status == "failed" else record
