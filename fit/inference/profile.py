"""Profile likelihood intervals, and the deviance of a fit that they follow.

An interval ends where the law, held to a value of the quantity, fits the runs too badly. For a
quantity g of the law, the deviance at c is twice the rise of the objective when the law is fitted
again under g = c. The interval holds every c whose deviance stays below s t^2: t is Student's
quantile, s the ratio of g's variance by the sandwich (by cluster, widened by the misfit) to that by
the Hessian alone. A robust loss is no likelihood, and errors come in clusters; s brings the
deviance to the scale of the actual errors (Heritier & Ronchetti 1994). To first order the interval
is then the sandwich's; what the profile adds is its asymmetry.

The ends are the least and the greatest g in the region where the deviance is that small, solved for
all quantities at once by Newton steps along its border (after Venzon & Moolgavkar 1988).

Numpy only: a query under a fit with profile intervals reads the deviance from the runs in the fit's
document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.estimation.objective import LN_E, LOSSES, FitProblem, Loss, derivatives, majorant, value
from fit.laws.families import law
from fit.laws.law import TWO_TERMS
from fit.results import IntervalInputs

STEPS = 30
"""3 to 6 are needed; more only where the runs hardly distinguish the parameters."""
HALVINGS = 6
SETTLED = 1e-5
"""Gain of an end in one step, in standard errors, that counts as none."""
DIFFERENCE = 1e-3
"""Step of the differences in standard errors."""
LONGEST_RAY = 15.0
"""How far a ray is followed, in multiples of where a parabola would end it."""
RIDGE = 1e-12
"""Relative addition to a Hessian's diagonal, for where a direction is flat."""
LEAST_E = 1e-9
"""E is held above this share of the least loss: zero for every purpose."""

LONGEST_AXIS = 100.0
"""Standard errors beyond which a covariance is of directions that the runs do not determine."""
STEP = 1e-3
"""Central-difference step in standard errors: truncation and rounding both stay below 1e-6."""

Quantity = Callable[[Floats], Floats]
"""Maps the law's parameters on raw counts, (m, p), to quantities (m, q)."""


@dataclass(slots=True)
class _Ends:
    """Ends of intervals while they are solved for: quantity, side, limit of the deviance, place."""

    column: NDArray[np.int64]
    side: Floats
    limit: Floats
    u: Floats

    def take(self, rows: NDArray[np.int64]) -> _Ends:
        """Some of them."""
        return _Ends(self.column[rows], self.side[rows], self.limit[rows], self.u[rows])


def profile(surface: DevianceSurface, quantity: Quantity, quantile: float) -> tuple[Floats, Floats]:
    """Profile interval of quantities.

    Args:
        surface: The objective about its minimum.
        quantity: Maps the law's parameters on raw counts, (m, p), to quantities (m, q).
        quantile: Student's t at the level; the deviance may rise to its square times the scale.

    Returns:
        Low and high, each (q,); infinite where the deviance never rises so far.
    """
    home = np.zeros((1, surface.basis.shape[1]))
    centre = quantity(surface.raw(home))[0]
    slope = _gradients(surface, quantity, home)[0]
    bread = np.linalg.pinv(surface.slopes(home)[1][0] / 2, hermitian=True)
    variance, plain = (
        np.einsum("qi,ij,qj->q", slope, v, slope) for v in (surface.covariance, bread)
    )
    moves = np.asarray(plain > 1e-300)
    limit = quantile**2 * np.divide(variance, plain, out=np.zeros_like(variance), where=moves)
    columns = np.flatnonzero(moves & (limit > 0))
    if not len(columns):
        return centre.copy(), centre.copy()
    first = (slope @ bread)[columns] * np.sqrt(limit[columns] / plain[columns])[:, None]
    ends = _Ends(
        column=np.tile(columns, 2),
        side=np.repeat([-1.0, 1.0], len(columns)),
        limit=np.tile(limit[columns], 2),
        u=np.concatenate([-first, first]),
    )
    open_ = _climb(surface, quantity, ends)
    values = ends.side * np.where(open_, np.inf, _values(surface, quantity, ends, ends.u))
    low, high = centre.copy(), centre.copy()
    low[columns], high[columns] = values.reshape(2, -1)
    return low, high


def _climb(surface: DevianceSurface, quantity: Quantity, ends: _Ends) -> NDArray[np.bool_]:
    """Move every end along the border to its extreme; True where there is no border."""
    metric = surface.slopes(np.zeros((1, ends.u.shape[1])))[1][0] / 2
    error = np.sqrt(np.diag(surface.covariance))
    ends.u[:], open_ = _to_border(surface, metric, ends.u, ends.limit)
    values = _values(surface, quantity, ends, ends.u)
    going = np.flatnonzero(~open_)
    for _ in range(STEPS):
        if not len(going):
            break
        some = ends.take(going)
        slope = _own_gradients(surface, quantity, some)
        scale = np.abs(slope) @ error
        step = _step(surface, some, slope)
        longest = np.abs(step / error).max(axis=1, keepdims=True)
        step *= np.minimum(1.0, 1.0 / np.maximum(longest, 1e-300))
        gain, lost = _advance(surface, quantity, metric, some, values[going], step)
        ends.u[going], values[going], open_[going] = some.u, values[going] + gain, lost
        going = going[(gain > SETTLED * scale) & ~open_[going]]
    return open_


def _advance(
    surface: DevianceSurface,
    quantity: Quantity,
    metric: Floats,
    ends: _Ends,
    values: Floats,
    step: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Move ends by a step, halved until it gains; the gains, and which have lost the border."""
    gain, open_ = np.zeros(len(values)), np.zeros(len(values), dtype=bool)
    for half in range(HALVINGS):
        worse = np.flatnonzero(gain <= 0)
        if not len(worse):
            break
        part = ends.take(worse)
        trial = surface.clipped(part.u + step[worse] / 2**half)
        trial, lost = _to_border(surface, metric, trial, part.limit)
        after = _values(surface, quantity, part, trial)
        better = after > values[worse]
        rows = worse[better]
        gain[rows] = after[better] - values[rows]
        ends.u[rows], open_[rows] = trial[better], lost[better]
    return gain, open_


def _step(surface: DevianceSurface, ends: _Ends, slope: Floats) -> Floats:
    """Step to the extreme of a linear quantity in the region where a parabola is within the limit.

    Where E is at zero and would go below, it is held there.
    """
    gradient, hessian = surface.slopes(ends.u)
    room = np.maximum(ends.limit - surface.deviance(ends.u), 0.0)
    step = _extreme(gradient, hessian, slope, room)
    held = np.logical_and(surface.at_zero(ends.u), step < 0)
    if held.any():
        keep = ~held
        hessian = hessian * (keep[:, :, None] & keep[:, None, :])
        index = np.arange(hessian.shape[1])
        hessian[:, index, index] += held
        step = _extreme(gradient * keep, hessian, slope * keep, room)
    return step


def _extreme(gradient: Floats, hessian: Floats, slope: Floats, room: Floats) -> Floats:
    """Arg max of slope u subject to gradient u + u hessian u / 2 <= room, (S, f)."""
    index = np.arange(hessian.shape[1])
    firm = hessian.copy()
    firm[:, index, index] *= 1 + RIDGE
    firm[:, index, index] += np.finfo(np.float64).tiny
    both = np.linalg.solve(firm, np.stack([gradient, slope], axis=-1))
    down, along = both[..., 0], both[..., 1]
    reach = 2 * room + np.einsum("sf,sf->s", gradient, down)
    power = np.einsum("sf,sf->s", slope, along)
    factor = np.sqrt(np.maximum(reach, 0.0) / np.maximum(power, 1e-300))
    return np.asarray(np.where(power > 1e-300, factor, 0.0)[:, None] * along - down)


def _to_border(
    surface: DevianceSurface, metric: Floats, u: Floats, limit: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Stretch each move (S, f) until the deviance is at its limit; True where it never is.

    A ray that runs into E = 0 goes on along the bound, and ends there if nothing else changes.
    """
    out, far = surface.clipped(u), np.zeros(len(u), dtype=bool)
    factor, low, high = np.ones(len(u)), np.zeros(len(u)), np.full(len(u), np.inf)
    for _ in range(40):
        out = surface.clipped(factor[:, None] * u)
        dev = surface.deviance(out)
        within = dev <= limit
        low, high = np.where(within, factor, low), np.where(within, high, factor)
        far = np.einsum("sf,fg,sg->s", out, metric, out) > LONGEST_RAY**2 * limit
        if (far | (np.abs(dev - limit) <= 1e-6 * limit)).all():
            break
        guess = factor * np.clip(np.sqrt(limit / np.maximum(dev, 1e-300)), 0.3, 2.0)
        inside = (guess > low) & (guess < high)
        middle = np.where(np.isfinite(high), 0.5 * (low + high), 2 * low)
        factor = np.where(far & within, factor, np.where(inside, guess, middle))
    return out, far & (surface.deviance(out) < limit)


def _values(surface: DevianceSurface, quantity: Quantity, ends: _Ends, u: Floats) -> Floats:
    """Side times quantity at moves (S, f); the worst where it has no value."""
    values = quantity(surface.raw(u))[np.arange(len(u)), ends.column]
    return np.nan_to_num(ends.side * values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def _own_gradients(surface: DevianceSurface, quantity: Quantity, ends: _Ends) -> Floats:
    """Gradient of side times its own quantity at each end, (S, f)."""
    slopes = _gradients(surface, quantity, ends.u)
    return ends.side[:, None] * slopes[np.arange(len(ends.u)), ends.column]


def _gradients(surface: DevianceSurface, quantity: Quantity, u: Floats) -> Floats:
    """Gradients of all quantities at moves (S, f), by central differences; (S, q, f)."""
    free = u.shape[1]
    steps = DIFFERENCE * np.diag(np.sqrt(np.diag(surface.covariance)))
    ends = [surface.clipped((u[:, None] + s * steps).reshape(-1, free)) for s in (1, -1)]
    distance = (ends[0] - ends[1]).reshape(len(u), free, free)
    values = [quantity(surface.raw(e)).reshape(len(u), free, -1) for e in ends]
    width = np.einsum("sff->sf", distance)[..., None]
    slopes = np.divide(values[0] - values[1], width, out=np.zeros_like(values[0]), where=width > 0)
    return np.asarray(np.nan_to_num(slopes).transpose(0, 2, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class DevianceSurface:
    """The deviance as a function of moves along the law's free directions.

    They move E (itself and not its logarithm: the deviance is nearly a parabola in it, and it ends
    at zero), ln A, ln B, alpha and beta; tied ones move together, those on a bound not at all.
    """

    problem: FitProblem
    weights: Floats
    """(n,)."""
    loss: Loss
    theta: Floats
    """(5,), internal."""
    basis: Floats
    """(5, f): how each free direction moves E, ln A, ln B, alpha, beta."""
    covariance: Floats
    """(f, f), of the free directions, by the sandwich."""
    least: float
    """Least loss of the runs [nats/token], the unit of the problem's losses."""
    places: tuple[int, ...]
    """Places of the law's own parameters among E, A, B, alpha, beta."""

    @classmethod
    def of(cls, inputs: IntervalInputs) -> DevianceSurface:
        """The surface of a fit of a two-term law: its runs, loss and covariance.

        Directions in which the covariance is zero, or E is, are on a bound and left out.
        """
        p, names = inputs.points, inputs.parameters()
        # in units of the least loss: E beside logarithms in any other would be lost in rounding
        least = float(p.loss.min())
        problem = FitProblem.of(p.params, p.tokens, p.loss / least)
        weights = p.columns.get("weight", np.ones(len(p.loss)))
        two_terms = law(inputs.law).two_terms or TWO_TERMS
        places = tuple(two_terms.index(name) for name in names)
        expand = np.eye(5)[:, list(places)]
        for i, name in enumerate(two_terms):
            if name is not None:
                expand[i, names.index(name)] = 1.0
        to_raw = np.linalg.pinv(expand) @ problem.log_raw_jacobian() @ expand
        back = np.linalg.inv(to_raw)
        level = inputs.theta.get("E", 0.0) / least
        unit = np.array([level if n == "E" else 1.0 for n in names])
        covariance = unit[:, None] * (back @ inputs.covariance @ back.T) * unit
        free = np.diag(covariance) > 0
        objective = inputs.objective
        names_of = {family.document: name for name, family in LOSSES.items()}
        loss = names_of.get(objective.name, objective.name)
        scale = np.inf if objective.delta is None else objective.delta
        return cls(
            problem=problem,
            weights=weights / weights.mean(),
            loss=Loss(name=loss, scale=scale),
            theta=_internal(problem, expand @ inputs.vector() / np.repeat([least, 1.0], [3, 2])),
            least=least,
            basis=expand[:, free],
            covariance=covariance[np.ix_(free, free)],
            places=places,
        )

    def clipped(self, u: Floats) -> Floats:
        """Moves (S, f) that leave E at zero at least."""
        if not len(self.basis[LN_E]) or not self.basis[LN_E].any():
            return u
        level = np.exp(self.theta[LN_E])
        out = u.copy()
        out[:, 0] = np.maximum(u[:, 0], min(0.0, self._least() - level))
        return out

    def at_zero(self, u: Floats) -> Floats:
        """Which coordinates of clipped moves (S, f) hold E at zero."""
        out = np.zeros(u.shape, dtype=bool)
        if u.shape[1] and self.basis[LN_E].any():
            out[:, 0] = np.exp(self.theta[LN_E]) + u[:, 0] <= 2 * self._least()
        return out

    def at(self, u: Floats) -> Floats:
        """Internal thetas (S, 5) at clipped moves (S, f)."""
        moved = u @ self.basis.T
        theta = self.theta + moved
        level = np.exp(self.theta[LN_E])
        theta[:, LN_E] = np.log(np.maximum(level + moved[:, LN_E], min(level, self._least())))
        return theta

    def raw(self, u: Floats) -> Floats:
        """The law's own parameters on raw counts, (S, p), at clipped moves."""
        raw = self.problem.raw(self.at(u)) * np.repeat([self.least, 1.0], [3, 2])
        return np.asarray(raw[:, list(self.places)])

    def deviance(self, u: Floats) -> Floats:
        """Twice the rise of the objective at clipped moves, (S,)."""
        home = value(self.problem, self.theta[None], self.weights[None], self.loss)[0]
        objective = value(self.problem, self.at(u), self._all(len(u)), self.loss)
        return np.asarray(2 * (objective - home))

    def slopes(self, u: Floats) -> tuple[Floats, Floats]:
        """Gradient (S, f) and a positive Hessian (S, f, f) of the deviance at clipped moves."""
        theta, w = self.at(u), self._all(len(u))
        _, gradient, hessian = derivatives(self.problem, theta, w, self.loss)
        inverse = np.exp(-theta[:, LN_E])
        h = self._free(hessian, gradient[:, LN_E], inverse)
        bent = np.flatnonzero(np.linalg.eigvalsh(h)[:, 0] <= 0)
        if len(bent):
            major = majorant(self.problem, theta[bent], w[bent], self.loss)
            h[bent] = self._free(major, np.zeros(len(bent)), inverse[bent])
        gradient[:, LN_E] *= inverse
        return 2 * gradient @ self.basis, 2 * h

    def _free(self, hessian: Floats, by_ln_e: Floats, inverse: Floats) -> Floats:
        """A Hessian in the free directions: ln E replaced by E, whose inverse is given."""
        h = hessian.copy()
        h[:, LN_E, LN_E] -= by_ln_e
        h[:, LN_E, :] *= inverse[:, None]
        h[:, :, LN_E] *= inverse[:, None]
        return np.asarray(self.basis.T @ h @ self.basis)

    def _all(self, count: int) -> Floats:
        """The runs' weights for a number of problems."""
        return np.broadcast_to(self.weights, (count, len(self.weights)))

    def _least(self) -> float:
        """E at zero."""
        return float(LEAST_E * np.exp(self.problem.y.min()))


def _internal(problem: FitProblem, raw: Floats) -> Floats:
    """E, A, B, alpha, beta on raw counts to the solver's parameters, (5,)."""
    least = LEAST_E * float(np.exp(problem.y.min()))
    logs = np.log(np.maximum(raw[:3], least))
    centred = logs - np.array([0.0, raw[3] * problem.centre[0], raw[4] * problem.centre[1]])
    return np.concatenate([centred, raw[3:]])


def slopes_along(at: Callable[[Floats], Floats], axes: Floats) -> Floats:
    """Change of a quantity along axes (p, q), from its values at offsets (m, q)."""
    steps, far = steps_along(axes)
    ahead, behind = np.split(at(steps), 2)
    with np.errstate(invalid="ignore"):  # the ln of a scale at zero does not move
        slopes = np.nan_to_num((ahead - behind) / (2 * STEP))
    return np.asarray(np.tensordot(axes, slopes, axes=1) if far else slopes)


def steps_along(axes: Floats) -> tuple[Floats, bool]:
    """Offsets ahead and behind, and whether they are along parameters, since the axes are long."""
    far = bool(np.abs(axes).max(initial=0.0) > LONGEST_AXIS)
    steps = STEP * (np.eye(axes.shape[1]) if far else axes)
    return np.concatenate([steps, -steps]), far


def axes_of(covariance: Floats) -> Floats:
    """Rows whose outer products add up to a covariance (p, p): its axes, or its correlation's.

    Beside the variance of what the runs do not determine, others would be lost in rounding.
    """
    errors = np.sqrt(np.diag(covariance))
    unit = np.ones_like(errors)
    if errors.max(initial=0.0) > LONGEST_AXIS:
        unit = np.where(errors > 0, errors, 1.0)
    values, vectors = np.linalg.eigh(covariance / (unit[:, None] * unit))
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))).T * unit)
