"""Answers of the counting game by the number of moves that they take into account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.data.language import Language, Sample
from sweep.data.rows import Ints


def moves_before(grammar: Language, tokens: NDArray[Any], moves: Sequence[str]) -> Ints:
    """Length of the unbroken sequence of moves that ends at each token, (rows, positions)."""
    moving = np.isin(tokens, [grammar.vocab.index(m) for m in moves if m in grammar.vocab])
    place = np.arange(tokens.shape[1])
    return np.asarray(place - np.maximum.accumulate(np.where(moving, -1, place), axis=1))


def parts_by_moves(
    grammar: Language, drawn: Sample, moves: Sequence[str]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Which part of a sample each target token belongs to, and names of the parts.

    Returns:
        Index (rows, seq_len), len(names) for tokens that are no answers; names such as `2 moves`.
    """
    answers = drawn.skill == grammar.skills.index("reasoning")
    counts = np.where(answers, moves_before(grammar, drawn.tokens[:, :-1], moves), 0)
    lengths = np.unique(counts[answers])
    names = tuple(f"{k} {'move' if k == 1 else 'moves'}" for k in lengths)
    index = np.where(answers, np.searchsorted(lengths, counts), len(lengths))
    return index.astype(np.uint8), names
