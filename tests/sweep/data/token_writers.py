"""Token files as other programs write them, for tests."""

import struct

import numpy as np

MEGATRON_CODES = {"u1": 1, "i2": 3, "i4": 4, "i8": 5, "u2": 8}


def with_header(tokens, magic, version, *, count=None, order="<"):
    """A file of llm.c: 256 int32, then the tokens."""
    header = np.zeros(256, f"{order}i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    return header.tobytes() + tokens.tobytes()


def megatron(name, ids, dtype, *, document=100, gap=False):
    """The .bin and .idx of Megatron by file name, in sequences of `document` tokens."""
    item = np.dtype(dtype).itemsize
    sizes = np.full(len(ids) // document, document, "<i4")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype("<i8") * item + 8 * gap
    index = b"MMIDIDX\x00\x00" + struct.pack(
        "<QBQQ", 1, MEGATRON_CODES[dtype], len(sizes), len(sizes) + 1
    )
    borders = np.arange(len(sizes) + 1, dtype="<i8")
    content = index + sizes.tobytes() + starts.tobytes() + borders.tobytes()
    return {f"{name}.bin": np.asarray(ids).astype(f"<{dtype}").tobytes(), f"{name}.idx": content}


def opened_tokens(source):
    """All tokens of the training and of the held-out stream of a source."""
    streams = (source._corpus.train, source._corpus.heldout)
    return [stream._tokens(np.arange(len(stream))) for stream in streams]
