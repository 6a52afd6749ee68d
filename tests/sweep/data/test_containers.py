"""Documents trained on are the documents in the files, whatever holds them."""

import json
import os
import random
import re
import sys

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.registry import open_source
from sweep.data.tokenizers import Bytes, load_bpe, train_bpe
from tests.sweep.data.builders import data_config, rows_as_set
from tests.sweep.data.text_writers import COMPRESSIONS, CONTAINERS, write_texts

T = 32
WORDS = "the a fox owl saw ran glad over under river moon and then slept who lost found".split()


def tagged(kind, number, words=60):
    draw = random.Random(f"{kind}{number}")
    return f"<{kind}{number}> café, “so”\n" + " ".join(draw.choices(WORDS, k=words))


def opened(folder, cache, **given):
    config = data_config("text", cache, **{"path": str(folder), **given})
    return open_source(config, seq_len=T, seed=0)


def tags(rows):
    text = "".join(Bytes().decode(row[:-1].tolist()).decode(errors="replace") for row in rows)
    return re.findall(r"<(\w+?)(\d+)>", text)


def trained(source):
    """Tags of the documents in one epoch, in the order in which they lie in the files."""
    count = source.info.unique_tokens // T
    rows = source._corpus.train.rows(np.arange(count), T)
    assert rows_as_set(source.train(0, count)) == rows_as_set(rows)  # an epoch is all of them
    return tags(rows)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_document_is_trained_on_once_and_none_that_is_held_out(tmp_path, kind, compression):
    folder = tmp_path / "texts"
    for split, count in (("train", 40), ("validation", 12), ("test", 8)):
        texts = [tagged(split, number) for number in range(count)]
        write_texts(folder, f"{split}-00000-of-00001", texts, kind, compression)
    source = opened(folder, tmp_path)
    seen = [(split, int(number)) for split, number in trained(source)]
    # The last row is not full, and a tag may lie across the border of two rows.
    assert len(seen) == len(set(seen))
    assert {split for split, _ in seen} == {"train"}
    total = sum(len(tagged("train", n).encode()) + 1 for n in range(40))
    assert total - T - 1 <= source.info.unique_tokens <= total
    heldout = tags(source.heldout().rows)
    assert heldout and {split for split, _ in heldout} == {"validation"}
    facts = dict(source.facts)
    assert "held out" in facts["by name"] or "neither" in facts["by name"]
    everything = opened(folder, tmp_path, splits="none")
    assert {split for split, _ in trained(everything)} == {"train", "validation", "test"}


def test_every_container_and_compression_gives_the_same_corpus(tmp_path):
    texts = [tagged("tale", number) for number in range(40)]
    hashes = set()
    for kind in ("jsonl", "ndjson", "json", "csv", "tsv", "parquet"):
        for compression in COMPRESSIONS:
            folder = tmp_path / f"{kind}{compression}"
            write_texts(folder, "all", texts, kind, compression)
            hashes.add(opened(folder, tmp_path).info.hash)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("TinyStories-train.txt", "TinyStories-valid.txt"),
        ("data/train/a.txt", "data/val/a.txt"),
        ("data/train-0.txt", "data/dev-0.txt"),
        ("wiki.train.txt", "wiki.test.txt"),
        ("latest.txt", "eval/contest.txt"),
        ("contest.txt", "heldout/x.txt"),
    ],
)
def test_what_names_itself_validation_or_test_is_held_out(tmp_path, names):
    folder = tmp_path / "d"
    for name, split in zip(names, ("train", "valid"), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(tagged(split, number) for number in range(30)))
    source = opened(folder, tmp_path)
    assert {split for split, _ in trained(source)} == {"train"}
    assert {split for split, _ in tags(source.heldout().rows)} == {"valid"}


def test_a_text_on_both_sides_is_held_out(tmp_path):
    texts = [tagged("tale", number) for number in range(40)]
    write_texts(tmp_path / "d", "train", texts, "jsonl")
    write_texts(tmp_path / "d", "valid", texts[:10], "jsonl")
    source = opened(tmp_path / "d", tmp_path)
    assert {int(n) for _, n in trained(source)} <= set(range(10, 40))


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_one_process_tells_the_splits_of_a_folder_apart(tmp_path, kind):
    (tmp_path / "d").mkdir()
    for split in ("train", "val"):
        draw = np.random.default_rng(len(split))
        draw.integers(0, 999, 9000).astype("<u2").tofile(tmp_path / "d" / f"{split}.bin")
        write_texts(tmp_path / "d", split, [tagged(split, n) for n in range(40)], "jsonl")
    hashes = []
    for splits in ("names", "none", "names"):
        config = data_config(kind, tmp_path, path=str(tmp_path / "d"), splits=splits)
        hashes.append(open_source(config, seq_len=T, seed=0).info.hash)
    assert hashes[0] == hashes[2] != hashes[1]


def test_the_column_of_held_out_rows_is_part_of_the_corpus(tmp_path):
    (tmp_path / "d").mkdir()
    train = "\n".join(tagged("train", n) for n in range(40))
    (tmp_path / "d" / "train.txt").write_text(train)
    rows = [{"text": tagged("one", n), "body": tagged("two", n)} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "d" / "valid.jsonl").write_text(lines)
    for column, tag in (("text", "one"), ("body", "two")):
        source = opened(tmp_path / "d", tmp_path, column=column)
        assert {split for split, _ in tags(source.heldout().rows)} == {tag}


def test_a_folder_of_test_files_alone_is_refused_with_the_way_out(tmp_path):
    write_texts(tmp_path / "d", "test", [tagged("tale", n) for n in range(40)], "jsonl")
    with pytest.raises(PlanError, match="nothing is left to train on.*data.splits=none"):
        opened(tmp_path / "d", tmp_path)
    assert opened(tmp_path / "d", tmp_path, splits="none").info.unique_tokens > 1000


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16"])
def test_wide_encodings_are_found_with_and_without_a_mark(tmp_path, codec):
    text = "\n".join(tagged("tale", number) for number in range(40)).replace("“so”", "so")
    for name, content in (("plain", text.encode()), ("wide", text.encode(codec))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_bytes(content)
    plain, wide = (opened(tmp_path / n, tmp_path) for n in ("plain", "wide"))
    assert wide.info.hash == plain.info.hash  # of all tokens


def test_a_named_encoding_is_that_of_the_files_which_are_not_utf8(tmp_path):
    texts = [tagged("tale", number) for number in range(40)]
    for name, codecs in (("plain", ["utf-8"]), ("mixed", ["utf-8", "cp1252"])):
        (tmp_path / name).mkdir()
        for number, text in enumerate(texts):
            content = text.encode(codecs[number % len(codecs)])
            (tmp_path / name / f"{number:02d}.txt").write_bytes(content)
    with pytest.raises(PlanError, match="20 files of 40 .*not UTF-8 text.*data.encoding=cp1252"):
        opened(tmp_path / "mixed", tmp_path)
    mixed = opened(tmp_path / "mixed", tmp_path, encoding="cp1252")
    assert mixed.info.hash == opened(tmp_path / "plain", tmp_path).info.hash


def test_text_that_was_encoded_twice_is_refused_unless_it_is_meant(tmp_path):
    text = (
        "\n".join(tagged("tale", n) for n in range(40)).replace("”", "").encode().decode("cp1252")
    )
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(PlanError, match="encoded twice"):
        opened(tmp_path, tmp_path / "c")
    assert opened(tmp_path, tmp_path / "c", encoding="utf-8").info.unique_tokens > 3000


def test_all_bad_files_are_named_in_one_message(tmp_path):
    for number in range(5):
        (tmp_path / f"bad{number}.txt").write_bytes(b"caf\xe9 " * 100)
    (tmp_path / "good.txt").write_text(tagged("tale", 1))
    with pytest.raises(
        PlanError, match="5 files of 6 cannot be read .*bad0.*bad1.*bad2.*and 2 more"
    ):
        opened(tmp_path, tmp_path / "c")


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.zst"])
def test_a_container_whose_library_is_missing_is_refused_with_its_name(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"PAR1" if name.endswith("parquet") else b"\x28\xb5\x2f\xfd")
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PlanError, match=r"needs the package 'pyarrow(.parquet)?', not installed"):
        opened(tmp_path, tmp_path / "cache")


def test_byte_pairs_without_their_library_are_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("sweep.data.tokenizers.find_spec", lambda name: None)
    with pytest.raises(PlanError, match="pip install 'isoflop.sweep.'.*data.tokenizer=bytes"):
        train_bpe(["the fox ran"], 300)
    with pytest.raises(PlanError, match="needs the package 'tokenizers'"):
        load_bpe(tmp_path)


def test_a_folder_that_links_lead_to_twice_is_read_once(tmp_path):
    write_texts(tmp_path / "d" / "a", "x", [tagged("tale", n) for n in range(40)], "jsonl")
    os.symlink(tmp_path / "d", tmp_path / "d" / "a" / "circle")
    os.symlink(tmp_path / "d" / "a", tmp_path / "d" / "b")
    os.mkfifo(tmp_path / "d" / "pipe.txt")
    (tmp_path / "d" / ".hidden.txt").write_text("x")
    (tmp_path / "d" / "image.png").write_text("x")
    source = opened(tmp_path / "d", tmp_path)
    assert len(trained(source)) == len(set(trained(source)))
    left_out = dict(source.facts)["left out"]
    for words in ("2 links to folders", "1 pipes or devices", "1 hidden", "1 of .png"):
        assert words in left_out


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ({"body": {"inner": "x"}, "n": 1}, "text", "text stands in body.inner"),
        ({"text": {"inner": "x"}}, "text", "holds an object, not text.*data.column=text.inner"),
        ({"text": ["a", "b"]}, "text", "holds a list of 2 values"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages", "holds a list of 1 value"),
        ({"text": 3}, "text", "holds a number"),
        ({"text": None}, "text", "has no text in 'text'"),
    ],
)
def test_rows_without_a_text_are_named(tmp_path, row, column, words):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(PlanError, match=words):
        opened(tmp_path, tmp_path / "c", column=column)
