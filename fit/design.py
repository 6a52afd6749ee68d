"""Which runs to make: those that tell most about N* and the loss at the target, for their FLOPs.

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

from fit.candidates import Candidates, spent
from fit.errors import PlanError
from fit.exchange import LOOSE, Codes, Search, gathered
from fit.prior import Prior
from fit.quantity import power
from fit.record import Floats

AT_ONCE = 40
"""A grid that is thinned loses at most one run in so many at a time, one where it is small."""
HEALTHY_KAPPA = 160.0
"""Condition number that a trimmed grid keeps at most, where it had no worse; 40-160 is healthy."""


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
        return spent(self.candidates, self.chosen, self.trunk)

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


def choose(
    prior: Prior,
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
    search = Search(prior, candidates, replicates)
    if start is not None:
        options = [search.option(c, r) for c, r in zip(start.chosen, start.replicate, strict=True)]
        return _design(search, search.improve(options, 0.0, most_runs, spend))
    best = search.affordable(most_runs, spend)
    return _design(search, search.improve(best, 0.0, most_runs, spend))


def deviations(prior: Prior, design: Design | None) -> Floats:
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
        total = total + gathered(x, trunk, shared)[0]
    return np.asarray(np.sqrt(np.diag(target @ np.linalg.inv(total) @ target.T)))


def trim(
    candidates: Candidates,
    spend: float,
    prior: Prior,
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
    search = Search(prior, candidates, 1)
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


def _design(search: Search, options: list[int]) -> Design:
    """The design of options, largest size first, then longest."""
    c, of = search.candidates, search.of
    order = sorted(options, key=lambda o: (-c.params[of[o]], search.copy[o], -c.tokens[of[o]]))
    return Design(
        candidates=c,
        chosen=of[order],
        replicate=search.copy[order],
        trunk=search.trunk[order],
    )
