"""The same runs under every way of counting."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.data.readers import load
from fit.diagnostics.robustness import SHOWN, conventions
from fit.fitting import FitOptions, fit_table
from fit.query.answer import answer
from fit.query.question import Question
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")

REFERENCE = Path(__file__).parents[3] / "runs" / "reference"
HOW = {"law": "chinchilla", "loss": "adaptive", "delta": None}


def test_each_row_is_what_a_fit_and_a_query_in_that_convention_say():
    rows = conventions(load(REFERENCE), **HOW)
    assert [(r["params"], r["flops"]) for r in rows] == list(SHOWN)
    for row in rows:
        runs = load(REFERENCE, params=row["params"], flops=row["flops"])
        fit = fit_table(runs, FitOptions(resamples=0))
        assert row["a"] == pytest.approx(fit.exponents["a"], rel=1e-6)
        if row["flops"] == "6nd":  # one factor for all sizes: the closed form
            theta, top = fit.theta, fit.range["flops"].high / 6
            scale = theta["alpha"] * theta["A"] / (theta["beta"] * theta["B"])
            best = (scale * top ** theta["beta"]) ** (1 / (theta["alpha"] + theta["beta"]))
            assert row["tokens_per_param"] == pytest.approx(top / best**2, rel=0.01)
    own = fit_table(load(REFERENCE), FitOptions(resamples=0))
    asked = answer(Question(source=ScalingLaw.from_fit(own).plain, flops=own.range["flops"].high))
    assert rows[0]["tokens_per_param"] == pytest.approx(asked.tokens_per_param.value, rel=0.03)


def test_a_plain_table_has_one_convention_only():
    assert conventions(table(), **HOW) == ()
