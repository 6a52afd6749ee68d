"""The fits that a service holds, read again when their folders change.

A file is looked at by its stamp (time, size, inode) and its content hash. One that cannot be read,
as while something writes it in place, leaves the fit that was there in service.

The page's files, read once: what is not among them is not served.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from fit.allocation.scaling_law import ScalingLaw
from fit.errors import RecordError, ScalingError
from fit.laws.published import PRESETS
from fit.results import FIT_NAME, Fit
from fit.service.http import RequestError, unknown_name

FOLDER = Path(__file__).with_name("page")
TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
"""Names of fits: no separators and no leading dot, so that none leads out of its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFiles:
    """Contents and their tags by path below the page's folder."""

    files: Mapping[str, tuple[bytes, str]]

    @classmethod
    def read(cls, folder: Path = FOLDER) -> PageFiles:
        """Read every file of the page."""
        found = {}
        for path in sorted(p for p in folder.rglob("*") if p.suffix in TYPES):
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            found[path.relative_to(folder).as_posix()] = (data, tag)
        return cls(files=found)

    def file(self, name: str, known: str | None) -> Response:
        """One file; 304 where the reader has it.

        Raises:
            Fault: There is none.
        """
        if name not in self.files:
            raise RequestError(404, "not_found", "the page has no such file.", "name")
        data, tag = self.files[name]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if known == tag:
            return Response(status_code=304, headers=headers)
        kind = TYPES[Path(name).suffix]
        return Response(data, headers=headers, media_type=kind)


Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLaw:
    """A law in service."""

    name: str
    source: ScalingLaw
    hash: str
    """Of the document; of a published law its name."""
    file: Path | None = None
    stamp: Stamp | None = None
    trouble: str | None = None
    """Why the file as it now stands could not be read; the fit is an earlier one."""
    uploaded: bool = False

    @property
    def fit(self) -> Fit:
        """The fit behind it.

        Raises:
            Fault: It is a published law.
        """
        if self.source.fit is None:
            raise RequestError(
                404, "not_found", f"'{self.name}' is a published law without runs.", "name"
            )
        return self.source.fit


class FitRegistry:
    """Fits by name: those of given folders, or all under one root; and uploaded ones."""

    def __init__(self, root: Path, folders: Mapping[str, Path] | None = None) -> None:
        self.root = root
        self.folders = None if folders is None else dict(folders)
        self.uploads: dict[str, Path] = {}
        self.reloads = 0
        self._held: dict[str, ServedLaw] = {}

    def names(self) -> list[str]:
        """Names of all fits there are, uploaded ones last."""
        if self.folders is not None:
            own = [n for n, folder in self.folders.items() if (folder / FIT_NAME).is_file()]
        else:
            files = self.root.glob(f"*/{FIT_NAME}")
            own = [f.parent.name for f in files if NAME.fullmatch(f.parent.name)]
        return [*sorted(own), *self.uploads]

    def get(self, name: str) -> ServedLaw:
        """A fit as its file has it now; the last one that could be read, where it cannot.

        Raises:
            Fault: No such fit, or one that was never readable.
        """
        file = self._file(name)
        held = self._held.get(name)
        try:
            stamp = _stamp(file)
        except OSError:
            self._held.pop(name, None)
            raise unknown_name("fit", name, self.names(), "fit") from None
        if held is None or held.stamp != stamp:
            held = self._held[name] = self._read(name, file, stamp, held)
        return held

    def newest(self) -> ServedLaw:
        """The fit that was written last, uploads left aside.

        Raises:
            Fault: There is none.
        """
        found = [(held.stamp, name) for name in self.names() if (held := self._try(name))]
        own = [(stamp, name) for stamp, name in found if name not in self.uploads and stamp]
        if not own:
            raise RequestError(
                404, "not_found", "no fit is in service. Name a published law: law=besiroglu2024"
            )
        return self.get(max(own)[1])

    def chosen(self, fit: str | None, law: str | None) -> ServedLaw:
        """The fit or published law that a request names, or else the newest fit.

        Raises:
            Fault: Both are named, or it is not there.
        """
        if fit is not None and law is not None:
            raise RequestError(422, "question", "give fit or law, not both.", "law")
        if law is not None:
            return published_law(law)
        return self.newest() if fit is None else self.get(fit)

    def rival(self, name: str, field: str) -> ServedLaw:
        """A fit or a published law by name.

        Raises:
            Fault: Neither.
        """
        try:
            return self.get(name)
        except RequestError as fault:
            if name in PRESETS:
                return published_law(name)
            raise RequestError(fault.status, fault.kind, fault.message, field) from None

    def all(self) -> list[ServedLaw]:
        """Every fit that can be read."""
        return [held for name in self.names() if (held := self._try(name))]

    def add(self, name: str, folder: Path) -> ServedLaw:
        """Take an uploaded fit."""
        self.uploads[name] = folder
        return self.get(name)

    def drop(self, name: str) -> None:
        """Forget an uploaded fit."""
        self.uploads.pop(name, None)
        self._held.pop(name, None)

    def _try(self, name: str) -> ServedLaw | None:
        """A fit, or None where it cannot be read."""
        try:
            return self.get(name)
        except RequestError:
            return None

    def _file(self, name: str) -> Path:
        """Where a fit's document is; never outside of the folders in service."""
        if name in self.uploads:
            return self.uploads[name] / FIT_NAME
        if self.folders is not None:
            if name in self.folders:
                return self.folders[name] / FIT_NAME
        elif NAME.fullmatch(name):
            file = self.root / name / FIT_NAME
            if file.resolve().is_relative_to(self.root.resolve()):
                return file
        raise unknown_name("fit", name, self.names(), "fit")

    def _read(self, name: str, file: Path, stamp: Stamp, old: ServedLaw | None) -> ServedLaw:
        """Read a document that is new or has changed."""
        try:
            text = file.read_text(encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if old is not None and old.hash == digest:
                source = old.source
            else:
                source = warmed(ScalingLaw.from_fit(Fit.from_json(text), hash=f"sha256:{digest}"))
                self.reloads += old is not None
        except (OSError, UnicodeDecodeError, ScalingError) as error:
            said = str(error) if isinstance(error, RecordError) else type(error).__name__
            if old is None:
                raise RequestError(
                    422, "record", f"cannot read the fit '{name}': {said}", "fit"
                ) from None
            return dataclasses.replace(old, stamp=stamp, trouble=said)
        return ServedLaw(
            name=name,
            source=source,
            hash=digest,
            file=file,
            stamp=stamp,
            uploaded=name in self.uploads,
        )


def published_law(name: str) -> ServedLaw:
    """A published law.

    Raises:
        Fault: No such law.
    """
    if name not in _PUBLISHED:
        raise unknown_name("law", name, list(PRESETS), "law")
    return _PUBLISHED[name]


def warmed(source: ScalingLaw) -> ScalingLaw:
    """A source whose ladder and cost are counted before anyone waits for them."""
    _ = source.cost
    return source


def _stamp(file: Path) -> Stamp:
    """What changes when a file is written, in place or by a rename; time first, so it sorts."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


_PUBLISHED = {
    name: ServedLaw(name=name, source=ScalingLaw.from_preset(preset), hash=name)
    for name, preset in PRESETS.items()
}
