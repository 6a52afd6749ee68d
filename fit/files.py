"""Files: atomic writes, CSV text, decompression, and the provenance that documents record.

- `write_atomically` replaces a file; `write_once` refuses to replace one.
- `csv_text` is the only CSV writer. It escapes cells that a spreadsheet would run as a formula, and
  `unescape_formula` restores them, so that a table written here reads back as it was.
- `compression_of` finds a compression by its first bytes, and `open_decompressed` reads it.
- `versions`, `commit` and `now` say which libraries, code and time a result comes from.

What only a writer needs is imported where it is used: every query imports this module.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fit.errors import RecordError

FORMULA = re.compile(r"'* *[=+\-@\t\r\n]")
"""Start of a text that a spreadsheet computes (OWASP, "CSV injection").

Apostrophes in front are part of the pattern, so that a text which has one already gets a second
and the escape can be undone.
"""

COMPRESSIONS: Mapping[str, bytes] = {
    ".gz": b"\x1f\x8b\x08",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
}
"""First bytes of each compression, by its suffix."""


def compression_of(head: bytes) -> str | None:
    """The suffix of a compression by its first bytes; None where there is none."""
    return next((suffix for suffix, mark in COMPRESSIONS.items() if head.startswith(mark)), None)


def open_decompressed(source: Path | IO[bytes], compression: str | None) -> IO[bytes]:
    """Open a file, or bytes in memory, without its compression.

    A content that is damaged or cut raises `OSError`, `EOFError`, `lzma.LZMAError` or `zlib.error`
    while it is read.

    Args:
        source: The file, or a stream at its beginning.
        compression: A suffix of `COMPRESSIONS`, or None.

    Raises:
        ImportError: zstandard without pyarrow, which reads it.
    """
    import bz2
    import gzip
    import lzma

    match compression:
        case ".gz":
            return gzip.open(source)  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(source)
        case ".xz":
            return lzma.open(source)
        case ".zst":
            import pyarrow  # type: ignore[import-untyped,unused-ignore]

            name = str(source) if isinstance(source, Path) else source
            return pyarrow.input_stream(name, compression="zstd")  # type: ignore[no-any-return]
    return source.open("rb") if isinstance(source, Path) else source


def checked_path(path: object) -> Path:
    """A path that can be asked for, whether or not there is anything.

    Raises:
        RecordError: It is no path, or one that no file system takes.
    """
    try:
        if isinstance(path, str | os.PathLike) and isinstance(text := os.fspath(path), str):
            os.stat(text)
            return Path(text)
        reason = f"it is {type(path).__name__}"
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Path(text)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
    raise RecordError(f"{path!r:.60} is no path of a file ({reason}). Name a file or a folder.")


def escape_formula(cell: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would compute; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def unescape_formula(cell: Any) -> Any:
    """Remove the apostrophe that `escape_formula` put before a text."""
    escaped = isinstance(cell, str) and cell.startswith("'") and FORMULA.match(cell)
    return cell[1:] if escaped else cell


def csv_text(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    number_format: str | None = None,
) -> str:
    """Format rows as CSV in which no cell or column name is a formula.

    Args:
        rows: Column -> cell of each row; a cell that is absent or None is left empty.
        columns: Order of the columns; all that occur, in order of first occurrence, unless given.
        number_format: Format specification of numbers, such as `.9g`; full precision unless given.
    """
    import csv
    import io
    import numbers

    table = list(rows)
    names = list(dict.fromkeys(n for row in table for n in row)) if columns is None else columns

    def cell(value: Any) -> Any:
        if number_format is not None and isinstance(value, numbers.Real):
            return format(value, number_format)
        return escape_formula(value)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([escape_formula(n) for n in names])
    writer.writerows([cell(row.get(n, "")) for n in names] for row in table)
    return text.getvalue()


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed version of each library; those that are absent are left out."""
    from importlib import metadata

    installed = {}
    for name in libraries:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def now() -> str:
    """The present time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> str | None:
    """Git commit of this code, with `-dirty` if tracked files differ; None outside a checkout."""
    # An installed copy may lie inside a checkout of another project, which must not be named.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{head}-dirty" if head and changes else head


def _git(*arguments: str) -> str | None:
    """Output of git in this file's folder; None if it fails or is not installed."""
    import subprocess

    here = Path(__file__).resolve().parent
    try:
        out = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it, so that a reader never sees half of it.

    Raises:
        RecordError: The folder is not writable or the disk is full; nothing was changed.
    """
    import tempfile

    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; a writable folder with free space is "
            "needed. Nothing was changed."
        ) from error


def write_once(path: Path, content: str) -> bool:
    """Write a file atomically unless it exists.

    Returns:
        Whether it was written; an existing file stays as it is.

    Raises:
        RecordError: The folder is not writable, the disk is full, or there are no hard links.
    """
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    write_atomically(beside, content)
    try:
        os.link(beside, path)  # fails if the name is taken, where a rename would replace the file
    except FileExistsError:
        return False
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; a file system with hard links is "
            "needed. Nothing was changed."
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return True


def content_hash(data: bytes) -> str:
    """SHA-256 of bytes as documents store it, `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _umask() -> int:
    """The process's file mode mask; mkstemp ignores it and makes files private."""
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask


def _read_text(path: str | Path) -> str:
    """Read a text file; an error is a RecordError that names it."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error
