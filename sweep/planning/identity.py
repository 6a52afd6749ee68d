"""Names and identities of runs: a hash of everything that changes a run's result.

A run's name ends in it, so that the same command again trains only what has no valid record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fit.data.accounting import Shape
from fit.data.records import DataInfo
from sweep.config import Config, DepthRule, TrainConfig
from sweep.data.measured import measured_identity
from sweep.plugins import PlugIn

RECIPE = "2"
"""Version of the recipe, part of a run's identity; raised when the code changes the result of a run
whose settings stayed the same."""
NOT_IDENTITY = frozenset(
    "tokens micro_batch_tokens warmup_tokens accelerator devices nodes strategy threads compile "
    "checkpoint_seconds retries runs_per_gpu keep scores stories cooldown "
    "cooldown_shape schedule options".split()
)
"""Settings of `train` that change no result, or that enter a run's identity in resolved form."""
MUON_SETTINGS = ("muon_lr", "muon_momentum")
LATER_COUNTS = ("kv_heads", "activation", "pad_vocab_to", "rope_base")
"""Fields of a shape that are part of a run's identity only where they are not at their defaults."""
EARLIER_COUNTS = {"1M": "1e+03k", "1B": "1e+03M", "1T": "1e+03B"}
"""Counts that just fall short of a unit, as earlier versions named their runs: these are kept."""


def schedule_name(train: TrainConfig) -> str:
    """The name of a schedule: that of a known one, or of the user's function."""
    return str(getattr(train.schedule, "value", train.schedule))


def plugins_hash(own: Mapping[str, PlugIn]) -> str | None:
    """Hash of the sources of a run's plug-ins; None where there are none."""
    return digest({s: p.sha for s, p in own.items()}) if own else None


def shared_identity(
    config: Config, shape: Shape, own: Mapping[str, PlugIn], info: DataInfo, warmup: int
) -> dict[str, Any]:
    """Everything that changes the result of a trunk, as a JSON object to be hashed.

    Settings that were added after the first records are left out where they change nothing, so that
    the names of earlier runs stay valid.
    """
    train = {k: v for k, v in vars(config.train).items() if k not in NOT_IDENTITY}
    if config.train.depth_rule is DepthRule.none:
        del train["depth_rule"], train["base_depth"]
    if config.train.optimizer == "adamw":
        del train["optimizer"]
    if config.train.optimizer != "muon":
        for name in MUON_SETTINGS:
            del train[name]
    added = {s: [p.target, p.sha, dict(p.options)] for s, p in sorted(own.items())}
    counts = dataclasses.asdict(shape)
    if not shape.experts:
        del counts["experts"], counts["top_k"], train["balance_loss"]
    for known in dataclasses.fields(Shape):
        if known.name in LATER_COUNTS and counts[known.name] == known.default:
            del counts[known.name]
    return {
        **({"plug_ins": added} if added else {}),
        "recipe": RECIPE,
        "shape": counts,
        "data": [info.hash, info.unique_tokens, config.data.heldout_tokens, config.data.seed],
        "train": {**train, "batch_doublings": [float(d) for d in train["batch_doublings"]]},
        "schedule": schedule_name(config.train),
        "warmup": warmup,
        "seed": config.seed,
        **({"measured": measured} if (measured := measured_identity(config.data)) else {}),
    }


def digest(identity: Any) -> str:
    """Eight hexadecimal digits of a canonical JSON's hash."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def compact_count(count: float) -> str:
    """A count in at most five characters: 307200 -> 307k, 999_999_488 -> 1B, 1e20 -> 1e20.

    Part of run names, which must not change; `fit.quantities.short` pads to three digits (2.40M).
    """
    if count >= 0.9995e15:
        return f"{count:.0e}".replace("e+", "e")
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:  # what rounds to 1000 of a unit is 1 of the next
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def run_name(config: Config, shape: Shape, tokens: int, identity: str) -> str:
    """A readable name of a run that ends in the hash of its identity."""
    experts = f"-e{shape.experts}k{shape.top_k}" if shape.experts else ""
    start, end = f"w{shape.width}-d{shape.depth}{experts}", f"s{config.seed}-{identity}"
    count = compact_count(tokens)
    if count in EARLIER_COUNTS:
        earlier = f"{start}-t{EARLIER_COUNTS[count]}-{end}"
        if (Path(config.runs_dir) / config.name / earlier).is_dir():
            return earlier
    return f"{start}-t{count}-{end}"
