"""Tables as csv that a spreadsheet may open: no cell of it is taken for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that spreadsheets compute (OWASP, CSV injection)."""


def guarded(cell: Any) -> Any:
    """A cell that stays text: an apostrophe goes before what would be computed."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(FORMULA):
        return f"'{cell}"
    return cell


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under all names that they have, cells and names guarded."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guarded(n) for n in names])
    for row in rows:
        writer.writerow([guarded(row.get(n, "")) for n in names])
    return text.getvalue()
