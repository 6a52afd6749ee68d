"""Thin a grid to a limit on its cost: which runs stay, what that costs the answer, how to launch.

`fit.design.criterion.trim_grid` drops the run that tells least for its price, as long as the law's
parameters can still be distinguished. To first order, the statistics of a design then say how well
N* and the loss at a target budget would be known, before any run is trained.

The runs that stay are written as configuration files that `python -m sweep -m` launches as they
are. Hydra spans products, and what is left of a thinned grid is a list: so every trajectory is a
file of a config group `cell`, and an experiment holds what they share and sweeps over their names,
like the files of `isoflop suggest` (`fit.design.plan_files`). Every setting is written out, so that
the names of runs, which are hashes of what changes their results, stay the same, and the whole grid
can be trained later.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy import stats

from fit.allocation.costs import Machine
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.design.candidates import Candidates
from fit.design.criterion import trim_grid
from fit.design.plan_files import config_text
from fit.design.prior import (
    PRESET_NOISE,
    SHARED_LEAST,
    DesignPrior,
    KnownRuns,
    condition_number,
    prior_of_fit,
    prior_of_preset,
)
from fit.design.suggest import Design, deviations
from fit.files import write_atomically
from fit.quantities import count_noun, power
from fit.query.launch import hydra_value
from sweep.config import Schedule
from sweep.planning.bill import LABEL, PlannedCost, PlanOptions, cost_lines, device_hours, plan_cost
from sweep.planning.grid import LauncherChoice
from sweep.planning.overrides import unread_settings
from sweep.planning.timing import estimate
from sweep.planning.trajectory import keep_lengths

NAME = "trimmed"
NOT_SETTINGS = ("_target_", "_partial_", "_recursive_", "_convert_")
"""Keys of a launcher's configuration that tell Hydra how to build it."""
REACH = 10.0
"""Target budget in units of the grid's largest run, where none is set."""
LEVEL = 0.9
"""Confidence level of the intervals that designs are compared by."""


def trim_lines(
    rows: Sequence[PlannedCost], options: PlanOptions, launcher: LauncherChoice
) -> list[str]:
    """Thin a grid to the limits, write the files that launch what stays, and describe the result.

    Raises:
        PlanError: No part of the grid that identifies the law costs so little.
        RecordError: The files cannot be written.
    """
    done, left = ([r for r in rows if (r.record is None) is new] for new in (False, True))
    kept = left
    for unit in ("flops", "hours", "dollars"):
        limit = getattr(options, unit)
        if limit is not None:
            kept = thin_grid(kept, done, unit, limit, options)
    if len(kept) == len(left):
        return ["", "the grid is within the spend: nothing is dropped"]
    names = {row.run.run for row in kept}
    dropped = [row for row in left if row.run.run not in names]
    return [
        "",
        f"thinned to the spend: {count_noun(len(kept), 'run')} of {len(left)}",
        *cost_lines(plan_cost(kept, options, launcher), options, kept)[1:],
        *compare_designs([*done, *left], [*done, *kept], options),
        *_dropped_lines(dropped),
        "",
        f"python -m sweep -m {write_cells(kept, launcher)}",
    ]


def _dropped_lines(rows: Sequence[PlannedCost]) -> list[str]:
    """Names of dropped runs, without seeds and hashes, and how many there are of each."""
    counts = Counter(row.run.run.rsplit("-", 2)[0] for row in rows)
    names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts.items())
    indent = " " * LABEL
    return textwrap.wrap(
        f"{'dropped':{LABEL}}{names}", 80, subsequent_indent=indent, break_on_hyphens=False
    )


def cost_in_words(cost: float, unit: str) -> str:
    """A cost with its unit."""
    if unit == "flops":
        return f"{power(cost)} FLOP"
    return f"{cost:.3g} device-hours" if unit == "hours" else f"${cost:,.2f}"


def thin_grid(
    rows: Sequence[PlannedCost],
    done: Sequence[PlannedCost],
    unit: str,
    limit: float,
    options: PlanOptions,
) -> list[PlannedCost]:
    """Choose the runs to keep, so that their cost is within a limit.

    Args:
        rows: Runs that have no record yet.
        done: Runs with a record: their losses are known, and they cost nothing more.
        unit: `flops`, `hours` (of devices) or `dollars`.
        limit: Most to spend, in that unit.
        options: For price, prior and target.

    Raises:
        PlanError: No part of the grid that identifies the law costs so little.
    """
    prior = prior_of(rows, done, options)

    def cost(row: PlannedCost) -> float:
        if unit == "flops":
            return row.run.flops_spent
        return device_hours(row) * (1.0 if unit == "hours" else options.price or 0.0)

    candidates = candidates_of(rows, cost)
    allowed = limit
    while True:
        keep = trim_grid(candidates, allowed, prior, cost_text=lambda c: cost_in_words(c, unit))
        kept = _charge_trunks([rows[i] for i in keep], options.machine)
        total = sum(map(cost, kept))
        if total <= limit:
            return kept
        # trim_grid prices tokens only; starts and held-out losses come on top: try a lower limit
        allowed *= min(0.99, limit / total)


def _charge_trunks(rows: Sequence[PlannedCost], machine: Machine | None) -> list[PlannedCost]:
    """The rows with their costs once the other branches of their trunks are dropped."""
    by_trunk: dict[tuple[int, str], list[PlannedCost]] = {}
    for row in rows:
        by_trunk.setdefault(trunk_of(row), []).append(row)
    charged = []
    for group in by_trunk.values():
        part = keep_lengths(group[0].trajectory, [row.run.tokens for row in group])
        for row, run in zip(sorted(group, key=lambda r: r.run.tokens), part.runs, strict=True):
            cost = estimate(part, run, row.timing, machine)
            charged.append(dataclasses.replace(row, run=run, trajectory=part, estimate=cost))
    return charged


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignValue:
    """How well a set of runs would determine the law, N* and the loss at the target."""

    kappa: float
    """Condition number of the law's parameters."""
    params_factor: float
    """Half-width of the interval of N* at the target, as a factor."""
    loss_margin: float
    """Half-width of the interval of the loss there, as a share of the loss."""


def candidates_of(rows: Sequence[PlannedCost], cost: Callable[[PlannedCost], float]) -> Candidates:
    """Planned runs as candidates of a design, priced per token; a shared trunk is paid once."""
    code = {key: i for i, key in enumerate(dict.fromkeys(map(trunk_of, rows)))}
    size = np.array([code[trunk_of(row)] for row in rows], dtype=np.int64)
    own = np.array([row.run.flops_spent / row.trajectory.flops_per_token.exact for row in rows])
    price = np.bincount(size, [cost(row) for row in rows]) / np.bincount(size, own)
    trains = [row.trajectory.config.train for row in rows]
    shared = all(train.schedule is Schedule.wsd for train in trains)
    return Candidates(
        params=np.array([float(row.trajectory.params.matmul) for row in rows]),
        tokens=np.array([float(row.run.tokens) for row in rows]),
        flops_per_token=price[size],
        size=size,
        cooldown=max(train.cooldown for train in trains) if shared else 1.0,
    )


def prior_of(
    rows: Sequence[PlannedCost], done: Sequence[PlannedCost], options: PlanOptions
) -> DesignPrior:
    """Parameters that the law may have, and the runs whose losses are known already."""
    every = [*done, *rows]
    target = options.target or REACH * max(row.run.flops for row in every)
    params, tokens = points_of(every)
    source = ScalingLaw.of(options.prior)
    if source.fit is not None:
        prior = prior_of_fit(source, source.fit, target)
    else:
        middle = (math.exp(np.log(params).mean()), math.exp(np.log(tokens).mean()))
        prior = prior_of_preset(source, target, centre=middle, noise=PRESET_NOISE)
    known = None
    if done:
        known = KnownRuns(
            params=params[: len(done)], tokens=tokens[: len(done)], trunk=codes_of(done)
        )
    return dataclasses.replace(prior, known=known, shared=max(prior.shared, SHARED_LEAST))


def design_value(rows: Sequence[PlannedCost], prior: DesignPrior) -> DesignValue:
    """How well some runs would determine N* and the loss at the target, to first order."""
    params, tokens = points_of(rows)
    trunk = codes_of(rows)
    candidates = candidates_of(rows, lambda row: row.run.flops_spent)
    first = np.zeros(len(rows), dtype=np.int64)
    design = Design(
        candidates=candidates, chosen=np.arange(len(rows)), replicate=first, trunk=trunk
    )
    free = prior.thetas.shape[1]
    dof = min(len(np.unique(trunk)) - 1, len(rows) - free)
    half = np.full(2, np.inf)
    if dof > 0:
        quantile = float(stats.t.ppf(0.5 + LEVEL / 2, dof))
        half = quantile * deviations(dataclasses.replace(prior, known=None), design)
    with np.errstate(over="ignore"):
        factor = float(np.exp(half[0]))
    kappa = condition_number(prior, params, tokens)
    return DesignValue(kappa=kappa, params_factor=factor, loss_margin=float(half[1]))


def compare_designs(
    whole: Sequence[PlannedCost], part: Sequence[PlannedCost], options: PlanOptions
) -> list[str]:
    """How much less is known after thinning, as lines of text."""
    prior = prior_of(whole, [], options)
    before, after = design_value(whole, prior), design_value(part, prior)
    return [
        f"kappa     {before.kappa:.0f} -> {after.kappa:.0f} (40-160 is healthy)",
        f"N*        known to a factor {before.params_factor:.3g} -> {after.params_factor:.3g} "
        f"at {power(prior.flops)} FLOP",
        f"loss      known to {before.loss_margin:.2%} -> {after.loss_margin:.2%} there "
        f"({LEVEL:.0%}, by {prior.source.name})"[:70],
    ]


def points_of(rows: Sequence[PlannedCost]) -> tuple[Floats, Floats]:
    """N [parameters] and D [tokens] of runs."""
    params = np.array([float(row.trajectory.params.matmul) for row in rows])
    return params, np.array([float(row.run.tokens) for row in rows])


def codes_of(rows: Sequence[PlannedCost]) -> NDArray[np.int64]:
    """An integer code of each run's trunk."""
    codes = np.unique(
        [f"{cell} {trunk}" for cell, trunk in map(trunk_of, rows)], return_inverse=True
    )
    return np.asarray(codes[1], dtype=np.int64)


def trunk_of(row: PlannedCost) -> tuple[int, str]:
    """Identity of the trunk that a run belongs to: its cell and the trunk's hash."""
    return row.cell, row.trajectory.trunk


def write_cells(rows: Sequence[PlannedCost], launcher: LauncherChoice) -> str:
    """Write the configuration files that launch a list of runs, in place of earlier ones.

    Args:
        rows: The runs.
        launcher: The launcher that will start them.

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
        different = {k: v for k, v in settings.items() if k not in shared}
        write_atomically(folder / "cell" / f"{name}.yaml", config_text(_nested(different)))
    hydra = {
        "sweeper": {"params": {"+cell": ",".join(cells)}},
        "launcher": {k: v for k, v in launcher.settings.items() if k not in NOT_SETTINGS},
    }
    text = config_text(
        {**_nested(shared), "hydra": hydra},
        defaults=[{"override /hydra/launcher": launcher.name}],
    )
    write_atomically(folder / "experiment" / f"{NAME}.yaml", text)
    search = hydra_value([f"file://{folder}"])
    return f"+experiment={NAME} {shlex.quote(f'hydra.searchpath={search}')}"


def _cells(rows: Sequence[PlannedCost]) -> dict[str, dict[str, Any]]:
    """Settings of every trajectory that has one of the runs, by a readable name."""
    by_trunk: dict[tuple[int, str], list[PlannedCost]] = {}
    for row in rows:
        by_trunk.setdefault(trunk_of(row), []).append(row)
    cells = {}
    for number, group in enumerate(by_trunk.values()):
        t = group[0].trajectory
        cells[f"{number:03}-w{t.shape.width}-d{t.shape.depth}-s{t.seed}"] = _settings(group)
    return cells


def _settings(group: Sequence[PlannedCost]) -> dict[str, Any]:
    """The whole configuration of a trajectory that keeps only some of its runs."""
    config = group[0].trajectory.config
    settings: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    for name in unread_settings(config):  # may be left over from another source or schedule
        section, _, key = name.partition(".")
        settings[section].pop(key)
    lengths = sorted(row.run.tokens for row in group)
    settings["train"]["tokens"] = lengths
    settings["sweep"]["flops"] = None
    return dict(settings)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `_flat`."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, key = name.split(".")
        level = nested
        for group in groups:
            level = level.setdefault(group, {})
        level[key] = value
    return nested
