"""What becomes of a fit of an uploaded table: its name, and whether it is kept, renamed or deleted.

Without `keep` the service writes nothing into `reports/`: uploads live in a temporary folder as
long as it runs. With it an upload can be moved into `reports/NAME`, its table beside it as
`uploaded.SUFFIX`. By that file the service knows what came through it: it deletes and renames
nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from fit.laws.published import PRESETS
from fit.quantities import parse_flag
from fit.results import read_fit, write_fit
from fit.service.errors import RequestError, short_name
from fit.service.fits import NAME, FitRegistry

Mode = Literal["off", "session", "keep"]
"""Whether tables may be sent: not at all, for as long as the service runs, or to be kept."""
MODES: tuple[Mode, ...] = ("off", "session", "keep")
CHANGES = {
    "name": "The name that the fit gets.",
    "keep": "true moves it into the folder of reports.",
}
"""What a request may change of a fit that was sent in."""
TABLE = "uploaded"
"""Stem of the table beside a kept fit."""


def named(pairs: Sequence[tuple[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    """The name that an upload is to get, and the other fields.

    Raises:
        RequestError: There are several names.
    """
    names = [v for k, v in pairs if k == "name"]
    if len(names) > 1:
        raise RequestError(422, "invalid", f"name is given {len(names)} times; once.", "name")
    return next(iter(names), None), [(k, v) for k, v in pairs if k != "name"]


def read_change(pairs: Sequence[tuple[str, str]]) -> tuple[str | None, bool]:
    """The new name of a fit, if any, and whether it is to be kept.

    Raises:
        RequestError: There is another field, or one twice.
        QueryError: `keep` is neither true nor false.
    """
    name, others = named(pairs)
    for field, _ in others[1:] if others and others[0][0] == "keep" else others:
        text = f"unknown or repeated field '{short_name(field)}'; known are {', '.join(CHANGES)}."
        raise RequestError(422, "invalid", text, field)
    return name, parse_flag(others[0][1] if others else "false", "keep")


class Uploads:
    """The fits that came through the service, and what may be done with them."""

    def __init__(self, registry: FitRegistry, mode: Mode = "session") -> None:
        self.registry, self.mode = registry, mode

    def check_allowed(self) -> None:
        """Refuse tables where the service takes none.

        Raises:
            RequestError: It takes none.
        """
        if self.mode == "off":
            text = "this service takes no tables. Start it with --uploads session, or fit yours."
            raise RequestError(403, "forbidden", text)

    def check_name(self, name: str) -> None:
        """Check that a fit may get a name.

        Raises:
            RequestError: It is none for a folder, or something has it.
        """
        if not NAME.fullmatch(name):
            text = (
                f"name is '{short_name(name)}'; letters, digits and ._+- are needed, a letter or "
                "digit first, 100 at most."
            )
            raise RequestError(422, "invalid", text, "name")
        if self._is_taken(name):
            text = f"the name '{name}' is taken; choose another."
            raise RequestError(409, "conflict", text, "name")

    def _is_taken(self, name: str) -> bool:
        """Whether a law, a fit or a folder of reports has a name."""
        there = name in self.registry.names() or (self.registry.root / name).exists()
        return name in PRESETS or there

    def sweep_name(self, folder: Path) -> str:
        """The name of the fit of a followed sweep: its folder's, with `-now` where that is taken.

        The fit of it that was made here before is replaced, and nothing else.

        Raises:
            RequestError: Both names are taken.
        """
        path = folder.resolve()
        name = re.sub(r"[^A-Za-z0-9_.+-]", "-", path.name).lstrip("._+-")[:90] or "sweep"
        for made in {name, f"{name}-now"} & self.registry.uploads.keys():
            if self.registry.get(made).fit.source.get("path") == str(path):
                return made
        name = f"{name}-now" if self._is_taken(name) else name
        self.check_name(name)
        return name

    def is_kept(self, name: str) -> bool:
        """Whether a fit in `reports/` came through the service, which may then change it."""
        return self.mode == "keep" and self._kept_folder(name) is not None

    def change(self, name: str, to: str | None, keep: bool) -> None:
        """Rename a fit, keep it, or both.

        Raises:
            RequestError: It did not come through the service, the name is not free, or the service
                keeps nothing.
        """
        if keep and self.mode != "keep":
            text = "this service keeps no uploads. Start it with --uploads keep."
            raise RequestError(403, "forbidden", text)
        with _storage():
            if to is not None and to != name:
                self._rename(name, to)
            if keep:
                self._keep(to or name)

    def _rename(self, name: str, to: str) -> None:
        """Give a fit another name, in its document too."""
        folder = self._own(name)
        self.check_name(to)
        write_fit(folder, dataclasses.replace(read_fit(folder), name=to))
        if name in self.registry.uploads:
            self.registry.drop(name)
            self.registry.add(to, folder)
        else:
            folder.rename(folder.with_name(to))

    def _keep(self, name: str) -> None:
        """Move an upload into `reports/`, complete or not at all."""
        if name not in self.registry.uploads:
            self._own(name)
            return
        folder, root = self.registry.uploads[name], self.registry.root
        if (root / name).exists():
            text = f"the name '{name}' is taken in {root.name}/; choose another."
            raise RequestError(409, "conflict", text, "name")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".keep-", dir=root) as temporary:
            copy = Path(temporary) / name
            shutil.copytree(folder, copy)
            for table in folder.parent.glob("table.*"):
                shutil.copy(table, copy / f"{TABLE}{table.suffix}")
            copy.rename(root / name)
        self.registry.drop(name)
        shutil.rmtree(folder.parent, ignore_errors=True)

    def delete(self, name: str) -> None:
        """Delete a fit and its table.

        Raises:
            RequestError: It did not come through the service.
        """
        folder = self._own(name)
        upload = name in self.registry.uploads
        self.registry.drop(name)
        with _storage():
            shutil.rmtree(folder.parent if upload else folder)

    def _kept_folder(self, name: str) -> Path | None:
        """The folder in `reports/` of a fit that came through the service."""
        folder = self.registry.root / name
        there = NAME.fullmatch(name) and not folder.is_symlink() and any(folder.glob(f"{TABLE}.*"))
        return folder if there and self.registry.files is None else None

    def _own(self, name: str) -> Path:
        """The folder of a fit that came through the service.

        Raises:
            RequestError: There is none, or it did not.
        """
        self.registry.get(name)
        if name in self.registry.uploads:
            return self.registry.uploads[name]
        folder = self._kept_folder(name) if self.mode == "keep" else None
        if folder is None:
            text = f"'{short_name(name)}' did not come through this service, which leaves it alone."
            raise RequestError(403, "forbidden", text, "name")
        return folder


@contextlib.contextmanager
def _storage() -> Iterator[None]:
    """Say in one line, without paths of this machine, what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        text = f"the service cannot store this: {reason}. Check its folder of reports."
        raise RequestError(507, "storage", text) from error
