"""A table of runs in, a judged fit out: estimate, intervals, checks, notes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.conventions import conventions
from fit.declared import Declared, check_held, problem_of
from fit.derived import METHODS, parameter_intervals
from fit.envelope import Fitted, envelope
from fit.errors import FitError
from fit.estimate import Estimate, estimate
from fit.holdout import holdout, rolling
from fit.influence import influence
from fit.isoflop import isoflop
from fit.judge import check_runs, misfit_note, notes, status_of
from fit.laws import Law
from fit.laws import law as law_named
from fit.misfit import examine
from fit.objective import LOSSES, Problem
from fit.provenance import versions
from fit.record import Floats, RunTable
from fit.replicates import lack_of_fit, replicates
from fit.result import CrossCheck, Fit, Intervals, Note, Objective, Points, Span
from fit.ridge import rival_notes
from fit.spread import Method, Spread, spread, widen
from fit.thinning import MOST_RUNS, thinned
from fit.uncertainty import kappa
from fit.weights import weighted, weights_of

LIBRARIES = ("isoflop", "numpy", "scipy")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How a fit is asked for."""

    name: str = "fit"
    law: str = "chinchilla"
    loss: str = "adaptive"
    delta: float | None = None
    """Huber's threshold on ln loss, for `loss="huber"`."""
    interval: str = "hc3"
    level: float = 0.9
    resamples: int = 4000
    seed: int = 0
    weight: str | None = None
    """Column of the runs' weights, see `weights.weighted`."""
    hold: tuple[tuple[str, float], ...] = ()
    """Parameters that are not fitted, and their values on raw counts."""

    def __post_init__(self) -> None:
        check_held(law_named(self.law), dict(self.hold))
        _known("loss", self.loss, LOSSES)
        _known("interval", self.interval, METHODS)
        if not 0 < self.level < 1:
            raise FitError(f"level is {self.level}; a share between 0 and 1 is needed, as 0.9.")
        if self.delta is not None and self.loss != "huber":
            raise FitError(f"delta applies to --loss huber alone, not to '{self.loss}'. Add it.")
        if self.seed < 0:
            raise FitError(f"seed is {self.seed}; 0 or more is needed.")
        if self.resamples < 0:
            raise FitError(f"resamples is {self.resamples}; 0 or more are needed, such as 4000.")
        self.method().check(self.law)

    def method(self) -> Method:
        """How intervals are made."""
        return Method(
            interval=self.interval, level=self.level, resamples=self.resamples, seed=self.seed
        )


def fit_table(table: RunTable, options: FitOptions) -> Fit:
    """Fit a law to runs and judge it.

    Args:
        table: The runs; those without a finite loss are dropped and listed.
        options: Law, loss, intervals.

    Returns:
        The fit, on raw counts, with intervals, draws, checks and notes.

    Raises:
        FitError: The runs cannot carry the law.
    """
    table = table.take(np.isfinite(table.loss), reason="no finite loss")
    rows = len(table)
    table = thinned(table, most=MOST_RUNS, seed=options.seed)
    thin = _thinned(rows, len(table))
    law = law_named(options.law)
    free = len(law.parameters) - len(options.hold)
    check_runs(table, free)
    table = weighted(table, options.weight, options.law)
    check_runs(table, free)
    problem = problem_of(table, law, dict(options.hold))
    found = _estimate(problem, options, weights=weights_of(table))
    plain = spread(found, table.cluster, options.method())
    misfit = examine(found, table.cluster)
    bare = bounded(unbounded(table, found, plain, options))
    wide = bare
    if misfit is not None:
        made = widen(plain, misfit, options.seed)
        wide = bounded(unbounded(table, found, made, options))
    bounds = wide.interval.bounds
    widening = () if misfit is None else (misfit_note(misfit, bare.interval.bounds, bounds),)
    checks = _cross_checks(table, found, bounds["a"], options) if "a" in bounds else ()
    between = replicates(table, found)
    further = (*thin, *widening, *lack_of_fit(between))
    return dataclasses.replace(
        wide,
        cross_checks=checks,
        replicates=between,
        **_judged(table, found, checks, (*further, *rival_notes(found, bounds)), options),
    )


def unbounded(table: RunTable, found: Estimate, made: Spread, options: FitOptions) -> Fit:
    """The fit with what its intervals are made from, before these and before any check."""
    names = law_named(options.law).parameters
    pick = [found.problem.names.index(n) for n in names]
    return Fit(
        name=options.name,
        law=options.law,
        theta={n: float(found.raw[i]) for n, i in zip(names, pick, strict=True)},
        exponents=_exponents(found, options.law),
        status=status_of(found, table),
        kappa=kappa(found),
        objective=_objective(found),
        interval=Intervals(
            level=options.level,
            method=options.interval,
            quantile=made.sandwich.quantile,
            dof=made.sandwich.dof,
            bounds={},
        ),
        covariance=made.sandwich.covariance[np.ix_(pick, pick)],
        draws=made.draws[:, pick],
        moves=made.moves[:, pick],
        noise=found.noise,
        points=_points(table, found),
        options=dataclasses.asdict(options),
        versions=versions(LIBRARIES),
        **_input(table, options.law),
    )


def bounded(fit: Fit) -> Fit:
    """The fit with the intervals of its parameters and exponents."""
    interval = dataclasses.replace(fit.interval, bounds=parameter_intervals(fit))
    return dataclasses.replace(fit, interval=interval)


def _thinned(rows: int, kept: int) -> tuple[Note, ...]:
    """Says that not all rows were fitted."""
    if kept == rows:
        return ()
    text = (
        f"the law is fitted to {kept:,} of {rows:,} rows, drawn evenly over compute: the rest "
        "would narrow the intervals below what any law is true to."
    )
    return (Note(code="thinned", severity="info", message=text),)


def _input(table: RunTable, law: str) -> dict[str, Any]:
    """The fields of a fit that say what went in."""
    return {
        "convention": {"params": table.params_convention, "flops": table.flops_convention},
        "range": _ranges(table, law_named(law)),
        "runs_used": len(table),
        "runs_dropped": tuple((d.run, d.reason) for d in table.dropped),
        "data": {} if table.data is None else dataclasses.asdict(table.data),
        "recipe": table.recipe,
        "source": {"path": table.source, "hash": table.hash},
    }


def _judged(
    table: RunTable,
    found: Estimate,
    checks: tuple[CrossCheck, ...],
    further: tuple[Note, ...],
    options: FitOptions,
) -> dict[str, Any]:
    """The fields of a fit that say whether to believe it: holdouts, influence and notes."""
    without = None
    if options.law == "chinchilla" and not options.hold:
        without = _estimate(found.problem, options, law="no-e", weights=found.weights)
    how: dict[str, Any] = {"law": options.law, "loss": options.loss, "delta": options.delta}
    held = holdout(table, **how, level=options.level, whole=found)
    rolled = rolling(table, **how, level=options.level, whole=found)
    blind = status_of(found, table) == "ill_conditioned"
    two_terms = not isinstance(found.problem, Declared)
    moved = influence(table, found) if two_terms and not blind else ()
    told = notes(table, found, without, held, checks, rolled, moved)
    return {
        "holdout": held,
        "rolling": rolled,
        "influence": moved,
        "notes": told + further,
        "conventions": conventions(table, **how) if two_terms else (),
    }


def _estimate(
    problem: Problem, options: FitOptions, law: str | None = None, weights: Floats | None = None
) -> Estimate:
    """The point fit as asked for."""
    name = law or options.law
    return estimate(problem, law=name, loss=options.loss, delta=options.delta, weights=weights)


def _objective(found: Estimate) -> Objective:
    """What was minimised."""
    name = "log-huber" if found.loss.name in ("adaptive", "huber") else found.loss.name
    delta = found.loss.scale if np.isfinite(found.loss.scale) else None
    return Objective(name=name, delta=delta, value=found.value)


def _exponents(found: Estimate, law: str) -> dict[str, float]:
    """A and b of N* ~ C^a, D* ~ C^b, where the law has them."""
    names = law_named(law).exponents
    if names is None:
        return {}
    alpha, beta = (float(found.raw[found.problem.names.index(n)]) for n in names)
    return {"a": beta / (alpha + beta), "b": 1.0 - beta / (alpha + beta)}


def _cross_checks(
    table: RunTable, found: Estimate, bounds: tuple[float, float], options: FitOptions
) -> tuple[CrossCheck, ...]:
    """Approaches 1 and 2, each compared with the fit's exponent."""
    half, a = (bounds[1] - bounds[0]) / 2, _exponents(found, options.law)["a"]
    fitted = Fitted(loss=table.loss * np.exp(-found.residual), noise=found.noise, a=a)
    out = []
    for check in (isoflop(table, options.level), envelope(table, fitted, options.level)):
        if check.a is None:
            out.append(check)
            continue
        own = 0.0 if check.a_interval is None else (check.a_interval[1] - check.a_interval[0]) / 2
        disagrees = bool(abs(check.a - a) > np.hypot(half, own))
        out.append(dataclasses.replace(check, disagrees=disagrees))
    return tuple(out)


def _ranges(table: RunTable, law: Law) -> dict[str, Span]:
    """Smallest and largest value of what was fitted."""
    columns = {
        "params": table.params,
        "tokens": table.tokens,
        "flops": table.flops,
        "tokens_per_param": table.tokens / table.params,
        law.target: table.loss,
    }
    return {k: Span(low=float(v.min()), high=float(v.max())) for k, v in columns.items()}


def _points(table: RunTable, found: Estimate) -> Points:
    """The runs as the report needs them; columns that are not numbers are left out."""
    columns = {}
    for name, values in table.columns.items():
        if np.issubdtype(np.asarray(values).dtype, np.number):
            columns[name] = np.asarray(values, dtype=np.float64)
    return Points(
        run=table.run,
        params=table.params,
        tokens=table.tokens,
        flops=table.flops,
        loss=table.loss,
        residual=found.residual,
        cluster=table.cluster.astype(np.float64),
        columns=columns,
    )


def _known(what: str, found: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not there."""
    if found not in known:
        raise FitError(f"unknown {what} '{found}'; known are {', '.join(known)}. Choose one.")
