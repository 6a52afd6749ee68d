"""The ledger of forecasts: sealed before a run, scored after it, never rewritten.

A forecast is `NAME.json`, its outcome `NAME.outcome.json` beside it; each carries a hash of itself,
and the outcome that of its forecast. Neither file is ever written over. The hash shows a change by
accident or in passing; whoever would forge both can make a new one, so commit the forecast: the
history of the repository is the witness.

What a run at a given N and D should reach, and how far from it a measured loss is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import count_params
from fit.data.records import finite_or_null, parse_document
from fit.errors import QueryError, RecordError
from fit.files import commit, now, versions, write_once
from fit.query.answer import predict
from fit.query.question import Answer, Question
from fit.results import Fit

FORECAST_SCHEMA = "isoflop.forecast/1"
OUTCOME_SCHEMA = "isoflop.outcome/1"
FOLDER = Path("reports/ledger")
OUTCOME = ".outcome.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLoss:
    """The loss of one run that is still to be made, with its prediction interval."""

    params: float
    """N in the fit's convention."""
    tokens: float
    loss: float
    """[nats/token]"""
    low: float
    high: float
    level: float
    quantile: float
    """Student's t at the level: the interval's ends in standard errors."""
    dof: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastScore:
    """A measured loss against what was expected."""

    measured: float
    """[nats/token]"""
    error: float
    """measured / expected - 1"""
    z: float
    """ln(measured / expected) in standard errors of that side: beyond the quantile is a miss."""
    hit: bool
    """Inside the prediction interval."""


def expected_loss(source: ScalingLaw, params: float, tokens: float) -> ExpectedLoss:
    """What one run should reach.

    Args:
        source: A fit; a published law has no intervals.
        params: N in its convention.
        tokens: D.

    Raises:
        QueryError: There is no interval, or it has no bound, so that nothing could miss it.
    """
    found = predict(source, params, tokens)
    run, fit = found.loss_next_run, source.fit
    if fit is None or run.low is None or run.high is None:
        raise QueryError(
            f"{source.name} has no intervals, so that no run could miss them; a fit of runs is "
            "needed. Name one: --fit reports/NAME."
        )
    if not 0 < run.low < run.value < run.high < math.inf:
        raise QueryError(
            f"the prediction of {source.name} at {params:g} parameters has no bounds; a fit with "
            "more runs than parameters is needed. Add runs."
        )
    return ExpectedLoss(
        params=params,
        tokens=tokens,
        loss=run.value,
        low=run.low,
        high=run.high,
        level=fit.interval.level,
        quantile=fit.interval.quantile,
        dof=fit.interval.dof,
    )


def score_forecast(expected: ExpectedLoss, measured: float) -> ForecastScore:
    """A measured loss against what was expected.

    Args:
        expected: From `expect`.
        measured: Held-out loss [nats/token].

    Raises:
        QueryError: The loss is not a positive number.
    """
    if not 0 < measured < math.inf:
        raise QueryError(f"the loss is {measured}; a positive number of nats/token is needed.")
    off = math.log(measured / expected.loss)
    end = expected.high if off > 0 else expected.low
    return ForecastScore(
        measured=measured,
        error=measured / expected.loss - 1,
        z=expected.quantile * off / abs(math.log(end / expected.loss)),
        hit=expected.low <= measured <= expected.high,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What was said before the run."""

    name: str
    sealed: str
    """When, UTC."""
    source: str
    """Name of the fit that was asked."""
    flops: float
    """Budget asked for [FLOP]."""
    expected: ExpectedLoss
    """Of the run that the answer launches, or of one at N* and D* where it launches none."""
    run: Mapping[str, Any]
    """What the run is known by: sizes, tokens, lr, data_hash; empty where none is launched."""
    document: Mapping[str, Any]
    """All that was sealed: question, answer, fit, code, data."""
    hash: str
    intact: bool
    """Whether the document still has its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastOutcome:
    """What happened."""

    verdict: ForecastScore
    run: str | None
    """Name of the run; None for a loss that was given."""
    started: str | None
    finished: str | None
    scored: str
    late: bool
    """The run had ended before the forecast was sealed, or was fitted: no forecast at all."""
    intact: bool
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """A forecast and, once it is known, its outcome."""

    forecast: Forecast
    outcome: ForecastOutcome | None = None

    @property
    def status(self) -> str:
        """`open`, `hit`, `miss`, `late` (known when it was sealed) or `altered` (after sealing)."""
        if not self.forecast.intact or (self.outcome and not self.outcome.intact):
            return "altered"
        if self.outcome is None:
            return "open"
        if self.outcome.late:
            return "late"
        return "hit" if self.outcome.verdict.hit else "miss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All forecasts of a folder, by the time of their sealing."""

    entries: tuple[LedgerEntry, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """File and reason."""

    @property
    def counted(self) -> tuple[LedgerEntry, ...]:
        """Forecasts that came true or did not; open, late and altered ones are left out."""
        return tuple(e for e in self.entries if e.status in ("hit", "miss"))

    @property
    def hits(self) -> int:
        """How many of `counted` lay inside their intervals."""
        return sum(e.status == "hit" for e in self.counted)

    @property
    def level(self) -> float | None:
        """The share of hits that the intervals promise; the mean where levels differ."""
        levels = [e.forecast.expected.level for e in self.counted]
        return sum(levels) / len(levels) if levels else None

    def entry(self, name: str) -> LedgerEntry:
        """An entry by its name.

        Raises:
            QueryError: There is none.
        """
        for found in self.entries:
            if found.forecast.name == name:
                return found
        known = ", ".join(e.forecast.name for e in self.entries) or "none"
        raise QueryError(
            f"no forecast '{name}' is sealed; there are: {known}. Seal one: isoflop query ... "
            f"--seal {name}"
        )


def seal(folder: Path, name: str, question: Question, answer: Answer) -> Forecast:
    """Freeze a forecast.

    Args:
        folder: The ledger's folder.
        name: Of the forecast; becomes a file's.
        question: What was asked.
        answer: What was answered.

    Raises:
        QueryError: The name is no plain one, is taken, or the source has no intervals.
        RecordError: The folder cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise QueryError(
            f"--seal is '{name}'; a name of letters, digits, - and _ is needed, such as big-run."
        )
    body = _body(name, question, answer)
    path = folder / f"{name}.json"
    if not write_once(path, _text(body)):
        raise QueryError(
            f"the forecast {path} is sealed already and stays as it is. Choose another name."
        )
    return _forecast(json.loads(_text(body)))


def write_outcome(folder: Path, forecast: Forecast, facts: Mapping[str, Any]) -> bool:
    """Write the outcome of a forecast; False where there is one, which stays as it is.

    Args:
        folder: The ledger's folder.
        forecast: An intact one.
        facts: `measured` [nats/token], `late`, and `run`, `started`, `finished` where known.
    """
    verdict = score_forecast(forecast.expected, facts["measured"])
    body = {
        "schema": OUTCOME_SCHEMA,
        "name": forecast.name,
        "forecast": forecast.hash,
        "scored": now(),
        **facts,
        **asdict(verdict),
    }
    return write_once(folder / f"{forecast.name}{OUTCOME}", _text(body))


def read_ledger(folder: Path = FOLDER) -> Ledger:
    """Read every forecast of a folder and its outcome; without a folder there are none.

    Args:
        folder: The ledger's folder.
    """
    entries, unreadable = [], []
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(OUTCOME) or path.name.startswith("."):
            continue
        try:
            entries.append(_entry(path))
        except (RecordError, KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, RecordError) else f"incomplete: {error!r}"
            unreadable.append((path.name, reason))
    ordered = sorted(entries, key=lambda e: (e.forecast.sealed, e.forecast.name))
    return Ledger(entries=tuple(ordered), unreadable=tuple(unreadable))


def before(one: str | None, other: str) -> bool:
    """Whether a time lies before or at another; False where it is not known."""
    return one is not None and datetime.fromisoformat(one) <= datetime.fromisoformat(other)


def content_hash(document: Mapping[str, Any]) -> str:
    """Hash of a document without its own `hash`, whatever the order of its keys."""
    body = {k: v for k, v in document.items() if k != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _body(name: str, question: Question, answer: Answer) -> dict[str, Any]:
    """All that is frozen."""
    source, fit = question.source, question.source.fit
    if question.unique_tokens is not None:
        source = source.given(unique_tokens=question.unique_tokens)
    n = answer.params.value if answer.shape_params is None else answer.shape_params
    d = answer.tokens.value if answer.shape_tokens is None else answer.shape_tokens
    expected = expected_loss(source, n, d)
    assert fit is not None
    data = {k: fit.data.get(k) for k in ("name", "hash", "unique_tokens")}
    return {
        "schema": FORECAST_SCHEMA,
        "name": name,
        "sealed": now(),
        "question": _asked(question),
        "expected": asdict(expected),
        "run": _known_by(answer, fit, question.unique_tokens),
        "answer": answer.document(),
        "fit": {"name": fit.name, "hash": answer.fit_hash, "runs": dict(fit.source)},
        "data": data,
        "fitted": list(fit.points.run),
        "code": {**versions(("isoflop", "numpy", "scipy")), "commit": commit()},
    }


def _asked(question: Question) -> dict[str, Any]:
    """The fields of a question that were given."""
    names = (f.name for f in fields(question) if f.name != "source")
    return {k: v for k in names if (v := getattr(question, k)) is not None}


def _known_by(answer: Answer, fit: Fit, unique: float | None) -> dict[str, Any]:
    """What the record of the launched run will show."""
    s = answer.shape
    if s is None or answer.shape_tokens is None:
        return {}
    sizes = ("width", "depth", "heads", "head_dim", "vocab", "seq_len")
    return {
        **{k: getattr(s, k) for k in sizes},
        "params_body": count_params(s).body,
        "tokens": answer.shape_tokens,
        "batch_tokens": answer.batch_tokens,
        "lr": answer.lr,
        "schedule": fit.recipe.get("train.schedule"),
        "data_hash": fit.data.get("hash"),
        "unique_tokens": fit.recipe.get("data.unique_tokens") if unique is None else round(unique),
    }


def _text(body: Mapping[str, Any]) -> str:
    """A document with its hash, as people can read it too."""
    plain = finite_or_null(body)
    return json.dumps({**plain, "hash": content_hash(plain)}, indent=1, allow_nan=False) + "\n"


def _entry(path: Path) -> LedgerEntry:
    """A forecast's file, and its outcome's where there is one."""
    forecast = _forecast(_read(path, FORECAST_SCHEMA))
    beside = path.with_name(f"{path.stem}{OUTCOME}")
    if not beside.is_file():
        return LedgerEntry(forecast=forecast)
    return LedgerEntry(forecast=forecast, outcome=_outcome(_read(beside, OUTCOME_SCHEMA), forecast))


def _read(path: Path, schema: str) -> dict[str, Any]:
    """A document of the ledger."""
    try:
        return parse_document(path.read_text(encoding="utf-8"), schema)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error


def _forecast(document: Mapping[str, Any]) -> Forecast:
    """A forecast from its document."""
    return Forecast(
        name=document["name"],
        sealed=document["sealed"],
        source=document["answer"]["source"],
        flops=document["answer"]["flops"]["value"],
        expected=ExpectedLoss(**document["expected"]),
        run=document["run"],
        document=document,
        hash=document["hash"],
        intact=content_hash(document) == document["hash"],
    )


def _outcome(document: Mapping[str, Any], forecast: Forecast) -> ForecastOutcome:
    """An outcome from its document; it is intact where it is its forecast's."""
    verdict = ForecastScore(**{k: document[k] for k in ("measured", "error", "z", "hit")})
    own = content_hash(document) == document["hash"] and document["forecast"] == forecast.hash
    return ForecastOutcome(
        verdict=verdict,
        run=document.get("run"),
        started=document.get("started"),
        finished=document.get("finished"),
        scored=document["scored"],
        late=document["late"],
        intact=own,
        document=document,
    )
