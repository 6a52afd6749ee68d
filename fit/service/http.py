"""What every request and response passes through.

- `GuardMiddleware`: admission (token, host, origin, load, size), security headers, counts, errors.
- `RequestMetrics`: counts and latencies in Prometheus's text form.
- `TimeoutProtocol`: connections that never finish the head of a request are closed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import os
import re
import sys
import time
import traceback
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import h11
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from fit.service.errors import RequestError, error_body, request_error_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_IN_FLIGHT = 512
"""Requests at once; a further one gets status 503."""
MOST_PATH, MOST_QUERY, MOST_HEADERS = 1024, 32 << 10, 32 << 10
"""Bytes of an address and of a request's headers: 50 renamed columns take less than 32 KiB."""
CHART_STYLE = (
    ":where(.chart) {\n  --plot-background: white;\n  display: block;\n  height: auto;\n"
    "  height: intrinsic;\n  max-width: 100%;\n}\n:where(.chart text),\n:where(.chart tspan) {\n"
    "  white-space: pre;\n}"
)
"""The style element that the chart library (Observable Plot) adds to each figure.

The content security policy allows it by its hash; nothing else may be inline.
"""
METHODS = ("GET", "POST", "PATCH", "DELETE")
_PORT = re.compile(r":\d*$")
HEAD_SECONDS = 10.0
"""Time limit for the head of a request."""
EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper edges of the latency histogram [s]."""


def _policy(ancestors: str) -> str:
    """The content security policy: same origin only, nothing inline but `CHART_STYLE`.

    Args:
        ancestors: Who may show the page in a frame.
    """
    digest = base64.b64encode(hashlib.sha256(CHART_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'self'; style-src 'self' 'sha256-{digest}'; img-src 'self' data: blob:; "
        f"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
    )


EMBED = "/embed"
"""The one page that others may show in a frame: it has nothing to click but a link to the page."""
POLICIES = {path: _policy(who).encode() for path, who in (("", "'none'"), (EMBED, "*"))}
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class GuardMiddleware:
    """The outermost ASGI application: admits requests, counts them and catches every exception."""

    def __init__(self, app: ASGIApp, *, token: str | None, metrics: RequestMetrics) -> None:
        self.app, self.metrics = app, metrics
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; HEAD is answered as GET, without the body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        head = scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICIES.get(scope["path"], POLICIES[""])),
                    *HEADERS,
                ]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        self.metrics.in_flight += 1
        try:
            self._admit(scope)
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            refusal = request_error_of(error)
            if refusal is not error and refusal.status >= 500:
                _log_error(scope, error)
            if not status:  # nothing has been sent yet
                response = JSONResponse(error_body(refusal), refusal.status, refusal.headers)
                await response(scope, receive, send_with_headers)
        finally:
            self.metrics.in_flight -= 1
            self.metrics.count(_route(scope), status, time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        """Check that a request may be answered.

        Raises:
            RequestError: Too many at once, too long, from another site, for another host than
                loopback, or without the token.
        """
        if self.metrics.in_flight > MOST_IN_FLIGHT:
            raise RequestError(503, "busy", "too many requests at once. Try again soon.")
        _check_size(scope)
        headers = dict(scope["headers"])
        if self.token is None:
            # Another site could let its own name resolve to this machine (DNS rebinding).
            host = _PORT.sub("", headers.get(b"host", b"localhost").decode("latin-1").lower())
            if not loopback(host.strip("[]")):
                raise RequestError(
                    403, "forbidden", "without a token, only localhost is answered.", "host"
                )
        path = scope["path"]
        if path in ("/", EMBED, "/healthz") or path.startswith("/page/"):
            return  # files without effect, on which users enter their token
        _check_origin(headers)
        if self.token is not None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.token):
                text = "a token is needed: Authorization: Bearer TOKEN."
                raise RequestError(401, "unauthorized", text, "authorization")


def _check_size(scope: Scope) -> None:
    """Refuse addresses and headers that are far too long, and more than one host.

    Raises:
        RequestError: They are.
    """
    for what, size, most in (
        ("path", len(scope.get("raw_path") or scope["path"].encode()), MOST_PATH),
        ("query", len(scope["query_string"]), MOST_QUERY),
    ):
        if size > most:
            text = f"the {what} of the address has {size} bytes; {most} can be sent."
            raise RequestError(414, "uri_too_long", text, what)
    size = sum(len(k) + len(v) for k, v in scope["headers"])
    if size > MOST_HEADERS:
        text = f"the headers have {size} bytes; {MOST_HEADERS} can be sent."
        raise RequestError(431, "request_header_fields_too_large", text)
    if sum(k == b"host" for k, _ in scope["headers"]) > 1:
        raise RequestError(400, "bad_request", "the request names more than one host.", "host")


def _check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Refuse what another site asks in a user's browser: each answer costs work of this machine.

    Browsers say where a request comes from in Sec-Fetch-Site, older ones in Origin where they post.
    Another port of this machine is another site too. Other clients send neither.

    Raises:
        RequestError: The request comes from another site.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        foreign, field = site not in (b"same-origin", b"none"), "sec-fetch-site"
    else:
        own = headers.get(b"host", b"")
        foreign, field = origin is not None and origin.partition(b"://")[2] != own, "origin"
    if foreign:
        text = "another site asks; only the page of this service may. Open this address yourself."
        raise RequestError(403, "forbidden", text, field)


def loopback(host: str) -> bool:
    """Whether an address or name is the loopback interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _route(scope: Scope) -> str:
    """Method and path pattern: with the path itself, each name would be a label of its own."""
    pattern = getattr(scope.get("route"), "path", None)
    if not isinstance(pattern, str) or scope["method"] not in METHODS:
        return "other"
    return f"{scope['method']} {pattern}"


def _log_error(scope: Scope, error: Exception) -> None:
    """Log an unexpected error in one line: what, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    line = f"isoflop: {scope['method']} {scope['path']!r} failed at {where}: {error!r}"
    print(" ".join(line.split()), file=sys.stderr, flush=True)


class RequestMetrics:
    """Requests by route and status, and a histogram of their latencies by route."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.histograms: dict[str, list[int]] = {}
        self.seconds: Counter[str] = Counter()

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]  # a counter of seconds
        row = self.histograms.setdefault(route, [0] * (len(EDGES) + 1))
        row[bisect_left(EDGES, seconds)] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """All counts and the present gauges; a gauge whose name ends in `_total` is a counter."""
        lines = ["# TYPE isoflop_requests_total counter"]
        for (route, status), n in sorted(self.requests.items()):
            lines.append(f'isoflop_requests_total{{route="{route}",status="{status}"}} {n}')
        lines.append("# TYPE isoflop_request_seconds histogram")
        for route, row in sorted(self.histograms.items()):
            name, total = "isoflop_request_seconds", 0
            for edge, n in zip((*EDGES, "+Inf"), row, strict=True):
                total += n  # buckets are cumulative
                lines.append(f'{name}_bucket{{route="{route}",le="{edge}"}} {total}')
            lines.append(f'{name}_sum{{route="{route}"}} {self.seconds[route]:.6f}')
            lines.append(f'{name}_count{{route="{route}"}} {total}')
        for name, value in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE isoflop_{name} {kind}", f"isoflop_{name} {value:.12g}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> float:
    """Resident memory of this process; 0 if the platform has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


class TimeoutProtocol(H11Protocol):
    """HTTP/1.1 with a time limit for the head of a request, and JSON errors for what is not HTTP.

    No setting of uvicorn limits the head: `timeout_keep_alive` counts from the end of a response
    only. Measured with uvicorn 0.54.0, `timeout_keep_alive=3` and `limit_concurrency=4` against
    `HEAD_SECONDS=3`: a client that sends nothing, and one that sends a byte of its head each
    second, are closed after 3.0 s here, and are still connected after 15 s with uvicorn's own
    protocol. There, six silent clients also take up the concurrency limit, so that every other
    request gets status 503; here, the next one after the time limit is answered.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Parse bytes; the time limit ends with the head of a request."""
        super().data_received(data)
        if self._answering():
            self._cancel_deadline()
        elif self._deadline is None:
            self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the time limit."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Respond to what is not HTTP, or whose head is too long."""
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

    def _answering(self) -> bool:
        """Whether a request is being answered, or its body awaited."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_if_waiting)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_waiting(self) -> None:
        """Close the connection unless a request is being answered."""
        self._deadline = None
        if not self._answering():
            self.transport.close()
