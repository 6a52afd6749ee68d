"""Contours of loss around an answer: the law's own losses, the budget and the limits."""

import numpy as np
import pytest

from fit.query.answer import predict
from tests.fit.service.client import ask, pilot, service


@pytest.fixture
def served(tmp_path):
    return service(pilot(tmp_path))


def test_every_point_of_the_grid_is_the_loss_that_the_law_predicts(served):
    document = ask(served, "/v1/contours?fit=pilot&flops=3e13").json()
    source = served.registry.get("pilot").source
    assert np.shape(document["loss"]) == (len(document["tokens"]), len(document["params"]))
    for i, j in ((0, 0), (5, 40), (47, 3), (30, 20)):
        n, d = document["params"][j], document["tokens"][i]
        expected = predict(source, n, d, force=True).loss.value
        assert document["loss"][i][j] == pytest.approx(expected, rel=2e-6)  # sent in six digits


def test_the_answer_is_the_best_point_of_the_line_of_equal_compute(served):
    document = ask(served, "/v1/contours?fit=pilot&flops=3e13").json()
    answer = ask(served, "/v1/query?fit=pilot&flops=3e13").json()
    assert document["answer"] == {k: answer[k]["value"] for k in ("params", "tokens", "loss")}
    source = served.registry.get("pilot").source
    line = zip(document["budget"]["params"], document["budget"]["tokens"], strict=True)
    losses = [predict(source, n, d, force=True).loss.value for n, d in line]
    assert document["answer"]["loss"] <= min(losses)
    assert min(losses) < document["answer"]["loss"] * 1.001  # a point of the line is near it


def test_limits_are_given_as_ends_and_the_answer_lies_within_them(served):
    path = "/v1/contours?fit=pilot&flops=3e13&max_params=30k&min_ratio=50"
    document = ask(served, path).json()
    limits = {row["name"]: (row["on"], row["low"], row["high"]) for row in document["limits"]}
    assert limits["max_params"] == ("params", None, pytest.approx(30e3))
    assert limits["min_ratio"] == ("tokens_per_param", pytest.approx(50), None)
    assert document["answer"]["params"] <= 30e3
    assert document["answer"]["tokens"] >= 50 * document["answer"]["params"]


def test_what_is_refused_has_no_contours(served):
    for path in ("fit=blind&flops=1e13", "fit=pilot&flops=1e17", "fit=pilot"):
        assert ask(served, f"/v1/contours?{path}").status_code == 422, path
