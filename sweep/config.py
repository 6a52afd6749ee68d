"""Types and rules of the configuration; its values are in `conf/*.yaml`, each in one place.

YAML files and overrides are composed by Hydra, turned into `Config` and checked here (`parse`), and
planned by `sweep.planning.trajectory`. Nothing after `parse` sees a `DictConfig`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fit.errors import PlanError, QueryError
from fit.quantities import parse_count

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
"""Fabric's names; 16-mixed and 16-true are left out, since they need a loss scaler."""
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
STRATEGIES = ("auto", "ddp", "fsdp")
"""auto means ddp; on one device all are the same."""
NOT_NEGATIVE = (
    *("z_loss", "balance_loss", "weight_decay", "embedding_lr_power"),
    *("threads", "retries", "checkpoint_seconds"),
)
"""Settings of `train` that may be 0."""
SEED_LIMIT = 2**63


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


class Graphs(Enum):
    """Whether whole steps are captured as CUDA graphs and replayed."""

    auto = "auto"
    """On one GPU, for models so small that launching kernels takes longer than computing."""
    on = "on"
    off = "off"


@dataclass(kw_only=True)
class ModelConfig:
    """Shape of the transformer; the vocabulary comes from the data."""

    width: int = MISSING
    depth: int = MISSING
    heads: int | None = MISSING
    """Attention heads; null is width / head_dim."""
    head_dim: int = MISSING
    mlp_ratio: float = MISSING
    """Hidden units of the MLP per unit of width."""
    gated: bool = MISSING
    tied: bool = MISSING
    experts: int = MISSING
    """MLPs per block, of which a router chooses `top_k`; 0 is one MLP without a router."""
    top_k: int = MISSING
    """Experts per token."""
    conv: int = MISSING
    """Taps of the causal depthwise convolution on the embeddings; 0 is none."""
    seq_len: int = MISSING


class Splits(Enum):
    """How files are split into training and held-out data."""

    names = "names"
    """Files, and those in folders, that are named validation or test are not trained on."""
    none = "none"
    """Every file is trained on; the held-out sample is drawn from all."""


@dataclass(kw_only=True)
class DataConfig:
    """Where tokens come from; see `sweep.data.registry`."""

    name: str = MISSING
    """stories, text, tokens or hf."""
    path: str | None = MISSING
    unique_tokens: Any = MISSING
    """Most distinct training tokens, repeated in whole epochs beyond that; 1e6 means 1000000."""
    max_epochs: float | None = MISSING
    """Most epochs over the training tokens; null is as many as a run needs."""
    heldout_tokens: Any = MISSING
    seed: int = MISSING
    """Seed of the language (stories) or of the held-out split."""
    size: str = MISSING
    """stories: demo, small, full or skills."""
    tokenizer: str = MISSING
    """text and hf: bytes or bpe."""
    vocab: int | None = MISSING
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
    splits: Splits = MISSING
    """text and tokens: by `names`, files that are named validation or test are held out."""
    bytes_per_token: float | None = MISSING
    """tokens: bytes of text per token, where it is known."""
    split: str = MISSING
    column: str = MISSING
    subset: str | None = MISSING
    streaming: bool = MISSING
    cache: str | None = MISSING
    """Folder of tokenised data; null is ~/.cache/isoflop."""

    def __post_init__(self) -> None:
        self.heldout_tokens = int(_positive("data.heldout_tokens", self.heldout_tokens))
        if self.unique_tokens is not None:
            self.unique_tokens = int(_positive("data.unique_tokens", self.unique_tokens))
        if self.max_epochs is not None:
            self.max_epochs = _positive("data.max_epochs", self.max_epochs)
        if self.bytes_per_token is not None:
            _positive("data.bytes_per_token", self.bytes_per_token)


@dataclass(kw_only=True)
class TrainConfig:
    """Training recipe and device settings; one recipe at every model size."""

    tokens: Any = MISSING
    """D [tokens], or a list: one trunk with a branch and a record per value."""
    batch_tokens: int = MISSING
    """Tokens per optimiser step at the start."""
    batch_doublings: list[float] = MISSING
    """Token counts at which the batch doubles, the same at every model size."""
    micro_batch_tokens: int | None = MISSING
    """Most tokens in one forward pass: memory, not the result, depends on it.

    Null: on a CPU the recipe's first batch, on CUDA what fits into its memory.
    """
    schedule: Schedule = MISSING
    cooldown: float = MISSING
    """Share of the run in which a WSD branch cools down."""
    warmup_tokens: float | None = MISSING
    """null: min(params, 10% of the shortest run of the trunk)."""
    lr: float = MISSING
    """Peak learning rate of hidden matrices at `base_width`; elsewhere base_width / width of it."""
    base_width: int = MISSING
    embedding_lr: float = MISSING
    """Peak learning rate of the embedding and head at `base_width`."""
    embedding_lr_power: float = MISSING
    """The embedding's learning rate scales as (base_width / width) ** this."""
    depth_rule: DepthRule = MISSING
    base_depth: int = MISSING
    """Depth at which `completep` changes nothing."""
    beta1: float = MISSING
    beta2: float = MISSING
    weight_decay: float = MISSING
    clip: float = MISSING
    z_loss: float = MISSING
    balance_loss: float = MISSING
    """Weight of the load-balancing loss of experts."""
    precision: str = MISSING
    """Fabric's names: 32-true, bf16-mixed, ..."""
    accelerator: str = MISSING
    devices: int = MISSING
    """Devices of one run on one machine; each takes its share of every batch."""
    strategy: str = MISSING
    """On several devices: ddp keeps the model on each, fsdp shards it."""
    threads: int = MISSING
    """CPU threads of one run; 0 lets torch choose."""
    compile: Compile = MISSING
    graphs: Graphs = MISSING
    checkpoint_seconds: float = MISSING
    """Least time between two checkpoints of an unfinished run [s]."""
    retries: int = MISSING
    """How often one command launches a run again whose worker failed or was lost."""
    runs_per_gpu: int = MISSING
    """Runs that share a GPU under launchers that assign none: joblib, submitit_local."""
    pack: int = MISSING
    """Cells of one shape, different in seed or learning rates, that one process trains together."""


@dataclass(kw_only=True)
class SweepConfig:
    """Settings of the grid."""

    flops: float | None = MISSING
    """Budget C [FLOP]: D follows from C and the shape, in place of train.tokens."""


@dataclass(kw_only=True)
class Config:
    """Root of the configuration."""

    name: str = MISSING
    """The sweep's folder under `runs_dir`."""
    runs_dir: str = MISSING
    seed: int = MISSING
    tracking: Tracking = MISSING
    also: list[str] = MISSING
    """Further cells of a job, by the settings that differ; written by `sweep.launch.jobs`."""
    data_hash: str | None = MISSING
    """Content hash of the data that the job was planned on; written by `sweep.launch.jobs`."""
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    train: TrainConfig = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check("seed", self.seed, 0 <= self.seed < SEED_LIMIT, "0 or more")
        _check_known("train.precision", self.train.precision, PRECISIONS)
        _check_known("train.accelerator", self.train.accelerator, ACCELERATORS)
        _check_known("train.strategy", self.train.strategy, STRATEGIES)
        _check_positive("model", self.model, "head_dim", "mlp_ratio", "seq_len")
        _check_positive("train", self.train, "batch_tokens", "lr", "base_width", "embedding_lr")
        _check_positive(
            "train", self.train, "clip", "devices", "base_depth", "pack", "runs_per_gpu"
        )
        train, model = self.train, self.model
        _check("train.cooldown", train.cooldown, 0 < train.cooldown < 1, "a number between 0 and 1")
        for name in ("beta1", "beta2"):
            beta = getattr(train, name)
            _check(f"train.{name}", beta, 0 <= beta < 1, "a number from 0 to below 1")
        _check("model.experts", model.experts, model.experts >= 0, "0 or more")
        if train.micro_batch_tokens is not None:
            _positive("train.micro_batch_tokens", train.micro_batch_tokens)
        for doubling in train.batch_doublings:
            _positive("train.batch_doublings", doubling)
        for name in NOT_NEGATIVE:
            value = getattr(train, name)
            _check(f"train.{name}", value, 0 <= value < math.inf, "0 or more")
        taps = f"0 to {model.seq_len}"
        _check("model.conv", model.conv, 0 <= model.conv <= model.seq_len, taps)
        if self.sweep.flops is not None:
            _positive("sweep.flops", self.sweep.flops)
        elif self.train.tokens is None:
            raise PlanError("train.tokens and sweep.flops are both null; one sets a run's length.")

    def targets(self) -> tuple[float, ...]:
        """The token counts of `train.tokens`, ascending; empty where a budget sets them.

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
        return tuple(sorted({_positive("train.tokens", v) for v in values}))


def parse(config: DictConfig) -> Config:
    """Turn a composed configuration into checked dataclasses.

    Raises:
        PlanError: A key is not declared, or a value is missing, of the wrong type or breaks a rule.
    """
    try:
        parsed = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        key = str(error.full_key).removeprefix("Config.")
        raise PlanError(f"{key} has no value; {needed(key)} is needed: {key}=VALUE.") from error
    except OmegaConfBaseException as error:
        raise PlanError(str(error).splitlines()[0]) from error
    assert isinstance(parsed, Config)
    for section in (parsed, *(getattr(parsed, name) for name in SECTIONS)):
        if vars(section).keys() != type(section).__dataclass_fields__.keys():
            refuse_undeclared(config)  # names the key; by itself it would be slow for each cell
    return parsed


def refuse_undeclared(config: DictConfig, prefix: str = "") -> None:
    """Refuse keys that the dataclasses of a configuration do not declare: no code reads them.

    Hydra lets `+key=value` and `++key=value` add any key to any section.

    Args:
        config: A composed configuration, Hydra's own part perhaps included.
        prefix: Where it stands in the root, such as `train.`.

    Raises:
        PlanError: There is such a key; the message names the nearest declared one.
    """
    schema = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(schema):
        return
    declared = {f.name for f in dataclasses.fields(schema)}
    for key in map(str, config.keys()):
        if key not in declared:
            name, value = f"{prefix}{key}", config[key]
            while isinstance(value, DictConfig) and value:  # the full name of what was set
                inner = str(next(iter(value.keys())))
                name, value = f"{name}.{inner}", value[inner]
            raise PlanError(unknown_setting(name))
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, key):
            value = config[key]
            if isinstance(value, DictConfig):
                refuse_undeclared(value, f"{prefix}{key}.")


SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "batch_size": "train.batch_tokens",
        "block_size": "model.seq_len",
        "context_length": "model.seq_len",
        "d_model": "model.width",
        "dim": "model.width",
        "dtype": "train.precision",
        "grad_clip": "train.clip",
        "hidden_size": "model.width",
        "layers": "model.depth",
        "learning_rate": "train.lr",
        "lr_scheduler": "train.schedule",
        "max_steps": "train.tokens",
        "n_embd": "model.width",
        "n_head": "model.heads",
        "n_layer": "model.depth",
        "num_experts": "model.experts",
        "num_layers": "model.depth",
        "steps": "train.tokens",
        "vocab_size": "data.vocab",
        "wd": "train.weight_decay",
    }
)
"""Names of other trainers that no spelling would lead to ours."""


SECTIONS = ("model", "data", "train", "sweep")
"""Fields of `Config` that are sections of their own."""


@functools.cache
def settings() -> Mapping[str, Any]:
    """The type of every setting, by its full name such as `train.lr`."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{k}": v for k, v in get_type_hints(kind).items()}
        else:
            found[name] = kind
    return MappingProxyType(found)


def unknown_setting(key: str) -> str:
    """What is said of a key that is not declared: its full name and the nearest declared one."""
    section, _, name = key.rpartition(".")
    if section.split(".")[0] == "hydra":
        return f"{key} is no setting of the chosen launcher; leave it out, or choose another."
    if key.split(".")[0] == "experiment":
        return (
            f"{key} would be read by nothing: the first line of a file of experiment/ has to be "
            "'# @package _global_'."
        )
    inside = {k.rpartition(".")[2]: k for k in settings() if k.rpartition(".")[0] == section}
    anywhere = {k.rpartition(".")[2]: k for k in settings()} | {g: g for g in SECTIONS}
    near = difflib.get_close_matches(name.lower(), inside, 1, 0.6)
    far = difflib.get_close_matches(name.lower(), anywhere, 1, 0.7)
    nearest = SYNONYMS.get(name.lower()) or (
        inside[near[0]] if near else anywhere[far[0]] if far else ""
    )
    known = ", ".join(inside or [k for k in anywhere.values() if "." not in k])
    place = section if inside and section else "the configuration"
    advice = f"the nearest is {nearest}." if nearest else f"{place} has {known}."
    return f"{key} is not a setting, nothing would read it; {advice}"


def needed(key: str) -> str:
    """The kind of value that a setting takes, in words."""
    kind = settings().get(key, Any)
    kinds = get_args(kind) if type(None) in get_args(kind) else (kind,)
    words = []
    for one in kinds:
        if isinstance(one, type) and issubclass(one, Enum):
            words.append("one of " + ", ".join(e.value for e in one))
        else:
            words.append(_KINDS.get(one, "a number"))
    return " or ".join(words)


_KINDS: Mapping[Any, str] = MappingProxyType(
    {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list[float]: "a list of numbers",
        list[str]: "a list of texts",
        type(None): "null",
    }
)


def _check_name(name: str) -> None:
    """Require a sweep's name that is the name of one folder."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise PlanError(f"name='{name}'; a plain folder name is needed, such as name=pilot.")


def _check_positive(group: str, section: object, *fields: str) -> None:
    """Require numbers above zero."""
    for name in fields:
        _positive(f"{group}.{name}", getattr(section, name))


def _check(name: str, value: Any, good: bool, needed: str) -> None:
    """Require a rule on one setting, described by `needed`."""
    if not good:
        raise PlanError(f"{name}={value}; {needed} is needed.")


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    """Require one of the known names."""
    if value not in known:
        raise PlanError(f"{name}={value}; known are {', '.join(known)}.")


def _positive(name: str, value: Any) -> float:
    """Read a positive finite number, units as in 4M allowed; a PlanError names the setting."""
    try:
        number = parse_count(value, name) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, QueryError):
        number = math.nan
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise PlanError(f"{name}={value!r}; a positive number is needed.")
    return number
