"""The command `isoflop tuning`: learning-rate scans as a document and as a table for people."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fit.quantity import short
from fit.record import finite_or_null
from fit.store import load
from fit.text import one_line, table_text
from fit.tuning import rate_scans, tuning_notes

HEADINGS = ("params", "tokens", "width", "depth", "runs", "best rate", "90%", "loss", "cost")


def tuning_document(runs: Path, *, where: str | None = None) -> dict[str, Any]:
    """The `isoflop.tuning/1` document: the best rate of every scan, and what one rule costs.

    Args:
        runs: Folder of run records, or a table with a column `lr`.
        where: Condition on the columns that a run must meet.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They hold no scan.
    """
    table = load(runs, where=where)
    document = {
        "schema": "isoflop.tuning/1",
        "scans": [dataclasses.asdict(s) for s in rate_scans(table)],
        "notes": [dataclasses.asdict(n) for n in tuning_notes(table)],
    }
    return dict(finite_or_null(document))


def tuning_listing(document: dict[str, Any]) -> str:
    """The table of scans, and the notes beneath."""
    rows = [_cells(scan) for scan in document["scans"]]
    lines = [
        table_text(HEADINGS, rows),
        "",
        "best rate: in the rule's unit, at the base width where records know it",
        "cost: nats lost there at the best rate of the smallest size",
    ]
    lines += [one_line(f"{n['severity']}: {n['message']}") for n in document["notes"]]
    return "\n".join(lines)


def _cells(scan: dict[str, Any]) -> list[str]:
    """One row."""
    inside = scan["found"] == "inside"
    low, high = scan["low"], scan["high"]
    bounded = inside and low and high is not None
    return [
        short(scan["params"]),
        short(scan["tokens"]),
        str(scan["width"] or "-"),
        str(scan["depth"] or "-"),
        str(scan["runs"]),
        f"{scan['rate']:.3g}",
        f"[{low:.3g}, {high:.3g}]" if bounded else "no interval" if inside else scan["found"],
        f"{scan['loss']:.4f}",
        "-" if scan["cost"] is None else f"{scan['cost']:.4f}",
    ]
