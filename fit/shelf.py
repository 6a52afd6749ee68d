"""The fits that a service holds, read again when their folders change.

A file is looked at by its stamp (time, size, inode) and its content hash. One that cannot be read,
as while something writes it in place, leaves the fit that was there in service.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fit.errors import RecordError, ScalingError
from fit.faults import Fault, unknown
from fit.laws import PRESETS
from fit.result import Fit
from fit.source import Source
from fit.store import FIT_NAME

NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
"""Names of fits: no separators and no leading dot, so that none leads out of its folder."""
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A law in service."""

    name: str
    source: Source
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
            raise Fault(404, "not_found", f"'{self.name}' is a published law without runs.", "name")
        return self.source.fit


class Shelf:
    """Fits by name: those of given folders, or all under one root; and uploaded ones."""

    def __init__(self, root: Path, folders: Mapping[str, Path] | None = None) -> None:
        self.root = root
        self.folders = None if folders is None else dict(folders)
        self.uploads: dict[str, Path] = {}
        self.reloads = 0
        self._held: dict[str, Held] = {}

    def names(self) -> list[str]:
        """Names of all fits there are, uploaded ones last."""
        if self.folders is not None:
            own = [n for n, folder in self.folders.items() if (folder / FIT_NAME).is_file()]
        else:
            files = self.root.glob(f"*/{FIT_NAME}")
            own = [f.parent.name for f in files if NAME.fullmatch(f.parent.name)]
        return [*sorted(own), *self.uploads]

    def get(self, name: str) -> Held:
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
            raise unknown("fit", name, self.names(), "fit") from None
        if held is None or held.stamp != stamp:
            held = self._held[name] = self._read(name, file, stamp, held)
        return held

    def newest(self) -> Held:
        """The fit that was written last, uploads left aside.

        Raises:
            Fault: There is none.
        """
        found = [(held.stamp, name) for name in self.names() if (held := self._try(name))]
        own = [(stamp, name) for stamp, name in found if name not in self.uploads and stamp]
        if not own:
            raise Fault(
                404, "not_found", "no fit is in service. Name a published law: law=besiroglu2024"
            )
        return self.get(max(own)[1])

    def chosen(self, fit: str | None, law: str | None) -> Held:
        """The fit or published law that a request names, or else the newest fit.

        Raises:
            Fault: Both are named, or it is not there.
        """
        if fit is not None and law is not None:
            raise Fault(422, "question", "give fit or law, not both.", "law")
        if law is not None:
            return published(law)
        return self.newest() if fit is None else self.get(fit)

    def rival(self, name: str, field: str) -> Held:
        """A fit or a published law by name.

        Raises:
            Fault: Neither.
        """
        try:
            return self.get(name)
        except Fault as fault:
            if name in PRESETS:
                return published(name)
            raise Fault(fault.status, fault.kind, fault.message, field) from None

    def all(self) -> list[Held]:
        """Every fit that can be read."""
        return [held for name in self.names() if (held := self._try(name))]

    def add(self, name: str, folder: Path) -> Held:
        """Take an uploaded fit."""
        self.uploads[name] = folder
        return self.get(name)

    def drop(self, name: str) -> None:
        """Forget an uploaded fit."""
        self.uploads.pop(name, None)
        self._held.pop(name, None)

    def _try(self, name: str) -> Held | None:
        """A fit, or None where it cannot be read."""
        try:
            return self.get(name)
        except Fault:
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
        raise unknown("fit", name, self.names(), "fit")

    def _read(self, name: str, file: Path, stamp: Stamp, old: Held | None) -> Held:
        """Read a document that is new or has changed."""
        try:
            text = file.read_text(encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if old is not None and old.hash == digest:
                source = old.source
            else:
                source = warmed(Source.from_fit(Fit.from_json(text), hash=f"sha256:{digest}"))
                self.reloads += old is not None
        except (OSError, UnicodeDecodeError, ScalingError) as error:
            said = str(error) if isinstance(error, RecordError) else type(error).__name__
            if old is None:
                raise Fault(422, "record", f"cannot read the fit '{name}': {said}", "fit") from None
            return dataclasses.replace(old, stamp=stamp, trouble=said)
        return Held(
            name=name,
            source=source,
            hash=digest,
            file=file,
            stamp=stamp,
            uploaded=name in self.uploads,
        )


def published(name: str) -> Held:
    """A published law.

    Raises:
        Fault: No such law.
    """
    if name not in _PUBLISHED:
        raise unknown("law", name, list(PRESETS), "law")
    return _PUBLISHED[name]


def warmed(source: Source) -> Source:
    """A source whose ladder and cost are counted before anyone waits for them."""
    _ = source.cost
    return source


def _stamp(file: Path) -> Stamp:
    """What changes when a file is written, in place or by a rename; time first, so it sorts."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


_PUBLISHED = {
    name: Held(name=name, source=Source.from_preset(preset), hash=name)
    for name, preset in PRESETS.items()
}
