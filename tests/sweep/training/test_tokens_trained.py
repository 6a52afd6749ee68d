"""Tokens trained are the tokens of the files: every id says which token of which document it is."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sweep.data.registry import open_source
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from sweep.training.session import Session
from tests.sweep.data.token_writers import megatron, with_header

LENGTH, DOCUMENTS = 20, 160
"""A document's tokens are LENGTH * number, + 1, ..."""
TRAINED, HELDOUT, TEST = 2049, 600, 400
"""Tokens; the first of the stream is never predicted."""


def tagged():
    """Documents in a mixed order, each id unique."""
    order = np.random.default_rng(0).permutation(DOCUMENTS)
    return (LENGTH * order[:, None] + np.arange(LENGTH)).ravel()


def as_npy(ids, dtype):
    buffer = io.BytesIO()
    np.save(buffer, ids.astype(dtype))
    return buffer.getvalue()


FORMATS = {
    "raw <u2": lambda name, ids: {f"{name}.bin": ids.astype("<u2").tobytes()},
    "raw <u4": lambda name, ids: {f"{name}.bin": ids.astype("<u4").tobytes()},
    "raw <i8": lambda name, ids: {f"{name}.bin": ids.astype("<i8").tobytes()},
    "raw >u4": lambda name, ids: {f"{name}.bin": ids.astype(">u4").tobytes()},
    "raw <u2 named .npy": lambda name, ids: {f"{name}.npy": ids.astype("<u2").tobytes()},
    "raw <u4 named .ds": lambda name, ids: {f"{name}.ds": ids.astype("<u4").tobytes()},
    "npy u2": lambda name, ids: {f"{name}.npy": as_npy(ids, "u2")},
    "npy i8": lambda name, ids: {f"{name}.npy": as_npy(ids, "i8")},
    "llm.c u2": lambda name, ids: {f"{name}.bin": with_header(ids.astype("<u2"), 20240520, 1)},
    "llm.c u4": lambda name, ids: {f"{name}.bin": with_header(ids.astype("<u4"), 20240801, 7)},
    "Megatron i4": lambda name, ids: megatron(name, ids, "i4", document=1),
    "Megatron u2": lambda name, ids: megatron(name, ids, "u2", document=1),
}
SPLITS = {
    "files": ("train_{}", "val_{}", "test_{}"),
    "folders": ("train/{}", "validation/{}", "test/{}"),
    "tail": ("part_{}", None, None),
}


def write_files(folder, layout, split):
    """Write the tagged documents; returns the ids to train on and those that are not."""
    ids, names = tagged(), SPLITS[split]
    train, heldout = ids[:TRAINED], ids[TRAINED : TRAINED + HELDOUT]
    parts = {names[0].format(0): train[:1000], names[0].format(1): train[1000:]}
    if names[1] is None:
        heldout = ids[TRAINED : TRAINED + 513]
        parts[names[0].format(2)] = heldout
    else:
        parts[names[1].format(0)] = heldout
        parts[names[2].format(0)] = ids[-TEST:]
    for name, part in parts.items():
        for file, content in FORMATS[layout](name, part).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
    return train, heldout


def check_counts(tmp_path, monkeypatch, layout, split):
    train_ids, heldout_ids = write_files(tmp_path / "d", layout, split)
    fed = []
    backward = Session.backward

    def count(session, rows):
        fed.append(rows.numpy().copy())
        backward(session, rows)

    monkeypatch.setattr(Session, "backward", count)
    epochs = 2
    config = compose_config(
        [
            "model.width=8",
            "model.depth=1",
            "model.head_dim=8",
            "model.seq_len=32",
            "data=tokens",
            f"data.path={tmp_path / 'd'}",
            f"data.cache={tmp_path / 'cache'}",
            "data.heldout_tokens=512",
            "train.batch_tokens=128",
            "train.batch_doublings=[]",
            "train.compile=off",
            f"train.tokens={epochs * (TRAINED - 1)}",
            "tracking=none",
            "name=tagged",
        ]
    )
    (trajectory,) = plan(config)
    (record,) = train(trajectory, tmp_path / "runs", _Silent())
    targets = np.concatenate([rows[:, 1:].ravel() for rows in fed])
    half = len(targets) // epochs
    assert record.tokens_seen == len(targets) == epochs * (TRAINED - 1)
    assert record.data.unique_tokens == TRAINED - 1
    for epoch in (targets[:half], targets[half:]):
        assert np.array_equal(np.sort(epoch), np.sort(train_ids[1:]))
    inputs = np.concatenate([rows[:, :-1].ravel() for rows in fed])
    assert set(np.unique(inputs)) == set(train_ids[:-1])
    assert not set(np.unique(targets)) & set(heldout_ids)
    source = open_source(config.data, seq_len=32, seed=0)
    assert set(np.unique(source.heldout().rows)) <= set(heldout_ids)


class _Silent:
    def show_progress(self, run, tokens, total, loss):
        pass

    def finish_run(self, folder, record, curve):
        pass


@pytest.mark.parametrize("split", SPLITS)
def test_every_token_is_trained_on_once_an_epoch_and_none_that_is_held_out(
    tmp_path, monkeypatch, split
):
    check_counts(tmp_path, monkeypatch, "raw <u4", split)


@pytest.mark.slow
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_format_and_split_is_trained_on_whole(tmp_path, monkeypatch, layout, split):
    check_counts(tmp_path, monkeypatch, layout, split)
