"""Token files as other programs write and break them: read as they were meant, or refused by name.

A case that is taken is compared token by token with what was written.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from sweep.data.registry import open_source
from tests.hostile.outcomes import Case, check_outcome
from tests.sweep.data.builders import data_config
from tests.sweep.data.token_writers import megatron, opened_tokens, with_header

pytestmark = pytest.mark.slow

COUNT = 40_000


def zipf(vocab: int, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Ids with the frequencies of a language: small ids are the common ones."""
    shares = 1 / (np.arange(vocab) + 2.7)
    return np.random.default_rng(seed).choice(vocab, size=count, p=shares / shares.sum())


def put(folder, name, content):
    path = folder / "d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        content = content.tobytes()
    path.write_bytes(content)
    return path


def opened(folder, path=None, **given):
    """Open the data; returns the source."""
    given = {"path": str(path or folder / "d"), **given}
    return open_source(data_config("tokens", folder, **given), seq_len=16, seed=0)


def reads(ids, **facts):
    """A check that the tokens are these, in this order, and other facts of the source."""

    def check(reply):
        source = reply.value
        train, heldout = opened_tokens(source)
        assert np.array_equal(np.concatenate([train, heldout]), ids)
        for name, value in facts.items():
            assert getattr(source, name) == value, (name, getattr(source, name))

    return check


def splits(train_ids, heldout_ids):
    """A check that these tokens are trained on and those held out."""

    def check(reply):
        train, heldout = opened_tokens(reply.value)
        assert np.array_equal(train, train_ids) and np.array_equal(heldout, heldout_ids)

    return check


def one(name, ids, content, file="a.bin", **given):
    """A single file that is taken."""

    def run(folder):
        put(folder, file, content)
        return opened(folder, **given)

    return Case(name=name, run=run, taken=reads(ids))


def refused(name, content, *words, file="a.bin", **given):
    """A single file that is refused."""

    def run(folder):
        put(folder, file, content)
        return opened(folder, **given)

    return Case(name=name, run=run, refused=words)


def many(name, files, *words, taken=None, **given):
    """Several files."""

    def run(folder):
        (folder / "d").mkdir()
        for file, content in files.items():
            put(folder, file, content)
        return opened(folder, **given)

    return Case(name=name, run=run, refused=words, taken=taken)


GPT2, LLAMA, CHARS, DNA = zipf(50257), zipf(128256), zipf(65), zipf(4)
U2, U4 = GPT2.astype("<u2"), LLAMA.astype("<u4")
TEXT = "the quick brown fox, and naïve café prose of a few lines.\n".encode() * 700


def raw_cases():
    """Widths, byte orders, vocabularies and names of raw files."""
    for ids, label in ((GPT2, "gpt2"), (CHARS, "chars"), (DNA, "dna"), (zipf(300), "300")):
        yield one(f"raw <u2 {label}", ids, ids.astype("<u2"))
    for ids, label in (
        (GPT2, "gpt2"),
        (LLAMA, "llama"),
        (zipf(262_144), "gemma"),
        (CHARS, "chars"),
    ):
        for dtype in ("<u4", ">u4", "<i8", ">i8"):
            yield one(f"raw {dtype} {label}", ids, ids.astype(dtype))
    yield one("raw >u2 chars", CHARS, CHARS.astype(">u2"))
    yield refused("raw >u2 gpt2", GPT2.astype(">u2"), "big-endian", "data.byte_order")
    said = {"dtype": "uint16", "byte_order": "big"}
    yield one("raw >u2 gpt2, said", GPT2, GPT2.astype(">u2"), **said)
    for file in ("part-000.npy", "00000_shuffled.ds"):
        yield one(f"raw <u2 named {file}", GPT2, U2, file=file)
        yield one(f"raw <u4 named {file}", LLAMA, U4, file=file)
    yield refused("a byte too many, u2", U2.tobytes() + b"x", "1 bytes", "cut")
    yield refused("two bytes too few, u4", U4.tobytes()[:-2], "2 bytes", "cut")
    yield refused("half of an i8", LLAMA.astype("<i8").tobytes()[:-4], "4 bytes", "cut")
    yield refused("empty", b"", "is empty")
    yield refused("one byte", b"x", "cut")
    yield refused("zeros", bytes(80_000), "zeros only")
    yield refused("constant", np.full(COUNT, 7, "<u2"), "all 40000 tokens", "are 7")
    ids = zipf(50257).astype("<i4")
    ids[::500] = -1
    yield refused("-1 as padding, i4", ids, "4294967295", "data.dtype")
    masked = np.where(np.arange(COUNT) % 5 < 2, -1, GPT2).astype("<i4")
    yield refused("-1 on two of five, i4", masked, "data.dtype")
    yield refused("-1 on two of five, i4, said", masked, "token -1", dtype="int32")
    uniform = np.random.default_rng(0).integers(0, 50257, COUNT)
    yield one("uniform ids", uniform, uniform.astype("<u2"))
    yield refused("-100 as padding, i8", np.where(ids < 0, -100, ids).astype("<i8"), "-100")
    ids = LLAMA.astype("<u4")
    ids[12_345] = 3_000_000_000
    yield refused("one damaged id", ids, "3000000000", "beyond any vocabulary")
    yield one("mostly padding", GPT2 * (np.arange(COUNT) < 9000), U2 * (np.arange(COUNT) < 9000))


def npy_cases():
    """Real .npy files of every type and shape."""

    def saved(array):
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    for dtype in ("<u2", "<i4", "<u4", "<i8", "<u8", ">u2", ">i4", ">i8"):
        yield one(f"npy {dtype}", GPT2, saved(GPT2.astype(dtype)), file="a.npy")
    yield one("npy u1", CHARS, saved(CHARS.astype("u1")), file="a.npy")
    yield one("npy named .bin", GPT2, saved(U2))
    for dtype in ("f2", "f4", "f8", "c8", "?", "M8[s]"):
        array = (GPT2 % 2000).astype("i8").astype(dtype)
        yield refused(f"npy {dtype}", saved(array), "integers is needed", file="a.npy")
    square = saved(U2.reshape(200, 200))
    yield refused("npy of rows", square, "(200, 200)", "reshape(-1)", file="a.npy")
    yield refused("npy of a scalar", saved(np.array(5)), "one-dimensional", file="a.npy")
    yield refused("npy of nothing", saved(U2[:0]), "empty", file="a.npy")
    yield refused("npy cut", saved(U2)[:-100], "not a readable .npy", file="a.npy")
    yield refused("npy cut in its header", saved(U2)[:40], "not a readable .npy", file="a.npy")
    buffer = io.BytesIO()
    np.save(buffer, np.array([[1], [2, 3]], dtype=object), allow_pickle=True)
    yield refused("npy of objects", buffer.getvalue(), "not a readable .npy", file="a.npy")
    record = np.zeros(3000, dtype=[("a", "u2"), ("b", "u2")])
    yield refused("npy of records", saved(record), "integers is needed", file="a.npy")
    given = {"file": "a.npy", "dtype": "uint32"}
    yield refused("npy and another dtype", saved(U2), "data.dtype=uint32", "leave", **given)
    given = {"file": "a.npy", "byte_order": "big"}
    yield refused("npy and a byte order", saved(U2), "data.byte_order=big", **given)
    buffer = io.BytesIO()
    np.savez(buffer, ids=U2)
    yield refused("npz", buffer.getvalue(), "zip archive", file="a.npy")


def header_cases():
    """Headers of llm.c and modded-nanogpt, and unknown ones."""
    good = with_header(U2, 20240520, 1)
    yield one("llm.c uint16", GPT2, good)
    yield one("llm.c uint32", LLAMA, with_header(U4, 20240801, 7))
    yield one("llm.c big-endian", GPT2, with_header(GPT2.astype(">u2"), 20240520, 1, order=">"))
    yield refused("llm.c cut", good[:-10], "39995 uint16 tokens", "40000 by its header")
    yield refused("llm.c with more", good + bytes(2), "40001 uint16 tokens", "40000 by its header")
    yield refused("llm.c without tokens", good[:1024], "no tokens")
    yield refused("llm.c other version", with_header(U2, 20240520, 3), "version 3", "header_bytes")
    said = {"dtype": "uint16", "header_bytes": 1024}
    yield one("llm.c other version, said", GPT2, with_header(U2, 20240520, 3), **said)
    yield refused("llm.c evaluation", with_header(U2, 20240522, 1), "evaluation examples")
    yield refused("llm.c model", with_header(U2, 20240326, 3), "a model of llm.c")
    yield refused("llm.c tokenizer", with_header(U2, 20240328, 2), "a tokenizer of llm.c")
    wide = with_header(U4, 20240520, 1)
    yield refused("uint32 under a uint16 header", wide, "80000 uint16", "data.dtype")
    yield one("uint32 under a uint16 header, said", LLAMA, wide, dtype="uint32")
    lying = with_header(U4, 20240520, 1, count=2 * COUNT)
    yield refused("a header that counts halves", lying, "its bytes are those of uint32")
    yield refused("unknown header", with_header(U2, 777, 1), "unknown header", "data.header_bytes")
    yield one("unknown header, said", GPT2, with_header(U2, 777, 1), header_bytes=1024)
    yield one("a header of 6 bytes, said", GPT2, b"MYHEAD" + U2.tobytes(), header_bytes=6)
    yield refused("header_bytes too long", U2, "no tokens behind", header_bytes=1 << 20)
    yield refused("header_bytes negative", U2, "data.header_bytes=-1", header_bytes=-1)


def megatron_cases():
    """A .bin and an .idx."""
    for ids, dtype in (
        (GPT2, "u2"),
        (LLAMA, "i4"),
        (LLAMA, "i8"),
        (zipf(30_000), "i2"),
        (CHARS, "u1"),
    ):
        files = megatron("my_text_document", ids, dtype)
        yield many(f"Megatron {dtype}", files, taken=reads(ids))
    good = megatron("x", GPT2, "u2")
    two = megatron("x", GPT2, "u2") | megatron("y", GPT2[::-1], "u2")
    yield many("Megatron of two files", two, taken=reads(np.concatenate([GPT2, GPT2[::-1]])))
    yield many("Megatron .bin cut", good | {"x.bin": good["x.bin"][:-8]}, "79992 bytes", "40000")
    yield many("Megatron .bin longer", good | {"x.bin": good["x.bin"] + b"12"}, "80002 bytes")
    yield many("Megatron .idx cut", good | {"x.idx": good["x.idx"][:-50]}, "x.idx", "cut")
    yield many("Megatron .idx of 20 bytes", good | {"x.idx": good["x.idx"][:20]}, "x.idx", "cut")
    yield many("Megatron .idx empty", good | {"x.idx": b""}, "x.idx", "cut")
    old = b"TNTIDX\x00\x00" + bytes(100)
    yield many("Megatron .idx of the old kind", good | {"x.idx": old}, "old kind", "mmap")
    yield many("an .idx of something else", good | {"x.idx": b"PACK" * 50}, "not an index")
    beside = good | {"x.idx": b"PACK" * 50}
    yield many("... and header_bytes=0", beside, taken=reads(GPT2), header_bytes=0)
    yield many("Megatron .idx alone", {"x.idx": good["x.idx"]}, "without its .bin")
    version = bytearray(good["x.idx"])
    version[9] = 2
    yield many("Megatron version 2", good | {"x.idx": bytes(version)}, "version 2")
    code = bytearray(good["x.idx"])
    code[17] = 7
    yield many("Megatron of floats", good | {"x.idx": bytes(code)}, "type 7", "no integer")
    yield many("Megatron with gaps", megatron("x", GPT2, "u2", gap=True), "gaps or overlap")
    lying = megatron("x", np.repeat(GPT2, 2), "u2") | {"x.bin": U4.tobytes()}
    yield many("Megatron that says uint16 of uint32", lying, "uint16 by x.idx", "uint32")
    cached = {"x_shuffle_idx.npy": with_npy(np.arange(900))}
    yield many("Megatron and its cache", good | cached, "of one kind")
    yield many("Megatron and another dtype", good, "data.dtype=uint32", dtype="uint32")

    def index_itself(folder):
        for name, content in good.items():
            put(folder, name, content)
        return opened(folder, folder / "d/x.idx")

    def prefix(folder):
        for name, content in good.items():
            put(folder, name, content)
        return opened(folder, folder / "d/x")

    yield Case(name="data.path=x.idx", run=index_itself, refused=("an index", "x.bin"))
    yield Case(name="data.path=x", run=prefix, refused=("did you mean", "x.bin"))


def with_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def foreign_cases():
    """What else is called .bin."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 5000)
    tape = io.BytesIO()
    with tarfile.open(fileobj=tape, mode="w") as archive:
        info = tarfile.TarInfo("a.bin")
        info.size = len(U2.tobytes())
        archive.addfile(info, io.BytesIO(U2.tobytes()))
    tensors = json.dumps({"w": {"dtype": "F32", "shape": [9000], "data_offsets": [0, 36000]}})
    weights = len(tensors).to_bytes(8, "little") + tensors.encode() + bytes(36_000)
    torch_magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(9000)
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name, content, words in (
        ("gzip", gzip.compress(U2.tobytes()), "gzip"),
        ("zstd", b"\x28\xb5\x2f\xfd" + U2.tobytes(), "zstd"),
        ("xz", lzma.compress(U2.tobytes()), "xz"),
        ("bzip2", bz2.compress(U2.tobytes()), "bzip2"),
        ("zip", packed.getvalue(), "zip archive"),
        ("tar", tape.getvalue(), "tar archive"),
        ("weights of PyTorch", torch_magic, "weights of PyTorch"),
        ("pickle 4", pickle.dumps(list(range(9000)), 4), "pickle"),
        ("pickle 5", pickle.dumps({"ids": U2}, 5), "pickle"),
        ("safetensors", weights, "safetensors"),
        ("gguf", b"GGUF\x03\0\0\0" + bytes(range(256)) * 40, "GGUF"),
        ("parquet", b"PAR1" + bytes(range(256)) * 40, "parquet"),
        ("arrow", b"ARROW1\0\0" + bytes(range(256)) * 40, "Arrow"),
        ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(9000), "HDF5"),
        ("sqlite", b"SQLite format 3\0" + bytes(9000), "SQLite"),
        ("a program", b"\x7fELF" + bytes(9000), "a program"),
        ("git-lfs", lfs, "git lfs pull"),
        ("text", TEXT, "is text"),
        ("short text", TEXT[:118], "is text"),
        ("JSON", json.dumps(GPT2[:5000].tolist()).encode(), "is text"),
        ("csv of ids", "\n".join(map(str, GPT2)).encode(), "is text"),
        ("text in Latin-1", TEXT.decode().encode("latin-1"), "is text"),
        ("text in UTF-16", TEXT.decode().encode("utf-16"), "UTF-16"),
        ("HTML of an error page", b"<!DOCTYPE html><html>404 not found</html>" * 90, "is text"),
        ("random bytes", np.random.default_rng(0).bytes(90_000), "without structure"),
        ("float32", np.random.default_rng(0).normal(size=COUNT).astype("<f4"), "floating-point"),
        ("float16", np.random.default_rng(0).normal(size=COUNT).astype("<f2"), "floating-point"),
        ("float64", np.random.default_rng(0).normal(size=COUNT).astype("<f8"), "floating-point"),
    ):
        yield refused(f"{name} named .bin", content, words)
    yield one("bytes, said", np.frombuffer(TEXT, "u1"), TEXT, dtype="uint8")


def litdata(ids, items):
    """A chunk as litdata writes it."""
    length = len(ids) // items
    offsets = 4 + 4 * (items + 1) + 4 * length * np.arange(items + 1)
    return np.uint32(items).tobytes() + offsets.astype("<u4").tobytes() + ids.tobytes()


def litdata_cases():
    """Chunks of litdata, whole and otherwise."""
    chunk = litdata(LLAMA.astype("<i4"), 20)
    index = b'{"chunks": [{"filename": "chunk-0-0.bin"}], "config": {"data_format": ["int"]}}'
    whole = {"chunk-0-0.bin": chunk, "index.json": index}
    yield many("litdata", whole, "a chunk of litdata", "20 items")
    yield refused("litdata renamed", chunk, "a chunk of litdata", file="train.bin")
    cut = {"chunk-0-0.bin": chunk[:-8], "index.json": index}
    yield many("litdata cut", cut, "a chunk of litdata", "cut or compressed")
    packed = {"chunk-0-0.zstd.bin": b"\x28\xb5\x2f\xfd" + chunk, "index.json": index}
    yield many("litdata compressed", packed, "zstd")


class Evil:
    """A pickle of it would run a command."""

    def __reduce__(self):
        return (os.system, ("touch pwned",))


def meta_cases():
    """meta.json, meta.pkl and data.vocab."""

    def beside(name, content):
        return {"train.bin": U2[:30_000], "val.bin": U2[30_000:], name: content}

    def vocab_is(vocab):
        def check(reply):
            assert reply.value.vocab == vocab

        return check

    def chars(meta):
        return {"train.bin": CHARS.astype("<u2"), "meta.pkl": meta}

    nanogpt = {"vocab_size": 70, "itos": {0: "a"}, "stoi": {"a": 0}}
    yield many("meta.pkl", chars(pickle.dumps(nanogpt)), taken=vocab_is(70))
    yield many("meta.pkl, old", chars(pickle.dumps(nanogpt, 0)), taken=vocab_is(70))
    wrong = "without running code"
    yield many("meta.pkl that runs code", chars(pickle.dumps(Evil())), wrong, "posix.system")
    numbers = pickle.dumps({"vocab_size": np.int64(70)})
    yield many("meta.pkl of numpy", chars(numbers), wrong, "data.vocab")
    yield many("meta.pkl, said", chars(numbers), taken=vocab_is(80), vocab=80)
    yield many("meta.pkl cut", chars(pickle.dumps(nanogpt)[:-5]), wrong)
    yield many("meta.pkl of a list", chars(pickle.dumps([1, 2])), wrong)
    yield many("meta.pkl without a size", chars(pickle.dumps({"itos": {}})), wrong, "vocab_size")
    yield many("meta.pkl too small", chars(pickle.dumps({"vocab_size": 9})), "outside", "meta.pkl")
    yield many("meta.pkl of text", chars(pickle.dumps({"vocab_size": "65"})), wrong)
    yield many("meta.json says uint32", beside("meta.json", b'{"dtype": "uint32"}'), "meta.json")
    lying = {"train.bin": U4, "meta.json": b'{"dtype": "uint16"}'}
    yield many("meta.json says uint16 of uint32", lying, "uint16 by meta.json", "uint32")
    yield many("meta.json says float", beside("meta.json", b'{"dtype": "float"}'), "known are")
    yield many("meta.json vocab", beside("meta.json", b'{"vocab": 50304}'), taken=vocab_is(50304))
    yield many("meta.json vocab too small", beside("meta.json", b'{"vocab": 300}'), "outside")
    yield many("meta.json vocab true", beside("meta.json", b'{"vocab": true}'), "vocab True")
    yield many("meta.json cut", beside("meta.json", b'{"vocab": 503'), "not a JSON object")
    yield many("meta.json in UTF-16", beside("meta.json", "{}".encode("utf-16")), "not a JSON")
    yield many("data.vocab", {"a.bin": U2}, taken=vocab_is(50304), vocab=50304)
    yield many("data.vocab too small", {"a.bin": U2}, "outside", "data.vocab", vocab=1024)
    yield many("data.vocab negative", {"a.bin": U2}, "data.vocab=-1", vocab=-1)
    yield many("no vocabulary said", {"a.bin": U2}, taken=vocab_is(int(GPT2.max()) + 1))
    yield many("data.dtype=float", {"a.bin": U2}, "known are uint8", dtype="float32")
    yield many("data.byte_order=middle", {"a.bin": U2}, "known are little", byte_order="middle")


def folder_cases():
    """What stands beside the tokens."""
    a, b, c = U2[:20_000], U2[20_000:30_000], U2[30_000:]
    yield many("mixed widths", {"a.bin": U2, "b.bin": U4}, "a.bin", "b.bin", "of one kind")
    mixed = {"a.bin": U2, "b.bin": with_header(U2[::-1], 20240520, 1)}
    yield many("a header on one file alone", mixed, "of one kind")
    small = {"a.bin": U4, "b.bin": U4[:40]}
    yield many("a small file follows", small, taken=reads(np.concatenate([LLAMA, LLAMA[:40]])))
    yield many("a copy", {"a.bin": U2, "a (1).bin": U2}, "same tokens")
    yield many("a compressed part", {"a.bin": a, "b.bin.zst": b"x" * 99}, "b.bin.zst", "unpack")
    yield many("no file", {"readme.md": b"x"}, "no .bin, .npy or .ds", "1 of .md")
    yield many("an empty file among others", {"a.bin": a, "b.bin": b""}, "b.bin", "is empty")
    hidden = {"a.bin": U2, "._a.bin": b"\0\5\x16\7junk", ".cache/x.bin": b"x"}
    yield many("hidden files", hidden, taken=reads(GPT2))
    for name in ("val", "valid", "validation", "dev", "eval", "heldout"):
        for file in (f"{name}.bin", f"{name}/0.bin", f"fineweb_{name}_000000.bin"):
            files = {"train.bin": a, file: b}
            yield many(f"{file} is held out", files, taken=splits(a, b))
    files = {"train.bin": a, "val.bin": b, "test.bin": c}
    yield many("test is left out", files, taken=splits(a, b))
    yield many("test alone is held out", {"train/0.bin": a, "test/0.bin": c}, taken=splits(a, c))
    yield many("nothing to train on", {"val.bin": b, "test.bin": c}, "nothing is left to train on")
    files = {"test_run/train.bin": a, "test_run/val.bin": b}
    yield many("a folder test_run", files, taken=splits(a, b))

    def links(make, **kind):
        def run(folder):
            put(folder, "a.bin", U2)
            make(folder)
            return opened(folder)

        return {"run": run, **kind}

    def broken(folder):
        (folder / "d/b.bin").symlink_to(folder / "gone.bin")

    def cycle(folder):
        (folder / "d/again").symlink_to(folder / "d")

    def twice(folder):
        (folder / "d/b.bin").symlink_to(folder / "d/a.bin")

    def elsewhere(folder):
        (folder / "far").mkdir()
        (folder / "far/b.bin").write_bytes(U2[::-1].tobytes())
        (folder / "d/more").symlink_to(folder / "far")

    both = np.concatenate([GPT2, GPT2[::-1]])
    yield Case(name="a broken link", **links(broken, refused=("b.bin", "does not exist")))
    yield Case(name="a cycle of links", **links(cycle, taken=reads(GPT2)))
    yield Case(name="a link to a file beside it", **links(twice, taken=reads(GPT2)))
    yield Case(name="a linked folder", **links(elsewhere, taken=reads(both)))
    yield many("too little", {"a.bin": U2[:600]}, "would take more than half")


CASES = [
    case
    for cases in (
        raw_cases,
        npy_cases,
        header_cases,
        megatron_cases,
        foreign_cases,
        litdata_cases,
        meta_cases,
        folder_cases,
    )
    for case in cases()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_token_files_are_read_as_they_were_meant_or_refused_by_name(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_outcome(case, tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_there_are_many_cases():
    assert len(CASES) >= 70 and len({case.name for case in CASES}) == len(CASES)
