"""Grades of trained models: what they write is judged, and true stories beside it."""

import json

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.app import main
from sweep.data.registry import open_source
from sweep.planning.grid import compose_config
from sweep.skills.grading import diversity, grade_model, grade_stories, true_stories
from sweep.training.loop import train
from tests.sweep.training.test_loop import Quiet, trajectory

pytest.importorskip("safetensors")


def graded(capsys, *words):
    """What the command prints."""
    with pytest.raises(SystemExit) as ended:
        main(["grade", *words])
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("size", ["full", "tales"])
def test_a_kept_model_is_graded_by_its_own_stories(tmp_path, capsys, size):
    planned = trajectory("train.tokens=4e3", "train.keep=weights", f"data.size={size}")
    (record,) = train(planned, tmp_path, Quiet())
    folder = str(tmp_path / "tiny" / record.run)
    out = json.loads(graded(capsys, folder, "--stories", "5", "--json"))
    again = json.loads(graded(capsys, folder, "--stories", "5", "--json"))
    assert out == again and out["run"] == record.run
    assert {"grammar", "novelty"} <= set(out["grades"])
    assert all(0 <= g["value"] <= 1 and g["texts"] <= 5 for g in out["grades"].values())
    assert out["grades"]["grammar"]["value"] < 0.7  # hardly trained
    table = graded(capsys, folder, "--stories", "5")
    assert "true stories" in table and max(map(len, table.splitlines())) <= 80


def test_diversity_is_of_topics_and_of_sequences():
    source = open_source(compose_config(["data.size=tales"]).data, seq_len=128, seed=0)
    one, two = (source.encode(f"had a ball . the cow had a {w} .") for w in ("ball", "kite"))
    other = source.encode("had a drum . the cow had a ball .")
    found = diversity(source, [one, two, one, other])
    assert (found.commonest, found.share, found.named) == ("ball", 0.75, 1.0)
    assert found.entropy == pytest.approx(0.75 * np.log2(4 / 3) + 0.5)
    # `had a ball .` stands in the first twice; the second has two more, the last three
    assert found.distinct == pytest.approx((6 + 2 + 3) / 28)
    assert diversity(source, [source.encode("the end .")]).commonest == ""
    true = diversity(source, true_stories(source, 300))
    assert 0.2 < true.share < true.named < 0.5 and 3 < true.entropy < 4


@pytest.mark.parametrize("size", ["full", "tales", "tales-even", "tales-instruct"])
def test_true_stories_have_every_grade_and_end_where_stories_end(size):
    source = open_source(compose_config([f"data.size={size}"]).data, seq_len=128, seed=0)
    stories = true_stories(source, 40)
    grades = grade_stories(source, stories)
    assert {g.value for skill, g in grades.items() if skill != "novelty"} == {1.0}
    assert 0 < grades["novelty"].value < 1
    ended = [s for s in stories if s[-len(source.ending) :] == source.ending]
    assert len(ended) > 10 and all(len(s) < 128 for s in stories)


def test_one_topic_alone_has_no_entropy_and_no_sign():
    source = open_source(compose_config(["data.size=tales"]).data, seq_len=128, seed=0)
    assert str(diversity(source, true_stories(source, 1) * 3).entropy) == "0.0"


def test_models_of_real_text_are_not_graded_by_a_grammar(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be. " * 4000)
    config = compose_config(
        ["data=text", f"data.path={tmp_path / 'a.txt'}", "data.heldout_tokens=2000"]
    )
    source = open_source(config.data, seq_len=32, seed=0)
    with pytest.raises(PlanError, match=r"no grammar to judge by.*data\.tasks"):
        grade_model(None, source)
