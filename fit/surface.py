"""The objective about its minimum, as a fit document holds it: what a profile is taken along.

Numpy only: a query under a fit with profile intervals reads this from the runs in the document.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.objective import LN_E, Loss, Problem, derivatives, majorant, value
from fit.record import Floats
from fit.result import Fit

FAMILIES = ("chinchilla", "tied", "no-e")
"""Laws whose objective `objective.Problem` is."""
LEAST_E = 1e-9
"""E is held above this share of the least loss: zero for every purpose."""
NAMES = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """The deviance as a function of moves along the law's free directions.

    They move E (itself and not its logarithm: the deviance is nearly a parabola in it, and it ends
    at zero), ln A, ln B, alpha and beta; tied ones move together, those on a bound not at all.
    """

    problem: Problem
    weights: Floats
    """(n,)."""
    loss: Loss
    theta: Floats
    """(5,), internal."""
    basis: Floats
    """(5, f): how each free direction moves E, ln A, ln B, alpha, beta."""
    covariance: Floats
    """(f, f), of the free directions, by the sandwich."""
    own: tuple[int, ...]
    """Places of the law's own parameters among E, A, B, alpha, beta."""

    @classmethod
    def of(cls, fit: Fit) -> Surface:
        """The surface of a fit: its runs, loss and covariance.

        Directions in which the covariance is zero, or E is, are on a bound and left out.
        """
        p = fit.points
        problem = Problem.of(p.params, p.tokens, p.loss)
        weights = p.columns.get("weight", np.ones(len(p.loss)))
        own = tuple(NAMES.index(n) for n in fit.parameters())
        expand = np.eye(5)[:, list(own)]
        if fit.law == "tied":
            expand[4, 3] = 1.0
        to_raw = np.linalg.pinv(expand) @ problem.log_raw_jacobian() @ expand
        back = np.linalg.inv(to_raw)
        level = fit.theta.get("E", 0.0)
        unit = np.array([level if n == "E" else 1.0 for n in fit.parameters()])
        covariance = unit[:, None] * (back @ fit.covariance @ back.T) * unit
        free = np.diag(covariance) > 0
        name = fit.objective.name.replace("log-huber", "huber")
        scale = np.inf if fit.objective.delta is None else fit.objective.delta
        return cls(
            problem=problem,
            weights=weights / weights.mean(),
            loss=Loss(name=name, scale=scale),
            theta=_internal(problem, expand @ fit.vector()),
            basis=expand[:, free],
            covariance=covariance[np.ix_(free, free)],
            own=own,
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
        return self.problem.raw(self.at(u))[:, list(self.own)]

    def deviance(self, u: Floats) -> Floats:
        """Twice the rise of the objective at clipped moves, (S,)."""
        home = value(self.problem, self.theta[None], self.weights[None], self.loss)[0]
        found = value(self.problem, self.at(u), self._all(len(u)), self.loss)
        return np.asarray(2 * (found - home))

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


def _internal(problem: Problem, raw: Floats) -> Floats:
    """E, A, B, alpha, beta on raw counts to the solver's parameters, (5,)."""
    least = LEAST_E * float(np.exp(problem.y.min()))
    logs = np.log(np.maximum(raw[:3], least))
    centred = logs - np.array([0.0, raw[3] * problem.centre[0], raw[4] * problem.centre[1]])
    return np.concatenate([centred, raw[3:]])
