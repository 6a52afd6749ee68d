"""A small RASP: programs of selectors and tables, with the layers that they need by construction.

A sequence operator (`SOp`) holds one value at every position. There are two kinds of steps:

- `lookup` computes a value at each position from values at the same position, by a table.
- `select` marks, for each query position, the key positions whose value and distance a table
  allows; `latest`, `earliest`, `mean` and `selector_width` gather values from the marked ones.

Tables are all there is: no step can look at another position except through a selector.

Layers are counted for a transformer whose blocks are attention and then an MLP. A value has a time:
0 in the embedding, 2l - 1 after the attention of block l and 2l after its MLP. Assumptions:

1. A block has any number of heads and an MLP of any width; all that was computed stays available.
2. A head attends to a set that a table over (key, query) and a table over distances define, or to
   the intersection of such sets (scores add up). It takes the mean, or the latest or the earliest
   of the set (a slope of the score in the distance).
3. A table of one discrete value is linear in its one-hot vector and costs nothing. A table of
   several values needs an MLP, whose hidden units are at most the entries of the table.
4. A model with a convolution of `taps` on its embeddings has the last taps - 1 tokens at time 0.

Source: Weiss, Goldberg & Yahav 2021, "Thinking like transformers", arXiv:2106.06981; `latest` and
`earliest` are additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SOp:
    """A value at every position."""

    values: Values
    """(rows, positions): whole numbers from 0, or means."""
    time: int
    """Half blocks that it needs: odd after attention, even after an MLP, 0 in the embedding."""
    units: int = 0
    """Most entries of a table of several values on the way to it."""

    @property
    def layers(self) -> int:
        """Blocks that it needs."""
        return (self.time + 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Key positions that each query position attends to."""

    chosen: Mask
    """(rows, queries, keys)."""
    time: int
    units: int = 0

    def __and__(self, other: Selector) -> Selector:
        return Selector(
            chosen=self.chosen & other.chosen,
            time=max(self.time, other.time),
            units=max(self.units, other.units),
        )


def inputs(tokens: Values) -> SOp:
    """The tokens (rows, positions) themselves."""
    return SOp(values=np.asarray(tokens, np.int64), time=0)


def shifted(tokens: SOp, lag: int, *, taps: int) -> SOp:
    """The token `lag` positions before, and the first one where there is none.

    It is in the embedding if the convolution reaches so far, and else gathered by one head.
    """
    assert tokens.time == 0, "only tokens are convolved"
    if lag >= taps:
        allowed = np.zeros(tokens.values.shape[1], bool)
        allowed[lag] = True
        return latest(select(tokens, distances=allowed), tokens)
    place = np.maximum(np.arange(tokens.values.shape[1]) - lag, 0)
    return SOp(values=tokens.values[:, place], time=0)


def lookup(table: Values, *arguments: SOp) -> SOp:
    """The entry of a table, one axis per argument, at every position.

    Raises:
        TypeError: An argument is a mean, which no table can take.
    """
    if any(a.values.dtype.kind != "i" for a in arguments):
        raise TypeError("a table takes whole numbers; a mean is none.")
    time, units = _latest_time(arguments), max(a.units for a in arguments)
    if len(arguments) > 1:
        time, units = time + 1 + (time % 2 == 0), max(units, table.size)
    return SOp(values=table[tuple(a.values for a in arguments)], time=time, units=units)


def select(
    keys: SOp,
    queries: SOp | None = None,
    table: Values | None = None,
    *,
    distances: Values | None = None,
    causal: bool = True,
) -> Selector:
    """Mark key positions.

    Args:
        keys: Values of the keys.
        queries: Values of the queries; none if the table is over keys alone.
        table: Truth by (key,) or (key, query); None allows all.
        distances: Truth by query position minus key position (positions,); None allows all.
        causal: Whether later keys are hidden.
    """
    rows, length = keys.values.shape
    chosen = np.ones((rows, length, length), bool)
    if table is not None:
        truth = np.asarray(table, bool)
        index = (keys.values[:, None, :],)
        chosen &= truth[index] if queries is None else truth[(*index, queries.values[:, :, None])]
    distance = np.arange(length)[:, None] - np.arange(length)
    if causal:
        chosen &= distance >= 0
    if distances is not None:
        chosen &= (distance >= 0) & np.asarray(distances, bool)[np.maximum(distance, 0)]
    given = [keys] if queries is None else [keys, queries]
    return Selector(chosen=chosen, time=_latest_time(given), units=max(g.units for g in given))


def latest(selector: Selector, values: SOp, default: int = 0) -> SOp:
    """The value at the last selected position, `default` where none is selected."""
    place = values.values.shape[1] - 1 - selector.chosen[:, :, ::-1].argmax(axis=2)
    return _gathered(selector, values, place, default)


def earliest(selector: Selector, values: SOp, default: int = 0) -> SOp:
    """The value at the first selected position, `default` where none is selected."""
    return _gathered(selector, values, selector.chosen.argmax(axis=2), default)


def _gathered(selector: Selector, values: SOp, place: Values, default: int) -> SOp:
    """Values at the given key positions (rows, queries)."""
    found = np.take_along_axis(values.values, place, axis=1)
    return _attended(selector, values, np.where(selector.chosen.any(axis=2), found, default))


def mean(selector: Selector, values: SOp) -> SOp:
    """The mean over the selected positions, 0 where none is selected (aggregate in the paper)."""
    totals = np.einsum("bqk,bk->bq", selector.chosen, values.values.astype(float))
    return _attended(selector, values, totals / np.maximum(selector.chosen.sum(axis=2), 1))


def selector_width(selector: Selector) -> SOp:
    """The number of selected positions.

    A head gives 1 / (1 + n) by attending to the first token as well; an MLP inverts it.
    """
    counts = selector.chosen.sum(axis=2).astype(np.int64)
    time = selector.time + 1 + selector.time % 2
    return SOp(values=counts, time=time + 1, units=max(selector.units, counts.shape[1] + 1))


def _attended(selector: Selector, values: SOp, result: Values) -> SOp:
    """A result of the next attention after the selector and the values."""
    time = max(selector.time, values.time)
    units = max(selector.units, values.units)
    return SOp(values=result, time=time + 1 + time % 2, units=units)


def _latest_time(arguments: Sequence[SOp]) -> int:
    return max(a.time for a in arguments)
