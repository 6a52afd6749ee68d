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
    found = np.zeros(tokens.shape, np.uint64)
    for length in range(1, size + 1):
        found = _longer(found, tokens, length)
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
    hashes = (ngram_hashes(np.asarray(text, dtype=np.int64), NGRAM) for text in texts)
    return [float(1 - _held(own, known).mean()) for own in hashes if len(own)]


def longest_matches(texts: Sequence[Sequence[int]], training: NDArray[np.int64]) -> list[int]:
    """Length of the longest part of each text that a training row holds [tokens]."""
    longest = [0] * len(texts)
    tokens = {n: np.asarray(text, dtype=np.int64) for n, text in enumerate(texts)}
    hashes = {n: np.zeros(len(text), np.uint64) for n, text in tokens.items()}
    rows = np.zeros(training.shape, np.uint64)
    for size in range(1, training.shape[-1] + 1):
        rows = _longer(rows, training, size)
        known = np.unique(rows)
        grown = {n: _longer(own, tokens[n], size) for n, own in hashes.items()}
        hashes = {n: own for n, own in grown.items() if _held(own, known).any()}
        for n in hashes:
            longest[n] = size
        if not hashes:
            break
    return longest


def _longer(hashes: Hashes, tokens: NDArray[np.int64], size: int) -> Hashes:
    """Hashes of sequences of `size` tokens from those of one token less."""
    count = max(tokens.shape[-1] - size + 1, 0)
    last = tokens[..., size - 1 :].astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        return finalised(hashes[..., :count] * GOLDEN_GAMMA + last)


def _held(hashes: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Which hashes are among sorted ones."""
    place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[place] == hashes)
