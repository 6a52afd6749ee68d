"""Whether to believe a fit: notes in plain words, each with what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from fit.errors import FitError
from fit.estimate import Estimate
from fit.misfit import TERMS, Misfit
from fit.record import Floats, RunTable
from fit.result import CrossCheck, Holdout, Note
from fit.uncertainty import e_is_needed, kappa

KAPPA_WARNING, KAPPA_REFUSED = 250.0, 1000.0
"""Condition numbers of the centred Jacobian: 40-160 is healthy; above 1000 basins fit alike."""
OUTLIER = 5.0
"""Noise units; a Gaussian does so once in two million runs."""
TREND = 1e-3
"""Probability below which a trend of the residuals is no accident."""
FEW_CLUSTERS = 8


def check_runs(table: RunTable, free: int) -> None:
    """Refuse runs that cannot carry the law at all.

    Raises:
        FitError: Too few distinct points, one size only, or one length only.
    """
    points = len({(n, d) for n, d in zip(table.params, table.tokens, strict=True)})
    where = f"{table.source or 'the table'} has {points}"
    if table.dropped:
        where += f" after dropping {len(table.dropped)} runs ({table.dropped[0].reason})"
    if points < free + 1:
        raise FitError(
            f"a law with {free} parameters needs {free + 1} distinct (params, tokens) points; "
            f"{where}. Add sizes or lengths: python -m sweep -m ..."
        )
    for name, values in (("sizes (params)", table.params), ("lengths (tokens)", table.tokens)):
        distinct = len(np.unique(values))
        if distinct < 2:
            raise FitError(
                f"all {len(table)} runs have one value of {name}; at least 3 different {name} are "
                "needed to tell the law's terms apart. Sweep over both."
            )


def status_of(found: Estimate, table: RunTable) -> str:
    """`converged`, `at_bound`, `ill_conditioned` or `max_iterations`."""
    if singular(table) or kappa(found) > KAPPA_REFUSED:
        return "ill_conditioned"
    if not found.converged:
        return "max_iterations"
    return "at_bound" if found.at_bound else "converged"


def singular(table: RunTable) -> bool:
    """Whether the runs cannot tell N from D, whatever was measured."""
    few = min(len(np.unique(table.params)), len(np.unique(table.tokens))) < 3
    return few or constant_ratio(table) or one_budget(table)


def constant_ratio(table: RunTable) -> bool:
    """Whether tokens per parameter are the same in every run, to 5%."""
    return float(np.log(table.tokens / table.params).std()) < 0.05


def one_budget(table: RunTable) -> bool:
    """Whether all runs spent the same compute, to 10%."""
    return float(table.flops.max() / table.flops.min()) < 1.1


def notes(
    table: RunTable,
    found: Estimate,
    without_e: Estimate | None,
    holdout: Holdout | None,
    checks: tuple[CrossCheck, ...],
) -> tuple[Note, ...]:
    """Everything that a reader should know before believing the fit."""
    return tuple(
        note
        for part in (
            _condition(found),
            _variety(table),
            _solution(table, found),
            _entropy(found, without_e),
            _outliers(table, found),
            _trends(table, found),
            _sources(table),
            _checks(holdout, checks),
        )
        for note in part
    )


def _condition(found: Estimate) -> Iterator[Note]:
    """Can the runs tell the terms apart?"""
    condition = kappa(found)
    if condition > KAPPA_REFUSED:
        yield _note(
            "ill_conditioned",
            "serious",
            f"condition number {condition:.3g} is above {KAPPA_REFUSED:g}: the runs cannot tell "
            "the law's terms apart, and N* is refused. Add runs of other sizes and lengths.",
        )
    elif condition > KAPPA_WARNING:
        yield _note(
            "ill_conditioned",
            "warning",
            f"condition number {condition:.3g} (40-160 is healthy): widen the range of params or "
            "tokens.",
        )


def _variety(table: RunTable) -> Iterator[Note]:
    """Do sizes, lengths and budgets differ at all?"""
    for name, values in (("params", table.params), ("tokens", table.tokens)):
        distinct = len(np.unique(values))
        if distinct < 3:
            yield _note(
                f"few_{name}",
                "serious",
                f"only {distinct} different {name}: a term and its exponent need 3. Add more.",
            )
    if constant_ratio(table):
        yield _note(
            "constant_ratio",
            "serious",
            "tokens per parameter are the same in every run: N and D cannot be told apart. "
            "Vary one at a fixed value of the other.",
        )
    if one_budget(table):
        yield _note(
            "one_budget",
            "serious",
            "all runs spent one budget: how loss falls with compute cannot be seen. Add budgets.",
        )


def _solution(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Is the solution inside its bounds, the only one, and resting on enough trajectories?"""
    for name in found.at_bound:
        if name != "E":
            yield _note(
                "at_bound", "serious", f"{name} sits on its bound: the runs do not determine it."
            )
    if found.basins > 1:
        yield _note(
            "several_basins",
            "warning",
            f"{found.basins} different solutions fit within 5% of the best: believe the interval "
            "of the loss inside the range, not single parameters.",
        )
    clusters = len(np.unique(table.cluster))
    if clusters < min(FEW_CLUSTERS, len(table)):
        yield _note(
            "few_clusters",
            "info",
            f"intervals rest on {clusters} independent trajectories (runs of one trunk share their "
            f"past), so they are wide; more sizes or seeds narrow them.",
        )


def _entropy(found: Estimate, without_e: Estimate | None) -> Iterator[Note]:
    """Is there an irreducible loss in the data at all?"""
    if "E" in found.at_bound:
        yield _note(
            "e_at_zero",
            "warning",
            "the fitted irreducible loss E is zero, its bound: the runs are too far from it to "
            "see it. Extrapolation to large budgets is too optimistic; train longer runs.",
        )
    elif without_e is not None:
        statistic = e_is_needed(found, without_e)
        dof = len(found.residual) - found.family.free
        if statistic < _f_quantile(dof):
            yield _note(
                "e_not_needed",
                "warning",
                "a law without E cannot be ruled out: E rests on the form of the law, not on the "
                "runs. Longer runs of larger models would pin it down.",
            )


def _f_quantile(dof: int) -> float:
    """95% quantile of F(1, dof)."""
    from scipy import stats

    return float(stats.f.ppf(0.95, 1, max(dof, 1)))


def _outliers(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Runs that lie far from the law."""
    units = found.residual / max(found.noise, 1e-12)
    far = np.flatnonzero(np.abs(units) > OUTLIER)
    for i in far[np.argsort(-np.abs(units[far]))][:5]:
        side = "above" if units[i] > 0 else "below"
        yield _note(
            "outlier",
            "warning",
            f"run {table.run[i]} lies {abs(units[i]):.0f} noise units {side} the law: look at its "
            "curve, or run it again.",
        )
    if len(far) > 5:
        yield _note("outliers", "warning", f"{len(far)} runs lie beyond {OUTLIER:g} noise units.")


def _trends(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Structure that the law leaves in the residuals."""
    names = {"ln N": table.params, "ln D": table.tokens, "ln C": table.flops}
    variables = {name: np.log(v) for name, v in names.items()}
    variables["ln(D/N)"] = variables["ln D"] - variables["ln N"]
    if {"width", "depth"} <= set(table.columns):
        variables["ln(width/depth)"] = np.log(table.column("width") / table.column("depth"))
    worst = min(
        ((_trend(v, found.residual), name) for name, v in variables.items()), default=(1.0, "")
    )
    if worst[0] < TREND:
        yield _note(
            "trend",
            "warning",
            f"residuals bend with {worst[1]} (p = {worst[0]:.1g}): the runs are not exactly a sum "
            "of two power laws over this range. Fit a narrower range and compare: --where.",
        )
    joint = found.problem.x * found.problem.z
    if _explained(np.stack([np.ones_like(joint), joint], axis=1), found.residual) < TREND:
        slope = float(np.polyfit(joint, found.residual, 1)[0])
        yield _note(
            "interaction",
            "warning",
            f"larger models gain {'less' if slope > 0 else 'more'} from more tokens than a sum of "
            "two power laws allows: no single N* curve follows from these runs. Train longer, or "
            "larger models, until the note goes away.",
        )


def _trend(variable: Floats, residual: Floats) -> float:
    """Probability of a cubic trend at least this strong by accident (F test)."""
    if len(np.unique(variable.round(9))) < 5 or len(residual) < 12:
        return 1.0
    x = (variable - variable.mean()) / variable.std()
    return _explained(np.vander(x, 4), residual)


def _explained(design: Floats, residual: Floats) -> float:
    """Probability that columns, one of them constant, explain this much by accident (F test)."""
    from scipy import stats

    fitted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    rest = float(((residual - fitted) ** 2).sum())
    gained = float(((residual - residual.mean()) ** 2).sum()) - rest
    more = design.shape[1] - 1
    dof = len(residual) - 5 - more
    if dof < 2 or rest <= 0:
        return 1.0
    return float(stats.f.sf(gained / more / (rest / dof), more, dof))


def _sources(table: RunTable) -> Iterator[Note]:
    """What went in."""
    if table.data is None and "vocab" in table.columns:
        yield _note(
            "mixed_data",
            "serious",
            "the runs were trained on different data: one law holds for one data set. "
            "Fit them apart: --where.",
        )
    ratio = float(np.median(table.tokens / table.params))
    if table.params.max() < 1e3 or table.tokens.max() < 1e4 or not 1e-2 < ratio < 1e5:
        yield _note(
            "units",
            "serious",
            f"params reach {table.params.max():.3g} and tokens {table.tokens.max():.3g}: raw "
            "counts are needed, not millions or billions. Multiply the column and fit again.",
        )
    cost = table.flops / (6 * table.params * table.tokens)
    if cost.max() > 20 or cost.min() < 0.05:
        yield _note(
            "units",
            "serious",
            f"flops are {cost.min():.2g} to {cost.max():.2g} times 6 params tokens: one of the "
            "three columns is in another unit. Mend it and fit again.",
        )
    if table.dropped:
        reasons = sorted({d.reason.split(":")[0] for d in table.dropped})
        yield _note(
            "dropped", "info", f"{len(table.dropped)} runs are left out: {', '.join(reasons)}."
        )


def _checks(holdout: Holdout | None, checks: tuple[CrossCheck, ...]) -> Iterator[Note]:
    """Do the other approaches and the held-out budget agree?"""
    if holdout is not None and holdout.max_relative_error > 0.02:
        yield _note(
            "holdout",
            "warning",
            f"without the largest budget the law misses it by {holdout.max_relative_error:.1%}: "
            "do not trust it much beyond the range.",
        )
    for check in checks:
        if check.disagrees and check.a is not None and math.isfinite(check.a):
            yield _note(
                "disagreement",
                "warning",
                f"approach '{check.name}' finds the exponent a = {check.a:.3f}, outside the joint "
                "interval: read both before spending.",
            )


def misfit_note(
    misfit: Misfit,
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
) -> Note:
    """What the law's misfit does to the intervals; `before` and `after` are theirs, by name."""
    what = (
        f"the runs are not quite the law's: {TERMS[misfit.term]} ({abs(misfit.statistic):.1f} "
        "standard errors). "
    )
    if not misfit.shift.any():
        return _note(
            "misfit",
            "warning",
            what + "Over so short a range its effect cannot be told, and the intervals leave it "
            "out: extrapolate with care, and widen the range of params and tokens.",
        )
    wider = {k: (after[k][1] - after[k][0]) / (before[k][1] - before[k][0]) for k in ("E", "a")}
    return _note(
        "misfit",
        "warning",
        what + f"Its effect is added to the intervals: E's is {wider['E']:.1f} times "
        f"wider, a's {wider['a']:.1f} times. Fit a narrower range and compare: --where.",
    )


def _note(code: str, severity: str, message: str) -> Note:
    """A note."""
    return Note(code=code, severity=severity, message=message)
