"""The design criterion, and the search over sets of runs.

A design is chosen for laws that may be true (`fit.design.prior`). The value of a set of runs is the
sum of ln Var(ln N*) and ln Var(ln L*) at the target, averaged over these laws, to first order at
each of them: a run informs about the parameters along d ln L / d theta, and ln N* and ln L* depend
on them along their own derivatives.

One run more is a rank-one update of the covariance, so that all options are tried at once
(`DesignSearch`). For a price per FLOP, runs are added, dropped and exchanged one at a time as long
as the criterion improves; the price is bisected until the total cost is within the spend.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.design.candidates import Candidates, incremental_flops
from fit.design.prior import Codes, DesignPrior, condition_number
from fit.errors import PlanError
from fit.quantities import power

POTENTIAL = 0.25
"""Size of each potential term at the edge of the candidates, in units of one run's noise. If the
law is right, it widens the interval by at most 1% (at 0.4 by 4%). At 1, designs on the range of an
isoFLOP grid are no better than the grid."""
AT_ONCE = 40
"""A step of `trim_grid` removes at most one run in so many, and one of a small grid."""
HEALTHY_KAPPA = 160.0
"""Largest condition number of a trimmed grid, unless it began with a larger; 40-160 is healthy."""
PRICES = 12
"""Bisections of the price per FLOP, over six decades."""
ROUNDS = 6
"""Largest number of rounds of additions and exchanges."""
LEAST_GAIN = 1e-9
"""Least improvement of the criterion for an exchange, so that ties do not cycle."""
LEAST = 1e-300
"""Smallest variance, whose logarithm is finite."""


class DesignSearch:
    """The criterion over sets of options, and the search for the best set.

    An option is a candidate and the number of its replicate. Options are integers below
    `replicates` * k for k candidates; arrays over them are of shape (options,).

    Args:
        prior: Laws that may be true, and the runs that there are.
        candidates: Runs to choose among, k of them.
        replicates: Largest number of copies of a run, or of trunks of a size.
        most_at_a_size: Largest number of runs of one size; None for no limit.
    """

    def __init__(
        self,
        prior: DesignPrior,
        candidates: Candidates,
        replicates: int,
        most_at_a_size: int | None = None,
    ) -> None:
        self.prior, self.candidates = prior, candidates
        self.most_at_a_size = most_at_a_size
        k = len(candidates)
        self.of = np.tile(np.arange(k), replicates)
        self.copy = np.repeat(np.arange(replicates), k)
        group = candidates.size if candidates.shares_trunks else np.arange(k)
        self.trunk = (np.tile(group, replicates) * replicates + self.copy).astype(np.int64)
        self.shared = prior.shared if candidates.shares_trunks else 0.0
        self.own_noise = prior.noise * math.sqrt(1 - self.shared)
        points = self._points(candidates.params, candidates.tokens)
        self.x = points[:, self.of] / self.own_noise
        targets = prior.targets()
        none = np.zeros((*targets.shape[:2], points.shape[2] - targets.shape[2]))
        self.targets = np.concatenate([targets, none], axis=2)
        self.base = self._base()

    def option(self, candidate: int, replicate: int) -> int:
        """The option of a candidate and the number of a replicate."""
        return int(replicate) * len(self.candidates) + int(candidate)

    def bill(self, options: list[int]) -> float:
        """Cost of options together, trunks paid once [FLOP]."""
        return float(
            incremental_flops(self.candidates, self.of[options], self.trunk[options]).sum()
        )

    def value(self, options: list[int]) -> float:
        """The criterion: mean over laws of ln Var(ln N*) + ln Var(ln L*)."""
        return float(_criterion(self._variances(self._covariance(options))))

    def kappa(self, options: list[int]) -> float:
        """Condition number with known runs and options."""
        c, chosen = self.candidates, self.of[options]
        return condition_number(self.prior, c.params[chosen], c.tokens[chosen])

    def affordable(self, most: int, spend: float) -> list[int]:
        """The best set within the spend among those of a bisection of the price per FLOP.

        Refining the best eight of them gained nothing over refining the best (14 cases).

        Args:
            most: Largest number of runs.
            spend: Limit on their cost [FLOP].
        """
        low, high = math.log(0.01 / spend), math.log(1e4 / spend)
        options: list[int] = []
        within: list[list[int]] = [options]
        for _ in range(PRICES):
            middle = (low + high) / 2
            options = self.improve(options, math.exp(middle), most, rounds=2)
            if self.bill(options) > spend:
                low = middle
            else:
                high = middle
                within.append(options)
        return min(within, key=self.value)

    def improve(
        self,
        options: list[int],
        price: float,
        most: int,
        spend: float = math.inf,
        rounds: int = ROUNDS,
    ) -> list[int]:
        """Add, drop and exchange options one at a time while the criterion improves.

        Args:
            options: Options to start from.
            price: Of one FLOP, in units of the criterion.
            most: Largest number of options.
            spend: Limit on their cost [FLOP].
            rounds: Largest number of rounds.
        """
        for _ in range(rounds):
            before = list(options)
            while len(options) < most and (best := self._best(options, price, spend)) is not None:
                options = [*options, best]
            for option in list(options):
                rest = [o for o in options if o != option]
                best = self._best(rest, price, spend, instead_of=option)
                options = rest if best is None else [*rest, best]
            if sorted(options) == sorted(before):
                break
        return options

    def _best(
        self, options: list[int], price: float, spend: float, instead_of: int | None = None
    ) -> int | None:
        """The option that improves the criterion most beside others; None if none does.

        `instead_of` is kept unless another is better by more than `LEAST_GAIN`.
        """
        covariance = self._covariance(options)
        now = float(_criterion(self._variances(covariance)))
        added = self._added(options)
        score = self._with_one_more(options, covariance) + price * added
        score[~self._open(options) | (added > spend - self.bill(options))] = np.inf
        best = int(np.argmin(score))
        if instead_of is not None and not score[best] < score[instead_of] - LEAST_GAIN:
            best = instead_of
        return best if score[best] < now else None

    def _with_one_more(self, options: list[int], covariance: Floats) -> Floats:
        """The criterion with each option added, by a rank-one update, (options,)."""
        x, more = self.x, np.zeros(self.x.shape[1])
        if self.shared:  # subtract what the trunk's other runs tell of its common error
            member = self.trunk[options][:, None] == np.arange(self.trunk.max() + 1)
            sums = member.T.astype(np.float64) @ x[:, options]
            weight = self.shared / (1 - self.shared + member.sum(axis=0) * self.shared)
            more = np.asarray(weight[self.trunk])
            x = x - more[:, None] * sums[:, self.trunk]
        z = x @ covariance
        noise = 1 + more + np.einsum("skp,skp->sk", z, x)
        gain = (z @ self.targets.transpose(0, 2, 1)) ** 2 / noise[:, :, None]
        left = self._variances(covariance)[:, None, :] - gain
        return _criterion(left)

    def _open(self, options: list[int]) -> NDArray[np.bool_]:
        """Options not taken, of sizes that may have more, and whose earlier replicates are used."""
        used = np.zeros(self.trunk.max() + 2, dtype=bool)
        used[self.trunk[options]] = True
        opened = (self.copy == 0) | used[self.trunk - 1]
        opened[options] = False
        if self.most_at_a_size is not None:
            size = self.candidates.size[self.of]
            opened &= np.bincount(size[options], minlength=size.max() + 1)[size] < (
                self.most_at_a_size
            )
        return np.asarray(opened)

    def _added(self, options: list[int]) -> Floats:
        """What each option would add to the total cost [FLOP], (options,)."""
        c, f = self.candidates, self.candidates.cooldown
        tokens = c.tokens[self.of]
        top = np.zeros(self.trunk.max() + 1)
        np.maximum.at(top, self.trunk[options], tokens[options])
        grown = np.maximum(0.0, tokens - top[self.trunk])
        return np.asarray((f * tokens + (1 - f) * grown) * c.flops_per_token[self.of])

    def _variances(self, covariance: Floats) -> Floats:
        """Var(ln N*) and Var(ln L*) under every law, (s, 2)."""
        return np.asarray(
            np.einsum("stp,spq,stq->st", self.targets, covariance, self.targets, optimize=True)
        )

    def _covariance(self, options: list[int]) -> Floats:
        """Covariance with known runs and options, (s, q, q)."""
        added = information(self.x[:, options], self.trunk[options], self.shared)
        return np.asarray(np.linalg.inv(self.base + added))

    def _base(self) -> Floats:
        """Information of the prior, potential terms and known runs, (s, q, q)."""
        s, _, q = self.x.shape
        least = np.full(q, (POTENTIAL * self.prior.noise) ** -2.0)
        known = self.prior.least_precision()
        least[: len(known)] = known
        base = np.repeat(np.diag(least)[None], s, axis=0)
        runs = self.prior.known
        if runs is None:
            return base
        x = self._points(runs.params, runs.tokens)
        own_noise = self.prior.noise * math.sqrt(1 - self.prior.shared)
        return base + information(x / own_noise, runs.trunk, self.prior.shared)

    def _points(self, params: Floats, tokens: Floats) -> Floats:
        """Regressors of runs (k,), with the potential terms where the law is taken as it is."""
        law = self.prior.informing(params, tokens)
        if self.prior.precision is not None:  # a forecast has bends of its own
            return law
        c = self.candidates
        u, v = _scaled(np.log(params), np.log(c.params)), _scaled(np.log(tokens), np.log(c.tokens))
        terms = np.stack([u**2, v**2, u * v], axis=1)
        return np.concatenate([law, np.repeat(terms[None], len(law), axis=0)], axis=2)


def _criterion(variances: Floats) -> Floats:
    """Mean over laws, the first axis, of the sum of ln variances over targets, the last."""
    return np.asarray(np.log(np.maximum(variances, LEAST)).sum(axis=-1).mean(axis=0))


def information(x: Floats, trunk: Codes, shared: float) -> Floats:
    """Fisher information of runs whose trunks share a part of their errors.

    Args:
        x: Regressors in units of the part of the noise that is not shared, (s, n, p).
        trunk: Code of each run's trunk, (n,).
        shared: Share of the error variance that a trunk's runs have in common.

    Returns:
        (s, p, p), one matrix per law.
    """
    total = x.transpose(0, 2, 1) @ x
    # the inverse of a trunk's covariance (equicorrelated errors) by Sherman and Morrison
    for code in np.unique(trunk) if shared else ():
        inside = trunk == code
        together = x[:, inside].sum(axis=1)
        weight = shared / (1 - shared + inside.sum() * shared)
        total = total - weight * together[:, :, None] * together[:, None, :]
    return np.asarray(total)


def _scaled(values: Floats, among: Floats) -> Floats:
    """Values on the scale on which others range from -1 to 1."""
    low, high = float(among.min()), float(among.max())
    return np.asarray((2 * values - low - high) / max(high - low, 1e-9))


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
    if prior.top is not None:
        costliest = prior.run_flops(candidates.params, candidates.tokens).max()
        prior = prior.starting_at(max(float(costliest), prior.top if prior.known else 0.0))
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
