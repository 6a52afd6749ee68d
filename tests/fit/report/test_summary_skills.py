"""A report on shapes names a best one only where the seeds show it."""

import math

import pytest

from fit.laws.families import law
from fit.report.context_plots import TOTAL, skills_caption
from fit.report.figure_data import ShapeSkills, SkillExcess
from fit.report.summary_page import shape_report_content
from tests.fit.laws.builders import TRUTH, lawful


def shapes(means, errors, grid=((16, 2), (32, 2), (16, 4))):
    return tuple(
        ShapeSkills(
            width=w, depth=d, params=1e5, tokens=1e6, seeds=3,
            excess={TOTAL: SkillExcess(mean=m, error=e), "facts": SkillExcess(mean=m, error=e)},
        )
        for (w, d), m, e in zip(grid, means, errors, strict=True)
    )  # fmt: skip


def content(rows):
    return shape_report_content("x", lawful(law("chinchilla"), TRUTH["chinchilla"]), rows)


def words(made):
    return "".join(text for _, text in made["summary"])


def test_a_shape_that_the_seeds_distinguish_is_named():
    made = content(shapes((0.010, 0.020, 0.030), (0.001, 0.001, 0.001)))
    assert "Of these shapes width 16, depth 2 has the lowest loss" in words(made)
    assert {grade for grade, _ in made["checks"]} == {"good"}


@pytest.mark.parametrize("error", [0.02, math.inf])
def test_no_winner_is_named_that_the_seeds_leave_open(error):
    made = content(shapes((0.010, 0.011, 0.030), (error, error, error)))
    assert "do not distinguish a best shape" in words(made)
    assert "strong" not in {style for style, _ in made["summary"]}
    assert "good" not in {grade for grade, _ in made["checks"]}


def test_those_within_the_noise_of_the_lowest_are_listed():
    made = content(shapes((0.010, 0.011, 0.030), (0.002, 0.002, 0.002)))
    assert words(made).endswith("this is within the noise of it: 32×2.")
    assert "do not distinguish 16×2" in made["checks"][0][1]
    assert "16×4" not in made["checks"][0][1]


def test_a_caption_claims_an_effect_only_where_the_other_side_is_held():
    both = skills_caption(shapes((1, 2, 3), (1, 1, 1)))
    assert both.endswith("Rows show the effect of width and columns show the effect of depth.")
    diagonal = skills_caption(shapes((1, 2, 3), (1, 1, 1), ((16, 4), (32, 2), (64, 1))))
    assert "change together" in diagonal and "Rows" not in diagonal
    row = skills_caption(shapes((1, 2, 3), (math.inf,) * 3, ((16, 2), (32, 2), (64, 2))))
    assert row.endswith("Rows show the effect of width.") and "interval" not in row


def test_a_small_interval_is_not_called_zero():
    made = content(shapes((0.010, 0.020, 0.030), (1e-6, 1e-6, 1e-6)))
    assert "±0.00" not in str(made) and "±<0.01" in str(made)
