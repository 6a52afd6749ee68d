"""Score forecasts by the runs that they launched, and measure how well they are calibrated.

A run belongs to a forecast if its record shows the sizes, the tokens, the learning rate, the
schedule and the data that were sealed. Of several, with different seeds, the first to end after the
sealing counts, so that nobody chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.data.records import RunRecord
from fit.errors import QueryError
from fit.forecasts.ledger import (
    Forecast,
    Ledger,
    LedgerEntry,
    not_after,
    read_ledger,
    write_outcome,
)

SIZES = ("width", "depth", "heads", "head_dim", "vocab", "seq_len", "params_body")
TOKENS_TOLERANCE = 0.01
"""Largest relative difference of tokens: a run ends at a whole number of steps."""
RATE_TOLERANCE = 1e-3
"""Largest relative difference of learning rates."""
SURE = 0.9
"""Level of the hit rate's interval."""
UNLIKELY = 0.05
"""Outcomes that are less probable than this under a share of hits speak against it."""
SHORTFALL = 0.2
"""Intervals whose true share of hits is lower than promised by this much would mislead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Hit rate of the forecasts and the distribution of their errors."""

    counted: int
    hits: int
    promised: float | None
    """Nominal share of hits, the level of the intervals."""
    low: float | None
    """Exact binomial interval of the share of hits (Clopper & Pearson 1934)."""
    high: float | None
    bias: float | None
    """Mean of the normal scores of z: 0 if forecasts are unbiased, above 0 if losses end higher."""
    width: float | None
    """Root mean square of the normal scores: 1 if the intervals have the right width."""
    interval_score: float | None = None
    """Mean width of the intervals of ln loss, misses added: see `ledger.ForecastScore`."""

    @property
    def grade(self) -> tuple[str, str]:
        """What the hits say about the promise, and why: `kept`, `broken` or `too few to tell`.

        A binomial test on either side: `broken` if so few hits have a probability below 5% under
        the promised share, `kept` if so many have one below 5% under a share 20 points lower.
        With 90% promised that takes 9 hits of 9; 0 hits of 2 are enough to break it.
        """
        from scipy.special import bdtr, bdtrc

        if not self.counted or self.promised is None:
            return "too few to tell", "no forecast has been scored"
        n, k = self.counted, self.hits
        low = max(self.promised - SHORTFALL, self.promised / 2)
        at_most = float(bdtr(k, n, self.promised))
        at_least = float(bdtrc(k - 1, n, low)) if k else 1.0
        if at_most < UNLIKELY:
            why = f"so few hits have a probability of {at_most:.2g} if {self.promised:.0%} is true"
            return "broken", why
        if at_least < UNLIKELY:
            return "kept", f"so many have a probability of {at_least:.2g} if only {low:.0%} is true"
        return "too few to tell", f"they cannot distinguish {self.promised:.0%} from {low:.0%}"


def calibration(ledger: Ledger) -> Calibration:
    """Hit rate of a ledger's forecasts with its interval, and the mean and width of their errors.

    z follows Student's t, as the intervals do. Its normal score is the normal deviate of the same
    probability, so that fits with few and with many degrees of freedom can be pooled.

    Args:
        ledger: The ledger; forecasts that do not count are left out.
    """
    from scipy.special import betaincinv, ndtri, stdtr

    entries = ledger.counted
    k, n = ledger.hits, len(entries)
    if not n:
        return Calibration(
            counted=0, hits=0, promised=None, low=None, high=None, bias=None, width=None
        )
    pairs = [(e.outcome.verdict.z, e.forecast.expected.dof) for e in entries if e.outcome]
    probabilities = [float(stdtr(dof, z)) for z, dof in pairs]
    scores = [float(ndtri(min(max(p, 1e-12), 1 - 1e-12))) for p in probabilities]
    tail = (1 - SURE) / 2
    return Calibration(
        counted=n,
        hits=k,
        promised=ledger.level,
        low=float(betaincinv(k, n - k + 1, tail)) if k else 0.0,
        high=float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0,
        bias=sum(scores) / n,
        width=math.sqrt(sum(s * s for s in scores) / n),
        interval_score=sum(e.outcome.verdict.interval_score for e in entries if e.outcome) / n,
    )


def score_loss(folder: Path, name: str, loss: float) -> LedgerEntry:
    """Score a forecast by a loss that was measured elsewhere.

    Args:
        folder: The ledger's folder.
        name: Of the forecast.
        loss: Measured loss [nats/token].

    Raises:
        QueryError: No such forecast, it was altered, or it has another outcome already.
    """
    entry = read_ledger(folder).entry(name)
    facts = {"measured": loss, "run": None, "started": None, "finished": None, "late": False}
    return _write_outcome(folder, entry, facts)


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
    runs = runs_of(entry.forecast, records)
    if not runs:
        raise QueryError(_no_run_message(entry.forecast, records))
    return _write_outcome(folder, entry, _facts(entry.forecast, runs))


def score_open(folder: Path, records: Sequence[RunRecord]) -> Ledger:
    """Score every open forecast whose run has ended, and return the ledger after that.

    Args:
        folder: The ledger's folder.
        records: Records to look for the runs in.
    """
    for entry in read_ledger(folder).entries:
        runs = runs_of(entry.forecast, records) if entry.status == "open" else ()
        if runs:
            _write_outcome(folder, entry, _facts(entry.forecast, runs))
    return read_ledger(folder)


def runs_of(forecast: Forecast, records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The finished runs that a forecast launched, in the order in which they ended."""
    if not forecast.run:
        return ()
    runs = [r for r in records if r.status == "done" and _is_run_of(forecast.run, r)]
    return tuple(sorted(runs, key=lambda r: (r.finished or "", r.run)))


def _is_run_of(run: Mapping[str, Any], record: RunRecord) -> bool:
    """Whether a record agrees with the run that was sealed."""
    if any(getattr(record, k) != run[k] for k in SIZES) or record.data.hash != run["data_hash"]:
        return False
    if record.recipe.get("data.unique_tokens") != run.get("unique_tokens"):
        return False
    if run["schedule"] is not None and record.schedule != run["schedule"]:
        return False
    if run["lr"] is not None and abs(record.lr / run["lr"] - 1) > RATE_TOLERANCE:
        return False
    slack = max(TOKENS_TOLERANCE * run["tokens"], run["batch_tokens"] or 0)
    return bool(abs(record.tokens - run["tokens"]) <= slack)


def _facts(forecast: Forecast, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Facts of the run that counts, the first to end after the sealing, for the outcome."""
    fitted = set(forecast.document["fitted"])
    later = [r for r in runs if not not_after(r.finished, forecast.sealed) and r.run not in fitted]
    record = later[0] if later else runs[0]
    scores = score_outcomes(forecast.document.get("scores", {}), record)
    return {
        "measured": record.loss,
        "loss_se": record.loss_se,
        **({"scores": scores} if scores else {}),
        "run": record.run,
        "sweep": record.sweep,
        "tokens": record.tokens,
        "started": record.started,
        "finished": record.finished,
        "begun_before": not_after(record.started, forecast.sealed),
        "others": [r.run for r in runs if r is not record],
        "late": not later,
    }


def _write_outcome(folder: Path, entry: LedgerEntry, facts: Mapping[str, Any]) -> LedgerEntry:
    """Write an outcome unless there is one, and return the entry with it."""
    forecast = entry.forecast
    if entry.status == "altered":
        raise QueryError(
            f"{folder / forecast.name}.json or its outcome was altered after it was sealed; it is "
            "not scored. Restore it from its history."
        )
    is_new = write_outcome(folder, forecast, facts)
    scored = read_ledger(folder).entry(forecast.name)
    assert scored.outcome is not None
    measured = scored.outcome.verdict.measured
    if not is_new and facts["measured"] != measured:
        raise QueryError(
            f"the forecast '{forecast.name}' was scored with a loss of {measured:.6g}, and an "
            f"outcome is not overwritten (the loss is now {facts['measured']:.6g})."
        )
    return scored


def _no_run_message(forecast: Forecast, records: Sequence[RunRecord]) -> str:
    """Message that says why no run can score a forecast."""
    run = forecast.run
    if not run:
        return (
            f"the forecast '{forecast.name}' launches no run of isoflop; its loss is needed. "
            f"Give it: isoflop score {forecast.name} --loss X"
        )
    ended = [r for r in records if r.status != "done" and _is_run_of(run, r)]
    if ended:
        return (
            f"run {ended[0].run} of the forecast is {ended[0].status}; one that is done is needed. "
            "Launch it again."
        )
    return (
        f"none of {len(records)} runs agrees with the forecast: width {run['width']}, depth "
        f"{run['depth']}, {run['tokens']:.4g} tokens, the same data, learning rate and schedule. "
        "Launch it, or name the folder: --runs RUNS"
    )


def score_outcomes(
    sealed: Mapping[str, Mapping[str, float]], record: RunRecord
) -> dict[str, dict[str, Any]]:
    """Measured scores against the sealed ones, by name; those that the run does not have are out.

    Returns:
        `measured`, its standard error, the error in points (measured less forecast, times 100), and
        whether the measured score is inside the interval.
    """
    scores = record.scores or {}
    outcomes = {}
    for name in sealed.keys() & scores.keys():
        measured, forecast = float(scores[name]["accuracy"] or 0.0), sealed[name]
        outcomes[name] = {
            "measured": measured,
            "measured_se": scores[name].get("accuracy_se"),
            "points": 100 * (measured - forecast["value"]),
            "hit": forecast["low"] <= measured <= forecast["high"],
        }
    return dict(sorted(outcomes.items()))
