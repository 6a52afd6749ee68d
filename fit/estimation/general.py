"""Any declared law as a problem for the solver, and the starting points of the search.

Derivatives are those of the law's own function (`laws.law.Tangent`). The two-term laws have a
faster kernel, `objective.FitProblem`; both give the same fit.

Starting points. For fixed (alpha, beta) the two-term law is linear in (E, A, B): a grid over the
exponents with non-negative least squares at each point finds every basin (Golub & Pereyra 1973).
Any other law is tried at points spread evenly over its parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError
from fit.estimation.objective import LN_E, DerivativeSums, FitProblem, Loss, value
from fit.laws.families import law as law_named
from fit.laws.law import LEAST_SHARE, RAW, TWO_TERMS, Law, Tangent, slopes_of, value_of

DIFFERENCE = 1e-5
"""Step of the central differences of the exact gradient that give the law's own curvature."""
AT_ONCE = 20_000
"""Problems times runs that a law is evaluated for at once: a third faster, in cache."""
EXPONENTS = np.geomspace(0.03, 2.5, 21)
"""Grid of alpha and beta; published exponents lie in 0.1-0.75, tiny models reach 1.5."""
CELLS = 200_000
"""Exponents times runs projected at once: 2 MB an array, whatever the number of runs."""
NO_E = -80.0
"""The ln of E where a law has none: beside any loss it is nothing, to the last digit."""
CANDIDATES, KEPT = 4096, 48
"""Starting points tried for a declared law, and how many of the best are minimised from."""
SEARCHED = 1000
"""Runs by which a declared law's minima are looked for; only those found are followed on all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralProblem(FitProblem):
    """Runs and a declared law."""

    law: Law
    columns: Mapping[str, Floats]
    """The ln of the law's columns, each less the centre of its unit, (n,)."""
    centres: Mapping[str, float]
    """Mean of the ln of the column that each unit is named after."""
    held: Mapping[str, float]
    """Parameters that are not fitted, by name, on raw counts."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return self.law.parameters

    @property
    def free(self) -> NDArray[np.int64]:
        """Places of the parameters that are fitted."""
        return np.array([i for i, n in enumerate(self.names) if n not in self.held], dtype=np.int64)

    @property
    def identifying(self) -> list[int]:
        """Places of the parameters by which two minima are distinguished: all but terms in nats."""
        return [int(i) for i in self.free if not self.law.declared[i].nats]

    def raw(self, theta: Floats) -> Floats:
        """Internal (..., p) to parameters on raw counts."""
        at = theta @ self.log_raw_jacobian().T + self._offsets()
        scale = np.array([p.scale for p in self.law.declared])
        with np.errstate(over="ignore"):
            return np.where(scale, np.exp(np.where(scale, at, 0.0)), at)

    def internal(self, raw: Floats) -> Floats:
        """Parameters on raw counts (..., p) to internal ones."""
        scale = np.array([p.scale for p in self.law.declared])
        at = np.where(scale, np.log(np.where(scale, raw, 1.0)), raw) - self._offsets()
        return np.asarray(at @ np.linalg.inv(self.log_raw_jacobian()).T)

    def log_raw_jacobian(self) -> Floats:
        """d(parameters on raw counts, scales as their ln) / d(internal), (p, p)."""
        jacobian = np.eye(len(self.names))
        for i, parameter in enumerate(self.law.declared):
            for unit, power in parameter.per.items():
                if isinstance(power, str):
                    sign = -1.0 if power.startswith("-") else 1.0
                    # Added: two units of one scale may have the same exponent.
                    jacobian[i, self.names.index(power.lstrip("-"))] += sign * self.centres[unit]
        return jacobian

    def _offsets(self) -> Floats:
        """What units with a power that is a number add to the ln of scales, (p,)."""
        powers = [
            [(u, v) for u, v in p.per.items() if not isinstance(v, str)] for p in self.law.declared
        ]
        return np.array([sum(v * self.centres[u] for u, v in row) for row in powers], dtype=float)

    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper bounds of theta, (p,) each; none for what is held."""
        low, high = (np.array([getattr(p, s) for p in self.law.declared]) for s in ("low", "high"))
        nats = np.array([p.nats for p in self.law.declared])
        low[nats] += self.y.min()
        high[nats] += self.y.max()
        held = np.array([n in self.held for n in self.names])
        return np.where(held, -np.inf, low), np.where(held, np.inf, high)

    def values(self, theta: Floats) -> Floats:
        """The ln of the law m (S, n) at theta (S, p)."""
        m = np.empty((len(theta), len(self.x)))
        for some in self._parts(len(theta)):
            named = {n: theta[some, i, None] for i, n in enumerate(self.names)}
            with np.errstate(all="ignore"):
                m[some] = self.law.log_law(named, self.columns)
        return m

    def tangents(self, theta: Floats) -> tuple[Floats, Floats]:
        """The ln of the law m (S, n) and dm/dtheta (S, p, n) at theta (S, p)."""
        m = np.empty((len(theta), len(self.x)))
        slopes = np.zeros((len(theta), len(self.names), len(self.x)))
        free = set(self.free.tolist())
        for some in self._parts(len(theta)):
            named = {
                n: Tangent(theta[some, i, None], {i: 1.0}) if i in free else theta[some, i, None]
                for i, n in enumerate(self.names)
            }
            with np.errstate(all="ignore"):
                tangent = self.law.log_law(named, self.columns)
            m[some] = value_of(tangent)
            for i, slope in slopes_of(tangent).items():
                slopes[some, i] = slope
        if not np.isfinite(slopes).all():
            slopes = np.nan_to_num(slopes, nan=0.0, posinf=0.0, neginf=0.0)
        return m, slopes

    def _parts(self, count: int) -> Iterator[slice]:
        """Problems that are evaluated at once."""
        size = max(1, AT_ONCE // len(self.x))
        return (slice(i, i + size) for i in range(0, count, size))

    def sums(self, theta: Floats) -> tuple[Floats, DerivativeSums]:
        """The ln of the law m (S, n) at theta (S, p), and its sums over runs."""
        m, slopes = self.tangents(theta)
        return m, _Tangents(self, theta, slopes)

    def jacobian(self, theta: Floats) -> Floats:
        """dm/dtheta at one theta (p,), shape (n, p)."""
        return np.asarray(self.tangents(theta[None])[1][0].T)

    def with_runs(self, table: RunTable) -> GeneralProblem:
        """The same law for other runs, about centres of their own."""
        return general_problem(table, self.law, self.held)

    def at_runs(self, table: RunTable) -> GeneralProblem:
        """Other runs about the same centres."""
        return _declared(table, self.law, self.held, self.centres)


class _Tangents:
    """Sums over runs of products of the law's derivatives."""

    def __init__(self, problem: GeneralProblem, theta: Floats, slopes: Floats) -> None:
        self.problem, self.theta = problem, theta
        self.slopes = slopes

    def first(self, c: Floats) -> Floats:
        """Sum of c dm/dtheta, (S, p)."""
        return np.asarray((self.slopes @ c[:, :, None])[..., 0])

    def second(self, h: Floats) -> Floats:
        """Sum of h (dm/dtheta)(dm/dtheta)^T, (S, p, p)."""
        return np.asarray((self.slopes * h[:, None]) @ self.slopes.transpose(0, 2, 1))

    def hessian(self, h: Floats, c: Floats, *, exact: bool) -> Floats:
        """Sum of h (dm/dtheta)(dm/dtheta)^T - c d2m/dtheta2, (S, p, p); the latter if exact."""
        return self.second(h) - self._curvature(c) if exact else self.second(h)

    def _curvature(self, c: Floats) -> Floats:
        """Sum of c d2m/dtheta2, (S, p, p), by central differences of the exact gradient."""
        out = np.zeros((*self.theta.shape, self.theta.shape[1]))
        free, (count, p) = self.problem.free, self.theta.shape
        # Many ends at once: one problem of 240 runs costs a quarter of what they do one by one.
        at_once = max(1, AT_ONCE // (2 * count * len(self.problem.x)))
        for some in (free[i : i + at_once] for i in range(0, len(free), at_once)):
            step = DIFFERENCE * np.eye(p)[some]
            moved = self.theta + np.stack([step, -step])[:, :, None]
            slopes = self.problem.tangents(moved.reshape(-1, p))[1]
            ends = (slopes.reshape(*moved.shape, -1) @ c[:, :, None])[..., 0]
            out[:, some] = ((ends[0] - ends[1]) / (2 * DIFFERENCE)).transpose(1, 0, 2)
        return np.asarray(0.5 * (out + out.transpose(0, 2, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRestriction:
    """A law within its problem's coordinates: theta = home + basis u, some variables frozen.

    The fast laws' coordinates are (ln E, ln A, ln B, alpha, beta).
    """

    basis: Floats
    """(p, free): identity, alpha and beta sharing a column, or none for what is held."""
    without_e: bool = False

    @classmethod
    def of(cls, law: str) -> LinearRestriction:
        """The restriction of a law in the coordinates of the fast kernel, by the law's name.

        Raises:
            FitError: No such law.
        """
        names = law_named(law).two_terms or TWO_TERMS
        places = [i if name is None else names.index(name) for i, name in enumerate(names)]
        basis = np.ascontiguousarray(np.eye(5)[places][:, sorted(set(places))])
        return cls(basis=basis, without_e=names[LN_E] is None)

    @classmethod
    def within(cls, problem: FitProblem, law: str) -> LinearRestriction:
        """The restriction of a law in the coordinates of its problem."""
        if isinstance(problem, GeneralProblem):
            return cls(basis=np.eye(len(problem.names))[:, problem.free])
        return cls.of(law)

    def bounds(self, problem: FitProblem) -> tuple[Floats, Floats]:
        """Lower and upper bounds of theta, (p,) each; E is `NO_E` where the law has none."""
        low, high = problem.bounds()
        if self.without_e:
            low[LN_E] = high[LN_E] = NO_E
        return low, high

    @property
    def free(self) -> int:
        """Free parameters."""
        return int(self.basis.shape[1]) - self.without_e


def fit_problem(table: RunTable, law: Law, held: Mapping[str, float] | None = None) -> FitProblem:
    """Runs as the solver takes them for a law: the fast kernel where there is one.

    Args:
        table: The runs, with the columns that the law needs.
        law: Law family.
        held: Parameters held at values on raw counts.

    Raises:
        FitError: A column is missing, or what is held is not a parameter of the law.
    """
    if law.two_terms is not None and not held:
        return FitProblem.of(table.params, table.tokens, table.loss)
    return general_problem(table, law, held)


def general_problem(
    table: RunTable, law: Law, held: Mapping[str, float] | None = None
) -> GeneralProblem:
    """Runs for the general engine, whatever the law.

    Raises:
        FitError: As `fit_problem`.
    """
    check_held(law, held or {})
    check_columns(table, law)
    units = set(law.columns.values()) - {RAW}
    centres = {RAW: 0.0} | {u: float(np.log(table.column(u)).mean()) for u in units}
    return _declared(table, law, held or {}, centres)


def check_columns(table: RunTable, law: Law) -> None:
    """Refuse a table without the columns that a law needs.

    Raises:
        FitError: A column is missing, holds no numbers, or one that is not positive.
    """
    core = ("params", "tokens", "flops", "loss")
    missing = [c for c in law.columns if c not in core and c not in table.columns]
    if missing:
        names = ", ".join([*core, *table.columns])
        raise FitError(
            f"law '{law.name}' needs a column {', '.join(missing)}; {table.source or 'the table'} "
            f"has {names}. Name yours: --column {missing[0]}=YOURS"
        )
    for name in law.columns:
        try:
            values = table.column(name)
        except ValueError:
            values = np.array([np.nan])
        bad = ~(values > 0)
        if bad.any():
            row = table.run[int(np.argmax(bad))]
            raise FitError(
                f"law '{law.name}' needs positive numbers in column {name}; {row} has none "
                f"({int(bad.sum())} such runs). Fix them or leave them out: --where '{name} > 0'"
            )


def check_held(law: Law, held: Mapping[str, float]) -> None:
    """Refuse to hold a parameter that cannot be held.

    Raises:
        FitError: Not a parameter, a scale that is not positive, a coefficient without its exponent,
            or nothing left to fit.
    """
    for name, fixed in held.items():
        if name not in law.parameters:
            raise FitError(
                f"cannot hold '{name}': law '{law.name}' has {', '.join(law.parameters)}. "
                "Name one of these."
            )
        parameter = law.declared[law.parameters.index(name)]
        if not np.isfinite(fixed) or (parameter.scale and fixed <= 0):
            raise FitError(f"cannot hold {name} at {fixed}; a positive finite number is needed.")
        exponents = [v.lstrip("-") for v in parameter.per.values() if isinstance(v, str)]
        loose = [v for v in exponents if v not in held]
        if loose:
            raise FitError(
                f"cannot hold {name} while {loose[0]} is fitted: its unit depends on it. "
                f"Hold {loose[0]} as well."
            )
    if len(held) == len(law.parameters):
        raise FitError(f"every parameter of law '{law.name}' is held; leave one to be fitted.")


def _declared(
    table: RunTable, law: Law, held: Mapping[str, float], centres: Mapping[str, float]
) -> GeneralProblem:
    """The runs as a problem about these centres."""
    n, d = np.log(table.params), np.log(table.tokens)
    middle = (float(n.mean()), float(d.mean()))
    columns = {c: np.log(table.column(c)) - centres[u] for c, u in law.columns.items()}
    return GeneralProblem(
        x=n - middle[0],
        z=d - middle[1],
        y=np.log(table.loss),
        centre=middle,
        law=law,
        columns=columns,
        centres=centres,
        held=dict(held),
    )


def local_minima(problem: FitProblem, weights: Floats, *, without_e: bool) -> Floats:
    """Starting points: local minima of the profiled least squares over the exponents, (k, 5)."""
    scales, cost = _project(problem, weights, without_e=without_e)
    surface = cost.reshape(len(EXPONENTS), -1)
    padded = np.pad(surface, 1, constant_values=np.inf)
    neighbours = [
        padded[1 + i : padded.shape[0] - 1 + i, 1 + j : padded.shape[1] - 1 + j]
        for i, j in itertools.product((-1, 0, 1), repeat=2)
        if (i, j) != (0, 0)
    ]
    lowest = np.flatnonzero((surface <= np.min(neighbours, axis=0)).ravel())
    lowest = lowest[np.argsort(cost[lowest], kind="stable")][:8]
    tiny = np.exp(problem.y.min()) * LEAST_SHARE
    logs = np.log(np.maximum(scales[lowest], tiny))
    if without_e:
        logs[:, 0] = problem.bounds()[0][LN_E]
    alpha, beta = (EXPONENTS[i] for i in np.divmod(lowest, len(EXPONENTS)))
    return np.column_stack([logs, alpha, beta])


def _project(problem: FitProblem, weights: Floats, *, without_e: bool) -> tuple[Floats, Floats]:
    """Best non-negative (E, A, B) at each (alpha, beta) of the grid in relative least squares.

    Returns:
        Scales (k, 3) at the centre of the data, and the sum of squared relative errors (k,).
    """
    count = len(EXPONENTS)
    powers = np.zeros((2 * count + 1, 2))  # of N and D in every column: E's, A's, then B's
    powers[1 : count + 1, 0] = powers[count + 1 :, 1] = -EXPONENTS
    products, sums = np.zeros((len(powers), len(powers))), np.zeros(len(powers))
    size = max(1, CELLS // len(powers))
    for part in (slice(k, k + size) for k in range(0, len(problem.y), size)):
        columns = np.exp(powers @ np.stack([problem.x[part], problem.z[part]]) - problem.y[part])
        weighed = columns * weights[part]
        products += weighed @ columns.T
        sums += weighed.sum(axis=1)
    a, b = (1 + g.ravel() for g in np.indices((count, count)))
    places = np.stack([np.zeros_like(a), a, count + b], axis=1)
    gram, right = products[places[:, :, None], places[:, None, :]], sums[places]
    best = np.full(len(places), np.inf)
    scales = np.zeros((len(places), 3))
    for active in itertools.chain.from_iterable(
        itertools.combinations(range(without_e, 3), size) for size in (1, 2, 3)
    ):
        index = np.array(active)
        block = gram[:, index[:, None], index]
        ridge = 1e-13 * np.trace(block, axis1=1, axis2=2)[:, None, None] * np.eye(len(index))
        solution = np.linalg.solve(block + ridge, right[:, index, None])[..., 0]
        cost = weights.sum() - (solution * right[:, index]).sum(axis=1)
        better = (solution >= 0).all(axis=1) & (cost < best)
        best[better] = cost[better]
        scales[better] = 0.0
        scales[np.ix_(better, index)] = solution[better]
    return scales, best


def candidates(problem: GeneralProblem, count: int, seed: int = 0) -> Floats:
    """Points spread evenly over where the law's parameters may be, (count, p), held ones held.

    Source: Sobol 1967; scrambled as by Owen 1998.
    """
    from scipy.stats import qmc

    middle = float(np.median(problem.y))
    least = float(problem.y.min())
    ends = np.array([p.start for p in problem.law.declared])
    for i, parameter in enumerate(problem.law.declared):
        if parameter.nats:
            ends[i] += least if parameter.name == "E" else middle
    share = qmc.Sobol(len(ends), seed=seed).random(count)
    points = ends[:, 0] + share * (ends[:, 1] - ends[:, 0])
    if problem.held:
        raw = np.array([problem.held.get(n, 1.0) for n in problem.names])
        home = problem.internal(raw)
        places = [i for i, n in enumerate(problem.names) if n in problem.held]
        points[:, places] = home[places]
    low, high = problem.bounds()
    return np.asarray(np.clip(points, low, high))


def thinned(problem: GeneralProblem, weights: Floats) -> tuple[GeneralProblem, Floats]:
    """At most `SEARCHED` of the runs, drawn at random, and their weights (1, n)."""
    count = len(problem.y)
    if count <= SEARCHED:
        return problem, weights
    some = np.sort(np.random.default_rng(0).choice(count, SEARCHED, replace=False))
    columns = {name: logs[some] for name, logs in problem.columns.items()}
    x, z, y = problem.x[some], problem.z[some], problem.y[some]
    return dataclasses.replace(problem, x=x, z=z, y=y, columns=columns), weights[:, some]


def lowest(
    problem: FitProblem, points: Floats, weights: Floats, loss: Loss | None = None
) -> Floats:
    """The points (k, p) with the least objective, at most `KEPT`; least squares by default."""
    size = max(1, 250_000 // len(problem.x))
    costs = np.concatenate(
        [
            value(problem, points[i : i + size], weights, loss or Loss(name="l2"))
            for i in range(0, len(points), size)
        ]
    )
    order = np.argsort(np.nan_to_num(costs, nan=np.inf), kind="stable")
    return np.asarray(points[order[:KEPT]])
