"""The exception tree of isoflop.

    ScalingError            anything a user can cause and fix; shown as one line, exit code 1
    ├── RecordError         a run record, a run folder or a table is not what it should be
    ├── FitError            the requested fit cannot be made from these runs
    ├── QueryError          a question has no answer, or has none as it is posed
    │   ├── FieldError      a field of it is unreadable, unknown, missing or one too many
    │   └── RefusedError    the verdict on the fit or the answer is `refuse`
    ├── PlanError           a configuration cannot be planned or trained
    ├── ReportError         a report could not be written
    └── ServeError          the service cannot start

A message has three parts: what was found, what is needed, what to do next.
"""

from __future__ import annotations


class ScalingError(Exception):
    """Base of every error that a user can cause and fix."""


class RecordError(ScalingError):
    """A run record, a folder of runs or a table cannot be read or written."""


class FitError(ScalingError):
    """The requested fit cannot be made from these runs."""


class QueryError(ScalingError):
    """A question has no answer, or has none as it is posed."""


class FieldError(QueryError):
    """A field of a question is unreadable, unknown, missing or one too many.

    Attributes:
        field: Its name.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class RefusedError(QueryError):
    """The verdict on the fit or the answer is `refuse`; a question with `force` insists.

    Attributes:
        reason: The sentence that decides it.
        insistent: Whether `force` can be given to what was asked.
    """

    def __init__(self, message: str, reason: str, *, insistent: bool = True) -> None:
        super().__init__(message)
        self.reason, self.insistent = reason, insistent


class PlanError(ScalingError):
    """A configuration cannot be planned or trained."""


class ReportError(ScalingError):
    """A report could not be written."""


class ServeError(ScalingError):
    """The service cannot start."""


def check_type(
    error: type[ScalingError], what: str, value: object, kinds: tuple[type, ...], needed: str
) -> None:
    """Refuse a value of another type than those named; True and False are no numbers.

    Raises:
        ScalingError: The value is of another type; of the class that is given.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise error(f"{what} is {value!r:.60}; {needed} is needed. Change it.")
