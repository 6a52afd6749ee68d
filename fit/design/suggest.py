"""Which runs to make next, for a target, a spend and limits.

What a manager reads: the interval at the target now, after the runs, and what a tenth more would
still narrow it. The expected interval is the present one times the factor by which the runs'
information narrows it to first order, and it holds if the law does.

Which runs to make: those that tell most about N* and the loss at the target, for their FLOPs.

The choice minimises the sum of ln Var(ln N*) and ln Var(ln L*), averaged over the laws that may be
true: c-optimal for two targets at once, and free of units. Optimising ln N* alone makes the loss
worse. Runs of one trunk share a part of their error, and the trunk is paid once.

Extremes lean on the law being right. So the law is given potential terms (DuMouchel & Jones 1994,
Technometrics 36): a quadratic surface in ln N and ln D, small against the noise, that is not known.
Corners alone cannot tell it from the law's own terms, and lose what they seem to gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

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
from fit.results import Fit, Note

AT_ONCE = 40
"""A grid that is thinned loses at most one run in so many at a time, one where it is small."""
HEALTHY_KAPPA = 160.0
"""Condition number that a trimmed grid keeps at most, where it had no worse; 40-160 is healthy."""
SHARES = (0.25, 0.5, 0.75)
"""Parts of the spend whose worth is shown beside the whole."""
MORE = 0.1
"""What the stop rule asks about."""
LEVEL = 0.9
"""Of the intervals under a published law, which has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Chosen runs."""

    candidates: Candidates
    chosen: Codes
    """Index of each run's candidate, (m,)."""
    replicate: Codes
    """Which copy of its candidate, or which trunk of its size, from 0, (m,)."""
    trunk: Codes
    """Code of each run's trunk, (m,)."""

    @property
    def flops_spent(self) -> Floats:
        """What each run adds to the bill [FLOP], (m,)."""
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
    """Choose the runs that narrow N* and the loss at the target most for a spend.

    Args:
        prior: Laws that may be true, and what is known already.
        candidates: Runs to choose among.
        spend: FLOPs for all of them together, trunks paid once.
        most_runs: Runs at most.
        replicates: Copies of a run, or trunks of a size, at most.
        start: Design of the same candidates to improve on, its runs kept or exchanged.

    Raises:
        PlanError: Not one run can be paid.
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
        design: Runs beside those that the prior knows of; None for none.
    """
    target = prior.targets()[0]
    total = np.eye(target.shape[1]) / LOOSE**2
    known = prior.known
    parts = [] if known is None else [(known.params, known.tokens, known.trunk, prior.shared)]
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
    said: Callable[[float], str] = lambda cost: f"{power(cost)} FLOP",
) -> Codes:
    """Thin a given grid to a spend so that its law stays identified.

    Runs leave one at a time, the one that tells least per FLOP first, unless the condition number
    would leave the healthy range (or, outside it already, grow); trunks are paid once, one a size.

    Args:
        candidates: The grid's runs, each to be made once.
        spend: FLOPs for all that stay, or another cost in the candidates' unit.
        prior: Laws that may be true; the runs it knows of count too.
        said: A cost with its unit, for the message.

    Returns:
        Indices of the runs that stay, ascending.

    Raises:
        PlanError: No healthy part of the grid costs so little.
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
        found = next(healthy, None)
        if found is None:
            raise PlanError(
                f"no part of the grid costs {said(spend)} or less and still tells the law's "
                f"parameters apart; {said(bill)} is the least found. Spend more, or plan a grid "
                "with smaller runs."
            )
        stay = found
    return np.array(stay, dtype=np.int64)


def _design(search: DesignSearch, options: list[int]) -> Design:
    """The design of options, largest size first, then longest."""
    c, of = search.candidates, search.of
    order = sorted(options, key=lambda o: (-c.params[of[o]], search.copy[o], -c.tokens[of[o]]))
    return Design(
        candidates=c,
        chosen=of[order],
        replicate=search.copy[order],
        trunk=search.trunk[order],
    )


def propose(request: SuggestRequest) -> Proposal:
    """Choose the next runs and say what they are worth.

    Args:
        request: Target, spend and limits.

    Returns:
        The runs, largest size first, and the expected intervals.

    Raises:
        PlanError: No run lies within the limits, or none can be paid.
    """
    log_params, log_loss = _target(request)
    candidates = _candidates(request)
    prior = _prior(request, candidates)
    designs = _designs(request, prior, candidates)
    present, loss = _present(request), math.exp(log_loss)
    steps = tuple(
        SpendStep(
            share=share,
            flops=float(d.flops_spent.sum()),
            runs=len(d),
            precision=_precision(_expected(request, prior, d, present), loss),
        )
        for share, d in designs.items()
    )
    return Proposal(
        source=request.source.name,
        law=request.source.law.name,
        convention=dict(request.source.convention),
        flops=request.flops,
        params=math.exp(log_params),
        loss=loss,
        spend=request.spend,
        level=_level(request),
        noise=prior.noise,
        shared=prior.shared if candidates.shares_trunks else 0.0,
        before=None if present is None else _precision(present, loss),
        after=steps[-2].precision,
        steps=steps,
        runs=_runs(designs[1.0], request.source.fit),
        notes=_notes(request),
    )


def _target(request: SuggestRequest) -> tuple[float, float]:
    """The present law's ln N* and ln L* at the target."""
    best = request.source.best(np.array([request.flops]))
    if min(best.log_params[0], best.log_tokens[0]) < 0:
        raise PlanError(
            f"{power(request.flops)} FLOP buy less than one parameter or token. Raise --flops."
        )
    return float(best.log_params[0]), float(best.log_loss[0])


def _designs(
    request: SuggestRequest, prior: DesignPrior, candidates: Candidates
) -> dict[float, Design]:
    """The design, those for parts of the spend, and the one that a tenth more extends it to."""
    least = 1 if prior.known is not None else prior.thetas.shape[1] + 1
    most, spend, copies = request.most_runs, request.spend, request.replicates
    if most < least:
        raise PlanError(
            f"{most} runs cannot carry the law '{request.source.law.name}', and there are no "
            f"others yet; {least} or more are needed. Raise --runs."
        )
    found = {}
    for share in (*SHARES, 1.0):
        runs = max(1, round(share * most))
        if share == 1 or (runs >= least and candidates.flops.min() <= share * spend):
            found[share] = choose_runs(
                prior, candidates, share * spend, most_runs=runs, replicates=copies
            )
    if len(found[1.0]) == 0:
        raise PlanError("no run would narrow the interval. Raise --spend, or widen the limits.")
    more = 1 + MORE
    found[more] = choose_runs(
        prior,
        candidates,
        more * spend,
        most_runs=math.ceil(more * most),
        replicates=copies,
        start=found[1.0],
    )
    return found


def _candidates(request: SuggestRequest) -> Candidates:
    """Runs within the limits asked for, or those that the source suggests."""
    source, fit = request.source, request.source.fit
    limits = limits_of(request)
    if source.ladder is None or fit is None:
        if request.widths:
            raise PlanError(
                f"'{source.name}' knows no shapes, so --widths means nothing. Give --params."
            )
        return candidates_of_sizes(source.cost, limits)
    wsd = fit.recipe.get("train.schedule") == "wsd"
    cooldown = float(fit.recipe.get("train.cooldown") or 1.0) if wsd else 1.0
    return candidates_on_ladder(source.ladder, limits, cooldown=cooldown)


def _prior(request: SuggestRequest, candidates: Candidates) -> DesignPrior:
    """What is believed before the runs."""
    source, fit = request.source, request.source.fit
    if fit is None:
        n, d = (math.exp(np.log(x).mean()) for x in (candidates.params, candidates.tokens))
        noise = PRESET_NOISE if request.noise is None else request.noise
        return prior_of_preset(source, request.flops, centre=(n, d), noise=noise)
    return prior_of_fit(source, fit, request.flops, noise=request.noise)


def _level(request: SuggestRequest) -> float:
    """Level of the intervals."""
    fit = request.source.fit
    return LEVEL if fit is None else fit.interval.level


def _present(request: SuggestRequest) -> Floats | None:
    """Half widths of the present intervals of ln N* and ln L*, (2,); None without runs."""
    source, fit = request.source, request.source.fit
    if fit is None:
        return None
    splits = source.splits(np.array([request.flops]))

    def targets(theta: Floats) -> Floats:
        found = splits(theta)
        return np.concatenate([found.log_params, found.log_loss], axis=-1)

    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        low, high = derived_interval(fit, targets)
        half = 0.5 * (np.log(high) - np.log(low))
    return np.where(np.isnan(half), np.inf, half)


def _expected(
    request: SuggestRequest, prior: DesignPrior, design: Design, present: Floats | None
) -> Floats:
    """Half widths in ln that a fit with the runs is expected to have, (2,)."""
    free, known = prior.thetas.shape[1], prior.known
    runs, trunks = len(design), len(np.unique(design.trunk))
    if known is not None:
        runs, trunks = runs + len(known.params), trunks + len(np.unique(known.trunk))
    dof = min(trunks - 1, runs - free)
    half = np.full(2, np.inf)
    fit = request.source.fit
    if dof > 0:
        quantile = float(stats.t.ppf(0.5 + _level(request) / 2, dof))
        half = quantile * deviations(prior, design)
        if present is not None and fit is not None and np.isfinite(present).all():
            narrowed = deviations(prior, design) / deviations(prior, None)
            half = present * narrowed * quantile / fit.interval.quantile
    return half


def _precision(half: Floats, loss: float) -> Precision:
    """Half widths in ln as people read them."""
    with np.errstate(over="ignore"):
        return Precision(params_factor=float(np.exp(half[0])), loss_margin=float(loss * half[1]))


def _runs(design: Design, fit: Fit | None) -> tuple[SuggestedRun, ...]:
    """The chosen runs one by one."""
    c, bill = design.candidates, design.flops_spent
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
                flops_spent=float(bill[i]),
                replicate=int(copy),
                seed=None if shape is None else first + int(copy),
                shape=shape,
            )
        )
    return tuple(rows)


def _notes(request: SuggestRequest) -> tuple[Note, ...]:
    """What stands between the expectation and what will be found."""
    source, fit = request.source, request.source.fit
    if fit is None:
        text = (
            f"made under {source.name} with a stated spread, for runs whose noise is "
            f"{_noise(request):.2%} of the loss (--noise). Fit the first runs and ask again."
        )
        return (Note(code="preset", severity="info", message=text),)
    doubts = [n for n in fit.notes if n.code in OF_THE_LAW or n.severity == "serious"]
    if not doubts:
        return ()
    text = (
        "the fit doubts its law ("
        + ", ".join(sorted({n.code for n in doubts}))
        + "): the expected interval holds for the law, and more runs of it do not mend a law "
        "that bends. Read the fit's notes."
    )
    return (Note(code="law_in_doubt", severity="warning", message=text),)


def _noise(request: SuggestRequest) -> float:
    """Noise taken with a published law."""
    return PRESET_NOISE if request.noise is None else request.noise
