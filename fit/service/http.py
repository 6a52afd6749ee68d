"""What every request passes, and every response: who asks, how many at once, headers, the count.

What a service counts, in Prometheus's text form.

What goes wrong over HTTP, in one shape: {"error": {"kind", "message", "field"}}.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import sys
import time
import traceback
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit.errors import FitError, QueryError, RecordError, ReportError, ScalingError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST = 600
"""Characters of a message; a hostile name must not fill the screen."""
KINDS: tuple[tuple[type[ScalingError], str], ...] = (
    (RecordError, "record"),
    (FitError, "fit"),
    (QueryError, "question"),
    (ReportError, "report"),
    (ScalingError, "invalid"),
)
MOST_IN_FLIGHT = 512
OPEN = ("/healthz",)
"""Answered without a token, as is the page, which asks for it."""
CHART_STYLE = (
    ":where(.chart) {\n  --plot-background: white;\n  display: block;\n  height: auto;\n"
    "  height: intrinsic;\n  max-width: 100%;\n}\n:where(.chart text),\n:where(.chart tspan) {\n"
    "  white-space: pre;\n}"
)
"""The style that the chart library writes into each of its figures; nothing else may be inline."""
_PORT = re.compile(r":\d*$")
EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper edges of the latencies' classes [s]."""


class RequestError(Exception):
    """A request that is refused: status, kind, one line, and the field that is wrong."""

    def __init__(self, status: int, kind: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.field = status, kind, message, field


def error_body(fault: RequestError) -> dict[str, Any]:
    """The one shape of every error."""
    line = " ".join("".join(c if c.isprintable() else " " for c in fault.message).split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return {"error": {"kind": fault.kind, "message": line, "field": fault.field}}


def request_error_of(error: Exception) -> RequestError:
    """Any exception as a fault; what is none of ours is an internal one, without its words."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ScalingError):
        kind = next(name for tree, name in KINDS if isinstance(error, tree))
        return RequestError(422, kind, str(error), getattr(error, "field", None))
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return error_of_status(status)
    return RequestError(500, "internal", "isoflop failed on this request; its log says where.")


def error_of_status(status: int) -> RequestError:
    """A fault of the protocol: not found, method not allowed, ..."""
    known = {
        404: "nothing is at this address; the page is at /, the interface at /openapi.json.",
        405: "this address does not take this method; see /openapi.json.",
    }
    phrase = HTTPStatus(status).phrase
    kind = phrase.lower().replace(" ", "_").replace("-", "_")
    return RequestError(status, kind, known.get(status, f"{phrase.lower()}."))


def unknown_name(what: str, name: str, known: list[str], field: str) -> RequestError:
    """A name that is not there: 404, with those that are."""
    there = ", ".join(known) or "none"
    return RequestError(404, "not_found", f"no {what} '{name}'; known are {there}.", field)


def _policy() -> str:
    """The content security policy: everything from here, nothing inline but that one style."""
    digest = base64.b64encode(hashlib.sha256(CHART_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'self'; style-src 'self' 'sha256-{digest}'; img-src 'self' data: blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = [
    (b"content-security-policy", _policy().encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class GuardMiddleware:
    """The outermost application: refuses, measures, and lets no exception through."""

    def __init__(self, app: ASGIApp, *, token: str | None, meter: RequestMetrics) -> None:
        self.app, self.meter = app, meter
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        self.meter.in_flight += 1
        try:
            self._admit(scope)
            await self.app(scope, receive, tell)
        except Exception as error:
            fault = request_error_of(error)
            if fault.status >= 500:
                _log(scope, error)
            if not status:
                await _refuse(fault, scope, receive, tell)
        finally:
            self.meter.in_flight -= 1
            self.meter.count(_route(scope), status, time.perf_counter() - begun)

    def _admit(self, scope: Scope) -> None:
        """Let a request in.

        Raises:
            Fault: Too many at once, a foreign host on loopback, or no token where one is needed.
        """
        if self.meter.in_flight > MOST_IN_FLIGHT:
            raise RequestError(503, "busy", "too many requests at once. Try again soon.")
        given = dict(scope["headers"])
        if self.token is None:
            # A foreign page could have its own name resolve to this machine (DNS rebinding).
            host = _PORT.sub("", given.get(b"host", b"localhost").decode("latin-1").lower())
            if not loopback(host.strip("[]")):
                raise RequestError(
                    403, "forbidden", "this service answers to localhost alone.", "host"
                )
            return
        path = scope["path"]
        if path in OPEN or path == "/" or path.startswith("/page/"):
            return
        scheme, _, token = given.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.token):
            text = "a token is needed: Authorization: Bearer TOKEN."
            raise RequestError(401, "unauthorized", text, "authorization")


def loopback(host: str) -> bool:
    """Whether an address or name is this machine's own loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _route(scope: Scope) -> str:
    """The method and pattern of the route, so that names do not become labels."""
    found = getattr(scope.get("route"), "path", None)
    if not isinstance(found, str) or scope["method"] not in ("GET", "POST"):
        return "other"
    return f"{scope['method']} {found}"


async def _refuse(fault: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error."""
    from starlette.responses import JSONResponse

    headers = {"www-authenticate": "Bearer"} if fault.status == 401 else {}
    await JSONResponse(error_body(fault), fault.status, headers)(scope, receive, send)


def _log(scope: Scope, error: Exception) -> None:
    """One line about a failure of our own: what, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    line = f"isoflop: {scope['method']} {scope['path']!r} failed at {where}: {error!r}"
    print(" ".join(line.split()), file=sys.stderr, flush=True)


class RequestMetrics:
    """Requests by route and status, and how long they took."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.classes: dict[str, list[int]] = {}
        self.seconds: Counter[str] = Counter()

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]  # a counter of seconds
        row = self.classes.setdefault(route, [0] * (len(EDGES) + 1))
        row[bisect_left(EDGES, seconds)] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything counted, and gauges of the moment."""
        return "\n".join([*self._requests(), *self._latencies(), *_gauges(gauges)]) + "\n"

    def _requests(self) -> Iterator[str]:
        """Requests by route and status."""
        yield "# TYPE isoflop_requests_total counter"
        for (route, status), n in sorted(self.requests.items()):
            yield f'isoflop_requests_total{{route="{route}",status="{status}"}} {n}'

    def _latencies(self) -> Iterator[str]:
        """Latencies by route, cumulative."""
        yield "# TYPE isoflop_request_seconds histogram"
        for route, row in sorted(self.classes.items()):
            total = 0
            for edge, n in zip((*EDGES, "+Inf"), row, strict=True):
                total += n
                yield f'isoflop_request_seconds_bucket{{route="{route}",le="{edge}"}} {total}'
            yield f'isoflop_request_seconds_sum{{route="{route}"}} {self.seconds[route]:.6f}'
            yield f'isoflop_request_seconds_count{{route="{route}"}} {total}'


def resident_bytes() -> float:
    """Memory of this process; 0 where the platform does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _gauges(values: Mapping[str, float]) -> Iterator[str]:
    """Values of the moment; a name that ends in `_total` is a counter."""
    for name, value in values.items():
        yield f"# TYPE isoflop_{name} {'counter' if name.endswith('_total') else 'gauge'}"
        yield f"isoflop_{name} {value:.12g}"
