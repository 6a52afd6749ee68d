"""Files of the page, and compressed responses.

Files are compressed once, when they are read; documents of the service when they are made. Nothing
is compressed while it is sent, so that the order and the timing of what is sent stay the same.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastapi import Request, Response

PAGE = Path(__file__).with_name("page")
CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".csv": "text/csv",
}
"""Of the page's files by suffix; others are not served."""
TITLE = b"<title>"
LEAST_COMPRESSED = 1024
"""Bytes from which a content is compressed; a smaller one fits into one packet as it is."""
LEVEL = 6
"""Of gzip: 9 makes the page's scripts 0.5% smaller and takes twice the time."""


@dataclass(frozen=True)
class Content:
    """Bytes to be sent, and the same compressed where that is worth it."""

    plain: bytes

    @cached_property
    def zipped(self) -> bytes | None:
        """Compressed by gzip, without the time, so that the same content has the same bytes."""
        if len(self.plain) < LEAST_COMPRESSED:
            return None
        return gzip.compress(self.plain, LEVEL, mtime=0)

    @cached_property
    def tag(self) -> str:
        """The entity tag. It is a weak one: it stands for both encodings."""
        return f'W/"{hashlib.sha256(self.plain).hexdigest()[:16]}"'

    def response(
        self,
        request: Request,
        media_type: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The response, compressed if the client takes gzip."""
        headers = dict(headers or {})
        if len(self.plain) < LEAST_COMPRESSED:
            return Response(self.plain, status, headers, media_type)
        headers["vary"] = "accept-encoding"
        if not takes_gzip(request) or (zipped := self.zipped) is None:
            return Response(self.plain, status, headers, media_type)
        headers["content-encoding"] = "gzip"
        return Response(zipped, status, headers, media_type)


def takes_gzip(request: Request) -> bool:
    """Whether a client says that it takes gzip, and not with quality 0."""
    for entry in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, quality = entry.partition(";")
        if name.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def read_page(folder: Path = PAGE) -> dict[str, Content]:
    """The page's files by path, compressed; nothing else is served from disk.

    A further page begins with its title: what stands before that in `index.html` is its head too.
    """
    page = {}
    head = (folder / "index.html").read_bytes().partition(TITLE)[0]
    for path in sorted(p for p in folder.rglob("*") if p.suffix in CONTENT_TYPES):
        data = path.read_bytes()
        content = Content(head + data if data.startswith(TITLE) else data)
        _ = content.zipped  # computed now, not while a request waits
        page[path.relative_to(folder).as_posix()] = content
    return page


def file_response(content: Content, request: Request, suffix: str) -> Response:
    """A file of the page; 304 if the browser has it."""
    headers = {"etag": content.tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == content.tag:
        return Response(status_code=304, headers=headers)
    return content.response(request, CONTENT_TYPES[suffix], headers=headers)
