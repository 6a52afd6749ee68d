"""Overrides and configuration files that would not do what they say, at every door that takes them.

The cases are enumerated from the schema where they can be: every setting with a value of the wrong
type, every source with every setting that it does not read.
"""

from __future__ import annotations

import dataclasses
import types
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra import compose

from sweep.app import main as sweep_main
from sweep.config import DataConfig
from sweep.data.registry import SOURCES
from sweep.launch.jobs import train_cells
from sweep.plan import main as plan_main
from sweep.planning.compose import hydra_initialised, wrong_overrides_refused
from sweep.planning.grid import grid
from sweep.planning.overrides import value_of
from sweep.rehearse import train_rehearsal
from sweep.settings import settings
from tests.hostile.outcomes import Case, Reply, check_outcome

pytestmark = pytest.mark.slow


def plan(*words: str) -> Any:
    """Ask for the plan of a command."""
    return lambda folder: plan_main(["measure=off", f"runs_dir={folder}", *words])


def sweep(*words: str) -> Any:
    """Give a command that trains; what is refused has to be refused before any run."""

    def run(folder: Path) -> None:
        try:
            sweep_main([f"runs_dir={folder}", *words])
        finally:
            assert not list(folder.iterdir()), "something was written before the refusal"

    return run


def work(*words: str) -> Any:
    """Hand a composed job to a worker, as a launcher does."""

    def run(folder: Path) -> Any:
        with wrong_overrides_refused(), hydra_initialised():
            config = compose("config", [f"runs_dir={folder}", *words])
        return train_cells(config)[0]

    return run


def rehearse(*words: str) -> Any:
    """Add overrides to a rehearsal."""
    small: Any = types.SimpleNamespace(config=("model=w16", "train.tokens=1e4"))
    return lambda folder: train_rehearsal(small, [f"runs_dir={folder}", *words])


def cells(*words: str) -> Any:
    """Span the grid of a command."""
    return lambda folder: grid([f"runs_dir={folder}", *words], multirun=True)


def with_file(place: str, text: str, *words: str) -> Any:
    """Plan with a configuration file of one's own."""

    def run(folder: Path) -> Any:
        path = folder / "own" / place
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return plan("--config-dir", str(folder / "own"), *words)(folder)

    return run


def refused(name: str, run: Any, *words: str) -> Case:
    return Case(name=name, run=run, refused=words)


def taken(words: list[str], *expected: dict[str, Any], unread_data: bool = False) -> Case:
    """A command that is taken, and the settings of its cells."""

    def check(reply: Reply) -> None:
        configs = [cell.config for cell in reply.value]  # type: ignore[attr-defined]
        assert len(configs) == len(expected)
        for config, values in zip(configs, expected, strict=True):
            found = {k: value_of(config, k) for k in values}
            found = {k: v.value if isinstance(v, Enum) else v for k, v in found.items()}
            assert found == values
        if not unread_data:
            assert all(cell.refusal is None for cell in reply.value)  # type: ignore[attr-defined]

    return Case(name=f"taken {' '.join(words)}", run=cells(*words), taken=check)


DOORS = {"plan": plan, "sweep": sweep, "worker": work, "rehearsal": rehearse}
UNDECLARED = {
    "train.learning_rate": "train.lr",
    "model.kv_head": "model.kv_heads",
    "data.tokeniser": "data.tokenizer",
    "train.weight_decy": "train.weight_decay",
    "sweep.flop": "sweep.flops",
    "sede": "seed",
    "model.n_layer": "model.depth",
    "train.batch_size": "train.batch_tokens",
    "data.paht": "data.path",
    "model.num_experts": "model.experts",
    "modell": "model",
}
"""Keys that nothing reads, and the nearest that something does."""


def undeclared() -> list[Case]:
    found = []
    for number, (key, nearest) in enumerate(UNDECLARED.items()):
        for plus in ("", "+", "++"):
            for door in ("plan", list(DOORS)[1 + number % 3]):
                run = DOORS[door](f"{plus}{key}=3")
                found.append(refused(f"{door} {plus}{key}", run, key, nearest))
    for plus, words in {
        "": ["data.options"],
        "++": ["'streaming': 3", "add data._target_="],
    }.items():
        own = plan(f"{plus}data.options.streaming=3")  # a field of a source of one's own
        found.append(refused(f"a field without its source {plus}", own, *words))
    lists = plan("+train.weight_decy=0.1,0.2,0.3")
    return [
        *found,
        refused("list of an undeclared key", lists, "train.weight_decy", "weight_decay"),
    ]


WRONG = {int: "abc", float: "abc", bool: "maybe", str: "[a,b]", Any: "abc"}


def wrong_value(kind: Any) -> str | None:
    """A value that a type cannot hold; None where every text will do."""
    kinds = [k for k in get_args(kind) or (kind,) if k is not type(None)]
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return "nonsense"
    return "3" if str(kind).startswith("list") else WRONG[kinds[0]]


def wrong_types() -> list[Case]:
    found = [
        refused(f"type of {key}", plan(f"{key}={wrong_value(kind)}"), key)
        for key, kind in settings().items()
    ]
    for key in ("train.tokens", "data.unique_tokens", "data.heldout_tokens"):
        found += [refused(f"{key}={v}", plan(f"{key}={v}"), key) for v in ("-3", "[]", "{a:1}")]
    return found


def files() -> list[Case]:
    root = "# @package _global_\n"
    use = "+experiment=mine"
    place = "experiment/mine.yaml"

    def own(name: str, text: str, *words: str) -> Case:
        return refused(name, with_file(place, text, use), *words)

    return [
        own(
            "key in a file",
            f"{root}train:\n  learning_rate: 0.1\n",
            "train.learning_rate",
            "train.lr",
        ),
        own("root key in a file", f"{root}sede: 3\n", "sede", "seed"),
        own("deep key in a file", f"{root}model:\n  a:\n    b: 3\n", "model.a"),
        own("type in a file", f"{root}model:\n  width: wide\n", "model.width", "number"),
        own("file without a package", "seed: 3\n", "experiment", "@package _global_"),
        own(
            "unknown default", f"{root}defaults:\n  - override /model: w999\n", "model=w999", "w96"
        ),
        own(
            "undeclared axis",
            f"{root}hydra:\n  sweeper:\n    params:\n      +train.foo: 1,2\n",
            "train.foo",
        ),
        own(
            "misspelt axis",
            f"{root}hydra:\n  sweeper:\n    params:\n      model.widht: 16,32\n",
            "model.widht",
            "model.width",
        ),
        own(
            "misspelt sweeper", f"{root}hydra:\n  sweeper:\n    parms:\n      seed: 0,1\n", "parms"
        ),
        own("unread source", f"{root}data:\n  path: /x\n", "data.path=/x", "data=text"),
        own(
            "budget beside tokens",
            f"{root}train:\n  tokens: 1e6\nsweep:\n  flops: 1e12\n",
            "train.tokens",
            "sweep.flops",
        ),
        refused("missing value", plan("model.width=???"), "model.width", "needed"),
        refused(
            "key in a shape",
            with_file("model/mine.yaml", "width: 16\nkv_head: 2\n", "model=mine"),
            "model.kv_head",
            "model.kv_heads",
        ),
        refused(
            "key in a source",
            with_file("data/mine.yaml", "name: text\nlanguage: en\n", "data=mine"),
            "data.language",
        ),
        refused(
            "group of one's own in the wrong place",
            with_file("optimiser/muon.yaml", "lr: 0.1\n", "+optimiser=muon"),
            "optimiser",
        ),
        refused(
            "undeclared key added to an experiment",
            with_file(place, f"{root}seed: 1\n", use, "+train.momentum=0.9"),
            "train.momentum",
        ),
        refused("no folder of configs", plan("--config-dir", "/no/such/folder"), "/no/such/folder"),
        refused("no search path", plan("hydra.searchpath=[file:///no/such]"), "/no/such"),
    ]


RANGES = (
    ("train.retries=-1",),
    ("train.checkpoint_seconds=-5",),
    ("train.runs_per_gpu=0",),
    ("train.micro_batch_tokens=0",),
    ("train.batch_doublings=[-1]",),
    ("train.batch_doublings=[nan]",),
    ("data.bytes_per_token=-1", "data=tokens", "data.path=/x"),
    ("train.tokens=[]",),
    ("model.width=-64",),
    ("seed=-1",),
)
"""Values of the right type that mean nothing, and what else the command says."""


def choices() -> list[Case]:
    unknown = {
        "model=w999": "model=w96",
        "data=storys": "data=stories",
        "train=cosin": "train=cosine",
        "+experiment=demoo": "+experiment=demo",
        "+aspect=d5": "d4",
        "hydra/launcher=job_lib": "hydra/launcher=joblib",
        "model=w16,w999": "model=w999",
    }
    return [
        *(
            refused(word, plan(word), word.partition(",")[0].split("=")[0], near)
            for word, near in unknown.items()
        ),
        refused("two choices at once", plan("model=[w16,w32]"), "model=w16,w32"),
        refused("no choice", plan("model="), "model", "empty"),
        refused("null choice", plan("data=null"), "data"),
        refused("two experiments", plan("+experiment=demo,lr"), "one experiment"),
        refused("empty pattern of groups", plan("model=glob(zz*)"), "spans no run"),
        refused("empty pattern of values", plan("seed=glob(*)"), "spans no run"),
        refused("deleted setting", plan("~train.z_loss"), "train.z_loss", "needs a value"),
        refused("deleted group", plan("~model"), "model", "needs a value"),
        refused("deleted value", sweep("~seed=0"), "seed", "needs a value"),
        refused("plus before a choice", plan("+model=w16"), "write model=w16"),
        refused("two pluses before a choice", plan("++data=text"), "write data=text"),
        refused("no plus before an experiment", plan("experiment=demo"), "write +experiment=demo"),
        refused("capitals", plan("Train.LR=0.1"), "Train.LR", "nearest is train.lr"),
        refused("Hydra's rerun", plan("--experimental-rerun", "x"), "--experimental-rerun"),
        refused("Hydra's package", plan("--package", "x"), "--package"),
        refused(
            "two search paths", plan("--config-dir", "/", "hydra.searchpath=[file:///]"), "be lost"
        ),
        *(
            refused(f"range {word}", plan(*words, word), word.partition("=")[0])
            for word, *words in RANGES
        ),
        refused("no key", plan("=3"), "KEY=VALUE"),
        refused("twice", plan("train.lr=0.1", "train.lr=0.2"), "train.lr", "0.1", "0.2"),
        refused("twice with pluses", plan("train.lr=0.1", "++train.lr=0.2"), "train.lr", "twice"),
        refused("one of a list", sweep("-m", "seed=0,1", "seed=3"), "seed", "twice"),
        refused("group twice", plan("model=w16", "model=w32"), "model", "twice"),
        refused("twice in a rehearsal", rehearse("tracking=csv", "tracking=none"), "twice"),
        refused(
            "shape under axes", plan("+experiment=lr", "model=w96"), "model=w96", "model.width"
        ),
        refused("shape under an aspect", plan("+experiment=skills", "model=w128"), "model=w128"),
        refused("grid without -m", sweep("+experiment=demo"), "add -m"),
        refused("launcher without -m", sweep("hydra/launcher=joblib"), "add -m"),
        refused(
            "launcher's setting without it",
            plan("hydra.launcher.n_jobs=2"),
            "hydra.launcher.n_jobs",
        ),
        refused("launcher's key", plan("+hydra.launcher.jobs=2"), "hydra.launcher.jobs"),
        refused("two launchers", plan("hydra/launcher=joblib,basic"), "one value"),
        refused("axes as a setting", plan("hydra.sweeper.params={seed:1}"), "hydra.sweeper.params"),
        *(
            refused(word, plan(word), word.lstrip("+").partition("=")[0], "change nothing")
            for word in (
                "hydra.mode=RUN",
                "hydra.run.dir=/x",
                "hydra.job.chdir=true",
                "+hydra.foo=1",
            )
        ),
        *(
            refused(f"{name} {word}", door(word), word.partition("=")[0], "option of the plan")
            for word in ("measure=off", "price=2.5", "workers=8", "spend.hours=2")
            for name, door in (("sweep", sweep), ("rehearsal", rehearse))
        ),
        refused("packs, as there were", plan("train.pack=4"), "compiled"),
    ]


UNREAD_VALUES = {
    "vocab": "4096",
    "bytes_per_token": "4.5",
    "streaming": "true",
    "header_bytes": "8",
    "splits": "none",
    "separator": "3",
    "parts": "[{name:text,path:x,weight:1}]",
    "also_heldout": "[x]",
    "tasks": "x.jsonl",
}


def unread() -> list[Case]:
    """Every source with every setting of the data that it does not read."""
    found = []
    for source, kind in SOURCES.items():
        if source == "own":  # chosen by data._target_ and not by a name
            continue
        beside = plan(f"data={source}", "data._target_=nowhere:it")
        found.append(refused(f"{source} and a source of one's own", beside, "has no effect"))
        for field in dataclasses.fields(DataConfig):
            if field.name in kind.reads or field.name in ("_target_", "options"):
                continue
            word = f"data.{field.name}={UNREAD_VALUES.get(field.name, 'small')}"
            readers = [n for n, other in SOURCES.items() if field.name in other.reads]
            if (source, field.name) == ("tokens", "tasks"):
                readers.remove("stories")  # what was tokenised elsewhere is read as text here
            found.append(
                refused(
                    f"{source} {word}",
                    plan(f"data={source}", word),
                    f"data.{field.name}",
                    "would change nothing",
                    f"data={source} does not read it",
                    f"add data={readers[0]}",
                )
            )
    both = plan("data.path=/x", "data.tokenizer=gpt2")
    return [
        *found,
        refused("text without its source", both, "data.path=/x, data.tokenizer=gpt2", "data=text"),
        refused("hub without its source", plan("data.path=a/b"), "add data=hf"),
        refused("tokens without their source", plan("data.path=/x/train.bin"), "add data=tokens"),
        refused("readers apart", plan("data.split=x", "data.pattern=y"), "data=hf", "data=text"),
        refused("swept", plan("data.vocab=512,4096"), "data.vocab"),
        refused("in a dictionary", plan("data={path:/x}"), "data.path=/x"),
        refused(
            "vocabulary of bytes",
            plan("data=text", "data.path=/x", "data.tokenizer=bytes", "data.vocab=300"),
            "data.vocab=300",
            "data.tokenizer=bpe",
        ),
        refused("tokens", plan("train.tokens=1e6", "sweep.flops=1e12"), "sweep.flops sets"),
        refused("default tokens", plan("train.tokens=4e6", "sweep.flops=1e12"), "sweep.flops sets"),
        refused("cooldown", plan("train=cosine", "train.cooldown=0.1"), "wsd has a cooldown"),
        refused("depth", plan("train.base_depth=4"), "train.depth_rule=completep"),
        refused("router", plan("model.top_k=1"), "model.experts=NUMBER"),
        refused("router's loss", plan("train.balance_loss=0.1"), "model.experts=NUMBER"),
        refused(
            "several at once",
            plan("train.base_depth=4", "data.size=small", "data=text"),
            "data.size",
        ),
        refused("rehearsal", rehearse("data.path=/x"), "data.path=/x", "data=text"),
        refused("sweep", sweep("-m", "data.path=/x", "seed=0,1"), "data.path=/x", "data=text"),
    ]


def meant() -> list[Case]:
    """Commands that look like those above and mean something."""
    sixteen = ["model=w16", "train.tokens=1e5"]
    return [
        taken([*sixteen, "++train.lr=0.02"], {"train.lr": 0.02}),
        taken([*sixteen, "seed=3", "seed=3"], {"seed": 3}),
        taken(
            [*sixteen, "model.experts=0,4", "model.top_k=1"],
            {"model.experts": 0, "model.top_k": 1},
            {"model.experts": 4, "model.top_k": 1},
        ),
        taken([*sixteen, "data.size=demo"], {"data.size": "demo"}),
        taken([*sixteen, "data.vocab=1024"], {"data.vocab": 1024}),
        taken(
            ["model=w16", "train.tokens=4e6", "train.cooldown=0.2", "train=cosine"],
            {"train.schedule": "cosine"},
        ),
        taken(
            ["+experiment=demo", "model=w16", "sweep.flops=1e11"],
            {"sweep.flops": 1e11, "model.width": 16},
        ),
        taken(
            ["+experiment=lr", "model.width=16", "model.depth=2", "train.lr=0.01"],
            {"train.lr": 0.01},
        ),
        taken(
            ["+experiment=isoflop", "model=w32,w16", "sweep.flops=1e11"],
            {"model.width": 32},
            {"model.width": 16},
        ),
        taken(
            [
                "+experiment=reference-gpu",
                "data=text",
                "data.path=/x",
                "model=w128",
                "sweep.flops=1e15",
            ],
            {"data.name": "text", "data.path": "/x", "model.width": 128},
            unread_data=True,
        ),
        taken(
            ["model=w16", "model.width=32", "train.tokens=1e5"],
            {"model.width": 32, "model.depth": 2},
        ),
        taken(
            ["model={width:32,depth:3}", "train.tokens=1e5"], {"model.width": 32, "model.depth": 3}
        ),
        taken([*sixteen, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], {"model.width": 16}),
    ]


CASES = [*undeclared(), *wrong_types(), *files(), *choices(), *unread(), *meant()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_override_does_what_it_says_or_is_refused(case, tmp_path):
    check_outcome(case, tmp_path)


def test_there_are_enough_cases_of_different_names():
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
