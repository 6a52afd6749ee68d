"""Existing tokenizers: a tokenizer.json, and byte pairs of tiktoken."""

import base64
import importlib.util

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.registry import open_source
from sweep.data.tokenizers import open_existing
from sweep.planning.grid import compose_config, grid
from tests.sweep.data.builders import data_config

T = 16
LINES = [f"Café number {i} was glad to see <|endoftext|> and wept.\n" for i in range(120)]
needs_tiktoken = pytest.mark.skipif(
    importlib.util.find_spec("tiktoken") is None, reason="the extra tiktoken is not installed"
)


def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for i, line in enumerate(LINES):
        (folder / f"{i:03}.txt").write_text(line * (1 + i % 3))
    return str(folder)


def word_level(path, end="</s>"):
    """A tokenizer that knows words and not bytes, and lets whitespace go."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    model = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", *([end] if end else [])]
    model.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special)
    )
    model.enable_truncation(3)
    model.enable_padding(length=40)
    model.save(str(path))
    return str(path)


def pairs_file(path):
    """The 256 bytes and a few pairs, as tiktoken writes them."""
    pairs = [bytes([b]) for b in range(256)] + [b"th", b"he", b"gl", b"ad", b" gl", b" glad"]
    path.write_bytes(
        b"".join(base64.b64encode(p) + f" {i}\n".encode() for i, p in enumerate(pairs))
    )
    return f"tiktoken:{path}"


def opened(tmp_path, tokenizer, **given):
    config = data_config("text", tmp_path, path=texts(tmp_path), tokenizer=tokenizer, **given)
    return open_source(config, seq_len=T, seed=0)


def test_documents_are_the_tokens_of_the_file_with_its_end_token_between_them(tmp_path):
    from tokenizers import Tokenizer

    path = word_level(tmp_path / "tokenizer.json")
    model = Tokenizer.from_file(path)
    model.no_truncation()
    model.no_padding()
    source, end = opened(tmp_path, path), model.token_to_id("</s>")
    assert source.vocab == model.get_vocab_size()
    corpus = source._corpus
    stream = np.concatenate([np.asarray(shard) for shard in corpus.train.shards])
    wanted = []
    for file in sorted((tmp_path / "texts").iterdir()):
        wanted += [*model.encode(file.read_text(), add_special_tokens=False).ids, end]
    assert stream.tolist() == wanted


def test_bytes_per_token_are_those_of_the_held_out_documents(tmp_path):
    source = opened(tmp_path, word_level(tmp_path / "tokenizer.json"), heldout_tokens=512)
    size = sum(len(f.read_bytes()) for f in (tmp_path / "texts").iterdir())
    corpus = source._corpus
    total = len(corpus.train) + len(corpus.heldout)
    assert source.info.bytes_per_token == pytest.approx(size / total, rel=0.05)
    plain = opened(tmp_path, "bytes").info.bytes_per_token
    assert plain < 1 < source.info.bytes_per_token  # whitespace has no token of its own


def test_without_an_end_token_documents_follow_one_another(tmp_path):
    source = opened(tmp_path, word_level(tmp_path / "tokenizer.json", end=None))
    assert open_existing(str(tmp_path / "tokenizer.json")).end is None
    assert "no token at the end" in dict(source.facts)["tokenizer"]


def test_a_special_token_that_a_text_spells_is_text(tmp_path):
    tokenizer = open_existing(word_level(tmp_path / "tokenizer.json", end="<|endoftext|>"))
    (tokens,) = tokenizer.encode(["glad <|endoftext|>"])
    assert tokenizer.end is not None and tokenizer.end not in tokens


def test_the_content_of_the_tokenizer_and_not_its_path_is_part_of_the_hash(tmp_path):
    path = word_level(tmp_path / "tokenizer.json")
    (tmp_path / "copy.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    first, copy = (opened(tmp_path, p).info.hash for p in (path, str(tmp_path / "copy.json")))
    changed = (tmp_path / "copy.json").read_text().replace('"max_length": 3', '"max_length": 4')
    (tmp_path / "copy.json").write_text(changed)
    assert first == copy
    assert opened(tmp_path, str(tmp_path / "copy.json")).info.hash != first


@needs_tiktoken
def test_byte_pairs_of_tiktoken_are_joined_and_decoded(tmp_path):
    name = pairs_file(tmp_path / "small.tiktoken")
    tokenizer = open_existing(name)
    assert (tokenizer.vocab, tokenizer.end) == (263, 262)
    (tokens,) = tokenizer.encode(["the é glad<|endoftext|>"])
    assert tokens[0] == 256 and 261 in tokens and 262 not in tokens
    assert tokenizer.decode(tokens) == "the é glad<|endoftext|>".encode()
    source = opened(tmp_path, name)
    held = np.concatenate([np.asarray(s) for s in source._corpus.heldout.shards])
    text = b"".join(f.read_bytes() for f in sorted((tmp_path / "texts").iterdir()))
    assert tokenizer.decode([t for t in held if t != 262]) == text
    assert (held == 262).sum() == len(LINES)


@needs_tiktoken
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"QQ== 0\n", "256 bytes are missing"), (b"not base 64", "no file of byte pairs")],
)
def test_a_file_that_holds_no_byte_pairs_is_refused(tmp_path, content, message):
    (tmp_path / "bad.tiktoken").write_bytes(content)
    with pytest.raises(PlanError, match=message):
        open_existing(f"tiktoken:{tmp_path / 'bad.tiktoken'}")


@needs_tiktoken
def test_an_unknown_encoding_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match="known are .*gpt2"):
        open_existing("tiktoken:gpt9")


def test_without_tiktoken_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sweep.data.tokenizers.find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"pip install 'isoflop\[tiktoken\]'"):
        open_existing(pairs_file(tmp_path / "other.tiktoken"))


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        opened(tmp_path, str(tmp_path / "none.json"))
    (tmp_path / "foreign.json").write_text("{}")
    with pytest.raises(PlanError, match="no tokenizer of the library"):
        opened(tmp_path, str(tmp_path / "foreign.json"))


def test_a_vocabulary_beside_an_existing_tokenizer_is_refused(tmp_path):
    path = word_level(tmp_path / "tokenizer.json")
    settings = ["data=text", f"data.path={texts(tmp_path)}", f"data.tokenizer={path}"]
    assert compose_config(settings).data.tokenizer == path
    with pytest.raises(PlanError, match="data.vocab=512 would change nothing: only"):
        grid([*settings, "data.vocab=512"], multirun=False)
