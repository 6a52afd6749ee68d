"""The ledger of forecasts as plain text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fit.ledger import Entry, Ledger
from fit.quantity import counted, percent, power, short
from fit.record import finite_or_null
from fit.scoring import SURE, Calibration, calibration
from fit.text import table_text, wrapped

SIGNS = {
    "open": "its run has not been found yet",
    "late": "known when it was sealed, or fitted: not counted",
    "altered": "changed after it was sealed: not counted",
}


def entry_text(entry: Entry) -> str:
    """One forecast and what came of it."""
    f, e = entry.forecast, entry.forecast.expected
    head = f"{f.name}, sealed {f.sealed}: {power(f.flops)} FLOP, by {f.source}"
    rows = [
        ("run", f"{short(e.params)} parameters on {short(e.tokens)} tokens"),
        (
            "forecast",
            f"{e.loss:.4f} [{e.low:.4f}, {e.high:.4f}] nats/token, {percent(e.level)} prediction",
        ),
    ]
    if entry.outcome is not None:
        v, name = entry.outcome.verdict, entry.outcome.run
        rows.append(("measured", f"{v.measured:.4f}{f', {name}' if name else ', as given'}"))
        rows.append(("verdict", f"{entry.status}, {v.error:+.2%}, z = {v.z:+.2f}"))
    if entry.status in SIGNS:
        rows.append(("", f"{entry.status}: {SIGNS[entry.status]}"))
    return "\n".join([wrapped(head), "", *(f"  {k:<17} {text}".rstrip() for k, text in rows)])


def ledger_text(ledger: Ledger) -> str:
    """All forecasts, one a line, and how they did."""
    header = ("forecast", "FLOP", "forecast loss", "measured", "off", "z", "")
    rows = [_cells(e) for e in ledger.entries]
    lines = [table_text(header, rows)] if rows else ["no forecast is sealed"]
    lines += [wrapped(f"unreadable: {name}: {reason}") for name, reason in ledger.unreadable]
    return "\n".join([*lines, "", *rate_lines(calibration(ledger))])


def rate_text(ledger: Ledger) -> str:
    """The running hit rate, and the calibration of z."""
    return "\n".join(rate_lines(calibration(ledger)))


def rate_lines(found: Calibration) -> Sequence[str]:
    """The running hit rate and the calibration of z, in a sentence each."""
    if not found.counted:
        return ["no forecast has been scored"]
    assert found.promised is not None and found.low is not None and found.high is not None
    rate = (
        f"{found.hits} of {counted(found.counted, 'forecast')} hit: "
        f"{found.hits / found.counted:.0%} [{found.low:.0%}, {found.high:.0%}, {SURE:.0%} "
        f"confidence], {percent(found.promised)} promised"
    )
    if found.counted < 3:
        return [wrapped(rate)]
    z = (
        f"z as normal scores: mean {found.bias:+.2f} (0 if centred), root mean square "
        f"{found.width:.2f} (1 if as wide as it should be)"
    )
    return [wrapped(rate), wrapped(z)]


def ledger_document(ledger: Ledger) -> dict[str, Any]:
    """The `isoflop.ledger/1` document."""
    document = {
        "schema": "isoflop.ledger/1",
        "calibration": dataclasses.asdict(calibration(ledger)),
        "forecasts": [_row(e) for e in ledger.entries],
        "unreadable": [{"file": n, "reason": r} for n, r in ledger.unreadable],
    }
    return dict(finite_or_null(document))


def _row(entry: Entry) -> dict[str, Any]:
    """One forecast of the document."""
    f, o = entry.forecast, entry.outcome
    return {
        "name": f.name,
        "status": entry.status,
        "sealed": f.sealed,
        "source": f.source,
        "flops": f.flops,
        "expected": dataclasses.asdict(f.expected),
        "hash": f.hash,
        "outcome": None if o is None else {**dict(o.document), "intact": o.intact},
    }


def _cells(entry: Entry) -> tuple[str, ...]:
    """One forecast of the table."""
    f, e = entry.forecast, entry.forecast.expected
    said = f"{e.loss:.4f} [{e.low:.4f}, {e.high:.4f}]"
    if entry.outcome is None:
        return (f.name, power(f.flops), said, "-", "-", "-", entry.status)
    v = entry.outcome.verdict
    measured = (f"{v.measured:.4f}", f"{v.error:+.2%}", f"{v.z:+.2f}")
    return (f.name, power(f.flops), said, *measured, entry.status)
