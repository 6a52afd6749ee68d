"""Runs in what trainers print: the logs of nanoGPT, nanochat and torchtitan.

`read_training_log` finds out whose log a file is by its lines, and takes from each run in it the
number of parameters, the tokens seen at the last evaluation and the loss there. `FORMATS` says
which lines are read. A log may hold several runs, one after the other; a run that was resumed is
two, of which the first stops short of its plan.

The losses are those of held-out data. A run that was never evaluated has `train_loss` alone, the
loss of a training batch, which is taken only where it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fit.data.trackers import LoggedRun
from fit.errors import RecordError

LONGEST_LINE = 1 << 16
"""Characters of a line that are looked at; a progress bar may be one line."""
ERROR = "Traceback (most recent call last)"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_COUNT, _NUMBER = r"\d[\d,]*", r"[+-]?(?:\d[\d.]*(?:e[+-]?\d+)?|nan|inf)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """The runs of one log."""

    trainer: str
    runs: Sequence[LoggedRun]
    origins: Mapping[str, str]
    """Key -> what it was made of, in words."""
    units: Mapping[str, float | str]
    """Our column -> its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFormat:
    """How a trainer prints a run.

    Attributes:
        trainer: Its name.
        start: Part of a line that begins a run.
        lines: (part, pattern): a line with the part is searched for the pattern, whose groups are
            facts of the run; the last value of each counts. `eval_step` and `loss` are of an
            evaluation, `step` and `train_loss` of a training step, `planned` is the last step.
        summarise: Facts -> `params`, `tokens` and what else is known, where it can be said.
        origins: Key -> what it was made of, in words.
        units: Our column -> its unit.
    """

    trainer: str
    start: str
    lines: tuple[tuple[str, re.Pattern[str]], ...]
    summarise: Callable[[Mapping[str, float]], dict[str, float | None]]
    origins: Mapping[str, str]
    units: Mapping[str, float | str] = field(default_factory=dict)


def _times(*factors: float | None) -> float | None:
    """The product, or None where a factor is missing."""
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _nanogpt(facts: Mapping[str, float]) -> dict[str, float | None]:
    """All parameters, tied embeddings once; tokens by the batch, which is constant."""
    decayed, others = facts.get("decayed"), facts.get("not_decayed")
    exact = None if decayed is None or others is None else decayed + others
    return {
        "params": exact,
        "params_reported": _times(facts.get("params_millions"), 1e6),
        "tokens": _times(facts.get("eval_step"), facts.get("batch_tokens")),
        "batch_tokens": facts.get("batch_tokens"),
    }


def _nanochat(facts: Mapping[str, float]) -> dict[str, float | None]:
    """Matrices and head where the log has a table of parameters, as its author fits them."""
    matrices, head = facts.get("transformer_matrices"), facts.get("lm_head")
    total = facts.get("params_total")
    planned = facts.get("planned")
    share = None if not planned or "eval_step" not in facts else facts["eval_step"] / planned
    tokens = _times(facts.get("total_tokens"), share)
    return {
        "params": total if matrices is None or head is None else matrices + head,
        "params_total": total,
        "tokens": None if tokens is None else round(tokens),
        "flops": _times(facts.get("flops_per_token"), tokens),
        "batch_tokens": facts.get("batch_tokens"),
    }


def _torchtitan(facts: Mapping[str, float]) -> dict[str, float | None]:
    """All parameters; tokens by the global batch and the length of its sequences."""
    batch = _times(facts.get("global_batch"), facts.get("seq_len"))
    return {
        "params": facts.get("params_total"),
        "tokens": _times(facts.get("eval_step", facts.get("step")), batch),
        "batch_tokens": batch,
    }


def _lines(*lines: tuple[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Compiled lines of a format; COUNT and NUMBER stand for numbers."""
    return tuple(
        (part, re.compile(p.replace("COUNT", _COUNT).replace("NUMBER", _NUMBER), re.IGNORECASE))
        for part, p in lines
    )


FORMATS: tuple[LogFormat, ...] = (
    LogFormat(
        trainer="nanoGPT",
        start="tokens per iteration will be:",
        lines=_lines(
            ("tokens per iteration will be:", r"will be: (?P<batch_tokens>COUNT)"),
            ("number of parameters:", r"parameters: (?P<params_millions>NUMBER)M"),
            ("num decayed parameter", r"with (?P<decayed>COUNT),? parameters"),
            ("num non-decayed parameter", r"with (?P<not_decayed>COUNT),? parameters"),
            ("max_iters =", r"\bmax_iters = (?P<planned>COUNT)"),
            ("n_layer =", r"\bn_layer = (?P<depth>COUNT)"),
            ("n_embd =", r"\bn_embd = (?P<width>COUNT)"),
            (": train loss", r"\bstep (?P<eval_step>COUNT): train loss NUMBER, "
                             r"val loss (?P<loss>NUMBER)"),
            (": loss", r"\biter (?P<step>COUNT): loss (?P<train_loss>NUMBER)"),
        ),
        summarise=_nanogpt,
        origins={
            "params": "the optimiser's tensors, position embeddings among them",
            "params_reported": "'number of parameters', rounded, without position embeddings",
            "tokens": "the step of the last evaluation times the tokens per iteration",
            "loss": "the last 'val loss'",
        },
    ),
    LogFormat(
        trainer="nanochat",
        start="Vocab size:",
        lines=_lines(
            ("n_layer", r'"n_layer": (?P<depth>COUNT)'),
            ("n_embd", r'"n_embd": (?P<width>COUNT)'),
            ("num_layers:", r"num_layers: (?P<depth>COUNT)"),
            ("model_dim:", r"model_dim: (?P<width>COUNT)"),
            ("transformer_matrices", r"^transformer_matrices *: (?P<transformer_matrices>COUNT)"),
            ("lm_head", r"^lm_head *: (?P<lm_head>COUNT)"),
            ("total", r"^total *: (?P<params_total>COUNT)"),
            ("Number of parameters:", r"parameters: (?P<params_total>COUNT)"),
            ("FLOPs per token:", r"per token: (?P<flops_per_token>NUMBER)"),
            ("Total number of training tokens:", r"tokens: (?P<total_tokens>COUNT)"),
            ("number of iterations", r"number of iterations.*: (?P<planned>COUNT)\s*$"),
            ("Total batch size", r"Total batch size (?P<batch_tokens>COUNT)"),
            ("Validation bpb:", r"Step (?P<eval_step>COUNT) \| Validation bpb: (?P<loss>NUMBER)"),
            ("| loss:", r"step (?P<step>COUNT)(?:/COUNT)?\b.*?\| loss: (?P<train_loss>NUMBER)"),
        ),
        summarise=_nanochat,
        origins={
            "params": "matrices and head, or all parameters in logs without the table of counts",
            "tokens": "the number of training tokens",
            "flops": "FLOPs per token times tokens",
            "loss": "the last 'Validation bpb'",
        },
        units={"loss": "bpb"},
    ),
    LogFormat(
        trainer="torchtitan",
        start=" total parameters",
        lines=_lines(
            (" total parameters", r"size: (?P<params_total>COUNT) total parameters"),
            ("global batch size", r"global batch size (?P<global_batch>COUNT),.*?sequence length "
                                  r"(?P<seq_len>COUNT), total steps (?P<planned>COUNT)"),
            ("validate step:", r"validate step: *(?P<eval_step>COUNT) +loss: *(?P<loss>NUMBER)"),
            ("step:", r"(?<!validate )step: *(?P<step>COUNT) +loss: *(?P<train_loss>NUMBER)"),
        ),
        summarise=_torchtitan,
        origins={
            "params": "'total parameters'",
            "tokens": "the step of the last validation (without any, of training) times the batch",
            "loss": "the last 'validate step'",
        },
    ),
)  # fmt: skip
"""Lines as these trainers print them: nanoGPT's `train.py` and `configurator.py`, nanochat's
`scripts/base_train.py`, torchtitan's `train.py` and `components/metrics.py`."""


def read_training_log(path: Path, name: str) -> TrainingLog | None:
    """Read the log of a trainer.

    Args:
        path: The file.
        name: Of its run; where there are several, their number follows.

    Returns:
        Its runs, or None where no step of a known trainer is in it.

    Raises:
        RecordError: It cannot be read.
    """
    logs = {log.trainer: _Runs(log) for log in FORMATS}
    try:
        for line in _read_lines(path):
            for runs in logs.values():
                runs.read(line)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    best = max(logs.values(), key=lambda runs: runs.steps)
    if not best.steps:
        return None
    facts = best.ended()
    names = [name if len(facts) == 1 else f"{name}#{i}" for i in range(1, len(facts) + 1)]
    return TrainingLog(
        trainer=best.log.trainer,
        runs=[_run(best.log, n, f, path) for n, f in zip(names, facts, strict=True)],
        origins=best.log.origins,
        units=best.log.units,
    )


def _read_lines(path: Path) -> Iterator[str]:
    """Lines without colours; what is no UTF-8 is replaced."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        while line := stream.readline(LONGEST_LINE):
            yield _ANSI.sub("", line) if "\x1b" in line else line


class _Runs:
    """The runs of a log by one format, while it is read."""

    def __init__(self, log: LogFormat) -> None:
        self.log = log
        self.steps = 0
        self._ended: list[dict[str, float]] = []
        self._facts: dict[str, float] = {}

    def read(self, line: str) -> None:
        """Take the facts of a line."""
        facts = self._facts
        if self.log.start in line and ("step" in facts or "eval_step" in facts):
            self._ended.append(facts)
            self._facts = facts = {}
        if ERROR in line:
            facts["error"] = 1.0
        over = "eval_step" in facts and facts["eval_step"] == facts.get("planned")
        for part, pattern in self.log.lines:
            match = pattern.search(line) if part in line else None
            if match and not over:  # later stages of a pipeline print the same lines
                facts |= {k: float(v.replace(",", "")) for k, v in match.groupdict().items() if v}
                self.steps += "step" in match.groupdict() or "eval_step" in match.groupdict()

    def ended(self) -> list[dict[str, float]]:
        """Facts of each run that made a step, or failed before one."""
        return [facts for facts in (*self._ended, self._facts) if facts]


def _run(log: LogFormat, name: str, facts: Mapping[str, float], path: Path) -> LoggedRun:
    """A run by its facts."""
    planned, evaluated = facts.get("planned"), "eval_step" in facts
    reached = facts.get("eval_step" if evaluated else "step", 0.0)
    state = "finished"
    if planned is not None and reached < planned:
        state = (
            f"{'evaluated' if evaluated else 'trained'} last at step {reached:.0f} of {planned:.0f}"
        )
    if "error" in facts and (planned is None or reached < planned):
        state = "crashed"
    kept = {k: facts.get(k) for k in ("depth", "width", "loss", "train_loss", "step", "eval_step")}
    summary = {k: v for k, v in {**kept, **log.summarise(facts)}.items() if v is not None}
    values: dict[str, Any] = dict(summary)
    return LoggedRun(name=name, source=path.name, state=state, summary=values)
