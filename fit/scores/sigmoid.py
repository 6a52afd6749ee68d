"""A sigmoid fitted to a score: its mode, and a normal posterior about it.

    score = c + (1 - c) t (1 - (1 + exp eta)^-v),   eta = a + b . u

where u are the features of a run, such as the ln of its compute; c is the level of chance, given or
fitted between 0 and the lowest score; t is the share of the rest that is ever reached, near 1
unless the scores level off below it (a plateau is taken to last); and v is 1 for the logistic, less
where a long tail of rare cases is learned slowly (Richards 1959, J. Exp. Bot. 10, 290).

The error of a score is the standard error of its own sample, and beyond that normal deviations from
run to run, of eta (`spread`), which make the counts of a binomial overdispersed (Williams 1982,
Appl. Statist. 31, 144), and of the score itself (`noise`), which are left at a plateau.

The priors are weak and free of units: features are stretched to the reach of ln C over the runs. A
score that has not left its chance level says nothing of the slope, and its forecast is then wide.
A curve that is at rest where the runs end may rise anew beyond them (`second_rise`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fit.data.records import Floats
from fit.inference.forecast import degrees_of_freedom

PRIOR_CENTRE_SPREAD = 6.0
"""Spread of eta in the middle of the runs."""
PRIOR_SLOPE_SPREAD = 1.5
"""Spread of the slopes, per e-fold of compute."""
LOWEST = 0.25
"""Share of the scores that are the lowest: the level of chance is not above them all."""
PRIOR_CHANCE, PRIOR_CHANCE_SPREAD = 0.0, 1.5
"""Of the logit of c over its cap."""
PRIOR_TOP, PRIOR_TOP_SPREAD = 5.0, 2.0
"""Of the logit of t: it is below 0.9 once in twelve."""
PRIOR_TAIL_SPREAD = 0.5
"""Of ln v."""
PRIOR_SPREAD, PRIOR_SPREAD_SPREAD = math.log(0.1), 1.0
"""Of ln `spread`: seeds of one cell of stories differ by 0.05 to 0.2 in eta."""
PRIOR_NOISE, PRIOR_NOISE_SPREAD = math.log(0.004), 1.0
"""Of ln `noise`."""
STARTS = ((0.5, 2.0, 4.0), (1.5, 2.0, 1.0), (1.0, -3.0, 4.0), (1.5, -3.0, -1.0))
"""Slope and the logits of c and t with which searches begin; that of least value is kept."""
CHEAPER = 0.5
"""Variance of a run about the curve: 1 + (this times ln of the largest compute over its own),
squared. A form that is not quite right shall be right where a forecast starts."""
ONSETS, AT_REST = 0.03, 0.1
"""A curve that is at rest beyond the runs begins to rise anew at this rate per e-fold of compute;
it is at rest as exp(-pace / `AT_REST`), where its pace is the share of what is left to learn that
it learns per e-fold by itself."""
SECOND_PACE = 0.7
"""Spread of the ln of the pace of such a rise, whose median is 1 per e-fold of compute."""
STEP, LEAST_CURVATURE = 1e-4, 0.02
"""Of differences, and of the posterior: no less than the widest prior has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRuns:
    """The runs that have one score; all (n,) but for the features."""

    features: Floats
    """(n, k)"""
    behind: Floats
    """ln of the largest compute over each run's own."""
    score: Floats
    error: Floats
    """Standard error of each from its own sample; 0 where it is not known."""
    cluster: NDArray[np.int64]
    chance: float | None
    """The level of chance where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """A fitted curve.

    Parameters: a, b of each feature, the logits of c over its cap and of t, ln v, ln spread
    and ln noise.
    """

    centre: Floats
    unit: Floats
    """(k,): features are (u - centre) / unit within the curve."""
    cap: float
    """The highest level of chance."""
    chance: float | None
    mode: Floats
    """(p,)"""
    covariance: Floats
    """(p, p)"""
    dof: float

    def eta(self, parameters: Floats, features: Floats) -> Floats:
        """The argument of the sigmoid, (m, n), of parameters (m, p) and features (m or 1, n, k)."""
        scaled = (features - self.centre) / self.unit
        slopes = parameters[:, None, 1 : 1 + len(self.unit)]
        return np.asarray(parameters[:, :1] + (scaled * slopes).sum(-1))

    def floor(self, parameters: Floats) -> Floats:
        """The level of chance, (m, 1)."""
        if self.chance is not None:
            return np.full((len(parameters), 1), self.chance)
        return np.asarray(self.cap * expit(parameters[:, -5:-4]))

    def room(self, parameters: Floats) -> Floats:
        """How far scores rise above chance, (m, 1)."""
        return np.asarray((1 - self.floor(parameters)) * expit(parameters[:, -4:-3]))

    def spread(self, parameters: Floats) -> Floats:
        """Standard deviation of eta from run to run, (m, 1)."""
        return np.exp(parameters[:, -2:-1])

    def noise(self, parameters: Floats) -> Floats:
        """Standard deviation of a score from run to run beside that, (m, 1)."""
        return np.exp(parameters[:, -1:])

    def score(self, parameters: Floats, eta: Floats) -> Floats:
        """Scores (m, n) of arguments (m, n)."""
        left = np.exp(-np.exp(parameters[:, -3:-2]) * np.logaddexp(0, eta))
        return np.asarray(self.floor(parameters) + self.room(parameters) * (1 - left))

    def rise(self, parameters: Floats, eta: Floats) -> Floats:
        """Slope of the score in eta, (m, n)."""
        tail = np.exp(parameters[:, -3:-2])
        left = np.exp(-tail * np.logaddexp(0, eta))
        return np.asarray(self.room(parameters) * tail * left * expit(eta))

    def draw(self, count: int, random: np.random.Generator) -> Floats:
        """Parameters from the posterior, (count, p), Student's t."""
        values, vectors = np.linalg.eigh(self.covariance)
        steps = random.standard_normal((count, len(self.mode))) * np.sqrt(np.maximum(values, 0))
        stretch = np.sqrt(self.dof / random.chisquare(self.dof, size=(count, 1)))
        return np.asarray(self.mode + stretch * (steps @ vectors.T))


def fit_sigmoid(runs: ScoredRuns) -> Sigmoid:
    """Fit the curve to a score.

    Args:
        runs: At least as many as it has parameters, over several values of each feature.
    """
    from scipy.optimize import minimize  # its import takes a third of a second

    low, high = runs.features.min(axis=0), runs.features.max(axis=0)
    curve = Sigmoid(
        centre=(low + high) / 2,
        unit=np.maximum(high - low, 1e-12) / max(runs.behind.max(), 1e-12),
        cap=float(min(np.quantile(runs.score, LOWEST) + 0.01, 0.98)),
        chance=runs.chance,
        mode=np.zeros(0),
        covariance=np.zeros((0, 0)),
        dof=degrees_of_freedom(len(np.unique(runs.cluster))),
    )
    objective = _Objective(curve=curve, runs=runs)
    ends = [
        minimize(objective.total, start, jac=True, method="BFGS") for start in objective.starts()
    ]
    best = min(ends, key=lambda end: float(end.fun))
    return Sigmoid(
        **{n: getattr(curve, n) for n in ("centre", "unit", "cap", "chance", "dof")},
        mode=np.asarray(best.x),
        covariance=objective.covariance(np.asarray(best.x)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    """Minus the ln of the posterior of a curve's parameters."""

    curve: Sigmoid
    runs: ScoredRuns

    def starts(self) -> list[Floats]:
        """Rising and steep curves, and one with hardly any chance level."""
        k = len(self.curve.unit)
        middle = math.log(max(self.runs.score.mean(), 0.01) / max(1 - self.runs.score.mean(), 0.01))
        signs = np.sign(np.nan_to_num(self._trend()))
        return [
            np.r_[middle, slope * signs / k, *levels, 0.0, -2.0, -5.0] for slope, *levels in STARTS
        ]

    def _trend(self) -> Floats:
        """Covariance of each feature with the score, (k,), for its sign."""
        away = self.runs.features - self.runs.features.mean(axis=0)
        return np.asarray(away.T @ (self.runs.score - self.runs.score.mean()))

    def by_run(self, p: Floats) -> tuple[Floats, Floats]:
        """Minus the ln of each run's likelihood up to a constant, (n,), and its slopes, (n, p)."""
        p = np.clip(p, -40, 40)[None]
        features = (self.runs.features - self.curve.centre) / self.curve.unit
        eta = self.curve.eta(p, self.runs.features[None])
        score, rise = self.curve.score(p, eta)[0], self.curve.rise(p, eta)[0]
        floor, room = float(self.curve.floor(p)[0, 0]), float(self.curve.room(p)[0, 0])
        level, top, tail = float(expit(p[0, -5])), float(expit(p[0, -4])), math.exp(p[0, -3])
        soft, upper = np.logaddexp(0, eta[0]), expit(eta[0])
        share, off = (score - floor) / room, self.runs.score - score
        cheaper = 1 + np.square(CHEAPER * self.runs.behind)
        overdispersed = np.square(float(self.curve.spread(p)[0, 0]) * rise) * cheaper
        level_noise = float(self.curve.noise(p)[0, 0]) ** 2 * cheaper
        variance = self.runs.error**2 + overdispersed + level_noise
        by_score = -off / variance
        by_variance = (1 - off**2 / variance) / variance
        by_spread, by_noise = by_variance * overdispersed, by_variance * level_noise
        by_eta = by_score * rise + by_spread * (1 - upper - tail * upper)
        by_room = by_score * share + by_spread / room
        by_tail = by_score * room * tail * soft * (1 - share) + by_spread * (1 - tail * soft)
        slope = 0.0 if self.runs.chance is not None else self.curve.cap * level * (1 - level)
        slopes = [by_eta, *(by_eta[:, None] * features).T, (by_score - top * by_room) * slope]
        slopes += [by_room * room * (1 - top), by_tail, by_spread, by_noise]
        value = 0.5 * (off**2 / variance + np.log(variance))
        return np.asarray(value), np.stack(slopes, axis=1)

    def total(self, p: Floats) -> tuple[float, Floats]:
        """The objective and its gradient (p,), with the prior."""
        value, slopes = self.by_run(p)
        k = len(self.curve.unit)
        middle = np.r_[np.zeros(1 + k), PRIOR_CHANCE, PRIOR_TOP, 0.0, PRIOR_SPREAD, PRIOR_NOISE]
        levels = PRIOR_CHANCE_SPREAD, PRIOR_TOP_SPREAD, PRIOR_TAIL_SPREAD
        errors = PRIOR_SPREAD_SPREAD, PRIOR_NOISE_SPREAD
        wide = np.r_[PRIOR_CENTRE_SPREAD, np.full(k, PRIOR_SLOPE_SPREAD), levels, errors]
        off = (p - middle) / wide
        gradient = slopes.sum(axis=0) + off / wide
        return float(value.sum() + 0.5 * off @ off), gradient

    def covariance(self, mode: Floats) -> Floats:
        """Inverse curvature at the mode; runs of one cluster count by their design effect."""
        steps = STEP * np.eye(len(mode))
        ends = [self.by_run(mode + s)[1] - self.by_run(mode - s)[1] for s in steps]
        information = np.stack([end.sum(axis=0) for end in ends]) / (2 * STEP)
        whole = np.stack([self.total(mode + s)[1] - self.total(mode - s)[1] for s in steps])
        before = whole / (2 * STEP) - information
        slopes = self.by_run(mode)[1]
        cluster = np.unique(self.runs.cluster, return_inverse=True)[1]
        groups, effect = int(cluster.max()) + 1, 1.0
        if 1 < groups < len(cluster):
            sums = np.zeros((groups, len(mode)))
            np.add.at(sums, cluster, slopes)
            alone = np.linalg.pinv(slopes.T @ slopes + 1e-6 * before)
            share = float(np.trace(alone @ (sums.T @ sums))) / len(mode) * groups / (groups - 1)
            effect = max(1.0, share)
        curvature = information / effect + before
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        return np.asarray((vectors / np.maximum(values, LEAST_CURVATURE)) @ vectors.T)


def second_rise(
    outside: Floats, last: Floats, score: Floats, random: np.random.Generator
) -> Floats:
    """Share of what a curve leaves to learn that rises beyond the runs make up for, (draws, k).

    Args:
        outside: How far places lie beyond the runs in ln C, (k,).
        last: Scores at the end of the runs, (draws, k).
        score: Scores at the places without a second rise, (draws, k).
        random: Source of onsets and paces.
    """
    beyond = np.maximum(outside, 1e-9)
    pace = np.maximum(score - last, 0) / np.maximum(1 - last, 1e-9) / beyond
    at_rest = beyond * np.exp(-pace / AT_REST)
    onset = random.exponential(1 / ONSETS, (len(score), 1))
    speed = np.exp(SECOND_PACE * random.standard_normal((len(score), 1)))
    return np.asarray(-np.expm1(-speed * np.maximum(at_rest - onset, 0)))
