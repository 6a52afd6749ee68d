"""Every yaml of conf/ composes and plans; wrong settings end in one clear line."""

from __future__ import annotations

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fit.errors import PlanError
from sweep.config import Config
from sweep.planning.compose import (
    CONFIG_FOLDER,
    ConfigComposer,
    command_overrides,
    hydra_initialised,
    parse_command,
)
from sweep.planning.grid import compose_config, grid
from sweep.planning.trajectory import plan
from sweep.settings import parse

QUICK = ["model.width=16", "model.depth=1"]


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONFIG_FOLDER / group).glob("*.yaml"))


@pytest.mark.parametrize("group", ["model", "train", "sweep"])
def test_every_choice_of_every_group_composes(group):
    for name in names(group):
        config = compose_config([f"{group}={name}"])
        assert isinstance(config, Config)


@pytest.mark.parametrize("name", names("model"))
def test_every_model_can_be_planned(name):
    (trajectory,) = plan(compose_config([f"model={name}"]))
    assert name == f"w{trajectory.shape.width}"


@pytest.mark.parametrize("name", names("data"))
def test_every_data_section_composes(name):
    assert compose_config([f"data={name}"]).data.name == name


ON_THE_HUB = ("tinystories",)
"""Experiments on a data set of the hub, which tests stand in for."""


@pytest.mark.parametrize("name", [n for n in names("experiment") if n not in ON_THE_HUB])
def test_every_experiment_spans_a_grid_that_can_be_trained(name):
    cells = grid([f"+experiment={name}"], multirun=True)
    assert all(cell.refusal is None for cell in cells)
    assert len({run.run for cell in cells for _, run in cell.runs()}) >= 4
    assert all(cell.config is not None and cell.config.name == name for cell in cells)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.widht=5"], "widht"),
        (["model=w7"], "w7"),
        (["train.lr=abc"], "abc"),
        (["train.schedule=step"], "step"),
        (["name=../up"], "folder name"),
        (["name="], "folder name"),
        (["train.tokens=-1"], "positive number"),
        (["train.precision=bf17"], "known are auto, 32-true"),
        (["train.accelerator=gpux"], "known are auto"),
        (["train.precision=16-mixed"], "known are auto, 32-true"),
        (["seed=-1"], "0 or more"),
        (["train.clip=0"], "positive number"),
        (["train.muon_lr=0"], "train.muon_lr=0.0; a positive number is needed."),
        (["train.devices=0"], "train.devices=0; a positive number is needed."),
        (["train.keep=[weights,none]"], "none stands alone"),
        (["data.parts=3"], "data.parts takes a list of sources"),
        (["train.beta1=1.5"], "from 0 to below 1"),
        (["train.z_loss=-1"], "0 or more"),
        (["model.conv=-1"], "0 to 128"),
        (["train.warmup_tokens=-1e4"], "train.warmup_tokens=-10000"),
        (["train.warmup_tokens=1e5", "train.tokens=1e5"], "is needed for"),
        (["train.devices=3"], "multiple of 1536"),
        (["train.tokens=[1e6,abc]"], "positive number"),
        (["train.tokens=null"], "both null"),
        (["train.tokens=60"], "below one batch"),
        (["sweep.flops=-1"], "positive number"),
        (["train.cooldown=1.5"], "between 0 and 1"),
        (["train.batch_tokens=500"], "multiple of model.seq_len"),
        (["model.width=17"], "not a multiple of model.head_dim"),
        (["model.head_dim=5", "model.width=10"], "even number"),
        (["model.depth=0"], "model.depth=0"),
        (["data.size=huge"], "known sizes"),
        (["data.unique_tokens=-5"], "positive number"),
        (["data.heldout_tokens=many"], "positive number"),
        (["data.max_epochs=0"], "positive number"),
        (["data.unique_tokens=20000", "data.max_epochs=1"], "epochs of the"),
    ],
)
def test_wrong_settings_are_named_in_one_line(overrides, words):
    with pytest.raises(PlanError) as caught:
        plan(compose_config([*QUICK, *overrides]))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_budget_sets_the_tokens_of_every_shape():
    cells = grid(["sweep.flops=1e12,1e13", "model=w32,w64"], multirun=True)
    for cell in cells:
        ((_, run),) = cell.runs()
        assert run.flops == pytest.approx(cell.config.sweep.flops, rel=0.01)
    assert len(cells) == 4


def test_a_refused_cell_does_not_stop_the_others():
    cells = grid(["model.width=16,17,32"], multirun=True)
    assert [cell.refusal is None for cell in cells] == [True, False, True]


def test_a_shape_larger_than_memory_is_refused():
    cells = grid(["model.width=131072", "model.depth=100"], multirun=True)
    assert "GiB" in cells[0].refusal


def test_identity_holds_what_changes_the_result_and_nothing_else():
    def run(*overrides: str) -> str:
        (trajectory,) = plan(compose_config([*QUICK, "train.tokens=1e5", *overrides]))
        return trajectory.runs[0].run

    base = run()
    same = [
        "runs_dir=elsewhere",
        "name=other",
        "tracking=none",
        "train.threads=2",
        "train.micro_batch_tokens=128",
        "train.checkpoint_seconds=1",
        "train.compile=on",
    ]
    other = [
        "seed=1",
        "data.seed=1",
        "train.lr=0.02",
        "model.conv=0",
        "train.cooldown=0.3",
        "train.weight_decay=0",
        "train.schedule=cosine",
        "train.precision=bf16-mixed",
        "data.unique_tokens=50000",
        "model.tied=false",
        "train.z_loss=0",
    ]
    assert {run(o) for o in same} == {base}
    assert len({base, *(run(o) for o in other)}) == len(other) + 1


def test_one_list_is_one_trunk_and_a_sweep_over_tokens_is_many():
    (one,) = grid(["train.tokens=[2e5,4e5]"], multirun=True)
    assert len(one.trajectories) == 1 and len(one.runs()) == 2
    assert len(grid(["train.tokens=1e5,2e5"], multirun=True)) == 2


def test_tokens_are_read_with_their_unit():
    (one,) = plan(compose_config([*QUICK, "train.tokens=0.1M"]))
    (same,) = plan(compose_config([*QUICK, "train.tokens=1e5"]))
    assert one.runs == same.runs


def test_lengths_that_round_to_one_run_are_planned_once():
    cells = grid(["train.tokens=1e5,1.0001e5"], multirun=True)
    assert [len(cell.runs()) for cell in cells] == [1, 0]


def test_a_folder_of_own_configs_is_found(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nseed: 7\n")
    given = parse_command(["--config-dir", str(tmp_path), "+experiment=mine"], "sweep")
    (cell,) = grid(command_overrides(given), multirun=False)
    assert cell.config.seed == 7
    with pytest.raises(PlanError, match="--config-dir"):
        command_overrides(parse_command(["--config-name", "other"], "sweep"))


@pytest.mark.parametrize(
    "job",
    [
        ["model.width=32", "train.lr=0.01", "seed=3"],
        ["model=w96", "train.tokens=[1e6,2e6]", "train=cosine", "name=x"],
        ["+experiment=demo", "model=w24", "data.unique_tokens=null"],
        ["data=text", "data.path=/tmp/a b", "~hydra.job_logging", "hydra/launcher=joblib"],
        ["model={width: 48, depth: 3}", "model.width=24"],
        ["data.pattern='*.txt'", "++model.conv=2"],
        ["train.tokens=${train.batch_tokens}"],
    ],
)
def test_a_composition_that_is_shared_gives_what_hydra_gives(job):
    with hydra_initialised():
        composer = ConfigComposer()
        composer.compose(["model.width=7"])
        assert outcome(lambda: composer.compose(job)) == outcome(lambda: compose("config", job))


@pytest.mark.parametrize(
    "job",
    [
        [],
        ["model.width=32", "train.lr=1", "seed=3", "also=[]", "train.batch_doublings=[1e6,2e6]"],
        ["model=w96", "train.tokens=[1e6,20x]", "train=cosine", "train.depth_rule=completep"],
        ["model.params=10M", "train.tokens=20x", "sweep.flops=1e12", "train.micro_batch_tokens=1k"],
        ["+experiment=demo", "model=w24", "data.unique_tokens=null", "data_hash='sha256:1'"],
        ["model={width: 48, depth: 3}", "model.width=24"],
        ["train.tokens=${train.batch_tokens}"],
        ["model.width=???"],
        ["train.lr=fast"],
        ["train.lr=-1"],
        ["train.compile=maybe"],
        ["model.size=3"],
        ["++model.size=3"],
        ["train.batch_doublings.0=3"],
    ],
)
def test_a_cell_of_a_grid_is_checked_to_what_its_composition_is_parsed_to(job):
    def checked(make):
        try:
            return repr(make())
        except (HydraException, PlanError, OmegaConfBaseException) as error:
            return str(error)

    with hydra_initialised():
        composer = ConfigComposer()
        first = checked(lambda: composer.checked(["seed=1", "train.tokens=[1e6,2e6]"])())
        for _ in range(2):
            assert checked(lambda: composer.checked(job)()) == checked(
                lambda: parse(ConfigComposer().compose(job))
            )
        again = checked(lambda: composer.checked(["seed=1", "train.tokens=[1e6,2e6]"])())
        assert again == first


def outcome(make):
    try:
        return OmegaConf.to_yaml(make(), resolve=True)
    except HydraException as error:
        return str(error)
