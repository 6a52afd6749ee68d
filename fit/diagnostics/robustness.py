"""Refits that test a law: held-out budgets, runs left out, other minima, other conventions.

- `holdout`, `rolling`: fit the small runs and predict the large ones, the one test of a law that
  costs no further runs.
- `influence`: N* far beyond the runs, with and without each of them. Every refit is exact and all
  are solved at once; where there are too many runs for that, those are left out that a first-order
  step (with its leverage, that of the HC3 sandwich in `inference.resampling`) says matter most.
  Source: Cook 1977.
- `rival_notes`: other parameters along a flat ridge, and simpler laws inside this one.
- `conventions`: the same runs under every way of counting N and C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.accounting import FlopsPerToken, ParamCounts, flops_per_token_in, params_in
from fit.data.records import Floats
from fit.data.table import RunTable
from fit.diagnostics.approaches import budget_codes
from fit.estimation.general import GeneralProblem
from fit.estimation.objective import FitProblem, derivatives
from fit.estimation.solver import Estimate, estimate, estimate_parts, solve
from fit.estimation.weights import weights_of
from fit.inference.misspecification import detect_misfit, widen_by_misfit
from fit.inference.resampling import sandwich
from fit.laws.law import Law
from fit.results import Holdout, Influence, Rolled
from fit.verdict import Note

SHOWN = (("matmul", "exact"), ("total", "6nd"), ("body", "6nd"), ("chinchilla", "chinchilla"))
"""Counts of N and C that go together in the literature."""
GROUPS = ("params_body", "params_head", "params_embedding", "params_other")
TERMS = ("flops_body", "flops_head", "flops_attention")
LEAST_RUNS = 6
LEAST_BELOW = 10
"""Runs that the first of rolling predictions rests on: twice the law's parameters."""
MOST_ROLLED = 8
"""Budgets predicted one after the other, the largest."""
FURTHER = 10.0
"""Budget at which N* is compared, over the largest one fitted."""
MOST_MOVED = float(np.log(1e6))
"""ln of the factor by which N* moves at most: a refit that moves it farther has no optimum."""
KEPT = 5
"""Runs, and clusters, that are reported: those that move N* most."""
WORK = 2_000_000
"""Weights (refits x runs) solved at most: all of 1400 runs, 20 of 100,000."""
BATCH = 250_000
DISTINCT = 0.3
"""Natural logarithm (of a scale) or share of itself (of an exponent) beyond which minima differ."""


def conventions(
    table: RunTable, *, law: str, loss: str, delta: float | None
) -> tuple[Mapping[str, Any], ...]:
    """Exponent a and D/N at the largest budget under each convention; none without the counts.

    Args:
        table: Runs whose columns hold parameters per group and FLOPs per token by term.
        law: Family, as in `estimate`.
        loss: Robust loss.
        delta: Huber's threshold.
    """
    if not {*GROUPS, *TERMS} <= set(table.columns):
        return ()
    rows = []
    for params, flops in SHOWN:
        n, per_token = _counted(table, params, flops)
        problem = FitProblem.of(n, table.tokens, table.loss)
        raw = estimate(problem, law=law, loss=loss, delta=delta, weights=weights_of(table)).raw
        rows.append(
            {
                "params": params,
                "flops": flops,
                "a": float(raw[4] / (raw[3] + raw[4])),
                "tokens_per_param": _best_ratio(raw, n, per_token, table.tokens),
            }
        )
    return tuple(rows)


def _counted(table: RunTable, params: str, flops: str) -> tuple[Floats, Floats]:
    """N and FLOP per token of every run under a convention."""
    groups = zip(*(table.column(c).astype(int).tolist() for c in GROUPS), strict=True)
    idle = table.column("params_idle") if "params_idle" in table.columns else 0 * table.params
    n = [
        params_in(params, ParamCounts(body=b, head=h, embedding=e, other=o, idle=int(i)))
        for (b, h, e, o), i in zip(groups, np.nan_to_num(idle), strict=True)
    ]
    terms = zip(n, *(table.column(c).astype(int).tolist() for c in TERMS), strict=True)
    per_token = [
        flops_per_token_in(flops, flops=FlopsPerToken(body=b, head=h, attention=t), params=k)
        for k, b, h, t in terms
    ]
    return np.array(n, dtype=np.float64), np.array(per_token, dtype=np.float64)


def _best_ratio(raw: Floats, params: Floats, per_token: Floats, tokens: Floats) -> float:
    """D/N of the least loss at the largest budget, with FLOPs per token interpolated in ln N."""
    sizes, first = np.unique(params, return_index=True)
    n = np.geomspace(sizes[0] / 100, sizes[-1] * 100, 4001)
    per_param = np.interp(np.log(n), np.log(sizes), np.log(per_token[first] / sizes))
    d = (per_token * tokens).max() / (n * np.exp(per_param))
    with np.errstate(over="ignore"):
        best = int(np.argmin(raw[1] * n ** -raw[3] + raw[2] * d ** -raw[4]))
    return float(d[best] / n[best])


def largest(flops: Floats) -> NDArray[np.bool_]:
    """The runs to hold out: those of the largest budget.

    Where runs stand in budgets (several runs at one compute) that is the last of them; on a grid of
    sizes and lengths, where hardly two runs share a budget, all within a factor 2 of the largest.
    """
    codes = _steps(flops)
    return np.asarray(codes == codes.max())


def _steps(flops: Floats) -> NDArray[np.int64]:
    """Codes of budgets, ascending; of factors of 2 down from the largest, where there are none."""
    codes = budget_codes(flops)
    if np.median(np.bincount(codes)) >= 3:
        return codes
    halvings = np.floor(np.log2(flops.max() / flops)).astype(np.int64)
    return np.asarray(np.unique(-halvings, return_inverse=True)[1])


def holdout(
    table: RunTable,
    *,
    law: str,
    loss: str,
    delta: float | None,
    level: float,
    whole: Estimate | None = None,
) -> Holdout | None:
    """Fit without the largest budget and predict it; None where too few runs would be left.

    Args:
        table: The runs.
        law: Family, as in `estimate`.
        loss: Robust loss.
        delta: Huber's threshold.
        level: Of the prediction intervals.
        whole: The fit to all of them: a declared law is fitted again from there.
    """
    out = largest(table.flops)
    kept = table.take(~out)
    if not _enough(kept, max(LEAST_RUNS, _free(whole)) + 1):
        return None
    small = _refit(kept, whole, law=law, loss=loss, delta=delta)
    return _held_out(small, kept, table.take(out), level)


def _held_out(small: Estimate, kept: RunTable, left: RunTable, level: float) -> Holdout:
    """Predictions of the runs left by a fit to those kept."""
    predicted, inside = _predict(small, kept, left, level)
    ratio = predicted / left.loss - 1
    return Holdout(
        budget=float(left.flops.min()),
        runs=left.run,
        predicted=tuple(predicted.tolist()),
        measured=tuple(left.loss.tolist()),
        mean_relative_error=float(ratio.mean()),
        max_relative_error=float(np.abs(ratio).max()),
        covered=float(inside.mean()),
    )


def rolling(
    table: RunTable,
    *,
    law: str,
    loss: str,
    delta: float | None,
    level: float,
    whole: Estimate | None = None,
    top: Holdout | None = None,
) -> tuple[Rolled, ...]:
    """Predict each larger budget by the law fitted to all below it.

    Args:
        table: The runs.
        law: Family, as in `estimate`.
        loss: Robust loss.
        delta: Huber's threshold.
        level: Of the prediction intervals.
        whole: The fit to all of them.
        top: The `holdout` of the largest budget, if it is known.

    Returns:
        The last `MOST_ROLLED` budgets that enough runs lie below, ascending.
    """
    codes = _steps(table.flops)
    parts: list[NDArray[np.bool_]] = []
    for code in range(int(codes.max()), 0, -1):
        enough = _enough(table.take(codes < code), max(LEAST_BELOW, 2 * _free(whole)))
        if len(parts) == MOST_ROLLED or not enough:
            break
        parts.append(codes < code)
    known = [top] if top is not None and parts else []
    later = parts[len(known) :]
    how: dict[str, Any] = {"law": law, "loss": loss, "delta": delta}
    if whole is not None and isinstance(whole.problem, GeneralProblem):
        fits = [_refit(table.take(p), whole, **how) for p in later]
    else:
        problem = FitProblem.of(table.params, table.tokens, table.loss)
        fits = estimate_parts(problem, later, **how, weights=weights_of(table)) if later else []
    for small, part in zip(fits, later, strict=True):
        left = table.take(codes == codes[part].max() + 1)
        known.append(_held_out(small, table.take(part), left, level))
    return tuple(
        Rolled(
            budget=held.budget,
            runs=len(held.runs),
            below=int(part.sum()),
            mean_relative_error=held.mean_relative_error,
            max_relative_error=held.max_relative_error,
            covered=held.covered or 0.0,
        )
        for held, part in zip(known[::-1], parts[::-1], strict=True)
    )


def _enough(kept: RunTable, least: int) -> bool:
    """Whether runs can carry a law that predicts others."""
    sizes, lengths = len(np.unique(kept.params)), len(np.unique(kept.tokens))
    return len(kept) >= least and sizes >= 3 and lengths >= 3


def _free(whole: Estimate | None) -> int:
    """Parameters of the law; of the fast ones at most 5."""
    return 5 if whole is None else whole.family.free


def _refit(
    kept: RunTable, whole: Estimate | None, *, law: str, loss: str, delta: float | None
) -> Estimate:
    """The law by the runs kept; a declared one from where all runs have it."""
    weights = weights_of(kept)
    if whole is None:
        problem = FitProblem.of(kept.params, kept.tokens, kept.loss)
        return estimate(problem, law=law, loss=loss, delta=delta, weights=weights)
    problem = whole.problem.with_runs(kept)
    return estimate(problem, law=law, loss=loss, delta=delta, weights=weights, near=whole.raw)


def _predict(
    small: Estimate, kept: RunTable, left: RunTable, level: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Loss of the runs left out, and whether it lies in its prediction interval (hc3).

    The interval is widened by the misfit that the smaller runs show, as their own fit would be.
    """
    problem = small.problem
    far = problem.at_runs(left)
    # The covariance is of raw-count logarithms; map it back to the internal parameters.
    spread = sandwich(small, kept.cluster, level)
    spread = widen_by_misfit(spread, detect_misfit(small, kept.cluster))
    if not np.isfinite(spread.covariance).all():  # nothing is known: nothing is ruled out
        gap = far.residual(small.theta)
        return left.loss * np.exp(-gap), np.ones(len(gap), dtype=bool)
    inverse = np.linalg.inv(problem.log_raw_jacobian())
    covariance = inverse @ spread.covariance @ inverse.T
    jacobian = far.jacobian(small.theta)
    weights, before = weights_of(left), weights_of(kept)
    ratio = 1.0 if weights is None or before is None else before.mean() / weights
    law = np.einsum("ni,ij,nj->n", jacobian, covariance, jacobian)
    variance = np.maximum(law, 0.0) + small.noise**2 * ratio
    gap = far.residual(small.theta)
    inside = np.abs(gap) <= spread.quantile * np.sqrt(variance)
    return left.loss * np.exp(-gap), inside


def influence(table: RunTable, fitted: Estimate) -> tuple[Influence, ...]:
    """What leaving out each run, and each cluster of several, does to N*.

    Args:
        table: The fitted runs.
        fitted: Their point fit; the refits keep its loss.

    Returns:
        The runs that move ln N* at ten times the largest budget most, then the clusters.
    """
    out = _ranked(table, fitted, np.arange(len(table)), "run")
    codes = np.unique(table.cluster, return_inverse=True)[1]
    if 2 < codes.max() + 1 < len(table):
        out += _ranked(table, fitted, codes, "cluster")
    return tuple(out)


def log_optimum(table: RunTable, raw: Floats) -> Floats:
    """The ln of N* at ten times the largest budget for parameters (..., 5) on raw counts.

    FLOPs per parameter and token are those of the costliest run, the same in every refit.
    """
    top = int(np.argmax(table.flops))
    product = FURTHER * table.params[top] * table.tokens[top]  # N* D* at ten times its FLOPs
    _, a, b, alpha, beta = np.moveaxis(np.asarray(raw), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.log(alpha) + np.log(a) - np.log(beta) - np.log(b)
        return np.asarray((ratio + beta * np.log(product)) / (alpha + beta))


def _ranked(
    table: RunTable, fitted: Estimate, codes: NDArray[np.int64], kind: str
) -> list[Influence]:
    """The groups of runs that move ln N* most when they are left out."""
    shifts = _first_order(table, fitted, codes)
    chosen = np.argsort(-np.abs(shifts), kind="stable")[: max(KEPT, WORK // len(codes))]
    exact = log_optimum(table, _without(fitted, codes, chosen))
    shifts[chosen] = exact - float(log_optimum(table, fitted.raw))
    shifts[~np.isfinite(shifts)] = 0.0
    shifts = np.clip(shifts, -MOST_MOVED, MOST_MOVED)
    total = max(float((shifts**2).sum()), 1e-300)
    out = []
    for i in chosen[np.argsort(-np.abs(shifts[chosen]), kind="stable")][:KEPT]:
        inside = np.flatnonzero(codes == i)
        out.append(
            Influence(
                kind=kind,
                run=table.run[int(inside[0])],
                runs=len(inside),
                shift=float(shifts[i]),
                share=float(shifts[i] ** 2 / total),
                flops=float(table.flops[inside].sum()),
            )
        )
    return out


def _without(fitted: Estimate, codes: NDArray[np.int64], chosen: NDArray[np.int64]) -> Floats:
    """Parameters on raw counts refitted without each of some groups, (chosen, 5)."""
    out = np.empty((len(chosen), 5))
    size = max(1, BATCH // len(codes))
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        weights = (codes[None, :] != part[:, None]) * fitted.weights
        starts = np.repeat(fitted.theta[None], len(part), axis=0)
        out[start : start + size] = solve(
            fitted.problem, starts, weights, fitted.loss, fitted.family
        ).theta
    return fitted.problem.raw(out)


def _first_order(table: RunTable, fitted: Estimate, codes: NDArray[np.int64]) -> Floats:
    """Change of ln N* when each group is left out, by one Newton step with leverage, (groups,)."""
    basis, groups = fitted.family.basis, int(codes.max()) + 1
    jacobian = fitted.problem.jacobian(fitted.theta) @ basis
    m = fitted.problem.y - fitted.residual
    _, psi, curve = (fitted.weights * v for v in fitted.loss.terms(fitted.residual, m))
    exact = derivatives(fitted.problem, fitted.theta[None], fitted.weights[None], fitted.loss)[2][0]
    inverse = np.linalg.pinv(basis.T @ exact @ basis, hermitian=True)
    leverage = np.einsum("ni,ij,nj->n", jacobian, inverse, jacobian) * np.maximum(curve, 0.0)
    scores = jacobian * (psi / np.maximum(1 - leverage, 0.05))[:, None]
    sums = np.stack([np.bincount(codes, s, minlength=groups) for s in scores.T], axis=1)
    return np.asarray(-sums @ inverse @ basis.T @ _slope(table, fitted))


def _slope(table: RunTable, fitted: Estimate) -> Floats:
    """Derivative of ln N* with respect to the internal parameters, (5,)."""
    step = 1e-5
    ends = fitted.problem.raw(fitted.theta + step * np.concatenate([np.eye(5), -np.eye(5)]))
    values = log_optimum(table, ends)
    return np.asarray((values[:5] - values[5:]) / (2 * step))


def rival_notes(fitted: Estimate, bounds: Mapping[str, tuple[float, float]]) -> Iterator[Note]:
    """Notes on a declared law; none on the fast ones, whose minima `notes.fit_notes` counts.

    Args:
        fitted: The point fit, with the minima that its search ended in.
        bounds: Intervals of the parameters.
    """
    if not isinstance(fitted.problem, GeneralProblem):
        return
    yield from _ridge(fitted, fitted.problem)
    yield from _simpler(fitted, fitted.problem.law, bounds)


def near_minima(fitted: Estimate) -> tuple[Floats, float]:
    """Minima that the runs cannot rule out, (k, p) on raw counts, and how far they lie above.

    A rise of the objective by 1/dof of itself is one standard error of a parameter, for any loss
    whose sum goes as the noise: exact for least squares, near enough for the robust ones.
    """
    assert fitted.minima is not None
    dof = max(1, len(fitted.residual) - fitted.family.free)
    rise = fitted.minima.value / max(fitted.value, 1e-300) - 1
    near = rise <= 1 / dof
    return fitted.problem.raw(fitted.minima.theta[near]), float(rise[near].max())


def _ridge(fitted: Estimate, problem: GeneralProblem) -> Iterator[Note]:
    """Note a flat ridge: quite different parameters fit as well."""
    if fitted.minima is None:
        return
    raw, rise = near_minima(fitted)
    spans = []
    for i in problem.identifying:
        low, high = float(raw[:, i].min()), float(raw[:, i].max())
        scale = problem.law.declared[i].scale
        distance = np.log(high / low) if scale else (high - low) / max(abs(fitted.raw[i]), 1e-300)
        if distance > DISTINCT:
            spans.append(f"{problem.names[i]} from {low:.3g} to {high:.3g}")
    if spans:
        yield Note(
            code="flat_ridge",
            severity="warning",
            message=f"the objective is a flat ridge: {' with '.join(spans)} fit within {rise:.2g} "
            f"of the best ({len(raw)} minima, shares of the objective), less than the runs can "
            "resolve. Rely on predictions near the runs, not on these parameters.",
        )


def _simpler(
    fitted: Estimate, law: Law, bounds: Mapping[str, tuple[float, float]]
) -> Iterator[Note]:
    """Note whether the interval of a parameter excludes the simpler law inside this one."""
    for name, (null, meaning) in law.null.items():
        low, high = bounds[name]
        value = float(fitted.raw[law.parameters.index(name)])
        shown = f"parameter {name} is {value:.3g} [{low:.3g}, {high:.3g}]"
        if low <= null <= high:
            text = (
                f"{shown}, which includes {null:g}: these runs do not distinguish the law from "
                f"{meaning}."
            )
            yield Note(code="simpler_law", severity="info", message=text)
        else:
            text = (
                f"{shown}, which excludes {null:g}: {meaning} (where it is {null:g}) is not what "
                "these runs follow, however well it fits."
            )
            yield Note(code="simpler_law_excluded", severity="warning", message=text)
