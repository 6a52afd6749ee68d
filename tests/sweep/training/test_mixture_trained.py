"""A mixture that is trained: resumed, recorded by part, and launched again by its recipe."""

import json

import numpy as np
import pytest

from fit.cli.runs import flat_record
from fit.query.launch import hydra_value
from sweep.planning.grid import compose_config, grid
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from tests.sweep.training.test_loop import TINY, Quiet


@pytest.fixture
def settings(tmp_path):
    random = np.random.default_rng(0)
    for name, words in (("easy", ["to", "be"]), ("hard", [f"w{i}" for i in range(90)])):
        (tmp_path / name).mkdir()
        rows = [json.dumps({"text": " ".join(random.choice(words, 30))}) for _ in range(600)]
        (tmp_path / name / "x.jsonl").write_text("\n".join(rows))
    given = ",".join(
        f"{{name:text,path:{tmp_path / name},weight:{weight}}}"
        for name, weight in (("easy", 3), ("hard", 1))
    )
    return [*TINY, "data=mix", f"data.parts=[{given}]", f"data.cache={tmp_path / 'cache'}"]


def test_a_run_on_a_mixture_records_each_part_and_resumes_to_the_same_result(settings, tmp_path):
    (trajectory,) = plan(compose_config([*settings, "train.tokens=20000"]))
    (record,) = train(trajectory, tmp_path / "whole", Quiet())
    assert record.status == "done"
    assert record.data.name == "mix:easy*0.75+hard*0.25"
    assert record.heldout["easy"] < record.loss < record.heldout["hard"]
    mean = 0.75 * record.heldout["easy"] + 0.25 * record.heldout["hard"]
    assert mean == pytest.approx(record.loss)
    assert record.parts["easy"]["weight"] == 0.75
    epochs = {k: v["epochs"] * v["unique_tokens"] for k, v in record.parts.items()}
    assert sum(epochs.values()) == pytest.approx(record.tokens)
    row = flat_record(record)
    assert row["heldout.hard"] == record.heldout["hard"] and row["parts.easy.weight"] == 0.75
    with pytest.raises(KeyboardInterrupt):
        train(trajectory, tmp_path / "again", Quiet(stop_at=2))
    (again,) = train(trajectory, tmp_path / "again", Quiet())
    assert again.result() == record.result()


def test_the_recipe_of_a_record_launches_the_mixture_again(settings, tmp_path):
    (cell,) = grid([*settings, "train.tokens=20000"], multirun=False)
    (trajectory,) = cell.trajectories
    (record,) = train(trajectory, tmp_path / "runs", Quiet())
    overrides = [f"{k}={hydra_value(v)}" for k, v in record.recipe.items()]
    shape = ["model.width=8", "model.depth=1", "train.tokens=20000", "name=tiny"]
    cache = f"data.cache={tmp_path / 'cache'}"
    (again,) = grid([*overrides, *shape, cache], multirun=False)
    assert [r.run for _, r in again.runs()] == [record.run]
