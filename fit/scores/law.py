"""The law of each score of a sweep: forecasts with intervals, and where it passes a threshold.

A score is a sigmoid (`sigmoid.py`) of one of `RIVALS`: of compute; of size and length; or in two
steps of the loss that the scaling law predicts, as it is or above its floor E. How much each counts
is decided for each score by the runs themselves: costlier runs are forecast from those below a
third and a tenth of the largest compute, and a rival has the more weight the less it misses by.

Intervals are percentiles of draws. A draw is a whole curve: its rival is drawn by the weights, its
parameters are from the posterior, its losses from the loss law's interval, and beyond the runs its
slope is off by a random amount per e-fold of compute. How much, the forecasts of costlier runs say,
those of all scores together with a prior. Beyond the runs a curve that is at rest may also rise
anew, of which no run says anything. Constants are from simulated and trained worlds
(`tests/bench/skills.py`).

Two steps over the loss: Gadre et al. 2024, arXiv:2403.08540; Llama 3, arXiv:2407.21783.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.allocation.scaling_law import ScalingLaw, fit_of
from fit.data.records import Floats
from fit.data.table import score_columns
from fit.errors import FitError
from fit.inference.forecast import (
    DISCREPANCY,
    LEAST_BELOW,
    Posterior,
    Runs,
    cuts,
    posterior_of,
)
from fit.inference.intervals import derived_interval
from fit.results import Points
from fit.scores.sigmoid import ScoredRuns, Sigmoid, fit_sigmoid, second_rise

RIVALS = ("compute", "size", "loss", "excess")
"""What a score may be a function of; the first is taken where no forecast decides."""
MISS_POWER, LEAST_MISS, LEAST_WEIGHT = 8.0, 2e-3, 0.01
"""A rival's weight falls as this power of its misses, taken to be at least the second; a weight
below the third is none."""
THRESHOLDS = (0.5, 0.9)
DRAWS = 2000
LEAST_RUNS, LEAST_BUDGETS = 8, 4
"""Runs with a score, and different budgets among them, from which a law is fitted."""
FEWEST_AHEAD = 2
"""Runs beyond a cut from which a forecast is judged."""
DRIFT, DRIFT_DOF = 0.3, 4.0
"""Prior of the error of eta per e-fold of compute beyond the runs, and its weight in forecasts."""
LEAST_RISE = 0.03
"""Rise of a score with eta below which an error in points says nothing of eta."""
LEAST_EXCESS = 1e-4
"""Excess over the floor that a loss is taken to have at least [of the floor]."""
BELOW, BEYOND = math.log(1e3), math.log(1e6)
"""How far from the runs a threshold is looked for, in ln C."""
PATH = 240

LossCurve = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Maps ln N and ln D (k,) to ln L and its standard deviation, (k,) each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Models of which a score is asked, or runs that have one; all (k,)."""

    log_params: Floats
    log_tokens: Floats
    log_flops: Floats

    def point(self) -> tuple[Floats, Floats]:
        """The ln of N and of D."""
        return self.log_params, self.log_tokens

    def cheaper(self, by: Floats) -> Places:
        """Models of the same D/N whose ln C is less by some amounts, (k,)."""
        return Places(
            log_params=self.log_params - by / 2,
            log_tokens=self.log_tokens - by / 2,
            log_flops=self.log_flops - by,
        )

    def features(self, rival: str, log_loss: Floats, floor: float) -> Floats:
        """What a rival is a function of, (..., k, features), with losses (..., k)."""
        if rival == "compute":
            return self.log_flops[:, None]
        if rival == "size":
            return np.stack([self.log_params, self.log_tokens], axis=-1)
        if rival == "loss":
            return log_loss[..., None]
        excess = np.maximum(np.exp(log_loss) - floor, LEAST_EXCESS * floor)
        return np.log(excess)[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInterval:
    """A score, or a budget at which one passes a threshold, with its interval.

    A budget's end is 0 below all that was looked at, and infinite beyond.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLaw:
    """The law of one score."""

    name: str
    curves: Mapping[str, Sigmoid]
    """By rival."""
    weights: Mapping[str, float]
    """By rival, that of most weight first."""
    misses: Mapping[str, float]
    """Root mean square error of forecasts of costlier runs by rival, in score."""
    drift: float
    """Error of eta per e-fold of compute beyond the runs."""
    sample: float
    """Independent items that a score is the mean of; infinite where its error is not known."""
    floor: float
    """E or the entropy of the data [nats/token]."""
    level: float
    span: tuple[float, float]
    """ln C of the cheapest and the costliest run."""
    losses: LossCurve
    places: Places
    log_loss: Floats
    score: Floats
    error: Floats
    cluster: NDArray[np.int64]
    """Of the runs, as their places: (runs,)."""

    @property
    def rival(self) -> str:
        """The rival of most weight."""
        return next(iter(self.weights))

    @property
    def curve(self) -> Sigmoid:
        """Its curve."""
        return self.curves[self.rival]

    def draws(self, places: Places, *, next_run: bool = False) -> Floats:
        """Scores from the posterior, (draws, k), those of each rival together.

        Args:
            places: Where.
            next_run: Of one further run with a sample of the same size, not of the curve.
        """
        random, outside = np.random.default_rng(0), self.outside(places)
        last = places.cheaper(outside)
        ends = [self.losses(*at.point()) for at in (places, last)]
        shares = np.cumsum([*self.weights.values()])
        counts = np.diff(np.round(DRAWS * shares / shares[-1]).astype(int), prepend=0)
        found = []
        for rival, count in zip(self.weights, counts.tolist(), strict=True):
            curve = self.curves[rival]
            parameters = curve.draw(count, random)
            common = random.standard_normal((count, 2))
            eta, before = (
                curve.eta(parameters, at.features(rival, loss + common[:, :1] * error, self.floor))
                for at, (loss, error) in zip((places, last), ends, strict=True)
            )
            eta += self.drift * outside * common[:, 1:]
            score, start = curve.score(parameters, eta), curve.score(parameters, before)
            anew = second_rise(outside, start, score, random)
            if next_run:
                eta += curve.spread(parameters) * random.standard_normal(eta.shape)
                score = curve.score(parameters, eta)
            score += (1 - score) * anew
            if next_run:
                variance = score * (1 - score) / self.sample + curve.noise(parameters) ** 2
                score += np.sqrt(variance) * random.standard_normal(eta.shape)
            found.append(np.clip(score, 0.0, 1.0))
        return np.concatenate(found)

    def outside(self, places: Places) -> Floats:
        """How far places lie beyond the runs' budgets in ln C, signed, (k,)."""
        return np.asarray(places.log_flops - np.clip(places.log_flops, *self.span))

    def intervals(self, places: Places, *, next_run: bool = False) -> Floats:
        """Median and both ends of the interval of scores, (3, k)."""
        tail = (1 - self.level) / 2
        return np.quantile(self.draws(places, next_run=next_run), (0.5, tail, 1 - tail), axis=0)

    def passes(self, threshold: float, path: Places) -> ScoreInterval:
        """The budget at which the score first reaches a threshold [FLOP].

        Args:
            threshold: In 0 to 1.
            path: The best split of ascending budgets, as `score_path` gives it.
        """
        reached = self.draws(path) >= threshold
        first = np.where(reached.any(axis=1), reached.argmax(axis=1), len(path.log_flops))
        # a threshold is passed between two budgets of the path, half a step before the second
        ends = np.r_[path.log_flops[1:] - np.diff(path.log_flops) / 2, np.inf]
        budgets = np.r_[0.0, np.exp(ends)]
        tail = (1 - self.level) / 2
        at = np.quantile(first, (0.5, tail, 1 - tail), method="nearest").astype(int)
        value, low, high = budgets[at].tolist()
        return ScoreInterval(value=value, low=low, high=high)


def score_path(source: ScalingLaw) -> Places:
    """The best split of budgets from far below the runs to far beyond, (`PATH`,).

    Raises:
        QueryError: The law does not split budgets.
    """
    flops = np.log(fit_of(source).points.flops)
    log_flops = np.linspace(flops.min() - BELOW, flops.max() + BEYOND, PATH)
    best = source.best(np.exp(log_flops))
    return Places(log_params=best.log_params, log_tokens=best.log_tokens, log_flops=log_flops)


def places_of(source: ScalingLaw, params: Floats, tokens: Floats) -> Places:
    """Models of some sizes and lengths, (k,), with their compute in the fit's convention."""
    log_params, log_tokens = np.log(params), np.log(tokens)
    log_flops = source.cost.log_flops_per_token(log_params) + log_tokens
    return Places(log_params=log_params, log_tokens=log_tokens, log_flops=log_flops)


def score_laws(
    source: ScalingLaw, chance: Mapping[str, float] | None = None
) -> tuple[tuple[ScoreLaw, ...], tuple[tuple[str, str], ...]]:
    """Fit a law to every score that the runs of a fit have.

    Args:
        source: A fit; its law of the loss is the first step of two rivals.
        chance: Level of chance by score, where it is known; it is fitted for the others.

    Returns:
        The laws, and the scores that have none with the reason.

    Raises:
        FitError: A level of chance is of no score.
    """
    fit = fit_of(source)
    points, known = fit.points, dict(chance or {})
    columns = score_columns(points.columns)
    if unknown := known.keys() - columns.keys():
        raise FitError(
            f"--chance {unknown.pop()} is of no score; the runs have "
            f"{', '.join(columns) or 'none'}. Name one of them."
        )
    floor = fit.data.get("entropy") or fit.posterior().theta.get("E") or 0.0
    every = [
        _data(points, name, column, floor, known.get(name)) for name, column in columns.items()
    ]
    scored = [d for d in every if d.enough]
    skipped = tuple((d.name, d.lack) for d in every if not d.enough)
    if not scored:
        return (), skipped
    rolled = list(_rolled(points, scored))
    misses = {d.name: _misses([r for r in rolled if r.name == d.name]) for d in scored}
    weights = {name: _weights(of) for name, of in misses.items()}
    drifts = [(weights[r.name].get(r.rival, 0.0), r.drift) for r in rolled]
    missed = sum(w * d for w, d in drifts)
    drift = math.sqrt((DRIFT_DOF * DRIFT**2 + missed) / (DRIFT_DOF + sum(w for w, _ in drifts)))
    losses, level = _losses_of(source), fit.interval.level
    laws = (
        d.law(weights[d.name], losses, misses=misses[d.name], drift=drift, level=level)
        for d in scored
    )
    return tuple(laws), skipped


def _losses_of(source: ScalingLaw) -> LossCurve:
    """Losses that a fit predicts; their error is half of its interval over its quantile."""
    fit = fit_of(source)
    quantile = fit.posterior().quantile or math.inf

    def curve(log_params: Floats, log_tokens: Floats) -> tuple[Floats, Floats]:
        at = source.log_losses(np.exp(log_params), np.exp(log_tokens))
        value = at(source.theta[None])[0]
        with np.errstate(all="ignore"):  # far from the runs an interval has no bounds
            low, high = derived_interval(fit, at)
            error = (np.log(high) - np.log(low)) / 2 / quantile
        return value, np.nan_to_num(error, nan=0.0, posinf=10.0)

    return curve


@dataclass(frozen=True, slots=True, kw_only=True)
class _ScoreData:
    """The runs that have a score."""

    name: str
    chance: float | None
    floor: float
    places: Places
    log_loss: Floats
    score: Floats
    error: Floats
    cluster: NDArray[np.int64]

    @property
    def lack(self) -> str:
        """Why no law is fitted, or nothing."""
        outside = self.score[(self.score < 0) | (self.score > 1)]
        if len(outside):
            text = f"it is {outside[0]:g} in a run, and a score is a number from 0 to 1"
            return f"{text}: divide percentages by 100"
        budgets = len(np.unique(np.round(self.places.log_flops, 6)))
        if len(self.score) < LEAST_RUNS or budgets < LEAST_BUDGETS:
            return (
                f"{len(self.score)} runs of {budgets} budgets have it; {LEAST_RUNS} of "
                f"{LEAST_BUDGETS} are needed"
            )
        return "" if np.ptp(self.score) > 0 else "it is the same in all runs"

    @property
    def enough(self) -> bool:
        """Whether a law can be fitted."""
        return not self.lack

    def take(self, keep: NDArray[np.bool_]) -> _ScoreData:
        """Some of the runs."""
        own = ("log_loss", "score", "error", "cluster")
        places = Places(**{f: getattr(self.places, f)[keep] for f in Places.__slots__})
        return dataclasses.replace(self, places=places, **{f: getattr(self, f)[keep] for f in own})

    def law(self, weights: Mapping[str, float], losses: LossCurve, **facts: Any) -> ScoreLaw:
        """Fit the rivals that have weight."""
        log_flops = self.places.log_flops
        span = float(log_flops.min()), float(log_flops.max())
        curves = {
            rival: fit_sigmoid(
                ScoredRuns(
                    features=self.places.features(rival, self.log_loss, self.floor),
                    behind=span[1] - log_flops,
                    score=self.score,
                    error=self.error,
                    cluster=self.cluster,
                    chance=self.chance,
                )
            )
            for rival in weights
        }
        informative = (self.error > 0) & (self.score > 0) & (self.score < 1)
        variance = self.score * (1 - self.score)
        items = variance[informative] / self.error[informative] ** 2
        return ScoreLaw(
            name=self.name,
            curves=curves,
            weights=weights,
            sample=float(np.median(items)) if len(items) else math.inf,
            span=span,
            losses=losses,
            **{f: getattr(self, f) for f in ("floor", "places", "log_loss", "score", "error")},
            cluster=self.cluster,
            **facts,
        )


def _data(points: Points, name: str, column: str, floor: float, chance: float | None) -> _ScoreData:
    """The runs that have a score, checked."""
    score = np.asarray(points.columns[column], dtype=np.float64)
    error = np.asarray(points.columns.get(f"{column}_se", np.zeros(len(score))), dtype=np.float64)
    keep = np.isfinite(score)
    places = Places(
        log_params=np.log(points.params)[keep],
        log_tokens=np.log(points.tokens)[keep],
        log_flops=np.log(points.flops)[keep],
    )
    return _ScoreData(
        name=name,
        chance=chance,
        floor=floor,
        places=places,
        log_loss=np.log(points.loss)[keep],
        score=score[keep],
        error=np.nan_to_num(error[keep]),
        cluster=points.cluster[keep].astype(np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rolled:
    """How one rival forecast the costlier runs of one score beyond a cut."""

    name: str
    rival: str
    cut: int
    miss: float
    """Mean squared error, in score."""
    drift: float
    """Squared error of eta per e-fold beyond the cut, squared, that nothing else explains."""


def _rolled(points: Points, scored: list[_ScoreData]) -> Iterator[_Rolled]:
    """Forecasts of the costlier runs from the cheaper ones, by every rival that can make them."""
    runs = Runs(
        log_params=np.log(points.params),
        log_tokens=np.log(points.tokens),
        log_loss=np.log(points.loss),
        log_flops=np.log(points.flops),
        cluster=points.cluster.astype(np.int64),
        weight=np.ones(len(points.run)),
    )
    for number, (below, _) in enumerate(cuts(runs.log_flops)):
        kept = runs.take(below)
        fitted = posterior_of(kept) if kept.enough(LEAST_BELOW) else None
        largest = kept.log_flops.max()
        for data in scored:
            cheap = data.take(data.places.log_flops <= largest + 1e-9)
            ahead = data.take(data.places.log_flops > largest + 1e-9)
            if not cheap.enough or len(ahead.score) < FEWEST_AHEAD:
                continue
            for rival in RIVALS if fitted is not None else RIVALS[:2]:
                yield _judge(cheap, ahead, rival, number, fitted)


def _judge(
    cheap: _ScoreData, ahead: _ScoreData, rival: str, cut: int, fitted: Posterior | None
) -> _Rolled:
    """Forecast runs by one rival from cheaper ones."""

    def losses(log_params: Floats, log_tokens: Floats) -> tuple[Floats, Floats]:
        if fitted is None:
            return np.zeros(len(log_params)), np.zeros(len(log_params))
        value, spread, gain = fitted.predict(log_params, log_tokens)
        return value, np.hypot(spread, DISCREPANCY * gain)

    law = cheap.law({rival: 1.0}, losses, misses={}, drift=0.0, level=0.9)
    draws = law.draws(ahead.places)
    value = np.median(draws, axis=0)
    middle = law.curve.mode[None]
    at = ahead.places.features(rival, losses(*ahead.places.point())[0][None], cheap.floor)
    rise = np.maximum(law.curve.rise(middle, law.curve.eta(middle, at))[0], LEAST_RISE)
    off = (ahead.score - value) / rise
    own = float(law.curve.noise(middle)[0, 0])
    known = (draws.var(axis=0) + ahead.error**2 + own**2) / rise**2
    known = known + float(law.curve.spread(middle)[0, 0]) ** 2
    drift = (off**2 - known).sum() / np.square(law.outside(ahead.places)).sum()
    return _Rolled(
        name=cheap.name,
        rival=rival,
        cut=cut,
        miss=float(np.square(ahead.score - value).mean()),
        drift=max(float(drift), 0.0),
    )


def _misses(rolled: list[_Rolled]) -> dict[str, float]:
    """Root mean square error of each rival over the cuts that all rivals could forecast.

    Where no cut lets the loss be forecast, only rivals that need no loss are compared.
    """
    cuts_of = {rival: {r.cut for r in rolled if r.rival == rival} for rival in RIVALS}
    able = [rival for rival in RIVALS if cuts_of[rival]]
    shared = set.intersection(*(cuts_of[r] for r in able)) if able else set()
    return {
        rival: math.sqrt(np.mean([r.miss for r in rolled if r.rival == rival and r.cut in shared]))
        for rival in able
        if shared
    }


def _weights(misses: Mapping[str, float]) -> dict[str, float]:
    """Weights of rivals by their misses, that of most weight first; all on the first without."""
    if not misses:
        return {RIVALS[0]: 1.0}
    least = max(min(misses.values()), LEAST_MISS)
    by_rival = {r: (max(m, LEAST_MISS) / least) ** -MISS_POWER for r, m in misses.items()}
    whole = sum(by_rival.values())
    ranked = sorted(by_rival, key=lambda r: misses[r])
    return {r: w / whole for r in ranked if (w := by_rival[r]) >= LEAST_WEIGHT * whole}


def forecast_scores(
    source: ScalingLaw, params: float, tokens: float
) -> dict[str, dict[str, float]]:
    """Forecast of every score of one run, by name.

    Args:
        source: A fit of runs with scores.
        params: N in its convention [parameters].
        tokens: D [tokens].
    """
    place = places_of(source, np.array([params]), np.array([tokens]))
    found = {}
    for law in score_laws(source)[0]:
        (value,), (low,), (high,) = law.intervals(place, next_run=True).tolist()
        found[law.name] = {"value": value, "low": low, "high": high, "level": law.level}
    return found
