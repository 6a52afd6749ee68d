"""Settings by their full names, such as `train.lr`: which there are, and what each of them takes.

`parse` is the border: it turns what Hydra composed into checked dataclasses, and refuses keys that
no code reads. Nothing after it sees a `DictConfig`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fit.errors import PlanError
from sweep.config import Config


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
        name: ours
        for ours, names in {
            "data.vocab": "vocab_size",
            "model.depth": "layers n_layer n_layers num_layers",
            "model.experts": "num_experts",
            "model.heads": "n_head n_heads num_heads",
            "model.kv_heads": "n_kv_head n_kv_heads num_key_value_heads n_query_groups",
            "model.mlp": "activation hidden_act mlp_class_name act_fn",
            "model.pad_vocab_to": "padded_vocab_size padding_multiple",
            "model.rope_base": "rope_theta",
            "data.separator": "eos_token_id eot_token bos_token_id",
            "model.seq_len": "block_size context_length max_length",
            "model.width": "d_model dim hidden_size n_embd",
            "train.batch_tokens": "batch_size global_batch_size",
            "train.clip": "grad_clip max_grad_norm",
            "train.lr": "learning_rate max_lr",
            "train.precision": "dtype",
            "train.schedule": "lr_scheduler scheduler",
            "train.tokens": "steps max_steps",
            "train.weight_decay": "wd",
        }.items()
        for name in names.split()
    }
)
"""Names of other trainers that no spelling would lead to ours."""


REMOVED: Mapping[str, str] = MappingProxyType(
    {
        "train.graphs": "torch makes CUDA graphs: train.compile=reduce_overhead, or leave it out.",
        "train.pack": "Tiny runs are compiled each for itself, which is faster; leave it out.",
    }
)
"""Settings of earlier versions, and what is there in their place."""

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
    if key in REMOVED:
        return f"{key} is no longer a setting; {REMOVED[key]}"
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
    if key == "data.parts":
        return "a list of sources, such as [{name: text, path: FOLDER, weight: 1}]"
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
        list[Any]: "a list of numbers",
        list[str]: "a list of texts",
        dict[str, Any]: "a table of fields of a plug-in",
        type(None): "null",
    }
)
