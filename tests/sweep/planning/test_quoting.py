"""Overrides as people type them: numbers, names, paths, lengths and sizes."""

import re
import shlex

import pytest

from fit.data.accounting import count_params
from fit.errors import PlanError
from sweep.data.registry import describe
from sweep.planning.compose import CONFIG_FOLDER
from sweep.planning.grid import compose_config, grid
from sweep.planning.identity import compact_count
from sweep.planning.quoting import read_overrides
from sweep.planning.sizes import DEFAULT_SHAPE, build_shape
from sweep.planning.trajectory import plan


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("name=2024_11_28", 'name="2024_11_28"'),
        ("name=pilot,1e5", 'name=pilot,"1e5"'),
        ("data.path=null", "data.path=null"),
        ("train.tokens=10,000,000", "train.tokens=10000000"),
        ("train.tokens=1,500,000", "train.tokens=1500000"),
        ("train.batch_tokens=128,256", "train.batch_tokens=128,256"),
        ("model.width=64,128,256", "model.width=64,128,256"),
        ("train.tokens=[1e6,2e6]", "train.tokens=[1e6,2e6]"),
        ("+experiment=demo", "+experiment=demo"),
    ],
)
def test_overrides_are_handed_to_hydra_as_they_are_meant(typed, read):
    assert read_overrides([typed]) == [read]


@pytest.mark.parametrize(
    "path", ["/a=b", "/a(b)", "/café", "/x~y", "/a b(c)", "/it's", '/a"b=', "/a,b"]
)
def test_a_path_that_hydra_cannot_read_is_refused_with_the_override_that_works(path, tmp_path):
    folder = f"{tmp_path}{path}"
    (tmp_path / path[1:]).mkdir()
    with pytest.raises(PlanError) as caught:
        read_overrides([f"data.path={folder}"])
    message = str(caught.value)
    (shown,) = shlex.split(message[message.index("'data.path=") :])
    assert compose_config(read_overrides([shown])).data.path == folder


def test_lengths_may_be_multiples_of_the_parameters():
    (trunk,) = plan(compose_config(["train.tokens=[10x,40x]", "model=w16"]))
    n = trunk.params.matmul
    assert [r.tokens for r in trunk.runs] == pytest.approx([10 * n, 40 * n], abs=512)


def test_a_size_in_parameters_is_the_run_of_its_shape():
    (sized,) = plan(compose_config(["model.params=10M", "train.tokens=20x"]))
    shaped = ["model.width=320", "model.depth=8", "model.head_dim=64", "train.tokens=20x"]
    (shape,) = plan(compose_config(shaped))
    assert sized == shape
    assert sized.params.matmul == pytest.approx(1e7, rel=0.01)


def test_every_shape_of_the_configuration_is_one_of_the_ladder():
    for file in sorted((CONFIG_FOLDER / "model").glob("w*.yaml")):
        model = compose_config([f"model={file.stem}"]).model
        n = count_params(build_shape(model, 497)).matmul
        (found,) = plan(compose_config([f"model.params={n}", "train.accelerator=cuda"]))
        shape = found.shape
        expected = (model.width, model.depth, model.head_dim)
        assert (shape.width, shape.depth, shape.head_dim) == expected, file.stem


def test_a_size_beside_a_shape_is_refused():
    model = compose_config([]).model
    assert (model.width, model.depth, model.heads, model.head_dim) == DEFAULT_SHAPE
    for shape in ("model.width=64", "model=w64", "+aspect=d4"):
        (cell,) = grid(["model.params=10M", shape], multirun=True)
        assert "leave one out" in cell.refusal


def test_counts_that_round_to_the_next_unit_are_named_by_it():
    counts = (999_999_488, 1e9, 999_500, 999_400, 307_200, 2.4e6, 9.999e14, 1e20)
    names = ["1B", "1B", "1M", "999k", "307k", "2.4M", "1e15", "1e20"]
    assert [compact_count(c) for c in counts] == names


def test_a_run_that_has_its_earlier_name_keeps_it(tmp_path):
    settings = ["train.tokens=1B", f"runs_dir={tmp_path}"]
    (now,) = plan(compose_config(settings))
    earlier = now.runs[0].run.replace("-t1B-", "-t1e+03M-")
    (tmp_path / "default" / earlier).mkdir(parents=True)
    (again,) = plan(compose_config(settings))
    assert again.runs[0].run == earlier


def test_data_of_equal_settings_are_described_once():
    calls = []
    cells = grid(
        ["model=w16,w24", "train.tokens=1e4,2e4", "seed=0,1"],
        multirun=True,
        describe=lambda *a: calls.append(a) or describe(*a),
    )
    assert len(cells) == 8
    assert len(calls) == 1


def test_a_batch_that_doubles_late_in_a_run_is_refused_and_shipped_experiments_are_not():
    doubles = "train.batch_doublings=[4e5]"
    (cell,) = grid(["model=w64", "train.tokens=[5e5,1e6]", doubles], multirun=True)
    assert re.search(
        "would double at 400k tokens, inside the last 40% of the run of 500k", cell.refusal
    )
    (cell,) = grid(["model=w64", "train.tokens=[1e6]", doubles], multirun=True)
    assert cell.refusal is None
    gpu = ["+experiment=reference-gpu", "train.accelerator=cuda"]
    assert not any(c.refusal for c in grid(gpu, multirun=True))
