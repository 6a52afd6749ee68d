"""What went in: units that cannot be raw counts or nats, data that do not belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fit.quantity import three
from fit.record import Floats, RunTable
from fit.result import Note

ONE_OF = ("data", "data_hash", "dataset", "tokenizer", "vocab", "data.name", "data.hash")
"""Columns that have one value where one law holds."""
JUMP = 300.0
"""Factor between neighbouring counts that no sweep has: between units, a thousand or a million."""
LARGEST_VOCABULARY = 1e6
AGREES = 0.02
"""Two columns say the same loss when they differ by less, in the median."""


def intake_notes(table: RunTable) -> Iterator[Note]:
    """Notes on what was fitted."""
    yield from _mixed(table)
    yield from _counts(table)
    yield from _compute(table)
    yield from _losses(table)
    if table.dropped:
        reasons = sorted({d.reason.split(":")[0] for d in table.dropped})
        text = f"{len(table.dropped)} runs are left out: {', '.join(reasons)}."
        yield Note(code="dropped", severity="info", message=text)


def _mixed(table: RunTable) -> Iterator[Note]:
    """Do the runs share their data and their tokenizer?"""
    for name in ONE_OF:
        if name not in table.columns:
            continue
        values = list(dict.fromkeys(np.asarray(table.columns[name]).astype(str).tolist()))
        if len(values) > 1:
            more = f" and {len(values) - 3} more" if len(values) > 3 else ""
            yield _serious(
                "mixed_data",
                f"the runs have different {name} ({', '.join(values[:3])}{more}): losses of "
                "different data or tokenizers lie on different laws. Fit them apart: --where.",
            )
            return


def _counts(table: RunTable) -> Iterator[Note]:
    """Are params and tokens raw counts, in every row?"""
    ratio = float(np.median(table.tokens / table.params))
    if table.params.max() < 1e3 or table.tokens.max() < 1e4 or not 1e-2 < ratio < 1e5:
        yield _serious(
            "units",
            f"params reach {table.params.max():.3g} and tokens {table.tokens.max():.3g}: raw "
            "counts are needed, not millions or billions. Multiply the column and fit again.",
        )
        return
    for name, values in (("params", table.params), ("tokens", table.tokens)):
        ordered = np.sort(values)
        place = int(np.argmax(ordered[1:] / ordered[:-1]))
        if ordered[place + 1] > JUMP * ordered[place]:
            yield _serious(
                "units",
                f"{name} jump from {ordered[place]:.3g} to {ordered[place + 1]:.3g}: {place + 1} "
                f"of {len(values)} rows seem to stand in another unit. Make all raw counts and fit "
                "again.",
            )


def _compute(table: RunTable) -> Iterator[Note]:
    """Is the compute that of such models on so many tokens?"""
    cost = table.flops / (6 * table.params * table.tokens)
    if cost.max() > 20 or cost.min() < 0.05:
        yield _serious(
            "units",
            f"flops are {cost.min():.2g} to {cost.max():.2g} times 6 params tokens: one of the "
            "three columns is in another unit. Mend it and fit again.",
        )


def _losses(table: RunTable) -> Iterator[Note]:
    """Are the losses in nats per token?"""
    untaught = _of_the_untaught(table)
    above = int((table.loss > untaught).sum())
    if above > len(table) / 2:
        yield _serious(
            "loss_units",
            f"most losses exceed {three(untaught)} nats, what a model that has learnt nothing has: "
            "they may be perplexities (take the natural logarithm) or bits (multiply by 0.6931).",
        )
    elif above:
        yield Note(
            code="loss_units",
            severity="warning",
            message=f"{above} of {len(table)} losses exceed {three(untaught)} nats, what a model "
            "that has learnt nothing has: these runs diverged, or are in another unit. Leave them "
            "out: --where.",
        )
    for name in ("perplexity", "ppl"):
        values = _column(table, name)
        if values is not None and _same(np.exp2(table.loss), values):
            yield _serious(
                "loss_units",
                f"the losses are the base-2 logarithm of {name}, bits and not nats per token. "
                "Multiply them by 0.6931 and fit again.",
            )


def _of_the_untaught(table: RunTable) -> float:
    """Loss of equal probabilities for all tokens of the vocabulary, or of a million."""
    vocab = _column(table, "vocab")
    if vocab is None or not (vocab > 1).all():
        return math.log(LARGEST_VOCABULARY)
    return math.log(float(vocab.max()))


def _column(table: RunTable, name: str) -> Floats | None:
    """A numeric column, where there is one."""
    if name not in table.columns or table.columns[name].dtype.kind not in "iuf":
        return None
    return table.column(name)


def _same(one: Floats, other: Floats) -> bool:
    """Whether two columns agree."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.nanmedian(np.abs(one / other - 1)) < AGREES)


def _serious(code: str, message: str) -> Note:
    """A note that says: do not spend money on this."""
    return Note(code=code, severity="serious", message=message)
