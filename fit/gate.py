"""What every request passes, and every response: who asks, how many at once, headers, the count."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import sys
import time
import traceback
from typing import TYPE_CHECKING

from fit.faults import Fault, error_body, fault_of
from fit.meter import Meter

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class Gate:
    """The outermost application: refuses, measures, and lets no exception through."""

    def __init__(self, app: ASGIApp, *, token: str | None, meter: Meter) -> None:
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
            fault = fault_of(error)
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
            raise Fault(503, "busy", "too many requests at once. Try again soon.")
        given = dict(scope["headers"])
        if self.token is None:
            # A foreign page could have its own name resolve to this machine (DNS rebinding).
            host = _PORT.sub("", given.get(b"host", b"localhost").decode("latin-1").lower())
            if not loopback(host.strip("[]")):
                raise Fault(403, "forbidden", "this service answers to localhost alone.", "host")
            return
        path = scope["path"]
        if path in OPEN or path == "/" or path.startswith("/page/"):
            return
        scheme, _, token = given.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.token):
            text = "a token is needed: Authorization: Bearer TOKEN."
            raise Fault(401, "unauthorized", text, "authorization")


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


async def _refuse(fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
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
