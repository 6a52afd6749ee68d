"""The least loss of every budget, and back."""

import numpy as np
import pytest

from fit.allocation.scaling_law import Frontier, ScalingLaw
from fit.laws.published import PRESETS, preset
from tests.fit.builders import make_fit

PUBLISHED = [ScalingLaw.from_preset(preset(n)) for n in PRESETS]
SOURCES = [ScalingLaw.from_fit(make_fit()), *(s for s in PUBLISHED if not s.law.further)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_the_budget_of_a_budgets_loss_is_that_budget(source):
    line = Frontier.of(source)
    budgets = np.geomspace(1e8, 1e28, 15)
    assert line.flops(line.loss(budgets)) == pytest.approx(budgets, rel=1e-8)


def test_a_loss_below_the_irreducible_one_has_no_budget():
    line = Frontier.of(ScalingLaw.from_preset(preset("besiroglu2024")))
    found = line.flops(np.array([1.8, 1.9, 1.0]))
    assert np.isinf(found).tolist() == [True, False, True]
    assert np.isinf(line.flops(np.array([0.5]))).all()
