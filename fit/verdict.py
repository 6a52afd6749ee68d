"""Whether to believe a fit or an answer: notes, and the one verdict made of them.

The verdict is `trust`, `careful` or `refuse`. The note of the highest severity decides it, and its
first sentence is the reason. Every door shows it first, and what is refused has no N*, no interval
beyond the runs, no launch and no drawing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

VERDICTS = ("trust", "careful", "refuse")
"""Best first."""
SEVERITIES = ("info", "warning", "serious")
"""As the verdicts: an `info` leaves `trust`, a `warning` makes `careful`, `serious` refuses."""
DOUBTFUL_KAPPA, REFUSED_KAPPA = 250.0, 1000.0
"""Condition numbers above which a fit is doubtful, and above which N* is refused: other parameters
fit alike. Healthy grids have 40-160; a single budget gives 1.5e3-2.8e3 and intervals that cover
53%."""
NOTED_REACH, FARTHEST_REACH = 30.0, 1000.0
"""Budget over the largest one fitted: a warning above the one, no answer above the other. On public
sweeps 90% intervals hold 71% at reaches of 3 to 30; nothing is known of a thousand."""
DECISIVE = (
    "extrapolates_far", "ill_conditioned", "at_bound", "phase", "misfit", "interaction", "holdout",
)  # fmt: skip
"""Codes of notes of one severity whose sentence goes before those of others: what bears on the
answer itself before a remark on a run or on the last budgets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A remark on a fit or an answer that its reader should know, in plain words."""

    code: str
    """Short, stable name: `outlier`, `ill_conditioned`, `e_at_zero`, ..."""
    severity: str
    """`info`, `warning` or `serious`; serious means: do not spend money on this."""
    message: str
    """What was found and what to do, in one sentence or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far to believe a fit or an answer."""

    verdict: str
    """`trust`, `careful` or `refuse`."""
    reason: str
    """The sentence that decides it."""
    message: str = ""
    """The whole note that decides it, with what to do about it."""

    @property
    def refused(self) -> bool:
        """Whether nothing may be concluded, drawn or launched."""
        return self.verdict == "refuse"

    def document(self) -> dict[str, str]:
        """Its two fields in the document of a fit, an answer or a prediction."""
        return {"verdict": self.verdict, "verdict_reason": self.reason}


def verdict_of(notes: Iterable[Note], trusted: str) -> Verdict:
    """The verdict that notes make together.

    Args:
        notes: Notes; of those of the highest severity `DECISIVE` chooses, then the first.
        trusted: The reason of `trust`, where no note is a warning.
    """

    def rank(note: Note) -> tuple[int, int]:
        decisive = DECISIVE.index(note.code) if note.code in DECISIVE else len(DECISIVE)
        return -SEVERITIES.index(note.severity), decisive

    ranked = sorted(notes, key=rank)
    if not ranked or ranked[0].severity == "info":
        return Verdict(verdict="trust", reason=trusted, message=trusted)
    first = ranked[0]
    return Verdict(
        verdict=VERDICTS[SEVERITIES.index(first.severity)],
        reason=first_sentence(first.message),
        message=first.message,
    )


def worst(*verdicts: Verdict) -> Verdict:
    """The worst of several verdicts; the first of equals."""
    return max(verdicts, key=lambda v: VERDICTS.index(v.verdict))


def first_sentence(text: str) -> str:
    """The first sentence of a message, with its full stop."""
    return re.split(r"(?<=[.])\s+(?=[A-Z])", text, maxsplit=1)[0]
