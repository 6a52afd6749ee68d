"""The page's files, read once: what is not among them is not served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from fit.faults import Fault

FOLDER = Path(__file__).with_name("page")
TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Contents and their tags by path below the page's folder."""

    files: Mapping[str, tuple[bytes, str]]

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Page:
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
            raise Fault(404, "not_found", "the page has no such file.", "name")
        data, tag = self.files[name]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if known == tag:
            return Response(status_code=304, headers=headers)
        kind = TYPES[Path(name).suffix]
        return Response(data, headers=headers, media_type=kind)
