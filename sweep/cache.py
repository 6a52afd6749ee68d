"""Work that is done once: folders built under a lock, facts remembered by content or file times.

Eight workers that start at once build one folder: the first takes the lock, the others wait and
find it there. A folder appears by rename, whole or not at all, so that it is right even on file
systems whose locks do nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fit.errors import PlanError, ScalingError
from fit.files import write_atomically

META = "meta.json"
ABANDONED_SECONDS = 6 * 3600
"""Age of an unfinished folder that nobody builds any more: where locks do nothing, a younger one
may be another worker's."""


def cache_folder(given: str | None) -> Path:
    """The folder of tokenised data: the one given, or ~/.cache/isoflop."""
    if given is not None:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "isoflop"


def digest(document: Any) -> str:
    """Sixteen hexadecimal digits of a canonical JSON's hash."""
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Path, size and times of files: changes when one of them is written or replaced."""
    stats = [(path, path.stat()) for path in files]
    return [(str(path.absolute()), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats]


def remembered(cache: Path, question: Any, compute: Callable[[], Any]) -> Any:
    """The JSON answer to a question, computed once.

    A cache that cannot be written only costs the time of computing again.
    """
    path = cache / "facts" / f"{digest(question)}.json"
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    with locked(path):
        with suppress(OSError, ValueError):
            return json.loads(path.read_text())
        answer = compute()
        with suppress(ScalingError):
            write_atomically(path, json.dumps(answer))
    return answer


def built(target: Path, build: Callable[[Path], None]) -> Path:
    """A folder with a `meta.json`, built if it is not there yet; returns it.

    Args:
        target: Where the folder belongs.
        build: Fills the empty folder that it is given; `meta.json` included.

    Raises:
        PlanError: The cache cannot be written.
    """
    if (target / META).exists():
        return target
    with locked(target):
        if (target / META).exists():
            return target
        for leftover in target.parent.glob(f".{target.name}-*"):
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        temporary = target.parent / f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir(parents=True)
            build(temporary)
            os.rename(temporary, target)
        except OSError as error:
            if not (target / META).exists():
                raise PlanError(
                    f"cannot keep tokenised data in {target}: {error.strerror or error}; a "
                    "writable folder with free space is needed: data.cache=FOLDER."
                ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `.NAME.lock` beside a path; where locks do not work, go on without."""
    handle = None
    try:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)
