"""What a fit minimises: a loss of ln L - ln law, with its exact gradient and Hessian.

What to use when:

- `adaptive`, the default: Huber's loss at 1.345 robust standard deviations of the runs, which is
  95% efficient on Gaussian noise. One bad run in 40 (off by 0.3 in ln loss) leaves N* at 100 times
  the largest budget within 13%; least squares is then off by -87% to +475% (docs/calibration.md).
- `huber`: the same at a threshold of your own, `delta`; 1e-3 is what published fits use.
- `l2`: least squares on ln loss, for runs without outliers or to compare with other fits.
- `l2-levels`: least squares on the loss itself.
- `student`: Student's t with 4 degrees of freedom, for heavy tails on both sides.
- `asymmetric`: Huber's with a run below the law counted ten times one above it, so that the law
  follows the lower edge of runs whose errors all go upwards, as of badly tuned ones.

To add one, add an entry to `LOSSES`.

With e = ln E, a, b = ln of A and B at the centre of the data, and x, z the centred ln N and ln D,

    m = ln( exp(e) + exp(a - alpha x) + exp(b - beta z) ),   r = ln L - m,

the three terms' shares p = (pE, pA, pB) give dm/dtheta = (pE, pA, pB, -x pA, -z pB). Everything is
written for many weightings of the runs at once: S problems by n runs, with sums over runs as matrix
products, so that a bootstrap of thousands of resamples is one solve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError
from fit.laws.law import EXPONENT_BOUNDS, LEAST_SHARE, TWO_TERMS

HUBER_EFFICIENCY = 1.345
"""Huber's threshold in robust standard deviations: 95% efficient on Gaussian noise (Huber 1964)."""
CLIPPED_VARIANCE = 0.71016
"""Mean of min(z^2, 1.345^2) for a standard normal z."""
STUDENT_DOF = 4.0
CELLS = 20_000
"""Problems times runs evaluated at once: beyond, arrays leave the processor's cache, and an element
takes 130 ns where it took 50."""
BELOW = 10.0
"""Weight of a run below the law, in `asymmetric`, over that of one above it."""
LN_E, LN_A, LN_B, ALPHA, BETA = range(5)
MOST_TERM = 700.0
"""The ln of the most that another term may be over E: e^709 is not a number."""


class DerivativeSums(Protocol):
    """Sums over runs that a solver needs of a law at S thetas."""

    def first(self, c: Floats) -> Floats: ...  # sum of c dm/dtheta, (S, p)
    def second(self, h: Floats) -> Floats: ...  # sum of h (dm/dtheta)(dm/dtheta)^T, (S, p, p)
    def hessian(self, h: Floats, c: Floats, *, exact: bool) -> Floats: ...  # less c d2m/dtheta2


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProblem:
    """Runs as the solver sees them: logarithms, centred.

    This one is the fast kernel of the laws within E + A / N^alpha + B / D^beta;
    `general.GeneralProblem` is that of any other law.
    """

    x: Floats
    """ln params less its mean, (n,)."""
    z: Floats
    """ln tokens less its mean, (n,)."""
    y: Floats
    """ln loss, (n,); (S, n) where each of S problems has losses of its own."""
    centre: tuple[float, float]
    """Means of ln params and ln tokens."""

    @classmethod
    def of(cls, params: Floats, tokens: Floats, loss: Floats) -> FitProblem:
        """Centre the runs."""
        n, d = np.log(params), np.log(tokens)
        centre = (float(n.mean()), float(d.mean()))
        return cls(x=n - centre[0], z=d - centre[1], y=np.log(loss), centre=centre)

    def with_runs(self, table: RunTable) -> FitProblem:
        """The same law for other runs, about centres of their own."""
        return FitProblem.of(table.params, table.tokens, table.loss)

    def at_runs(self, table: RunTable) -> FitProblem:
        """Other runs about the same centres."""
        return FitProblem(
            x=np.log(table.params) - self.centre[0],
            z=np.log(table.tokens) - self.centre[1],
            y=np.log(table.loss),
            centre=self.centre,
        )

    def subset(self, rows: NDArray[np.int64]) -> FitProblem:
        """The problems of these rows, where each has losses of its own."""
        return self if self.y.ndim == 1 else dataclasses.replace(self, y=self.y[rows])

    def part(self, runs: NDArray[np.bool_]) -> FitProblem:
        """Some of the runs (n,), about centres of their own."""
        x, z = self.x[runs], self.z[runs]
        dx, dz = float(x.mean()), float(z.mean())
        centre = (self.centre[0] + dx, self.centre[1] + dz)
        return FitProblem(x=x - dx, z=z - dz, y=self.y[runs], centre=centre)

    def about(self, centre: tuple[float, float], theta: Floats) -> Floats:
        """Parameters (..., 5) of these centres as of others."""
        moved = theta.copy()
        moved[..., LN_A] -= theta[..., ALPHA] * (centre[0] - self.centre[0])
        moved[..., LN_B] -= theta[..., BETA] * (centre[1] - self.centre[1])
        return moved

    def raw(self, theta: Floats) -> Floats:
        """Internal (..., 5) to E, A, B, alpha, beta on raw counts."""
        alpha, beta = theta[..., ALPHA], theta[..., BETA]
        ln_a = theta[..., LN_A] + alpha * self.centre[0]
        ln_b = theta[..., LN_B] + beta * self.centre[1]
        with np.errstate(over="ignore"):
            scales = np.exp(np.stack([theta[..., LN_E], ln_a, ln_b], axis=-1))
        return np.concatenate([scales, theta[..., ALPHA:]], axis=-1)

    def log_raw_jacobian(self) -> Floats:
        """d(ln E, ln A, ln B, alpha, beta on raw counts) / d(internal), (5, 5)."""
        jacobian = np.eye(5)
        jacobian[LN_A, ALPHA], jacobian[LN_B, BETA] = self.centre
        return jacobian

    def shares(self, theta: Floats) -> tuple[Floats, Floats]:
        """Value m (S, n) and the shares (3, S, n) of the terms at theta (S, 5)."""
        t = theta[:, :, None]
        p = np.empty((3, len(theta), len(self.x)))
        p[1] = t[:, LN_A] - t[:, LN_E] - t[:, ALPHA] * self.x
        p[2] = t[:, LN_B] - t[:, LN_E] - t[:, BETA] * self.z
        np.minimum(p[1:], MOST_TERM, out=p[1:])
        np.exp(p[1:], out=p[1:])  # the other terms over E
        total = 1.0 + p[1]
        total += p[2]
        np.divide(1.0, total, out=p[0])
        p[1:] *= p[0]
        return t[:, LN_E] + np.log(total), p

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return TWO_TERMS

    @property
    def identifying(self) -> list[int]:
        """Places of the parameters by which two minima are distinguished: the exponents."""
        return [ALPHA, BETA]

    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper bounds of theta, (5,) each."""
        least = float(self.y.min()) + math.log(LEAST_SHARE)
        (low, high), inf = EXPONENT_BOUNDS, np.inf
        return np.array([least, -inf, -inf, low, low]), np.array([inf, inf, inf, high, high])

    def values(self, theta: Floats) -> Floats:
        """The ln of the law m (S, n) at theta (S, 5)."""
        return self.shares(theta)[0]

    def sums(self, theta: Floats) -> tuple[Floats, DerivativeSums]:
        """The ln of the law m (S, n) at theta (S, 5), and its sums over runs."""
        m, p = self.shares(theta)
        return m, _Moments(self, p)

    def jacobian(self, theta: Floats) -> Floats:
        """dm/dtheta at one theta (5,), shape (n, 5)."""
        _, ((e, a, b)) = self.shares(theta[None])
        return np.stack([e[0], a[0], b[0], -self.x * a[0], -self.z * b[0]], axis=1)

    def residual(self, theta: Floats) -> Floats:
        """Log loss less log law at one theta, (n,)."""
        return np.asarray(self.y - self.values(theta[None])[0])


Terms = tuple[Floats, Floats, Floats]
"""Loss rho, -d rho/dm and d^2 rho/dm^2 of every run."""


def _huber(r: Floats, m: Floats, scale: float | Floats) -> Terms:
    """Squares up to the scale, straight lines beyond; squares alone where the scale is infinite."""
    if not isinstance(scale, np.ndarray) and math.isinf(scale):
        return 0.5 * r**2, r, np.ones_like(r)
    clipped = np.clip(r, -scale, scale)
    return clipped * (r - 0.5 * clipped), clipped, (np.abs(r) < scale).astype(np.float64)


def _asymmetric(r: Floats, m: Floats, scale: float | Floats) -> Terms:
    """Huber's, with a run below the law counted `BELOW` times."""
    if not isinstance(scale, np.ndarray) and math.isinf(scale):
        return _huber(r, m, scale)
    side = np.where(r < 0, BELOW, 1.0)
    clipped = np.clip(r, -scale, scale)
    inside = (np.abs(r) < scale).astype(np.float64)
    return side * clipped * (r - 0.5 * clipped), side * clipped, side * inside


def _squares_of_levels(r: Floats, m: Floats, scale: float | Floats) -> Terms:
    """Squares of the loss itself, not of its ln."""
    level = np.exp(m)
    gap = level * np.expm1(r)
    return 0.5 * gap**2, gap * level, level**2 - gap * level


def _student(r: Floats, m: Floats, scale: float | Floats) -> Terms:
    """Negative log-likelihood of Student's t with `STUDENT_DOF` degrees of freedom."""
    width = STUDENT_DOF * scale**2
    rho = 0.5 * (STUDENT_DOF + 1) * np.log1p(r**2 / width)
    below = width + r**2
    gain = (STUDENT_DOF + 1) / below
    return rho, gain * r, gain * (width - r**2) / below


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFamily:
    """One kind of loss: an entry of `LOSSES`."""

    terms: Callable[[Floats, Floats, float | Floats], Terms]
    """Of residuals r, the ln of the law m, and the scale."""
    document: str
    """Its name in a fit's document."""
    deviations: float | None = None
    """Its scale in robust standard deviations of the residuals; None where it has none of them."""
    takes_delta: bool = False
    """Whether the user gives its scale; the search then lowers it in steps, since it may be small
    beside the residuals, and follows every minimum down."""
    symmetric: bool = True
    """Whether it aims at the middle of the runs."""


LOSSES: Mapping[str, LossFamily] = MappingProxyType(
    {
        "adaptive": LossFamily(terms=_huber, document="log-huber", deviations=HUBER_EFFICIENCY),
        "huber": LossFamily(terms=_huber, document="log-huber", takes_delta=True),
        "l2": LossFamily(terms=_huber, document="l2"),
        "l2-levels": LossFamily(terms=_squares_of_levels, document="l2-levels"),
        "student": LossFamily(terms=_student, document="student", deviations=1.0),
        "asymmetric": LossFamily(
            terms=_asymmetric, document="asymmetric", deviations=HUBER_EFFICIENCY, symmetric=False
        ),
    }
)
"""Every loss, by the name that `--loss` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss of one residual."""

    name: str
    scale: float | Floats = math.inf
    """Huber's delta or Student's s; (S, 1) where each of S problems has its own."""

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise FitError(
                f"unknown loss '{self.name}'; known are {', '.join(LOSSES)}. Choose one."
            )
        if not np.all(self.scale > 0):
            raise FitError(f"delta is {self.scale}; a positive number is needed, such as 1e-3.")

    @property
    def family(self) -> LossFamily:
        """What kind of loss it is."""
        return LOSSES[self.name]

    def subset(self, rows: NDArray[np.int64]) -> Loss:
        """The loss of these problems."""
        if not isinstance(self.scale, np.ndarray):
            return self
        return dataclasses.replace(self, scale=self.scale[rows])

    def terms(self, r: Floats, m: Floats) -> Terms:
        """Loss rho, -d rho/dm and d^2 rho/dm^2 of residuals r about the ln of the law m."""
        return self.family.terms(r, m, self.scale)


def value(problem: FitProblem, theta: Floats, weights: Floats, loss: Loss) -> Floats:
    """Objective of S problems, (S,); theta (S, p), weights (S, n)."""
    m = problem.values(theta)
    return np.asarray((weights * loss.terms(problem.y - m, m)[0]).sum(axis=1))


def derivatives(
    problem: FitProblem, theta: Floats, weights: Floats, loss: Loss, *, exact: bool = True
) -> tuple[Floats, Floats, Floats]:
    """Objective (S,), gradient (S, p) and Hessian (S, p, p).

    The Hessian is exact, or without the law's own curvature where that is expensive and `exact`
    is not set.
    """
    count, p = theta.shape
    out = np.empty(count), np.empty((count, p)), np.empty((count, p, p))
    size = max(1, CELLS // len(problem.x))
    for some in (np.arange(i, min(i + size, count)) for i in range(0, count, size)):
        part, w = problem.subset(some), weights[some]
        m, sums = part.sums(theta[some])
        rho, psi, curve = loss.subset(some).terms(part.y - m, m)
        c = w * psi
        out[0][some] = np.einsum("sn,sn->s", w, rho)
        out[1][some] = -sums.first(c)
        out[2][some] = sums.hessian(w * curve, c, exact=exact)
    return out


def majorant(problem: FitProblem, theta: Floats, weights: Floats, loss: Loss) -> Floats:
    """A positive Hessian (S, p, p), for where the exact one is not.

    psi(r)/r in place of the loss's second derivative majorises a robust loss, and the law's own
    curvature is left out: a step along it never overshoots.
    """
    m, sums = problem.sums(theta)
    r = problem.y - m
    psi = loss.terms(r, m)[1]
    ratio = np.divide(psi, r, out=np.ones_like(r), where=np.abs(r) > 1e-300)
    return sums.second(weights * np.maximum(ratio, 0.0))


class _Moments:
    """Sums over runs of products of shares with powers of x and z."""

    def __init__(self, problem: FitProblem, p: Floats) -> None:
        x, z = problem.x, problem.z
        one = np.ones_like(x)
        self.p = p
        self.powers = np.stack([one, x, z, x * x, x * z, z * z], axis=1)

    def first(self, c: Floats) -> Floats:
        """Sum of c dm/dtheta, (S, 5)."""
        e, a, b = ((c * share) @ self.powers[:, :3] for share in self.p)
        return np.stack([e[:, 0], a[:, 0], b[:, 0], -a[:, 1], -b[:, 2]], axis=1)

    def second(self, h: Floats) -> Floats:
        """Sum of h (dm/dtheta)(dm/dtheta)^T, (S, 5, 5)."""
        return self._products(h, np.zeros(1))

    def hessian(self, h: Floats, c: Floats, *, exact: bool) -> Floats:
        """Sum of h (dm/dtheta)(dm/dtheta)^T - c d2m/dtheta2, (S, 5, 5); always exact.

        The Hessian of m is diag(p) - p p^T over the terms: its p p^T joins that of the loss.
        """
        return self._products(h + c, c)

    def _products(self, h: Floats, c: Floats) -> Floats:
        """Sum over runs of h p p^T - c diag(p), mapped to theta, (S, 5, 5)."""
        e, a, b = self.p
        he, ha, hb = h * e, h * a, h * b
        products = (he - c) * e, he * a, he * b, (ha - c) * a, ha * b, (hb - c) * b
        return self._assemble(*(product @ self.powers for product in products))

    @staticmethod
    def _assemble(ee: Floats, ea: Floats, eb: Floats, aa: Floats, ab: Floats, bb: Floats) -> Floats:
        """Map the 3 x 3 matrix over (e, a - alpha x, b - beta z) to theta; moments (S, 6) each."""
        one, x, z, xx, xz, zz = range(6)
        h = np.empty((len(ee), 5, 5))
        rows = (
            (ee[:, one], ea[:, one], eb[:, one], -ea[:, x], -eb[:, z]),
            (None, aa[:, one], ab[:, one], -aa[:, x], -ab[:, z]),
            (None, None, bb[:, one], -ab[:, x], -bb[:, z]),
            (None, None, None, aa[:, xx], ab[:, xz]),
            (None, None, None, None, bb[:, zz]),
        )
        for i, row in enumerate(rows):
            for j, entry in enumerate(row):
                if entry is not None:
                    h[:, i, j] = h[:, j, i] = entry
        return h


def robust_scale(residuals: Floats, free: int) -> float:
    """Robust standard deviation of residuals.

    Huber's proposal 2: residuals are clipped at 1.345 deviations until the clipped squares give the
    same deviation again. On 25 clean runs it scatters by 17% where the median absolute deviation,
    from which it starts, scatters by 23%: enough to make good runs look like outliers.

    Args:
        residuals: About a robust fit, (n,).
        free: Free parameters of that fit; n - free are the degrees of freedom.

    Source: Huber 1964, sec. 8.
    """
    n = len(residuals)
    dof = max(1, n - free)
    scale = 1.4826 * float(np.median(np.abs(residuals))) * math.sqrt(n / dof)
    for _ in range(50):
        clipped = np.minimum(residuals**2, (HUBER_EFFICIENCY * scale) ** 2)
        new = math.sqrt(float(clipped.sum()) / (dof * CLIPPED_VARIANCE))
        if abs(new - scale) <= 1e-9 * scale:
            break
        scale = new
    return scale
