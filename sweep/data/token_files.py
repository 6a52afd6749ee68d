"""Files of tokens that other programs wrote: what they are, told by content and checked.

    raw         integers and nothing else, as `numpy.tofile` and memory maps leave them (.bin, also
                named .npy, also .ds)
    npy         an array with numpy's own header
    llm.c       256 int32 before the tokens: magic, version, number of tokens
    Megatron    raw integers in .bin; their type, sequences and documents in the .idx beside it

A raw file says nothing of its integers. `dtype_of_bytes` finds their width and byte order where one
reading alone is plausible; else the user has to say it (`data.dtype`, `data.byte_order`,
`data.header_bytes`). What a header, an index or `meta.json` says is held against the content, what
the user says is not. Everything else that goes by the name .bin is refused by its own name.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.errors import PlanError
from sweep.data.token_bytes import (
    HEADER_BYTES,
    SAID,
    Bytes8,
    dtype_of_bytes,
    refuse_foreign,
    refuse_text,
    refuse_unknown_header,
    sample_of,
)

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64")
"""Integers that tokens may be stored as."""
LLMC_DTYPES = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
"""Token type by magic number and version of a header of llm.c, which modded-nanogpt writes too."""
LLMC_OTHERS = {
    20240326: "a model of llm.c",
    20240327: "a training state of llm.c",
    20240328: "a tokenizer of llm.c",
    20240522: "evaluation examples of llm.c",
}
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
"""Codes 6 and 7 are floating point."""
NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the configuration or `meta.json` says of the files; None is to be found out."""

    dtype: str | None = None
    byte_order: str | None = None
    header_bytes: int | None = None
    """Bytes before the tokens; where it is given, a file is raw beyond them."""
    claimed: str | None = None
    """Type that `meta.json` gives, held against the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """A file of tokens, identified."""

    path: Path
    kind: str
    """raw, npy, llm.c or Megatron."""
    dtype: str
    """As numpy writes it, such as <u2."""
    offset: int
    """Bytes before the tokens."""
    count: int
    """Tokens."""
    documents: int | None = None
    sure: bool = True
    """Whether the type is known; False where a small raw file does not show it."""
    looks: str | None = None
    """What its bytes look like, where the user says otherwise."""

    @property
    def words(self) -> str:
        """Kind, type and header in words, such as `raw uint16, little-endian, no header`."""
        order = {"<": ", little-endian", ">": ", big-endian"}.get(self.dtype[0], "")
        header = f", header of {self.offset} bytes" if self.offset else ", no header"
        known = self.kind in ("npy", "Megatron")  # whose headers have no fixed length, or none
        name = np.dtype(self.dtype).newbyteorder("=").name
        return f"{self.kind} {name}{order}{'' if known else header}"

    def open(self) -> NDArray[Any]:
        """Memory-map the tokens, (count,)."""
        shape, dtype = (self.count,), np.dtype(self.dtype)
        return np.memmap(self.path, dtype=dtype, mode="r", offset=self.offset, shape=shape)


def identify(files: Sequence[Path], layout: Layout) -> list[TokenFile]:
    """Find out what each file holds; all of them must hold the same kind of tokens.

    Raises:
        PlanError: A file holds no tokens, was cut, or does not show what its integers are; two
            files differ in kind or type, or hold the same tokens.
    """
    found, refusals, contents = [], [], {}
    for path in files:
        try:
            sample = sample_of(path, layout.header_bytes or 0)
            found.append(_identify_file(path, layout, sample))
            contents[path] = hashlib.blake2b(sample.tobytes()).hexdigest()
        except OSError as error:
            refusals.append(f"{path} cannot be read: {error.strerror or error}; correct that.")
        except PlanError as error:
            refusals.append(str(error))
    if refusals:
        more = f" ({len(refusals) - 1} more files are refused.)" if len(refusals) > 1 else ""
        raise PlanError(refusals[0] + more)
    if layout.byte_order is not None and (own := next((f for f in found if f.kind != "raw"), None)):
        raise PlanError(
            f"data.byte_order={layout.byte_order}, and {own.path} ({own.kind}) says its own; leave "
            "data.byte_order out."
        )
    sure = next((f for f in found if f.sure), None)
    if sure is not None:  # small raw files follow the others
        found = [f if f.sure else _follow(f, sure.dtype) for f in found]
    for file in found:
        if file.words != found[0].words:
            raise PlanError(
                f"{found[0].path} holds {found[0].words} and {file.path} {file.words}; the files "
                "of one data set are of one kind. Keep one of them below data.path."
            )
    _refuse_copies(found, contents)
    return found


def _identify_file(path: Path, layout: Layout, sample: Bytes8) -> TokenFile:
    """Find out what one file holds."""
    size = path.stat().st_size
    if size == 0:
        raise PlanError(f"{path} is empty; remove it or write it again.")
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    if layout.header_bytes is not None:
        return _raw_file(path, layout, sample, size, offset=layout.header_bytes)
    if head.startswith(NPY_MAGIC):
        return _npy_file(path, layout)
    refuse_foreign(path, head, size)
    if (header := _llmc_file(path, layout, head, sample, size)) is not None:
        return header
    index = path.with_suffix(".idx")
    if path == index:
        raise PlanError(f"{path} is an index; give what it describes: {path.with_suffix('.bin')}.")
    if index.exists():
        return _megatron_file(path, index, layout, sample, size)
    if layout.dtype != "uint8":
        refuse_text(path, sample)
    return _raw_file(path, layout, sample, size, offset=0)


def _raw_file(path: Path, layout: Layout, sample: Bytes8, size: int, offset: int) -> TokenFile:
    """A file without a known header; its type is given, claimed or found."""
    said = layout.dtype or layout.claimed
    sure, dtype, looks = True, "<u2", None
    if said is not None:
        dtype = (">" if layout.byte_order == "big" else "<") + np.dtype(said).str[1:]
        if layout.dtype is None:
            _hold_against(path, dtype, sample, "meta.json")
        looks = _contradiction(path, dtype, sample)
    else:
        if layout.header_bytes is None:
            refuse_unknown_header(path, sample)
        dtype, sure = dtype_of_bytes(path, sample)
        if layout.byte_order is not None:
            dtype = (">" if layout.byte_order == "big" else "<") + dtype[1:]
    file = _counted(path, "raw", dtype, size, offset, sure=sure)
    return replace(file, looks=None if looks is None else _name(looks))


def _counted(
    path: Path,
    kind: str,
    dtype: str,
    size: int,
    offset: int,
    *,
    stated: int | None = None,
    documents: int | None = None,
    sure: bool = True,
) -> TokenFile:
    """A file whose length is a whole number of tokens, and the stated one."""
    name = np.dtype(dtype).newbyteorder("=").name
    if size <= offset:
        raise PlanError(f"{path} has {size} bytes and no tokens behind the first {offset} of them.")
    count, rest = divmod(size - offset, np.dtype(dtype).itemsize)
    if rest or (stated is not None and count != stated):
        by_header = "" if stated is None else f" ({stated} by its header)"
        raise PlanError(
            f"{path} holds {count} {name} tokens and {rest} bytes{by_header}; it was cut, or it "
            "has another type: data.dtype=uint16, uint32, ..."
        )
    return TokenFile(
        path=path,
        kind=kind,
        dtype=dtype,
        offset=offset,
        count=count,
        documents=documents,
        sure=sure,
    )


def _follow(file: TokenFile, dtype: str) -> TokenFile:
    """A small raw file with the type of the larger ones beside it."""
    return _counted(file.path, file.kind, dtype, file.path.stat().st_size, file.offset)


def _npy_file(path: Path, layout: Layout) -> TokenFile:
    """An array with numpy's header."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PlanError(
            f"{path} is not a readable .npy file: {str(error).splitlines()[0][:100]}. Write it "
            "again."
        ) from error
    if array.ndim != 1 or array.dtype.name not in DTYPES:
        flat = array.ndim > 1 and array.dtype.name in DTYPES
        advice = " If its rows follow one another, save array.reshape(-1)." if flat else ""
        raise PlanError(
            f"{path} holds {array.dtype} of shape {array.shape}; a one-dimensional array of "
            f"integers is needed. Write it again.{advice}"
        )
    if layout.dtype not in (None, array.dtype.name):
        raise PlanError(
            f"{path} holds {array.dtype.name} by its header, and data.dtype={layout.dtype} says "
            "otherwise; leave data.dtype out."
        )
    if not len(array):
        raise PlanError(f"{path} is empty; remove it or write it again.")
    return TokenFile(
        path=path, kind="npy", dtype=array.dtype.str, offset=array.offset, count=len(array)
    )


def _llmc_file(
    path: Path, layout: Layout, head: bytes, sample: Bytes8, size: int
) -> TokenFile | None:
    """A file with a header of llm.c; None where there is none."""
    for order in "<>":
        magic, version, count = np.frombuffer(head[:12].ljust(12, b"\0"), f"{order}i4").tolist()
        if magic in LLMC_OTHERS and len(head) == HEADER_BYTES:
            raise PlanError(f"{path} holds {LLMC_OTHERS[magic]}, not tokens; remove it.")
        if magic not in {known for known, _ in LLMC_DTYPES}:
            continue
        name = layout.dtype or LLMC_DTYPES.get((magic, version))
        if name is None:
            known = ", ".join(f"{m} version {v}" for m, v in LLMC_DTYPES)
            raise PlanError(
                f"{path} has a header {magic} version {version}, and known are {known}; say what "
                f"follows it: data.header_bytes={HEADER_BYTES} data.dtype=uint16, say."
            )
        dtype = order + np.dtype(name).str[1:]
        file = _counted(path, "llm.c", dtype, size, HEADER_BYTES, stated=count)
        if layout.dtype is None:
            _hold_against(path, dtype, sample[HEADER_BYTES // 8 :], "its header")
        return file
    return None


def _megatron_file(path: Path, index: Path, layout: Layout, sample: Bytes8, size: int) -> TokenFile:
    """A .bin with the .idx that describes it."""
    code, tokens, documents = read_index(index)
    name = MEGATRON_DTYPES[code]
    if layout.dtype not in (None, name):
        raise PlanError(
            f"{index} says {name}, and data.dtype={layout.dtype} says otherwise; leave data.dtype "
            "out, or set data.header_bytes=0 to read the .bin without its index."
        )
    dtype = np.dtype(name).newbyteorder("<").str
    if size != tokens * np.dtype(dtype).itemsize:
        raise PlanError(
            f"{path} has {size} bytes, and {index.name} lists {tokens} tokens of {name}; one of "
            "the two was cut or belongs to another file. Write both again."
        )
    _hold_against(path, dtype, sample, index.name)
    return _counted(path, "Megatron", dtype, size, 0, documents=documents)


def read_index(path: Path) -> tuple[int, int, int]:
    """Read the .idx of Megatron.

    Returns:
        Code of the integers' type, number of tokens, number of documents.

    Raises:
        PlanError: It is of another kind, was cut, or describes what is not one run of tokens.

    Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py: magic (9 bytes), version, code,
    number of sequences and of document borders; then the lengths of the sequences (int32), where
    they begin (int64, bytes), and the borders (int64).
    """
    content = path.read_bytes() if path.stat().st_size < 34 else np.memmap(path, np.uint8, "r")
    head = bytes(content[:34])
    if head.startswith(b"TNTIDX"):
        raise PlanError(
            f"{path} is an index of the old kind of Megatron; write the data again with "
            "--dataset-impl mmap."
        )
    if len(head) < 34 or not head.startswith(MEGATRON_MAGIC):
        raise PlanError(
            f"{path} is not an index of Megatron, or was cut; write it again, or set "
            "data.header_bytes=0 to read the .bin without it."
        )
    version, code, sequences, borders = struct.unpack("<QBQQ", head[9:])
    lengths_end = 34 + 4 * sequences
    expected = lengths_end + 8 * sequences + 8 * borders
    if version != 1 or len(content) not in (expected, expected + sequences):
        raise PlanError(
            f"{path} lists {sequences} sequences and {borders} documents (version {version}) in "
            f"{len(content)} bytes, where {expected} are needed; it was cut. Write it again."
        )
    if code not in MEGATRON_DTYPES:
        raise PlanError(f"{path} gives the type {code}, which is no integer; write tokens.")
    lengths = np.frombuffer(content, "<i4", sequences, 34).astype(np.int64)
    starts = np.frombuffer(content, "<i8", sequences, lengths_end)
    ends = np.cumsum(lengths) * np.dtype(MEGATRON_DTYPES[code]).itemsize
    if sequences and (lengths.min() < 0 or starts[0] or (starts[1:] != ends[:-1]).any()):
        raise PlanError(
            f"{path} lists sequences that leave gaps or overlap; tokens that follow one another "
            "are needed. Write the data again."
        )
    return code, int(lengths.sum()), max(int(borders) - 1, 0) or int(sequences)


def _hold_against(path: Path, dtype: str, sample: Bytes8, who: str) -> None:
    """Refuse a stated type that the content contradicts."""
    if (found := _contradiction(path, dtype, sample)) is not None:
        raise PlanError(
            f"{path} holds {_name(dtype)} by {who}, but its bytes are those of {_name(found)}: as "
            f"{_name(dtype)}, {_pattern(found, dtype)}. Correct {who}, or {SAID}"
        )


def _contradiction(path: Path, dtype: str, sample: Bytes8) -> str | None:
    """The type that the content shows, where it is plainly not the stated one."""
    try:
        found, sure = dtype_of_bytes(path, sample)
    except PlanError:
        return None  # the content does not show it
    same = np.dtype(found).itemsize == np.dtype(dtype).itemsize and found[0] == dtype[0]
    return None if same or not sure else found


def _name(dtype: str) -> str:
    """A type in words, such as `big-endian uint32`."""
    return ("big-endian " if dtype[0] == ">" else "") + np.dtype(dtype).newbyteorder("=").name


def _pattern(found: str, read: str) -> str:
    """What is wrong with bytes of one type when they are read as another."""
    if np.dtype(found).itemsize > np.dtype(read).itemsize:
        return "zeros or nearly so stand at every second place"
    return "ids are swapped or far beyond any vocabulary"


def _refuse_copies(files: Sequence[TokenFile], contents: dict[Path, str]) -> None:
    """Refuse two files of the same content: their tokens would count as different ones."""
    seen: dict[tuple[int, str], TokenFile] = {}
    for file in files:
        key = (file.count, contents[file.path])
        other = seen.setdefault(key, file)
        if other is not file and _same_tokens(file, other):
            raise PlanError(
                f"{file.path} holds the same tokens as {other.path}; remove one of the two."
            )


def _same_tokens(one: TokenFile, other: TokenFile) -> bool:
    """Whether two files of one length hold the same tokens."""
    a, b = one.open(), other.open()
    step = 1 << 24
    return all(np.array_equal(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step))
