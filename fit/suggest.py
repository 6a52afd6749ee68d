"""Which runs to make next, for a target, a spend and limits.

What a manager reads: the interval at the target now, after the runs, and what a tenth more would
still narrow it. The expected interval is the present one times the factor by which the runs'
information narrows it to first order, and it holds if the law does.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from fit.candidates import Candidates, on_ladder, plain
from fit.derived import derived_interval
from fit.design import Design, choose, deviations
from fit.doubts import OF_THE_LAW
from fit.errors import PlanError
from fit.prior import PRESET_NOISE, Prior, of_fit, of_preset
from fit.proposal import NextRun, Precision, Proposal, Step
from fit.quantity import power
from fit.record import Floats
from fit.request import Request, limits_of
from fit.result import Fit, Note

SHARES = (0.25, 0.5, 0.75)
"""Parts of the spend whose worth is shown beside the whole."""
MORE = 0.1
"""What the stop rule asks about."""
LEVEL = 0.9
"""Of the intervals under a published law, which has none of its own."""


def propose(request: Request) -> Proposal:
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
        Step(
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


def _target(request: Request) -> tuple[float, float]:
    """The present law's ln N* and ln L* at the target."""
    best = request.source.best(np.array([request.flops]))
    if min(best.log_params[0], best.log_tokens[0]) < 0:
        raise PlanError(
            f"{power(request.flops)} FLOP buy less than one parameter or token. Raise --flops."
        )
    return float(best.log_params[0]), float(best.log_loss[0])


def _designs(request: Request, prior: Prior, candidates: Candidates) -> dict[float, Design]:
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
            found[share] = choose(
                prior, candidates, share * spend, most_runs=runs, replicates=copies
            )
    if len(found[1.0]) == 0:
        raise PlanError("no run would narrow the interval. Raise --spend, or widen the limits.")
    more = 1 + MORE
    found[more] = choose(
        prior,
        candidates,
        more * spend,
        most_runs=math.ceil(more * most),
        replicates=copies,
        start=found[1.0],
    )
    return found


def _candidates(request: Request) -> Candidates:
    """Runs within the limits asked for, or those that the source suggests."""
    source, fit = request.source, request.source.fit
    limits = limits_of(request)
    if source.ladder is None or fit is None:
        if request.widths:
            raise PlanError(
                f"'{source.name}' knows no shapes, so --widths means nothing. Give --params."
            )
        return plain(source.cost, limits)
    wsd = fit.recipe.get("train.schedule") == "wsd"
    cooldown = float(fit.recipe.get("train.cooldown") or 1.0) if wsd else 1.0
    return on_ladder(source.ladder, limits, cooldown=cooldown)


def _prior(request: Request, candidates: Candidates) -> Prior:
    """What is believed before the runs."""
    source, fit = request.source, request.source.fit
    if fit is None:
        n, d = (math.exp(np.log(x).mean()) for x in (candidates.params, candidates.tokens))
        noise = PRESET_NOISE if request.noise is None else request.noise
        return of_preset(source, request.flops, centre=(n, d), noise=noise)
    return of_fit(source, fit, request.flops, noise=request.noise)


def _level(request: Request) -> float:
    """Level of the intervals."""
    fit = request.source.fit
    return LEVEL if fit is None else fit.interval.level


def _present(request: Request) -> Floats | None:
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


def _expected(request: Request, prior: Prior, design: Design, present: Floats | None) -> Floats:
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


def _runs(design: Design, fit: Fit | None) -> tuple[NextRun, ...]:
    """The chosen runs one by one."""
    c, bill = design.candidates, design.flops_spent
    seeds = None if fit is None else fit.points.columns.get("seed")
    first = 0 if seeds is None else int(np.nanmax(seeds)) + 1
    rows = []
    for i, (j, copy) in enumerate(zip(design.chosen, design.replicate, strict=True)):
        shape = c.shapes[c.size[j]] if c.shapes else None
        rows.append(
            NextRun(
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


def _notes(request: Request) -> tuple[Note, ...]:
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


def _noise(request: Request) -> float:
    """Noise taken with a published law."""
    return PRESET_NOISE if request.noise is None else request.noise
