"""The design criterion, its prior, and the search over sets of runs.

A design is chosen for laws that may be true (`DesignPrior`): the draws of a fit, or a stated spread
around a published law. The value of a set of runs is the sum of ln Var(ln N*) and ln Var(ln L*) at
the target, averaged over these laws, to first order at each of them: a run informs about the
parameters along d ln L / d theta, and ln N* and ln L* depend on them along their own derivatives.

One run more is a rank-one update of the covariance, so that all options are tried at once
(`DesignSearch`). For a price per FLOP, runs are added, dropped and exchanged one at a time as long
as the criterion improves; the price is bisected until the total cost is within the spend.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.design.candidates import Candidates, incremental_flops
from fit.estimation.objective import FitProblem
from fit.estimation.solver import LinearRestriction
from fit.inference.intervals import offset
from fit.results import Fit

POTENTIAL = 0.25
"""Size of each potential term at the edge of the candidates, in units of one run's noise. If the
law is right, it widens the interval by at most 1% (at 0.4 by 4%). At 1, designs on the range of an
isoFLOP grid are no better than the grid."""
LOOSE = 10.0
"""Prior standard deviation of a parameter, large enough to carry no information."""
PRICES = 12
"""Bisections of the price per FLOP, over six decades."""
ROUNDS = 6
"""Largest number of rounds of additions and exchanges."""
LEAST_GAIN = 1e-9
"""Least improvement of the criterion for an exchange, so that ties do not cycle."""
LEAST = 1e-300
"""Smallest variance, whose logarithm is finite."""
DRAWS = 16
"""Laws that the design is averaged over; 48 changed the interval by less than 0.1%."""
EXPONENT_SPREAD, FLOOR_SPREAD, TERM_SPREAD = 0.15, 0.15, 0.3
"""Stated spread (standard deviation of the logarithm) around a published law: of its exponents, of
E, and of either term at the middle of the candidates. Besiroglu 2024 and Hoffmann 2022, on the same
runs, differ by 3% and 25% in the exponents and by 7% in E."""
PRESET_NOISE = 0.003
"""Standard deviation of ln loss assumed with a published law, which states none: between the 0.1%
of small models on synthetic text and the 1% of small models on prose (docs/log.md)."""
SHARED_LEAST = 0.1
"""Smallest share of the error variance that a trunk's runs are assumed to have in common: ten
trunks cannot distinguish 0.1 from none, and with none a design would branch every trunk at all
lengths."""
SHARED_MOST = 0.9
"""Largest share that a fit's residuals can give."""
LEAST_NOISE = 1e-6
"""Smallest standard deviation of ln loss, for a fit to losses without noise."""
STEP = 1e-4
"""Central-difference step in ln of scales, and in exponents."""


Codes = NDArray[np.int64]


class DesignSearch:
    """The criterion over sets of options, and the search for the best set.

    An option is a candidate and the number of its replicate. Options are integers below
    `replicates` * k for k candidates; arrays over them are of shape (options,).

    Args:
        prior: Laws that may be true, and the runs that there are.
        candidates: Runs to choose among, k of them.
        replicates: Largest number of copies of a run, or of trunks of a size.
    """

    def __init__(self, prior: DesignPrior, candidates: Candidates, replicates: int) -> None:
        self.prior, self.candidates = prior, candidates
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
        self.targets = np.concatenate([targets, np.zeros((*targets.shape[:2], 3))], axis=2)
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
        """Condition number with known runs and options; infinite below 3 sizes or lengths."""
        runs, c = self.prior.known, self.candidates
        n, d = c.params[self.of[options]], c.tokens[self.of[options]]
        if runs is not None:
            n, d = np.concatenate([runs.params, n]), np.concatenate([runs.tokens, d])
        if len(np.unique(n)) < 3 or len(np.unique(d)) < 3:
            return math.inf
        return condition_number(self.prior, n, d)

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
        """Options not taken whose earlier replicates are in use; the others would be equivalent."""
        used = np.zeros(self.trunk.max() + 2, dtype=bool)
        used[self.trunk[options]] = True
        opened = (self.copy == 0) | used[self.trunk - 1]
        opened[options] = False
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
        """Covariance with known runs and options, (s, p + 3, p + 3)."""
        added = information(self.x[:, options], self.trunk[options], self.shared)
        return np.asarray(np.linalg.inv(self.base + added))

    def _base(self) -> Floats:
        """Information of loose priors, potential terms and known runs, (s, p + 3, p + 3)."""
        s, _, p = self.x.shape
        loose = np.full(p, LOOSE)
        loose[-3:] = POTENTIAL * self.prior.noise
        base = np.repeat(np.diag(loose**-2.0)[None], s, axis=0)
        runs = self.prior.known
        if runs is None:
            return base
        x = self._points(runs.params, runs.tokens)
        own_noise = self.prior.noise * math.sqrt(1 - self.prior.shared)
        return base + information(x / own_noise, runs.trunk, self.prior.shared)

    def _points(self, params: Floats, tokens: Floats) -> Floats:
        """Regressors of runs (k,) with the potential terms, (s, k, p + 3)."""
        law = self.prior.regressors(params, tokens)
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


def condition_number(prior: DesignPrior, params: Floats, tokens: Floats) -> float:
    """Condition number of the centred Jacobian with unit columns, as `Fit.kappa`.

    Args:
        prior: Its first law is taken.
        params: N of the runs [parameters], (n,).
        tokens: D of the runs [tokens], (n,).
    """
    law = prior.source.law
    e, a, b, alpha, beta = (float(v) for v in law.parts(prior.thetas[0]))
    problem = FitProblem.of(params, tokens, law.loss(prior.thetas[0], params, tokens))
    n, d = problem.centre
    tiny = 1e-300
    theta = [math.log(max(e, tiny)), math.log(a) - alpha * n, math.log(b) - beta * d, alpha, beta]
    jacobian = problem.jacobian(np.array(theta)) @ LinearRestriction.of(law.name).basis
    jacobian = jacobian[:, np.abs(jacobian).max(axis=0) > 0]
    return float(np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRuns:
    """Runs that have been trained already; all of shape (n,)."""

    params: Floats
    tokens: Floats
    trunk: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPrior:
    """Laws that may be true, the noise of a run, and the runs that there are."""

    source: ScalingLaw
    flops: float
    """Target budget [FLOP]."""
    thetas: Floats
    """Parameters of the laws to average over, the estimate itself first, (s, p)."""
    noise: float
    """Standard deviation of ln loss of one run about the law."""
    shared: float
    """Share of that variance that runs of one trunk have in common."""
    known: KnownRuns | None = None

    def regressors(self, params: Floats, tokens: Floats) -> Floats:
        """Derivatives d ln L / d theta at runs (k,) under every law, (s, k, p)."""
        log_loss = self.source.log_losses(params, tokens)
        up, down = self._around()
        s, p = self.thetas.shape
        slopes = (log_loss(up) - log_loss(down)) / (2 * STEP)
        return np.moveaxis(slopes.reshape(s, p, -1), 1, 2)

    def targets(self) -> Floats:
        """Derivatives of ln N* and ln L* at the target, (s, 2, p)."""
        splits = self.source.splits(np.array([self.flops]))
        up, down = (splits(t) for t in self._around())
        slopes = [
            (high[:, 0] - low[:, 0]) / (2 * STEP)
            for high, low in ((up.log_params, down.log_params), (up.log_loss, down.log_loss))
        ]
        return np.stack([x.reshape(self.thetas.shape) for x in slopes], axis=1)

    def _around(self) -> tuple[Floats, Floats]:
        """Laws a step to either side in every parameter, (s p, p) each."""
        s, p = self.thetas.shape
        steps = np.tile(STEP * np.eye(p), (s, 1))
        centres = np.repeat(self.thetas, p, axis=0)
        names = self.source.law.parameters
        return offset(names, centres, steps), offset(names, centres, -steps)


def prior_of_fit(
    source: ScalingLaw, fit: Fit, flops: float, *, noise: float | None = None
) -> DesignPrior:
    """The prior of a fit: its draws, its runs, their noise and how much of it trunks share.

    Args:
        source: The fit's law and parameters.
        fit: The fit.
        flops: Target budget [FLOP].
        noise: Standard deviation of ln loss of one run; None for the fit's own.
    """
    draws = fit.draws[:: max(1, len(fit.draws) // (DRAWS - 1))][: DRAWS - 1]
    scale = np.array([name[0].isupper() for name in fit.parameters()])
    sound = np.isfinite(draws).all(axis=1) & ((draws > 1e-9) | scale & (draws >= 0)).all(axis=1)
    thetas = np.concatenate([source.theta[None], draws[sound]])
    _, trunk = np.unique(fit.points.cluster, return_inverse=True)
    known = KnownRuns(
        params=fit.points.params, tokens=fit.points.tokens, trunk=trunk.astype(np.int64)
    )
    prior = DesignPrior(
        source=source,
        flops=flops,
        thetas=thetas,
        noise=max(fit.noise, LEAST_NOISE) if noise is None else noise,
        shared=SHARED_LEAST,
        known=known,
    )
    shared = shared_variance(prior.regressors(known.params, known.tokens)[0], fit)
    return dataclasses.replace(prior, shared=max(SHARED_LEAST, shared))


def prior_of_preset(
    source: ScalingLaw, flops: float, *, centre: tuple[float, float], noise: float
) -> DesignPrior:
    """The prior of a published law: draws of a stated spread around it.

    Args:
        source: The published law.
        flops: Target budget [FLOP].
        centre: N and D in the middle of the candidates, where the two terms have the spread
            `TERM_SPREAD`, whatever the exponents.
        noise: Standard deviation of ln loss of one run.

    Raises:
        QueryError: The law is not a sum of two power laws, for which the spread is stated.
    """
    source.law.parts(source.theta)  # refuses a law that is no sum of two terms
    theta, names = source.theta, source.law.parameters
    normal = np.random.default_rng(0).standard_normal(((DRAWS - 1) // 2, len(names)))
    spread = np.concatenate([np.zeros((1, len(names))), normal, -normal])
    widths = [FLOOR_SPREAD if n == "E" else TERM_SPREAD if n in "AB" else 0.0 for n in names]
    moved = theta * np.exp(spread * widths)
    middle = dict(zip("AB", np.log(centre), strict=True))
    for i, name in enumerate(names):
        if name in ("alpha", "beta"):
            moved[:, i] = theta[i] * np.exp(EXPONENT_SPREAD * spread[:, i])
    for name in middle:
        j = names.index("beta" if name == "B" and "beta" in names else "alpha")
        moved[:, names.index(name)] *= np.exp((moved[:, j] - theta[j]) * middle[name])
    return DesignPrior(source=source, flops=flops, thetas=moved, noise=noise, shared=0.0)


def shared_variance(jacobian: Floats, fit: Fit) -> float:
    """Estimate the share of the error variance that runs of one trunk have in common.

    By two moments, the sums of squares of the residuals and of their sums by trunk, which are set
    to their expectations given that the parameters were fitted (as Henderson 1953, method III).

    Args:
        jacobian: Derivatives d ln L / d theta of the fitted runs, (n, p).
        fit: The fit; residuals beyond 3 noise units count as 3.

    Returns:
        Between 0 and `SHARED_MOST`; 0 where no two runs share a trunk.
    """
    _, trunk = np.unique(fit.points.cluster, return_inverse=True)
    z = (trunk[:, None] == np.arange(trunk.max() + 1)).astype(np.float64)
    basis, values, _ = np.linalg.svd(jacobian, full_matrices=False)
    basis = basis[:, values > 1e-10 * values[0]]
    q = np.eye(len(trunk)) - basis @ basis.T
    residual = np.clip(fit.points.residual, -3 * fit.noise, 3 * fit.noise)
    inner = z.T @ q @ z
    moments = np.array([residual @ residual, ((z.T @ residual) ** 2).sum()])
    expected = np.array([[np.trace(q), np.trace(inner)], [np.trace(inner), (inner**2).sum()]])
    if z.shape[1] == len(trunk) or np.linalg.cond(expected) > 1e8:
        return 0.0
    own, common = np.linalg.solve(expected, moments)
    return float(np.clip(common / max(own + common, 1e-300), 0.0, SHARED_MOST))
