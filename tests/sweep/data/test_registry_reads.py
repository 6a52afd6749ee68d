"""A source reads exactly the settings that the registry says it does: others are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.config import DataConfig
from sweep.data.registry import READ_BY_ALL, SOURCES, open_source
from tests.sweep.data.builders import data_config

FIELDS = frozenset(field.name for field in dataclasses.fields(DataConfig))


class RecordingConfig(DataConfig):
    """A configuration that notes which of its fields are read."""

    def __getattribute__(self, name):
        if name in FIELDS:
            object.__getattribute__(self, "__dict__").setdefault("read", set()).add(name)
        return object.__getattribute__(self, name)


def read_settings(config):
    """The fields that are read until a source has served rows, or has refused to."""
    config.__class__ = RecordingConfig
    config.__dict__["read"] = set()
    try:
        source = open_source(config, seq_len=16, seed=0)
        source.train(0, 2)
        source.heldout()
        SOURCES[source.info.name.partition(":")[0]].separator(config, source.vocab)
    except PlanError:
        assert config.__dict__["name"] == "hf"  # its data set is nowhere, and it has read all
    return config.__dict__["read"]


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("one two three four five six seven eight " * 100)
    lines = "\n".join(json.dumps({"text": f"line {i} of many"}) for i in range(200))
    (tmp_path / "text" / "b.jsonl").write_text(lines)
    np.random.default_rng(0).integers(0, 900, 5000).astype("<u2").tofile(tmp_path / "a.bin")
    (tmp_path / "hub").mkdir()
    return {"text": tmp_path / "text", "tokens": tmp_path / "a.bin", "hf": tmp_path / "hub"}


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"own"}))  # which reads what it likes
def test_a_source_reads_what_it_declares_and_nothing_else(name, paths, tmp_path):
    path = None if name in ("stories", "mix") else str(paths[name])
    given = {"tokenizer": "bpe"} if name in ("text", "hf") else {}
    if name == "mix":
        given["parts"] = [{"name": "text", "path": str(paths["text"]), "weight": 1}]
    read = read_settings(data_config(name, tmp_path, path=path, **given))
    assert read <= SOURCES[name].reads
    assert SOURCES[name].reads - READ_BY_ALL <= read


def test_every_setting_of_the_data_is_read_by_a_source():
    assert set().union(*(kind.reads for kind in SOURCES.values())) == FIELDS


def test_byte_pairs_without_a_size_are_refused(paths, tmp_path):
    config = data_config("text", tmp_path, path=str(paths["text"]), tokenizer="bpe", vocab=None)
    with pytest.raises(PlanError, match="data.vocab=null"):
        open_source(config, seq_len=16, seed=0)
