"""`isoflop sweep ladder`: perplexities from uniform guesses over n-grams to models and the truth.

Every step is measured on the held-out sample that models are measured on. Where the loss of a
perfect predictor is known for each token, its noise cancels as it does in a run's record.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fit.allocation.scaling_law import ScalingLaw, fit_of
from fit.data.records import RunRecord, read_runs
from fit.errors import PlanError
from fit.files import write_atomically
from fit.quantities import parse_count, short
from fit.report.figure_data import LADDER_NAME, LADDER_SCHEMA, LadderStep
from sweep import command_line
from sweep.config import DataConfig
from sweep.data.ngrams import ngram_losses
from sweep.data.registry import open_source
from sweep.data.rows import TokenSource, moved_data
from sweep.planning.compose import name_options
from sweep.planning.grid import compose_config
from sweep.planning.quoting import read_overrides

ORDERS = {1: "unigram", 2: "bigram", 3: "trigram", 5: "5-gram"}
TRAIN_TOKENS = 10_000_000
MOST_MODELS = 6
"""Sizes of models in a ladder; more are thinned evenly, the smallest and the largest kept."""
OPTIONS = ("tokens", "fit", "out")
USAGE = """\
{prog} [RUNS] [option=value ...] [override ...]

Prints the loss and the perplexity of n-gram models of a data source, of the best run of
each size in RUNS, and of a perfect predictor where it is known. The data are those of
RUNS, else those of the overrides: data=text data.path=FOLDER. Options:

tokens=10M      training tokens that the n-grams count, or all where there are fewer
fit=PATH        folder of a fit, whose E is the last step
out=FILE        where the document goes; RUNS/ladder.json beside runs"""


@command_line()
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.ladder") -> None:
    """Print a ladder and write its document; exit 1 where it cannot be measured.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["ladder"]:
        words, prog = words[1:], f"{prog} ladder"
    if {"-h", "--help"} & set(words):
        print(USAGE.format(prog=prog))
        return
    print(measure_ladder(words))


def measure_ladder(words: Sequence[str]) -> str:
    """Measure a ladder, write its document and return its text.

    Args:
        words: RUNS, options and overrides, as in `USAGE`.

    Raises:
        RecordError: The runs or the fit cannot be read.
        PlanError: A wrong word, or data that cannot be opened.
    """
    known = tuple(f"{option}=" for option in OPTIONS)
    options = dict(w.partition("=")[::2] for w in words if w.startswith(known))
    folders = [w for w in words if "=" not in w]
    for word in (w for w in words if "=" in w and not w.startswith(known)):
        if near := difflib.get_close_matches(word.partition("=")[0], OPTIONS, 1, 0.7):
            raise PlanError(f"{word}: there is no such option; the nearest is {near[0]}=.")
    overrides = [w for w in words if "=" in w and not w.startswith(known)]
    if len(folders) > 1 or (folders and overrides):
        raise PlanError(
            f"{' '.join(words)}: one folder of runs, or overrides that choose data, are needed. "
            "Leave one of them out."
        )
    started = time.perf_counter()
    runs = Path(folders[0]) if folders else None
    records = [] if runs is None else done_runs(runs)
    tokens = int(parse_count(options.get("tokens", str(TRAIN_TOKENS)), "tokens"))
    limits = fit_steps(options.get("fit"))  # all that can be refused comes before the counting
    out = Path(options["out"]) if options.get("out") else runs and runs / LADDER_NAME
    if out:
        check_writable(out)
    data, seq_len = data_of(records[0]) if records else data_chosen(overrides)
    source = open_source(data, seq_len=seq_len, seed=0)
    if records and source.info.hash != records[0].data.hash:
        raise moved_data(data, source.info.hash, records[0].data.hash)
    steps, counted = ngram_steps(source, tokens)
    steps += model_steps(records) + limits
    if source.info.entropy is not None:
        steps.append(LadderStep(name="truth", kind="limit", loss=source.info.entropy))
    document = {
        "schema": LADDER_SCHEMA,
        "data": dataclasses.asdict(source.info),
        "seq_len": seq_len,
        "train_tokens": counted,
        "heldout_tokens": int(source.heldout().rows[:, 1:].size),
        "seconds": time.perf_counter() - started,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "steps": [dataclasses.asdict(step) for step in steps],
    }
    if out:
        write_atomically(out, json.dumps(document, indent=1) + "\n")
    return ladder_text(document, steps)


def done_runs(folder: Path) -> list[RunRecord]:
    """The runs of a folder that ended well, all on one data set.

    Raises:
        RecordError: No such folder.
        PlanError: There are none, or they differ in their data.
    """
    records = [r for r in read_runs(folder).records if r.status == "done"]
    if not records:
        raise PlanError(f"{folder} has no run that is done; train some, or choose data by data=.")
    hashes = {r.data.hash for r in records}
    if len(hashes) > 1:
        raise PlanError(
            f"the runs in {folder} have {len(hashes)} data sets; name a folder of runs on one."
        )
    return records


def data_of(record: RunRecord) -> tuple[DataConfig, int]:
    """The data settings and the row length of a run, from its recipe.

    Raises:
        PlanError: The record is of another trainer.
    """
    recipe: Mapping[str, Any] = record.recipe
    if "data" not in recipe or "model.seq_len" not in recipe:
        raise PlanError(
            f"the run {record.run} does not say how its data are opened; choose them by data=."
        )
    config = compose_config([f"data={recipe['data']}"])
    own = {k.removeprefix("data."): v for k, v in recipe.items() if k.startswith("data.")}
    inside = {k: own.pop(k) for k in list(own) if k.startswith("options.")}
    options = {k.removeprefix("options."): v for k, v in inside.items()}
    data = dataclasses.replace(config.data, **own, options=options)
    return data, int(recipe["model.seq_len"])


def data_chosen(overrides: Sequence[str]) -> tuple[DataConfig, int]:
    """The data settings and the row length that overrides choose."""
    config = compose_config(name_options(read_overrides(overrides)))
    return config.data, config.model.seq_len


def ngram_steps(source: TokenSource, tokens: int) -> tuple[list[LadderStep], int]:
    """Uniform guesses and n-grams, and the training tokens that these count.

    The tokens are the first of a run's order of training with seed 0.
    """
    available = source.info.unique_tokens or source.available_tokens
    rows = max(1, min(tokens, available or tokens) // source.seq_len)
    train, heldout = source.train(0, rows), source.heldout()
    steps = [LadderStep(name="uniform", kind="n-gram", loss=math.log(source.vocab))]
    for order, losses in ngram_losses(train, heldout.rows, source.vocab, tuple(ORDERS)):
        loss = float(losses.mean())
        if heldout.ideal is not None:
            assert source.info.entropy is not None
            loss += source.info.entropy - float(heldout.ideal.mean(dtype=np.float64))
        steps.append(LadderStep(name=ORDERS[order], kind="n-gram", loss=loss))
    return steps, rows * source.seq_len


def model_steps(records: Sequence[RunRecord]) -> list[LadderStep]:
    """The best run of each size, by ascending size."""
    best: dict[int, RunRecord] = {}
    for record in records:
        known = best.get(record.params_matmul)
        if known is None or float(record.loss or 0) < float(known.loss or 0):
            best[record.params_matmul] = record
    sizes = sorted(best)
    places = np.linspace(0, len(sizes) - 1, min(len(sizes), MOST_MODELS)).round().astype(int)
    steps = []
    for record in (best[sizes[i]] for i in places):
        name = f"{short(record.params_matmul)} on {short(record.tokens)}"
        steps.append(LadderStep(name=name, kind="model", loss=float(record.loss or math.nan)))
    return steps


def fit_steps(fit: str | None) -> list[LadderStep]:
    """The E of a fit where one is named.

    Raises:
        RecordError: There is no such fit.
        PlanError: Its law has no E.
    """
    if fit is None:
        return []
    found = fit_of(ScalingLaw.at(fit))
    if "E" not in found.theta:
        raise PlanError(f"the law of {fit} has no E; name a fit of a law with one.")
    return [LadderStep(name="E of the fit", kind="limit", loss=float(found.theta["E"]))]


def check_writable(out: Path) -> None:
    """Refuse a file that could not be written; its folder is made.

    Raises:
        PlanError: It is a folder, or its folder cannot be written to.
    """
    reason = "it is a folder" if out.is_dir() else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise PlanError(f"out={out} cannot be written ({reason}); name another file.")


def ladder_text(document: Mapping[str, Any], steps: Sequence[LadderStep]) -> str:
    """A ladder as a table of at most 80 columns."""
    head = (
        f"{document['data']['name']}: n-grams of {short(document['train_tokens'])} training tokens,"
        f"\nmeasured on {document['heldout_tokens']:,} held-out tokens "
        f"({document['seconds']:.1f} s, {document['memory_bytes'] / 1e6:.0f} MB)"
    )
    lines = [f"{'':24}{'loss [nats/token]':>18}{'perplexity':>12}"]
    lines += [f"{s.name:24}{s.loss:>18.4f}{s.perplexity:>12.4g}" for s in steps]
    return "\n".join([head, "", *lines])


if __name__ == "__main__":
    main()
