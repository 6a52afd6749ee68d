"""Ledgers, comparisons and proposals of runs as text for a terminal.

A document that only the command line prints (`ledger_document`) stands beside its table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fit.comparison.compare import BudgetComparison, Comparison
from fit.data.records import finite_or_null
from fit.design.plan_files import Precision, Proposal, SpendStep, SuggestedRun
from fit.forecasts.ledger import Ledger, LedgerEntry
from fit.forecasts.scoring import SURE, Calibration, calibration
from fit.laws.families import law
from fit.laws.law import Law
from fit.laws.published import Preset
from fit.note_codes import NOTES, PARTS, QUESTIONS
from fit.quantities import count_noun, percent, power, short, three_digits
from fit.report.text import (
    LABEL,
    TIMES,
    WIDTH,
    convention_text,
    note_rows,
    one_line,
    row,
    shortened,
    table_text,
    wrapped,
    wrapped_row,
)
from fit.results import loss_unit

STATUSES = {
    "open": "its run has not been found yet",
    "late": "its run was known when it was sealed, or was fitted: not counted",
    "altered": "changed after it was sealed: not counted",
}
TIMES_OR_DIVIDED, PLUS_MINUS = f"{TIMES}/", "\N{PLUS-MINUS SIGN}"


def entry_text(entry: LedgerEntry) -> str:
    """One forecast and its outcome."""
    f, e = entry.forecast, entry.forecast.expected
    head = f"{f.name}, sealed {f.sealed}: {power(f.flops)} FLOP, by {f.source}"
    rows = [
        ("run", f"{short(e.params)} parameters on {short(e.tokens)} tokens"),
        (
            "forecast",
            f"{e.loss:.4f} [{e.low:.4f}, {e.high:.4f}] nats/token, {percent(e.level)} prediction",
        ),
    ]
    if entry.outcome is not None:
        v, name = entry.outcome.verdict, entry.outcome.run
        rows.append(("measured", f"{v.measured:.4f}{f', {name}' if name else ', as given'}"))
        left = v.reducible_error
        part = "" if left is None else f" ({left:+.1%} of the reducible loss)"
        rows.append(("verdict", f"{entry.status}, {v.error:+.2%}{part}, z = {v.z:+.2f}"))
    rows += [("score", text) for text in _score_texts(entry)]
    if entry.status in STATUSES:
        rows.append(("", f"{entry.status}: {STATUSES[entry.status]}"))
    return "\n".join([wrapped(head), "", *(row(k, text) for k, text in rows)])


def _score_texts(entry: LedgerEntry) -> Iterable[str]:
    """Each sealed score in percent, and how it was measured."""
    outcomes = {} if entry.outcome is None else entry.outcome.document.get("scores", {})
    for name, sealed in entry.forecast.document.get("scores", {}).items():
        value, low, high = (100 * sealed[k] for k in ("value", "low", "high"))
        text = f"{name} {value:.1f}% [{low:.1f}, {high:.1f}]"
        if (found := outcomes.get(name)) is not None:
            inside = "inside" if found["hit"] else "outside"
            text += f", measured {100 * found['measured']:.1f}%, {found['points']:+.1f} points, "
            text += inside
        yield text


def ledger_text(ledger: Ledger) -> str:
    """All forecasts as a table, and their calibration."""
    header = ("forecast", "FLOP", "forecast loss", "measured", "off", "z", "")
    rows = [_forecast_cells(e) for e in ledger.entries]
    lines = [table_text(header, rows)] if rows else ["no forecast is sealed"]
    lines += [wrapped(f"unreadable: {name}: {reason}") for name, reason in ledger.unreadable]
    return "\n".join([*lines, "", *calibration_lines(calibration(ledger))])


def rate_text(ledger: Ledger) -> str:
    """The running hit rate, and the calibration of z."""
    return "\n".join(calibration_lines(calibration(ledger)))


def calibration_lines(c: Calibration) -> Sequence[str]:
    """The running hit rate and the calibration of z, in a sentence each."""
    if not c.counted:
        return ["no forecast has been scored"]
    assert c.promised is not None and c.low is not None and c.high is not None
    rate = (
        f"{c.hits} of {count_noun(c.counted, 'forecast')} hit: "
        f"{c.hits / c.counted:.0%} [{c.low:.0%}, {c.high:.0%}, {SURE:.0%} "
        f"confidence], {percent(c.promised)} promised"
    )
    rate += ": {}; {}".format(*c.grade)
    if c.counted < 3:
        return [wrapped(rate)]
    z = (
        f"z as normal scores: mean {c.bias:+.2f} (0 if centred), root mean square "
        f"{c.width:.2f} (1 if as wide as it should be); interval score "
        f"{100 * (c.interval_score or 0):.2g}% of the loss (width and 20 times the miss beyond)"
    )
    return [wrapped(rate), wrapped(z)]


def ledger_document(ledger: Ledger) -> dict[str, Any]:
    """The `isoflop.ledger/1` document."""
    document = {
        "schema": "isoflop.ledger/1",
        "calibration": dataclasses.asdict(calibration(ledger)),
        "forecasts": [_forecast_row(e) for e in ledger.entries],
        "unreadable": [{"file": n, "reason": r} for n, r in ledger.unreadable],
    }
    return dict(finite_or_null(document))


def _forecast_row(entry: LedgerEntry) -> dict[str, Any]:
    """The entry of one forecast in the document."""
    f, o = entry.forecast, entry.outcome
    return {
        "name": f.name,
        "status": entry.status,
        "sealed": f.sealed,
        "source": f.source,
        "flops": f.flops,
        "expected": dataclasses.asdict(f.expected),
        "hash": f.hash,
        **({"scores": f.document["scores"]} if "scores" in f.document else {}),
        "outcome": None if o is None else {**dict(o.document), "intact": o.intact},
    }


def _forecast_cells(entry: LedgerEntry) -> tuple[str, ...]:
    """The row of one forecast."""
    f, e = entry.forecast, entry.forecast.expected
    expected = f"{e.loss:.4f} [{e.low:.4f}, {e.high:.4f}]"
    if entry.outcome is None:
        return (f.name, power(f.flops), expected, "-", "-", "-", entry.status)
    v = entry.outcome.verdict
    measured = (f"{v.measured:.4f}", f"{v.error:+.2%}", f"{v.z:+.2f}")
    return (f.name, power(f.flops), expected, *measured, entry.status)


def comparison_text(comparison: Comparison) -> str:
    """A comparison of two laws as a table, with its conclusion in a sentence.

    Args:
        comparison: The comparison.
    """
    unit = comparison.unit.split("/")[0]
    header = [
        "B's budget", "B's loss", "A needs", _level_heading(comparison), f".01 {unit}: A", "B", "",
    ]  # fmt: skip
    table = table_text(header, [_comparison_row(m) for m in comparison.rows]).splitlines()
    legend = [
        _convention_line("A", comparison.a, 0, comparison),
        _convention_line("B", comparison.b, 1, comparison),
    ]
    about = "A needs this much of B's compute to reach the loss of B's best split."
    parts = [
        *legend,
        "",
        about,
        "",
        *(f"  {line}" for line in table),
        "",
        _comparison_conclusion(comparison),
    ]
    if comparison.interval is not None:
        parts.append(_interval_basis(comparison))
    return "\n".join([*parts, *note_rows(comparison.warnings)])


def _convention_line(letter: str, name: str, place: int, comparison: Comparison) -> str:
    """The name of one law and its counting convention."""
    convention = comparison.conventions[place]
    counts = f"N {convention.get('params', '?')}, C {convention.get('flops', '?')}"
    return f"{letter}  {shortened(one_line(name), WIDTH - 7 - len(counts))} ({counts})"


def _comparison_row(match: BudgetComparison) -> tuple[str, ...]:
    """The row of one budget."""
    m = match.multiplier
    ends = "" if m.low is None or m.high is None else f"[{_end(m.low)}, {_end(m.high)}]"
    price = [_price(p) for p in (match.price_a, match.price_b)]
    needs = f"{TIMES}{three_digits(m.value)}" if math.isfinite(m.value) else "never"
    where = "" if match.inside else "beyond"
    return (power(match.flops), f"{match.loss_b:.4f}", needs, ends, *price, where)


def _level_heading(comparison: Comparison) -> str:
    """Heading of the intervals."""
    return "" if comparison.level is None else f"{100 * comparison.level:g}% interval"


def _end(value: float) -> str:
    """One end of an interval."""
    return three_digits(value) if math.isfinite(value) else "no bound"


def _price(factor: float | None) -> str:
    """Compute that the next 0.01 takes, relative to the budget."""
    if factor is None:
        return "never"
    return f"+{factor - 1:.1%}" if factor < 10 else f"{TIMES}{three_digits(factor)}"


def _comparison_conclusion(comparison: Comparison) -> str:
    """The comparison at the largest budget that both cover, in words."""
    inside = [m for m in comparison.rows if m.inside]
    match = inside[-1] if inside else comparison.rows[-1]
    where = "inside the runs of both" if inside else "beyond the runs of one of them"
    m = match.multiplier
    if not math.isfinite(m.value):
        return wrapped(f"At {power(match.flops)} FLOP ({where}) A never reaches B's loss.")
    ends = "" if m.low is None or m.high is None else f" [{_end(m.low)}, {_end(m.high)}]"
    text = (
        f"At {power(match.flops)} FLOP ({where}) A needs {TIMES}{three_digits(m.value)}{ends} of "
    )
    return wrapped(text + f"B's compute for the same loss: {_cheaper(match)}.")


def _cheaper(match: BudgetComparison) -> str:
    """Which of the two needs less compute."""
    m = match.multiplier
    if m.low is not None and m.high is not None and m.low <= 1 <= m.high:
        return "the two cannot be distinguished there"
    return "A is the cheaper" if m.value < 1 else "B is the cheaper"


def _interval_basis(comparison: Comparison) -> str:
    """How the intervals were obtained."""
    if not comparison.runs_paired:
        return wrapped(f"Intervals by {comparison.interval}; no runs of the two are the same cell.")
    text = f"Intervals by {comparison.interval}, {count_noun(comparison.runs_paired, 'run')} paired"
    if comparison.correlation is not None:
        text += f": their residuals correlate by {comparison.correlation:.2f}"
    return wrapped(text + ".")


def proposal_text(
    proposal: Proposal,
    folder: Path,
    launch: str | None,
    cost: Mapping[str, Any] | None = None,
) -> str:
    """Proposed runs, their compute, the precision that they add, and how to launch them.

    Args:
        proposal: The next runs.
        folder: Where the plan was written.
        launch: Arguments of `python -m sweep -m`; None where nothing can be launched.
        cost: What `Machine.cost` says of the spend; None where no device is named.
    """
    p = proposal
    head = f"next runs for {power(p.flops)} FLOP, by {p.source} ({p.law})"
    rows = [
        head,
        "",
        table_text(("run", "N", "D", "D/N", "FLOP", "spent"), [_run_row(r) for r in p.runs]),
        "",
        row("runs", f"{_counts(p)}, {_spend_text(p)}"),
        *([row("cost", _cost_text(cost))] if cost else []),
        *(
            []
            if math.isnan(p.kappa[1])
            else [row("kappa", f"{_kappa_text(p.kappa)}; below 160 is healthy")]
        ),
        *wrapped_row("now", _present_text(p)),
        row("after", _precision_text(p.after, p)),
        "",
        table_text(("spend", "FLOP", "runs", "N*", "loss"), [_step_row(s) for s in p.steps]),
        "",
        wrapped(_suggest_conclusion(p)),
        "",
        wrapped(_assumptions(p)),
        *note_rows(p.notes),
        "",
        *_launch_rows(folder, launch),
    ]
    return "\n".join(line.rstrip() for line in rows)


def _run_row(run: SuggestedRun) -> tuple[str, ...]:
    """The row of one run."""
    s = run.shape
    name = f"copy {run.replicate}" if s is None else f"w{s.width}-d{s.depth}-s{run.seed}"
    return (
        name,
        short(run.params),
        short(run.tokens),
        three_digits(run.tokens / run.params),
        f"{run.flops:.2e}",
        f"{run.flops_spent:.2e}",
    )


def _cost_text(cost: Mapping[str, Any]) -> str:
    """Hours and dollars of the spend on the named device."""
    dollars = "" if cost["dollars"] is None else f", ${cost['dollars']:,.2f}"
    hours = three_digits(cost["device_hours"])
    return f"{hours} device-hours on {cost['device']}{dollars}; MFU {three_digits(cost['mfu'])}"


def _kappa_text(kappa: tuple[float | None, float]) -> str:
    """Condition number before and after, those of a law that is not determined in words."""
    before, after = (
        "not determined" if k is None or not math.isfinite(k) else f"{k:.0f}" for k in kappa
    )
    return after if kappa[0] is None else f"{before} now, {after} with these runs"


def _counts(p: Proposal) -> str:
    """Number of runs, and of trunks where runs share them."""
    trunks = len({(r.shape, r.seed) for r in p.runs})
    if not p.shared or trunks == len(p.runs):
        return str(len(p.runs))
    return f"{len(p.runs)} in {count_noun(trunks, 'trunk')}"


def _spend_text(p: Proposal) -> str:
    """Compute spent, and what shared trunks save."""
    alone = sum(r.flops for r in p.runs)
    text = f"{power(p.flops_spent)} of {power(p.spend)} FLOP"
    saved = 1 - p.flops_spent / alone
    return f"{text}; shared trunks save {saved:.0%}" if saved > 0.005 else text


def _present_text(p: Proposal) -> str:
    """What the runs that there are say, or why they say nothing."""
    if p.refusal is not None:
        return f"no N* and no loss, the fit is refused: {p.refusal}"
    return "no runs yet" if p.before is None else _precision_text(p.before, p)


def _precision_text(precision: Precision, p: Proposal) -> str:
    """The intervals of N* and of the loss in words; of a refused fit without their values."""
    if not math.isfinite(precision.params_factor):
        return "not determined by so few runs"
    n = "" if p.params is None else f" {short(p.params)}"
    loss = "" if p.loss is None else f" {p.loss:.4f}"
    return (
        f"N*{n} {TIMES_OR_DIVIDED}{precision.params_factor:.3g}, "
        f"loss{loss} {PLUS_MINUS}{precision.loss_margin:.2g} {loss_unit(p.convention)}"
    )


def _step_row(step: SpendStep) -> tuple[str, ...]:
    """Precision after a part of the spend."""
    precision = step.precision
    return (
        f"{step.share:.0%}",
        power(step.flops),
        str(step.runs),
        f"{TIMES_OR_DIVIDED}{precision.params_factor:.3g}",
        f"{PLUS_MINUS}{precision.loss_margin:.2g}",
    )


def _suggest_conclusion(p: Proposal) -> str:
    """How much the next tenth of the spend would narrow the intervals."""
    last, more = p.steps[-2], p.steps[-1]
    factors = [s.precision.params_factor for s in (last, more)]
    margins = [s.precision.loss_margin for s in (last, more)]
    if not all(map(math.isfinite, factors)):
        return "So few runs give no interval. Spend more, or allow more runs (--runs)."
    if more.flops <= last.flops:
        return f"{more.share - 1:.0%} more spend buys no further run."
    amount = power(more.flops - last.flops)
    return (
        f"{more.share - 1:.0%} more spend ({amount} FLOP) narrows N*'s interval from "
        f"{TIMES_OR_DIVIDED}{factors[0]:.4g} to {TIMES_OR_DIVIDED}{factors[1]:.4g}, and the "
        f"loss's from {PLUS_MINUS}{margins[0]:.3g} to {PLUS_MINUS}{margins[1]:.3g} "
        f"{loss_unit(p.convention)}. Stop where this gain is not worth its price."
    )


def _assumptions(p: Proposal) -> str:
    """Assumptions behind the expected intervals."""
    by = "if the law holds" if p.discrepancy is None else "of the fit's forecast"
    text = (
        f"Intervals are {p.level:.0%} ones at {power(p.flops)} FLOP, expected to first order "
        f"{by}; one run's noise is taken as {p.noise:.2%} of the loss"
    )
    text += f", {p.shared:.0%} of its square shared by a trunk." if p.shared else "."
    if p.discrepancy is None:
        return text
    return text + (
        f" Of the variance left, {p.discrepancy['params']:.0%} for N* and "
        f"{p.discrepancy['loss']:.0%} for the loss is what forms miss beyond the costliest run: "
        "only runs nearer to the target lower it (--max-run)."
    )


def _launch_rows(folder: Path, launch: str | None) -> list[str]:
    """The commands that check and launch the plan."""
    if launch is None:
        return [
            f"plan     {folder}/proposal.json",
            "         (this law knows no shapes, so there is nothing to launch)",
        ]
    first, _, rest = launch.partition(" ")
    rows = [f"plan     {folder}"]
    for label, module in (("check", "sweep.plan"), ("launch", "sweep -m")):
        command = f"python -m {module} {launch}"
        if len(command) + 9 > WIDTH:
            rows += [f"{label:8} python -m {module} {first} \\", f"{'':11}{rest}"]
        else:
            rows.append(f"{label:8} {command}")
    return rows


def laws_text(presets: Iterable[Preset]) -> str:
    """The published laws, one a paragraph."""
    blocks = ["Published laws; ask one with: isoflop query 1e21 --law NAME"]
    for p in presets:
        values = ", ".join(f"{k} {v:.5g}" for k, v in p.theta.items())
        sure = f"intervals by {p.spread.source}" if p.spread else f"no intervals: {p.unsure}"
        counted = f"{convention_text(p.convention)}; data: {p.data}"
        facts = [values, counted, p.source, p.note, sure]
        lines = [wrapped(f, "  ") for f in facts if f]
        blocks.append("\n".join([f"{p.name}: {law(p.law).formula}", *lines]))
    return "\n\n".join(blocks)


def families_text(families: Iterable[Law]) -> str:
    """The families that can be fitted, one a line or two."""
    lines = ["Families; fit one to runs with: isoflop fit RUNS --law NAME"]
    for f in families:
        needs = [c for c in f.columns if c not in ("params", "tokens")]
        needs += [] if f.target == "loss" else [f.target]
        also = [t for t in (f.about, f"needs {', '.join(needs)}" if needs else "") if t]
        lines.append(wrapped("; ".join([f"{f.name}: {f.formula}", *also]), "  "))
    return "\n".join(lines)


def explanation_text(notes: Sequence[Mapping[str, str]]) -> str:
    """Entries of notes: what was seen, why it matters, what to do."""
    rows = []
    for note in notes:
        labels = (("seen", "seen"), ("why", "why it matters"), ("todo", "what to do"))
        rows += [note["code"], *(r for k, label in labels for r in wrapped_row(label, note[k]))]
    return "\n".join(rows)


def explanations_text() -> str:
    """The codes of all notes with what was seen, by part."""
    lines = []
    for about, heading in PARTS.items():
        lines += [heading, ""]
        for code, entry in {**NOTES, **QUESTIONS}.items():
            if entry.about == about:
                label = [f"  {code}"] if len(code) > LABEL else []
                lines += [*label, *wrapped_row("" if label else code, entry.seen)]
        lines.append("")
    return "\n".join([*lines, "Why it matters and what to do: isoflop explain CODE"])
