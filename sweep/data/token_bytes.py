"""What the bytes of a file are: integers of some width and order, or another format.

`sample_of` reads evenly spaced blocks of a file, `dtype_of_bytes` finds the integers in them, and
the functions that refuse name what is no file of tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.errors import PlanError
from sweep.data import decoding

FOREIGN = {
    b"\x1f\x8b\x08": "gzip data; unpack it",
    b"\x28\xb5\x2f\xfd": "zstd data; unpack it",
    b"\xfd7zXZ\x00": "xz data; unpack it",
    b"BZh91AY&SY": "bzip2 data; unpack it",  # two letters alone may be a token
    b"\x04\x22\x4d\x18": "lz4 data; unpack it",
    **decoding.FOREIGN,
    b"\xff\xfe\x00\x00": "text in UTF-32; use data=text",
    b"\xff\xfe": "text in UTF-16; use data=text",
    b"\xfe\xff": "text in UTF-16; use data=text",
}
"""What a file is that begins so, and what to do with it."""
BLOCK_BYTES = 1 << 16
BLOCKS = 16
"""The content is judged by so many blocks, evenly spaced: 1 MiB of a file."""
SURE_BYTES = 4096
"""Below it, byte frequencies say too little; a small file follows the others of its folder."""
LARGEST_VOCAB = 1 << 20
"""Ids beyond it are taken for another width: the largest published vocabularies have 0.9 M."""
SAID = "say what it holds: data.dtype=uint16, uint32, ..."
HEADER_BYTES = 1024
"""Length of a header of llm.c: 256 int32."""

Bytes8 = NDArray[np.uint8]


def sample_of(path: Path, offset: int = 0) -> Bytes8:
    """Bytes of a file from evenly spaced blocks, (n, 8), each row at a multiple of 8."""
    size = path.stat().st_size - offset
    whole = size <= BLOCKS * BLOCK_BYTES
    places = range(1 if whole else BLOCKS)
    starts = [int(i * (size - BLOCK_BYTES) / (BLOCKS - 1)) & ~7 for i in places]
    parts = []
    with path.open("rb") as stream:
        for start in starts:
            stream.seek(offset + start)
            parts.append(stream.read(max(0, size) if whole else BLOCK_BYTES))
    content = b"".join(parts)
    return np.frombuffer(content[: len(content) & ~7], np.uint8).reshape(-1, 8)


def dtype_of_bytes(path: Path, sample: Bytes8) -> tuple[str, bool]:
    """Find the integers in a file by the frequencies of its bytes.

    Ids are small numbers: the upper bytes of wide integers are zero, or nearly so. Of 2-byte
    integers the upper byte takes fewer values than the lower one, with the same frequencies in
    every token, at odd and at even places.

    Args:
        path: For messages.
        sample: (n, 8) bytes, each row at a multiple of 8 from the first token.

    Returns:
        The type as numpy writes it, and whether it is known (False: the file is too small).

    Raises:
        PlanError: No reading is plausible.
    """
    rows = sample[sample.any(axis=1)]  # padding says nothing
    if not len(rows):
        if len(sample) * 8 >= SURE_BYTES:
            raise PlanError(f"{path} holds zeros only, as far as it was read; tokens are needed.")
        return "<u2", False
    enough = len(rows) * 8 >= SURE_BYTES
    for width in (8, 4):
        for order in "<>":
            if _wide(rows, width, order):
                return f"{order}u{width}".replace("u8", "i8"), enough
    if not enough:
        return "<u2", False
    lanes = [np.bincount(rows[:, i], minlength=256) / len(rows) for i in range(8)]
    noise = float(np.sqrt(256 / len(rows)))  # about twice the distance of two such samples
    first, second = np.mean(lanes[0::2], axis=0), np.mean(lanes[1::2], axis=0)
    if first[0] == 1.0:
        return ">u2", True
    if _distance(first, second) < 0.05 + noise / 2:
        if _bits(first) > 7.9:
            raise PlanError(f"{path} holds bytes without structure, as compressed data do; {SAID}.")
        raise PlanError(
            f"{path} holds single bytes or text, not 16-bit tokens; for text use data=text, for "
            "bytes data.dtype=uint8."
        )
    zeros = (np.ascontiguousarray(rows).view("<u2") == 0).mean(axis=0)
    if zeros.max() - zeros.min() > 0.4:
        raise PlanError(
            f"{path} does not show 16-bit tokens: {zeros.max():.0%} of those at every second place "
            f"are zero, as in wider integers with negative ones. Correct it, or {SAID}."
        )
    signed = _distance(second, np.roll(second, 128))  # the upper bit is that of a sign
    if _bits(first) > 7.9 and signed < 0.1:
        raise PlanError(
            f"{path} holds 16-bit floating-point numbers by the look of its bytes, not tokens. "
            f"Correct it, or {SAID}."
        )
    apart = max(_distance(one, other) for one in lanes[1::2] for other in lanes[1::2])
    if apart > 0.5 + noise:
        raise PlanError(
            f"{path} does not show 16-bit tokens: the numbers at every second place are of another "
            f"kind, as in floating-point numbers or wider integers. Correct it, or {SAID}."
        )
    if _bits(first) < _bits(second) - 0.5:
        raise PlanError(
            f"{path} holds 16-bit tokens that look big-endian: the first byte of each takes fewer "
            "values than the second. Say which: data.byte_order=big or little, with "
            "data.dtype=uint16."
        )
    return "<u2", True


def _wide(rows: Bytes8, width: int, order: str) -> bool:
    """Whether rows of 8 bytes are ids in integers of 4 or 8 bytes.

    Those of 16-bit tokens of a tiny vocabulary have zeros too, but the same at every place: ids
    above 65535 mean that the two bytes below are used.
    """
    places = rows.reshape(-1, width) if order == "<" else rows.reshape(-1, width)[:, ::-1]
    places = places[places.any(axis=1)]
    if (places[:, 3:] != 0).any(axis=1).mean() > 0.05:
        return False
    third = places[:, 2]
    if (third == 0).mean() >= 0.999:
        return True
    return bool((third < LARGEST_VOCAB >> 16).mean() > 0.95 and places[:, 1].max() >= 64)


def _distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Total variation distance of two distributions, 0 to 1."""
    return float(np.abs(one - other).sum() / 2)


def _bits(shares: NDArray[Any]) -> float:
    """Entropy of a distribution [bits]."""
    used = shares[shares > 0]
    return float(-(used * np.log2(used)).sum())


def refuse_foreign(path: Path, head: bytes, size: int) -> None:
    """Refuse files of other formats, by name."""
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise PlanError(
                f"{path} is {what}. Token files are needed; data.header_bytes=0 reads it as one."
            )
    length = int.from_bytes(head[:8], "little")
    if head[8:10] == b'{"' and length <= size:
        raise PlanError(f"{path} holds weights in safetensors, not tokens; remove it.")
    if head[257:262] == b"ustar":
        raise PlanError(f"{path} is a tar archive; unpack it.")
    items = int.from_bytes(head[:4], "little")
    if 0 < items < size // 4 and int.from_bytes(head[4:8], "little") == 4 * (items + 2):
        with path.open("rb") as stream:
            offsets = np.frombuffer(stream.read(4 * (items + 2)), "<u4")[1:].astype(np.int64)
        if offsets[-1] == size and (np.diff(offsets) >= 0).all():
            raise PlanError(
                f"{path} is a chunk of litdata ({items} items behind an index), which is not read; "
                "write its tokens one after the other as uint16 or uint32 (numpy.tofile)."
            )
    index = path.parent / "index.json"
    if path.name.startswith("chunk-") and index.exists():
        try:
            litdata = "chunks" in json.loads(index.read_text())
        except (ValueError, TypeError, RecursionError):
            litdata = False
        if litdata:
            raise PlanError(
                f"{path} is a chunk of litdata that was cut or compressed; litdata is not read: "
                "write the tokens one after the other as uint16 or uint32 (numpy.tofile)."
            )


def refuse_text(path: Path, sample: Bytes8) -> None:
    """Refuse text, which would give plausible 16-bit numbers: it has next to no control bytes."""
    flat = sample.ravel()
    control = (flat < 32) & ~np.isin(flat, (9, 10, 12, 13))
    if flat.size >= 64 and control.mean() < 0.001:
        text = flat[:24].tobytes().decode(errors="replace")
        raise PlanError(
            f"{path} is text ({text.splitlines()[0]!r}), not tokens; use data=text, or "
            "data.dtype=uint8 to take its bytes as tokens."
        )


def refuse_unknown_header(path: Path, sample: Bytes8) -> None:
    """Refuse a file that begins with a block of zeros as headers have, unlike the rest of it."""
    zero = np.asarray(~sample.any(axis=1))
    first, rest = zero[: HEADER_BYTES // 8], zero[HEADER_BYTES // 8 :]
    if len(rest) * 8 >= SURE_BYTES and first.mean() > 0.5 and rest.mean() < 0.1:
        number = int.from_bytes(sample[0, :4].tobytes(), "little")
        raise PlanError(
            f"{path} begins like an unknown header ({number}, then zeros); say how long it is: "
            f"data.header_bytes={HEADER_BYTES}, or 0 where there is none."
        )
