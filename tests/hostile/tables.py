"""Tables of runs on a known law, as text, and cases of reading them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fit.data.readers import load
from fit.data.table import RunTable
from fit.quantities import parse_units
from tests.hostile.outcomes import Case, Reply

PARAMS = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 4)
TOKENS = np.tile([1e9, 3e9, 1e10, 3e10], 5)
LOSS = np.round(1.7 + 400 / PARAMS**0.34 + 900 / TOKENS**0.33, 5)
NAMES = [f"r{i}" for i in range(20)]


def frame(**columns: Any) -> pd.DataFrame:
    """The runs that are meant, with further or other columns."""
    core = {"run": NAMES, "params": PARAMS.astype(int), "tokens": TOKENS.astype(int), "loss": LOSS}
    return pd.DataFrame({**core, **columns})


def meant(rows: Sequence[int] | slice = slice(None), *, loss: Any = None, drop: int | None = None):
    """A check that a table holds these rows, and lists so many others as dropped."""

    def check(reply: Reply) -> None:
        table = reply.value
        assert isinstance(table, RunTable)
        kept = np.isfinite(table.loss)
        np.testing.assert_allclose(table.params[kept], PARAMS[rows], rtol=1e-9)
        np.testing.assert_allclose(table.tokens[kept], TOKENS[rows], rtol=1e-9)
        np.testing.assert_allclose(
            table.loss[kept], (LOSS if loss is None else loss)[rows], rtol=1e-5
        )
        assert drop is None or len(table.dropped) == drop, table.dropped

    return check


def reading(
    content: str | bytes, name: str = "runs.csv", **options: Any
) -> Callable[[Path], RunTable]:
    """Reads a file of this content."""

    def run(folder: Path) -> RunTable:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        if "unit" in options:
            options["units"] = parse_units(options.pop("unit"))
        return load(folder / name, **options)

    return run


def csv_of(table: pd.DataFrame, **options: Any) -> str:
    """A frame as csv."""
    return str(table.to_csv(index=False, **options))


def taken(
    name: str, content: str | bytes, check: Callable[[Reply], None] | None = None, **how: Any
) -> Case:
    """A table that is read as it was meant."""
    file = how.pop("file", "runs.csv")
    return Case(name=name, run=reading(content, file, **how), taken=check or meant())


def refused(name: str, content: str | bytes, *words: str, **how: Any) -> Case:
    """A table that is refused in these words."""
    file = how.pop("file", "runs.csv")
    return Case(name=name, run=reading(content, file, **how), refused=words)
