"""Held-out loss of a trained model, and the record of a run that is done, diverged or failed.

`measure` gives the loss, its standard error, its split over skills, and bits per byte.
`done_record`, `diverged_record` and `failed_record` make the run record; `recipe` gives the
settings it keeps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fit.data.records import DataInfo, RunRecord
from fit.files import commit, now, versions
from sweep.data.rows import Heldout
from sweep.model import Transformer
from sweep.planning.overrides import unread_settings
from sweep.planning.trajectory import RunSpec, Trajectory
from sweep.training.devices import device_name, gather_rows, peak_flops_per_second
from sweep.training.session import Session
from sweep.training.tracking import Attempt

CHUNK_TOKENS = 4096
"""Tokens per forward pass: the logits of a vocabulary of 500 stay inside an 8 MB cache."""
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


def measure(model: Transformer, heldout: Heldout, info: DataInfo, fabric: Any) -> Measurement:
    """Measure the loss of a model on the whole held-out sample.

    Where the ideal loss of every token is known, the entropy noise of the sample cancels in the
    paired difference to it, and the exact expectation is added back.
    """
    losses = token_losses(model, heldout.rows, fabric)
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
    )


def token_losses(model: Transformer, rows: NDArray[np.int32], fabric: Any) -> NDArray[np.float64]:
    """Negative log-likelihood of every target token, (rows, seq_len) [nats], shared by the ranks.

    All ranks run a sharded model together, so each rank must take equally many chunks: `np.resize`
    repeats rows where they do not divide evenly, and `gather_rows` drops the repeated ones.
    """
    ranks, length = fabric.world_size, rows.shape[1] - 1
    step = max(1, CHUNK_TOKENS // length)
    most = -(-len(rows) // ranks)
    padded = np.resize(rows[fabric.global_rank :: ranks], (most, length + 1))
    out = torch.empty(most, length, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, most, step):
            chunk = torch.from_numpy(padded[start : start + step].astype(np.int64)).to(
                fabric.device
            )
            out[start : start + step] = model.token_losses(chunk[:, :-1], chunk[:, 1:]).cpu()
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
    reason = f"{type(error).__name__}: {error}".strip()
    return _record(facts, status="failed", reason=reason, traceback=trace)


def _record(facts: RunFacts, **outcome: Any) -> RunRecord:
    """A record of what the plan says of a run and of the given outcome.

    `wall_seconds` is the time of the run's whole path, the shared trunk included.
    """
    t, run, session = facts.trajectory, facts.run, facts.session
    if session is not None:
        outcome |= {"tokens_seen": session.position, "wall_seconds": session.seconds}
        outcome["device"] = device_name(session.fabric.device)
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
    skipped = (
        "tokens",
        "micro_batch_tokens",
        "accelerator",
        "devices",
        "nodes",
        "strategy",
        "threads",
        "compile",
        "graphs",
        "checkpoint_seconds",
        "retries",
        "runs_per_gpu",
        "pack",
    )
    for name, value in vars(train).items():
        if name not in skipped:
            kept[f"train.{name}"] = getattr(value, "value", value)
    unread = unread_settings(trajectory.config)
    return {k: v for k, v in kept.items() if k not in unread}


def _mfu(session: Session, tokens_per_second: float | None) -> float | None:
    """Model FLOP utilisation: exact FLOP per second over the peak of the devices."""
    fabric = session.fabric
    devices = int(fabric.world_size)
    peak = peak_flops_per_second(fabric.device, session.trajectory.config.train.precision)
    if peak is None or tokens_per_second is None:
        return None
    return session.trajectory.flops_per_token.exact * tokens_per_second / peak / devices
