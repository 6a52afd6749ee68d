"""Plug-ins: found, hashed, their options declared, and refused in one line where they are wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from fit.design.plan_files import _experiment
from fit.errors import PlanError
from sweep.planning.compose import command_overrides, parse_command
from sweep.planning.grid import compose_config, grid
from sweep.planning.trajectory import plan
from sweep.plugins import load, source_hash
from tests.architecture import ROOT
from tests.sweep.training.test_loop import TINY

SCHEDULE = """
from dataclasses import dataclass

@dataclass
class Halving:
    after: float = 0.5

def halved(position, tokens, warmup, options: Halving):
    return 1.0 if position < options.after * tokens else 0.5

def untyped(position, tokens, warmup, options):
    return 1.0

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module on the search path, under a name of its own; returns that name."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    written = []

    def write(text=SCHEDULE):
        name = f"plug_{tmp_path.name.replace('-', '_')}_{len(written)}"
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def command(*words):
    """Overrides as a command gives them to the grid."""
    return command_overrides(parse_command([*TINY, *words], "sweep"))


def refused(*words):
    """What is said of a command."""
    with pytest.raises(PlanError) as refusal:
        grid(command(*words), multirun=False)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def name_of(*words):
    (trajectory,) = plan(compose_config(command(*words)))
    return trajectory.runs[0].run


def test_a_field_that_a_plug_in_declares_is_a_setting_of_its_section_and_can_be_swept(module):
    target = f"{module()}:halved"
    words = command(f"train.schedule={target}", "train.after=0.25,0.75", "train.tokens=4e3")
    cells = grid(words, multirun=True)
    assert [c.config.train.options for c in cells] == [{"after": 0.25}, {"after": 0.75}]
    rates = [c.trajectories[0].runs[0].rate for c in cells]
    assert [r.factor(2000, 64) for r in rates] == [0.5, 1.0]
    assert len({c.trajectories[0].runs[0].run for c in cells}) == 2


def test_options_may_stand_in_a_file_and_a_command_changes_them(module, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        f"# @package _global_\ntrain:\n  schedule: {module()}:halved\n  options: {{after: 0.25}}\n"
    )
    arguments = [*TINY, "--config-dir", str(folder.parent), "+experiment=mine"]
    (cell,) = grid(command_overrides(parse_command(arguments, "sweep")), multirun=False)
    assert cell.trajectories[0].plug_ins["train.schedule"].options == {"after": 0.25}
    arguments.append("train.after=0.75")
    (cell,) = grid(command_overrides(parse_command(arguments, "sweep")), multirun=False)
    assert cell.trajectories[0].plug_ins["train.schedule"].options == {"after": 0.75}


def test_a_name_that_is_not_declared_is_refused_with_the_names_that_are(module):
    target = f"{module()}:halved"
    assert f"the nearest is train.after; {target} declares train.after." in refused(
        f"train.schedule={target}", "train.aftr=0.25"
    )
    assert "train.options.after is read by nothing" in refused("++train.options.after=0.25")
    assert "train.after" in refused("train.after=0.25")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.at_all:it", "there is no module nowhere.at_all"),
        ("{}:missing", "has no attribute"),
        ("{}:number", "is of type int, not callable"),
        ("{}:untyped", "needs a dataclass"),
        ("{}:not a name", "module and the name"),
        ("math:sqrt", "no Python source file"),
        ("sweep.planning.grid:describe", "is defined in sweep.data.registry"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_refused_when_it_is_planned(module, name, said):
    assert said in refused(f"train.schedule={name.format(module())}")


@pytest.mark.parametrize("target", ["bad", "Ssm", "5", ""])
def test_a_model_without_its_module_is_refused_and_not_taken_for_the_built_in(target):
    said = refused(f"model._target_={target}")
    assert said.startswith(f"model._target_={target}; the module and the name of a plug-in")


@pytest.mark.parametrize("setting", ["model.document_mask=true", "data.tasks=quiz.jsonl"])
def test_what_the_built_in_model_alone_serves_is_refused_beside_another(module, setting, tmp_path):
    (tmp_path / "quiz.jsonl").write_text('{"prompt": "once", "answer": "upon"}\n')
    setting = setting.replace("quiz", str(tmp_path / "quiz"))
    said = refused(f"model._target_={module()}:halved", setting)
    assert f"{setting} is served by the built-in model alone" in said.replace("=True", "=true")


def test_an_error_inside_a_module_is_told_in_one_line(module):
    said = refused(f"train.schedule={module('raise RuntimeError(chr(10).join(chr(97) * 3))')}:it")
    assert "cannot be imported (RuntimeError: a a a)" in said


def test_a_value_of_the_wrong_type_is_refused(module):
    said = refused(f"train.schedule={module()}:halved", "train.after=soon")
    assert "train.after=soon" in said and "float" in said.lower()


def test_source_and_options_are_part_of_the_identity_and_default_runs_keep_their_names(module):
    text = SCHEDULE
    first, same, edited = module(text), module(text), module(text + "\n# edited\n")
    assert source_hash("train.schedule", f"{first}:halved") != source_hash(
        "train.schedule", f"{edited}:halved"
    )
    names = {
        name_of(f"train.schedule={first}:halved"),
        name_of(f"train.schedule={edited}:halved"),
        name_of(f"train.schedule={first}:halved", "train.after=0.25"),
        name_of("train.schedule=cosine"),
    }
    assert len(names) == 4
    assert name_of(f"train.schedule={first}:halved", "train.after=0.5") in names
    assert name_of() == "w8-d1-t4M-s0-d30fa3a0"  # as before there were plug-ins
    assert source_hash("x", f"{first}:a") == source_hash("x", f"{same}:a")


def test_a_job_that_was_planned_with_another_source_is_refused(module):
    with pytest.raises(PlanError, match="changed after the runs were planned"):
        plan(compose_config(command(f"train.schedule={module()}:halved", "plugins_hash=abc")))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return -1.0", "gives -1.0 at 64 of"),
        ("return None", "gives None at 64 of"),
        ("return float('nan')", "gives nan at 64 of"),
        ("return 1.0 if position < tokens / 2 else float('inf')", "gives inf at 1984 of"),
        ("return 1 - 2 * (position > tokens - 100)", "gives -1 at 39"),
        ("return 1 / 0", "fails at 64 of 3968 tokens (ZeroDivisionError: division by zero)"),
    ],
)
def test_a_schedule_that_gives_no_share_of_the_peak_is_refused_in_the_plan(module, body, said):
    name = module(f"def rate(position, tokens, warmup): {body}")
    text = refused(f"train.schedule={name}:rate", "train.tokens=4e3")
    assert text.startswith(f"train.schedule={name}:rate {said}")


def test_a_schedule_of_other_arguments_is_refused_in_the_plan(module):
    name = module("def rate(position): return 1.0")
    assert "it is called with (position, tokens, warmup)" in refused(f"train.schedule={name}:rate")


MODEL = """
import torch
from torch.nn import functional as F

class Whole(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embedding = torch.nn.Parameter(torch.empty(shape.vocab, shape.width))
    def init_weights(self, generator):
        with torch.no_grad():
            self.embedding.normal_(generator=generator)
    def forward(self, tokens, targets, z_loss):
        return self.token_losses(tokens, targets).mean()
    def token_losses(self, tokens, targets):
        logits = self.embedding[tokens] @ self.embedding.T
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view(targets.shape)
    def parameter_groups(self):
        return {"embedding": [self.embedding]}

class Bare(torch.nn.Module):
    def __init__(self, shape): super().__init__()

class Flat(Whole):
    def token_losses(self, tokens, targets): return super().token_losses(tokens, targets).flatten()

class Silent(Whole):
    def forward(self, tokens, targets, z_loss): pass

class Nameless(Whole):
    def parameter_groups(self): return {}
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bare", "it has no token_losses and no init_weights and no parameter_groups"),
        ("Flat", "token_losses gives torch.Size([32]) for one row; (1, 32) is needed"),
        ("Silent", "forward gives NoneType for one row; () is needed"),
        ("Nameless", "Nameless.parameter_groups has to name every parameter once"),
    ],
)
def test_a_model_that_could_not_be_trained_or_measured_is_refused_in_the_plan(module, name, said):
    target = f"{module(MODEL)}:{name}"
    assert refused(f"model._target_={target}").startswith(f"model._target_={target}: {said}")
    assert name_of(f"model._target_={target.replace(name, 'Whole')}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def make(groups): return {}", "gives a dict; a subclass of torch.optim.Optimizer"),
        ("def make(groups): raise OSError('no')", "cannot be built (OSError: no)"),
        ("def make(): pass", "cannot be built (TypeError: make() takes 0 positional"),
        (
            "import torch\ndef make(groups): return torch.optim.SGD(groups[0]['params'], lr=1.0)",
            "changes the groups it is given",
        ),
    ],
)
def test_an_optimiser_that_is_none_is_refused_in_the_plan(module, code, said):
    target = f"{module(code)}:make"
    assert refused(f"train.optimizer={target}").startswith(f"train.optimizer={target} {said}")


def test_a_data_source_that_is_none_is_refused_with_what_it_lacks(module):
    text = """
    def nothing(config, seq_len, seed):
        return {}

    def broken(config, seq_len, seed):
        raise OSError("no disk")
    """
    name = module(text)
    assert "a dict without info, vocab" in refused(f"data._target_={name}:nothing")
    assert "cannot be opened (OSError: no disk)" in refused(f"data._target_={name}:broken")
    assert "data._target_, which is null" in refused("data=own")


def test_a_source_may_be_arrays_of_tokens(module):
    name = module(
        """
        import numpy as np
        from sweep.data.rows import TokenizedCorpus, stream_of

        def arrays(config, seq_len, seed):
            tokens = np.random.default_rng(0).integers(16, size=20_000)
            return TokenizedCorpus(
                name="noise", hash="1", vocab=16,
                train=stream_of([tokens[:16_000]]), heldout=stream_of([tokens[16_000:]]),
            )
        """
    )
    (cell,) = grid(
        command(f"data._target_={name}:arrays", "data.unique_tokens=4e3"), multirun=False
    )
    assert cell.trajectories[0].data.unique_tokens == 4000
    assert cell.trajectories[0].shape.vocab == 16


@pytest.mark.slow
def test_planning_reads_a_model_elsewhere_and_imports_no_torch_itself(tmp_path):
    """What is learned of it is kept by the hash of its source."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom fit.data.accounting import FlopsPerToken, ParamCounts\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self, shape): super().__init__()\n"
        "    init_weights = token_losses = parameter_groups = None\n"
        "    @staticmethod\n"
        "    def count_params(shape):\n"
        "        return ParamCounts(body=7 * shape.width, head=1, embedding=2, other=3)\n"
        "    @staticmethod\n"
        "    def count_flops(shape): return FlopsPerToken(body=42, head=6, attention=0)\n"
    )
    code = (
        "import sys\nfrom sweep.planning.grid import grid\n"
        "if __name__ == '__main__':\n"
        "    (cell,) = grid(['model._target_=mine:Model', 'model=w32'], multirun=False)\n"
        "    t = cell.trajectories[0]\n"
        "    print(t.params.body, t.flops_per_token.exact, 'torch' in sys.modules)\n"
    )
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["224", "48", "False"], done.stderr


def test_a_class_is_named_with_a_dot_or_a_colon(module):
    name = module()
    assert load("train.schedule", f"{name}.halved") is load("train.schedule", f"{name}:halved")


def test_a_name_of_another_trainer_or_near_one_of_ours_is_still_explained(module):
    target = f"{module()}:halved"
    assert "the nearest is train.clip" in refused(f"train.schedule={target}", "train.grad_clip=1")
    assert "the nearest is train.warmup_tokens" in refused(
        f"train.schedule={target}", "train.warmup_token=10"
    )


def test_options_in_a_recipe_become_a_table_of_a_suggested_experiment():
    fit = SimpleNamespace(
        recipe={"data": "own", "train.lr": 0.01, "model.options.size": 8},
        source={},
        points=SimpleNamespace(run=()),
        name="mine",
    )
    settings = _experiment(fit, ())
    assert settings["model"] == {"options": {"size": 8}} and settings["train"] == {"lr": 0.01}


def test_a_module_that_was_edited_after_it_was_imported_is_refused(module):
    name = module()
    words = (f"train.schedule={name}:halved",)
    name_of(*words)
    path = Path(sys.modules[name].__file__)
    path.write_text(path.read_text().replace("0.5", "0.25"))
    assert "edited after this process imported it" in refused(*words)
