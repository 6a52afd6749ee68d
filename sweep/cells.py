"""Any list of planned runs as configs that `python -m sweep -m` launches as they are.

Hydra spans products, and what is left of a thinned grid is a list. So every trajectory is a file of
a config group `cell`, and an experiment holds what they share and sweeps over their names, like the
files of `isoflop suggest` (`fit.planfile`). Every setting is written out: names of runs, which are
hashes of what changes them, stay what they were.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fit.launch import hydra_value
from fit.planfile import config_text
from fit.store import write_atomically
from sweep.bill import Planned
from sweep.config import Config
from sweep.grid import Launcher
from sweep.schedule import warmup_tokens

NAME = "trimmed"
NOT_SETTINGS = ("_target_", "_partial_", "_recursive_", "_convert_")


def write_cells(rows: Sequence[Planned], launcher: Launcher) -> str:
    """Write the files that launch some runs, in place of earlier ones.

    Args:
        rows: The runs.
        launcher: What will start them.

    Returns:
        The arguments of `python -m sweep -m` and of `python -m sweep.plan`, quoted for a shell.

    Raises:
        RecordError: The sweep's folder cannot be written to.
    """
    config = rows[0].trajectory.config
    folder = (Path(config.runs_dir) / config.name / f".{NAME}").absolute()
    for group in ("experiment", "cell"):
        shutil.rmtree(folder / group, ignore_errors=True)
    cells = {name: _flat(settings) for name, settings in _cells(rows).items()}
    first = next(iter(cells.values()))
    shared = {k: v for k, v in first.items() if all(c.get(k, k) == v for c in cells.values())}
    for name, settings in cells.items():
        own = {k: v for k, v in settings.items() if k not in shared}
        write_atomically(folder / "cell" / f"{name}.yaml", config_text(_nested(own)))
    launch = {k: v for k, v in launcher.settings.items() if k not in NOT_SETTINGS}
    engine = {"sweeper": {"params": {"+cell": ",".join(cells)}}, "launcher": launch}
    text = config_text(
        {**_nested(shared), "hydra": engine},
        defaults=[{"override /hydra/launcher": launcher.name}],
    )
    write_atomically(folder / "experiment" / f"{NAME}.yaml", text)
    search = hydra_value([f"file://{folder}"])
    return f"+experiment={NAME} {shlex.quote(f'hydra.searchpath={search}')}"


def _cells(rows: Sequence[Planned]) -> dict[str, dict[str, Any]]:
    """Settings of every trajectory that has one of the runs, by a readable name."""
    grouped: dict[tuple[int, str], list[Planned]] = {}
    for row in rows:
        grouped.setdefault((row.cell, row.trajectory.trunk), []).append(row)
    found = {}
    for number, group in enumerate(grouped.values()):
        t = group[0].trajectory
        name = f"{number:03}-w{t.shape.width}-d{t.shape.depth}-s{t.seed}"
        found[name] = _settings(t.config, group)
    return found


def _settings(config: Config, group: Sequence[Planned]) -> dict[str, Any]:
    """The whole configuration of a trajectory that has some of its runs alone."""
    settings: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    lengths = sorted(row.run.tokens for row in group)
    settings["train"]["tokens"] = lengths
    settings["sweep"]["flops"] = None
    warmup = group[0].run.rate.warmup
    given = config.train.warmup_tokens
    params = group[0].trajectory.params.matmul
    if warmup_tokens(params, lengths[0], given) != warmup:  # its shortest run is gone
        settings["train"]["warmup_tokens"] = warmup
    return dict(settings)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `_flat`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, key = name.split(".")
        level = found
        for group in groups:
            level = level.setdefault(group, {})
        level[key] = value
    return found
