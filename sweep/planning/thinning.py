"""What a set of planned runs would tell of N* and the loss at a target, before any is made.

A grid thinned to a spend: what stays, what that costs the answer, and how to launch it.

The statistician's design (`fit.design.suggest.trim_grid`) drops the run that tells least for its
price, as long
as the law's parameters stay told apart. What stays is written as configs that Hydra is pointed to
(`sweep.planning.thinning`); a run keeps its name, so that the whole grid can be made later.

Any list of planned runs as configs that `python -m sweep -m` launches as they are.

Hydra spans products, and what is left of a thinned grid is a list. So every trajectory is a file of
a config group `cell`, and an experiment holds what they share and sweeps over their names, like the
files of `isoflop suggest` (`fit.design.plan_files`). Every setting is written out: names of runs,
which are
hashes of what changes them, stay what they were.
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

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.design.candidates import Candidates
from fit.design.criterion import (
    PRESET_NOISE,
    SHARED_LEAST,
    DesignPrior,
    KnownRuns,
    condition_number,
    prior_of_fit,
    prior_of_preset,
)
from fit.design.plan_files import config_text
from fit.design.suggest import Design, deviations, trim_grid
from fit.files import write_atomically
from fit.laws.published import preset
from fit.quantities import count_noun, power
from fit.query.launch import hydra_value
from fit.results import read_fit
from sweep.config import Config, Schedule
from sweep.planning.bill import LABEL, PlannedCost, PlanOptions, cost_lines, device_hours, plan_cost
from sweep.planning.grid import LauncherChoice
from sweep.planning.timing import estimate
from sweep.planning.trajectory import part_of, warmup_tokens

NAME = "trimmed"
NOT_SETTINGS = ("_target_", "_partial_", "_recursive_", "_convert_")
REACH = 10.0
"""Target budget in units of the grid's largest run, where none is given."""
LEVEL = 0.9


def write_cells(rows: Sequence[PlannedCost], launcher: LauncherChoice) -> str:
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


def _cells(rows: Sequence[PlannedCost]) -> dict[str, dict[str, Any]]:
    """Settings of every trajectory that has one of the runs, by a readable name."""
    grouped: dict[tuple[int, str], list[PlannedCost]] = {}
    for row in rows:
        grouped.setdefault((row.cell, row.trajectory.trunk), []).append(row)
    found = {}
    for number, group in enumerate(grouped.values()):
        t = group[0].trajectory
        name = f"{number:03}-w{t.shape.width}-d{t.shape.depth}-s{t.seed}"
        found[name] = _settings(t.config, group)
    return found


def _settings(config: Config, group: Sequence[PlannedCost]) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignValue:
    """What a set of runs would tell."""

    kappa: float
    params_factor: float
    """Half-width of the interval of N* at the target, as a factor."""
    loss_margin: float
    """Half-width of the interval of the loss there, as a share of it."""


def candidates_of(rows: Sequence[PlannedCost], cost: Callable[[PlannedCost], float]) -> Candidates:
    """Planned runs as the statistician's candidates, priced by the token, trunks paid once."""
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
    rows: Sequence[PlannedCost], done: Sequence[PlannedCost], terms: PlanOptions
) -> DesignPrior:
    """Laws that may be true, with the runs that are there already."""
    every = [*done, *rows]
    target = terms.target or REACH * max(row.run.flops for row in every)
    params, tokens = points_of(every)
    folder = Path(terms.prior)
    if folder.is_dir():
        fit = read_fit(folder)
        prior = prior_of_fit(ScalingLaw.from_fit(fit), fit, target)
    else:
        source = ScalingLaw.from_preset(preset(terms.prior))
        middle = (math.exp(np.log(params).mean()), math.exp(np.log(tokens).mean()))
        prior = prior_of_preset(source, target, centre=middle, noise=PRESET_NOISE)
    known = None
    if done:
        known = KnownRuns(
            params=params[: len(done)], tokens=tokens[: len(done)], trunk=codes_of(done)
        )
    return dataclasses.replace(prior, known=known, shared=max(prior.shared, SHARED_LEAST))


def design_value(rows: Sequence[PlannedCost], prior: DesignPrior) -> DesignValue:
    """What some runs would tell of N* and the loss at the target, to first order."""
    params, tokens = points_of(rows)
    trunk = codes_of(rows)
    candidates = candidates_of(rows, lambda row: row.run.flops_spent)
    nothing = np.zeros(len(rows), dtype=np.int64)
    design = Design(
        candidates=candidates, chosen=np.arange(len(rows)), replicate=nothing, trunk=trunk
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
    whole: Sequence[PlannedCost], part: Sequence[PlannedCost], terms: PlanOptions
) -> list[str]:
    """What thinning costs the answer."""
    prior = prior_of(whole, [], terms)
    before, after = design_value(whole, prior), design_value(part, prior)
    return [
        f"kappa     {before.kappa:.0f} -> {after.kappa:.0f} (40-160 is healthy)",
        f"N*        known to a factor {before.params_factor:.3g} -> {after.params_factor:.3g} "
        f"at {power(prior.flops)} FLOP",
        f"loss      known to {before.loss_margin:.2%} -> {after.loss_margin:.2%} there "
        f"({LEVEL:.0%}, by {prior.source.name})"[:70],
    ]


def points_of(rows: Sequence[PlannedCost]) -> tuple[Floats, Floats]:
    """N and D of runs."""
    params = np.array([float(row.trajectory.params.matmul) for row in rows])
    return params, np.array([float(row.run.tokens) for row in rows])


def codes_of(rows: Sequence[PlannedCost]) -> NDArray[np.int64]:
    """Code of each run's trunk."""
    codes = np.unique(
        [f"{cell} {trunk}" for cell, trunk in map(trunk_of, rows)], return_inverse=True
    )
    return np.asarray(codes[1], dtype=np.int64)


def trunk_of(row: PlannedCost) -> tuple[int, str]:
    """Which trajectory a run belongs to."""
    return row.cell, row.trajectory.trunk


def trim_lines(
    rows: Sequence[PlannedCost], terms: PlanOptions, launcher: LauncherChoice
) -> list[str]:
    """Thin a grid to the terms, write the plan that launches what stays, and say what was done.

    Raises:
        PlanError: No healthy part of the grid costs so little.
        RecordError: The plan cannot be written.
    """
    done, left = ([r for r in rows if (r.record is None) is new] for new in (False, True))
    stay = left
    for unit in ("flops", "hours", "dollars"):
        limit = getattr(terms, unit)
        if limit is not None:
            stay = thinned(stay, done, unit, limit, terms)
    if len(stay) == len(left):
        return ["", "the grid is within the spend: nothing is dropped"]
    kept = {row.run.run for row in stay}
    gone = [row for row in left if row.run.run not in kept]
    return [
        "",
        f"thinned to the spend: {count_noun(len(stay), 'run')} of {len(left)}",
        *cost_lines(plan_cost(stay, terms, launcher), terms, stay)[1:],
        *compare_designs([*done, *left], [*done, *stay], terms),
        *_dropped(gone),
        "",
        f"python -m sweep -m {write_cells(stay, launcher)}",
    ]


def thinned(
    rows: Sequence[PlannedCost],
    done: Sequence[PlannedCost],
    unit: str,
    limit: float,
    terms: PlanOptions,
) -> list[PlannedCost]:
    """The runs that stay.

    Args:
        rows: Runs to be made.
        done: Runs with a record: they are known, and cost nothing more.
        unit: `flops`, `hours` (of devices) or `dollars`.
        limit: To spend at most.
        terms: Price, prior and target.

    Raises:
        PlanError: No healthy part costs so little.
    """
    prior = prior_of(rows, done, terms)

    def cost(row: PlannedCost) -> float:
        if unit == "flops":
            return row.run.flops_spent
        return device_hours(row) * (1.0 if unit == "hours" else terms.price or 0.0)

    candidates = candidates_of(rows, cost)
    allowed = limit
    while True:
        keep = trim_grid(candidates, allowed, prior, cost_text=lambda c: cost_in_words(c, unit))
        stay = _shortened([rows[i] for i in keep])
        bill = sum(map(cost, stay))
        if bill <= limit:
            return stay
        allowed *= min(0.99, limit / bill)  # what a run costs beside its tokens


def _dropped(rows: Sequence[PlannedCost]) -> list[str]:
    """The names of runs without their seeds and hashes, and how many there are of each."""
    counts = Counter(row.run.run.rsplit("-", 2)[0] for row in rows)
    names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts.items())
    indent = " " * LABEL
    return textwrap.wrap(
        f"{'dropped':{LABEL}}{names}", 80, subsequent_indent=indent, break_on_hyphens=False
    )


def cost_in_words(cost: float, unit: str) -> str:
    """A cost in words."""
    if unit == "flops":
        return f"{power(cost)} FLOP"
    return f"{cost:.3g} device-hours" if unit == "hours" else f"${cost:,.2f}"


def _shortened(rows: Sequence[PlannedCost]) -> list[PlannedCost]:
    """The rows, each with what it costs now that other branches of its trunk are gone."""
    kept: dict[tuple[int, str], list[PlannedCost]] = {}
    for row in rows:
        kept.setdefault(trunk_of(row), []).append(row)
    found = []
    for group in kept.values():
        t = group[0].trajectory
        again = part_of(t, [row.run.tokens for row in group])
        for row, run in zip(sorted(group, key=lambda r: r.run.tokens), again.runs, strict=True):
            guess = estimate(again, run, row.pace)
            found.append(dataclasses.replace(row, run=run, trajectory=again, estimate=guess))
    return found
