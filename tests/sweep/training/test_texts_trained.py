"""Documents trained are those of the files: every document has a tag, counted in what is fed."""

from __future__ import annotations

import bz2
import collections
import gzip
import lzma
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.data.corpus import Bytes
from sweep.data.registry import open_source
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from sweep.training.session import Session

EPOCHS, T = 2, 32
TRAINED, HELDOUT, TEST = 60, 40, 15
"""Documents; each of 63 bytes and its end, two rows."""


def tagged(split, count):
    return [f"<{split}{n:04d}>".ljust(62, "abc def "[n % 8]) + "\n" for n in range(count)]


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def json_lines(texts):
    return "".join(f'{{"id": 1, "text": "{t[:-1]}\\n"}}\n' for t in texts)


def separated(texts, delimiter):
    return f"id{delimiter}text\n" + "".join(f'1{delimiter}"{t}"\n' for t in texts)


CONTAINERS = {
    "txt": lambda texts: {f"{n}.txt": t for n, t in enumerate(texts)},
    "jsonl": lambda texts: {"0.jsonl": json_lines(texts)},
    "ndjson": lambda texts: {"0.ndjson": json_lines(texts)},
    "json": lambda texts: {"0.json": json_lines(texts)},
    "array": lambda texts: {"0.json": "[" + ",".join(json_lines(texts).splitlines()) + "]"},
    "csv": lambda texts: {"0.csv": separated(texts, ",")},
    "tsv": lambda texts: {"0.tsv": separated(texts, "\t")},
}
PACKINGS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PACKINGS[".zst"] = zstd
SPLITS = {
    "files": ("train-{}", "valid-{}", "test-{}"),
    "folders": ("train/{}", "validation/{}", "test/{}"),
    "sample": ("part-{}", None, None),
}


def write_split(folder, container, packing, split):
    """Write the tagged documents of each split."""
    parts = zip(SPLITS[split], "KVX", (TRAINED, HELDOUT, TEST), strict=True)
    for pattern, tag, count in parts:
        if pattern is None:
            continue
        texts = tagged(tag, count)
        if container == "parquet":
            path = folder / pattern.format("0.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": texts}), path)
            continue
        for name, content in CONTAINERS[container](texts).items():
            path = folder / (pattern.format(name) + packing)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PACKINGS[packing](content.encode()))


def check_documents(tmp_path, monkeypatch, container, packing, split):
    write_split(tmp_path / "d", container, packing, split)
    fed = []
    backward = Session.backward

    def count(session, rows):
        fed.append(rows.numpy().copy())
        backward(session, rows)

    monkeypatch.setattr(Session, "backward", count)
    settings = [
        *("model.width=8", "model.depth=1", "model.head_dim=8", f"model.seq_len={T}"),
        *("data=text", "data.tokenizer=bytes", f"data.path={tmp_path / 'd'}"),
        *(f"data.cache={tmp_path / 'cache'}", "data.heldout_tokens=1024", "train.batch_tokens=32"),
        *("train.batch_doublings=[]", "train.compile=off", "tracking=none", "name=tagged"),
    ]
    source = open_source(compose_config([*settings, "train.tokens=1e5"]).data, seq_len=T, seed=0)
    unique = source.info.unique_tokens
    config = compose_config([*settings, f"train.tokens={EPOCHS * unique}"])
    (trajectory,) = plan(config)
    (record,) = train(trajectory, tmp_path / "runs", _Silent())
    targets = np.concatenate([rows[:, 1:].ravel() for rows in fed])
    text = b"".join(Bytes().decode(rows.ravel().tolist()) for rows in fed).decode()
    seen = collections.Counter(re.findall(r"<([KVX])(\d{4})>", text))
    held = Bytes().decode(source.heldout().rows.ravel().tolist()).decode()
    held_tags = set(re.findall(r"<([KVX])(\d{4})>", held))
    assert record.tokens_seen == len(targets) == EPOCHS * unique
    assert record.data.unique_tokens == unique
    if split == "sample":  # what is not fed is held out, whole documents of 64 tokens
        trained = {("K", f"{n:04d}") for n in range(TRAINED)} - held_tags
        assert unique == (64 * len(trained) - 1) // T * T
    else:
        trained = {("K", f"{n:04d}") for n in range(TRAINED)}
        assert {tag for tag, _ in held_tags} == {"V"}
        # The first token of the stream is never predicted: the last row lacks one token.
        assert unique == (64 * TRAINED - 1) // T * T
    assert set(seen) == trained and set(seen.values()) == {EPOCHS}


class _Silent:
    def show_progress(self, run, tokens, total, loss):
        pass

    def finish_run(self, folder, record, curve):
        pass


def test_every_document_is_trained_on_once_an_epoch_and_none_that_is_held_out(
    tmp_path, monkeypatch
):
    check_documents(tmp_path, monkeypatch, "jsonl", ".gz", "files")


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_packing_and_split_is_trained_on_whole(
    tmp_path, monkeypatch, container, packing, split
):
    check_documents(tmp_path, monkeypatch, container, packing, split)


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_parquet_of_every_split_is_trained_on_whole(tmp_path, monkeypatch, split):
    check_documents(tmp_path, monkeypatch, "parquet", "", split)
