"""`python -m sweep.rehearse answer.json fraction=0.01`: train an answer's run in small first.

The fit that gave the answer splits a fraction of its budget; that run is trained by the recipe of
the fitted runs, and its loss is compared with the prediction interval there. A hit shows that data,
recipe and machine still behave as they did in the fitted runs; a miss shows before the large run is
paid for that they do not. It does not test the extrapolation: that is what `isoflop query --seal`
and, after the run, `isoflop score` are for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import RunRecord, finite_or_null, parse_document
from fit.errors import PlanError, RecordError
from fit.forecasts.ledger import ExpectedLoss, ForecastScore, expected_loss, score_forecast
from fit.quantities import percent, power, short
from fit.query.answer import answer
from fit.query.documents import ANSWER_SCHEMA, Answer
from fit.query.question import Question
from fit.report.text import wrapped
from fit.results import REPORTS, fit_file
from sweep import command_line

USAGE = """\
{prog} ANSWER [fraction=0.01] [fit=reports/NAME] [--json] [override ...]

ANSWER is what `isoflop query C --json` prints, or - for standard input. The run goes
to runs/rehearsals; overrides may say where and how it runs (runs_dir=PATH,
train.accelerator=cpu, tracking=csv), not what is trained. Exit code 0 whether it hits
or misses."""
NAME = "rehearsals"
FRACTION = 0.01
REHEARSAL_SCHEMA = "isoflop.rehearsal/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A small run, and what the fit predicted for it."""

    flops: float
    """Budget of the answer that is rehearsed [FLOP]."""
    fraction: float
    """Share of that budget."""
    source: ScalingLaw
    small: Answer
    """The fit's answer to that share."""
    record: RunRecord
    expected: ExpectedLoss
    verdict: ForecastScore

    def document(self) -> dict[str, Any]:
        """The `isoflop.rehearsal/1` document."""
        record, shape = self.record, self.small.shape
        assert shape is not None
        document = {
            "schema": REHEARSAL_SCHEMA,
            "flops": self.flops,
            "fraction": self.fraction,
            "budget": self.small.flops.value,
            "source": self.source.name,
            "fit_hash": self.source.hash,
            "reach": self.small.reach,
            "run": record.run,
            "sweep": record.sweep,
            "shape": {k: getattr(shape, k) for k in ("width", "depth", "heads", "head_dim")},
            "expected": dataclasses.asdict(self.expected),
            **dataclasses.asdict(self.verdict),
            "loss_se": record.loss_se,
        }
        return dict(finite_or_null(document))


@command_line("the same command again continues from the newest checkpoint")
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.rehearse") -> None:
    """Rehearse an answer and print the verdict; exit 1 where it could not be done.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(USAGE.format(prog=prog))
        sys.exit(0 if words else 2)
    as_json = "--json" in words
    file, *rest = [w for w in words if w != "--json"]
    rehearsal = rehearse(file, rest)
    if as_json:
        print(json.dumps(rehearsal.document(), indent=1, allow_nan=False))
    else:
        print(rehearsal_text(rehearsal))


def rehearse(file: str, words: Sequence[str]) -> Rehearsal:
    """Train an answer's run in small and compare its loss with the fit's prediction.

    Args:
        file: The answer's document, or `-` for standard input.
        words: `fraction=`, `fit=` and overrides of the configuration.

    Raises:
        RecordError: There is no such document or fit, or the fit has changed since.
        PlanError: A wrong override or fraction, or the run did not end well.
        QueryError: The fit cannot answer the smaller budget.
    """
    options = dict(w.partition("=")[::2] for w in words if w.startswith(("fraction=", "fit=")))
    overrides = [w for w in words if not w.startswith(("fraction=", "fit="))]
    document = read_answer(file)
    refuse_binding_limits(document)
    flops = answer_budget(document, file)
    fraction = parse_fraction(options.get("fraction"))
    source = answer_source(document, options.get("fit"))
    # A document with overrides may be launched, by its verdict or by --force: so may this run.
    force = bool(document.get("config"))
    small = answer(Question(source=source, flops=fraction * flops, force=force))
    if small.launch_refusal is not None:
        raise PlanError(small.launch_refusal)
    assert small.shape_params is not None
    record = train_rehearsal(small, overrides)
    expected = expected_loss(source, small.shape_params, record.tokens)
    assert record.loss is not None
    return Rehearsal(
        flops=flops,
        fraction=fraction,
        source=source,
        small=small,
        record=record,
        expected=expected,
        verdict=score_forecast(expected, record.loss),
    )


def refuse_binding_limits(document: Mapping[str, Any]) -> None:
    """Refuse an answer that a limit has moved: at a smaller budget the limit means something else.

    Raises:
        PlanError: A limit other than the budget or the loss binds.
    """
    rows = document.get("constraints") or ()
    limits = [r["name"] for r in rows if r["binds"] and r["name"] not in ("budget", "loss")]
    if limits:
        raise PlanError(
            f"the answer is limited by {', '.join(limits)}, and a rehearsal runs the best split of "
            "a smaller budget without limits. Rehearse the answer to the budget alone."
        )


def rehearsal_text(rehearsal: Rehearsal) -> str:
    """A rehearsal as a few lines of text."""
    small, e, v = rehearsal.small, rehearsal.expected, rehearsal.verdict
    head = (
        f"rehearsal of {power(rehearsal.flops)} FLOP at {percent(rehearsal.fraction)}: "
        f"{power(small.flops.value)} FLOP, by {rehearsal.source.name}"
    )
    run = f"{short(e.params)} parameters on {short(e.tokens)} tokens"
    loss = f"{e.loss:.4f} [{e.low:.4f}, {e.high:.4f}] nats/token"
    rows = {
        "run": run,
        "": rehearsal.record.run,
        "expected": f"{loss}, {percent(e.level)} prediction",
        "measured": f"{v.measured:.4f}",
        "verdict": f"{'hit' if v.hit else 'miss'}, {v.error:+.2%}, z = {v.z:+.2f}",
    }
    lines = [f"  {k:<17} {value}" for k, value in rows.items()]
    where = "inside" if (small.reach or 0) <= 1 else "beyond"
    conclusion = (
        f"The budget lies {where} the fitted runs: data, recipe and machine do what they did then."
        if v.hit
        else f"By chance alone {percent(1 - e.level)} of rehearsals miss. Before the large run "
        "compare data, recipe, versions and device with those of the fitted runs."
    )
    fit, shape = rehearsal.source.fit, small.shape
    assert fit is not None and shape is not None
    depths = sorted({int(d) for d in fit.points.columns["depth"]})
    if shape.depth not in depths:  # a depth that was not fitted can move the loss by itself
        fitted = ", ".join(map(str, depths))
        conclusion += (
            f" Its depth of {shape.depth} is none of those fitted ({fitted}), which counts too."
        )
    return "\n".join([wrapped(head), "", *lines, "", wrapped(conclusion)])


def train_rehearsal(small: Answer, overrides: Sequence[str]) -> RunRecord:
    """Train the small run unless its record exists, and return the record.

    Raises:
        PlanError: The overrides change what is trained, or the run did not end well.
    """
    from sweep.app import train_grid
    from sweep.planning.bill import refuse_plan_options
    from sweep.planning.compose import name_options
    from sweep.planning.grid import grid
    from sweep.planning.quoting import read_overrides, refuse_repeated

    overrides = read_overrides(overrides)
    refuse_plan_options(overrides)
    refuse_repeated(overrides)
    prescribed = name_options([*small.config, f"name={NAME}", "tracking=none"])
    requested = [*prescribed, *overrides]
    cells = grid(requested, multirun=False)
    # A run's name ends in a hash of all that changes its result: equal names are equal runs.
    expected = grid(prescribed, multirun=False)
    if [r.run for _, r in cells[0].runs()] != [r.run for _, r in expected[0].runs()]:
        raise PlanError(
            f"{' '.join(overrides)} changes what is trained; overrides of a rehearsal say where "
            "and how it runs, such as runs_dir=PATH. Leave it out."
        )
    train_grid(cells, requested, multirun=False)
    (trajectory, run), *_ = cells[0].runs()
    record = cells[0].record(trajectory, run)
    if record is None or record.status != "done":
        ended = "has no record" if record is None else f"{record.status}: {record.reason}"
        raise PlanError(
            f"the rehearsal {run.run} {ended}. Fix the cause and run the same command again."
        )
    return record


def read_answer(file: str) -> Mapping[str, Any]:
    """Read the document of an answer from a file, or from standard input for `-`."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"cannot read {file}: {error}. Write one: isoflop query C --json > answer.json"
        ) from error
    try:
        return parse_document(text, ANSWER_SCHEMA)
    except RecordError as error:
        raise RecordError(
            f"{file} is no answer: {error} Write one: isoflop query C --json > answer.json"
        ) from error


def answer_budget(document: Mapping[str, Any], file: str) -> float:
    """The budget of an answer [FLOP]."""
    try:
        value = float(document["flops"]["value"])
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{file} names no budget; the whole answer is needed.") from error
    if not 0 < value < math.inf:
        raise RecordError(f"the budget in {file} is {value}; a positive one is needed.")
    return value


def parse_fraction(text: str | None) -> float:
    """Parse the share of the budget; None is the default."""
    try:
        value = FRACTION if text is None else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise PlanError(f"fraction={text}; a share above 0, at most 1, is needed, as 0.01.")
    return value


def answer_source(document: Mapping[str, Any], folder: str | None) -> ScalingLaw:
    """The fit that gave an answer, checked by its hash.

    Args:
        document: The answer.
        folder: Of the fit; None for `reports/` and the name that the answer says.
    """
    fit_hash, name = document.get("fit_hash"), document.get("source")
    if fit_hash is None:
        raise RecordError(
            f"the answer is by {name}, of which no fit is known; one by a fit is needed: isoflop "
            "query C --fit reports/NAME --json"
        )
    path = fit_file(REPORTS / str(name) if folder is None else folder)
    if not path.is_file():
        raise RecordError(f"the answer's fit is not in {path}; say where it is: fit=PATH")
    source = ScalingLaw.at(path)
    if source.hash != fit_hash:
        raise RecordError(
            f"{path} is not the fit that gave the answer, or it was fitted again since. Ask it "
            "again, or name the fit: fit=PATH"
        )
    return source


if __name__ == "__main__":
    main()
