"""What a set of planned runs would tell of N* and the loss at a target, before any is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fit.candidates import Candidates
from fit.design import Design, deviations
from fit.exchange import condition
from fit.laws import preset
from fit.prior import PRESET_NOISE, SHARED_LEAST, Known, Prior, of_fit, of_preset
from fit.quantity import power
from fit.record import Floats
from fit.source import Source
from fit.store import read_fit
from sweep.bill import Planned
from sweep.config import Schedule
from sweep.terms import Terms

REACH = 10.0
"""Target budget in units of the grid's largest run, where none is given."""
LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a set of runs would tell."""

    kappa: float
    params_factor: float
    """Half-width of the interval of N* at the target, as a factor."""
    loss_margin: float
    """Half-width of the interval of the loss there, as a share of it."""


def candidates_of(rows: Sequence[Planned], cost: Callable[[Planned], float]) -> Candidates:
    """Planned runs as the statistician's candidates, priced by the token, trunks paid once."""
    code = {key: i for i, key in enumerate(dict.fromkeys(map(trunk_of, rows)))}
    size = np.array([code[trunk_of(row)] for row in rows], dtype=np.int64)
    own = np.array([row.run.flops_spent / row.trajectory.flops_per_token.exact for row in rows])
    price = np.bincount(size, [cost(row) for row in rows]) / np.bincount(size, own)
    trains = [row.trajectory.config.train for row in rows]
    shared = all(train.schedule is Schedule.wsd for train in trains)
    return Candidates(
        params=np.array([float(row.trajectory.params.matmul) for row in rows]),
        tokens=np.array([float(row.run.tokens) for row in rows]),
        flops_per_token=price[size],
        size=size,
        cooldown=max(train.cooldown for train in trains) if shared else 1.0,
    )


def prior_of(rows: Sequence[Planned], done: Sequence[Planned], terms: Terms) -> Prior:
    """Laws that may be true, with the runs that are there already."""
    every = [*done, *rows]
    target = terms.target or REACH * max(row.run.flops for row in every)
    params, tokens = points_of(every)
    folder = Path(terms.prior)
    if folder.is_dir():
        fit = read_fit(folder)
        prior = of_fit(Source.from_fit(fit), fit, target)
    else:
        source = Source.from_preset(preset(terms.prior))
        middle = (math.exp(np.log(params).mean()), math.exp(np.log(tokens).mean()))
        prior = of_preset(source, target, centre=middle, noise=PRESET_NOISE)
    known = None
    if done:
        known = Known(params=params[: len(done)], tokens=tokens[: len(done)], trunk=codes_of(done))
    return dataclasses.replace(prior, known=known, shared=max(prior.shared, SHARED_LEAST))


def worth(rows: Sequence[Planned], prior: Prior) -> Worth:
    """What some runs would tell of N* and the loss at the target, to first order."""
    params, tokens = points_of(rows)
    trunk = codes_of(rows)
    candidates = candidates_of(rows, lambda row: row.run.flops_spent)
    nothing = np.zeros(len(rows), dtype=np.int64)
    design = Design(
        candidates=candidates, chosen=np.arange(len(rows)), replicate=nothing, trunk=trunk
    )
    free = prior.thetas.shape[1]
    dof = min(len(np.unique(trunk)) - 1, len(rows) - free)
    half = np.full(2, np.inf)
    if dof > 0:
        quantile = float(stats.t.ppf(0.5 + LEVEL / 2, dof))
        half = quantile * deviations(dataclasses.replace(prior, known=None), design)
    with np.errstate(over="ignore"):
        factor = float(np.exp(half[0]))
    kappa = condition(prior, params, tokens)
    return Worth(kappa=kappa, params_factor=factor, loss_margin=float(half[1]))


def compared(whole: Sequence[Planned], part: Sequence[Planned], terms: Terms) -> list[str]:
    """What thinning costs the answer."""
    prior = prior_of(whole, [], terms)
    before, after = worth(whole, prior), worth(part, prior)
    return [
        f"kappa     {before.kappa:.0f} -> {after.kappa:.0f} (40-160 is healthy)",
        f"N*        known to a factor {before.params_factor:.3g} -> {after.params_factor:.3g} "
        f"at {power(prior.flops)} FLOP",
        f"loss      known to {before.loss_margin:.2%} -> {after.loss_margin:.2%} there "
        f"({LEVEL:.0%}, by {prior.source.name})"[:70],
    ]


def points_of(rows: Sequence[Planned]) -> tuple[Floats, Floats]:
    """N and D of runs."""
    params = np.array([float(row.trajectory.params.matmul) for row in rows])
    return params, np.array([float(row.run.tokens) for row in rows])


def codes_of(rows: Sequence[Planned]) -> NDArray[np.int64]:
    """Code of each run's trunk."""
    codes = np.unique(
        [f"{cell} {trunk}" for cell, trunk in map(trunk_of, rows)], return_inverse=True
    )
    return np.asarray(codes[1], dtype=np.int64)


def trunk_of(row: Planned) -> tuple[int, str]:
    """Which trajectory a run belongs to."""
    return row.cell, row.trajectory.trunk
