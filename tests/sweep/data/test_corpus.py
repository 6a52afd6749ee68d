"""Tokenizers lose nothing, know their bytes and give the same vocabulary again."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.tokenizers import Bytes, load_bpe, train_bpe

TEXT = "The owl was glad.\r\n\n\tÆsop's “fable” 狐 🦊 == ==\n" * 30 + "x" * 200


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request):
    return Bytes() if request.param == "bytes" else train_bpe([TEXT], 320)


def test_decoding_gives_the_text_again(tokenizer):
    for text in (TEXT, "never seen: żółw \x00 \ufeff", " ", "\n\n\n"):
        (tokens,) = tokenizer.encode([text])
        assert tokenizer.decode(tokens) == text.encode()
        assert tokens.max() < tokenizer.vocab - 1


def test_bytes_of_tokens_sum_to_the_text(tokenizer):
    (tokens,) = tokenizer.encode([TEXT])
    assert len(tokenizer.token_bytes) == tokenizer.vocab
    assert tokenizer.token_bytes[tokens].sum() == len(TEXT.encode())
    assert tokenizer.token_bytes[-1] == 0


def test_a_bpe_has_the_size_asked_for_and_loads_as_saved(tmp_path):
    bpe = train_bpe([TEXT], 290)
    assert bpe.vocab == 290
    bpe.save(tmp_path)
    again = load_bpe(tmp_path)
    assert again.vocab == bpe.vocab
    assert np.array_equal(again.encode([TEXT])[0], bpe.encode([TEXT])[0])
    assert len(bpe.encode([TEXT])[0]) < len(Bytes().encode([TEXT])[0]) / 2


def test_the_same_text_gives_the_same_bpe_whatever_the_threads(tmp_path):
    code = (
        "import pathlib, random, sys; from sweep.data.tokenizers import train_bpe;"
        "r = random.Random(0);"
        "words = [''.join(r.choices('abcde', k=r.randint(1, 6))) for _ in range(3000)];"
        "train_bpe([' '.join(words[i:i+50]) for i in range(0, 3000, 50)], 500)"
        ".save(pathlib.Path(sys.argv[1]))"
    )
    found = []
    for threads in ("1", "1", "4"):
        env = {**os.environ, "RAYON_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=True)
        found.append((tmp_path / "tokenizer.json").read_bytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("vocab", [0, 257, 2**24 + 1])
def test_an_impossible_vocabulary_is_refused(vocab):
    with pytest.raises(PlanError, match="needs at least 258 tokens"):
        train_bpe([TEXT], vocab)
