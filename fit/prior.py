"""What is believed before the next runs are made, and how runs and targets depend on the law.

A design is chosen for laws that may be true: the draws of a fit, or a stated spread around a
published law. Everything is taken to first order at each of them: a run says something about the
parameters along d ln L / d theta, and ln N* and ln L* at the target depend on them along theirs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.derived import offset
from fit.record import Floats
from fit.result import Fit
from fit.source import Source

DRAWS = 16
"""Laws that the design is averaged over; 48 changed the interval by less than 0.1%."""
EXPONENT_SPREAD, FLOOR_SPREAD, TERM_SPREAD = 0.15, 0.15, 0.3
"""Stated spread (standard deviation in ln) around a published law: of its exponents, of E, and of
either term at the middle of the candidates. Besiroglu 2024 and Hoffmann 2022, on the same runs,
differ by 3% and 25% in the exponents and by 7% in E."""
PRESET_NOISE = 0.003
"""Standard deviation of ln loss taken with a published law, which has none of its own: between
the 0.1% of small models on synthetic text and the 1% of small models on prose (docs/log.md)."""
SHARED_LEAST = 0.1
"""Share of the error variance that a trunk is taken to have at least: ten trunks cannot tell
a share of 0.1 from none, and a design that trusted in none would cut every trunk to pieces."""
SHARED_MOST = 0.9
LEAST_NOISE = 1e-6
"""Of ln loss: a fit to losses without noise still has a design."""
STEP = 1e-4
"""Central-difference step in ln of scales, and in exponents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Runs that have been made; all of shape (n,)."""

    params: Floats
    tokens: Floats
    trunk: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Laws that may be true, and what is known already."""

    source: Source
    flops: float
    """Target budget [FLOP]."""
    thetas: Floats
    """(s, p) laws to average over, the estimate itself first."""
    noise: float
    """Standard deviation of ln loss of one run about the law."""
    shared: float
    """Share of that variance which runs of one trunk have in common."""
    known: Known | None = None

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


def of_fit(source: Source, fit: Fit, flops: float, *, noise: float | None = None) -> Prior:
    """What a fit leaves: its draws, its runs, their noise and how much of it trunks share.

    Args:
        source: The fit as a source.
        fit: The fit.
        flops: Target budget [FLOP].
        noise: Standard deviation of ln loss of one run; None for the fit's own.
    """
    draws = fit.draws[:: max(1, len(fit.draws) // (DRAWS - 1))][: DRAWS - 1]
    scale = np.array([name[0].isupper() for name in fit.parameters()])
    sound = np.isfinite(draws).all(axis=1) & ((draws > 1e-9) | scale & (draws >= 0)).all(axis=1)
    thetas = np.concatenate([source.theta[None], draws[sound]])
    _, trunk = np.unique(fit.points.cluster, return_inverse=True)
    known = Known(params=fit.points.params, tokens=fit.points.tokens, trunk=trunk.astype(np.int64))
    prior = Prior(
        source=source,
        flops=flops,
        thetas=thetas,
        noise=max(fit.noise, LEAST_NOISE) if noise is None else noise,
        shared=SHARED_LEAST,
        known=known,
    )
    found = shared_variance(prior.regressors(known.params, known.tokens)[0], fit)
    return dataclasses.replace(prior, shared=max(SHARED_LEAST, found))


def of_preset(source: Source, flops: float, *, centre: tuple[float, float], noise: float) -> Prior:
    """A published law with its stated spread.

    Args:
        source: The published law.
        flops: Target budget [FLOP].
        centre: Params and tokens in the middle of the candidates: there the two terms spread
            by `TERM_SPREAD`, whatever the exponents.
        noise: Standard deviation of ln loss of one run.

    Raises:
        QueryError: The law is not the two-term one, whose spread is known.
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
    return Prior(source=source, flops=flops, thetas=moved, noise=noise, shared=0.0)


def shared_variance(jacobian: Floats, fit: Fit) -> float:
    """Share of the runs' error variance that runs of one trunk have in common.

    Two moments, the residuals' squares and the squares of their sums by trunk, are set to what
    they are expected to be after the fit has taken its share (Henderson 1953, method III in kind).

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
