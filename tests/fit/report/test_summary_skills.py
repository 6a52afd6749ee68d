"""A report on shapes names a best one only where the seeds show it."""

import csv
import dataclasses
import io
import math

import pytest

from fit.data.records import STORIES_NAME
from fit.laws.families import law
from fit.report.context_plots import TOTAL, skills_caption
from fit.report.figure_data import ShapeSkills, SkillExcess
from fit.report.figures import draw_shapes
from fit.report.skills_page import shape_report_content
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


def graded(seeds=2, prefix="stories."):
    """Shapes of three sizes: all have grammar, the largest facts, none the games."""
    by_size = {8: (0.95, 0.3, 0.1), 16: (0.97, 0.8, 0.2), 32: (0.99, 0.92, 0.3)}
    error = 0.01 if seeds > 1 else math.inf
    return tuple(
        dataclasses.replace(
            row,
            params=1e3 * row.width,
            scores={
                prefix + name: SkillExcess(mean=value, error=error)
                for name, value in zip(("grammar", "facts", "reasoning"), values, strict=True)
            },
        )
        for width, values in by_size.items()
        for row in shapes((0.02, 0.03), (0.001, 0.001), ((width, 1), (width, 2)))
    )


def test_the_first_page_says_in_which_order_skills_come_and_which_do_not():
    made = content(graded())
    assert words(made) == (
        "At 1.00M tokens models have grammar from 8.00k parameters on, then facts from 32.0k "
        "parameters on (90% of the words right). Not reached: reasoning (30% at best)."
    )
    assert made["first"]["name"] == "order" and "judged word by word" in made["first"]["caption"]
    assert "90% intervals" in made["first"]["caption"]
    assert [b["kind"] for b in made["sections"][0]["blocks"]] == ["figure", "table"]
    low = content(tuple(dataclasses.replace(r, scores={"x": SKILL}) for r in graded(1, "")))
    assert words(low) == "At 1.00M tokens no skill is reached: x (10% at best)."
    assert "likeliest next words" in low["first"]["caption"] and low["besides"] == []


SKILL = SkillExcess(mean=0.1, error=math.inf)


def test_without_scores_the_page_compares_the_shapes():
    made = content(shapes((0.010, 0.020, 0.030), (0.001, 0.001, 0.001)))
    assert made["first"]["name"] == "skills" and made["besides"] == []


def test_the_figures_of_a_page_of_skills_show_every_score_by_size_and_by_shape():
    drawn = draw_shapes(graded())
    assert drawn.keys() == {"order", "skills"} and drawn["order"].shown >= {"grammar", "facts"}
    rows = list(csv.DictReader(io.StringIO(drawn["order"].csv)))
    line = [(float(r["x"]), float(r["y"])) for r in rows if r["series"] == "facts" and r["y"]]
    assert line == [(8e3, 30.0), (16e3, 80.0), (32e3, 92.0)]
    cells = [r["name"] for r in rows if r["kind"] == "label" and r["panel"] == "3"]
    assert cells == ["30", "30", "80", "80", "92", "92"]
    assert draw_shapes(shapes((1, 2, 3), (1, 1, 1))).keys() == {"skills"}


def test_a_story_of_several_sizes_stands_on_the_first_page(tmp_path):
    table = lawful(law("chinchilla"), TRUTH["chinchilla"])
    folders = []
    for number, size in enumerate(table.params):
        folder = tmp_path / str(number)
        folder.mkdir()
        folders.append(str(folder))
        text = f"once upon a time {size:.0f} " + "and then " * 100
        (folder / STORIES_NAME).write_text(f"{text}\nanother story\n")
    kept = dataclasses.replace(table, folders=tuple(folders))
    (block,) = shape_report_content("x", kept, graded())["besides"]
    sizes = sorted(set(table.params))
    assert len(block["rows"]) == min(4, len(sizes))
    assert f"time {sizes[0]:.0f} and" in block["rows"][0][-1]
    assert all(row[-1].endswith("then …") or row[-1].endswith("and …") for row in block["rows"])
    assert all(len(row[-1]) < 340 for row in block["rows"])
