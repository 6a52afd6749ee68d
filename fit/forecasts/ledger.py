"""The ledger of forecasts: sealed before a run, scored after it, never rewritten.

A forecast is `NAME.json`, its outcome `NAME.outcome.json` beside it. Each carries a hash of itself,
and the outcome also that of its forecast. Neither file is ever overwritten. The hash reveals a
change by accident; a deliberate forger can compute a new one, so commit the forecast: the
repository's history shows when it was made.

`seal` writes a forecast, `write_outcome` its outcome, `read_ledger` reads a folder of both.
`expected_loss` is the prediction for one run, and `score_forecast` compares a measured loss to it.
Which run belongs to a forecast is decided in `fit.forecasts.scoring`.
"""

from __future__ import annotations

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
from fit.data.table import score_columns
from fit.errors import QueryError, RecordError
from fit.files import commit, content_hash, now, versions, write_once
from fit.query.answer import predict
from fit.query.documents import Answer
from fit.query.question import Question
from fit.results import Fit

FORECAST_SCHEMA = "isoflop.forecast/1"
OUTCOME_SCHEMA = "isoflop.outcome/1"
FOLDER = Path("reports/ledger")
OUTCOME = ".outcome.json"
"""End of the name of an outcome's file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLoss:
    """Predicted loss of one run that is still to be trained, with its prediction interval."""

    params: float
    """N in the fit's convention [parameters]."""
    tokens: float
    """D [tokens]."""
    loss: float
    """Predicted loss, as `low` and `high` [nats/token]."""
    low: float
    high: float
    level: float
    quantile: float
    """Quantile of Student's t at the level: the interval's ends in standard errors."""
    dof: float
    floor: float | None = None
    """The entropy of the data where it is known, else E: what no run goes below [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastScore:
    """Score of a measured loss against the predicted one."""

    measured: float
    """Measured loss [nats/token]."""
    error: float
    """measured / predicted - 1"""
    z: float
    """ln(measured / predicted) in standard errors of that side; beyond the quantile is a miss."""
    hit: bool
    """Whether the measured loss lies inside the prediction interval."""
    interval_score: float
    """Width of the interval of ln loss, and 2 / (1 - level) times the miss beyond it: low is good
    (Winkler 1972; Gneiting & Raftery 2007, J. Am. Stat. Assoc. 102, 359)."""
    reducible_error: float | None
    """(measured - predicted) / (predicted - floor)"""


def expected_loss(source: ScalingLaw, params: float, tokens: float) -> ExpectedLoss:
    """Predict the loss of one run, with its prediction interval.

    Args:
        source: A fit; a published law has no intervals.
        params: N in its convention [parameters].
        tokens: D [tokens].

    Raises:
        QueryError: There is no interval, or it has no bound, so that no run could miss it.
    """
    # A run that was trained is compared, whatever the verdict; without an interval none can miss.
    run = predict(source, params, tokens, force=True).loss_next_run
    fit = source.fit
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
        quantile=fit.posterior().quantile or math.nan,
        dof=fit.interval.dof if fit.forecast is None else fit.forecast.dof,
        floor=fit.data.get("entropy") or fit.posterior().theta.get("E"),
    )


def score_forecast(expected: ExpectedLoss, measured: float) -> ForecastScore:
    """Score a measured loss against the predicted one.

    Args:
        expected: From `expected_loss`.
        measured: Held-out loss [nats/token].

    Raises:
        QueryError: The loss is not a positive number.
    """
    if not 0 < measured < math.inf:
        raise QueryError(f"the loss is {measured}; a positive number of nats/token is needed.")
    deviation = math.log(measured / expected.loss)
    end = expected.high if deviation > 0 else expected.low  # the interval may be asymmetric
    beyond = max(math.log(measured / expected.high), math.log(expected.low / measured), 0.0)
    width = math.log(expected.high / expected.low)
    floor = expected.floor
    known = floor is not None and expected.loss > floor
    return ForecastScore(
        measured=measured,
        error=measured / expected.loss - 1,
        z=expected.quantile * deviation / abs(math.log(end / expected.loss)),
        hit=expected.low <= measured <= expected.high,
        interval_score=width + 2 / (1 - expected.level) * beyond,
        reducible_error=(measured - expected.loss) / (expected.loss - floor) if known else None,  # type: ignore[operator]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A prediction sealed before its run."""

    name: str
    sealed: str
    """Time of sealing, UTC, ISO 8601."""
    source: str
    """Name of the fit."""
    flops: float
    """Budget of the question [FLOP]."""
    expected: ExpectedLoss
    """Prediction for the run that the answer launches, or at N* and D* where it launches none."""
    run: Mapping[str, Any]
    """Fields that identify the run: sizes, tokens, lr, data_hash; empty where none is launched."""
    document: Mapping[str, Any]
    """The whole document: question, answer, fit, code, data."""
    hash: str
    intact: bool
    """Whether the document still agrees with its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastOutcome:
    """A forecast's outcome: the measured loss and its score."""

    verdict: ForecastScore
    run: str | None
    """Name of the run; None for a loss measured elsewhere."""
    started: str | None
    finished: str | None
    scored: str
    late: bool
    """Whether the run had ended before the sealing, or was fitted: then it does not count."""
    intact: bool
    """Whether the document still agrees with its hash and its forecast's."""
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """A forecast and, once it has been scored, its outcome."""

    forecast: Forecast
    outcome: ForecastOutcome | None = None

    @property
    def status(self) -> str:
        """`open`, `hit`, `miss`, `late` (the loss was known at sealing) or `altered` (since)."""
        if not self.forecast.intact or (self.outcome and not self.outcome.intact):
            return "altered"
        if self.outcome is None:
            return "open"
        if self.outcome.late:
            return "late"
        return "hit" if self.outcome.verdict.hit else "miss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All forecasts of a folder, in order of their sealing."""

    entries: tuple[LedgerEntry, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """(file name, reason)."""

    @property
    def counted(self) -> tuple[LedgerEntry, ...]:
        """Hits and misses; open, late and altered forecasts are left out."""
        return tuple(e for e in self.entries if e.status in ("hit", "miss"))

    @property
    def hits(self) -> int:
        """Number of `counted` inside their intervals."""
        return sum(e.status == "hit" for e in self.counted)

    @property
    def level(self) -> float | None:
        """Nominal share of hits: the mean level of the intervals; None without any."""
        levels = [e.forecast.expected.level for e in self.counted]
        return sum(levels) / len(levels) if levels else None

    def about(self, fit: Fit, hash: str | None = None) -> Ledger:
        """The forecasts that are evidence about a fit.

        Those sealed by it, by its file's hash, and those of the same law that were sealed by fits
        of the same runs or of runs on the same data: a fit is made anew when runs are added.

        Args:
            fit: The fit.
            hash: Hash of its file, where it has one.
        """
        entries = tuple(e for e in self.entries if _is_about(e.forecast, fit, hash))
        return Ledger(entries=entries, unreadable=self.unreadable)

    def entry(self, name: str) -> LedgerEntry:
        """An entry by its name.

        Raises:
            QueryError: There is none.
        """
        for entry in self.entries:
            if entry.forecast.name == name:
                return entry
        known = ", ".join(e.forecast.name for e in self.entries) or "none"
        raise QueryError(
            f"no forecast '{name}' is sealed; there are: {known}. Seal one: isoflop query ... "
            f"--seal {name}"
        )


def seal(folder: Path, name: str, question: Question, answer: Answer) -> Forecast:
    """Write a forecast that is not to be changed any more.

    Args:
        folder: The ledger's folder.
        name: Name of the forecast, and of its file.
        question: The question.
        answer: Its answer.

    Raises:
        QueryError: The name has other characters than letters, digits, - and _, or is taken, or
            the source has no intervals.
        RecordError: The folder cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise QueryError(
            f"--seal is '{name}'; a name of letters, digits, - and _ is needed, such as big-run."
        )
    text = _text(_sealed_body(name, question, answer))
    path = folder / f"{name}.json"
    if not write_once(path, text):
        raise QueryError(
            f"the forecast {path} is sealed already and stays as it is. Choose another name."
        )
    return _forecast(json.loads(text))


def write_outcome(folder: Path, forecast: Forecast, facts: Mapping[str, Any]) -> bool:
    """Write the outcome of a forecast.

    Args:
        folder: The ledger's folder.
        forecast: The forecast, which must be intact.
        facts: `measured` [nats/token], `late`, and `run`, `started`, `finished` where known.

    Returns:
        Whether it was written; False where there is an outcome, which stays as it is.

    Raises:
        QueryError: The loss is not a positive number.
        RecordError: The folder cannot be written to.
    """
    score = score_forecast(forecast.expected, facts["measured"])
    body = {
        "schema": OUTCOME_SCHEMA,
        "name": forecast.name,
        "forecast": forecast.hash,
        "scored": now(),
        **facts,
        **asdict(score),
    }
    return write_once(folder / f"{forecast.name}{OUTCOME}", _text(body))


def read_ledger(folder: Path = FOLDER) -> Ledger:
    """Read every forecast of a folder and its outcome.

    Args:
        folder: The ledger's folder; if it does not exist, the ledger is empty.

    Returns:
        The ledger; files that cannot be read are listed in `unreadable`.
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


def not_after(one: str | None, other: str) -> bool:
    """Whether a time (ISO 8601) is not after another; False where it is None."""
    return one is not None and datetime.fromisoformat(one) <= datetime.fromisoformat(other)


def document_hash(document: Mapping[str, Any]) -> str:
    """Hash of what a document says: without its own `hash`, whatever the order of its keys.

    Unlike a file's `content_hash` it does not change when the file is formatted anew.
    """
    body = {k: v for k, v in document.items() if k != "hash"}
    return content_hash(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def _sealed_body(name: str, question: Question, answer: Answer) -> dict[str, Any]:
    """The document of a forecast, without its hash."""
    source, fit = question.source, question.source.fit
    if question.unique_tokens is not None:
        source = source.given(unique_tokens=question.unique_tokens)
    n = answer.params.value if answer.shape_params is None else answer.shape_params
    d = answer.tokens.value if answer.shape_tokens is None else answer.shape_tokens
    expected = expected_loss(source, n, d)
    assert fit is not None
    scores: dict[str, Any] = {}
    if score_columns(fit.points.columns):
        from fit.scores.law import forecast_scores  # needs scipy, which a query does without

        scores = forecast_scores(source, n, d)
    data = {k: fit.data.get(k) for k in ("name", "hash", "unique_tokens")}
    return {
        "schema": FORECAST_SCHEMA,
        "name": name,
        "sealed": now(),
        "question": _question_fields(question),
        "expected": asdict(expected),
        **({"scores": scores} if scores else {}),
        "run": _run_identity(answer, fit, question.unique_tokens),
        "answer": answer.document(),
        "fit": {"name": fit.name, "hash": answer.fit_hash, "runs": dict(fit.source)},
        "data": data,
        "fitted": list(fit.points.run),
        "code": {**versions(("isoflop", "numpy", "scipy")), "commit": commit()},
    }


def _question_fields(question: Question) -> dict[str, Any]:
    """The fields of a question that are not None, its source left out."""
    names = (f.name for f in fields(question) if f.name != "source")
    return {k: v for k in names if (v := getattr(question, k)) is not None}


def _run_identity(answer: Answer, fit: Fit, unique: float | None) -> dict[str, Any]:
    """Fields by which the record of the launched run will be recognised."""
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
    """A document with its hash, as indented JSON."""
    plain = finite_or_null(body)
    return json.dumps({**plain, "hash": document_hash(plain)}, indent=1, allow_nan=False) + "\n"


def _entry(path: Path) -> LedgerEntry:
    """Read a forecast's file, and its outcome's where there is one."""
    forecast = _forecast(_read(path, FORECAST_SCHEMA))
    outcome_path = path.with_name(f"{path.stem}{OUTCOME}")
    if not outcome_path.is_file():
        return LedgerEntry(forecast=forecast)
    outcome = _outcome(_read(outcome_path, OUTCOME_SCHEMA), forecast)
    return LedgerEntry(forecast=forecast, outcome=outcome)


def _read(path: Path, schema: str) -> dict[str, Any]:
    """Read a document of the ledger."""
    try:
        return parse_document(path.read_text(encoding="utf-8"), schema)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error


def _forecast(document: Mapping[str, Any]) -> Forecast:
    """A forecast from its document."""
    given = document["expected"]
    # The first forecasts have no floor, nor have those of a law without E.
    names = [f.name for f in fields(ExpectedLoss) if f.name != "floor" or given.get("floor")]
    expected = ExpectedLoss(**{name: _number(name, given[name]) for name in names})
    if not (0 < expected.low <= expected.loss <= expected.high and 0 < expected.level < 1):
        raise RecordError("its prediction interval does not contain its prediction.")
    datetime.fromisoformat(document["sealed"])
    return Forecast(
        name=str(document["name"]),
        sealed=document["sealed"],
        source=str(document["answer"]["source"]),
        flops=_number("flops", document["answer"]["flops"]["value"]),
        expected=expected,
        run=dict(document["run"]),
        document={**document, "fit": dict(document["fit"]), "data": dict(document["data"])},
        hash=document["hash"],
        intact=document_hash(document) == document["hash"],
    )


def _is_about(forecast: Forecast, fit: Fit, hash: str | None) -> bool:
    """Whether a forecast was sealed by a fit, or by one of its law and its runs or data."""
    sealed_by, runs = forecast.document["fit"], forecast.document["fit"].get("runs") or {}
    if hash is not None and sealed_by.get("hash") == hash:
        return True
    pairs = (
        (runs.get("hash"), fit.source.get("hash")),
        (forecast.document["data"].get("hash"), fit.data.get("hash")),
    )
    same = any(a == b and a is not None for a, b in pairs)
    return same and forecast.document["answer"].get("law") == fit.law


def _number(name: str, value: object) -> Any:
    """A positive finite number of a document.

    Raises:
        RecordError: It is text, null, boolean, not finite or not positive.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < float(str(value)) < math.inf:
        raise RecordError(f"its {name} is {value!r}; a positive number is needed.")
    return value


def _outcome(document: Mapping[str, Any], forecast: Forecast) -> ForecastOutcome:
    """An outcome from its document; it is intact if both hashes agree.

    Its error, z and hit are those of its measured loss, whatever the document says of them.
    """
    score = score_forecast(forecast.expected, _number("measured loss", document["measured"]))
    intact = document_hash(document) == document["hash"] and document["forecast"] == forecast.hash
    return ForecastOutcome(
        verdict=score,
        run=document.get("run"),
        started=document.get("started"),
        finished=document.get("finished"),
        scored=document["scored"],
        late=document["late"],
        intact=intact,
        document=document,
    )
