"""What the commands do between reading their arguments and printing."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fit.doubts import refused
from fit.errors import FitError, QueryError, RecordError
from fit.forms import option
from fit.laws import LAWS, PRESETS, law, preset
from fit.optima import aimed
from fit.quantity import power, short
from fit.query import Question, answer
from fit.record import STATUSES, RunRecord, RunTable, finite_or_null
from fit.result import Fit
from fit.source import Source
from fit.store import load, read_fit, read_runs, write_atomically
from fit.text import fit_text, hint_text, table_text, wrapped
from fit.units import parse_units

LISTED = ("run", "status", "params", "tokens", "flops", "loss", "loss_se")
"""Columns of the table that people see; --csv writes all."""
PARTS = ("E", "A", "B", "alpha", "beta")


def fit(runs: Path | str | RunTable, *, name: str | None = None, **options: Any) -> Fit:
    """Fit a law to runs: `isoflop fit` as a function, without a report.

    Args:
        runs: Folder of run records, a table's file, or what `fit.load` has read.
        name: Name of the fit; the input's own unless given.
        **options: Those of the command, such as `law`, `loss`, `interval`, `level`, `resamples`,
            `seed`; and for a path `where`, `cluster`, `column`, `unit`, `params`, `flops`.

    Returns:
        The fit, with its intervals and every note on whether to believe it.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They cannot carry the fit, or an option is not known.
    """
    own = runs.source if isinstance(runs, RunTable) else str(runs)
    called = name or Path(own).stem or "fit"
    try:
        if isinstance(runs, RunTable):
            from fit.study import FitOptions, fit_table

            return fit_table(runs, FitOptions(name=called, **options))
        return fit_runs(Path(runs), name=called, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise FitError(f"{str(error).split('() got ')[-1]}; options are those of: isoflop fit "
                       "--help") from error  # fmt: skip


def fit_runs(
    runs: Path,
    *,
    name: str,
    column: Sequence[str] = (),
    unit: Sequence[str] = (),
    where: str | None = None,
    cluster: str | None = None,
    params: str | None = None,
    flops: str | None = None,
    base: str | None = None,
    hold: Sequence[str] = (),
    **options: Any,
) -> Fit:
    """Read runs and fit a law to them.

    Args:
        runs: Folder of run records, or a table.
        name: Name of the fit.
        column: Renamings `ours=yours`.
        unit: Units of a table's columns, `column=unit`; see `units.parse_units`.
        where: Condition on the columns that a run must meet.
        cluster: Column whose equal values mark runs with correlated errors.
        params: Counting convention of N for records; None is theirs by default.
        flops: Counting convention of C, likewise.
        base: Published law or report folder whose two-term law is held fixed.
        hold: Parameters held at values, `NAME=VALUE`.
        **options: Fields of `study.FitOptions`.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They cannot carry the fit.
    """
    rename = dict(_renaming(c) for c in column)

    def read(names: Mapping[str, str]) -> RunTable:
        return load(
            runs,
            params=params,
            flops=flops,
            rename=names,
            cluster=cluster,
            where=where,
            units=parse_units(unit),
        )

    target = law(options.get("law", "chinchilla")).target
    table = read(rename) if target == "loss" else aimed(read, target, rename)
    from fit.study import FitOptions, fit_table

    if base is not None or hold:
        options["hold"] = tuple(held_of(base, hold).items())
    found: Fit = fit_table(table, FitOptions(name=name, **options))
    asked = {"where": where, "cluster": cluster, "base": base}
    return dataclasses.replace(found, options={**found.options, **asked})


def held_of(base: str | None, hold: Sequence[str]) -> dict[str, float]:
    """Parameters that are not fitted: those of a base law, and single ones.

    Args:
        base: A published law or a report folder; its law must be a sum of two power laws.
        hold: `NAME=VALUE` each.

    Raises:
        QueryError: No such base, or not NAME=VALUE.
    """
    out: dict[str, float] = {}
    if base is not None:
        source = (
            Source.from_preset(preset(base))
            if base in PRESETS
            else Source.from_fit(read_fit(Path(base)))
        )
        values = source.law.parts(source.theta)
        out |= {n: float(v) for n, v in zip(PARTS, values, strict=True)}
    for text in hold:
        name, _, value = text.partition("=")
        try:
            out[name] = float(value)
        except ValueError as error:
            raise QueryError(
                f"--hold is '{text}'; NAME=VALUE is needed, such as E=1.87."
            ) from error
    return out


def summary(fit: Fit, folder: Path) -> str:
    """A fit in full, with a first answer at ten times its largest budget."""
    parts = [fit_text(fit), ""]
    top = fit.range["flops"].high
    family = law(fit.law)
    if family.target != "loss" or family.further:
        asked = "".join(f"{option(c)} X " for c in family.further)
        parts.append(f"fit      {folder}/fit.json")
        parts.append(f"ask      isoflop predict --params N --tokens D {asked}--fit {folder}")
        return "\n".join(parts)
    if refused(fit):
        return "\n".join([*parts, "No recommendation: these runs cannot tell N from D.", "",
                          f"fit      {folder}/fit.json"])  # fmt: skip
    parts.append(hint_text(answer(Question(source=Source.from_fit(fit), flops=10 * top))))
    parts.append(f"\nfit      {folder}/fit.json")
    parts.append(f"ask      isoflop query {power(10 * top)} --fit {folder}")
    return "\n".join(parts)


def laws_document() -> dict[str, Any]:
    """The `isoflop.laws/1` document: every published law, and every family that can be fitted."""
    rows = [
        {
            "name": p.name,
            "law": p.law,
            "formula": law(p.law).formula,
            "theta": dict(p.theta),
            "convention": dict(p.convention),
            "data": p.data,
            "range": {k: [v.low, v.high] for k, v in (p.range or {}).items()},
            "source": p.source,
            "note": p.note,
        }
        for p in PRESETS.values()
    ]
    families = [
        {
            "name": f.name,
            "formula": f.formula,
            "about": f.about,
            "parameters": list(f.parameters),
            "columns": list(f.columns),
            "target": f.target,
        }
        for f in LAWS.values()
    ]
    return {"schema": "isoflop.laws/1", "laws": rows, "families": families}


def runs_document(runs: Path) -> dict[str, Any]:
    """The `isoflop.runs/1` document: how each run ended, its columns, what was unreadable."""
    if runs.is_dir():
        found = read_runs(runs)
        rows = [flat_record(r) for r in found.records]
        skipped = [dataclasses.asdict(s) for s in found.skipped]
        if not rows and not skipped:
            raise RecordError(f"no run records in {runs}. Launch a sweep: python -m sweep -m ...")
    else:
        rows, skipped = _table_rows(load(runs)), []
    found_statuses = Counter(row["status"] for row in rows)
    counts = {s: found_statuses[s] for s in STATUSES} | {"unreadable": len(skipped)}
    document = {"schema": "isoflop.runs/1", "counts": counts, "runs": rows, "skipped": skipped}
    return dict(finite_or_null(document))


def runs_listing(document: Mapping[str, Any]) -> str:
    """The table of runs, and the counts beneath."""
    rows = [[_cell(name, row.get(name)) for name in LISTED] for row in document["runs"]]
    lines = [table_text(LISTED, rows), ""]
    ended = [r for r in document["runs"] if r["status"] != "done"]
    lines += [f"{r['status']}: {r['run']}: {r.get('reason') or 'no reason given'}" for r in ended]
    lines += [f"unreadable: {s['run']}: {s['reason']}" for s in document["skipped"]]
    counts = [f"{n} {status}" for status, n in document["counts"].items() if n]
    return "\n".join([lines[0], *map(wrapped, lines[1:]), ", ".join(counts)])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all columns of the runs, atomically.

    Raises:
        RecordError: The folder cannot be written to.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def flat_record(record: RunRecord) -> dict[str, Any]:
    """A record as one row: nested fields joined by a dot, `params` and `loss_<skill>` added."""
    row: dict[str, Any] = {}
    for name, value in dataclasses.asdict(record).items():
        if name == "loss_by_skill":
            row |= {f"loss_{skill}": loss for skill, loss in (value or {}).items()}
        elif isinstance(value, Mapping):
            row |= {f"{name}.{k}": v for k, v in value.items()}
        else:
            row[name] = value
    return {**row, "params": record.params_matmul}


def _table_rows(table: RunTable) -> list[dict[str, Any]]:
    """The rows of a table; a run without a loss has not finished."""
    core = ("params", "tokens", "flops", "loss")
    columns = {c: table.column(c).tolist() for c in core}
    columns |= {k: v.tolist() for k, v in table.columns.items()}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    ended = ["done" if row["loss"] == row["loss"] else "failed" for row in rows]
    return [
        {"run": run, "status": status, **row}
        for run, status, row in zip(table.run, ended, rows, strict=True)
    ]


def _cell(name: str, value: Any) -> str:
    """One cell of the listing."""
    if value is None:
        return "-"
    if name in ("params", "tokens"):
        return short(value)
    if name == "flops":
        return power(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _renaming(text: str) -> tuple[str, str]:
    """Parse `ours=yours`."""
    ours, sign, theirs = text.partition("=")
    if not (ours and sign and theirs):
        raise QueryError(f"--column is '{text}'; OURS=YOURS is needed, such as params=n_params.")
    return ours, theirs
