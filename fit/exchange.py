"""The criterion of a design, and the search by adding, dropping and exchanging runs.

The value of a set of runs is the sum of ln Var(ln N*) and ln Var(ln L*) at the target, averaged
over the laws that may be true. One run more is a rank-one update of the covariance, so that all
options are tried at once. For a price per FLOP, runs are added, dropped and exchanged one at a time
as long as that pays; the price is bisected until the bill fits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fit.candidates import Candidates, spent
from fit.estimate import Family
from fit.objective import Problem
from fit.prior import Prior
from fit.record import Floats

POTENTIAL = 0.25
"""Size of each potential term at the edge of the candidates, in noise units of one run: at most 1%
of the interval is given up for it if the law is right (at 0.4: 4%). At 1 designs on the range of an
isoFLOP grid are no better than the grid."""
LOOSE = 10.0
"""Standard deviation of a parameter before any run: nothing is known of it."""
PRICES = 12
"""Bisections of the price, over six decades."""
ROUNDS = 6
"""Of additions and exchanges at most."""
LEAST_GAIN = 1e-9
"""Of the criterion, for an exchange: ties do not turn in circles."""
LEAST = 1e-300
"""Variance that stands for none, whose logarithm can be taken."""

Codes = NDArray[np.int64]


class Search:
    """A criterion over sets of options: a candidate and which replicate of it."""

    def __init__(self, prior: Prior, candidates: Candidates, replicates: int) -> None:
        self.prior, self.candidates, self.replicates = prior, candidates, replicates
        k = len(candidates)
        self.of = np.tile(np.arange(k), replicates)
        copy = np.repeat(np.arange(replicates), k)
        group = candidates.size if candidates.shares_trunks else np.arange(k)
        self.trunk = (np.tile(group, replicates) * replicates + copy).astype(np.int64)
        self.copy = copy
        self.shared = prior.shared if candidates.shares_trunks else 0.0
        self.own_noise = prior.noise * math.sqrt(1 - self.shared)
        points = self._points(candidates.params, candidates.tokens)
        self.x = points[:, self.of] / self.own_noise
        targets = prior.targets()
        self.targets = np.concatenate([targets, np.zeros((*targets.shape[:2], 3))], axis=2)
        self.base = self._base()

    def option(self, candidate: int, replicate: int) -> int:
        """The option of a candidate and a replicate."""
        return int(replicate) * len(self.candidates) + int(candidate)

    def bill(self, options: list[int]) -> float:
        """FLOPs of options together."""
        return float(spent(self.candidates, self.of[options], self.trunk[options]).sum())

    def value(self, options: list[int]) -> float:
        """The criterion: mean over laws of ln Var(ln N*) + ln Var(ln L*)."""
        return float(_criterion(self._variances(self._covariance(options))))

    def kappa(self, options: list[int]) -> float:
        """Condition number of known runs and options; infinite below 3 sizes or lengths."""
        known, c = self.prior.known, self.candidates
        n, d = c.params[self.of[options]], c.tokens[self.of[options]]
        if known is not None:
            n, d = np.concatenate([known.params, n]), np.concatenate([known.tokens, d])
        if len(np.unique(n)) < 3 or len(np.unique(d)) < 3:
            return math.inf
        return condition(self.prior, n, d)

    def affordable(self, most: int, spend: float) -> list[int]:
        """The best design within the spend that is met while a price per FLOP is bisected.

        Finishing the best eight of them gained nothing over the best alone (14 cases).
        """
        low, high = math.log(0.01 / spend), math.log(1e4 / spend)
        options: list[int] = []
        found: list[list[int]] = [options]
        for _ in range(PRICES):
            middle = (low + high) / 2
            options = self.improve(options, math.exp(middle), most, rounds=2)
            if self.bill(options) > spend:
                low = middle
            else:
                high = middle
                found.append(options)
        return min(found, key=self.value)

    def improve(
        self,
        options: list[int],
        price: float,
        most: int,
        spend: float = math.inf,
        rounds: int = ROUNDS,
    ) -> list[int]:
        """Add, drop and exchange options one at a time while it pays."""
        for _ in range(rounds):
            before = list(options)
            while len(options) < most and (best := self._best(options, price, spend)) is not None:
                options = [*options, best]
            for option in list(options):
                rest = [o for o in options if o != option]
                found = self._best(rest, price, spend, instead_of=option)
                options = rest if found is None else [*rest, found]
            if sorted(options) == sorted(before):
                break
        return options

    def _best(
        self, options: list[int], price: float, spend: float, instead_of: int | None = None
    ) -> int | None:
        """The option that pays most beside others, the present one in doubt; None if none pays."""
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
        if self.shared:  # what the trunk's other runs say of its common error is subtracted
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
        """Options not taken whose earlier replicates are in use: replicates are alike."""
        used = np.zeros(self.trunk.max() + 2, dtype=bool)
        used[self.trunk[options]] = True
        opened = (self.copy == 0) | used[self.trunk - 1]
        opened[options] = False
        return np.asarray(opened)

    def _added(self, options: list[int]) -> Floats:
        """What each option would add to the bill [FLOP], (options,)."""
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
        """Covariance with known runs and options, (s, p + 3, p + 3)."""
        own = gathered(self.x[:, options], self.trunk[options], self.shared)
        return np.asarray(np.linalg.inv(self.base + own))

    def _base(self) -> Floats:
        """Information before the options: loose priors, potential terms, known runs."""
        s, _, p = self.x.shape
        loose = np.full(p, LOOSE)
        loose[-3:] = POTENTIAL * self.prior.noise
        base = np.repeat(np.diag(loose**-2.0)[None], s, axis=0)
        known = self.prior.known
        if known is None:
            return base
        x = self._points(known.params, known.tokens)
        own_noise = self.prior.noise * math.sqrt(1 - self.prior.shared)
        return base + gathered(x / own_noise, known.trunk, self.prior.shared)

    def _points(self, params: Floats, tokens: Floats) -> Floats:
        """Regressors with the potential terms, (s, k, p + 3)."""
        law = self.prior.regressors(params, tokens)
        c = self.candidates
        u, v = _scaled(np.log(params), np.log(c.params)), _scaled(np.log(tokens), np.log(c.tokens))
        terms = np.stack([u**2, v**2, u * v], axis=1)
        return np.concatenate([law, np.repeat(terms[None], len(law), axis=0)], axis=2)


def _criterion(variances: Floats) -> Floats:
    """Mean over laws, the first axis, of the sum of ln variances over targets, the last."""
    return np.asarray(np.log(np.maximum(variances, LEAST)).sum(axis=-1).mean(axis=0))


def gathered(x: Floats, trunk: Codes, shared: float) -> Floats:
    """Information of runs whose trunks share a part of their errors, (s, p, p).

    Args:
        x: Regressors in units of the noise that is a run's own, (s, n, p).
        trunk: Code of each run's trunk, (n,).
        shared: Share of the error variance that a trunk's runs have in common.
    """
    total = x.transpose(0, 2, 1) @ x
    for code in np.unique(trunk) if shared else ():
        inside = trunk == code
        together = x[:, inside].sum(axis=1)
        weight = shared / (1 - shared + inside.sum() * shared)
        total = total - weight * together[:, :, None] * together[:, None, :]
    return np.asarray(total)


def _scaled(values: Floats, among: Floats) -> Floats:
    """Values on the scale that runs from -1 to 1 over others."""
    low, high = float(among.min()), float(among.max())
    return np.asarray((2 * values - low - high) / max(high - low, 1e-9))


def condition(prior: Prior, params: Floats, tokens: Floats) -> float:
    """Condition number of the centred Jacobian with unit columns, as `Fit.kappa`.

    Args:
        prior: Its first law is taken.
        params: N of the runs, (n,).
        tokens: D of the runs, (n,).
    """
    law = prior.source.law
    e, a, b, alpha, beta = (float(v) for v in law.parts(prior.thetas[0]))
    problem = Problem.of(params, tokens, law.loss(prior.thetas[0], params, tokens))
    n, d = problem.centre
    tiny = 1e-300
    theta = [math.log(max(e, tiny)), math.log(a) - alpha * n, math.log(b) - beta * d, alpha, beta]
    jacobian = problem.jacobian(np.array(theta)) @ Family.of(law.name).basis
    jacobian = jacobian[:, np.abs(jacobian).max(axis=0) > 0]
    return float(np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0)))
