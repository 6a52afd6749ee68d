"""Text of `isoflop fit`, `isoflop runs` (runs, progress of a sweep) and `isoflop tuning`.

All text fits a terminal of 80 columns.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fit.allocation.scaling_law import ScalingLaw
from fit.data.cells import UNIT_COLUMN
from fit.data.progress import (
    RunningTrajectory,
    SweepProgress,
    SweepSnapshot,
    find_progress,
    no_records,
    snapshot_document,
    take_snapshot,
)
from fit.data.readers import load
from fit.data.records import STATUSES, DataInfo, RunRecord, finite_or_null, read_runs
from fit.data.table import SCORE, RunTable
from fit.diagnostics.tuning import LACK, SAFE, fit_tuning, tuning_notes
from fit.errors import RefusedError
from fit.files import COMPRESSIONS
from fit.laws.families import law
from fit.quantities import count_noun, duration, option_name, percent, power, short
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.text import WIDTH, fit_text, hint_text, one_line, table_text, wrapped
from fit.results import Fit

SCAN_HEADINGS = ("params", "tokens", "shape", "best", "90%", "bend", "excess %")

LISTED = ("run", "status", "params", "tokens", "flops", "loss", "loss_se")
"""Columns of the printed table; --csv writes all of them."""
WATCH_SCHEMA = "isoflop.watch/1"
MOST_MISSING = 5
"""Most missing runs that are named."""
REFRESH_SECONDS = 2.0


def summary(fit: Fit, folder: Path) -> str:
    """A fit as text, with a first answer at ten times its largest budget."""
    parts = [fit_text(fit), ""]
    top = fit.range["flops"].high
    family = law(fit.law)
    if family.target != "loss" or family.further:
        columns = "".join(f"{option_name(c)} X " for c in family.further)
        parts.append(f"fit      {folder}/fit.json")
        parts.append(f"ask      isoflop predict --params N --tokens D {columns}--fit {folder}")
        return "\n".join(parts)
    if fit.verdict.refused:
        lines = [wrapped(f"No recommendation: {fit.verdict.reason}"), ""]
        return "\n".join([*parts, *lines, f"fit      {folder}/fit.json"])
    try:
        reply = answer(Question(source=ScalingLaw.from_fit(fit), flops=10 * top))
        parts.append(hint_text(reply))
    except RefusedError as error:
        parts.append(wrapped(f"No answer at {power(10 * top)} FLOP: {error.reason}"))
    parts.append(f"\nfit      {folder}/fit.json")
    parts.append(f"ask      isoflop query {power(10 * top)} --fit {folder}")
    return "\n".join(parts)


def name_of(runs: Sequence[str]) -> str:
    """The name of a fit, by its first input without suffixes and signs of a glob."""
    name = Path(runs[0]).resolve().name
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return re.sub(r"[*?\[\]]+", "", Path(name).stem).strip("-_. ") or "runs"


def dated(fit: Fit) -> Fit:
    """A fit with today's date (UTC) in its source, which its report shows."""
    today = datetime.now(UTC).date().isoformat()
    return dataclasses.replace(fit, source={**fit.source, "date": today})


def runs_document(runs: Sequence[str], **reading: Any) -> dict[str, Any]:
    """The document `isoflop.runs/1`: how each run ended, its columns, and unreadable records.

    Args:
        runs: A folder of run records, or paths and globs of tables.
        **reading: How tables are read and rows selected, see `load`.
    """
    if len(runs) == 1 and Path(runs[0]).is_dir() and not any(reading.values()):
        folder = read_runs(Path(runs[0]))
        progress = find_progress(Path(runs[0]), folder.records)
        ahead = {"running": len(progress.running), "missing": len(progress.missing)}
        rows = [flat_record(r) for r in folder.records]
        skipped = [dataclasses.asdict(s) for s in folder.skipped]
        if not rows and not skipped and not any(ahead.values()):
            raise no_records(Path(runs[0]))
    else:
        rows, skipped = _table_rows(load(list(runs), **reading)), []
        ahead = {"running": 0, "missing": 0}
    statuses = Counter(row["status"] for row in rows)
    counts = {s: statuses[s] for s in STATUSES} | {"unreadable": len(skipped)} | ahead
    document = {"schema": "isoflop.runs/1", "counts": counts, "runs": rows, "skipped": skipped}
    return dict(finite_or_null(document))


def runs_listing(document: Mapping[str, Any]) -> str:
    """The table of runs, why some did not finish, and how many ended how."""
    rows = [[_cell(name, row.get(name)) for name in LISTED] for row in document["runs"]]
    lines = [table_text(LISTED, rows), ""] if rows else ["no run has ended yet"]
    if not rows and not document["skipped"] and not document["counts"]["running"]:
        planned = count_noun(document["counts"]["missing"], "run")
        lines = [f"{planned} planned, and none has begun: their workers are starting, or were lost"]
    ended = [r for r in document["runs"] if r["status"] != "done"]
    lines += [f"{r['status']}: {r['run']}: {r.get('reason') or 'no reason given'}" for r in ended]
    lines += [f"unreadable: {s['run']}: {s['reason']}" for s in document["skipped"]]
    counts = [f"{n} {status}" for status, n in document["counts"].items() if n]
    if any(document["counts"][s] for s in ("running", "missing")):
        counts[-1] += "; --watch follows them"
    return "\n".join([lines[0], *map(wrapped, lines[1:]), ", ".join(counts)])


def flat_record(record: RunRecord) -> dict[str, Any]:
    """A record as one row: nested names joined by dots, `params`, `loss_*` and `score_*` added."""
    row: dict[str, Any] = {}
    for name in RunRecord.__dataclass_fields__:
        value = getattr(record, name)
        if isinstance(value, DataInfo):
            value = dataclasses.asdict(value)
        if name == "loss_by_skill":
            row |= {f"loss_{skill}": loss for skill, loss in (value or {}).items()}
        elif name == "scores":
            for score, of in (value or {}).items():
                row |= {
                    f"{SCORE}{score}": of["accuracy"],
                    f"{SCORE}{score}_se": of.get("accuracy_se"),
                }
                others = of.keys() - {"accuracy", "accuracy_se"}
                row |= {f"scores.{score}.{key}": of[key] for key in sorted(others)}
        elif name == "parts":
            row |= {f"{name}.{k}.{s}": v for k, of in (value or {}).items() for s, v in of.items()}
        elif isinstance(value, Mapping) or name == "heldout":
            row |= {f"{name}.{k}": v for k, v in (value or {}).items()}
        else:
            row[name] = value
    perplexity = None if record.loss is None else math.exp(record.loss)
    return {**row, "params": record.params_matmul, "perplexity": perplexity}


def _table_rows(table: RunTable) -> list[dict[str, Any]]:
    """The rows of a table, in which a run without a loss counts as failed."""
    core = ("params", "tokens", "flops", "loss")
    columns = {c: table.column(c).tolist() for c in core}
    columns |= {k: v.tolist() for k, v in table.columns.items()}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    said = {UNIT_COLUMN: table.loss_unit} if table.loss_unit else {}
    ended = ["done" if row["loss"] == row["loss"] else "failed" for row in rows]
    return [
        {"run": run, "status": status, **row, **said}
        for run, status, row in zip(table.run, ended, rows, strict=True)
    ]


def _cell(name: str, value: Any) -> str:
    """A cell of the printed table."""
    if value is None:
        return "-"
    if name in ("params", "tokens"):
        return short(value)
    if name == "flops":
        return power(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def watch_sweep(folder: Path, *, as_json: bool) -> None:
    """Print the progress of a sweep until it is over: a screen of text, or a line of JSON, each."""
    while True:
        snapshot = take_snapshot(folder)
        if as_json:
            click.echo(json.dumps({"schema": WATCH_SCHEMA, **snapshot_document(snapshot)}))
        else:
            click.clear()
            click.echo(snapshot_text(snapshot))
        if snapshot.over:
            return
        time.sleep(REFRESH_SECONDS)


def snapshot_text(snapshot: SweepSnapshot) -> str:
    """A snapshot as text."""
    progress = snapshot.progress
    counts = [f"{n} {state}" for state, n in snapshot.counts().items() if n]
    of = f" of {progress.planned} planned" if progress.planned else ""
    lines = [str(snapshot.folder), f"{', '.join(counts)}{of}"]
    alive = [r for r in progress.running if r.alive]
    if alive:
        header = ("running", "tokens", "of", "", "loss", "tokens/s", "left")
        lines += ["", table_text(header, map(_running_row, alive))]
    lines += ["", *_cost_rows(progress), *_problem_rows(snapshot)]
    return "\n".join(_cut(line) for line in "\n".join(lines).splitlines())


def _running_row(run: RunningTrajectory) -> tuple[str, ...]:
    """A run in progress."""
    left, rate = run.seconds_left, run.tokens_per_second
    return (
        run.run,
        short(run.tokens),
        short(run.total),
        f"{run.tokens / run.total:.0%}",
        "-" if run.loss is None else f"{run.loss:.3f}",
        "-" if rate is None else short(rate),
        "-" if left is None else duration(left),
    )


def _cost_rows(progress: SweepProgress) -> list[str]:
    """Compute and time spent and left."""
    spent = f"spent  {power(progress.flops_spent)} FLOP, {duration(progress.hours_spent * 3600)}"
    rows = [f"{spent} of workers"]
    if progress.hours_left is None or not progress.flops_left:
        return rows
    left = f"left   {power(progress.flops_left)} FLOP, about "
    left += f"{duration(progress.hours_left * 3600)} of workers"
    if progress.seconds_left is not None:
        left += f": {duration(progress.seconds_left)} with those that run"
    return [*rows, left]


def _problem_rows(snapshot: SweepSnapshot) -> list[str]:
    """Runs that failed, stopped or are missing, a line each."""
    rows = [
        f"{r.status:8}  {r.run}: {one_line(r.reason or 'no reason given')}"
        for r in snapshot.records
        if r.status != "done"
    ]
    rows += [
        f"silent    {r.run}: nothing from {r.host} for {duration(r.silent_seconds)}"
        for r in snapshot.progress.running
        if not r.alive
    ]
    missing = snapshot.progress.missing
    rows += [f"missing   {p.run}" for p in missing[:MOST_MISSING]]
    if len(missing) > MOST_MISSING:
        rows.append(f"missing   and {len(missing) - MOST_MISSING} more")
    return ["", *rows] if rows else []


def _cut(line: str) -> str:
    """A line cut to 80 columns."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def tuning_document(
    runs: Sequence[str | Path] | Path, law: str = "rate", rule: float | None = None, **reading: Any
) -> dict[str, Any]:
    """The `isoflop.tuning/2` document: every scan, the law of the best setting, the rule's cost.

    Args:
        runs: Folder of run records, or a table.
        law: `rate`, `batch` or a column.
        rule: Setting whose cost is asked; the middle of those tried if None.
        **reading: How tables are read and rows selected, see `load`.

    Raises:
        RecordError: The runs cannot be read, or have no such column.
        FitError: They hold no scan.
    """
    table = load(runs, **reading)
    tuning = fit_tuning(table, law, rule)
    document = dataclasses.asdict(tuning)
    setting = document.pop("setting")
    cells = document.pop("cells") or [None] * len(setting["scans"])
    scans = [
        {k: v for k, v in scan.items() if k != "rows"} | {"joint": cell}
        for scan, cell in zip(setting["scans"], cells, strict=True)
    ]
    for name in ("trends", "shifts"):
        document[name] = dict(document[name])
    return dict(
        finite_or_null(
            {
                "schema": "isoflop.tuning/2",
                "law": law,
                "column": setting["column"],
                "scans": scans,
                **document,
                "notes": [dataclasses.asdict(n) for n in tuning_notes(table)],
            }
        )
    )


def tuning_listing(document: dict[str, Any]) -> str:
    """The table of scans, the law, the rule beyond the scans, and the notes."""
    what = {"rate": "learning rate", "batch": "batch"}.get(document["law"], document["column"])
    lines = [table_text(SCAN_HEADINGS, [_scan_cells(s) for s in document["scans"]]), ""]
    lines.append(
        wrapped(
            f"best: setting of the {what} in the rule's unit; bend: nats per ln(setting)^2; "
            f"excess: of the setting {_setting(document['rule'], 3)}, in % of the loss. "
            "Intervals hold 90%."
        )
    )
    batches = [(s, s["joint"]["critical_batch"]) for s in document["scans"] if s["joint"]]
    for scan, batch in batches:
        if batch is not None:
            lines.append(
                f"{short(scan['params'])} on {short(scan['tokens'])}: 20% more tokens are "
                f"needed at a batch of {short(batch['value'])} [{short(batch['low'])}, "
                f"{short(batch['high'])}]"
            )
    lines += _law_lines(document, what)
    lines += [wrapped(f"not determined: {text}") for text in document["undetermined"]]
    lines += [wrapped(f"{n['severity']}: {n['message']}") for n in document["notes"]]
    return "\n".join(lines)


def _law_lines(document: dict[str, Any], what: str) -> list[str]:
    """The law of the best value, what the rule costs, and where it holds."""
    if not document["scans"][0]["joint"]:
        return []
    words = {"params": "N", "tokens": "D", "tokens/params": "D/N"}
    law = " ".join(
        f"{words.get(e['name'], e['name'])}^{e['exponent']['value']:.3f}"
        for e in document["exponents"]
    )
    lines = ["", wrapped(f"best {what} = {document['constant']:.3g} {law}".rstrip())]
    rows = [
        [
            words.get(e["name"], e["name"]),
            _span(e["exponent"], ".3f"),
            f"{e['rule']:.3f}",
            f"{e['chance']:.2g}",
        ]
        for e in document["exponents"]
    ]
    if rows:
        lines.append(table_text(("exponent of", "measured", "rule's own", "p of equality"), rows))
    lack = document["lack"]
    fits = "" if lack is None else f"; the best values follow this law: p = {lack:.2g}"
    fits += " (errors widened)" if lack is not None and lack < LACK else ""
    lines.append(
        wrapped(
            f"scatter {document['noise']:.2g} nats on {document['free']} degrees of freedom; skew "
            f"{document['skew']:.2f}{fits}"
        )
    )
    worst = max(document["scans"], key=lambda scan: scan["joint"]["excess"]["value"])
    joint, where = worst["joint"], f"{short(worst['params'])} on {short(worst['tokens'])}"
    excess = _span(joint["excess"], ".2f", 100 / joint["loss"])
    lines.append(f"largest excess of the rule: {excess} % of the loss, at {where}")
    for name, trend in document["trends"].items():
        lines.append(
            f"excess with ln {words[name]}: {_span(trend, '.2g', 1e3)} x 1e-3 nats"
            f"{'' if trend['low'] <= 0 <= trend['high'] else ', a trend'}"
        )
    for name, shift in document["shifts"].items():
        lines.append(f"the excess adds to {name} of the law: {_span(shift, '.4f')}")
    if document["checks"]:
        headings = ("beyond the largest", "ln(rule/best)", "cost [1e-3 nats]", "rule is")
        checks = [
            [
                f"{c['times_params']}x N, {c['times_tokens']}x D",
                _span(c["off"], ".2f"),
                _span(c["cost"], ".2g", 1e3),
                c["verdict"],
            ]
            for c in document["checks"]
        ]
        lines += ["", table_text(headings, checks)]
        lines.append(f"safe: it costs less than {percent(SAFE)} of the largest cell's loss")
    return lines


def _span(values: Mapping[str, float | None], form: str, times: float = 1.0) -> str:
    """A value and its interval."""
    value, low, high = (
        "-" if v is None else format(v * times, form)
        for v in (values["value"], values["low"], values["high"])
    )
    return f"{value} [{low}, {high}]"


def _scan_cells(scan: dict[str, Any]) -> list[str]:
    """The row of one scan: its own parabola's finding, and pooled values."""
    joint, inside = scan["joint"], scan["found"] == "inside"
    shape = f"{scan['width'] or '-'}x{scan['depth'] or '-'}"
    head = [short(scan["params"]), short(scan["tokens"]), shape]
    if joint is None:
        known = inside and scan["low"] and scan["high"] is not None
        limits = f"[{_setting(scan['low'])}, {_setting(scan['high'])}]" if known else "no interval"
        return [*head, _setting(scan["best"], 3), limits if inside else scan["found"], "-", "-"]
    best, excess = joint["best"], {k: 100 * v / joint["loss"] for k, v in joint["excess"].items()}
    limits = f"[{_setting(best['low'])}, {_setting(best['high'])}]"
    form = ".1f" if excess["high"] >= 10 else ".2f"
    return [
        *head,
        _setting(best["value"], 3),
        limits if inside else scan["found"],
        f"{joint['bend']:.2g}",
        _span(excess, form),
    ]


def _setting(value: float, digits: int = 2) -> str:
    """A setting: 0.0042, or 1.02k for a batch."""
    return short(value) if value >= 100 else f"{value:.{digits}g}"
