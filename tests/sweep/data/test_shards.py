"""Shards of tokens as users have them, whole and broken."""

import json

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.registry import describe, open_source
from tests.sweep.data.builders import data_config

T = 16


def write(path, tokens, dtype="<u2"):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(tokens).astype(dtype).tofile(path)


def opened(tmp_path, **given):
    config = data_config("tokens", tmp_path, **{"path": str(tmp_path / "d"), **given})
    return open_source(config, seq_len=T, seed=0)


def test_train_and_val_are_told_apart_by_folder_or_name(tmp_path):
    for train, val in [("train/a.bin", "val/a.bin"), ("x_train_01.bin", "x_valid_01.bin")]:
        folder = tmp_path / train.replace("/", "")
        write(folder / train, np.arange(4000))
        write(folder / val, np.arange(5000, 6000))
        source = opened(tmp_path, path=str(folder))
        assert source.train(0, 500).max() < 4000
        assert source.heldout().rows.min() >= 5000


def test_a_test_split_beside_val_is_left_alone(tmp_path):
    write(tmp_path / "d/train.bin", np.arange(2000))
    write(tmp_path / "d/val.bin", np.arange(3000, 4000))
    write(tmp_path / "d/test.bin", np.arange(5000, 6000))
    source = opened(tmp_path)
    assert source.train(0, 400).max() < 2000
    assert 3000 <= source.heldout().rows.min() and source.heldout().rows.max() < 4000


def test_without_names_the_tail_is_held_out_across_shards(tmp_path):
    write(tmp_path / "d/0.bin", np.arange(2000))
    write(tmp_path / "d/1.bin", np.arange(2000, 2300))
    source = opened(tmp_path)
    assert np.array_equal(np.unique(source.heldout().rows), np.arange(2300 - 513, 2300))
    assert source.train(0, 400).max() < 2300 - 513


def test_a_single_file_and_npy_of_any_whole_numbers_are_read(tmp_path):
    for dtype in ("u2", "u4", "i4", "i8"):
        path = tmp_path / f"{dtype}.npy"
        np.save(path, np.arange(3000, dtype=dtype))
        assert opened(tmp_path, path=str(path)).vocab == 3000


def test_meta_gives_vocabulary_dtype_and_bytes(tmp_path):
    write(tmp_path / "d/a.bin", np.arange(80_000) % 70_000, "<u4")
    meta = {"vocab": 71_000, "dtype": "uint32", "bytes_per_token": 4.25, "comment": "x"}
    (tmp_path / "d/meta.json").write_text(json.dumps(meta))
    source = opened(tmp_path)
    assert (source.vocab, source.info.bytes_per_token) == (71_000, 4.25)
    assert opened(tmp_path, bytes_per_token=3.0).info.bytes_per_token == 3.0


def test_a_header_of_llmc_is_skipped(tmp_path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 3000
    (tmp_path / "d").mkdir()
    body = np.arange(3000, dtype="<u2").tobytes()
    (tmp_path / "d/a.bin").write_bytes(header.tobytes() + body)
    assert opened(tmp_path).vocab == 3000
    (tmp_path / "d/a.bin").write_bytes(header.tobytes() + body[:-20])
    with pytest.raises(PlanError, match="2990 uint16 tokens .*3000 by its header"):
        opened(tmp_path)


def test_the_other_header_of_llmc_means_uint32(tmp_path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240801, 7, 3000
    (tmp_path / "d").mkdir()
    body = np.arange(3000, dtype="<u4").tobytes()
    (tmp_path / "d/a.bin").write_bytes(header.tobytes() + body)
    assert opened(tmp_path).vocab == 3000


def test_the_hash_knows_which_files_are_held_out(tmp_path):
    for number, name in enumerate("abc"):
        write(tmp_path / f"d/{name}.bin", np.arange(3000) + number)
    hashes = {opened(tmp_path).info.hash}
    for old, new in (("b", "b_val"), ("c", "c_val"), ("b_val", "b")):
        (tmp_path / f"d/{old}.bin").rename(tmp_path / f"d/{new}.bin")
        hashes.add(opened(tmp_path).info.hash)
    hashes.add(opened(tmp_path, bytes_per_token=4.2).info.hash)
    assert len(hashes) == 5


def test_the_hash_follows_the_content_and_not_the_place(tmp_path):
    write(tmp_path / "d/a.bin", np.arange(3000))
    write(tmp_path / "e/b.bin", np.arange(3000))
    first = opened(tmp_path).info.hash
    assert opened(tmp_path, path=str(tmp_path / "e")).info.hash == first
    write(tmp_path / "d/a.bin", np.arange(3000)[::-1])
    assert opened(tmp_path).info.hash != first


def test_facts_are_remembered_and_a_read_only_cache_costs_only_time(tmp_path, monkeypatch):
    write(tmp_path / "d/a.bin", np.arange(3000))
    config = data_config("tokens", tmp_path, path=str(tmp_path / "d"))
    before = describe(config, T)
    monkeypatch.setattr("sweep.data.shards.scan", lambda shards: pytest.fail("read again"))
    assert describe(config, T) == before
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    config.cache = str(tmp_path / "file" / "no-folder")
    assert describe(config, T) == before


IDS = np.arange(3000, dtype="<u2") % 700


@pytest.mark.parametrize(
    ("files", "meta", "message"),
    [
        ({}, None, "no .bin, .npy or .ds below"),
        ({"a.bin": b""}, None, "is empty"),
        ({"a.bin": IDS.tobytes() + b"x"}, None, "3000 uint16 tokens and 1 bytes"),
        ({"a.bin": b"x" * 6001}, None, "is text"),
        ({"a.bin": b"\1\0" * 3000}, None, "all 3000 tokens in .* are 1"),
        ({"a.bin": IDS}, {"vocab": 9}, "token 699 in .*a.bin is outside the vocabulary of 9"),
        ({"a.bin": IDS}, {"vocab": 70_000, "dtype": "uint16"}, "uint16 allows 1 to 65536"),
        ({"a.bin": IDS}, {"vocab": 1 << 25}, "a vocabulary allows 1 to 16777216"),
        ({"a.bin": IDS}, {"vocab": "50k"}, "gives vocab '50k'"),
        ({"a.bin": IDS}, {"dtype": "int8"}, "dtype 'int8'; known are uint8, uint16, uint32"),
        ({"a.bin": IDS}, {"bytes_per_token": -1}, "a positive number is needed"),
        ({"a.bin": IDS}, "oops", "not a JSON object"),
        ({"a.bin": IDS[:600]}, None, "600 tokens .* set data.heldout_tokens=60"),
        ({"train.bin": IDS[:9], "val.bin": IDS}, None, "below one row"),
        ({"train.bin": IDS[:900], "val.bin": IDS[:100]}, None, "data.heldout_tokens=96"),
        ({"train.bin": IDS, "val.bin": IDS}, None, "val.bin holds the same tokens as .*train.bin"),
    ],
)
def test_broken_shards_are_named(tmp_path, files, meta, message):
    (tmp_path / "d").mkdir()
    for name, content in files.items():
        (tmp_path / "d" / name).write_bytes(bytes(content))
    if meta is not None:
        text = meta if isinstance(meta, str) else json.dumps(meta)
        (tmp_path / "d/meta.json").write_text(text)
    with pytest.raises(PlanError, match=message):
        opened(tmp_path)


def test_arrays_of_other_kinds_and_negative_tokens_are_refused(tmp_path):
    for number, (array, message) in enumerate(
        [
            (np.ones((3, 3), np.uint16), "of shape"),
            (np.ones(3000), "float64"),
            (np.full(3000, -1), "tokens are at least 0"),
        ]
    ):
        np.save(tmp_path / f"{number}.npy", array)
        with pytest.raises(PlanError, match=message):
            opened(tmp_path, path=str(tmp_path / f"{number}.npy"))


def test_a_missing_path_says_where_it_looked(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        opened(tmp_path, path=str(tmp_path / "nowhere"))
    with pytest.raises(PlanError, match="needs data.path"):
        opened(tmp_path, path=None)
