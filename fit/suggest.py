"""Which runs to make next, for a target, a spend and limits.

What a manager reads: the interval at the target now, after the runs, and what a tenth more would
still narrow it. The expected interval is the present one times the factor by which the runs'
information narrows it to first order, and it holds if the law does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from fit.candidates import Candidates, Limits, on_ladder, plain
from fit.derived import derived_interval
from fit.design import Design, choose, deviations
from fit.doubts import OF_THE_LAW
from fit.errors import PlanError, QueryError
from fit.prior import PRESET_NOISE, Prior, of_fit, of_preset
from fit.proposal import NextRun, Precision, Proposal, Step
from fit.quantity import parse_count, power
from fit.record import Floats
from fit.result import Fit, Note, Span
from fit.source import Source

LARGEST_SHARE = 0.25
"""Of the spend in one run, unless asked otherwise: four runs are no sweep, and a cap of 1/9 in its
place changes the interval by 3% (docs/log.md)."""
SMALLEST_SHARE = 1e-4
"""Of the spend in one run under a published law: cheap runs are the lever, and bend laws most."""
RATIO_ROOM = 16.0
"""Under a published law D/N stays within this factor of the best at the target: an isoFLOP grid
of 1/4 to 4 times N* has the same."""
SHARES = (0.25, 0.5, 0.75)
"""Parts of the spend whose worth is shown beside the whole."""
MORE = 0.1
"""What the stop rule asks about."""
LEVEL = 0.9
"""Of the intervals under a published law, which has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be learnt, and what the runs may be; None takes what the source suggests."""

    source: Source
    flops: float
    """Budget at which N* and the loss are wanted [FLOP]."""
    spend: float
    """For all runs together [FLOP]."""
    most_runs: int = 24
    replicates: int = 3
    most_flops: float | None = None
    """Of one run."""
    least_flops: float | None = None
    ratio: Span | None = None
    params: Span | None = None
    tokens: Span | None = None
    widths: tuple[int, ...] = ()
    noise: float | None = None
    """Standard deviation of ln loss of one run."""


def requested(
    source: Source,
    *,
    flops: str,
    spend: str,
    max_run: str | None = None,
    min_run: str | None = None,
    ratio: str | None = None,
    params: str | None = None,
    tokens: str | None = None,
    widths: str | None = None,
    **options: Any,
) -> Request:
    """A request as people type it: counts such as 1e21 and 7B, ranges as LOW:HIGH.

    Raises:
        QueryError: A count that is not positive and finite, or a range that is none.
    """
    return Request(
        source=source,
        flops=parse_count(flops, "--flops"),
        spend=parse_count(spend, "--spend"),
        most_flops=None if max_run is None else parse_count(max_run, "--max-run"),
        least_flops=None if min_run is None else parse_count(min_run, "--min-run"),
        ratio=parse_range(ratio, "--ratio"),
        params=parse_range(params, "--params"),
        tokens=parse_range(tokens, "--tokens"),
        widths=tuple(sorted({parse_whole(w, "--widths") for w in (widths or "").split(",") if w})),
        **options,
    )


def parse_range(text: str | None, what: str) -> Span | None:
    """Read a range such as `1:400` or `10k:`; an end left out is open.

    Raises:
        QueryError: Not two counts with a colon between them, the lower first.
    """
    if text is None:
        return None
    low, colon, high = text.partition(":")
    span = Span(
        low=parse_count(low, what) if low.strip() else 1e-9,
        high=parse_count(high, what) if high.strip() else math.inf,
    )
    if not colon or span.low > span.high:
        raise QueryError(f"{what} is '{text}'; a range is needed, the lower end first, as 1:400.")
    return span


def parse_whole(text: str, what: str) -> int:
    """Read a positive whole number.

    Raises:
        QueryError: It is not.
    """
    value = parse_count(text, what)
    if value != round(value):
        raise QueryError(f"{what} has '{text.strip()}'; whole numbers are needed, as 16,32,64.")
    return int(value)


def propose(request: Request) -> Proposal:
    """Choose the next runs and say what they are worth.

    Args:
        request: Target, spend and limits.

    Returns:
        The runs, largest size first, and the expected intervals.

    Raises:
        PlanError: No run lies within the limits, or none can be paid.
    """
    best = request.source.best(np.array([request.flops]))
    if min(best.log_params[0], best.log_tokens[0]) < 0:
        raise PlanError(
            f"{power(request.flops)} FLOP buy less than one parameter or token. Raise --flops."
        )
    candidates = _candidates(request)
    prior = _prior(request, candidates)
    least = 1 if prior.known is not None else prior.thetas.shape[1] + 1
    most, spend = request.most_runs, request.spend
    if most < least:
        raise PlanError(
            f"{most} runs cannot carry the law '{request.source.law.name}', and there are no "
            f"others yet; {least} or more are needed. Raise --runs."
        )
    options: dict[str, Any] = {"replicates": request.replicates}
    design = choose(prior, candidates, spend, most_runs=most, **options)
    if len(design) == 0:
        raise PlanError("no run would narrow the interval. Raise --spend, or widen the limits.")
    parts = []
    for share in SHARES:
        runs = max(1, round(share * most))
        if runs >= least and candidates.flops.min() <= share * spend:
            part = choose(prior, candidates, share * spend, most_runs=runs, **options)
            parts.append((share, part))
    more = math.ceil((1 + MORE) * most)
    beyond = choose(prior, candidates, (1 + MORE) * spend, most_runs=more, start=design, **options)
    present = _present(request)
    steps = [
        Step(
            share=share,
            flops=float(d.flops_spent.sum()),
            runs=len(d),
            precision=_expected(request, prior, d, present),
        )
        for share, d in (*parts, (1.0, design), (1 + MORE, beyond))
    ]
    loss = float(np.exp(best.log_loss[0]))
    return Proposal(
        source=request.source.name,
        law=request.source.law.name,
        convention=dict(request.source.convention),
        flops=request.flops,
        params=float(np.exp(best.log_params[0])),
        loss=loss,
        spend=spend,
        level=_level(request),
        noise=prior.noise,
        shared=prior.shared if candidates.shares_trunks else 0.0,
        before=None if present is None else _precision(present, loss),
        after=steps[-2].precision,
        steps=tuple(steps),
        runs=_runs(design, request.source.fit),
        notes=_notes(request, design),
    )


def _candidates(request: Request) -> Candidates:
    """Runs within the limits asked for, or those that the source suggests."""
    source, fit = request.source, request.source.fit
    limits = _limits(request)
    if source.ladder is None or fit is None:
        if request.widths:
            raise PlanError(
                f"'{source.name}' knows no shapes, so --widths means nothing. Give --params."
            )
        return plain(source.cost, limits)
    wsd = fit.recipe.get("train.schedule") == "wsd"
    cooldown = float(fit.recipe.get("train.cooldown") or 1.0) if wsd else 1.0
    return on_ladder(source.ladder, limits, cooldown=cooldown)


def _limits(request: Request) -> Limits:
    """Limits of a run: small ones as the fitted runs, since laws bend below; large ones by cost."""
    source, anything = request.source, Span(low=1.0, high=math.inf)
    fitted = source.range if source.fit is not None else {}
    low = {name: fitted[name].low for name in ("params", "tokens", "flops") if name in fitted}
    most = request.most_flops
    if most is None:  # a small spend goes into runs as small as there are
        most = min(request.spend, max(LARGEST_SHARE * request.spend, 4 * low.get("flops", 0.0)))
    least = request.least_flops
    if least is None:
        least = min(low.get("flops", SMALLEST_SHARE * request.spend), most)
    ratio = request.ratio or fitted.get("tokens_per_param")
    if ratio is None:
        best = source.best(np.array([request.flops]))
        middle = float(np.exp(best.log_tokens[0] - best.log_params[0]))
        ratio = Span(low=middle / RATIO_ROOM, high=middle * RATIO_ROOM)
    return Limits(
        params=request.params or Span(low=low.get("params", 1.0), high=anything.high),
        tokens=request.tokens or Span(low=low.get("tokens", 1.0), high=anything.high),
        flops=Span(low=least, high=most),
        ratio=ratio,
        widths=request.widths,
    )


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


def _expected(request: Request, prior: Prior, design: Design, present: Floats | None) -> Precision:
    """The interval that a fit with the runs is expected to have."""
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
    loss = float(np.exp(request.source.best(np.array([request.flops])).log_loss[0]))
    return _precision(half, loss)


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


def _notes(request: Request, design: Design) -> tuple[Note, ...]:
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
