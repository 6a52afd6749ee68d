"""Seeded orders without memory: a keyed permutation that gives any position at once.

A balanced Feistel network permutes the smallest square domain of 4^k values that holds n; a value
that falls outside n is sent through again until it lands inside (cycle walking), which leaves a
permutation of n. The domain is below 4n, so a value takes fewer than four walks on average.

Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Luby and Rackoff need 4; six leave no visible structure in domains of a few values either."""

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


def mixed(values: Words) -> Words:
    """Scramble 64-bit words, one to one.

    Source: the finaliser of SplitMix64, Steele et al. 2014.
    """
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def key_of(*parts: int) -> Words:
    """One 64-bit key, shape (1,), from integers of any sign and size."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mixed(key ^ np.array([part % 2**64], dtype=np.uint64))
    return key


def permuted(positions: Ints, size: int, *key: int) -> Ints:
    """Where a keyed permutation of range(size) sends some positions.

    Args:
        positions: (n,), each in [0, size).
        size: Number of things permuted, positive.
        key: Integers that choose the permutation, such as a seed and an epoch.

    Returns:
        (n,) in [0, size); all positions together give every value once.
    """
    if size == 1:
        return np.zeros(len(positions), dtype=np.int64)
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = [key_of(*key, number) for number in range(ROUNDS)]
    values = _feistel(positions.astype(np.uint64), half, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _feistel(values[outside], half, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: Words, half: np.uint64, keys: list[Words]) -> Words:
    """One pass through the network on words of 2 * half bits."""
    mask = np.uint64((1 << int(half)) - 1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return np.asarray((left << half) | right, dtype=np.uint64)
