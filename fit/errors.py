"""The exception tree of isoflop.

    ScalingError            anything a user can cause and mend; shown as one line, exit code 1
    ├── RecordError         a run record, a run folder or a table is not what it should be
    ├── FitError            the runs cannot carry the fit that was asked for
    ├── QueryError          a question that has no answer as posed
    │   └── FieldError      a field of it cannot be read, is unknown, missing or one too many
    ├── PlanError           a configuration that cannot be trained or planned
    ├── ReportError         a report could not be written
    └── ServeError          the service cannot start

A message has three parts: what was found, what is needed, what to do next.
"""

from __future__ import annotations


class ScalingError(Exception):
    """Base of every error that a user can cause and mend."""


class RecordError(ScalingError):
    """A run record, a folder of runs or a table cannot be read or written."""


class FitError(ScalingError):
    """The runs cannot carry the fit that was asked for."""


class QueryError(ScalingError):
    """A question that has no answer as posed."""


class FieldError(QueryError):
    """A field of a question that cannot be read, is unknown, missing or one too many.

    Attributes:
        field: Its name.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class PlanError(ScalingError):
    """A configuration that cannot be planned or trained."""


class ReportError(ScalingError):
    """A report could not be made or written."""


class ServeError(ScalingError):
    """The service cannot start."""
