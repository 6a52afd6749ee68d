"""Loss by skill and shape."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from fit.cli.main import main
from fit.data.readers import load
from fit.data.records import DataInfo, write_record
from fit.data.table import RunTable
from fit.errors import FitError
from fit.report.context_plots import (
    TOTAL,
    shapes_of,
    skill_by_shape,
    skills_caption,
    skills_shown,
)
from fit.report.figure_data import skills_by_shape
from fit.report.render import write_any_report
from fit.report.scores import skills_listing
from tests.fit.data.builders import record

ROOT = Path(__file__).parents[3]
DATA = DataInfo(
    name="stories", hash="x", entropy=0.9, entropy_by_skill={"novel": 0.8, "reasoning": 0.1}
)


def table(seeds=3, data=DATA, noise=0.001):
    rows = []
    random = np.random.default_rng(0)
    for width, depth, facts, reasoning in ((64, 1, 0.02, 0.006), (32, 4, 0.03, 0.002)):
        for _ in range(seeds):
            jitter = noise * random.standard_normal(3)
            rows.append((width, depth, 0.8, facts, 0.1 + reasoning, *jitter))
    width, depth, novel, facts, reasoning, a, b, c = np.array(rows).T
    parts = {"novel": novel + a, "facts": facts + b, "reasoning": reasoning + c}
    count = len(width)
    return RunTable(
        run=tuple(f"r{i}" for i in range(count)),
        params=np.full(count, 8e4),
        tokens=np.full(count, 4e6),
        flops=np.full(count, 2e12),
        loss=sum(parts.values()),
        cluster=np.arange(count),
        columns={
            "width": width,
            "depth": depth,
            "loss_se": np.full(count, 1e-4),
            "loss_empty": np.zeros(count),
            **{f"loss_{k}": v for k, v in parts.items()},
        },
        data=data,
    )


def test_excess_is_the_share_of_the_loss_less_that_of_the_entropy():
    wide, deep = skills_by_shape(table(noise=0.0))
    assert (wide.width, wide.depth, wide.seeds) == (64, 1, 3)
    assert set(wide.excess) == {"facts", "reasoning"}
    assert wide.excess["facts"].mean == pytest.approx(0.02)
    assert deep.excess["reasoning"].mean == pytest.approx(0.002)


def test_intervals_over_seeds_are_students():
    one, _ = skills_by_shape(table(seeds=1))
    assert one.excess["facts"].error == math.inf
    given = table(seeds=4)
    wide, _ = skills_by_shape(given)
    spread = given.column("loss_facts")[:4].std(ddof=1)
    assert wide.excess["facts"].error == pytest.approx(2.3534 * spread / 2, rel=1e-4)


@pytest.mark.parametrize("data", [None, DataInfo(name="text", hash="y")])
def test_data_of_unknown_entropy_are_refused(data):
    with pytest.raises(FitError, match="no losses by skill"):
        skills_by_shape(table(data=data))


def test_the_committed_sweep_shows_what_width_buys_and_what_two_blocks_buy():
    shapes = skills_by_shape(load(Path(__file__).parents[3] / "runs" / "skills"))
    assert [(s.depth, s.seeds) for s in shapes] == [(1, 3), (2, 3), (4, 3), (8, 3)]
    assert max(s.params for s in shapes) / min(s.params for s in shapes) < 1.05
    facts = [s.excess["facts"] for s in shapes]
    for wider, narrower in itertools.pairwise(facts):
        assert wider.mean + wider.error < narrower.mean - narrower.error + 2e-4
    one, two = (s.excess["reasoning"] for s in shapes[:2])
    assert two.mean + two.error < one.mean - one.error


def test_the_command_shows_the_reference_sweep_on_80_columns():
    shown = CliRunner().invoke(main, ["skills", "runs/reference"])
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    document = json.loads(CliRunner().invoke(main, ["skills", "runs/reference", "--json"]).output)
    assert document["schema"] == "isoflop.skills/1"
    assert len(document["shapes"]) == 24
    assert {s["seeds"] for s in document["shapes"]} == {2, 3}


def test_a_report_on_shapes_says_which_shape_each_skill_wants(tmp_path):
    made = write_any_report(ROOT / "runs" / "skills", out=tmp_path / "r", form="html")
    words = made.path.read_text()
    assert "do not distinguish a best shape" in words
    assert "Facts: 64×1 (22.57 ±0.42) is lowest; the seeds distinguish it from all others." in words
    assert "Novel: the seeds distinguish no shape from that of the lowest mean." in words
    table = (tmp_path / "r" / "figures" / "skills.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    facts = {r["series"]: r["name"] for r in rows if r["panel"] == "2"}
    assert facts["w64 d1"] == "22.57 ±0.42"
    assert len(facts) == 4


def test_a_fit_of_several_shapes_shows_its_skills():
    rows = shapes_of(load(ROOT / "runs" / "skills"))
    total = [r.excess[TOTAL].mean for r in rows]
    parts = [sum(e.mean for n, e in r.excess.items() if n != TOTAL) for r in rows]
    assert total == pytest.approx(parts, abs=1e-6)
    assert skills_shown(rows)[:2] == (TOTAL, "facts")
    ax = skill_by_shape(Figure().subplots(), rows, "facts")
    assert len(ax.patches) == len(ax.texts) == 4


def test_runs_of_one_shape_have_no_report_without_a_fit():
    with pytest.raises(FitError, match="isoflop fit"):
        shapes_of(load(ROOT / "runs" / "skills", where="depth == 2"))


def graded(**given):
    plain = table(**given)
    score = np.linspace(0.5, 0.7, len(plain))
    return dataclasses.replace(plain, columns={**plain.columns, "score_facts": score})


def test_scores_stand_beside_the_losses_of_a_shape_in_tables_and_figures():
    wide, deep = skills_by_shape(graded())
    assert wide.scores["facts"].mean == pytest.approx(0.54)
    assert deep.scores["facts"].error == pytest.approx(2.92 * 0.04 / math.sqrt(3), rel=1e-3)
    assert not skills_by_shape(table())[0].scores
    rows = shapes_of(graded())
    ax = skill_by_shape(Figure().subplots(), rows, "facts")
    assert sorted(text.get_text().splitlines()[-1] for text in ax.texts) == ["54%", "66%"]
    assert "The percentage is the skill's accuracy." in skills_caption(rows)
    assert "percentage" not in skills_caption(shapes_of(table()))
    document = {"shapes": [dataclasses.asdict(r) for r in skills_by_shape(graded())]}
    assert "54.00 ±6.74" in skills_listing(document)


def test_a_grid_of_one_length_has_its_tables_where_no_law_can_be_fitted(tmp_path):
    data = DataInfo(name="stories", hash="x", entropy=1.0, entropy_by_skill={"facts": 0.0})
    for depth, seed in itertools.product((1, 2), (0, 1)):
        score = {"items": 9, "accuracy": 0.5 + 0.1 * depth, "accuracy_se": 0.1}
        run = record(
            depth=depth, seed=seed, run=f"d{depth}-s{seed}", trunk=f"d{depth}-s{seed}", data=data,
            loss_by_skill={"facts": 0.1 / depth}, scores={"stories.facts": score},
        )  # fmt: skip
        write_record(tmp_path / run.run, run)
    shown = CliRunner().invoke(main, ["skills", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "stories.facts" in shown.output and "no law for the scores: " in shown.output
    asked = CliRunner().invoke(main, ["skills", str(tmp_path), "--flops", "1e15"])
    assert asked.exit_code == 1 and "a law with 5 parameters needs" in asked.stderr
