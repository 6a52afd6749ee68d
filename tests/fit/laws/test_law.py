"""Derivatives carried along against central differences."""

import dataclasses

import numpy as np
import pytest

from fit.laws.families import LAWS
from fit.laws.law import RULES, Tangent, lesser, log_sum

X, Y = np.array([0.3, 1.2, 2.0]), np.array([0.7, 0.4, 1.5])


@pytest.mark.parametrize("ufunc", RULES, ids=lambda f: f.__name__)
def test_every_rule_is_the_derivative_of_its_function(ufunc):
    inputs = (X, Y)[: ufunc.nin]
    found = ufunc(*(Tangent(v, {i: 1.0}) for i, v in enumerate(inputs)))
    assert found.value == pytest.approx(ufunc(*inputs))
    for i in range(ufunc.nin):
        up, down = ([v + s * 1e-6 * (j == i) for j, v in enumerate(inputs)] for s in (1, -1))
        slope = (ufunc(*up) - ufunc(*down)) / 2e-6
        assert np.broadcast_to(found.slopes[i], 3) == pytest.approx(slope, rel=1e-6)


def test_log_sum_and_lesser_carry_derivatives_through_composition():
    def composed(x, y):
        return log_sum(2 * x - Y, lesser(x * y, 0.5 + y), -np.exp(-x))

    found = composed(Tangent(X, {0: 1.0}), Tangent(Y, {1: 1.0}))
    assert found.value == pytest.approx(composed(X, Y))
    for i, (dx, dy) in enumerate(((1e-6, 0), (0, 1e-6))):
        slope = (composed(X + dx, Y + dy) - composed(X - dx, Y - dy)) / 2e-6
        assert found.slopes[i] == pytest.approx(slope, rel=1e-6)


def test_log_sum_takes_a_term_of_zero():
    assert log_sum(np.array([-np.inf]), np.array([1.0])) == pytest.approx(1.0)


def test_a_function_without_a_rule_is_refused():
    with pytest.raises(TypeError):
        np.sin(Tangent(X, {0: 1.0}))


def test_the_exponent_is_the_slope_of_the_best_size_at_the_budget():
    base = LAWS["chinchilla"]
    theta = np.array([1.8, 400.0, 1200.0, 0.34, 0.36])
    searched = dataclasses.replace(base, two_terms=None, powers=None)
    assert base.exponent(theta, 45.0) == 0.36 / (0.34 + 0.36)
    assert searched.exponent(theta, 45.0) == pytest.approx(0.36 / 0.7, abs=1e-6)


def test_a_third_term_moves_the_exponent_whatever_its_parameters_are_called():
    def log_law(t, c):
        term = t["B"] - t["beta"] * c["tokens"]
        small = t["A"] - t["alpha"] * c["params"]
        return log_sum(t["E"], small, term, np.log(3e4) - 0.5 * c["params"])

    law = dataclasses.replace(LAWS["chinchilla"], log_law=log_law, two_terms=None, powers=None)
    theta = np.array([1.8, 0.01, 1200.0, 0.034, 0.36])
    x = np.linspace(5.0, 40.0, 200_001)

    def best(product):
        return x[np.argmin(law.log_law(law.named(theta), {"params": x, "tokens": product - x}))]

    slope = (best(46.0) - best(44.0)) / 2
    assert law.exponent(theta, 45.0) == pytest.approx(slope, abs=2e-3)
    assert law.exponent(theta, 45.0) != pytest.approx(0.36 / 0.394, abs=0.1)
