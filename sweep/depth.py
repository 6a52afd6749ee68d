"""`isoflop sweep depth RUNS`: the depth at which trained models solve each task, beside the proof.

A model solves a task where its excess per answer is at most `SOLVED` = -ln .95 = .051 nats: as if
it gave every answer that is determined a probability of .95. The excess is the loss on the answers
less that of a perfect predictor on the same held-out sample. Of each depth the shape and learning
rate of least mean loss count, over seeds; the layers by proof are those of the RASP programs
(`sweep.skills.programs`), with any number of hidden units.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy.special import stdtrit

from fit.cli.terminal import OneValueCommand
from fit.data.records import RunRecord, finite_or_null
from fit.errors import PlanError
from fit.quantities import percent, short
from fit.report.text import DASH, table_text, wrapped
from sweep import command_line
from sweep.data.grammars import BOYS, FRIENDS, GIRLS, LONGEST_GAME, OBJECTS
from sweep.data.language import Language
from sweep.data.registry import open_source
from sweep.data.rows import Heldout, moved_data
from sweep.data.stories import StoriesSource
from sweep.ladder import data_of, done_runs
from sweep.skills.programs import (
    Program,
    copy_of,
    fact,
    game_by_doubling,
    game_in_one_layer,
    game_move_by_move,
    owned_object,
    pronoun,
)

SOLVED = -math.log(0.95)
"""Most excess per answer of a model that solves a task [nats]."""
LEVEL = 0.9
PROVED = ("full", "skills")
"""Sizes of `stories` whose tasks have programs."""
DETERMINED = ("consistency", "facts", "reasoning")
"""Skills whose tokens are determined by what was said, but for the choice to end a game."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthExcess:
    """Excess per answer of one task at one depth."""

    depth: int
    values: tuple[float, ...]
    """Of each seed that all depths have [nats]."""

    @property
    def mean(self) -> float:
        """Over seeds [nats]."""
        return float(np.mean(self.values))

    @property
    def half(self) -> float:
        """Half of the interval of the mean, Student's t; infinite with one seed."""
        count = len(self.values)
        if count < 2:
            return math.inf
        reach = float(stdtrit(count - 1, 0.5 + LEVEL / 2))
        return reach * float(np.std(self.values, ddof=1)) / math.sqrt(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDepth:
    """A task: the least depth by training, and layers by proof."""

    task: str
    excess: tuple[DepthExcess, ...]
    """By ascending depth."""
    proofs: tuple[tuple[int, int], ...]
    """(layers, hidden units) of programs, ascending layers; empty where there is no program."""

    def least(self, sign: float = 0.0) -> int | None:
        """The least depth that solves the task, by the mean (0) or an end of its interval (-1, 1).

        None where no depth does.
        """
        solved = (e.depth for e in self.excess if e.mean + (sign and sign * e.half) <= SOLVED)
        return next(solved, None)

    def by_seed(self) -> list[int | None]:
        """The least depth of each seed."""
        seeds = range(len(self.excess[0].values))
        return [next((e.depth for e in self.excess if e.values[s] <= SOLVED), None) for s in seeds]


def measure_depths(folder: Path) -> tuple[list[RunRecord], list[TaskDepth]]:
    """The runs that count, and the least depth of every task that their records can tell.

    Args:
        folder: Runs of several depths on `data=stories`.

    Raises:
        RecordError: No such folder.
        PlanError: The runs are of other data, have one depth, or no length in common.
    """
    records = done_runs(folder)
    data, seq_len = data_of(records[0])
    source = open_source(data, seq_len=seq_len, seed=0)
    if not isinstance(source, StoriesSource):
        raise PlanError(
            f"{folder} has runs on data={data.name}; the depth that tasks need is known of "
            "data=stories alone: python -m sweep -m +experiment=depth"
        )
    if source.info.hash != records[0].data.hash:
        raise moved_data(data, source.info.hash, records[0].data.hash)
    chosen = best_of_depths(records, folder)
    taps = max(1, int(records[0].recipe.get("model.conv", 3)))
    proofs = layers_by_proof(source.language, taps) if data.size in PROVED else {}
    excess = {record.run: answer_excess(record, source.heldout()) for record in chosen}
    tasks = [t for t in next(iter(excess.values())) if all(t in e for e in excess.values())]
    depths = sorted({depth_of(record) for record in chosen})
    found = []
    for task in tasks:
        values = {d: [excess[r.run][task] for r in chosen if depth_of(r) == d] for d in depths}
        rows = tuple(DepthExcess(depth=d, values=tuple(v)) for d, v in values.items())
        found.append(TaskDepth(task=task, excess=rows, proofs=proofs.get(task, ())))
    return chosen, found


def best_of_depths(records: Sequence[RunRecord], folder: Path) -> list[RunRecord]:
    """Of each depth the runs of its best shape and rate, at one length and of the same seeds.

    Raises:
        PlanError: There is one depth, or no length or seed that all depths have.
    """
    depths = {depth_of(r) for r in records}
    common = set.intersection(*({r.tokens for r in records if depth_of(r) == d} for d in depths))
    if len(depths) < 2 or not common:
        raise PlanError(
            f"{folder} has {len(depths)} depths with {len(common)} lengths in common; several "
            "depths and one length are needed: python -m sweep -m +experiment=depth"
        )
    groups: dict[tuple[int, int, float], list[RunRecord]] = {}
    for record in (r for r in records if r.tokens == max(common)):
        groups.setdefault((depth_of(record), record.width or 0, record.lr or 0.0), []).append(
            record
        )
    chosen: list[RunRecord] = []
    for depth in sorted(depths):
        rivals = [runs for key, runs in groups.items() if key[0] == depth]
        most = max(map(len, rivals))  # a rate that was tried on fewer seeds is no rival
        full = [runs for runs in rivals if len(runs) == most]
        chosen += min(full, key=lambda runs: np.mean([float(r.loss or math.inf) for r in runs]))
    seeds = set.intersection(*({r.seed for r in chosen if depth_of(r) == d} for d in depths))
    if not seeds:
        raise PlanError(
            f"{folder}: no seed has the best runs of all depths. Train the same seeds at each."
        )
    return sorted((r for r in chosen if r.seed in seeds), key=lambda r: (depth_of(r), r.seed))


def depth_of(record: RunRecord) -> int:
    """Blocks of a run's model; 0 for a model of the user's own that has none."""
    return record.depth or 0


def answer_excess(record: RunRecord, heldout: Heldout) -> dict[str, float]:
    """Excess of a run per answer of each task [nats], as far as its record tells.

    Args:
        record: Of a run on stories.
        heldout: The sample that it was measured on.
    """
    assert heldout.skill is not None and heldout.ideal is not None
    entropy, by_skill = record.data.entropy_by_skill or {}, record.loss_by_skill or {}
    found = {}
    for number, skill in enumerate(heldout.skills):
        share = float((heldout.skill == number).mean())
        if skill in DETERMINED and skill in by_skill and share > 0:
            found[skill] = (by_skill[skill] - entropy.get(skill, 0.0)) / share
    for number, part in enumerate(heldout.parts):
        if part in (record.heldout or {}):
            ideal = float(heldout.ideal[heldout.part == number].mean())
            found[part] = (record.heldout or {})[part] - ideal
    return found


def layers_by_proof(grammar: Language, taps: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """Layers and hidden units of the programs of each task.

    Of programs for one task those are left out that need as many layers and no fewer units.

    Args:
        grammar: A language of a size in `PROVED`.
        taps: Of the convolution, 1 without one.
    """
    words = set(grammar.vocab)
    consistency = [
        pronoun(grammar, pair) for pair in (("she", "he"), ("her", "his")) if words >= {*pair}
    ]
    consistency += [copy_of(grammar, w) for w in (GIRLS + BOYS, FRIENDS)]
    consistency += [owned_object(grammar, taps)] if words & {*OBJECTS} else []
    tokens = np.zeros((1, 8), int)
    whole = [program(tokens) for program in consistency]
    proofs: dict[str, tuple[tuple[int, int], ...]] = {
        "consistency": ((max(w.layers for w in whole), max(w.units for w in whole)),),
        "facts": _proofs([fact(grammar, taps)]),
    }
    for k in range(1, LONGEST_GAME + 1):
        name = f"{k} {'move' if k == 1 else 'moves'}"
        game = [game_in_one_layer(grammar, taps), game_by_doubling(grammar)]
        proofs[name] = _proofs([*game, game_move_by_move(grammar, k)])
    return proofs | {"reasoning": proofs[f"{LONGEST_GAME} moves"]}


def _proofs(programs: Sequence[Program]) -> tuple[tuple[int, int], ...]:
    """Layers and units of programs, those that another beats in both left out."""
    made = [program(np.zeros((1, 8), int)) for program in programs]
    kept: list[tuple[int, int]] = []
    for pair in sorted((m.layers, m.units) for m in made):
        if not kept or pair[1] < kept[-1][1]:
            kept.append(pair)
    return tuple(kept)


def depth_document(chosen: Sequence[RunRecord], tasks: Sequence[TaskDepth]) -> dict[str, object]:
    """The `isoflop.depth/1` document."""
    rows = [
        {
            **dataclasses.asdict(task),
            "least_depth": task.least(),
            "interval": [task.least(-1), task.least(1)],
            "by_seed": task.by_seed(),
        }
        for task in tasks
    ]
    runs = [record.run for record in chosen]
    head = {"schema": "isoflop.depth/1", "solved": SOLVED, "level": LEVEL, "runs": runs}
    return dict(finite_or_null({**head, "tasks": rows}))


def depth_text(chosen: Sequence[RunRecord], tasks: Sequence[TaskDepth]) -> str:
    """Two tables: the depth by training beside layers by proof, and the excess at each depth."""
    deepest = max(depth_of(record) for record in chosen)

    def depth(value: int | None) -> str:
        return f"> {deepest}" if value is None else str(value)

    heads = ("task", "depth by training", "of each seed", "layers by proof (hidden units)")
    rows = []
    for task in tasks:
        ends = f"{depth(task.least())} ({depth(task.least(-1))} to {depth(task.least(1))})"
        proofs = " or ".join(f"{layers} ({units:,})" for layers, units in task.proofs)
        rows.append((task.task, ends, ", ".join(map(depth, task.by_seed())), proofs or DASH))
    shapes: Mapping[int, RunRecord] = {depth_of(record): record for record in chosen}
    columns = [f"depth {d}" for d in shapes]
    cells = [(t.task, *(_excess(e) for e in t.excess)) for t in tasks]
    about = [
        ("width", *(str(r.width) for r in shapes.values())),
        ("parameters", *(short(r.params_matmul) for r in shapes.values())),
        ("learning rate", *(f"{r.lr:.3g}" for r in shapes.values())),
        ("seeds", *(str(sum(depth_of(r) == d for r in chosen)) for d in shapes)),
    ]
    first = (
        f"Least depth at which the excess per answer is at most {SOLVED:.3f} nats, by the mean "
        f"over seeds and by the ends of its {percent(LEVEL)} interval, at "
        f"{short(chosen[0].tokens)} tokens. Layers by proof are an upper bound of what the task "
        "needs, with so many hidden units."
    )
    second = (
        f"Excess per answer [nats/1000], mean over seeds and half of its {percent(LEVEL)} interval:"
    )
    tables = (table_text(heads, rows), table_text(("", *columns), [*cells, *about]))
    return "\n\n".join([wrapped(first), tables[0], wrapped(second), tables[1]])


def _excess(found: DepthExcess) -> str:
    """Mean and half of its interval, in thousandths of a nat."""
    half = f" ±{1e3 * found.half:.0f}" if math.isfinite(found.half) else ""
    return f"{1e3 * found.mean:.0f}{half}"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Depth of trained models."""


@commands.command("depth", cls=OneValueCommand)
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The document as JSON.")
def depth_command(runs: Path, as_json: bool) -> None:
    """Print the least depth at which the models of RUNS solve each task, beside the proof.

    RUNS is a folder of runs of several depths on stories, such as those of +experiment=depth.
    """
    chosen, tasks = measure_depths(runs)
    click.echo(json.dumps(depth_document(chosen, tasks)) if as_json else depth_text(chosen, tasks))


@command_line()
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.depth") -> None:
    """Run the command.

    Args:
        arguments: Of the command, its name first; None for those of this process.
        prog: The command's name in help and messages.
    """
    commands(None if arguments is None else list(arguments), prog_name=prog)


if __name__ == "__main__":
    main()
