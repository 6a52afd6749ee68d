"""A table of runs in, a judged fit out: estimate, intervals, checks, notes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.conventions import conventions
from fit.envelope import Fitted, envelope
from fit.errors import FitError
from fit.estimate import Estimate, Family, estimate
from fit.holdout import holdout, rolling
from fit.influence import influence
from fit.isoflop import isoflop
from fit.judge import check_runs, misfit_note, notes, status_of
from fit.laws import law as law_named
from fit.misfit import examine, shifted, widened
from fit.objective import LOSSES, Problem
from fit.provenance import versions
from fit.record import Floats, RunTable
from fit.result import CrossCheck, Fit, Intervals, Note, Objective, Points, Span
from fit.thinning import MOST_RUNS, thinned
from fit.uncertainty import Sandwich, bootstrap, kappa, percentiles, sandwich

INTERVALS = ("hc3", "pairs")
PARAMETERS = ("E", "A", "B", "alpha", "beta")
LEAST_RESAMPLES = 200
"""Below this the percentiles of a 90% interval rest on fewer than ten draws."""
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

    def __post_init__(self) -> None:
        law_named(self.law)
        _known("loss", self.loss, LOSSES)
        _known("interval", self.interval, INTERVALS)
        if not 0 < self.level < 1:
            raise FitError(f"level is {self.level}; a share between 0 and 1 is needed, as 0.9.")
        if self.delta is not None and self.loss != "huber":
            raise FitError(f"delta applies to --loss huber alone, not to '{self.loss}'. Add it.")
        if self.seed < 0:
            raise FitError(f"seed is {self.seed}; 0 or more is needed.")
        if self.interval == "pairs" and self.resamples < LEAST_RESAMPLES:
            raise FitError(
                f"interval 'pairs' needs {LEAST_RESAMPLES} resamples; found {self.resamples}."
            )
        if self.resamples < 0:
            raise FitError(f"resamples is {self.resamples}; 0 or more are needed, such as 4000.")


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
    family = Family.of(options.law)
    check_runs(table, family.free)
    problem = Problem.of(table.params, table.tokens, table.loss)
    found = _estimate(problem, options)
    spread, draws, widening = _spread(found, table, options)
    bounds = _bounds(found, spread, draws, options)
    checks = _cross_checks(table, found, bounds["a"], options)
    names = law_named(options.law).parameters
    pick = [PARAMETERS.index(n) for n in names]
    return Fit(
        name=options.name,
        law=options.law,
        theta={n: float(found.raw[i]) for n, i in zip(names, pick, strict=True)},
        exponents=_exponents(found.raw),
        status=status_of(found, table),
        kappa=kappa(found),
        objective=_objective(found),
        interval=Intervals(
            level=options.level,
            method=options.interval,
            quantile=spread.quantile,
            dof=spread.dof,
            bounds={n: b for n, b in bounds.items() if n in (*names, "a", "b")},
        ),
        covariance=spread.covariance[np.ix_(pick, pick)],
        draws=draws[:, pick],
        noise=found.noise,
        points=_points(table, found),
        cross_checks=checks,
        conventions=conventions(table, law=options.law, loss=options.loss, delta=options.delta),
        options=dataclasses.asdict(options),
        versions=versions(LIBRARIES),
        **_input(table),
        **_judged(table, found, checks, _thinned(rows, len(table)) + widening, options),
    )


def _thinned(rows: int, kept: int) -> tuple[Note, ...]:
    """Says that not all rows were fitted."""
    if kept == rows:
        return ()
    text = (
        f"the law is fitted to {kept:,} of {rows:,} rows, drawn evenly over compute: the rest "
        "would narrow the intervals below what any law is true to."
    )
    return (Note(code="thinned", severity="info", message=text),)


def _input(table: RunTable) -> dict[str, Any]:
    """The fields of a fit that say what went in."""
    return {
        "convention": {"params": table.params_convention, "flops": table.flops_convention},
        "range": _ranges(table),
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
    chinchilla = options.law == "chinchilla"
    without = _estimate(found.problem, options, law="no-e") if chinchilla else None
    how: dict[str, Any] = {"law": options.law, "loss": options.loss, "delta": options.delta}
    held = holdout(table, **how, level=options.level)
    rolled = rolling(table, **how, level=options.level)
    blind = status_of(found, table) == "ill_conditioned"
    moved = () if blind else influence(table, found)
    told = notes(table, found, without, held, checks, rolled, moved)
    return {"holdout": held, "rolling": rolled, "influence": moved, "notes": told + further}


def _estimate(problem: Problem, options: FitOptions, law: str | None = None) -> Estimate:
    """The point fit as asked for."""
    return estimate(problem, law=law or options.law, loss=options.loss, delta=options.delta)


def _objective(found: Estimate) -> Objective:
    """What was minimised."""
    name = "log-huber" if found.loss.name in ("adaptive", "huber") else found.loss.name
    delta = found.loss.scale if np.isfinite(found.loss.scale) else None
    return Objective(name=name, delta=delta, value=found.value)


def _spread(
    found: Estimate, table: RunTable, options: FitOptions
) -> tuple[Sandwich, Floats, tuple[Note, ...]]:
    """Covariance and draws, wider where the runs are not the law's, and a note that says so."""
    plain = sandwich(found, table.cluster, options.level)
    draws = _draws(found, table, options)
    misfit = examine(found, table.cluster)
    if misfit is None:
        return plain, draws, ()
    wide, moved = widened(plain, misfit), shifted(draws, misfit, options.seed)
    before = _bounds(found, plain, draws, options)
    after = _bounds(found, wide, moved, options)
    return wide, moved, (misfit_note(misfit, before, after),)


def _draws(found: Estimate, table: RunTable, options: FitOptions) -> Floats:
    """Bootstrap draws by cluster; none where a single cluster leaves nothing to resample."""
    if options.resamples == 0 or len(np.unique(table.cluster)) < 2:
        return np.empty((0, 5))
    return bootstrap(found, table.cluster, options.resamples, options.seed)


def _exponents(raw: Floats) -> dict[str, float]:
    """A and b of N* ~ C^a, D* ~ C^b."""
    a = float(raw[4] / (raw[3] + raw[4]))
    return {"a": a, "b": 1.0 - a}


def _bounds(
    found: Estimate, spread: Sandwich, draws: Floats, options: FitOptions
) -> dict[str, tuple[float, float]]:
    """Interval of every parameter and exponent by the chosen method."""
    raw = found.raw
    if options.interval == "pairs":
        if not len(draws):
            raise FitError("interval 'pairs' needs resamples and at least two clusters; use hc3.")
        share = draws[:, 4] / (draws[:, 3] + draws[:, 4])
        ends = percentiles(np.column_stack([draws, share, 1 - share]), options.level)
        names = (*PARAMETERS, "a", "b")
        return {n: (float(ends[0][i]), float(ends[1][i])) for i, n in enumerate(names)}
    half = spread.quantile * np.sqrt(np.maximum(np.diag(spread.covariance), 0.0))
    bounds = {}
    for i, name in enumerate(PARAMETERS):
        if i < 3:
            factor = np.exp(min(half[i], 700.0))
            bounds[name] = (float(raw[i] / factor), float(raw[i] * factor))
        else:
            bounds[name] = (float(raw[i] - half[i]), float(raw[i] + half[i]))
    total = raw[3] + raw[4]
    gradient = np.array([-raw[4], raw[3]]) / total**2
    variance = max(float(gradient @ spread.covariance[3:, 3:] @ gradient), 0.0)
    spread_a = spread.quantile * variance**0.5
    a = float(raw[4] / total)
    bounds["a"] = (a - spread_a, a + spread_a)
    bounds["b"] = (1 - a - spread_a, 1 - a + spread_a)
    return bounds


def _cross_checks(
    table: RunTable, found: Estimate, bounds: tuple[float, float], options: FitOptions
) -> tuple[CrossCheck, ...]:
    """Approaches 1 and 2, each compared with the fit's exponent."""
    half, a = (bounds[1] - bounds[0]) / 2, _exponents(found.raw)["a"]
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


def _ranges(table: RunTable) -> dict[str, Span]:
    """Smallest and largest value of what was fitted."""
    columns = {
        "params": table.params,
        "tokens": table.tokens,
        "flops": table.flops,
        "tokens_per_param": table.tokens / table.params,
        "loss": table.loss,
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
