"""What happened to the forecasts: the run that was launched is found, and the ledger is read.

A run is the forecast's if its record shows the sizes, the length, the rate, the schedule and the
data that were sealed. Of several, seeds say, the one that ended first after the sealing counts, so
that nobody chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.data.records import RunRecord, read_runs
from fit.errors import QueryError
from fit.forecasts.ledger import Forecast, Ledger, LedgerEntry, before, read_ledger, write_outcome

SIZES = ("width", "depth", "heads", "head_dim", "vocab", "seq_len", "params_body")
LENGTHS = 0.01
"""Relative difference of tokens: the budget buys no whole number of steps."""
RATES = 1e-3
SURE = 0.9
"""Level of the hit rate's interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the forecasts did so far."""

    counted: int
    hits: int
    promised: float | None
    """Share of hits that the intervals promise."""
    low: float | None
    """Exact binomial interval of the share of hits (Clopper & Pearson 1934)."""
    high: float | None
    bias: float | None
    """Mean of the normal scores of z; 0 if forecasts are centred, above it if runs end worse."""
    width: float | None
    """Root mean square of the normal scores; 1 if intervals are as wide as they should be."""


def calibration(ledger: Ledger) -> Calibration:
    """The running hit rate with its interval, and whether z is standard normal.

    z is Student's where the interval was; its normal score is the normal deviate of the same
    probability, so that fits with few and with many degrees of freedom can be pooled.
    """
    from scipy import stats

    entries = ledger.counted
    k, n = ledger.hits, len(entries)
    if not n:
        return Calibration(
            counted=0, hits=0, promised=None, low=None, high=None, bias=None, width=None
        )
    pairs = [(e.outcome.verdict.z, e.forecast.expected.dof) for e in entries if e.outcome]
    shares = [float(stats.t.cdf(z, dof)) for z, dof in pairs]
    scores = [float(stats.norm.ppf(min(max(s, 1e-12), 1 - 1e-12))) for s in shares]
    tail = (1 - SURE) / 2
    return Calibration(
        counted=n,
        hits=k,
        promised=ledger.level,
        low=float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0,
        high=float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0,
        bias=sum(scores) / n,
        width=math.sqrt(sum(s * s for s in scores) / n),
    )


def score_given(folder: Path, name: str, loss: float) -> LedgerEntry:
    """Score a forecast by a loss that was measured elsewhere.

    Raises:
        QueryError: No such forecast, it was altered, or it has another outcome already.
    """
    entry = read_ledger(folder).entry(name)
    facts = {"measured": loss, "run": None, "started": None, "finished": None, "late": False}
    return _written(folder, entry, facts)


def score_run(folder: Path, name: str, read: Callable[[], Sequence[RunRecord]]) -> LedgerEntry:
    """Score a forecast by the run that it launched; one that has its outcome is shown again.

    Args:
        folder: The ledger's folder.
        name: Of the forecast.
        read: Reads the records to look in; not called where they are not needed.

    Raises:
        QueryError: No such forecast, it was altered, or no run is the forecast's.
    """
    entry = read_ledger(folder).entry(name)
    if entry.outcome is not None and entry.status != "altered":
        return entry
    records = read()
    found = matching(entry.forecast, records)
    if not found:
        raise QueryError(_nothing(entry.forecast, records))
    return _written(folder, entry, _facts(entry.forecast, found))


def score_open(folder: Path, records: Sequence[RunRecord]) -> Ledger:
    """Score every open forecast whose run has ended; the ledger after that."""
    for entry in read_ledger(folder).entries:
        found = matching(entry.forecast, records) if entry.status == "open" else ()
        if found:
            _written(folder, entry, _facts(entry.forecast, found))
    return read_ledger(folder)


def records_below(runs: Path) -> tuple[RunRecord, ...]:
    """The records of a folder; what cannot be read is no run.

    Raises:
        RecordError: No such folder.
    """
    return read_runs(runs).records


def matching(forecast: Forecast, records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The finished runs that are the forecast's, in the order in which they ended."""
    run = forecast.run
    if not run:
        return ()
    found = [r for r in records if r.status == "done" and _same(run, r)]
    return tuple(sorted(found, key=lambda r: (r.finished or "", r.run)))


def _same(run: Mapping[str, Any], record: RunRecord) -> bool:
    """Whether a record is of the run that was sealed."""
    if any(getattr(record, k) != run[k] for k in SIZES) or record.data.hash != run["data_hash"]:
        return False
    if record.recipe.get("data.unique_tokens") != run.get("unique_tokens"):
        return False
    if run["schedule"] is not None and record.schedule != run["schedule"]:
        return False
    if run["lr"] is not None and abs(record.lr / run["lr"] - 1) > RATES:
        return False
    slack = max(LENGTHS * run["tokens"], run["batch_tokens"] or 0)
    return bool(abs(record.tokens - run["tokens"]) <= slack)


def _facts(forecast: Forecast, found: Sequence[RunRecord]) -> dict[str, Any]:
    """What is written of the run that counts: the first to end after the sealing."""
    fitted = set(forecast.document["fitted"])
    fresh = [r for r in found if not before(r.finished, forecast.sealed) and r.run not in fitted]
    record = fresh[0] if fresh else found[0]
    return {
        "measured": record.loss,
        "loss_se": record.loss_se,
        "run": record.run,
        "sweep": record.sweep,
        "tokens": record.tokens,
        "started": record.started,
        "finished": record.finished,
        "begun_before": before(record.started, forecast.sealed),
        "others": [r.run for r in found if r is not record],
        "late": not fresh,
    }


def _written(folder: Path, entry: LedgerEntry, facts: Mapping[str, Any]) -> LedgerEntry:
    """The entry with its outcome, which is written unless it is there."""
    forecast = entry.forecast
    if entry.status == "altered":
        raise QueryError(
            f"{folder / forecast.name}.json or its outcome was altered after it was sealed; it is "
            "not scored. Restore it from its history."
        )
    fresh = write_outcome(folder, forecast, facts)
    now = read_ledger(folder).entry(forecast.name)
    assert now.outcome is not None
    there = now.outcome.verdict.measured
    if not fresh and facts["measured"] != there:
        raise QueryError(
            f"the forecast '{forecast.name}' was scored with a loss of {there:.6g}, and an outcome "
            f"is not written over (found now: {facts['measured']:.6g})."
        )
    return now


def _nothing(forecast: Forecast, records: Sequence[RunRecord]) -> str:
    """Why a forecast has no run."""
    run = forecast.run
    if not run:
        return (
            f"the forecast '{forecast.name}' launches no run of isoflop's; its loss is needed. "
            f"Give it: isoflop score {forecast.name} --loss X"
        )
    ended = [r for r in records if r.status != "done" and _same(run, r)]
    if ended:
        return (
            f"run {ended[0].run} is the forecast's and {ended[0].status}; one that is done is "
            "needed. Launch it again."
        )
    return (
        f"none of {len(records)} runs is the forecast's: width {run['width']}, depth "
        f"{run['depth']}, {run['tokens']:.4g} tokens, the same data, rate and schedule. "
        "Launch it, or name the folder: --runs RUNS"
    )
