"""What a number depends on beside its inputs: versions, the commit of the code, the time.

Tables as csv that a spreadsheet may open: no cell of it is taken for a formula.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fit.errors import RecordError

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


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed version of each library; those that are absent are left out."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The present time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> str | None:
    """The commit of the code, `-dirty` where files differ; None unless this file is in a checkout.

    An installed copy may lie inside a checkout of something else.
    """
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{head}-dirty" if head and changes else head


def _git(*arguments: str) -> str | None:
    """What git says where this file lies; None where it refuses or is not there."""
    here = Path(__file__).resolve().parent
    try:
        out = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        RecordError: The folder cannot be written to, or the disk is full; nothing was changed.
    """
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
    """Write a file unless one of its name is there; whole or not at all, like the others.

    Returns:
        Whether it was written; False where there is one, which stays as it is.

    Raises:
        RecordError: The folder cannot be written to, or the disk is full.
    """
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    write_atomically(beside, content)
    try:
        os.link(beside, path)  # fails where the name is taken, as no rename does
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
    """The process's file mode mask (reading it needs setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_text(path: Path) -> str:
    """A file's text, or a RecordError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error
