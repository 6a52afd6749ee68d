"""Held-out loss of a trained model, and the record of a run that is done, diverged or failed.

`measure` gives the loss, its standard error, its split over skills, bits per byte, the losses
on further texts and, where they are asked for, grades; `score_tasks` gives the accuracy on tasks.
`done_record`, `diverged_record` and `failed_record` make the run record; `recipe` gives the
settings it keeps.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fit.data.accounting import ROPE_BASE
from fit.data.records import DataInfo, RunRecord
from fit.errors import PlanError
from fit.files import commit, now, versions
from sweep.data.measured import Task
from sweep.data.mixture import MixtureSource
from sweep.data.rows import Heldout, Rows, TokenSource
from sweep.model import Transformer
from sweep.planning.overrides import unread_settings
from sweep.planning.trajectory import RunSpec, Trajectory
from sweep.plugins import load
from sweep.training.devices import device_name, gather_rows, peak_flops_per_second
from sweep.training.session import Session
from sweep.training.tracking import Attempt

CHUNK_TOKENS = 4096
"""Tokens per forward pass: the logits of a vocabulary of 500 stay inside an 8 MB cache."""
ALL_TOKENS = "tokens"
"""Name of the accuracy of a sample whose tokens have no skills."""
LIBRARIES = ("isoflop", "torch", "lightning", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Held-out loss of a model [nats/token]."""

    loss: float
    """Entropy of the data plus the mean excess over it where it is known, else the plain mean."""
    loss_se: float
    """Standard error over held-out rows; of the paired excess where the entropy is known."""
    loss_plain: float
    loss_bpb: float | None
    loss_by_skill: Mapping[str, float] | None
    heldout: Mapping[str, float] | None = None
    """Loss on each part of the sample and on each further text."""
    scores: Mapping[str, Mapping[str, float | None]] | None = None
    """Grades of skills and of tasks, by their name."""


def measure(
    model: Transformer,
    heldout: Heldout,
    info: DataInfo,
    fabric: Any,
    further: Mapping[str, Rows] = MappingProxyType({}),
    scores: Sequence[str] = (),
) -> Measurement:
    """Measure the loss of a model on the whole held-out sample.

    Where the ideal loss of every token is known, the entropy noise of the sample cancels in the
    paired difference to it, and the exact expectation is added back.

    Args:
        model: The trained model.
        heldout: The sample.
        info: Of the data.
        fabric: Of the process.
        further: Rows of further texts by name, each measured on its own.
        scores: Grades that are asked for, see `sweep.config.SCORES`.
    """
    graded = "accuracy" in scores
    results = token_results(model, heldout.rows, fabric, graded=graded)
    losses = results[..., 0]
    plain = float(losses.mean())
    excess = losses if heldout.ideal is None else losses - heldout.ideal
    base = 0.0
    if heldout.ideal is not None:
        assert info.entropy is not None, "a source with ideal losses knows its entropy"
        base = info.entropy
    rows = excess.mean(axis=1)
    loss = base + float(rows.mean())
    per_byte = info.bytes_per_token
    return Measurement(
        loss=loss,
        loss_se=float(rows.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else math.nan,
        loss_plain=plain,
        loss_bpb=None if per_byte is None else loss / math.log(2) / per_byte,
        loss_by_skill=_by_skill(excess, heldout, info),
        heldout=_by_set(model, losses, heldout, further, fabric) or None,
        scores=accuracies(results[..., 1], heldout) if graded else None,
    )


def accuracies(
    right: NDArray[np.float64], heldout: Heldout
) -> dict[str, Mapping[str, float | None]]:
    """Share of tokens for which the target is the model's likeliest token, by skill.

    Where the ideal losses are known, only tokens that a perfect predictor is certain of count, so
    that its accuracy is 1; a skill without such tokens, as that of random choices, is left out. The
    standard error is that of a ratio of sums over rows, within which tokens depend on each other.

    Args:
        right: (rows, seq_len), 1 or 0.
        heldout: The sample.
    """
    sure = np.ones(right.shape, bool) if heldout.ideal is None else heldout.ideal == 0
    groups = {ALL_TOKENS: sure}
    if heldout.skill is not None:
        groups = {n: sure & (heldout.skill == i) for i, n in enumerate(heldout.skills)}
    scores: dict[str, Mapping[str, float | None]] = {}
    for name, chosen in groups.items():
        counts, hits = chosen.sum(axis=1), (right * chosen).sum(axis=1)
        if items := int(counts.sum()):
            accuracy, rows = float(hits.sum()) / items, len(counts)
            spread = float(np.square(hits - accuracy * counts).sum())
            error = math.sqrt(spread * rows / (rows - 1)) / items if rows > 1 else None
            scores[name] = {"items": items, "accuracy": accuracy, "accuracy_se": error}
    return scores


def _by_set(
    model: Transformer,
    losses: NDArray[np.float64],
    heldout: Heldout,
    further: Mapping[str, Rows],
    fabric: Any,
) -> dict[str, float]:
    """Loss on each part of the sample and on each further text [nats/token]."""
    parts = {
        name: float(losses[heldout.part == number].mean())
        for number, name in enumerate(heldout.parts)
    }
    return parts | {n: float(token_losses(model, r, fabric).mean()) for n, r in further.items()}


def score_tasks(
    model: Transformer, name: str, tasks: Sequence[Task], fabric: Any
) -> dict[str, Mapping[str, float | None]]:
    """Accuracy and mean probability of the right answers, each with its standard error.

    The scores of all tasks have a name, those of the tasks of a skill are called NAME.SKILL.

    A task without choices is solved where greedy decoding gives the answer: each of its tokens is
    the likeliest after the prompt and the tokens before it. One with choices is solved where the
    answer is the most probable of them.
    """
    # Each option is a row of its own: tokens, and where the answer begins.
    rows = [(task.prompt + option, len(task.prompt)) for task in tasks for option in task.options]
    by_length: dict[int, list[int]] = {}
    for number, (tokens, _) in enumerate(rows):
        by_length.setdefault(len(tokens), []).append(number)
    logs, greedy = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    for length, numbers in by_length.items():
        step = CHUNK_TOKENS // length + 1
        for chosen in (numbers[i : i + step] for i in range(0, len(numbers), step)):
            block = torch.tensor([rows[i][0] for i in chosen], device=fabric.device)
            for i, log, likeliest in zip(chosen, *_continuations(model, block), strict=True):
                begin = rows[i][1] - 1  # the first token of a row has no prediction
                logs[i], greedy[i] = log[begin:].sum(), likeliest[begin:].all()
    solved, shares, first = np.zeros(len(tasks)), np.zeros(len(tasks)), 0
    for number, task in enumerate(tasks):
        own = logs[first : first + len(task.options)]
        solved[number] = own.argmax() == task.answer if len(own) > 1 else greedy[first]
        shares[number] = math.exp(own[task.answer])
        first += len(own)
    of = np.array([task.skill or "" for task in tasks])
    groups = {name: np.full(len(tasks), True)}
    groups |= {f"{name}.{skill}": of == skill for skill in sorted(set(of.tolist()) - {""})}
    return {n: _task_score(solved[kept], shares[kept]) for n, kept in groups.items()}


def _task_score(
    solved: NDArray[np.float64], shares: NDArray[np.float64]
) -> dict[str, float | None]:
    """Accuracy and mean probability of some tasks."""
    return {
        "items": float(len(solved)),
        "accuracy": float(solved.mean()),
        "accuracy_se": _standard_error(solved),
        "probability": float(shares.mean()),
        "probability_se": _standard_error(shares),
    }


def own_scores(
    function: str, model: Any, source: TokenSource, *, taken: Collection[str] = ()
) -> dict[str, Mapping[str, float | None]]:
    """Scores of a trained model by a function of the user's own.

    Args:
        function: `package.module:name` of a function (model, source) -> {name: grades}, with the
            grade of each item, an array (items,) of numbers from 0 to 1.
        model: The model, on its device.
        source: What it was trained on.
        taken: Names of the other scores.

    Returns:
        The accuracy of each name, the mean of its grades, with its standard error.

    Raises:
        PlanError: The function cannot be imported, raises, or gives something else.
    """
    called = f"train.scores={function}"
    plug_in = load("train.scores", function)
    try:
        with torch.no_grad():
            given = plug_in(model, source).items()
            found = {str(n): torch.as_tensor(v).double().cpu().numpy() for n, v in given}
    except Exception as error:  # the user's code may raise anything
        raise PlanError(f"{called} fails: {type(error).__name__}: {error}.") from error
    for name, grades in found.items():
        if name in taken:
            raise PlanError(f"{called} gives '{name}', the name of another score. Rename it.")
        if grades.ndim != 1 or not len(grades) or not ((grades >= 0) & (grades <= 1)).all():
            raise PlanError(
                f"{called} gives '{name}' of shape {grades.shape}; the grade of each item is "
                "needed, from 0 to 1, in one dimension."
            )
    return {
        name: {
            "items": float(len(grades)),
            "accuracy": float(grades.mean()),
            "accuracy_se": _standard_error(grades),
        }
        for name, grades in found.items()
    }


def _continuations(
    model: Transformer, rows: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of each next token, and whether it is the likeliest; each (b, t)."""
    with torch.no_grad():
        hidden = model.hidden(rows[:, :-1])
        logits = torch.nn.functional.linear(hidden, model.head).float()[..., : model.shape.vocab]
        target = rows[:, 1:, None]
        logs = logits.log_softmax(-1).gather(-1, target)[..., 0]
        return logs.double().cpu().numpy(), (logits.argmax(-1) == target[..., 0]).cpu().numpy()


def _standard_error(values: NDArray[np.float64]) -> float | None:
    """Standard error of a mean; None of a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def token_losses(model: Transformer, rows: NDArray[np.int32], fabric: Any) -> NDArray[np.float64]:
    """Negative log-likelihood of every target token, (rows, seq_len) [nats]."""
    return token_results(model, rows, fabric)[..., 0]


def token_results(
    model: Transformer, rows: NDArray[np.int32], fabric: Any, *, graded: bool = False
) -> NDArray[np.float64]:
    """Loss of every target token [nats] and, if `graded`, whether it was the likeliest, 1 or 0.

    Shared by the ranks; (rows, seq_len, 1), or 2 if graded.

    All ranks run a sharded model together, so each rank must take equally many chunks: `np.resize`
    repeats rows where they do not divide evenly, and `gather_rows` drops the repeated ones.
    """
    ranks, length = fabric.world_size, rows.shape[1] - 1
    step = max(1, CHUNK_TOKENS // length)
    most = -(-len(rows) // ranks)
    padded = np.resize(rows[fabric.global_rank :: ranks], (most, length + 1))
    out = torch.empty(most, length, 1 + graded, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, most, step):
            chunk = torch.from_numpy(padded[start : start + step].astype(np.int64)).to(
                fabric.device
            )
            given = chunk[:, :-1], chunk[:, 1:]
            found = model.token_results(*given) if graded else model.token_losses(*given)[..., None]
            out[start : start + step] = found.cpu()
    return gather_rows(fabric, out, len(rows)).numpy()


def _by_skill(
    excess: NDArray[np.float64], heldout: Heldout, info: DataInfo
) -> dict[str, float] | None:
    """Contribution of each skill to the loss; the contributions sum to it."""
    if heldout.skill is None:
        return None
    sums = np.bincount(heldout.skill.ravel(), excess.ravel(), minlength=len(heldout.skills))
    entropy = info.entropy_by_skill or {}
    return {
        name: entropy.get(name, 0.0) + float(total) / excess.size
        for name, total in zip(heldout.skills, sums, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run, its attempts and its session, however it ended."""

    trajectory: Trajectory
    run: RunSpec
    started: str | None
    session: Session | None = None
    earlier: tuple[Attempt, ...] = ()
    """Attempts at the trajectory before the present one."""


def done_record(facts: RunFacts, measured: Measurement) -> RunRecord:
    """The record of a finished run."""
    session = facts.session
    assert session is not None
    rate = facts.run.tokens / session.seconds if session.seconds > 0 else None
    return _record(
        facts,
        status="done",
        tokens_per_second=rate,
        mfu=_mfu(session, rate),
        **dataclasses.asdict(measured),
    )


def diverged_record(facts: RunFacts, measured: Measurement, reason: str) -> RunRecord:
    """The record of a run that diverged, with its finite losses; fits leave it out."""
    losses = dataclasses.asdict(measured).items()  # a record holds finite numbers only
    kept = {k: v for k, v in losses if not isinstance(v, float) or math.isfinite(v)}
    return _record(facts, status="diverged", reason=reason, **kept)


def failed_record(facts: RunFacts, error: BaseException, trace: str) -> RunRecord:
    """The record of a run that an error ended."""
    return _record(facts, status="failed", reason=error_in_words(error), traceback=trace)


def error_in_words(error: BaseException) -> str:
    """Type and message of an error; of one without a message, such as of memory, where it arose."""
    message = str(error).strip()
    if not message:
        frames = traceback.extract_tb(error.__traceback__)[-1:]
        message = "".join(f"in {f.name} ({Path(f.filename).name}:{f.lineno})" for f in frames)
    return f"{type(error).__name__}: {message or 'without a message; the traceback says more'}"


def _record(facts: RunFacts, **outcome: Any) -> RunRecord:
    """A record of what the plan says of a run and of the given outcome.

    `wall_seconds` is the time of the run's whole path, the shared trunk included.
    """
    t, run, session = facts.trajectory, facts.run, facts.session
    if session is not None:
        outcome |= {"tokens_seen": session.position, "wall_seconds": session.seconds}
        outcome["device"] = device_name(session.fabric.device)
        if isinstance(session.source, MixtureSource):
            outcome["parts"] = session.source.part_facts(run.tokens)
        if t.config.train.devices > 1:
            outcome["device"] = f"{t.config.train.devices} x {outcome['device']}"
    return RunRecord(
        run=run.run,
        sweep=t.sweep,
        seed=t.seed,
        data=t.data,
        width=t.shape.width,
        depth=t.shape.depth,
        heads=t.shape.heads,
        head_dim=t.shape.head_dim,
        vocab=t.shape.vocab,
        seq_len=t.shape.seq_len,
        params_body=t.params.body,
        params_head=t.params.head,
        params_embedding=t.params.embedding,
        params_other=t.params.other,
        params_idle=t.params.idle or None,
        experts=t.shape.experts or None,
        top_k=t.shape.top_k or None,
        kv_heads=t.shape.kv_heads,
        params_total=t.params.total,
        tokens=run.tokens,
        flops_body=t.flops_per_token.body,
        flops_head=t.flops_per_token.head,
        flops_attention=t.flops_per_token.attention,
        flops=run.flops,
        flops_spent=run.flops_spent,
        trunk=t.trunk,
        schedule=run.rate.kind,
        lr=t.scaled.lr,
        batch_tokens=t.rule.batch(run.tokens - 1),
        recipe=recipe(t),
        plug_ins={s: p.source for s, p in t.plug_ins.items()},
        precision=t.config.train.precision,
        versions=versions(LIBRARIES),
        commit=commit(),
        attempts=len(facts.earlier) + 1,
        history=tuple(dataclasses.asdict(a) for a in facts.earlier),
        started=facts.started,
        finished=now(),
        **outcome,
    )


def recipe(trajectory: Trajectory) -> dict[str, Any]:
    """Settings that launch the run again, as overrides of the config.

    Settings of the machine (devices, threads, compilation) and of the sweep are left out, since
    they do not belong to the experiment, and so are settings that the run did not read.
    """
    model, data = trajectory.config.model, trajectory.config.data
    train = trajectory.config.train
    kept: dict[str, Any] = {"data": data.name}
    kept |= {
        f"data.{k}": v for k, v in vars(data).items() if k not in ("name", "cache", "max_epochs")
    }
    mixture = ("experts", "top_k") if model.experts else ()
    for name in ("head_dim", "mlp_ratio", "gated", "tied", "conv", "seq_len", *mixture):
        kept[f"model.{name}"] = getattr(model, name)
    kept["model.gated"] = trajectory.shape.gated
    kept |= _later_settings(trajectory)
    skipped = (
        "tokens",
        "micro_batch_tokens",
        "accelerator",
        "devices",
        "nodes",
        "strategy",
        "threads",
        "compile",
        "checkpoint_seconds",
        "retries",
        "runs_per_gpu",
        "keep",
        "scores",
        "stories",
    )
    for name, value in vars(train).items():
        if name not in skipped:
            kept[f"train.{name}"] = getattr(value, "value", value)
    for name in ("data.parts", "data.also_heldout", "data.tasks"):  # added after the first records
        if not kept[name]:
            del kept[name]
    unread = set(unread_settings(trajectory.config))
    if "model.mlp" not in kept:  # relu2 and swiglu are recorded as `gated`
        unread.discard("model.gated")
    if train.optimizer == "adamw":  # settings of plug-ins stand in records that have them
        del kept["train.optimizer"]
    for section in ("model", "data", "train"):
        kept.pop(f"{section}.options", None)
    for name, plug_in in trajectory.plug_ins.items():
        kept[name] = plug_in.target
        section = name.split(".")[0]
        kept |= {f"{section}.options.{k}": v for k, v in plug_in.options.items()}
    return {k: v for k, v in kept.items() if k not in unread}


def _later_settings(trajectory: Trajectory) -> dict[str, Any]:
    """Settings of the model that earlier records do not have, where they are not at their defaults.

    Runs without them have the recipes of earlier runs, so that both are fitted as one.
    """
    shape, model = trajectory.shape, trajectory.config.model
    kept: dict[str, Any] = {}
    if shape.kv_heads is not None:
        kept["model.kv_heads"] = shape.kv_heads
    if shape.activation is not None:
        kept["model.mlp"] = model.mlp
    if shape.pad_vocab_to:
        kept["model.pad_vocab_to"] = shape.pad_vocab_to
    if shape.rope_base != ROPE_BASE:
        kept["model.rope_base"] = shape.rope_base
    if model.document_mask:
        kept["model.document_mask"] = True
    return kept


def _mfu(session: Session, tokens_per_second: float | None) -> float | None:
    """Model FLOP utilisation: exact FLOP per second over the peak of the devices."""
    fabric = session.fabric
    devices = int(fabric.world_size)
    peak = peak_flops_per_second(fabric.device, session.trajectory.config.train.precision)
    if peak is None or tokens_per_second is None:
        return None
    return session.trajectory.flops_per_token.exact * tokens_per_second / peak / devices
