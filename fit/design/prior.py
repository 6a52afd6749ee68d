"""What a design is chosen for: the laws that may be true, the runs that there are, and their noise.

The prior of a fit is its forecast (`fit.inference.forecast`), so that runs are chosen for what a
query answers by: the wider law near the population of laws, cheap runs counting less, and a
discrepancy that begins at the costliest run. A larger run moves that start (`starting_at`): the
runs below it then count less, and less is left to the discrepancy.

A published law, and a fit without a forecast, has the law alone: a stated spread around it, or the
fit's draws, with no prior on its parameters. An optimal design for a law puts its runs at the
extremes, where it relies on the law being right; so potential terms are admitted beside it
(`criterion`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.estimation.general import LinearRestriction
from fit.estimation.objective import FitProblem
from fit.inference.forecast import CHEAPER
from fit.inference.forecast_prior import prior_precision
from fit.inference.intervals import offset
from fit.results import Fit

LOOSE = 10.0
"""Prior standard deviation of a parameter, large enough to carry no information."""
DRAWS = 16
"""Laws that the design is averaged over; 48 changed the interval by less than 0.1%."""
EXPONENT_SPREAD, FLOOR_SPREAD, TERM_SPREAD = 0.15, 0.15, 0.3
"""Stated spread (standard deviation of the logarithm) around a published law: of its exponents, of
E, and of either term at the middle of the candidates. Besiroglu 2024 and Hoffmann 2022, on the same
runs, differ by 3% and 25% in the exponents and by 7% in E."""
BELIEF = {"exponents": EXPONENT_SPREAD, "E": FLOOR_SPREAD, "terms": TERM_SPREAD}
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
DISCREPANCIES = 2
"""Parameters of the forecast, its last, that no run informs."""
LEAST_LEVELS = 3
"""Sizes, and lengths, without which no law of both can be told."""
NONE = np.empty(0)
SIGNED = 4
"""Its last that may be negative: bends and discrepancies."""

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRuns:
    """Runs that have been trained already; all of shape (n,)."""

    params: Floats
    tokens: Floats
    trunk: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
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
    precision: Floats | None = None
    """Of what is known of the parameters of a forecast beside its runs, (p,); None: nothing is."""
    top: float | None = None
    """Compute of the costliest run, where a forecast starts [FLOP]; None without one."""

    @cached_property
    def plain(self) -> ScalingLaw:
        """The law that describes the runs, without the forecast."""
        return self.source.plain

    def starting_at(self, top: float) -> DesignPrior:
        """The same for a forecast that starts from a costliest run of another compute [FLOP]."""
        if self.top is None or top == self.top:
            return self
        source = self.source.starting_further(math.log(top / self.top))
        return dataclasses.replace(self, source=source, top=top)

    def run_flops(self, params: Floats, tokens: Floats) -> Floats:
        """Compute of runs (k,) [FLOP]."""
        return np.asarray(tokens * np.exp(self.source.cost.log_flops_per_token(np.log(params))))

    def least_precision(self) -> Floats:
        """The precision of the parameters without any run, (p,)."""
        loose = np.full(self.thetas.shape[1], LOOSE**-2.0)
        return loose if self.precision is None else self.precision

    def informing(self, params: Floats, tokens: Floats) -> Floats:
        """Regressors of runs (k,) times the root of how much each counts, (s, k, p)."""
        x = self.regressors(params, tokens)
        if self.top is None:
            return x
        x[:, :, -DISCREPANCIES:] = 0.0
        behind = math.log(self.top) - np.log(self.run_flops(params, tokens))
        return np.asarray(x / np.sqrt(1 + (CHEAPER * behind) ** 2)[None, :, None])

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
    """The prior of a fit: its posterior, its runs, their noise and how much of it trunks share.

    Args:
        source: What the fit answers by: its forecast, or its law.
        fit: The fit.
        flops: Target budget [FLOP].
        noise: Standard deviation of ln loss of one run; None for the fit's own.
    """
    ahead = fit.forecast if source.law.parameters != source.plain.law.parameters else None
    if ahead is None:
        draws = fit.draws[:: max(1, len(fit.draws) // (DRAWS - 1))][: DRAWS - 1]
    else:
        draws = _posterior_draws(source, ahead.covariance)
    scale = np.array([name[0].isupper() for name in source.law.parameters])
    signed = np.arange(len(scale)) >= len(scale) - (0 if ahead is None else SIGNED)
    sound = np.isfinite(draws) & ((draws > 1e-9) | scale & (draws >= 0) | signed)
    thetas = np.concatenate([source.theta[None], draws[sound.all(axis=1)]])
    _, trunk = np.unique(fit.points.cluster, return_inverse=True)
    known = KnownRuns(
        params=fit.points.params, tokens=fit.points.tokens, trunk=trunk.astype(np.int64)
    )
    own = fit.noise if ahead is None else ahead.noise
    prior = DesignPrior(
        source=source,
        flops=flops,
        thetas=thetas,
        noise=max(own, LEAST_NOISE) if noise is None else noise,
        shared=SHARED_LEAST,
        known=known,
    )
    described = prior
    if ahead is not None:
        described = dataclasses.replace(prior, source=source.plain, thetas=source.plain.theta[None])
        prior = dataclasses.replace(
            prior,
            precision=prior_precision(ahead, float(fit.points.loss.min())),
            top=float(prior.run_flops(known.params, known.tokens).max()),
        )
    shared = shared_variance(described.regressors(known.params, known.tokens)[0], fit)
    return dataclasses.replace(prior, shared=max(SHARED_LEAST, shared))


def _posterior_draws(source: ScalingLaw, covariance: Floats) -> Floats:
    """Laws of a forecast's posterior in pairs about the estimate, without discrepancy, (s, p)."""
    axes = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance)))
    normal = np.random.default_rng(0).standard_normal(((DRAWS - 1) // 2, len(covariance)))
    steps = np.concatenate([normal, -normal]) @ axes.T
    steps[:, -DISCREPANCIES:] = 0.0
    return offset(source.law.parameters, np.repeat(source.theta[None], len(steps), 0), steps)


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


def condition_number(prior: DesignPrior, params: Floats = NONE, tokens: Floats = NONE) -> float:
    """Condition number of the centred Jacobian with unit columns, as `Fit.kappa`.

    Args:
        prior: Its known runs count, and its law is taken as it is, without a forecast.
        params: N of further runs [parameters], (n,).
        tokens: D of further runs [tokens], (n,).

    Returns:
        Infinite below 3 sizes or lengths; NaN for a law without the two terms in N and D.
    """
    source = prior.plain
    law = source.law
    if law.two_terms is None:
        return math.nan
    if prior.known is not None:
        params = np.concatenate([prior.known.params, params])
        tokens = np.concatenate([prior.known.tokens, tokens])
    if min(len(np.unique(params)), len(np.unique(tokens))) < LEAST_LEVELS:
        return math.inf
    e, a, b, alpha, beta = (float(v) for v in law.parts(source.theta))
    problem = FitProblem.of(params, tokens, law.loss(source.theta, params, tokens))
    n, d = problem.centre
    tiny = 1e-300
    theta = [math.log(max(e, tiny)), math.log(a) - alpha * n, math.log(b) - beta * d, alpha, beta]
    jacobian = problem.jacobian(np.array(theta)) @ LinearRestriction.of(law.name).basis
    jacobian = jacobian[:, np.abs(jacobian).max(axis=0) > 0]
    return float(np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0)))


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
