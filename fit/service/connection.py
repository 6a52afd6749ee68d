"""HTTP on a connection: the server's own protocol, with patience that ends.

The server closes connections that idle between requests; one that never finishes the head of a
request it would keep for ever. Here either is closed, and what is not HTTP is told so in the one
shape of errors.
"""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fit.service.http import RequestError, error_body

HEAD_SECONDS = 10.0


class TimeoutProtocol(H11Protocol):
    """One connection."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the wait ends when they make a whole head."""
        super().data_received(data)
        if self._busy():
            self._stop()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or whose head is too long."""
        body = json.dumps(error_body(RequestError(400, "bad_request", msg))).encode()
        headers = [("content-type", "application/json"), ("connection", "close")]
        headers.append(("content-length", str(len(body))))
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _busy(self) -> bool:
        """Whether a request is being answered or its body awaited."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        """Close the connection after a while."""
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop(self) -> None:
        """Do not close it."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        """Close it, unless a request is under way."""
        self._deadline = None
        if not self._busy():
            self.transport.close()
