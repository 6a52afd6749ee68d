"""Composing configurations with Hydra; the only module that uses Hydra's private parts.

Our configuration files are found by their place beside the package, never by the name `conf`,
which a folder of the user's may have too.

Four private parts of Hydra 1.3 are used, since its public interface offers none of this:

- the parser of its command line and what it does for `--help`, `--cfg` and `--info`, because
  `hydra.main` reads `sys.argv` and would run the job as well;
- the basic sweeper's expansion of a grid, so that the whole grid is planned before any run starts;
- its last step of composition, setting plain values. Composing from groups takes 50 ms and more,
  most of what a launch of a thousand tiny runs would do: it is done once in a process. Setting
  values takes 2 ms, and setting each distinct value once for a whole grid next to nothing;
- the callbacks that a launcher's context needs.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fit.errors import PlanError
from sweep import ROOT
from sweep.config import Config, names_plug_in
from sweep.planning.devices import job_cpus
from sweep.planning.quoting import quote_text, read_overrides, refuse_repeated
from sweep.plugins import SETTINGS, describe, unknown_option
from sweep.settings import SYNONYMS, needed, parse, refuse_undeclared, settings, unknown_setting

CONFIG_FOLDER = ROOT / "conf"
VERSION_BASE = "1.3"
EXTRAS = {
    "joblib": "sweep",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "ray_aws": "ray",
}
"""Extra of isoflop that installs a launcher."""

ConfigStore.instance().store(name="config_schema", node=Config)
OmegaConf.register_new_resolver("cpus", job_cpus, replace=True)


def hydra_initialised() -> initialize_config_dir:
    """A context in which Hydra composes from our configuration folder."""
    return initialize_config_dir(str(CONFIG_FOLDER), job_name="isoflop", version_base=VERSION_BASE)


@contextmanager
def wrong_overrides_refused() -> Iterator[None]:
    """Turn Hydra's errors about overrides into a `PlanError` of one line."""
    try:
        yield
    # Some overrides that Hydra cannot take are plain ValueErrors.
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise PlanError(one_line(error)) from error


def parse_command(arguments: Sequence[str] | None, prog: str) -> Namespace:
    """Parse a command line with Hydra's own parser.

    Args:
        arguments: The command's arguments; None for those of this process.
        prog: The command's name in messages about wrong usage.
    """
    parser = get_args_parser()
    parser.prog = prog
    # Intermixed: options may stand between overrides, as in `a=1 --config-dir mine +experiment=b`.
    return parser.parse_intermixed_args(arguments)


def show_information(arguments: Namespace, prog: str) -> None:
    """Print what `--help`, `--hydra-help`, `--cfg` or `--info` asks for."""
    parser = get_args_parser()
    parser.prog = prog
    setbase(VERSION_BASE)
    _run_hydra(
        args=arguments,
        args_parser=parser,
        task_function=lambda config: None,  # none of these options runs the task
        config_path=str(CONFIG_FOLDER),
        config_name="config",
    )


def command_overrides(arguments: Namespace) -> list[str]:
    """Overrides of a command line, with `--config-dir` as an addition to Hydra's search path.

    Raises:
        PlanError: The options replace our root configuration or name no folder, or an override is
            given twice.
    """
    if arguments.config_name or arguments.config_path:
        raise PlanError(
            "--config-name and --config-path replace the schema; add configs of your own by "
            "--config-dir FOLDER, such as FOLDER/experiment/mine.yaml with +experiment=mine."
        )
    if arguments.experimental_rerun or arguments.package:
        raise PlanError("--experimental-rerun and --package are not read here; leave them out.")
    overrides = read_overrides(arguments.overrides)
    refuse_repeated(overrides)
    if not arguments.config_dir:
        return name_options(overrides)
    folder = Path(arguments.config_dir).absolute()
    if not folder.is_dir():
        raise PlanError(f"--config-dir {arguments.config_dir} is no folder; give an existing one.")
    if any(word.lstrip("+~").startswith("hydra.searchpath") for word in overrides):
        raise PlanError(
            "--config-dir and hydra.searchpath are both given, of which one would be lost; give "
            "all folders in one: 'hydra.searchpath=[file:///ONE,file:///OTHER]'."
        )
    return name_options([*overrides, f"hydra.searchpath=[{quote_text(f'file://{folder}')}]"])


def name_options(overrides: Sequence[str]) -> list[str]:
    """Overrides in which the fields of plug-ins have their full names.

    `model.state_size=8` becomes `++model.options.state_size=8` where the model of the user's own
    declares such a field: Hydra sets no key in a table that does not have it yet.

    Raises:
        PlanError: A plug-in cannot be imported, or none declares a field of that name.
    """
    unknown = {word: found for word in overrides if (found := _option(word)) is not None}
    if not unknown:
        return list(overrides)
    named = _named_plug_ins([word for word in overrides if word not in unknown])
    out = []
    for word in overrides:
        section, name, value = unknown.get(word, ("", "", ""))
        owners = {t: s for s, t in named if s.startswith(f"{section}.")}
        if section and owners:
            declared = [f for t, s in owners.items() for f in describe(s, t)["fields"]]
            if name in SYNONYMS and name not in declared:
                return list(overrides)  # another trainer's name of a setting of ours: said later
            if name not in declared:
                raise PlanError(unknown_option(section, name, list(owners), declared))
            word = f"++{section}.options.{name}={value}"
        out.append(word)
    return out


def _option(word: str) -> tuple[str, str, str] | None:
    """Section, name and value of an override that sets no declared setting of its section."""
    key, _, value = word.lstrip("+").partition("=")
    section, _, name = key.partition(".")
    if section not in ("model", "data", "train") or not name or word.startswith("~"):
        return None
    if name.startswith("options."):
        return section, name.removeprefix("options."), value
    return None if key in settings() or not name.isidentifier() else (section, name, value)


def _named_plug_ins(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """The (setting, target) of every plug-in that overrides and the files they choose name."""
    keys = {word: word.lstrip("+").partition("=")[0] for word in overrides}
    with wrong_overrides_refused(), hydra_initialised():
        naming = [
            word for word, k in keys.items() if k in (*SETTINGS, "hydra.searchpath") or is_group(k)
        ]
        shared = compose_shared(naming)
        swept = {
            o.key_or_group: list(o.sweep_string_iterator())
            for o in parse_overrides(naming)
            if o.is_sweep_override() and o.key_or_group in SETTINGS
        }
    return [
        (setting, str(target))
        for setting in SETTINGS
        for target in swept.get(setting, [OmegaConf.select(shared, setting)])
        if names_plug_in(target)
    ]


def expand_grid(overrides: Sequence[str]) -> list[list[str]]:
    """Overrides of every job of a multirun, those of `hydra.sweeper.params` included.

    An axis of `hydra.sweeper.params` is replaced by an override of the same key. Works inside
    `hydra_initialised`, as do all that follow.

    Raises:
        PlanError: An axis has no value, so that there is no job.
    """
    parsed = parse_overrides(overrides)
    given = {o.key_or_group for o in parsed}
    preset = preset_axes(overrides)
    axes = parse_overrides([f"{k}={v}" for k, v in preset.items() if k.lstrip("+~") not in given])
    jobs: list[list[str]] = list(BasicSweeper.split_arguments([*axes, *parsed], None)[0])
    if not jobs:
        raise PlanError(
            f"{' '.join(overrides)} spans no run: a list or pattern in it is empty. Give a value."
        )
    return jobs


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides by Hydra's grammar."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return list(parser.parse_overrides(list(overrides)))


def preset_axes(overrides: Sequence[str]) -> dict[str, Any]:
    """The axes that files of the configuration set in `hydra.sweeper.params`."""
    return dict(compose_shared(overrides).hydra.sweeper.get("params") or {})


def is_group(name: str) -> bool:
    """Whether a name is that of a config group, such as `model` or `hydra/launcher`."""
    loader: Any = GlobalHydra.instance().config_loader()
    return bool(loader.repository.group_exists(name))


def settings_of_file(group: str, choice: str) -> dict[str, Any]:
    """What a file of a config group sets by itself, without its defaults; {} if there is none."""
    loader: Any = GlobalHydra.instance().config_loader()
    found = loader.repository.load_config(f"{group}/{choice}")
    return {} if found is None else dict(found.config)


def compose_shared(overrides: Sequence[str]) -> DictConfig:
    """The configuration that all jobs of a multirun share, Hydra's own part included."""
    fixed = [
        o.input_line
        for o in parse_overrides(overrides)
        if not o.is_sweep_override() and o.input_line is not None
    ]
    return copy.deepcopy(_composed_with_hydra(tuple(fixed), _state_of_files(fixed)))


@functools.lru_cache(maxsize=64)
def _composed_with_hydra(overrides: tuple[str, ...], state: object) -> DictConfig:
    """The configuration, Hydra's own part included; composed once for a state of the files."""
    config = compose("config", overrides=list(overrides), return_hydra_config=True)
    for part in ("launcher", "sweeper"):
        refuse_undeclared(config.hydra[part], f"hydra.{part}.")
    return config


def _state_of_files(overrides: Sequence[str]) -> object:
    """What Hydra composes from beside the overrides; equal where two compositions are equal."""
    if any("searchpath" in text for text in overrides):
        return object()  # files of the user's, which are read anew
    files = CONFIG_FOLDER.rglob("*.yaml")
    return os.getcwd(), *sorted((str(path), path.stat().st_mtime_ns) for path in files)


def compose_multirun(overrides: Sequence[str]) -> DictConfig:
    """The configuration that a launcher of a multirun is set up with."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.compose_config(
        config_name="config", overrides=list(overrides), run_mode=RunMode.MULTIRUN
    )


def make_launcher(config: DictConfig, task: TaskFunction) -> Launcher:
    """The launcher that a multirun's configuration names, set up to run a task."""
    context = HydraContext(
        config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(config)
    )
    return Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task, config=config
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Composition:
    """What jobs that differ only in plain values share."""

    config: DictConfig
    """As Hydra composed it."""
    scratch: DictConfig
    """A copy in which values are set one after the other, to read what Hydra makes of each."""
    values: Mapping[str, Any] | None
    """Plain containers of `config`; None where one setting may depend on another."""
    kinds: Mapping[str, Any]
    """Dataclass of each section."""
    converted: dict[str, tuple[tuple[str, ...], Any]] = dataclasses.field(default_factory=dict)
    """Path and value of each plain override, by its text."""

    @classmethod
    def of(cls, config: DictConfig) -> Composition:
        """Wrap a composed configuration."""
        values: Any = OmegaConf.to_container(config, resolve=False)
        kinds: dict[str, Any] = {
            k: OmegaConf.get_type(config, k) for k, v in values.items() if isinstance(v, dict)
        }
        independent = "${" not in repr(values) and all(
            map(dataclasses.is_dataclass, kinds.values())
        )
        return cls(
            kinds=kinds,
            config=config,
            scratch=copy.deepcopy(config),
            values=values if independent else None,
        )

    def build(self, plain: Sequence[Override]) -> Config | None:
        """The checked configuration with some values set; None where only Hydra can say."""
        if self.values is None or any("${" in str(o.input_line) for o in plain):
            return None
        values: dict[str, Any] = {
            k: dict(v) if isinstance(v, dict) else v for k, v in self.values.items()
        }
        for override in plain:
            path, value = self._convert(override)
            if len(path) > 2 or (len(path) == 1 and isinstance(values.get(path[0]), dict)):
                return None
            (values if len(path) == 1 else values[path[0]])[path[-1]] = value
        if "???" in values.values() or any(
            "???" in v.values() for v in values.values() if isinstance(v, dict)
        ):
            return None  # Hydra's error names what has no value
        for name, kind in self.kinds.items():
            values[name] = kind(**_own_lists(values[name]))
        return Config(**_own_lists(values))

    def _convert(self, override: Override) -> tuple[tuple[str, ...], Any]:
        """Where an override sets a value, and the value in the type that is declared there."""
        text = str(override.input_line)
        if text not in self.converted:
            ConfigLoaderImpl._apply_overrides_to_config([override], self.scratch)
            path = tuple(override.key_or_group.split("."))
            if len(path) > 2:
                return path, None
            section: Any = self.scratch if len(path) == 1 else self.scratch[path[0]]
            node = section._get_node(path[-1])  # of a value that is missing too
            value = node._value()
            if OmegaConf.is_config(node):
                value = OmegaConf.to_container(node, resolve=False)
            self.converted[text] = (path, value)
        return self.converted[text]


@functools.lru_cache(maxsize=64)
def _composition(overrides: tuple[str, ...], state: object) -> Composition:
    """The composition of choices of groups; made once for a state of the files."""
    config = compose("config", overrides=list(overrides))
    refuse_undeclared(config)
    return Composition.of(config)


def _own_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with lists and options copied, so that no two configurations share one."""
    return {k: copy.copy(v) if isinstance(v, list | dict) else v for k, v in values.items()}


class ConfigComposer:
    """Composes the jobs of a grid; jobs that differ only in plain values share one composition."""

    def __init__(self) -> None:
        loader: Any = GlobalHydra.instance().config_loader()
        self._groups = loader.repository
        self._parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, Override] = {}
        self._compositions: dict[tuple[str, ...], Composition] = {}
        self._plain: dict[str, bool] = {}

    def compose(self, job: Sequence[str]) -> DictConfig:
        """Compose what `hydra.compose("config", job)` returns.

        Raises:
            hydra.errors.HydraException: As Hydra does.
            PlanError: A key is not declared.
        """
        shared, plain = self._shared(job)
        if shared is None:
            config = compose("config", overrides=list(job))
            refuse_undeclared(config)
            return config
        config = copy.deepcopy(shared.config)
        ConfigLoaderImpl._apply_overrides_to_config(plain, config)
        return config

    def checked(self, job: Sequence[str]) -> Callable[[], Config]:
        """What makes of a job what `sweep.settings.parse` would, not copied for every cell.

        A key that is not declared is refused here, before it is called: it is wrong in every cell.

        Raises:
            hydra.errors.HydraException: As Hydra does.
            PlanError: As `compose`; as `parse` when it is called.
        """
        shared, plain = self._shared(job)
        if shared is None:
            return partial(parse, self.compose(job))

        def build() -> Config:
            found = shared.build(plain)
            return parse(self.compose(job)) if found is None else found

        return build

    def _shared(self, job: Sequence[str]) -> tuple[Composition | None, list[Override]]:
        """The composition that a job shares and the values it sets; None if it shares none."""
        parsed = [self._parse(text) for text in job]
        plain = [o for o in parsed if self._is_plain(o)]
        rest = [o for o in parsed if not self._is_plain(o)]
        key = tuple(str(o.input_line) for o in rest)
        if key not in self._compositions:
            if not all(self._chooses_group(o) or o.is_hydra_override() for o in rest):
                return None, plain
            self._compositions[key] = _composition(key, _state_of_files(key))
        return self._compositions[key], plain

    def _is_plain(self, override: Override) -> bool:
        """`_sets_one_value`, looked up once for each override of a grid."""
        text = str(override.input_line)
        if text not in self._plain:
            self._plain[text] = self._sets_one_value(override)
        return self._plain[text]

    def _parse(self, text: str) -> Override:
        """Parse one override, once: the jobs of a grid share most of theirs."""
        if text not in self._overrides:
            (self._overrides[text],) = self._parser.parse_overrides([text])
        return self._overrides[text]

    def _chooses_group(self, override: Override) -> bool:
        """Whether an override chooses a file of a config group."""
        return bool(self._groups.group_exists(override.key_or_group))

    def _sets_one_value(self, override: Override) -> bool:
        """Whether an override sets one value, whatever the others do."""
        return not (
            override.is_add()
            or (override.is_force_add() and ".options." not in override.key_or_group)
            or override.is_delete()
            or override.is_hydra_override()
            or override.package is not None
            or isinstance(override.value(), dict)
            or self._chooses_group(override)
        )


def one_line(error: BaseException) -> str:
    """The message of a Hydra or OmegaConf error in one line."""
    launcher = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", str(error))
    if launcher and launcher[1] in EXTRAS:
        extra = EXTRAS[launcher[1]]
        return (
            f"hydra/launcher={launcher[1]} needs the extra '{extra}', which is not installed: "
            f"pip install 'isoflop[{extra}]'"
        )
    text = f"{error}\n{error.__cause__ or ''}"
    file = re.search(r"In '((?!config'|hydra/config')[^']+)': ", text)
    where = "" if file is None else f"in {file[1]}: "
    key = re.search(r"full_key: ([\w.]+)", text)
    if key and re.search(r"Key '.*' not in ", text):
        typed = re.search(r"Could not override '([^'=]+)'", text)
        return where + unknown_setting(typed[1] if typed else key[1])
    missing = re.search(
        r"Could not find '(.+)/([^/']*)'\s+Available options in '.*':\s+((?:\w.*\s+)+)Config", text
    )
    if missing:
        return where + unknown_choice(missing[1], missing[2], missing[3].split())
    given = re.search(r"Error merging override (.*)", text)
    if key and key[1] in settings() and (given or file):
        reason = "" if given else f" ({text.splitlines()[0].partition('composing config: ')[2]})"
        return f"{where}{given[1] if given else key[1]}; {key[1]} takes {needed(key[1])}{reason}."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    dropped = ("full_key", "object_type", "reference_type", "See https")
    kept = [line for line in lines if not line.startswith(dropped)]
    return " ".join(dict.fromkeys(kept)) or repr(error)


def unknown_choice(group: str, choice: str, known: Sequence[str]) -> str:
    """What is said of a file that a config group does not have."""
    plus = "" if group in ("model", "data", "train", "sweep", "hydra/launcher") else "+"
    near = difflib.get_close_matches(choice, known, n=1, cutoff=0.5)
    advice = f"the nearest is {plus}{group}={near[0]}; " if near else ""
    return f"{plus}{group}={choice} is unknown; {advice}known are {', '.join(known)}."
