"""Choose the next runs for a target budget, a spend and limits, and predict what they will show.

`propose` is what callers use: from a `SuggestRequest` to a `Proposal`. `choose_runs` and
`trim_grid` are its search, and that of a plan that has to fit into a spend.

The choice minimises the sum of ln Var(ln N*) and ln Var(ln L*) at the target, averaged over the
laws that may be true: c-optimal for two targets at once, and free of units. Optimising ln N* alone
makes the loss worse. Runs of one trunk share a part of their error, and the trunk is paid once.

An optimal design puts its runs at the extremes, where it relies on the law being right. So the law
is given potential terms (DuMouchel & Jones 1994, Technometrics 36): a quadratic surface in ln N and
ln D, small against the noise and unknown. Runs at the corners alone cannot separate it from the
law's own terms, and lose what they seem to gain.

The expected interval is the present one times the factor by which the runs' information narrows it
to first order; it holds if the law does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.design.candidates import (
    Candidates,
    SuggestRequest,
    candidates_of_sizes,
    candidates_on_ladder,
    incremental_flops,
    limits_of,
)
from fit.design.criterion import (
    LOOSE,
    PRESET_NOISE,
    Codes,
    DesignPrior,
    DesignSearch,
    information,
    prior_of_fit,
    prior_of_preset,
)
from fit.design.plan_files import Precision, Proposal, SpendStep, SuggestedRun
from fit.errors import PlanError
from fit.inference.intervals import derived_interval
from fit.quantities import power
from fit.query.warnings import OF_THE_LAW
from fit.results import Fit
from fit.verdict import Note

AT_ONCE = 40
"""A step of `trim_grid` removes at most one run in so many, and one of a small grid."""
HEALTHY_KAPPA = 160.0
"""Largest condition number of a trimmed grid, unless it began with a larger; 40-160 is healthy."""
SHARES = (0.25, 0.5, 0.75)
"""Parts of the spend whose expected precision is shown beside that of the whole."""
MORE = 0.1
"""Additional share of the spend whose gain is shown, to decide whether to stop."""
LEVEL = 0.9
"""Level of the intervals under a published law, which has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The chosen runs among candidates."""

    candidates: Candidates
    chosen: Codes
    """Index of each run's candidate, (m,)."""
    replicate: Codes
    """Which copy of its candidate, or which trunk of its size, from 0, (m,)."""
    trunk: Codes
    """Code of each run's trunk, (m,)."""

    @property
    def flops_spent(self) -> Floats:
        """What each run adds to the total cost [FLOP], (m,)."""
        return incremental_flops(self.candidates, self.chosen, self.trunk)

    @property
    def params(self) -> Floats:
        """N of each run, (m,)."""
        return self.candidates.params[self.chosen]

    @property
    def tokens(self) -> Floats:
        """D of each run, (m,)."""
        return self.candidates.tokens[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)


def choose_runs(
    prior: DesignPrior,
    candidates: Candidates,
    spend: float,
    *,
    most_runs: int,
    replicates: int = 3,
    start: Design | None = None,
) -> Design:
    """Choose the runs that narrow the intervals of N* and the loss most for a spend.

    Args:
        prior: Laws that may be true, and the runs that there are.
        candidates: Runs to choose among.
        spend: For all of them together, trunks paid once [FLOP].
        most_runs: Largest number of runs.
        replicates: Largest number of copies of a run, or of trunks of a size.
        start: Design of the same candidates to improve on, its runs kept or exchanged.

    Raises:
        PlanError: The cheapest run costs more than the spend.
    """
    cheapest = float(candidates.flops.min())
    if cheapest > spend:
        raise PlanError(
            f"the cheapest run within the limits costs {power(cheapest)} FLOP and the spend is "
            f"{power(spend)}. Spend more, or allow smaller runs (--min-run, --params)."
        )
    search = DesignSearch(prior, candidates, replicates)
    if start is not None:
        options = [search.option(c, r) for c, r in zip(start.chosen, start.replicate, strict=True)]
        return _design(search, search.improve(options, 0.0, most_runs, spend))
    best = search.affordable(most_runs, spend)
    return _design(search, search.improve(best, 0.0, most_runs, spend))


def deviations(prior: DesignPrior, design: Design | None) -> Floats:
    """Standard errors of ln N* and ln L* at the target, at the estimate itself, (2,).

    Args:
        prior: Its first law is taken; potential terms are left out.
        design: Runs beside those of the prior; None for none.
    """
    target = prior.targets()[0]
    total = np.eye(target.shape[1]) / LOOSE**2
    runs = prior.known
    parts = [] if runs is None else [(runs.params, runs.tokens, runs.trunk, prior.shared)]
    if design is not None:
        shared = prior.shared if design.candidates.shares_trunks else 0.0
        parts.append((design.params, design.tokens, design.trunk, shared))
    for params, tokens, trunk, shared in parts:
        x = prior.regressors(params, tokens)[:1] / (prior.noise * math.sqrt(1 - shared))
        total = total + information(x, trunk, shared)[0]
    return np.asarray(np.sqrt(np.diag(target @ np.linalg.inv(total) @ target.T)))


def trim_grid(
    candidates: Candidates,
    spend: float,
    prior: DesignPrior,
    *,
    cost_text: Callable[[float], str] = lambda cost: f"{power(cost)} FLOP",
) -> Codes:
    """Remove runs from a grid until it is within a spend, and keep its law identified.

    The run that tells least per FLOP is removed first, unless the condition number would leave the
    healthy range or, outside it already, grow. Trunks are paid once, one a size.

    Args:
        candidates: The grid's runs, each to be trained once.
        spend: For all that stay [FLOP], or another cost in the candidates' unit.
        prior: Laws that may be true, and the runs that there are.
        cost_text: Writes a cost with its unit, for the message.

    Returns:
        Indices of the runs that stay, ascending.

    Raises:
        PlanError: No part of the grid that identifies the law costs so little.
    """
    search = DesignSearch(prior, candidates, 1)
    stay = list(range(len(candidates)))
    most = max(HEALTHY_KAPPA, search.kappa(stay))
    while (bill := search.bill(stay)) > spend:
        without = [[j for j in stay if j != i] for i in stay]
        saved = np.array([bill - search.bill(w) for w in without])
        lost = np.array([search.value(w) for w in without]) - search.value(stay)
        order = np.argsort(lost / np.maximum(saved, 1e-9 * bill), kind="stable")
        worst = {stay[i] for i in order[: len(stay) // AT_ONCE]}
        rest = [j for j in stay if j not in worst]
        if len(worst) > 1 and search.bill(rest) > spend and search.kappa(rest) <= most:
            stay = rest
            continue
        healthy = (without[i] for i in order if search.kappa(without[i]) <= most)
        smaller = next(healthy, None)
        if smaller is None:
            raise PlanError(
                f"no part of the grid costs {cost_text(spend)} or less and still determines the "
                f"law's parameters; the cheapest that does costs {cost_text(bill)}. Spend more, or "
                "plan a grid with smaller runs."
            )
        stay = smaller
    return np.array(stay, dtype=np.int64)


def _design(search: DesignSearch, options: list[int]) -> Design:
    """The design of the search's options, the largest size first, then the longest run."""
    c, of = search.candidates, search.of
    order = sorted(options, key=lambda o: (-c.params[of[o]], search.copy[o], -c.tokens[of[o]]))
    return Design(
        candidates=c,
        chosen=of[order],
        replicate=search.copy[order],
        trunk=search.trunk[order],
    )


def propose(request: SuggestRequest) -> Proposal:
    """Choose the next runs and predict how much they narrow the intervals at the target.

    Args:
        request: Target, spend and limits.

    Returns:
        The runs, largest size first, and the expected intervals.

    Raises:
        PlanError: No run lies within the limits, the cheapest costs more than the spend, or
            the runs are too few for the law.
    """
    request = dataclasses.replace(request, source=request.source.plain)
    source, fit = request.source, request.source.fit
    best = source.best(np.array([request.flops]))
    if min(best.log_params[0], best.log_tokens[0]) < 0:
        raise PlanError(
            f"{power(request.flops)} FLOP buy less than one parameter or token. Raise --flops."
        )
    loss = math.exp(float(best.log_loss[0]))
    candidates = _candidates(request)
    if fit is None:
        n, d = (math.exp(np.log(x).mean()) for x in (candidates.params, candidates.tokens))
        noise = PRESET_NOISE if request.noise is None else request.noise
        prior = prior_of_preset(source, request.flops, centre=(n, d), noise=noise)
    else:
        prior = prior_of_fit(source, fit, request.flops, noise=request.noise)
    designs = _designs(request, prior, candidates)
    level = LEVEL if fit is None else fit.interval.level
    present = None if fit is None else _present_widths(source, fit, request.flops)
    steps = tuple(
        SpendStep(
            share=share,
            flops=float(d.flops_spent.sum()),
            runs=len(d),
            precision=_precision(_expected_widths(fit, prior, d, present, level), loss),
        )
        for share, d in designs.items()
    )
    return Proposal(
        source=source.name,
        law=source.law.name,
        convention=dict(source.convention),
        flops=request.flops,
        params=math.exp(float(best.log_params[0])),
        loss=loss,
        spend=request.spend,
        level=level,
        noise=prior.noise,
        shared=prior.shared if candidates.shares_trunks else 0.0,
        before=None if present is None else _precision(present, loss),
        after=steps[-2].precision,
        steps=steps,
        runs=_runs(designs[1.0], fit),
        notes=_notes(source, fit, prior.noise),
    )


def _candidates(request: SuggestRequest) -> Candidates:
    """Runs within the limits of the request: shapes of the fit's ladder, or else plain sizes."""
    source, fit = request.source, request.source.fit
    limits = limits_of(request)
    if source.ladder is None or fit is None:
        if request.widths:
            raise PlanError(
                f"the shapes of '{source.name}' are not known, so --widths does not apply. "
                "Give --params."
            )
        return candidates_of_sizes(source.cost, limits)
    # only a schedule of warm-up, stable and decay lets runs branch off one trunk
    wsd = fit.recipe.get("train.schedule") == "wsd"
    cooldown = float(fit.recipe.get("train.cooldown") or 1.0) if wsd else 1.0
    return candidates_on_ladder(source.ladder, limits, cooldown=cooldown)


def _designs(
    request: SuggestRequest, prior: DesignPrior, candidates: Candidates
) -> dict[float, Design]:
    """Designs by their share of the spend: parts, the whole, and the whole extended by `MORE`."""
    least = 1 if prior.known is not None else prior.thetas.shape[1] + 1
    most, spend, copies = request.most_runs, request.spend, request.replicates
    if most < least:
        raise PlanError(
            f"{most} runs are too few for the law '{request.source.law.name}', and there are no "
            f"others yet; {least} or more are needed. Raise --runs."
        )
    designs = {}
    for share in (*SHARES, 1.0):
        runs = max(1, round(share * most))
        if share == 1 or (runs >= least and candidates.flops.min() <= share * spend):
            designs[share] = choose_runs(
                prior, candidates, share * spend, most_runs=runs, replicates=copies
            )
    if len(designs[1.0]) == 0:
        raise PlanError("no run would narrow the interval. Raise --spend, or widen the limits.")
    more = 1 + MORE
    designs[more] = choose_runs(
        prior,
        candidates,
        more * spend,
        most_runs=math.ceil(more * most),
        replicates=copies,
        start=designs[1.0],
    )
    return designs


def _present_widths(source: ScalingLaw, fit: Fit, flops: float) -> Floats:
    """Half widths of the present intervals of ln N* and ln L*, (2,); infinite where unbounded."""
    splits = source.splits(np.array([flops]))

    def targets(theta: Floats) -> Floats:
        optimum = splits(theta)
        return np.concatenate([optimum.log_params, optimum.log_loss], axis=-1)

    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        low, high = derived_interval(fit, targets)
        half = 0.5 * (np.log(high) - np.log(low))
    return np.where(np.isnan(half), np.inf, half)


def _expected_widths(
    fit: Fit | None, prior: DesignPrior, design: Design, present: Floats | None, level: float
) -> Floats:
    """Half widths in ln that a fit with the design's runs is expected to have, (2,)."""
    free, known = prior.thetas.shape[1], prior.known
    runs, trunks = len(design), len(np.unique(design.trunk))
    if known is not None:
        runs, trunks = runs + len(known.params), trunks + len(np.unique(known.trunk))
    dof = min(trunks - 1, runs - free)
    half = np.full(2, np.inf)
    if dof > 0:
        quantile = float(stats.t.ppf(0.5 + level / 2, dof))
        half = quantile * deviations(prior, design)
        if present is not None and fit is not None and np.isfinite(present).all():
            # narrow the present interval, which rests on actual residuals, by the ratio
            narrowed = deviations(prior, design) / deviations(prior, None)
            half = present * narrowed * quantile / fit.interval.quantile
    return half


def _precision(half: Floats, loss: float) -> Precision:
    """Half widths in ln as a factor of N* and a margin of the loss."""
    with np.errstate(over="ignore"):
        return Precision(params_factor=float(np.exp(half[0])), loss_margin=float(loss * half[1]))


def _runs(design: Design, fit: Fit | None) -> tuple[SuggestedRun, ...]:
    """The chosen runs one by one, with seeds that the fitted runs have not used."""
    c, spent = design.candidates, design.flops_spent
    seeds = None if fit is None else fit.points.columns.get("seed")
    first = 0 if seeds is None else int(np.nanmax(seeds)) + 1
    rows = []
    for i, (j, copy) in enumerate(zip(design.chosen, design.replicate, strict=True)):
        shape = c.shapes[c.size[j]] if c.shapes else None
        rows.append(
            SuggestedRun(
                params=float(c.params[j]),
                tokens=float(c.tokens[j]),
                flops=float(c.flops[j]),
                flops_spent=float(spent[i]),
                replicate=int(copy),
                seed=None if shape is None else first + int(copy),
                shape=shape,
            )
        )
    return tuple(rows)


def _notes(source: ScalingLaw, fit: Fit | None, noise: float) -> tuple[Note, ...]:
    """Notes on why the outcome may differ from the expectation."""
    if fit is None:
        text = (
            f"made under {source.name} with a stated spread, for runs whose noise is "
            f"{noise:.2%} of the loss (--noise). Fit the first runs and ask again."
        )
        return (Note(code="preset", severity="info", message=text),)
    doubts = [n for n in fit.notes if n.code in OF_THE_LAW or n.severity == "serious"]
    if not doubts:
        return ()
    text = (
        "the fit has notes that put its law in doubt ("
        + ", ".join(sorted({n.code for n in doubts}))
        + "): the expected interval holds if the law does, and more runs do not correct a law "
        "that does not describe them. Read the fit's notes."
    )
    return (Note(code="law_in_doubt", severity="warning", message=text),)
