"""The data source `tokens`: files of tokens that another program wrote, memory-mapped.

`sweep.data.token_files` finds out what the files hold. `meta.json` beside them may say more:
{"vocab": 50257, "dtype": "uint32", "bytes_per_token": 4.2}, each key optional; nanoGPT's `meta.pkl`
gives `vocab_size`. The vocabulary is `data.vocab`, else what these say, else the largest id plus 1.

Files that are named as validation are held out, else those named as test; the rest is trained on.
Where no file is named so, the tail of the last file is held out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fit.errors import PlanError
from fit.quantities import count_noun
from sweep.cache import META, cache_folder, compute_once, digest, stamp
from sweep.config import DataConfig
from sweep.data.rows import (
    TokenizedCorpus,
    Tokens,
    TokenStream,
    heldout_count,
    moved_data,
    stream_of,
)
from sweep.data.splits import split_files, split_of
from sweep.data.token_bytes import LARGEST_VOCAB
from sweep.data.token_files import DTYPES, Layout, TokenFile, identify

SUFFIXES = (".bin", ".npy", ".ds")
COMPRESSED = (".gz", ".zst", ".xz", ".bz2", ".lz4", ".zip")
NANOGPT_META = "meta.pkl"
MOST_META_BYTES = 1 << 26
VERSION = 1
"""Part of the cache's key; raised when the same files would be read in another way."""
MOST_VOCAB = 1 << 24
SCAN_TOKENS = 1 << 24
"""Tokens read at once where a shard is hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeta:
    """Contents of `meta.json` and `meta.pkl` beside the files."""

    dtype: str | None = None
    vocab: int | None = None
    bytes_per_token: float | None = None
    vocab_from: str = ""
    """Which of the files gave the vocabulary."""


def open_shards(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open a file or a folder of token files.

    Raises:
        PlanError: There are no token files or too few tokens, a file is not what it should be, or a
            token is outside the vocabulary.
    """
    root = existing_path(config)
    index = root.with_suffix(".idx")
    files, indices = ([root], [index] if index.exists() else []) if root.is_file() else _find(root)
    beside = root if root.is_dir() else root.parent
    meta = read_meta(beside / META)
    if meta.vocab is None and config.vocab is None:
        meta = dataclasses.replace(meta, **_nanogpt_vocab(beside / NANOGPT_META))
    layout = _layout(config, meta)
    try:
        stamps = stamp([*files, *indices])
    except OSError as error:  # removed meanwhile
        raise PlanError(f"{error.filename} cannot be read: {error.strerror}.") from error
    # Every setting that `_map_files` reads, or one corpus would be mistaken for another.
    read = [config.path, config.cache, config.splits, config.heldout_tokens, config.vocab]
    read += [config.bytes_per_token, dataclasses.asdict(layout), dataclasses.asdict(meta)]
    key = digest([read, seq_len, stamps])
    if key not in _opened:
        _opened.clear()
        _opened[key] = _map_files(config, seq_len, root, files, stamps, meta, layout)
    return _opened[key]


_opened: dict[str, TokenizedCorpus] = {}
"""The corpus that was opened last: the cells of a grid share it, and mapping 20,000 files anew for
each of them takes 10 s."""


def _map_files(
    config: DataConfig,
    seq_len: int,
    root: Path,
    files: list[Path],
    stamps: list[tuple[str, int, int, int]],
    meta: ShardMeta,
    layout: Layout,
) -> TokenizedCorpus:
    """Map the files and split them."""
    facts = compute_once(
        cache_folder(config.cache),
        ["token files", VERSION, dataclasses.asdict(layout), stamps],
        lambda: _examine(files, layout),
    )
    found = [TokenFile(path=f, **row) for f, row in zip(files, facts["files"], strict=True)]
    shards = [file.open() for file in found]
    vocab, reason = _vocabulary(config, meta, facts, files)
    by_name = config.splits == "names" and root.is_dir()
    relative = [file.relative_to(root).as_posix() if by_name else "" for file in files]
    train, heldout, split_words = _split(config, seq_len, shards, relative)
    bytes_per_token = config.bytes_per_token or meta.bytes_per_token
    return TokenizedCorpus(
        name=f"tokens:{root.resolve().name}",
        hash=digest([facts["hash"], _roles(relative), bytes_per_token]),
        vocab=vocab,
        train=train,
        heldout=heldout,
        bytes_per_token=bytes_per_token,
        verify=partial(_verify, config, found, shards, stamps, facts["hash"]),
        facts=(
            ("files", _files_in_words(found)),
            ("vocabulary", f"{vocab:,}, {reason}"),
            *_documents(found),
            ("tokens", f"{len(train):,} to train on, {len(heldout):,} {split_words}"),
        ),
    )


def _verify(
    config: DataConfig,
    files: Sequence[TokenFile],
    shards: Sequence[Tokens],
    stamps: Sequence[Any],
    content: str,
) -> None:
    """Refuse files that were written to while they were mapped, unless they hold the same.

    A file that was deleted or replaced stays mapped as it was.
    """
    before = {path: (size, mtime, ctime) for path, size, mtime, ctime in stamps}
    now = {path: times for path, *times in stamp([f.path for f in files if f.path.exists()])}
    changed = [path for path, times in now.items() if tuple(times) != before[path]]
    if not changed:
        return
    # Reading beyond the end of a file that was cut would end the process.
    cut = any(now[path][0] < before[path][0] for path in changed)
    if cut or (found := scan(shards)["hash"]) != content:
        raise moved_data(config, "of a file that was cut" if cut else found, content)


def existing_path(config: DataConfig) -> Path:
    """The configured path, which must exist.

    Raises:
        PlanError: No path is given, or it does not exist.
    """
    if config.path is None:
        raise PlanError(
            f"data={config.name} needs data.path=FILE or data.path=FOLDER; none is given."
        )
    root = Path(config.path).expanduser()
    if not root.exists():
        near = [f for f in (root.with_name(root.name + s) for s in SUFFIXES) if f.is_file()]
        advice = f"did you mean {near[0]}?" if near else "give an existing file or folder."
        raise PlanError(
            f"data.path={config.path} does not exist (looked for {root.absolute()}); {advice}"
        )
    if not (root.is_file() or root.is_dir()):
        raise PlanError(
            f"data.path={config.path} is neither a file nor a folder, but a pipe or a device; give "
            "one of them."
        )
    return root


def read_meta(path: Path) -> ShardMeta:
    """Read `meta.json`, or the defaults where there is none.

    Raises:
        PlanError: The file is not JSON, or a value is out of range.
    """
    if not path.exists():
        return ShardMeta()
    try:
        document = json.loads(path.read_text())
        given = {k: document[k] for k in ("dtype", "vocab", "bytes_per_token") if k in document}
        meta = ShardMeta(**given, vocab_from=path.name)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise PlanError(
            f"{path} is not a JSON object of vocab and dtype: {error}. Correct it."
        ) from error
    if meta.dtype is not None and meta.dtype not in DTYPES:
        raise PlanError(f"{path} gives dtype '{meta.dtype}'; known are {', '.join(DTYPES)}.")
    most = _most_vocab(meta.dtype)
    whole = isinstance(meta.vocab, int) and not isinstance(meta.vocab, bool)
    if meta.vocab is not None and not (whole and 0 < meta.vocab <= most):
        kind = meta.dtype or "a vocabulary"
        raise PlanError(f"{path} gives vocab {meta.vocab!r}; {kind} allows 1 to {most}.")
    per_token = meta.bytes_per_token
    if per_token is not None and not (isinstance(per_token, int | float) and per_token > 0):
        raise PlanError(f"{path} gives bytes_per_token {per_token!r}; a positive number is needed.")
    return meta


def _most_vocab(dtype: str | None) -> int:
    """The largest vocabulary of a type, within what a model can have."""
    return MOST_VOCAB if dtype is None else min(MOST_VOCAB, int(np.iinfo(dtype).max) + 1)


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle of dicts, lists, strings and numbers; anything that would run code raises."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it needs {module}.{name}")


def _nanogpt_vocab(path: Path) -> dict[str, Any]:
    """The vocabulary that nanoGPT's `meta.pkl` gives, as fields of `ShardMeta`.

    Raises:
        PlanError: The file cannot be read without running code, or gives no vocabulary.
    """
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > MOST_META_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        with path.open("rb") as stream:
            document = _PlainUnpickler(stream).load()
        vocab = document["vocab_size"]
        if type(vocab) is not int or not 0 < vocab <= MOST_VOCAB:
            raise ValueError(f"its vocab_size is {vocab!r}")
    # A broken pickle raises nearly anything.
    except Exception as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        reason = (reason.strip() or type(error).__name__).splitlines()[0][:80]
        raise PlanError(
            f"{path} gives no vocab_size that can be read without running code ({reason}); set "
            "data.vocab=N."
        ) from error
    return {"vocab": vocab, "vocab_from": path.name}


def _layout(config: DataConfig, meta: ShardMeta) -> Layout:
    """What the configuration and `meta.json` say of the files.

    Raises:
        PlanError: A setting is out of range.
    """
    if config.dtype is not None and config.dtype not in DTYPES:
        raise PlanError(f"data.dtype={config.dtype}; known are {', '.join(DTYPES)}.")
    if config.byte_order not in (None, "little", "big"):
        raise PlanError(f"data.byte_order={config.byte_order}; known are little, big.")
    if config.header_bytes is not None and config.header_bytes < 0:
        raise PlanError(f"data.header_bytes={config.header_bytes}; 0 or more is needed.")
    return Layout(
        dtype=config.dtype,
        byte_order=config.byte_order,
        header_bytes=config.header_bytes,
        claimed=meta.dtype,
    )


def _vocabulary(
    config: DataConfig, meta: ShardMeta, facts: dict[str, Any], files: Sequence[Path]
) -> tuple[int, str]:
    """Size of the vocabulary, and where it is from in words."""
    largest, worst = facts["largest"], files[facts["where"]]
    vocab, source = (config.vocab, "data.vocab") if config.vocab else (meta.vocab, meta.vocab_from)
    if vocab is None:
        if largest >= LARGEST_VOCAB:
            raise PlanError(
                f"{worst} holds the id {largest}, beyond any vocabulary: it has another type, or "
                "was damaged. Set data.dtype, or data.vocab=N where it is meant."
            )
        return largest + 1, "the largest id plus 1 (data.vocab=N sets it)"
    if not 0 < vocab <= MOST_VOCAB:
        raise PlanError(f"{source}={vocab}; 1 to {MOST_VOCAB} is needed.")
    if largest >= vocab:
        raise PlanError(
            f"token {largest} in {worst} is outside the vocabulary of {vocab} that {source} gives; "
            "correct one of the two."
        )
    return vocab, f"by {source}; the largest id is {largest:,}"


def open_shard(path: Path, dtype: str) -> Tokens:
    """Memory-map a raw file of a known type, as the cache holds them.

    Raises:
        PlanError: Its size is not a whole number of tokens.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    count, rest = divmod(path.stat().st_size, kind.itemsize)
    if rest or not count:
        raise PlanError(f"{path} holds {count} {dtype} tokens and {rest} bytes; it was cut.")
    return np.memmap(path, dtype=kind, mode="r", shape=(count,))


def _examine(files: Sequence[Path], layout: Layout) -> dict[str, Any]:
    """Identify and read all files: what `open_shards` needs to know of their content."""
    found = identify(files, layout)
    rows = [dataclasses.asdict(file) for file in found]
    for row in rows:
        del row["path"]
    facts = scan([file.open() for file in found])
    if facts["least"] < 0:
        raise PlanError(
            f"{files[facts['where_least']]} holds the token {facts['least']}; tokens are at least "
            "0. Write it again."
        )
    if facts["least"] == facts["largest"]:
        raise PlanError(
            f"all {sum(f.count for f in found)} tokens in {files[0].parent} are "
            f"{facts['largest']}; nothing can be learned from them. Check data.path and data.dtype."
        )
    return {"files": rows, **facts}


def scan(shards: Sequence[Tokens]) -> dict[str, Any]:
    """Read all shards for their content hash, the largest and least token and where they are."""
    content, largest, least, where, where_least = hashlib.sha256(), -1, 1 << 63, 0, 0
    for number, shard in enumerate(shards):
        for start in range(0, len(shard), SCAN_TOKENS):
            block = np.ascontiguousarray(shard[start : start + SCAN_TOKENS])
            content.update(block.data)
            if (top := int(block.max())) > largest:
                largest, where = top, number
            if (low := int(block.min())) < least:
                least, where_least = low, number
        content.update(f"{shard.dtype}/{len(shard)}".encode())
    return {
        "hash": content.hexdigest()[:16],
        "largest": largest,
        "where": where,
        "least": least,
        "where_least": where_least,
    }


def _find(root: Path) -> tuple[list[Path], list[Path]]:
    """The token files below a folder and their .idx, ordered by path; each file once.

    Raises:
        PlanError: There are none, or some that cannot be read where they lie.
    """
    files: list[str] = []
    linked: list[str] = []
    indices: list[Path] = []
    other = Counter[str]()
    for entry in _walk(str(root), set()):
        stem, suffix = os.path.splitext(entry.name)
        if suffix not in SUFFIXES:
            other[suffix or "no suffix"] += 1
            if suffix in COMPRESSED and os.path.splitext(stem)[1] in SUFFIXES:
                raise PlanError(f"{entry.path} is compressed; unpack it, or move it from {root}.")
            described = os.path.splitext(entry.path)[0] + ".bin"
            if suffix == ".idx" and not os.path.exists(described):
                raise PlanError(f"{entry.path} is an index without its .bin; bring or remove it.")
            if suffix == ".idx":
                indices.append(Path(entry.path))
        elif entry.is_file():
            (linked if entry.is_symlink() else files).append(entry.path)
        elif entry.is_symlink():
            raise PlanError(
                f"{entry.path} is a link to {os.readlink(entry.path)}, which does not exist."
            )
    if linked:
        by_place = {os.path.realpath(path): path for path in sorted([*files, *linked])[::-1]}
        files = list(by_place.values())
    if not files:
        there = ", ".join(f"{n} of {kind}" for kind, n in other.most_common(4))
        raise PlanError(
            f"no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} below {root}"
            f"{f' ({there})' if there else ''}; for text files use data=text."
        )
    return sorted(map(Path, files)), indices


def _walk(folder: str, seen: set[str]) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder without hidden ones; a folder that links reach twice, once."""
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise PlanError(f"{folder} cannot be read: {error.strerror}; correct that.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, seen)
        else:
            yield entry


def _split(
    config: DataConfig, seq_len: int, shards: list[Tokens], names: list[str]
) -> tuple[TokenStream, TokenStream, str]:
    """Training and held-out streams, by file names or at the tail, and how in words."""
    trained, held, unused = split_files(names, Path(str(config.path)))
    if held:
        train, heldout = (stream_of([shards[i] for i in indices]) for indices in (trained, held))
        if train.row_count(seq_len) < 1:
            raise PlanError(
                f"{len(train)} training tokens are below one row of model.seq_len={seq_len}; bring "
                "more tokens, or set a smaller model.seq_len."
            )
        words = f"held out by name ({names[held[0]]}{', ...' * (len(held) > 1)})"
        if unused:
            words += f"; {count_noun(len(unused), 'test file')} left out"
        return train, heldout, words
    total = sum(len(s) for s in shards)
    cut = total - heldout_count(config, seq_len) * seq_len - 1
    check_share(config, seq_len, total)
    train_part, tail = np.array([[0, cut]]), np.array([[cut, total]])
    return stream_of(shards, train_part), stream_of(shards, tail), "held out at the end"


def _roles(names: list[str]) -> list[list[bool]]:
    """For each file, whether its name marks it as validation, and whether as test."""
    splits = [split_of(PurePath(name)) for name in names]
    return [[split == kind for split in splits] for kind in ("valid", "test")]


def _files_in_words(files: Sequence[TokenFile]) -> str:
    """What was found, in words."""
    words = f"{count_noun(len(files), 'file')} of {files[0].words}"
    if (looks := next((f.looks for f in files if f.looks), None)) is not None:
        words += f" by data.dtype, although the bytes look like {looks}"
    return words


def _documents(files: Sequence[TokenFile]) -> list[tuple[str, str]]:
    """The number of documents, as a fact, where the files say it."""
    counts = [f.documents for f in files if f.documents is not None]
    return [("documents", f"{sum(counts):,} by the .idx")] if counts else []


def check_share(config: DataConfig, seq_len: int, total: int) -> None:
    """Refuse a held-out sample that takes more than half of the data.

    Raises:
        PlanError: It takes more than half, or no row is left to train on.
    """
    needed = heldout_count(config, seq_len) * seq_len + 1
    if total < 2 * needed or total - needed <= seq_len:
        advice = f"set data.heldout_tokens={max(1, total // 10)} or bring more text"
        if total < 4 * seq_len:
            advice = f"bring more text, or set model.seq_len={max(1, total // 16)} or less"
        raise PlanError(
            f"{total} tokens in {config.path}, of which data.heldout_tokens="
            f"{config.heldout_tokens} would take more than half; {advice}."
        )
