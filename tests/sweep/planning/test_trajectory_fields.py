"""Every setting of the schema changes a run's name, is refused, or is known to change no result.

The settings are enumerated from the schema, so that a new one cannot be forgotten: it has to be
read, or to be entered in `NO_RESULT`, which the documentation lists.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hydra import compose
from omegaconf import OmegaConf, open_dict
from tokenizers import Tokenizer, models, pre_tokenizers

from fit.errors import PlanError
from sweep.config import Schedule
from sweep.planning.compose import hydra_initialised
from sweep.planning.overrides import unread_settings, value_of
from sweep.planning.trajectory import plan
from sweep.settings import parse, settings
from sweep.training.outcome import recipe

ROOT = Path(__file__).parents[3]
NO_RESULT = frozenset(
    "name runs_dir tracking files bundle branch_jobs data.cache data.max_epochs "
    "train.micro_batch_tokens train.accelerator train.devices train.strategy train.threads "
    "train.compile train.retries "
    "train.checkpoint_seconds train.runs_per_gpu train.keep train.scores "
    "train.stories".split()
)
"""Where runs go, what is logged, on which device they run, and what is refused beforehand."""
BY_LAUNCH = frozenset({"data_hash", "planned_device", "plugins_hash", "bundle_file", "part"})
"""Written by a launch for its workers."""
HUB_ONLY = frozenset({"data.subset", "data.streaming", "data.split"})
"""Read by the source `hf` alone, which needs a package of its own."""
OWN_ONLY = frozenset({"data._target_", "data.options"})
"""Read by the source `own` alone."""
NULL_RULES = frozenset({"data.dtype", "data.byte_order", "data.header_bytes", "data.encoding"})
"""Null is found by the content of the files, and a wrong value is refused."""
VALUES = {
    "model.heads": "2",
    "model.head_dim": "32",
    "model.seq_len": "64",
    "model.experts": "8",
    "model.kv_heads": "2",
    "model.mlp": "gelu",
    "model.pad_vocab_to": "128",
    "data.unique_tokens": "2000",
    "data.max_epochs": "1e9",
    "data.size": "small",
    "data.tokenizer": "bytes",
    "data.pattern": "a*.txt",
    "data.column": "body",
    "data.vocab": "2000",
    "data.dtype": "int32",
    "data.byte_order": "big",
    "data.header_bytes": "2",
    "data.bytes_per_token": "3.5",
    "data.separator": "5",
    "data.splits": "none",
    "data.subset": "other",
    "data.cache": "CACHE",
    "data.parts": "[{name: text, path: OTHER, weight: 1}]",
    "data.also_heldout": "[/none/x.txt]",
    "data.tasks": "/none/x.jsonl",
    "data.path": "OTHER",
    "train.tokens": "200e3",
    "train.batch_tokens": "1024",
    "train.batch_doublings": "[1e3]",
    "train.cooldown_shape": "linear",
    "train.keep": "weights",
    "files": "few",
    "train.micro_batch_tokens": "256",
    "train.warmup_tokens": "2000",
    "train.precision": "64-true",
    "train.accelerator": "cpu",
    "train.strategy": "ddp",
    "sweep.flops": "2e11",
    "train.compile": "'off'",
    "train.schedule": "cosine",
    "train.optimizer": "muon",
    "train.muon_momentum": "0.9",
    "model._target_": "nowhere:Model",  # refused here; tests/sweep/test_plugins.py has real ones
    "model.options": "{size: 1}",
    "data._target_": "nowhere:open",
    "data.options": "{size: 1}",
    "train.options": "{size: 1}",
    "train.scores": "accuracy",
    "train.beta1": "0.8",
    "train.beta2": "0.95",
}
"""Other values of settings whose type alone does not say one."""


def other_value(setting, kind, value):
    if setting == "data.name":
        return "tokens" if value == "text" else "text"
    if setting == "train.schedule" and value is Schedule.cosine:
        return "wsd"
    if setting == "train.optimizer" and value == "muon":
        return "adamw"
    if setting == "data.tokenizer" and value == "bytes":
        return "TOKENIZER"
    if setting in VALUES:
        return VALUES[setting]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(e.value for e in kind if e is not value)
    if isinstance(value, bool):
        return str(not value).lower()
    return f"{value}x" if isinstance(value, str) else str(value * 2 if value else 1)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """Overrides in which between them every setting is read, and a second path for each source."""
    folder = tmp_path_factory.mktemp("data")
    words = np.random.default_rng(0).choice(["red", "green", "blue", "grey"], size=(2, 9, 300))
    for name, texts in zip(("text", "other"), words, strict=True):
        (folder / name).mkdir()
        for number, text in enumerate(texts):
            (folder / name / f"{'ab'[number % 2]}{number}.txt").write_text(" ".join(text))
        rows = [{"text": f"one {i}", "body": f"two {i} {name}"} for i in range(200)]
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / name / "abc.jsonl").write_text(lines)
        (folder / name / "a_val.txt").write_text(" ".join(words.ravel()[::-1]))
        (folder / f"{name}.tokens").mkdir()
        draw = np.random.default_rng(len(name))
        for split in ("train", "val"):
            drawn = draw.integers(0, 1000, 9000).astype("<u2")
            drawn.tofile(folder / f"{name}.tokens" / f"{split}.bin")
    small = [f"data.cache={folder}/cache", "data.heldout_tokens=512", "model.seq_len=32"]
    text = ["data=text", f"data.path={folder}/text", "data.vocab=300", *small]
    tokens = ["data=tokens", f"data.path={folder}/text.tokens", *small]
    mix = ["data=mix", f"data.parts=[{{name:text,path:{folder}/text,weight:1}}]", *small]
    base = ["model=w64", "train.tokens=100e3", "train.batch_tokens=2048"]
    given = {
        "stories": base,
        "experts": [*base, "model.experts=4", "model.top_k=1"],
        "completep": [
            *base,
            "train.depth_rule=completep",
            "model.depth=3",
            "train.lr_decay_power=.1",
        ],
        "cosine": [*base, "train=cosine"],
        "muon": [*base, "train.optimizer=muon"],
        "budget": ["model=w64", "sweep.flops=3e11", "train.batch_tokens=2048"],
        "text": [*base, *text],
        "tokens": [*base, *tokens],
        "masked": [
            *(*base, *tokens, "model.document_mask=true", "data.separator=3"),
            *("model.mlp=geglu", "model.kv_heads=1", "model.pad_vocab_to=64"),
        ],
        "mix": [*base, *mix],
    }
    others = {name: folder / "other" for name in ("text", "mix")}
    others["tokens"] = others["masked"] = folder / "other.tokens"
    words_alone = models.WordLevel({"red": 0, "green": 1, "other": 2}, unk_token="other")
    tokenizer = Tokenizer(words_alone)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "other" / ".tokenizer.json"))
    with hydra_initialised():
        return {
            name: (compose("config", overrides), str(others.get(name, "/none")))
            for name, overrides in given.items()
        }


def names_of(config, setting=None, value=None):
    """The names of a job's runs; why they are refused where one setting is another."""
    if setting is not None:
        with open_dict(config):
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([f"{setting}={value}"]))
    try:
        parsed = parse(config)
        if setting in unread_settings(parsed):
            return f"{setting} is not read"
        return [run.run for t in plan(parsed) for run in t.runs]
    except PlanError as error:
        return str(error)


@pytest.mark.parametrize(
    "context",
    [
        *("stories", "experts", "completep", "cosine", "muon", "budget", "text", "tokens"),
        *("masked", "mix"),
    ],
)
def test_every_setting_changes_the_run_or_is_refused(contexts, context):
    composed, other_path = contexts[context]
    config, base = parse(composed), names_of(composed)
    read = set()
    for setting in settings().keys() - NO_RESULT - BY_LAUNCH:
        value = other_value(setting, settings()[setting], value_of(config, setting))
        value = value.replace("TOKENIZER", "OTHER/.tokenizer.json")
        found = names_of(composed, setting, value.replace("OTHER", other_path))
        assert found != base, f"{setting}={value} is taken in {context} and changes nothing"
        if isinstance(found, list):
            read.add(setting)
    # What a record says of its recipe was read: with another value it is another run.
    kept = set(recipe(plan(config)[0])) - {"data"}
    refused = {"train.depth_rule"} if context == "muon" else set()  # each other value of it is
    assert kept <= read | NULL_RULES | refused, kept - read


def test_settings_that_change_no_result_keep_the_name(contexts):
    composed, _ = contexts["stories"]
    for setting in sorted(NO_RESULT):
        value = other_value(setting, settings()[setting], value_of(parse(composed), setting))
        found = names_of(composed, setting, value.replace("CACHE", "/none"))
        assert found == names_of(composed), setting


def test_the_documentation_lists_the_settings_that_change_no_result():
    page = (ROOT / "docs" / "method.md").read_text()
    for setting in NO_RESULT:
        assert f"`{setting}`" in page, setting


def test_every_setting_is_read_by_some_run(contexts):
    """No setting is refused everywhere: one that nothing can read has no place in the schema."""
    unread = [set(unread_settings(parse(composed))) for composed, _ in contexts.values()]
    assert set.intersection(*unread) == HUB_ONLY | OWN_ONLY
