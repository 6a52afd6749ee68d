"""A law that answers questions: a fit, with intervals and a ladder of shapes, or a published law.

`ScalingLaw` splits budgets at one theta or many. `Frontier` is the loss of its best splits as a
function of the budget, and the inverse; `frontier_band` is the best split along budgets with
intervals, for figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fit.allocation.allocate import Split, falling_root, split
from fit.allocation.ladder import Ladder, TokenCost, constant_cost, ladder_of, token_cost
from fit.data.accounting import FLOPS_CONVENTIONS as COUNTS
from fit.data.accounting import FLOPS_PER_PARAM_TOKEN, PARAMS_CONVENTIONS
from fit.data.records import Floats
from fit.errors import RecordError
from fit.inference.intervals import derived_interval, thetas_of
from fit.laws.families import law, with_repeats
from fit.laws.forecast import FORECAST, Frame, forecast_law
from fit.laws.law import Law
from fit.laws.published import PRESETS, Preset
from fit.results import Fit, IntervalInputs, Objective, Points, Span, fit_file, fit_hash, read_fit
from fit.verdict import Verdict

LOG_FLOPS_RANGE = (np.log(1e4), np.log(1e45))
"""Budgets of a frontier's table."""
SPACING = 0.1
"""Spacing of the table in ln C."""
BAND_BUDGETS = 48
"""Budgets of a `FrontierBand`."""
NONE = np.empty(0)
NO_POINTS = Points(
    run=(), params=NONE, tokens=NONE, flops=NONE, loss=NONE, residual=NONE, cluster=NONE
)
FURTHER = 10.0
"""The second budget of page 1 of a report over the largest one fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The loss of a law's best splits as a function of the budget, and the inverse."""

    source: ScalingLaw
    log_flops: Floats
    """ln C of the table, (k,)."""
    log_loss: Floats
    """ln L* there, falling, (k,)."""

    @classmethod
    def of(cls, source: ScalingLaw) -> Frontier:
        """The frontier of a law's point estimate, from 1e4 to 1e45 FLOP."""
        low, high = LOG_FLOPS_RANGE
        table = np.arange(low, high + SPACING, SPACING)
        return cls(source=source, log_flops=table, log_loss=source.best(np.exp(table)).log_loss)

    def loss(self, flops: Floats) -> Floats:
        """Loss of the best split of budgets (k,) [nats/token]."""
        return np.exp(self.source.best(flops).log_loss)

    def flops(self, loss: Floats) -> Floats:
        """The least budgets [FLOP] that reach losses (k,); infinite where none does.

        A loss that the smallest budget beats has that budget.
        """
        out = np.full(len(loss), np.inf)
        reached = loss > np.exp(self.log_loss[-1])
        if reached.any():
            target = np.log(loss[reached])
            at = np.interp(-target, -self.log_loss, self.log_flops)
            first, last = self.log_flops[[0, -1]]
            out[reached] = np.exp(
                falling_root(
                    lambda x: self.source.best(np.exp(x)).log_loss - target,
                    np.maximum(at - SPACING, first),
                    np.minimum(at + SPACING, last),
                )
            )
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalCurve:
    """A quantity along budgets with its interval; all (k,)."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierBand:
    """The best split over a range of budgets."""

    flops: Floats
    """(k,), ascending [FLOP]."""
    inside: NDArray[np.bool_]
    """Budgets up to the largest fitted; the others extrapolate."""
    params: IntervalCurve
    tokens: IntervalCurve
    loss: IntervalCurve
    ratio: IntervalCurve
    """Tokens per parameter."""
    level: float


def identified_frontier(source: ScalingLaw) -> FrontierBand | None:
    """The frontier, where the law splits budgets and the fit is not refused."""
    drawn = splits_budgets(source) and not fit_of(source).verdict.refused
    return frontier_band(source) if drawn else None


def further_budget(source: ScalingLaw) -> float:
    """The second budget of page 1 of a report [FLOP]."""
    return FURTHER * fit_of(source).range["flops"].high


def splits_budgets(source: ScalingLaw) -> bool:
    """Whether the law is a loss of N and D alone."""
    law = source.law
    return law.target == "loss" and not law.further and law.unsplit is None


def frontier_band(source: ScalingLaw, *, beyond: float = 100.0) -> FrontierBand:
    """Split a range of budgets, from the smallest fitted to beyond the largest, with intervals.

    Args:
        source: A fit.
        beyond: Last budget over the largest one fitted.
    """
    fit = fit_of(source)
    low, high = float(fit.points.flops.min()), float(fit.points.flops.max())
    inner = np.geomspace(low, high, BAND_BUDGETS // 2)
    flops = np.concatenate([inner, np.geomspace(high, high * beyond, BAND_BUDGETS // 2)[1:]])
    at = source.splits(flops)

    def logs(theta: Floats) -> Floats:
        s = at(theta)
        ratio = s.log_tokens - s.log_params
        return np.stack([s.log_params, s.log_tokens, s.log_loss, ratio], axis=-1)

    value = np.exp(logs(source.theta[None, :])[0])
    bounds = derived_interval(fit, logs)
    curves = [
        IntervalCurve(value=value[:, i], low=bounds[0][:, i], high=bounds[1][:, i])
        for i in range(4)
    ]
    return FrontierBand(
        flops=flops,
        inside=flops <= high * (1 + 1e-12),
        params=curves[0],
        tokens=curves[1],
        loss=curves[2],
        ratio=curves[3],
        level=fit.interval.level,
    )


def fit_of(source: ScalingLaw) -> Fit:
    """The fit of a law; figures need one."""
    assert source.fit is not None
    return source.fit


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """A law with values of its parameters, from a fit or published, that answers questions."""

    name: str
    law: Law
    theta: Floats
    """(p,), on raw counts."""
    convention: Mapping[str, str]
    range: Mapping[str, Span]
    """Of the fitted runs, as far as published: params, tokens, flops, tokens_per_param."""
    fit: Fit | None = None
    preset: Preset | None = None
    hash: str | None = None
    """Hash of the bytes of the fit's file, where it was read from one."""

    @classmethod
    def of(cls, what: ScalingLaw | Fit | Path | str) -> ScalingLaw:
        """The law of a fit, of its folder, file or name, or of the name of a published law.

        Raises:
            RecordError: There is no such fit.
        """
        if isinstance(what, ScalingLaw):
            return what
        if isinstance(what, Fit):  # `isoflop.FittedLaw` keeps its law, with the ladder it found
            kept: ScalingLaw | None = getattr(what, "scaling_law", None)
            return kept or cls.from_fit(what)
        if not isinstance(what, str | Path):
            raise RecordError(
                f"a law is given as {type(what).__name__}; a fit, its report folder or the name of "
                "a published law is needed. Make a fit: isoflop.fit(runs)."
            )
        if str(what) in PRESETS and not Path(what).exists():
            return cls.from_preset(PRESETS[str(what)])
        return cls.at(Path(what))

    @classmethod
    def at(cls, path: Path | str) -> ScalingLaw:
        """The fit of a report folder, a `fit.json` or a name.

        Raises:
            RecordError: Missing, corrupt, foreign or of a newer major version, or a published law.
        """
        if str(path) in PRESETS and not fit_file(path).is_file():
            raise RecordError(
                f"'{path}' is a published law, which has no runs and no report. Ask it: isoflop "
                f"query C --law {path}"
            )
        return cls.from_fit(read_fit(path), hash=fit_hash(path))

    @classmethod
    def from_fit(cls, fit: Fit, hash: str | None = None) -> ScalingLaw:
        """What a fit answers by, with the hash of its file where it has one.

        That is its forecast, which agrees with its law near the runs; its law where it has none.
        """
        family, ahead = law(fit.law), fit.forecast
        return cls(
            name=fit.name,
            law=family if ahead is None else forecast_law(Frame(**ahead.frame), family),
            theta=fit.posterior().vector(),
            convention=fit.convention,
            range=fit.range,
            fit=fit,
            hash=hash,
        )

    @cached_property
    def uncertainty(self) -> IntervalInputs | None:
        """What intervals of answers are computed from; None for a law that has none."""
        if self.fit is not None:
            return self.fit.posterior()
        spread = None if self.preset is None else self.preset.spread
        if self.preset is None or spread is None:
            return None
        return IntervalInputs(
            name=self.name,
            law=self.preset.law,
            theta=self.preset.theta,
            method="hc3",
            level=spread.level,
            quantile=spread.quantile,
            covariance=np.array(spread.covariance),
            draws=NONE,
            moves=NONE,
            points=NO_POINTS,
            objective=Objective(name="", delta=None, value=0.0),
        )

    @cached_property
    def thetas(self) -> Floats:
        """The point estimate and the thetas that intervals by the delta method need, (1 + m, p)."""
        return self.theta[None] if self.uncertainty is None else thetas_of(self.uncertainty)

    @cached_property
    def starts(self) -> dict[int, Floats]:
        """Where searches of answers begin, kept by `fit.query.constraints.starts`."""
        return {}

    @property
    def noise_of_a_run(self) -> float:
        """Standard deviation of ln loss of one run; 0 where it is not known."""
        if self.fit is not None:
            return self.fit.noise_of_a_run
        known = self.preset is not None and self.preset.spread is not None
        return self.preset.spread.noise if known else 0.0  # type: ignore[union-attr]

    @cached_property
    def verdict(self) -> Verdict | None:
        """Whether to believe the fit; None for a published law."""
        return None if self.fit is None else self.fit.verdict

    @property
    def plain(self) -> ScalingLaw:
        """The law that describes the runs, without the forecast; a published law as it is."""
        if self.fit is None or self.fit.forecast is None:
            return self
        return self.from_fit(dataclasses.replace(self.fit, forecast=None), self.hash)

    def starting_further(self, by: float) -> ScalingLaw:
        """The forecast as if its costliest run had this much more compute, in ln; else unchanged.

        The estimate is the same; what changes is where its discrepancy begins.
        """
        if self.fit is None or self.fit.forecast is None or self.law.parameters != FORECAST:
            return self
        frame = Frame(**self.fit.forecast.frame)
        frame = dataclasses.replace(frame, log_product=frame.log_product + by)
        moved = dataclasses.replace(self, law=forecast_law(frame, law(self.fit.law)))
        return self._with_ladder_of_this(moved)

    def _with_ladder_of_this(self, other: ScalingLaw) -> ScalingLaw:
        """Another law of the same runs; counting the ladder anew takes milliseconds."""
        kept = {k: v for k, v in self.__dict__.items() if k in ("ladder", "cost")}
        other.__dict__.update(kept)
        return other

    @classmethod
    def from_preset(cls, preset: Preset) -> ScalingLaw:
        """A published law."""
        family = law(preset.law)
        return cls(
            name=preset.name,
            law=family,
            theta=np.array([preset.theta[p] for p in family.parameters], dtype=np.float64),
            convention=preset.convention,
            range=_with_flops(preset.range or {}),
            preset=preset,
        )

    def counted(self, convention: Mapping[str, str]) -> ScalingLaw | None:
        """The same law, its compute counted by another convention.

        Args:
            convention: `flops`, and for `6nd` the `params` whose number is meant.

        Returns:
            The law, its cost of a token and its range of compute in that count; None where the
            shapes of its runs are not recorded, or the count is not known here.
        """
        if flops_count(self.convention) == flops_count(convention):
            return self
        known = convention["params"] in PARAMS_CONVENTIONS and convention["flops"] in COUNTS
        if self.ladder is None or not known:
            return None
        cost, p = self.ladder.cost(convention), fit_of(self).points
        n = np.log(p.params)
        ratio = cost.log_flops_per_token(n) - self.cost.log_flops_per_token(n)
        flops = p.flops * np.exp(ratio)
        spans = {**self.range, "flops": Span(low=float(flops.min()), high=float(flops.max()))}
        counts = {**self.convention, "flops": convention["flops"]}
        other = dataclasses.replace(self, range=spans, convention=counts)
        other.__dict__.update(ladder=self.ladder, cost=cost)
        return other

    def given(self, **columns: float) -> ScalingLaw:
        """The same with columns fixed that its law needs beside params and tokens.

        Unique tokens can be fixed for any law of params and tokens: see `families.with_repeats`.

        Raises:
            QueryError: The law has no such column.
        """
        if not columns:
            return self
        law, plain = self.law, self.plain
        if "unique_tokens" in columns:
            base = None if plain is self else plain.law.named(plain.theta)
            law = with_repeats(law, base)
        return self._with_ladder_of_this(dataclasses.replace(self, law=law.at(**columns)))

    @cached_property
    def ladder(self) -> Ladder | None:
        """The ladder of shapes of the fitted runs; None where their shapes are not recorded."""
        return None if self.fit is None else ladder_of(self.fit)

    @cached_property
    def cost(self) -> TokenCost:
        """FLOP per token as a function of N."""
        return constant_cost() if self.fit is None else token_cost(self.fit, self.ladder)

    def best(self, flops: Floats) -> Split:
        """The best split of budgets (k,) at the point estimate; fields (k,)."""
        self.law.check_split()
        return split(self.law, self.theta, flops, self.cost)

    def splits(self, flops: Floats) -> Callable[[Floats], Split]:
        """The best split of budgets (k,) as a function of thetas (m, p); fields (m, k).

        The last split is cached: an interval computes the point estimate's again.
        """
        self.law.check_split()
        kept: dict[bytes, Split] = {}

        def at(theta: Floats) -> Split:
            key = theta.tobytes()
            if key not in kept:
                kept.clear()
                kept[key] = split(self.law, theta, flops, self.cost)
            return kept[key]

        return at

    def log_losses(self, params: Floats, tokens: Floats) -> Callable[[Floats], Floats]:
        """The ln of the law at points (k,) as a function of thetas (m, p); (m, k)."""
        return lambda theta: np.asarray(np.log(self.law.loss(theta[..., None, :], params, tokens)))

    def reach(self, flops: float) -> float | None:
        """Budget over the largest one fitted; above 1 it extrapolates."""
        span = self.range.get("flops")
        return None if span is None else flops / span.high


def flops_count(convention: Mapping[str, str]) -> tuple[str, str]:
    """How FLOP are counted, and for 6 N D of which parameters."""
    flops = convention.get("flops", "?")
    return flops, convention.get("params", "?") if flops == "6nd" else ""


def _with_flops(ranges: Mapping[str, Span]) -> Mapping[str, Span]:
    """Ranges with that of compute; where none was published, 6 N D at both ends."""
    if "flops" in ranges or not {"params", "tokens"} <= ranges.keys():
        return ranges
    n, d = ranges["params"], ranges["tokens"]
    k = FLOPS_PER_PARAM_TOKEN
    return {**ranges, "flops": Span(low=k * n.low * d.low, high=k * n.high * d.high)}
