"""The result of a fit: `Fit`, its parts, and the `isoflop.fit/1` document on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fit.data.records import Floats, finite_or_null, parse_document
from fit.data.table import read_only
from fit.errors import RecordError
from fit.files import _read_text, checked_path, write_atomically
from fit.verdict import Note, Verdict, status_notes, verdict_of, what_checks_found

FIT_SCHEMA = "isoflop.fit/1"
FIT_NAME = "fit.json"
REPORTS = Path("reports")
"""Folder of report folders, in the working folder."""
EXAMPLE = Path(__file__).parent / "example.json"
"""The committed reference fit without its draws, so that an installed package answers at once."""
NATS_PER_TOKEN, BITS_PER_BYTE = "nats/token", "bits/byte"
"""Units of a fitted loss; the second stands in `convention["loss"]`, the first goes without."""


def loss_unit(convention: Mapping[str, Any]) -> str:
    """The unit of the losses of a fit, an answer or a law, by its convention."""
    return str(convention.get("loss", NATS_PER_TOKEN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What was minimised, and its value at the optimum (sum over runs)."""

    name: str
    delta: float | None
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Smallest and largest value among the fitted runs."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Confidence intervals of the law, all by one method at one level."""

    level: float
    method: str
    """`hc3`, `pairs`, `wild`, `bca` or `profile`."""
    quantile: float
    """Reference quantile (Student's t) that `covariance` is multiplied with."""
    dof: int
    """Degrees of freedom of the reference: clusters less parameters."""
    bounds: Mapping[str, tuple[float, float]]
    """Low and high per parameter and exponent (E, A, B, alpha, beta, a, b)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """Predictions of the largest budget by the law fitted without it."""

    budget: float
    """Smallest compute among the runs left out [FLOP]."""
    runs: tuple[str, ...]
    predicted: tuple[float, ...]
    """Loss the smaller runs predict [nats/token]."""
    measured: tuple[float, ...]
    mean_relative_error: float
    """Mean of predicted / measured - 1; the sign says whether the law is pessimistic (+)."""
    max_relative_error: float
    """Largest absolute value of predicted / measured - 1."""
    covered: float | None = None
    """Share of the measured losses inside their prediction interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """One budget, predicted by the law fitted to all smaller ones."""

    budget: float
    """Its smallest compute [FLOP]."""
    runs: int
    below: int
    """Runs of smaller budgets that the prediction rests on."""
    mean_relative_error: float
    """Mean of predicted / measured - 1."""
    max_relative_error: float
    """Largest absolute value of predicted / measured - 1."""
    covered: float
    """Share of the measured losses inside their prediction intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """Runs of one size, length and recipe, and the noise between them, which needs no law."""

    groups: int
    """Sizes and lengths that were run more than once."""
    runs: int
    noise: float
    """Robust standard deviation of ln loss within the groups."""
    lack_of_fit: float | None
    """F statistic: scatter of the groups about the law over that within them."""
    probability: float | None
    """Of one as large under the law."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """The exponent of N*(C) by another approach (1 envelope, 2 isoFLOP)."""

    name: str
    a: float | None
    """Exponent of N* ~ C^a; None where the runs do not allow it."""
    a_interval: tuple[float, float] | None
    coefficient: float | None
    """ln N* at C = 1 FLOP, so that N* = exp(coefficient) C^a."""
    budgets: tuple[float, ...] = ()
    """Budgets used [FLOP]."""
    params: tuple[float, ...] = ()
    """N* found at each."""
    losses: tuple[float, ...] = ()
    """Loss found at each N* [nats/token]."""
    reason: str | None = None
    """Why there is no value, or what was left out."""
    disagrees: bool = False
    """Differs from approach 3 beyond their joint interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """How far the answer moves without one run, or without one cluster of runs."""

    kind: str
    """`run` or `cluster`."""
    run: str
    """Its name; of a cluster, that of its first run."""
    runs: int
    """How many are left out together."""
    shift: float
    """ln N* at ten times the largest budget without it, less with it."""
    share: float
    """Of the squared shifts of all of its kind: how much of the uncertainty hangs on it."""
    flops: float
    """What repeating it costs [FLOP]; a shared trunk is counted with each of its runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastLaw:
    """What answers are made from: the wider law of `fit.laws.forecast` with its posterior."""

    theta: Mapping[str, float]
    """Its parameters, in the order of `laws.forecast.FORECAST`."""
    covariance: Floats
    """(10, 10): logs of scales, the others as they are; with the discrepancy."""
    frame: Mapping[str, float]
    """Where the runs are: the fields of `laws.forecast.Frame`."""
    noise: float
    """Standard deviation of ln loss of one run near the costliest."""
    quantile: float
    """Student's t at the level of the fit, which `covariance` is multiplied with."""
    dof: float
    discrepancy: float
    """Share of the predicted gain in ln loss that forecasts miss, root mean square."""
    rolled: tuple[float, ...] = ()
    """Its square for each cut at which the runs were predicted from the cheaper ones."""
    two_terms: float = 0.0
    """Weight of the two-term law, to which the wider law is drawn; 0: the wider law alone."""
    short_runs: float | None = None
    """Shift of its ln loss beyond the runs without the shortest quarter of them, in half-widths."""
    prior: Mapping[str, tuple[float, ...]] | None = None
    """`centre` and `spread` of its prior where earlier fits gave it; None: public sweeps did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The fitted runs as columns, all of shape (runs,): a report needs nothing but the fit."""

    run: tuple[str, ...]
    params: Floats
    tokens: Floats
    flops: Floats
    loss: Floats
    residual: Floats
    """ln loss - ln law."""
    cluster: Floats
    columns: Mapping[str, Floats] = field(default_factory=dict)
    """width, depth, heads, lr, loss_<skill>, ... where the runs have them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntervalInputs:
    """What every interval is computed from, whatever the method.

    It is complete before a fit is, so that a fit is built with its intervals, and `Fit.inputs`
    gives it back, so that an answer has its intervals from the same numbers.
    """

    name: str
    """Of the fit, for messages."""
    law: str
    theta: Mapping[str, float]
    """Parameters on raw counts, in the law's order."""
    method: str
    """One of `inference.intervals.METHODS`."""
    level: float
    quantile: float | None
    """Student's t at the level; None or nan where no degree of freedom is left."""
    covariance: Floats
    """(p, p), of the parameters, scales as their ln."""
    draws: Floats
    """(resamples, p) parameters on raw counts."""
    moves: Floats
    """(groups, p): moves of the estimate without each cluster; for `bca` alone."""
    points: Points
    objective: Objective

    def parameters(self) -> tuple[str, ...]:
        """Names of the law's parameters, in the order of `draws` and `covariance`."""
        return tuple(self.theta)

    def vector(self) -> Floats:
        """The point estimate, shape (p,)."""
        return np.array(list(self.theta.values()), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted law with its uncertainty, the checks of it, and the runs it rests on."""

    name: str
    """Name of the report folder, or of the input where none was written."""
    law: str
    theta: Mapping[str, float]
    """Parameters on raw counts, in the law's order: E [nats], A [nats params^alpha], ..."""
    exponents: Mapping[str, float]
    """a and b of N* ~ C^a, D* ~ C^b under C = kND."""
    status: str
    kappa: float
    """Condition number of the centred Jacobian with unit columns; 40-160 is healthy."""
    objective: Objective
    interval: Intervals
    covariance: Floats
    """(p, p), of (ln E, ln A, ln B, alpha, beta): logs of scales, exponents as they are."""
    draws: Floats
    """(resamples, p) thetas on raw counts: wild cluster bootstrap for `wild`, else pairs."""
    noise: float
    """Robust standard deviation of ln loss about the law: noise of one run of mean weight."""
    convention: Mapping[str, str]
    """How params and flops were counted."""
    range: Mapping[str, Span]
    """params, tokens, flops, tokens_per_param, loss."""
    points: Points
    runs_used: int
    runs_dropped: tuple[tuple[str, str], ...] = ()
    """(run, reason)."""
    notes: tuple[Note, ...] = ()
    moves: Floats = field(default_factory=lambda: np.empty((0, 0)))
    """(groups, p): moves of the estimate without each cluster, in the coordinates of `covariance`;
    for `bca` alone."""
    replicates: Replicates | None = None
    curves: Mapping[str, Any] = field(default_factory=dict)
    """collapse, lines, cooldowns, transients, phase: see `diagnostics.curves.curves_document`."""
    holdout: Holdout | None = None
    rolling: tuple[Rolled, ...] = ()
    """Each larger budget predicted by the smaller ones, ascending."""
    cross_checks: tuple[CrossCheck, ...] = ()
    influence: tuple[Influence, ...] = ()
    """The runs and clusters that decide N*, those that move it most first."""
    forecast: ForecastLaw | None = None
    """What answers are made from; None where the law itself answers."""
    conventions: tuple[Mapping[str, Any], ...] = ()
    """a and tokens_per_param at the largest budget under each counting convention."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """name, hash, unique_tokens, bytes_per_token, entropy where the runs share a data set."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings that all runs share, as overrides of the config."""
    source: Mapping[str, str] = field(default_factory=dict)
    """path and hash of the input."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the fit (loss, level, resamples, seed, where, ...)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: str = FIT_SCHEMA

    def parameters(self) -> tuple[str, ...]:
        """Names of the law's parameters, in the order of `draws` and `covariance`."""
        return tuple(self.theta)

    def vector(self) -> Floats:
        """The point estimate, shape (p,)."""
        return np.array(list(self.theta.values()), dtype=np.float64)

    @property
    def verdict(self) -> Verdict:
        """Whether to believe the fit: of its status, its condition number and its notes."""
        return verdict_of(
            [*status_notes(self), *self.notes],
            f"the fit converged on {self.runs_used} runs{what_checks_found(self.notes)}",
        )

    def inputs(self) -> IntervalInputs:
        """What intervals of any quantity under this fit are computed from."""
        return IntervalInputs(
            name=self.name,
            law=self.law,
            theta=self.theta,
            method=self.interval.method,
            level=self.interval.level,
            quantile=self.interval.quantile,
            covariance=self.covariance,
            draws=self.draws,
            moves=self.moves,
            points=self.points,
            objective=self.objective,
        )

    def posterior(self) -> IntervalInputs:
        """What intervals of an answer are computed from: the forecast, where there is one."""
        if (ahead := self.forecast) is None:
            return self.inputs()
        return dataclasses.replace(
            self.inputs(),
            theta=ahead.theta,
            covariance=ahead.covariance,
            quantile=ahead.quantile,
        )

    @property
    def noise_of_a_run(self) -> float:
        """What a prediction of one run adds: near the costliest runs, where there is a forecast."""
        return self.noise if self.forecast is None else self.forecast.noise

    def document(self, *, draws: bool = True) -> dict[str, Any]:
        """The `isoflop.fit/1` document, with or without the draws."""
        document = dataclasses.asdict(self)
        interval = document.pop("interval")
        document["interval"] = {**interval, **interval.pop("bounds")}
        document["cross_checks"] = {c.pop("name"): c for c in document["cross_checks"]}
        document["range"] = {k: [v["low"], v["high"]] for k, v in document["range"].items()}
        document["runs_dropped"] = [{"run": r, "reason": why} for r, why in self.runs_dropped]
        if not draws:
            del document["draws"], document["moves"]
        head = {"schema": document.pop("schema"), **self.verdict.document()}
        return dict(finite_or_null(_plain(head | document)))

    def to_json(self, *, draws: bool = True) -> str:
        """Serialise; same fit, same bytes."""
        return json.dumps(self.document(draws=draws), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fit:
        """Parse a fit document.

        Raises:
            RecordError: Not JSON, not a fit, incomplete, or of a newer major version.
        """
        document = parse_document(text, FIT_SCHEMA)
        try:
            fit = cls(**_decode(document))
            if not np.isfinite(fit.vector()).all():
                raise ValueError("a parameter of the law is missing")
            return fit
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise RecordError(f"not a complete fit document ({what}). Fit again.") from error


_INTERVAL_FIELDS = {f.name for f in dataclasses.fields(Intervals)}


def _decode(document: dict[str, Any]) -> dict[str, Any]:
    """Turn the parsed document into the arguments of `Fit`."""
    wanted = {f.name for f in dataclasses.fields(Fit)}
    d = {k: v for k, v in document.items() if k in wanted}
    interval = d["interval"]
    fields = {k: interval[k] for k in ("level", "method", "quantile", "dof")}
    bounds = {k: _pair(v) for k, v in interval.items() if k not in _INTERVAL_FIELDS}
    points = dict(d["points"])
    columns = {k: read_only(v) for k, v in points.pop("columns").items()}
    names = tuple(points.pop("run"))
    d["interval"] = Intervals(bounds=bounds, **fields)
    d["points"] = Points(run=names, columns=columns, **{k: read_only(v) for k, v in points.items()})
    d["objective"] = Objective(**d["objective"])
    d["covariance"] = read_only(d["covariance"])
    d["draws"] = read_only(d.get("draws", [])).reshape(-1, len(d["theta"]))
    d["moves"] = read_only(d.get("moves", [])).reshape(-1, len(d["theta"]))
    d["replicates"] = Replicates(**d["replicates"]) if d.get("replicates") else None
    d["range"] = {k: Span(low=v[0], high=v[1]) for k, v in d["range"].items()}
    d["runs_dropped"] = tuple((r["run"], r["reason"]) for r in d["runs_dropped"])
    d["notes"] = tuple(Note(**n) for n in d["notes"])
    d["holdout"] = Holdout(**_tuples(d["holdout"])) if d.get("holdout") else None
    if ahead := d.get("forecast"):
        values = {**ahead, "covariance": read_only(ahead["covariance"])}
        d["forecast"] = ForecastLaw(**_tuples(values))
    d["cross_checks"] = tuple(
        CrossCheck(name=k, **_tuples(v)) for k, v in d["cross_checks"].items()
    )
    d["rolling"] = tuple(Rolled(**r) for r in d.get("rolling", ()))
    d["influence"] = tuple(Influence(**i) for i in d.get("influence", ()))
    d["conventions"] = tuple(d.get("conventions", ()))
    return d


def _pair(values: list[float | None]) -> tuple[float, float]:
    """An interval; a side that JSON could not hold is infinite."""
    low, high = values
    return (float("-inf") if low is None else low, float("inf") if high is None else high)


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    """Lists to tuples, one level deep."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def _plain(value: Any) -> Any:
    """Arrays to lists, mappings and tuples to plain ones, at any depth."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def write_fit(folder: Path, fit: Fit) -> Path:
    """Write `fit.json` into a report folder, atomically; returns its path."""
    path = folder / FIT_NAME
    write_atomically(path, fit.to_json())
    return path


def fit_file(path: Path | str) -> Path:
    """The file of a fit by its path, or by its name: `NAME` is `reports/NAME`.

    A path at which a fit lies wins over a name. `example` is the fit of the package.
    """
    path = checked_path(path)
    files = [path, path / FIT_NAME, *([EXAMPLE] if path == Path("example") else [])]
    if str(path) == path.name and not path.name.startswith("."):
        files.append(REPORTS / path / FIT_NAME)
    return next((file for file in files if file.is_file()), path)


def report_folder(path: Path) -> Path:
    """The folder for what is written beside a fit; of the package's, `reports/example`."""
    return REPORTS / "example" if (file := fit_file(path)) == EXAMPLE else file.parent


def read_fit(path: Path | str) -> Fit:
    """Read a fit by its report folder, its `fit.json` or its name, as `fit_file` finds it.

    Raises:
        RecordError: Missing, corrupt, foreign or of a newer major version.
    """
    file = fit_file(path)
    if not file.is_file():
        there = sorted(p.parent.name for p in REPORTS.glob(f"*/{FIT_NAME}"))
        raise RecordError(
            f"cannot read the fit {path}: there is none; fits in {REPORTS}/: "
            f"{', '.join(there) or 'none'}. Name one, or make one: isoflop fit RUNS --out {path}"
        )
    try:
        return Fit.from_json(_read_text(file))
    except RecordError as error:
        from fit.data.formats import no_fit

        raise RecordError(no_fit(file, error)) from error


def fit_hash(path: Path | str) -> str:
    """Content hash of a fit's file."""
    return f"sha256:{hashlib.sha256(fit_file(path).read_bytes()).hexdigest()}"


def newest_fit() -> Path:
    """The report folder whose fit was written last.

    Raises:
        RecordError: There is none.
    """
    files = [p for p in REPORTS.glob(f"*/{FIT_NAME}") if not p.parent.name.startswith(".")]
    if not files:
        raise RecordError(
            f"no fit under {REPORTS}/; a fit or a published law is needed. "
            "Run: isoflop fit RUNS --out reports/NAME, or ask with --fit example."
        )
    return max(files, key=lambda p: (p.stat().st_mtime, p.parent.name)).parent
