"""Texts as people have them: containers, compressions, encodings, nesting, damage, names."""

import gzip
import json
import random

import pytest

from sweep.data.registry import open_source
from tests.hostile.outcomes import Case, check_outcome
from tests.sweep.data.builders import data_config
from tests.sweep.data.text_writers import COMPRESSIONS, CONTAINERS, compressed, contained

T = 32
DRAW = random.Random(11)
WORDS = "fox owl moon river café naïve Größe — “so” слово 語 glad then".split()
TEXTS = [f"<{n}> " + " ".join(DRAW.choices(WORDS, k=60)) for n in range(40)]
TOTAL = sum(len(text.encode()) + 1 for text in TEXTS)
ROWS = [{"text": text} for text in TEXTS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def source(folder, **given):
    config = data_config("text", folder / "cache", **{"path": str(folder / "d"), **given})
    return open_source(config, seq_len=T, seed=0)


def files(contents, **given):
    """Offers files by name and content."""

    def run(folder):
        for name, content in contents.items():
            path = folder / "d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return source(folder, **given)

    return run


def tokens(total=TOTAL):
    """All documents are read: the training tokens and the held-out ones make up the total."""

    def check(reply):
        corpus = reply.value._corpus
        assert len(corpus.train) + len(corpus.heldout) <= total
        whole = sum(len(shard) for shard in corpus.train.shards)
        assert whole == total, (whole, total)

    return check


def stream(kind):
    return contained(["\n".join(TEXTS)] if kind == "txt" else TEXTS, kind)


def cases():
    for kind in CONTAINERS:
        for packing in COMPRESSIONS:
            name = ".".join(["a", kind, *([packing] if packing else [])])
            content = compressed(stream(kind), packing)
            yield Case(name=f"good {name}", run=files({name: content}), taken=tokens())
            if packing:
                yield Case(
                    name=f"cut {name}",
                    run=files({name: content[: len(content) // 2]}),
                    refused=(name, "cannot be read"),
                )
                lying = f"a.{kind}"
                if kind != "parquet":
                    yield Case(
                        name=f"{packing} under {lying}",
                        run=files({lying: content}),
                        taken=tokens(),
                    )
                yield Case(
                    name=f"plain under {name}",
                    run=files({name: stream(kind)}),
                    refused=(name, f"is named .{packing} and is not compressed"),
                )
    text = "\n".join(TEXTS)
    for codec in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        yield Case(
            name=f"text in {codec}", run=files({"a.txt": text.encode(codec)}), taken=tokens()
        )
        yield Case(
            name=f"lines in {codec}", run=files({"a.jsonl": LINES.encode(codec)}), taken=tokens()
        )
    english = text.encode("ascii", "ignore").decode()
    for codec in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield Case(
            name=f"English in {codec} without a mark",
            run=files({"a.txt": english.encode(codec)}),
            taken=tokens(len(english) + 1),
        )
    western = "café naïve Größe " * 200
    for codec in ("latin-1", "cp1252", "cp1250"):
        content = western.encode(codec, "ignore")
        yield Case(
            name=f"{codec} unnamed",
            run=files({"a.txt": content}),
            refused=("not UTF-8", "data.encoding"),
        )
        yield Case(
            name=f"{codec} named",
            run=files({"a.txt": content}, encoding=codec),
            taken=tokens(len(content.decode(codec).encode()) + 1),
        )
    yield Case(
        name="an encoding nobody knows",
        run=files({"a.txt": western}, encoding="klingon"),
        refused=("data.encoding=klingon is unknown",),
    )
    yield Case(
        name="encoded twice",
        run=files({"a.txt": western.encode().decode("latin-1")}),
        refused=("encoded twice",),
    )
    for name, content, words in (
        ("zeros", b"\x00" * 5000, "zero bytes"),
        ("a zero in a text", text.encode()[:3000] + b"\x00" + text.encode(), "zero bytes"),
        ("a late zero byte", b"x" * 100_000 + b"\xff\xfe\x00", "cannot be decoded"),
        ("a PDF", b"%PDF-1.7\n" + b"x" * 5000, "a PDF"),
        ("a PNG", b"\x89PNG\r\n" + b"x" * 5000, "an image"),
        ("a zip", b"PK\x03\x04" + b"x" * 5000, "zip archive"),
        ("a pickle", b"\x80\x04\x95" + b"x" * 5000, "a Python pickle"),
        ("weights", b"GGUF" + b"x" * 5000, "GGUF"),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1\n" * 90, "git lfs pull"),
        ("an Arrow file", b"ARROW1" + b"x" * 5000, "Arrow"),
        ("a database", b"SQLite format 3\x00" + b"x" * 5000, "SQLite"),
        ("a tar", b"x" * 257 + b"ustar" + b"x" * 5000, "tar archive"),
    ):
        yield Case(name=name, run=files({"a.txt": content}), refused=("a.txt", words))
        yield Case(
            name=f"{name}, packed",
            run=files({"a.txt.gz": gzip.compress(content)}),
            refused=("a.txt.gz", words),
        )
    for name in ("a.tar.gz", "a.tgz.gz", "a.zip.xz"):
        packing = name.rsplit(".", 1)[1]
        yield Case(
            name=name, run=files({name: compressed(b"x" * 5000, packing)}), refused=("archive",)
        )
    for name, content, words in (
        ("an object alone", json.dumps({"data": ROWS}), "has no column 'text'"),
        ("texts as an array", json.dumps(TEXTS), "a string, not an object"),
        ("an empty array", "[]", "has no text in"),
        ("an array that was cut", json.dumps(ROWS)[:-9], "is not JSON"),
        ("numbers", "[1, 2]", "a number, not an object"),
        ("deep nesting", "[" * 100_000, "is not JSON"),
    ):
        yield Case(name=name, run=files({"a.json": content}), refused=("a.json", words))
    for name, line, words in (
        ("a broken line", '{"text": "x"', "line 41"),
        ("a line of text", "so it was", "line 41"),
        ("a list", '["x"]', "a list of 1 value"),
        ("another column", '{"body": "x"}', "text stands in body"),
        ("a nested column", '{"a": {"b": "x"}}', "a.b"),
        ("an object as text", '{"text": {"b": "x"}}', "data.column=text.b"),
        ("chat", '{"text": [{"role": "user"}]}', "a list of 1 value"),
        ("a number as text", '{"text": 3}', "a number"),
    ):
        yield Case(name=name, run=files({"a.jsonl": LINES + line}), refused=("a.jsonl", words))
    nested = "".join(json.dumps({"a": {"b": text}}) + "\n" for text in TEXTS)
    yield Case(name="a.b", run=files({"a.jsonl": nested}, column="a.b"), taken=tokens())
    yield Case(name="nulls", run=files({"a.jsonl": LINES + '{"text": null}\n' * 5}), taken=tokens())
    table = contained(TEXTS, "csv").decode()
    yield Case(name="semicolons", run=files({"a.csv": table.replace(",", ";")}), taken=tokens())
    yield Case(
        name="a row too long", run=files({"a.csv": table + "1,x,y\r\n"}), refused=("3 fields",)
    )
    yield Case(
        name="a column twice",
        run=files({"a.csv": "text,text\r\na,b\r\n"}),
        refused=("the column 'text' twice",),
    )
    yield Case(name="a header alone", run=files({"a.csv": "id,text\r\n"}), refused=("has no text",))
    yield Case(
        name="no header", run=files({"a.csv": "1,some text\r\n" * 99}), refused=("has no column",)
    )
    yield Case(
        name="parquet that is none",
        run=files({"a.parquet": b"x" * 500}),
        refused=("not a readable parquet",),
    )
    plain = "\n".join(TEXTS)
    other = {"train": plain, "valid": plain.replace("<", "[")}
    for train, valid in (
        ("train.txt", "val.txt"),
        ("train.txt", "valid/a.txt"),
        ("x/train/a.txt", "x/dev/a.txt"),
        ("a.txt", "a.validation.txt"),
        ("a.txt", "heldout/b.txt"),
        ("train.md", "eval.rst"),
        ("latest.txt", "test/b.txt"),
    ):
        yield Case(
            name=f"{valid} beside {train}",
            run=files({train: other["train"], valid: other["valid"]}),
            taken=lambda reply: _apart(reply.value),
        )
        yield Case(
            name=f"{valid} alone", run=files({valid: plain}), refused=("nothing is left to train",)
        )
        yield Case(
            name=f"{valid} alone, meant",
            run=files({valid: plain}, splits="none"),
            taken=tokens(),
        )
    for name, content, words in (
        ("JSON lines under .txt", LINES, "name it .jsonl"),
        ("HTML under .txt", "<!DOCTYPE html><p>x" + plain, "markup"),
        ("RTF under .md", "{\\rtf1 " + plain, "markup"),
    ):
        suffix = "md" if ".md" in name else "txt"
        yield Case(name=name, run=files({f"a.{suffix}": content}), refused=(f"a.{suffix}", words))
    for codec in ("rot13", "base64", "hex"):
        yield Case(
            name=f"{codec} as an encoding",
            run=files({"a.txt": b"caf\xe9 " * 900}, encoding=codec),
            refused=(f"data.encoding={codec} is unknown",),
        )
    for name, content in (("zeros", b"\x00" * 5000), ("a binary", bytes(range(256)) * 90)):
        yield Case(
            name=f"{name} as latin-1",
            run=files({"a.txt": content}, encoding="latin-1"),
            refused=("a.txt", "zero bytes"),
        )
    yield Case(
        name="a bomb as latin-1",
        run=files({"a.txt.gz": gzip.compress(b"\xe9" * (1 << 25))}, encoding="latin-1"),
        refused=("a.txt.gz", "more than 1000 times"),
    )
    yield Case(
        name="an open quote",
        run=files({"a.csv": 'id,text\r\n1,"' + "so it was\r\n" * 500}),
        refused=("a.csv", "cannot be read"),
    )
    yield Case(
        name="a bomb",
        run=files({"a.txt.gz": gzip.compress(b" " * (1 << 25))}),
        refused=("a.txt.gz", "more than 1000 times"),
    )
    yield Case(
        name="copies of what is held out",
        run=files({"train.jsonl": LINES, "valid.jsonl": LINES}),
        refused=("0 tokens", "data.splits=none"),
    )
    yield Case(
        name="files of tokens as text",
        run=files({"wiki.train.tokens": plain, "wiki.test.tokens": plain.replace("<", "[")}),
        taken=lambda reply: _apart(reply.value),
    )
    yield Case(name="no files", run=files({"x/.hidden.txt": plain}), refused=("no file below",))
    yield Case(name="empty files", run=files({"a.txt": ""}), refused=("no file below", "empty"))
    yield Case(
        name="another suffix", run=files({"a.docx": plain}), refused=("1 of .docx", "data.pattern")
    )


def _apart(opened):
    """The held-out file is not trained on: its tags have another bracket."""
    count = opened.info.unique_tokens // T
    assert not (opened.train(0, count) == ord("[")).any()
    assert (opened.heldout().rows == ord("[")).any()
    assert not (opened.heldout().rows == ord("<")).any()


CASES = list(cases())


def test_there_are_enough_cases():
    assert len(CASES) >= 90
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_text_is_read_as_it_is_meant_or_refused(case, tmp_path):
    check_outcome(case, tmp_path)
