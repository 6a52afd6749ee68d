"""N-gram models of a data source: interpolated Kneser-Ney smoothing, vectorised.

    p_m(w | h) = max(c(hw) - D_m, 0) / c(h) + D_m N1(h) / c(h) * p_(m-1)(w | h')

with h' the context without its first token, p_0 uniform over the vocabulary, c the counts of the
highest order, and below it the number of different tokens that an n-gram was seen after. N1(h) is
the number of different tokens seen after h. Where h was never seen, p_m is p_(m-1). The discount of
each order is n1 / (n1 + 2 n2), by the numbers of n-grams with counts of one and two: nothing is
chosen on held-out text.

Rows are texts of their own, as they are to a model: contexts do not cross them, and a mark outside
the vocabulary stands for what is missing before a row's start.

Source: Ney, Essen & Kneser 1994; Chen & Goodman 1999, section 2.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.data.rows import Ints, Rows

Floats = NDArray[np.float64]
NO_SINGLES = 0.5
"""Discount of an order without n-grams of count one, as in a small vocabulary that is seen often:
it takes half a count of thousands, so that nothing unseen is impossible."""


@dataclass(frozen=True, slots=True)
class _Numbering:
    """Numbers of different pairs (token, number of what follows it), found again by search."""

    keys: Ints
    """Ascending."""
    base: int
    """Numbers of the second member lie below it."""

    def find(self, first: Ints, second: Ints) -> Ints:
        """The number of each pair; -1 where it was never seen."""
        wanted = first * self.base + second
        place = np.searchsorted(self.keys, wanted)
        place[place == len(self.keys)] = 0
        return np.where((self.keys[place] == wanted) & (second >= 0), place, -1)


def number_pairs(first: Ints, second: Ints) -> tuple[_Numbering, Ints, Ints]:
    """Number the different pairs: the numbering, an example of each, and the number of each."""
    base = int(second.max()) + 1
    keys, example, number = np.unique(first * base + second, return_index=True, return_inverse=True)
    return _Numbering(keys, base), example, number


def ngram_losses(
    train: Rows, heldout: Rows, vocab: int, orders: Sequence[int]
) -> Iterator[tuple[int, Floats]]:
    """Losses of n-gram models on held-out rows.

    Args:
        train: Rows that are counted, (rows, T + 1); the first token of each is context alone.
        heldout: Rows that are predicted, (rows, T + 1).
        vocab: Number of tokens.
        orders: Tokens of an n-gram, its context included; ascending.

    Yields:
        Each order, and the loss of every predicted token (rows, T) [nats].
    """
    seen, wanted = _columns(train, vocab), _columns(heldout, vocab)
    targets = seen(0), wanted(0)
    # An n-gram is its first token and the n-gram of the rest; so is its context.
    grams, found = np.zeros_like(targets[0]), np.zeros_like(targets[1])
    contexts, found_contexts = grams, found
    probability = np.full(len(targets[1]), 1.0 / vocab)
    for order in range(1, max(orders) + 1):
        numbering, example, grams = number_pairs(seen(order - 1), grams)
        found = numbering.find(wanted(order - 1), found)
        if order > 1:
            known, _, contexts = number_pairs(seen(order - 1), contexts)
            found_contexts = known.find(wanted(order - 1), found_contexts)
        owner = contexts[example]
        if order in orders:
            counts = np.bincount(grams)
            shares = _smoothed(counts, owner, found, found_contexts, probability)
            yield order, -np.log(shares).reshape(len(heldout), -1)
        if order < max(orders):
            # Different n-grams one longer that end in each: the tokens it was seen after.
            longer = np.unique(seen(order) * (int(grams.max()) + 1) + grams)
            after = np.bincount(longer % (int(grams.max()) + 1))
            probability = _smoothed(after, owner, found, found_contexts, probability)


def _columns(rows: Rows, vocab: int):  # type: ignore[no-untyped-def]
    """A function of k: the token k places before each predicted one, flat; the mark is `vocab`."""
    tokens = rows.astype(np.int64)

    def at(back: int) -> Ints:
        length = tokens.shape[1] - 1
        marked = np.pad(tokens, ((0, 0), (max(0, back - 1), 0)), constant_values=vocab)
        start = marked.shape[1] - length - back
        return marked[:, start : start + length].ravel()

    return at


def _smoothed(counts: Ints, owner: Ints, found: Ints, contexts: Ints, lower: Floats) -> Floats:
    """Probabilities of one order.

    Args:
        counts: Of each n-gram.
        owner: The context of each n-gram.
        found: The n-gram of each predicted token, -1 where it was never seen.
        contexts: Its context, likewise.
        lower: Its probability by the order below.
    """
    singles, doubles = int((counts == 1).sum()), int((counts == 2).sum())
    discount = singles / (singles + 2 * doubles) if singles else NO_SINGLES
    total = np.bincount(owner, counts)
    different = np.bincount(owner)
    known = contexts >= 0
    out = lower.copy()
    at = contexts[known]
    own = np.where(found[known] >= 0, counts[found[known]], 0)
    out[known] = (np.maximum(own - discount, 0) + discount * different[at] * lower[known]) / total[
        at
    ]
    return out
