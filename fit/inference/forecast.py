"""The forecast of a sweep: the wider law under a prior of real laws, and its discrepancy.

On public sweeps the two-term law does not fail within the runs but beyond them. Its 90% intervals
hold 71% of the larger runs, since cheap runs bend it and its form is not the runs' own. Four
things mend that, and each was measured on those sweeps (docs/league.md):

- *A wider form under an informed prior.* An outer exponent and bends are let in, and all parameters
  of shape lie near where they lie in public sweeps, above all E as a share of the least loss. The
  prior is Student's, so that runs of another kind move it away.
- *Cheap runs count less.* The variance of a run about the form grows with its distance in ln C from
  the costliest one: a form that is not quite right shall be right where the forecast starts.
- *A discrepancy that grows with the gain.* What a forecast misses is a share of the gain in ln L
  that it predicts beyond the runs, much the same share in all public sweeps. The fit's own larger
  budgets, predicted from the smaller ones, raise or lower it.
- *The two-term law where the runs prefer it.* It has a probability of its own. Where the runs raise
  it beyond one half, the forecast is drawn to that law, and less is left to discrepancy.

The posterior is taken as normal about its mode (Laplace). Constants are below, those of the prior
in `fit.inference.forecast_prior`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.estimation.weights import weights_of
from fit.inference.forecast_prior import (
    BEYOND,
    ORDER,
    POPULATION,
    PRIOR_DOF,
    SHAPES,
    Prior,
)
from fit.inference.resampling import t_quantile
from fit.laws.forecast import FORECAST, Frame
from fit.results import ForecastLaw

CHEAPER = 1.0
"""Variance of a run: 1 + (this times ln of the largest compute over its own), squared."""
DISCREPANCY, DISCREPANCY_DOF = 0.075, 12.0
"""Standard deviation of `level`, as a share of the gain, and how many budgets it is worth."""
TWO_TERM, EXACT = 0.15, 0.02
"""Probability of the two-term law itself before any runs, and what its forecasts then miss, in
place of `DISCREPANCY` and `VALLEY`."""
MOST_WEIGHT = 0.99
"""Of the two-term law."""
VALLEY = 0.12
"""Standard deviation of `valley`: of ln N* one e-fold beyond the near edge of the runs."""
HUBER = 1.345
"""Noise units at which a residual's pull stops growing: 95% efficient for normal ones."""
LEAST_NOISE = 2e-4
MOST_NOISE = 0.3
"""Noise over the spread of ln loss from which the runs show no surface that could be forecast;
public sweeps have 0.003 to 0.06."""
CUTS = (3.0, 10.0)
"""The runs are predicted from those below their largest compute divided by these."""
LEAST_RUNS, LEAST_BELOW, LEAST_LEVELS = 8, 10, 3
"""Runs of a forecast, runs below a cut, and sizes and lengths of either, at least."""
LEAST_AHEAD = 0.3
"""ln of compute beyond a cut from which a run says something of the discrepancy."""
KEPT = 0.95
"""Share of the runs beyond a cut that count, the nearest to the forecast."""
STEPS, SCREENING = 60, 6
"""Most steps of a search, and of its first look at each start."""
MOST_REFUSED = 8
"""Shorter and shorter steps that a search tries in a row."""
SETTLED, SMALL = 1e-7, 1e-4
FEWEST_DOF = 3.0
SHORT = 0.25
"""Share of the runs that are the shortest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """What a forecast is made from; all (n,)."""

    log_params: Floats
    log_tokens: Floats
    log_loss: Floats
    log_flops: Floats
    cluster: NDArray[np.int64]
    weight: Floats
    """Of mean 1, as the user gave it."""

    @classmethod
    def of(cls, table: RunTable) -> Runs:
        """The runs of a table with their losses [nats/token, or another positive measure]."""
        weights = weights_of(table)
        return cls(
            log_params=np.log(table.params),
            log_tokens=np.log(table.tokens),
            log_loss=np.log(table.loss),
            log_flops=np.log(table.flops),
            cluster=table.cluster,
            weight=np.ones(len(table)) if weights is None else weights / weights.mean(),
        )

    def take(self, keep: NDArray[np.bool_]) -> Runs:
        """Some of them."""
        return Runs(**{name: getattr(self, name)[keep] for name in self.__slots__})

    def enough(self, least: int) -> bool:
        """Whether they can carry a forecast."""
        levels = (len(np.unique(v)) for v in (self.log_params, self.log_tokens))
        return len(self.log_loss) >= least and min(levels) >= LEAST_LEVELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Mode and covariance of the wider law's parameters, in the order of `SHAPES`."""

    frame: Frame
    mode: Floats
    """(8,)"""
    covariance: Floats
    """(8, 8)"""
    noise: float
    """Standard deviation of ln loss of one run near the costliest."""
    dof: float

    def predict(self, log_params: Floats, log_tokens: Floats) -> tuple[Floats, Floats, Floats]:
        """The ln loss of runs, its standard deviation, and the gain beyond these runs; (n,)."""
        x, y, beyond = self.frame.place(log_params, log_tokens)
        value, slopes = _law(self.frame, self.mode, x, y)
        spread = np.sqrt(np.einsum("ni,ij,nj->n", slopes, self.covariance, slopes))
        near = _law(self.frame, self.mode, x - beyond / 2, y - beyond / 2)[0]
        return value, spread, np.maximum(near - value, 0.0)


def forecast(table: RunTable, level: float, prior: Prior = POPULATION) -> ForecastLaw | None:
    """Forecast from a table of runs; None where they are too few or too noisy to carry it.

    Args:
        table: Runs with their losses [nats/token, or another positive measure].
        level: Of the intervals.
        prior: Where the parameters of shape are expected.
    """
    runs = Runs.of(table)
    whole = posterior_of(runs, prior) if runs.enough(LEAST_RUNS) else None
    if whole is None or whole.noise > MOST_NOISE * float(np.std(runs.log_loss)):
        return None
    rolled = tuple(rolled_discrepancies(runs, prior))
    squares = DISCREPANCY_DOF * DISCREPANCY**2 + sum(square for square, _, _ in rolled)
    dof = DISCREPANCY_DOF + len(rolled)
    share = math.sqrt(squares / dof)
    tail = 0.5 + level / 2
    quantile = t_quantile(whole.dof, tail)
    shift = shift_by_short_runs(runs, whole, quantile, share, prior)
    weight = weight_of_two_terms(whole, prior, [rest for _, *rest in rolled])
    drawn = posterior_of(runs, prior.drawn_to_two_terms(weight)) if weight > 0 else None
    valley = VALLEY
    if drawn is not None:
        whole = drawn
        share, valley = (
            math.sqrt(weight * EXACT**2 + (1 - weight) * missed**2) for missed in (share, VALLEY)
        )
    # One quantile serves all: the discrepancy's own reference is folded into its variance.
    own = t_quantile(dof + 2, tail) / quantile
    covariance = np.zeros((len(FORECAST), len(FORECAST)))
    scale = np.ones(SHAPES)
    scale[[2, 4, 5]] = np.exp(whole.mode[[2, 4, 5]])  # alpha, beta, k themselves, not their ln
    moved = whole.covariance * scale[:, None] * scale
    covariance[:SHAPES, :SHAPES] = moved[np.ix_(ORDER, ORDER)]
    covariance[SHAPES, SHAPES] = (own * share) ** 2
    covariance[SHAPES + 1, SHAPES + 1] = valley**2
    values = [*whole.mode[:6], *whole.mode[6:], 0.0, 0.0]
    theta = dict(zip(FORECAST, [values[i] for i in (*ORDER, 8, 9)], strict=True))
    for name in ("E", "A", "B", "alpha", "beta", "k"):
        theta[name] = math.exp(theta[name])
    return ForecastLaw(
        theta={name: float(v) for name, v in theta.items()},
        covariance=covariance,
        frame=dataclasses.asdict(whole.frame),
        noise=whole.noise,
        quantile=quantile,
        dof=whole.dof,
        discrepancy=share,
        rolled=tuple(square for square, _, _ in rolled),
        two_terms=0.0 if drawn is None else weight,
        short_runs=shift,
        prior=None if prior is POPULATION else prior.document(),
    )


def weight_of_two_terms(wide: Posterior, prior: Prior, rolled: Sequence[Sequence[float]]) -> float:
    """Weight of the two-term law in the forecast: 0 up to even odds, near 1 where it is sure.

    Its probability follows from the ratio of posterior to prior density at k = 1 and no bends
    (Dickey 1971, doi:10.1214/aoms/1177693507), and from how well it says what forecasts from the
    smaller budgets missed.

    Args:
        wide: The posterior of the wider law.
        prior: Its prior.
        rolled: For each cut, the share of the gain that was missed, with its sign, and the
            variance by which sampling explains it.
    """
    off, own = wide.mode[BEYOND], wide.covariance[BEYOND, BEYOND]
    after = -0.5 * (off @ np.linalg.solve(own, off) + np.linalg.slogdet(2 * np.pi * own)[1])
    odds = math.log(TWO_TERM / (1 - TWO_TERM)) + after - prior.log_density_of_two_terms()
    for level, variance in rolled:
        exact, wrong = variance + EXACT**2, variance + DISCREPANCY**2
        odds += 0.5 * (level**2 / wrong + math.log(wrong) - level**2 / exact - math.log(exact))
    return min(max(0.0, math.tanh(odds / 2)), MOST_WEIGHT)


def shortest(tokens: Floats) -> float:
    """Length up to which runs count as the shortest [tokens]."""
    return float(np.quantile(tokens, SHORT))


def shift_by_short_runs(
    runs: Runs, whole: Posterior, quantile: float, share: float, prior: Prior
) -> float | None:
    """How far the forecast moves without the shortest runs, in half-widths of its interval.

    At ten times the costliest run's N D and the runs' mean D/N, without the runs up to the lowest
    quarter of D. None where the others cannot carry a forecast.
    """
    kept = runs.take(runs.log_tokens > math.log(shortest(np.exp(runs.log_tokens))) + 1e-9)
    rest = posterior_of(kept, prior) if kept.enough(LEAST_RUNS) else None
    if rest is None:
        return None
    frame = whole.frame
    further = (frame.log_product + math.log(10) - frame.log_params - frame.log_tokens) / 2
    point = np.array([frame.log_params + further]), np.array([frame.log_tokens + further])
    (value,), (spread,), (gain,) = whole.predict(*point)
    half = quantile * math.hypot(spread, share * gain)
    return float((rest.predict(*point)[0][0] - value) / half)


def degrees_of_freedom(groups: int) -> float:
    """Of Student's t of a forecast by so many runs, or clusters of them."""
    return max(FEWEST_DOF, groups - 5.0)


def posterior_of(runs: Runs, prior: Prior = POPULATION) -> Posterior | None:
    """Mode and covariance of the wider law by runs; None where no search ends anywhere."""
    behind = runs.log_flops.max() - runs.log_flops
    weight = runs.weight / (1 + (CHEAPER * behind) ** 2)
    x, y = (np.average(v, weights=weight) for v in (runs.log_params, runs.log_tokens))
    top = int(np.argmax(runs.log_flops))
    frame = Frame(
        log_params=float(x),
        log_tokens=float(y),
        reach_params=float(np.abs(runs.log_params - x).max()),
        reach_tokens=float(np.abs(runs.log_tokens - y).max()),
        log_product=float(runs.log_params[top] + runs.log_tokens[top]),
    )
    search = _Search(frame=frame, runs=runs, weight=weight, before=prior)
    looks, value, _ = search.descend(search.starts(), SCREENING)
    ends, value, scale = search.descend(looks[np.argsort(value, kind="stable")[:2]], STEPS)
    if not len(ends):
        return None
    best = int(np.argmin(value))
    return search.posterior(ends[best], float(scale[best]))


def cuts(log_flops: Floats) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """For each cut the runs below it, and those far enough beyond to say something of it; (n,)."""
    for cut in CUTS:
        below = log_flops <= log_flops.max() - math.log(cut) + 1e-6
        if below.any():
            yield below, ~below & (log_flops - log_flops[below].max() > LEAST_AHEAD)


def rolled_discrepancies(
    runs: Runs, prior: Prior = POPULATION
) -> Iterator[tuple[float, float, float]]:
    """Share of the gain that forecasts from the runs' own smaller budgets missed, for each cut.

    First its mean square, what sampling explains taken off; it may come out as zero, and is not
    below. Then the share by least squares, with its sign, and the variance that sampling gives it.
    """
    for below, ahead in cuts(runs.log_flops):
        kept, left = runs.take(below), runs.take(~below)
        fitted = posterior_of(kept, prior) if kept.enough(LEAST_BELOW) else None
        if fitted is None or ahead.sum() < 2:
            continue
        value, spread, gain = fitted.predict(left.log_params, left.log_tokens)
        gain = np.maximum(np.maximum(gain, 0.5 * np.median(gain)), 1e-12)
        missed = left.log_loss - value
        excess = missed**2 - spread**2 - fitted.noise**2 / left.weight
        far = ahead[~below]
        shares = np.sort((excess / gain**2)[far])
        square = max(float(shares[: max(1, int(KEPT * len(shares)))].mean()), 0.0)
        pull = (gain * left.weight)[far]
        total = float(pull @ gain[far])
        shared = float(spread[far].mean() / gain[far].mean()) ** 2
        yield square, float(pull @ missed[far]) / total, fitted.noise**2 / total + shared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The mode of the posterior of runs, by Levenberg-Marquardt on a robust loss."""

    frame: Frame
    runs: Runs
    weight: Floats
    before: Prior

    @property
    def middle(self) -> Floats:
        """Middle of the prior of these runs."""
        return np.asarray(self.before.centre + np.eye(SHAPES)[0] * self.runs.log_loss.min())

    def starts(self) -> Floats:
        """Where searches begin (9, 8): E and the exponents from a small grid, both terms alike."""
        losses = np.exp(self.runs.log_loss)
        least, middle = float(losses.min()), float(np.median(losses))
        starts = []
        for share in (0.5, 0.8, 0.95):
            term = math.log(max(middle - share * least, 1e-3 * least) / 2)
            for alpha, beta in ((0.3, 0.3), (0.6, 0.4), (0.3, 0.6)):
                shape = [math.log(share * least), term, math.log(alpha), term, math.log(beta)]
                starts.append([*shape, 0.0, 0.0, 0.0])
        return np.array(starts)

    def prior(self, p: Floats) -> tuple[Floats, Floats]:
        """Minus the ln of the prior (...) and the precision that stands for it at p, (..., 8)."""
        off = (p - self.middle) / self.before.spread
        value = 0.5 * (PRIOR_DOF + 1) * np.log1p(off**2 / PRIOR_DOF).sum(axis=-1)
        return value, (PRIOR_DOF + 1) / (PRIOR_DOF + off**2) / self.before.spread**2

    def value(self, p: Floats, residual: Floats, scale: Floats) -> Floats:
        """Minus the ln of the posterior, up to a constant, (S,)."""
        u = np.abs(residual) * np.sqrt(self.weight) / scale[:, None]
        loss = np.where(u < HUBER, 0.5 * u**2, HUBER * u - 0.5 * HUBER**2)
        return np.asarray(loss.sum(axis=1) + u.shape[1] * np.log(scale) + self.prior(p)[0])

    def scale(self, residual: Floats) -> Floats:
        """Noise of the weighted residuals: their median, as of normal ones, (S,)."""
        n = residual.shape[1]
        median = np.median(np.abs(residual) * np.sqrt(self.weight), axis=1)
        scale = 1.4826 * median * math.sqrt(n / max(1, n - 5))
        return np.asarray(np.maximum(scale, LEAST_NOISE))

    def at(self, p: Floats) -> tuple[Floats, Floats]:
        """Residuals (..., n) and derivatives of the law (..., n, 8) at p (..., 8)."""
        x = self.runs.log_params - self.frame.log_params
        y = self.runs.log_tokens - self.frame.log_tokens
        with np.errstate(all="ignore"):
            value, slopes = _law(self.frame, p, x, y)
        return self.runs.log_loss - value, slopes

    def descend(self, p: Floats, steps: int) -> tuple[Floats, Floats, Floats]:
        """Parameters (S, 8), objective and noise (S,) where searches end, wild starts left out."""
        residual, slopes = self.at(p)
        fine = np.isfinite(residual).all(axis=1)
        p, residual, slopes = p[fine], residual[fine], slopes[fine]
        scale = self.scale(residual)
        value = self.value(p, residual, scale)
        damping, made, refused = np.full(len(p), 1e-2), np.zeros(len(p)), np.zeros(len(p))
        open_ = np.arange(len(p))
        while len(open_):
            now, r, s, noise = (v[open_] for v in (p, residual, slopes, scale))
            u = np.abs(r) * np.sqrt(self.weight) / noise[:, None]
            pull = self.weight * np.minimum(1.0, HUBER / np.maximum(u, 1e-12)) / noise[:, None] ** 2
            precision = self.prior(now)[1]
            turned = s.transpose(0, 2, 1)
            hessian = (turned * pull[:, None]) @ s + precision[:, None] * np.eye(SHAPES)
            gradient = (turned @ (pull * r)[..., None])[..., 0] - precision * (now - self.middle)
            hessian *= 1 + damping[open_, None, None] * np.eye(SHAPES)
            step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -1, 1)
            moved, moved_slopes = self.at(now + step)
            reached = self.value(now + step, moved, noise)
            fine = np.isfinite(moved).all(axis=1) & np.isfinite(moved_slopes).all(axis=(1, 2))
            better = fine & (reached <= value[open_] + 1e-12)
            little = value[open_] - reached < SETTLED * (1 + np.abs(value[open_]))
            settled = better & little & (np.abs(step).max(axis=1) < SMALL)
            some, others = open_[better], open_[~better]
            p[some] += step[better]
            residual[some], slopes[some] = moved[better], moved_slopes[better]
            scale[some] = self.scale(residual[some])
            value[some] = self.value(p[some], residual[some], scale[some])
            damping[some] = np.maximum(damping[some] / 5, 1e-9)
            damping[others] *= 5
            made[some] += 1
            refused[some] = 0
            refused[others] += 1
            open_ = open_[~settled & (made[open_] < steps) & (refused[open_] < MOST_REFUSED)]
        return p, value, scale

    def posterior(self, mode: Floats, scale: float) -> Posterior:
        """The normal posterior about a mode; runs of one cluster count by their design effect."""
        residual, slopes = self.at(mode)
        root = np.sqrt(self.weight)
        u = residual * root / scale
        share = float((np.abs(u) < HUBER).mean())
        bread = slopes.T @ (self.weight[:, None] * slopes) * share / scale**2
        precision = np.diag(self.prior(mode)[1])
        cluster = np.unique(self.runs.cluster, return_inverse=True)[1]
        n, groups = len(residual), int(cluster.max()) + 1
        effect = 1.0
        if groups < n:
            scores = slopes * (np.clip(u, -HUBER, HUBER) / scale * root)[:, None]
            sums = np.zeros((groups, SHAPES))
            np.add.at(sums, cluster, scores)
            meat = sums.T @ sums * groups / max(1, groups - 1)
            alone = np.linalg.pinv(scores.T @ scores + 1e-6 * precision)
            effect = max(1.0, float(np.trace(alone @ meat)) / SHAPES)
        covariance = np.linalg.inv(bread / effect + precision)
        free = float(np.trace(bread / effect @ covariance))
        return Posterior(
            frame=self.frame,
            mode=mode,
            covariance=(covariance + covariance.T) / 2,
            noise=self.noise_of_a_run(residual, free),
            dof=degrees_of_freedom(groups),
        )

    def noise_of_a_run(self, residual: Floats, free: float) -> float:
        """Noise of a run near the costliest: the weighted median residual, parameters paid for."""
        size = np.abs(residual) * np.sqrt(self.runs.weight)
        order = np.argsort(size)
        passed = np.cumsum(self.weight[order]) / self.weight.sum()
        median = float(size[order][np.searchsorted(passed, 0.5)])
        effective = self.weight.sum() ** 2 / (self.weight**2).sum()
        return max(1.4826 * median * math.sqrt(effective / max(effective - free, 1)), LEAST_NOISE)


def _law(frame: Frame, p: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The ln L (..., n) and its derivatives (..., n, 8) by p (..., 8); see `fit.laws.forecast`."""
    e, a, log_alpha, b, log_beta, log_k, of_size, of_length = np.moveaxis(p, -1, 0)[..., None]
    alpha, beta, k = np.exp(log_alpha), np.exp(log_beta), np.exp(log_k)
    t = {"E": e, "A": a, "B": b, "alpha": alpha, "beta": beta, "k": k}
    t |= {"g_N": of_size, "g_D": of_length}
    (a, b), bends = frame.log_sides(frame.reaches(t), x, y)
    both = np.logaddexp(a, b)
    value = np.logaddexp(e, k * both)
    rest = np.exp(k * both - value)  # (L - E) / L
    size, length = k * rest * np.exp(a - both), k * rest * np.exp(b - both)
    columns = [
        *(np.exp(e - value), size, -size * alpha * x, length, -length * beta * y),
        *(k * rest * both, -size * bends[0], -length * bends[1]),
    ]
    return value, np.stack(columns, axis=-1)
