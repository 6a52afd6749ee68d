"""`python -m sweep.rehearse answer.json fraction=0.01`: the answer's run in small, before it.

The same fit splits a fraction of the answer's budget; that run is trained by the fitted runs'
recipe and its loss held against the forecast there. A hit says that data, recipe and machine still
do what the fit was made from; a miss says so before the large run is paid for. It does not test
the extrapolation: `isoflop query --seal` and `isoflop score` do, afterwards.
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
from fit.errors import PlanError, RecordError, ScalingError
from fit.forecasts.ledger import ExpectedLoss, ForecastScore, expected_loss, score_forecast
from fit.quantities import percent, power, short
from fit.query.answer import answer
from fit.query.question import ANSWER_SCHEMA, Answer, Question
from fit.report.text import wrapped
from sweep import search_working_folder_last

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
    """A small run and what the fit said of it."""

    flops: float
    """Of the answer that is rehearsed."""
    fraction: float
    source: ScalingLaw
    small: Answer
    """The split of the fraction."""
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


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.rehearse") -> None:
    """Rehearse an answer and print the verdict; exit 1 where it could not be done.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in help.
    """
    search_working_folder_last()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(USAGE.format(prog=prog))
        sys.exit(0 if words else 2)
    as_json = "--json" in words
    file, *rest = [w for w in words if w != "--json"]
    try:
        found = rehearse(file, rest)
    except ScalingError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command again goes on from the newest checkpoint")
    print(json.dumps(found.document(), indent=1, allow_nan=False) if as_json else text(found))


def rehearse(file: str, words: Sequence[str]) -> Rehearsal:
    """Run an answer in small and hold it against the fit.

    Args:
        file: The answer's document, or `-` for standard input.
        words: `fraction=`, `fit=` and overrides of the config.

    Raises:
        RecordError: No such document or fit, or the fit is another one by now.
        PlanError: A wrong override or fraction, or the run did not end well.
        QueryError: The fit answers no such budget.
    """
    own = dict(w.partition("=")[::2] for w in words if w.startswith(("fraction=", "fit=")))
    overrides = [w for w in words if not w.startswith(("fraction=", "fit="))]
    document = _read(file)
    _check_free(document)
    flops = _number(document, file)
    fraction = _fraction(own.get("fraction"))
    source = _source(document, own.get("fit"))
    # An answer with overrides is not doubtful, or its question insisted; so does the rehearsal.
    force = bool(document.get("config"))
    small = answer(Question(source=source, flops=fraction * flops, force=force))
    if small.launch_refusal is not None:
        raise PlanError(small.launch_refusal)
    assert small.shape_params is not None
    record = _trained(small, overrides)
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


def _check_free(document: Mapping[str, Any]) -> None:
    """Refuse an answer that a limit has moved: in small the limit would not mean the same.

    Raises:
        PlanError: One has.
    """
    rows = document.get("constraints") or ()
    limits = [r["name"] for r in rows if r["binds"] and r["name"] not in ("budget", "loss")]
    if limits:
        raise PlanError(
            f"the answer is held by {', '.join(limits)}, and a rehearsal runs the best split of a "
            "smaller budget without limits. Rehearse the answer to the budget alone."
        )


def text(found: Rehearsal) -> str:
    """A rehearsal in a few lines."""
    e, v, inside = found.expected, found.verdict, (found.small.reach or 0) <= 1
    head = (
        f"rehearsal of {power(found.flops)} FLOP at {percent(found.fraction)}: "
        f"{power(found.small.flops.value)} FLOP, by {found.source.name}"
    )
    run = f"{short(e.params)} parameters on {short(e.tokens)} tokens"
    loss = f"{e.loss:.4f} [{e.low:.4f}, {e.high:.4f}] nats/token"
    rows = {
        "run": run,
        "": found.record.run,
        "expected": f"{loss}, {percent(e.level)} prediction",
        "measured": f"{v.measured:.4f}",
        "verdict": f"{'hit' if v.hit else 'miss'}, {v.error:+.2%}, z = {v.z:+.2f}",
    }
    lines = [f"  {k:<17} {value}" for k, value in rows.items()]
    where = "inside" if inside else "beyond"
    said = (
        f"The budget lies {where} the fitted runs: data, recipe and machine do what they did then."
        if v.hit
        else f"By chance alone {percent(1 - e.level)} of rehearsals miss. Before the large run "
        "compare data, recipe, versions and device with those of the fitted runs."
    )
    return "\n".join([wrapped(head), "", *lines, "", wrapped(said + _unfitted(found))])


def _unfitted(found: Rehearsal) -> str:
    """That the run's depth is none that was fitted, which alone can move its loss."""
    fit, shape = found.source.fit, found.small.shape
    assert fit is not None and shape is not None
    depths = sorted({int(d) for d in fit.points.columns["depth"]})
    if shape.depth in depths:
        return ""
    fitted = ", ".join(map(str, depths))
    return f" Its depth of {shape.depth} is none of those fitted ({fitted}), which counts too."


def _trained(small: Answer, overrides: Sequence[str]) -> RunRecord:
    """The record of the small run, trained unless it is there."""
    from sweep.app import launch
    from sweep.planning.grid import grid

    base = [*small.config, f"name={NAME}", "tracking=none"]
    asked = [*base, *overrides]
    cells, plain = grid(asked, multirun=False), grid(base, multirun=False)
    if cells[0].refusal is not None:
        raise PlanError(cells[0].refusal)
    if [r.run for _, r in cells[0].runs()] != [r.run for _, r in plain[0].runs()]:
        raise PlanError(
            f"{' '.join(overrides)} changes what is trained; overrides of a rehearsal say where "
            "and how it runs, such as runs_dir=PATH. Leave it out."
        )
    launch(asked, multirun=False)
    (trajectory, run), *_ = cells[0].runs()
    record = cells[0].record(trajectory, run)
    if record is None or record.status != "done":
        ended = "has no record" if record is None else f"{record.status}: {record.reason}"
        raise PlanError(f"the rehearsal {run.run} {ended}. Mend it and run the same command again.")
    return record


def _read(file: str) -> Mapping[str, Any]:
    """The answer's document."""
    try:
        words = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"cannot read {file}: {error}. Make one: isoflop query C --json > answer.json"
        ) from error
    try:
        return parse_document(words, ANSWER_SCHEMA)
    except RecordError as error:
        raise RecordError(
            f"{file} is no answer: {error} Make one: isoflop query C --json > answer.json"
        ) from error


def _number(document: Mapping[str, Any], file: str) -> float:
    """The answer's budget."""
    try:
        value = float(document["flops"]["value"])
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{file} names no budget; the whole answer is needed.") from error
    if not 0 < value < math.inf:
        raise RecordError(f"the budget in {file} is {value}; a positive one is needed.")
    return value


def _fraction(given: str | None) -> float:
    """The share of the budget."""
    try:
        value = FRACTION if given is None else float(given)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise PlanError(f"fraction={given}; a share above 0, at most 1, is needed, as 0.01.")
    return value


def _source(document: Mapping[str, Any], given: str | None) -> ScalingLaw:
    """The fit that gave the answer."""
    wanted, name = document.get("fit_hash"), document.get("source")
    if wanted is None:
        raise RecordError(
            f"the answer is by {name}, of which no fit is known; one by a fit is needed: isoflop "
            "query C --fit reports/NAME --json"
        )
    path = Path("reports") / str(name) if given is None else Path(given)
    if not path.exists():
        raise RecordError(f"the answer's fit is not in {path}; say where it is: fit=PATH")
    found = ScalingLaw.at(path)
    if found.hash != wanted:
        raise RecordError(
            f"{path} is not the fit that gave the answer, or it was fitted again since. Ask it "
            "again, or name the fit: fit=PATH"
        )
    return found


if __name__ == "__main__":
    main()
