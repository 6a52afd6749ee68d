"""Notes on a fit: what may be wrong with it, in plain words, and what to do about it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fit.data.table import RunTable
from fit.diagnostics.curves import Collapse, CurveChecks
from fit.diagnostics.residuals import intake_notes, residual_notes
from fit.diagnostics.tuning import tuning_notes
from fit.errors import FitError
from fit.estimation.general import GeneralProblem
from fit.estimation.solver import Estimate
from fit.estimation.weights import EQUAL
from fit.inference.misspecification import EVENTS, TERMS, Misfit, Phase
from fit.inference.resampling import e_is_needed, kappa, t_quantile
from fit.laws.law import Law
from fit.quantities import count_noun, percent, power, short
from fit.results import CrossCheck, Fit, Holdout, Influence, Rolled
from fit.verdict import DOUBTFUL_KAPPA, REFUSED_KAPPA, Note

FEW_CLUSTERS = 8
DECIDES = 0.6
"""Share of the squared influence of all runs above which one of them decides the answer; sweeps of
30 clean runs reach 0.5 once in a hundred (100 isoFLOP sweeps of 5 x 6)."""
LEAST_ROLLED, LEAST_COVERED = 3, 0.8
"""Budgets that make errors of one sign a bias, and the share of runs inside their prediction
intervals below which the intervals do not make up for it."""
MATTERS = 0.1
"""Change of N* below which it does not matter what decides it."""


def check_runs(table: RunTable, free: int, what: str = "loss") -> None:
    """Refuse runs that cannot carry the law at all.

    Raises:
        FitError: Numbers that are not positive and finite, too few distinct points or losses, one
            size only, or one length only.
    """
    for name, values in (
        *((n, getattr(table, n)) for n in ("params", "tokens", "flops")),
        (what, table.loss),
    ):
        bad = ~((values > 0) & (values < np.inf))
        if bad.any():
            row = int(np.argmax(bad))
            raise FitError(
                f"{name} of run {table.run[row]} is {values[row]:g}; positive finite numbers are "
                f"needed ({count_noun(int(bad.sum()), 'such run')}). Fix them or leave them out: "
                f"--where '{name} > 0'"
            )
    points = len(np.unique(table.params + 1j * table.tokens))
    where = f"{table.source or 'the table'} has {points}"
    if table.dropped:
        reason = textwrap.shorten(table.dropped[0].reason, 80, placeholder=" ...")
        where += f" after dropping {count_noun(len(table.dropped), 'run')} ({reason})"
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
                "needed to distinguish the law's terms. Sweep over both."
            )
    ranked = np.sort(np.log(table.loss))
    distinct = 1 + int((np.diff(ranked) > EQUAL).sum())
    if distinct == 1 or (what == "loss" and distinct < free):
        has = f"one value, {table.loss[0]:.6g}" if distinct == 1 else f"{distinct} different values"
        raise FitError(
            f"the {what} of all {len(table)} runs has {has}: a law with {free} parameters cannot "
            f"be fitted to it. Look at the column that is read as {what}, its rounding, and "
            "whether these are runs of different sizes: --column, --where."
        )


def fit_status(fitted: Estimate, table: RunTable) -> str:
    """`converged`, `at_bound`, `ill_conditioned` or `max_iterations`."""
    two_terms = not isinstance(fitted.problem, GeneralProblem)
    if kappa(fitted) > REFUSED_KAPPA or (two_terms and singular(table)):
        return "ill_conditioned"
    if not fitted.converged:
        return "max_iterations"
    return "at_bound" if fitted.at_bound else "converged"


def singular(table: RunTable) -> bool:
    """Whether the effects of N and D cannot be distinguished, whatever the losses are."""
    few = min(len(np.unique(table.params)), len(np.unique(table.tokens))) < 3
    return few or has_constant_ratio(table) or has_one_budget(table)


def has_constant_ratio(table: RunTable) -> bool:
    """Whether tokens per parameter are the same in every run, to 5%."""
    return float(np.log(table.tokens / table.params).std()) < 0.05


def has_one_budget(table: RunTable) -> bool:
    """Whether all runs spent the same compute, to 10%."""
    return float(table.flops.max() / table.flops.min()) < 1.1


def fit_notes(
    table: RunTable,
    fitted: Estimate,
    without_e: Estimate | None,
    holdout: Holdout | None,
    checks: tuple[CrossCheck, ...],
    rolling: tuple[Rolled, ...] = (),
    influence: tuple[Influence, ...] = (),
    target: str = "loss",
    *,
    rest: Estimate | None = None,
) -> tuple[Note, ...]:
    """Notes of every check, in the order in which they are shown.

    `rest` is the fit with the residuals that events of the schedule do not explain.
    """
    return tuple(
        note
        for part in (
            _condition(fitted, table),
            _variety(table),
            _rising(table) if target == "loss" else (),
            _solution(table, fitted),
            _entropy(fitted, without_e),
            residual_notes(table, rest or fitted),
            tuning_notes(table),
            intake_notes(table, target),
            _checks(holdout, checks),
            _rolling(rolling, fitted.noise),
            _influence(table, influence),
        )
        for note in part
    )


def _condition(fitted: Estimate, table: RunTable) -> Iterator[Note]:
    """Note a large condition number."""
    condition = kappa(fitted)
    if condition > REFUSED_KAPPA:
        entropy, known = None if table.data is None else table.data.entropy, ""
        if entropy and kappa(fitted, known_e=True) <= REFUSED_KAPPA:
            known = f" Or hold E at the entropy that the data state: --hold E={entropy:.6g}"
        yield _note(
            "ill_conditioned",
            "serious",
            f"condition number {condition:.3g} is above {REFUSED_KAPPA:g}: the law's terms "
            "cannot be distinguished, and N* is refused. Add runs of other sizes and lengths."
            + known,
        )
    elif condition > DOUBTFUL_KAPPA:
        yield _note(
            "ill_conditioned",
            "warning",
            f"condition number {condition:.3g} (40-160 is healthy): the law's terms are hardly "
            "distinguished. Widen the range of params or tokens.",
        )


def _variety(table: RunTable) -> Iterator[Note]:
    """Note too few different sizes, lengths or budgets."""
    for name, values in (("params", table.params), ("tokens", table.tokens)):
        distinct = len(np.unique(values))
        if distinct < 3:
            yield _note(
                f"few_{name}",
                "serious",
                f"only {distinct} different {name}: a term and its exponent need at least 3. "
                "Add more.",
            )
    if has_constant_ratio(table):
        yield _note(
            "constant_ratio",
            "serious",
            "tokens per parameter are the same in every run: the effects of N and D cannot be "
            "distinguished. "
            "Vary one at a fixed value of the other.",
        )
    if has_one_budget(table):
        yield _note(
            "one_budget",
            "serious",
            "all runs have the same budget: how the loss falls with compute cannot be estimated. "
            "Add budgets.",
        )


def _solution(table: RunTable, fitted: Estimate) -> Iterator[Note]:
    """Note parameters on a bound, several solutions, and few clusters."""
    for name in fitted.at_bound:
        if name != "E":
            yield _note(
                "at_bound",
                "serious",
                f"{name} lies on its bound, or its term has vanished: the runs do not determine "
                "it. Widen their range.",
            )
    if fitted.basins > 1 and not isinstance(fitted.problem, GeneralProblem):
        yield _note(
            "several_basins",
            "warning",
            f"{fitted.basins} different solutions fit within 5% of the best: rely on the loss "
            "inside the range of the runs, not on single parameters.",
        )
    clusters = len(np.unique(table.cluster))
    if clusters == 1:
        yield _note(
            "one_cluster",
            "serious",
            "all runs belong to one cluster (one trajectory, or one value of --cluster): their "
            "errors cannot be compared with any others, and no interval can be given. Add runs of "
            "other sizes or seeds, or say which belong together: --cluster.",
        )
    elif clusters < min(FEW_CLUSTERS, len(table)):
        yield _note(
            "few_clusters",
            "info",
            f"intervals rest on {clusters} independent trajectories (runs of one trunk share their "
            "errors), so they are wide. More sizes or seeds narrow them.",
        )


def _entropy(fitted: Estimate, without_e: Estimate | None) -> Iterator[Note]:
    """Note an irreducible loss that is zero or that the runs do not need."""
    if "E" in fitted.at_bound:
        yield _note(
            "e_at_zero",
            "warning",
            "the fitted irreducible loss E is zero, its bound: these runs do not show where the "
            "loss ends, and losses far beyond them come out too low. Train longer runs.",
        )
    elif without_e is not None:
        statistic = e_is_needed(fitted, without_e)
        dof = len(fitted.residual) - fitted.family.free
        if statistic < _f_quantile(dof):
            yield _note(
                "e_not_needed",
                "warning",
                "a law without E cannot be ruled out: E rests on the form of the law, not on the "
                "runs. Longer runs of larger models would pin it down.",
            )


def _f_quantile(dof: int) -> float:
    """95% quantile of F(1, dof)."""
    return t_quantile(max(dof, 1), 0.975) ** 2


def _checks(holdout: Holdout | None, checks: tuple[CrossCheck, ...]) -> Iterator[Note]:
    """Note a badly predicted held-out budget, and approaches 1 and 2 where they disagree."""
    if holdout is not None and holdout.max_relative_error > 0.02:
        yield _note(
            "holdout",
            "warning",
            "fitted without the largest budget, the law misses it by up to "
            f"{holdout.max_relative_error:.1%}. Do not rely on it far beyond the runs.",
        )
    for check in checks:
        if check.disagrees and check.a is not None and math.isfinite(check.a):
            yield _note(
                "disagreement",
                "warning",
                f"approach '{check.name}' gives the exponent a = {check.a:.3f}, which differs from "
                "the law's beyond their joint interval. Read both before spending.",
            )


def _rolling(rolling: tuple[Rolled, ...], noise: float) -> Iterator[Note]:
    """Note predictions of the next budget that all err to one side."""
    errors = [r.mean_relative_error for r in rolling]
    mean = sum(errors) / max(len(errors), 1)
    if len(errors) < LEAST_ROLLED or abs(mean) < noise or len({e > 0 for e in errors}) > 1:
        return
    covered = sum(r.covered * r.runs for r in rolling) / sum(r.runs for r in rolling)
    yield _note(
        "one_sided",
        "warning" if covered < LEAST_COVERED else "info",
        f"each of the last {len(errors)} budgets, predicted from the smaller ones, comes out "
        f"{'lower' if mean > 0 else 'higher'} than predicted, by {abs(mean):.1%} on average: "
        "losses beyond the runs may be off to the same side. Fit without the smallest runs and "
        "compare: --where.",
    )


def _influence(table: RunTable, influence: tuple[Influence, ...]) -> Iterator[Note]:
    """Note a run whose removal changes N* far beyond the runs."""
    for i in influence:
        if i.kind == "run" and i.share > DECIDES and abs(math.expm1(i.shift)) > MATTERS:
            moved = f"{abs(math.expm1(i.shift)):.0%} {'larger' if i.shift > 0 else 'smaller'}"
            if i.shift > 1:
                moved = f"{short(math.exp(i.shift))} times as large"
            yield _note(
                "influence",
                "warning",
                f"run {i.run} decides the answer: without it N* at ten times the largest budget "
                f"is {moved}. Doing it again costs {power(i.flops)} FLOP, "
                f"{i.flops / table.flops.sum():.0%} of these runs' compute.",
            )


def undetermined_note(
    bounds: Mapping[str, tuple[float, float]],
) -> tuple[Note, ...]:
    """Name the parameters whose intervals are open at both ends."""
    names = [name for name, ends in bounds.items() if ends == (-math.inf, math.inf)]
    if not names:
        return ()
    what = "the split of a budget is not" if "a" in names else "they are not"
    text = (
        f"these runs do not determine {', '.join(names)}: {what} known, whatever value is shown. "
        "Add runs of other sizes and lengths, over a wider range."
    )
    severity = "serious" if "a" in names else "warning"
    return (_note("not_determined", severity, text),)


def local_exponent_note(law: Law, flops: float) -> tuple[Note, ...]:
    """Say where the exponents are taken, for a law in which they change with the budget."""
    if not law.splits or law.powers is not None:
        return ()
    text = (
        f"a and b are d ln N*/d ln C and d ln D*/d ln C at {power(flops)} FLOP, the largest budget "
        "fitted, under C = k N D: this law has no one exponent."
    )
    return (_note("local_exponent", "info", text),)


def _rising(table: RunTable) -> Iterator[Note]:
    """Note losses that rise with size or with length."""
    for name, values, other in (
        ("params", table.params, table.tokens),
        ("tokens", table.tokens, table.params),
    ):
        groups = np.unique(other, return_inverse=True)[1]
        count = np.bincount(groups)
        x, y = np.log(values), np.log(table.loss)
        x, y = (v - (np.bincount(groups, v) / count)[groups] for v in (x, y))
        chance = 3.0 * math.sqrt(float(x @ x) * float(y @ y) / len(x))  # three standard errors
        if count.max() >= 3 and float(x @ y) > chance:
            yield _note(
                "rising_loss",
                "serious",
                f"the loss rises with {name} where the other count is fixed: no law of falling "
                "losses describes these runs. Look for a wrong column, unit or sign, and for "
                "badly tuned large runs: --column, --where.",
            )


def misfit_note(
    misfit: Misfit,
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
) -> Note:
    """Note a misfit of the law; `before` and `after` are the intervals by name."""
    what = (
        f"the runs do not quite follow the law: {TERMS[misfit.term]} ({abs(misfit.statistic):.1f} "
        "standard errors). "
    )
    if not misfit.shift.any():
        return _note(
            "misfit",
            "warning",
            what + "Over so short a range its effect cannot be estimated, and the intervals leave "
            "it out. Extrapolate with care, and widen the range of params and tokens.",
        )
    width = {k: max(before[k][1] - before[k][0], 1e-300) for k in ("E", "a")}
    wider = {k: (after[k][1] - after[k][0]) / w if w < math.inf else 1 for k, w in width.items()}
    if not all(math.isfinite(v) for v in wider.values()):
        return _note("misfit", "warning", what + "With its effect added, E or a is not determined.")
    return _note(
        "misfit",
        "warning",
        what + f"Its effect is added to the intervals: E's is {wider['E']:.1f} times "
        f"wider, a's {wider['a']:.1f} times. Fit a narrower range and compare: --where.",
    )


def curve_notes(checks: CurveChecks) -> Iterator[Note]:
    """Notes on what the checks of training curves found."""
    if checks.collapse is not None and checks.collapse.fails:
        yield _collapse_note(checks.collapse)
    yield from _undercooled(checks)


def phase_note(phase: Phase, explains: float | None = None) -> Note:
    """Note residuals that follow an event of the schedule.

    Args:
        phase: The event and its effect.
        explains: Standard errors of the misfit that vanishes with it, where one does.
    """
    what, cure = EVENTS[phase.event]
    side = "above" if phase.effect > 0 else "below"
    text = (
        f"the {sum(phase.met)} runs in which {what} lie {abs(phase.effect):.2%} {side} the "
        f"others at equal params and tokens (\N{PLUS-MINUS SIGN} {phase.error:.2%}, F = "
        f"{phase.statistic:.1f}, p = {phase.probability:.1g}). "
    )
    if explains is not None:
        text += (
            f"Without this term the law seems to misfit by {explains:.1f} standard errors; with it "
            "nothing is left of that. "
        )
    return _note("phase", "warning", f"{text}{cure}.")


def _collapse_note(found: Collapse) -> Note:
    """Note curves of sizes that differ in shape."""
    assert found.noise is not None and found.probability is not None
    text = (
        f"the training curves of {len(found.sizes)} sizes do not fall on one curve: normalised, "
        f"they differ by {found.discrepancy:.2g} nats, where runs of one size differ by "
        f"{found.noise:.2g} (p = {found.probability:.1g}). {short(found.farthest)} parameters lie "
        "farthest off"
    )
    if found.without is not None and found.without > 0.05:
        text += ", and without them the others agree"
    text += (
        ". The recipe does not act alike at every size; which setting it is, curves do not say. "
        "Scan the rate there and at another size: python -m sweep -m +experiment=lr"
    )
    return _note("collapse", "warning", f"{text}.")


def _undercooled(checks: CurveChecks) -> Iterator[Note]:
    """Note cooldowns that end too early, and trunks that are still in their transient."""
    short_ones = [c for c in checks.cooldowns if c.too_short]
    if short_ones:
        worst = max(short_ones, key=lambda c: c.left)
        lengths = ", ".join(short(c.tokens) for c in short_ones)
        yield Note(
            code="undercooled",
            severity="warning",
            message=f"the cooldown of {percent(worst.cooldown)} is too short for runs of {lengths} "
            f"tokens: the loss lags behind the rate, and {worst.left:.0%} of what it could gain is "
            f"not gained at the end of {short(worst.tokens)} ({worst.gain:.2g} nats are). Cool "
            "down over a larger share of the run: train.cooldown.",
        )
    if checks.transients:
        rows = checks.transients
        first = rows[0]
        warm = first["warmup"] >= first["fast_fall"]
        share = max(first["warmup"], first["fast_fall"])
        what = "warm-up" if warm else "the first fall of the loss, faster than 1/tokens,"
        cure = "Shorten it (train.warmup_tokens) or train" if warm else "Train"
        yield Note(
            code="undercooled",
            severity="warning",
            message=f"{count_noun(len(rows), 'run')} (first {first['run']}) "
            f"{'is' if len(rows) == 1 else 'are'} hardly past the start: {what} takes {share:.0%} "
            f"of its tokens. {cure} longer, or leave such runs out: --where 'tokens > ...'.",
        )


def _note(code: str, severity: str, message: str) -> Note:
    """A note."""
    return Note(code=code, severity=severity, message=message)


def prior_notes(earlier: Sequence[Fit], recipe: Mapping[str, Any]) -> Iterator[Note]:
    """A warning for each earlier fit whose recipe is not that of the runs, as far as both say."""
    for fit in earlier:
        other = fit.recipe if recipe else {}
        if differ := sorted(
            k for k in {**other, **recipe} if other and other.get(k) != recipe.get(k)
        ):
            yield Note(
                code="prior_recipe",
                severity="warning",
                message=f"the prior {fit.name} is of runs with another recipe "
                f"({', '.join(differ[:3])}): on public sweeps such priors made forecasts worse. "
                "Leave it out.",
            )


def thinned_note(rows: int, kept: int) -> tuple[Note, ...]:
    """Says that not all rows were fitted."""
    if kept == rows:
        return ()
    text = (
        f"the law is fitted to {kept:,} of {rows:,} rows, drawn evenly over compute: the rest "
        "would narrow the intervals below what any law is true to."
    )
    return (Note(code="thinned", severity="info", message=text),)
