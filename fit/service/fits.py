"""The fits in service, read again when their files change; and the sweep that is followed.

A change is noticed by a file's modification time, size and inode; the content hash then says
whether the fit is another one. A file that cannot be read, for example while it is being written in
place, leaves the fit that was read before in service.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.allocation.scaling_law import ScalingLaw
from fit.data.progress import snapshot_document, take_snapshot
from fit.errors import RecordError, ScalingError
from fit.laws.published import PRESETS
from fit.results import EXAMPLE, FIT_NAME, Fit
from fit.service.errors import RequestError, short_name, unknown_name

HASH_DIGITS = 12
"""Of a fit's hash in the addresses that never change."""
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
"""Names of fits: no separator and no leading dot, so that none leads out of its folder."""
SWEEP_SCHEMA = "isoflop.sweep/1"
LONGEST_REASON = 300
"""Characters of the reason for which a run failed."""
Stamp = tuple[int, int, int]
"""Modification time [ns], size [bytes] and inode of a file; time first, so that stamps sort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLaw:
    """A fit or a published law that can be asked."""

    name: str
    source: ScalingLaw
    hash: str
    """Of the fit's document; of a published law its name."""
    stamp: Stamp | None = None
    trouble: str | None = None
    """Why the present file cannot be read; `source` is then from an earlier version."""
    uploaded: bool = False

    @property
    def fit(self) -> Fit:
        """The fit itself.

        Raises:
            RequestError: It is a published law.
        """
        if self.source.fit is None:
            raise RequestError(
                404, "not_found", f"'{self.name}' is a published law without runs.", "name"
            )
        return self.source.fit


class FitRegistry:
    """Fits by name: of the given files, or all below one root; and uploaded ones."""

    def __init__(self, root: Path, files: Mapping[str, Path] | None = None) -> None:
        self.root = root
        self.files = None if files is None else dict(files)
        self.uploads: dict[str, Path] = {}
        self.reloads = 0
        self._laws: dict[str, ServedLaw] = {}

    def names(self) -> list[str]:
        """Names of all fits whose file exists, uploaded ones last."""
        if self.files is not None:
            names = [name for name, file in self.files.items() if file.is_file()]
        else:
            files = self.root.glob(f"*/{FIT_NAME}")
            names = [f.parent.name for f in files if NAME.fullmatch(f.parent.name)]
        return [*sorted(names), *self.uploads]

    def get(self, name: str) -> ServedLaw:
        """A fit as its file is now, or the last readable version of it.

        Args:
            name: Its name, `NAME` or `reports/NAME`, or `example`, the fit of the package.

        Raises:
            RequestError: There is no such fit, or no version of it could be read.
        """
        name = name.removeprefix(f"{self.root.name}/")
        file = self._file(name)
        law = self._laws.get(name)
        try:
            status = file.stat()
        except OSError:
            self._laws.pop(name, None)
            raise unknown_name("fit", name, self.names(), "fit") from None
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if law is None or law.stamp != stamp:
            law = self._laws[name] = self._read(name, file, stamp, law)
        return law

    def readable(self) -> list[ServedLaw]:
        """Every fit that can be read."""
        laws = []
        for name in self.names():
            try:
                laws.append(self.get(name))
            except RequestError:
                continue
        return laws

    def newest(self) -> ServedLaw:
        """The fit that was written last; uploaded fits are never the default.

        Raises:
            RequestError: There is none.
        """
        laws = [(law.stamp, law.name) for law in self.readable() if law.stamp and not law.uploaded]
        if not laws:
            raise RequestError(
                404, "not_found", "no fit is in service. Name a published law: law=besiroglu2024"
            )
        return self.get(max(laws)[1])

    def select(self, fit: str | None, law: str | None) -> ServedLaw:
        """The fit or published law that a request names, or else the newest fit.

        Raises:
            RequestError: Both are named, or the named one does not exist.
        """
        if fit is not None and law is not None:
            raise RequestError(422, "question", "give fit or law, not both.", "law")
        if law is None:
            return self.newest() if fit is None else self.fit_or_law(fit, "fit")
        if law not in _PUBLISHED:
            raise unknown_name("law", law, list(PRESETS), "law")
        return _PUBLISHED[law]

    def pinned(self, pin: str) -> ServedLaw:
        """The fit that an address names as NAME-HASH, which is that content and no later one.

        Raises:
            RequestError: There is no such fit, or it has another content by now.
        """
        name, _, digits = pin.rpartition("-")
        law = self.get(name)
        if len(digits) != HASH_DIGITS or not law.hash.startswith(digits):
            text = f"the fit '{name}' has another content by now: its address is {pin_of(law)}."
            raise RequestError(404, "not_found", text, "fit")
        return law

    def fit_or_law(self, name: str, field: str) -> ServedLaw:
        """A fit by its name, or else a published law; `field` is named in the error.

        Raises:
            RequestError: There is neither.
        """
        try:
            return self.get(name)
        except RequestError as error:
            if name in _PUBLISHED:
                return _PUBLISHED[name]
            raise RequestError(error.status, error.kind, error.message, field) from None

    def add(self, name: str, folder: Path) -> ServedLaw:
        """Register an uploaded fit."""
        self.uploads[name] = folder
        return self.get(name)

    def drop(self, name: str) -> None:
        """Forget an uploaded fit."""
        self.uploads.pop(name, None)
        self._laws.pop(name, None)

    def _file(self, name: str) -> Path:
        """Path of a fit's document, never outside of the folders in service."""
        if name in self.uploads:
            return self.uploads[name] / FIT_NAME
        if self.files is not None:
            if name in self.files:
                return self.files[name]
        elif NAME.fullmatch(name):
            file = self.root / name / FIT_NAME
            if name == EXAMPLE.stem and not file.is_file():
                return EXAMPLE
            if file.resolve().is_relative_to(self.root.resolve()):  # a link may lead elsewhere
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
                source = ScalingLaw.from_fit(Fit.from_json(text), hash=f"sha256:{digest}")
                _ = source.cost  # a cached property: computed now, not while a request waits
                self.reloads += old is not None
        except (OSError, UnicodeDecodeError, ScalingError) as error:
            # Words of other errors may hold paths of this machine.
            reason = str(error) if isinstance(error, RecordError) else type(error).__name__
            if old is None:
                raise RequestError(
                    422, "record", f"cannot read the fit '{name}': {reason}", "fit"
                ) from None
            return dataclasses.replace(old, stamp=stamp, trouble=reason)
        return ServedLaw(
            name=name, source=source, hash=digest, stamp=stamp, uploaded=name in self.uploads
        )


def sweep_document(folder: Path, registry: FitRegistry) -> dict[str, Any]:
    """The `isoflop.sweep/1` document: how far a sweep is, its runs, and what fits lack of them.

    Args:
        folder: Of the sweep.
        registry: The fits in service.

    Returns:
        The fields of `isoflop.watch/1`; `over`; `ended`, a row for each run with a record; `fits`,
        for each fit of this folder the runs that are done and that it does not know.

    Raises:
        RecordError: There is no such folder, or nothing of a sweep in it.
    """
    snapshot = take_snapshot(folder)
    done = [r.run for r in snapshot.records if r.status == "done"]
    home = folder.resolve()
    fits = []
    for law in registry.readable():
        if (path := law.fit.source.get("path")) and Path(path).resolve() == home:
            known = {*law.fit.points.run, *(run for run, _ in law.fit.runs_dropped)}
            fresh = [short_name(run) for run in done if run not in known]
            fits.append({"name": law.name, "hash": f"sha256:{law.hash}", "fresh": fresh})
    return {
        "schema": SWEEP_SCHEMA,
        "name": home.name,
        "folder": str(folder),
        **snapshot_document(snapshot),
        "over": snapshot.over,
        "ended": [
            {
                "run": short_name(r.run),
                "status": r.status,
                "reason": r.reason and short_name(r.reason, LONGEST_REASON),
                "params": r.params_matmul,
                "tokens": r.tokens,
                "flops": r.flops,
                "loss": r.loss if r.status == "done" else None,
            }
            for r in snapshot.records
        ],
        "fits": fits,
    }


def pin_of(law: ServedLaw) -> str:
    """The name of a fit's content, NAME-HASH, for addresses that never change."""
    return f"{law.name}-{law.hash[:HASH_DIGITS]}"


_PUBLISHED = {
    name: ServedLaw(name=name, source=ScalingLaw.from_preset(preset), hash=name)
    for name, preset in PRESETS.items()
}
