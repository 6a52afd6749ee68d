"""From a table of runs to a fit: the only place that knows the order of the steps.

`fit_table` estimates the law (`fit.estimation`), its uncertainty, widened where the runs deviate
from the law, and its intervals (`fit.inference`), runs the checks and collects the notes
(`fit.diagnostics`). The `Fit` is built once, at the end, from what these return.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.allocation.scaling_law import ScalingLaw
from fit.data.columns import parse_columns
from fit.data.conditions import as_conditions, join_conditions
from fit.data.readers import load
from fit.data.table import MOST_RUNS, RunTable, subsample
from fit.diagnostics.approaches import EnvelopeModel, envelope_check, isoflop_check
from fit.diagnostics.curves import CurveChecks, curve_checks, curves_document
from fit.diagnostics.notes import (
    check_runs,
    curve_notes,
    fit_notes,
    fit_status,
    local_exponent_note,
    misfit_note,
    phase_note,
    prior_notes,
    thinned_note,
    undetermined_note,
)
from fit.diagnostics.residuals import lack_of_fit, replicates
from fit.diagnostics.robustness import conventions, holdout, influence, rival_notes, rolling
from fit.errors import FitError, QueryError, check_type
from fit.estimation.general import GeneralProblem, check_columns, check_held, fit_problem
from fit.estimation.objective import LOSSES
from fit.estimation.solver import Estimate, estimate
from fit.estimation.weights import (
    check_weights,
    copies_note,
    join_copies,
    weighted,
    weights_of,
    without_near_copies,
)
from fit.files import versions
from fit.inference.forecast import forecast, shortest
from fit.inference.forecast_prior import prior_beside, with_known_entropy
from fit.inference.intervals import check_interval, largest_product, parameter_intervals
from fit.inference.misspecification import detect_misfit, detect_phase, widen_by_misfit
from fit.inference.resampling import Uncertainty, estimate_uncertainty, kappa
from fit.laws.families import law
from fit.laws.law import TWO_TERMS, Law
from fit.quantities import parse_units
from fit.results import (
    BITS_PER_BYTE,
    CrossCheck,
    Fit,
    IntervalInputs,
    Intervals,
    Objective,
    Points,
    Span,
    read_fit,
)
from fit.verdict import beside_forecast, short_runs_note

DISCREPANCIES = ("learned", "none")
ENTROPIES = ("estimated", "known")
LIBRARIES = ("isoflop", "numpy", "scipy")
MOST_RESAMPLES = 1_000_000
"""Their parameters are held in memory, and stored with the fit."""
KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("name", "law", "loss", "interval", "discrepancy", "entropy"), ((str,), "text")
    ),
    **dict.fromkeys(("resamples", "seed"), ((numbers.Integral,), "a whole number")),
    "level": ((numbers.Real,), "a share between 0 and 1, as 0.9"),
    "delta": ((numbers.Real, type(None)), "a number, as 1e-3"),
    "weight": ((str, type(None)), "the name of a column"),
    "prior": ((tuple,), "a tuple of report folders"),
    "hold": ((tuple,), "a tuple of pairs (parameter, value)"),
}
"""Types of the options of a fit, and how they are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """Law, loss, intervals and weights of a fit."""

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
    """Column of the runs' weights, see `estimation.weights.weighted`."""
    discrepancy: str = "learned"
    """`learned`: answers come from the forecast, with what laws miss beyond the runs; `none`: from
    the law as it is, with its plain intervals."""
    prior: tuple[str, ...] = ()
    """Report folders of earlier fits of one recipe: the forecast's prior, beside public sweeps."""
    entropy: str = "estimated"
    """`known`: the forecast's E is the entropy that the data state; `estimated`: of the runs."""
    hold: tuple[tuple[str, float], ...] = ()
    """Parameters that are not fitted, and their values on raw counts."""

    @property
    def forecasts(self) -> bool:
        """Whether answers come from a forecast.

        Another law, interval or a held parameter that was asked for is of the law as it is.
        """
        plain = self.law == "chinchilla" and self.interval == "hc3" and not self.hold
        return plain and self.discrepancy == "learned"

    def __post_init__(self) -> None:
        for name, (kinds, example) in KINDS.items():
            check_type(FitError, name, getattr(self, name), kinds, example)
        check_held(law(self.law), dict(self.hold))
        choices = (
            ("loss", self.loss, LOSSES),
            ("discrepancy", self.discrepancy, DISCREPANCIES),
            ("entropy", self.entropy, ENTROPIES),
        )
        for what, value, known in choices:
            if value not in known:
                raise FitError(
                    f"unknown {what} '{value}'; known are {', '.join(known)}. Choose one."
                )
        if not 0 < self.level < 1:
            raise FitError(f"level is {self.level}; a share between 0 and 1 is needed, as 0.9.")
        if self.delta is not None and not LOSSES[self.loss].takes_delta:
            raise FitError(f"delta applies to --loss huber alone, not to '{self.loss}'. Add it.")
        if self.seed < 0:
            raise FitError(f"seed is {self.seed}; 0 or more is needed.")
        if self.resamples < 0:
            raise FitError(f"resamples is {self.resamples}; 0 or more are needed, such as 4000.")
        if self.resamples > MOST_RESAMPLES:
            raise FitError(f"resamples are at most {MOST_RESAMPLES:,}. Ask for fewer, as 4000.")
        if (self.prior or self.entropy == "known") and not self.forecasts:
            raise FitError(
                "--prior and --entropy known are of the forecast, and these options have none. "
                "Leave out --law, --interval, --hold and --discrepancy, or these two."
            )
        check_interval(self.interval, law=self.law, level=self.level, resamples=self.resamples)


def fit_table(
    table: RunTable, options: FitOptions, reading: Mapping[str, Any] | None = None
) -> Fit:
    """Fit a law to runs, with intervals, checks and notes.

    Args:
        table: The runs; those without a finite loss are dropped and listed.
        options: Law, loss, intervals.
        reading: How the table was read and selected, for the fit's record of its options.

    Returns:
        The fit, on raw counts, with intervals, draws, checks and notes.

    Raises:
        FitError: The runs cannot carry the law.
    """
    table = table.take(np.isfinite(table.loss), reason="no finite loss")
    family = law(options.law)
    free = len(family.parameters) - len(options.hold)
    further = tuple(family.columns)
    check_runs(table, free, family.target)
    check_columns(table, family)
    table = without_near_copies(table, further)
    rows = len(table)
    table = subsample(table, most=MOST_RUNS, seed=options.seed)
    table = weighted(table, options.weight, options.law)
    check_runs(table, free, family.target)
    check_weights(table, free)
    problem = fit_problem(table, family, dict(options.hold))
    how: dict[str, Any] = {"loss": options.loss, "delta": options.delta}
    fitted = estimate(problem, law=options.law, weights=weights_of(table), **how)
    if not np.isfinite(fitted.raw).all():
        lost = next(n for n, v in zip(problem.names, fitted.raw, strict=True) if not np.isfinite(v))
        raise FitError(
            f"law '{options.law}' has no finite fit to these runs: {lost} grows without end, since "
            f"the {family.target} does not depend on its term. Fit another law: --law, or other "
            "runs."
        )
    table, copies = join_copies(table, further, fitted.noise)
    points = _points(table, fitted)

    spread = estimate_uncertainty(
        fitted,
        table.cluster,
        interval=options.interval,
        level=options.level,
        resamples=options.resamples,
        seed=options.seed,
    )
    phase = detect_phase(table, fitted)  # its cause is known: what is left is tested without it
    rest = fitted if phase is None else phase.fitted
    misfit = detect_misfit(rest, table.cluster)
    spread = widen_by_misfit(spread, phase, options.seed + 1)
    inputs = interval_inputs(fitted, spread, points, options)
    bounds = parameter_intervals(inputs)
    notes = [*thinned_note(rows, len(table)), *copies_note(copies)]
    if phase is not None:
        seeming = detect_misfit(fitted, table.cluster) if misfit is None else None
        notes.append(phase_note(phase, None if seeming is None else abs(seeming.statistic)))
    if misfit is not None:
        plain, spread = bounds, widen_by_misfit(spread, misfit, options.seed)
        inputs = interval_inputs(fitted, spread, points, options)
        bounds = parameter_intervals(inputs)
        notes.append(misfit_note(misfit, plain, bounds))

    exponents = _exponents(inputs.theta, family, points)
    status = fit_status(fitted, table)
    two_terms = not isinstance(problem, GeneralProblem)
    checks = _cross_checks(table, fitted, exponents["a"], bounds["a"], options) if exponents else ()
    between = replicates(table, fitted, copies)
    without_e = None
    if two_terms and family.without_e is not None:
        without_e = estimate(problem, law=family.without_e, weights=fitted.weights, **how)
    refit: dict[str, Any] = {"law": options.law, **how}
    left_out = holdout(table, **refit, level=options.level, whole=fitted)
    rolled = rolling(table, **refit, level=options.level, whole=fitted, top=left_out)
    recipe = curve_checks(table, fitted) if family.target == "loss" else CurveChecks()
    moved = influence(table, fitted) if two_terms and status != "ill_conditioned" else ()
    sound = options.forecasts and status != "ill_conditioned"
    earlier = [read_fit(folder) for folder in options.prior]
    prior = prior_beside(earlier, table)
    if options.entropy == "known":
        prior = with_known_entropy(prior, table)
    ahead = forecast(table, options.level, prior) if sound else None
    told = (
        *fit_notes(
            table, fitted, without_e, left_out, checks, rolled, moved, family.target, rest=rest
        ),
        *undetermined_note(bounds),
        *local_exponent_note(family, float(table.flops.max())),
        *notes,
        *curve_notes(recipe),
        *lack_of_fit(between),
        *rival_notes(fitted, bounds),
        *prior_notes(earlier, table.recipe),
        *([] if ahead is None else short_runs_note(ahead.short_runs, shortest(table.tokens))),
    )
    return Fit(
        name=options.name,
        law=options.law,
        theta=inputs.theta,
        exponents=exponents,
        status=status,
        kappa=kappa(fitted),
        objective=inputs.objective,
        interval=Intervals(
            level=options.level,
            method=options.interval,
            quantile=spread.quantile,
            dof=spread.dof,
            bounds=bounds,
        ),
        covariance=inputs.covariance,
        draws=inputs.draws,
        moves=inputs.moves,
        noise=fitted.noise,
        convention=_convention(table),
        range=_ranges(table, family),
        points=points,
        runs_used=len(table),
        runs_dropped=tuple((d.run, d.reason) for d in table.dropped),
        notes=told if ahead is None else beside_forecast(told),
        replicates=between,
        curves=curves_document(recipe, phase),
        holdout=left_out,
        rolling=rolled,
        cross_checks=checks,
        influence=moved,
        forecast=ahead,
        conventions=conventions(table, **refit) if two_terms else (),
        data={} if table.data is None else dataclasses.asdict(table.data),
        recipe=table.recipe,
        source={"path": table.source, "hash": table.hash},
        options={**dataclasses.asdict(options), **(reading or {})},
        versions=versions(LIBRARIES),
    )


def _convention(table: RunTable) -> dict[str, str]:
    """How N and C are counted, and the unit of the losses where it is not nats per token."""
    counts = {"params": table.params_convention, "flops": table.flops_convention}
    return {**counts, "loss": BITS_PER_BYTE} if table.loss_unit == "bpb" else counts


def interval_inputs(
    fitted: Estimate, spread: Uncertainty, points: Points, options: FitOptions
) -> IntervalInputs:
    """Take the law's own parameters out of the problem's, and all that intervals need with them.

    The coordinates of the fast kernel are five, whichever of the two-term laws is fitted.
    """
    names = law(options.law).parameters
    pick = [fitted.problem.names.index(n) for n in names]
    loss = fitted.loss
    return IntervalInputs(
        name=options.name,
        law=options.law,
        theta={n: float(fitted.raw[i]) for n, i in zip(names, pick, strict=True)},
        method=options.interval,
        level=options.level,
        quantile=spread.quantile,
        covariance=spread.covariance[np.ix_(pick, pick)],
        draws=spread.draws[:, pick],
        moves=spread.moves[:, pick],
        points=points,
        objective=Objective(
            name=loss.family.document,
            delta=float(loss.scale) if np.isfinite(loss.scale) else None,
            value=fitted.value,
        ),
    )


def _exponents(theta: Mapping[str, float], law: Law, points: Points) -> dict[str, float]:
    """The exponents of N* ~ C^a and D* ~ C^b at the largest budget, where the law has them."""
    if not law.splits:
        return {}
    a = float(law.exponent(np.array(list(theta.values())), largest_product(points)))
    return {"a": a, "b": 1.0 - a} if math.isfinite(a) else {}


def _cross_checks(
    table: RunTable,
    fitted: Estimate,
    a: float,
    bounds: tuple[float, float],
    options: FitOptions,
) -> tuple[CrossCheck, ...]:
    """Approaches 1 and 2, each compared with the fit's exponent a and its interval."""
    half = (bounds[1] - bounds[0]) / 2  # infinite where the law does not determine it
    model = EnvelopeModel(loss=table.loss * np.exp(-fitted.residual), noise=fitted.noise, a=a)
    checks = isoflop_check(table, options.level), envelope_check(table, model, options.level)
    return tuple(_compare_exponents(check, a, half) for check in checks)


def _compare_exponents(check: CrossCheck, a: float, half: float) -> CrossCheck:
    """Say whether a check's exponent lies outside the joint interval; `half` is half the fit's."""
    if check.a is None:
        return check
    low, high = check.a_interval or (0.0, 0.0)
    disagrees = bool(abs(check.a - a) > np.hypot(half, (high - low) / 2))
    return dataclasses.replace(check, disagrees=disagrees)


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


def _points(table: RunTable, fitted: Estimate) -> Points:
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
        residual=fitted.residual,
        cluster=table.cluster.astype(np.float64),
        columns=columns,
    )


def fit_runs(
    runs: object,
    *,
    name: str,
    column: Sequence[str] = (),
    unit: Sequence[str] = (),
    where: str | Sequence[str] | None = None,
    wide: str | None = None,
    keep_failed: bool = False,
    cluster: str | None = None,
    params: str | None = None,
    flops: str | None = None,
    heldout: str | None = None,
    base: str | None = None,
    hold: Sequence[str] = (),
    **options: Any,
) -> Fit:
    """Read runs and fit a law to them, under a name.

    Args:
        runs: Folder of run records, or tables; see `load`.
        name: Of the fit.
        column: What our columns are in a table, `ours=yours`; see `columns.parse_columns`.
        unit: Units of a table's columns, `column=unit`; see `quantities.parse_units`.
        where: Conditions on the columns, all of which a run must meet.
        wide: Our column, `params` or `tokens`, whose values name columns of losses.
        keep_failed: Keep rows that a tracker calls failed and that reached their end.
        cluster: Column whose equal values mark runs with correlated errors.
        params: Counting convention of N for records; None is theirs by default.
        flops: Counting convention of C, likewise.
        heldout: Held-out set of records whose loss is fitted; None is the main one.
        base: Published law or report folder whose two-term law is held fixed.
        hold: Parameters held at values, `NAME=VALUE`.
        **options: Fields of `FitOptions`.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They cannot carry the fit.
    """
    table = load(
        runs,
        params=params,
        flops=flops,
        heldout=heldout,
        rename=parse_columns(column),
        cluster=cluster,
        where=where,
        units=parse_units(unit),
        wide=wide,
        keep_failed=keep_failed,
        target=law(options.get("law", "chinchilla")).target,
    )
    if base is not None or hold:
        options["hold"] = tuple(held_of(base, hold).items())
    reading: dict[str, Any] = {"where": join_conditions(as_conditions(where)), "cluster": cluster}
    said = {"column": list(column), "unit": list(unit), "wide": wide, "keep_failed": keep_failed}
    reading |= {"base": base} | {k: v for k, v in {**said, "heldout": heldout}.items() if v}
    return fit_table(table, FitOptions(name=name, **options), reading)


def held_of(base: str | None, hold: Sequence[str]) -> dict[str, float]:
    """Parameters that are not fitted: those of a base law, and single ones.

    Args:
        base: A published law or a fit, by its folder or name; it must be a sum of two power laws.
        hold: `NAME=VALUE` each.

    Raises:
        RecordError: No such base.
        QueryError: Not NAME=VALUE, or a parameter twice.
    """
    out: dict[str, float] = {}
    if base is not None:
        source = ScalingLaw.of(base).plain
        values = source.law.parts(source.theta)
        out |= {n: float(v) for n, v in zip(TWO_TERMS, values, strict=True)}
    for text in hold:
        name, _, value = text.partition("=")
        if any(text != other and other.partition("=")[0] == name for other in hold):
            raise QueryError(f"--hold names {name} twice; one value is needed. Remove the other.")
        try:
            out[name] = float(value)
        except ValueError as error:
            raise QueryError(
                f"--hold is '{text}'; NAME=VALUE is needed, such as E=1.87."
            ) from error
    return out
