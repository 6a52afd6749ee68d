"""Whether two laws can be compared: losses of one unit, FLOPs of one count, ranges that meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fit.doubts import DOUBTFUL_KAPPA, OF_THE_LAW, kappa_of, kappa_text
from fit.errors import QueryError
from fit.quantity import power
from fit.result import Note
from fit.source import Source

NATS, BITS = "nats/token", "bits/byte"


def scale(a: Source, b: Source, *, force: bool) -> tuple[tuple[float, float], str, list[Note]]:
    """The nats per unit in which the losses of two laws can be compared.

    Losses per token mean the same where data and tokenizer are the same. With two tokenizers on one
    text, bits per byte do: loss / (ln 2 bytes per token).

    Args:
        a: One law.
        b: The other.
        force: Compare nats all the same, with a serious warning.

    Returns:
        Nats per unit for either, the unit's name, and warnings.

    Raises:
        QueryError: The losses, or the FLOPs, of the two are not of one kind.
    """
    notes = _counting(a, b, force=force)
    first, second = _data(a), _data(b)
    names = first.get("name"), second.get("name")
    if first.get("hash") and first.get("hash") == second.get("hash"):
        return (1.0, 1.0), NATS, notes
    if None not in names and names[0] != names[1]:
        reason = f"{a.name} was trained on {names[0]}, {b.name} on {names[1]}"
        return (1.0, 1.0), NATS, [*notes, _refused(reason, force=force)]
    if first.get("hash") and second.get("hash"):
        return _per_byte(a, b, notes, force=force)
    if None not in names and _vocab(a) == _vocab(b):
        return (1.0, 1.0), NATS, notes
    if _vocab(a) != _vocab(b) and None not in (_vocab(a), _vocab(b)):
        reason = f"the vocabularies have {_vocab(a):g} and {_vocab(b):g} tokens"
        return (1.0, 1.0), NATS, [*notes, _refused(reason, force=force)]
    text = (
        "it is not known whether both laws were fitted on the same data and tokenizer; nats per "
        "token of different ones cannot be compared."
    )
    return (1.0, 1.0), NATS, [*notes, _note("data_unknown", "warning", text)]


def doubts_of(a: Source, b: Source, shared: tuple[float, float] | None) -> list[Note]:
    """What weakens a comparison without forbidding it."""
    notes = [] if shared is not None else [_apart(a, b)]
    told = [(source.name, note) for source in (a, b) for note in _own(source)]
    for code, severity, message in dict.fromkeys((n.code, n.severity, n.message) for _, n in told):
        names = dict.fromkeys(name for name, n in told if (n.code, n.message) == (code, message))
        notes.append(_note(code, severity, f"{' and '.join(names)}: {message}"))
    return notes


def _own(source: Source) -> list[Note]:
    """What weakens one of the two laws."""
    fit = source.fit
    if fit is None:
        return [_note("preset", "info", "published without draws; its values count as exact.")]
    notes = []
    if fit.status != "converged":
        text = f"the fit is {fit.status.replace('_', ' ')}, not converged."
        notes.append(_note("fit_status", "serious", text))
    if kappa_of(fit) > DOUBTFUL_KAPPA:
        text = (
            f"the runs barely tell the law's parameters apart (kappa {kappa_text(fit)}; healthy is "
            "40-160)."
        )
        notes.append(_note("ill_conditioned", "serious", text))
    return [*notes, *(n for n in fit.notes if n.code in OF_THE_LAW)]


def _apart(a: Source, b: Source) -> Note:
    """Ranges that do not meet, or are not known."""
    spans = [s.range["flops"] for s in (a, b) if "flops" in s.range]
    if len(spans) < 2:
        text = "the compute of one law's runs is not known: whether the ranges meet is not either."
        return _note("range_unknown", "warning", text)
    low, high = sorted(spans, key=lambda s: s.low)
    text = (
        f"no budget lies within both ranges: one ends at {power(low.high)} FLOP, the other begins "
        f"at {power(high.low)}. Every row extrapolates one law; run both at a common budget."
    )
    return _note("no_overlap", "serious", text)


def _counting(a: Source, b: Source, *, force: bool) -> list[Note]:
    """Whether the FLOPs of both mean the same."""
    counts = a.convention.get("flops", "?"), b.convention.get("flops", "?")
    if "as given" in counts or "?" in counts:
        text = "how a table's FLOPs were counted is not known; both laws must count them alike."
        return [_note("flops_unknown", "warning", text)]
    if counts[0] == counts[1]:
        return []
    reason = (
        f"{a.name} counts {counts[0]} FLOPs, {b.name} {counts[1]}: a multiplier would measure the "
        "counting"
    )
    cure = "Fit both with one count, such as --flops 6nd"
    return [_refused(reason, force=force, code="other_flops", cure=cure)]


def _per_byte(
    a: Source, b: Source, notes: list[Note], *, force: bool
) -> tuple[tuple[float, float], str, list[Note]]:
    """Bits per byte, where data of one name were cut into tokens in two ways."""
    data = _data(a), _data(b)
    per_token = [d.get("bytes_per_token") for d in data]
    if None in per_token or any(d.get("entropy") is not None for d in data):
        reason = f"{a.name} and {b.name} were trained on different data named {data[0]['name']}"
        return (1.0, 1.0), NATS, [*notes, _refused(reason, force=force)]
    text = (
        f"the tokenizers differ ({per_token[0]:.3g} and {per_token[1]:.3g} bytes a token), so bits "
        "per byte are compared; that holds if both were measured on the same held-out text."
    )
    nats = [math.log(2) * float(v) for v in per_token if v is not None]
    return (nats[0], nats[1]), BITS, [*notes, _note("per_byte", "warning", text)]


def _refused(
    reason: str,
    *,
    force: bool,
    code: str = "other_data",
    cure: str = "Fit both on the same data and tokenizer",
) -> Note:
    """A comparison without meaning: an error, or under force a serious warning.

    Raises:
        QueryError: It was not forced.
    """
    if not force:
        raise QueryError(f"{reason}. {cure}, or insist with --force.")
    return _note(code, "serious", f"{reason}. The numbers below mean little.")


def _data(source: Source) -> Mapping[str, Any]:
    """What is known of the data set."""
    if source.preset is not None:
        # "MassiveText, rebuilt from ...": what stands before the comma is the data set.
        return {"name": source.preset.data.split(",")[0]}
    return source.fit.data if source.fit is not None else {}


def _vocab(source: Source) -> float | None:
    """Size of the vocabulary, where all runs have one."""
    column = None if source.fit is None else source.fit.points.columns.get("vocab")
    if column is None or not len(column) or np.ptp(column) != 0:
        return None
    return float(column[0])


def _note(code: str, severity: str, message: str) -> Note:
    """A note."""
    return Note(code=code, severity=severity, message=message)
