"""Tokenizers of text: bytes, byte pairs that are trained on the text itself, and existing ones.

`bytes` takes the UTF-8 bytes of the text as tokens; `bpe` is a byte-level byte-pair encoding. Both
can be decoded without loss. A bpe is a function of its training text and its size alone: merges are
chosen by count and then by token, whatever the number of threads.

`PATH.json` is a file of the library `tokenizers`; `tiktoken:NAME` is an encoding of `tiktoken`, and
`tiktoken:PATH.tiktoken` a file of its byte pairs, split by GPT-2's pattern and with `<|endoftext|>`
after the last of them. `open_existing` opens both.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
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
TIKTOKEN = "tiktoken:"
ENDS = (
    "<|endoftext|> <|end_of_text|> </s> <eos> <|im_end|> <|end|> [EOS] [SEP] "
    "<|end\u2581of\u2581sentence|>"
).split()
"""Names under which tokenizers have the end of a text; the first that one has is taken."""
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How text is split before byte pairs are joined (Radford et al. 2019)."""
Encoded = NDArray[np.uint32]


class Tokenizer(Protocol):
    """Encodes pieces of text to arrays of tokens."""

    vocab: int
    """Number of tokens."""
    end: int | None
    """The token that ends a text; None where there is none."""
    token_bytes: Ints | None
    """(vocab,) bytes of text that each token stands for; None: they are counted by document."""
    identity: str
    """Of an existing tokenizer: the hash of its content; else empty."""

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        """The tokens of each piece."""

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes that tokens stand for."""

    def save(self, folder: Path) -> None:
        """Write to a folder what is needed to load it again."""


class Bytes:
    """UTF-8 bytes as tokens 0 to 255."""

    vocab = BYTES + 1
    end: int | None = BYTES
    token_bytes: Ints | None = np.array([1] * BYTES + [0])
    identity = ""

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        return [np.frombuffer(p.encode(), np.uint8).astype(np.uint32) for p in pieces]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(t for t in tokens if t < BYTES)

    def save(self, folder: Path) -> None:
        """Write nothing: there is nothing to load."""


class Bpe:
    """Byte-pair encoding by the `tokenizers` library."""

    identity = ""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocab = model.get_vocab_size() + 1
        self.end: int | None = self.vocab - 1
        strings = [model.id_to_token(i) for i in range(self.vocab - 1)]
        # The library writes each byte as one printable character.
        self.token_bytes: Ints | None = np.array([len(s) for s in strings] + [0])
        alphabet = _byte_alphabet()
        self._bytes = [bytes(alphabet[c] for c in s) for s in strings] + [b""]

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        return _encode(self._model, pieces)

    def decode(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._bytes[t] for t in tokens)

    def save(self, folder: Path) -> None:
        self._model.save(str(folder / BPE_FILE))


def _encode(model: Any, pieces: Sequence[str]) -> list[Encoded]:
    """The tokens of pieces by a model of the library `tokenizers`."""
    encode = getattr(model, "encode_batch_fast", model.encode_batch)
    encodings = encode(list(pieces), add_special_tokens=False)
    return [np.array(e.ids, dtype=np.uint32) for e in encodings]


class LoadedTokenizer:
    """A tokenizer of a `tokenizer.json`, as it is but for padding, truncation and special tokens.

    A special token that is spelled out in a text is encoded as the text that it is.
    """

    token_bytes: Ints | None = None

    def __init__(self, model: Any, content: bytes) -> None:
        model.no_padding()
        model.no_truncation()
        model.encode_special_tokens = True
        self._model = model
        ids = model.get_vocab(with_added_tokens=True)
        added = {token.content for token in model.get_added_tokens_decoder().values()}
        self.vocab = max(ids.values()) + 1
        self.end: int | None = next(
            (ids[name] for name in ENDS if name in added & ids.keys()), None
        )
        self.identity = hashlib.sha256(content).hexdigest()[:16]

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        return _encode(self._model, pieces)

    def decode(self, tokens: Sequence[int]) -> bytes:
        return str(self._model.decode(list(tokens), skip_special_tokens=True)).encode()

    def save(self, folder: Path) -> None:
        self._model.save(str(folder / BPE_FILE))


class Tiktoken:
    """An encoding of the library `tiktoken`."""

    token_bytes: Ints | None = None

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        self.vocab = int(encoding.max_token_value) + 1
        special = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
        self.end: int | None = next((special[name] for name in ENDS if name in special), None)
        digest = hashlib.sha256(repr((encoding._pat_str, sorted(special.items()))).encode())
        for pair in encoding.token_byte_values():
            digest.update(f"{encoding.encode_single_token(pair)} ".encode() + pair + b"\n")
        self.identity = digest.hexdigest()[:16]

    def encode(self, pieces: Sequence[str]) -> list[Encoded]:
        return [np.array(self._encoding.encode_ordinary(p), dtype=np.uint32) for p in pieces]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(self._encoding.decode_bytes(list(tokens)))

    def save(self, folder: Path) -> None:
        """Write nothing: it is opened by its name."""


def is_existing(name: str) -> bool:
    """Whether a `data.tokenizer` names a tokenizer that exists, with a vocabulary of its own."""
    return name.endswith(".json") or name.startswith(TIKTOKEN)


def open_existing(name: str) -> Tokenizer:
    """Open the existing tokenizer that `data.tokenizer` names, once for each content.

    Raises:
        PlanError: It cannot be read, or its library is not installed.
    """
    if name.startswith(TIKTOKEN):
        what = name.removeprefix(TIKTOKEN)
        path = Path(what).expanduser()
        return _open_tiktoken(what, path.read_bytes() if path.is_file() else None)
    path = Path(name).expanduser()
    if not path.is_file():
        raise PlanError(
            f"data.tokenizer={name} does not exist (looked for {path.absolute()}); give the "
            "tokenizer.json of the library tokenizers, or bytes or bpe."
        )
    _require_tokenizers(name)
    return _open_json(name, path.read_bytes())


@functools.lru_cache(maxsize=4)
def _open_json(name: str, content: bytes) -> LoadedTokenizer:
    """Open the content of a `tokenizer.json`."""
    from tokenizers import Tokenizer

    try:
        return LoadedTokenizer(Tokenizer.from_buffer(content), content)
    except Exception as error:  # the library raises plain Exceptions
        reason = str(error).splitlines()[0][:120]
        raise PlanError(
            f"data.tokenizer={name} is no tokenizer of the library tokenizers ({reason}); give its "
            "tokenizer.json."
        ) from error


@functools.lru_cache(maxsize=4)
def _open_tiktoken(what: str, content: bytes | None) -> Tiktoken:
    """Open an encoding by its name, or the content of a file of byte pairs."""
    if find_spec("tiktoken") is None:
        raise PlanError(
            f"data.tokenizer={TIKTOKEN}{what} needs the package 'tiktoken', not installed here: "
            "pip install 'isoflop[tiktoken]'."
        )
    import tiktoken

    if content is not None:
        return Tiktoken(_encoding_of(what, content))
    if "/" in what or what.endswith(".tiktoken"):
        raise PlanError(f"data.tokenizer={TIKTOKEN}{what} does not exist; give an existing file.")
    if what not in (known := tiktoken.list_encoding_names()):
        raise PlanError(
            f"data.tokenizer={TIKTOKEN}{what} is unknown; known are {', '.join(known)}, or a file "
            f"of byte pairs: {TIKTOKEN}PATH.tiktoken."
        )
    try:
        return Tiktoken(tiktoken.get_encoding(what))
    except OSError as error:  # it downloads the byte pairs, through a library of many errors
        raise PlanError(
            f"the byte pairs of {TIKTOKEN}{what} could not be loaded ({str(error)[:80]}); bring "
            f"them as a file: data.tokenizer={TIKTOKEN}PATH.tiktoken."
        ) from error


def _encoding_of(what: str, content: bytes) -> Any:
    """An encoding of byte pairs in a file: a line each, its bytes in base64 and its rank."""
    import tiktoken

    try:
        rows = (line.split() for line in content.splitlines() if line)
        ranks = {base64.b64decode(pair, validate=True): int(rank) for pair, rank in rows}
        if {bytes([b]) for b in range(BYTES)} - ranks.keys():
            raise ValueError("some of the 256 bytes are missing")
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError("its ranks are not 0, 1, 2, ...")
    except (ValueError, binascii.Error) as error:
        raise PlanError(
            f"data.tokenizer={TIKTOKEN}{what} is no file of byte pairs ({str(error)[:80]}); each "
            "line has bytes in base64 and a rank."
        ) from error
    return tiktoken.Encoding(
        name=Path(what).stem,
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={ENDS[0]: len(ranks)},
    )


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


def _require_tokenizers(name: str = "bpe") -> None:
    """Refuse byte pairs where their library is missing: `make demo` does not install it.

    Raises:
        PlanError: The package tokenizers is not installed.
    """
    if find_spec("tokenizers") is None:
        raise PlanError(
            f"data.tokenizer={name} needs the package 'tokenizers', not installed here. Install "
            "it, pip install 'isoflop[sweep]', or train on bytes: data.tokenizer=bytes."
        )


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of GPT-2's byte-level bpe stands for.

    Source: Radford et al. 2019, `bytes_to_unicode` of their encoder: printable Latin-1 stands for
    itself, the rest follows from U+0100 on.
    """
    plain = [b for b in range(BYTES) if re.match(r"[!-~\u00a1-\u00ac\u00ae-\u00ff]", chr(b))]
    other = [b for b in range(BYTES) if b not in plain]
    return {chr(b): b for b in plain} | {chr(BYTES + i): b for i, b in enumerate(other)}
