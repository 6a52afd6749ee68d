"""Intervals of quantities that follow from the law: N*, D*, a loss at a budget, whole curves.

Every interval under a fit is computed here, by the method that the fit names; one answer never
mixes two of them. A *confidence* interval is of the law itself; a *prediction* interval is of the
next run's loss and adds the noise of one run to it. Numpy only: every query imports this.

- `hc3`, the default: the covariance by leaving out clusters (HC3 sandwich), the delta method and
  Student's t. No draws, the cheapest.
- `profile`: the values to which the law can be held without the objective rising too far. The same
  as `hc3` while the law is near linear; it matters where E is hardly seen, where its lower end goes
  to zero and the sandwich's cannot. For the two-term laws alone.
- `wild`: percentiles of a bootstrap that changes the signs of residuals, a cluster at a time. Every
  run keeps its size and length; the draws carry Student's reference.
- `pairs`: percentiles of a bootstrap of whole clusters. Coverage lies 1-2 points below the three
  above, 2-4 on 30 runs at 1% noise: percentiles have no small-sample reference.
- `bca`: `pairs` corrected for bias and skewness, which does not bring that reference either.

An end outside what a parameter can be is open: -inf or inf, null in a document. E begins at zero.

All five hold their nominal 90% to 88-92.5% on average (docs/calibration.md). To add a method, add
an entry to `METHODS`.

Source of `bca`: Efron 1987, J. Am. Stat. Assoc. 82, 171. The percentiles of the draws are moved by
z0, how far the draws' median lies from the estimate, and by the acceleration, how the error grows
with the value, from the skewness of the estimate's moves when each cluster is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError, QueryError
from fit.inference.profile import DevianceSurface, axes_of, profile, slopes_along, steps_along
from fit.laws.families import law as law_named
from fit.laws.families import two_term_laws
from fit.laws.law import NO_E_SHARE, Parameter
from fit.results import Fit, IntervalInputs, Points

NORMAL = NormalDist()
MOST_BIAS = 3.0
"""z0 beyond this says that the draws and the estimate have nothing in common."""
DRAWS_IN_TAILS = 20
"""Draws that must lie outside an interval made of percentiles, both tails together."""
FEWEST_CLUSTERS = 5
"""Clusters that a pairs bootstrap needs: 4 have 35 different resamples, 5 have 126."""
OPEN = math.log(1e6)
"""The ln of the factor beyond which an end of a scale's interval says nothing."""
OPEN_RATIO = math.log(1e12)
"""The same of the ratio of both ends of any quantity."""
KNOTS = 9
"""Points of a curve at which its profile is solved; between them the ratio to the sandwich's
interval is interpolated (an error of up to 0.4% of its width over five decades)."""

LogQuantity = Callable[[Floats], Floats]
"""Maps thetas (m, p) on raw counts to the ln of a quantity, (m, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalMethod:
    """One way of computing intervals: an entry of `METHODS`."""

    compute: Callable[[IntervalInputs, LogQuantity, Floats], tuple[Floats, Floats]]
    """Low and high of a quantity, from its value at the estimate."""
    caption: str
    """In a few words of a report."""
    needs_draws: bool = False
    """Whether the interval comes from draws, so that enough of them are needed."""
    needs_moves: bool = False
    """Whether it needs the moves of the estimate without each cluster."""
    signs: bool = False
    """Whether draws change the signs of residuals (wild bootstrap) or resample clusters (pairs)."""
    two_term_only: bool = False
    """For the laws of the fast kernel alone."""


def check_interval(method: str, *, law: str, level: float, resamples: int) -> None:
    """Refuse a method that is not known or that cannot be used as asked for.

    Raises:
        FitError: Unknown; too few resamples for percentiles at this level; or not for this law.
    """
    if method not in METHODS:
        raise FitError(f"unknown interval '{method}'; known are {', '.join(METHODS)}. Choose one.")
    entry = METHODS[method]
    least = int(np.ceil(DRAWS_IN_TAILS / (1 - level) - 1e-6))
    if entry.needs_draws and resamples < least:
        raise FitError(
            f"interval '{method}' at level {level:g} needs {least} resamples; "
            f"found {resamples}. Ask for more: --resamples {least}."
        )
    if entry.two_term_only and law_named(law).two_terms is None:
        *others, last = (n for n, other in METHODS.items() if not other.two_term_only)
        raise FitError(
            f"interval '{method}' is made for {', '.join(two_term_laws())}, not for '{law}'. "
            f"Use {', '.join(others)} or {last}."
        )


def derived_interval(
    fit: Fit, log_quantity: LogQuantity, *, next_run: bool = False
) -> tuple[Floats, Floats]:
    """Interval of a positive quantity that is a function of the law's parameters.

    Args:
        fit: Fitted law.
        log_quantity: Maps thetas (m, p) to the ln of the quantity, (m, ...).
        next_run: Prediction interval of one further run: adds its noise.

    Returns:
        Low and high of the quantity (not of its ln), each of shape (...); 0 and infinite where the
        runs leave no degree of freedom.

    Raises:
        QueryError: The interval is to come from draws, and the fit has none.
    """
    inputs = fit.posterior()
    low, high = positive_interval(inputs, log_quantity)
    if not next_run:
        return low, high
    value, noise = np.exp(log_quantity(inputs.vector()[None, :])[0]), fit.noise_of_a_run
    return prediction_interval(inputs.quantile, noise, value, low, high)


def positive_interval(inputs: IntervalInputs, log_quantity: LogQuantity) -> tuple[Floats, Floats]:
    """The same from what intervals are computed from, without the noise of a run."""
    low, high = confidence_interval(inputs, log_quantity)
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.isfinite(high) & (high - low > OPEN_RATIO)
        return np.exp(np.where(wide, -np.inf, low)), np.exp(np.where(wide, np.inf, high))


def prediction_interval(
    quantile: float | None, noise: float, value: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats]:
    """Interval of one further run's loss, from the law's there and its confidence interval."""
    noise = _quantile(quantile) * noise
    with np.errstate(divide="ignore", over="ignore"):
        below, above = np.log(value) - np.log(low), np.log(high) - np.log(value)
        low = value * np.exp(-np.hypot(np.maximum(below, 0), noise))
        high = value * np.exp(np.hypot(np.maximum(above, 0), noise))
    return low, high


def confidence_interval(inputs: IntervalInputs, quantity: LogQuantity) -> tuple[Floats, Floats]:
    """Confidence interval of quantities on the scale they are given in.

    Args:
        inputs: Estimate, covariance and draws, see `Fit.inputs`.
        quantity: Maps thetas (m, p) to quantities, (m, ...).

    Raises:
        QueryError: The interval is to come from draws, and the fit has none.
    """
    centre = quantity(inputs.vector()[None, :])[0]
    return METHODS[inputs.method].compute(inputs, quantity, centre)


def parameter_intervals(inputs: IntervalInputs) -> dict[str, tuple[float, float]]:
    """Confidence interval of every parameter, and of the exponents a and b where the law has them.

    Scales (E, A, B) are taken as logarithms, so that none falls below zero; but where the error of
    E reaches E, its interval begins at zero: the law is nearly linear in E itself.
    """
    names, family = inputs.parameters(), law_named(inputs.law)
    scale = np.array([n[0].isupper() for n in names])
    product = largest_product(inputs.points)

    def parts(theta: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            values = np.where(scale, np.log(np.where(scale, theta, 1.0)), theta)
        if not family.splits:
            return values
        share = family.exponent(theta, product)
        return np.concatenate([values, np.stack([share, 1 - share], axis=-1)], axis=-1)

    low, high = confidence_interval(inputs, parts)
    both = names if not family.splits else (*names, "a", "b")
    declared = {p.name: p for p in family.declared}
    return {
        n: _ends(inputs, declared.get(n), n, float(low[i]), float(high[i]))
        for i, n in enumerate(both)
    }


def largest_product(points: Points | RunTable) -> float:
    """The ln of N D of the costliest run, where the exponents of a law are taken."""
    top = int(np.argmax(points.flops))
    return float(np.log(points.params[top]) + np.log(points.tokens[top]))


def _ends(
    inputs: IntervalInputs, parameter: Parameter | None, name: str, low: float, high: float
) -> tuple[float, float]:
    """An interval on raw counts from one of a parameter (of a scale's ln), open beyond its bounds.

    Args:
        inputs: The estimate.
        parameter: Declaration of the parameter; None for a and b.
        name: Its name.
        low: Lower end.
        high: Upper end.
    """
    if parameter is None:
        return (low if low > 0 else -math.inf, high if high < 1 else math.inf)
    value = inputs.theta[name]
    if inputs.covariance[(i := inputs.parameters().index(name)), i] == 0:  # held
        return (math.exp(low), math.exp(high)) if parameter.scale else (low, high)
    if not parameter.scale:
        inside = (1 + np.sign(parameter.low) * 1e-9) * parameter.low
        return (
            low if low > inside else -math.inf,
            high if high < (1 - np.sign(parameter.high) * 1e-9) * parameter.high else math.inf,
        )
    centre = math.log(max(value, 1e-300))
    if name == "E":
        return _ends_of_e(inputs, value, centre - low, high - centre)
    return (
        math.exp(low) if centre - low < OPEN else -math.inf,
        math.exp(high) if high - centre < OPEN else math.inf,
    )


def _ends_of_e(
    inputs: IntervalInputs, value: float, below: float, above: float
) -> tuple[float, float]:
    """The interval of E from how far its ln goes below and above: from zero where that is far.

    E cannot exceed the least loss by more than the noise: an interval from zero to twice that loss
    is open at both ends.
    """
    least = float(inputs.points.loss.min())
    bounded = METHODS[inputs.method].compute is _delta_method and not below < 1
    high = value * (1 + above) if bounded else value * math.exp(min(above, 600.0))
    low = 0.0 if bounded else value * math.exp(-below)
    low = 0.0 if low <= NO_E_SHARE * least else low
    if low == 0 and not high < 2 * least:
        return -math.inf, math.inf
    return low, high if high < math.inf else math.inf


def shifted(fit: Fit | IntervalInputs, offsets: Floats) -> Floats:
    """Thetas at offsets (m, p) in the coordinates of `fit.covariance`.

    Scales (E, A, B: names that begin with a capital) move by factors, exponents by sums.
    """
    return offset(fit.parameters(), fit.vector(), offsets)


def offset(names: Sequence[str], theta: Floats, offsets: Floats) -> Floats:
    """The same for any thetas (..., p) and offsets (..., p) of a law with these parameters."""
    scale = np.array([name[0].isupper() for name in names])
    return np.where(scale, theta * np.exp(np.where(scale, offsets, 0.0)), theta + offsets)


def _delta_method(
    inputs: IntervalInputs, quantity: LogQuantity, centre: Floats
) -> tuple[Floats, Floats]:
    """Quantile times the standard error."""
    axes = _axes(inputs)
    if axes is None:
        return np.full_like(centre, -np.inf), np.full_like(centre, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # an open end, as of 1e200 served tokens
        error = np.sqrt(np.sum(_slopes(inputs, quantity, axes) ** 2, axis=0))
        half = np.where(error > 0, _quantile(inputs.quantile) * np.maximum(error, 1e-300), 0.0)
        return centre - half, centre + half


def _slopes(inputs: IntervalInputs, quantity: LogQuantity, axes: Floats) -> Floats:
    """Change of the quantity along each of the covariance's axes, (p, ...), central differences.

    Stepping along the axes and not along the parameters keeps the thetas inside the valley in which
    A and alpha trade against each other, where the quantity is nearly linear. An axis of hundreds
    of standard errors leaves every valley: there the quantity's gradient is taken at the estimate.
    """
    return slopes_along(lambda steps: quantity(shifted(inputs, steps)), axes)


def thetas_of(inputs: IntervalInputs) -> Floats:
    """The estimate, (1 + m, p), and the thetas at which the delta method asks for a quantity."""
    plain = METHODS[inputs.method].compute is _delta_method
    axes = _axes(inputs) if plain else None
    moved = inputs.draws[:0] if axes is None else shifted(inputs, steps_along(axes)[0])
    return np.concatenate([inputs.vector()[None], moved.reshape(-1, len(inputs.theta))])


@lru_cache(maxsize=8)
def _axes(inputs: IntervalInputs) -> Floats | None:
    """Standard errors along the covariance's axes, (p, p); None where it is not known.

    A scale at zero sits on its bound: it stays there, whatever its row says.
    """
    scale_at_zero = np.array([n[0].isupper() and v == 0 for n, v in inputs.theta.items()])
    covariance = np.array(inputs.covariance)
    covariance[scale_at_zero, :] = covariance[:, scale_at_zero] = 0.0
    return axes_of(covariance) if np.isfinite(covariance).all() else None


def _quantile(quantile: float | None) -> float:
    """The reference quantile; none, with no degree of freedom left, is infinite."""
    return np.inf if quantile is None or np.isnan(quantile) else quantile


def _profile_interval(
    inputs: IntervalInputs, quantity: LogQuantity, centre: Floats
) -> tuple[Floats, Floats]:
    """Profile likelihood, from the runs in the fit."""
    quantile = _quantile(inputs.quantile)
    if not (np.isfinite(quantile) and np.isfinite(inputs.covariance).all()):
        return np.full_like(centre, -np.inf), np.full_like(centre, np.inf)

    rows = np.arange(len(centre)) if centre.ndim else np.zeros(1, dtype=int)
    knots = rows if len(rows) <= KNOTS else np.linspace(0, len(rows) - 1, KNOTS).round().astype(int)

    def flat(theta: Floats) -> Floats:
        values = quantity(theta).reshape(len(theta), len(rows), -1)[:, knots]
        return np.asarray(values.reshape(len(theta), -1))

    with np.errstate(all="ignore"):  # far ends of wild fits overflow; they count as open
        ends = profile(DevianceSurface.of(inputs), flat, quantile)
        if len(knots) == len(rows):
            whole = ends[0].reshape(centre.shape), ends[1].reshape(centre.shape)
            return _at_least_delta(inputs, quantity, centre, whole)
        plain = _delta_method(inputs, quantity, centre)
        low, high = (_between(knots, end, p, centre) for end, p in zip(ends, plain, strict=True))
        return _at_least_delta(inputs, quantity, centre, (low, high))


def _between(knots: NDArray[np.int64], ends: Floats, plain: Floats, centre: Floats) -> Floats:
    """Ends of a whole curve (k, ...) from those at its knots, as multiples of the sandwich's."""
    gap = (plain - centre).reshape(len(centre), -1)
    at = ends.reshape(len(knots), -1) - centre.reshape(len(centre), -1)[knots]
    ratio = np.divide(at, gap[knots], out=np.ones_like(at), where=gap[knots] != 0)
    rows = np.arange(len(centre))
    whole = np.stack([np.interp(rows, knots, r) for r in ratio.T], axis=1)
    whole = np.where(np.isnan(whole), np.inf, whole)  # beside a knot whose end is open
    return np.asarray(centre + (whole * gap).reshape(centre.shape))


def _percentile_interval(
    inputs: IntervalInputs, quantity: LogQuantity, centre: Floats
) -> tuple[Floats, Floats]:
    """Percentiles over the draws."""
    values = _of_draws(inputs, quantity)
    tail = (1 - inputs.level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0, method="closest_observation")
    return _at_least_delta(inputs, quantity, centre, (low, high))


def _at_least_delta(
    inputs: IntervalInputs, quantity: LogQuantity, centre: Floats, ends: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Ends no nearer than the sandwich's where the runs do not determine a parameter.

    Along a direction in which nothing changes a refit, or a walk, ends where it began.
    """
    errors = np.sqrt(np.diag(inputs.covariance))
    scale = np.array([n[0].isupper() for n in inputs.parameters()])
    firm = np.array([n == "E" for n in inputs.parameters()])
    if (errors * _quantile(inputs.quantile) <= np.where(scale, OPEN, 5.0))[~firm].all():
        return ends
    low, high = _delta_method(inputs, quantity, centre)
    return np.minimum(ends[0], low), np.maximum(ends[1], high)


def _of_draws(inputs: IntervalInputs, quantity: LogQuantity) -> Floats:
    """The quantity at every draw; one without a value counts as unbounded above."""
    needs_moves = METHODS[inputs.method].needs_moves
    if not len(inputs.draws) or (needs_moves and not len(inputs.moves)):
        raise QueryError(
            f"the fit '{inputs.name}' has intervals by {inputs.method} and no draws to make "
            "others from. Fit again with --resamples 4000."
        )
    with np.errstate(all="ignore"):
        return np.nan_to_num(quantity(inputs.draws), nan=np.inf, posinf=np.inf, neginf=-np.inf)


def _bca_interval(
    inputs: IntervalInputs, quantity: LogQuantity, centre: Floats
) -> tuple[Floats, Floats]:
    """Percentiles corrected for bias and skewness; the latter from the estimate's moves."""
    values, axes = _of_draws(inputs, quantity), _axes(inputs)
    if axes is None:
        return np.full_like(centre, -np.inf), np.full_like(centre, np.inf)
    square = (axes**2).sum(axis=1, keepdims=True)
    units = np.divide(axes, square, out=np.zeros_like(axes), where=square > 0)
    slopes = _slopes(inputs, quantity, axes).reshape(len(axes), -1)
    low, high = bca_percentiles(
        values.reshape(len(values), -1),
        np.reshape(centre, -1),
        (inputs.moves @ units.T) @ slopes,
        inputs.level,
    )
    ends = low.reshape(centre.shape), high.reshape(centre.shape)
    return _at_least_delta(inputs, quantity, centre, ends)


def bca_percentiles(
    values: Floats, centre: Floats, moves: Floats, level: float
) -> tuple[Floats, Floats]:
    """Low and high of quantities.

    Args:
        values: Quantities of the draws, (m, q), none of them nan.
        centre: At the estimate, (q,).
        moves: How far they move when each cluster is left out, (groups, q).
        level: Of the interval.

    Returns:
        Low and high, each (q,).
    """
    ordered = np.sort(values, axis=0)
    below = (values < centre).sum(axis=0) + 0.5 * (values == centre).sum(axis=0)
    least = NORMAL.cdf(-MOST_BIAS)
    bias = _deviates(np.clip(below / len(values), least, 1 - least))
    skew = acceleration(moves)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + NORMAL.inv_cdf(tail)
        share = _shares(bias + z / np.maximum(1 - skew * z, 1e-3))
        row = np.clip(np.ceil(share * len(values)).astype(int) - 1, 0, len(values) - 1)
        ends.append(ordered[row, np.arange(values.shape[1])])
    return ends[0], ends[1]


def acceleration(moves: Floats) -> Floats:
    """A sixth of the skewness of the moves (groups, q), per quantity; 0 where nothing moves."""
    square = (moves**2).sum(axis=0)
    cube = (moves**3).sum(axis=0)
    scale = 6 * square**1.5
    return np.asarray(np.divide(cube, scale, out=np.zeros_like(cube), where=square > 0))


def _deviates(shares: Floats) -> Floats:
    """Normal deviates of shares."""
    return np.array([NORMAL.inv_cdf(float(s)) for s in shares])


def _shares(deviates: Floats) -> Floats:
    """Normal shares of deviates."""
    return np.array([NORMAL.cdf(float(d)) for d in deviates])


METHODS: Mapping[str, IntervalMethod] = MappingProxyType(
    {
        "hc3": IntervalMethod(
            compute=_delta_method, caption="HC3 sandwich by cluster, Student t reference"
        ),
        "pairs": IntervalMethod(
            compute=_percentile_interval,
            caption="pairs bootstrap by cluster, percentiles",
            needs_draws=True,
        ),
        "wild": IntervalMethod(
            compute=_percentile_interval,
            caption="wild bootstrap by cluster, percentiles, Student t reference",
            needs_draws=True,
            signs=True,
        ),
        "bca": IntervalMethod(
            compute=_bca_interval,
            caption="bias-corrected accelerated pairs bootstrap by cluster",
            needs_draws=True,
            needs_moves=True,
        ),
        "profile": IntervalMethod(
            compute=_profile_interval,
            caption="profile likelihood, scaled by the sandwich, Student t reference",
            two_term_only=True,
        ),
    }
)
"""Every method, by the name that `--interval` takes."""
