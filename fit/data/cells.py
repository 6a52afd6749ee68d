"""Read the cells of a column as numbers, and convert their units.

- `typed_columns` turns columns of text into numbers where all their cells are numbers: with grouped
  digits or decimal commas too.
- `read_numbers` reads the cells of a column whose meaning is known, such as `7B` parameters.
- `stated_unit` is what is said of the unit of the losses, `convert_loss` makes nats per token of
  them where that is possible, and `refuse_perplexity` refuses losses that look like perplexities
  while nothing is said.

A cell that can be read in two ways, such as `3,123`, is not read unless the other cells decide it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.errors import QueryError, RecordError
from fit.quantities import LOSS_UNITS, Units, parse_count

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset(
    ("", "na", "n/a", "#n/a", "nan", "-nan", "<na>", "null", "none", "-", "--", "\u2013", "\u2014")
)
"""Cells that hold nothing, in small letters."""
COUNTED = ("params", "tokens", "unique_tokens", "batch_tokens", "vocab")
"""Columns whose cells may have a unit, such as 7B."""
UNIT_COLUMN = "loss_unit"
"""Column of a table that says the unit of its losses; imported tables have it."""
LARGEST_NATS = math.log(1e6)
"""Loss of equal probabilities for a million tokens, more than any vocabulary has [nats/token]."""
LEAST_LEARNED = 7.5
"""Loss that every run of a table is below, as the entropy of single tokens of text is about 7."""
EXPONENTS = tuple(0.05 * i for i in range(2, 17))
"""Exponents of the sums of two power laws that `refuse_perplexity` compares."""
STEEP, CLOSER, HIGH = 0.12, 0.6, 5.0
"""What makes a perplexity of a loss: its ln falls by this much per unit of ln N and ln D together;
ln loss deviates from a sum of power laws by this share of what the loss does, or less; and some
losses are this high. Of 39 published series in nats none falls by more than 0.093 or has a share
below 0.92. Of 877 simulated tables in nats, on which the grid of exponents was refined until it was
so, none is refused; of their perplexities 63% are, the others being possible losses in nats."""
_GROUP = "[ '_\u00a0\u202f\u2009]"
_SUFFIX = r"(?: ?[kKmMbBgGtT])?"
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_SPACED = re.compile(rf"[0-9]{{1,3}}(?:{_GROUP}[0-9]{{3}})+(?:[.,][0-9]+)?{_SUFFIX}")
_COMMA_DECIMAL = re.compile(
    rf"[+-]?(?:[0-9]*,(?:[0-9]{{1,2}}|[0-9]{{4,}})|(?:0|[0-9]{{4,}}),[0-9]{{3}}){_EXPONENT}{_SUFFIX}"
    rf"|[+-]?[0-9]{{1,3}}(?:\.[0-9]{{3}})+,[0-9]+"
)
_COMMA_GROUPS = re.compile(
    rf"[+-]?[0-9]{{1,3}}(?:(?:,[0-9]{{3}}){{2,}}(?:\.[0-9]*)?|,[0-9]{{3}}\.[0-9]*){_SUFFIX}"
)
_COMMA_EITHER = re.compile(rf"[+-]?[1-9][0-9]{{0,2}},[0-9]{{3}}{_SUFFIX}")
_POINT_GROUPS = re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{3}){2,}(?:,[0-9]+)?")
_POINT_EITHER = re.compile(r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}")


def typed_columns(cells: Mapping[str, Sequence[str]], *, semicolon: bool) -> dict[str, Any]:
    """Columns of text as numbers, truth values or text, by what all of their cells are.

    Args:
        cells: The cells of each column.
        semicolon: Whether a semicolon separates the columns, as it does where the comma is the
            decimal sign.

    Returns:
        Column -> series. Missing cells are NaN or None.
    """
    import pandas as pd

    series = {name: pd.Series(list(column), dtype=object) for name, column in cells.items()}
    present: dict[str, Any] = {}
    typed: dict[str, Any] = {}
    for name, column in series.items():
        if name.lower() not in NAMES:
            try:  # most columns are numbers in all of their cells, and end here
                whole = pd.to_numeric(column)
            except (ValueError, TypeError, OverflowError):
                whole = column
            if whole.dtype.kind in "iuf":
                typed[name] = whole
                continue
        series[name] = column = column.str.strip(" ")
        present[name] = ~column.str.lower().isin(MISSING)
        typed[name] = _typed(column, present[name]) if name.lower() not in NAMES else None
        if typed[name] is None:
            typed[name] = column.where(present[name], None)
    texts = [n for n in typed if typed[n].dtype.kind == "O" and n.lower() not in NAMES]
    found = _evidence(c for n in texts for c in series[n][present[n]])
    if not found:
        return typed
    points = any(
        "." in c and not _POINT_EITHER.fullmatch(c)
        for n in typed if n not in texts for c in series[n]
    )  # fmt: skip
    european = "comma decimal" in found or "point groups" in found
    if european and ("comma groups" in found or points):
        return typed  # contradictory: the cells stay text, and are refused where they are needed
    if not (european or "comma groups" in found or points):
        if not semicolon or "comma either" not in found:
            return typed
        european = True
    for name in texts if not european else [n for n in typed if n.lower() not in NAMES]:
        plain = series[name].str.strip(" ").map(_from_european if european else _from_english)
        present[name] = ~plain.str.lower().isin(MISSING)
        numbers = _typed(plain, present[name])
        if numbers is not None:
            typed[name] = numbers
        elif name in texts:
            typed[name] = plain.where(present[name], None)
    return typed


NAMES = frozenset(("run", "name", "id"))
"""Columns of names, in small letters: text, whatever they look like."""


def _typed(column: pd.Series[Any], present: pd.Series[Any]) -> pd.Series[Any] | None:
    """A column of text as numbers or truth values; None if not all of its cells are."""
    import pandas as pd

    cells = column[present]
    if not len(cells):
        return pd.Series(np.full(len(column), np.nan))
    if cells.str.lower().isin(("true", "false")).all():
        truth = column.str.lower().map({"true": True, "false": False})
        return truth.astype(bool) if present.all() else truth.astype(object)
    if not cells.iloc[:1].str.fullmatch(r"[\s+-]*[0-9.in].*", case=False).all():
        return None  # most columns of text end here, without a try at each cell
    try:
        numbers = pd.to_numeric(cells)
    except (ValueError, TypeError, OverflowError):
        return None
    if numbers.dtype.kind not in "iuf":
        numbers = numbers.astype(np.float64)
    return numbers if present.all() else numbers.astype(np.float64).reindex(column.index)


def _evidence(cells: Iterable[str]) -> set[str]:
    """What the cells of text show of signs: decimal commas, groups by commas or points."""
    found = set()
    for cell in cells:
        if "," not in cell and cell.count(".") < 2:
            continue
        for what, pattern in (
            ("comma decimal", _COMMA_DECIMAL),
            ("comma groups", _COMMA_GROUPS),
            ("comma either", _COMMA_EITHER),
            ("point groups", _POINT_GROUPS),
        ):
            if pattern.fullmatch(cell):
                found.add(what)
    return found


def _from_english(cell: str) -> str:
    """A cell in which commas group digits, without them; other text as it is."""
    grouped = _COMMA_GROUPS.fullmatch(cell) or _COMMA_EITHER.fullmatch(cell)
    return cell.replace(",", "") if grouped else cell


def _from_european(cell: str) -> str:
    """A cell in which points group digits and a comma is the decimal sign, as ours."""
    if _POINT_GROUPS.fullmatch(cell) or _POINT_EITHER.fullmatch(cell):
        cell = cell.replace(".", "")
    if _COMMA_DECIMAL.fullmatch(cell) or _COMMA_EITHER.fullmatch(cell):
        cell = cell.replace(".", "").replace(",", ".")
    return cell


def read_numbers(
    cells: pd.Series[Any], column: str, *, scaled: bool = False
) -> tuple[Floats, NDArray[np.bool_]]:
    """The cells of a column as numbers.

    Args:
        cells: Of any type.
        column: Our name of the column; those of `COUNTED` may have units.
        scaled: Whether the column as a whole has a unit, so that cells have none.

    Returns:
        The numbers, NaN where there is none, (rows,); and where a cell is present and is no
        number, (rows,).
    """
    import pandas as pd

    if cells.dtype.kind in "iuf":
        return cells.to_numpy(dtype=np.float64), np.zeros(len(cells), dtype=bool)
    if cells.dtype.kind in "bcmM":
        return np.full(len(cells), np.nan), np.ones(len(cells), dtype=bool)
    # pandas reads True as 1, and text in any alphabet's digits; an int beyond floats stops it
    clean = cells.map(
        lambda c: str(c) if isinstance(c, bool) or (isinstance(c, int) and abs(c) > 2**1000) else c
    )
    values = pd.to_numeric(clean, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.array(values)
    unread = np.zeros(len(cells), dtype=bool)
    for row in np.flatnonzero(np.isnan(values)):
        cell = clean.iloc[row]
        if cell is None or cell != cell or str(cell).strip().lower() in MISSING:
            continue
        number = _count(str(cell).strip(), column if not scaled else "")
        if number is None:
            unread[row] = True
        else:
            values[row] = number
    return values, unread


def _count(text: str, column: str) -> float | None:
    """A cell as a number, with a unit where the column may have one; None if it is none."""
    if _SPACED.fullmatch(text):
        text = re.sub(_GROUP, "", text[:-2]) + text[-2:].strip()
    if _COMMA_GROUPS.fullmatch(text):
        text = text.replace(",", "")
    if re.search(r"[eE][+-]?[0-9]+ *[kKmMbBgGtT]$|,", text) or not text.isascii():
        return None
    if column not in COUNTED and text[-1:].isalpha():
        return None
    try:
        return parse_count(text)
    except QueryError:
        return None


def why_unread(cell: object) -> str:
    """Why a cell is not read, where its digits mislead; empty for other cells."""
    text = str(cell).strip()
    if _COMMA_EITHER.fullmatch(text) or _COMMA_DECIMAL.fullmatch(text):
        return " (a comma that groups digits, or a decimal one?)"
    if re.search(r"[$€£%]", text):
        return " (no currency and no percentage is read)"
    return ""


def stated_unit(units: Units, frame: pd.DataFrame, path: str) -> float | str | None:
    """What is said of the unit of the losses: by --unit, or by a column `loss_unit`.

    Returns:
        A name of `LOSS_UNITS`, a factor to nats per token, or None where nothing is said.

    Raises:
        RecordError: The two contradict each other, or the column has several or unknown units.
    """
    said = units.get("loss")
    if UNIT_COLUMN not in frame:
        return said
    names = sorted(frame[UNIT_COLUMN].dropna().astype(str).str.strip().str.lower().unique())
    known = sorted({LOSS_UNITS[n] for n in names if n in LOSS_UNITS})
    if len(known) != 1 or not all(n in LOSS_UNITS for n in names):
        raise RecordError(
            f"{path} has losses in {' and '.join(names[:3])} by its column {UNIT_COLUMN}; one of "
            "nats, bits, bpb and ppl for all rows is needed. Split the table, or remove the column."
        )
    if said is not None and said != known[0]:
        raise RecordError(
            f"--unit loss={said} contradicts the column {UNIT_COLUMN} of {path}, which says "
            f"{known[0]}. Leave the option out, or remove the column."
        )
    return known[0]


def loss_unit(unit: float | str) -> str:
    """The unit in which `convert_loss` leaves losses, `nats` or `bpb`."""
    return "bpb" if unit == "bpb" else "nats"


def convert_loss(values: Floats, unit: float | str | None) -> Floats:
    """Losses in nats per token; in bits per byte if that is their unit, as bytes are unknown."""
    if unit == "ppl":
        with np.errstate(all="ignore"):
            return np.log(values)
    if unit == "bits":
        return values * math.log(2)
    return values * unit if isinstance(unit, float | int) else values


def convert_errors(errors: Floats, loss: Floats, unit: float | str | None) -> Floats:
    """Standard errors in the unit that `convert_loss` gives the losses, to first order."""
    if unit == "ppl":
        with np.errstate(all="ignore"):
            return errors / np.exp(loss)
    return convert_loss(errors, unit)


def refuse_perplexity(params: Floats, tokens: Floats, loss: Floats, path: str) -> None:
    """Refuse losses that can hardly be nats per token, as long as nobody has said that they are.

    Raises:
        RecordError: They are too high in all runs, or follow a sum of power laws only after a
            logarithm; see `STEEP`.
    """
    used = np.isfinite(loss) & (loss > 0)
    n, d, y = params[used], tokens[used], loss[used]
    if not len(y):
        return
    why = ""
    if y.min() > LEAST_LEARNED or np.median(y) > LARGEST_NATS:
        why = f"from {y.min():.4g} to {y.max():.4g} are far above those of any trained model"
    elif len(y) >= 6 and y.max() > HIGH and min(len(set(n)), len(set(d))) > 1:
        span = math.log(n.max() / n.min()) + math.log(d.max() / d.min())
        if math.log(y.max() / y.min()) / span > STEEP:
            plain, logarithm = (_distance(n, d, v, w) for v, w in ((y, 1 / y), (np.log(y), y / y)))
            if logarithm < CLOSER * plain:
                why = f"from {y.max():.4g} to {y.min():.4g} follow a sum of power laws in ln loss"
    if why:
        raise RecordError(
            f"the losses of {path} seem to be perplexities, not nats per token: values {why}. Say "
            "which: --unit loss=ppl, or --unit loss=nats if they are."
        )


def _distance(n: Floats, d: Floats, y: Floats, weight: Floats) -> float:
    """Median distance of values from the nearest sum of two power laws, times their weights."""
    rows = np.random.default_rng(0).permutation(len(y))[:2000]
    n, d, y, weight = n[rows], d[rows], y[rows], weight[rows]
    best = math.inf
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        terms = np.stack([np.ones_like(y), (n / n.min()) ** -alpha, (d / d.min()) ** -beta], 1)
        terms *= weight[:, None]
        found = np.linalg.lstsq(terms, y * weight, rcond=None)[0]
        best = min(best, float(np.median(np.abs(terms @ found - y * weight))))
    return best
