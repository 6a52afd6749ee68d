"""From words to a question: the one road of the command line, the service and the page."""

from __future__ import annotations

from collections.abc import Mapping

from fit.errors import FieldError, QueryError
from fit.fields import FIELDS
from fit.question import Question
from fit.source import Source


def question(source: Source, fields: Mapping[str, object]) -> Question:
    """A question from fields by name, as people type them or programs send them.

    Args:
        source: The fit or published law that is asked.
        fields: Values by the names of `fields.FIELDS`: text (`1e21`, `7B`, `8GB`, `40%`), numbers
            or booleans. None, and a flag that is not set, is as if it were not there.

    Raises:
        FieldError: A field that is unknown, cannot be read or meant, is missing or one too many;
            its `field` says which.
    """
    read = {name: _read(name, value) for name, value in fields.items() if value is not None}
    return Question(source=source, **read)  # type: ignore[arg-type]


def _read(name: str, value: object) -> float | str | bool:
    """One field."""
    if name not in FIELDS:
        raise FieldError(f"unknown field '{name}'; known are {', '.join(FIELDS)}.", name)
    text = str(value)
    try:
        return FIELDS[name].read(text, "budget" if name == "flops" else name)
    except QueryError as error:
        raise FieldError(str(error), name) from error
