"""The examples of docs/extending.md, run from its text."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

from fit.data.records import read_runs
from fit.errors import PlanError
from sweep.planning.compose import command_overrides, parse_command
from sweep.planning.grid import grid
from sweep.training.loop import train
from sweep.training.outcome import own_scores
from sweep.training.session import Session
from tests.architecture import ROOT
from tests.sweep.training.test_loop import TINY, Quiet, results

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.S | re.M))
COMMANDS = re.findall(r"^python -m sweep (.*)$", PAGE, re.M)
SHORT = ("train.tokens=12e3",)


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A folder with the page's modules, which is searched."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def planned(*words):
    """Trajectories of a small run."""
    given = {w.partition("=")[0] for w in words}
    tiny = [w for w in TINY if w.partition("=")[0] not in given]
    (cell,) = grid(command_overrides(parse_command([*tiny, *words], "sweep")), multirun=False)
    return cell.trajectories[0]


def test_the_page_has_an_example_of_each_kind():
    assert list(FILES) == ["ssm.py", "lion.py", "linear.py", "ends.py", "melodies.py"]
    assert len(COMMANDS) == len(FILES)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_span_sweeps_of_twelve_runs_or_one_run(examples, command):
    parsed = parse_command(shlex.split(command), "sweep")
    cells = grid(command_overrides(parsed), multirun=bool(parsed.multirun))
    assert sum(len(cell.runs()) for cell in cells) in (1, 12)
    assert all(cell.refusal is None for cell in cells)


KINDS = {
    "model": ("model._target_=ssm:Ssm", "model.state_size=4"),
    "optimizer": ("train.optimizer=lion:Lion", "train.share=0.5"),
    "schedule": ("train.schedule=linear:linear", "train.floor=0.1"),
    "data": ("data._target_=melodies:Melodies", "data.power=2.0"),
}


def test_a_record_holds_the_scores_of_ones_own_functions(examples, tmp_path):
    planned_run = planned("train.scores=[accuracy,ends:ends]", *SHORT)
    assert planned_run.runs[0].run == planned(*SHORT).runs[0].run, "a score changes no training"
    (record,) = train(planned_run, tmp_path, Quiet())
    score = record.scores["last_token"]
    assert len(record.scores) > 1 and score["items"] == 64 and 0 < score["accuracy"] < 1
    assert score["accuracy_se"] == pytest.approx(
        np.sqrt(score["accuracy"] * (1 - score["accuracy"]) / 63)
    )
    (again,) = read_runs(tmp_path).records
    assert again.scores == record.scores


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {'tokens': [0.5]}", "gives 'tokens', the name of another score"),
        ("return {'mine': [1.5, 0]}", r"gives 'mine' of shape \(2,\).*from 0 to 1"),
        ("return {'mine': []}", "gives 'mine' of shape"),
        ("return {'mine': 0.5}", "gives 'mine' of shape"),
        ("return {'mine': [float('nan')]}", "gives 'mine' of shape"),
        ("return 0.5", "fails: AttributeError"),
        ("raise MemoryError", "fails: MemoryError"),
    ],
)
def test_what_a_function_of_scores_gives_is_checked(examples, body, said):
    (examples / "odd.py").write_text(f"def odd(model, source):\n    {body}\n")
    with pytest.raises(PlanError, match=f"train.scores=odd:odd {said}"):
        own_scores("odd:odd", None, None, taken=["tokens"])
    sys.modules.pop("odd")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ("accurate", "known are accuracy, stories, one of your own"),
        ("nowhere:odd", "there is no module nowhere"),
    ],
)
def test_scores_that_there_are_none_of_are_refused_in_the_plan(scores, said):
    with pytest.raises(PlanError, match=said):
        planned(f"train.scores={scores}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_example_trains_and_resumes_to_the_same_bits(examples, tmp_path, kind):
    words = (*KINDS[kind], *SHORT, "train.checkpoint_seconds=0")
    whole = train(planned(*words), tmp_path / "a", Quiet())
    with pytest.raises(KeyboardInterrupt):
        train(planned(*words), tmp_path / "b", Quiet(stop_at=2))
    assert list((tmp_path / "b" / "tiny").glob(".work-*/state.pt"))
    again = train(planned(*words), tmp_path / "b", Quiet())
    assert [r.status for r in whole] == ["done"]
    assert results(again) == results(whole)
    (record,) = whole
    (setting, _, target), (_, _, value) = (w.partition("=") for w in KINDS[kind])
    (source,) = record.plug_ins.values()
    assert list(record.plug_ins) == [setting]
    assert re.fullmatch(rf"{target} sha256:[0-9a-f]{{16}}", source)
    assert record.recipe[setting] == target
    field = KINDS[kind][1].partition(".")[2].partition("=")[0]
    assert record.recipe[f"{setting.split('.')[0]}.options.{field}"] == float(value)


def test_the_recipe_of_a_record_launches_the_same_run_again(examples, tmp_path):
    words = [w for kind in KINDS.values() for w in kind]
    trajectory = planned(*words, *SHORT)
    (record,) = train(trajectory, tmp_path, Quiet())
    again = [f"{k}={v}".replace("None", "null") for k, v in record.recipe.items()]
    shape = [f"model.{k}={getattr(record, k)}" for k in ("width", "depth", "heads", "head_dim")]
    typed = [w for w in again if not w.startswith("model.head_dim")]
    words = [*typed, *shape, "train.tokens=12e3", "name=tiny", "tracking=none"]
    quoted = [f"{w.partition('=')[0]}='{w.partition('=')[2]}'" if "*" in w else w for w in words]
    (cell,) = grid(command_overrides(parse_command(quoted, "sweep")), multirun=False)
    assert cell.trajectories[0].runs[0].run == record.run


def test_the_counts_of_the_example_model_are_those_of_its_matrices(examples):
    t = planned(*KINDS["model"])
    d, f, v = t.shape.width, t.shape.d_ff, t.shape.vocab
    assert t.params.body == 2 * d * d + d * d + 2 * d * f
    assert (t.params.head, t.params.embedding, t.params.other) == (v * d, 0, 2 * 4 * d)
    assert t.flops_per_token.exact == 6 * t.params.matmul
    session = Session.open(t)
    assert sum(p.numel() for p in session.module.parameters()) == t.params.total


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_the_example_model_trains_compiled_by_one_graph_to_the_losses_of_the_eager_one(
    examples, tmp_path
):
    torch._dynamo.utils.counters.clear()
    words = (*KINDS["model"], "train.tokens=[3e3,4e3]", "train.batch_doublings=[500,1e3]")
    eager, compiled = (
        train(planned(*words, f"train.compile={how}"), tmp_path / how, Quiet())
        for how in ("off", "on")
    )
    assert [r.run for r in compiled] == [r.run for r in eager]
    assert [r.loss for r in compiled] == pytest.approx([r.loss for r in eager], rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


OPAQUE = """
import torch
from ssm import Ssm, SsmOptions

@torch.library.custom_op("plug::same", mutates_args=())
def same(x: torch.Tensor) -> torch.Tensor:
    return x.clone()

same.register_autograd(lambda context, gradient: gradient)

class Opaque(Ssm):
    def __init__(self, shape, options: SsmOptions):
        super().__init__(shape, options)

    def logits(self, tokens):
        logits = super().logits(tokens)
        return logits if logits.is_meta else same(logits)
"""


def test_an_own_model_that_cannot_be_compiled_fails_in_one_line_and_trains_uncompiled(
    examples, tmp_path
):
    (examples / "opaque.py").write_text(OPAQUE)  # its operation has no rule for tracing
    words = ("model._target_=opaque:Opaque", "train.tokens=3e3")
    (failed,) = train(planned(*words, "train.compile=on"), tmp_path, Quiet())
    assert failed.status == "failed" and "\n" not in failed.reason
    assert "model._target_=opaque:Opaque cannot be compiled" in failed.reason
    assert "train.compile=off" in failed.reason
    (done,) = train(planned(*words, "train.compile=off"), tmp_path, Quiet())
    assert done.status == "done"


def test_the_example_model_is_causal(examples):
    module = Session.open(planned(*KINDS["model"])).module
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.arange(32)[None]
    changed = tokens.clone()
    changed[0, 20] = 7
    before, after = module.logits(tokens), module.logits(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=1e-4, rtol=0)
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-3)


def test_the_entropy_of_the_melodies_is_that_of_a_listener_who_counts(examples):
    import melodies

    from tests.sweep.data.builders import data_config

    config = data_config("stories", heldout_tokens=64 * 512)
    source = melodies.Melodies(config, 64, 0, melodies.MelodyOptions())
    assert source._p.sum() == pytest.approx(1)
    # The chain rule: the losses of a motif's notes sum to -ln of its probability.
    np.testing.assert_allclose(source._losses.sum(1), -np.log(source._p), rtol=1e-12)
    heldout = source.heldout()
    error = heldout.ideal.mean(1).std() / len(heldout.ideal) ** 0.5
    assert abs(heldout.ideal.mean() - source.info.entropy) < 4 * error
    assert (heldout.rows[:, 0::8] < 16).all() and (heldout.rows[:, 3::8] >= 16).all()
    assert np.array_equal(source.train(5, 3), source.train(0, 8)[5:])
    assert not np.array_equal(source.train(0, 4), heldout.rows[:4])


@pytest.mark.slow
@pytest.mark.parametrize("place", ["working folder", "PYTHONPATH"])
def test_workers_of_joblib_find_plug_ins(examples, tmp_path, place):
    here = place == "working folder"
    path = [str(ROOT)] if here else [str(ROOT), str(examples)]
    words = [*TINY, *KINDS["model"], *KINDS["optimizer"], *SHORT, "seed=0,1"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"runs_dir={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "-m", *words, *launcher],
        cwd=examples if here else tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    records = read_runs(tmp_path / "runs" / "tiny").records
    assert {r.seed for r in records} == {0, 1}
    assert all(len(r.plug_ins) == 2 for r in records)
