"""From the bytes of a file to text: its compression and its encoding, found by content.

    compression   gzip, bz2, xz, zstd, by their first bytes; archives (zip, tar, 7z) are refused
    encoding      UTF-8, and UTF-16 and UTF-32 with or without a mark; others are to be named

A refusal's message goes on after the file's name.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import IO

from fit.errors import PlanError
from fit.files import COMPRESSIONS, compression_of, open_decompressed

BLOCK_BYTES = 1 << 20
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as .docx, .npz and weights of PyTorch are; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "weights of PyTorch",
    b"\x80\x04\x95": "a Python pickle",
    b"\x80\x05\x95": "a Python pickle",
    b"GGUF": "weights in GGUF",
    b"PAR1": "a parquet table without its suffix .parquet; read its text by data=text",
    b"ARROW1": "an Arrow table; read its text by data=hf",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x7fELF": "a program",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of git-lfs, not its content; run git lfs pull",
}
"""What a file is that begins so, and what to do with it: neither text nor tokens."""
IMAGES = {b"\x89PNG": "an image", b"\xff\xd8\xff": "an image"}
"""Short ones, which a file of tokens may begin with by chance."""
_HIGH_BYTES = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(0x80, 0xC0))
TWICE_ENCODED = re.compile(f"[\u00c3\u00c2][{re.escape(_HIGH_BYTES)}]|\u00e2\u20ac.")
"""What UTF-8 of a letter with an accent, or of a typographic quote, looks like as cp1252."""
LEAST_TWICE_ENCODED = 3


def open_text_bytes(path: Path) -> IO[bytes]:
    """Open a file for its bytes, those of a compressed one decompressed.

    Raises:
        PlanError: It has the suffix of a compression and another content.
    """
    with path.open("rb") as raw:
        head = raw.read(8)
    compression, named = compression_of(head), path.suffix.lower()
    if head and named in COMPRESSIONS and compression != named:
        raise PlanError(f"is named {named} and is not compressed so; rename it")
    return open_decompressed(path, compression)


def refuse_foreign(head: bytes) -> None:
    """Refuse what is known by its first bytes to be no text.

    Raises:
        PlanError: It is one of `FOREIGN`, or a tar archive.
    """
    kinds = (FOREIGN | IMAGES).items()
    foreign = next((what for magic, what in kinds if head.startswith(magic)), None)
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


def encoding_of(head: bytes, named: str | None = None) -> str:
    """The encoding of a text by its first bytes.

    Args:
        head: The first bytes.
        named: The encoding of what is neither marked nor UTF-8.

    Raises:
        PlanError: It is no text, or its encoding is not certain and not named.
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
        # Only of these do zero bytes belong to a text.
        wide = named is not None and codecs.lookup(named).name.startswith(("utf-16", "utf-32"))
        return str(named) if wide else _wide_encoding(head)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        if named is not None:
            return named
        raise PlanError("is not UTF-8 text (Latin-1 or cp1252, perhaps)") from None
    letters = sum(character > "\x7f" for character in text)
    twice = sum(len(match[0]) for match in TWICE_ENCODED.finditer(text))
    if named is None and twice >= 2 * LEAST_TWICE_ENCODED and twice > letters / 2:
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
