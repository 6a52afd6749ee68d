"""What goes wrong over HTTP, in one shape: {"error": {"kind", "message", "field"}}."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fit.errors import FitError, QueryError, RecordError, ReportError, ScalingError

LONGEST = 600
"""Characters of a message; a hostile name must not fill the screen."""
KINDS: tuple[tuple[type[ScalingError], str], ...] = (
    (RecordError, "record"),
    (FitError, "fit"),
    (QueryError, "question"),
    (ReportError, "report"),
    (ScalingError, "invalid"),
)


class Fault(Exception):
    """A request that is refused: status, kind, one line, and the field that is wrong."""

    def __init__(self, status: int, kind: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.field = status, kind, message, field


def error_body(fault: Fault) -> dict[str, Any]:
    """The one shape of every error."""
    line = " ".join("".join(c if c.isprintable() else " " for c in fault.message).split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return {"error": {"kind": fault.kind, "message": line, "field": fault.field}}


def fault_of(error: Exception) -> Fault:
    """Any exception as a fault; what is none of ours is an internal one, without its words."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, ScalingError):
        kind = next(name for tree, name in KINDS if isinstance(error, tree))
        return Fault(422, kind, str(error), getattr(error, "field", None))
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return of_status(status)
    return Fault(500, "internal", "isoflop failed on this request; its log says where.")


def of_status(status: int) -> Fault:
    """A fault of the protocol: not found, method not allowed, ..."""
    known = {
        404: "nothing is at this address; the page is at /, the interface at /openapi.json.",
        405: "this address does not take this method; see /openapi.json.",
    }
    phrase = HTTPStatus(status).phrase
    kind = phrase.lower().replace(" ", "_").replace("-", "_")
    return Fault(status, kind, known.get(status, f"{phrase.lower()}."))


def unknown(what: str, name: str, known: list[str], field: str) -> Fault:
    """A name that is not there: 404, with those that are."""
    there = ", ".join(known) or "none"
    return Fault(404, "not_found", f"no {what} '{name}'; known are {there}.", field)
