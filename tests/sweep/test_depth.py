"""The depth that trained models need: by hand-made records, and on the runs that are shipped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fit.data.records import write_record
from fit.errors import PlanError
from sweep.app import main
from sweep.data.rows import Heldout
from sweep.data.stories import language
from sweep.depth import (
    SOLVED,
    DepthExcess,
    TaskDepth,
    answer_excess,
    best_of_depths,
    layers_by_proof,
)
from tests.fit.data.builders import record

SHIPPED = Path(__file__).parents[2] / "runs" / "skills"


def task(*values):
    """A task with the excess of each seed at depths 1, 2, 3, ..."""
    rows = tuple(DepthExcess(depth=d, values=v) for d, v in enumerate(values, 1))
    return TaskDepth(task="x", excess=rows, proofs=())


def test_the_least_depth_is_the_first_whose_answers_have_a_probability_of_95_percent():
    assert math.exp(-SOLVED) == pytest.approx(0.95)
    found = task((0.3, 0.31), (0.06, 0.04), (0.0, 0.001))
    assert found.least() == 2 and found.by_seed() == [3, 2]
    assert found.least(-1) == 2 and found.least(1) == 3
    assert task((0.3, 0.2)).least() is None
    noisy = task((0.06, 0.07), (0.0, 0.5))
    assert (noisy.least(-1), noisy.least(), noisy.least(1)) == (1, None, None)


def test_one_seed_gives_a_depth_without_an_interval():
    found = task((0.3,), (0.01,))
    assert found.least() == 2 and found.by_seed() == [2]
    assert found.least(-1) == 1 and found.least(1) is None


def test_the_interval_of_the_excess_is_students():
    assert DepthExcess(depth=1, values=(0.1, 0.3)).half == pytest.approx(6.3138 * 0.1, rel=1e-4)


def run(depth, seed, lr, loss, tokens=300_000):
    return record(
        32, tokens, depth=depth, seed=seed, lr=lr, loss=loss, run=f"d{depth}-s{seed}-{lr}-{tokens}"
    )


def test_of_each_depth_the_best_rate_of_the_longest_common_length_counts():
    runs = [
        run(1, 0, 0.1, 1.0), run(1, 1, 0.1, 1.2), run(1, 0, 0.2, 0.9), run(1, 1, 0.2, 1.1),
        run(1, 0, 0.4, 0.1),  # of one seed
        run(2, 0, 0.1, 1.0), run(2, 1, 0.1, 1.0), run(2, 2, 0.1, 1.0),
        run(2, 0, 0.1, 0.5, tokens=600_000),
    ]  # fmt: skip
    chosen = best_of_depths(runs, Path("x"))
    assert [(r.depth, r.seed, r.lr) for r in chosen] == [
        (1, 0, 0.2), (1, 1, 0.2), (2, 0, 0.1), (2, 1, 0.1)
    ]  # fmt: skip
    with pytest.raises(PlanError, match="has 1 depths"):
        best_of_depths(runs[:5], Path("x"))
    with pytest.raises(PlanError, match="no seed has"):
        best_of_depths([run(1, 0, 0.1, 1.0), run(2, 1, 0.1, 1.0)], Path("x"))


def test_the_excess_of_an_answer_is_that_of_a_token_over_the_share_of_answers():
    skill = np.array([[0, 1, 0, 0], [0, 1, 1, 0]], dtype=np.uint8)
    part = np.array([[2, 0, 2, 2], [2, 0, 1, 2]], dtype=np.uint8)
    ideal = np.array([[1, 0.2, 1, 1], [1, 0.4, 0, 1]], dtype=np.float32)
    sample = Heldout(
        rows=np.zeros((2, 5), np.int32), ideal=ideal, skill=skill, skills=("grammar", "reasoning"),
        part=part, parts=("1 move", "2 moves"),
    )  # fmt: skip
    data = record().data
    data = type(data)(name="stories", hash="x", entropy=1.0, entropy_by_skill={"reasoning": 0.1})
    made = record(
        data=data, loss_by_skill={"grammar": 0.5, "reasoning": 0.4},
        heldout={"1 move": 0.5, "2 moves": 0.7, "news": 1.0},
    )  # fmt: skip
    found = answer_excess(made, sample)
    assert set(found) == {"reasoning", "1 move", "2 moves"}
    assert found["reasoning"] == pytest.approx((0.4 - 0.1) / (3 / 8))
    assert found["1 move"] == pytest.approx(0.5 - 0.3) and found["2 moves"] == pytest.approx(0.7)


def test_layers_by_proof_are_those_of_the_programs():
    proofs = layers_by_proof(language("skills", 0), 3)
    assert proofs["1 move"] == ((1, 117),)  # one move a layer needs the smallest table
    assert proofs["2 moves"] == ((1, 13**5), (2, 117))
    assert proofs["reasoning"] == proofs["4 moves"] == ((1, 13**5), (3, 25**2), (4, 117))
    assert proofs["facts"][0][0] == 1 and proofs["consistency"][0][0] == 1
    without = layers_by_proof(language("full", 0), 1)
    assert without["consistency"][0][0] == 2  # the object among found ones


def printed(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["depth", *words])
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def test_the_shipped_runs_have_a_depth_for_each_task(capsys):
    found = json.loads(printed(capsys, str(SHIPPED), "--json"))
    assert found["schema"] == "isoflop.depth/1" and len(found["runs"]) == 12
    depths = {t["task"]: (t["least_depth"], *t["interval"]) for t in found["tasks"]}
    assert depths == {
        "consistency": (1, 1, 1),
        "facts": (None, None, None),  # width buys facts
        "reasoning": (4, 2, None),  # one seed of depth 8 did not learn it
    }


def test_runs_of_other_data_are_refused_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be. " * 4000)
    recipe = {"data": "text", "model.seq_len": 32, "data.path": str(tmp_path / "a.txt")}
    recipe |= {"data.heldout_tokens": 2000, "data.cache": str(tmp_path / "cache")}
    write_record(tmp_path / "x" / "r", record(recipe=recipe))
    with pytest.raises(SystemExit, match=r"runs on data=text; .*data=stories alone"):
        main(["depth", str(tmp_path / "x")])
