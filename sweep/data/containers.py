"""Documents in files: .jsonl .ndjson .json .csv .tsv .parquet hold many, others are one each.

`examine_files` reads every file once, checks that it can be read as text throughout
(`sweep.data.decoding`), and names all that cannot in one message. `DocumentReader` reads the
documents of examined files.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.errors import PlanError
from fit.files import COMPRESSIONS
from fit.quantities import count_noun
from sweep.data.corpus import Document, document_of, pieces_of
from sweep.data.decoding import (
    BLOCK_BYTES,
    encoding_of,
    open_text_bytes,
    refuse_foreign,
    refuse_syntax,
)

HEAD_BYTES = 1 << 16
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of containers of many documents."""
ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar")
LONGEST_CELL = 1 << 30
MOST_EXPANSION = 1000
"""Most bytes that a byte may unpack to: text packs 3 to 30 times, and gzip at most 1032 times."""
MOST_NAMED = 3
"""Most bad files that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file that was read once and can be read as documents."""

    path: Path
    hash: str
    """Of the decompressed content."""
    encoding: str
    """As Python names it; empty for parquet."""


@dataclass(slots=True, kw_only=True)
class DocumentReader:
    """Reads the documents of files, and counts rows without a text."""

    column: str
    """Name of the column of text; `a.b` is b within a."""
    without_text: int = 0
    """Rows whose text is null."""

    def documents(self, file: TextFile) -> Iterator[Document]:
        """Documents of one file.

        Raises:
            PlanError: A row cannot be read or holds no text.
        """
        kind = container_of(file.path)
        if kind is None:
            yield Document(key=int(file.hash[:16], 16), pieces=_plain(file))
            return
        rows = _ROWS[kind](file, self.column)
        texts = 0
        for place, row in rows:
            text = self.text(row, f"{place} of {file.path}")
            if text is not None:
                texts += 1
                yield document_of(text)
        if not texts:
            raise PlanError(
                f"{file.path} has no text in '{self.column}'. Choose a column or "
                "exclude the file: data.column, data.pattern."
            )

    def text(self, row: Any, where: str) -> str | None:
        """The text of a row; None, and counted, where it is null.

        Raises:
            PlanError: The row is no object, or holds no text in the column.
        """
        if not isinstance(row, dict):
            raise PlanError(
                f"{where} is {_type_name(row)}, not an object with text in '{self.column}'. Fix or "
                "exclude the file: data.pattern."
            )
        try:
            value = field_of(row, self.column)
        except KeyError:
            raise PlanError(no_column(where, self.column, row)) from None
        if isinstance(value, str):
            return value
        if value is not None:
            raise PlanError(not_text(where, self.column, value))
        self.without_text += 1
        return None


def field_of(row: dict[str, Any], column: str) -> Any:
    """The value of a column; a name that is no column is a path `a.b`.

    Raises:
        KeyError: There is no such column.
    """
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or name not in value:
            raise KeyError(column)
        value = value[name]
    return value


def no_column(where: str, column: str, row: dict[str, Any]) -> str:
    """The message on a row without a column, with the columns that hold text."""
    texts = list(text_columns(row))
    if texts:
        hint = f"text stands in {', '.join(texts[:6])}. Choose one: data.column={texts[0]}."
    else:
        hint = f"it has {', '.join(row) or 'none'}, and no text. Exclude the file: data.pattern."
    return f"{where} has no column '{column}'; {hint}"


def not_text(where: str, column: str, value: Any) -> str:
    """The message on a value that is no text."""
    inner = [f"{column}.{name}" for name in text_columns(value)] if isinstance(value, dict) else []
    advice = (
        f"Choose one: data.column={inner[0]}."
        if inner
        else "Join its texts to one, or choose another column: data.column."
    )
    return f"column '{column}' of {where} holds {_type_name(value)}, not text. {advice}"


def text_columns(row: dict[str, Any], before: str = "") -> Iterator[str]:
    """Columns that hold text, those within others as `a.b`."""
    for name, value in row.items():
        if isinstance(value, str):
            yield f"{before}{name}"
        elif isinstance(value, dict):
            yield from text_columns(value, f"{before}{name}.")


def _type_name(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, list):
        return f"a list of {count_noun(len(value), 'value')}"
    words = {dict: "an object", type(None): "null", bool: "a truth value", str: "a string"}
    return words.get(type(value), "a number")


def container_of(path: Path) -> str | None:
    """The container's suffix, also before that of a compression; None for a file of one text."""
    names = [s.lower() for s in path.suffixes]
    if names and names[-1] in COMPRESSIONS:
        names.pop()
    return names[-1] if names and names[-1] in TABLES else None


def examine_files(files: Sequence[Path], encoding: str | None) -> list[TextFile]:
    """Read files once: their hashes and encodings.

    Args:
        files: The files.
        encoding: Of those that are not UTF-8 and carry no mark.

    Raises:
        PlanError: Some cannot be read as text; the message names the first of them and the count.
    """
    if encoding is not None:
        try:
            # Python has encodings of bytes too, such as base64.
            known = codecs.lookup(encoding)._is_text_encoding
        except LookupError:
            known = False
        if not known:
            raise PlanError(
                f"data.encoding={encoding} is unknown; utf-8, utf-16-le, latin-1 or cp1252 are "
                "known, for example."
            )
    examined, bad = [], []
    for path in files:
        try:
            examined.append(_examine(path, encoding))
        except PlanError as error:
            bad.append((path, str(error)))
    if bad:
        named = "; ".join(f"{path} {what}" for path, what in bad[:MOST_NAMED])
        more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        raise PlanError(
            f"{count_noun(len(bad), 'file')} of {len(files)} cannot be read as text: {named}"
            f"{more}. Convert (iconv -t utf-8), name the encoding (data.encoding=cp1252, say), or "
            f"exclude: data.pattern='... !**/{bad[0][0].name}'."
        )
    return examined


def _examine(path: Path, named: str | None) -> TextFile:
    """Read a file once; the message of a refusal goes on after the file's name."""
    if any(s.lower() in ARCHIVES for s in path.suffixes):
        raise PlanError("is an archive, which has to be unpacked first")
    kind = container_of(path)
    try:
        if kind == ".parquet":
            return TextFile(path=path, hash=_hash(path, ""), encoding="")
        with open_text_bytes(path) as stream:
            head = stream.read(HEAD_BYTES)
        refuse_foreign(head)
        codec = encoding_of(head, named)
        if kind is None:
            refuse_syntax(head.decode(codec, "ignore"))
        try:
            return TextFile(path=path, hash=_hash(path, codec), encoding=codec)
        except UnicodeError:  # beyond the head
            if named is None or codec == named:
                raise
        return TextFile(path=path, hash=_hash(path, named), encoding=named)
    except ImportError as error:
        raise PlanError(_package_needed(error)) from error
    except UnicodeError as error:
        raise PlanError(f"cannot be decoded ({str(error)[:60]})") from error
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise PlanError(f"cannot be read: {reason}") from error


def _hash(path: Path, encoding: str) -> str:
    """Hash of the decompressed content of a file, decoded throughout if it has an encoding.

    Raises:
        UnicodeError: It cannot be decoded.
    """
    digest = hashlib.blake2b(digest_size=8)
    decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
    read, most = 0, MOST_EXPANSION * path.stat().st_size
    with open_text_bytes(path) as stream:
        while block := stream.read(BLOCK_BYTES):
            read += len(block)
            if read > most:
                raise PlanError(f"unpacks to more than {MOST_EXPANSION} times its size")
            digest.update(block)
            if decoder is not None:
                decoder.decode(block)
        if decoder is not None:
            decoder.decode(b"", final=True)
    return digest.hexdigest()


def _text_stream(file: TextFile) -> io.TextIOWrapper:
    """Open an examined file as text, its line ends kept."""
    return io.TextIOWrapper(open_text_bytes(file.path), encoding=file.encoding, newline="")


def _plain(file: TextFile) -> Iterator[str]:
    """Text of a plain file in pieces."""
    with _name_errors(file.path), _text_stream(file) as stream:
        yield from pieces_of(stream)


Rows = Iterator[tuple[str, Any]]
"""Where a row stands, in words, and its value."""


def _json_lines(file: TextFile, column: str) -> Rows:
    """Values of a file of one JSON value a line."""
    with _name_errors(file.path), _text_stream(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"line {number}", _parse_json(line, file.path, f"line {number}")


def _json(file: TextFile, column: str) -> Rows:
    """Values of a JSON array, of one JSON value a line, or of a single object."""
    with _name_errors(file.path), _text_stream(file) as stream:
        first = next((line for line in stream if line.strip()), "")
        lines = not first.lstrip().startswith("[") and _is_json(first)
    if lines:
        yield from _json_lines(file, column)
        return
    with _name_errors(file.path), _text_stream(file) as stream:
        value = _parse_json(stream.read(), file.path, "the content")
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield f"item {number}", item


def _is_json(line: str) -> bool:
    """Whether a line is a whole JSON value."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parse_json(text: str, path: Path, where: str) -> Any:
    """Parse a JSON value.

    Raises:
        PlanError: It is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            f"{where} of {path} is not JSON ({str(error)[:60]}): {text[:60]!r}. Repair or exclude "
            "the file."
        ) from None


def _delimited(file: TextFile, column: str) -> Rows:
    """Rows of a .csv or .tsv with a header; of the usual separators that which finds the column."""
    csv.field_size_limit(LONGEST_CELL)  # a text may be long; the module's own limit is 128 kB
    with _name_errors(file.path), _text_stream(file) as stream:
        head = stream.readline()
    common = "\t" if container_of(file.path) == ".tsv" else ","
    separators = dict.fromkeys((common, ",", ";", "\t", "|"))
    name = column.split(".")[0]
    split = {s: next(csv.reader([head], delimiter=s), []) for s in separators}
    separator = next((s for s in separators if {column, name} & set(split[s])), common)
    with _name_errors(file.path), _text_stream(file) as stream:
        reader = csv.reader(stream, delimiter=separator, strict=True)  # no quote may stay open
        header = next(reader, [])
        if doubles := [n for n, count in Counter(header).items() if count > 1]:
            raise PlanError(f"{file.path} has the column '{doubles[0]}' twice; rename one.")
        for row in reader:
            if len(row) == len(header):
                yield f"line {reader.line_num}", dict(zip(header, row, strict=True))
            elif row:
                raise PlanError(
                    f"line {reader.line_num} of {file.path} has {len(row)} fields and the header "
                    f"{len(header)}. Repair or exclude the file."
                )


def _parquet(file: TextFile, column: str) -> Rows:
    """Rows of a parquet file: the column of text alone."""
    with _name_errors(file.path):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

    try:
        packed = file.path.suffix.lower() in COMPRESSIONS
        # A footer at the end says where the columns lie, so that a packed file is unpacked first.
        content = io.BytesIO(open_text_bytes(file.path).read()) if packed else file.path
        with ParquetFile(content) as table:
            names = table.schema_arrow.names
            top = column if column in names else column.split(".")[0]
            chosen = [top] if top in names else names
            number = 0
            for batch in table.iter_batches(columns=chosen):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (ArrowException, OSError) as error:
        raise PlanError(
            f"{file.path} is not a readable parquet file: {str(error)[:80]}. Replace or exclude it."
        ) from error


_ROWS: dict[str, Callable[[TextFile, str], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".parquet": _parquet,
}


def _package_needed(error: ImportError) -> str:
    """Which package a container needs, as the end of a sentence that begins with the file."""
    return f"needs the package '{error.name}', not installed here (pip install 'isoflop[sweep]')"


@contextmanager
def _name_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into a PlanError that names it."""
    try:
        yield
    except ImportError as error:
        raise PlanError(f"{path} {_package_needed(error)}.") from error
    except (UnicodeError, EOFError, zlib.error, lzma.LZMAError, OSError, csv.Error) as error:
        raise PlanError(
            f"{path} cannot be read: {str(error)[:80]}. Repair or exclude it."
        ) from error
