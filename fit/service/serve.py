"""`isoflop serve`: the socket, the token and the server around the application."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit.errors import ServeError
from fit.quantities import count_noun
from fit.results import FIT_NAME
from fit.service.http import loopback

if TYPE_CHECKING:
    from fit.service.http import GuardMiddleware

TOKEN = "ISOFLOP_TOKEN"
LEAST_TOKEN = 16
"""Characters of a token; fewer can be guessed."""
IDLE_SECONDS = 10.0
"""For the head of a request, and between two of them."""
BACKLOG = 512


def serve(
    *,
    host: str,
    port: int,
    folders: Sequence[Path],
    token: str | None,
    reports: Path = Path("reports"),
    told: Any = print,
) -> None:
    """Serve fits until interrupted.

    Args:
        host: Address or name to bind; beyond loopback a token is needed.
        port: Port; 0 takes a free one.
        folders: Report folders; none means all under `reports`.
        token: What requests must carry.
        reports: Where fits are, if no folders are given.
        told: Called with the line that says where the service is.

    Raises:
        ServeError: The extra is not installed, a folder has no fit, the address is not ours or in
            use, or a token is missing or too short.
    """
    _check(folders, token, host)
    try:
        from fit.service.app import Service, application
        from fit.service.fits import FitRegistry
    except ModuleNotFoundError as error:
        raise ServeError(
            f"the service needs {error.name}, not installed here. Run: pip install 'isoflop[serve]'"
        ) from error
    listener = _listener(host, port)
    named = {f.resolve().name: f for f in folders} if folders else None
    service = Service(shelf=FitRegistry(reports, named))
    address, bound = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    fits = count_noun(len(service.shelf.names()), "fit")
    told(f"isoflop serves {fits} at http://{shown}:{bound}/ (Ctrl-C ends)")
    try:
        run(application(service, token=token), listener)
    finally:
        service.close()
        listener.close()


def run(app: GuardMiddleware, listener: socket.socket) -> None:
    """Serve an application on a socket until a signal."""
    import uvicorn

    from fit.service.connection import TimeoutProtocol

    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        lifespan="on",
        log_level=logging.CRITICAL,  # our own line says what failed; no traceback of a client's
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=5,
    )
    try:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return


def _check(folders: Sequence[Path], token: str | None, host: str) -> None:
    """Refuse what cannot be served, or should not be."""
    for folder in folders:
        if not (folder / FIT_NAME).is_file():
            raise ServeError(
                f"no fit in {folder}; a report folder is needed. "
                f"Make one: isoflop fit RUNS --out {folder}"
            )
    names = [f.resolve().name for f in folders]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ServeError(f"two fits are named {twice}; they are asked by name. Rename one folder.")
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii()):
        raise ServeError(
            f"the token has {len(token)} characters; {LEAST_TOKEN} of ASCII are needed. "
            "Make one: openssl rand -hex 24"
        )
    if token is None and not loopback(host):
        raise ServeError(
            f"{host} is open to others, and there is no token. Set {TOKEN} or --token, or bind "
            "127.0.0.1 and reach it by ssh -L."
        )


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ServeError: The port is in use, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else str(error)
        raise ServeError(
            f"cannot serve at {host}:{port}: {reason.lower()}. Choose another: --port 0 takes a "
            "free one."
        ) from error
