"""Overrides do what they say, or are refused once and by name; tests/hostile has many more."""

from __future__ import annotations

import pytest
from hydra import compose

from fit.errors import PlanError
from sweep.launch.jobs import train_cells
from sweep.planning.bill import PLAN_OPTIONS, refuse_plan_options
from sweep.planning.compose import (
    command_overrides,
    expand_grid,
    hydra_initialised,
    parse_command,
)
from sweep.planning.grid import compose_config, grid
from sweep.planning.overrides import DEFINING, RULES, unread_settings, value_of
from sweep.planning.quoting import refuse_repeated
from sweep.settings import settings, unknown_setting
from sweep.training.outcome import recipe

TINY = ["model=w16", "train.tokens=1e5"]


def refusal(*overrides, multirun=True):
    with pytest.raises(PlanError) as caught:
        grid([*TINY, *overrides], multirun=multirun)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_an_undeclared_key_is_refused_whatever_its_plus(plus):
    assert "train.learning_rate is not a setting" in refusal(f"{plus}train.learning_rate=0.1")
    assert "nearest is train.lr." in refusal(f"{plus}train.learning_rate=0.1", multirun=False)


def test_an_undeclared_key_is_refused_once_and_not_by_cell():
    assert "train.optimizer" in refusal("+train.optimizer=muon,adamw,lion", "seed=0,1,2")


def test_a_worker_refuses_an_undeclared_key():
    with hydra_initialised():
        config = compose("config", [*TINY, "+train.lookahead=5"])
    with pytest.raises(PlanError, match=r"train\.lookahead is not a setting"):
        train_cells(config)


def test_the_nearest_setting_is_in_the_same_section_or_has_another_trainers_name():
    nearest = {"model.n_layer": "model.depth", "data.vocb": "data.vocab", "lr": "train.lr"}
    for key, setting in nearest.items():
        assert unknown_setting(key).endswith(f"the nearest is {setting}.")


def test_an_unread_setting_is_refused_where_no_cell_reads_it():
    assert "Leave it out, or add model.experts=NUMBER." in refusal("model.top_k=1")
    cells = grid([*TINY, "model.experts=0,4", "model.top_k=1"], multirun=True)
    assert [cell.refusal for cell in cells] == [None, None]


def test_settings_of_another_source_name_the_source_that_was_meant():
    said = refusal("data.path=/x", "data.tokenizer=gpt2")
    assert said == (
        "data.path=/x, data.tokenizer=gpt2 would change nothing: data=stories does not read it. "
        "Leave them out, or add data=text."
    )


def test_tasks_of_data_without_text_are_not_to_be_read_by_stories():
    said = refusal("data=tokens", "data.path=/x", "data.tasks=quiz.jsonl")
    assert "data=tokens does not read it" in said and "data=stories" not in said
    assert said.endswith("or data._target_ of a source with `encode`.")


def test_what_a_file_sets_may_be_left_over_where_the_command_chooses(tmp_path):
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\ntrain:\n  tokens: 2e5\n")
    here = f"hydra.searchpath=[file://{tmp_path}]"
    (cell,) = grid(["model=w16", "+experiment=mine", here, "sweep.flops=1e11"], multirun=True)
    assert cell.refusal is None
    mine.write_text("# @package _global_\ntrain:\n  tokens: 2e5\nsweep:\n  flops: 1e11\n")
    with pytest.raises(PlanError, match="sweep.flops sets the tokens"):
        grid(["model=w16", "+experiment=mine", here], multirun=True)


def test_every_rule_is_about_settings_of_the_schema():
    for rule in RULES:
        assert rule.setting in settings()
        assert {d for d in rule.deciders if "." in d} <= settings().keys()
    assert all(f"{group}.{name}" in settings() for group, name in DEFINING.items())


def test_a_recipe_leaves_out_what_its_run_did_not_read():
    (cell,) = grid([*TINY, "train=cosine"], multirun=True)
    kept = recipe(cell.trajectories[0])
    assert not kept.keys() & unread_settings(cell.config).keys()
    assert {"data.vocab", "train.cooldown", "train.base_depth"}.isdisjoint(kept)
    assert kept["data.size"] == "demo" and kept["train.lr"] == cell.config.train.lr


def test_an_axis_of_an_experiment_gives_way_to_an_override():
    with hydra_initialised():
        assert len(expand_grid(["+experiment=isoflop", "model=w16"])) == 5
        assert len(expand_grid(["+experiment=isoflop", "model=w16,w32", "sweep.flops=1e11"])) == 2


def test_a_shape_that_an_experiment_replaces_is_refused():
    with pytest.raises(PlanError, match="model=w96 has no effect: model.width=16 is set by"):
        grid(["+experiment=lr", "model=w96"], multirun=True)


def test_a_grid_or_launcher_without_a_multirun_is_refused():
    with pytest.raises(PlanError, match="spans a grid over model"):
        grid(["+experiment=demo"], multirun=False)
    assert "add -m" in refusal("hydra/launcher=joblib", multirun=False)


def test_a_key_given_twice_is_refused_unless_the_values_agree():
    refuse_repeated(["seed=1", "seed=1", "+model=w16"])
    with pytest.raises(PlanError, match="train.lr is given twice, as 0.1 and as 0.2"):
        refuse_repeated(["train.lr=0.1", "seed=1", "++train.lr=0.2"])


def test_options_of_the_plan_are_refused_where_runs_are_trained():
    for word in PLAN_OPTIONS:
        with pytest.raises(PlanError, match=f"{word}=1 is an option of the plan"):
            refuse_plan_options(["seed=1", f"{word}=1"])


def test_a_folder_of_configs_may_have_any_name(tmp_path):
    folder = tmp_path / "configs, mine (a=b) é"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text(
        "defaults: [/base/model@_here_, _self_]\nwidth: 32\ndepth: 1\n"
    )
    words = command_overrides(parse_command(["--config-dir", str(folder), "model=mine"], "sweep"))
    assert value_of(compose_config(words), "model.width") == 32
