"""The data source `tokens`: shards that another program wrote, `.bin` or `.npy`, memory-mapped.

A `.bin` holds little-endian uint16, or what `meta.json` beside it says: {"vocab": 50257, "dtype":
"uint32", "bytes_per_token": 4.2}, each key optional. A 1024-byte header of 256 int32 (as llm.c
writes: magic, version, token count) is recognised and skipped.

Files with the word `val`, `valid`, `validation` or `heldout` in their names or folders are held
out, else those with the word `test`; the rest is trained on. Where no file is named so, the tail of
the last file is held out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit.errors import PlanError
from sweep.cache import META, cache_folder, compute_once, digest, stamp
from sweep.config import DataConfig
from sweep.data.rows import TokenizedCorpus, Tokens, TokenStream, heldout_count, stream_of

SUFFIXES = (".bin", ".npy")
DTYPES = ("uint16", "uint32")
LLMC_HEADER_BYTES = 1024
LLMC_DTYPES = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
"""Token type by magic number and version of a header of llm.c."""
SCAN_TOKENS = 1 << 24
"""Tokens read at once where a shard is hashed."""
_HELDOUT = re.compile(r"(^|[^a-z])(val|valid|validation|heldout)([^a-z]|$)")
_TEST = re.compile(r"(^|[^a-z])test([^a-z]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeta:
    """Contents of `meta.json` beside the shards."""

    dtype: str = "uint16"
    vocab: int | None = None
    bytes_per_token: float | None = None


def open_shards(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open a file or a folder of shards.

    Raises:
        PlanError: There are no shards or too few tokens, the size of one is not a whole number of
            tokens, or a token is outside the vocabulary.
    """
    root = existing_path(config)
    files = [root] if root.is_file() else _find(root)
    meta = read_meta((root if root.is_dir() else root.parent) / META)
    shards = [open_shard(file, meta.dtype) for file in files]
    facts = compute_once(
        cache_folder(config.cache),
        ["scan", meta.dtype, stamp(files)],
        lambda: scan(shards),
    )
    vocab = facts["largest"] + 1 if meta.vocab is None else meta.vocab
    if facts["largest"] >= vocab:
        worst = files[facts["where"]]
        raise PlanError(
            f"token {facts['largest']} in {worst} is outside the vocabulary of {vocab} that "
            f"{META} gives; correct one of the two."
        )
    relative = [file.relative_to(root).as_posix() if root.is_dir() else "" for file in files]
    train, heldout = _split(config, seq_len, shards, relative)
    bytes_per_token = config.bytes_per_token or meta.bytes_per_token
    return TokenizedCorpus(
        name=f"tokens:{root.resolve().name}",
        hash=digest([facts["hash"], _roles(relative), bytes_per_token]),
        vocab=vocab,
        train=train,
        heldout=heldout,
        bytes_per_token=bytes_per_token,
    )


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
        raise PlanError(
            f"data.path={config.path} does not exist (looked for {root.absolute()}); give an "
            "existing file or folder."
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
        meta = ShardMeta(
            **{k: document[k] for k in ShardMeta.__dataclass_fields__ if k in document}
        )
    except (ValueError, TypeError) as error:
        raise PlanError(
            f"{path} is not a JSON object of vocab and dtype: {error}. Correct it."
        ) from error
    if meta.dtype not in DTYPES:
        raise PlanError(f"{path} gives dtype '{meta.dtype}'; known are {', '.join(DTYPES)}.")
    limit = np.iinfo(meta.dtype).max + 1
    if meta.vocab is not None and not 0 < meta.vocab <= limit:
        raise PlanError(f"{path} gives vocab {meta.vocab}; {meta.dtype} allows 1 to {limit}.")
    return meta


def open_shard(path: Path, dtype: str) -> Tokens:
    """Memory-map one shard.

    Raises:
        PlanError: The file is empty, of a wrong size, or not a one-dimensional array of integers.
    """
    if path.stat().st_size == 0:
        raise PlanError(f"{path} is empty; remove it or write it again.")
    if path.suffix == ".npy":
        return _open_npy(path)
    with path.open("rb") as stream:
        header = np.frombuffer(stream.read(LLMC_HEADER_BYTES)[:12].ljust(12, b"\0"), "<i4")
    header_dtype = LLMC_DTYPES.get((int(header[0]), int(header[1])))
    offset = 0 if header_dtype is None else LLMC_HEADER_BYTES
    dtype = header_dtype or dtype
    kind = np.dtype(dtype).newbyteorder("<")
    count, rest = divmod(path.stat().st_size - offset, kind.itemsize)
    if rest or (offset and count != header[2]):
        by_header = f" ({header[2]} by its header)" if offset else ""
        raise PlanError(
            f"{path} holds {count} {dtype} tokens and {rest} bytes{by_header}; it was cut, or "
            f"it has another dtype: give that in {META}."
        )
    return np.memmap(path, dtype=kind, mode="r", offset=offset, shape=(count,))


def scan(shards: list[Tokens]) -> dict[str, Any]:
    """Read all shards for their content hash, the largest token and the shard that has it."""
    digest, largest, where = hashlib.sha256(), -1, 0
    for number, shard in enumerate(shards):
        for start in range(0, len(shard), SCAN_TOKENS):
            block = np.ascontiguousarray(shard[start : start + SCAN_TOKENS])
            digest.update(block.data)
            if (top := int(block.max())) > largest:
                largest, where = top, number
            if block.dtype.kind == "i" and block.min() < 0:
                raise PlanError(
                    f"shard {number} holds the token {block.min()}; tokens are at least 0. "
                    "Write it again."
                )
        digest.update(f"{shard.dtype}/{len(shard)}".encode())
    return {"hash": digest.hexdigest()[:16], "largest": largest, "where": where}


def _open_npy(path: Path) -> Tokens:
    """Memory-map a `.npy`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PlanError(f"{path} is not a readable .npy file: {error}. Write it again.") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise PlanError(
            f"{path} holds {array.dtype} of shape {array.shape}; a one-dimensional array of "
            "integers is needed. Write it again."
        )
    return np.asarray(array)


def _find(root: Path) -> list[Path]:
    """Find the shards below a folder, ordered by path."""
    files = sorted(f for f in root.rglob("*") if f.suffix in SUFFIXES and f.is_file())
    if not files:
        raise PlanError(f"no {' or '.join(SUFFIXES)} below {root}; for text files use data=text.")
    return files


def _split(
    config: DataConfig, seq_len: int, shards: list[Tokens], names: list[str]
) -> tuple[TokenStream, TokenStream]:
    """Split into training and held-out streams, by file names or at the tail."""
    is_validation, is_test = _roles(names)
    is_heldout = is_validation if any(is_validation) else is_test
    not_trained = [a or b for a, b in zip(is_validation, is_test, strict=True)]
    if any(is_heldout) and not all(not_trained):
        train = stream_of([s for s, out in zip(shards, not_trained, strict=True) if not out])
        heldout = stream_of([s for s, chosen in zip(shards, is_heldout, strict=True) if chosen])
        if train.row_count(seq_len) < 1:
            raise PlanError(
                f"{len(train)} training tokens are below one row of model.seq_len={seq_len}; bring "
                "more tokens, or set a smaller model.seq_len."
            )
        return train, heldout
    total = sum(len(s) for s in shards)
    cut = total - heldout_count(config, seq_len) * seq_len - 1
    check_share(config, seq_len, total)
    train_part, tail = np.array([[0, cut]]), np.array([[cut, total]])
    return stream_of(shards, train_part), stream_of(shards, tail)


def _roles(names: list[str]) -> list[list[bool]]:
    """For each file, whether its name marks it as validation, and whether as test."""
    return [[bool(kind.search(n.lower())) for n in names] for kind in (_HELDOUT, _TEST)]


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
