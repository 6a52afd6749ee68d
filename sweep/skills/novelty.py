"""How much of a text is new: not copied from the text that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sweep.data.rows import GOLDEN_GAMMA, finalised

NGRAM = 8
"""Tokens of the sequences that are new or not."""

Hashes = NDArray[np.uint64]


def ngram_hashes(tokens: NDArray[np.int64], size: int) -> Hashes:
    """A 64-bit hash of every `size` adjacent tokens along the last axis, (..., t - size + 1)."""
    count = tokens.shape[-1] - size + 1
    found = np.zeros((*tokens.shape[:-1], max(count, 0)), np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(size if count > 0 else 0):
            piece = tokens[..., offset : offset + count].astype(np.uint64) + np.uint64(1)
            found = finalised(found * GOLDEN_GAMMA + piece)
    return found


def new_shares(texts: Sequence[Sequence[int]], training: NDArray[np.int64]) -> list[float]:
    """Share of each text's sequences of `NGRAM` tokens that training rows do not hold.

    Args:
        texts: Token ids.
        training: Rows of training text, (rows, positions).

    Returns:
        A share per text of at least `NGRAM` tokens, 0 to 1.
    """
    known = np.unique(ngram_hashes(training, NGRAM))
    shares = []
    for text in texts:
        own = ngram_hashes(np.asarray(text, dtype=np.int64), NGRAM)
        if len(own):
            shares.append(float(1 - np.isin(own, known).mean()))
    return shares


def longest_matches(texts: Sequence[Sequence[int]], training: NDArray[np.int64]) -> list[int]:
    """Length of the longest part of each text that a training row holds [tokens]."""
    longest = [0] * len(texts)
    open_texts = [(n, np.asarray(text, dtype=np.int64)) for n, text in enumerate(texts)]
    for size in range(1, training.shape[-1] + 1):
        known = np.unique(ngram_hashes(training, size))
        open_texts = [
            (n, text) for n, text in open_texts if np.isin(ngram_hashes(text, size), known).any()
        ]
        for n, _ in open_texts:
            longest[n] = size
        if not open_texts:
            break
    return longest
