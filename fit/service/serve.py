"""`isoflop serve`: check what is to be served, bind a socket and run the server."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fit.errors import ServeError
from fit.quantities import count_noun
from fit.results import EXAMPLE, REPORTS, fit_file

if TYPE_CHECKING:
    from fit.service.http import GuardMiddleware
    from fit.service.uploads import Mode

TOKEN = "ISOFLOP_TOKEN"
"""Environment variable of the token."""
LEAST_TOKEN = 16
"""Least characters of a token; a shorter one can be guessed."""
MOST_TOKEN = 1024
"""Most characters of a token, which is sent with every request."""
IDLE_SECONDS = 10
"""A connection is closed when it is idle for that long between two requests."""
BACKLOG = 512
"""Connections that the kernel queues before they are accepted."""


def serve(
    *,
    host: str,
    port: int,
    folders: Sequence[Path],
    token: str | None = None,
    token_file: Path | None = None,
    reports: Path = REPORTS,
    uploads: Mode = "session",
    runs: Path | None = None,
    announce: Callable[[str], object] = print,
    warn: Callable[[str], object] = print,
) -> None:
    """Serve fits until interrupted.

    Args:
        host: Address or name to bind; beyond loopback a token is needed.
        port: Port; 0 takes a free one.
        folders: Report folders; none means all under `reports`.
        token: What requests must carry, from the command line.
        token_file: File that holds it; without either the variable `TOKEN` does, or there is none.
        reports: Folder of report folders, used if none is given.
        uploads: Whether tables may be sent: `off`, for the `session`, or to `keep` in `reports`.
        runs: Folder of a sweep that the page follows while it trains.
        announce: Called with the line that says where the service is.
        warn: Called with the line that says that others can read the token.

    Raises:
        ServeError: The extra `serve` is not installed, a folder has no fit or is not there, the
            address cannot be bound, or a token is missing or too short.
    """
    try:
        from fit.service.app import Service, application
        from fit.service.fits import FitRegistry
        from fit.service.http import loopback
    except ModuleNotFoundError as error:
        raise ServeError(
            f"the service needs {error.name}, which is not installed. "
            "Run: pip install 'isoflop[serve]'"
        ) from error
    named = _named(folders) if folders else None
    if uploads == "keep" and folders:
        raise ServeError(
            f"--uploads keep stores fits in {reports}/, of which --fit serves named ones alone. "
            "Leave one of the two out."
        )
    if runs is not None and not runs.is_dir():
        raise ServeError(
            f"no folder {runs}; --runs follows the folder of a sweep, which python -m sweep makes "
            "when it begins. Check the path."
        )
    if token is not None:
        warn(
            "isoflop: warning: every user of this machine can read --token (ps). "
            f"Use --token-file or set {TOKEN}."
        )
    token = find_token(token, token_file)
    _check_token(token, host, public=not loopback(host))
    listener = _bind(host, port)
    service = Service(registry=FitRegistry(reports, named), mode=uploads, runs=runs)
    # A fit takes 30 ms to read: two hundred are read by the time that the page asks for them.
    threading.Thread(target=service.registry.readable, daemon=True).start()
    address, bound = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    fits = count_noun(len(service.registry.names()), "fit")
    announce(f"isoflop serves {fits} at http://{shown}:{bound}/ (Ctrl-C ends)")
    try:
        run(application(service, token=token), listener)
    finally:
        service.close()
        listener.close()


def run(app: GuardMiddleware, listener: socket.socket) -> None:
    """Serve an application on a socket until SIGINT or SIGTERM."""
    import uvicorn

    from fit.service.http import TimeoutProtocol

    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        lifespan="on",
        log_level=logging.CRITICAL,  # GuardMiddleware logs errors of ours in one line
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=5,
    )
    try:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """The file of every fit by the name of its folder, which no other may have."""
    files: dict[str, Path] = {}
    for folder in folders:
        file = fit_file(folder)
        if not file.is_file():
            raise ServeError(
                f"no fit in {folder}; a report folder is needed. "
                f"Create one: isoflop fit RUNS --out {folder}"
            )
        name = "example" if file == EXAMPLE else file.resolve().parent.name
        if name in files:
            raise ServeError(
                f"two fits are named {name}; each needs a name of its own. Rename one of the "
                "folders."
            )
        files[name] = file
    return files


def find_token(token: str | None, file: Path | None) -> str | None:
    """The token of the command line, of a file, or of the environment; None where there is none.

    Raises:
        ServeError: The file cannot be read, or the token is given twice.
    """
    if file is None:
        return (os.environ.get(TOKEN) or None) if token is None else token
    if token is not None:
        raise ServeError("--token and --token-file are both given; give the file alone.")
    try:
        with file.open("rb") as handle:
            content = handle.read(MOST_TOKEN + 2)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ServeError(f"cannot read the token in {file}: {reason}. Name a file.") from error
    return content.decode("latin-1").strip()


def _check_token(token: str | None, host: str, *, public: bool) -> None:
    """Check that a token cannot be guessed, and that there is one unless on loopback."""
    if token is not None and not (
        LEAST_TOKEN <= len(token) <= MOST_TOKEN and token.isascii() and token.isprintable()
        and " " not in token
    ):  # fmt: skip
        raise ServeError(
            f"the token has {len(token)} characters; {LEAST_TOKEN} to {MOST_TOKEN} of printable "
            "ASCII without blanks are needed. Generate one: openssl rand -hex 24"
        )
    if token is None and public:
        raise ServeError(
            f"{host} can be reached from other machines, and there is no token. Set {TOKEN} or "
            "--token-file, or bind 127.0.0.1 and use an ssh tunnel (ssh -L)."
        )


def _bind(host: str, port: int) -> socket.socket:
    """Bind a listening socket.

    Raises:
        ServeError: The port is in use, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else str(error)
        raise ServeError(
            f"cannot serve at {host}:{port}: {reason.lower()}. Choose another port; "
            "--port 0 takes a free one."
        ) from error
