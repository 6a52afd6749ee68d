"""What token files hold is found by content, held against what is said of them, or refused."""

import pickle

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.registry import open_source
from tests.sweep.data.builders import data_config
from tests.sweep.data.token_writers import megatron, opened_tokens, with_header

T = 16


def zipf(vocab, count=20_000):
    shares = 1 / (np.arange(vocab) + 2.7)
    return np.random.default_rng(0).choice(vocab, size=count, p=shares / shares.sum())


GPT2, LLAMA, CHARS = zipf(50257), zipf(128256), zipf(65)


def opened(tmp_path, files, **given):
    (tmp_path / "d").mkdir(exist_ok=True)
    for name, content in files.items():
        (tmp_path / "d" / name).write_bytes(
            content.tobytes() if isinstance(content, np.ndarray) else content
        )
    config = data_config("tokens", tmp_path, path=str(tmp_path / "d"), **given)
    return open_source(config, seq_len=T, seed=0)


@pytest.mark.parametrize(
    ("ids", "files", "words"),
    [
        (GPT2, {"a.bin": GPT2.astype("<u2")}, "1 file of raw uint16, little-endian, no header"),
        (LLAMA, {"a.bin": LLAMA.astype("<u4")}, "1 file of raw uint32, little-endian, no header"),
        (GPT2, {"a.bin": GPT2.astype("<u4")}, "1 file of raw uint32, little-endian, no header"),
        (LLAMA, {"a.bin": LLAMA.astype("<i8")}, "1 file of raw int64, little-endian, no header"),
        (LLAMA, {"a.bin": LLAMA.astype(">u4")}, "1 file of raw uint32, big-endian, no header"),
        (CHARS, {"a.bin": CHARS.astype(">u2")}, "1 file of raw uint16, big-endian, no header"),
        (
            LLAMA,
            {"part-0.npy": LLAMA.astype("<u4")},
            "1 file of raw uint32, little-endian, no header",
        ),
        (
            GPT2,
            {"a.bin": with_header(GPT2.astype("<u2"), 20240520, 1)},
            "1 file of llm.c uint16, little-endian, header of 1024 bytes",
        ),
        (LLAMA, megatron("a", LLAMA, "i4"), "1 file of Megatron int32, little-endian"),
    ],
)
def test_width_order_and_header_are_found_by_content(tmp_path, ids, files, words):
    source = opened(tmp_path, files)
    assert np.array_equal(np.concatenate(opened_tokens(source)), ids)
    assert dict(source.facts)["files"] == words


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ({"a.bin": GPT2.astype(">u2")}, {}, "look big-endian.* data.byte_order=big or little"),
        ({"a.bin": LLAMA.astype("<u4").tobytes()[:-2]}, {}, "2 bytes; it was cut"),
        ({"a.bin": with_header(GPT2.astype("<u2"), 777, 1)}, {}, "unknown header.*header_bytes"),
        ({"a.bin": LLAMA.astype("<u4"), "meta.json": b'{"dtype":"uint16"}'}, {}, "of uint32"),
        ({"a.bin": b"plain words " * 700}, {}, "is text .*use data=text"),
        ({"a.bin": b"PK\3\4" + bytes(9000)}, {}, "a zip archive"),
        ({"a.bin": GPT2.astype("<u2"), "b.bin": LLAMA.astype("<u4")}, {}, "of one kind"),
        ({"a.bin": GPT2.astype("<u2")}, {"vocab": 1024}, "outside .* that data.vocab gives"),
        ({"a.bin": GPT2.astype("<u2")}, {"dtype": "float32"}, "known are uint8, uint16"),
        ({"val.bin": GPT2.astype("<u2")}, {}, "nothing is left to train on"),
    ],
)
def test_what_cannot_be_tokens_is_refused_by_name(tmp_path, files, given, message):
    with pytest.raises(PlanError, match=message):
        opened(tmp_path, files, **given)


def test_the_user_s_word_overrides_what_the_bytes_look_like(tmp_path):
    files = {"a.bin": b"MYHEAD" + GPT2.astype(">u2").tobytes()}
    source = opened(tmp_path, files, dtype="uint16", byte_order="big", header_bytes=6)
    assert np.array_equal(np.concatenate(opened_tokens(source)), GPT2)
    assert dict(source.facts)["files"] == "1 file of raw uint16, big-endian, header of 6 bytes"


def test_a_word_against_the_bytes_is_taken_and_said(tmp_path):
    facts = dict(opened(tmp_path, {"a.bin": LLAMA.astype("<u4")}, dtype="uint16").facts)
    assert "by data.dtype, although the bytes look like uint32" in facts["files"]


def test_megatron_s_index_says_the_documents(tmp_path):
    assert (
        dict(opened(tmp_path, megatron("a", LLAMA, "i4")).facts)["documents"] == "200 by the .idx"
    )


def test_the_vocabulary_says_where_it_is_from(tmp_path):
    files = {"train.bin": CHARS[:15_000].astype("<u2"), "val.bin": CHARS[15_000:].astype("<u2")}
    assert opened(tmp_path, files).facts[1][1] == "65, the largest id plus 1 (data.vocab=N sets it)"
    meta = {"meta.pkl": pickle.dumps({"vocab_size": 70, "itos": {0: "a"}})}
    assert opened(tmp_path, files | meta).facts[1][1] == "70, by meta.pkl; the largest id is 64"
    source = opened(tmp_path, files | meta, vocab=80)
    assert (source.vocab, source.facts[1][1]) == (80, "80, by data.vocab; the largest id is 64")
    assert source.facts[2][1] == "15,000 to train on, 5,000 held out by name (val.bin)"


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    with pytest.raises(PlanError, match="without running code .it needs .*open.; set data.vocab=N"):
        opened(tmp_path, {"a.bin": CHARS.astype("<u2"), "meta.pkl": pickle.dumps(Evil())})
    assert not (tmp_path / "pwned").exists()
