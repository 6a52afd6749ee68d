"""What a report says, as plain words and numbers for the template to set."""

from __future__ import annotations

import math
import shlex
from typing import Any

from fit import tables
from fit.doubts import (
    DOUBTFUL_KAPPA,
    REFUSED_KAPPA,
    UNCOMPARED,
    doubtful,
    kappa_of,
    kappa_text,
    refused,
    verdict,
)
from fit.quantity import counted, percent, power, short, three
from fit.query import Answer, Number, Question, answer
from fit.result import Fit, Note
from fit.source import Source

FURTHER = 10.0
"""The second budget of page 1 over the largest one fitted."""
MOST_DOUBTS = 6
"""Kinds of doubt on page 1, the gravest; all stand in `fit.json`."""
CRITERIA = {
    "hc3": "HC3 sandwich by cluster, Student t reference",
    "pairs": "pairs bootstrap by cluster, percentiles",
    "wild": "wild bootstrap by cluster, percentiles, Student t reference",
    "bca": "bias-corrected accelerated pairs bootstrap by cluster",
    "profile": "profile likelihood, scaled by the sandwich, Student t reference",
}


def sheet(source: Source, *, folder: str = "") -> dict[str, Any]:
    """Everything on the pages of a report but its figures; plain JSON values.

    Args:
        source: A fit as a source.
        folder: Where its `fit.json` lies, for the command that launches; none is FOLDER.
    """
    fit = source.fit
    assert fit is not None
    top = fit.range["flops"].high
    budgets = () if refused(fit) else (top, FURTHER * top)
    answers = [answer(Question(source=source, flops=c)) for c in budgets]
    further = answers[-1] if answers else None
    return {
        "name": tables.clean(fit.name),
        "refused": refused(fit),
        "ladder": source.ladder is not None,
        "doubtful": doubtful(fit),
        "further": three(FURTHER).rstrip("0").rstrip("."),
        "verdict": None if further is None else _verdict(further),
        "answers": [_answer(a) for a in answers],
        "level": percent(fit.interval.level),
        "sure": _sure(fit),
        "wrong": _wrong(fit, further),
        "launch": None if further is None else _launch(folder or "FOLDER", further),
        "formula": source.law.formula,
        "law": fit.law,
        "theta": tables.theta(fit),
        "basis": tables.basis(fit),
        "checks": tables.checks(fit),
        "conventions": [tables.convention(c) for c in fit.conventions],
        "holdout": tables.holdout(fit),
        "rolling": tables.rolling(fit),
        "influence": tables.influence(fit),
        "runs": tables.runs(fit),
        "dropped": [
            [tables.clean(r, tables.NAME_LENGTH), tables.clean(why, 160)]
            for r, why in fit.runs_dropped[:20]
        ],
        "dropped_count": len(fit.runs_dropped),
        "facts": tables.facts(fit),
        "noise": f"{100 * fit.noise:.2g}%",
        "quantile": tables.digits(fit.interval.quantile),
        "method": CRITERIA.get(fit.interval.method, fit.interval.method),
    }


def _launch(folder: str, a: Answer) -> str | None:
    """The command that launches the second answer, where there is one to launch."""
    if not a.config:
        return None
    asked = f"isoflop query {power(a.flops.value)} --fit {shlex.quote(folder)} --config"
    return tables.clean(f"{asked} | xargs -r python -m sweep")


def _verdict(a: Answer) -> dict[str, str]:
    """The numbers of the sentence on top."""
    return {
        "flops": power(a.flops.value),
        "params": short(a.params.value),
        "tokens": short(a.tokens.value),
        "loss": f"{a.loss.value:.3f}",
        "low": _end(a.loss_next_run.low, ".3f"),
        "high": _end(a.loss_next_run.high, ".3f"),
    }


def _answer(a: Answer) -> dict[str, Any]:
    """One column of the table of answers: [value, interval] per row."""
    band, s = a.regret_band, a.shape
    shape = f"{s.width} wide, {s.depth} deep, {s.heads} heads" if s else tables.DASH
    own = a.shape_params is not None and a.shape_tokens is not None
    return {
        "flops": power(a.flops.value),
        "params": _ends(a.params, short),
        "tokens": _ends(a.tokens, short),
        "ratio": _ends(a.tokens_per_param, three),
        "loss": _ends(a.loss, "{:.4f}".format),
        "next": _ends(a.loss_next_run, "{:.4f}".format),
        "band": f"{short(band.low)} to {short(band.high)}" if band else tables.DASH,
        "reach": f"\N{MULTIPLICATION SIGN}{three(a.reach)}" if a.reach else tables.DASH,
        "shape": shape,
        "own": f"{short(a.shape_params or 0)} on {short(a.shape_tokens or 0)}"
        if own
        else tables.DASH,
        "lr": f"{a.lr:.3g}" if a.lr else tables.DASH,
        "batch": f"{a.batch_tokens}" if a.batch_tokens else tables.DASH,
    }


def _sure(fit: Fit) -> list[list[str]]:
    """Checks in words: [verdict, text], the verdict one of good, fair, bad."""
    kappa, shown = kappa_of(fit), f"condition number {kappa_text(fit)}"
    well = f"The runs tell the parameters apart: {shown}, healthy below {DOUBTFUL_KAPPA:g}."
    hardly = "do not" if kappa > REFUSED_KAPPA else "barely"
    badly = f"The runs {hardly} tell the parameters apart: {shown}."
    rows = [
        [
            "good" if fit.status == "converged" else "bad",
            f"The fit is {fit.status.replace('_', ' ')} on {counted(fit.runs_used, 'run')}.",
        ],
        [
            "good" if kappa < DOUBTFUL_KAPPA else "fair" if kappa < REFUSED_KAPPA else "bad",
            well if kappa < DOUBTFUL_KAPPA else badly,
        ],
    ]
    rows += [_holdout_check(fit)] if fit.holdout else []
    rows += [_agreement(fit)] if fit.cross_checks else []
    known, found = fit.data.get("entropy"), fit.theta.get("E")
    if known and found:
        low, high = fit.interval.bounds.get("E", (math.nan, math.nan))
        inside = low <= known <= high
        where = "inside" if inside else "outside"
        text = (
            f"The data's entropy is known: {known:.4f} nats/token, {where} the interval of the "
            f"fitted E, {found:.4f}."
        )
        rows.append(["good" if inside else "fair", text])
    return rows


def _holdout_check(fit: Fit) -> list[str]:
    """How the smaller runs predicted the largest budget."""
    h = fit.holdout
    assert h is not None
    error = abs(h.max_relative_error)
    grade = "good" if error < 0.01 else "fair" if error < 0.03 else "bad"
    mean = tables.signed(h.mean_relative_error, "+.2%")
    text = (
        f"Fitted without the largest budget, the law predicts it to {mean} on average, {error:.2%} "
        f"at worst ({counted(len(h.runs), 'run')})."
    )
    return [grade, text]


def _agreement(fit: Fit) -> list[str]:
    """Whether the other approaches agree."""
    against = [c for c in fit.cross_checks if c.disagrees]
    given = [c for c in fit.cross_checks if c.a is not None and verdict(fit, c) != UNCOMPARED]
    if not given:
        return ["fair", "No other approach could be run on these runs as a cross-check."]
    named = " and ".join(
        f"{tables.APPROACHES.get(c.name, c.name)}, {c.a:.3f}" for c in against or given
    )
    own = f"The exponent of N*, {fit.exponents['a']:.3f},"
    if against:
        return ["bad", f"{own} disagrees with approach {named}."]
    return ["good", f"{own} agrees with approach {named}."]


def _wrong(fit: Fit, further: Answer | None) -> list[list[str]]:
    """What could make the answer wrong, the gravest first, one of a kind: [severity, text]."""
    order = ("serious", "warning", "info")
    answered = () if further is None else further.warnings
    told = {n.code for n in answered}
    notes: list[Note] = [*answered, *(n for n in fit.notes if n.code not in told)]
    kinds: dict[str, dict[str, Note]] = {}
    for note in sorted(notes, key=lambda n: order.index(n.severity)):
        kinds.setdefault(note.code, {})[note.message] = note
    rows = []
    for same in list(kinds.values())[:MOST_DOUBTS]:
        first = next(iter(same.values()))
        more = f" And {len(same) - 1} more of this kind." if len(same) > 1 else ""
        rows.append([first.severity, _sentence(tables.clean(first.message, 400)) + more])
    standing = (
        "The law is assumed to hold beyond the runs: the intervals cover the runs' noise, not a "
        "law that bends. A recipe tuned at one size and poor at another bends it."
    )
    return [*rows, ["info", standing]]


def _sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _ends(number: Number, form: Any) -> list[str]:
    """A value and its interval."""
    if number.low is None or number.high is None:
        return [form(number.value), tables.DASH]
    return [form(number.value), f"{form(number.low)} to {form(number.high)}"]


def _end(value: float | None, form: str) -> str:
    """One end of an interval."""
    return tables.DASH if value is None else format(value, form)
