"""Columns of tables under our names: renamed, constant, from file names, or melted from a wide one.

`name_columns` applies what `--column` says. The right side of `OURS=...` is

- the name of a column of the table;
- a number such as `4.68e9`, or a text in quotes: the same for every row;
- a pattern with `{file}` or `{folder}`: the part of the file's or its folder's name that stands
  there, such as `params=llama-{file}-*` for the 70M of `llama-70M-c4.csv`.

`melt` makes a row of each cell of a table that has a column for each size or length.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit.errors import QueryError, RecordError
from fit.files import COMPRESSIONS
from fit.quantities import LOSS_UNITS, Units, parse_count

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("params", "tokens", "loss")
OURS = (*REQUIRED, "flops", "run", "status")
"""Columns with a meaning of their own; all others are kept by their names in `RunTable.columns`."""
LIKELY: Mapping[str, tuple[str, ...]] = {
    "params": ("param", "model_size", "n_non_emb", "nonembed", "size", "weights"),
    "tokens": ("token", "n_tok", "seen", "data_size", "step", "samples", "examples", "iter"),
    "loss": ("loss", "nll", "cross_entropy", "perplexity", "ppl", "bpb", "bits", "bpc", "eval"),
    "flops": ("flop", "compute", "budget"),
}
"""Parts of the names that other people's tables give to a column, the likeliest first."""
SYMBOLS: Mapping[str, str] = {"params": "n", "tokens": "d", "loss": "l", "flops": "c"}
LISTED_COLUMNS = 12
"""Column names shown in a message."""
FILE = "__file__"
"""Column with the path that a row was read from, while a table is read."""


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """Our column -> what it is, from texts `ours=yours`.

    Raises:
        RecordError: Not of that form, or one column twice.
    """
    columns: dict[str, str] = {}
    for text in texts:
        ours, sign, theirs = (part.strip() for part in text.partition("="))
        if not (ours and sign and theirs):
            raise RecordError(
                f"--column is '{text}'; OURS=YOURS is needed, such as params=n_params. Correct it."
            )
        if columns.get(ours, theirs) != theirs:
            raise RecordError(
                f"--column names {ours} twice ({columns[ours]} and {theirs}); one is needed. "
                "Remove the other."
            )
        columns[ours] = theirs
    return columns


def name_columns(frame: pd.DataFrame, rename: Mapping[str, str], path: object) -> pd.DataFrame:
    """The frame under our names: the user's, then names that differ from ours by spelling alone.

    Args:
        frame: The cells, with the column `FILE` where they come from files.
        rename: Our column -> the table's column, a constant or a pattern of file names.
        path: Name of the table in messages.

    Raises:
        RecordError: A column is not there, or there are two that it may be.
    """
    frame = frame.rename(columns={c: str(c).strip() for c in frame})
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise RecordError(f"{path} has two columns {twice[0]}; one is needed. Remove the other.")
    described = {
        ours: _described_column(theirs, ours, frame, path) for ours, theirs in rename.items()
    }
    taken = {c for theirs in rename.values() for c in columns_alike(theirs, frame)} - {FILE}
    frame = frame.drop(columns=[*(taken | (described.keys() & set(frame)))]).assign(**described)
    for ours in OURS:
        alike = [str(c) for c in frame if plain_name(c) == ours and c not in rename]
        if ours in frame or not alike:
            continue
        if len(alike) > 1:
            raise RecordError(
                f"{path} has {' and '.join(alike)}; one column {ours} is needed. Choose: "
                f"--column '{ours}={alike[0]}'"
            )
        frame = frame.rename(columns={alike[0]: ours})
    return frame


def _described_column(theirs: str, ours: str, frame: pd.DataFrame, path: object) -> Any:
    """The cells of a column that --column describes."""
    alike = [c for c in columns_alike(theirs, frame) if c != FILE]
    number = isinstance(_constant(theirs), float)
    if alike and number:
        raise RecordError(
            f"--column {ours}={theirs} may mean the column {alike[0]} or the number. Rename the "
            f"column; a table with a column for each size is read by --wide params."
        )
    if not alike and ("{" in theirs or _constant(theirs) is not None):
        files = list(frame[FILE]) if FILE in frame else [""] * len(frame)
        return values_without_column(theirs, ours, files)
    return frame[find_column(theirs, frame, path, f"as --column {ours}={theirs} says", ours)]


def values_without_column(text: str, ours: str, files: Sequence[str]) -> list[Any]:
    """What --column says of each row without naming a column: a constant or a part of a file name.

    Args:
        text: The right side of `OURS=...`.
        ours: Our column.
        files: The file of each row, (rows,).

    Returns:
        A value for each row, None where the text is neither.

    Raises:
        RecordError: A pattern does not match, or there are no files.
    """
    if "{file}" in text or "{folder}" in text:
        if not all(files):
            raise RecordError(f"--column {ours}={text} needs tables in files. Leave it out.")
        values = {f: _from_name(text, ours, f) for f in dict.fromkeys(files)}
        return [values[f] for f in files]
    return [_constant(text)] * len(files)


def _constant(text: str) -> float | str | None:
    """A number, or a text in quotes; None for a name."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    try:
        return parse_count(text)
    except QueryError:
        return 0.0 if re.fullmatch(r"0+(\.0*)?", text) else None


def _from_name(pattern: str, ours: str, path: str) -> float | str:
    """The part of a file's or folder's name that stands at {file} or {folder} in a pattern."""
    name = Path(path).name
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    name = Path(name).stem if "{file}" in pattern else Path(os.path.abspath(path)).parent.name
    parts = re.split(r"(\{file\}|\{folder\}|\*)", pattern)
    marks = {"{file}": "(.+?)", "{folder}": "(.+?)", "*": ".*"}
    match = re.fullmatch("".join(marks.get(p, re.escape(p)) for p in parts), name)
    if match is None or len(match.groups()) != 1:
        raise RecordError(
            f"--column {ours}={pattern} does not match {path}: '{name}' is its name. One "
            "{file} or {folder} stands for the value, * for any text."
        )
    value = _constant(match[1])
    return match[1] if value is None else value


def columns_alike(name: str, frame: Iterable[object]) -> list[str]:
    """Columns of exactly this name, or else those that differ from it by spelling alone."""
    names = [str(c) for c in frame]
    return [c for c in names if c == name] or [
        c for c in names if plain_name(c) == plain_name(name)
    ]


def find_column(name: str, frame: pd.DataFrame, path: object, why: str, ours: str = "") -> str:
    """The one column that a user's name for it means.

    Raises:
        RecordError: None or several are of that name; `why` says what it is needed for.
    """
    alike = columns_alike(name, frame)
    if len(alike) > 1:
        raise RecordError(f"{path} has {' and '.join(alike)}; one column {name} is needed {why}.")
    if not alike:
        raise RecordError(f"{path} has no column {name} {why}; it has {listed(frame, (ours,))}.")
    return alike[0]


def plain_name(name: object) -> str:
    """A column's name without capitals, blanks and separators at its ends."""
    return re.sub(r"[\s_\-]+", "_", str(name).strip().casefold()).strip("_")


def listed(names: Iterable[object], needed: Sequence[str] = ()) -> str:
    """Column names for a message, not too many, those first that may be the needed ones."""
    shown = [str(n) for n in names if n != FILE]
    order = {n: min((_rank(n, c) for c in needed), default=0) for n in shown}
    shown.sort(key=lambda n: order[n])
    more = len(shown) - LISTED_COLUMNS
    text = ", ".join(n[:60] for n in shown[:LISTED_COLUMNS]) or "none"
    return text + (f" and {more} more" if more > 0 else "")


def _rank(name: str, needed: str) -> int:
    """How likely a name is that of a needed column, 0 the likeliest."""
    words = LIKELY.get(needed, (needed,))
    bare = plain_name(name)
    if bare == SYMBOLS.get(needed):
        return 0
    places = [i for i, word in enumerate(words) if word in bare]
    private = 50 if bare.startswith("_") or str(name).startswith("_") else 0
    return places[0] + private if places else 100


def number_names(frame: Iterable[object]) -> dict[str, float]:
    """Columns that are named by a number, such as `53.3M` or `N=53.3M`, and the numbers.

    What the names have in common in front of it is left out.
    """
    values: dict[str, float] = {}
    heads: dict[str, list[tuple[str, str]]] = {}
    for name in map(str, frame):
        match = re.fullmatch(
            r"(.*?[^\w.]|[^\W\d]*[_=]|)([0-9][0-9_.,]*(?:e[+-]?[0-9]+)?[kKmMbBgGtT]?)", name
        )
        if match:
            heads.setdefault(match[1], []).append((name, match[2].replace(",", "")))
    for name, text in max(heads.values(), key=len, default=[]):
        try:
            values[name] = parse_count(text)
        except QueryError:
            continue
    return values


def melt(frame: pd.DataFrame, wide: str, path: object) -> pd.DataFrame:
    """A row for each cell of the columns that are named by numbers.

    Args:
        frame: The wide table, under our names.
        wide: Our column that the names are values of; the cells are losses.
        path: Name of the table in messages.

    Raises:
        RecordError: There are no such columns, or the table has the melted ones already.
    """
    values = number_names(frame)
    if len(values) < 2:
        raise RecordError(
            f"--wide {wide} needs columns named by numbers, such as 70M; {path} has "
            f"{listed(frame)}. Leave it out."
        )
    there = [c for c in (wide, "loss") if c in frame]
    if there:
        raise RecordError(f"{path} has a column {there[0]} already; --wide {wide} makes one.")
    kept = [c for c in frame if c not in values]
    long = frame.assign(__row__=range(len(frame))).melt(
        id_vars=[*kept, "__row__"], value_vars=list(values), var_name=wide, value_name="loss"
    )
    rows = long.pop("__row__")
    names = [f"row {i + 1}, {n}" for i, n in zip(rows, long[wide], strict=True)]
    if "run" not in long:
        long["run"] = names
    long[wide] = long[wide].map(values)
    return long


LOSS_NAMES: Mapping[str, tuple[frozenset[str], str]] = {
    "a perplexity": (
        frozenset(("perplexity", "ppl", "pplx", "perplexities")),
        "--unit loss=ppl takes its natural logarithm",
    ),
    "in bits": (
        frozenset(("bits", "bpb", "bpt", "bpc")),
        "--unit loss=bits multiplies bits per token by ln 2, --unit loss=bpb keeps bits per byte",
    ),
}
"""Losses that are not in nats: what they are, words in their column's name, what to say."""
_MILLIONS = re.compile(r".*[\s_(\[/-](k|M|B|G|T|(?i:thousand|million|billion|trillion)s?)[)\]]?\s*")
_FACTORS = {"thousand": "k", "million": "M", "billion": "B", "trillion": "T"}
_EXAFLOPS = re.compile(
    r".*(?:\b|_)(?:[kMGTPEZY]FLOPs?|(?i:[kmgtpez]f?-?s?-?days?|peta|exa|zetta)).*"
)


def refuse_loss_name(column: str, path: object) -> None:
    """Refuse a loss whose column's name says that it is not in nats.

    Raises:
        RecordError: It does.
    """
    words = set(re.split(r"[^a-z]+", column.casefold()))
    for what, (names, cure) in LOSS_NAMES.items():
        if words & names:
            raise RecordError(
                f"the losses of {path} are in {column}, {what}; nats per token are needed. Say so: "
                f"--column 'loss={column}' and its unit ({cure}); or --unit loss=nats."
            )


RANKED: Mapping[str, int] = {"params": 4, "tokens": 2, "loss": 7, "flops": 2}
"""Names of `LIKELY` that are suggested for a column; the others are only listed first."""
NOT_COUNTS = frozenset("per se std stderr err error sec second seconds low high range id".split())
"""Words in the name of a rate, an error or a bound: no column of ours is one."""
HELD_OUT = ("val", "valid", "validation", "eval", "heldout", "test")


def likely_columns(names: Sequence[str]) -> dict[str, str]:
    """Our column -> the one of a table whose name says so; none where several names may.

    A loss on held-out data goes before one on the training data.

    Args:
        names: Columns that hold numbers.
    """
    found: dict[str, str] = {}
    for ours, most in RANKED.items():
        alike = columns_alike(ours, names)
        bare = {n: re.sub(r"[\s_]*[(\[].*", "", n) for n in names}
        words = {n: set(re.split(r"[^a-z0-9]+", n.casefold())) for n in names}
        ranks = {n: _rank(bare[n], ours) for n in names if not words[n] & NOT_COUNTS}
        best = min(ranks.values(), default=most)
        if not alike and best < most:
            alike = [n for n, rank in ranks.items() if rank == best and n not in found.values()]
            held_out = [n for n in alike if words[n] & set(HELD_OUT)] if ours == "loss" else []
            alike = held_out or alike
        if len(alike) == 1:
            found[ours] = alike[0]
    return found


def unit_of_name(ours: str, name: str) -> str | None:
    """The unit that a column's name states, as --unit takes it; None where it states none."""
    words = set(re.split(r"[^a-z]+", name.casefold()))
    if ours == "loss":
        known = (w for w in ("bpb", "bpt", "bits", "ppl", "perplexity") if w in words)
        return next((LOSS_UNITS[w] for w in known), None)
    if ours == "flops":
        factor = re.search(r"(?:\b|_)([kMGTPEZY])FLOPs?", name)
        return None if factor is None else f"1e{3 + 3 * 'kMGTPEZY'.index(factor[1])}"
    match = _MILLIONS.fullmatch(name)
    if match is None:
        return None
    factor_name = match[1].removesuffix("s").lower()
    return _FACTORS.get(factor_name, match[1])


def check_units_of_names(rename: Mapping[str, str], units: Units, path: object) -> None:
    """Refuse columns whose names have a unit that no --unit states, such as `params (M)`.

    Raises:
        RecordError: One has.
    """
    for ours, theirs in rename.items():
        if ours in units or "{" in theirs or _constant(theirs) is not None:
            continue
        if ours == "loss":
            refuse_loss_name(theirs, path)
        unit = unit_of_name(ours, theirs) if ours in ("params", "tokens") else None
        if unit:
            raise RecordError(
                f"the {ours} of {path} are in '{theirs}', whose name has a unit. Say which: --unit "
                f"{ours}={unit}, or --unit {ours}=1 for raw counts."
            )
        if ours == "flops" and _EXAFLOPS.fullmatch(theirs):
            raise RecordError(
                f"the flops of {path} are in '{theirs}', whose name has a unit. Say how many FLOP "
                "one is: --unit flops=1e15; --unit flops=1 for raw counts."
            )


def require_columns(frame: pd.DataFrame, path: object, target: str, units: Units) -> pd.DataFrame:
    """The frame, its target as `loss` where it has no losses.

    Raises:
        RecordError: A column is missing.
    """
    missing = [c for c in REQUIRED if c not in frame]
    if not len(frame):
        raise RecordError(f"{path} has a header and no rows; a row for each run is needed.")
    if missing == ["loss"] and "loss" not in units:
        for column in (str(c) for c in frame if plain_name(c) not in ("bits", "weight_bits")):
            refuse_loss_name(column, path)
    if "loss" in missing and target != "loss":
        alike = columns_alike(target, frame)
        if len(alike) == 1 and "loss" in units:
            raise RecordError(
                f"--unit loss is for losses; {path} has {target} alone. Leave it out."
            )
        if len(alike) == 1:
            frame = frame.rename(columns={alike[0]: "loss"})
            missing.remove("loss")
    if missing and not (missing in (["params"], ["tokens"]) and "flops" in frame):
        hint = wide_hint(frame, missing)
        names = [target if c == "loss" else c for c in missing]
        raise RecordError(
            f"{path} has no column {', '.join(names)}; it has {listed(frame, missing)}."
            + (hint or f" Name yours: --column {names[0]}=YOURS")
        )
    return frame


def wide_hint(frame: Iterable[object], missing: Sequence[str]) -> str:
    """What to do about a table that has a column for each size or length; empty for others."""
    frame = [c for c in frame if c != FILE]
    values = number_names(frame)
    if len(values) < 2 or "loss" not in missing:
        return ""
    if len(values) == len(frame):
        return " Its first row holds numbers: a header with names is needed."
    other = next((c for c in missing if c in ("params", "tokens")), None)
    if other is None:
        return ""
    names = ", ".join(list(values)[:4])
    return f" Its columns {names} ... seem to be {other}, and their cells losses: --wide {other}"
