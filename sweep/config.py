"""Types and rules of the configuration; its values are in `conf/*.yaml`, each in one place.

YAML files and overrides are composed by Hydra, turned into `Config` (`sweep.settings.parse`), whose
rules are checked here, and planned by `sweep.planning.trajectory`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from fit.data.accounting import MLPS
from fit.errors import PlanError, QueryError
from fit.quantities import parse_count, parse_flops

PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "64-true")
"""Fabric's names, and auto: bf16-mixed on CUDA, 32-true elsewhere. 16-mixed and 16-true are left
out, since they need a loss scaler."""
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
DEVICES = ("cpu", "cuda", "mps")
SHARDED = ("fsdp", "hsdp")
STRATEGIES = ("auto", "ddp", *SHARDED)
"""auto means ddp; on one device all are the same."""
NOT_NEGATIVE = (
    *("z_loss", "balance_loss", "weight_decay", "embedding_lr_power"),
    *("batch_at_1m", "batch_power", "lr_decay_power"),
    *("threads", "retries", "checkpoint_seconds"),
)
"""Settings of `train` that may be 0."""
COOLDOWN_SHAPES = ("sqrt", "linear")
OPTIMIZERS = ("adamw", "muon")
KEPT = ("none", "weights", "trunk")
"""What `train.keep` may name."""
SCORES = ("accuracy", "stories")
"""What `train.scores` may name beside functions. accuracy: of the likeliest token, by skill, in the
held-out sample; stories: `train.stories` that the model writes, by the judge of `sweep.skills`."""
MOST_STORIES = 100_000
"""They know a grade to .002."""
SPLITS = ("names", "none")
"""`none`: every file is trained on, whatever its name, and the sample is drawn from all."""
FILES = ("all", "few")
SEED_LIMIT = 2**63
Count = Any
"""A positive whole number as people write it, 8e3, 0.5M or 1B; an int once it is checked."""
RELATIVE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[xX]\s*", re.ASCII)
"""A length relative to the model's size: 20x is twenty tokens per parameter."""


class Schedule(Enum):
    """How the learning rate changes over a run."""

    wsd = "wsd"
    """Warm-up, constant trunk, 1 - sqrt cooldown; every token count is a branch of one trunk."""
    cosine = "cosine"
    """Warm-up, then a cosine to 10%; every token count is a trajectory of its own."""


class DepthRule(Enum):
    """How the recipe scales with depth; see `sweep.planning.trajectory`."""

    none = "none"
    completep = "completep"
    """Residual branches times base_depth / depth; weight decay and epsilon as in CompleteP."""


class Tracking(Enum):
    """Where training curves are logged, besides `curve.csv`."""

    wandb = "wandb"
    csv = "csv"
    none = "none"


class Compile(Enum):
    """Whether the model is compiled."""

    auto = "auto"
    """On CUDA, and on a CPU where the run is long enough for it to pay; never for experts."""
    on = "on"
    off = "off"
    reduce_overhead = "reduce_overhead"
    """On, and torch replays the compiled code as CUDA graphs: one launch instead of many."""


@dataclass(kw_only=True)
class ModelConfig:
    """Shape of the transformer; the vocabulary comes from the data."""

    params: Count = MISSING
    """Matmul parameters in place of a shape: the nearest shape of the ladder, `planning.sizes`."""
    width: Count = MISSING
    depth: Count = MISSING
    heads: Count = MISSING
    """Attention heads; null is width / head_dim."""
    kv_heads: Count = MISSING
    """Heads of keys and values, which divide the heads (grouped queries); null is one per head."""
    head_dim: Count = MISSING
    mlp_ratio: float = MISSING
    """Hidden units of the MLP per unit of width."""
    mlp: str | None = MISSING
    """relu2, gelu, swiglu or geglu; null is relu2, or swiglu where `gated`."""
    gated: bool = MISSING
    """Whether the MLP is gated where `mlp` does not say."""
    tied: bool = MISSING
    experts: int = MISSING
    """MLPs per block, of which a router chooses `top_k`; 0 is one MLP without a router."""
    top_k: int = MISSING
    """Experts per token."""
    conv: int = MISSING
    """Taps of the causal depthwise convolution on the embeddings; 0 is none."""
    seq_len: Count = MISSING
    rope_base: float = MISSING
    """Base of the rotary angles."""
    document_mask: bool = MISSING
    """Attention and convolution do not look across the token that ends a document."""
    pad_vocab_to: int = MISSING
    """Embedding and head have a multiple of so many rows; 0 is one per token."""
    _target_: str | None = MISSING
    """A model of your own in place of the transformer: package.module:Class, `sweep.plugins`."""
    options: dict[str, Any] = MISSING
    """Fields that it declares; model.NAME=VALUE sets one."""

    def __post_init__(self) -> None:
        _read_counts("model", self, "width", "depth", "head_dim", "seq_len")
        _read_counts("model", self, "params", "heads", "kv_heads", optional=True)


@dataclass(kw_only=True)
class DataConfig:
    """Where tokens come from; see `sweep.data.registry`."""

    name: str = MISSING
    """stories, text, tokens, hf, mix, or own where `_target_` is set."""
    _target_: str | None = MISSING
    """A source of your own: package.module:function, `sweep.plugins`."""
    options: dict[str, Any] = MISSING
    """Fields that it declares; data.NAME=VALUE sets one."""
    path: str | None = MISSING
    unique_tokens: Any = MISSING
    """Most distinct training tokens, repeated in whole epochs beyond that; 1e6 means 1000000."""
    max_epochs: float | None = MISSING
    """Most epochs over the training tokens; null is as many as a run needs."""
    heldout_tokens: Any = MISSING
    seed: int = MISSING
    """Seed of the language (stories) or of the held-out split."""
    size: str = MISSING
    """stories: demo, small, full, skills, tales, tales-even or tales-instruct."""
    tokenizer: str = MISSING
    """text and hf: bytes, bpe, PATH/tokenizer.json, tiktoken:NAME or tiktoken:PATH.tiktoken."""
    vocab: Count = MISSING
    """Vocabulary size: of a BPE tokenizer that is trained here; tokens: null is found out."""
    dtype: str | None = MISSING
    """tokens: type of the integers in raw files; null is found by content."""
    byte_order: str | None = MISSING
    """tokens: little or big; null is found by content."""
    header_bytes: int | None = MISSING
    """tokens: bytes before the first token; null is found by content."""
    pattern: str = MISSING
    """text: glob patterns of the files, separated by commas."""
    encoding: str | None = MISSING
    """text: encoding of the files that are neither UTF-8 nor marked; null refuses those."""
    splits: str = MISSING
    """text and tokens: by `names`, files that are named validation or test are held out."""
    bytes_per_token: float | None = MISSING
    """tokens: bytes of text per token, where it is known."""
    separator: int | None = MISSING
    """tokens: the token between documents, read by `model.document_mask`."""
    split: str = MISSING
    column: str = MISSING
    subset: str | None = MISSING
    streaming: bool = MISSING
    cache: str | None = MISSING
    """Folder of tokenised data; null is ~/.cache/isoflop."""
    parts: list[Any] = MISSING
    """mix: the sources and their weights, see `sweep.data.mixture`."""
    also_heldout: list[str] = MISSING
    """All but stories and tokens: further texts, each with a held-out loss of its own."""
    tasks: str | None = MISSING
    """All but tokens: file of prompts and their right answers, see `sweep.data.measured`."""

    def __post_init__(self) -> None:
        if self._target_ not in (None, MISSING):
            self.name = "own"
        _read_counts("data", self, "heldout_tokens")
        _read_counts("data", self, "unique_tokens", "vocab", optional=True)
        if self.max_epochs is not None:
            self.max_epochs = _positive("data.max_epochs", self.max_epochs)
        if self.bytes_per_token is not None:
            _positive("data.bytes_per_token", self.bytes_per_token)


@dataclass(kw_only=True)
class TrainConfig:
    """Training recipe and device settings; one recipe at every model size."""

    tokens: Any = MISSING
    """D [tokens], or 20x for 20 per matmul parameter; of a list, one trunk with a branch each."""
    batch_tokens: Count = MISSING
    """Least tokens per optimiser step, those of the first; 0.5M is the nearest whole rows."""
    batch_at_1m: float = MISSING
    """Tokens per step after a million tokens; the batch grows with a power of tokens seen from
    where that exceeds `batch_tokens`. 0: it is constant."""
    batch_power: float = MISSING
    """Power of tokens seen with which the batch grows."""
    batch_doublings: list[Any] = MISSING
    """Token counts at which the batch doubles besides, none of them late in a run."""
    micro_batch_tokens: Count = MISSING
    """Most tokens in one forward pass: memory, not the result, depends on it.

    Null: on a CPU the recipe's first batch, on CUDA what fits into its memory.
    """
    schedule: Any = MISSING
    """A `Schedule`, or the function package.module:function, `sweep.plugins`."""
    cooldown: float = MISSING
    """Share of the run in which a WSD branch cools down."""
    cooldown_shape: str = MISSING
    """The rate falls to zero as 1 - sqrt(x) (sqrt) or 1 - x (linear) of the share x done."""
    warmup_tokens: Any = MISSING
    """null: min(params, 100 first batches, 10% of the run)."""
    lr: float = MISSING
    """Peak learning rate of hidden matrices at `base_width`; elsewhere base_width / width of it."""
    base_width: int = MISSING
    lr_decay_from: Any = MISSING
    """Tokens seen from which the rate of hidden matrices falls along the trunk."""
    lr_decay_power: float = MISSING
    """It falls as tokens seen to this negative power; 0: it is constant."""
    embedding_lr: float = MISSING
    """Peak learning rate of the embedding and head at `base_width`."""
    embedding_lr_power: float = MISSING
    """The embedding's learning rate scales as (base_width / width) ** this."""
    depth_rule: DepthRule = MISSING
    base_depth: int = MISSING
    """Depth at which `completep` changes nothing."""
    optimizer: str = MISSING
    """adamw, muon (hidden matrices; AdamW trains the rest) or the class package.module:Class."""
    muon_lr: float = MISSING
    """Peak learning rate of the hidden matrices under Muon, the same at every width."""
    muon_momentum: float = MISSING
    options: dict[str, Any] = MISSING
    """Fields that an optimiser or schedule of your own declares; train.NAME=VALUE sets one."""
    beta1: float = MISSING
    beta2: float = MISSING
    weight_decay: float = MISSING
    clip: float = MISSING
    z_loss: float = MISSING
    balance_loss: float = MISSING
    """Weight of the load-balancing loss of experts."""
    precision: str = MISSING
    """Fabric's names: 32-true, bf16-mixed, ...; auto is resolved by the plan."""
    accelerator: str = MISSING
    devices: int = MISSING
    """Devices of one run, on all its nodes; each takes its share of every batch."""
    nodes: int = MISSING
    """Machines with equally many of the devices; torchrun starts the ranks on more than one."""
    strategy: str = MISSING
    """On several devices: ddp keeps the model on each, fsdp shards it, hsdp within each node."""
    threads: int = MISSING
    """CPU threads of one run; 0 lets torch choose."""
    compile: Compile = MISSING
    checkpoint_seconds: float = MISSING
    """Least time between two checkpoints of an unfinished run [s]."""
    retries: int = MISSING
    """How often one command launches a run again whose worker failed or was lost."""
    runs_per_gpu: int = MISSING
    """Runs that share a GPU under launchers that assign none: joblib, submitit_local."""
    keep: Any = MISSING
    """weights: leave the trained weights beside the record; trunk: leave the state of the trunk
    where the longest run leaves it; none: leave neither."""
    scores: Any = MISSING
    """Grades of the trained model that a record holds: `SCORES`, or functions of one's own."""
    stories: Count = MISSING
    """Stories that `scores=stories` grades; 200 give a grade to .01 to .05."""

    def __post_init__(self) -> None:
        self.schedule = _schedule(self.schedule)
        self.keep = [k for k in _names("train.keep", self.keep, KEPT) if k != "none"]
        if not names_plug_in(self.optimizer):
            _check_known("train.optimizer", self.optimizer, (*OPTIMIZERS, OWN))
        _read_counts("train", self, "micro_batch_tokens", optional=True)
        _read_counts("train", self, "stories")
        _check("train.stories", self.stories, self.stories <= MOST_STORIES, "100000 or fewer")
        self.batch_doublings = [_positive("train.batch_doublings", d) for d in self.batch_doublings]
        self.lr_decay_from = _positive("train.lr_decay_from", self.lr_decay_from)
        self.scores = _names("train.scores", self.scores, SCORES, own=True)
        if self.warmup_tokens:  # None chooses, 0 is none
            self.warmup_tokens = _positive("train.warmup_tokens", self.warmup_tokens)


@dataclass(kw_only=True)
class SweepConfig:
    """Settings of the grid."""

    flops: Any = MISSING
    """Budget C [FLOP]: D follows from C and the shape, in place of train.tokens."""


@dataclass(kw_only=True)
class Config:
    """Root of the configuration."""

    name: str = MISSING
    """The sweep's folder under `runs_dir`."""
    runs_dir: str = MISSING
    seed: int = MISSING
    tracking: Tracking = MISSING
    files: str = MISSING
    """few: what a run leaves beside its record and weights is one archive; all: files."""
    bundle: int = MISSING
    """Most cells that a launcher's job trains, one after the other."""
    branch_jobs: bool = MISSING
    """Train each branch of a trunk as a job of its own, after a job that trains the trunk."""
    data_hash: str | None = MISSING
    """Content hash of the data that the job was planned on; written by `sweep.launch.jobs`."""
    planned_device: str | None = MISSING
    """Device that the job was planned for: cpu, cuda or mps; written by `sweep.launch.jobs`."""
    plugins_hash: str | None = MISSING
    """Hash of the sources of plug-ins that the job was planned with; as `data_hash`."""
    bundle_file: str | None = MISSING
    """File of the cells that share the job, in place of this configuration; as `data_hash`."""
    part: str | None = MISSING
    """What the job trains of its cell: `trunk`, or the tokens of a branch; as `data_hash`."""
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    train: TrainConfig = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check("seed", self.seed, 0 <= self.seed < SEED_LIMIT, "0 or more")
        _check_known("files", self.files, FILES)
        _check("bundle", self.bundle, self.bundle >= 1, "1 or more")
        _check_known("data.splits", self.data.splits, SPLITS)
        _check_known("train.precision", self.train.precision, PRECISIONS)
        _check_known("train.accelerator", self.train.accelerator, ACCELERATORS)
        if self.planned_device is not None:
            _check_known("planned_device", self.planned_device, DEVICES)
        _check_known("train.cooldown_shape", self.train.cooldown_shape, COOLDOWN_SHAPES)
        _check_known("train.strategy", self.train.strategy, STRATEGIES)
        self._read_batch()
        _check_positive("model", self.model, "mlp_ratio", "rope_base")
        if self.model.mlp is not None:
            _check_known("model.mlp", self.model.mlp, tuple(MLPS))
        pad = self.model.pad_vocab_to
        _check("model.pad_vocab_to", pad, pad >= 0, "0 (no padding) or a multiple such as 128")
        rates, counts = "lr embedding_lr muon_lr clip", "base_width base_depth devices nodes"
        _check_positive("train", self.train, *rates.split(), *counts.split(), "runs_per_gpu")
        share = f"a divisor of train.devices={self.train.devices}"
        _check("train.nodes", self.train.nodes, self.train.devices % self.train.nodes == 0, share)
        train, model = self.train, self.model
        if train.devices > 1 and train.compile is Compile.reduce_overhead:
            raise PlanError(
                f"train.compile=reduce_overhead with train.devices={train.devices}; its graphs "
                "are for runs on one device. Set train.devices=1 or train.compile=on."
            )
        if train.strategy == "hsdp" and train.devices > 1 and not 1 < train.nodes < train.devices:
            raise PlanError(
                f"train.strategy=hsdp with train.devices={train.devices} and train.nodes="
                f"{train.nodes}; it shards within a node and copies between nodes, so several of "
                "both are needed. Set train.nodes, or take train.strategy=fsdp."
            )
        _check("train.cooldown", train.cooldown, 0 < train.cooldown < 1, "a number between 0 and 1")
        for name in ("beta1", "beta2", "muon_momentum"):
            beta = getattr(train, name)
            _check(f"train.{name}", beta, 0 <= beta < 1, "a number from 0 to below 1")
        _check("model.experts", model.experts, model.experts >= 0, "0 or more")
        for name in NOT_NEGATIVE:
            value = getattr(train, name)
            _check(f"train.{name}", value, 0 <= value < math.inf, "0 or more")
        taps = f"0 to {model.seq_len}"
        _check("model.conv", model.conv, 0 <= model.conv <= model.seq_len, taps)
        if self.sweep.flops is not None:
            self.sweep.flops = _flops("sweep.flops", self.sweep.flops)
        elif self.train.tokens is None:
            raise PlanError("train.tokens and sweep.flops are both null; one sets a run's length.")

    def _read_batch(self) -> None:
        """Read train.batch_tokens: an int as it is, 0.5M or 8e3 as the nearest whole rows."""
        train, exact = self.train, isinstance(self.train.batch_tokens, int)
        _read_counts("train", train, "batch_tokens")
        if not exact and train.devices > 0:
            rows = self.model.seq_len * train.devices
            train.batch_tokens = max(1, round(train.batch_tokens / rows)) * rows

    def targets(self, params: float) -> tuple[float, ...]:
        """The token counts of `train.tokens`, ascending; empty where a budget sets them.

        Args:
            params: Matmul parameters, which lengths such as 20x are multiples of.

        Raises:
            PlanError: A value is no positive number.
        """
        tokens = self.train.tokens
        if tokens is None:
            return ()
        several = isinstance(tokens, Sequence) and not isinstance(tokens, str)
        values = list(tokens) if several else [tokens]
        if not values:
            raise PlanError("train.tokens=[] is empty; a length is needed: train.tokens=[1e6,2e6].")
        return tuple(sorted({_length(v, params) for v in values}))


def _check_name(name: str) -> None:
    """Require a sweep's name that is the name of one folder."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise PlanError(f"name='{name}'; a plain folder name is needed, such as name=pilot.")


def _check_positive(group: str, section: object, *fields: str) -> None:
    """Require numbers above zero."""
    for name in fields:
        _positive(f"{group}.{name}", getattr(section, name), examples="")


def _check(name: str, value: Any, good: bool, needed: str) -> None:
    """Require a rule on one setting, described by `needed`."""
    if not good:
        raise PlanError(f"{name}={value}; {needed} is needed.")


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    """Require one of the known names."""
    if value not in known:
        raise PlanError(f"{name}={value}; known are {', '.join(known)}.")


def _names(setting: str, value: Any, known: Sequence[str], *, own: bool = False) -> list[str]:
    """Read a setting that is a name, or one's own function, several, or null and [] for none."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    names = list(value) if several else [] if value is None else [value]
    for name in (n for n in names if not (own and names_plug_in(n))):
        _check_known(setting, name, (*known, OWN) if own else known)
    if "none" in names and len(set(names)) > 1:
        raise PlanError(f"{setting}=[{','.join(names)}]; none stands alone. Leave it out.")
    return sorted(set(names))


OWN = "one of your own as package.module:name"


def _schedule(value: Any) -> Schedule | str:
    """Read a schedule: a known one, or the name of a function."""
    if isinstance(value, Schedule):
        return value
    if names_plug_in(value):
        return str(value)
    names = [s.value for s in Schedule]
    _check_known("train.schedule", str(value), (*names, OWN))
    return Schedule(value)


def names_plug_in(value: Any) -> bool:
    """Whether a value names a class or function in a module, rather than what is built in."""
    return isinstance(value, str) and (":" in value or "." in value)


def _length(value: Any, params: float) -> float:
    """A token count, given as such or as a multiple of the parameters."""
    match = RELATIVE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return _positive("train.tokens", value, examples="4e6, 0.5M, 1B or 20x (per parameter)")
    return params * _positive("train.tokens", match[1])


def _read_counts(group: str, section: object, *fields: str, optional: bool = False) -> None:
    """Turn counts as people write them into ints; None is kept where it is `optional`."""
    for name in fields:
        value = getattr(section, name)
        if value is None and optional:
            continue
        number = _positive(f"{group}.{name}", value)
        if number != int(number):
            raise PlanError(f"{group}.{name}={value}; a whole number is needed.")
        setattr(section, name, int(number))


def _flops(name: str, value: Any) -> float:
    """Read a budget [FLOP]; a PlanError names the setting."""
    try:
        return _positive(name, parse_flops(value, name) if isinstance(value, str) else value)
    except QueryError as error:
        raise PlanError(str(error)) from error


def _positive(name: str, value: Any, *, examples: str = "8e3, 0.5M, 1B or 10000") -> float:
    """Read a positive finite number, units as in 4M allowed; a PlanError names the setting."""
    try:
        number = parse_count(value, name) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError, QueryError):
        number = math.nan
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        such = f", such as {examples}" if examples else ""
        raise PlanError(f"{name}={value!r}; a positive number is needed{such}.")
    return number
