"""Text to a tokenised corpus: the cached folder of shards, and the held-out split.

`open_corpus` tokenises documents once into a cached folder (`corpus_folder`) of shards, the ends of
the documents and the tokenizer, and splits them. A document that occurs again is left out. Each
document ends with the tokenizer's end token, which no text can contain, where it has one.

`split` chooses the documents that are held out, no more than needed. The folder is the same for
every split and cap, which only choose intervals of it. A document's place in the draw is a keyed
hash of its content, so that neither file names nor order matter, and a text that occurs twice
cannot be on both sides.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fit.errors import PlanError
from sweep.cache import META, build_once, cache_folder, digest
from sweep.config import DataConfig
from sweep.data.rows import Ints, TokenizedCorpus, Words, heldout_count, key_of, mixed, stream_of
from sweep.data.shards import check_share, open_shard
from sweep.data.tokenizers import (
    TOKENIZERS,
    Bytes,
    Encoded,
    Tokenizer,
    is_existing,
    load_bpe,
    open_existing,
    train_bpe,
)

LONGEST_SHARE = 4
"""A document above 1/4 of the held-out sample is never held out: it would dominate it."""
BLOCKS = 16
"""Number of blocks in the sample where documents are too long to be held out whole."""
VERSION = 1
"""Part of the cache's key; raised when the same documents would give other tokens."""
BPE_SAMPLE_BYTES = 16_000_000
"""Text that a bpe is trained on. Bytes per token of 2048 tokens trained on 4, 8, 16 and 24 MB of
technical prose: 2.712, 2.735, 2.744, 2.738."""
PIECE_CHARACTERS = 1 << 18
BATCH_CHARACTERS = 4_000_000
SHARD_TOKENS = 1 << 27
BYTES_FILE = "bytes.npy"
"""Bytes of each document, where the tokenizer does not say those of each token."""
NOTICE = 10.0
"""Time between two lines of progress [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSplit:
    """Intervals of the corpus, (n, 2) begin and end [tokens], ascending and disjoint."""

    train: Ints
    heldout: Ints


def split(
    ends: Ints, keys: Words, *, heldout_tokens: int, seed: int, named: int = 0
) -> CorpusSplit:
    """Split a corpus, holding out at least so many tokens.

    Args:
        ends: (documents,) end of each document in the corpus, ascending [tokens].
        keys: (documents,) hash of each document's content.
        heldout_tokens: Tokens needed, at most half of the corpus.
        seed: Chooses the documents that are held out.
        named: Documents at the beginning that are held out by name: the sample is drawn from them,
            and none of them is trained on.

    Returns:
        Whole documents if those short enough make up half of the text, else blocks of documents.
    """
    if named:
        cut = ends[named - 1]
        sample = split(ends[:named], keys[:named], heldout_tokens=heldout_tokens, seed=seed)
        return CorpusSplit(train=np.array([[cut, ends[-1]]]), heldout=sample.heldout)
    starts = np.concatenate([[0], ends[:-1]])
    short = ends - starts <= heldout_tokens // LONGEST_SHARE
    if 2 * (ends - starts)[short].sum() < ends[-1]:
        starts, ends, keys = _blocks(starts, ends, keys, max(1, heldout_tokens // BLOCKS))
        short = np.ones(len(ends), dtype=bool)
    draw = np.where(short, mixed(keys ^ key_of(seed)), np.uint64(2**64 - 1))
    order = np.argsort(draw, kind="stable")
    total = np.cumsum((ends - starts)[order])
    chosen = np.zeros(len(ends), dtype=bool)
    chosen[order[: np.searchsorted(total, heldout_tokens) + 1]] = True
    return CorpusSplit(
        train=_join(starts, ends, ~chosen), heldout=np.stack([starts, ends], axis=1)[chosen]
    )


def _blocks(starts: Ints, ends: Ints, keys: Words, size: int) -> tuple[Ints, Ints, Words]:
    """Cut every document into blocks of at most `size` tokens."""
    counts = -(-(ends - starts) // size)
    owner = np.repeat(np.arange(len(ends)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = starts[owner] + number * size
    end = np.minimum(begin + size, ends[owner])
    return begin, end, mixed(keys[owner] ^ mixed(number.astype(np.uint64)))


def _join(starts: Ints, ends: Ints, chosen: NDArray[np.bool_]) -> Ints:
    """Join chosen neighbours to one interval each."""
    edge = np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8))
    first, last = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1) - 1
    return np.stack([starts[first], ends[last]], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text, in pieces."""

    key: int
    """Hash of the content, 64 bits."""
    pieces: Iterable[str]
    """The text in pieces of at most about a million characters."""


def document_of(text: str) -> Document:
    """A document of a text in memory; lone surrogates, which have no UTF-8 form, become `?`."""
    content = text.encode(errors="replace")
    return Document(key=content_key(content), pieces=pieces_of(io.StringIO(content.decode(), "")))


def pieces_of(stream: IO[str]) -> Iterator[str]:
    """Pieces of whole lines; a line longer than four pieces is cut."""
    while lines := stream.readlines(PIECE_CHARACTERS):
        text = "".join(lines)
        for start in range(0, len(text), 4 * PIECE_CHARACTERS):
            yield text[start : start + 4 * PIECE_CHARACTERS]


class Documents(Protocol):
    """An iterable of documents with a name and an identity for the cache."""

    @property
    def name(self) -> str:
        """Name of the data in records, such as `text:novels`."""

    @property
    def identity(self) -> Any:
        """JSON of what decides the content, available without reading all of it again."""

    @property
    def limit(self) -> int | None:
        """Tokens after which reading stops; None reads everything."""

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was found, for the plan."""

    @property
    def without_text(self) -> int:
        """Rows whose text is missing, among the documents that were read."""

    def __iter__(self) -> Iterator[Document]:
        """Every document to train on, in a fixed order."""

    def heldout(self) -> Iterator[Document]:
        """Documents from which the held-out sample is drawn; none where a share of all is."""

    def sample(self) -> Iterable[str]:
        """Text to train a tokenizer on, in a fixed order, the most typical first."""


def content_key(content: bytes) -> int:
    """The first 64 bits of a hash of a text."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def corpus_folder(documents: Documents, config: DataConfig) -> tuple[Path, Tokenizer | None]:
    """The folder of some documents' tokens, and their tokenizer if it is trained already.

    Raises:
        PlanError: The tokenizer is unknown.
    """
    existing = open_existing(config.tokenizer) if is_existing(config.tokenizer) else None
    if existing is None and config.tokenizer not in TOKENIZERS:
        raise PlanError(
            f"data.tokenizer='{config.tokenizer}' is unknown; known are {', '.join(TOKENIZERS)}, "
            "PATH/tokenizer.json and tiktoken:NAME."
        )
    identity = {"tokenizer": config.tokenizer, "version": VERSION, "documents": documents.identity}
    if existing is not None:
        identity["tokenizer"] = ["existing", existing.identity]
    if config.tokenizer == "bpe":
        if config.vocab is None:
            raise PlanError("data.vocab is null; a bpe needs its size, such as data.vocab=1024.")
        identity["vocab"] = config.vocab
    return cache_folder(config.cache) / "corpora" / digest(identity), existing


def open_corpus(documents: Documents, config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open the tokenised corpus of some documents, tokenising them unless the cache has it.

    Raises:
        PlanError: The tokenizer is unknown, or there is no text or too little of it.
    """
    folder, existing = corpus_folder(documents, config)
    build_once(folder, lambda empty: _build(empty, documents, config, existing))
    meta = json.loads((folder / META).read_text())
    named = meta.get("heldout_documents", 0)
    if not named:
        check_share(config, seq_len, meta["tokens"])
    tokenizer = existing or (Bytes() if config.tokenizer == "bytes" else load_bpe(folder))
    files = [folder / name for name in meta["shards"]]
    shards = [open_shard(file, meta["dtype"]) for file in files]
    if sum(len(s) for s in shards) != meta["tokens"]:
        raise PlanError(
            f"{folder} lacks some of the {meta['tokens']} tokens that its {META} lists; delete the "
            "folder, and the corpus is tokenised again."
        )
    ends = np.load(folder / "ends.npy")
    parts = split(
        ends,
        np.load(folder / "keys.npy"),
        heldout_tokens=heldout_count(config, seq_len) * seq_len + 1,
        seed=config.seed,
        named=named,
    )
    train = stream_of(shards, parts.train)
    if train.row_count(seq_len) < 1:
        raise PlanError(
            f"{len(train)} tokens of {config.path} are left to train on, below one row of "
            f"model.seq_len={seq_len}; copies of held-out documents are not trained on. Bring more "
            "text, or train on all with data.splits=none."
        )
    return TokenizedCorpus(
        name=documents.name,
        hash=meta["hash"],
        vocab=tokenizer.vocab,
        train=train,
        heldout=stream_of(shards, parts.heldout),
        encode=lambda text: [int(t) for t in tokenizer.encode([text])[0]],
        decode=lambda tokens: tokenizer.decode(tokens).decode(errors="replace"),
        end=tokenizer.end,
        token_bytes=tokenizer.token_bytes,
        bytes_per_token=(
            _bytes_per_token(parts.heldout, ends, np.load(folder / BYTES_FILE))
            if tokenizer.token_bytes is None
            else None
        ),
        facts=(
            ("tokenizer", _tokenizer_in_words(config.tokenizer, tokenizer)),
            ("documents", _documents_in_words(meta)),
            *documents.facts,
        ),
    )


def _tokenizer_in_words(name: str, tokenizer: Tokenizer) -> str:
    """What the plan says of a tokenizer."""
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    end = "no token" if tokenizer.end is None else f"token {tokenizer.end}"
    return f"{name} (hash {tokenizer.identity}), {end} at the end of a document"


def _bytes_per_token(intervals: Ints, ends: Ints, sizes: Ints) -> float:
    """Bytes of text per token of intervals, those of a document spread evenly over its tokens."""
    borders = np.concatenate([[0], ends])
    before = np.concatenate([[0], np.cumsum(sizes)])
    begin, end = np.interp(intervals.T, borders, before)
    return float((end - begin).sum() / np.diff(intervals).sum())


def _documents_in_words(meta: Mapping[str, Any]) -> str:
    """How many documents a corpus has, and how many copies of others were left out."""
    dropped = meta.get("duplicates")  # None: tokenised before copies were counted
    copies = "copies of others not counted" if dropped is None else f"{dropped:,} copies dropped"
    missing = meta.get("without_text", 0)
    rest = f", {missing:,} rows without text left out" if missing else ""
    return f"{meta['documents']:,}, {copies}{rest}"


def _build(
    folder: Path, documents: Documents, config: DataConfig, existing: Tokenizer | None
) -> None:
    """Write a tokenised corpus to an empty folder."""
    progress = _ProgressLines()
    progress.write(f"tokenising {documents.name} once, into {folder.parent}")
    tokenizer = existing or Bytes()
    if config.tokenizer == "bpe":
        assert config.vocab is not None  # by `open_corpus`
        tokenizer = train_bpe(_bounded(documents.sample(), BPE_SAMPLE_BYTES), config.vocab)
    tokenizer.save(folder)
    writer = _CorpusWriter(folder=folder, tokenizer=tokenizer)
    limit = math.inf if documents.limit is None else documents.limit
    heldout = _with_keys(documents.heldout(), writer.heldout_keys)
    distinct = _distinct(itertools.chain(heldout, documents), writer)
    for batch in _batches(itertools.takewhile(lambda _: writer.tokens < limit, distinct)):
        writer.add(batch)
        progress.write(
            f"{writer.tokens / 1e6:.1f} M tokens of {len(writer.ends)} documents", NOTICE
        )
    writer.without_text = documents.without_text
    writer.close()
    progress.write(f"{writer.tokens / 1e6:.1f} M tokens of {len(writer.ends)} documents, done")


class _ProgressLines:
    """Lines on stderr: tokenising may take minutes, before a run shows any progress."""

    def __init__(self) -> None:
        self.last = 0.0

    def write(self, line: str, after: float = 0.0) -> None:
        """Print a line unless the last one was printed less than `after` seconds ago."""
        if time.monotonic() - self.last >= after:
            print(line, file=sys.stderr, flush=True)
            self.last = time.monotonic()


@dataclass(slots=True, kw_only=True)
class _CorpusWriter:
    """Tokenises documents and appends them to shards."""

    folder: Path
    tokenizer: Tokenizer
    tokens: int = 0
    in_document: int = 0
    bytes_in_document: int = 0
    duplicates: int = 0
    """Documents left out, since they repeat the content of another."""
    without_text: int = 0
    """Rows left out, since their text is missing."""
    heldout_keys: set[int] = field(default_factory=set)
    """Keys of the documents that are held out by name."""
    ends: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of the text of each document."""
    shards: list[str] = field(default_factory=list)
    hash: Any = field(default_factory=hashlib.sha256)

    @property
    def dtype(self) -> str:
        """The narrowest integer type that can hold the vocabulary."""
        return "uint16" if self.tokenizer.vocab <= 1 << 16 else "uint32"

    def add(self, batch: list[tuple[str, int | None]]) -> None:
        """Append pieces of text; the last piece of a document comes with the document's key."""
        encoded = self.tokenizer.encode([piece for piece, _ in batch])
        last = self.tokenizer.end
        end = np.array([] if last is None else [last], dtype=np.uint32)
        parts: list[Encoded] = []
        for tokens, (piece, key) in zip(encoded, batch, strict=True):
            parts.append(tokens)
            self.in_document += len(tokens)
            self.bytes_in_document += len(piece.encode())
            if key is not None and self.in_document:
                parts.append(end)
                self.tokens += self.in_document + len(end)
                self.ends.append(self.tokens)
                self.keys.append(key)
                self.sizes.append(self.bytes_in_document)
                self.in_document = self.bytes_in_document = 0
        self._append(np.concatenate(parts).astype(np.dtype(self.dtype).newbyteorder("<")))

    def _append(self, tokens: Any) -> None:
        """Append tokens to the last shard, or to a new one if it is full."""
        path = self.folder / self.shards[-1] if self.shards else None
        if path is None or path.stat().st_size >= SHARD_TOKENS * tokens.itemsize:
            path = self.folder / f"{len(self.shards):05d}.bin"
            self.shards.append(path.name)
        with path.open("ab") as stream:
            tokens.tofile(stream)
        self.hash.update(tokens.tobytes())

    def close(self) -> None:
        """Write the ends and keys of the documents and `meta.json`."""
        if not self.ends:
            raise PlanError(
                "the documents contain no text; at least one document with text is needed. Check "
                "data.path and data.column."
            )
        np.save(self.folder / "ends.npy", np.array(self.ends, dtype=np.int64))
        np.save(self.folder / "keys.npy", np.array(self.keys, dtype=np.uint64))
        if self.tokenizer.token_bytes is None:
            np.save(self.folder / BYTES_FILE, np.array(self.sizes, dtype=np.int64))
            self.hash.update(self.tokenizer.identity.encode())
        else:
            self.hash.update(self.tokenizer.token_bytes.astype("<i8").tobytes())
        meta = {
            "schema": "isoflop.corpus/1",
            "vocab": self.tokenizer.vocab,
            "dtype": self.dtype,
            "tokens": self.tokens,
            "documents": len(self.ends),
            "duplicates": self.duplicates,
            "heldout_documents": sum(key in self.heldout_keys for key in self.keys),
            "without_text": self.without_text,
            "shards": self.shards,
            "hash": self.hash.hexdigest()[:16],
        }
        (self.folder / META).write_text(json.dumps(meta, indent=1) + "\n")


def _with_keys(documents: Iterable[Document], keys: set[int]) -> Iterator[Document]:
    """The documents, their keys added to a set as they are read."""
    for document in documents:
        keys.add(document.key)
        yield document


def _distinct(documents: Iterable[Document], writer: _CorpusWriter) -> Iterator[Document]:
    """Documents without repetitions of a content; takes about 100 bytes of memory a document.

    The repetitions are counted in `writer.duplicates`.
    """
    seen: set[int] = set()
    for document in documents:
        if document.key not in seen:
            seen.add(document.key)
            yield document
        else:
            writer.duplicates += 1


def _batches(documents: Iterable[Document]) -> Iterator[list[tuple[str, int | None]]]:
    """Batches of pieces; an empty piece with the document's key follows a document's last one."""
    batch: list[tuple[str, int | None]] = []
    size = 0
    for document in documents:
        for piece in itertools.chain(document.pieces, [None]):
            batch.append(("", document.key) if piece is None else (piece, None))
            size += len(piece or "")
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _bounded(pieces: Iterable[str], size: int) -> Iterator[str]:
    """The first pieces, up to a number of bytes."""
    for piece in pieces:
        yield piece
        size -= len(piece.encode())
        if size <= 0:
            return
