"""Predictions on arrays are those of one point, at every point."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.errors import QueryError, RefusedError
from fit.query.answer import predict, query
from fit.query.predictions import AT_ONCE, counts, predict_many
from tests.fit.builders import make_fit

REFERENCE = Path(__file__).parents[3] / "reports" / "reference"
SIZES = np.geomspace(3e3, 3e6, 7)[:, None]
LENGTHS = np.geomspace(1e5, 3e9, 8)


def assert_each_is_that_of_one_point(source, params, tokens, rel=1e-12, **more):
    found = predict_many(source, params, tokens, force=True, **more)
    assert found.loss.shape == np.broadcast_shapes(np.shape(params), np.shape(tokens))
    for i in np.ndindex(found.loss.shape):
        one = predict(source, found.params[i], found.tokens[i], force=True, **more)
        assert one.verdict.verdict == found.verdict[i]
        for number, low, high in (
            (one.loss, found.low, found.high),
            (one.loss_next_run, found.run_low, found.run_high),
        ):
            ends = [np.nan if e is None else e for e in (number.low, number.high)]
            assert [found.loss[i], low[i], high[i]] == pytest.approx(
                [number.value, *ends], rel=rel, nan_ok=True
            )
        assert found.reach[i] == pytest.approx(
            np.nan if one.reach is None else one.reach, nan_ok=True
        )
    return found


def test_the_reference_fit_predicts_a_grid_as_it_predicts_each_point():
    found = assert_each_is_that_of_one_point(ScalingLaw.of(REFERENCE), SIZES, LENGTHS)
    # The grid reaches from below the runs to beyond the farthest reach, and its verdicts differ.
    assert set(np.unique(found.verdict)) == {"trust", "careful", "refuse"}
    assert (found.level, found.method, found.unit) == (0.9, "hc3", "nats/token")


def test_a_grid_far_outside_the_runs_is_refused_as_each_point_is():
    sizes, lengths = np.geomspace(2, 2e9, 5)[:, None], np.geomspace(2, 2e11, 5)
    found = assert_each_is_that_of_one_point(ScalingLaw.of(REFERENCE), sizes, lengths)
    assert (found.verdict == "refuse").sum() > 15


@pytest.mark.parametrize("more", [{}, {"unique_tokens": 1e9}])
def test_a_published_law_predicts_a_grid_as_it_predicts_each_point(more):
    sizes = np.geomspace(1e7, 1e11, 3)[:, None]
    assert_each_is_that_of_one_point("besiroglu2024", sizes, [1e8, 1e9, 1e11], **more)


@pytest.mark.parametrize("method", ["profile", "hc3"])
def test_a_method_that_interpolates_along_curves_is_asked_for_points(method):
    made = make_fit()
    if method == "profile":
        made = dataclasses.replace(
            made, interval=dataclasses.replace(made.interval, method="profile"), forecast=None
        )
    points = made.points
    n = np.geomspace(points.params.min(), points.params.max(), 12)
    source, middle = ScalingLaw.from_fit(made), float(np.median(points.tokens))
    # A profile's end is found to a tolerance of its own.
    assert_each_is_that_of_one_point(source, n, middle, rel=1e-8 if method == "profile" else 1e-12)


def test_the_loss_at_the_best_split_is_that_of_the_answer():
    best = query(REFERENCE, "3e13")
    there = predict_many(REFERENCE, best.params.value, best.tokens.value)
    assert there.loss.shape == ()
    found = [float(there.loss), float(there.low), float(there.high)]
    # The best size moves with the parameters, but the loss there is flat in it.
    assert found == pytest.approx([best.loss.value, best.loss.low, best.loss.high], rel=1e-7)


def test_more_points_than_are_computed_at_once_agree_with_fewer():
    n = np.geomspace(2e4, 1e5, AT_ONCE + 3)
    whole = predict_many(REFERENCE, n, 1e7)
    part = predict_many(REFERENCE, n[-5:], 1e7)
    assert whole.low[-5:] == pytest.approx(part.low, rel=1e-12)


def test_texts_numbers_and_series_are_counts():
    assert counts(["7B", 1e9, np.int64(3)], "params").tolist() == [7e9, 1e9, 3.0]
    assert counts("1.4T", "tokens") == 1.4e12
    assert counts(pd.Series([1, 2]), "params").tolist() == [1.0, 2.0]


def test_the_frame_has_a_row_a_point_and_the_text_is_short():
    found = predict_many(REFERENCE, SIZES[2:4], LENGTHS[:3])
    frame = found.to_frame()
    assert frame.shape == (6, 10)
    assert frame["loss"].tolist() == found.loss.ravel().tolist()
    assert len(repr(found).splitlines()) <= 10
    with pytest.raises(ValueError, match="read-only"):
        found.loss[0, 0] = 0


def test_one_refused_point_refuses_all_and_force_leaves_its_interval_out():
    with pytest.raises(RefusedError):
        predict_many(REFERENCE, [5e4, 1e9], [1e7, 1e12])
    found = predict_many(REFERENCE, [5e4, 1e9], [1e7, 1e12], force=True)
    assert found.verdict.tolist() == ["trust", "refuse"]
    assert np.isfinite(found.low[0]) and np.isnan(found.low[1])


@pytest.mark.parametrize(
    ("params", "tokens", "said"),
    [
        ([1e5, -1.0], 1e7, "positive finite number"),
        ([1e5, np.nan], 1e7, "positive finite number"),
        (1e5, [np.inf], "positive finite number"),
        (0, 1e7, "positive finite number"),
        ([1e5, 0.5], 1e7, "params is 0.5; at least 1"),
        (10**400, 1e7, "positive finite number"),
        ("many", 1e7, "positive finite number"),
        ([True], 1e7, "positive finite number"),
        ([1j], 1e7, "positive finite number"),
        (None, 1e7, "positive finite number"),
        ({"N": 1}, 1e7, "positive finite number"),
        ([[1e5], [1e5, 2e5]], 1e7, "rows alike"),
        ([1e5, 2e5], [1e7, 1e7, 1e7], "do not fit each other"),
        ([], [], "there are no params"),
    ],
)
def test_what_is_no_count_is_refused(params, tokens, said):
    with pytest.raises(QueryError, match=said):
        predict_many(REFERENCE, params, tokens)
