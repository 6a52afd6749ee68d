"""Whether to believe a fit or an answer: notes, and the one verdict made of them.

The verdict is `trust`, `careful` or `refuse`. The note of the highest severity decides it, and its
first sentence is the reason. Every door shows it first, and what is refused has no N*, no interval
beyond the runs, no launch and no drawing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from fit.quantities import count_noun, power, short

VERDICTS = ("trust", "careful", "refuse")
"""Best first."""
SEVERITIES = ("info", "warning", "serious")
"""As the verdicts: an `info` leaves `trust`, a `warning` makes `careful`, `serious` refuses."""
DOUBTFUL_KAPPA, REFUSED_KAPPA = 250.0, 1000.0
"""Condition numbers above which a fit is doubtful, and above which N* is refused: other parameters
fit alike. Healthy grids have 40-160; a single budget gives 1.5e3-2.8e3 and intervals that cover
53%."""
NOTED_REACH, FARTHEST_REACH = 10.0, 1000.0
"""Budget over the largest one fitted: a warning above the one, no answer above the other. See
`TRACK_RECORD`; nothing is known of a thousand."""
TRACK_RECORD = ((3.0, 94, 0.97), (10.0, 98, 0.92), (30.0, 58, 0.87), (100.0, 31, 0.83))
"""Real forecasts by how far they reached: up to so many times the largest budget fitted, their
number, and the share that held. A forecast is of the best run of 39 public sweeps in that range of
compute from the runs below 1/3, 1/10 or 1/30 of the largest; it held if that loss lies in its 90%
prediction interval. Of 11 families of sweeps each weighs the same (docs/league.md, made by
`python -m tests.bench.reach SERIES.csv`)."""
TRACKED_LEVEL = 0.9
"""Level of the intervals that were counted; of others nothing is said."""
MOST_SHIFT, REFUSED_SHIFT = 2.0, 3.0
"""Half-widths by which a forecast may move without the shortest quarter of its runs: above the one
it is doubted, above the other refused beyond the runs. Of 101 forecasts of public sweeps one moved
by 2 to 3, and 22% of its runs held (of the others 89%); of five sweeps of runs in their first phase
of learning one moved by 2.5 and held, and two by 3.6 and missed (docs/log.md)."""
WIDEST = 0.03
"""Half-width of the interval of ln loss above which a forecast is not to be trusted blindly."""
OF_THE_DESCRIPTION: Mapping[str, str] = MappingProxyType(
    {
        "misfit": "parts of the range follow other laws",
        "trend": "the residuals bend",
        "interaction": "N and D interact",
        "holdout": "the largest budget is missed by over 2%",
        "one_sided": "the last budgets err to one side",
        "disagreement": "another approach gives another exponent",
        "influence": "one run decides N* far beyond the runs",
        "outlier": "single runs lie far off the law",
        "outliers": "single runs lie far off the law",
        "noise": "runs scatter more than seeds do",
        "lack_of_fit": "runs scatter more than seeds do",
        "e_at_zero": "E is zero",
        "e_not_needed": "a law without E fits as well",
        "several_basins": "several sets of parameters fit",
    }
)
"""Codes of notes on how well the law describes the runs, and what each found. Forecasts of fits
with one of them held about as often as of fits without it (89-100%, docs/league.md): beside a
forecast they inform."""
MOST_FOUND = 3
"""Findings that the sentence of a trusted fit names; the notes beneath it have all."""
WIDENED = frozenset(("not_determined", "fit_status"))
"""Codes of notes that leave the law open and not the forecast, which its prior holds."""
DECISIVE = (
    "extrapolates_far", "short_runs", "below_entropy", "ill_conditioned", "at_bound", "phase",
    "misfit", "interaction", "holdout", "where_to_stop",
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

    def decided_by(self, note: Note) -> bool:
        """Whether the verdict is of this note's severity and says its first sentence."""
        same = VERDICTS.index(self.verdict) == SEVERITIES.index(note.severity)
        return same and note.severity != "info" and first_sentence(note.message) == self.reason

    def ranked(self, notes: Iterable[Note]) -> list[Note]:
        """What a reader should know besides: the most important first, and no sentence twice.

        The note that decides the verdict is left with what it says beyond the reason. Of notes
        with one code and message the first stays.
        """
        once = {(n.code, n.message): n for n in reversed(list(notes))}
        found = []
        for note in sorted(reversed(once.values()), key=_rank):
            rest = note.message
            if self.decided_by(note):
                rest = rest.removeprefix(self.reason).strip()
            elif rest.rstrip(".") in self.reason:
                rest = ""
            if rest:
                found.append(dataclasses.replace(note, message=rest))
        return found

    def document(self) -> dict[str, str]:
        """Its two fields in the document of a fit, an answer or a prediction."""
        return {"verdict": self.verdict, "verdict_reason": self.reason}


def verdict_of(notes: Iterable[Note], trusted: str) -> Verdict:
    """The verdict that notes make together.

    Args:
        notes: Notes; of those of the highest severity `DECISIVE` chooses, then the first.
        trusted: The reason of `trust`, where no note is a warning.
    """
    ranked = sorted(notes, key=_rank)
    if not ranked or ranked[0].severity == "info":
        return Verdict(verdict="trust", reason=trusted, message=trusted)
    first = ranked[0]
    return Verdict(
        verdict=VERDICTS[SEVERITIES.index(first.severity)],
        reason=first_sentence(first.message),
        message=first.message,
    )


def _rank(note: Note) -> tuple[int, int]:
    """Place of a note: by its severity, then by whether it decides."""
    decisive = DECISIVE.index(note.code) if note.code in DECISIVE else len(DECISIVE)
    return -SEVERITIES.index(note.severity), decisive


def worst(*verdicts: Verdict) -> Verdict:
    """The worst of several verdicts; the first of equals."""
    return max(verdicts, key=lambda v: VERDICTS.index(v.verdict))


def first_sentence(text: str) -> str:
    """The first sentence of a message, with its full stop."""
    return re.split(r"(?<=[.])\s+(?=[A-Z])", text, maxsplit=1)[0]


class Fitted(Protocol):
    """What the status of a fit is read from."""

    @property
    def status(self) -> str:
        """How the search ended."""

    @property
    def kappa(self) -> float:
        """Condition number."""

    @property
    def theta(self) -> Mapping[str, float]:
        """Parameters of the law."""

    @property
    def forecast(self) -> object | None:
        """What answers come from, where that is not the law itself."""


def beside_forecast(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Notes on a fit that has a forecast: each as severe as it was for forecasts of real runs."""

    def seen(note: Note) -> Note:
        if note.code in OF_THE_DESCRIPTION:
            return dataclasses.replace(note, severity="info")
        if note.code not in WIDENED:
            return note
        text = note.message
        if note.code == "not_determined":
            text = (
                f"{text.split(':')[0]} by themselves: answers take what is missing from other "
                "people's sweeps. Add runs of other sizes and lengths, over a wider range."
            )
        return dataclasses.replace(note, severity="warning", message=text)

    return tuple(seen(note) for note in notes)


def short_runs_note(shift: float | None, longest_short: float) -> tuple[Note, ...]:
    """A doubt of a forecast that its shortest runs decide.

    Args:
        shift: Of the forecast without them, in half-widths; see `results.ForecastLaw.short_runs`.
        longest_short: Length up to which runs are short [tokens].
    """
    if shift is None or abs(shift) <= MOST_SHIFT:
        return ()
    text = (
        f"without the runs of up to {short(longest_short)} tokens the forecast beyond the runs is "
        f"{'lower' if shift < 0 else 'higher'} by {abs(shift):.1f} half-widths of its interval: "
        "they are perhaps still in their first phase of learning. Of four forecasts that moved "
        "by 2 or more one held. Train longer, or fit without them: "
        f"--where 'tokens > {longest_short:.3g}'."
    )
    return (Note(code="short_runs", severity="warning", message=text),)


def what_checks_found(notes: Iterable[Note]) -> str:
    """The end of the sentence on a fit that is trusted."""
    codes = {n.code for n in notes}
    found = list(
        dict.fromkeys(words for code, words in OF_THE_DESCRIPTION.items() if code in codes)
    )
    if not found:
        return " and no check of it found a fault."
    left = len(found) - MOST_FOUND
    more = [f"{count_noun(left, 'thing')} more"] if left > 0 else []
    *first, last = [*found[:MOST_FOUND], *more]
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"; its checks found that {listed}, and real forecasts of such fits held as often."


def track_record(reach: float) -> str | None:
    """How often real forecasts that reached as far held; None within the runs or beyond them all.

    Args:
        reach: Budget over the largest one fitted.
    """
    if reach <= 1:
        return None
    for farthest, made, held in TRACK_RECORD:
        if reach <= farthest:
            return f"{held:.0%} of {made} real forecasts that reached as far have held"
    return None


def is_identified(fit: Fitted) -> bool:
    """Whether the runs distinguish the law's parameters; if not, N* is refused."""
    return kappa_of(fit) <= REFUSED_KAPPA and fit.status != "ill_conditioned"


def status_notes(fit: Fitted) -> list[Note]:
    """Doubts about how the fit ended: its status, its condition number, an E of zero."""
    notes = []
    if fit.status == "max_iterations":
        text = "the search for the law's parameters did not converge. Read the fit's notes."
        notes.append(Note(code="fit_status", severity="serious", message=text))
    if kappa_of(fit) > DOUBTFUL_KAPPA or fit.status == "ill_conditioned":
        refused = not is_identified(fit)
        text = (
            f"the law's parameters are {'not' if refused else 'barely'} identified by the runs "
            f"(kappa {kappa_text(fit)}; healthy is 40-160). Add budgets or D/N ratios."
        )
        severity = "serious" if refused else "warning"
        notes.append(Note(code="ill_conditioned", severity=severity, message=text))
    if fit.theta.get("E", 1.0) <= 1e-6:
        text = "the fitted E is zero, a boundary: losses far beyond the runs come out too low."
        notes.append(Note(code="e_at_zero", severity="warning", message=text))
    return notes if fit.forecast is None else list(beside_forecast(notes))


def kappa_of(fit: Fitted) -> float:
    """Condition number; a singular one, which JSON cannot hold, is infinite."""
    return math.inf if fit.kappa is None or math.isnan(fit.kappa) else fit.kappa


def kappa_text(fit: Fitted) -> str:
    """Condition number, without an exponent where it is of any interest."""
    kappa = kappa_of(fit)
    if math.isinf(kappa):
        return "infinite"
    return f"{kappa:.0f}" if kappa < 1e6 else power(kappa)
