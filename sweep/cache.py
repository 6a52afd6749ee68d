"""A cache on disk for work that is done once, safe with many workers at the same time.

What to use when: `build_once` for a folder of files, `compute_once` for an answer in JSON that
depends on file contents or times (`stamp`), `locked` around anything else. `compute_elsewhere`
computes in another process, whose imports this one does not share.

Of eight workers that start together, the first takes the lock and builds the folder; the others
wait and use it. A folder appears by rename, whole or not at all, so that the result is right even
on file systems whose locks have no effect.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fit.errors import PlanError, ScalingError
from fit.files import write_atomically

META = "meta.json"
ABANDONED_SECONDS = 6 * 3600
"""Age at which an unfinished folder counts as abandoned; where locks have no effect, another worker
may still be building a younger one."""


def cache_folder(setting: str | None) -> Path:
    """The folder of tokenised data: the one that is set, or ~/.cache/isoflop.

    A user without a home, as in a container under a foreign uid, has one in the temporary folder.

    Raises:
        PlanError: That one belongs to another user.
    """
    if setting is not None:
        return Path(os.path.expanduser(setting))
    home = os.path.expanduser("~")
    base = os.environ.get("XDG_CACHE_HOME") or ("" if home == "~" else f"{home}/.cache")
    if base:
        return Path(base) / "isoflop"
    folder = Path(tempfile.gettempdir()) / f"isoflop-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise PlanError(f"there is no home, and {folder} is not ours; set XDG_CACHE_HOME.")
    return folder


def digest(document: Any) -> str:
    """Sixteen hexadecimal digits of the hash of a document in canonical JSON."""
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Path, size and times of files, which change when one of them is written or replaced."""
    stats = [(path, path.stat()) for path in files]
    return [(str(path.absolute()), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats]


def compute_once(cache: Path, question: Any, compute: Callable[[], Any]) -> Any:
    """Compute the answer to a question once and store it; both are JSON documents.

    Where the cache cannot be written, the answer is computed again each time.
    """
    path = cache / "facts" / f"{digest(question)}.json"
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    with locked(path):
        with suppress(OSError, ValueError):  # another worker may have stored it meanwhile
            return json.loads(path.read_text())
        answer = compute()
        with suppress(ScalingError):
            write_atomically(path, json.dumps(answer))
    return answer


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Build a folder with a `meta.json` unless it exists, and return it.

    Args:
        target: Path of the folder.
        build: Fills the empty folder that is passed to it, `meta.json` included.

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
    """Hold the lock `.NAME.lock` beside a path; where locks do not work, continue without one."""
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


_worker: list[ProcessPoolExecutor] = []


def compute_elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in another process, which stays until `worker_closed` ends it."""
    if not _worker:
        context = multiprocessing.get_context("spawn")
        _worker.append(ProcessPoolExecutor(1, mp_context=context))
    return _worker[0].submit(function, *arguments).result()


@contextmanager
def worker_closed() -> Iterator[None]:
    """End the process of `compute_elsewhere` after what is done inside."""
    try:
        yield
    finally:
        while _worker:
            _worker.pop().shutdown()
