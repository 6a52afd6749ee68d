"""What each declared law says, against its paper's formula and published values."""

import numpy as np
import pytest

from fit.allocation.allocate import split
from fit.allocation.ladder import constant_cost
from fit.allocation.scaling_law import ScalingLaw
from fit.errors import QueryError
from fit.laws.families import LAWS, law
from fit.laws.published import preset
from fit.query.answer import answer, predict
from fit.query.question import Question


def repeated(unique: float) -> ScalingLaw:
    return ScalingLaw.from_preset(preset("muennighoff2023-repeated")).given(unique_tokens=unique)


def test_repeated_data_as_published():
    found = predict(repeated(25e9), 6.34e9, 242e9)
    assert found.loss.value == pytest.approx(2.2256440889984477, rel=1e-14)


def test_the_best_split_over_repeats():
    found = answer(Question(source=repeated(25e9), flops=1e22))
    assert found.tokens.value == pytest.approx(2.372e11, rel=5e-4)
    assert found.tokens.value / 25e9 == pytest.approx(9.49, abs=0.005)
    assert found.params.value == pytest.approx(7.026e9, rel=5e-4)
    assert found.loss.value == pytest.approx(2.222129, abs=5e-7)
    assert {n.code: n.severity for n in found.warnings}["repeats"] == "warning"


@pytest.mark.parametrize(("flops", "severity"), [(1e23, "warning"), (1e21, "info"), (5e19, None)])
def test_epochs_are_warned_of_by_their_number(flops, severity):
    told = {
        n.code: n.severity for n in answer(Question(source=repeated(25e9), flops=flops)).warnings
    }
    assert told.get("repeats") == severity


def test_endless_data_leave_the_base_law():
    # Parameters beyond what the tokens feed are worth less even then: compared below that.
    base, fresh = preset("muennighoff2023"), repeated(np.inf)
    loss = law("tied").loss(list(base.theta.values()), 1e9, 1e11)
    assert fresh.law.loss(fresh.theta, 1e9, 1e11) == pytest.approx(loss, rel=1e-14)


def test_kaplans_joint_form():
    p = preset("kaplan2020").theta
    ratio = p["alpha_N"] / p["alpha_D"]
    expected = ((p["N_c"] / 1e9) ** ratio + p["D_c"] / 2e10) ** p["alpha_D"]
    assert law("kaplan").loss(list(p.values()), 1e9, 2e10) == pytest.approx(expected, rel=1e-13)


def test_a_split_without_closed_form_is_that_of_a_dense_grid():
    family, theta = law("kaplan"), np.array(list(preset("kaplan2020").theta.values()))
    found = split(family, theta, np.array([1e21]), constant_cost())
    sizes = np.exp(np.linspace(20, 25, 200_001))
    best = sizes[np.argmin(family.loss(theta, sizes, 1e21 / 6 / sizes))]
    assert np.exp(found.log_params[0]) == pytest.approx(best, rel=1e-4)


def test_an_outer_exponent_leaves_the_optimum_of_the_inner_law():
    inner, outer = (1.8, 480.0, 2085.0, 0.35, 0.366), (1.8, 480.0, 2085.0, 0.35, 0.366, 0.6)
    budget = np.array([1e21])
    plain = split(law("chinchilla"), np.array(inner), budget, constant_cost())
    bent = split(law("outer"), np.array(outer), budget, constant_cost())
    assert bent.log_params == pytest.approx(plain.log_params, abs=1e-6)


def test_shapes_experts_and_rules_by_their_formulas():
    shape = law("width-depth-params-tokens").at(width=512, depth=8)
    theta = (1.5, 30, 2, 400, 300, 0.6, 0.8, 0.3, 0.35)
    by_hand = 1.5 + 30 / 512**0.6 + 2 / 8**0.8 + 400 / 1e10**0.3 + 300 / 1e8**0.35
    assert shape.loss(theta, 1e8, 1e10) == pytest.approx(by_hand, rel=1e-13)
    experts = law("moe").at(params_total=8e8).loss((1.5, 300, 500, 0.3, 0.32, 0.12), 1e8, 1e10)
    by_hand = 1.5 + 300 / (1e8**0.3 * 8**0.12) + 500 / 1e10**0.32
    assert experts == pytest.approx(by_hand, rel=1e-13)
    rate = law("lr").loss((1.79, -0.713, 0.307), 1e9, 1e11)
    assert rate == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307, rel=1e-13)


@pytest.mark.parametrize("name", LAWS)
def test_a_question_without_a_needed_column_is_refused_by_name(name):
    family = law(name)
    theta = np.full(len(family.parameters), 0.5)
    for column in family.further:
        with pytest.raises(QueryError, match=f"depends on .*{column}"):
            family.loss(theta, 1e9, 1e10)
    if not family.further:
        assert np.isfinite(family.loss(theta, 1e9, 1e10))


def test_a_column_that_a_law_does_not_know_is_refused():
    with pytest.raises(QueryError, match="does not depend on width; .* takes nothing"):
        law("chinchilla").at(width=3)
    with pytest.raises(QueryError, match="takes unique_tokens. Leave --depth out"):
        law("data-constrained").at(depth=3)


def test_a_rule_of_learning_rates_splits_no_budget():
    source = ScalingLaw(
        name="rule", law=law("lr"), theta=np.array([1.0, -0.5, 0.2]), convention={}, range={}
    )
    with pytest.raises(QueryError, match="predicts lr, not a loss"):
        answer(Question(source=source, flops=1e20))


def test_parts_are_those_of_a_two_term_law_alone():
    with pytest.raises(QueryError, match="law 'kaplan' is not"):
        law("kaplan").parts(np.ones(4))
