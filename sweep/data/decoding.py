"""From the bytes of a file to text: its compression and its encoding, found by content.

    compression   gzip, bz2, xz, zstd, by their first bytes; archives (zip, tar, 7z) are refused
    encoding      UTF-8, and UTF-16 and UTF-32 with or without a mark; others are to be named

A refusal's message goes on after the file's name.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
from pathlib import Path
from typing import IO, Any

from fit.errors import PlanError

BLOCK_BYTES = 1 << 20
COMPRESSIONS = {
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
}
"""First bytes of each compression, by its suffix."""
FOREIGN = {
    b"PK\x03\x04": "a zip archive (as are .docx, .epub and .npz files)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"ARROW1": "an Arrow file (data=hf reads folders of them)",
    b"PAR1": "a parquet file without its suffix .parquet",
    b"SQLite format 3": "a SQLite database",
    b"\x80\x04\x95": "a pickle, which is not opened",
}
"""What is no text, by its first bytes."""
_HIGH_BYTES = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(0x80, 0xC0))
TWICE_ENCODED = re.compile(f"[\u00c3\u00c2][{re.escape(_HIGH_BYTES)}]|\u00e2\u20ac.")
"""What UTF-8 of a letter with an accent, or of a typographic quote, looks like as cp1252."""
LEAST_TWICE_ENCODED = 3


def open_decompressed(path: Path) -> IO[bytes]:
    """Open a file for its decompressed bytes, the compression found by content.

    Raises:
        PlanError: It has the suffix of a compression and another content.
    """
    with path.open("rb") as raw:
        head = raw.read(8)
    suffix = next((s for s, magic in COMPRESSIONS.items() if head.startswith(magic)), None)
    named = path.suffix.lower()
    if head and named in COMPRESSIONS and suffix != named:
        raise PlanError(f"is named {named} and is not compressed so; rename it")
    match suffix:
        case ".gz":
            return io.BufferedReader(gzip.open(path))
        case ".bz2":
            return bz2.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            return _open_zstd(path)
    return path.open("rb")


def _open_zstd(path: Path) -> IO[bytes]:
    """Open a zstd file; pyarrow reads it, which parquet needs anyway."""
    import pyarrow

    # Frames are counted by pyarrow: a stream that was cut ends in an error, not in less text.
    stream = pyarrow.input_stream(str(path), compression="zstd")
    return io.BufferedReader(_RawArrow(stream), BLOCK_BYTES)


class _RawArrow(io.RawIOBase):
    """A stream of pyarrow as one of Python."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def refuse_foreign(head: bytes) -> None:
    """Refuse what is known by its first bytes to be no text.

    Raises:
        PlanError: It is one of `FOREIGN`, or a tar archive.
    """
    foreign = next((what for magic, what in FOREIGN.items() if head.startswith(magic)), None)
    if foreign is not None:
        raise PlanError(f"is {foreign}")
    if head[257:262] == b"ustar":
        raise PlanError("is a tar archive, which has to be unpacked first")


def refuse_syntax(head: str) -> None:
    """Refuse a plain text that is the syntax of something else, as which it would be trained on.

    Raises:
        PlanError: It holds JSON lines or markup.
    """
    start = head.lstrip()[:100].lower()
    if start.startswith(("<!doctype html", "<html", "{\\rtf")):
        raise PlanError("holds markup (HTML or RTF), which has to be turned into text first")
    lines = [line for line in head.splitlines()[:-1] if line.strip()][:2]
    if len(lines) == 2 and all(_is_json_object(line) for line in lines):
        raise PlanError("holds one JSON object a line; name it .jsonl")


def _is_json_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes.

    Raises:
        PlanError: It is no text, or its encoding is not certain.
    """
    for mark, codec in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return codec
    if b"\x00" in head:
        return _wide_encoding(head)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        raise PlanError("is not UTF-8 text (Latin-1 or cp1252, perhaps)") from None
    letters = sum(character > "\x7f" for character in text)
    twice = sum(len(match[0]) for match in TWICE_ENCODED.finditer(text))
    if twice >= 2 * LEAST_TWICE_ENCODED and twice > letters / 2:
        raise PlanError(
            "is UTF-8 that was encoded twice, as in 'Ã©' for an accented e (data.encoding=utf-8 "
            "takes it as it is)"
        )
    return "utf-8-sig"


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 without a mark, by where the zero bytes of its ASCII letters stand.

    Raises:
        PlanError: The zeros lie elsewhere: no text.
    """
    count = len(head) // 4 * 4
    zeros = [head[i:count:4].count(0) / max(count // 4, 1) for i in range(4)]
    # Of English text all high bytes are zero; half of them allow for other letters in between.
    for codec, high in (
        ("utf-32-le", (1, 2, 3)),
        ("utf-32-be", (0, 1, 2)),
        ("utf-16-le", (1, 3)),
        ("utf-16-be", (0, 2)),
    ):
        low = [i for i in range(4) if i not in high]
        if all(zeros[i] > 0.5 for i in high) and all(zeros[i] < 0.02 for i in low):
            return codec
    raise PlanError("holds zero bytes: a binary file, or a damaged one")
