"""The user's text, as users have it: folders, formats, duplicates, damage."""

import gzip
import json
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fit.errors import PlanError
from sweep.data.registry import describe, open_source
from sweep.data.text import find_files
from sweep.data.tokenizers import Bytes
from tests.sweep.data.builders import data_config

T = 32
WORDS = "the a fox owl saw ran glad over under river moon and then slept who lost found".split()


def prose(seed, words=120):
    draw = random.Random(seed)
    return f"Tale {seed}.\n" + " ".join(draw.choices(WORDS, k=words)) + ".\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my texts"
    (root / "sub").mkdir(parents=True)
    for number in range(40):
        (root / "sub" / f"{number}.txt").write_text(prose(number))
    return root


def config(folder, **given):
    return data_config("text", folder.parent, **{"path": str(folder), **given})


def opened(folder, **given):
    return open_source(config(folder, **given), seq_len=T, seed=0)


def decoded(rows):
    return [Bytes().decode(row.tolist()).decode() for row in rows]


def everything(source):
    return "".join(decoded(source.train(0, source.info.unique_tokens // T)))


def test_bytes_are_the_text_and_both_sides_share_no_document(folder):
    source = opened(folder)
    train, heldout = everything(source), "".join(decoded(source.heldout().rows))
    assert source.vocab == 257
    shares = [{n for n in range(40) if f"Tale {n}." in side} for side in (train, heldout)]
    assert shares[0] and shares[1] and not shares[0] & shares[1]


def test_training_tokens_are_the_files_less_the_held_out(folder):
    source = opened(folder)
    total = sum(len(f.read_bytes()) + 1 for f in folder.rglob("*.txt"))
    longest = max(len(f.read_bytes()) + 1 for f in folder.rglob("*.txt"))
    rows_end = total - 512 - source.info.unique_tokens
    assert 0 <= rows_end <= longest + T


def test_bytes_per_token_is_exact_on_the_held_out_rows(folder):
    rows = opened(folder).heldout().rows[:, 1:]
    assert opened(folder).info.bytes_per_token == (rows != 256).mean()
    bpe = opened(folder, tokenizer="bpe")
    assert bpe.vocab == 300
    assert 1.5 < bpe.info.bytes_per_token < 6


def test_a_copy_of_a_file_changes_nothing_and_leaks_nothing(folder):
    before = opened(folder)
    for number in range(0, 40, 3):
        (folder / f"copy of {number}.txt").write_text(prose(number))
        with gzip.open(folder / f"{number}.md.gz", "wt") as stream:
            stream.write(prose(number))
    after = opened(folder)
    assert after.info.unique_tokens == before.info.unique_tokens
    assert sorted(decoded(after.heldout().rows)) != []
    lines = {n for n in range(40) if f"Tale {n}." in "".join(decoded(after.heldout().rows))}
    assert not any(f"Tale {n}.\n" in everything(after) for n in lines)


def test_every_format_gives_the_same_documents(folder, tmp_path):
    texts = [prose(n) for n in range(40)]
    for name in ("lines", "table", "zipped", "packed"):
        (tmp_path / name).mkdir()
    rows = "".join(json.dumps({"text": t, "id": 1}) + "\n" for t in texts)
    (tmp_path / "lines/a.jsonl").write_text(rows + "\n")
    (tmp_path / "packed/a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    pd.DataFrame({"id": 1, "text": [*texts, None]}).to_parquet(tmp_path / "table/a.parquet")
    for number, text in enumerate(texts):
        packed = gzip.compress(b"\xef\xbb\xbf" * (number % 2) + text.encode())
        (tmp_path / "zipped" / f"{number:02d}.rst.gz").write_bytes(packed)
    (tmp_path / "wide").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "wide" / f"{number:02d}.TXT").write_bytes(text.encode("utf-16"))
    found = {name: opened(tmp_path / name).info for name in ("lines", "packed", "table", "zipped")}
    found["wide"] = opened(tmp_path / "wide", pattern="*.txt").info
    assert len({info.hash for info in found.values()}) == 1
    assert found["lines"].unique_tokens == found["table"].unique_tokens


def test_one_big_file_without_line_ends_is_split_in_blocks(tmp_path):
    path = tmp_path / "big"
    path.write_text(" ".join(prose(n, 2000).replace("\n", " ") for n in range(120)))
    assert path.stat().st_size > 1 << 20
    source = opened(path)
    assert source.info.unique_tokens == pytest.approx(path.stat().st_size - 512, abs=2 * T)


def test_pattern_chooses_and_leaves_out(folder):
    (folder / "notes.md").write_text(prose(99, 500))
    (folder / ".hidden.txt").write_text(prose(98, 500))
    assert "Tale 99" not in everything(opened(folder, pattern="**/*.txt"))
    texts = everything(opened(folder, pattern="**/*.txt | *.md ; !sub/1*.txt"))
    assert "Tale 99" in texts and "Tale 98" not in texts and "Tale 12." not in texts


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.txt", ["a.txt", "b/c.txt", "b/d/e.txt"]),
        ("*.txt", ["a.txt"]),
        ("b/**", ["b/c.txt", "b/d/e.txt", "b/f.MD"]),
        ("**/*.txt,!b/d/**", ["a.txt", "b/c.txt"]),
        ("./b/?.md", ["b/f.MD"]),
        ("**/d/*", ["b/d/e.txt"]),
    ],
)
def test_globs_mean_what_a_shell_means(tmp_path, pattern, expected):
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", "b/f.MD", ".git/x.txt", "b/.x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [
        f.relative_to(tmp_path).as_posix() for f in find_files(tmp_path, pattern).files
    ] == expected


def test_the_second_opening_tokenises_nothing(folder, monkeypatch):
    first = describe(config(folder, tokenizer="bpe"), T)
    monkeypatch.setattr("sweep.data.corpus._build", lambda *_: pytest.fail("tokenised again"))
    monkeypatch.setattr("sweep.data.text.examine_files", lambda *_: pytest.fail("read again"))
    assert describe(config(folder, tokenizer="bpe"), T) == first
    assert describe(config(folder, tokenizer="bpe", seed=1, heldout_tokens=300), T) != first


def test_a_changed_file_is_seen(folder):
    before = opened(folder).info
    (folder / "sub/0.txt").write_text(prose(77))
    assert opened(folder).info.hash != before.hash


@pytest.mark.slow
def test_eight_workers_at_once_tokenise_once_and_agree(folder):
    code = (
        "import sys; sys.stderr = sys.stdout;"
        "from tests.sweep.data.test_text import config, T; from pathlib import Path;"
        "from sweep.data.registry import describe; print(describe(config(Path(sys.argv[1])), T))"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    out = [job.communicate()[0].splitlines() for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 8
    assert len({lines[-1] for lines in out}) == 1
    assert sum("tokenising" in line for lines in out for line in lines) == 1


def test_an_interrupted_tokenisation_leaves_nothing_half_done(folder, monkeypatch):
    monkeypatch.setattr("sweep.data.corpus._CorpusWriter.close", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened(folder)
    monkeypatch.undo()
    cache = folder.parent / "cache" / "corpora"
    assert [p for p in cache.iterdir() if p.is_dir()] == []
    assert opened(folder).info.unique_tokens > 0


def test_a_damaged_cache_says_what_to_delete(folder):
    opened(folder)
    (shard,) = (folder.parent / "cache").rglob("00000.bin")
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(PlanError, match="lacks some of the .* tokens .*; delete the folder"):
        opened(folder)


def test_a_cache_that_cannot_be_written_is_named(folder):
    (folder.parent / "file").write_text("")
    with pytest.raises(PlanError, match="cannot keep tokenised data in .*data.cache=FOLDER"):
        opened(folder, cache=str(folder.parent / "file" / "x"))


@pytest.mark.parametrize(
    ("name", "content", "given", "message"),
    [
        ("x.txt", b"caf\xe9 noir", {}, "x.txt is not UTF-8 text"),
        ("x.gz", b"not gzip", {}, "x.gz is named .gz and is not compressed"),
        ("x.txt.gz", gzip.compress(b"words" * 99, mtime=0)[:-20], {}, "x.txt.gz cannot be read"),
        ("x.tar.gz", gzip.compress(b"words", mtime=0), {}, "x.tar.gz is an archive"),
        ("x.jsonl", b'{"text": "a"}\n{"body": "b"}\n', {}, "line 2 of .*x.jsonl"),
        ("x.jsonl", b"[1, 2]\n", {}, "line 1 of .* is a list of 2 values"),
        ("x.parquet", b"PAR1junk", {}, "not a readable parquet"),
        (
            "x.txt",
            b"a",
            {"pattern": "*.rst"},
            r"41 of \.txt\. Read those: 'data\.pattern=\*\*/\*\.txt'",
        ),
        ("x.txt", b"a", {"pattern": "/etc/*"}, "no file .* matches"),
        ("x.txt", b"a", {"pattern": " , "}, "no file .* matches"),
        ("x.txt", b"a", {"pattern": "**/*.txt !old/**"}, "excludes 'old/.*', which no file"),
        ("x.txt", b"a", {"tokenizer": "words"}, "'words' is unknown; known are bytes, bpe"),
        ("x.txt", b"a", {"tokenizer": "bpe", "vocab": 100}, "at least 258"),
        ("x.txt", b"a", {"heldout_tokens": 20_000}, "more than half; set data.heldout_tokens=2"),
    ],
)
def test_what_cannot_be_used_is_named(folder, name, content, given, message):
    (folder / name).write_bytes(content)
    with pytest.raises(PlanError, match=message):
        opened(folder, **given)


def test_a_parquet_without_the_column_lists_those_it_has(folder):
    pd.DataFrame({"body": ["x"], "n": [1]}).to_parquet(folder / "x.parquet")
    with pytest.raises(PlanError, match="no column 'text'; text stands in body"):
        opened(folder)
    with pytest.raises(PlanError, match="column 'n' of .* holds a number, not text"):
        opened(folder, column="n")


def test_files_without_any_text_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("")
    with pytest.raises(PlanError, match="and holds text; it holds 1 empty"):
        opened(tmp_path / "d")


def test_half_characters_of_json_become_question_marks(folder):
    lines = [json.dumps({"text": f"\ud83d {prose(n)}"}) for n in range(50)]
    (folder / "x.jsonl").write_text("\n".join(lines))
    assert "? Tale 4" in everything(opened(folder, pattern="*.jsonl"))


def test_order_and_caps_hold_on_text_too(folder):
    source = opened(folder, unique_tokens=T * 20)
    first, second = source.train(0, 20), source.train(20, 20)
    assert source.info.unique_tokens == 640
    assert sorted(decoded(first)) == sorted(decoded(second)) != decoded(first)
    assert np.array_equal(opened(folder, unique_tokens=T * 20).train(13, 20)[:7], first[13:])
