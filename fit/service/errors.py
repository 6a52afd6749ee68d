"""Refusals over HTTP: one shape of error, in the words of the interface.

- `RequestError` and `error_body`: {"error": {"kind", "message", "field"}}, bounded in length.
- `field_words`: a message that names options of the command line, in names of fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fit.errors import (
    FitError,
    QueryError,
    RecordError,
    RefusedError,
    ReportError,
    ScalingError,
)
from fit.verdict import Verdict

LONGEST_MESSAGE = 600
"""Most characters of a message: it may repeat what a client has sent."""
LONGEST_NAME = 80
"""Most characters of a name that a client has sent, where it is repeated."""
RETRY_SECONDS = 2
"""What a client that came at a busy time is told to wait; most answers take less than 0.1 s."""
KINDS: tuple[tuple[type[ScalingError], str], ...] = (
    (RecordError, "record"),
    (FitError, "fit"),
    (QueryError, "question"),
    (ReportError, "report"),
    (ScalingError, "invalid"),
)
MESSAGES: Mapping[int, str] = {
    404: "nothing is at this address; the page is at /, the interface at /openapi.json.",
    405: "this address does not take this method; see /openapi.json.",
}
ADDRESSES: tuple[tuple[str, str], ...] = (
    ("isoflop predict --params N --tokens D", "/v1/predict?params=N&tokens=D"),
    ("isoflop laws", "/v1/laws"),
    (": python -m sweep -m ...", "."),
)
"""Commands that messages quote, and the addresses that do the same."""
_COMMAND = re.compile(
    r"isoflop [a-z]+(?: (?:--[\w-]+|'[^']*'|[\w.|]*[A-Z\d=/][\w.|=/]*|\.\.\.(?=\s|$)))*"
)
"""A command with its arguments: what HTTP cannot do, so that its options stay as they are."""
_OPTION = re.compile(
    r"(?<![\w'-])--([a-z]+(?:-[a-z]+)*)"
    r"(?: (?P<value>'[^']*'|[\w./|-]*[\dA-Z=][\w./|=-]*(?<!\.)|none))?"
)
"""An option, with its value if what follows looks like one: `--column params=YOURS`."""
_BUDGET = re.compile(r"\bFLOPS\b(?: \(flops\))?")
"""The argument of `isoflop query`."""
_WRONG_VALUE = re.compile(r"^Invalid value for '--([a-z-]+)'")
"""The start of a message of the command line's parser."""
COMMAND_ONLY = frozenset({"where", "hold", "out", "base", "keep-failed", "melt"})
"""Options of `isoflop fit` that no request may set."""


class RequestError(Exception):
    """A request that is refused: HTTP status, kind, message, and the field that is wrong."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        field: str | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.field = None if field is None else short_name(field)
        self.verdict = verdict

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"retry-after": str(RETRY_SECONDS)} if self.status in (429, 503) else {}


def error_body(error: RequestError) -> dict[str, Any]:
    """The JSON body of every error, its message as one line of printable characters.

    Where a verdict refuses, it stands first, as in the document of an answer.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in error.message).split())
    if len(line) > LONGEST_MESSAGE:
        line = f"{line[: LONGEST_MESSAGE - 1]}\N{HORIZONTAL ELLIPSIS}"
    verdict = {} if error.verdict is None else error.verdict.document()
    return {**verdict, "error": {"kind": error.kind, "message": line, "field": error.field}}


def request_error_of(error: Exception) -> RequestError:
    """Any exception as a refusal; the message of an unexpected one is logged, not sent."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RefusedError):
        insist = " To see it all the same: `force=true`." if error.insistent else ""
        text = f"{field_words(str(error))}{insist}"
        verdict = Verdict(verdict="refuse", reason=error.reason)
        return RequestError(422, "refused", text, verdict=verdict)
    if isinstance(error, ScalingError):
        kind = next(name for tree, name in KINDS if isinstance(error, tree))
        return RequestError(422, kind, field_words(str(error)), getattr(error, "field", None))
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return error_of_status(status)
    return RequestError(500, "internal", "isoflop failed on this request; its log says where.")


def error_of_status(status: int) -> RequestError:
    """The refusal for an HTTP status: not found, method not allowed, ..."""
    phrase = HTTPStatus(status).phrase
    kind = phrase.lower().replace(" ", "_").replace("-", "_")
    return RequestError(status, kind, MESSAGES.get(status, f"{phrase.lower()}."))


def unknown_name(what: str, name: str, known: list[str], field: str) -> RequestError:
    """The refusal of an unknown name: 404, with the names that exist."""
    names = ", ".join(known) or "none"
    text = f"there is no {what} '{short_name(name)}'; known are {names}."
    return RequestError(404, "not_found", text, field)


def short_name(name: str, most: int = LONGEST_NAME) -> str:
    """A name that a client has sent, or a text, cut where it is too long to be repeated."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def field_words(message: str) -> str:
    """A message in the words of the interface: `max_params` instead of --max-params.

    Commands that have an address become that; others stay, since only a command can do this.
    """
    message = _WRONG_VALUE.sub(r"Invalid value for `\1`", message)
    for command, address in ADDRESSES:
        message = message.replace(command, address)
    out, end = [], 0
    for match in _COMMAND.finditer(message):
        out += [_named_fields(message[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*out, _named_fields(message[end:])])


def _named_fields(text: str) -> str:
    """Options in a text as fields, each in backticks, with its value where it has one."""

    def field(match: re.Match[str]) -> str:
        name, value = match[1], match["value"]
        if name in COMMAND_ONLY:
            return f"isoflop fit {match[0]}"
        if name == "force":
            return "`force=true`"
        name = name.replace("-", "_")
        return f"`{name}`" if value is None else f"`{name}={value.strip(chr(39))}`"

    return _OPTION.sub(field, _BUDGET.sub("`flops`", text))
