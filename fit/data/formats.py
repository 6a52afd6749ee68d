"""Read the cells of table files: formats, compression, encodings, separators, nested values.

- `read_frame` reads one file: its compression is found by its first bytes, its format by its suffix
  (`TABLE_READERS`).
- `find_tables` finds the files that a path or a glob means; `has_table_suffix` knows their names.
- `as_frame` takes a data frame of any library.

Cells come out as numbers where a whole column is numbers, and as text otherwise; nested values get
dots between their levels. What a column means is not known here.
"""

from __future__ import annotations

import ast
import csv
import glob
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fit.data.cells import typed_columns
from fit.errors import RecordError
from fit.files import (
    COMPRESSIONS,
    checked_path,
    compression_of,
    open_decompressed,
    unescape_formula,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES = 2 << 30
"""Size of a table after decompression; a few kB can expand to any size."""
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


def read_frame(path: Path, *, nested: bool = False) -> tuple[pd.DataFrame, bytes]:
    """Read a table file.

    Args:
        path: The file.
        nested: Leave nested cells as they are.

    Returns:
        Its cells, with an index counted from 0, and the bytes of the file.

    Raises:
        RecordError: It cannot be read as what its name says.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(
            f"cannot read {path}: there is no such file; a table of runs is needed. Check the path."
        ) from error
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    suffix = table_suffix(path)
    try:
        frame = TABLE_READERS[suffix](io.BytesIO(_decompressed(data)))
    except RecordError as error:
        raise RecordError(f"cannot read {path} as {suffix[1:]}: {error}") from error
    except ImportError as error:
        raise RecordError(
            f"reading {path} needs a library that is not installed ({error.name or error}). "
            "Install pyarrow, or save the table as .csv."
        ) from error
    except Exception as error:  # readers raise their own kinds, some not even ValueError
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RecordError(f"cannot read {path} as {suffix[1:]}: {first}") from error
    frame = frame.reset_index(drop=True)
    return (frame if nested else flat_frame(frame)), data


def table_suffix(path: Path) -> str:
    """The suffix that says the format of a table, that of a compression left out.

    Raises:
        RecordError: It is no format of a table.
    """
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    suffix = Path(name).suffix
    if suffix in SPREADSHEETS:
        raise RecordError(f"{path} is a spreadsheet, which is not read. Save it as .csv first.")
    if suffix not in TABLE_READERS:
        if not path.exists():
            raise RecordError(
                f"{path} does not exist; a folder of runs or a table is needed. Check the path."
            )
        raise RecordError(
            f"{path} is neither a folder of runs nor a table ({', '.join(TABLE_READERS)}, each "
            f"also with {', '.join(COMPRESSIONS)}). Check the path; logs of a trainer, and a "
            f"tracker's files, are read by: isoflop import {path}"
        )
    return suffix


def no_fit(file: Path, error: RecordError) -> str:
    """What a file is that could not be read as a fit, and what to do."""
    if file.suffix == ".json":
        return f"cannot read the fit {file}: {error}"
    try:
        table_suffix(file)
    except RecordError:
        return (
            f"{file} is no fit; the folder of a report or its fit.json is needed. Name one, or "
            "make one: isoflop fit RUNS"
        )
    return f"{file} is a table, and a fit is needed. Fit it first: isoflop fit {file}"


def find_tables(sources: Sequence[str | Path]) -> list[Path]:
    """The table files that paths and globs mean, in the order given and by name within a glob.

    Raises:
        RecordError: A glob matches nothing, one file is given twice, or a name is no table's.
    """
    paths: list[Path] = []
    for source in (str(checked_path(source)) for source in sources):
        matches = [source]
        if glob.has_magic(source) and not Path(source).exists():
            matches = sorted(glob.glob(source, recursive=True))
            if not matches:
                raise RecordError(f"no file matches {source}; check the pattern.")
        paths += map(Path, matches)
    twice = [path for path, count in Counter(p.absolute() for p in paths).items() if count > 1]
    if twice:
        raise RecordError(f"{twice[0]} is given twice; each table is needed once. Remove one.")
    for path in paths:
        if path.is_dir() and len(paths) > 1:
            raise RecordError(
                f"{path} is a folder; several inputs must all be tables. Give one folder alone."
            )
        if not path.is_dir():
            table_suffix(path)
    return paths


def as_frame(source: object) -> pd.DataFrame:
    """A data frame of any library, columns by name or rows as one of pandas, nested cells flat."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return flat_frame(source.copy().reset_index(drop=True))
    if hasattr(source, "collect") and not hasattr(source, "to_pandas"):
        source = source.collect()  # polars' lazy frames
    try:
        frame = _foreign_frame(source)
    except RecordError:
        raise
    except Exception as error:  # each library raises its own kinds
        raise RecordError(
            f"the {type(source).__name__} is no table of runs ({error}); columns of equal length "
            "are needed. Convert it: pandas.DataFrame(...)."
        ) from error
    if frame is None:
        raise RecordError(
            f"runs are given as {type(source).__name__}; a path, a data frame or a list of run "
            "records is needed. Convert them: pandas.DataFrame(...)."
        )
    return flat_frame(frame.reset_index(drop=True))


def _foreign_frame(source: Any) -> pd.DataFrame | None:
    """What is no frame of pandas as one: a mapping of columns, rows, or another library's table."""
    import pandas as pd

    if isinstance(source, Mapping):
        return pd.DataFrame({str(name): np.asarray(v) for name, v in source.items()})
    if isinstance(source, list | tuple):
        rows = source and all(isinstance(row, Mapping) for row in source)
        return _frame_of_rows([dict(row) for row in source]) if rows else None
    if hasattr(source, "get_columns"):  # polars, whose own conversion needs pyarrow
        return pd.DataFrame({c.name: c.to_list() for c in source.get_columns()})
    if hasattr(source, "to_pandas"):
        return pd.DataFrame(source.to_pandas())
    if hasattr(source, "__dataframe__"):
        return pd.api.interchange.from_dataframe(source)
    return None


def flat_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose nested cells, also JSON in text, are columns with dots between the levels."""
    import pandas as pd

    columns: list[tuple[str, Any]] = []
    for place, name in enumerate(frame.columns):
        cells = frame.iloc[:, place]
        if not isinstance(cells.dtype, np.dtype):  # its missing cells are no None and no NaN
            cells = cells.astype(object).where(cells.notna(), None).infer_objects()
        if cells.dtype.kind not in "biufcM" and _nested(cells):
            rows = [flatten({str(name): cell}) if _present(cell) else {} for cell in cells]
            for key in dict.fromkeys(k for row in rows for k in row):
                inner = pd.Series([row.get(key) for row in rows], dtype=object).infer_objects()
                columns.append((key, inner))
        elif str(name).strip() or cells.map(_present).any():
            columns.append((str(name), cells))
    out = pd.concat([c for _, c in columns], axis=1).copy() if columns else frame
    return out.set_axis([name for name, _ in columns], axis=1) if columns else out


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, dots between levels; JSON in strings is parsed too."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        cell = parse_cell(value)
        if isinstance(cell, Mapping) and cell:
            flat |= flatten(cell, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = cell
    return flat


def parse_cell(value: Any) -> Any:
    """A cell's value: JSON and Python literals parsed, a tracker's {"value": ...} unwrapped."""
    if isinstance(value, str) and value[:1] in "{[":
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, Mapping) and value.keys() <= {"value", "desc"} and "value" in value:
        return value["value"]
    return value


def _nested(cells: Iterable[Any]) -> bool:
    """Whether a column has mappings, or texts that are."""
    return any(isinstance(c, Mapping) or (isinstance(c, str) and c[:1] == "{") for c in cells)


def _present(cell: Any) -> bool:
    """Whether a cell holds anything."""
    return cell is not None and cell != "" and cell == cell


def _decompressed(data: bytes) -> bytes:
    """The bytes of a file without its compression, which its first bytes show.

    Raises:
        RecordError: It is cut short, too large, or of a kind that no installed library reads.
    """
    compression = compression_of(data)
    if compression is None:
        if data.startswith((b"PK\x03\x04", b"7z\xbc\xaf")):
            raise RecordError("it is an archive. Extract the table first.")
        return data
    try:
        with open_decompressed(io.BytesIO(data), compression) as stream:
            plain = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise RecordError(f"its compression is damaged or cut short ({error}).") from error
    if len(plain) > MOST_BYTES:
        raise RecordError(f"it expands to more than {MOST_BYTES >> 30} GiB. Send less.")
    return plain


def _text(stream: IO[bytes]) -> str:
    """The text of a file in UTF-8, UTF-16 or, where it is neither, Windows-1252.

    Raises:
        RecordError: It is not text.
    """
    data = stream.read()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    head = data[:4096]
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(head) > 8 and zeros.count(0) > 0.9 * len(zeros):
            return data.decode(encoding)
    if b"\x00" in data:
        raise RecordError("it has NUL bytes, so it is not text. Check the file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _read_csv(stream: IO[bytes]) -> pd.DataFrame:
    """Read text separated by commas, semicolons, tabs or bars, as its first lines show.

    Raises:
        RecordError: Rows of different lengths, columns of one name, no header.
    """
    import pandas as pd

    lines = _table_lines(_text(stream))
    if not lines:
        raise RecordError("it is empty; a header and rows are needed.")
    separator = _separator(lines)
    rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    rows = [row for row in rows if row and (row[0].strip() or any(map(str.strip, row)))]
    names = [unescape_formula(name.strip()) for name in rows[0]]
    if len(names) > 1 and not any(names):
        raise RecordError("its header is empty; names of columns are needed.")
    width = len(names)
    for number, row in enumerate(rows[1:], start=1):
        if len(row) == width:
            continue
        if len(row) < width or any(cell.strip() for cell in row[width:]):
            raise RecordError(
                f"row {number} has {len(row)} cells and the header {width}. Correct the row, or "
                "quote cells that hold the separator."
            )
        del row[width:]
    twice = [n for n, count in Counter(names).items() if count > 1 and n]
    if twice:
        raise RecordError(f"it has two columns {twice[0]}; one is needed. Remove the other.")
    cells: dict[str, Sequence[str]] = {}
    for i, column in enumerate(zip(*rows[1:], strict=True) if rows[1:] else [()] * width):
        counted = not names[i] and list(column) == [str(k) for k in range(len(column))]
        if names[i] or (any(map(str.strip, column)) and not counted):
            cells[names[i] or f"column {i + 1}"] = column
    frame = pd.DataFrame(typed_columns(cells, semicolon=separator == ";"))
    return _unescaped(frame)


def _table_lines(text: str) -> list[str]:
    """The lines of a table: without comments above it, a separator's declaration, and rules."""
    if re.search(r"^(<<<<<<<|>>>>>>>) ", text, re.MULTILINE):
        raise RecordError("it has the marks of an unfinished merge. Resolve it first.")
    lines = io.StringIO(text, newline="").readlines()  # splitlines splits at U+2028 too
    while lines and (not lines[0].strip() or re.match(r"sep=.\s*$", lines[0])):
        del lines[0]
    comments = 0
    while comments < len(lines) and lines[comments].startswith("#"):
        comments += 1
    if comments:
        header = lines[comments - 1].lstrip("# ")
        first = lines[comments] if comments < len(lines) else ""
        named = re.match(r"[\s\"]*[-+.\d]", first) and _separator([header]) == _separator([first])
        lines = [header, *lines[comments:]] if named else lines[comments:]
    return lines


def _separator(lines: Sequence[str]) -> str:
    """The character that separates a header's names."""
    bare = re.sub(r'"[^"]*"', "", lines[0])
    return max(",;\t|", key=bare.count)


def _unescaped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the apostrophes that `files.csv_text` puts before formulas."""
    for column in frame:
        if frame[column].dtype.kind == "O":
            cells = frame[column].map(unescape_formula)
            # Only where a cell changes: `map` may infer another type for the column.
            if not cells.equals(frame[column]):
                frame[column] = cells
    return frame


def _read_parquet(stream: IO[bytes]) -> pd.DataFrame:
    """Read a parquet file; its index, where it has names, is columns too."""
    import pandas as pd

    frame = pd.read_parquet(stream)  # type: ignore[arg-type,unused-ignore]
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return frame.reset_index() if named else frame


def _read_json(stream: IO[bytes]) -> pd.DataFrame:
    """Read JSON: objects a line, an array of objects, or an object of columns."""
    text = _text(stream).strip()
    try:
        document = _parse_json(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or "Extra data" not in error.msg:
            raise RecordError(f"line {error.lineno} is not JSON: {error.msg}.") from error
        return _frame_of_rows([_json_line(i, line) for i, line in enumerate(lines, start=1)])
    return _frame_of_json(document)


def _json_line(number: int, line: str) -> Any:
    """One line of JSON."""
    try:
        return _parse_json(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"line {number} is not JSON: {error.msg}.") from error


def _parse_json(text: str) -> Any:
    """Parse JSON in which no key stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = Counter(key for key, _ in pairs)
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise RecordError(f"one object has '{twice[0]}' twice; one is needed. Remove one.")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _frame_of_json(document: Any) -> pd.DataFrame:
    """The frame of a JSON document in one of the forms that tables have."""
    import pandas as pd

    if isinstance(document, list):
        return _frame_of_rows(document)
    if not isinstance(document, dict):
        raise RecordError("it is a single value; rows or columns are needed.")
    if {"columns", "data"} <= document.keys():
        return _frame_of_rows(
            [dict(zip(document["columns"], r, strict=True)) for r in document["data"]]
        )
    tables = [v for v in document.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(tables) == 1:
        return _frame_of_rows(tables[0])
    values = list(document.values())
    if values and all(isinstance(v, list) for v in values):
        if len({len(v) for v in values}) > 1:
            lengths = ", ".join(f"{k} {len(v)}" for k, v in list(document.items())[:4])
            raise RecordError(f"its columns have different lengths ({lengths}). Correct them.")
        return pd.DataFrame(
            {k: pd.Series(v, dtype=object) for k, v in document.items()}
        ).infer_objects()
    if values and all(isinstance(v, dict) for v in values) and len({tuple(v) for v in values}) == 1:
        columns = {k: list(v.values()) for k, v in document.items()}
        return pd.DataFrame(columns)
    return _frame_of_rows([document])


def _frame_of_rows(rows: Sequence[Any]) -> pd.DataFrame:
    """The frame of JSON objects, one a row."""
    import pandas as pd

    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RecordError(f"row {number} is {type(row).__name__}, not an object of columns.")
    names = list(dict.fromkeys(str(k) for row in rows for k in row))
    columns = {n: pd.Series([r.get(n) for r in rows], dtype=object) for n in names}
    return pd.DataFrame(columns).infer_objects()


TABLE_READERS: dict[str, Callable[[IO[bytes]], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".tsv": _read_csv,
    ".ndjson": _read_json,
    ".json": _read_json,
}
"""Formats of tables by suffix. A new format is one entry here; everything after is checked alike.

pandas is imported inside the readers: a query reads no table and must not wait for it."""
