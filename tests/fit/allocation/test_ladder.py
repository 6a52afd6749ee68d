"""Shapes behind a fit, and what a token costs on them."""

import dataclasses

import numpy as np
import pytest

from fit.allocation.ladder import constant_cost, ladder_of, token_cost
from fit.data.accounting import count_flops, count_params
from tests.fit.builders import RECIPE, WIDTHS, make_fit, make_points, plain_points, shape


def test_the_ladder_gives_back_the_cost_of_every_fitted_run():
    fit = make_fit()
    cost = token_cost(fit, ladder_of(fit))
    for width in WIDTHS:
        n, per_token = count_params(shape(width)).matmul, count_flops(shape(width)).exact
        found = np.exp(cost.log_flops_per_token(np.log([n])))[0]
        # smoothing over the bend at the largest width costs 0.2%
        assert found == pytest.approx(per_token, rel=3e-3), width


def test_the_cost_has_a_continuous_slope():
    fit = make_fit()
    cost = token_cost(fit, ladder_of(fit))
    x = np.linspace(5, 30, 200_001)
    slope = np.diff(cost.log_flops_per_token(x)) / np.diff(x)
    # straight pieces between knots would jump by up to 0.02
    assert np.abs(np.diff(slope)).max() < 1e-3


def test_depth_is_as_in_the_runs_inside_and_by_aspect_beyond():
    ladder = ladder_of(make_fit())
    assert [ladder.depth(w) for w in (8, 16, 50, 96)] == pytest.approx([2, 2, 2, 2])
    assert ladder.depth(960) == pytest.approx(20)


@pytest.mark.parametrize("params", [1e4, 3e5, 2e6, 7e8, 7e10])
def test_launchable_shapes_are_near_and_whole(params):
    ladder = ladder_of(make_fit())
    found = ladder.nearest(params)
    n, _ = ladder.count(found)
    assert found.width % 16 == 0
    assert found.heads * found.head_dim == found.width
    # one head more or less at width 16 doubles N; from width 96 on the ladder is fine
    assert abs(np.log(n / params)) < (0.6 if params < 1e5 else 0.12)


def test_a_fitted_size_is_launched_in_its_own_shape():
    fit = make_fit()
    found = ladder_of(fit).nearest(fit.points.params[-1])
    assert (found.width, found.depth, found.heads) == (96, 2, 6)


def test_head_sizes_may_differ_among_the_runs():
    points = make_points()
    narrow = points.columns["width"] == 16
    columns = {
        **points.columns,
        "heads": np.where(narrow, 2.0, points.columns["heads"]),
        "head_dim": np.where(narrow, 8.0, 16.0),
    }
    ladder = ladder_of(make_fit(points=dataclasses.replace(points, columns=columns)))
    assert ladder.nearest(1e6).head_dim == 16


def test_a_plain_table_has_no_ladder_and_costs_six():
    fit = make_fit(points=plain_points(), convention={"params": "as given", "flops": "6nd"})
    assert ladder_of(fit) is None
    assert token_cost(fit, None).constant == 6


def test_a_table_with_its_own_flops_costs_what_its_runs_did():
    points = plain_points()
    convention = {"params": "as given", "flops": "as given"}
    eight = dataclasses.replace(points, flops=8 * points.params * points.tokens)
    assert token_cost(
        make_fit(points=eight, convention=convention), None
    ).constant == pytest.approx(8)
    bent = dataclasses.replace(points, flops=points.params**0.9 * points.tokens * 30)
    cost = token_cost(make_fit(points=bent, convention=convention), None)
    middle = np.array([np.log(np.median(points.params))])
    assert cost.log_flops_per_token(middle) == pytest.approx(0.9 * middle + np.log(30), abs=0.02)
    far = cost.log_flops_per_token(np.array([40.0, 50.0]))
    assert far[1] - far[0] == pytest.approx(10)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {k: v for k, v in RECIPE.items() if k != "model.mlp_ratio"}},
        {"recipe": {**RECIPE, "model.mlp_ratio": 3}},
        {"recipe": {**RECIPE, "model.gated": True}},
        {"recipe": {**RECIPE, "model._target_": "ssm:Ssm"}},  # counted elsewhere, if alike
        {"points": make_points(columns={})},
        {"convention": {"params": "as given", "flops": "exact"}},
    ],
)
def test_shapes_that_do_not_give_the_runs_sizes_are_not_believed(change):
    assert ladder_of(make_fit(**change)) is None


def test_constant_cost_is_linear_in_params():
    assert np.exp(constant_cost(6).log_flops_per_token(np.log([2.0]))) == pytest.approx([12.0])
