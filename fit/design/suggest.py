"""Choose the next runs for a target budget, a spend and limits, and predict what they will show.

`propose` is what callers use: from a `SuggestRequest` to a `Proposal`; `choose_runs` is its search.

The choice minimises the sum of ln Var(ln N*) and ln Var(ln L*) at the target, averaged over the
laws that may be true: c-optimal for two targets at once, and free of units. Optimising ln N* alone
makes the loss worse. Runs of one trunk share a part of their error, and the trunk is paid once.

For a fit these are variances of its forecast, with its discrepancy. So there are two ways to learn:
to tell the parameters apart, and to move the costliest run, where the discrepancy begins, nearer to
the target. Several places of it are tried. Designs keep the law's condition number healthy.

For a law taken as it is, an optimal design puts its runs at the extremes, where it relies on the
law being right. So the law is given potential terms (DuMouchel & Jones 1994, Technometrics 36): a
quadratic surface in ln N and ln D, small against the noise and unknown. Runs at the corners alone
cannot separate it from the law's own terms, and lose what they seem to gain.

The expected interval is the present one times the factor by which the runs' information narrows it
to first order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

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
from fit.design.criterion import HEALTHY_KAPPA, DesignSearch, information
from fit.design.plan_files import Precision, Proposal, SpendStep, SuggestedRun
from fit.design.prior import (
    BELIEF,
    DISCREPANCIES,
    PRESET_NOISE,
    Codes,
    DesignPrior,
    condition_number,
    prior_of_fit,
    prior_of_preset,
)
from fit.errors import PlanError
from fit.inference.forecast import degrees_of_freedom
from fit.inference.intervals import derived_interval
from fit.quantities import power
from fit.query.warnings import OF_THE_LAW, budget_verdict, check_verdict
from fit.results import Fit
from fit.verdict import FARTHEST_REACH, Note

TOPS = 4
"""Places of the costliest run that are tried, from the present one to the largest allowed."""
ROOM = 1 + 1e-9
AT_A_SIZE = (1 / 3, 1 / 5)
"""Largest share of the runs at one size; the second where the first leaves the law ill-conditioned.
Branches of one trunk are cheap, and alone they would all be of one size."""
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
    if start is not None:
        size = math.ceil(AT_A_SIZE[0] * most_runs)
        search = DesignSearch(_starting(prior, start), start.candidates, replicates, size)
        options = [search.option(c, r) for c, r in zip(start.chosen, start.replicate, strict=True)]
        return _design(search, search.improve(options, 0.0, most_runs, spend))

    def kappa(design: Design) -> float:
        return condition_number(prior, design.params, design.tokens)

    most = max(HEALTHY_KAPPA, 0.0 if prior.known is None else condition_number(prior))
    found: list[tuple[float, Design]] = []
    for share in AT_A_SIZE:
        size = math.ceil(share * most_runs)
        found += [
            _searched(prior, candidates, spend, top, most_runs, replicates, size)
            for top in _tops(prior, candidates)
        ]
        healthy = [pair for pair in found if not kappa(pair[1]) > most]
        if healthy:
            return min(healthy, key=lambda pair: pair[0])[1]
    return min((design for _, design in found), key=kappa)


def _searched(
    prior: DesignPrior,
    candidates: Candidates,
    spend: float,
    top: float | None,
    most_runs: int,
    replicates: int,
    most_at_a_size: int,
) -> tuple[float, Design]:
    """The criterion and the design of a search for one place of the costliest run."""
    if top is not None:
        candidates, prior = candidates.take(candidates.flops <= top * ROOM), prior.starting_at(top)
    search = DesignSearch(prior, candidates, replicates, most_at_a_size)
    best = search.affordable(most_runs, spend)
    design = _design(search, search.improve(best, 0.0, most_runs, spend))
    return _value(prior, design, replicates), design


def _tops(prior: DesignPrior, candidates: Candidates) -> list[float] | list[None]:
    """Where a forecast may start: from its costliest run, or from larger ones [FLOP]."""
    if prior.top is None:
        return [None]
    largest, now = float(candidates.flops.max()), prior.top
    if prior.known is None or largest <= now:
        return [max(now, largest)]
    return [now, *np.geomspace(now, largest, TOPS)[1:]]


def _starting(prior: DesignPrior, design: Design | None) -> DesignPrior:
    """The prior whose forecast starts from the costliest run of a design and those known."""
    if prior.top is None or design is None or not len(design):
        return prior
    own = float(prior.run_flops(design.params, design.tokens).max())
    return prior.starting_at(own if prior.known is None else max(own, prior.top))


def _value(prior: DesignPrior, design: Design, replicates: int) -> float:
    """The criterion of a design, by where its forecast starts."""
    search = DesignSearch(_starting(prior, design), design.candidates, replicates)
    pairs = zip(design.chosen, design.replicate, strict=True)
    return search.value([search.option(c, r) for c, r in pairs])


def deviations(prior: DesignPrior, design: Design | None) -> Floats:
    """Standard errors of ln N* and ln L* at the target, at the estimate itself, (2,).

    Args:
        prior: Its first law is taken; potential terms are left out.
        design: Runs beside those of the prior; None for none.
    """
    return np.asarray(np.sqrt(_variances(prior, design).sum(axis=0)))


def _variances(prior: DesignPrior, design: Design | None) -> Floats:
    """What `deviations` consists of: the parameters' part and that of a discrepancy, (2, 2)."""
    prior = _starting(prior, design)
    target = prior.targets()[0]
    total = np.diag(prior.least_precision())
    runs = prior.known
    parts = [] if runs is None else [(runs.params, runs.tokens, runs.trunk, prior.shared)]
    if design is not None:
        shared = prior.shared if design.candidates.shares_trunks else 0.0
        parts.append((design.params, design.tokens, design.trunk, shared))
    for params, tokens, trunk, shared in parts:
        x = prior.informing(params, tokens)[:1] / (prior.noise * math.sqrt(1 - shared))
        total = total + information(x, trunk, shared)[0]
    covariance = np.linalg.inv(total)
    whole = np.diag(target @ covariance @ target.T)
    if prior.top is None:
        return np.stack([whole, np.zeros(2)])
    beyond = target[:, -DISCREPANCIES:] ** 2 @ np.diag(covariance)[-DISCREPANCIES:]
    return np.stack([whole - beyond, beyond])


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
        RefusedError: The target lies too far beyond the runs, as for a query.
    """
    source, fit = request.source, request.source.fit
    judged = budget_verdict(source, request.flops)
    if (source.reach(request.flops) or 0.0) > FARTHEST_REACH:
        check_verdict(judged, source)
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
        params=None if judged.refused else math.exp(float(best.log_params[0])),
        loss=None if judged.refused else loss,
        refusal=judged.reason if judged.refused else None,
        spend=request.spend,
        level=level,
        noise=prior.noise,
        shared=prior.shared if candidates.shares_trunks else 0.0,
        before=None if present is None or judged.refused else _precision(present, loss),
        after=steps[-2].precision,
        discrepancy=None if prior.top is None else _discrepancy(prior, designs[1.0]),
        belief=None if fit is not None else BELIEF,
        kappa=(
            None if fit is None else condition_number(prior),
            condition_number(prior, designs[1.0].params, designs[1.0].tokens),
        ),
        steps=steps,
        runs=_runs(designs[1.0], fit),
        notes=(*_notes(source, fit, prior.noise), *request.assumed),
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
    dof = min(trunks - 1.0, runs - free) if prior.top is None else degrees_of_freedom(trunks)
    half = np.full(2, np.inf)
    if dof > 0:
        quantile = float(stdtrit(dof, 0.5 + level / 2))
        half = quantile * deviations(prior, design)
        if present is not None and fit is not None and np.isfinite(present).all():
            # narrow the present interval, which rests on actual residuals, by the ratio
            narrowed = deviations(prior, design) / deviations(prior, None)
            ahead = fit.forecast if prior.top is not None else None
            was = fit.interval.quantile if ahead is None else ahead.quantile
            half = present * narrowed * quantile / was
    return half


def _discrepancy(prior: DesignPrior, design: Design) -> dict[str, float]:
    """Share of the variance of ln N* and of ln L* that is left to the discrepancy."""
    parts = _variances(prior, design)
    share = parts[1] / parts.sum(axis=0)
    return {"params": float(share[0]), "loss": float(share[1])}


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
            f"{source.name} is believed to {BELIEF['exponents']:.0%} in its exponents, "
            f"{BELIEF['E']:.0%} in E and {BELIEF['terms']:.0%} in either term (standard "
            "deviations), and runs to follow a law of its form with a noise of "
            f"{noise:.2%} of the loss (--noise). The runs are yours, so their law need not be "
            "within that: fit the first of them and ask again."
        )
        return (Note(code="preset", severity="info", message=text),)
    doubted = (n for n in fit.notes if n.severity != "info")
    doubts = [n for n in doubted if n.code in OF_THE_LAW or n.severity == "serious"]
    if not doubts:
        return ()
    text = (
        "the fit has notes that put its law in doubt ("
        + ", ".join(sorted({n.code for n in doubts}))
        + "): the expected interval holds if the law does, and more runs do not correct a law "
        "that does not describe them. Read the fit's notes."
    )
    return (Note(code="law_in_doubt", severity="warning", message=text),)
