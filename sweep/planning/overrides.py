"""Overrides that would not do what they say: refused before any run starts.

`check_overrides` reads a command as it was typed; `check_effect` compares it with the cells that
came of it. A setting that one cell reads may stand in all of them, as `model.top_k` in a sweep over
`model.experts=0,4`; a setting that no cell reads is refused unless it has its default. A value that
a file sets is let pass where the command itself chose what leaves it unread: `+experiment=mine
data=text` says that another source is meant.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from fit.errors import PlanError
from sweep.config import Config, DataConfig, DepthRule, Schedule
from sweep.data.registry import SOURCES
from sweep.planning.compose import is_group, parse_overrides, preset_axes, settings_of_file
from sweep.settings import SECTIONS

DEFINING = {"model": "width", "data": "name", "train": "schedule"}
"""The setting by which a file of a group is known: if another value stands, the choice is lost."""
HYDRA_READ = ("launcher", "searchpath", "sweep", "job.name", "job.env_set", "job.env_copy")
"""Parts of Hydra's own configuration that a launch reads."""
TOKEN_FILES = (".bin", ".npy", ".idx")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadRule:
    """A setting that a configuration does not read because of another."""

    setting: str
    unread: Callable[[Config], bool]
    because: str
    """What decides that, in words."""
    deciders: tuple[str, ...]
    """Keys and groups that set what decides."""
    remedy: str = ""
    """An override with which it would be read."""


RULES = (
    UnreadRule(
        setting="train.tokens",
        unread=lambda c: c.sweep.flops is not None,
        because="sweep.flops sets the tokens of every run",
        deciders=("sweep.flops", "sweep"),
    ),
    *(
        UnreadRule(
            setting=setting,
            unread=lambda c: c.train.schedule is not Schedule.wsd,
            because="only train.schedule=wsd has a cooldown",
            deciders=("train.schedule", "train"),
        )
        for setting in ("train.cooldown", "train.cooldown_shape")
    ),
    *(
        UnreadRule(
            setting=setting,
            unread=lambda c: c.train.optimizer != "muon",
            because="only train.optimizer=muon reads it",
            deciders=("train.optimizer", "train"),
            remedy="train.optimizer=muon",
        )
        for setting in ("train.muon_lr", "train.muon_momentum")
    ),
    UnreadRule(
        setting="train.batch_power",
        unread=lambda c: not c.train.batch_at_1m,
        because="train.batch_at_1m=0 keeps the batch constant",
        deciders=("train.batch_at_1m", "train"),
        remedy="train.batch_at_1m=TOKENS",
    ),
    UnreadRule(
        setting="train.lr_decay_from",
        unread=lambda c: not c.train.lr_decay_power,
        because="train.lr_decay_power=0 keeps the rate constant",
        deciders=("train.lr_decay_power", "train"),
        remedy="train.lr_decay_power=POWER",
    ),
    UnreadRule(
        setting="train.base_depth",
        unread=lambda c: c.train.depth_rule is DepthRule.none,
        because="train.depth_rule=none does not read it",
        deciders=("train.depth_rule", "train"),
        remedy="train.depth_rule=completep",
    ),
    *(
        UnreadRule(
            setting=setting,
            unread=lambda c: not c.model.experts,
            because="model.experts=0 has no router",
            deciders=("model.experts", "model"),
            remedy="model.experts=NUMBER",
        )
        for setting in ("train.balance_loss", "model.top_k")
    ),
    UnreadRule(
        setting="model.gated",
        unread=lambda c: c.model.mlp is not None,
        because="model.mlp says whether the MLP is gated",
        deciders=("model.mlp", "model"),
    ),
    UnreadRule(
        setting="data.separator",
        unread=lambda c: not c.model.document_mask,
        because="model.document_mask=false does not read it",
        deciders=("model.document_mask",),
        remedy="model.document_mask=true",
    ),
    UnreadRule(
        setting="data.vocab",
        unread=lambda c: "tokenizer" in SOURCES[c.data.name].reads and c.data.tokenizer != "bpe",
        because="only data.tokenizer=bpe is trained to a size; others have theirs",
        deciders=("data.tokenizer",),
        remedy="data.tokenizer=bpe",
    ),
)
"""Settings outside the data section, and one of it, that others leave unread."""


def unread_settings(config: Config) -> dict[str, UnreadRule]:
    """The settings that a configuration does not read, by their full names."""
    return {r.setting: r for r in RULES if r.unread(config)} | _unread_data(config.data.name)


@functools.cache
def _unread_data(name: str) -> dict[str, UnreadRule]:
    """The settings of the data that a source does not read."""
    fields = [f.name for f in dataclasses.fields(DataConfig) if f.name not in SOURCES[name].reads]
    return {
        f"data.{field}": UnreadRule(
            setting=f"data.{field}",
            unread=lambda config: config.data.name == name,
            because=f"data={name} does not read it",
            deciders=("data", "data.name"),
        )
        for field in fields
    }


def value_of(config: Config, setting: str) -> Any:
    """The value of a setting, by its full name."""
    section, _, name = setting.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def check_overrides(overrides: Sequence[str], *, multirun: bool) -> None:
    """Refuse overrides that contradict one another or that nothing would obey.

    Works inside `hydra_initialised`.

    Args:
        overrides: Of the command.
        multirun: Whether they span a grid.

    Raises:
        PlanError: One deletes a setting, chooses several files of a group at once, or sets a part
            of Hydra that a launch does not read; or a grid or launcher is asked for without `-m`.
    """
    parsed = parse_overrides(overrides)
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if not key:
            raise PlanError(f"{text} names no setting; KEY=VALUE is needed, as in seed=1.")
        if key.split(".")[0].split("/")[0] == "hydra":
            _check_hydra(override, multirun=multirun)
        elif override.is_delete():
            raise PlanError(
                f"{text} deletes {key}, and every setting needs a value; give it another one: "
                f"{key}=VALUE."
            )
        elif is_group(key):
            _check_choice(override)
    if not multirun:
        axes = preset_axes(overrides) if any(is_group(o.key_or_group) for o in parsed) else {}
        if axes:
            spans = ", ".join(k.lstrip("+") for k in axes)
            raise PlanError(
                f"{' '.join(overrides)} spans a grid over {spans}, and without -m one run of it "
                "would be trained; add -m, as in python -m sweep -m +experiment=demo."
            )


def _check_hydra(override: Override, *, multirun: bool) -> None:
    """Refuse a setting of Hydra that a launch does not read.

    Raises:
        PlanError: It is one.
    """
    key, text = override.key_or_group, str(override.input_line)
    name = key.removeprefix("hydra").lstrip("./")
    if override.is_sweep_override():
        raise PlanError(f"{text}: a sweep has one value of {key}; give one.")
    if "/" in key and key != "hydra/launcher":
        return  # hydra/job_logging, say: for the processes of a launcher
    if name.startswith("sweeper"):
        raise PlanError(
            f"{text}: the axes of a sweep are overrides, as in -m seed=0,1,2; in a file they stand "
            "under hydra.sweeper.params."
        )
    if not any(name == part or name.startswith(f"{part}.") for part in HYDRA_READ):
        raise PlanError(
            f"{text} would change nothing: a sweep does not read {key}. Runs go to runs_dir/name; "
            f"of Hydra it reads {', '.join(f'hydra.{p}' for p in HYDRA_READ)}. Leave it out."
        )
    if name.startswith("launcher") and not multirun:
        raise PlanError(
            f"{text}: a launcher starts the cells of a sweep, and one run without -m trains here; "
            "add -m."
        )
    if name == "searchpath":
        places: Any = override.value()
        for place in places if isinstance(places, list) else [places]:
            folder = str(place).removeprefix("file://")
            if "://" not in folder and not Path(folder).is_dir():
                raise PlanError(f"hydra.searchpath: {folder} is no folder; give an existing one.")


def _check_choice(override: Override) -> None:
    """Refuse a choice of a config group that is no single file.

    Raises:
        PlanError: It is none, or an experiment is one value of an axis.
    """
    group, text = override.key_or_group, str(override.input_line)
    if group == "experiment" and override.is_sweep_override():
        raise PlanError(
            f"{text}: an experiment may span a grid of its own, which a list of them would lose; "
            "run one experiment a command."
        )
    if group in SECTIONS and text.startswith("+"):
        raise PlanError(f"{text}: {group} has a choice already; write {text.lstrip('+')}.")
    if group not in SECTIONS and not text.startswith("+"):
        raise PlanError(f"{text}: {group} has no choice yet; write +{text}.")
    value = None if override.is_sweep_override() else override.value()
    if isinstance(value, list):
        several = ",".join(map(str, value))
        raise PlanError(
            f"{text} chooses several at once, of which the last would win; to sweep over them: "
            f"-m {group}={several}."
        )
    if not override.is_sweep_override() and not isinstance(value, str | dict):
        raise PlanError(f"{text}: {group} takes the name of a file in conf/{group}.")
    if value == "":
        raise PlanError(f"{text} is empty; {group} takes the name of a file in conf/{group}.")


FORMER_DEFAULTS = {
    "data.pattern": ("**/*.txt,**/*.md,**/*.rst,**/*.gz,**/*.jsonl,**/*.parquet",),
    "train.cooldown": (0.2,),
}
"""Values that recipes of older fits hold for settings that their runs did not read."""


def check_effect(
    overrides: Sequence[str],
    jobs: Sequence[Sequence[str]],
    configs: Sequence[Config | PlanError],
    default: Config,
) -> None:
    """Refuse settings that no cell of a grid reads, and choices that others replace.

    Works inside `hydra_initialised`.

    Args:
        overrides: Of the command.
        jobs: The overrides of every cell.
        configs: What they were composed to, in their order.
        default: The configuration without overrides.

    Raises:
        PlanError: There is one.
    """
    given = _given_keys(overrides)
    known = [c for c in configs if isinstance(c, Config) and c.data.name in SOURCES]
    _check_unread(given, known, default)
    _check_replaced(given, jobs, configs)


def _given_keys(overrides: Sequence[str]) -> set[str]:
    """Keys and groups that a command sets, those inside a dictionary too."""
    keys = set()
    for override in parse_overrides(overrides):
        keys.add(override.key_or_group)
        value = None if override.is_sweep_override() else override.value()
        if isinstance(value, dict):
            keys |= {f"{override.key_or_group}.{k}" for k in value}
    return keys


def _check_unread(given: Collection[str], configs: Sequence[Config], default: Config) -> None:
    """Refuse settings that no cell reads and that do not have their default.

    Raises:
        PlanError: There is one.
    """
    unread = [unread_settings(c) for c in configs]
    everywhere = set(unread[0]).intersection(*unread) if unread else set()
    wrong: dict[str, UnreadRule] = {}
    for setting in sorted(everywhere):
        rule = unread[0][setting]
        values = [value_of(c, setting) for c in configs]
        defaults = [value_of(default, setting), *FORMER_DEFAULTS.get(setting, ())]
        changed = any(v not in defaults for v in values)
        if setting == "train.tokens" and setting in given and "sweep.flops" in given:
            changed = True  # a query never writes both, so that a default value is no excuse
        if changed and (setting in given or not set(rule.deciders) & set(given)):
            wrong[setting] = rule
    if not wrong:
        return
    written = ", ".join(f"{k}={_shown(value_of(configs[0], k))}" for k in wrong)
    reasons = "; ".join(dict.fromkeys(rule.because for rule in wrong.values()))
    data = [k.removeprefix("data.") for k, rule in wrong.items() if "data" in rule.deciders]
    remedies = [rule.remedy for rule in wrong.values() if rule.remedy]
    if data:
        remedies.append(_meant(data, configs[0]))
    out = "Leave it out" if len(wrong) == 1 else "Leave them out"
    advice = ", or ".join([out, *(f"add {r}" for r in dict.fromkeys(remedies) if r)])
    raise PlanError(f"{written} would change nothing: {reasons}. {advice}.")


def _shown(value: Any) -> str:
    """A value as an override writes it, shortened."""
    match value:
        case None | bool():
            text = {None: "null", True: "true", False: "false"}[value]
        case float():
            text = f"{value:g}".replace("e+0", "e").replace("e+", "e")
        case list():
            text = f"[{','.join(map(_shown, value))}]"
        case _:
            text = str(value)
    return text if len(text) < 60 else f"{text[:56]}..."


def _meant(names: Collection[str], config: Config) -> str:
    """The source that was probably meant by settings that the chosen one does not read."""
    fitting = [name for name, source in SOURCES.items() if set(names) <= source.reads]
    if not fitting:
        each = (f"{'|'.join(n for n, s in SOURCES.items() if k in s.reads)} for {k}" for k in names)
        return f"data={', data='.join(each)}"
    if set(names) <= {"also_heldout", "tasks"}:  # the language of stories is no remedy
        return "data=text data.path=PATH, or data._target_ of a source with `encode`"
    if fitting == ["own"]:  # no file of the group: it is what the setting below chooses
        return "data._target_=package.module:function, which declares it"
    path = config.data.path
    if "path" in names:
        return f"data={next(n for n in _kinds_of(str(path)) if n in fitting)}"
    needs_path = path is None and fitting[0] != "hf" and "path" in SOURCES[fitting[0]].reads
    return f"data={fitting[0]}" + (" data.path=PATH" if needs_path else "")


def _kinds_of(path: str) -> list[str]:
    """Sources that a path probably belongs to, the likeliest first."""
    place = Path(path).expanduser()
    if place.suffix in TOKEN_FILES or any(
        any(place.glob(f"*{suffix}")) for suffix in TOKEN_FILES if place.is_dir()
    ):
        return ["tokens", "text"]
    if not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return ["hf", "text"]
    return ["text", "tokens", "hf"]


def _check_replaced(
    given: Collection[str], jobs: Sequence[Sequence[str]], configs: Sequence[Config | PlanError]
) -> None:
    """Refuse a file of a group whose defining setting another file replaces in every cell.

    Raises:
        PlanError: There is one, as `model=w128` beside an experiment that sweeps the shapes.
    """
    lost: dict[str, tuple[str, Any]] = {}
    kept: set[str] = set()
    choices = [g for g in DEFINING if g in given and f"{g}.{DEFINING[g]}" not in given]
    files: dict[str, Mapping[str, Any]] = {}
    for job, config in zip(jobs, configs, strict=True):
        if not choices or isinstance(config, PlanError):
            continue
        for text in job:
            group, _, choice = text.lstrip("+").partition("=")
            if group not in choices:
                continue
            if text not in files:
                files[text] = settings_of_file(group, choice)
            setting = f"{group}.{DEFINING[group]}"
            wanted, value = files[text].get(DEFINING[group]), value_of(config, setting)
            value = value.value if isinstance(value, Enum) else value
            if wanted is None or wanted == value:
                kept.add(text)
            else:
                lost[text] = (setting, value)
    for text, (setting, value) in lost.items():
        if text not in kept:
            raise PlanError(
                f"{text} has no effect: {setting}={value} is set by another file or axis of the "
                f"command. Leave out one of the two, or set {setting} itself."
            )
