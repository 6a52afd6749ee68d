"""Tokenizers of text: bytes, and byte pairs that are trained on the text itself.

`bytes` takes the UTF-8 bytes of the text as tokens; `bpe` is a byte-level byte-pair encoding. Both
can be decoded without loss. A bpe is a function of its training text and its size alone: merges are
chosen by count and then by token, whatever the number of threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fit.errors import PlanError
from sweep.data.rows import Ints

BYTES = 256
BPE_FILE = "tokenizer.json"
MAX_TOKEN_BYTES = 24
"""Longer runs, such as rulers of '=', would waste tokens of a small vocabulary."""
TOKENIZERS = {"bytes": "bytes of UTF-8", "bpe": "byte pairs, trained on these documents"}
"""Tokenizers by name, in words."""
Encoded = NDArray[np.uint32]


class Tokenizer(Protocol):
    """Encodes pieces of text to arrays of tokens."""

    vocab: int
    """Number of tokens; the last one is the end of a text."""
    token_bytes: Ints
    """(vocab,) bytes of text that each token stands for."""

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        """The tokens of each piece."""

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes that tokens stand for."""

    def save(self, folder: Path) -> None:
        """Write to a folder what is needed to load it again."""


class Bytes:
    """UTF-8 bytes as tokens 0 to 255."""

    vocab = BYTES + 1
    token_bytes = np.array([1] * BYTES + [0])

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        return [np.frombuffer(p.encode(), np.uint8).astype(np.uint32) for p in pieces]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(t for t in tokens if t < BYTES)

    def save(self, folder: Path) -> None:
        """Write nothing: there is nothing to load."""


class Bpe:
    """Byte-pair encoding by the `tokenizers` library."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocab = model.get_vocab_size() + 1
        strings = [model.id_to_token(i) for i in range(self.vocab - 1)]
        # The library writes each byte as one printable character.
        self.token_bytes = np.array([len(s) for s in strings] + [0])
        alphabet = _byte_alphabet()
        self._bytes = [bytes(alphabet[c] for c in s) for s in strings] + [b""]

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        encode = getattr(self._model, "encode_batch_fast", self._model.encode_batch)
        encodings = encode(list(pieces), add_special_tokens=False)
        return [np.array(e.ids, dtype=np.uint32) for e in encodings]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._bytes[t] for t in tokens)

    def save(self, folder: Path) -> None:
        self._model.save(str(folder / BPE_FILE))


def train_bpe(pieces: Iterable[str], vocab: int) -> Bpe:
    """Train a byte-pair encoding.

    Args:
        pieces: Text to train on.
        vocab: Number of tokens, 256 bytes and the end of a text included; a short text gives fewer.

    Raises:
        PlanError: The vocabulary is too small for the bytes or too large for the shards, or the
            package tokenizers is not installed.
    """
    if not BYTES + 1 < vocab <= 1 << 24:
        raise PlanError(
            f"data.vocab={vocab} is out of range; a bpe needs at least {BYTES + 2} tokens (its "
            f"bytes, the end of a text and a merge) and at most {1 << 24}. For plain bytes: "
            "data.tokenizer=bytes."
        )
    _require_tokenizers()
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=False,
    )
    model.train_from_iterator(pieces, trainer)
    return Bpe(model)


def load_bpe(folder: Path) -> Bpe:
    """Load the bpe that `save` wrote to a folder."""
    _require_tokenizers()
    from tokenizers import Tokenizer

    return Bpe(Tokenizer.from_file(str(folder / BPE_FILE)))


def _require_tokenizers() -> None:
    """Refuse byte pairs where their library is missing: `make demo` does not install it.

    Raises:
        PlanError: The package tokenizers is not installed.
    """
    if find_spec("tokenizers") is None:
        raise PlanError(
            "data.tokenizer=bpe needs the package 'tokenizers', not installed here. Install it, "
            "pip install 'isoflop[sweep]', or train on bytes: data.tokenizer=bytes."
        )


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of GPT-2's byte-level bpe stands for.

    Source: Radford et al. 2019, `bytes_to_unicode` of their encoder: printable Latin-1 stands for
    itself, the rest follows from U+0100 on.
    """
    plain = [b for b in range(BYTES) if re.match(r"[!-~\u00a1-\u00ac\u00ae-\u00ff]", chr(b))]
    other = [b for b in range(BYTES) if b not in plain]
    return {chr(b): b for b in plain} | {chr(BYTES + i): b for i, b in enumerate(other)}
