"""From an answer to a run that can be launched."""

import os
import shutil
import subprocess

import pytest
from hydra import compose, initialize_config_module

import sweep.app  # noqa: F401 - registers the schema
from fit.allocation.scaling_law import ScalingLaw
from fit.query.answer import answer
from fit.query.launch import hydra_value, launch_line
from fit.query.question import Question
from sweep.planning.trajectory import plan
from sweep.settings import parse
from sweep.training.outcome import recipe
from tests.fit.builders import make_fit


def planned(overrides):
    with initialize_config_module("conf", version_base=None):
        return plan(parse(compose("config", overrides=list(overrides))))[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=w64", "train.tokens=[3e5,6e5]"],
        ["model=w32", "train=cosine", "train.tokens=3e5", "train.lr=3e-5", "model.mlp_ratio=4"],
        ["model=w32", "train.optimizer=muon", "train.muon_lr=0.01", "train.tokens=3e5"],
        ["model=w64", "train.tokens=3e5", "model.mlp=gelu", "model.rope_base=5e5"],
        ["model=w64", "train.tokens=3e5", "model.mlp=swiglu", "model.mlp_ratio=2.667"],
    ],
)
def test_an_answers_overrides_plan_its_shape_with_the_same_recipe(overrides):
    given = recipe(planned(overrides))
    fit = make_fit(recipe=given)
    found = answer(Question(source=ScalingLaw.from_fit(fit), flops=1e13))
    run = planned(found.config)
    assert (run.shape.width, run.shape.depth, run.shape.heads) == (
        found.shape.width,
        found.shape.depth,
        found.shape.heads,
    )
    # whole steps of at most 4096 tokens
    assert run.runs[0].tokens == pytest.approx(found.shape_tokens, abs=4096)
    assert run.scaled.lr == pytest.approx(found.lr)
    assert run.rule.batch(run.runs[0].tokens - 1) == found.batch_tokens
    assert recipe(run) == given


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-5, "1e-05"),
        ("wsd", "wsd"),
        ("null", "'null'"),
        ("a b", "'a b'"),
        ("it's", "'it\\'s'"),
        ("", "''"),
        ([1, None, "x,y"], "[1,null,'x,y']"),
    ],
)
def test_values_are_written_in_hydras_grammar(value, text):
    assert hydra_value(value) == text


def test_unique_tokens_of_the_question_are_launched():
    fit = make_fit(recipe=recipe(planned(["model=w32", "train.tokens=3e5"])))
    asked = Question(source=ScalingLaw.from_fit(fit), flops=1e13, unique_tokens=4e5, force=True)
    found = answer(asked)
    assert found.shape_tokens > 4e5
    assert planned(found.config).config.data.unique_tokens == 400_000
    plain = answer(Question(source=ScalingLaw.from_fit(fit), flops=1e13))
    assert planned(plain.config).config.data.unique_tokens is None


def shell_run(folder, shell, status, printed, complaint):
    """A launch line in a shell where `isoflop` and `python` stand for the real ones."""
    isoflop = f"#!/bin/sh\nprintf '%s\\n' \"{printed}\"\necho '{complaint}' >&2\nexit {status}\n"
    python = '#!/bin/sh\nfor word in "$@"; do echo "$word" >> launched; done\n'
    for name, text in (("isoflop", isoflop), ("python", python)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    line = launch_line("isoflop query 1e14 --fit 'reports/a b'")
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [shell, "-c", line], cwd=folder, env={"PATH": path}, capture_output=True, text=True
    )


SHELLS = ["sh", "bash", *(s for s in ("dash", "zsh", "ksh") if shutil.which(s))]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_launch_line_ends_in_the_refusal_and_launches_nothing(tmp_path, shell):
    done = shell_run(tmp_path, shell, 1, "", "not launched: the fit is doubtful.")
    assert done.returncode == 1
    assert done.stderr == "not launched: the fit is doubtful.\n"
    assert not (tmp_path / "launched").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_launch_line_hands_on_every_override_whole(tmp_path, shell):
    overrides = "data=text 'data.path=a b/ü' \\\"data.pattern='**/*.txt,**/*.md'\\\""
    done = shell_run(tmp_path, shell, 0, overrides, "")
    assert done.returncode == 0, done.stderr
    words = ["data=text", "data.path=a b/ü", "data.pattern='**/*.txt,**/*.md'"]
    assert (tmp_path / "launched").read_text().splitlines() == ["-m", "sweep", *words]
