"""What each declared law says, against its paper's formula and published values."""

import numpy as np
import pytest

from fit.allocation.allocate import split
from fit.allocation.ladder import constant_cost
from fit.allocation.scaling_law import ScalingLaw
from fit.errors import QueryError
from fit.estimation.general import general_problem
from fit.estimation.solver import estimate
from fit.inference.resampling import sandwich
from fit.laws.families import LAWS, law
from fit.laws.published import preset
from fit.query.answer import answer, predict
from fit.query.question import Question
from tests.fit.laws.builders import TRUTH, lawful


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


def test_laws_of_compute_experts_vocabulary_and_repeats_by_their_formulas():
    compute = law("compute").at(flops=1e20).loss((1.7, 2e3, 0.17), 1e9, 1e10)
    assert compute == pytest.approx(1.7 + 2e3 / 1e20**0.17, rel=1e-13)
    routed = law("experts").at(experts=64).loss((22, -0.08, -0.12, 0.004, 1.85, 314), 1e9, 1e10)
    effective = 1 / (1 / (64 - 1 + 1 / (1 / 1.85 - 1 / 314)) + 1 / 314)
    by_hand = 22 * 1e9**-0.08 * effective ** (-0.12 + 0.004 * np.log(1e9))
    assert routed == pytest.approx(by_hand, rel=1e-13)
    words = law("vocabulary").at(params_embedding=5e7)
    by_hand = 0.8 + 300 / 1e9**0.3 + 8 / 5e7**0.2 + 500 / 1e10**0.32
    assert words.loss((0.8, 300, 8, 500, 0.3, 0.2, 0.32), 1e9, 1e10) == pytest.approx(by_hand)
    repeated = law("overfit").at(unique_tokens=1e9)
    by_hand = 1.8 + 480 / 1e9**0.35 + 2085 / 1e10**0.366 + 0.02 * (9 * 1e9 / 1e9) ** 0.5
    theta = (1.8, 480, 2085, 0.02, 0.35, 0.366, 0.5)
    assert repeated.loss(theta, 1e9, 1e10) == pytest.approx(by_hand, rel=1e-13)
    rate = law("lr-batch").at(batch_tokens=1e6).loss((0.5, -0.5, 0.1, 0.3), 1e9, 1e11)
    assert rate == pytest.approx(0.5 * 1e9**-0.5 * 1e11**0.1 * 1e6**0.3, rel=1e-13)


def test_farseer_by_its_formula_and_that_it_splits_no_budget():
    e, b, a, ke, kb, ka, gamma, beta, alpha = theta = TRUTH["farseer"]
    sizes = np.exp(np.linspace(16, 24, 2001))
    tokens = 1e20 / 6 / sizes
    power = a * np.exp(-ka * sizes**alpha)
    by_hand = e * np.exp(-ke * sizes**gamma) + b * np.exp(kb / sizes**beta) * tokens**-power
    assert law("farseer").loss(theta, sizes, tokens) == pytest.approx(by_hand, rel=1e-12)
    assert law("farseer").loss(theta, 1e60, 1.0) < 0.01
    with pytest.raises(QueryError, match="its loss goes to zero as N grows"):
        law("farseer").check_split()


def test_overfitting_raises_the_loss_with_epochs_and_fresh_data_leave_the_two_term_law():
    theta = (1.8, 480, 2085, 0.1, 0.35, 0.366, 0.5)
    losses = law("overfit").at(unique_tokens=1e9).loss(theta, 1e9, 1e9 * np.array([1, 2, 8, 64]))
    assert np.argmin(losses) == 2
    fresh = law("overfit").at(unique_tokens=np.inf).loss(theta, 1e9, 1e10)
    base = law("chinchilla").loss((1.8, 480, 2085, 0.35, 0.366), 1e9, 1e10)
    assert fresh == pytest.approx(base, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("compute", "Ask: isoflop predict --params N --tokens D, with --flops X"),
        ("data-constrained", "--tokens D or isoflop query C, with --unique-tokens X"),
    ],
)
def test_a_law_of_further_columns_says_which_command_answers(name, asked):
    with pytest.raises(QueryError) as caught:
        law(name).check_split()
    assert str(caught.value).endswith(asked)


@pytest.mark.parametrize(("name", "column"), [("compute", "flops"), ("experts", "experts")])
def test_a_law_without_both_counts_splits_no_budget_even_where_its_column_is_given(name, column):
    with pytest.raises(QueryError, match="it splits no budget. Ask: isoflop predict"):
        law(name).at(**{column: 1e3}).check_split()


@pytest.mark.parametrize(
    "name",
    [
        "vocabulary",
        "overfit",
        pytest.param("farseer", marks=pytest.mark.slow),
        "compute",
        "experts",
    ],
)
def test_a_law_is_recovered_within_its_errors(name):
    problem = general_problem(lawful(law(name), TRUTH[name], noise=2e-4, seed=1), law(name))
    found = estimate(problem, loss="l2")
    covariance = sandwich(found, np.arange(64), 0.9).covariance
    truth = np.array(TRUTH[name], dtype=float)
    scale = np.array([p.scale for p in law(name).declared])
    ratio = np.where(scale, found.raw / truth, 1.0)
    moved = np.where(scale, np.log(ratio), found.raw - truth)
    error = np.sqrt(np.diag(covariance))
    assert found.converged
    assert (np.abs(moved) < 3.5 * error).all(), moved / error


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
