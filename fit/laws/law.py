"""The declaration of a law, its predictions, and arrays that carry derivatives.

A law gives the ln of what it predicts from its parameters and the ln of the columns that it needs.
Its function is written with numpy's operators and those of `RULES` below, so that the solver has
exact derivatives of any law.

Derivatives are carried by forward accumulation (Wengert 1964), those by each parameter kept apart
and in the smallest shape that holds them. A sum of power laws then costs what hand-written
derivatives would, about a tenth of complex steps or differences. Numpy only: every query imports
this module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from fit.data.records import Floats
from fit.errors import QueryError
from fit.quantities import option_name

EXPONENT_BOUNDS = (1e-3, 5.0)
LEAST_SHARE = 1e-6
"""E below this share of the smallest loss is taken as 0: a bound, and reported as one."""
NO_E_SHARE = 1e-4
"""E below this share is shown as 0: the solver stops anywhere below, since nothing moves there."""
TWO_TERMS = ("E", "A", "B", "alpha", "beta")
"""Parameters of E + A / N^alpha + B / D^beta, the coordinates of the fast kernel."""
SLOPE_STEP = 0.1
"""Step in ln C of an exponent: its bias is below 1e-4 of the exponent's own change a decade."""
SEARCH_POINTS, SEARCH_ROUNDS = 33, 4
"""Points of a search for the best N, and how often it is narrowed to two cells: by 16 each time,
to 4e-4 in ln N, where a parabola is true to 1e-9."""
RAW = ""
"""The unit of a column that is taken as it is: not divided by its geometric mean."""
COUNTS: Mapping[str, str] = MappingProxyType({"params": "params", "tokens": "tokens"})


Named = Mapping[str, Any]
"""Arrays by name: parameters (..., 1), or their tangents, and the ln of columns (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a law, as the solver sees it.

    A name that begins with a capital is a scale: positive, and solved for as its logarithm. Columns
    are divided by their geometric mean, but for those whose unit is `RAW`; `per` says how a scale's
    value changes with that.
    """

    name: str
    start: tuple[float, float]
    """Where the search begins, in the solver's coordinate at the centre of the runs."""
    low: float = -math.inf
    high: float = math.inf
    nats: bool = False
    """`start`, `low` and `high` count from the ln of what the runs measured; E's from the least."""
    per: Mapping[str, str | float] = field(default_factory=dict)
    """Its unit: power of a column's unit, a number or another parameter (`-p`: its negative)."""

    @property
    def scale(self) -> bool:
        """Whether it is solved for as its logarithm."""
        return self.name[0].isupper()


def floor() -> Parameter:
    """E, the loss that nothing takes away [nats/token]."""
    return Parameter(name="E", start=(-1.5, -0.02), low=math.log(LEAST_SHARE), nats=True)


def coefficient(name: str, **per: str | float) -> Parameter:
    """The coefficient of a term in nats: A is `per` params to the alpha."""
    return Parameter(name=name, start=(-3.5, -0.2), nats=True, per=per)


def exponent(name: str) -> Parameter:
    """An exponent of a falling power law; published ones lie in 0.1-0.75."""
    low, high = EXPONENT_BOUNDS
    return Parameter(name=name, start=(0.05, 1.2), low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A family of laws: what it predicts, as a function of a model's size, training and more."""

    name: str
    formula: str
    """In letters that read as mathematics, in a terminal and on paper."""
    declared: tuple[Parameter, ...]
    log_law: Callable[[Named, Named], Any]
    """The ln of the law from parameters by name (scales as their ln) and the ln of columns."""
    prepare: Callable[[Named], Named] | None = None
    """Adds to the parameters what `log_law` needs and follows from them alone."""
    columns: Mapping[str, str] = field(default_factory=lambda: COUNTS)
    """Columns that it needs, each with the one whose unit it shares: unique_tokens has tokens'."""
    about: str = ""
    """What the formula's letters mean beyond N, D and L."""
    target: str = "loss"
    """Column that it predicts."""
    null: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    """Values at which the law is a simpler one, and which: an interval says for or against it."""
    two_terms: tuple[str | None, ...] | None = None
    """The law as E + A / N^alpha + B / D^beta: which of its parameters stands for each of
    `TWO_TERMS`, an exponent twice where both are one, None for an E that is zero. Such a law is
    solved by the fast kernel; every other by the general engine. A scale cannot stand twice: the
    kernel works in centred coordinates, in which A and B are equal where they are not on raw
    counts."""
    powers: tuple[str, str] | None = None
    """Its alpha and beta, where it is a rising function of A/N^alpha + B/D^beta and of nothing else
    in N and D, so that its best N is that sum's; those of `two_terms` where that is given."""
    unsplit: str | None = None
    """Why a law of params and tokens splits no budget; None where it does."""
    without_e: str | None = None
    """Name of the law that this one is where E is zero; a note says whether it fits as well."""
    held: Mapping[str, float] = field(default_factory=dict)
    """Columns fixed by the question, such as the unique tokens there are."""

    def __post_init__(self) -> None:
        scales = [name for name in (self.two_terms or ())[:3] if name is not None]
        assert len(set(scales)) == len(scales), f"{self.name}: a scale stands twice in two_terms"
        if self.two_terms is not None:
            object.__setattr__(self, "powers", tuple(self.two_terms[3:]))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(p.name for p in self.declared)

    @property
    def further(self) -> tuple[str, ...]:
        """Columns that it needs beside params and tokens and that no question has fixed."""
        return tuple(c for c in self.columns if c not in COUNTS and c not in self.held)

    @property
    def splits(self) -> bool:
        """Whether it is a loss of N and D alone, so that N*(C) follows and has an exponent."""
        counts = set(self.columns) == set(COUNTS)
        return self.target == "loss" and counts and self.unsplit is None

    def exponent(self, theta: Floats, log_product: float) -> Floats:
        """The exponent a of N* ~ C^a under C = k N D: d ln N* / d ln C at one budget.

        Of a sum of two power laws it is beta / (alpha + beta) at every budget. Any other law is
        minimised at two budgets beside the one asked for.

        Args:
            theta: Parameters on raw counts, (..., p).
            log_product: ln(N D) that the budget pays for.

        Returns:
            The exponent, (...); 1 less it is that of D*. NaN where no split of the budget is best.
        """
        if self.powers is not None:
            alpha, beta = (theta[..., self.parameters.index(name)] for name in self.powers)
            return np.asarray(beta / (alpha + beta))
        ends = [self._log_optimum(theta, log_product + s * SLOPE_STEP) for s in (1.0, -1.0)]
        return (ends[0] - ends[1]) / (2 * SLOPE_STEP)

    def _log_optimum(self, theta: Floats, log_product: float) -> Floats:
        """The ln of the N that is best of all with one ln(N D), (...); NaN on either end."""
        rows = np.asarray(theta, dtype=np.float64)[..., None, :]
        named = self.named(rows)
        low, high = np.zeros(theta.shape[:-1]), np.full(theta.shape[:-1], log_product)
        share = np.linspace(0.0, 1.0, SEARCH_POINTS)
        for _ in range(SEARCH_ROUNDS):
            x = low[..., None] + share * (high - low)[..., None]
            with np.errstate(all="ignore"):
                values = self.log_law(named, {"params": x, "tokens": log_product - x})
            values = np.where(np.isnan(values), np.inf, values)
            best = np.clip(np.argmin(values, axis=-1), 1, SEARCH_POINTS - 2)[..., None]
            at = [np.take_along_axis(x, best + i, axis=-1)[..., 0] for i in (-1, 0, 1)]
            f = [np.take_along_axis(values, best + i, axis=-1)[..., 0] for i in (-1, 0, 1)]
            low, high = at[0], at[2]
        with np.errstate(all="ignore"):
            vertex = 0.5 * (f[0] - f[2]) / (f[0] - 2 * f[1] + f[2])
        inside = (low > 0.0) & (high < log_product) & (np.abs(vertex) <= 1)
        return np.where(inside, at[1] + vertex * (high - low) / 2, np.nan)

    @property
    def expand(self) -> Callable[[Floats], tuple[Floats, ...]] | None:
        """Theta (..., p) to E, A, B, alpha, beta, where the law is a sum of two power laws."""
        return None if self.two_terms is None else self._expand

    def _expand(self, theta: Floats) -> tuple[Floats, ...]:
        """E, A, B, alpha, beta, each (...), of theta (..., p)."""
        names = self.parameters
        return tuple(
            np.zeros_like(theta[..., 0]) if name is None else theta[..., names.index(name)]
            for name in self.two_terms or ()
        )

    def at(self, **columns: float) -> Law:
        """The law with columns fixed at values.

        Raises:
            QueryError: The law has no such column.
        """
        for name in columns:
            if name not in self.columns or name in COUNTS:
                columns_left = ", ".join(c for c in self.columns if c not in COUNTS)
                raise QueryError(
                    f"law '{self.name}' does not depend on {name}; beside params and tokens it "
                    f"takes {columns_left or 'nothing'}. Leave {option_name(name)} out."
                )
        return dataclasses.replace(self, held={**self.held, **columns})

    def check_split(self) -> None:
        """Refuse to split a budget by a law that says nothing about it.

        Raises:
            QueryError: It predicts something else than a loss, or needs what no question has fixed.
        """
        if self.target != "loss":
            raise QueryError(
                f"law '{self.name}' predicts {self.target}, not a loss: there is no budget to "
                "split. Ask: isoflop predict --params N --tokens D"
            )
        self._check_further()
        if self.unsplit is not None:
            raise QueryError(
                f"law '{self.name}' splits no budget: {self.unsplit}. "
                "Ask: isoflop predict --params N --tokens D, or fit another law."
            )
        if not set(COUNTS) <= set(self.columns):
            raise QueryError(
                f"law '{self.name}' depends on {', '.join(self.columns)}, not on both params and "
                "tokens: it splits no budget. Ask: isoflop predict --params N --tokens D"
            )

    def _check_further(self) -> None:
        """Refuse to predict without the columns needed."""
        if self.further:
            needed = " and ".join(self.further)
            options = " ".join(f"{option_name(c)} X" for c in self.further)
            alone = " or isoflop query C" if self.further == ("unique_tokens",) else ""
            raise QueryError(
                f"law '{self.name}' depends on {needed} beside params and tokens. Ask: isoflop "
                f"predict --params N --tokens D{alone}, with {options}"
            )

    def loss(self, theta: Any, params: Any, tokens: Any) -> Floats:
        """What the law predicts of models and training lengths: the loss, or its target.

        Args:
            theta: Parameters on raw counts, (..., p).
            params: N [parameters], broadcast against theta's leading axes.
            tokens: D [tokens], likewise.

        Returns:
            Loss [nats/token].

        Raises:
            QueryError: It needs columns that no question has fixed.
        """
        with np.errstate(divide="ignore", over="ignore"):
            log_params, log_tokens = np.log(np.asarray(params, float)), np.log(tokens)
            return np.exp(self.log_loss_at(theta)(log_params, log_tokens))

    def log_loss_at(self, theta: Any) -> Callable[[Any, Any], Floats]:
        """Its ln as a function of ln N and ln D, which reads thetas (..., p) once for all of them.

        Raises:
            QueryError: It needs columns that no question has fixed.
        """
        self._check_further()
        named = self.named(np.asarray(theta, dtype=np.float64))
        held = {column: np.log(value) for column, value in self.held.items()}

        def log_loss(log_params: Any, log_tokens: Any) -> Floats:
            columns = {"params": log_params, "tokens": log_tokens, **held}
            return np.asarray(self.log_law(named, columns))

        return log_loss

    def parts(self, theta: Floats) -> tuple[Floats, ...]:
        """E, A, B, alpha, beta of the two-term law, each (...).

        Raises:
            QueryError: The law is not of that form.
        """
        if self.two_terms is None:
            raise QueryError(
                f"law '{self.name}' is not E + A/N^alpha + B/D^beta, which this needs. "
                "Ask a fit of the law chinchilla."
            )
        return self._expand(theta)

    def named(self, theta: Floats) -> Named:
        """Parameters by name from values (..., p) on raw counts: scales as their ln."""
        with np.errstate(divide="ignore", invalid="ignore"):
            named = {
                p.name: np.log(theta[..., i]) if p.scale else theta[..., i]
                for i, p in enumerate(self.declared)
            }
        return named if self.prepare is None else self.prepare(named)


Slopes = Mapping[int, Any]


class Tangent(NDArrayOperatorsMixin):
    """A value and its derivatives by the parameters that it depends on.

    numpy's operators and the functions of `RULES` act on it; others are refused.
    """

    def __init__(self, value: Any, slopes: Slopes) -> None:
        self.value, self.slopes = value, slopes

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply the rule of a numpy function."""
        if method != "__call__" or options or ufunc not in RULES:
            return NotImplemented
        return RULES[ufunc](*inputs)


def value_of(x: Any) -> Any:
    """The value of a tangent, or a plain array itself."""
    return x.value if isinstance(x, Tangent) else x


def slopes_of(x: Any) -> Slopes:
    """The derivatives of a tangent; a plain array has none."""
    return x.slopes if isinstance(x, Tangent) else {}


def _combine(terms: list[tuple[Any, Any]]) -> dict[int, Any]:
    """Derivatives of a function of several terms from its derivative by each: [(by it, term)]."""
    out: dict[int, Any] = {}
    for factor, term in terms:
        for j, slope in slopes_of(term).items():
            out[j] = factor * slope + out[j] if j in out else factor * slope
    return out


def _two(
    function: Callable[[Any, Any], Any], by: Callable[[Any, Any], tuple[Any, Any]]
) -> Callable[[Any, Any], Tangent]:
    """Rule of a function of two from its derivatives."""

    def rule(a: Any, b: Any) -> Tangent:
        x, y = value_of(a), value_of(b)
        left, right = by(x, y)
        return Tangent(function(x, y), _combine([(left, a), (right, b)]))

    return rule


def _one(function: Callable[[Any], Any], by: Callable[[Any, Any], Any]) -> Callable[[Any], Tangent]:
    """Rule of a function of one from its derivative, given its argument and its value."""

    def rule(a: Any) -> Tangent:
        x = value_of(a)
        y = function(x)
        return Tangent(y, _combine([(by(x, y), a)]))

    return rule


RULES: Mapping[Any, Callable[..., Tangent]] = {
    np.add: _two(np.add, lambda x, y: (1.0, 1.0)),
    np.subtract: _two(np.subtract, lambda x, y: (1.0, -1.0)),
    np.multiply: _two(np.multiply, lambda x, y: (y, x)),
    np.true_divide: _two(np.true_divide, lambda x, y: (1 / y, -x / (y * y))),
    np.negative: _one(np.negative, lambda x, y: -1.0),
    np.exp: _one(np.exp, lambda x, y: y),
    np.expm1: _one(np.expm1, lambda x, y: y + 1),
    np.log: _one(np.log, lambda x, y: 1 / x),
    np.log1p: _one(np.log1p, lambda x, y: 1 / (1 + x)),
    np.square: _one(np.square, lambda x, y: 2 * x),
    np.sqrt: _one(np.sqrt, lambda x, y: 0.5 / y),
}


def log_sum(*terms: Any) -> Any:
    """The ln of a sum from the ln of its terms."""
    values = [np.asarray(value_of(t)) for t in terms]
    top = values[0]
    for v in values[1:]:
        top = np.maximum(top, v)
    top = np.where(np.isfinite(top), top, 0.0)
    parts = [np.exp(v - top) for v in values]
    total = sum(parts[1:], parts[0])
    result = top + np.log(total)
    if not any(isinstance(t, Tangent) for t in terms):
        return result
    inverse = 1 / total
    return Tangent(result, _combine([(p * inverse, t) for p, t in zip(parts, terms, strict=True)]))


def lesser(first: Any, second: Any) -> Any:
    """The smaller of two, element by element."""
    a, b = value_of(first), value_of(second)
    inside = a <= b
    result = np.where(inside, a, b)
    if not (isinstance(first, Tangent) or isinstance(second, Tangent)):
        return result
    return Tangent(result, _combine([(inside, first), (~inside, second)]))
