"""Derivatives carried along against central differences."""

import numpy as np
import pytest

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
