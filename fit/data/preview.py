"""How a table would be read, before it is fitted: its columns, its first rows, what each may be.

The suggestions follow the names that `fit.data.columns` knows; `isoflop fit` guesses
nothing, so whoever sends the table confirms them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fit.data.cells import read_numbers
from fit.data.columns import FILE, RANKED, REQUIRED, likely_columns, number_names, unit_of_name
from fit.data.formats import read_frame
from fit.errors import RecordError

PREVIEW_SCHEMA = "isoflop.preview/1"
FIRST_ROWS = 6
JUDGED_ROWS = 1000
"""Rows by which a column is taken to hold numbers."""
MOST_COLUMNS = 200
LONGEST_CELL = 60


def preview(path: Path) -> dict[str, Any]:
    """The `isoflop.preview/1` document of a table.

    Returns:
        `rows`; `columns`, each with its name, whether it holds `numbers`, its `first` cells as text
        and the `units` that its name states, by the column of ours that it may be; `mapping`, our
        column -> the table's, as far as the names say; `wide`, the column of ours that the names of
        the others are values of, or None.

    Raises:
        RecordError: The file is no table of its format, or has no rows or too many columns.
    """
    frame, _ = read_frame(path)
    frame = frame.rename(columns={c: str(c).strip() for c in frame})
    if not len(frame):
        raise RecordError(f"{path} has a header and no rows; a row for each run is needed.")
    if len(frame.columns) > MOST_COLUMNS:
        raise RecordError(
            f"{path} has {len(frame.columns)} columns; {MOST_COLUMNS} can be shown. "
            "Leave out those that are no counts and no losses."
        )
    names = [str(c) for c in frame if c != FILE]
    numbers = {n: _holds_numbers(frame.iloc[:JUDGED_ROWS, i]) for i, n in enumerate(names)}
    found = likely_columns([n for n in names if numbers[n]])
    missing = [c for c in REQUIRED if c not in found]
    wide = None
    if "loss" in missing and len(number_names(names)) > 1:
        wide = next((c for c in missing if c != "loss"), None)
    return {
        "schema": PREVIEW_SCHEMA,
        "rows": len(frame),
        "columns": [
            {
                "name": name,
                "numbers": numbers[name],
                "first": [_cell(v) for v in frame.iloc[:FIRST_ROWS, i].tolist()],
                "units": {c: unit for c in RANKED if (unit := unit_of_name(c, name))},
            }
            for i, name in enumerate(names)
        ],
        "mapping": found,
        "wide": wide,
    }


def _holds_numbers(cells: Any) -> bool:
    """Whether every cell that is there is a number, and one is there."""
    values, unread = read_numbers(cells, "params")
    return not unread.any() and bool(np.isfinite(values).any())


def _cell(value: object) -> str:
    """A cell as text, short enough for a table."""
    if value is None or value != value:
        return ""
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return (
        text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
