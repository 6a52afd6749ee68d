"""Which stretches of a tokenised corpus are held out: by document, and no more than needed.

A document's place in the draw is a keyed hash of its content, so that neither file names nor order
matter, and a text that occurs twice cannot be on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.order import Ints, Words, key_of, mixed

LONGEST = 4
"""A document above 1/4 of the held-out sample is never held out: it would be most of it."""
BLOCKS = 16
"""Blocks that the sample is made of where documents are too long to be held out whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Intervals of the corpus, (n, 2) begin and end [tokens], ascending and disjoint."""

    train: Ints
    heldout: Ints


def split(ends: Ints, keys: Words, *, heldout_tokens: int, seed: int) -> Split:
    """Hold out at least so many tokens.

    Args:
        ends: (documents,) where each document ends in the corpus, ascending [tokens].
        keys: (documents,) hash of each document's content.
        heldout_tokens: Tokens needed, at most half of the corpus.
        seed: Another seed holds out other documents.

    Returns:
        Whole documents where those short enough make up half of the text, else blocks of documents.
    """
    starts = np.concatenate([[0], ends[:-1]])
    short = ends - starts <= heldout_tokens // LONGEST
    if 2 * (ends - starts)[short].sum() < ends[-1]:
        starts, ends, keys = _blocks(starts, ends, keys, max(1, heldout_tokens // BLOCKS))
        short = np.ones(len(ends), dtype=bool)
    draw = np.where(short, mixed(keys ^ key_of(seed)), np.uint64(2**64 - 1))
    order = np.argsort(draw, kind="stable")
    reached = np.cumsum((ends - starts)[order])
    chosen = np.zeros(len(ends), dtype=bool)
    chosen[order[: np.searchsorted(reached, heldout_tokens) + 1]] = True
    return Split(
        train=_joined(starts, ends, ~chosen), heldout=np.stack([starts, ends], axis=1)[chosen]
    )


def _blocks(starts: Ints, ends: Ints, keys: Words, size: int) -> tuple[Ints, Ints, Words]:
    """Cut every document into blocks of at most `size` tokens."""
    counts = -(-(ends - starts) // size)
    owner = np.repeat(np.arange(len(ends)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = starts[owner] + number * size
    end = np.minimum(begin + size, ends[owner])
    return begin, end, mixed(keys[owner] ^ mixed(number.astype(np.uint64)))


def _joined(starts: Ints, ends: Ints, chosen: NDArray[np.bool_]) -> Ints:
    """Runs of chosen neighbours as one interval each."""
    edge = np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8))
    first, last = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1) - 1
    return np.stack([starts[first], ends[last]], axis=1)
