"""A table of runs in, a judged fit out: estimate, intervals, checks, notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit.allocation.scaling_law import ScalingLaw
from fit.data.readers import load
from fit.data.records import Floats
from fit.data.table import MOST_RUNS, RunTable, subsample
from fit.diagnostics.approaches import EnvelopeModel, envelope_check, isoflop_check
from fit.diagnostics.notes import check_runs, fit_notes, fit_status, misfit_note
from fit.diagnostics.residuals import lack_of_fit, replicates
from fit.diagnostics.robustness import conventions, holdout, influence, rival_notes, rolling
from fit.errors import FitError, QueryError
from fit.estimation.general import GeneralProblem, check_held, fit_problem
from fit.estimation.objective import LOSSES, FitProblem
from fit.estimation.solver import Estimate, estimate, weighted, weights_of
from fit.files import versions
from fit.inference.intervals import METHODS, parameter_intervals
from fit.inference.misspecification import (
    IntervalMethod,
    Uncertainty,
    detect_misfit,
    estimate_uncertainty,
    widen_by_misfit,
)
from fit.inference.resampling import kappa
from fit.laws.families import law
from fit.laws.families import law as law_named
from fit.laws.law import Law
from fit.laws.published import PRESETS, preset
from fit.quantities import parse_units
from fit.results import CrossCheck, Fit, Intervals, Note, Objective, Points, Span, read_fit

LIBRARIES = ("isoflop", "numpy", "scipy")
PARTS = ("E", "A", "B", "alpha", "beta")


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

    def method(self) -> IntervalMethod:
        """How intervals are made."""
        return IntervalMethod(
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
    table = subsample(table, most=MOST_RUNS, seed=options.seed)
    thin = _thinned(rows, len(table))
    law = law_named(options.law)
    free = len(law.parameters) - len(options.hold)
    check_runs(table, free)
    table = weighted(table, options.weight, options.law)
    check_runs(table, free)
    problem = fit_problem(table, law, dict(options.hold))
    found = _estimate(problem, options, weights=weights_of(table))
    plain = estimate_uncertainty(found, table.cluster, options.method())
    misfit = detect_misfit(found, table.cluster)
    bare = bounded(unbounded(table, found, plain, options))
    wide = bare
    if misfit is not None:
        made = widen_by_misfit(plain, misfit, options.seed)
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


def unbounded(table: RunTable, found: Estimate, made: Uncertainty, options: FitOptions) -> Fit:
    """The fit with what its intervals are made from, before these and before any check."""
    names = law_named(options.law).parameters
    pick = [found.problem.names.index(n) for n in names]
    return Fit(
        name=options.name,
        law=options.law,
        theta={n: float(found.raw[i]) for n, i in zip(names, pick, strict=True)},
        exponents=_exponents(found, options.law),
        status=fit_status(found, table),
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
    blind = fit_status(found, table) == "ill_conditioned"
    two_terms = not isinstance(found.problem, GeneralProblem)
    moved = influence(table, found) if two_terms and not blind else ()
    told = fit_notes(table, found, without, held, checks, rolled, moved)
    return {
        "holdout": held,
        "rolling": rolled,
        "influence": moved,
        "notes": told + further,
        "conventions": conventions(table, **how) if two_terms else (),
    }


def _estimate(
    problem: FitProblem, options: FitOptions, law: str | None = None, weights: Floats | None = None
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
    fitted = EnvelopeModel(loss=table.loss * np.exp(-found.residual), noise=found.noise, a=a)
    out = []
    for check in (
        isoflop_check(table, options.level),
        envelope_check(table, fitted, options.level),
    ):
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
    table = load(
        runs,
        params=params,
        flops=flops,
        rename=dict(_renaming(c) for c in column),
        cluster=cluster,
        where=where,
        units=parse_units(unit),
        target=law(options.get("law", "chinchilla")).target,
    )
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
            ScalingLaw.from_preset(preset(base))
            if base in PRESETS
            else ScalingLaw.from_fit(read_fit(Path(base)))
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


def _renaming(text: str) -> tuple[str, str]:
    """Parse `ours=yours`."""
    ours, sign, theirs = text.partition("=")
    if not (ours and sign and theirs):
        raise QueryError(f"--column is '{text}'; OURS=YOURS is needed, such as params=n_params.")
    return ours, theirs
